"""Frames through the whole pipeline before anybody waits for one: what is compiled for this machine then is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER, TensorSpec, load_card
from glint.runtime.engines.base import Arrays, EngineProxy
from glint.runtime.pipeline.continued import continued
from glint.runtime.pipeline.cues import with_moving
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.follow import CANDIDATES_ABOVE, Follower
from glint.runtime.pipeline.pipeline import Pipeline
from glint.runtime.unmixing.common_width import common_width
from glint.runtime.unmixing.patch_unmixing import windows_of_patches
from glint.runtime.unmixing.shapes import measure_shapes
from glint.runtime.unmixing.unmixer import Unmixer
from glint.types import FRAME_DTYPES, Blobs, Frame

_SIDE_PX = 50  # pixels; not a multiple of what the detector takes
_SPOT = slice(20, 22)


def rehearse() -> None:
    """Detect, unmix, refine and track a spot in frames of every type; only the networks are stood in for."""
    (detector, _), (unmixer, _) = load_card(DEFAULT_DETECTOR), load_card(DEFAULT_UNMIXER)
    detects = EngineProxy(detector, partial(_detect, detector.outputs))
    unmixes = EngineProxy(unmixer, partial(one_in_each, unmixer.outputs))
    pipeline = Pipeline(Detector(detects, detector), Unmixer(unmixes, unmixer), candidates_above=CANDIDATES_ABOVE)
    follow = Follower()
    for index, dtype in enumerate(FRAME_DTYPES):
        data = np.full((_SIDE_PX, _SIDE_PX), 20, dtype=dtype)
        data[_SPOT, _SPOT] = 200
        frame = Frame(index, index * 10**8, data)
        follow(pipeline(frame, earlier=follow.earlier))
    new = np.array([[_SIDE_PX - 9.0, _SIDE_PX - 9.0, 1.0]])
    with_moving(pipeline.detector(frame, candidates_above=CANDIDATES_ABOVE), new, data)
    # What tracks ask of faint candidates, what only a blob without a target asks, and what a stream asks in the end.
    side = pipeline.unmixer.spec.patch
    pipeline.unmixer(np.ones((1, side, side), np.float32)).candidates.count()
    windows = windows_of_patches(np.eye(side)[None], None, 1.0)
    common_width(windows, measure_shapes(windows))
    rough = Frame(0, 0, np.cumsum(np.indices((_SIDE_PX, _SIDE_PX)).sum(axis=0) % 7, axis=1).astype(np.float32))
    middle = np.full(1, _SIDE_PX / 2)
    spot = Blobs(middle, middle, np.ones(1, dtype=np.int64), np.ones(1))
    continued(rough, spot, np.full(1, 0.1), pipeline.unmixer.spec.sigma, np.zeros(0, dtype=np.int64))


def _detect(outputs: Sequence[TensorSpec], arrays: Arrays) -> Arrays:
    """A target is what is bright."""
    bright = (arrays["frame"] > 1).astype(np.float32)
    return {out.name: bright if out.name == "probability" else 0 * bright for out in outputs}


def one_in_each(outputs: Sequence[TensorSpec], arrays: Arrays) -> Arrays:
    """One target is in the middle of every patch."""
    answers = {}
    for out in outputs:
        channels, height, width = out.shape[1:]
        answers[out.name] = np.full((len(arrays["patch"]), channels, height, width), 0.3, dtype=np.float32)
        if out.name == "presence":
            answers[out.name][...] = 0
            answers[out.name][..., height // 2, width // 2] = 1
    return answers
