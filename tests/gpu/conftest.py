"""Tests on a real GPU: ``pytest -m gpu tests/gpu``. Elsewhere each says why it is skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from glint.errors import GlintError
from glint.runtime.engines.choose import choose_engine
from glint.runtime.engines.tensorrt.build import BuildOptions, BuiltEngine, build
from glint.runtime.engines.tensorrt.cuda import GpuInfo, gpu
from glint.types import FrameSize

SIZE = (256, 320)  # of the detector's frames: height, width


@pytest.fixture(scope="session", autouse=True)
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuInfo]:
    """The GPU, and a cache of its own for the engines that the tests build."""
    try:
        choose_engine("tensorrt")
    except GlintError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLINT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield gpu()


@pytest.fixture(scope="session")
def unmixer_plan(machine: GpuInfo) -> BuiltEngine:
    return build("dscsnet-s-sensor", BuildOptions(precision="fp32", batches=((2, 64, 200),)))


@pytest.fixture(scope="session")
def detector_plan(machine: GpuInfo) -> BuiltEngine:
    return build("lsnet-s", BuildOptions(precision="fp32", sizes=(FrameSize(SIZE[1], SIZE[0]),)))
