"""What the network sees of spots taken through other optics than its own: the same spots, as through its own.

Averaging over areas keeps the optical model: a PSF of 1.5 px, added up over 3 x 3 pixels, is one of 0.5 larger pixels
with a third of the noise. The network's candidates come back to the camera's own pixels, where they are fitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glint.runtime.pipeline.spots import SpotPatches
from glint.runtime.unmixing.shapes import Shapes
from glint.runtime.unmixing.windows import Ceiling, Windows, cut_windows
from glint.types import Blobs, Frame, Targets

_OWN_WIDTH_RATIOS = (0.5, 1.06)  # widths of the PSF over the network's own that it takes as they are
_BLUR_PX2 = 0.2  # variance that averaging over parts of pixels adds, measured by what the network makes of clusters
_CLEAR_SHARE = 0.5  # share of a larger pixel that must be clear


@dataclass(frozen=True, eq=False)
class NetworkView:
    """Patches as the network wants them.

    Attributes:
        patches: ``float32 [B, n, n]``, DN above the background.
        valid: ``bool [B, n, n]``; full_scale: ``float32 [B, n, n]``, DN.
        noise: of a pixel, DN, ``[B]``.
        left, top: of the first pixel's centre, px of the frame, ``[B]``.
        scale: side of a pixel, px of the frame.
        sigma: of the PSF in these pixels.
    """

    patches: NDArray[np.float32]
    valid: NDArray[np.bool_]
    full_scale: NDArray[np.float32]
    noise: NDArray[np.float64]
    left: NDArray[np.float64]
    top: NDArray[np.float64]
    scale: float
    sigma: float

    def to_windows(self, targets: Targets, windows: Windows) -> Targets:
        """Targets in pixels of the patches as targets in pixels of the windows."""
        blob, s = targets.blob, self.scale
        return targets.changed(
            x=targets.x * s + (self.left - windows.left)[blob],
            y=targets.y * s + (self.top - windows.top)[blob],
            sigma_x=targets.sigma_x * s,
            sigma_y=targets.sigma_y * s,
        )


def network_view(
    frame: Frame, blobs: Blobs, spots: SpotPatches, windows: Windows, shapes: Shapes, sigma: float, own: float,
    ceiling: Ceiling = None,
) -> NetworkView:  # fmt: skip
    """The spots of a frame as the network knows spots.

    Args:
        frame, blobs, spots, windows, shapes: of one frame.
        sigma: of the optics, px.
        own: of the PSF that the network was trained for, px.
        ceiling: level at which a pixel is saturated, DN, one number or ``[H, W]``; None if unknown.
    """
    scale, n = sigma / own, spots.patches.shape[-1]
    if not len(spots.patches) or _OWN_WIDTH_RATIOS[0] <= scale <= _OWN_WIDTH_RATIOS[1]:
        return NetworkView(
            spots.patches, spots.valid, spots.full_scale, windows.noise, spots.left.astype(np.float64),
            spots.top.astype(np.float64), 1.0, sigma,
        )  # fmt: skip
    scale = math.sqrt(sigma**2 + _BLUR_PX2) / own
    size = 2 * math.ceil((n * scale - 1) / 2) + 1
    wide = cut_windows(frame, blobs, windows.noise, windows.white, ceiling, size)
    above = np.where(wide.clear, wide.data - _planes(shapes, windows, size), 0.0)
    weights = area_weights(size, n, scale)
    patches = (weights @ above @ weights.T).astype(np.float32)
    clear = weights @ wide.clear.astype(np.float64) @ weights.T > _CLEAR_SHARE * scale**2
    full = wide.data >= wide.full_scale
    limit = np.full(patches.shape, np.inf, dtype=np.float32)
    if full.any():
        touched = weights @ full.astype(np.float64) @ weights.T > 0
        limit = np.where(touched, patches, limit)
    first = (size - 1) / 2 - scale * (n - 1) / 2
    return NetworkView(patches, clear, limit, windows.noise * scale, wide.left + first, wide.top + first, scale, own)


def _planes(shapes: Shapes, windows: Windows, size: int) -> NDArray[np.float64]:
    """The background plane under each spot, in windows of ``size`` pixels with the same middle, ``[B, size, size]``."""
    ramp = np.arange(size) - (size - 1) / 2
    level, x, y = shapes.theta[:, 3:6].T
    planes: NDArray[np.float64] = (
        level[:, None, None] + x[:, None, None] * ramp[None, None, :] + y[:, None, None] * ramp[None, :, None]
    )
    return planes


def area_weights(size: int, n: int, scale: float) -> NDArray[np.float64]:
    """Share of each of ``size`` pixels that lies in each of n larger ones about the same middle, ``[n, size]``."""
    middle = (size - 1) / 2
    low = middle + scale * (np.arange(n) - (n - 1) / 2 - 0.5)
    pixel = np.arange(size) - 0.5
    overlap = np.minimum(low[:, None] + scale, pixel + 1) - np.maximum(low[:, None], pixel)
    return np.clip(overlap, 0.0, None)
