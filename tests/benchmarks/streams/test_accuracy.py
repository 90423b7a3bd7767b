"""Moving scenes know their truth, and the score of the stream tells good answers from bad ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glint.benchmarks.streams.accuracy import TOOL, SceneScore, score, stream_accuracy
from glint.benchmarks.streams.moving_scene import MovingConfig, MovingScene, read_backgrounds, scenes, without_targets
from glint.errors import InputError, SourceError
from glint.images import write_image
from glint.optics import Psf
from glint.runtime.pipeline.detector import Detection
from glint.runtime.pipeline.pipeline import Result, SpotPatches
from glint.runtime.tracking.tracks import Tracks
from glint.types import Blobs, Targets

SMALL = MovingConfig(width=96, height=80, frames=6, clusters=2, singles=2, noise=0.0, bits=16, radiance=(80.0, 120.0))


def flat(level=50.0):
    return np.full((120, 140), level)


def answer(frame, targets, track):
    """A result that says what it is told."""
    maps = np.zeros(frame.shape, dtype=np.float32)
    empty, none = np.zeros((0, 11, 11), dtype=np.float32), np.zeros(0, dtype=np.int64)
    spots = SpotPatches(empty, empty.astype(bool), none, none, np.zeros(0), empty)
    return Result(frame, Detection(Blobs([], [], [], []), maps, maps), targets, spots, {}, track=np.asarray(track))


def test_the_truth_is_what_stands_in_the_frame():
    scene = MovingScene("flat", flat(), SMALL, seed=3)
    for frame in scene:
        expected = 50 * 256 + Psf(0.5).render(frame.truth.x, frame.truth.y, frame.truth.radiance, frame.shape)
        assert frame.data == pytest.approx(np.minimum(expected, 65535), abs=0.51)
        assert 2 * 2 + 2 <= len(frame.truth) <= 2 * 5 + 2


def paths(config, seed):
    """Of each group its frames, and the middle of its members in them."""
    frames, middles = {}, {}
    for frame in MovingScene("flat", flat(), config, seed=seed):
        for group in np.unique(frame.truth.blob).tolist():
            members = frame.truth.select(frame.truth.blob == group)
            frames.setdefault(group, []).append(frame.index)
            middles.setdefault(group, []).append((members.x[0], members.y[0]))
    return frames, {group: np.array(places) for group, places in middles.items()}


def test_targets_move_on_straight_lines_until_they_leave_and_others_come_in_over_an_edge():
    config = replace(SMALL, frames=200, speed=2.0, pan=0.0)
    frames, places = paths(config, seed=1)
    assert len(frames) > 6
    assert sum(len(seen) for seen in frames.values()) == 4 * 200  # four at a time
    for group, where in places.items():
        steps = np.diff(where, axis=0)
        assert np.hypot(*steps.T).max(initial=0) <= 2.0 + 1e-9
        assert np.abs(np.diff(steps, axis=0)).max(initial=0) < 1e-9
        assert np.diff(frames[group]).max(initial=1) == 1  # in one piece
        edge = np.minimum(where, np.array([95, 79]) - where).min(axis=1)
        assert (edge[0] > 10) == (frames[group][0] == 0)
        if frames[group][0]:
            assert edge[0] < 0.6  # a member of a group whose middle is on the edge
        if frames[group][-1] < 199:
            assert edge[-1] < 2.6


def test_what_rests_in_the_scene_goes_with_the_background_also_when_the_camera_turns_round():
    config = replace(SMALL, frames=60, speed=0.0, pan=2.0, clusters=0, singles=1)
    ramp = 20 + np.arange(140)[None] + np.zeros((120, 1))
    frames = list(MovingScene("ramp", ramp, config, seed=3))
    camera = np.array([np.median(frame.data / 256 - np.arange(96)) for frame in frames])  # x
    target = np.array([frame.truth.x[0] for frame in frames])
    same = np.diff([frame.truth.blob[0] for frame in frames]) == 0
    assert (np.diff(camera) > 0.1).any() and (np.diff(camera) < -0.1).any()
    assert np.diff(target)[same] == pytest.approx(-np.diff(camera)[same], abs=0.05)


def test_the_background_pans_by_fractions_of_a_pixel_at_a_constant_speed():
    config = replace(SMALL, clusters=0, singles=0, pan=0.3, frames=5)
    ramps = [20 + 0.5 * np.arange(200)[None] + np.zeros((150, 1)), 20 + 0.5 * np.arange(150)[:, None] + np.zeros(200)]
    moved = []
    for ramp in ramps:  # the same way over both
        levels = np.array([f.data[40, 40] / 256 for f in MovingScene("ramp", ramp, config, seed=2)])
        steps = np.diff(levels) / 0.5
        assert np.abs(steps - steps[0]).max() < 0.02
        moved.append(steps.mean())
    assert np.hypot(*moved) == pytest.approx(0.3, abs=0.01)


def test_a_small_background_is_mirrored_and_frames_have_the_asked_size():
    frames = list(MovingScene("small", np.random.default_rng(0).uniform(20, 90, (50, 60)), SMALL, seed=0))
    assert {f.shape for f in frames} == {(80, 96)}


def test_real_targets_are_painted_over(tmp_path):
    image = np.full((60, 70), 40, dtype=np.uint8)
    image[20:23, 30:33] = 250
    mask = (image > 200).astype(np.uint8) * 255
    write_image(tmp_path / "images" / "a.png", image)
    write_image(tmp_path / "masks" / "a.png", mask)
    ((name, background),) = read_backgrounds(tmp_path, 5)
    assert name == "a"
    assert (background == 40).all()
    assert (without_targets(image.astype(float), np.ones_like(mask, dtype=bool)) == np.median(image)).all()
    assert (next(iter(read_backgrounds(tmp_path / "images", 1)))[1] == image).all()


def test_a_mask_of_another_size_is_refused(tmp_path):
    write_image(tmp_path / "images" / "a.png", np.zeros((60, 70), dtype=np.uint8))
    write_image(tmp_path / "masks" / "a.png", np.zeros((60, 71), dtype=np.uint8))
    with pytest.raises(SourceError, match=r"a\.png: the mask"):
        list(scenes(SMALL, 1, 0, tmp_path))


@pytest.mark.parametrize("change", [{"width": 20}, {"bits": 17}, {"pan": -1.0}])
def test_a_scene_that_cannot_be_is_refused(change):
    with pytest.raises(InputError, match="MovingConfig"):
        replace(SMALL, **change)


def scored(tell):
    """The score of answers made of the truth by ``tell(index, truth) -> targets, track``."""
    part = SceneScore()
    for frame in MovingScene("flat", flat(), replace(SMALL, frames=20), seed=5):
        part.write(answer(frame, *tell(frame.index, frame.truth)))
    return score([part])


def test_the_truth_itself_scores_perfectly():
    told = scored(lambda index, truth: (truth, np.arange(len(truth))))
    assert [told[k] for k in ("pd", "pd_groups", "cso_map", "idf1")] == [100, 100, pytest.approx(100), 100]
    assert [told[k] for k in ("false_per_frame", "surplus_per_frame", "switches_per_1000")] == [0, 0, 0]
    assert told["position_rmse_px"] == 0


def test_nothing_scores_nothing():
    told = scored(lambda index, truth: (Targets(), []))
    assert [told[k] for k in ("pd", "pd_groups", "cso_map", "idf1", "false_per_frame")] == [0, 0, 0, 0, 0]


def test_false_alarms_far_away_and_surplus_targets_near_by_are_told_apart():
    def tell(index, truth):
        one = truth.select(np.array([0]))
        far, near = (replace(one, x=one.x + shift) for shift in (20, 1.5))
        return Targets.concatenate([truth, far, near]), np.full(len(truth) + 2, -1)

    told = scored(tell)
    assert told["pd"] == 100
    assert told["false_per_frame"] == pytest.approx(1, abs=0.3)  # another target may happen to be there
    assert told["false_per_frame"] + told["surplus_per_frame"] == pytest.approx(2)


def test_a_number_that_changes_costs_continuity_but_no_detection():
    def tell(index, truth):
        return truth, np.arange(len(truth)) + (100 if index >= 10 else 0)

    told = scored(tell)
    assert told["pd"] == 100
    assert told["idf1"] == 50
    assert told["switches_per_1000"] == pytest.approx(1000 / 20)


def test_exchanged_numbers_are_two_switches():
    def tell(index, truth):
        track = np.arange(len(truth))
        return truth, np.roll(track, 1) if index >= 19 else track

    told = scored(tell)
    assert told["idf1"] == pytest.approx(95, abs=0.1)
    assert told["switches_per_1000"] == pytest.approx(1000 / 20)


def test_targets_of_confirmed_tracks_are_scored_from_the_tenth_frame_on():
    """One group has tracks and its targets are right; the others, and what is not tracked, do not count."""
    part = SceneScore()
    for frame in MovingScene("flat", flat(), replace(SMALL, frames=12), seed=5):
        truth, ours = frame.truth, frame.truth.blob == 0
        many, static = int(ours.sum()), np.zeros(int(ours.sum()), dtype=bool)
        one = truth.select(ours)
        tracks = Tracks(
            np.arange(many), one.x, one.y, one.x, one.y, np.zeros((many, 2, 3)), one.x, one.x, static, ~static, one.x
        )
        result = answer(frame, truth, np.where(ours, np.cumsum(ours) - 1, -1))
        part.write(replace(result, tracks=tracks))
    told = score([part])["confirmed"]
    assert told["cso_map"] == pytest.approx(100)
    assert 0 < told["pd_groups"] < 100


def test_the_whole_stream_is_scored(tmp_path: Path):
    report = stream_accuracy(number=2, config=replace(SMALL, width=128, height=128), threads=1, seed=4)
    assert set(report["scenes"]) == {"sky 0", "sky 1"}
    assert report["all"]["frames"] == 12
    assert report["all"]["targets"] == sum(part["targets"] for part in report["scenes"].values())
    assert 0 <= report["all"]["cso_map"] <= 100


def test_the_command_says_what_moves_and_through_which_optics(tmp_path: Path, capsys):
    report = tmp_path / "report.json"
    words = ["--number", "1", "--frames", "3", "--clusters", "0", "--singles", "3", "--sigma", "1", "--psf", "1"]
    assert TOOL([*words, "--seed", "2", "--threads", "1", "--out", str(report)]) == 0
    told = json.loads(report.read_text("utf-8"))
    assert told["config"]["clusters"] == 0 and told["all"]["targets"] == 9
    assert told["config"]["radiance"] == pytest.approx([80 * 3.25, 120 * 3.25])
    assert told["psf"]["kind"] == "known" and told["psf"]["sigma"] == 1.0
    assert TOOL(["--number", "1", "--frames", "3", "--psf", "none.json"]) == 2
    assert "none.json" in capsys.readouterr().err
