"""Where to cut a tensor's range for INT8: four rules over the histogram of its absolute values.

All of them return the value that code 127 stands for. What lies beyond is clipped.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

LARGEST_CODE = 127
_CLIPPED_PERCENTILE = 99.99
_TRIED_THRESHOLDS = 128  # thresholds that are tried
Counts = NDArray[np.int64]


def minmax(counts: Counts, largest: float) -> float:
    """The largest value: nothing is clipped."""
    del counts
    return largest


def percentile(counts: Counts, largest: float, share: float = _CLIPPED_PERCENTILE) -> float:
    """The value that 99.99 % of all values do not exceed, to the end of its bin."""
    total = counts.sum()
    if not total:
        return largest
    last = int(np.searchsorted(np.cumsum(counts), total * share / 100))
    return largest * (min(last, len(counts) - 1) + 1) / len(counts)


def mse(counts: Counts, largest: float) -> float:
    """The threshold of least squared error, rounding and clipping together."""
    if not counts.sum():
        return largest
    bins = len(counts)
    centre = (np.arange(bins) + 0.5) * (largest / bins)
    # Below a 50th of the range rounding costs nothing any more.
    tried = largest * np.linspace(0.02, 1.0, _TRIED_THRESHOLDS)
    step = tried[:, None] / LARGEST_CODE
    code = np.minimum(np.round(centre / step), LARGEST_CODE)
    # Within a bin narrower than a step the values are spread: their variance is the bin's.
    error = ((centre - code * step) ** 2 * counts).sum(axis=1)
    return float(tried[int(error.argmin())])


def entropy(counts: Counts, largest: float) -> float:
    """The threshold whose quantised distribution loses least information (Kullback-Leibler divergence).

    The reference is the histogram with what is clipped moved into its last bin; the candidate spreads
    the mass of each of 128 codes, without what is clipped, evenly over the bins that the reference fills.
    """
    bins, levels = len(counts), LARGEST_CODE + 1
    weights = counts.astype(np.float64)
    # Exact zeros (after ReLU, in padding) need no code: they would outweigh everything else.
    weights[0] = weights[1] if bins > 1 else 0.0
    if not weights.sum():
        return largest
    best, threshold = np.inf, largest
    for end in range(levels, bins + 1, max(1, (bins - levels) // _TRIED_THRESHOLDS)):
        reference = weights[:end].copy()
        reference[-1] += weights[end:].sum()
        code = np.arange(end) * levels // end
        filled = reference > 0
        mass = np.bincount(code, weights[:end], levels)
        places = np.bincount(code[filled], minlength=levels)
        candidate = np.where(filled, mass[code] / np.maximum(places[code], 1), 0.0)
        divergence = _divergence(reference, candidate)
        if divergence < best:
            best, threshold = divergence, largest * end / bins
    return threshold


def _divergence(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> float:
    """Of two histograms; infinite where the candidate has nothing and the reference something."""
    used = reference > 0
    if (candidate[used] == 0).any():
        return float("inf")
    p, q = reference[used] / reference.sum(), candidate[used] / candidate.sum()
    return float((p * np.log(p / q)).sum())


METHODS: dict[str, Callable[[Counts, float], float]] = {
    "minmax": minmax, "percentile": percentile, "entropy": entropy, "mse": mse,
}  # fmt: skip
