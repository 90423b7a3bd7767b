"""Shared by the tests of engines: machines that are not there."""

import pytest
import tensorrt_standin
from built_engines import GPU
from tensorrt_standin import VERSIONS, Machine

from glint.runtime.engines.tensorrt import cuda
from glint.runtime.pipeline import rehearsal


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("GLINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda, "gpu", lambda: GPU)


@pytest.fixture
def prepared(monkeypatch):
    """How often the command has made the first run ready."""
    calls = []
    monkeypatch.setattr(rehearsal, "rehearse", lambda: calls.append(None))
    return calls


@pytest.fixture(params=VERSIONS)
def machine(request, monkeypatch):
    machine = Machine()
    tensorrt_standin.install(monkeypatch, request.param, machine)
    return machine


@pytest.fixture
def orin(monkeypatch):
    """JetPack 6."""
    machine = Machine()
    tensorrt_standin.install(monkeypatch, "tensorrt-10.3", machine)
    return machine
