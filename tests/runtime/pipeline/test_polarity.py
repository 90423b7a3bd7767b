"""Targets of both polarities: two looks at a frame become one result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import glint
from glint.errors import InputError
from glint.images import write_image
from glint.runtime.commands.psf import psf
from glint.runtime.commands.run import run
from glint.runtime.pipeline.detector import Detection
from glint.runtime.pipeline.pipeline import Pipeline
from glint.runtime.pipeline.polarity import Found, joined, turned
from glint.runtime.pipeline.sensor_correction import Conditioned
from glint.runtime.pipeline.spots import SpotPatches
from glint.runtime.sources.open import open_frames
from glint.runtime.unmixing.optics_state import UNKNOWN, OpticsState
from glint.types import Blobs, Frame, TargetFlag, Targets

Render = Callable[..., np.ndarray]
BRIGHT, DARK = (30.2, 40.1), (90.4, 60.3)


@pytest.fixture
def scene(render: Render) -> np.ndarray:
    """``uint16 [96, 128]``: one bright target and a dark one on noise."""
    rng = np.random.default_rng(3)
    image = (
        7300 + rng.normal(0, 5, (96, 128)) + render([(*BRIGHT, 2500)], (96, 128)) - render([(*DARK, 2500)], (96, 128))
    )
    return np.round(image).astype(np.uint16)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_turned_frame_keeps_type_range_and_differences(dtype: type) -> None:
    data = np.random.default_rng(1).integers(3, 200, (20, 30)).astype(dtype)
    seen = turned(Conditioned(Frame(0, 0, data, full_scale=255.0), 255.0))
    assert seen.frame.data.dtype == dtype
    assert (seen.frame.data.min(), seen.frame.data.max()) == (data.min(), data.max())
    assert np.array_equal(seen.frame.data + data, np.full(data.shape, data.min() + data.max(), dtype))
    assert np.array_equal(turned(seen).frame.data, data)
    assert seen.ceiling == (None if dtype == np.float32 else float(data.min()) + float(data.max()))


def test_a_target_at_zero_is_clipped_in_the_turned_frame() -> None:
    data = np.array([[0, 100], [200, 250]], np.uint8)
    seen = turned(Conditioned(Frame(0, 0, data), None))
    assert seen.frame.data[0, 0] == seen.ceiling == 250


def test_both_finds_bright_and_dark_and_says_which(scene: np.ndarray) -> None:
    with Pipeline.open(threads=1) as pipeline:
        white = pipeline(Frame(0, 0, scene))
        both = pipeline(Frame(0, 0, scene, dark_too=True))
    assert [t.round().tolist() for t in (white.targets.x, white.targets.y)] == [[30], [40]]
    order = np.argsort(both.targets.x)
    assert both.targets.x[order] == pytest.approx([BRIGHT[0], DARK[0]], abs=0.3)
    assert both.targets.y[order] == pytest.approx([BRIGHT[1], DARK[1]], abs=0.3)
    assert (both.targets.flags[order] & TargetFlag.DARK > 0).tolist() == [False, True]
    assert (both.targets.radiance > 1500).all()
    rows = both.to_dict()["blobs"]
    assert [row.get("dark", False) for row in rows] == [False, True]
    assert rows[0] == white.to_dict()["blobs"][0]
    for row, blob in zip(rows, (BRIGHT, DARK)):
        left, top, width, height = row["box"]
        assert left - 1 <= blob[0] <= left + width
        assert top - 1 <= blob[1] <= top + height


def test_a_frame_and_its_inverse_have_the_same_targets(scene: np.ndarray) -> None:
    """What is bright in one is dark in the other."""
    other = turned(Conditioned(Frame(0, 0, scene), None)).frame.data
    with Pipeline.open(threads=1, psf=0.5) as pipeline:
        one, two = (pipeline(Frame(0, 0, data, dark_too=True)).targets for data in (scene, other))
    a, b = np.argsort(one.x), np.argsort(two.x)
    for name in ("x", "y", "radiance"):
        assert getattr(one, name)[a] == pytest.approx(getattr(two, name)[b], rel=1e-3)
    assert ((one.flags[a] ^ two.flags[b]) & TargetFlag.DARK == TargetFlag.DARK).all()


def look(boxes: list[tuple[int, int, int, int]], scores: list[float]) -> Found:
    """A look whose blobs are boxes (left, top, width, height) with one target each."""
    labels = np.zeros((20, 30), np.int32)
    for row, (left, top, width, height) in enumerate(boxes):
        labels[top : top + height, left : left + width] = row + 1
    x, y = ([float(box[i]) for box in boxes] for i in (0, 1))
    blobs = Blobs(x, y, [1] * len(boxes), scores, labels)  # type: ignore[arg-type]
    n = len(boxes)
    spots = SpotPatches(
        np.full((n, 11, 11), 1, np.float32), np.ones((n, 11, 11), bool), np.arange(n), np.arange(n), np.zeros(n),
        np.full((n, 11, 11), np.inf, np.float32),
    )  # fmt: skip
    zero = np.zeros(n)
    targets = Targets(x, y, zero + 1, zero, zero, zero, np.arange(n), zero, zero)  # type: ignore[arg-type]
    level = np.zeros((20, 30), np.float32)
    candidates = Blobs([1.0], [2.0], [3], [0.1], np.zeros((20, 30), np.int32))  # type: ignore[arg-type]
    detection = Detection(blobs, level, level, candidates=candidates)
    return Found(detection, spots, targets, replace(targets), OpticsState(UNKNOWN, 0.5), (1.0, 2.0, 3.0))


def test_of_two_that_share_pixels_the_more_probable_one_stays() -> None:
    bright = look([(2, 2, 3, 3), (10, 10, 3, 3)], [0.9, 0.6])
    dark = look([(4, 4, 3, 3), (11, 11, 3, 3), (20, 3, 2, 2)], [0.8, 0.7, 0.5])
    both = joined(bright, dark)
    assert both.targets.x.tolist() == [2, 11, 20]
    assert both.targets.blob.tolist() == [0, 1, 2]
    assert [bool(f & TargetFlag.DARK) for f in both.targets.flags] == [False, True, True]
    assert both.detection.blobs.score.tolist() == [0.9, 0.7, 0.5]
    assert both.detection.blobs.boxes is not None
    assert both.detection.blobs.boxes.tolist() == [[2, 2, 3, 3], [11, 11, 3, 3], [20, 3, 2, 2]]
    assert len(both.spots.patches) == len(both.spots.left) == 3
    assert both.seconds == (2.0, 4.0, 6.0)
    assert both.candidates is not None
    assert both.candidates.blob.tolist() == [0, 1, 1, 2, 3]


def test_nothing_joined_with_nothing_is_nothing() -> None:
    both = joined(look([], []), look([], []))
    assert len(both.targets) == len(both.detection.blobs) == len(both.spots.patches) == 0


def test_run_takes_both_from_option_and_uri_and_tells_the_cost(
    scene: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", scene)
    out = tmp_path / "a.jsonl"
    manifest = run(f"{tmp_path}/a.png?polarity=both", out=out, threads=1, track=True)
    assert manifest["polarity"] == "both"
    assert "twice" in capsys.readouterr().err
    flags = [target["flags"] for target in json.loads(out.read_text().splitlines()[0])["targets"]]
    assert sorted("DARK" in f for f in flags) == [False, True]
    assert open_frames(str(tmp_path / "a.png"), polarity="both").polarity == "both"


def test_dark_targets_alone_are_told_with_the_option(
    scene: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", turned(Conditioned(Frame(0, 0, scene[:, :64]), None)).frame.data)
    assert run(str(tmp_path / "a.png"), threads=1)["targets"] == 0
    said = capsys.readouterr().err
    assert "--polarity black" in said
    assert "1 dark" in said


def test_masks_have_the_spots_of_both(scene: np.ndarray, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", scene)
    (mask,) = glint.detect(f"{tmp_path}/a.png?polarity=both", threads=1)
    assert mask[round(BRIGHT[1]), round(BRIGHT[0])] == mask[round(DARK[1]), round(DARK[0])] == 255


def test_a_psf_is_of_one_polarity(scene: np.ndarray, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", scene)
    with pytest.raises(InputError, match="bright spots or on dark ones"):
        psf(f"{tmp_path}/a.png?polarity=both", threads=1)


def test_another_word_is_refused() -> None:
    with pytest.raises(InputError, match="white, black or both"):
        open_frames("synthetic://?size=64x64&frames=1", polarity="grey")
