"""What a network is worth to its task: the same data and the same scores for every precision.

``score_unmixer`` and ``score_detector`` take an engine and its card and go the runtime's own way.
They are called once per layer by a sensitivity analysis, so that the data are made once, before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from glint.cards import ModelCard
from glint.datasets import LabelledImage
from glint.errors import InputError
from glint.metrics.detection import DetectionScore, ImageCounts, count_image, score_detection
from glint.metrics.unmixing import UnmixingScore, score_unmixing
from glint.optics import Psf
from glint.patches import CONDITIONS, SENSOR_TRAINING, PatchConfig, Patches, simulate_patches
from glint.runtime.detector import Detector
from glint.runtime.engine import Engine
from glint.runtime.refine import RadiancePrior, prepare_refinement, refine, refine_config
from glint.runtime.unmixer import Unmixer
from glint.types import Frame, Targets

STAGES = ("grid", "network", "refined")  # of an unmixer's answer: on its grid, off it, fitted to the optics
TASK_CONDITIONS = ("float", "14bit", "8bit", "8sat", "n1", "n2", "n5")
ALL_CONDITIONS: dict[str, PatchConfig] = {**CONDITIONS, "sensor": SENSOR_TRAINING}
_CHUNK = 256  # patches between two signs of life


@dataclass(frozen=True, eq=False)
class UnmixerRun:
    """What an unmixer says of patches.

    Attributes:
        targets: for each of :data:`STAGES`, in patch pixels; ``blob`` is the number of the patch.
        seconds: spent on the network and on the refinement.
    """

    targets: dict[str, Targets]
    seconds: tuple[float, float]


def task_patches(
    conditions: Sequence[str] = TASK_CONDITIONS, *, number: int = 1000, seed: int = 1
) -> dict[str, Patches]:
    """``number`` simulated patches of each condition, by its name; a condition's do not depend on the others.

    Raises:
        InputError: if a condition is unknown.
    """
    unknown = [name for name in conditions if name not in ALL_CONDITIONS]
    if unknown:
        raise InputError(f"condition {unknown[0]!r} is unknown", hint=f"known: {', '.join(ALL_CONDITIONS)}")
    return {name: simulate_patches(ALL_CONDITIONS[name], number, np.random.default_rng(seed)) for name in conditions}


def run_unmixer(
    unmixer: Unmixer,
    patches: Patches,
    *,
    radiance_prior: RadiancePrior = "card",
    stages: Sequence[str] = STAGES,
    progress: Callable[[int], None] | None = None,
) -> UnmixerRun:
    """Unmix and refine.

    Args:
        unmixer: the network and its card.
        patches: with the level at which each is saturated.
        radiance_prior: for the refinement.
        stages: what is wanted; without ``refined`` nothing is fitted, which takes half of the time.
        progress: called with the number of patches done so far.

    Raises:
        InputError: if the patches are malformed.
    """
    config, psf = refine_config(unmixer.spec, radiance=radiance_prior), Psf(unmixer.spec.sigma)
    values = unmixer.check(patches.image)
    if "refined" in stages:
        prepare_refinement(psf)
    parts: dict[str, list[Targets]] = {stage: [] for stage in stages}
    seconds = np.zeros(2)
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        limit = patches.full_scale[start : start + _CHUNK, None, None]
        began = time.perf_counter()
        unmixed = unmixer(chunk, full_scale=limit)
        middle = time.perf_counter()
        found = {}
        if "refined" in parts:
            found["refined"] = refine(chunk, unmixed.candidates, psf, full_scale=limit, config=config)
        seconds += (middle - began, time.perf_counter() - middle)
        found.update(grid=unmixed.on_grid(), network=unmixed.targets())
        for stage, rows in parts.items():
            rows.append(Targets(**{**vars(found[stage]), "blob": found[stage].blob + start}))
        if progress is not None:
            progress(start + len(chunk))
    return UnmixerRun({stage: Targets.concatenate(rows) for stage, rows in parts.items()}, (seconds[0], seconds[1]))


def score_targets(targets: Targets, patches: Patches) -> UnmixingScore:
    """CSO-mAP and the rest of one stage."""
    return score_unmixing(
        targets.blob, targets.x, targets.y, targets.radiance, targets.score,
        truth_x=patches.x, truth_y=patches.y, truth_radiance=patches.radiance,
    )  # fmt: skip


def score_unmixer(
    engine: Engine,
    card: ModelCard,
    sets: Mapping[str, Patches],
    *,
    stages: Sequence[str] = STAGES,
    radiance_prior: RadiancePrior = "card",
) -> dict[str, dict[str, UnmixingScore]]:
    """Scores of an unmixer: by the name of the set (see :func:`task_patches`), then by stage.

    Raises:
        InputError: if the patches do not fit the network.
        EngineError: if the engine fails.
    """
    unmixer = Unmixer(engine, card)
    scores = {}
    for name, patches in sets.items():
        run = run_unmixer(unmixer, patches, radiance_prior=radiance_prior, stages=stages)
        scores[name] = {stage: score_targets(targets, patches) for stage, targets in run.targets.items()}
    return scores


def count_detector(
    detector: Detector,
    samples: Iterable[LabelledImage],
    *,
    matching: str = "one-to-one",
    progress: Callable[[int], None] | None = None,
) -> list[ImageCounts]:
    """What each labelled image adds to a detector's scores, at the image's own size."""
    counts = []
    for i, sample in enumerate(samples):
        mask = detector(Frame(i, 0, sample.image, full_scale=sample.full_scale)).probability > detector.spec.threshold
        counts.append(count_image(mask, sample.mask, matching=matching))
        if progress is not None:
            progress(i + 1)
    return counts


def score_detector(
    engine: Engine, card: ModelCard, samples: Iterable[LabelledImage], *, matching: str = "one-to-one"
) -> DetectionScore:
    """IoU, nIoU, F1, Pd and Fa of a detector on labelled images (``glint.datasets.labelled_images``).

    Raises:
        EngineError: if the engine fails.
    """
    return score_detection(count_detector(Detector(engine, card), samples, matching=matching), matching=matching)
