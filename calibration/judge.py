"""The task's own score of a candidate, beside the float model's on the same data.

An unmixer is scored on fresh patches of the scene that it was trained on: CSO-mAP on the grid and
refined. A detector is scored on labelled images (IoU and Pd): real ones, or simulated frames whose
truth is where the targets' light is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from glint.calibration.samples import draw_scenes, scene_of
from glint.calibration.task_score import score_detector, score_unmixer
from glint.cards import ModelCard
from glint.data.datasets import LabelledImage
from glint.optics import Psf
from glint.runtime.engines.onnxruntime import OnnxRuntimeEngine
from glint.simulation.patches import Patches, simulate_patches
from glint.simulation.scenes import simulate_scene

_MASK_SHARE = 0.1  # share of a target's radiance that a pixel of its mask holds
_ONE_SIDED = ("pd",)  # a score that may rise
Scores = dict[str, float]


@dataclass(frozen=True, eq=False)
class Judge:
    """Scores candidates of one model on fixed data.

    Attributes:
        card: of the float model.
        patches: for an unmixer.
        images: for a detector.
        what: the data in words.
    """

    card: ModelCard
    patches: Patches | None = None
    images: Sequence[LabelledImage] = ()
    what: str = ""

    def score(self, model: onnx.ModelProto) -> Scores:
        """Percent by name: ``grid`` and ``refined``, or ``iou`` and ``pd``.

        Raises:
            ModelError: if ONNX Runtime cannot load the model.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "candidate.onnx"
            path.write_bytes(model.SerializeToString())
            with OnnxRuntimeEngine(path, threads=1) as engine:
                if self.patches is None:
                    found = score_detector(engine, self.card, self.images)
                    return {"iou": found.iou, "pd": found.pd}
                stages = ("grid", "refined")
                scores = score_unmixer(engine, self.card, {"own": self.patches}, stages=stages)["own"]
                return {stage: scores[stage].cso_map for stage in stages}


def loss(reference: Mapping[str, float], scores: Mapping[str, float]) -> float:
    """Largest change of a score, points; a Pd that rises is none."""
    changes = [reference[k] - scores[k] if k in _ONE_SIDED else abs(reference[k] - scores[k]) for k in reference]
    # A NaN must not look like no change.
    return float(np.max(changes))


def patch_judge(card: ModelCard, number: int, seed: int) -> Judge:
    """A judge of an unmixer with fresh patches."""
    patches = simulate_patches(scene_of(card), number, np.random.default_rng(seed))
    return Judge(card, patches=patches, what=f"{number} simulated patches, seed {seed}")


def frame_judge(card: ModelCard, number: int, seed: int, bits: int | None = None) -> Judge:
    """A judge of a detector with simulated frames."""
    images = []
    for scene in draw_scenes(number, seed, bits):
        frame, truth = next(iter(simulate_scene(scene)))
        gain = 2.0 ** (scene.bits - 8)
        light = Psf(scene.sigma).render(truth.x, truth.y, truth.radiance / gain, frame.data.shape)
        images.append(LabelledImage(frame.name, frame.data, light > _MASK_SHARE * scene.radiance[0]))
    return Judge(card, images=images, what=f"{number} simulated frames, seed {seed}")


def image_judge(card: ModelCard, images: Sequence[LabelledImage], what: str) -> Judge:
    """A judge of a detector with labelled images."""
    return Judge(card, images=images, what=what)
