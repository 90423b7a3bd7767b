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
from glint.runtime.stream.following import Following
from glint.runtime.stream.stream import Stream
from glint.runtime.unmixing.refine import RefineConfig
from glint.types import Blobs, Targets
from tests.helpers.stream_parts import FakePipeline, FakeSource, frame, result_of


def fake(**parts: Any) -> Pipeline:
    told = {
        "refine": True,
        "config": RefineConfig(),
        "roi": None,
        "detector": SimpleNamespace(card=SimpleNamespace(name="lsnet-s")),
    }
    return cast(Pipeline, SimpleNamespace(**{**told, **parts}))


def test_frames_together_need_the_refinement() -> None:
    source = FakeSource([])
    alone = Following(track=True).follower(source, fake(refine=False))
    assert alone is not None
    assert alone.clusters is None
    several = Following(unmix_frames=10).follower(source, fake())
    assert several is not None
    assert several.clusters is not None
    assert several.clusters.frames == 10
    with pytest.raises(InputError, match="unmix_frames") as raised:
        Following(unmix_frames=10).follower(source, fake(refine=False))
    assert "--no-refine" in str(raised.value.hint)
    with pytest.raises(InputError, match="2 to 30"):
        Following(unmix_frames=31).follower(source, fake())


@pytest.mark.parametrize("asked", [{"track": True}, {"faint": True}, {"unmix_frames": 2}, {"zones": "zones.json"}])
def test_whatever_needs_tracks_asks_for_them_and_for_candidates(asked: dict[str, Any]) -> None:
    assert Following(**asked).on
    assert Following(**asked).candidates_above is not None


def test_nobody_asks() -> None:
    assert Following(static="hide", false_tracks_per_hour=1).follower(FakeSource([]), fake()) is None
    assert Following().candidates_above is None


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


@pytest.mark.parametrize(("unmix_frames", "kept"), [(1, None), (10, 2)])
def test_the_pipeline_asks_the_follower_what_it_knows_and_a_frame_is_registered_once(
    unmix_frames: int, kept: int | None
) -> None:
    class Asks(FakePipeline):
        def __call__(self, item: Any, **told: Any) -> Any:
            result = result_of(item)
            assert told["earlier"](item, item, result.detection) == (result.detection, None)
            return result

    class Counted(Follower):
        def __init__(self) -> None:
            super().__init__(unmix_frames=unmix_frames)
            self.shifts, own = 0, self.registration

            def register(*of: Any) -> Any:
                self.shifts += 1
                return own(*of)

            self.registration = cast(Any, register)

    follow, rng = Counted(), np.random.default_rng(0)
    scene = rng.integers(0, 9999, (96, 96), dtype=np.uint16)
    frames = [replace(frame(index), data=scene + rng.integers(0, 9, (96, 96), dtype=np.uint16)) for index in range(5)]
    results = list(Stream(FakeSource(frames), cast(Pipeline, Asks()), (), track=follow).results())
    assert len(results) == follow.shifts == 5
    assert (None if follow.history is None else len(follow.history._past)) == kept
