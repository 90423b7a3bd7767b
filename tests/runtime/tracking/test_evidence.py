from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from glint.errors import ModelError
from glint.runtime.tracking.evidence import MOVING_SHARE, Evidence

TABLE = Evidence([0.1, 0.5, 0.9], [0.1, 0.2, 0.6], [1e-5, 1e-6, 1e-7], [0.2, 0.05, 0.01])


def test_scores_fall_into_their_classes() -> None:
    assert TABLE.classes(np.array([0.0, 0.1, 0.49, 0.5, 0.95, 1.0])).tolist() == [0, 0, 0, 1, 2, 2]


def test_ratios_are_those_of_the_rates() -> None:
    kind, one = np.array([0, 2]), np.ones(2)
    assert TABLE.born(kind, one, 1e-7) == pytest.approx(np.log([1e-7 * 0.1 / 1e-5, 1e-7 * 0.6 / 1e-7]))
    dense = np.log([0.1 * 3 / (1e-5 + 0.2 * 3), 0.6 * 3 / (1e-7 + 0.01 * 3)])
    still = np.zeros(2, dtype=bool)
    assert TABLE.seen(kind, one, 3 * one, still) == pytest.approx(dense)
    moving = np.log([0.1 * 3 / (1e-5 + MOVING_SHARE * 0.2 * 3), 0.6 * 3 / (1e-7 + MOVING_SHARE * 0.01 * 3)])
    assert TABLE.seen(kind, one, 3 * one, ~still) == pytest.approx(moving)
    assert TABLE.missed == pytest.approx(np.log(0.1 / 0.74))


def test_denser_clutter_says_less() -> None:
    kind = np.array([2])
    assert TABLE.born(kind, np.array([10.0]), 1e-7) < TABLE.born(kind, np.array([1.0]), 1e-7)


def test_the_table_of_a_detector_is_found_by_its_name_else_the_default(tmp_path: Path) -> None:
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps({"default": TABLE.as_dict(), "mine": {**TABLE.as_dict(), "origin": "here"}}))
    assert Evidence.of("mine", file).origin == "here"
    assert Evidence.of("other", file).origin == ""
    assert Evidence.of("any").target.sum() < 1


@pytest.mark.parametrize("text", ["", "{}", '{"default": {"scores": [0.1]}}', '{"default": {"scores": [1], "a": 2}}'])
def test_a_bad_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "evidence.json"
    file.write_text(text)
    with pytest.raises(ModelError, match="evidence"):
        Evidence.of("any", file)


@pytest.mark.parametrize("column", ["target", "again"])
def test_probabilities_of_one_are_refused(column: str) -> None:
    table = {**TABLE.as_dict(), column: [0.3, 0.3, 0.4]}
    with pytest.raises(ModelError, match="below 1"):
        Evidence(**table)
