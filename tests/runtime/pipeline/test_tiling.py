from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from glint.cards import TensorSpec
from glint.errors import InputError
from glint.runtime.pipeline.detector import Detection, Detector
from glint.runtime.pipeline.tiling import OVERLAP_PX, in_tiles, spans
from glint.types import Frame, FrameSize

Render = Callable[..., np.ndarray]


@given(st.integers(1, 3000), st.integers(2, 700), st.integers(0, 699))
def test_tiles_cover_an_axis_once_and_lie_inside_it(length: int, tile: int, overlap: int) -> None:
    overlap = min(overlap, tile - 1)
    parts = spans(length, tile, overlap)
    assert [p.start for p in parts] == [0, *(p.stop for p in parts[:-1])]
    assert parts[-1].stop == length
    for part in parts:
        assert part.first <= part.start < part.stop <= part.first + max(tile, length)
        assert part.first >= 0
    if length > tile:
        assert all(p.stop <= p.first + tile <= length for p in parts)
        # Apart from the frame's own edges, a tile is trusted half an overlap away from its border only.
        assert all(p.start - p.first >= overlap // 2 for p in parts[1:])
        assert all(p.first + tile - p.stop >= overlap // 2 for p in parts[:-1])
    else:
        assert len(parts) == 1


def test_an_overlap_as_large_as_the_tile_is_refused() -> None:
    with pytest.raises(InputError, match="overlap"):
        spans(100, 32, 32)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(150, 400), st.integers(150, 400))
def test_a_local_network_gives_the_same_in_tiles(seed: int, height: int, width: int) -> None:
    image = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)

    def work(tile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return ndimage.uniform_filter(tile, 21), ndimage.maximum_filter(tile, OVERLAP_PX - 1)

    tiled, whole = in_tiles(image, (150, 140), work), work(image)
    assert tiled[0] == pytest.approx(whole[0], abs=1e-5)
    assert np.array_equal(tiled[1], whole[1])


def by_contrast(frame: np.ndarray) -> dict[str, np.ndarray]:
    background = ndimage.median_filter(frame[0, 0], 9)[None, None]
    return {"probability": (frame - background > 12).astype(np.float32), "background": background}


@pytest.fixture
def fixed(fake_detector: Callable[..., Detector]) -> Callable[[int, int], Detector]:
    """A detector whose network takes frames of one size."""

    def make(height: int, width: int) -> Detector:
        detector = fake_detector(by_contrast)
        detector.engine.inputs = (TensorSpec("frame", "float32", (1, 1, height, width)),)
        return detector

    return make


def same(a: Detection, b: Detection) -> bool:
    maps = np.array_equal(a.probability, b.probability) and np.allclose(a.residual, b.residual, atol=1e-4)
    return maps and np.allclose(a.blobs.x, b.blobs.x) and np.array_equal(a.blobs.label_map, b.blobs.label_map)


def sky(render: Render, shape: tuple[int, int], places: list[tuple[float, float, float]]) -> Frame:
    return Frame(0, 0, (100 + render(places, shape, 0.8)).astype(np.float32))


def test_a_frame_larger_than_the_network_gives_what_the_whole_would_give(
    fixed: Callable[[int, int], Detector], fake_detector: Callable[..., Detector], render: Render
) -> None:
    seams = [span.stop for span in spans(300, 128, 64)[:-1]]
    places = [(x + dx, y, 400) for x in seams for dx, y in ((0, 20), (-0.5, 60), (-1, 100.5), (3, 140))]
    places += [(y, x - 0.4, 400) for x in seams for y in (40, 200, 260)]
    frame = sky(render, (300, 300), places)
    tiled, whole = fixed(128, 128)(frame), fake_detector(by_contrast)(frame)
    assert len(whole.blobs) == len(tiled.blobs) >= 10
    assert same(tiled, whole)


def test_blobs_on_a_seam_are_counted_once(fixed: Callable[[int, int], Detector], render: Render) -> None:
    seam = spans(300, 128, 64)[0].stop
    frame = sky(render, (128, 300), [(seam - 0.5, 60, 900)])
    assert len(fixed(128, 128)(frame).blobs) == 1


def test_a_frame_smaller_than_the_network_is_padded_with_its_edge(fixed: Callable[[int, int], Detector]) -> None:
    detector = fixed(64, 80)
    frame = Frame(0, 0, np.arange(40 * 50, dtype=np.uint16).reshape(40, 50))
    detection = detector(frame)
    (seen,) = detector.engine.seen
    assert seen["frame"].shape == (1, 1, 64, 80)
    assert np.array_equal(seen["frame"][0, 0, 40:], np.broadcast_to(seen["frame"][0, 0, 39], (24, 80)))
    assert detection.probability.shape == (40, 50)


def test_a_frame_that_is_longer_on_one_axis_only_is_tiled_there(fixed: Callable[[int, int], Detector]) -> None:
    detector = fixed(96, 128)
    detector(Frame(0, 0, np.zeros((96, 300), dtype=np.uint8)))
    assert {s["frame"].shape for s in detector.engine.seen} == {(1, 1, 96, 128)}
    assert len(detector.engine.seen) == len(spans(300, 128, 64))


def test_tiles_can_be_asked_for_and_are_what_the_network_takes(fake_detector: Callable[..., Detector]) -> None:
    detector = fake_detector(by_contrast)
    detector.tile = FrameSize(120, 100)
    detector(Frame(0, 0, np.zeros((300, 90), dtype=np.uint8)))
    assert {s["frame"].shape for s in detector.engine.seen} == {(1, 1, 112, 96)}


def test_the_released_detector_finds_the_same_in_tiles(detector: Detector, render: Render) -> None:
    noise = np.random.default_rng(0).standard_normal((192, 448))
    places = [(60.3, 50.6, 300), (300.2, 140.4, 300), (395.5, 30.1, 300), (191.6, 100.2, 300)]
    image = np.clip(np.round(40 + noise + render(places, noise.shape)), 0, 255).astype(np.uint8)
    tiled = Detector(detector.engine, detector.card, tile=FrameSize(256, 192))
    for model in (detector, tiled):
        blobs = model(Frame(0, 0, image)).blobs
        found = blobs.score > 0.6
        assert found.sum() == 4
        order, expected = np.argsort(blobs.x[found]), np.array(sorted(places))
        assert blobs.x[found][order] == pytest.approx(expected[:, 0], abs=0.5)
        assert blobs.y[found][order] == pytest.approx(expected[:, 1], abs=0.5)
