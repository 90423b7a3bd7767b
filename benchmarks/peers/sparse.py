"""Classical sparse recovery on the 3x grid: ISTA, FISTA, and non-negative least squares followed by a fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from glint.benchmarks.peers.point_fit import FloatArray, Images, PointFit, Priors, as_targets, fit_points
from glint.benchmarks.peers.template_fit import border_deviation
from glint.calibration.task_score import score_targets
from glint.errors import InputError
from glint.optics import Psf, cell_centre
from glint.processing import grid
from glint.processing.crop import recentre
from glint.simulation.patches import Patches
from glint.types import TargetFlag, Targets

CELLS = 3
THRESHOLD_DN = 50.0  # what a cell must exceed, as the benchmark reads a grid
_WINDOW_PX = 7  # around the centroid in which non-negative least squares looks
_EMPTY_CELL_SHARE = 0.1  # share of the brightest cell below which a cell of the NNLS solution is empty
_FIT_STEPS = 30
_WEIGHTS_DN = (0.3, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)  # a ladder about the best one


@dataclass(frozen=True)
class Ista:
    """min |Phi x - y|^2 / 2 + weight |x|_1 over radiance per cell by iterative shrinkage.

    Attributes:
        weight: of the l1 norm, DN.
        iterations: shrinkage steps.
        accelerated: with Nesterov's momentum (FISTA).
        sigma: of the PSF, pixels.
    """

    weight: float = 1.0
    iterations: int = 500
    accelerated: bool = False
    sigma: float = 0.5

    def __post_init__(self) -> None:
        if not self.weight >= 0 or self.iterations < 1:
            raise InputError(f"Ista: expected weight >= 0 and iterations >= 1, got {self.weight}, {self.iterations}")

    def solve(self, patches: NDArray[np.floating]) -> FloatArray:
        """Patches ``[N, n, n]`` -> grids ``[N, 3 n, 3 n]``, both in DN."""
        y = patches.astype(np.float64)
        p = Psf(self.sigma).sampling_factor(y.shape[-1], CELLS)
        step = np.linalg.norm(p, 2) ** -4  # 1 / the largest eigenvalue of Phi^T Phi, Phi = P kron P
        back = p.T @ y @ p
        gram = p.T @ p
        x = np.zeros_like(back)
        ahead, pace = x, 1.0
        for _ in range(self.iterations):
            moved = ahead - step * (gram @ ahead @ gram - back)
            shrunk = np.sign(moved) * np.maximum(np.abs(moved) - step * self.weight, 0)
            following = (1 + np.sqrt(1 + 4 * pace**2)) / 2 if self.accelerated else 1.0
            ahead = shrunk + (pace - 1) / following * (shrunk - x)
            x, pace = shrunk, following
        return x

    def __call__(self, patches: NDArray[np.floating], full_scale: FloatArray) -> Targets:
        """Targets at the cells above 50 DN, in patch pixels; ``full_scale`` is not used."""
        patch, x, y, radiance = grid.decode(self.solve(patches), CELLS, THRESHOLD_DN)
        unknown = np.full(len(x), np.nan)
        return Targets(
            x=x, y=y, radiance=radiance, sigma_x=unknown, sigma_y=unknown, sigma_radiance=unknown, blob=patch,
            score=radiance / (radiance + THRESHOLD_DN), flags=np.full(len(x), int(TargetFlag.ON_GRID)),
        )  # fmt: skip


@dataclass(frozen=True)
class NnlsFit:
    """Non-negative least squares on the grid; groups of its cells start a fit without priors.

    Attributes:
        sigma: of the PSF, pixels.
        separation: cells nearer than this belong to one target, pixels.
        max_targets: most targets in a patch; the brightest groups are kept.
    """

    sigma: float = 0.5
    separation: float = 0.4
    max_targets: int = 5

    def __call__(self, patches: NDArray[np.floating], full_scale: FloatArray) -> Targets:
        """Take patches ``[N, n, n]`` DN apart; pixels at ``full_scale`` ``[N]`` only bound the fit from below."""
        windows, left, top = recentre(patches.astype(np.float64), _WINDOW_PX)
        noise = border_deviation(patches)
        saturated = windows >= full_scale[:, None, None]
        groups: dict[int, list[tuple[int, FloatArray]]] = {}
        for number, window in enumerate(windows):
            start = self._groups(window)
            groups.setdefault(start.shape[1], []).append((number, start))
        parts = []
        for count, members in groups.items():
            if not count:
                continue
            rows = np.array([number for number, _ in members])
            x, y, radiance = np.stack([start for _, start in members], axis=-1)  # [K, M] each
            images = Images(*(np.moveaxis(v[rows], 0, -1).copy() for v in (windows, noise, saturated)))
            first = PointFit(np.stack([x, y]), radiance, np.zeros(len(rows)))
            priors = Priors(self.sigma)
            fit = fit_points(images, first, priors, _FIT_STEPS)
            parts.append(as_targets(images, fit, priors, rows, left[rows], top[rows]))
        joined = Targets.concatenate(parts)
        return joined.select(np.argsort(joined.blob, kind="stable"))

    def _groups(self, window: FloatArray) -> FloatArray:
        """Flux centres of groups of lit cells: x, y, radiance ``[3, K]``, brightest first.

        A target between cells lights several of them, so the nearest pair is joined until none is
        nearer than targets can be.
        """
        solution, _ = nnls(_dense(self.sigma), window.ravel(), maxiter=10 * (CELLS * _WINDOW_PX) ** 2)
        lit = np.flatnonzero(solution > _EMPTY_CELL_SHARE * solution.max())
        row, column = np.divmod(lit, CELLS * _WINDOW_PX)
        points = np.stack([cell_centre(column, CELLS), cell_centre(row, CELLS), solution[lit]])
        while points.shape[1] > 1:
            gap = np.hypot(points[0, :, None] - points[0], points[1, :, None] - points[1])
            np.fill_diagonal(gap, np.inf)
            i, j = np.unravel_index(gap.argmin(), gap.shape)
            if gap[i, j] >= self.separation:
                break
            flux = points[2, i] + points[2, j]
            points[:2, i] = (points[:2, i] * points[2, i] + points[:2, j] * points[2, j]) / flux
            points[2, i] = flux
            points = np.delete(points, j, axis=1)
        order = np.argsort(-points[2])[: self.max_targets]
        return points[:, order]


def tune_ista(method: Ista, patches: Patches, weights: tuple[float, ...] = _WEIGHTS_DN) -> Ista:
    """The weight of the l1 norm that scores best (CSO-mAP) on simulated patches."""
    scores = []
    for weight in weights:
        found = replace(method, weight=weight)(patches.image, patches.full_scale)
        scores.append(score_targets(found, patches).cso_map)
    return replace(method, weight=weights[int(np.argmax(scores))])


@lru_cache(maxsize=8)
def _dense(sigma: float) -> FloatArray:
    return Psf(sigma).sampling_matrix(_WINDOW_PX, CELLS)
