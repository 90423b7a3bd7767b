"""How far one tensor is from another, collected batch by batch in constant memory.

Errors are sorted into bins that are 2 % wide, so that quantiles and histograms need no second look
at the data.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import InputError
from glint.files import known

QUANTILES = (0.5, 0.9, 0.99, 0.999)
BINS_PER_OCTAVE = 32  # bins per factor of two
_LOWEST, _HIGHEST = -150, 150  # powers of two at which the bins begin and end; the last bin has no end


class TensorError:
    """Differences between a reference and a candidate.

    Only pairs of finite numbers are compared; the others are counted.

    Attributes:
        count: pairs compared.
        not_finite: pairs in which one is NaN or infinite.
        largest: largest absolute difference.
        peak: largest magnitude of the reference.
        bins: how many absolute differences lie in each bin, ``int64 [B]``; see :func:`bin_edges`.
    """

    def __init__(self) -> None:
        self.count = self.not_finite = 0
        self.largest = self.peak = 0.0
        self.bins = np.zeros((_HIGHEST - _LOWEST) * BINS_PER_OCTAVE, dtype=np.int64)
        self._relative_bins = np.zeros_like(self.bins)
        self._equal = self._unbounded = 0
        self._absolute = self._noise = self._signal = self._relative = 0.0
        self._largest_relative = 0.0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Compare one more batch.

        Raises:
            InputError: if the shapes differ.
        """
        if reference.shape != candidate.shape:
            raise InputError(f"expected two tensors of one shape, got {reference.shape} and {candidate.shape}")
        expected, actual = (v.ravel().astype(np.float64) for v in (reference, candidate))
        fine = np.isfinite(expected) & np.isfinite(actual)
        self.not_finite += int(len(fine) - fine.sum())
        expected, actual = expected[fine], actual[fine]
        error, size = np.abs(actual - expected), np.abs(expected)
        self.count += len(error)
        self.largest = max(self.largest, float(error.max(initial=0.0)))
        self.peak = max(self.peak, float(size.max(initial=0.0)))
        self._absolute += float(error.sum())
        self._noise += float((error**2).sum())
        self._signal += float((expected**2).sum())
        differ = error > 0
        self._equal += int(len(error) - differ.sum())
        self.bins += _binned(error[differ])
        bounded = differ & (size > 0)
        relative = error[bounded] / size[bounded]
        self._unbounded += int(differ.sum() - bounded.sum())
        self._relative += float(relative.sum())
        self._largest_relative = max(self._largest_relative, float(relative.max(initial=0.0)))
        self._relative_bins += _binned(relative)

    @property
    def sqnr(self) -> float:
        """Signal to noise in dB: infinite if nothing differs, minus infinite if there is no signal."""
        if self._noise == 0:
            return math.inf
        return 10 * math.log10(self._signal / self._noise) if self._signal > 0 else -math.inf

    @property
    def needed(self) -> float:
        """The tolerance that would be needed: the largest difference over the largest magnitude."""
        return 0.0 if self.largest == 0 else self.largest / max(self.peak, 1e-30)

    def summary(self) -> dict[str, Any]:
        """All figures, JSON-ready; None is infinite.

        Returns:
            ``count``, ``not_finite``, ``peak``, ``needed``, ``sqnr_db``; ``absolute`` and ``relative``:
            ``max``, ``mean`` and quantiles of |candidate - reference| and of that over |reference|.
        """
        return {
            "count": self.count, "not_finite": self.not_finite, "peak": self.peak, "needed": self.needed,
            "sqnr_db": known(self.sqnr),
            "absolute": self._figures(self.bins, self._absolute, self.largest, 0),
            "relative": self._figures(self._relative_bins, self._relative, self._largest_relative, self._unbounded),
        }  # fmt: skip

    def _figures(
        self, bins: NDArray[np.int64], total: float, largest: float, unbounded: int
    ) -> dict[str, float | None]:
        """``unbounded`` errors are infinite: those relative to nothing."""
        figures = {f"q{100 * q:g}": self._quantile(bins, q, largest) for q in QUANTILES}
        mean = math.inf if unbounded else total / max(self.count, 1)
        every = {"max": math.inf if unbounded else largest, "mean": mean, **figures}
        return {name: known(value) for name, value in every.items()}

    def _quantile(self, bins: NDArray[np.int64], share: float, largest: float) -> float:
        """The least upper border of a bin below which this share of all errors lies: at most 2.2 % too high."""
        rank = math.ceil(share * self.count - 1e-9)
        if rank <= self._equal:
            return 0.0
        index = int(np.searchsorted(np.cumsum(bins), rank - self._equal))
        if index == len(bins):
            return math.inf
        return largest if index == len(bins) - 1 else min(float(bin_edges()[index + 1]), largest)


def bin_edges() -> NDArray[np.float64]:
    """Borders of the bins of :class:`TensorError`, ``[B + 1]``."""
    edges: NDArray[np.float64] = np.exp2(
        np.arange(_LOWEST * BINS_PER_OCTAVE, _HIGHEST * BINS_PER_OCTAVE + 1) / BINS_PER_OCTAVE
    )
    return edges


def _binned(errors: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many positive numbers lie in each bin: above its lower and up to its upper border."""
    number = (_HIGHEST - _LOWEST) * BINS_PER_OCTAVE
    index = np.ceil(np.log2(errors) * BINS_PER_OCTAVE).astype(np.int64) - _LOWEST * BINS_PER_OCTAVE - 1
    return np.bincount(np.clip(index, 0, number - 1), minlength=number)
