"""The benchmarks measure what they say; how fast is not for a test to judge."""

import pytest

pytest.importorskip("torch")

from glint.benchmarks.evaluate import evaluate as module
from glint.benchmarks.evaluate.evaluate import evaluate
from glint.benchmarks.streams import simulation_speed as simulation
from glint.training.loop import Recipe, Trainer
from glint.training.networks.dscsnet import DSCSNetConfig
from glint.training.tasks.unmixing import UnmixingTask


def test_simulation_rates_are_given_for_every_condition(monkeypatch):
    monkeypatch.setattr(simulation, "_PATCHES_PER_BATCH", 64)
    monkeypatch.setattr(simulation, "_REPEATS", 3)
    rates = simulation.simulation_speed()
    assert {"float", "8sat", "n5", "sensor"} <= rates.keys()
    assert all(0 < p10 <= p50 <= p90 for p10, p50, p90 in rates.values())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = DSCSNetConfig(size=7, channels=4, hidden=8, stages=2, memory=1)
    task = UnmixingTask("dscsnet-s", config, "csist")
    Trainer(task, Recipe(steps=1, batch=2, validate_every=1, amp="off"), folder).fit()
    return folder / "last.safetensors"


def test_a_checkpoint_is_scored_like_a_model(checkpoint):
    result = evaluate(checkpoint, condition="float", number=20, seed=3)
    assert result["engine"] == "torch" and result["patches"] == 20
    assert result["grid"].keys() == result["network"].keys() == result["refined"].keys()
    assert 0 <= result["refined"]["cso_map"] <= 100


def test_the_same_seed_gives_the_same_scores(checkpoint):
    first, second = (evaluate(checkpoint, condition="n1", number=15, seed=4) for _ in range(2))
    for result in (first, second):
        del result["ms_per_patch"]
    assert first == second


def test_the_table_shows_all_rows(checkpoint):
    text = module.report_text(evaluate(checkpoint, condition="float", number=5))
    assert all(word in text for word in ("grid", "network", "refined", "CSO-mAP"))


def test_the_cards_prior_is_used_unless_another_is_given(checkpoint):
    assert evaluate(checkpoint, condition="float", number=5)["radiance_prior"] == (235.0, 8.66)
    result = evaluate(checkpoint, condition="float", number=5, radiance_prior=(100.0, 5.0))
    assert result["radiance_prior"] == (100.0, 5.0)
