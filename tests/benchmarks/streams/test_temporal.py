"""The benchmark of what following targets takes."""

import pytest

from glint.benchmarks.streams.temporal import PARTS, markdown, temporal_cost
from glint.errors import InputError


def test_the_parts_are_timed_and_do_not_exceed_the_total() -> None:
    report = temporal_cost(number=1, frames=13)
    assert report["frames"] == 3
    middle = {part: values["p50"] for part, values in report["cpu_ms"].items()}
    assert set(middle) == set(PARTS)
    assert all(middle.values())
    assert max(middle[part] for part in PARTS if part != "total") < middle["total"]
    assert markdown(report).count("|") > 4 * len(PARTS)


def test_a_scene_without_frames_that_count_is_refused() -> None:
    with pytest.raises(InputError, match="the first 10 of a scene do not count"):
        temporal_cost(number=1, frames=10)
