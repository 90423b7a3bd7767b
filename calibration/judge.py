"""The task's own score of a candidate, beside the float model's on the same data.

An unmixer is scored on fresh patches of the scene that it was trained on, and on those of the conditions
that ``glint parity`` shows: CSO-mAP on the grid and refined. A detector is scored on labelled images (IoU
and Pd): real ones, or simulated frames whose truth is where the targets' light is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from glint.calibration.samples import draw_scenes, scene_of
from glint.calibration.task_score import conditions_of, score_detector, score_unmixer, task_patches
from glint.cards import ModelCard
from glint.data.datasets import LabelledImage
from glint.optics import Psf
from glint.runtime.engines.onnxruntime import OnnxRuntimeEngine
from glint.simulation.patches import Patches, simulate_patches
from glint.simulation.scenes import simulate_scene

_MASK_SHARE = 0.1  # share of a target's radiance that a pixel of its mask holds
_SCENE_PATCHES_PER_CONDITION = 10  # patches of the own scene for one of each condition
_LEAST_CONDITION_PATCHES = 200  # patches; a score of fewer says nothing
_SCORES_THAT_MAY_RISE = ("pd",)  # a score that may rise
Scores = dict[str, float]


@dataclass(frozen=True, eq=False)
class Judge:
    """Scores candidates of one model on fixed data.

    Attributes:
        card: of the float model.
        patches: for an unmixer, by the name of their condition; "" is its own scene.
        images: for a detector.
        what: the data in words.
    """

    card: ModelCard
    patches: Mapping[str, Patches] = field(default_factory=dict)
    images: Sequence[LabelledImage] = ()
    what: str = ""

    @property
    def size(self) -> int:
        """Number of patches or images."""
        return sum(map(len, self.patches.values())) + len(self.images)

    def score(self, model: onnx.ModelProto, progress: Callable[[int], None] | None = None) -> Scores:
        """Percent by name: ``grid`` and ``refined``, also ``grid on n1`` and so on, or ``iou`` and ``pd``.

        ``progress`` is called with the number of patches or images done so far.

        Raises:
            ModelError: if ONNX Runtime cannot load the model.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "candidate.onnx"
            path.write_bytes(model.SerializeToString())
            with OnnxRuntimeEngine(path, threads=1) as engine:
                if not self.patches:
                    found = score_detector(engine, self.card, self.images, progress=progress)
                    return {"iou": found.iou, "pd": found.pd}
                stages = ("grid", "refined")
                scores = score_unmixer(engine, self.card, self.patches, stages=stages, progress=progress)
                return {
                    f"{stage} on {name}" if name else stage: score.cso_map
                    for name, by_stage in scores.items()
                    for stage, score in by_stage.items()
                }


def pairs_text(reference: Scores, scores: Scores) -> str:
    """Each score before and after, in words; of those by condition only the one that changed most."""
    pairs = {name: f"{name} {reference[name]:.2f} -> {scores[name]:.2f}" for name in reference}
    others = [name for name in reference if " on " in name]
    text = ", ".join(pair for name, pair in pairs.items() if name not in others)
    if others:
        text += f"; most changed: {pairs[max(others, key=lambda name: abs(scores[name] - reference[name]))]}"
    return text


def loss(reference: Mapping[str, float], scores: Mapping[str, float]) -> float:
    """Largest change of a score, points; a Pd that rises is none.

    Of the conditions, the mean change counts: a single one has few patches, of which one may make a tenth of a point.
    """
    changes: dict[str, list[float]] = {}
    for name in reference:
        kind = f"{name.partition(' on ')[0]} on all" if " on " in name else name
        changes.setdefault(kind, []).append(reference[name] - scores[name])
    means = {kind: float(np.mean(each)) for kind, each in changes.items()}
    # A NaN must not look like no change.
    return float(np.max([mean if kind in _SCORES_THAT_MAY_RISE else abs(mean) for kind, mean in means.items()]))


def patch_judge(card: ModelCard, number: int, seed: int) -> Judge:
    """A judge of an unmixer with fresh patches of its own scene, and a tenth as many of each condition."""
    patches = {"": simulate_patches(scene_of(card), number, np.random.default_rng(seed))}
    what = f"{number} simulated patches, seed {seed}"
    if (each := number // _SCENE_PATCHES_PER_CONDITION) >= _LEAST_CONDITION_PATCHES:
        patches |= task_patches(conditions_of(card), number=each, seed=seed)
        what += f", and {each} of each condition of the benchmark"
    return Judge(card, patches=patches, what=what)


def frame_judge(card: ModelCard, number: int, seed: int, bits: int | None = None) -> Judge:
    """A judge of a detector with simulated frames."""
    images = []
    for scene in draw_scenes(number, seed, bits):
        frame, truth = next(iter(simulate_scene(scene)))
        gain = 2.0 ** (scene.bits - 8)
        light = Psf(scene.sigma).render(truth.x, truth.y, truth.radiance / gain, frame.data.shape)
        images.append(LabelledImage(frame.name, frame.data, light > _MASK_SHARE * scene.radiance[0]))
    return Judge(card, images=images, what=f"{number} simulated frames, seed {seed}")
