from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glint import cards, cli
from glint.compiled import digest_of
from glint.processing.connected import pixels_above
from glint.runtime.commands import doctor as module
from glint.runtime.commands.doctor import doctor, report_text
from glint.runtime.engines.tensorrt.api import FLAVOURS


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The command line takes SIGTERM over: give it back."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the released models in which things may be broken."""
    copy = tmp_path / "zoo"
    copy.mkdir()
    for path in cards.zoo_folder().glob("*.*"):
        if path.suffix in (".json", ".onnx"):
            shutil.copy(path, copy)
    for where in (cards, module):
        monkeypatch.setattr(where, "zoo_folder", lambda: copy)
    return copy


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a library look as if it were not installed."""

    def hide(name: str) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda m, *rest: None if m == name else find(m, *rest))

    return hide


def check(report: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (c for c in report["checks"] if c["name"] == name)
    return found


def test_the_report_has_its_sections_and_one_record_per_check() -> None:
    report = doctor()
    assert report.keys() == {
        "glint", "python", "platform", "machine", "cores", "jetson", "gpu_driver", "engine", "precision", "checks",
        "ready",
    }  # fmt: skip
    assert report["python"] == sys.version.split()[0]
    assert report["cores"] >= 1
    assert report["engine"]["auto"] in ("onnxruntime", "tensorrt")
    assert report["precision"]["auto"] == ("fp32" if report["engine"]["auto"] == "onnxruntime" else "fp16")
    names = [c["name"] for c in report["checks"]]
    assert len(set(names)) == len(names)
    assert {"numpy", "scipy", "pillow", "onnxruntime", "torch", "tensorrt", "python"} <= set(names)
    for entry in report["checks"]:
        assert entry.keys() == {"name", "state", "detail", "needed", "fix"}
        assert entry["state"] in ("ok", "missing", "broken")
        assert entry["fix"] or entry["state"] == "ok"


def test_this_machine_is_ready_because_all_that_is_needed_is_here(zoo: Path) -> None:
    report = doctor()
    assert report["ready"]
    assert all(c["state"] == "ok" for c in report["checks"] if c["needed"])
    for stem in cards.zoo_names():
        assert check(report, f"model {stem}")["needed"]


def test_looking_imports_no_heavy_library(monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = {"torch", "onnx", "onnxscript", "tensorrt", "tensorrt_rtx", "numba", "llvmlite"}
    monkeypatch.setitem(sys.modules, "pycuda", None)  # the one that may be asked, where it is installed
    for name in heavy & sys.modules.keys():
        monkeypatch.delitem(sys.modules, name)
    doctor()
    assert not heavy & sys.modules.keys()


@pytest.mark.parametrize("name", ["onnxruntime", "scipy"])
def test_a_missing_library_that_is_needed_makes_the_machine_not_ready(
    without: Callable[[str], None], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    without(name)
    report = doctor()
    assert not report["ready"]
    assert check(report, name)["state"] == "missing"
    assert check(report, name)["fix"] == f"pip install {name}"
    assert cli.main(["doctor"]) == 3
    shown = capsys.readouterr()
    assert "not ready" in shown.out
    assert f"pip install {name}" in shown.out
    assert "Traceback" not in shown.err


def test_it_knows_what_sources_and_sinks_may_need(
    without: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    without("av")
    without("paho")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    report = doctor()
    for name, purpose, fix in (
        ("av", "--video", "pip install '.[video]'"),
        ("paho-mqtt", "--mqtt", "pip install '.[mqtt]'"),
        ("gstreamer", "gst:", "apt install gstreamer1.0-tools"),
    ):
        entry = check(report, name)
        assert (entry["state"], entry["needed"]) == ("missing", False)
        assert purpose in entry["detail"]
        assert fix in entry["fix"]
    assert report["ready"]


def test_it_says_that_machine_code_came_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = SimpleNamespace(name="aarch64", labels=())
    monkeypatch.setattr("glint.runtime.commands.doctor.library", lambda: opened)
    assert check(doctor(), "machine code")["detail"] == "came with the package, for aarch64"


def test_machine_code_of_other_sources_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ("glint.processing.connected.pixels_above", "glint.processing.normalise._standardised", "glint.gone.away")
    current = digest_of(pixels_above.function)  # type: ignore[attr-defined]
    opened = SimpleNamespace(
        name="x86_64", labels=labels, entry=lambda label, digest: print if digest == current else None
    )
    monkeypatch.setattr("glint.runtime.commands.doctor.library", lambda: opened)
    entry = check(doctor(), "machine code")
    assert (entry["state"], entry["needed"]) == ("broken", False)
    assert "2 of 3 functions" in entry["detail"]
    assert "glint.build_native.build" in entry["fix"]


def test_neither_machine_code_nor_numba_makes_the_machine_not_ready(
    without: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    without("numba")
    monkeypatch.setattr("glint.runtime.commands.doctor.library", lambda: None)
    report = doctor()
    assert not report["ready"]
    assert check(report, "machine code")["fix"] == 'pip install "numba>=0.59"'


def test_it_says_whether_machine_code_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glint.runtime.commands.doctor.library", lambda: None)
    monkeypatch.setenv("GLINT_CACHE", str(tmp_path / "a" / "b"))
    nothing = check(doctor(), "machine code")
    assert nothing["state"] == "missing"
    assert str(tmp_path) in nothing["detail"]
    kept = tmp_path / "a" / "b" / "compiled" / "of_some_state" / "of_a_package"
    kept.mkdir(parents=True)
    (kept / "fit.py311.1.nbc").touch()
    assert check(doctor(), "machine code")["state"] == "ok"


def test_a_folder_that_cannot_hold_machine_code_is_told_and_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("glint.runtime.commands.doctor.library", lambda: None)
    monkeypatch.setenv("GLINT_CACHE", str(tmp_path / "file"))
    report = doctor()
    entry = check(report, "machine code")
    assert (entry["state"], report["ready"]) == ("broken", True)
    assert "GLINT_CACHE" in entry["fix"]


def test_without_its_engine_auto_means_none(without: Callable[[str], None]) -> None:
    without("onnxruntime")
    engine = doctor()["engine"]
    assert engine["auto"] is None
    assert "onnxruntime" in engine["why"]


@pytest.mark.parametrize("name", ["torch", "tensorrt", "pycuda", "cuda-bindings"])
def test_a_missing_library_of_another_command_is_told_but_does_not_matter(
    without: Callable[[str], None], name: str
) -> None:
    for library in {"tensorrt": FLAVOURS, "cuda-bindings": ("cuda.bindings",)}.get(name, (name,)):
        without(library)
    report = doctor()
    assert check(report, name)["state"] == "missing"
    assert check(report, name)["fix"]
    assert report["ready"]


def test_a_model_whose_hash_is_wrong_makes_the_machine_not_ready(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = next(zoo.glob("lsnet*.onnx"))
    onnx.write_bytes(onnx.read_bytes() + b"\0")
    report = doctor()
    entry = check(report, f"model {onnx.stem}")
    assert (entry["state"], report["ready"]) == ("broken", False)
    assert "hash" in entry["detail"]
    assert cli.main(["doctor"]) == 3
    assert "BROKEN" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"{ not json", b"\xff\xfe\x00"])
def test_a_malformed_card_is_reported_and_does_not_stop_the_doctor(zoo: Path, content: bytes) -> None:
    card = next(zoo.glob("lsnet*.json"))
    card.write_bytes(content)
    report = doctor()
    assert check(report, f"model {card.stem}")["state"] == "broken"
    assert not report["ready"]


def test_a_card_without_its_model_file_is_reported(zoo: Path) -> None:
    onnx = next(zoo.glob("dscsnet*.onnx"))
    onnx.unlink()
    assert check(doctor(), f"model {onnx.stem}")["state"] == "broken"


def test_an_empty_zoo_is_not_ready(zoo: Path) -> None:
    for path in zoo.iterdir():
        path.unlink()
    report = doctor()
    assert not report["ready"]
    assert check(report, "models")["state"] == "missing"


def test_a_zoo_without_the_default_unmixer_is_not_ready(zoo: Path) -> None:
    for path in zoo.glob("dscsnet*"):
        path.unlink()
    assert not doctor()["ready"]  # `glint run` needs both of its models


def test_json_is_one_document_with_the_same_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == doctor()
    assert shown.err == ""


def test_json_of_a_broken_machine_leaves_with_the_same_code(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next(zoo.glob("lsnet*.json")).write_text("{}")
    assert cli.main(["doctor", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["ready"] is False


def test_the_text_has_a_line_per_check_and_a_fix_for_what_is_missing(without: Callable[[str], None]) -> None:
    without("torch")
    report = doctor()
    text = report_text(report)
    for entry in report["checks"]:
        assert entry["name"] in text
        if entry["state"] != "ok":
            assert f"fix: {entry['fix']}" in text


def test_several_builds_of_opencv_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_installed", lambda name: name != "opencv-contrib-python")
    entry = check(doctor(), "opencv")
    assert entry["state"] == "broken"
    assert "opencv-python-headless" in entry["detail"]
    assert not entry["needed"]
