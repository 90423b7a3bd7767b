"""The benchmark of what following targets takes."""

from glint.benchmarks.streams.temporal import PARTS, markdown, temporal_cost


def test_the_parts_are_timed_and_do_not_exceed_the_total() -> None:
    report = temporal_cost(number=1, frames=13)
    assert report["frames"] == 3
    middle = {part: values["p50"] for part, values in report["cpu_ms"].items()}
    assert set(middle) == set(PARTS)
    assert all(middle.values())
    assert max(middle[part] for part in PARTS if part != "total") < middle["total"]
    assert markdown(report).count("|") > 4 * len(PARTS)
