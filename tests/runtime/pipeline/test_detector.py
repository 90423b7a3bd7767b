from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from arithmetic_detector import above
from arithmetic_detector import detector as arithmetic
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from glint.cards import PRECISIONS, load_card
from glint.errors import EngineError, ModelError
from glint.optics import Psf
from glint.processing.cfar import Cfar
from glint.processing.extent import Extent, confine
from glint.processing.normalise import Normaliser
from glint.processing.point_evidence import PointEvidence
from glint.runtime.pipeline.detector import Detection, Detector, find_blobs
from glint.types import Frame


def probability(rows: list[str], levels: dict[str, float]) -> np.ndarray:
    return np.array([[levels.get(c, 0.0) for c in row] for row in rows], dtype=np.float32)


MASK = [
    "a....",
    ".a..b",
    "....b",
    ".....",
]


def found(residual: np.ndarray | None = None, threshold: float = 0.5) -> Detection:
    p = probability(MASK, {"a": 0.9, "b": 0.6})
    residual = np.zeros_like(p) if residual is None else residual
    return Detection(find_blobs(p, residual.astype(np.float32).__getitem__, threshold), p, residual)


def test_pixels_that_touch_at_a_corner_are_one_blob() -> None:
    blobs = found().blobs
    assert blobs.area.tolist() == [2, 2]
    assert blobs.score == pytest.approx([0.9, 0.6])


def test_the_label_map_holds_row_plus_one_on_the_blob_and_zero_elsewhere() -> None:
    assert found().blobs.label_map.tolist() == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 2],
        [0, 0, 0, 0, 2],
        [0, 0, 0, 0, 0],
    ]


def test_the_centre_is_weighted_by_the_residual_with_x_as_the_column() -> None:
    residual = np.zeros((4, 5))
    residual[0, 0], residual[1, 1] = 300, 100  # a quarter of the way from (0, 0) to (1, 1)
    residual[1, 4], residual[2, 4] = 50, 150
    blobs = found(residual).blobs
    assert blobs.x == pytest.approx([0.25, 4.0], abs=1e-4)
    assert blobs.y == pytest.approx([0.25, 1.75], abs=1e-4)


def test_without_positive_residual_the_centre_is_the_middle_of_the_mask() -> None:
    blobs = found(np.full((4, 5), -7.0)).blobs
    assert blobs.x == pytest.approx([0.5, 4.0])
    assert blobs.y == pytest.approx([0.5, 1.5])


def test_negative_residuals_do_not_pull_the_centre() -> None:
    residual = np.zeros((4, 5))
    residual[0, 0], residual[1, 1] = 100, -100
    blobs = found(residual).blobs
    assert blobs.x[0] == pytest.approx(0.0, abs=1e-4)


def test_a_pixel_at_the_threshold_does_not_belong_to_a_blob() -> None:
    p = np.array([[0.5, 0.0, 0.5001]], dtype=np.float32)
    assert find_blobs(p, np.zeros_like(p).__getitem__, 0.5).label_map.tolist() == [[0, 0, 1]]


def test_no_pixel_above_the_threshold_gives_empty_columns_and_an_empty_map() -> None:
    blobs = found(threshold=0.95).blobs
    assert len(blobs) == len(blobs.y) == len(blobs.area) == len(blobs.score) == 0
    assert blobs.label_map.shape == (4, 5)
    assert not blobs.label_map.any()


def test_a_mask_that_is_all_target_is_one_blob_in_the_middle() -> None:
    p = np.ones((3, 7), dtype=np.float32)
    blobs = find_blobs(p, p.__getitem__, 0.5)
    assert blobs.area.tolist() == [21]
    assert [blobs.x[0], blobs.y[0]] == pytest.approx([3.0, 1.0])


def nothing(frame: np.ndarray) -> dict[str, np.ndarray]:
    return {"probability": np.zeros_like(frame), "background": frame - 1}


@pytest.mark.parametrize(
    ("shape", "padded"), [((33, 47), (48, 48)), ((32, 64), (32, 64)), ((1, 50), (32, 64)), ((1, 1), (32, 32))]
)
def test_the_network_sees_whole_tiles_padded_at_right_and_bottom_with_the_edge(
    fake_detector: Callable[..., Detector], shape: tuple[int, int], padded: tuple[int, int]
) -> None:
    model = fake_detector(nothing)
    data = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)
    detection = model(Frame(0, 0, data))
    (seen,) = model.engine.seen
    assert seen["frame"].shape == (1, 1, *padded)
    assert np.array_equal(seen["frame"][0, 0, : shape[0], : shape[1]], data)
    assert seen["frame"][0, 0, -1, -1] == data[-1, -1]
    assert detection.probability.shape == detection.residual.shape == shape


def test_the_residual_is_in_dn_of_the_frame(fake_detector: Callable[..., Detector]) -> None:
    # The network says that the background is one of its units below the frame: with "standard", one deviation.
    data = np.random.default_rng(0).normal(5000, 40, (32, 32)).astype(np.uint16)
    residual = fake_detector(nothing, normaliser=Normaliser("standard"))(Frame(0, 0, data)).residual
    assert residual == pytest.approx(np.full((32, 32), data.std()), rel=1e-4)


def scene(render: Callable[..., np.ndarray], shape: tuple[int, int] = (64, 96)) -> np.ndarray:
    """A flat noisy sky with one bright target at (60.3, 22.6)."""
    noise = np.random.default_rng(3).standard_normal(shape)
    return np.clip(np.round(40 + noise + render([(60.3, 22.6, 300)], shape, 0.7)), 0, 255).astype(np.uint8)


def test_a_bright_target_under_a_quiet_sky_is_found_where_it_is(
    detector: Detector, render: Callable[..., np.ndarray]
) -> None:
    blobs = detector(Frame(0, 0, scene(render))).blobs
    best = blobs.score.argmax()
    assert np.hypot(blobs.x[best] - 60.3, blobs.y[best] - 22.6) < 1.0


@pytest.mark.parametrize("shape", [(33, 47), (16, 16), (17, 64), (1, 50), (50, 1), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_frames_of_any_size_and_type_give_finite_maps_of_their_size(
    detector: Detector, shape: tuple[int, int], dtype: type
) -> None:
    data = np.random.default_rng(1).integers(0, 200, shape).astype(dtype)
    detection = detector(Frame(0, 0, data))
    assert detection.probability.shape == detection.residual.shape == detection.blobs.label_map.shape == shape
    assert np.isfinite(detection.residual).all()
    assert ((detection.probability >= 0) & (detection.probability <= 1)).all()
    assert np.isfinite(detection.blobs.x).all()


@pytest.mark.parametrize("level", [np.uint8(0), np.uint8(255), np.uint16(65535), np.float32(-3.5), np.float32(1e6)])
def test_a_constant_frame_has_no_blob_and_no_nan(detector: Detector, level: np.generic) -> None:
    detection = detector(Frame(0, 0, np.full((40, 56), level)))
    assert len(detection.blobs) == 0
    assert np.isfinite(detection.probability).all()
    assert np.isfinite(detection.residual).all()


def test_detection_does_not_depend_on_the_gain_and_offset_of_the_camera(
    detector: Detector, render: Callable[..., np.ndarray]
) -> None:
    eight = scene(render)
    weak = eight.astype(np.uint16) * 4
    strong = weak * 37 + 1000
    assert weak.std() > detector.card.normaliser.scale  # flatter frames are not blown up
    a, b = detector(Frame(0, 0, weak)), detector(Frame(0, 0, strong))
    assert np.abs(a.probability - b.probability).max() < 2e-3
    assert len(a.blobs) == len(b.blobs) >= 1
    assert np.array_equal(a.blobs.label_map, b.blobs.label_map)
    assert b.blobs.x == pytest.approx(a.blobs.x, abs=0.02)
    assert b.blobs.y == pytest.approx(a.blobs.y, abs=0.02)
    assert np.abs(b.residual / 37 - a.residual).max() < 0.02 * np.abs(a.residual).max()


def test_the_frame_is_left_as_it_was(detector: Detector, render: Callable[..., np.ndarray]) -> None:
    data = scene(render)
    before = data.copy()
    detector(Frame(0, 0, data))
    assert np.array_equal(data, before)


def one_pixel(frame: np.ndarray) -> dict[str, np.ndarray]:
    probability = np.where(frame == frame.max(), np.float32(0.9), np.float32(0.1))
    return {"probability": probability, "background": np.full_like(frame, 2), "target": np.zeros_like(frame)}


def test_masks_end_where_the_card_says_in_units_of_the_frame(fake_detector: Callable[..., Detector]) -> None:
    detector = fake_detector(one_pixel, normaliser=Normaliser("fixed", 20.0))
    data = np.full((32, 48), 40.0, dtype=np.float32)  # 2 units of 20 DN
    data[10, 9:13] += (0, 30, 90, 20)
    data[20, 30] += 80
    frame = Frame(0, 0, data, full_scale=255.0)
    assert detector(frame).blobs.area.tolist() == [1]
    detector.spec = replace(detector.spec, extent=Extent(factor=2.6))  # 2.6 sqrt(90) DN: 24.7
    blobs = detector(frame).blobs
    assert (blobs.area.tolist(), blobs.score.tolist()) == ([2], pytest.approx([0.9]))
    assert blobs.x == pytest.approx([(10 * 30 + 11 * 90) / 120], abs=1e-3)
    whole, background, _ = detector.decompose(frame)
    assert np.array_equal(whole > 0.5, detector(frame).probability > 0.5)
    told = np.where(data == data.max(), np.float32(0.9), np.float32(0.1))
    expected = confine(told, data, background, 1.0, detector.spec.extent, depth=frame.depth)
    assert np.array_equal(whole, expected)


@pytest.mark.parametrize(
    ("dtype", "full_scale", "area"), [(np.uint8, None, 1), (np.float32, 255.0, 1), (np.float32, None, 3)]
)
def test_masks_end_at_a_share_of_the_peak_at_the_latest_unless_the_frame_is_known_to_be_of_eight_bits(
    fake_detector: Callable[..., Detector], dtype: type, full_scale: float | None, area: int
) -> None:
    detector = fake_detector(one_pixel, normaliser=Normaliser("fixed", 20.0))
    detector.spec = replace(detector.spec, extent=Extent(factor=4.0, share=0.2))  # of 90 DN: 37.9 or 18
    data = np.full((32, 48), 40, dtype=dtype)
    data[10, 9:13] += np.array((0, 30, 90, 20), dtype=dtype)
    frame = Frame(0, 0, data, full_scale=full_scale)
    if full_scale is None and dtype == np.float32:
        assert not frame.depth.known  # few levels are no grid
    assert detector(frame).blobs.area.tolist() == [area]


def as_probability(frame: np.ndarray) -> dict[str, np.ndarray]:
    return {"probability": frame / 100, "background": np.zeros_like(frame), "target": frame.copy()}


@pytest.mark.parametrize(("places", "found"), [(0, 1), (18, 1), (19, 0)])
def test_what_is_a_target_in_a_calm_frame_is_none_among_clutter(
    fake_detector: Callable[..., Detector], places: int, found: int
) -> None:
    detector = fake_detector(as_probability, normaliser=Normaliser("fixed", 1.0))
    data = np.full((96, 96), 5.0, dtype=np.float32)
    data[8::16, 8::16].flat[:places] = 48
    data[90, 90] = 60
    frame = Frame(0, 0, data)
    assert len(detector(frame).blobs) == 1
    detector.spec = replace(detector.spec, cfar=Cfar(cell=16, rank=20, calm=0.27, least=0.27))
    detection = detector(frame, candidates_above=0.2)
    assert len(detection.blobs) == found
    assert detection.candidates is not None and len(detection.candidates) == places + 1 - found
    assert (detector.decompose(frame)[0] > 0.5).sum() == found


def test_a_sharp_point_that_the_network_doubts_is_a_target(fake_detector: Callable[..., Detector]) -> None:
    detector = fake_detector(as_probability, normaliser=Normaliser("fixed", 1.0))
    data = np.random.default_rng(1).normal(20, 0.5, (64, 64))
    data += Psf(0.7).render(np.array([40.0]), np.array([30.0]), np.array([75.0]), data.shape)
    data[10:20, 10:20] += 25  # as likely, and no point
    frame = Frame(0, 0, data.astype(np.float32))
    assert len(detector(frame).blobs) == 0
    detector.spec = replace(detector.spec, points=PointEvidence(weight=0.1))
    blobs = detector(frame).blobs
    assert len(blobs) == 1 and (round(float(blobs.x[0])), round(float(blobs.y[0]))) == (40, 30)
    np.testing.assert_array_equal(detector.decompose(frame)[0] > 0.5, detector(frame).probability > 0.5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_released_detector_has_its_rules(precision: str) -> None:
    spec = load_card("lsnet-s", precision=precision)[0].detector
    assert (spec.extent, spec.cfar, spec.points) == (Extent(), Cfar(), PointEvidence())


def test_an_unmixer_cannot_be_opened_as_a_detector() -> None:
    with pytest.raises(ModelError, match="made to unmix, not to detect"):
        Detector.open("dscsnet-s-sensor")


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.json"):
        Detector.open(tmp_path / "absent.json")


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.integers(1, 25), st.integers(1, 25), st.floats(0, 1))
def test_blobs_are_those_of_an_image_library(seed: int, height: int, width: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    p = (rng.random((height, width)) * (rng.random((height, width)) < share)).astype(np.float32)
    residual = rng.normal(10, 20, (height, width)).astype(np.float32)
    blobs = find_blobs(p, residual.__getitem__, 0.3)
    labels, number = ndimage.label(p > 0.3, structure=np.ones((3, 3)))
    assert np.array_equal(blobs.label_map, labels)
    assert len(blobs) == number
    for i in range(number):
        assert blobs.area[i] == (labels == i + 1).sum()
        assert blobs.score[i] == p[labels == i + 1].max()
    assert blobs.boxes is not None
    assert (blobs.boxes == replace(blobs).boxes).all()  # those that the label map has


@pytest.mark.parametrize("turn", [False, True])
def test_a_long_winding_blob_is_one(turn: bool) -> None:
    p = np.zeros((61, 60), dtype=np.float32)
    p[::2] = 1
    p[1::4, -1] = p[3::4, 0] = 1  # a snake
    p = np.ascontiguousarray(p.T[::-1]) if turn else p
    assert len(find_blobs(p, p.__getitem__, 0.5)) == 1


@pytest.mark.parametrize("output", ["probability", "background"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_finite_are_an_error_and_no_empty_sky(
    monkeypatch: pytest.MonkeyPatch, output: str, value: float
) -> None:
    detector = Detector.open("lsnet-s", engine="onnxruntime")
    with detector.engine:
        infer = detector.engine._infer_some

        def blind(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> dict[str, np.ndarray]:
            answers = {name: array.copy() for name, array in infer(arrays, names).items()}
            answers[output][..., 3, 4] = value
            return answers

        monkeypatch.setattr(detector.engine, "_infer_some", blind)
        with pytest.raises(EngineError, match=f"{output}' is not finite"):
            detector(Frame(0, 0, np.full((64, 64), 7, np.uint8)))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda p: p[::2, ::2], r"float32 \[1, 1, 16, 24\]; expected float32 \[1, 1, 32, 48\]"),
        (lambda p: p[:1, :1], r"float32 \[1, 1, 1, 1\]"),
        (lambda p: 40 * p - 20, "probabilities from -20 to 20; expected 0 to 1"),
        (lambda p: 255 * p, "probabilities from 0 to 255"),
    ],
    ids=["half", "one number", "logits", "parts of 255"],
)
def test_maps_that_are_no_answer_are_refused(spoil: Callable[[np.ndarray], np.ndarray], why: str) -> None:
    def rule(frame: np.ndarray) -> tuple[np.ndarray, ...]:
        probability, background, target = above(100)(frame)
        return spoil(probability), background, target

    data = np.zeros((32, 48), np.float32)
    data[10, 20] = 200
    with pytest.raises(ModelError, match=why):
        arithmetic(rule)(Frame(0, 0, data))
