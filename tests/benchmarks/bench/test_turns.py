"""Measuring for real, but briefly: processes, turns, failures, interruptions and the shape of the report."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from bench_reports import measurement

from glint.benchmarks.bench import bench as module
from glint.benchmarks.bench import machine as bench_machine
from glint.benchmarks.bench import turns as bench_run
from glint.benchmarks.bench.bench import bench, output_files
from glint.benchmarks.bench.cases import BenchCase
from glint.benchmarks.bench.turns import Bench, Effort, rows_of
from glint.benchmarks.bench.worker import Worker
from glint.cards import load_card
from glint.cli import main
from glint.errors import EngineError, InputError

BRIEF = Effort(seconds=0.05, rounds=4, warm_up=0.1, patches=8, limits=0.05, points=3)
UNMIX = BenchCase("dscsnet-s-csist", "unmix", batch=2, threads=1)
SHAPE = {
    "format": int, "kind": str, "glint": str, "command": str, "started": str, "machine": dict, "versions": dict,
    "settings": dict, "seconds": float, "interrupted": bool, "warnings": list, "limits": dict, "rows": list,
    "skipped": list, "growth": list,
}  # fmt: skip
ROW = {
    "name", "place", "variant", "case", "amount", "unit", "times_ms", "rounds_ms", "quantiles_ms", "histogram",
    "per_second", "warm_up", "device", "memory", "engine", "accuracy", "parity", "files", "shares", "ratio", "limit",
}  # fmt: skip


def test_a_report_is_measured_in_turns_and_holds_everything(monkeypatch):
    monkeypatch.setattr(module, "Effort", lambda: BRIEF)
    report = bench(["dscsnet-s-csist"], engines=["onnxruntime"], precisions=["fp32"], batches=[2], threads=1)
    assert {name: type(value) for name, value in report.items()} == SHAPE
    json.dumps(report, allow_nan=False)
    (row,) = report["rows"]
    assert row.keys() == ROW
    times = row["times_ms"]
    assert set(times) == {"total", "pre", "network", "post", "refine"}
    parts = sum(times[stage]["mean"] for stage in ("pre", "network", "post", "refine"))
    assert parts == pytest.approx(times["total"]["mean"], rel=1e-6)
    assert len(row["rounds_ms"]["total"]) == 4
    assert row["quantiles_ms"][50] == pytest.approx(times["total"]["median"])
    assert sum(row["histogram"]["counts"]) == times["total"]["n"]
    assert row["per_second"] == pytest.approx(2000 / times["total"]["median"])
    assert 0 < row["accuracy"]["value"] <= 100
    assert row["parity"] is None  # it is the reference
    assert row["memory"]["before_bytes"] < row["memory"]["loaded_bytes"] <= row["memory"]["peak_bytes"]
    macs = load_card("dscsnet-s-csist")[0].macs  # by patch
    assert row["limit"]["macs"] == pytest.approx(2 * macs, rel=0.05)
    assert row["limit"]["reached"] > 0
    assert row["engine"]["threads"] == 1
    assert report["limits"]["gpu"] is None or report["limits"]["gpu"]["bytes_per_s"] > 0


def test_a_row_that_cannot_be_measured_takes_no_other_row_down():
    runner = Bench(BRIEF)
    good = runner.group([replace(UNMIX, engine="tensorrt"), UNMIX, replace(UNMIX, subject="none")])
    assert [one.case for one in good] == [UNMIX]
    assert len(runner.skipped) == 2
    assert "no released model 'none'" in runner.skipped[1].reason


def test_a_process_that_dies_is_told_apart_from_one_that_refuses():
    with Worker(UNMIX) as worker:
        with pytest.raises(EngineError, match="AttributeError"):
            worker.ask("run", seconds=0.1)  # before there is anything to run
        assert worker.ask("open") == {"amount": 2, "unit": "patches"}
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="SIGKILL, probably out of memory"):
            worker.ask("finish")


def test_a_process_ends_when_its_parent_goes():
    code = (
        "import sys\nfrom glint.benchmarks.bench.cases import BenchCase\n"
        "from glint.benchmarks.bench.worker import Worker\n"
        "w = Worker(BenchCase('dscsnet-s-csist', 'unmix'))\nprint(w._process.pid, flush=True)\nimport os\nos._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    pid = int(done.stdout)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("it goes on without its parent")


def test_the_time_is_spread_over_rounds_but_slow_rows_shorten_them(monkeypatch):
    class Fake:
        def __init__(self, case):
            self.case = case

        def __enter__(self):
            return self

        def __exit__(self, *_):
            turns.append(None)

        def ask(self, what, **options):
            if what == "run":
                turns.append((self.case.batch, round(options["seconds"], 3)))
            pace = 5000.0 if self.case.batch == 9 else 1.0
            answers = {
                "open": {"amount": 1, "unit": "patches"}, "warm_up": {"ms": pace, "settled": True, "seconds": 1.0},
                "run": {"total": [pace]}, "finish": {},
            }  # fmt: skip
            return answers[what]

    monkeypatch.setattr(bench_run, "Worker", Fake)
    for batches, expected in (((1, 2), 10), ((1, 9), 5)):
        turns: list = []
        Bench(Effort(seconds=10)).group([replace(UNMIX, batch=b) for b in batches])
        ran = [turn for turn in turns if turn]
        assert len(ran) == 2 * expected
        assert {seconds for _, seconds in ran} == {1.0}
        order = [b for b, _ in ran]
        assert order[:4] == [batches[0], batches[1], batches[1], batches[0]]  # nobody is always the first


def test_interrupted_it_reports_what_it_has(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "QUICK", BRIEF)
    real, calls = Worker.ask, []

    def ask(self, what, **options):
        calls.append(what)
        if calls.count("run") == 7:
            raise KeyboardInterrupt
        return real(self, what, **options)

    monkeypatch.setattr(Worker, "ask", ask)
    out = tmp_path / "report.html"
    words = ["dscsnet-s-csist", "--engine", "onnxruntime", "--precision", "fp32", "--batch", "1,2", "--threads", "1"]
    assert main(["bench", *words, "--quick", "--out", str(out)]) == 130
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["interrupted"] is True
    assert [len(row["rounds_ms"]["total"]) for row in report["rows"]] == [4, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert "INTERRUPTED" in capsys.readouterr().out


def test_control_c_leaves_a_whole_report_and_no_process(tmp_path):
    out = tmp_path / "report.json"
    words = [
        "bench",
        "dscsnet-s-csist",
        "--engine",
        "onnxruntime",
        "--batch",
        "1",
        "--seconds",
        "300",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "glint", *words, "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(8)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert json.loads(out.read_text())["interrupted"] is True


def test_ratios_are_of_the_network_between_rows_of_one_model_and_of_calls_between_others():
    rows = [measurement(BenchCase("net", "unmix", precision=p), ms) for p, ms in (("fp32", 10.0), ("int8", 5.0))]
    rows.append(measurement(BenchCase("other", "peer unmix", engine="numpy", precision="fp64"), 40.0))
    first, second, third = rows_of(rows, None, "onnxruntime fp32")
    assert [row["ratio"]["of"] for row in (first, second, third)] == ["network", "network", "total"]
    assert second["ratio"]["network"]["value"] == pytest.approx(2, rel=0.05)
    assert third["ratio"]["total"]["value"] == pytest.approx(0.25, rel=0.05)
    assert {row["ratio"]["to"] for row in (first, second, third)} == {"net x1, onnxruntime fp32"}
    assert rows_of(rows, None, "onnxruntime int8")[0]["ratio"]["to"] == "net x1, onnxruntime int8"


def test_outputs_end_in_html_or_json(tmp_path):
    assert [p.name for p in output_files(tmp_path / "a.html")] == ["a.html", "a.json"]
    assert [p.name for p in output_files(tmp_path / "a.json")] == ["a.json"]
    with pytest.raises(InputError, match="html or "):
        output_files(tmp_path / "a.txt")


def test_it_refuses_before_it_measures(tmp_path, capsys):
    (tmp_path / "a.json").write_text("mine")
    assert main(["bench", "--out", str(tmp_path / "a.html")]) == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "a.json").read_text() == "mine"
    assert main(["bench", "nothing-like-it"]) == 2
    assert main(["bench", "lsnet-s", "--engine", "abacus"]) == 2
    assert "unknown engine 'abacus'" in capsys.readouterr().err
    assert main(["bench", "--size", "640"]) == 2


def test_asking_for_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom glint.cli import build_parser\nbuild_parser('bench').format_help()\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'tensorrt', 'pycuda') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_states_of_the_device_in_few_figures():
    def state(**changes):
        empty = {"temperature_c": {}, "power_w": {}, "clock_mhz": {}, "throttled_by": [], "over_current_events": None}
        return {**empty, **changes}

    nothing = bench_machine.condense([state()], 10.0)
    assert nothing["energy_mj"] is None and nothing["hottest_c"] is None and nothing["over_current_events"] is None
    warm = [
        state(
            temperature_c={"cpu": t}, power_w={"VDD_IN": w, "VDD_CPU": 1.0}, over_current_events=n, clock_mhz={"gpu": c}
        )
        for t, w, n, c in ((50.0, 8.0, 3, 900.0), (71.5, 12.0, 5, 600.0))
    ]
    warm[1]["throttled_by"] = ["cpufreq-cpu0"]
    found = bench_machine.condense(warm, 100.0)
    assert (found["hottest_c"], found["energy_rail"], found["over_current_events"]) == (71.5, "VDD_IN", 2)
    assert found["energy_mj"] == pytest.approx(100)  # 10 W over 10 ms
    assert found["clock_mhz"] == {"gpu": [600.0, 900.0]}
    assert found["throttled_by"] == ["cpufreq-cpu0"]


def test_answers_of_nvidia_smi_are_read():
    told = bench_machine.parse_smi(["41", "77.5", "1980", "0x0000000000000001"])
    assert told == {"temperature_c": 41.0, "power_w": 77.5, "clock_mhz": 1980.0, "throttled_by": []}
    assert bench_machine.parse_smi(["[N/A]", "7", "1", "0x4"]) == {
        "power_w": 7.0, "clock_mhz": 1.0, "throttled_by": ["gpu 0x4"],
    }  # fmt: skip
    assert bench_machine.parse_smi([]) == {}


def test_a_busy_machine_is_told():
    assert bench_machine.busy({"load": [0.3, 0, 0], "cores": 2}) is None
    assert "load average 2.5 on 2 cores" in bench_machine.busy({"load": [2.5, 0, 0], "cores": 2})
    assert np.isfinite(bench_machine.machine()["load"][0])
