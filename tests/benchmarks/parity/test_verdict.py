"""When a changed score counts: beyond the budget, unless enough samples show that chance explains it."""

import pytest

from glint.benchmarks.parity.compare import Comparison
from glint.benchmarks.parity.parity import BUDGETS, _notes, _reasons
from glint.benchmarks.parity.score_difference import Difference


def changed(change, low, high, score="CSO-mAP refined"):
    return Comparison(differences=[Difference("n1", score, 90.0, 90.0 + change, low, high)])


@pytest.mark.parametrize(
    ("change", "low", "high", "passes"),
    [
        (-0.2, -0.5, 0.1, True),  # within the budget of 0.3
        (-0.5, -1.0, 0.1, True),  # beyond it, but by chance
        (-0.5, -0.9, -0.1, False),  # surely worse
        (+0.5, +0.1, +0.9, False),  # surely other
        (-0.5, -3.0, 2.0, False),  # thirty samples: nothing is excluded, so nothing is excused
        (-1.0, -1.7, 0.1, False),  # may be more than five budgets
        (+1.0, -0.1, 1.7, False),
    ],
)
def test_chance_excuses_what_enough_samples_bound(change, low, high, passes):
    reasons = _reasons(changed(change, low, high), BUDGETS["int8"])
    assert (reasons == []) == passes
    if low <= 0 <= high and not passes:
        assert "too few samples" in reasons[0] and f"{low:+.2f} to {high:+.2f}" in reasons[0]
    notes = _notes(changed(change, low, high), BUDGETS["int8"], True)
    assert any("no further than chance" in note for note in notes) == (passes and abs(change) > 0.3)


def test_a_loss_of_a_point_fails_however_few_the_samples():
    for width in (0.5, 1, 2, 5, 20):  # half of the interval
        assert _reasons(changed(-2.0, -2.0 - width, -2.0 + width), BUDGETS["int8"])
