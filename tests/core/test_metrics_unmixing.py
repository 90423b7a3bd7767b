"""CSO-mAP against its definition, hand-worked cases and the closed form of a perfect grid."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.errors import InputError
from glint.metrics.unmixing import THRESHOLDS, average_precision, rank_detections, score_unmixing
from glint.processing.grid import decode, encode
from glint.simulation.patches import CONDITIONS, simulate_patches


def score(detections, truths):
    """Detections as rows (patch, x, y, radiance, score), truths as one list of (x, y, radiance) per patch."""
    columns = np.array(detections, dtype=float).reshape(-1, 5).T
    table = np.zeros((len(truths), max(1, *map(len, truths)) if truths else 1, 3))
    for row, targets in zip(table, truths):
        row[: len(targets)] = np.array(targets, dtype=float).reshape(-1, 3)
    x, y, radiance = np.moveaxis(table, -1, 0)
    return score_unmixing(*columns, truth_x=x, truth_y=y, truth_radiance=radiance)


def test_thresholds_are_those_of_the_benchmark():
    assert THRESHOLDS == (0.05, 0.10, 0.15, 0.20, 0.25)


# Hand-worked cases


def test_perfect_detections_score_100():
    result = score([(0, 3, 4, 230, 0.9), (1, 5, 5, 240, 0.8)], [[(3, 4, 230)], [(5, 5, 240)]])
    assert result.ap == (100,) * 5
    assert (result.cso_map, result.count_accuracy, result.matched) == (100, 100, 100)
    assert (result.position_rmse, result.radiance_error) == (0, 0)
    assert result.patches == 2


@pytest.mark.parametrize(
    ("distance", "expected"), [(0.04, 100), (0.07, 80), (0.12, 60), (0.17, 40), (0.22, 20), (0.25, 20), (0.26, 0)]
)
def test_a_single_detection_counts_at_every_threshold_that_it_reaches(distance, expected):
    assert score([(0, distance, 0, 1, 1)], [[(0, 0, 1)]]).cso_map == pytest.approx(expected)


def test_a_duplicate_is_a_false_positive_in_its_place_of_the_order():
    # Verdicts true, false, true of two truths: 1/2 * 1 + 1/2 * 2/3.
    result = score([(0, 1, 1, 1, 0.9), (0, 1, 1, 1, 0.8), (0, 2, 2, 1, 0.7)], [[(1, 1, 1), (2, 2, 1)]])
    assert result.ap == pytest.approx((500 / 6,) * 5)


def test_a_duplicate_after_the_last_truth_costs_nothing_but_the_count():
    result = score([(0, 1, 1, 1, 0.9), (0, 1, 1, 1, 0.8)], [[(1, 1, 1)]])
    assert result.cso_map == 100
    assert result.count_accuracy == 0


def test_a_detection_looks_at_its_nearest_truth_only():
    # The second is nearest to the truth at 0, which is taken; the free one at 0.2 is 0.11 away.
    result = score([(0, 0.02, 0, 1, 0.9), (0, 0.09, 0, 1, 0.8)], [[(0, 0, 1), (0.2, 0, 1)]])
    assert result.ap == pytest.approx((50,) * 5)
    assert result.matched == 100  # one-to-one, both truths have a detection


def test_a_detection_too_far_to_match_does_not_take_the_truth():
    # At 0.05 and 0.10 the first is false and the second true (1/2), from 0.15 on the first is true.
    result = score([(0, 0.12, 0, 1, 0.9), (0, 0.03, 0, 1, 0.8)], [[(0, 0, 1)]])
    assert result.ap == pytest.approx((50, 50, 100, 100, 100))


def test_a_false_positive_of_higher_score_costs_precision():
    assert score([(0, 5, 5, 1, 0.9), (0, 1, 1, 1, 0.8)], [[(1, 1, 1)]]).ap == pytest.approx((50,) * 5)


def test_precision_is_interpolated_from_the_right():
    # False, true, true of two: precision 1/2 at the first is lifted to the 2/3 behind it.
    result = score([(0, 9, 9, 1, 0.9), (0, 1, 1, 1, 0.8), (0, 2, 2, 1, 0.7)], [[(1, 1, 1), (2, 2, 1)]])
    assert result.ap == pytest.approx((200 / 3,) * 5)


def test_equal_scores_keep_the_order_in_which_they_came():
    false, true = (0, 5, 5, 1, 0.5), (0, 1, 1, 1, 0.5)
    assert score([true, false], [[(1, 1, 1)]]).cso_map == 100
    assert score([false, true], [[(1, 1, 1)]]).cso_map == pytest.approx(50)


def test_scores_are_ordered_over_all_patches():
    # Patch 1 holds a false positive between the two true ones: 1/2 * 1 + 1/2 * 2/3.
    detections = [(0, 1, 1, 1, 0.3), (1, 7, 7, 1, 0.6), (1, 2, 2, 1, 0.9)]
    assert score(detections, [[(1, 1, 1)], [(2, 2, 1)]]).cso_map == pytest.approx(500 / 6)


def test_a_detection_does_not_match_in_another_patch():
    result = score([(0, 1, 1, 1, 1)], [[(5, 5, 1)], [(1, 1, 1)]])
    assert (result.cso_map, result.matched) == (0, 0)


def test_patches_without_detections_lower_the_recall():
    result = score([(1, 1, 1, 1, 1)], [[(1, 1, 1)], [(1, 1, 1)], [(2, 2, 1), (3, 3, 1)]])
    assert result.ap == pytest.approx((25,) * 5)
    assert (result.matched, result.count_accuracy) == (pytest.approx(25), pytest.approx(100 / 3))


def test_no_detections_score_0_and_have_no_position_error():
    result = score([], [[(1, 1, 1)], []])
    assert (result.cso_map, result.matched, result.count_accuracy) == (0, 0, 50)
    assert math.isnan(result.position_rmse)
    assert math.isnan(result.radiance_error)


def test_an_empty_slot_is_no_truth_though_a_detection_lies_on_it():
    result = score([(0, 0, 0, 1, 0.9), (0, 4, 4, 1, 0.8)], [[(4, 4, 1)], [(1, 1, 1), (2, 2, 1)]])
    assert result.ap == pytest.approx((100 / 6,) * 5)  # false, true of three truths: 1/3 * 1/2
    assert result.matched == pytest.approx(100 / 3)


def test_without_any_truth_every_detection_is_false_and_the_recall_unknown():
    result = score([(0, 0, 0, 1, 1)], [[], []])
    assert (result.cso_map, result.count_accuracy) == (0, 50)
    assert math.isnan(result.matched)


def test_errors_beside_the_map_are_those_of_the_one_to_one_pairs():
    truths = [[(1, 1, 200), (5, 5, 100)], [(3, 3, 100)]]
    detections = [(0, 1.03, 1.04, 220, 1), (0, 5, 5.12, 50, 1), (1, 3.0, 3.0, 100, 1), (1, 9, 9, 100, 1)]
    result = score(detections, truths)
    assert result.position_rmse == pytest.approx(math.sqrt((0.05**2 + 0.12**2 + 0) / 3))
    assert result.radiance_error == pytest.approx(10)  # median of 10, 50 and 0 percent
    assert (result.matched, result.count_accuracy) == (100, 50)


def test_a_pair_half_a_pixel_apart_is_no_match():
    assert score([(0, 0.5, 0, 1, 1)], [[(0, 0, 1)]]).matched == 0
    assert score([(0, 0.499, 0, 1, 1)], [[(0, 0, 1)]]).matched == 100


@pytest.mark.parametrize("patch", [-1, 1])
def test_patch_numbers_outside_are_refused(patch):
    with pytest.raises(InputError, match="patch numbers"):
        score([(patch, 0, 0, 1, 1)], [[(0, 0, 1)]])


def test_columns_of_different_length_are_refused():
    truth = np.ones((1, 1))
    with pytest.raises(InputError, match="columns of one length"):
        score_unmixing([0], [0.0], [0.0], [1.0], [1.0, 2.0], truth_x=truth, truth_y=truth, truth_radiance=truth)


@pytest.mark.parametrize(
    ("verdicts", "truths", "expected"),
    [([], 3, 0), ([True], 0, 0), ([True], 1, 1), ([False, False], 2, 0), ([True, False, True], 4, (1 + 2 / 3) / 4)],
)
def test_average_precision_by_hand(verdicts, truths, expected):
    assert average_precision(np.array(verdicts, dtype=bool), truths) == pytest.approx(expected)


# By definition


def reference(detections, truths):
    """CSO-mAP word for word: greedy over the score order, then the area of the interpolated curve."""
    total, result = sum(map(len, truths)), []
    for threshold in THRESHOLDS:
        taken, points, hits = set(), [(0.0, 1.0)], 0
        for rank, (patch, x, y, _, _) in enumerate(sorted(detections, key=lambda d: -d[4]), start=1):
            distances = [np.hypot(tx - x, ty - y) for tx, ty, _ in truths[patch]]
            nearest = min(range(len(distances)), key=distances.__getitem__, default=None)
            if nearest is not None and distances[nearest] <= threshold and (patch, nearest) not in taken:
                taken.add((patch, nearest))
                hits += 1
            if total:
                points.append((hits / total, hits / rank))
        area = 0.0
        for (before, _), (recall, _) in pairwise(points):
            area += (recall - before) * max(p for r, p in points[1:] if r >= recall)
        result.append(100 * area)
    return result


grid_step = st.integers(0, 8).map(lambda i: i * 0.05)
target = st.tuples(grid_step, grid_step, st.just(1.0))


@st.composite
def cases(draw):
    truths = draw(st.lists(st.lists(target, max_size=3), min_size=1, max_size=3))
    number = st.integers(0, len(truths) - 1)
    coordinate = st.one_of(grid_step, st.floats(-0.2, 0.6))
    one = st.tuples(number, coordinate, coordinate, st.just(1.0), st.sampled_from([0.2, 0.5, 0.9]))
    return draw(st.lists(one, max_size=8)), truths


@settings(deadline=None, max_examples=200, derandomize=True)
@given(case=cases())
def test_map_equals_its_definition(case):
    result = score(*case)
    assert result.ap == pytest.approx(reference(*case), abs=1e-9)
    assert result.cso_map == pytest.approx(np.mean(reference(*case)), abs=1e-9)


# The limit of grid methods


def share_within(t, c):
    """Share of a cell (a square of side 1/c) within t of its centre: a disc clipped by four sides."""
    half = 0.5 / c
    if t >= half * math.sqrt(2):
        return 1.0
    area = math.pi * t**2
    if t > half:
        area -= 4 * (t**2 * math.acos(half / t) - half * math.sqrt(t**2 - half**2))
    return area * c**2


def grid_answer(x, y, radiance, n, c):
    """What a perfect c-times grid says about the targets, in an order that knows nothing."""
    patch, gx, gy, gr = decode(encode(x, y, radiance, n, c), c, 0.0)
    order = np.random.default_rng(1).random(len(patch))
    return score_unmixing(patch, gx, gy, gr, order, truth_x=x, truth_y=y, truth_radiance=radiance)


def test_closed_form_of_the_limit_of_three_cells():
    shares = [share_within(t, 3) for t in THRESHOLDS]
    assert shares == pytest.approx([0.0707, 0.2827, 0.6362, 0.9509, 1], abs=5e-5)
    assert 100 * np.mean(np.square(shares)) == pytest.approx(47.9, abs=0.05)


@pytest.mark.parametrize(("c", "limit"), [(3, 47.9), (5, 73.1)])
def test_perfect_grid_answers_in_random_order_score_the_closed_form(c, limit):
    # One target per patch, spread evenly over the pixel by a Kronecker sequence; precision is p(t)
    # all along, recall ends at p(t). Of 8,000 targets the random order leaves less than a point.
    steps = np.arange(8000)[:, None]
    x, y = (0.5 + np.mod(steps * irrational, 1) for irrational in (math.sqrt(2), math.sqrt(3)))
    result = grid_answer(x, y, np.full_like(x, 235.0), 3, c)
    assert result.ap == pytest.approx([100 * share_within(t, c) ** 2 for t in THRESHOLDS], abs=1.0)
    assert result.cso_map == pytest.approx(limit, abs=0.3)
    assert (result.matched, result.count_accuracy, result.radiance_error) == (100, 100, 0)


def test_perfect_grid_answers_to_the_protocol_score_48_8():
    patches = simulate_patches(CONDITIONS["float"], 3000, np.random.default_rng(2))
    result = grid_answer(patches.x, patches.y, patches.radiance, 11, 3)
    assert result.count_accuracy == 100  # 0.5 px apart, no two targets fit into a cell of 1/3 px
    assert result.cso_map == pytest.approx(48.8, abs=1.0)


# Weights


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(0, 100))
def test_a_patch_of_weight_k_counts_like_k_copies_of_it(often, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 3, (2, 6, 3))
    radiance = np.where(rng.random((6, 3)) < 0.8, 230.0, 0.0)
    patch, slot = (v.ravel() for v in np.indices((6, 3)))
    guess = [v[patch, slot] + rng.normal(0, 0.1, 18) for v in (x, y)]
    score = rng.random(18)
    ranking = rank_detections(patch, *guess, score, truth_x=x, truth_y=y, truth_radiance=radiance)
    assert ranking.precisions() == pytest.approx(ranking.precisions(np.ones(6)))

    copies = np.repeat(np.arange(6), often)
    rows = [
        (new, *(g[i] for g in guess), 230.0, score[i])
        for new, old in enumerate(copies)
        for i in np.flatnonzero(patch == old)
    ]
    columns = np.array(rows, dtype=float).reshape(-1, 5).T
    copied = score_unmixing(*columns, truth_x=x[copies], truth_y=y[copies], truth_radiance=radiance[copies])
    assert 100 * np.array(ranking.precisions(np.array(often, dtype=float))) == pytest.approx(np.array(copied.ap))
