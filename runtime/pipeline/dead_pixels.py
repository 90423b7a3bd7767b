"""Dead pixels that a stream tells of itself: hot, cold and stuck ones.

A target has the width of the optics and moves over the pixels; a dead pixel differs from its neighbours in every frame
and alone. So pixels are watched over some frames, and those that are far from the median of their neighbourhood in
almost all of them, while their neighbours are not, are dead, and those that never change while all others do. Text and
reticles that the camera draws are such pixels, with what they lighten at their edges.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.cli import talk
from glint.processing.marks import drawn_marks
from glint.runtime.pipeline.sensor_correction import Conditioned, Conditioner
from glint.types import Frame

WATCHED_FRAMES = 24  # different ones that are watched
_FAR_SD = 6.0  # standard deviations of the noise
_ALWAYS_SHARE = 0.9  # share of the frames
_NEIGHBOUR_SHARE = 0.12  # of its own difference, that a neighbour's may be: of a target it is more
_TEXT_PX = 32  # within which something else that never changes belongs to a text
_MOST_DEAD_SHARE = 0.01  # share of pixels that may be dead; more are a scene that this cannot judge


class DeadPixels:
    """Watches frames of one size.

    Attributes:
        dead: ``bool [H, W]`` as soon as it is known.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.dead: NDArray[np.bool_] | None = None
        self._frames = 0
        self._last: NDArray[np.generic] | None = None
        self._far = np.zeros(shape, dtype=np.int32)
        self._differences = np.zeros(shape)
        self._low, self._high = np.full(shape, np.inf), np.full(shape, -np.inf)

    def look(self, data: NDArray[np.generic]) -> None:
        """Watch one more frame ``[H, W]``; one that came before is no news."""
        if self.dead is not None or (self._last is not None and np.array_equal(self._last, data)):
            return
        self._last = data.copy()
        values = data.astype(np.float32)
        difference = values - ndimage.median_filter(values, 5)
        noise = max(1.4826 * float(np.median(np.abs(difference))), 1e-6)
        self._far += np.abs(difference) > _FAR_SD * max(noise, 0.5 if data.dtype.kind == "u" else 0.0)
        self._differences += difference
        np.minimum(self._low, values, out=self._low)
        np.maximum(self._high, values, out=self._high)
        self._frames += 1
        if self._frames == WATCHED_FRAMES:
            self._judge()

    def _judge(self) -> None:
        mean = self._differences / self._frames
        around = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)
        beside = ndimage.maximum_filter(np.abs(mean), footprint=around)
        odd = (self._far >= _ALWAYS_SHARE * self._frames) & (beside < _NEIGHBOUR_SHARE * np.abs(mean))
        spread = self._high - self._low
        stuck = (spread == 0) & (float(np.median(spread)) > 0)
        marks = stuck & (drawn_marks(self._low) | drawn_marks(-self._high))
        square = np.ones((3, 3), dtype=bool)
        drawn = stuck & ndimage.binary_dilation(marks, square, iterations=_TEXT_PX)  # dots and dashes, too
        stuck &= self._high < self._high.max()  # what is saturated does not change, either
        drawn = ndimage.binary_dilation(drawn, square)
        dead = odd | stuck
        share = float((dead & ~drawn).mean())
        if share > _MOST_DEAD_SHARE:
            talk(f"warning: dead pixels: {100 * share:.1f} % of all look dead: none is replaced; give a map instead")
            dead = np.zeros(self.shape, dtype=bool)
        else:
            dead |= drawn
            by_camera = f", {int(drawn.sum())} of them drawn by the camera" if drawn.any() else ""
            talk(f"dead pixels: {int(dead.sum())} learned from {self._frames} frames{by_camera}")
        self.dead = dead


class LearningConditioner(Conditioner):
    """Corrections of a sensor whose dead pixels are learned; until they are, none is replaced.

    Args:
        dark, flat: as of ``Conditioner``.
    """

    def __init__(self, dark: NDArray[np.floating] | None = None, flat: NDArray[np.floating] | None = None) -> None:
        super().__init__(None, dark, flat)
        self._files = (dark, flat)
        self._inner = Conditioner(None, dark, flat)
        self._watch: DeadPixels | None = None
        self._lock = threading.Lock()

    def __call__(self, frame: Frame) -> Conditioned:
        """Correct a frame, and learn from it.

        Raises:
            InputError: if it has another shape than the corrections.
        """
        with self._lock:
            watch = self._watch
            if watch is None or watch.shape != frame.shape:  # another sensor, or another mode of it
                watch = self._watch = DeadPixels(frame.shape)
                self._inner = Conditioner(None, *self._files)
            if watch.dead is None:
                watch.look(frame.data)
                if watch.dead is not None and watch.dead.any():
                    self._inner = Conditioner(watch.dead, *self._files)
            inner = self._inner
        return inner(frame)
