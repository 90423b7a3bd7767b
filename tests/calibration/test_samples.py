"""Calibration sets: chosen evenly, made again exactly, and refused where they say nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glint.calibration.sample_choice import cells, choose, frame_figures, patch_figures
from glint.calibration.samples import check_images, load_samples, make_samples, network_inputs, scene_of
from glint.cards import TensorSpec, load_card
from glint.data.csist import write_csist
from glint.errors import InputError, SourceError
from glint.images import write_image
from glint.runtime.pipeline.detector import Detector
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.patches import CONDITIONS, SENSOR_TRAINING, simulate_patches
from glint.types import Frame

UNMIXER = load_card("dscsnet-s-csist")[0]
SENSOR = load_card("dscsnet-s-sensor")[0]
DETECTOR = load_card("lsnet-s")[0]


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_no_cell_gets_two_more_than_another_that_has_some_left(pool, number, seed):
    figures = np.random.default_rng(seed).integers(0, 4, (pool, 3)).astype(float)
    rows = choose(figures, number)
    assert len(rows) == len(set(rows.tolist())) == min(pool, number)
    assert (np.diff(rows) > 0).all()
    cell = cells(figures)
    taken = {c: int((cell[rows] == c).sum()) for c in np.unique(cell)}
    left = {c: int((cell == c).sum()) - taken[c] for c in taken}
    for n in taken.values():
        assert all(n <= taken[d] + 1 for d in taken if left[d] > 0)


def test_a_rare_combination_is_not_missed():
    figures = np.zeros((500, 2))
    figures[400:] = 1.0
    figures[123] = (0.0, 1.0)
    assert 123 in choose(figures, 6)


def test_the_figures_of_patches_are_what_they_are_called():
    patches = simulate_patches(SENSOR_TRAINING, 400, np.random.default_rng(0))
    count, radiance, noise, level, saturated = patch_figures(patches).T
    assert np.array_equal(count, patches.count)
    assert radiance[count == 1] == pytest.approx(patches.radiance.max(axis=1)[count == 1])
    loud = patches.noise > 1
    assert np.corrcoef(noise[loud], patches.noise[loud])[0, 1] > 0.6
    assert np.corrcoef(level, patches.background)[0, 1] > 0.95
    assert np.array_equal(saturated > 0, (patches.image >= patches.full_scale[:, None, None]).any(axis=(1, 2)))


def test_the_figures_of_frames_do_not_depend_on_gain_and_offset():
    frame = np.random.default_rng(0).normal(100, 5, (64, 80))
    frame[20, 30] += 90
    assert frame_figures(frame) == pytest.approx(frame_figures(frame * 64 + 1000), rel=1e-9)
    quiet = frame_figures(np.where(frame > 150, frame, 100 + (frame - 100) / 10))
    assert quiet[1] > frame_figures(frame)[1]  # the peak stands out more


@pytest.mark.parametrize("card", [UNMIXER, SENSOR, DETECTOR], ids=["csist", "sensor", "frames"])
def test_the_same_seed_gives_the_same_set_and_another_another(card, capsys):
    number = 40 if card.task == "unmix" else 4
    one, two, other = (make_samples(card, number=number, seed=seed) for seed in (1, 1, 2))
    assert one.listed() == two.listed() and one.digest() == two.digest() != other.digest()
    assert all(np.array_equal(a, b) for a, b in zip(one.batches, two.batches))
    assert len(one.names) == number == sum(len(b) for b in one.batches)
    assert "rough" in capsys.readouterr().err  # so few


def test_a_set_of_patches_covers_what_the_model_was_trained_on():
    samples = make_samples(SENSOR, number=300)
    pool = simulate_patches(scene_of(SENSOR), 8 * 300, np.random.default_rng(1))
    taken = [int(name.partition("/")[2]) for name in samples.names]
    counts = np.bincount(pool.count[taken], minlength=6)[1:]
    assert counts.min() > 30
    assert (pool.noise[taken] > 3).sum() > 10 and (pool.noise[taken] < 0.1).sum() > 30


def test_the_network_is_shown_what_the_runtime_shows_it():
    class Spy:
        inputs, outputs, seen = (TensorSpec("frame", "float32", (1, 1, -1, -1)),), (), None

        def infer(self, *outputs, **arrays):
            Spy.seen = next(iter(arrays.values()))
            raise KeyboardInterrupt

    patches = simulate_patches(CONDITIONS["8sat"], 30, np.random.default_rng(0))
    with pytest.raises(KeyboardInterrupt):
        Unmixer(Spy(), UNMIXER)(patches.image, full_scale=patches.full_scale[:, None, None])
    (batch,) = network_inputs(UNMIXER, list(patches.image), patches.full_scale)
    assert np.array_equal(batch, Spy.seen) and batch[:, 1].any()
    frame = np.random.default_rng(0).integers(0, 255, (50, 70)).astype(np.uint8)
    with pytest.raises(KeyboardInterrupt):
        Detector(Spy(), DETECTOR)(Frame(0, 0, frame))
    assert np.array_equal(network_inputs(DETECTOR, [frame])[0], Spy.seen)


def night(folder, images):
    for i, image in enumerate(images):
        write_image(folder / f"{i:02d}.png", image)
    return folder


def noise(number=12, shape=(40, 48), top=255, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return [rng.integers(0, top + 1, shape).astype(dtype) for _ in range(number)]


def test_real_frames_are_half_of_the_set(tmp_path):
    samples = make_samples(DETECTOR, number=8, data=night(tmp_path / "night", noise()))
    assert [name.split("/")[0] for name in samples.names] == ["night"] * 4 + ["simulated"] * 4


def test_of_a_labelled_folder_only_the_training_split_is_used(tmp_path):
    night(tmp_path / "images", noise())
    (tmp_path / "train.txt").write_text("00\n03\n05\n")
    samples = make_samples(DETECTOR, number=8, data=tmp_path)
    assert {n.split("/")[1] for n in samples.names if not n.startswith("simulated")} == {"00.png", "03.png", "05.png"}
    (tmp_path / "train.txt").write_text("00\nmissing\n")
    with pytest.raises(SourceError, match="missing"):
        make_samples(DETECTOR, number=8, data=tmp_path)


def test_real_patches_from_both_formats(tmp_path):
    patches = simulate_patches(CONDITIONS["8sat"], 60, np.random.default_rng(0))
    np.save(tmp_path / "patches.npy", patches.image)
    write_csist(tmp_path / "csist", patches)
    for data in (tmp_path / "patches.npy", tmp_path / "csist"):
        samples = make_samples(UNMIXER, number=100, data=data)
        assert sum(name.startswith(data.name) for name in samples.names) == 50


def test_a_saved_set_is_made_again_and_checked(tmp_path):
    data = night(tmp_path / "night", noise())
    samples = make_samples(DETECTOR, number=8, data=data, seed=3)
    path = tmp_path / "set.json"
    path.write_text(json.dumps(samples.listed()))
    again = load_samples(DETECTOR, path, data=data)
    assert again.digest() == samples.digest()
    with pytest.raises(InputError, match="differ from the listed ones"):
        load_samples(DETECTOR, path)  # without the real frames
    changed = noise()
    night(data, [image[::-1] for image in changed])
    with pytest.raises(InputError, match="the first is night/"):
        load_samples(DETECTOR, path, data=data)
    with pytest.raises(InputError, match="not 1 for dscsnet"):
        load_samples(UNMIXER, path)
    path.write_text('{"format": 1}')
    with pytest.raises(InputError, match="expected format, model"):
        load_samples(DETECTOR, path)


BAD = {
    "all zeros": (np.zeros((40, 48), np.uint8), None),
    "are constant": (np.full((40, 48), 7, np.uint8), None),
    "NaN": (np.full((40, 48), np.nan, np.float32), None),
    "exceed 1023": (np.full((40, 48), 2000, np.uint16) + np.arange(48, dtype=np.uint16), 10),
    "are no numbers": (np.full((40, 48), "x"), None),
}


@pytest.mark.parametrize("reason", BAD)
def test_pixels_that_say_nothing_are_refused_with_the_reason(reason):
    image, bits = BAD[reason]
    with pytest.raises(InputError, match=reason) as caught:
        check_images([*noise(5), image], [f"frame {i}" for i in range(6)], bits=bits)
    assert "1 of 6 samples" in str(caught.value) and "frame 5" in str(caught.value) and caught.value.hint
    check_images(noise(5), ["a"] * 5, bits=8)


def test_eight_bit_data_for_a_deeper_camera_are_refused(tmp_path):
    data = night(tmp_path / "night", noise())
    with pytest.raises(InputError, match="8-bit data for a 14-bit model"):
        make_samples(DETECTOR, number=8, data=data, bits=14)
    deep = night(tmp_path / "deep", noise(top=16383, dtype=np.uint16))
    assert make_samples(DETECTOR, number=8, data=deep, bits=14).bits == 14
    with pytest.raises(InputError, match="exceed 255"):
        make_samples(DETECTOR, number=8, data=deep, bits=8)


def test_one_sample_and_equal_samples_are_refused(tmp_path):
    with pytest.raises(InputError, match="one sample"):
        make_samples(UNMIXER, number=1)
    with pytest.raises(InputError, match="1 sample says nothing"):
        make_samples(DETECTOR, data=night(tmp_path / "one", noise(1)))


@pytest.mark.parametrize("scale", [1 / 64 / 8, 64.0])
def test_patches_in_other_units_are_refused_where_the_model_can_tell(tmp_path, scale):
    patches = simulate_patches(CONDITIONS["float"], 60, np.random.default_rng(0))
    np.save(tmp_path / "patches.npy", patches.image * np.float32(scale))
    only = replace(UNMIXER, training={"data": {"scene": {"radiance": [200.0 * scale, 250.0 * scale]}}})
    with pytest.raises(InputError, match="times as bright as what"):
        make_samples(only, number=100, data=tmp_path / "patches.npy")
    make_samples(SENSOR, number=100, data=tmp_path / "patches.npy")  # its normaliser takes any gain


@pytest.mark.parametrize("shape", [(20, 7, 7), (20, 11), (20, 1, 11, 11)])
def test_patches_of_another_size_are_refused(tmp_path, shape):
    np.save(tmp_path / "patches.npy", np.ones(shape))
    with pytest.raises(InputError, match=r"expected patches \[N, 11, 11\], got"):
        make_samples(UNMIXER, number=100, data=tmp_path / "patches.npy")


def test_a_file_that_is_no_array_is_refused(tmp_path):
    (tmp_path / "patches.npy").write_text("no array")
    with pytest.raises(InputError, match=r"patches\.npy"):
        make_samples(UNMIXER, number=100, data=tmp_path / "patches.npy")
