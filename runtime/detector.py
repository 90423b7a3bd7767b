"""LSNet on the device: a frame in, blobs and the background under them out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.cards import DEFAULT_DETECTOR, DetectorSpec, ModelCard, load_card
from glint.normalise import Normalised
from glint.runtime.engine import Engine, open_engine
from glint.types import Blobs, Frame

Map = NDArray[np.float32]
_EIGHT = np.ones((3, 3), dtype=np.int8)


@dataclass(frozen=True, eq=False)
class Detection:
    """What LSNet says of one frame.

    Attributes:
        blobs: connected spots, with their label map.
        probability: of a target, ``float32 [H, W]``.
        residual: frame minus background, DN, ``float32 [H, W]``: what a patch is cut out of.
    """

    blobs: Blobs
    probability: NDArray[np.float32]
    residual: NDArray[np.float32]


class Detector:
    """A detection model and its card.

    Args:
        engine: runs the model.
        card: says how frames go in and what a target is.
    """

    def __init__(self, engine: Engine, card: ModelCard) -> None:
        self.engine, self.card = engine, card
        self.spec: DetectorSpec = card.detector or DetectorSpec()

    @staticmethod
    def open(
        model: str | Path = DEFAULT_DETECTOR,
        *,
        engine: str = "auto",
        precision: str = "fp32",
        threads: int | None = None,
    ) -> Detector:
        """Load a detector by name or card.

        Raises:
            ModelError: if the model is missing, corrupt or no detector.
            EngineError: if the engine cannot be used.
        """
        card, path = load_card(model, precision=precision, task="detect")
        return Detector(open_engine(path, engine=engine, threads=threads), card)

    def __call__(self, frame: Frame) -> Detection:
        """Detect the targets of one frame of any size."""
        normalised, (probability, background) = self._infer(frame, "probability", "background")
        residual = (normalised.value - background) * normalised.scale
        return Detection(find_blobs(probability, residual, self.spec.threshold), probability, residual)

    def decompose(self, frame: Frame) -> tuple[Map, Map, Map]:
        """Target probability, background and targets of one frame, the last two in DN: ``float32 [H, W]``."""
        normalised, (probability, background, target) = self._infer(frame, "probability", "background", "target")
        return probability, background * normalised.scale + normalised.offset, target * normalised.scale

    def _infer(self, frame: Frame, *names: str) -> tuple[Normalised, list[Map]]:
        """The normalised frame and these outputs of the network, cut to the frame."""
        normalised = self.card.normaliser.apply(frame.data)
        height, width = frame.shape
        multiple = self.spec.multiple
        # At least two tiles of the coarsest level per side: its smallest line to scan.
        full = [max(2, -(-n // multiple)) * multiple for n in (height, width)]
        padded = np.pad(normalised.value, ((0, full[0] - height), (0, full[1] - width)), mode="edge")
        outputs = self.engine.infer(frame=padded[None, None])
        return normalised, [outputs[name][0, 0, :height, :width] for name in names]


def find_blobs(probability: NDArray[np.float32], residual: NDArray[np.float32], threshold: float) -> Blobs:
    """8-connected spots above a probability, with their flux-weighted centres.

    Args:
        probability, residual: ``float32 [H, W]``.
        threshold: a pixel belongs to a spot if its probability exceeds this.
    """
    labels, number = ndimage.label(probability > threshold, structure=_EIGHT)
    labels = labels.astype(np.int32)
    if number == 0:
        nothing = np.zeros(0)
        return Blobs(nothing, nothing, nothing.astype(np.int64), nothing, labels)
    rows, columns = np.nonzero(labels)
    which = labels[rows, columns] - 1
    # A small floor keeps the centre defined where the residual is nowhere positive.
    weight = np.maximum(residual[rows, columns].astype(np.float64), 0) + 1e-3
    total = np.bincount(which, weight, number)
    score = np.zeros(number)
    np.maximum.at(score, which, probability[rows, columns])
    return Blobs(
        x=np.bincount(which, weight * columns, number) / total,
        y=np.bincount(which, weight * rows, number) / total,
        area=np.bincount(which, minlength=number),
        score=np.minimum(score, 1.0),
        label_map=labels,
    )
