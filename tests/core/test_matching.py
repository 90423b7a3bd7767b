"""One-to-one matching against all possibilities."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.metrics.matching import match_points

distances = st.integers(0, 4).flatmap(
    lambda n: st.integers(0, 4).flatmap(
        lambda m: st.lists(
            st.lists(st.one_of(st.floats(0, 5), st.sampled_from([0.0, 1.0, 3.0, np.inf])), min_size=m, max_size=m),
            min_size=n,
            max_size=n,
        ).map(lambda rows: np.array(rows, dtype=np.float64).reshape(n, m))
    )
)


def best(distance, limit):
    """(number of pairs, total distance) of the best matching, by trying every assignment."""
    if distance.shape[0] > distance.shape[1]:
        distance = distance.T
    options = []
    for columns in permutations(range(distance.shape[1]), distance.shape[0]):
        chosen = [distance[i, j] for i, j in enumerate(columns) if distance[i, j] < limit]
        options.append((-len(chosen), sum(chosen)))
    pairs, total = min(options)
    return -pairs, total


@settings(deadline=None, max_examples=150, derandomize=True)
@given(distance=distances)
def test_no_assignment_has_more_pairs_or_as_many_and_closer(distance):
    rows, columns = match_points(distance, 3.0)
    pairs, total = best(distance, 3.0)
    assert len(rows) == len(columns) == pairs
    assert distance[rows, columns].sum() == pytest.approx(total, abs=1e-9)
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == pairs
    assert (distance[rows, columns] < 3.0).all()


def test_two_far_pairs_are_better_than_one_near_pair():
    # Row 0 could take column 0 at 0.1, but then row 1 would have none.
    rows, columns = match_points(np.array([[0.1, 2.9], [2.9, np.inf]]), 3.0)
    assert dict(zip(rows.tolist(), columns.tolist())) == {0: 1, 1: 0}


def test_a_pair_at_the_limit_is_none():
    assert len(match_points(np.array([[3.0]]), 3.0)[0]) == 0
    assert len(match_points(np.array([[np.nextafter(3.0, 0)]]), 3.0)[0]) == 1


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0)])
def test_nothing_to_match_gives_no_pairs(shape):
    rows, columns = match_points(np.zeros(shape), 1.0)
    assert len(rows) == len(columns) == 0
