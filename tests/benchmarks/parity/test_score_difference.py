"""Differences of scores: the scores are the plain ones, and the intervals are honest."""

import numpy as np
import pytest

from glint.benchmarks.parity.score_difference import compare_detection, compare_unmixing, from_reference
from glint.calibration.task_score import score_targets
from glint.metrics.detection import ImageCounts, score_detection
from glint.runtime.unmixing.unmix import STAGES
from glint.simulation.patches import CONDITIONS, simulate_patches
from glint.types import Targets


def targets(patches, rng, noise, *, missing=0.0):
    """The truth with noise on it, some of it missing."""
    patch, slot = np.nonzero(patches.radiance > 0)
    keep = rng.random(len(patch)) >= missing
    patch, slot = patch[keep], slot[keep]
    x, y = (v[patch, slot] + rng.normal(0, noise, len(patch)) for v in (patches.x, patches.y))
    n = len(patch)
    nan = np.full(n, np.nan)
    return Targets(x, y, patches.radiance[patch, slot], nan, nan, nan, patch, rng.random(n), np.zeros(n))


def sides(patches, seed, noises, missing=(0.0, 0.0)):
    rng = np.random.default_rng(seed)
    return [dict.fromkeys(STAGES, targets(patches, rng, n, missing=m)) for n, m in zip(noises, missing)]


@pytest.fixture(scope="module")
def patches():
    return simulate_patches(CONDITIONS["float"], 300, np.random.default_rng(0))


def test_the_scores_are_those_of_each_side_alone(patches):
    one, two = sides(patches, 1, (0.05, 0.1), (0.0, 0.1))
    rows = {row.score: row for row in compare_unmixing("a", patches, one, two, replicates=20)}
    expected = [score_targets(side["grid"], patches) for side in (one, two)]
    assert [rows["CSO-mAP grid"].reference, rows["CSO-mAP grid"].candidate] == pytest.approx(
        [s.cso_map for s in expected]
    )
    assert [rows["count refined"].reference, rows["count refined"].candidate] == pytest.approx(
        [s.count_accuracy for s in expected]
    )
    assert rows.keys() == {"CSO-mAP grid", "CSO-mAP network", "CSO-mAP refined", "count refined"}


def test_equal_sides_differ_by_nothing_for_certain(patches):
    one, _ = sides(patches, 1, (0.05, 0.05))
    for row in compare_unmixing("a", patches, one, one, replicates=20):
        assert (row.difference, row.low, row.high) == (0, 0, 0)


def test_the_interval_holds_the_difference_of_many_fresh_patches():
    held, truth = 0, None
    config = CONDITIONS["float"]
    large = simulate_patches(config, 4000, np.random.default_rng(99))
    truth = compare_unmixing("a", large, *sides(large, 98, (0.08, 0.1)), replicates=2)[0].difference
    for seed in range(20):
        few = simulate_patches(config, 150, np.random.default_rng(seed))
        row = compare_unmixing("a", few, *sides(few, 50 + seed, (0.08, 0.1)), replicates=200)[0]
        held += row.low <= truth <= row.high
    assert held >= 16  # 19 expected; fewer than 16 happens once in 400


def test_the_interval_is_that_of_resampled_patches(patches):
    """Against drawing patches one by one and scoring them as a new set."""
    one, two = sides(patches, 3, (0.05, 0.12))
    row = compare_unmixing("a", patches, one, two, replicates=400)[0]
    rng = np.random.default_rng(5)
    differences = []
    for _ in range(60):
        drawn = rng.integers(0, len(patches), len(patches))
        again = simulate_patches(CONDITIONS["float"], len(patches), rng)
        again = type(patches)(
            **{**vars(again), "x": patches.x[drawn], "y": patches.y[drawn], "radiance": patches.radiance[drawn]}
        )
        scores = []
        for side in (one, two):
            found = side["grid"]
            rows = [np.flatnonzero(found.blob == p) for p in drawn]
            picked = found.select(np.concatenate(rows))
            blob = np.repeat(np.arange(len(drawn)), [len(r) for r in rows])
            scores.append(score_targets(Targets(**{**vars(picked), "blob": blob}), again).cso_map)
        differences.append(scores[1] - scores[0])
    width = np.std(differences)
    assert (row.high - row.low) / 3.92 == pytest.approx(width, rel=0.35)


def test_a_reference_scores_100_against_itself(patches):
    one, two = sides(patches, 1, (0.05, 0.2), (0.2, 0.0))
    truth = from_reference(patches, one["refined"])
    assert np.array_equal(truth.count, np.bincount(one["refined"].blob, minlength=len(patches)))
    rows = {row.score: row for row in compare_unmixing("a", truth, one, two, replicates=2)}
    assert rows["CSO-mAP refined"].reference == rows["count refined"].reference == 100
    assert rows["CSO-mAP refined"].candidate < 60


def test_a_reference_that_finds_nothing_is_a_truth_without_targets(patches):
    truth = from_reference(patches, Targets())
    assert not truth.radiance.any() and truth.x.shape == (300, 1)
    nothing = dict.fromkeys(STAGES, Targets())
    assert compare_unmixing("a", truth, nothing, nothing, replicates=2)[-1].candidate == 100


def test_detection_scores_are_those_of_each_side_alone():
    rng = np.random.default_rng(0)
    one = [ImageCounts(*row) for row in rng.integers(5, 10, (30, 7)).tolist()]
    two = [ImageCounts(c.intersection - 2, *list(vars(c).values())[1:]) for c in one]
    rows = {row.score: row for row in compare_detection("a", one, two)}
    plain = [score_detection(side) for side in (one, two)]
    assert [rows["IoU"].reference, rows["IoU"].candidate] == [s.iou for s in plain]
    assert [rows["Fa"].reference, rows["Pd"].candidate] == [plain[0].fa, plain[1].pd]
    assert rows["IoU"].low < rows["IoU"].difference < rows["IoU"].high < 0
    assert (rows["Pd"].low, rows["Pd"].high) == (0, 0)


def test_images_without_targets_have_no_pd():
    empty = [ImageCounts(0, 0, 0, 0, 0, 0, 100)] * 3
    rows = {row.score: row for row in compare_detection("a", empty, empty, replicates=5)}
    assert np.isnan(rows["Pd"].reference) and rows["nIoU"].reference == 100
