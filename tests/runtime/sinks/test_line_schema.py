"""Lines are what their JSON Schema says, and what it does not allow is told."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from made_results import made_result, made_tracks

from glint.runtime.sinks.json_lines import LINES_VERSION
from glint.runtime.sinks.records import gap_record
from glint.runtime.tracking.tracks import Crossing
from glint.types import Blobs, Gap

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")


@pytest.fixture(scope="module")
def validator():
    text = resources.files("glint.runtime.sinks").joinpath("line.schema.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    assert schema["$id"] == f"glint-line-{LINES_VERSION}"
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def labelled(result):
    label_map = np.zeros(result.frame.shape, np.int32)
    label_map[10:13, 20:25] = 1
    label_map[12, 19] = 1
    label_map[40, 60] = 2
    blobs = Blobs([22.0, 60.0], [11.0, 40.0], [16, 1], [0.9, 0.5], label_map)
    return replace(result, detection=replace(result.detection, blobs=blobs))


LINES = [
    made_result(3, [(0, 30.25, 20.5, 300), (0, 31, 20, 200), (1, 5, 6, 100)], name="a"),
    made_result(rows=[]),
    made_result(sigma=float("nan"), track=[-1]),
    replace(
        made_result(track=[0]),
        tracks=made_tracks(
            [0, 1], confirmed=(1,), lost=(4,), crossed=(Crossing("enter", 0, "gate"),), utc="2027-01-15T08:00:00.120Z"
        ),
        late=True,
        repeated=True,
        dropped={"queue": 2},
    ),
    labelled(made_result(rows=[])),
]


@pytest.mark.parametrize("result", LINES)
def test_a_line_of_a_frame(validator, result):
    validator.validate(json.loads(json.dumps(result.to_dict(), allow_nan=False)))


def test_a_line_of_a_gap(validator):
    validator.validate(gap_record(Gap(5, 1.25, "no signal", utc_ns=1_800_000_000_123_456_789)))
    validator.validate(gap_record(Gap(5, 1.25, "no signal")))


def test_what_is_no_line_is_refused(validator):
    line = made_result().to_dict()
    enters = {"events": [{"event": "enter", "track": 1}]}  # where?
    for wrong in (
        {**line, **enters},
        {**line, "late": False},
        {**line, "targets": [{}]},
        {"event": "gap"},
        {**line, "t_ns": 1.5},
    ):
        assert not validator.is_valid(wrong)


def test_a_spot_without_a_target_is_in_the_line_with_its_box():
    line = labelled(made_result(rows=[])).to_dict()
    assert line["targets"] == []
    assert line["blobs"] == [
        {"x": 22.0, "y": 11.0, "area": 16, "score": 0.9, "box": [19, 10, 6, 3]},
        {"x": 60.0, "y": 40.0, "area": 1, "score": 0.5, "box": [60, 40, 1, 1]},
    ]


def test_the_time_of_capture_goes_before_that_of_processing():
    taken = made_result(track=[0])
    known = replace(taken, frame=replace(taken.frame, utc_ns=1_800_000_000_120_000_000))
    assert known.to_dict()["utc"] == "2027-01-15T08:00:00.120Z"
    assert taken.to_dict()["utc"] is None
