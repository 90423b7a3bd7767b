"""The strongest method without a network: rendered templates as starts for fits, count by likelihood.

A bank of 14,000 rendered arrangements of 1 to 5 targets is compared with each re-centred 7 x 7 patch by
one matrix product per count; the nearest few start Levenberg-Marquardt fits with a radiance prior and
a soft box of one pixel; saturated pixels are censored; the count is decided by BIC among those that
the flux allows, and fits with two targets nearer than the protocol's separation are passed over.
It is told everything that the benchmark's protocol fixes: the box, the separation, the radiance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.peers.point_fit import FloatArray, Images, PointFit, Priors, as_targets, fit_points
from glint.errors import InputError
from glint.optics import Psf
from glint.processing.crop import border_level
from glint.simulation.patches import draw_offsets
from glint.types import Targets

_WINDOW_PX = 7  # px; a cluster within one pixel leaves nothing beyond
_TEMPLATES_BY_COUNT = (0, 400, 1600, 3000, 4000, 5000)  # templates by count
_LEAST_NOISE_DN = 0.03  # DN; below it the fit's own convergence decides
_QUANTISATION_DN = 0.3  # DN; standard deviation of rounding to whole numbers, rounded up
_TARGET_PENALTY = 3 * math.log(
    _WINDOW_PX**2
)  # BIC of a target's three parameters, on the scale of twice the log-likelihood
_SEPARATION_SD_PX = 0.05  # px below the separation that cost as much as one standard deviation
_FITS_PER_BATCH = 512  # fits at a time: what the processor's cache holds


@dataclass(frozen=True)
class TemplateFitConfig:
    """What the method is told, and how hard it tries.

    Attributes:
        sigma: of the PSF, pixels.
        radiance: lowest and highest radiance of a target, DN, uniformly distributed.
        box_start: offset from the base pixel at which the 1 px box of the targets starts.
        separation: pairs nearer than this are passed over, pixels.
        starts: templates per count.
        survivors: of the starts, those that are fitted to the end.
        scout, iterations: Levenberg-Marquardt steps of all starts, and then of the survivors.
        softness: of the box, pixels.
        level: take the median of the border away first; False: trust that there is no background.
    """

    sigma: float = 0.5
    radiance: tuple[float, float] = (220.0, 250.0)
    box_start: float = -0.4
    separation: float = 0.48
    starts: int = 12
    survivors: int = 3
    scout: int = 3
    iterations: int = 12
    softness: float = 0.05
    level: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.survivors <= self.starts:
            raise InputError(f"TemplateFitConfig: expected 1 <= survivors <= starts, got {self.survivors}")
        if not 0 < self.radiance[0] <= self.radiance[1]:
            raise InputError(f"TemplateFitConfig.radiance: expected 0 < low <= high, got {self.radiance}")

    @property
    def prior(self) -> tuple[float, float]:
        """Mean and standard deviation of the radiance, DN."""
        low, high = self.radiance
        return (low + high) / 2, max((high - low) / math.sqrt(12), 1e-3 * high)

    @property
    def priors(self) -> Priors:
        """Those of the fits, in the window's coordinates."""
        start = (_WINDOW_PX - 1) / 2 + self.box_start
        return Priors(self.sigma, self.prior, (start, start + 1), self.softness)


@lru_cache(maxsize=64)
def _bank(config: TemplateFitConfig, count: int, limit: float) -> tuple[PointFit, NDArray[np.float32], FloatArray]:
    """Arrangements, their images ``[T, w^2]`` clipped at ``limit``, and half their squared norms ``[T]``."""
    rng = np.random.default_rng(count)
    number = _TEMPLATES_BY_COUNT[count]
    offsets = draw_offsets(np.full(number, count), config.separation, rng)[:, :count]
    position = offsets + config.priors.box[0] if config.priors.box else offsets  # [T, K, 2]
    radiance = rng.uniform(*config.radiance, (number, count))
    image = Psf(config.sigma).render(position[..., 0], position[..., 1], radiance, (_WINDOW_PX, _WINDOW_PX))
    flat = np.minimum(image, limit).reshape(number, -1)
    start = PointFit(np.ascontiguousarray(position.transpose(2, 1, 0)), radiance.T.copy(), np.zeros(number))
    return start, flat.astype(np.float32), 0.5 * (flat**2).sum(1)


class TemplateFit:
    """The method as a callable: patches in, targets with uncertainties out."""

    def __init__(self, config: TemplateFitConfig | None = None) -> None:
        self.config = config or TemplateFitConfig()

    def __call__(self, patches: NDArray[np.floating], full_scale: FloatArray) -> Targets:
        """Take patches apart.

        Args:
            patches: ``[N, n, n]`` DN with n >= 7.
            full_scale: level at which pixels clip, ``[N]`` DN, infinity for none.

        Returns:
            Targets in patch pixels, ``blob`` the number of the patch, score
            exp(-(sigma_x^2 + sigma_y^2) / 0.01).
        """
        config = self.config
        noise = border_deviation(patches)
        image = patches.astype(np.float64)
        limit = full_scale
        if config.level:
            level = border_level(image)
            image, limit = image - level[:, None, None], limit - level
        windows, left, top = base_windows(image, config.box_start)
        saturated = windows >= limit[:, None, None]
        images = Images(_batch_last(windows), noise, _batch_last(saturated))
        best = self._search(images, windows.reshape(len(windows), -1).astype(np.float32), image.sum(axis=(1, 2)), limit)
        return self._targets(images, best, left, top)

    def _search(
        self, images: Images, flat: NDArray[np.float32], flux: FloatArray, limit: FloatArray
    ) -> dict[int, tuple[NDArray[np.int64], PointFit]]:
        """The best count's fit of each patch, by count: patch numbers and fits.

        Each patch starts with the count that promises most; another one is tried only where its bound
        leaves it a chance, which changes no result.
        """
        bound = self._bounds(flux, images)
        evidence = np.full(bound.shape, np.inf)
        found: dict[int, list[tuple[NDArray[np.int64], PointFit]]] = {}
        order = bound.argsort(axis=0)
        for turn in order:
            for k in np.unique(turn):
                rows = np.flatnonzero((turn == k) & (bound[k] < evidence.min(axis=0)))
                if len(rows):
                    fit = self._fit_count(images, flat, limit, rows, int(k))
                    evidence[k, rows] = fit.cost + _TARGET_PENALTY * k
                    found.setdefault(int(k), []).append((rows, fit))
        winner = evidence.argmin(0)
        best = {}
        for k, parts in found.items():
            rows = np.concatenate([r for r, _ in parts])
            fit, chosen = _joined([f for _, f in parts]), winner[rows] == k
            best[k] = rows[chosen], fit.take(chosen)
        return best

    def _bounds(self, flux: FloatArray, images: Images) -> FloatArray:
        """What the evidence of each count cannot go below, by the flux alone: ``[6, N]``, infinite if not allowed.

        K targets of radiance N(m, s^2) have a flux of N(K m, K s^2). Saturation only hides flux, and
        no more than that of two targets.
        """
        mean, sd = self.config.prior
        low, high = self.config.radiance
        saturated = images.saturated.any(axis=(0, 1))
        count = np.arange(6)[:, None]
        missing = flux - mean * count
        missing = np.where(saturated & (missing < 0), 0, missing)
        bound = missing**2 / (count * sd**2 + images.data[..., 0].size * images.noise**2) + _TARGET_PENALTY * count
        least = np.clip(np.minimum(np.round(flux / high), np.round(flux / mean) - 1), 1, 5)
        most = np.clip(np.maximum(np.round(flux / low), np.round(flux / mean) + 1) + saturated, 1, 5)
        return np.where((least <= count) & (count <= most), bound, np.inf)

    def _fit_count(
        self, images: Images, flat: NDArray[np.float32], limit: FloatArray, rows: NDArray[np.int64], count: int
    ) -> PointFit:
        """The best fit with ``count`` targets for each of ``rows``."""
        config = self.config
        parts: list[PointFit] = []
        size = max(1, _FITS_PER_BATCH // config.starts)
        for first in range(0, len(rows), size):
            chunk = rows[first : first + size]
            here = images.take(np.repeat(chunk, config.starts))
            start = self._starts(flat[chunk], limit[chunk], count)
            fit = fit_points(here, start, config.priors, config.scout)
            keep = _best_rows(_penalised(fit, config.separation), config.starts, config.survivors)
            fit = fit_points(here.take(keep), fit.take(keep), config.priors, config.iterations)
            cost = _penalised(fit, config.separation)
            last = _best_rows(cost, config.survivors, 1)
            fit = fit.take(last)
            parts.append(PointFit(fit.position, fit.radiance, cost[last]))
        return _joined(parts)

    def _starts(self, flat: NDArray[np.float32], limit: FloatArray, count: int) -> PointFit:
        """The nearest templates of each patch, one after the other: a batch of ``starts`` times as many."""
        config = self.config
        nearest = np.empty((len(flat), config.starts), dtype=np.int64)
        for level in np.unique(limit):
            rows = limit == level
            _, images, half = _bank(config, count, float(level))
            closeness = flat[rows] @ images.T - half  # larger is nearer
            nearest[rows] = np.argpartition(-closeness, config.starts - 1, axis=1)[:, : config.starts]
        return _bank(config, count, math.inf)[0].take(nearest.ravel())

    def _targets(
        self,
        images: Images,
        best: dict[int, tuple[NDArray[np.int64], PointFit]],
        left: NDArray[np.int64],
        top: NDArray[np.int64],
    ) -> Targets:
        priors = self.config.priors
        parts = [as_targets(images.take(rows), fit, priors, rows, left[rows], top[rows]) for rows, fit in best.values()]
        joined = Targets.concatenate(parts)
        return joined.select(np.argsort(joined.blob, kind="stable"))


def border_deviation(patches: NDArray[np.floating]) -> FloatArray:
    """Noise from the outermost ring, robustly, but not below what the numbers' steps hide: ``[N]`` DN."""
    ring = np.ones(patches.shape[1:], dtype=bool)
    ring[1:-1, 1:-1] = False
    values = patches[:, ring].astype(np.float64)
    spread = 1.4826 * np.median(np.abs(values - np.median(values, axis=1, keepdims=True)), axis=1)
    whole = (patches == np.round(patches)).all(axis=(1, 2))
    return np.maximum(spread, np.where(whole, _QUANTISATION_DN, _LEAST_NOISE_DN))


def base_windows(image: FloatArray, box_start: float) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.int64]]:
    """7 x 7 windows about the base pixel, which the flux centroid tells: ``[N, n, n]`` -> ``[N, 7, 7]``, left, top.

    What lies outside the patch is dark.
    """
    n, half = image.shape[-1], _WINDOW_PX // 2
    light = np.maximum(image - 0.1 * image.max(axis=(1, 2), keepdims=True), 1e-9)
    total, steps = light.sum(axis=(1, 2)), np.arange(n)
    middle = box_start + 0.5  # of the box, from the base pixel
    corner = []
    for axis in (1, 2):  # summed over rows: columns
        centroid = light.sum(axis=axis) @ steps / total
        corner.append(np.round(centroid - middle).astype(np.int64) - half)
    left, top = corner
    rows, columns = (v[:, None] + half + np.arange(_WINDOW_PX) for v in (top, left))
    image = np.pad(image, ((0, 0), (half, half), (half, half)))
    return image[np.arange(len(image))[:, None, None], rows[:, :, None], columns[:, None, :]], left, top


def _batch_last(stack: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.moveaxis(stack, 0, -1))


def _joined(parts: list[PointFit]) -> PointFit:
    return PointFit(*(np.concatenate([getattr(p, f) for p in parts], axis=-1) for f in vars(parts[0])))


def _penalised(fit: PointFit, separation: float) -> FloatArray:
    """The cost, and what pairs pay that are closer than targets can be: ``[M]``.

    Noise draws true pairs together, so one that is a little too close must stay possible.
    """
    first, second = np.triu_indices(len(fit.radiance), 1)
    gap = fit.position[:, first] - fit.position[:, second]
    missing = np.maximum(separation - np.sqrt((gap**2).sum(0)), 0)
    return fit.cost + ((missing / _SEPARATION_SD_PX) ** 2).sum(0)


def _best_rows(cost: FloatArray, group: int, number: int) -> NDArray[np.int64]:
    """Of each ``group`` of consecutive costs, the places of the ``number`` lowest, group by group."""
    table = cost.reshape(-1, group)
    best = np.argpartition(table, np.arange(number), axis=1)[:, :number]
    return (best + group * np.arange(len(table))[:, None]).ravel()
