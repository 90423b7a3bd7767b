from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from sloping_sky import SHAPE, Render, as_frame, plane

from glint.errors import InputError
from glint.optics import Psf
from glint.runtime.engines.base import Arrays
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.pipeline import STAGES, Pipeline
from glint.runtime.pipeline.sensor_correction import Conditioner
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.scenes import generate_background
from glint.types import Frame, TargetFlag

Network = Callable[..., Arrays]
Maps = Callable[..., Arrays]


def by_level(frame: np.ndarray) -> dict[str, np.ndarray]:
    """A detector's network: what stands out of the median of the frame by 12 DN is a target."""
    background = np.full_like(frame, np.median(frame))
    return {"probability": (frame - background > 12).astype(np.float32), "background": background}


@pytest.fixture
def by_peak(make_maps: Maps) -> Network:
    """An unmixer's network: a target in the middle of every pixel that is a local maximum above half of the peak."""

    def network(patch: np.ndarray) -> Arrays:
        image = patch[:, 0]
        peaks = (image == ndimage.maximum_filter(image, (1, 3, 3))) & (image > 0.5)
        rows = [(i, x, y, 2 * image[i, y, x]) for i, y, x in np.argwhere(peaks)]
        return make_maps(rows, len(image), image.shape[-1])

    return network


@pytest.fixture
def one_each(make_maps: Maps) -> Network:
    """An unmixer's network: all light in the middle of the patch."""

    def network(patch: np.ndarray) -> Arrays:
        side = patch.shape[-1]
        rows = [(i, side // 2, side // 2, image.sum()) for i, image in enumerate(patch[:, 0])]
        return make_maps(rows, len(patch), side)

    return network


Build = Callable[..., Pipeline]


@pytest.fixture
def build(fake_detector: Callable[..., Detector], fake_unmixer: Callable[..., Unmixer], by_peak: Network) -> Build:
    def make(network: Network = by_peak, *, crop: int = 7, **options: Any) -> Pipeline:
        return Pipeline(fake_detector(by_level), fake_unmixer(network, crop=crop), **options)

    return make


@pytest.mark.parametrize("crop", [7, 11])
def test_targets_come_back_where_they_are_in_the_frame(build: Build, render: Render, crop: int) -> None:
    truth = [(41.3, 9.8, 300.0), (12.6, 33.2, 200.0), (52.1, 38.4, 250.0)]
    result = build(crop=crop)(as_frame(100 + render(truth, SHAPE)))
    order = np.argsort(-result.targets.x)
    expected = np.array(sorted(truth, key=lambda t: -t[0]))
    assert len(result.targets) == 3
    assert result.targets.x[order] == pytest.approx(expected[:, 0], abs=0.02)
    assert result.targets.y[order] == pytest.approx(expected[:, 1], abs=0.02)
    assert result.targets.radiance[order] == pytest.approx(expected[:, 2], rel=0.02)
    assert not result.targets.flags.any()


def test_a_target_names_the_blob_that_it_came_out_of(build: Build, render: Render) -> None:
    result = build()(as_frame(100 + render([(41.3, 9.8, 300), (12.6, 33.2, 200)], SHAPE)))
    blobs, targets = result.detection.blobs, result.targets
    assert sorted(targets.blob.tolist()) == [0, 1]
    assert targets.x == pytest.approx(blobs.x[targets.blob], abs=0.6)
    assert targets.y == pytest.approx(blobs.y[targets.blob], abs=0.6)


def test_two_targets_of_one_blob_are_taken_apart(build: Build, render: Render) -> None:
    result = build()(as_frame(100 + render([(30.2, 20.1, 300), (31.9, 20.7, 280)], SHAPE)))
    assert len(result.detection.blobs) == 1
    assert result.targets.blob.tolist() == [0, 0]
    assert np.sort(result.targets.x) == pytest.approx([30.2, 31.9], abs=0.02)


@pytest.mark.parametrize("crop", [7, 11])
def test_without_refinement_the_networks_word_is_taken(build: Build, render: Render, crop: int) -> None:
    result = build(refine=False, crop=crop)(as_frame(100 + render([(41.3, 9.8, 300)], SHAPE)))
    targets = result.targets
    assert (targets.x.tolist(), targets.y.tolist()) == ([41.0], [10.0])
    assert targets.radiance == pytest.approx(2 * result.spots.patches.max(), rel=1e-5)
    assert targets.flags.tolist() == [0]
    assert targets.sigma_x == pytest.approx([0.3], rel=1e-5)
    assert targets.sigma_radiance == pytest.approx(0.3 * result.spots.patches.max(), rel=1e-5)


def test_the_network_is_told_of_saturated_pixels_of_the_frame(build: Build, render: Render, one_each: Network) -> None:
    image = np.minimum(60 + render([(30.3, 20.6, 1500)], SHAPE), 255)
    pipeline = build(one_each, crop=11)
    for full_scale, expected in ((255.0, (image >= 255).sum()), (None, 0)):
        pipeline(Frame(0, 0, np.round(image).astype(np.uint8), full_scale=full_scale))
        assert pipeline.unmixer.engine.seen[-1]["patch"][:, 1].sum() == expected


EDGES = [(2.3, 24.2), (61.4, 24.2), (30.2, 1.6), (30.2, 45.7)]


@pytest.mark.parametrize(("x", "y"), EDGES)
def test_targets_whose_patch_reaches_over_the_edge_are_flagged(
    build: Build, render: Render, x: float, y: float
) -> None:
    targets = build()(as_frame(100 + render([(x, y, 300)], SHAPE))).targets
    assert len(targets) >= 1
    assert (targets.flags & TargetFlag.EDGE).all()


@pytest.mark.parametrize(("x", "y"), [(5.1, 5.2), (58.1, 42.1)])
def test_targets_whose_patch_just_fits_into_the_frame_are_not_flagged(
    build: Build, render: Render, x: float, y: float
) -> None:
    targets = build()(as_frame(100 + render([(x, y, 300)], SHAPE))).targets
    assert targets.flags.tolist() == [0]


@pytest.mark.parametrize(("x", "y"), EDGES)
def test_pixels_that_the_frame_does_not_have_are_not_fitted(
    build: Build, render: Render, one_each: Network, x: float, y: float
) -> None:
    targets = build(one_each)(as_frame(100 + render([(x, y, 300)], SHAPE))).targets
    assert targets.x == pytest.approx([x], abs=0.05)
    assert targets.y == pytest.approx([y], abs=0.05)
    assert targets.radiance == pytest.approx([300], rel=0.05)


@pytest.fixture
def cloudy(
    fake_detector: Callable[..., Detector], fake_unmixer: Callable[..., Unmixer], render: Render, one_each: Network
) -> Callable[[np.ndarray], np.ndarray]:
    """Targets found per blob where twelve far apart, of 200 DN, stand before a sky that the detector knows exactly."""

    def count(still: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(1)
        places = [(x + rng.random(), y + rng.random(), 200) for x in (20, 48, 76, 104) for y in (20, 46, 72)]
        light = render(places, still.shape)
        image = np.clip(np.round(still + light + rng.standard_normal(still.shape)), 0, 255).astype(np.uint8)

        def network(frame: np.ndarray) -> Arrays:
            return {"probability": (light > 12).astype(np.float32)[None, None], "background": still[None, None]}

        result = Pipeline(fake_detector(network), fake_unmixer(one_each))(Frame(0, 0, image, full_scale=255.0))
        assert len(result.detection.blobs) == 12
        return np.bincount(result.targets.blob, minlength=12)

    return count


def test_a_single_target_before_a_plain_sky_stays_one(cloudy: Callable[[np.ndarray], np.ndarray]) -> None:
    assert (cloudy(0.5 * plane((96, 128)).astype(np.float32)) == 1).sum() >= 11


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_structure_of_clouds_makes_no_ghosts_beside_a_single_target(
    cloudy: Callable[[np.ndarray], np.ndarray], seed: int
) -> None:
    assert (cloudy(generate_background((96, 128), np.random.default_rng(seed)).astype(np.float32)) == 1).sum() >= 9


def test_a_frame_without_blobs_gives_no_targets(build: Build) -> None:
    result = build()(as_frame(np.full(SHAPE, 100.0)))
    assert len(result.targets) == len(result.detection.blobs) == len(result.spots.patches) == 0


def test_a_frame_of_one_row_passes_through(build: Build) -> None:
    image = np.full((1, 40), 100.0)
    image[0, 20] += 200
    targets = build()(as_frame(image)).targets
    assert (targets.flags & TargetFlag.EDGE).all()
    assert np.isfinite(targets.x).all()


def test_a_blob_much_wider_than_the_optics_becomes_one_extended_target(build: Build, render: Render) -> None:
    targets = build()(as_frame(100 + render([(30.4, 20.7, 2500)], SHAPE, 2.0))).targets
    assert [bool(f & TargetFlag.EXTENDED) for f in targets.flags] == [True]
    assert np.hypot(targets.x[0] - 30.4, targets.y[0] - 20.7) < 0.3
    assert 0.5 * 2500 < targets.radiance[0] < 1.1 * 2500


def test_a_blob_in_which_the_network_sees_nothing_is_still_reported(
    build: Build, make_maps: Maps, render: Render
) -> None:
    frame = as_frame(100 + render([(30.4, 20.7, 300)], SHAPE))
    targets = build(lambda patch: make_maps([], len(patch), patch.shape[-1]))(frame).targets
    assert [bool(f & TargetFlag.EXTENDED) for f in targets.flags] == [False]  # as wide as the model's PSF
    assert np.hypot(targets.x[0] - 30.4, targets.y[0] - 20.7) < 0.3


def test_a_clipped_target_gets_its_radiance_back(build: Build, render: Render, one_each: Network) -> None:
    image = np.minimum(60 + render([(30.3, 20.6, 1500)], SHAPE), 255)
    known = build(one_each, psf=Psf(0.5))
    targets = known(Frame(0, 0, np.round(image).astype(np.uint8), full_scale=255.0)).targets
    flux = (image - 60).sum()
    assert len(targets) == 1
    assert targets.flags[0] & TargetFlag.SATURATED
    assert abs(targets.radiance[0] - 1500) < 0.25 * (1500 - flux)


def test_a_saturated_neighbour_does_not_make_a_target_saturated(
    build: Build, render: Render, one_each: Network
) -> None:
    image = np.minimum(60 + render([(30.3, 20.6, 250), (35.0, 20.6, 1500)], SHAPE), 255)
    result = build(one_each)(Frame(0, 0, np.round(image).astype(np.uint8), full_scale=255.0))
    assert len(result.detection.blobs) == 2
    dim = np.abs(result.targets.x - 30.3) < 0.5
    assert dim.sum() == 1
    assert not (result.targets.flags[dim] & TargetFlag.SATURATED).any()


def test_latency_is_told_by_stage_and_adds_up(build: Build) -> None:
    latency = build()(as_frame(np.full(SHAPE, 100.0)), capture_ms=7.0, queue_ms=3.0).latency_ms
    assert tuple(latency) == STAGES == ("capture", "queue", "detect", "unmix", "refine", "total")
    assert (latency["capture"], latency["queue"]) == (7.0, 3.0)
    assert latency["total"] == pytest.approx(sum(latency[s] for s in STAGES[:-1]))
    assert min(latency.values()) >= 0


@pytest.fixture
def make(
    fake_detector: Callable[..., Detector], fake_unmixer: Callable[..., Unmixer], by_peak: Network
) -> Callable[..., Pipeline]:
    """A pipeline with options of its own."""
    return lambda **options: Pipeline(fake_detector(by_level), fake_unmixer(by_peak), **options)


PLACES = [(41.3, 9.8, 300.0), (12.6, 33.2, 200.0), (52.1, 38.4, 250.0)]


def test_in_a_region_the_same_targets_are_found_at_the_same_places_as_in_the_frame(
    make: Callable[..., Pipeline], render: Render
) -> None:
    frame = as_frame(100 + render(PLACES, SHAPE))
    whole = make(psf=Psf(0.5))(frame)
    part = make(psf=Psf(0.5), roi=(30, 2, 30, 20))(frame)
    assert part.frame is frame
    assert part.detection.probability.shape == part.detection.residual.shape == SHAPE
    assert part.detection.blobs.label_map.shape == SHAPE
    inside = (whole.targets.x > 30) & (whole.targets.y < 22)
    assert inside.sum() == 1
    for name in ("x", "y", "radiance"):
        assert getattr(part.targets, name) == pytest.approx(getattr(whole.targets, name)[inside], abs=1e-3)
    assert part.detection.blobs.x == pytest.approx([41.3], abs=0.5)
    assert part.detection.blobs.label_map[10, 41] == 1


def test_a_region_is_all_that_the_detector_sees(make: Callable[..., Pipeline], render: Render) -> None:
    pipeline = make(roi=(16, 8, 32, 16))
    pipeline(as_frame(100 + render(PLACES, SHAPE)))
    assert pipeline.detector.engine.seen[0]["frame"].shape[2:] == (32, 32)  # the least that it takes


def test_the_whole_frame_as_region_changes_nothing(make: Callable[..., Pipeline], render: Render) -> None:
    frame = as_frame(100 + render(PLACES, SHAPE))
    whole, part = make()(frame), make(roi=(0, 0, 64, 48))(frame)
    assert np.array_equal(whole.targets.x, part.targets.x)
    assert np.array_equal(whole.detection.blobs.label_map, part.detection.blobs.label_map)


@pytest.mark.parametrize("roi", [(60, 0, 5, 5), (0, 40, 5, 9)])
def test_a_region_beyond_the_frame_is_refused(make: Callable[..., Pipeline], roi: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="does not fit into a frame of 64x48"):
        make(roi=roi)(as_frame(np.zeros(SHAPE)))


@pytest.mark.parametrize("roi", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 5)])
def test_a_region_that_is_none_is_refused(make: Callable[..., Pipeline], roi: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="roi"):
        make(roi=roi)


def test_the_sensor_is_corrected_before_all_else_and_the_result_keeps_the_frame_as_it_came(
    make: Callable[..., Pipeline], render: Render
) -> None:
    rng = np.random.default_rng(0)
    pattern = rng.uniform(0, 400, SHAPE)
    dead = np.zeros(SHAPE, dtype=bool)
    dead[20, 30] = dead[5, 5] = True
    image = 100 + render(PLACES, SHAPE) + pattern
    image[dead] = 4000
    frame = as_frame(image, full_scale=4000.0)
    result = make(conditioner=Conditioner(dead, pattern))(frame)
    assert result.frame is frame
    expected = np.array(sorted(PLACES))
    order = np.argsort(result.targets.x)
    assert result.targets.x[order] == pytest.approx(expected[:, 0], abs=0.02)
    assert result.targets.radiance[order] == pytest.approx(expected[:, 2], rel=0.02)
    assert not result.targets.flags.any()


def test_a_target_that_saturated_the_raw_pixel_is_saturated_after_the_correction(
    make: Callable[..., Pipeline], render: Render
) -> None:
    pattern = np.random.default_rng(0).uniform(0, 50, SHAPE)
    image = np.minimum(60 + pattern + render([(30.3, 20.6, 1500)], SHAPE), 300)
    frame = as_frame(image, full_scale=300.0)
    targets = make(conditioner=Conditioner(dark=pattern))(frame).targets
    assert len(targets) >= 1
    assert (targets.flags & TargetFlag.SATURATED).all()


def test_a_late_frame_is_not_refined_and_its_targets_say_so(make: Callable[..., Pipeline], render: Render) -> None:
    frame = as_frame(100 + render(PLACES, SHAPE))
    late = make()(frame, deadline_ns=time.monotonic_ns()).targets
    plain = make(refine=False)(frame, deadline_ns=time.monotonic_ns()).targets
    timely = make()(frame, deadline_ns=time.monotonic_ns() + 10**12).targets
    assert (late.flags == TargetFlag.UNREFINED).all()
    assert np.array_equal(late.x, plain.x)
    assert not plain.flags.any()  # nobody wanted them refined
    assert not timely.flags.any()
    assert not np.array_equal(timely.x, plain.x)


def test_the_released_models_find_a_bright_target_in_a_frame(
    detector: Detector, unmixer: Unmixer, render: Render
) -> None:
    noise = np.random.default_rng(0).standard_normal(SHAPE)
    image = np.clip(np.round(40 + noise + render([(30.3, 20.6, 250)], SHAPE)), 0, 255).astype(np.uint8)
    targets = Pipeline(detector, unmixer)(Frame(0, 0, image, full_scale=255.0)).targets
    assert len(targets) >= 1
    best = targets.radiance.argmax()
    assert np.hypot(targets.x[best] - 30.3, targets.y[best] - 20.6) < 0.3
    assert targets.radiance[best] == pytest.approx(250, rel=0.3)


def test_the_released_models_pass_a_frame_in_which_nothing_is(detector: Detector, unmixer: Unmixer) -> None:
    for refine in (True, False):
        result = Pipeline(detector, unmixer, refine=refine)(as_frame(np.full(SHAPE, 100.0)))
        assert len(result.targets) == len(result.detection.blobs) == 0
