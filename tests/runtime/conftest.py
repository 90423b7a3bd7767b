"""Shared by the tests of the runtime: optics of their own, fake networks, hand-made targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from glint.cards import DetectorSpec, ModelCard, TensorSpec, UnmixerSpec
from glint.processing.candidates import SLOTS, Candidates
from glint.processing.normalise import Normaliser
from glint.runtime.engines.base import Arrays, Engine
from glint.runtime.pipeline.detector import Detector
from glint.runtime.unmixing.unmixer import Unmixer
from glint.types import Targets

CHANNELS = {"grid": 1, "presence": 1, "offset": 2, "radiance": 1, "spread": 3}


def _render(targets: Any, shape: tuple[int, int], sigma: float = 0.5) -> np.ndarray:
    """Image of rows (x, y, radiance), from the normal distribution function rather than glint.optics."""
    image = np.zeros(shape)
    for x, y, radiance in targets:
        column = np.diff(ndtr((np.arange(shape[1] + 1) - 0.5 - x) / sigma))
        row = np.diff(ndtr((np.arange(shape[0] + 1) - 0.5 - y) / sigma))
        image += radiance * np.outer(row, column)
    return image


def _targets(rows: Any) -> Targets:
    """Targets of rows (patch, x, y, radiance) with unknown uncertainties."""
    patch, x, y, radiance = np.asarray(rows, dtype=np.float64).reshape(-1, 4).T
    unknown = np.full(len(x), np.nan)
    return Targets(x, y, radiance, unknown, unknown, unknown, patch, np.ones(len(x)), np.zeros(len(x)))


def _candidates(
    rows: Any,
    number: int | None = None,
    *,
    presence: float = 0.9,
    spread: tuple[float, float, float] = (0.3, 0.3, 60.0),
) -> Candidates:
    """Candidates of rows (patch, x, y, radiance) or (patch, x, y, radiance, presence), as the network would hand
    them to the refinement: by default fairly sure that they are there, and not at all of where."""
    rows = [(*row, presence)[:5] for row in rows]
    number = number if number is not None else 1 + max((int(row[0]) for row in rows), default=-1)
    columns = np.zeros((7, number, SLOTS), dtype=np.float32)
    taken = np.zeros(number, dtype=int)
    for patch, x, y, radiance, sure in sorted(rows, key=lambda row: -row[4]):
        columns[:, int(patch), taken[int(patch)]] = (sure, x, y, radiance, *spread)
        taken[int(patch)] += 1
    return Candidates(*columns)


def _maps(rows: Any, number: int, side: int, *, spread: tuple[float, float, float] = (0.3, 0.3, 0.3)) -> Arrays:
    """What a DSCSNet with 3 x 3 cells per pixel that is sure of rows (patch, x, y, radiance) would answer.

    Positions are in pixels of the network's input of ``side`` pixels, radiances in its units.
    """
    cells = 3 * side
    maps = {name: np.zeros((number, c, cells, cells), np.float32) for name, c in CHANNELS.items()}
    maps["spread"] += np.reshape(spread, (3, 1, 1))
    for patch, x, y, radiance in rows:
        column, row = int(np.floor(3 * (x + 0.5))), int(np.floor(3 * (y + 0.5)))
        at = (int(patch), slice(None), row, column)
        maps["grid"][at] = maps["radiance"][at] = radiance
        maps["presence"][at] = 1.0
        maps["offset"][at] = x - (column - 1) / 3, y - (row - 1) / 3
    return maps


class FakeEngine(Engine):
    """Answers with a function of the inputs and remembers what it was asked."""

    name = "fake"

    def __init__(self, inputs: tuple[TensorSpec, ...], function: Callable[..., Arrays]) -> None:
        self.inputs, self.outputs = inputs, ()
        self.function = function
        self.seen: list[Arrays] = []

    def infer(self, *outputs: str, **arrays: np.ndarray) -> Arrays:  # it has no list of outputs
        return super().infer(**arrays)

    def _infer(self, arrays: Arrays) -> Arrays:
        self.seen.append(arrays)
        return self.function(**arrays)


def _card(task: str, engine: Engine, normaliser: Normaliser, **section: Any) -> ModelCard:
    return ModelCard(
        name="fake", task=task, precision="fp32", network="fake", config={}, file="fake.onnx", sha256="",
        inputs=engine.inputs, outputs=(), normaliser=normaliser, **section,
    )  # fmt: skip


def _fake_detector(function: Callable[..., Arrays], *, normaliser: Normaliser | None = None) -> Detector:
    engine = FakeEngine((TensorSpec("frame", "float32", (1, 1, -1, -1)),), function)
    spec = DetectorSpec(multiple=16, threshold=0.5)
    return Detector(engine, _card("detect", engine, normaliser or Normaliser("fixed", 1.0), detector=spec))


def _fake_unmixer(function: Callable[..., Arrays], *, crop: int = 7, relative: float = 0.5) -> Unmixer:
    engine = FakeEngine((TensorSpec("patch", "float32", (-1, 2, crop, crop)),), function)
    spec = UnmixerSpec(patch=11, crop=crop, cells=3, relative=relative)
    return Unmixer(engine, _card("unmix", engine, Normaliser("peak", 1.0), unmixer=spec))


@pytest.fixture(scope="session")
def render() -> Callable[..., np.ndarray]:
    return _render


@pytest.fixture(scope="session")
def make_targets() -> Callable[..., Targets]:
    return _targets


@pytest.fixture(scope="session")
def make_candidates() -> Callable[..., Candidates]:
    return _candidates


@pytest.fixture(scope="session")
def make_maps() -> Callable[..., Arrays]:
    return _maps


@pytest.fixture(scope="session")
def fake_detector() -> Callable[..., Detector]:
    return _fake_detector


@pytest.fixture(scope="session")
def fake_unmixer() -> Callable[..., Unmixer]:
    return _fake_unmixer


@pytest.fixture(scope="session")
def detector() -> Detector:
    """The released detector."""
    return Detector.open(threads=1)


@pytest.fixture(scope="session")
def unmixer() -> Unmixer:
    """The released unmixer."""
    return Unmixer.open(threads=1)
