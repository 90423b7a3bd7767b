"""What follows the targets of a stream, by its options."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from glint.errors import InputError
from glint.runtime.pipeline.follow import Follower
from glint.runtime.pipeline.pipeline import Pipeline
from glint.runtime.stream.results import follower
from glint.runtime.stream.stream import Stream
from glint.runtime.tracking.tracker import TrackConfig
from glint.runtime.unmixing.refine import RefineConfig
from glint.types import Blobs, Targets
from tests.helpers.stream_parts import FakePipeline, FakeSource, frame, result_of


def fake(**parts: Any) -> Pipeline:
    told = {"refine": True, "config": RefineConfig(), "detector": SimpleNamespace(card=SimpleNamespace(name="lsnet-s"))}
    return cast(Pipeline, SimpleNamespace(**{**told, **parts}))


def test_frames_together_need_the_refinement() -> None:
    source = FakeSource([])
    assert follower(source, fake(refine=False), TrackConfig(), "report").clusters is None
    several = follower(source, fake(), TrackConfig(), "report", unmix_frames=10).clusters
    assert several is not None
    assert several.frames == 10
    with pytest.raises(InputError, match="unmix_frames") as raised:
        follower(source, fake(refine=False), TrackConfig(), "report", unmix_frames=10)
    assert "--no-refine" in str(raised.value.hint)
    with pytest.raises(InputError, match="2 to 30"):
        follower(source, fake(), TrackConfig(), "report", unmix_frames=31)


def test_each_frame_by_itself_keeps_its_targets() -> None:
    item = result_of(frame(0))
    assert Follower()(item).targets is item.targets


def test_a_repeated_frame_has_the_targets_that_were_told_of_it() -> None:
    def target(x: float) -> Targets:
        one = np.ones(1)
        return Targets([x], one, one, one, one, one, [0], one, [0], one)

    class Finds(FakePipeline):
        def __call__(self, item: Any, **told: Any) -> Any:
            result = result_of(item, target(1.0))
            blobs = Blobs([1.0], [1.0], [1], [0.9])
            return replace(result, detection=replace(result.detection, blobs=blobs))

    def together(result: Any) -> Any:
        return replace(result, targets=target(1.5), track=np.array([4]))

    source = FakeSource([frame(0), frame(1)])
    results = list(Stream(source, cast(Pipeline, Finds()), (), track=together).results())
    assert [r.repeated for r in results] == [False, True]
    assert [r.targets.x.tolist() for r in results] == [[1.5], [1.5]]
    assert [None if r.track is None else r.track.tolist() for r in results] == [[4], [4]]
