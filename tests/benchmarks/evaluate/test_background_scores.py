"""Detectors of known behaviour on frames without targets: what is counted of them."""

import numpy as np
import pytest
from arithmetic_detector import above, detector
from scipy.stats import binomtest

from glint.benchmarks.evaluate.background_scores import (
    CLUSTERS_PER_FRAME,
    SCRS,
    SINGLES_PER_LEVEL,
    evaluate_backgrounds,
    wilson,
)
from glint.benchmarks.evaluate.detection_scores import Prediction, detector_prediction


def backgrounds(model, frames, **options):
    return evaluate_backgrounds(detector_prediction(model), frames, threshold=model.spec.threshold, **options)


@pytest.mark.parametrize(("found", "of"), [(0, 5), (3, 7), (190, 200), (200, 200)])
def test_wilsons_interval(found, of):
    expected = binomtest(found, of).proportion_ci(0.95, method="wilson")
    assert wilson(found, of) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-4)


def flat(level=60, shape=(300, 400)):
    return np.full(shape, level, dtype=np.uint8)


def test_a_perfect_detector_of_flat_frames_finds_all_and_keeps_the_flux():
    score = backgrounds(detector(above(60)), [("a", flat()), ("b", flat())])
    assert score["false_alarms"]["per_frame"] == 0
    assert score["false_alarms"]["worst"] == []
    curve = {p["scr"]: p for p in score["pd_by_scr"]}
    assert list(curve) == list(SCRS)
    assert all(p["targets"] == 2 * SINGLES_PER_LEVEL for p in curve.values())
    assert all(curve[scr]["pd"] == 100 for scr in SCRS)
    assert curve[5.0]["interval"] == list(wilson(6, 6))
    flux = score["flux"]
    assert (flux["clusters"], flux["found"]) == (2 * CLUSTERS_PER_FRAME, 2 * CLUSTERS_PER_FRAME)
    assert flux["residual_error"] < 2  # of whole DN
    assert flux["target_error"] < 2
    assert flux["inside"] > 90


def test_only_what_is_bright_enough_is_found():
    score = backgrounds(detector(above(64.5)), [("a", flat())])  # a clutter of 1 DN: SCR is DN
    found = {p["scr"]: p["pd"] for p in score["pd_by_scr"]}
    assert (found[4.0], found[7.0]) == (0, 100)


def test_a_background_that_takes_a_tenth_of_the_flux_is_told():
    def rule(frame):
        target = np.maximum(frame - 60, 0)
        return target > 0.5, 60 + 0.1 * target, 0.8 * target

    flux = backgrounds(detector(rule), [("a", flat())])["flux"]
    assert flux["residual_error"] == pytest.approx(10, abs=1.5)
    assert flux["residual_ratio"] == pytest.approx(0.9, abs=0.015)
    assert flux["target_error"] == pytest.approx(20, abs=1.5)


def test_false_alarms_are_counted_per_frame_and_apart_for_frames_seen_in_training():
    spotted = flat()
    spotted[50, 50] = spotted[100, 100] = spotted[100, 101] = 200  # two spots
    frames = [("seen", flat()), ("new", spotted), ("clean", flat())]
    alarms = backgrounds(detector(above(60)), frames, trained=["seen"])["false_alarms"]
    assert (alarms["frames"], alarms["per_frame"]) == (3, pytest.approx(2 / 3))
    assert (alarms["unseen_frames"], alarms["per_unseen_frame"]) == (2, 1)
    assert alarms["worst"] == [{"name": "new", "alarms": 2}]


def test_a_blind_detector_has_no_flux():
    score = backgrounds(detector(lambda f: (0 * f, f, 0 * f)), [("a", flat())])
    assert score["flux"]["found"] == 0
    assert score["flux"]["residual_error"] is None
    assert {p["pd"] for p in score["pd_by_scr"]} == {0.0}


def test_frames_too_small_for_targets_leave_pd_unknown():
    score = backgrounds(detector(above(60)), [("a", flat(shape=(32, 32)))])
    assert all((p["targets"], p["pd"], p["interval"]) == (0, None, None) for p in score["pd_by_scr"])
    assert score["flux"] is None


def test_a_method_without_a_background_has_alarms_and_a_curve_only():
    score = evaluate_backgrounds(lambda one: Prediction((one.image > 62).astype(float)), [("a", flat())])
    assert score["flux"] is None
    assert score["pd_by_scr"][-1]["pd"] == 100


def test_the_threshold_is_the_one_that_is_asked_for():
    def predict(one):
        return Prediction(np.where(one.image > 62, 0.6, 0.0))

    low, high = (evaluate_backgrounds(predict, [("a", flat())], threshold=t)["pd_by_scr"][-1]["pd"] for t in (0.5, 0.7))
    assert (low, high) == (100, 0)
