"""What engines move: the table, and that the released models move no more than they did."""

import json
from pathlib import Path

import pytest

from glint.benchmarks.tables.traffic import Traffic, markdown, measure
from glint.cards import zoo_names

STORED = Path(__file__).parents[2] / "data" / "traffic.json"  # of --json; written anew with each release
ROWS = {f"{row['model']}.{row['precision']}": Traffic(**row) for row in json.loads(STORED.read_text())["rows"]}


def test_every_released_model_in_fp16_is_counted():
    assert {name for name in zoo_names() if name.endswith(".fp16")} <= ROWS.keys()


@pytest.mark.parametrize("name", ["dscsnet-s-csist.fp16", "dscsnet-s-sensor.fp16"])
def test_the_small_unmixers_stay_within_26_mb_and_75_kernels(name):
    assert ROWS[name].bytes <= 26e6 and ROWS[name].kernels <= 75


def test_the_small_detector_stays_within_480_mb():
    assert ROWS["lsnet-s.fp16"].bytes <= 480e6


def test_the_time_of_bytes_is_that_of_the_memory():
    row = Traffic("lsnet-s", "fp16", 7.0, 300, 510_000_000, 0.5)
    assert row.milliseconds("Orin Nano Super") == pytest.approx(5.0)
    assert row.milliseconds("AGX Orin", 0.5) == pytest.approx(2 * 510 / 205)
    line = markdown({"rows": [vars(row)]}).splitlines()[-1]
    assert line == "| `lsnet-s` fp16 | 7.00 | 300 | 510.0 | 50% | 5.00 / 14.29 | 2.49 / 7.11 |"


@pytest.mark.parametrize("name", [name for name in ROWS if name.endswith(".fp16")])
def test_released_models_move_no_more_than_they_did(name, monkeypatch, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (x86-64 Linux and Windows only)")
    monkeypatch.setenv("GLINT_CACHE", str(tmp_path))
    now, before = measure(*name.rsplit(".", 1)), ROWS[name]
    assert now.kernels <= before.kernels
    assert now.bytes <= 1.005 * before.bytes
