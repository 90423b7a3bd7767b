"""What a sensor needs before anybody looks at its frames: dead pixels replaced, pixels made alike.

A pixel ``raw`` becomes ``(raw - dark) * gain + mean(dark)``, with ``gain = mean(flat - dark) / (flat - dark)``
where there is a flat frame (two-point correction) and 1 where there is none (offset correction); the means
are over the good pixels. A dead pixel then gets the median of the good ones among its 8 neighbours, or, where
none of them is good, of those in the smallest window around it that has one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import InputError
from glint.files import load_npy
from glint.images import read_image
from glint.types import Frame


@dataclass(frozen=True, eq=False)
class Conditioned:
    """A frame as the detector gets it.

    Attributes:
        frame: ``float32`` if anything was corrected.
        ceiling: level at which each of its pixels is saturated, one number or ``float32 [H, W]``; None if unknown.
    """

    frame: Frame
    ceiling: float | NDArray[np.float32] | None


class Conditioner:
    """Corrections of one sensor.

    Args:
        dead: ``bool [H, W]``, or None.
        dark: frame of a closed shutter or a cold scene, DN, ``[H, W]``, or None.
        flat: frame of a uniform warmer scene, DN, ``[H, W]``, or None.

    Raises:
        InputError: if shapes differ, values are not finite, a flat frame comes without a dark one, no pixel
            is good, or a good pixel does not get brighter from dark to flat.
    """

    def __init__(
        self,
        dead: NDArray[np.bool_] | None = None,
        dark: NDArray[np.floating] | None = None,
        flat: NDArray[np.floating] | None = None,
    ) -> None:
        given = {"dead pixels": dead, "dark": dark, "flat": flat}
        shapes = {name: array.shape for name, array in given.items() if array is not None}
        if len(set(shapes.values())) > 1:
            raise InputError(
                f"corrections of different shapes: {', '.join(f'{n} {s}' for n, s in shapes.items())}",
                hint="all of them must be of the camera that is used now, in its full size",
            )
        if flat is not None and dark is None:
            raise InputError("a flat frame without a dark one", hint="two-point correction needs --dark and --flat")
        self.shape: tuple[int, int] | None = next(iter(shapes.values()), None)
        self.files = dark, flat
        good = None if dead is None else ~dead
        if good is not None and not good.any():
            raise InputError(
                "dead pixels: not a single pixel is good", hint="look at the mask: a pixel that is not 0 counts as dead"
            )
        self._dead = dead if dead is not None and dead.any() else None
        self._neighbours = [] if self._dead is None else _neighbours(self._dead)
        self._gain, self._offset = _correction(dark, flat, good)
        self._ceiling: tuple[float, NDArray[np.float32]] | None = None

    @staticmethod
    def load(dead_pixels: Path | None, dark: Path | None, flat: Path | None) -> Conditioner | None:
        """From files, ``.npy`` or images; in the map of dead pixels all but 0 is dead. None if there are none.

        Raises:
            SourceError: if a file cannot be read.
            InputError: if it does not hold what it should.
        """
        if dead_pixels is None and dark is None and flat is None:
            return None
        dead = None if dead_pixels is None else _load(dead_pixels) != 0
        frames = [None if path is None else _load(path).astype(np.float64) for path in (dark, flat)]
        return Conditioner(dead, *frames)

    def __call__(self, frame: Frame) -> Conditioned:
        """Correct a frame.

        Raises:
            InputError: if it has another shape than the corrections.
        """
        if self.shape is None:
            return Conditioned(frame, frame.full_scale)
        if frame.shape != self.shape:
            raise InputError(
                f"a frame of {_size(frame.shape)} meets corrections for frames of {_size(self.shape)}",
                hint="measure the corrections with this camera in its full size, or leave them away",
            )
        data = self._correct(frame.data)
        for pixels, neighbours in self._neighbours:
            data.flat[pixels] = np.median(data.reshape(-1)[neighbours], axis=1)
        return Conditioned(replace(frame, data=data, full_scale=None), self._saturation(frame.full_scale))

    def _correct(self, data: NDArray[Any]) -> NDArray[np.float32]:
        corrected = data.astype(np.float32)
        if self._gain is not None:
            corrected *= self._gain
        if self._offset is not None:
            corrected += self._offset
        return corrected

    def _saturation(self, full_scale: float | None) -> NDArray[np.float32] | None:
        if full_scale is None or self.shape is None:
            return None
        kept = self._ceiling  # other threads may replace it
        if kept is not None and kept[0] == full_scale:
            return kept[1]
        level = self._correct(np.full(self.shape, full_scale))
        if self._dead is not None:
            level[self._dead] = np.inf  # what stands there is not what it measured
        self._ceiling = (full_scale, level)
        return level


def _correction(
    dark: NDArray[np.floating] | None, flat: NDArray[np.floating] | None, good: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Gain and offset: corrected = raw * gain + offset."""
    if dark is None:
        return None, None
    good = np.ones(dark.shape, dtype=bool) if good is None else good
    gain = np.ones(dark.shape)
    if flat is not None:
        response = flat - dark
        weak = good & (response <= 0)
        if weak.any():
            raise InputError(
                f"{weak.sum()} pixels are not brighter in the flat frame than in the dark one",
                hint="flat is the warmer scene; pixels without a response belong into --dead-pixels",
            )
        gain = np.where(good, response[good].mean() / np.where(good, response, 1.0), 1.0)
    offset = dark[good].mean() - dark * gain
    return (None if flat is None else gain.astype(np.float32)), offset.astype(np.float32)


def _neighbours(dead: NDArray[np.bool_]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Dead pixels and the good ones around each, as indices of the flat frame, by how many there are."""
    width = dead.shape[1]
    by_number: dict[int, tuple[list[int], list[NDArray[np.int64]]]] = {}
    for y, x in np.argwhere(dead):
        reach, found = 0, np.zeros(0, dtype=np.int64)
        while not len(found):
            reach += 1
            top, left = max(0, y - reach), max(0, x - reach)
            rows, columns = np.nonzero(~dead[top : y + reach + 1, left : x + reach + 1])
            found = (rows + top) * width + columns + left
        pixels, around = by_number.setdefault(len(found), ([], []))
        pixels.append(int(y * width + x))
        around.append(found)
    return [(np.array(pixels), np.stack(around)) for pixels, around in by_number.values()]


def _load(path: Path) -> NDArray[Any]:
    """One real, finite array ``[H, W]``."""
    array = load_npy(path) if path.suffix.lower() == ".npy" else read_image(path)
    if array.ndim != 2:
        raise InputError(f"{path}: expected numbers [H, W], got {array.dtype} {list(array.shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(
            f"{path} holds NaN or infinite values",
            hint="measure it again, or put the mean of the others into these pixels and list them in --dead-pixels",
        )
    return array


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]}x{shape[0]}"
