"""The object that hides where TensorRT's releases differ, on stand-ins with exactly their API."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import tensorrt_standin
from tensorrt_standin import VERSIONS, Machine

from glint.errors import MissingDependencyError
from glint.runtime.engines.tensorrt.api import load


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def trt(version, monkeypatch):
    tensorrt_standin.install(monkeypatch, version)
    return load()


def test_version_and_flavour(trt, version):
    flavour, _, release = version.partition("-")
    assert trt.flavour == flavour
    assert trt.version.startswith(release)
    assert trt.release[:2] == tuple(map(int, release.split(".")))


def test_network_flags_are_taken_by_name(trt, version):
    ten = version.startswith("tensorrt-10")
    assert trt.network_flags() == (3 if ten else 1)
    assert trt.network_flags(weak=True) == (1 if ten else 0)


def test_features(trt, version):
    assert trt.can_be_weak == version.startswith("tensorrt-10")
    assert trt.ahead_of_time == version.startswith("tensorrt_rtx")
    assert trt.keeps_timings != trt.ahead_of_time


def test_names_of_types(trt):
    names = {member: trt.dtype_name(getattr(trt.module.DataType, member)) for member in ("FLOAT", "HALF", "INT8")}
    assert names == {"FLOAT": "float32", "HALF": "float16", "INT8": "int8"}
    assert all(trt.dtype_name(member).islower() for member in trt.module.DataType)


def test_the_logger_keeps_what_it_is_told(trt):
    severity = trt.module.ILogger.Severity
    log = trt.logger()
    for verbose in (False, True):
        log.log(severity.ERROR, "long ago")
        with log.listening(verbose=verbose):
            log.log(severity.VERBOSE, "details")
            log.log(severity.INFO, "progress")
            log.log(severity.ERROR, "it\n  failed")
            log.log(severity.ERROR, "it failed")
            log.log(severity.INTERNAL_ERROR, "badly")
            assert log.errors() == "it failed; badly"
            assert ("details" in log.lines) == verbose
            assert "progress" in log.lines
            log.forget_errors()
            assert log.errors() == ""
        log.log(severity.INFO, "nobody listens")
        assert log.lines == []


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (SimpleNamespace(__version__="8.6.1", NetworkDefinitionCreationFlag=SimpleNamespace(A=0)), "release 8.6.1"),
        (ModuleType("tensorrt"), "something else of that name"),
    ],
)
def test_a_release_that_is_too_old_and_a_folder_of_the_name_are_refused(monkeypatch, module, told):
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match=f"tensorrt: .*{told}, expected 10 or newer"):
        load()


def test_there_is_one_logger(trt):
    assert trt.logger() is trt.logger() is load(trt.flavour).logger()


def test_stand_ins_are_strict(version, monkeypatch):
    module = tensorrt_standin.install(monkeypatch, version, Machine())
    log = load().logger()
    build = module.Builder(log)
    config = build.create_builder_config()
    with pytest.raises(AttributeError):
        build.max_batch_size = 4
    with pytest.raises(AttributeError):
        _ = config.max_workspace_size
    with pytest.raises(TypeError):
        build.create_network(1, 2)
    with pytest.raises(TypeError):
        build.create_network(flag=1)
    with pytest.raises(TypeError):
        config.set_memory_pool_limit(0, 1)
    with pytest.raises(TypeError):
        module.INetworkDefinition()
    with pytest.raises(TypeError):
        module.Builder(object())
    if not version.startswith("tensorrt-10"):
        with pytest.raises(AttributeError):
            _ = module.BuilderFlag.FP16
