"""A finished run in the browser: lines, frames and truth are put together row by row."""

from __future__ import annotations

import io
import json
import struct
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from made_results import made_result
from PIL import Image

from glint.errors import InputError, SourceError
from glint.runtime.commands.review import review
from glint.runtime.sinks.json_lines import JsonLines

ROWS = [(0, 30.2, 20.4, 300), (0, 31.0, 20.0, 200), (1, 50.0, 40.0, 100)]


@pytest.fixture
def run(tmp_path):
    """Three frames, the second without targets; one true target of the first is missed."""
    results = [made_result(0, ROWS, name="a"), made_result(1, [], name="b"), made_result(2, ROWS[2:], name="c")]
    (tmp_path / "night").mkdir()
    with JsonLines(tmp_path / "hits.jsonl") as lines, JsonLines(tmp_path / "hits.truth.jsonl") as truth:
        for result in results:
            blobs = replace(result.detection.blobs, score=np.full(len(result.detection.blobs), 0.5))
            lines.write(replace(result, detection=replace(result.detection, blobs=blobs)).to_dict())
            Image.fromarray(result.frame.data).save(tmp_path / "night" / f"{result.frame.name}.png")
            known = [{"x": x, "y": y} for _, x, y, _ in (ROWS if result.frame.index == 0 else [])]
            known += [{"x": 5.0, "y": 6.0}] if result.frame.index == 0 else []
            truth.write({"frame": result.frame.index, "targets": known})
        lines.write({"event": "gap", "t_ns": 0, "utc": None, "seconds": 1.0, "reason": "lost"})
    (tmp_path / "hits.manifest.json").write_text(json.dumps({"source": str(tmp_path / "night"), "scale": None}))
    return tmp_path, results


def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  (our own server)
        return answer.read()


def refused(url):
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(url)
    with caught.value as error:
        return error.code, error.read()


def shown(url):
    body = get(url)
    (length,) = struct.unpack(">I", body[:4])
    return json.loads(body[4 : 4 + length]), Image.open(io.BytesIO(body[4 + length :]))


def test_the_index_tells_what_frames_are_worth_a_look(run):
    with review(run[0] / "hits.jsonl") as page:
        rows = json.loads(get(page.url + "/review"))
    assert [(r["frame"], r["name"], r["targets"], r["flags"], r["missed"]) for r in rows] == [
        (0, "a", 3, 1, 1), (1, "b", 0, 0, 0), (2, "c", 1, 0, 0),
    ]  # fmt: skip
    assert rows[0]["score"] == 0.9 and rows[1]["score"] is None


def test_any_frame_comes_with_its_spots_targets_and_truth(run):
    folder, results = run
    with review(folder / "hits.jsonl") as page:
        for row in (2, 0, 1, 0):  # in any order
            facts, image = shown(f"{page.url}/live?at={row}")
            assert (facts["state"], facts["shown"]["frame"], image.size) == ("review", row, (64, 48))
            assert facts["shown"]["found"] == len(results[row].targets)
        facts, _ = shown(f"{page.url}/live?at=0")
        assert [n for _, _, n in facts["shown"]["blobs"]] == [2, 1]
        assert facts["shown"]["truth"] == [
            [30.2, 20.4, False], [31.0, 20.0, False], [50.0, 40.0, False], [5.0, 6.0, True],
        ]  # fmt: skip
        cluster = facts["cluster"]
        assert cluster["blob"] == 0  # the one with most targets
        crop = np.array(cluster["crop"]["rows"])
        left, top = cluster["crop"]["left"], cluster["crop"]["top"]
        assert (crop == results[0].frame.data[top : top + 21, left : left + 21]).all()
        assert np.array(cluster["patch"]["rows"]).shape == (11, 11)
        assert shown(f"{page.url}/live?at=0&x=51&y=41")[0]["cluster"]["blob"] == 1
        assert shown(f"{page.url}/live?at=0&x=5&y=5")[0]["cluster"]["blob"] is None


def test_masks_are_a_truth_too(run):
    folder, _ = run
    (folder / "masks").mkdir()
    mask = np.zeros((48, 64), np.uint8)
    mask[39:42, 49:52] = 255
    mask[3:5, 3:5] = 255
    Image.fromarray(mask).save(folder / "masks" / "c.png")
    with review(folder / "hits.jsonl", truth=folder / "masks") as page:
        assert shown(f"{page.url}/live?at=2")[0]["shown"]["truth"] == [[3.5, 3.5, True], [50.0, 40.0, False]]
        assert shown(f"{page.url}/live?at=0")[0]["shown"]["truth"] is None


def test_frames_that_are_played_can_be_asked_for_in_any_order(run):
    folder, results = run
    np.save(folder / "night.npy", np.stack([r.frame.data for r in results]))
    with review(folder / "hits.jsonl", str(folder / "night.npy")) as page:
        assert [shown(f"{page.url}/live?at={row}")[0]["shown"]["frame"] for row in (1, 2, 0, 0)] == [1, 2, 0, 0]


@pytest.mark.parametrize("query", ["", "at=-1", "at=3", "at=x", "at=0&x=1"])
def test_what_is_no_row_is_refused(run, query):
    with review(run[0] / "hits.jsonl") as page:
        assert refused(f"{page.url}/live?{query}")[0] == 400


def test_other_frames_are_told_in_the_answer(run):
    folder, results = run
    np.save(folder / "one.npy", results[0].frame.data)
    with review(folder / "hits.jsonl", str(folder / "one.npy")) as page:
        code, said = refused(f"{page.url}/live?at=2")
    assert code == 404 and b"has no frame 2" in said


def test_the_page_says_that_it_is_a_review(run):
    with review(run[0] / "hits.jsonl") as page:
        assert b"<html data-review " in get(page.url + "/")


def test_lines_without_frames_and_torn_lines(run, tmp_path):
    folder, _ = run
    text = (folder / "hits.jsonl").read_text()
    (tmp_path / "torn.jsonl").write_text(text[: text.index("\n") + 20])
    with review(tmp_path / "torn.jsonl", str(folder / "night")) as page:
        assert len(page.run.lines) == 1
    with pytest.raises(InputError, match="does not tell the frames"):
        review(tmp_path / "torn.jsonl")
    (tmp_path / "bad.jsonl").write_text("{\n" + text)
    with pytest.raises(InputError, match="line 1 is not JSON"):
        review(tmp_path / "bad.jsonl", str(folder / "night"))
    (tmp_path / "no.jsonl").write_text("")
    with pytest.raises(InputError, match="no line of a frame"):
        review(tmp_path / "no.jsonl", str(folder / "night"))
    with pytest.raises(SourceError, match="is live"):
        review(folder / "hits.jsonl", "synthetic://?size=64x48&frames=3&rate=30")


def test_old_lines_without_blobs_are_shown(run):
    folder, _ = run
    lines = [json.loads(text) for text in (folder / "hits.jsonl").read_text().splitlines()]
    with JsonLines(folder / "old.jsonl") as old:
        for line in lines:
            line.pop("blobs", None)
            old.write(line)
    with review(folder / "old.jsonl", str(folder / "night")) as page:
        blobs = shown(f"{page.url}/live?at=0")[0]["shown"]["blobs"]
    assert [n for _, _, n in blobs] == [2, 1]
