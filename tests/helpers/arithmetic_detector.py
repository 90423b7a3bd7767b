"""Detectors for tests: plain arithmetic in the place of a network."""

import numpy as np

from glint.cards import DetectorSpec, ModelCard, TensorSpec
from glint.processing.normalise import Normaliser
from glint.runtime.engines.base import Engine
from glint.runtime.pipeline.detector import Detector

SHAPE = (1, 1, -1, -1)
OUTPUTS = ("probability", "background", "target")


class Arithmetic(Engine):
    """An engine that calls ``rule(frame [H, W]) -> (probability, background, target)``."""

    name = "arithmetic"

    def __init__(self, rule):
        self.rule = rule
        self.inputs = (TensorSpec("frame", "float32", SHAPE),)
        self.outputs = tuple(TensorSpec(name, "float32", SHAPE) for name in OUTPUTS)

    def _infer(self, arrays):
        parts = self.rule(arrays["frame"][0, 0])
        return {name: np.asarray(part, np.float32)[None, None] for name, part in zip(OUTPUTS, parts)}


def detector(rule, *, threshold=0.5, negatives=()):
    """A detector that sees frames in DN."""
    engine = Arithmetic(rule)
    card = ModelCard(
        name="arithmetic", task="detect", precision="fp32", network="none", config={}, file="", sha256="",
        inputs=engine.inputs, outputs=engine.outputs, normaliser=Normaliser("fixed", 1.0),
        detector=DetectorSpec(threshold=threshold), training={"data": {"negatives": list(negatives)}},
    )  # fmt: skip
    return Detector(engine, card)


def above(level):
    """Everything above a level is target, the background is the level."""

    def rule(frame):
        target = np.maximum(frame - level, 0)
        return (target > 0.5).astype(np.float32), np.minimum(frame, level), target

    return rule
