"""Scores of a detector, or of masks that anything else made, on labelled images.

Protocols: ``native`` scores every image at its own size against its own mask. ``256`` and ``512`` first
bring the image to that many pixels square (bilinear, averaging where it shrinks) and the mask too
(nearest), as the literature does: figures of different protocols must not be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glint.choices import PROTOCOLS
from glint.data.datasets import LabelledImage
from glint.errors import InputError
from glint.files import known
from glint.metrics.decomposition import ImageEnergy, image_energy, score_decomposition
from glint.metrics.detection import ImageCounts, bootstrap_detection, count_image, score_detection
from glint.processing.inpaint import reach_of
from glint.runtime.pipeline.detector import Detector
from glint.types import Frame

THRESHOLDS = (0.01, 0.02, 0.05, *(round(0.1 * k, 1) for k in range(1, 10)), 0.95, 0.98, 0.99, 0.995, 0.999)
WORST_IMAGES = 8  # images that are kept to be looked at

Map = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is said of one image.

    Attributes:
        probability: of a target, ``[H, W]``.
        background, target: B and T in DN ``[H, W]``, or None from a method that has none.
    """

    probability: Map
    background: Map | None = None
    target: Map | None = None


Predict = Callable[[LabelledImage], Prediction]


@dataclass(frozen=True, eq=False)
class Examined:
    """One scored image: the sample in its protocol, the mask that was predicted, and its counts."""

    sample: LabelledImage
    predicted: NDArray[np.bool_]
    counts: ImageCounts

    @property
    def iou(self) -> float:
        """Intersection over union, percent; 100 if both masks are empty."""
        union = self.counts.predicted + self.counts.actual - self.counts.intersection
        return 100 * self.counts.intersection / union if union else 100.0


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that a set of images says of a detector.

    Attributes:
        result: figures, ready for JSON (unknown ones are None).
        worst: the images of least IoU, worst first.
    """

    result: dict[str, Any]
    worst: Sequence[Examined]


def detector_prediction(detector: Detector) -> Predict:
    """Predictions of a model."""

    def predict(sample: LabelledImage) -> Prediction:
        return Prediction(*detector.decompose(Frame(0, 0, sample.image, full_scale=sample.full_scale)))

    return predict


def evaluate_detection(
    predict: Predict,
    samples: Iterable[LabelledImage],
    *,
    threshold: float = 0.5,
    protocol: str = "native",
    legacy: bool = False,
    worst: int = WORST_IMAGES,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Score predictions.

    Args:
        predict: what is scored; a probability of another size than its image is brought to it (bilinear).
        samples: images with their masks.
        threshold: a pixel is predicted if its probability exceeds this.
        protocol: one of :data:`PROTOCOLS`.
        legacy: also report Pd and Fa of the greedy matching.
        worst: how many images to keep.
        progress: called with the number of images done.

    Raises:
        InputError: if the protocol is unknown.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    counts: list[ImageCounts] = []
    greedy: list[ImageCounts] = []
    energies: list[ImageEnergy] = []
    curve: dict[float, list[ImageCounts]] = {t: [] for t in THRESHOLDS}
    kept: list[Examined] = []
    graded = False  # whether any probability is neither 0 nor 1
    for done, original in enumerate(samples, start=1):
        sample = in_protocol(original, protocol)
        prediction = predict(sample)
        probability = resized(prediction.probability, sample.mask.shape)
        graded = graded or bool(((probability > 0) & (probability < 1)).any())
        mask = probability > threshold
        counts.append(count_image(mask, sample.mask))
        if legacy:
            greedy.append(count_image(mask, sample.mask, matching="legacy"))
        for level, row in curve.items():
            row.append(count_image(probability > level, sample.mask))
        whole = reach_of(sample.mask).all()  # no background is left to compare with
        if prediction.background is not None and prediction.target is not None and not whole:
            energies.append(image_energy(sample.image, sample.mask, prediction.background, prediction.target))
        kept = sorted([*kept, Examined(sample, mask, counts[-1])], key=lambda e: e.iou)[:worst]
        progress(done)
    result: dict[str, Any] = {"protocol": protocol, "threshold": threshold, **known(asdict(score_detection(counts)))}
    intervals = bootstrap_detection(counts)
    result["intervals"] = {name: list(known({"low": a, "high": b}).values()) for name, (a, b) in intervals.items()}
    if legacy:
        score = score_detection(greedy, matching="legacy")
        result["legacy"] = known({"pd": score.pd, "fa": score.fa})
    result["curve"] = [_point(level, row) for level, row in curve.items()] if graded else []
    if energies:
        result["decomposition"] = known(asdict(score_decomposition(energies)))
    result["worst"] = [{"name": e.sample.name, "iou": round(e.iou, 2)} for e in kept]
    return Evaluation(result, kept)


def _point(threshold: float, counts: Sequence[ImageCounts]) -> dict[str, Any]:
    score = score_detection(counts)
    return known({"threshold": threshold, "iou": score.iou, "niou": score.niou, "pd": score.pd, "fa": score.fa})


def in_protocol(sample: LabelledImage, protocol: str) -> LabelledImage:
    """The sample as a protocol shows it."""
    if protocol == "native":
        return sample
    side = int(protocol)
    mask = Image.fromarray(sample.mask.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
    image = resized(sample.image.astype(np.float32), (side, side)).astype(np.float32)
    full_scale = 255.0 if sample.image.dtype == np.uint8 else sample.full_scale
    return replace(sample, image=image, mask=np.asarray(mask) > 0, full_scale=full_scale)


def resized(values: Map, shape: tuple[int, ...]) -> Map:
    """Bilinear, averaging where it shrinks: ``[h, w]`` -> ``shape``."""
    if values.shape == shape:
        return values
    image = Image.fromarray(np.asarray(values, dtype=np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
