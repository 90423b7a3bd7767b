"""``python -m glint.benchmarks.gpu_check``: what becomes of steps, and the GPU's steps on a machine that is made up."""

import json

import pytest
import tensorrt_standin as standin
from fake_cuda import FakeCuda

from glint.benchmarks.gpu_check import __main__ as command
from glint.benchmarks.gpu_check import on_gpu
from glint.benchmarks.gpu_check.anywhere import ANYWHERE
from glint.benchmarks.gpu_check.steps import FAIL, PASS, SKIPPED, Skip, Step, perform, run_all, run_apart, verdict
from glint.errors import CheckFailedError
from glint.progress import talk
from glint.types import FrameSize


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "state", "reason"),
    [
        (lambda: {"ms": 1}, PASS, ""),
        (raising(Skip("no tool")), SKIPPED, "no tool"),
        (raising(CheckFailedError("wrong", hint="look")), FAIL, "wrong (look)"),
        (raising(ZeroDivisionError("x")), FAIL, "ZeroDivisionError: x"),
    ],
)
def test_a_step_passes_fails_or_is_skipped_with_its_reason(work, state, reason):
    result = perform(Step("s", "what", work))
    assert (result.state, result.reason) == (state, reason)


def test_skipped_is_not_green():
    def states(*names):
        return [
            perform(Step("s", "", {PASS: dict, SKIPPED: raising(Skip("")), FAIL: raising(OSError())}[n])) for n in names
        ]

    assert verdict(states(PASS, PASS)) == "passed"
    assert verdict(states(PASS, SKIPPED)) == "incomplete"
    assert verdict(states(SKIPPED, FAIL, PASS)) == "failed"


def test_a_step_that_crashes_or_hangs_has_failed():
    assert "code 2" in run_apart(Step("no-such-step", "", dict), seconds=60).reason
    assert "not over" in run_apart(Step("facts", "", dict), seconds=0.01).reason


def test_what_a_step_says_is_kept(monkeypatch, capfd):
    monkeypatch.setattr(command, "STEPS", (Step("s", "", lambda: talk("a line for the report") or {}),))
    assert command.main(["--step", "s"]) == 0
    told = capfd.readouterr()
    assert told.err == "a line for the report\n" and PASS in told.out


def test_what_a_gpu_is_lent_for_comes_first():
    names = [step.name for step in command.STEPS]
    assert names[0] == "facts" and names.index("engines-fp16") < names.index("engines-fp32") < names.index("overflow")


def test_what_needs_a_gpu_or_time_is_skipped():
    steps = (Step("a", "", dict), Step("b", "", dict, gpu=False))
    results = [*run_all(steps, missing="no GPU", minutes=0.001)]
    assert [(r.state, r.reason) for r in results] == [(SKIPPED, "no GPU"), (SKIPPED, "the 0.001 minutes are over")]


@pytest.mark.parametrize("missing", ["", "no NVIDIA GPU"])
def test_the_report_is_written_and_the_exit_code_says_what_it_is(tmp_path, monkeypatch, capsys, missing):
    monkeypatch.setattr(command, "_no_gpu", lambda: missing)
    steps = (next(s for s in ANYWHERE if s.name == "facts"), Step("facts", "again", dict, gpu=True))
    monkeypatch.setattr(command, "STEPS", steps)
    assert command.main(["--out", str(tmp_path / "r")]) == (3 if missing else 0)
    told = capsys.readouterr()
    assert told.out.startswith("incomplete: 1 of 2" if missing else "passed: 2 of 2") and "r.html" in told.out
    assert "facts" in told.err  # each step, when it is over
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["verdict"] == ("incomplete" if missing else "passed")
    assert [s["state"] for s in report["steps"]] == [PASS, SKIPPED if missing else PASS]
    assert "python" in report["steps"][0]["figures"]
    page = (tmp_path / "r.html").read_text()
    assert "facts" in page and (missing or "passed") in page
    assert command.main(["--out", str(tmp_path / "r")]) == 2  # never overwritten unasked
    assert "error: " in capsys.readouterr().err


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("GLINT_CACHE", str(tmp_path))
    gpu = FakeCuda()
    gpu.install(monkeypatch)
    standin.install(monkeypatch, "tensorrt-10.3", standin.Machine(enqueue=gpu.enqueue))
    return gpu


@pytest.mark.parametrize("name", ["contexts", "memory", "recording", "gpu-overflow"])
def test_the_steps_of_the_gpu_call_what_there_is(gpu, name):
    result = perform(next(s for s in on_gpu.ON_GPU if s.name == name))
    assert (result.state, result.reason) == (PASS, "")
    assert not gpu.live


def test_engines_are_built_compared_and_timed(gpu, monkeypatch):
    monkeypatch.setattr(on_gpu, "_FRAME_SIZE", FrameSize(96, 64))
    monkeypatch.setattr(on_gpu, "_TIMED_RUNS", 2)
    result = perform(next(s for s in on_gpu.ON_GPU if s.name == "engines-fp16"))
    assert result.state == PASS, result.reason
    figures = result.figures["lsnet-s"]
    assert {"enqueue", "h2d", "gpu", "d2h"} <= figures["ms"].keys()
    assert figures["audit"]["layers"] and figures["build s"] > 0
    assert not gpu.live
