"""Comparing two reports: real changes are found, noise is not, and what cannot be compared is refused."""

import copy
import json

import numpy as np
import pytest
from bench_reports import MACHINE, measurement, report, simple

from glint.benchmarks.bench.cases import BenchCase
from glint.benchmarks.bench.compare import compare, text_of
from glint.benchmarks.bench.stats import LEAST_ROUNDS
from glint.cli import main
from glint.errors import InputError

CASE = BenchCase("net", "unmix", batch=64, threads=2)


@pytest.fixture
def save(tmp_path):
    def write(document, name):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(document))
        return path

    return write


def verdicts(save, before, after, **options):
    comparison = compare(save(before, "before"), save(after, "after"), **options)
    return {row["verdict"] for row in comparison["rows"]}


def one(ms, **options):
    return report([measurement(CASE, ms, **options)])


def test_noise_is_no_regression(save):
    assert verdicts(save, simple(), simple(seed=1)) == {"same"}
    flagged = 0
    for seed in range(40):  # 4 % of noise per round: the interval is narrower than the tolerance at times
        found = verdicts(save, one(10.0, seed=2 * seed, noise=0.04), one(10.0, seed=2 * seed + 1, noise=0.04))
        flagged += found == {"slower"}
    assert flagged <= 1


@pytest.mark.parametrize(("factor", "verdict"), [(1.2, "slower"), (1.03, "same"), (0.8, "faster")])
def test_changes_beyond_the_tolerance_are_seen(save, factor, verdict):
    assert verdicts(save, simple(), simple(factor, seed=1)) == {verdict}


def test_the_tolerance_can_be_chosen(save):
    assert verdicts(save, simple(), simple(1.2, seed=1), tolerance=0.3) == {"same"}
    assert verdicts(save, simple(), simple(1.05, seed=1), tolerance=0.0) == {"slower"}
    with pytest.raises(InputError, match="tolerance"):
        compare(save(simple(), "a"), save(simple(), "b"), tolerance=-1)


def test_a_lower_score_is_a_regression_however_fast(save):
    comparison = compare(save(one(10.0), "a"), save(one(5.0, seed=1, score=89.5), "b"))
    assert [row["verdict"] for row in comparison["rows"]] == ["less accurate"]
    assert comparison["rows"][0]["score"] == pytest.approx(-0.5)
    assert comparison["regressed"] == ["net x64, onnxruntime fp32"]
    assert verdicts(save, one(10.0), one(10.0, seed=1, score=89.8)) == {"same"}


def test_scores_on_other_data_are_not_compared(save):
    other = one(10.0, seed=1, score=10.0)
    other["rows"][0]["accuracy"]["on"] = "other patches"
    assert verdicts(save, one(10.0), other) == {"same"}


def test_too_few_rounds_say_nothing(save):
    assert verdicts(save, one(10.0, rounds=LEAST_ROUNDS - 1), one(20.0)) == {"too few rounds"}


def test_another_machine_or_other_rows_are_refused_unless_asked_for(save):
    here, there = simple(), simple(2.0)
    there["machine"] = {**MACHINE, "cpu": "Testing 3000"}
    there["rows"] = there["rows"][:-1]
    with pytest.raises(InputError, match=r"Testing 2000.*Testing 3000.*only the first has 'net x64, onnxruntime int8'"):
        compare(save(here, "a"), save(there, "b"))
    comparison = compare(save(here, "a"), save(there, "b"), anyway=True)
    assert len(comparison["rows"]) == 3
    assert "Testing 3000" in comparison["notes"][0]


def test_other_versions_and_power_modes_are_told(save):
    later = simple(seed=1)
    later["versions"] = {"glint": "0", "numpy": "3"}
    later["machine"] = {**MACHINE, "power_mode": "1 15W"}
    later["warnings"] = ["it was hot"]
    text = text_of(compare(save(simple(), "a"), save(later, "b")))
    for words in ("numpy: 2 and 3", "power mode: None and 1 15W", "the second: it was hot", "no row regressed"):
        assert words in text


@pytest.mark.parametrize(
    ("content", "words"),
    [("[]", "expected dict"), ('{"kind": "glint bench", "format": 99}', "format 99"), ("{", "not JSON")],
)
def test_what_is_no_report_is_refused(save, tmp_path, content, words):
    path = tmp_path / "odd.json"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        compare(path, save(simple(), "b"))


def test_the_command_ends_with_1_on_a_regression(save, capsys):
    files = [str(save(d, n)) for d, n in ((simple(), "a"), (simple(1.5, seed=1), "b"))]
    assert main(["bench", "compare", *files]) == 1
    assert "4 of 4 rows regressed" in capsys.readouterr().out
    assert main(["bench", "compare", files[0], files[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["regressed"] == []
    assert main(["bench", "compare", *files, "--tolerance", "80"]) == 0
    assert main(["bench", "compare", files[0]]) == 2


def test_comparing_changes_nothing(save):
    before, after = simple(), simple(seed=1)
    kept = copy.deepcopy((before, after))
    compare(save(before, "a"), save(after, "b"))
    assert (before, after) == kept
    assert np.isfinite(before["rows"][0]["per_second"])


@pytest.mark.parametrize("part", ["accuracy", "rounds_ms", "times_ms", "name"])
def test_a_report_whose_rows_lack_something_is_refused(save, part):
    broken = simple()
    del broken["rows"][0][part]
    with pytest.raises(InputError, match="row 0"):
        compare(save(broken, "a"), save(simple(), "b"))
