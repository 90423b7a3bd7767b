"""What setup.py decides about a wheel: models, linker, and the machines that it is for."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER
from glint.native.library import TARGETS

setuptools = pytest.importorskip("setuptools", minversion="77")
ROOT = Path(__file__).parent.parent
LARGEST_MB = 8.0  # of the models in a wheel, packed


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    for name in ("GLINT_NATIVE", "GLINT_MODELS"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("glint_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_default_models_stay_with_their_cards_and_are_small(module: ModuleType, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "zoo", tmp_path / "zoo")
    module.leave_models_out(tmp_path / "zoo")
    kept = {f"{name}.{precision}" for name in (DEFAULT_DETECTOR, DEFAULT_UNMIXER) for precision in ("fp32", "fp16")}
    assert {path.stem for path in (tmp_path / "zoo").glob("*.onnx")} == kept
    assert {path.stem for path in (tmp_path / "zoo").glob("*.json")} == kept
    packed = Path(shutil.make_archive(str(tmp_path / "models"), "zip", tmp_path / "zoo"))
    assert packed.stat().st_size < LARGEST_MB * 1e6


def test_a_wheel_is_for_the_machines_of_its_libraries(module: ModuleType) -> None:
    names = [target.name for target in TARGETS]
    assert module.platform_tag([], by_zig=False) == "any"
    assert module.platform_tag(["x86_64", "x86_64_v3"], by_zig=False) == "linux_x86_64"
    assert module.platform_tag(["aarch64"], by_zig=False) == "linux_aarch64"
    assert module.platform_tag(names, by_zig=True) == "manylinux_2_28_aarch64.manylinux_2_28_x86_64"
    assert {target.machine for target in TARGETS} == {"x86_64", "aarch64"}
    assert all(target.zig.endswith(".2.28") for target in TARGETS)


def test_a_linker_is_fetched_where_there_is_none(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(module.shutil, "which", lambda name: "/usr/bin/cc" if name == "cc" else None)
    assert module.needs_linker() == []
    monkeypatch.setenv("GLINT_NATIVE", "all")
    assert module.needs_linker() == ["ziglang"]
    monkeypatch.setenv("GLINT_NATIVE", "none")
    assert module.needs_linker() == []
    monkeypatch.delenv("GLINT_NATIVE")
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert module.needs_linker() == ["ziglang"]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert module.needs_linker() == []
