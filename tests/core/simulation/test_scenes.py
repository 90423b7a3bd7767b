"""Simulated scenes: the truth is what is in the pixels."""

from dataclasses import fields, replace
from urllib.parse import urlencode

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from glint.errors import InputError, SourceError
from glint.optics import Psf
from glint.simulation.scenes import SceneConfig, generate_background, parse_synthetic, read_background, simulate_scene
from glint.types import Targets

SMALL = SceneConfig(width=96, height=64, frames=4, clusters=3, singles=2, noise=0.0, bits=16, radiance=(20.0, 40.0))
FLAT = np.full((64, 96), 20.0)


def frames(config, background=None):
    return list(simulate_scene(config, background))


def test_frames_and_truth_have_the_documented_form():
    scene = frames(replace(SMALL, bits=8))
    assert [frame.index for frame, _ in scene] == [0, 1, 2, 3]
    assert [frame.t_ns for frame, _ in scene] == sorted({frame.t_ns for frame, _ in scene})
    assert all(frame.shape == (64, 96) for frame, _ in scene)
    assert all(frame.data.dtype == np.uint8 and frame.full_scale == 255 for frame, _ in scene)
    assert len({frame.name for frame, _ in scene}) == 4


@pytest.mark.parametrize("bits", [9, 14, 16])
def test_more_than_8_bits_are_uint16_with_their_full_scale(bits):
    frame, _ = next(simulate_scene(replace(SMALL, bits=bits)))
    assert frame.data.dtype == np.uint16
    assert frame.full_scale == 2**bits - 1


def test_groups_hold_2_to_5_targets_within_a_pixel_and_singles_1():
    _, truth = next(simulate_scene(replace(SMALL, clusters=40, singles=7)))
    sizes = np.bincount(truth.blob)
    assert set(sizes[:40].tolist()) == {2, 3, 4, 5}
    assert sizes[40:].tolist() == [1] * 7
    for group in range(47):
        members = truth.select(truth.blob == group)
        assert max(np.ptp(members.x), np.ptp(members.y)) <= 1
        apart = np.hypot(members.x[:, None] - members.x, members.y[:, None] - members.y)
        assert (apart[~np.eye(len(members), dtype=bool)] >= 0.5 - 1e-9).all()


def test_the_rendered_truth_is_the_frame_less_its_background():
    for frame, truth in frames(SMALL, FLAT):
        targets = Psf(0.5).render(truth.x, truth.y, truth.radiance, frame.shape)
        # Rounding to whole DN of 16 bits, of which the background has 20 * 256.
        assert_allclose(frame.data - 20.0 * 256, targets, atol=0.5 + 1e-6)
        assert frame.data.max() < 65535


def test_radiances_are_drawn_from_their_range_in_dn_of_the_frame():
    _, truth = next(simulate_scene(replace(SMALL, clusters=30, bits=12)))
    assert truth.radiance.min() >= 20 * 16
    assert truth.radiance.max() <= 40 * 16
    assert np.ptp(truth.radiance) > 15 * 16


def test_bits_change_quantisation_only():
    scenes = {bits: frames(replace(SMALL, bits=bits)) for bits in (8, 14)}
    for (coarse, coarse_truth), (fine, fine_truth) in zip(scenes[8], scenes[14]):
        assert_array_equal(coarse_truth.x, fine_truth.x)
        assert_allclose(fine_truth.radiance, 64 * coarse_truth.radiance)
        assert np.abs(fine.data / 64 - coarse.data).max() <= 0.5 + 0.5 / 64


def test_bright_scenes_clip_at_full_scale():
    scene = frames(replace(SMALL, bits=10, radiance=(2000.0, 3000.0)))
    assert max(frame.data.max() for frame, _ in scene) == 1023


def test_noise_has_its_level_and_changes_from_frame_to_frame():
    config = replace(SMALL, clusters=0, singles=0, noise=2.0, frames=2)
    (first, _), (second, _) = frames(config, np.full((64, 96), 100.0))
    residual = np.stack([first.data, second.data]) / 256.0 - 100
    # 12,288 samples: 3 sigma of the deviation is 2 %.
    assert residual.std() == pytest.approx(2, rel=0.02)
    assert abs(np.corrcoef(residual[0].ravel(), residual[1].ravel())[0, 1]) < 0.05


def test_groups_keep_off_the_edge_move_no_faster_than_their_speed_and_keep_their_shape():
    config = replace(SMALL, frames=300, speed=1.5)
    tracks = [truth for _, truth in frames(config, FLAT)]
    x, y = (np.array([getattr(truth, axis) for truth in tracks]) for axis in "xy")
    assert min(x.min(), y.min()) >= 11 - 0.5
    assert x.max() <= 95 - 11 + 0.5
    assert y.max() <= 63 - 11 + 0.5
    step = np.hypot(np.diff(x, axis=0), np.diff(y, axis=0))
    assert 0.5 < step.max() <= 1.5 + 1e-9
    assert_allclose(x[:, 1] - x[:, 0], x[0, 1] - x[0, 0])  # both of group 0
    assert_array_equal(tracks[0].blob[:2], [0, 0])
    assert np.ptp(x, axis=0).max() > 30  # they do get around


def test_truth_is_exact():
    _, truth = next(simulate_scene(SMALL))
    assert not np.stack([truth.sigma_x, truth.sigma_y, truth.sigma_radiance, truth.flags]).any()
    assert (truth.score == 1).all()


def test_one_seed_gives_the_same_scene_and_another_does_not():
    config = replace(SMALL, noise=1.0, frames=2)
    first, again, other = frames(config), frames(config), frames(replace(config, seed=2))
    for (a, truth_a), (b, truth_b), (c, _) in zip(first, again, other):
        assert_array_equal(a.data, b.data)
        assert (a.data != c.data).any()
        for field in fields(Targets):
            assert_array_equal(getattr(truth_a, field.name), getattr(truth_b, field.name))


def test_a_longer_scene_starts_like_a_shorter_one():
    short, long = frames(replace(SMALL, frames=2)), frames(SMALL)
    assert_array_equal(short[1][0].data, long[1][0].data)


def test_a_scene_may_be_empty():
    scene = frames(replace(SMALL, clusters=0, singles=0, frames=1), FLAT)
    assert len(scene[0][1]) == 0
    assert (scene[0][0].data == 20 * 256).all()
    assert frames(replace(SMALL, frames=0)) == []


def test_a_background_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"\(64, 96\).*\(96, 64\)"):
        next(simulate_scene(SMALL, FLAT.T))


@pytest.mark.parametrize("shape", [(64, 96), (45, 77)])
def test_backgrounds_are_skies_within_their_levels(shape):
    rng = np.random.default_rng(1)
    for _ in range(10):
        background = generate_background(shape, rng)
        assert background.shape == shape
        assert 2 <= background.min() < background.max() <= 180
        # Clouds are 1/f: neighbours are far more alike than any two pixels.
        assert np.diff(background, axis=1).std() < 0.5 * background.std()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"width": 43}, "size"),
        ({"height": 8193}, "size"),
        ({"bits": 7}, "bits"),
        ({"bits": 17}, "bits"),
        ({"frames": -1}, "frames"),
        ({"clusters": -1}, "clusters"),
        ({"singles": -1}, "singles"),
        ({"noise": -0.1}, "noise"),
        ({"speed": -0.1}, "speed"),
        ({"radiance": (0.0, 5.0)}, "radiance"),
        ({"radiance": (5.0, 4.0)}, "radiance"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(change, name):
    with pytest.raises(InputError, match=name):
        replace(SMALL, **change)


# Scenes by URI and over real backgrounds


def test_a_uri_names_every_setting():
    uri = (
        "synthetic://?size=100x80&frames=7&clusters=1&singles=2&noise=2.5&bits=14&radiance=60-90.5&sigma=0.6"
        "&speed=0&seed=9"
    )
    expected = SceneConfig(
        width=100, height=80, frames=7, clusters=1, singles=2, noise=2.5, bits=14, radiance=(60.0, 90.5), sigma=0.6,
        speed=0.0, seed=9,
    )  # fmt: skip
    assert parse_synthetic(uri) == expected


@pytest.mark.parametrize("uri", ["synthetic://", "synthetic://?", "synthetic:"])
def test_a_bare_uri_is_the_default_scene(uri):
    assert parse_synthetic(uri) == SceneConfig()


def test_an_unknown_name_in_a_uri_comes_with_the_known_ones():
    with pytest.raises(InputError, match="'cluster'") as caught:
        parse_synthetic("synthetic://?cluster=3")
    assert {"size", *SceneConfig.__dataclass_fields__} <= set(caught.value.hint.removeprefix("known: ").split(", "))


@pytest.mark.parametrize(
    "query",
    [
        "size=640", "size=640x", "size=640x512x3", "size=axb", "frames=2.5", "frames=", "noise=loud", "radiance=80",
        "radiance=80-", "radiance=90-80", "radiance=nan-90", "bits=20", "frames=-1", "size=8x8", "seed=-1",
        "noise=nan", "noise=inf", "speed=nan", "speed=inf", "radiance=80-inf", "sigma=0", "sigma=nan",
    ],
)  # fmt: skip
def test_malformed_values_in_a_uri_are_input_errors_before_the_first_frame(query):
    with pytest.raises(InputError):
        parse_synthetic(f"synthetic://?{query}")


def background_file(folder, data):
    Image.fromarray(data).save(folder / "sky one.png")
    return folder / "sky one.png"


def test_a_scene_over_a_background_takes_its_size(tmp_path):
    path = background_file(tmp_path, np.zeros((50, 70), dtype=np.uint8))
    scene = parse_synthetic(f"synthetic://?{urlencode({'background': path, 'frames': 1})}")
    assert (scene.width, scene.height, scene.background) == (70, 50, str(path))


def test_a_missing_background_is_a_source_error(tmp_path):
    with pytest.raises(SourceError, match="nowhere"):
        parse_synthetic(f"synthetic://?background={tmp_path / 'nowhere.png'}")


def test_an_8_bit_background_is_read_as_it_is_whatever_the_scene(tmp_path):
    path = background_file(tmp_path, np.full((3, 4), 77, dtype=np.uint8))
    assert (read_background(path, 8) == 77).all()
    assert (read_background(path, 14) == 77).all()


def test_a_16_bit_background_has_the_bits_of_the_scene(tmp_path):
    path = background_file(tmp_path, np.full((3, 4), 77 * 64 + 16, dtype=np.uint16))
    assert (read_background(path, 14) == 77.25).all()


def test_a_14_bit_background_comes_out_of_a_14_bit_scene_as_it_was(tmp_path):
    data = np.random.default_rng(1).integers(0, 2**14, (64, 96)).astype(np.uint16)
    config = replace(SMALL, bits=14, clusters=0, singles=0, frames=1)
    ((frame, _),) = frames(config, read_background(background_file(tmp_path, data), 14))
    assert_array_equal(frame.data, data)
