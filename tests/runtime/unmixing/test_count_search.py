"""Parts of the search that a sum over everything, or another library, can answer as well."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from glint.runtime.unmixing import count_search as search
from glint.runtime.unmixing.arrangements import arrangements
from glint.runtime.unmixing.count_search import (
    COUNT_FLOOR_PROBABILITY,
    NetworkCandidates,
    PatchProblem,
    SearchRules,
    best_fit,
    count_costs,
    network_priors,
    variance_of,
)
from glint.runtime.unmixing.fit import Fit, Patch, Start, fit_targets
from glint.runtime.unmixing.normal_equations import PLANE
from glint.runtime.unmixing.point_model import render, targets_of

N = 9
RULES = SearchRules(
    sigma=0.5, sigma_information=np.inf, radiance=0.0, radiance_information=0.0, separation=0.45, doubt=0.02,
    trust=1.2, max_targets=5, iterations=15, rounds=2, restarts=3,
)  # fmt: skip
KNOWN = RULES._replace(radiance=200.0, radiance_information=10.0**-2)
PLANE_INFORMATION = np.array([0.25, 1.0, 4.0])


def make_case(rows: Sequence[tuple[float, float, float]] = (), *, rules: SearchRules = RULES) -> PatchProblem:
    """A dark patch whose network is sure of rows (x, y, radiance)."""
    network = np.zeros((7, 6))
    network[1:4, : len(rows)] = np.reshape(rows, (-1, 3)).T
    network[0, : len(rows)], network[4:6], network[6] = 0.99, 0.1, 20.0
    patch = Patch(np.zeros((N, N)), 2.0, np.full((N, N), np.inf), np.ones((N, N), dtype=bool))
    word = NetworkCandidates(*(column.copy() for column in network))
    return PatchProblem(patch, word, np.zeros(PLANE), PLANE_INFORMATION, count_costs(word.presence), 8.0, rules)


def make_fit(
    rows: Sequence[tuple[float, float, float]], problem: PatchProblem, *, plane: Sequence[float] = (0, 0, 0)
) -> Fit:
    """A fit that ended at rows (x, y, radiance) and a plane with a misfit of 100, from the network's candidates."""
    theta = np.concatenate([*np.reshape(rows, (-1, 3)).T, plane, [0.5]]).astype(float)
    start = search._from_candidates(problem, len(rows))
    return Fit(start, theta, 100.0, 7.0, np.eye(len(theta) - 1), N * N, True, 0.0)


@settings(deadline=None)
@given(st.lists(st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)), min_size=6, max_size=6))
def test_the_cost_of_a_count_is_the_probability_of_all_ways_to_have_it(presence: list[float]) -> None:
    chance = np.zeros(7)
    for there in product([False, True], repeat=6):
        chance[sum(there)] += np.prod([p if here else 1 - p for p, here in zip(presence, there)])
    expected = -np.log(np.maximum(chance[:6], COUNT_FLOOR_PROBABILITY))
    assert count_costs(np.array(presence)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_variances_are_the_inverse_of_what_is_known_without_the_priors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(9, 40)) * 10.0 ** rng.uniform(-2, 3, (9, 1))
    data = root @ root.T
    priors = np.where(np.arange(9) < 4, rng.uniform(0, 2, 9) * np.diag(data), 0)
    fit = make_fit([(3, 3, 100), (5, 5, 100)], make_case())._replace(information=data + np.diag(priors))
    assert variance_of(fit, np.zeros(9)) == pytest.approx(np.diag(np.linalg.inv(data + np.diag(priors))), rel=1e-4)
    before = fit.information.copy()
    assert variance_of(fit, priors) == pytest.approx(np.diag(np.linalg.inv(data)), rel=1e-4)
    assert np.array_equal(fit.information, before)


def test_where_the_data_say_nothing_the_variance_is_huge_or_unknown() -> None:
    information = np.diag([4.0, 1e-12, 9.0, 25.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    information[2, 3] = information[3, 2] = 15.0  # these two do the same
    fit = make_fit([(3, 3, 100), (5, 5, 100)], make_case())._replace(information=information)
    variance = variance_of(fit, np.zeros(9))
    assert variance[[0, 4]] == pytest.approx([0.25, 1.0], rel=1e-5)
    assert np.all((variance[1:4] > 1e4) | np.isnan(variance[1:4]))
    information[4, 0] = np.nan
    assert np.isnan(variance_of(fit, np.zeros(9))).all()


def test_a_spread_that_is_no_number_is_no_prior() -> None:
    problem = make_case([(5.0, 5.0, 200.0), (5.6, 5.2, 200.0)])
    problem.network.sigma_x[1] = np.nan
    problem.network.sigma_y[1] = np.inf
    start = search._from_candidates(problem, 2)
    assert start.information[:4].tolist() == [start.information[0], 0, start.information[2], 0]
    assert start.information[0] > 0
    assert start.mean[1] == start.mean[3] == 0


def test_the_networks_priors_are_those_of_its_axes() -> None:
    rows = [(3.0, 4.0, 150.0), (6.0, 5.0, 200.0)]
    problem = make_case(rows)
    fit = make_fit([(3.1, 4.0, 150.0), (6.0, 4.8, 230.0)], problem)
    spread = 1.2 * 0.1
    near, off = spread**-2.0, np.array([0.1, 0.0, 0.0, 0.2])
    positions = near / (1 + near * off**2 / 2)
    radiances = np.full(2, (1.2 * 20) ** -2)
    assert network_priors(fit, 2) == pytest.approx([*positions, 0, 0, 0, 0, 0])
    assert network_priors(fit, 3) == pytest.approx([*positions, *radiances, 0, 0, 0])


@pytest.mark.parametrize("number", [4, 5])
def test_an_arrangement_is_assigned_as_scipy_assigns_it(number: int) -> None:
    rng = np.random.default_rng(number)
    for _ in range(50):
        network, place = rng.uniform(2, 6, (number, 2)), rng.uniform(2, 6, (3, number))
        problem = make_case([(x, y, 100.0) for x, y in network])
        start = search._from_candidates(problem, number)
        radiances = start.theta[2 * number :].copy()
        search._arrange(problem, start, place)
        gap = ((network[:, None] - place[:2].T[None]) ** 2).sum(axis=2)
        _, nearest = linear_sum_assignment(gap)
        assert np.array_equal(start.theta[:number], place[0, nearest])
        assert np.array_equal(start.theta[number : 2 * number], place[1, nearest])
        assert np.array_equal(start.theta[2 * number :], radiances)


@pytest.mark.parametrize("rules", [RULES, KNOWN], ids=["radiance unknown", "radiance known"])
def test_the_closest_pair_merges_into_its_flux_centre(rules: SearchRules) -> None:
    rows = [(2.0, 2.0, 100.0), (4.0, 5.0, 300.0), (6.5, 2.0, 120.0), (4.8, 5.4, 100.0)]
    problem = make_case(rows, rules=rules)
    start = search._merged(problem, make_fit(rows, problem))
    assert start.theta[[0, 3, 6]] == pytest.approx(rows[0])
    assert start.theta[[1, 4, 7]] == pytest.approx([4.2, 5.1, 400.0])
    assert start.theta[[2, 5, 8]] == pytest.approx(rows[2])
    # Nobody has said anything of the new one; the others keep the network's word, the radiance the user's.
    network = 1.44 * np.array([0.1, 0.1, 20.0]) ** 2
    radiance = [1 / network[2], 0, 1 / network[2]] if rules is RULES else [0.01] * 3
    expected = [*[1 / network[0], 0, 1 / network[0]] * 2, *radiance, *PLANE_INFORMATION, np.inf]
    assert start.information == pytest.approx(expected)
    if rules is KNOWN:
        assert (start.mean[6:9] == 200).all()


def test_one_more_target_is_the_networks_next_candidate() -> None:
    rows = [(2.0, 2.0, 100.0), (4.0, 5.0, 300.0)]
    problem = make_case(rows)
    start = search._grown(problem, make_fit(rows[:1], problem))
    assert start.theta[:6] == pytest.approx([2, 4, 2, 5, 100, 300])
    assert start.mean[:6] == pytest.approx([2, 4, 2, 5, 100, 300])
    assert (start.information[:6] > 0).all()


def test_one_more_target_that_nobody_listed_starts_where_light_is_left() -> None:
    rows = [(2.0, 2.0, 300.0)]
    problem = make_case(rows)
    problem.patch.image[:] = render(np.array([2.0, 6.2, 2.0, 5.9, 300, 150, 0, 0, 0, 0.5]), N)
    start = search._grown(problem, make_fit(rows, problem))
    assert start.theta[[0, 2]] == pytest.approx([2, 2])
    assert start.theta[[1, 3]] == pytest.approx([6, 6])
    assert start.theta[5] == pytest.approx(150, rel=0.4)
    assert (start.information[[1, 3, 5]] == 0).all()


def test_the_cost_is_half_the_misfit_the_users_priors_and_the_count() -> None:
    rows = [(2.0, 2.0, 190.0), (5.0, 5.0, 225.0)]
    plane = (3.0, 0.2, -0.1)
    ours = (PLANE_INFORMATION * np.square(plane)).sum()
    problem = make_case(rows)
    expected = 0.5 * (100 + ours) + problem.count_cost[2]
    assert search._cost(problem, make_fit(rows, problem, plane=plane)) == pytest.approx(expected)
    known = make_case(rows, rules=KNOWN)
    expected += 0.5 * (10**2 + 25**2) / 10**2
    assert search._cost(known, make_fit(rows, known, plane=plane)) == pytest.approx(expected)
    # Where the network said that they are elsewhere makes no difference.
    other = make_case([(7.0, 7.0, 10.0), (1.0, 5.0, 10.0)])
    assert search._cost(other, make_fit(rows, other)) == pytest.approx(search._cost(problem, make_fit(rows, problem)))


def test_no_misfit_costs_as_much_as_a_target_that_is_none() -> None:
    far, near, dark = (7.0, 7.0, 200.0), (2.4, 2.1, 200.0), (4.5, 6.0, 7.9)
    first = (2.0, 2.0, 200.0)

    def cost(*rows: tuple[float, float, float]) -> float:
        return float(search._cost(make_case(), make_fit(rows, make_case())))

    good = cost(first, far)
    assert good < 1e4
    assert cost(dark) < 1e4  # a lone one may be as faint as it likes
    ranked = [good, cost(first, far, dark), cost(first, far, near), cost(first, far, near, dark)]
    ranked.append(cost(first, near, (2.2, 2.3, 200.0), far))
    assert (np.diff(ranked) > 1e11).all()
    assert cost(first, (2.46, 2.0, 200.0)) < 1e4 < cost(first, (2.44, 2.0, 200.0))


def test_the_best_number_of_targets_is_found_by_trying_all_of_them() -> None:
    """As a search that tries the truth with every target left out, and none."""
    rows = [(3.0, 4.0, 200.0), (5.2, 4.4, 150.0), (4.1, 6.0, 180.0)]
    problem = make_case(rows)
    truth = np.concatenate([*np.reshape(rows, (-1, 3)).T, [0, 0, 0, 0.5]])
    problem.patch.image[:] = render(truth, N) + np.random.default_rng(0).normal(0, 2, (N, N))
    costs = {}
    for there in product([False, True], repeat=3):
        kept = [row for row, here in zip(rows, there) if here]
        if kept:
            theta = np.concatenate([*np.reshape(kept, (-1, 3)).T, [0, 0, 0, 0.5]])
            information = np.concatenate([np.zeros(3 * len(kept)), PLANE_INFORMATION, [np.inf]])
            fit = fit_targets(problem.patch, Start(theta, np.where(information > 0, theta, 0), information), 30)
            costs[there] = search._cost(problem, fit)
    best = min(costs.values())
    assert costs[True, True, True] == best
    bank = arrangements(0.5)
    for count in (2, 3):
        fit, margin = best_fit(problem, count, bank)
        assert targets_of(fit.theta) == 3
        assert search._cost(problem, fit) == pytest.approx(best, abs=0.5)
        fewer = min(value for there, value in costs.items() if sum(there) == 2)
        assert 0 < margin <= fewer - best + 0.5
