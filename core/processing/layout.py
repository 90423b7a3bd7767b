"""Where in a frame the picture is, and where in a word its bits are: mended before anything else looks at it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.errors import SourceError
from glint.types import Frame

Area = tuple[int, int, int, int]
_TOP_BIT_DN = 1 << 15  # a full scale from here on is that of words whose values stand at the top


@dataclass(frozen=True)
class Layout:
    """How frames differ from what they should be.

    Attributes:
        crop: x, y, width, height of the picture, pixels; None: all of the frame is.
        swapped: the bytes of 16-bit words are in the wrong order.
        aligned: the bits of a value stand at the top of its 16-bit word.
        field: of interlaced frames, the lines of which half are kept; None: all.
    """

    crop: Area | None = None
    swapped: bool = False
    aligned: bool = False
    field: Literal["top", "bottom"] | None = None

    def shift_of(self, frame: Frame) -> int:
        """How many empty bits stand below the values, by the full scale or else by the frame.

        Raises:
            SourceError: if that cannot be told.
        """
        if not self.aligned:
            return 0
        if frame.data.dtype != np.uint16:
            raise SourceError(
                f"align=msb is for words of 16 bits, and these are {frame.data.dtype}",
                hint="leave align away: words of 8 bits and floats have no spare bits",
            )
        if frame.full_scale is not None:
            top = int(frame.full_scale)
            return 16 - top.bit_length() if top < _TOP_BIT_DN else (top & -top).bit_length() - 1
        bits = int(np.bitwise_or.reduce(self._words(frame.data), axis=None))
        return (bits & -bits).bit_length() - 1 if bits else 0

    def mended(self, frame: Frame, shift: int) -> Frame:
        """The frame with its picture alone, values at the bottom of their words.

        Raises:
            SourceError: if the picture would reach over its edges, or words are to be swapped that are none.
        """
        if self == Layout():
            return frame
        data = self._words(frame.data)
        full_scale = frame.full_scale
        if self.aligned:
            data = data >> np.uint16(shift)
            if full_scale is None or full_scale >= _TOP_BIT_DN:
                full_scale = 2.0 ** (16 - shift) - 1
        if self.field is not None:
            data = data[0 if self.field == "top" else 1 :: 2]
        if self.crop is not None:
            x, y, width, height = self.crop
            if x + width > data.shape[1] or y + height > data.shape[0]:
                size = f"{data.shape[1]}x{data.shape[0]}"
                raise SourceError(
                    f"crop={x},{y},{width},{height} reaches over the edge of frames of {size}",
                    hint="give crop=X,Y,WIDTH,HEIGHT inside the frame",
                )
            data = data[y : y + height, x : x + width]
        if not data.size:
            raise SourceError("deinterlace: the frame has one line only", hint="leave deinterlace away")
        return replace(frame, data=np.ascontiguousarray(data), full_scale=full_scale)

    def _words(self, data: NDArray[Any]) -> NDArray[Any]:
        if not self.swapped:
            return data
        if data.dtype != np.uint16:
            raise SourceError(
                f"endian=swap is for words of 16 bits, and these are {data.dtype}",
                hint="leave endian away: only words of 16 bits have an order of bytes here",
            )
        return data.byteswap()


_COMPARED_ROWS = 48  # at the top of a picture
_LEAST_ROWS = 16  # and columns of a picture whose shape tells something
_UNLIKE_RATIO = 2.0  # times as different
_HALF_WITHIN_SD = 0.6745  # standard deviations that half of a normal distribution is within


def looks_swapped(data: NDArray[Any]) -> bool:
    """Whether 16-bit words are many times smoother with their bytes in the other order."""
    if data.dtype != np.uint16 or min(data.shape) < 2 or not (data & 0xFF).any():  # 8 bits at the top of 16
        return False

    def roughness(words: NDArray[Any]) -> float:
        return float(np.abs(np.diff(words.astype(np.int32), axis=1)).mean())

    rough = roughness(data)
    return rough > _ROUGH_DN and roughness(data.byteswap()) * _SMOOTHER_RATIO < rough


_ROUGH_DN = 300.0  # between neighbours: few scenes have that
_SMOOTHER_RATIO = 8.0  # how much smoother the other order is


def row_length_of(data: NDArray[Any]) -> int | None:
    """How long the rows of a picture look, pixels, if they do not look as long as they are; None if they do.

    With rows of the right length, what lies below a pixel is like what lies beside it.

    Args:
        data: ``[H, W]``, whose rows stood one behind the other.
    """
    height, width = data.shape
    flat = data[: min(height, _COMPARED_ROWS)].astype(np.float32).ravel()
    if height < _LEAST_ROWS or width < _LEAST_ROWS:
        return None

    def difference(lag: int) -> float:
        return float(np.abs(flat[lag:] - flat[:-lag]).mean())

    below, beside = difference(width), difference(1)
    if below < _UNLIKE_RATIO * beside:
        return None
    lags = range(width // 2, min(2 * width, len(flat) // 2) + 1)
    best = min(lags, key=difference)
    return best if _UNLIKE_RATIO * difference(best) < below else None


_LIKENESS_NOISE_SD = 8.0  # standard deviations that a peak of likeness must exceed
_PEAK_SHARE = 16  # of the shorter side: half the width of what is no peak, but slow change
_MOST_LIKENESS_PIXELS = 1 << 18  # that are looked at


def looks_exchanged(data: NDArray[Any]) -> bool:
    """Whether width and height look exchanged, also where noise covers the scene.

    Pixels that are a row apart are alike, if only a little: over a picture, that shows. It must show as a peak at the
    other side's length, be twice that at the stated one, and not swing back, as stripes do. Levels of rows are taken
    away before. Noise alone, without a scene or columns of their own level, tells nothing.

    Args:
        data: ``[H, W]``, whose rows stood one behind the other.
    """
    height, width = data.shape
    if height == width or min(height, width) < _LEAST_ROWS:
        return False
    rows = data[: max(_LEAST_ROWS, _MOST_LIKENESS_PIXELS // width)].astype(np.float32)
    flat = (rows - rows.mean(axis=1, keepdims=True)).ravel()
    first, last = min(height, width) // 2, min(max(height, width) * 3 // 2, len(flat) // 2)
    if not first < height < last:
        return False
    power = np.abs(np.fft.rfft(flat, 2 * len(flat))) ** 2
    lags = np.arange(first, last + 1)
    likeness = np.fft.irfft(power)[lags] / (len(flat) - lags)
    slow = ndimage.median_filter(likeness, 2 * max(8, min(height, width) // _PEAK_SHARE) + 1, mode="nearest")
    peaks = likeness - slow
    noise = float(np.median(np.abs(peaks))) / _HALF_WITHIN_SD
    there, stated = float(peaks[height - first]), float(peaks[width - first])
    return there > max(_LIKENESS_NOISE_SD * noise, _UNLIKE_RATIO * stated, -2 * float(peaks.min())) and there == float(
        peaks.max()
    )
