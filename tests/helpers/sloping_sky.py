"""Frames of a sloping sky for the tests of the pipeline."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from glint.types import Frame

Render = Callable[..., np.ndarray]
SHAPE = (48, 64)


def plane(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A sloping sky: 100 DN, rising to the right and falling downwards."""
    return 100 + 0.8 * np.arange(shape[1]) - 0.5 * np.arange(shape[0])[:, None]


def as_frame(image: np.ndarray, full_scale: float | None = None) -> Frame:
    return Frame(0, 0, image.astype(np.float32), full_scale=full_scale)
