"""What the tests of the refinement share: scenes, what a network would say of them, and comparisons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from glint.optics import Psf
from glint.processing.candidates import Candidates
from glint.simulation.patches import CONDITIONS, simulate_patches
from glint.types import TargetFlag, Targets

PSF = Psf(0.5)
SHAPE = (11, 11)
Render = Callable[..., np.ndarray]
Make = Callable[..., Candidates]

# Far apart: the fit needs the whole patch. CLUSTERS fit into a window of it.
SCENES = {
    1: [(5.2, 4.7, 200.0)],
    2: [(3.3, 5.1, 180.0), (7.2, 5.6, 90.0)],
    3: [(3.1, 3.4, 120.0), (7.6, 3.2, 200.0), (5.3, 7.7, 160.0)],
    4: [(2.7, 2.6, 100.0), (7.8, 3.1, 150.0), (3.2, 7.9, 200.0), (7.6, 7.4, 250.0)],
}

CLUSTERS = {
    1: [(5.2, 4.7, 200.0)],
    2: [(4.7, 5.1, 200.0), (5.6, 5.3, 160.0)],
    3: [(4.6, 4.5, 240.0), (5.5, 4.6, 180.0), (5.0, 5.4, 200.0)],
    4: [(4.5, 4.5, 240.0), (5.5, 4.6, 180.0), (4.6, 5.5, 200.0), (5.5, 5.5, 220.0)],
}


def table(targets: Targets) -> np.ndarray:
    """Rows (x, y, radiance) in order of y, then x, rounded enough to order them stably."""
    rows = np.column_stack([targets.x, targets.y, targets.radiance])
    return rows[np.lexsort((rows[:, 0].round(2), rows[:, 1].round(2)))]


def in_order(truth: list[tuple[float, float, float]]) -> np.ndarray:
    return np.array(sorted(truth, key=lambda t: (t[1], t[0])))


def perturbed(truth: list[tuple[float, float, float]], seed: int = 0, patch: int = 0) -> list[tuple[float, ...]]:
    """The truth, up to 0.2 px and 30 % wrong."""
    rng = np.random.default_rng(seed)
    return [
        (patch, x + rng.uniform(-0.2, 0.2), y + rng.uniform(-0.2, 0.2), s * rng.uniform(0.7, 1.3)) for x, y, s in truth
    ]


def has(targets: Targets, flag: TargetFlag) -> np.ndarray:
    return (targets.flags & flag) != 0


def some(number: int, condition: str = "n2", seed: int = 0, spread: float = 0.08) -> tuple[Any, Candidates]:
    """Patches with 1 to 5 targets, and what a calibrated network that errs by ``spread`` pixels would say of them."""
    patches = simulate_patches(CONDITIONS[condition], number, np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1)
    k = patches.x.shape[1]
    columns = np.zeros((7, number, 6), dtype=np.float32)
    for i, (truth, sd) in enumerate(((patches.x, spread), (patches.y, spread), (patches.radiance, 9.0))):
        columns[1 + i, :, :k] = truth + rng.normal(0, sd, truth.shape)
        columns[4 + i, :, :k] = sd
    columns[:, :, :k] *= patches.radiance > 0
    columns[0, :, :k] = np.where(patches.radiance > 0, 0.995, 0)
    return patches, Candidates(*columns)


def same(got: Targets, expected: Targets) -> None:
    """Equal up to rounding, unknown uncertainties included."""
    assert got.blob.tolist() == expected.blob.tolist()
    assert got.flags.tolist() == expected.flags.tolist()
    for name in ("x", "y", "radiance", "sigma_x", "sigma_y", "sigma_radiance", "score"):
        assert getattr(got, name) == pytest.approx(getattr(expected, name), rel=1e-9, abs=1e-9, nan_ok=True), name
