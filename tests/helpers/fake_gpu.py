"""A machine with a fake GPU and a stand-in of TensorRT."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import tensorrt_standin as standin
from fake_cuda import FakeCuda


def install_gpu(monkeypatch: pytest.MonkeyPatch, cache: Path) -> FakeCuda:
    """A GPU with TensorRT 10.3, and an empty cache of engines."""
    monkeypatch.setenv("GLINT_CACHE", str(cache))
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    tensorrt = standin.install(monkeypatch, "tensorrt-10.3", standin.Machine(enqueue=cuda.enqueue))
    tensorrt.__spec__ = ModuleSpec("tensorrt", None)
    return cuda
