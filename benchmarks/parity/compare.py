"""Two engines on the same data: errors of their tensors, differences of their scores, and the worst cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.parity.data import FrameSet, PatchSets, patches_of
from glint.benchmarks.parity.score_difference import Difference, compare_detection, compare_unmixing, from_reference
from glint.benchmarks.parity.sides import Side
from glint.benchmarks.parity.tensor_error import TensorError
from glint.cards import ModelCard
from glint.errors import InputError
from glint.metrics.detection import count_image
from glint.metrics.matching import match_points
from glint.runtime.engines.base import Arrays
from glint.runtime.pipeline.detector import Detector
from glint.runtime.unmixing.unmix import STAGES, run_unmixer
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.patches import Patches
from glint.types import Frame, Targets

_PATCHES_PER_BATCH = 256  # patches per batch; an unmixer runs that many in one call
_WORST_CASES = 6
_PAIRS_PER_BATCH = 100  # pairs of values kept per batch and output
_MOST_PAIRS = 2000  # pairs kept per output
_CLOSE_UP_PX = 5  # px; side of what is shown of a patch
_VIEW_PX = 48  # px; side of what is shown of a frame
_KEPT_ROWS = 32  # rows of the first batch that are kept for the comparison of layers


@dataclass(frozen=True, eq=False)
class WorstCase:
    """Where the two differ.

    Attributes:
        badness: by which cases are ordered.
        title: which patch or frame, and how they differ.
        image: what both saw, ``[H, W]``, DN.
        outputs: of reference and candidate, ``[H, W]`` each, of the main output.
        output: its name.
        targets: what was found and, if it is known, what is there: x and y in pixels of ``image`` by name.
    """

    badness: float
    title: str
    image: NDArray[Any]
    outputs: tuple[NDArray[Any], NDArray[Any]]
    output: str
    targets: dict[str, tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=dict)


@dataclass(eq=False)
class Comparison:
    """All that is found out.

    Attributes:
        errors: by output.
        sample: some pairs of values by output, ``[M, 2]``.
        differences: of the scores.
        moved: by data, how far a patch's refined targets are apart at most, px; infinite if their numbers differ.
        cases: the worst ones first.
        inputs: of the network, a few rows of the first batch.
        rng: draws the sample.
    """

    errors: dict[str, TensorError] = field(default_factory=dict)
    sample: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    moved: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    cases: list[WorstCase] = field(default_factory=list)
    inputs: Arrays = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, reference: Side, candidate: Side) -> None:
        """Compare what both said in their last call."""
        if not self.inputs:
            self.inputs = {name: array[:_KEPT_ROWS] for name, array in reference.engine.given.items()}
        for name, expected in reference.engine.said.items():
            actual = candidate.engine.said[name]
            if expected.shape != actual.shape:
                raise InputError(f"output {name!r} has shape {expected.shape} and {actual.shape}")
            self.errors.setdefault(name, TensorError()).add(expected, actual)
            kept = self.sample.setdefault(name, [])
            if len(kept) * _PAIRS_PER_BATCH < _MOST_PAIRS and expected.size:
                at = self._choose(expected.ravel(), actual.ravel())
                kept.append(np.column_stack([expected.ravel()[at], actual.ravel()[at]]).astype(np.float64))

    def _choose(self, expected: NDArray[Any], actual: NDArray[Any]) -> NDArray[np.int64]:
        """Some values at random, as many large ones (most are near zero), and the one with the largest error."""
        half = _PAIRS_PER_BATCH // 2
        large = np.argsort(-np.abs(expected))[: len(expected) // 50 + 1]
        return np.array(
            [
                np.abs(actual - expected).argmax(),
                *self.rng.integers(0, len(expected), half - 1),
                *self.rng.choice(large, half),
            ]
        )

    def keep(self, case: WorstCase) -> None:
        """Keep a case if it is among the worst."""
        self.cases = sorted([*self.cases, case], key=lambda c: -c.badness)[:_WORST_CASES]


def compare_unmixers(
    pair: tuple[Side, Side], card: ModelCard, data: PatchSets, *, progress: Callable[[int], None]
) -> Comparison:
    """Compare two unmixers; without labels, the reference's refined targets are the truth.

    Args:
        pair: reference and candidate.
        card: how both are read.
        data: the patches.
        progress: called with the number of patches done.

    Raises:
        InputError: if the patches do not fit the networks, or there are no targets in them.
        NotFiniteError: if one of them computes NaN.
    """
    result, done = Comparison(), 0
    unmixers = [Unmixer(side.engine, card) for side in pair]
    for name, patches in data.sets.items():
        parts: list[dict[str, list[Targets]]] = [{stage: [] for stage in STAGES} for _ in pair]
        moved = [np.zeros(0)]
        for start in range(0, len(patches), _PATCHES_PER_BATCH):
            chunk = patches_of(patches, slice(start, start + _PATCHES_PER_BATCH))
            runs = [run_unmixer(unmixer, chunk).targets for unmixer in unmixers]
            result.add(*pair)
            moved.append(_keep_patches(result, pair, f"{name}, patch", start, chunk, runs))
            for side, run in zip(parts, runs):
                for stage, targets in run.items():
                    side[stage].append(replace(targets, blob=targets.blob + start))
            progress(done + start + len(chunk))
        done += len(patches)
        result.moved[name] = np.concatenate(moved)
        whole = [{stage: Targets.concatenate(found) for stage, found in side.items()} for side in parts]
        truth = patches if data.labelled else from_reference(patches, whole[0]["refined"])
        if not truth.radiance.any():
            raise _nothing_to_judge(name, data.labelled)
        result.differences += compare_unmixing(name, truth, *whole)
    return result


def _keep_patches(
    result: Comparison, pair: tuple[Side, Side], what: str, start: int, patches: Patches, runs: list[dict[str, Targets]]
) -> NDArray[np.float64]:
    """Keep the patches of a batch whose refined targets differ most; returns how far those of each moved."""
    output = next(iter(pair[0].engine.said))
    maps = [side.engine.said[output].astype(np.float64) for side in pair]
    changed = np.abs(maps[1] - maps[0]).reshape(len(maps[0]), -1).max(axis=1) / max(np.abs(maps[0]).max(), 1e-30)
    both = [[run["refined"].select(run["refined"].blob == i) for run in runs] for i in range(len(patches))]
    moved = np.array([_moved(*targets) for targets in both], dtype=np.float64)
    # Another number of targets is worse than any movement; equal cases are ordered by the map.
    badness = np.where(np.isinf(moved), 1e3, moved) + 1e-3 * changed
    for worst in np.argsort(-badness)[:_WORST_CASES].tolist():
        one, two = both[worst]
        same = len(one) == len(two)
        change = f"targets moved by {moved[worst]:.2g} px" if same else f"{len(one)} and {len(two)} targets"
        image, targets = _close_up(patches, worst, one, two)
        result.keep(
            WorstCase(
                float(badness[worst]), f"{what} {start + worst}: {change}", image,
                (maps[0][worst, 0], maps[1][worst, 0]), output, targets,
            )
        )  # fmt: skip
    return moved


def _close_up(
    patches: Patches, number: int, one: Targets, two: Targets
) -> tuple[NDArray[Any], dict[str, tuple[NDArray[Any], NDArray[Any]]]]:
    """The pixels of a patch around its targets, and those of both sides and of the truth."""
    image, there = patches.image[number], patches.radiance[number] > 0
    targets = {"reference": (one.x, one.y), "candidate": (two.x, two.y)}
    if there.any():
        targets["truth"] = (patches.x[number, there], patches.y[number, there])
    first = [0, 0]  # column and row
    for axis in (0, 1):
        found = np.concatenate([xy[axis] for xy in targets.values()])
        middle = found.mean() if len(found) else (image.shape[1 - axis] - 1) / 2
        first[axis] = int(
            np.clip(np.round(middle) - _CLOSE_UP_PX // 2, 0, max(image.shape[1 - axis] - _CLOSE_UP_PX, 0))
        )
    left, top = first
    shifted = {name: (x - left, y - top) for name, (x, y) in targets.items()}
    return image[top : top + _CLOSE_UP_PX, left : left + _CLOSE_UP_PX], shifted


def _moved(one: Targets, two: Targets) -> float:
    """Largest distance between the targets of two lists, infinite if their numbers differ."""
    if len(one) != len(two):
        return float("inf")
    distance = np.hypot(one.x[:, None] - two.x, one.y[:, None] - two.y)
    first, second = match_points(distance, float("inf")) if len(one) else (np.zeros(0, dtype=int),) * 2
    return float(distance[first, second].max(initial=0.0))


def compare_detectors(
    pair: tuple[Side, Side], card: ModelCard, data: FrameSet, *, progress: Callable[[int], None]
) -> Comparison:
    """Compare two detectors; without labels, the reference's masks are the truth; arguments as above.

    Raises:
        InputError: if there are no frames or no targets in them, or they do not fit the networks.
        NotFiniteError: if one of the networks computes NaN.
    """
    result = Comparison()
    detectors = [Detector(side.engine, card) for side in pair]
    counts: list[list[Any]] = [[], []]
    for index, item in enumerate(data.source):
        found = [detector(Frame(index, 0, item.image)) for detector in detectors]
        result.add(*pair)
        masks = [detection.probability > detectors[0].spec.threshold for detection in found]
        truth = masks[0] if item.mask is None else item.mask
        for side, mask in zip(counts, masks):
            side.append(count_image(mask, truth))
        _keep_frame(result, item.name, item.image, [detection.probability for detection in found], masks)
        progress(index + 1)
    if not counts[0]:
        raise InputError(f"{data.name} holds no frames", hint="name a folder with images, or leave --data away")
    if not any(count.targets for count in counts[0]):
        raise _nothing_to_judge(data.name, data.labelled)
    result.differences = compare_detection(data.name, *counts)
    return result


def _nothing_to_judge(name: str, labelled: bool) -> InputError:
    whose = "hold no targets" if labelled else "hold no targets that the reference finds"
    return InputError(f"the data {name} {whose}: no score can be compared", hint="--data with targets in them")


def _keep_frame(
    result: Comparison, name: str, image: NDArray[Any], maps: list[NDArray[Any]], masks: list[NDArray[Any]]
) -> None:
    """What is around the pixel of a frame whose probability differs most."""
    error = np.abs(maps[1].astype(np.float64) - maps[0])
    y, x = np.unravel_index(int(error.argmax()), error.shape)
    top, left = (int(np.clip(c - _VIEW_PX // 2, 0, max(n - _VIEW_PX, 0))) for c, n in zip((y, x), error.shape))
    view = np.s_[top : top + _VIEW_PX, left : left + _VIEW_PX]
    changed = int((masks[0] != masks[1]).sum())
    title = f"frame {name} at x {x}, y {y}: probability changed by {error.max():.2g}; {changed} pixels of the mask"
    result.keep(WorstCase(float(error.max()), title, image[view], (maps[0][view], maps[1][view]), "probability"))
