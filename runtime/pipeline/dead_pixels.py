"""Dead pixels that a stream tells of itself: hot, cold and stuck ones.

All light passes through the optics, so a spot or a line shines into the pixels beside it; a dead pixel differs alone,
so does a row of dead ones from those above and below. Pixels are watched over some frames. Dead are those that are
far from the median of their neighbourhood in almost all of them, while the two above and below or the two at the
sides are not; those that are so in some frames only, and whenever they are far (they blink); those that never change
while all others do. A square of four is not told from a target in its middle. Text and reticles that the camera draws
are such pixels, with what they lighten at their edges.
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
_OFF_SD = 30.0  # standard deviations of the noise, that pixels of a row, and those that blink, are off
_LINE_SHARE = 0.06  # of a pixel's difference, that those beside a dead row have at most
_BLINKS = 3  # frames at least, in which a pixel blinks
_LONELY_SHARE = 0.8  # share of these, in which it is so alone
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
        self._off, self._lonely = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
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
        noise = max(noise, 0.5 if data.dtype.kind == "u" else 0.0)
        size = np.abs(difference)
        off = size > _OFF_SD * noise
        self._far += size > _FAR_SD * noise
        self._off += off
        self._lonely += off & _is_alone(size)
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
        odd |= (self._off >= _ALWAYS_SHARE * self._frames) & _is_alone(np.abs(mean))
        odd |= (self._lonely >= _BLINKS) & (self._lonely >= _LONELY_SHARE * self._off)
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


def _is_alone(size: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Where a difference ``[H, W]`` is far greater than the two above and below it, or than the two at its sides."""
    sides = (np.array([[1, 0, 1]], dtype=bool), np.array([[1], [0], [1]], dtype=bool))
    beside = np.minimum(*(ndimage.maximum_filter(size, footprint=side, mode="nearest") for side in sides))
    return np.asarray(beside < _LINE_SHARE * size)


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
