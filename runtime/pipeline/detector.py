"""LSNet on the device: a frame in, blobs and the background under them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.cards import DEFAULT_DETECTOR, DetectorSpec, ModelCard
from glint.errors import InputError, ModelError
from glint.processing.cfar import against_clutter
from glint.processing.connected import describe_groups, number_connected, pixels_above, relabelled
from glint.processing.crop import crop_windows
from glint.processing.extent import confine
from glint.processing.normalise import Normalised
from glint.processing.point_evidence import with_point_evidence
from glint.runtime.engines.base import Engine
from glint.runtime.engines.choose import find_model, open_engine
from glint.runtime.pipeline.tiling import Maps, in_tiles
from glint.types import Blobs, Frame, FrameSize

Map = NDArray[np.float32]
MOST_CANDIDATES = 64  # per frame
_SLACK = 1e-3  # by which a rounded probability may leave 0 to 1


@dataclass(frozen=True, eq=False)
class Detection:
    """What LSNet says of one frame.

    Attributes:
        blobs: connected spots, with their label map.
        probability: of a target, ``float32 [H, W]``; where that is not above the threshold, it may be 0.
        level: the frame, ``float32 [H, W]``, in the units of the network.
        background: the same of what is behind the targets; None: 0.
        scale: DN per unit.
        candidates: spots that are too uncertain to be blobs, for a tracker; None if nobody asked for them.
        threshold: probability above which a spot is a blob.
    """

    blobs: Blobs
    probability: NDArray[np.float32]
    level: NDArray[np.float32]
    background: NDArray[np.float32] | None = None
    scale: float = 1.0
    candidates: Blobs | None = None
    threshold: float = 0.5

    @cached_property
    def residual(self) -> NDArray[np.float32]:
        """Frame minus background, DN, ``float32 [H, W]``; made when it is asked for: few ask for all of it."""
        return self._difference(self.level, self.background)

    @property
    def mask(self) -> NDArray[np.uint8]:
        """Where blobs are: ``uint8 [H, W]``, 255 there and 0 elsewhere."""
        labels = self.blobs.label_map
        if labels is None:
            raise InputError(
                "Detection.mask: these blobs have no label map",
                hint="a detector that is called with a frame gives blobs with one",
            )
        return np.where(labels > 0, 255, 0).astype(np.uint8)

    def residual_windows(self, left: NDArray[np.int64], top: NDArray[np.int64], size: int) -> NDArray[np.float32]:
        """The residual in some windows (see ``crop.crop_windows``), ``float32 [N, size, size]``."""
        cut = [None if m is None else crop_windows(m, left, top, size) for m in (self.level, self.background)]
        return self._difference(*cut)

    def _difference(self, level: Any, background: Any) -> NDArray[np.float32]:
        return (level if background is None else level - background) * np.float32(self.scale)

    def placed(self, left: int, top: int, shape: tuple[int, int]) -> Detection:
        """What was found in a part of a frame, in the pixels of the whole frame of ``shape``; 0 elsewhere."""

        def whole(part: NDArray[Any]) -> NDArray[Any]:
            full = np.zeros(shape, dtype=part.dtype)
            full[top : top + part.shape[0], left : left + part.shape[1]] = part
            return full

        def moved(blobs: Blobs) -> Blobs:
            labels = None if blobs.label_map is None else whole(blobs.label_map)
            return replace(blobs, x=blobs.x + left, y=blobs.y + top, label_map=labels)

        background = None if self.background is None else whole(self.background)
        candidates = None if self.candidates is None else moved(self.candidates)
        blobs, maps = moved(self.blobs), (whole(self.probability), whole(self.level), background)
        return Detection(blobs, *maps, self.scale, candidates, self.threshold)


class Detector:
    """A detection model and its card.

    Args:
        engine: runs the model. Where it takes one size only, smaller frames are padded and larger ones tiled.
        card: says how frames go in and what a target is.
        tile: size above which a frame is tiled (rounded up to what the network takes), or None.
    """

    def __init__(self, engine: Engine, card: ModelCard, *, tile: FrameSize | None = None) -> None:
        self.engine, self.card, self.tile = engine, card, tile
        self.spec: DetectorSpec = card.detector or DetectorSpec()
        self._seen: set[tuple[int, ...]] = set()  # shapes of which the outputs were checked

    @staticmethod
    def open(
        model: str | Path = DEFAULT_DETECTOR,
        *,
        engine: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        tile: FrameSize | None = None,
    ) -> Detector:
        """Load a detector by name or card.

        Raises:
            ModelError: if the model is missing, corrupt or no detector.
            EngineError: if the engine cannot be used.
        """
        card, path = find_model(model, engine=engine, precision=precision, task="detect")
        return Detector(open_engine(card, path, engine=engine, threads=threads), card, tile=tile)

    def __call__(self, frame: Frame, *, candidates_above: float | None = None) -> Detection:
        """Detect the targets of one frame of any size.

        Args:
            frame: as the sensor gave it.
            candidates_above: probability from which on other spots are ``candidates``; None: nobody asks for them.
        """
        normalised = self.card.normaliser.apply(frame.data, unit=frame.depth.divisor)
        raw, background = self._maps(normalised.value, "probability", "background")
        raw = self._weighed(raw, frame, normalised)
        scale = normalised.scale[0, 0]
        probability = self._confined(raw, frame, normalised, background, self.spec.threshold)

        def residual_at(pixels: Any) -> NDArray[np.float32]:
            return (normalised.value[pixels] - background[pixels]) * scale

        blobs = find_blobs(probability, residual_at, self.spec.threshold)
        others = None
        if candidates_above is not None:
            others = find_candidates(raw, residual_at, candidates_above, self.spec.threshold, blobs)
        return Detection(blobs, probability, normalised.value, background, float(scale), others, self.spec.threshold)

    def decompose(self, frame: Frame) -> Maps:
        """Target probability, background and targets of one frame, the last two in DN: ``float32 [H, W]``."""
        normalised = self.card.normaliser.apply(frame.data, unit=frame.depth.divisor)
        probability, background, target = self._maps(normalised.value, "probability", "background", "target")
        probability = self._weighed(probability, frame, normalised)
        probability = self._confined(probability, frame, normalised, background, 0.0)
        return probability, background * normalised.scale + normalised.offset, target * normalised.scale

    def prepare(self, size: FrameSize) -> None:
        """Get the engine ready for frames of a size, so that the first one does not wait for it."""
        self.engine.prepare(FrameSize(self._size(1, size.width), self._size(0, size.height)))

    def _weighed(self, probability: Map, frame: Frame, normalised: Normalised) -> Map:
        """The network's word beside the clutter of the frame, and beside what sharp points say."""
        if self.spec.cfar is not None:
            probability = against_clutter(probability, self.spec.cfar)
        if self.spec.points is not None:
            rounding = frame.depth.unit / normalised.scale.item()
            probability = with_point_evidence(probability, normalised.value, self.spec.points, rounding)
        return probability

    def _confined(self, probability: Map, frame: Frame, normalised: Normalised, background: Map, least: float) -> Map:
        extent = self.spec.extent
        if extent is None:
            return probability
        scale = normalised.scale.item()
        return confine(probability, normalised.value, background, scale, extent, depth=frame.depth, least=least)

    def _maps(self, value: NDArray[np.float32], *names: str) -> Maps:
        """Outputs of the network for a normalised frame ``[H, W]``."""
        height, width = value.shape
        size = [self._size(axis, length) for axis, length in enumerate((height, width))]
        below = [max(0, tile - length) for tile, length in zip(size, (height, width))]
        if any(below):
            value = np.pad(value, ((0, below[0]), (0, below[1])), mode="edge")

        def infer(tile: NDArray[np.float32]) -> Maps:
            outputs = self.engine.infer(*names, frame=tile[None, None])
            if tile.shape not in self._seen:
                self._check_outputs(outputs, names, tile.shape)
                self._seen.add(tile.shape)
            return tuple(outputs[name][0, 0] for name in names)

        maps = infer(value) if value.shape == tuple(size) else in_tiles(value, (size[0], size[1]), infer)
        return tuple(np.ascontiguousarray(m[:height, :width]) for m in maps)

    def _check_outputs(self, outputs: Mapping[str, NDArray[Any]], names: Sequence[str], shape: tuple[int, ...]) -> None:
        """Maps of the frame's size, and probabilities: what else a network gives would be taken for an answer.

        Raises:
            ModelError: if they are something else.
        """
        for name in names:
            values = outputs[name]
            if values.dtype != np.float32 or values.shape != (1, 1, *shape):
                raise ModelError(
                    f"the detector {self.card.name} gives {name} {values.dtype} {list(values.shape)}; expected float32 "
                    f"{[1, 1, *shape]} for a frame of {shape[1]}x{shape[0]}",
                    hint="docs/export.md tells what the tensors of a detector are",
                )
        values = outputs.get("probability", np.zeros(1))
        if np.isfinite(values).all() and not (values.min() >= -_SLACK and values.max() <= 1 + _SLACK):
            raise ModelError(
                f"the detector {self.card.name} gives probabilities from {values.min():g} to {values.max():g}; "
                "expected 0 to 1",
                hint="a sigmoid belongs behind its logits",
            )

    def _size(self, axis: int, length: int) -> int:
        """How many pixels the network is given at once along an axis of so many."""
        fixed = self.engine.inputs[0].shape[2 + axis]
        if fixed > 0:
            return fixed
        multiple = self.spec.multiple
        if self.tile is not None:
            length = min(length, self.tile.shape[axis])
        # At least two tiles of the coarsest level per side: its smallest line to scan.
        return max(2, -(-length // multiple)) * multiple


def find_blobs(
    probability: NDArray[np.float32], residual_at: Callable[[Any], NDArray[np.float32]], threshold: float
) -> Blobs:
    """8-connected spots above a probability, with their flux-weighted centres.

    Args:
        probability: ``float32 [H, W]``.
        residual_at: gives the residual of some pixels by their rows and columns.
        threshold: a pixel belongs to a spot if its probability exceeds this.
    """
    labels = np.zeros(probability.shape, dtype=np.int32)
    rows, columns = pixels_above(probability, threshold)
    number = number_connected(rows, columns, labels)
    # A small floor keeps the centre defined where the residual is nowhere positive.
    weight = np.maximum(residual_at((rows, columns)).astype(np.float64), 0) + 1e-3
    (x, y, score), area, box = describe_groups(rows, columns, labels, weight, probability, number)
    blobs = Blobs(x=x, y=y, area=area, score=np.minimum(score, 1.0), label_map=labels)
    vars(blobs)["boxes"] = box  # else the whole label map is searched when somebody asks
    return blobs


def find_candidates(
    probability: NDArray[np.float32],
    residual_at: Callable[[Any], NDArray[np.float32]],
    least: float,
    threshold: float,
    blobs: Blobs,
) -> Blobs:
    """8-connected spots above a low probability that touch no blob, the :data:`MOST_CANDIDATES` most probable ones.

    Args:
        probability, residual_at: as :func:`find_blobs`, before targets were confined.
        least: a pixel belongs to a candidate if its probability exceeds this.
        threshold: of the blobs; no candidate scores more.
        blobs: of the same frame.
    """
    every = find_blobs(probability, residual_at, least)
    assert every.label_map is not None  # noqa: S101  (find_blobs makes one)
    free = np.ones(len(every) + 1, dtype=bool)
    if blobs.label_map is not None:
        free[every.label_map.reshape(-1)[np.flatnonzero(blobs.label_map != 0)]] = False
    kept = np.flatnonzero(free[1:])
    kept = np.sort(kept[np.argsort(-every.score[kept], kind="stable")[:MOST_CANDIDATES]])
    number = np.zeros(len(every) + 1, dtype=np.int32)
    number[kept + 1] = np.arange(1, len(kept) + 1)
    return Blobs(
        x=every.x[kept], y=every.y[kept], area=every.area[kept],
        score=np.minimum(every.score[kept], threshold), label_map=relabelled(every.label_map, number),
    )  # fmt: skip
