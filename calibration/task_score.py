"""What a network is worth to its task: the same data and the same scores for every precision.

``score_unmixer`` and ``score_detector`` take an engine and its card and go the runtime's own way.
They are called once per layer by a sensitivity analysis, so that the data are made once, before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from glint.cards import ModelCard
from glint.data.datasets import LabelledImage
from glint.errors import InputError
from glint.metrics.detection import DetectionScore, count_image, score_detection
from glint.metrics.unmixing import UnmixingScore, score_unmixing
from glint.runtime.engines.base import Engine
from glint.runtime.pipeline.detector import Detector
from glint.runtime.unmixing.unmix import STAGES, run_unmixer
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.patches import CONDITIONS, SENSOR_TRAINING, PatchConfig, Patches, simulate_patches
from glint.types import Frame, Targets

TASK_CONDITIONS = ("float", "14bit", "8bit", "8sat", "n1", "n2", "n5")
ALL_CONDITIONS: dict[str, PatchConfig] = {**CONDITIONS, "sensor": SENSOR_TRAINING}


def conditions_of(card: ModelCard) -> tuple[str, ...]:
    """The conditions that an unmixer is compared in: all of the benchmark, ``sensor`` for one of no known radiance."""
    unknown = card.unmixer is not None and card.unmixer.radiance_prior is None
    return (*TASK_CONDITIONS, *(["sensor"] if unknown else []))


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
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[str, UnmixingScore]]:
    """Scores of an unmixer: by the name of the set (see :func:`task_patches`), then by stage.

    ``progress`` is called with the number of patches done so far, of all sets.

    Raises:
        InputError: if the patches do not fit the network.
        EngineError: if the engine fails.
    """
    unmixer = Unmixer(engine, card)
    scores, before = {}, 0
    for name, patches in sets.items():
        told = None if progress is None else partial(_add, progress, before)
        run = run_unmixer(unmixer, patches, stages=stages, progress=told)
        before += len(patches)
        scores[name] = {stage: score_targets(targets, patches) for stage, targets in run.targets.items()}
    return scores


def _add(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def score_detector(
    engine: Engine,
    card: ModelCard,
    samples: Iterable[LabelledImage],
    *,
    progress: Callable[[int], None] | None = None,
) -> DetectionScore:
    """IoU, nIoU, F1, Pd and Fa of a detector on labelled images (``glint.data.datasets.labelled_images``).

    Raises:
        EngineError: if the engine fails.
    """
    detector, counts = Detector(engine, card), []
    for i, sample in enumerate(samples):
        mask = detector(Frame(i, 0, sample.image, full_scale=sample.full_scale)).probability > detector.spec.threshold
        counts.append(count_image(mask, sample.mask))
        if progress is not None:
            progress(i + 1)
    return score_detection(counts)
