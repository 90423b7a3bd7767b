"""Masks and probability maps that anything else has written, as predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.evaluate.detection_scores import Prediction
from glint.cli import talk
from glint.data.datasets import LabelledImage, files_by_stem
from glint.errors import InputError, SourceError
from glint.files import load_npy
from glint.images import read_image

_LEAST_MAXIMUM = 128  # of floating numbers up to 255: below, they may be logits
_MOST_PREDICTED_SHARE = 0.5  # of the pixels, that are predicted where masks are not inverted


@dataclass
class _Held:
    """What all files together hold.

    Attributes:
        top: greatest value.
        masks: the greatest value of each file of at most two values, one of them 0, by the first such file's name.
        maps: whether any file has more.
    """

    top: float = 0.0
    masks: dict[float, str] = field(default_factory=dict)
    maps: bool = False

    def add(self, name: str, data: NDArray[Any]) -> None:
        """Take note of a file."""
        most = float(data.max())
        self.top = max(self.top, most)
        if most <= 0:
            return
        if ((data == 0) | (data == most)).all():
            self.masks.setdefault(most, name)
        else:
            self.maps = True


class StoredPredictions:
    """Masks or probability maps in a folder, one for each image: PNG, TIFF, ... or ``.npy``, same stem.

    Files are scaled by what all of them hold, not by their type. Masks (0 and one other value) are 0 and 1. Maps are
    probabilities in [0, 1], parts of 255 (integers, and floating numbers from 128 to 255) or of 65535.

    Raises:
        SourceError: if the folder is missing, holds no prediction, or both images and arrays.
        InputError: if the files are of several types or scales.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        arrays = {p.stem: p for p in folder.glob("*.npy")} if folder.is_dir() else {}
        self.files = arrays or files_by_stem(folder)
        if arrays and any(p.stem in arrays and p.suffix != ".npy" for p in folder.iterdir()):
            hint = "leave one of them there"
            raise SourceError(f"{folder} holds arrays (.npy) and other files of the same names: which?", hint=hint)
        missing = [name for name in names if name not in self.files]
        if missing:
            raise SourceError(
                f"{folder}: no prediction for {len(missing)} of {len(names)} images, the first is {missing[0]!r}",
                hint="one file for each image of the split, called like the image",
            )
        # Only all files together tell masks of 0 and 1 from maps that happen to be dark.
        self.scale = self._scale(names)
        self._greatest = self._predicted = 0.0
        self._number = 0
        self._resized = ""

    def _scale(self, names: Sequence[str]) -> float:
        kinds, held = set(), _Held()
        for name in names:
            data = self._read(name)
            kinds.add(data.dtype)
            if data.min() < 0 and data.dtype.kind != "f":
                raise InputError(f"{self.files[name]}: expected values of at least 0, got {data.min():g}")
            held.add(self.files[name].name, data)
        if len(kinds) > 1:
            raise InputError(
                f"predictions of different types: {', '.join(sorted(str(k) for k in kinds))}",
                hint="save all of them in the same way",
            )
        return _scale_of(kinds.pop(), held)

    def _read(self, name: str) -> NDArray[Any]:
        path = self.files[name]
        if path.suffix != ".npy":
            return read_image(path)
        data = np.squeeze(load_npy(path, what="prediction"))
        if data.ndim != 2 or not data.size:
            raise InputError(
                f"{path}: expected a map [H, W] of numbers, got {data.dtype} of shape {data.shape}",
                hint="one map per file: the probability of a target",
            )
        return data

    def __call__(self, sample: LabelledImage) -> Prediction:
        """The stored prediction as a probability.

        Raises:
            InputError: if values lie outside [0, 1] after scaling, or rows and columns are exchanged.
        """
        path = self.files[sample.name]
        values = self._read(sample.name).astype(np.float32) / self.scale
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise InputError(
                f"{path}: expected probabilities from 0 to 1, got {np.nanmin(values):.3g} to {np.nanmax(values):.3g}"
                + ("" if np.isfinite(values).all() else ", and values that are not finite"),
                hint="apply the sigmoid before you store logits",
            )
        shape = sample.mask.shape
        if values.shape != shape:
            if values.shape == shape[::-1]:
                raise InputError(
                    f"{path}: a map of shape {values.shape} for an image of shape {shape}",
                    hint="rows and columns are exchanged: turn it back",
                )
            self._resized = self._resized or f"{path.name} of {values.shape[1]}x{values.shape[0]}"
        self._greatest = max(self._greatest, float(values.max()))
        self._predicted += float((values > 0.5).mean())
        self._number += 1
        return Prediction(values)

    def tell(self) -> None:
        """Say what speaks against the predictions that were asked for."""
        if self._resized:
            talk(f"predictions of another size are brought to that of their images: {self._resized}, ...")
        if self._number and not self._greatest > 0.5:
            talk(f"warning: no prediction exceeds 0.5, the greatest is {self._greatest:.3g}: is the scale right?")
        if self._predicted > _MOST_PREDICTED_SHARE * self._number:
            share = 100 * self._predicted / self._number
            talk(f"warning: {share:.0f} % of all pixels are predicted as targets: are they inverted?")


def _scale_of(kind: np.dtype[Any], held: _Held) -> float:
    """What stands for a probability of 1.

    Raises:
        InputError: if it cannot be told.
    """
    if not held.maps and len(held.masks) > 1:
        some = ", ".join(f"{name} with 0 and {top:g}" for top, name in list(held.masks.items())[:3])
        raise InputError(f"predictions are masks of different values: {some}", hint="save all of them in the same way")
    if held.top <= 1:
        return 1.0
    if not held.maps and (kind.kind != "f" or held.top == 255):
        return held.top
    if kind.kind == "f":
        if _LEAST_MAXIMUM < held.top <= 255:
            talk(f"predictions up to {held.top:g} are taken as parts of 255")
            return 255.0
        return 1.0
    full = next((full for full in (255.0, 65535.0) if held.top <= full), None)
    if full is None:
        raise InputError(
            f"predictions up to {held.top:g}; expected 0 to 1, to 255 or to 65535", hint="scale them to one of these"
        )
    if kind.itemsize > 1:
        talk(f"predictions of {kind} up to {held.top:g} are taken as parts of {full:g}")
    return full
