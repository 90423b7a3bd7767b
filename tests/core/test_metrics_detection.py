"""Detection scores by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.errors import InputError
from glint.metrics.detection import (
    MATCHINGS,
    ImageCounts,
    bootstrap_detection,
    components,
    count_image,
    score_detection,
)

both = pytest.mark.parametrize("matching", MATCHINGS)


def mask(*pixels, shape=(20, 30)):
    """A mask with the (row, column) pixels set."""
    image = np.zeros(shape, dtype=bool)
    for pixel in pixels:
        image[pixel] = True
    return image


def drawing(text):
    return np.array([[letter == "#" for letter in line] for line in text.split()])


# Components


def test_diagonal_neighbours_are_one_component():
    centroids, areas = components(drawing("#... .#.. ...#"))
    assert areas.tolist() == [2, 1]
    assert centroids.tolist() == [[0.5, 0.5], [3.0, 2.0]]


def test_centroids_are_column_then_row():
    centroids, areas = components(drawing("..... ...## ...##"))
    assert centroids.tolist() == [[3.5, 1.5]]
    assert areas.tolist() == [4]


def test_an_empty_mask_has_no_components():
    centroids, areas = components(np.zeros((3, 3), dtype=bool))
    assert centroids.shape == (0, 2)
    assert areas.shape == (0,)


def flood(image):
    """Areas of the 8-connected components in scan order, by a stack."""
    left, areas = {tuple(p) for p in np.argwhere(image).tolist()}, []
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        stack, area = [start], 0
        while stack:
            row, column = stack.pop()
            area += 1
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            stack.extend(near)
        areas.append(area)
    return areas


@settings(deadline=None, max_examples=60, derandomize=True)
@given(bits=st.lists(st.booleans(), min_size=42, max_size=42))
def test_components_are_those_of_a_flood_fill(bits):
    image = np.array(bits).reshape(6, 7)
    assert components(image)[1].tolist() == flood(image)


# One image


@both
def test_counts_of_a_worked_image(matching):
    truth = drawing("##...... ##...... ........ ......#. ........")
    guess = drawing("#....... ##...... ........ ........ ##......")
    # 3 of the 4 pixels of the first target; the second is missed; the third guess lies 3 px and
    # more from both.
    expected = ImageCounts(
        intersection=3, predicted=5, actual=5, targets=2, found=1, false_pixels=2, pixels=40
    )  # fmt: skip
    assert count_image(guess, truth, matching=matching) == expected


@both
def test_centroids_three_pixels_apart_do_not_match(matching):
    near, far = mask((5, 12)), mask((5, 13))
    truth = mask((5, 10))
    assert count_image(near, truth, matching=matching).found == 1
    counts = count_image(far, truth, matching=matching)
    assert (counts.found, counts.false_pixels) == (0, 1)


@both
def test_a_match_needs_no_overlap_and_its_pixels_are_not_false(matching):
    counts = count_image(mask((5, 11), (5, 12)), mask((5, 9)), matching=matching)
    assert (counts.intersection, counts.found, counts.false_pixels) == (0, 1, 0)


@both
def test_one_guess_over_two_targets_finds_one(matching):
    truth, guess = mask((5, 5), (5, 7)), mask((5, 5), (5, 6), (5, 7))
    counts = count_image(guess, truth, matching=matching)
    assert (counts.targets, counts.found, counts.false_pixels) == (2, 1, 0)


@both
def test_two_guesses_at_one_target_leave_one_false(matching):
    counts = count_image(mask((5, 4), (5, 6)), mask((5, 5)), matching=matching)
    assert (counts.found, counts.false_pixels) == (1, 1)


def test_legacy_takes_the_first_in_scan_order_and_loses_a_target_that_one_to_one_finds():
    # The first target takes the upper guess, the only one near the second target (2.2 px from both).
    truth = mask((10, 10), (10, 14))
    guess = mask((9, 12), (11, 9))
    legacy = count_image(guess, truth, matching="legacy")
    fair = count_image(guess, truth)
    assert (legacy.found, legacy.false_pixels) == (1, 1)
    assert (fair.found, fair.false_pixels) == (2, 0)


def test_one_to_one_prefers_the_closest_of_as_many_pairs():
    # The big guess is 1 px off, the single pixel before it in scan order 2 px.
    truth = mask((10, 10))
    guess = mask((8, 10), (11, 9), (11, 10), (11, 11))
    assert count_image(guess, truth).false_pixels == 1
    assert count_image(guess, truth, matching="legacy").false_pixels == 3


@both
def test_empty_masks_count_nothing(matching):
    empty, spot = mask(), mask((1, 1))
    assert count_image(empty, empty, matching=matching) == ImageCounts(0, 0, 0, 0, 0, 0, 600)
    assert count_image(spot, empty, matching=matching) == ImageCounts(0, 1, 0, 0, 0, 1, 600)
    assert count_image(empty, spot, matching=matching) == ImageCounts(0, 0, 1, 1, 0, 0, 600)


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(InputError, match=r"\(4, 4\).*\(4, 5\)"):
        count_image(mask(shape=(4, 4)), mask(shape=(4, 5)))


def test_an_unknown_matching_is_refused():
    with pytest.raises(InputError, match="greedy"):
        count_image(mask(), mask(), matching="greedy")


# All images


def test_scores_of_two_worked_images():
    first = ImageCounts(intersection=3, predicted=5, actual=5, targets=2, found=1, false_pixels=2, pixels=40)
    second = ImageCounts(intersection=2, predicted=2, actual=4, targets=1, found=1, false_pixels=0, pixels=160)
    score = score_detection([first, second])
    assert score.iou == pytest.approx(100 * 5 / 11)  # unions of 7 and 4 pixels
    assert score.niou == pytest.approx(100 * (3 / 7 + 2 / 4) / 2)
    assert score.f1 == pytest.approx(100 * 10 / 16)
    assert score.pd == pytest.approx(200 / 3)
    assert score.fa == pytest.approx(1e6 * 2 / 200)
    assert (score.targets, score.images, score.matching) == (3, 2, "one-to-one")


def test_scores_take_a_generator_and_name_the_matching():
    counts = (count_image(m, m, matching="legacy") for m in [mask((1, 1)), mask((5, 5), (9, 9))])
    score = score_detection(counts, matching="legacy")
    assert (score.iou, score.niou, score.f1, score.pd, score.fa) == (100, 100, 100, 100, 0)
    assert (score.targets, score.matching) == (3, "legacy")


def test_an_empty_image_that_stays_empty_has_niou_100_and_one_that_does_not_0():
    empty, spot = mask(), mask((1, 1))
    found = count_image(spot, spot)
    assert score_detection([count_image(empty, empty), found]).niou == 100
    assert score_detection([count_image(spot, empty), found]).niou == 50


def test_scores_without_targets_are_unknown():
    score = score_detection([count_image(mask((1, 1)), mask())])
    assert math.isnan(score.pd)
    assert score.fa == pytest.approx(1e6 / 600)
    assert score.iou == 0


def test_scores_of_no_images_are_unknown():
    score = score_detection([])
    assert (score.images, score.targets) == (0, 0)
    assert all(math.isnan(v) for v in (score.iou, score.niou, score.f1, score.pd, score.fa))


# Intervals

masks = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=12, max_size=12)


def by_loops(images):
    """IoU, nIoU and F1 of (prediction, truth) pairs of lists of pixels."""
    both = guess = truth = 0
    each = []
    for pixels in images:
        i = sum(1 for p, t in pixels if p and t)
        p, t = sum(1 for p, _ in pixels if p), sum(1 for _, t in pixels if t)
        both, guess, truth = both + i, guess + p, truth + t
        each.append(i / (p + t - i) if p + t - i else 1.0)
    union = guess + truth - both
    return (
        100 * both / union if union else math.nan,
        100 * sum(each) / len(each),
        200 * both / (guess + truth) if guess + truth else math.nan,
    )


@settings(deadline=None, max_examples=60, derandomize=True)
@given(images=st.lists(masks, min_size=1, max_size=6))
def test_pixel_scores_are_those_of_plain_loops(images):
    pairs = [np.array(pixels).reshape(3, 4, 2) for pixels in images]
    score = score_detection([count_image(pair[..., 0], pair[..., 1]) for pair in pairs])
    assert (score.iou, score.niou, score.f1) == pytest.approx(by_loops(images), nan_ok=True)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(images=st.lists(masks, min_size=1, max_size=6), seed=st.integers(0, 5))
def test_intervals_are_percentiles_of_scores_of_drawn_images(images, seed):
    counts = [count_image(*np.moveaxis(np.array(pixels).reshape(3, 4, 2), -1, 0)) for pixels in images]
    intervals = bootstrap_detection(counts, samples=40, seed=seed)
    drawn = np.random.default_rng(seed).integers(len(counts), size=(40, len(counts)))
    scores = [score_detection([counts[i] for i in row]) for row in drawn]
    for name, interval in intervals.items():
        values = [getattr(score, name) for score in scores if not math.isnan(getattr(score, name))]
        expected = tuple(np.percentile(values, (2.5, 97.5))) if values else (math.nan, math.nan)
        assert interval == pytest.approx(expected, nan_ok=True)


def test_the_interval_of_a_share_is_that_of_the_binomial():
    hit, miss = (ImageCounts(n, 1, 1, 1, n, 1 - n, 100) for n in (1, 0))
    low, high = bootstrap_detection([hit] * 80 + [miss] * 20)["pd"]
    spread = 1.96 * 100 * math.sqrt(0.8 * 0.2 / 100)
    assert low == pytest.approx(80 - spread, abs=1.5)
    assert high == pytest.approx(80 + spread, abs=1.5)


def test_equal_images_have_no_spread_and_no_images_no_interval():
    counts = [ImageCounts(3, 5, 5, 2, 1, 2, 40)] * 7
    score = score_detection(counts)
    for name, interval in bootstrap_detection(counts, samples=50).items():
        assert interval == pytest.approx((getattr(score, name),) * 2)
    assert all(math.isnan(v) for pair in bootstrap_detection([]).values() for v in pair)
