"""Curves of costs: which sizes, which costs, and what comes out of measurements."""

import json

import pytest

from glint.benchmarks.bench import scaling as bench_scaling
from glint.benchmarks.bench.cases import BenchCase
from glint.benchmarks.bench.scaling import CURVES, curve, curves, scaling
from glint.benchmarks.bench.turns import Effort, Measurement
from glint.cli import main

COMMON = BenchCase("", "", threads=1, detector="lsnet-s", unmixer="dscsnet-s-csist")


class Pretend:
    """Measures nothing: costs are given powers of the size."""

    effort = Effort(points=8)
    skipped = ()

    def group(self, cases):
        return [self.one(case) for case in cases]

    def one(self, case):
        one = Measurement(case, finished={"engine": {"blobs": case.blobs}})
        one.finished["memory"] = {"before_bytes": 10**7, "peak_bytes": 6 * 10**7 + 10**5 * case.batch}
        unmix, refine = 5.0 + 0.5 * case.blobs, 2.0 * case.blobs
        total = 3.0 * case.batch if case.task == "unmix" else 1e-5 * case.size[0] * case.size[1]
        turn = {"total": [total], "around unmixer": [0.0], "unmixer": [unmix], "refine": [refine]}
        one.rounds = [turn] * 5
        return one


def test_every_curve_covers_its_range():
    found = {kind: curve(kind, COMMON, 8).cases for kind in CURVES}
    assert (found["blobs"][0].blobs, found["blobs"][-1].blobs) == (0, 500)
    assert (found["size"][0].size, found["size"][-1].size) == ((256, 256), (1280, 1024))
    assert (found["batch"][0].batch, found["batch"][-1].batch) == (1, 1024)
    assert [len(curve(kind, COMMON, 4).cases) for kind in CURVES] == [4, 4, 4]


def test_the_exponents_of_known_costs_are_found():
    found = {(c["size"], c["cost"]): c for c in curves(COMMON, Pretend())}
    assert found["blobs", "ms after the detector"]["exponent"]["value"] == pytest.approx(1, abs=0.03)
    assert found["blobs", "ms after the detector"]["start"] == pytest.approx(5, rel=0.05)
    assert found["blobs", "MB"]["exponent"] is None
    assert found["pixels", "ms per frame"]["exponent"]["value"] == pytest.approx(1, abs=0.03)
    assert found["batch", "MB"]["exponent"]["value"] == pytest.approx(1, abs=0.05)
    assert found["batch", "MB"]["points"][0] == {"size": 1.0, "cost": pytest.approx(50.1)}
    json.dumps(list(found.values()), allow_nan=False)


def test_the_command_reports_curves(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_scaling, "Bench", lambda *_, **__: Fake())
    out = tmp_path / "growth.html"
    assert main(["bench", "scaling", "--quick", "--out", str(out)]) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    assert [c["cost"] for c in report["growth"]] == [
        "ms after the detector",
        "MB",
        "ms per frame",
        "MB",
        "ms per call",
        "MB",
    ]
    assert report["rows"] == []
    assert scaling(quick=True)["growth"] == report["growth"]


class Fake(Pretend):
    groups = ()
