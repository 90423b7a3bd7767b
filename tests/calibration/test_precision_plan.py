"""Precision plans: files, and the search that makes them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_net

from glint.benchmarks.parity.data import patch_sets
from glint.calibration.bytes_saved import BytesSaved
from glint.calibration.int8_layers import Graph
from glint.calibration.judge import Judge, frame_judge, loss, pairs_text, patch_judge
from glint.calibration.plan_search import Judges, Sensitivity, Unit, rank, search
from glint.calibration.precision_plan import full_plan, load_plan, save_plan
from glint.cards import load_card
from glint.errors import InputError

LAYERS = Graph(tiny_net.tiny()).layers()
THRESHOLDS = {"start/Mul": 3.0, "block.middle/Mul": 2.5, "block/Add_1": 4.0}
SHARES = dict(zip(tiny_net.CANDIDATES, (0.4, 0.4, 0.1)))


def test_a_plan_survives_its_file_and_can_be_edited(tmp_path):
    plan = full_plan("tiny", "0" * 64, LAYERS)
    save_plan(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan
    assert plan.select(LAYERS) == (LAYERS, LAYERS[1:2])
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(text.replace('"block.inner/Conv": "int8"', '"block.inner/Conv": "fp16"'))
    assert load_plan(tmp_path / "plan.json").select(LAYERS) == (LAYERS[1:], LAYERS[1:2])


def test_a_skip_stays_float_with_its_layer():
    plan = full_plan("tiny", "", LAYERS)
    plan = replace(plan, layers={**plan.layers, "block.second/Conv": "fp16"})
    assert plan.select(LAYERS)[1] == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layers": {"first/Conv": "int8"}}, "first/Conv cannot run in int8"),
        ({"layers": {"wide/Conv": "int4"}}, "expected int8 or fp16, got 'int4'"),
        ({"layer": {}}, "unknown key 'layer'"),
        ({"format": 2}, "format 2, this glint reads 1"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(tmp_path, change, reason):
    path = tmp_path / "plan.json"
    save_plan(full_plan("tiny", "", LAYERS), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=reason):
        load_plan(path).select(LAYERS)


class Costly:
    """A judge to whom a few things in INT8 are a calamity."""

    what, size = "imagination", 1

    def __init__(self, *names):
        self.names, self.asked = names, 0

    def score(self, model, progress=None):
        self.asked += 1
        present = {node.name for node in model.graph.node}
        return {"map": 90.0 - 5 * sum(f"{name}/DequantizeLinear_0" in present for name in self.names)}


def find(judge, budget=0.3, few=None, side=8):
    held = tiny_net.frames(2)
    saved = BytesSaved(Graph(tiny_net.tiny()), dict.fromkeys(THRESHOLDS, (1, 32, side, side)))
    return search(
        tiny_net.tiny(), LAYERS, THRESHOLDS, SHARES, saved,
        Judges(judge, few or judge, judge), held, budget=budget, name="tiny", onnx_sha256="",
    )  # fmt: skip


def test_everything_is_in_int8_if_that_costs_nothing():
    plan = find(Costly())
    assert set(plan.layers.values()) == set(plan.skips.values()) == {"int8"}
    assert [point["share"] for point in plan.pareto] == [0.9]


def test_what_costs_accuracy_stays_float_and_the_rest_does_not(capsys):
    plan = find(Costly("block.inner/Conv"))
    assert plan.layers["block.inner/Conv"] == "fp16"
    assert plan.measured["block.inner/Conv"]["loss"] == 5 and plan.measured["wide/Conv"]["loss"] == 0
    assert sum(choice == "int8" for choice in plan.layers.values()) >= 1
    assert plan.pareto[0]["loss"] == 5 and plan.pareto[-1]["loss"] == 0
    assert [p["share"] for p in plan.pareto] == sorted((p["share"] for p in plan.pareto), reverse=True)
    assert "of the MACs in int8" in capsys.readouterr().err


def test_a_skip_can_stay_float_alone():
    plan = find(Costly(tiny_net.SKIP), budget=1.0)
    named = f"{tiny_net.SKIP}"
    assert plan.measured[named]["loss"] in (0, 5)
    assert plan.skips[named] == "fp16" or plan.measured[named]["loss"] == 0


def test_a_budget_that_nothing_meets_leaves_everything_float():
    class Never(Costly):
        def score(self, model, progress=None):
            quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
            return {"map": 50.0 if quantised else 90.0}

    plan = find(Never())
    assert set(plan.layers.values()) == {"fp16"} and plan.pareto[-1]["share"] == 0


def test_what_saves_no_bytes_among_the_others_stays_float():
    plan = find(Costly(), side=64)  # what wide reads, others read in float: a copy in int8 would be on top
    assert plan.layers == {"block.inner/Conv": "int8", "block.second/Conv": "int8", "wide/Conv": "fp16"}
    assert plan.measured["wide/Conv"]["bytes"] < 0 < plan.pareto[0]["bytes"] and plan.pareto[0]["fp16"] == 1
    # The skip is what makes inner worth it: with it in float nothing is left but second.
    plan = find(Costly(tiny_net.SKIP), side=64)
    assert [name for name, choice in plan.layers.items() if choice == "int8"] == ["block.second/Conv"]


def test_a_plan_that_costs_far_too_much_on_a_few_samples_is_not_judged_on_many():
    few, many = Costly("block.inner/Conv"), Costly("block.inner/Conv")
    plan = find(many, few=few)
    assert plan.pareto[0]["loss"] == 5 and plan.pareto[-1]["loss"] == 0
    # many also judges single units: four of them, the float model twice, and the last plan only
    assert (few.asked, many.asked) == (1 + len(plan.pareto), 4 + 2 + 1)


def test_what_costs_more_than_the_budget_alone_comes_first_the_rest_by_noise_per_byte():
    units = [Unit(layer, False) for layer in LAYERS]
    measured = [(0.2, 1e-4, 0.4), (2.0, 1e-5, 0.4), (0.0, 1e-3, 0.1)]
    found = {unit: Sensitivity(*figures, 9) for unit, figures in zip(units, measured)}
    assert rank(found, budget=0.3) == [units[1], units[2], units[0]]
    assert rank(found, budget=3.0) == [units[2], units[0], units[1]]
    found[units[2]] = replace(found[units[2]], bytes=1000)  # whose noise is paid for
    assert rank(found, budget=3.0) == [units[0], units[1], units[2]]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"iou": 70.0, "pd": 95.0}, 0.0), ({"iou": 70.5, "pd": 95.0}, 0.5), ({"iou": 69.0, "pd": 97.0}, 1.0),
        ({"iou": 70.1, "pd": 94.0}, 1.0),
    ],
)  # fmt: skip
def test_a_loss_is_the_largest_change_and_a_pd_may_rise(scores, expected):
    assert loss({"iou": 70.0, "pd": 95.0}, scores) == pytest.approx(expected)


def test_of_the_conditions_the_mean_change_counts():
    before = {"grid": 50.0, "grid on n1": 40.0, "grid on n2": 30.0, "grid on n5": 20.0}
    after = {"grid": 50.1, "grid on n1": 40.5, "grid on n2": 29.5, "grid on n5": 19.4}
    assert loss(before, after) == pytest.approx(0.2)
    assert not loss(before, {**after, "grid on n2": float("nan")}) <= 1e9


def test_a_score_that_is_no_number_is_no_success():
    assert not loss({"iou": 70.0}, {"iou": float("nan")}) <= 1e9


def test_the_truth_of_simulated_frames_is_where_targets_are():
    judge = frame_judge(load_card("lsnet-s")[0], 6, seed=1)
    assert len(judge.images) == 6
    lit = [image for image in judge.images if image.mask.any()]
    assert len(lit) >= 4
    assert all(image.mask.mean() < 0.01 and image.mask.shape == image.image.shape for image in judge.images)
    brighter = [i.image[i.mask].mean() > i.image[~i.mask].mean() for i in lit]
    assert sum(brighter) >= len(lit) - 1


def test_an_unmixer_is_judged_by_its_own_scene():
    card = load_card("dscsnet-s-csist")[0]
    judge = patch_judge(card, 50, seed=1)
    assert isinstance(judge, Judge) and list(judge.patches) == [""]  # fifty are too few for each condition
    own = judge.patches[""]
    assert len(own) == 50 and own.radiance[own.radiance > 0].min() >= 220
    assert own.noise.max() > 1


def test_with_enough_patches_an_unmixer_is_judged_in_the_conditions_of_parity_too():
    card = load_card("dscsnet-s-sensor")[0]
    judge = patch_judge(card, 2000, seed=1)
    shown = patch_sets(None, card, conditions=(), number=200, seed=1).sets
    assert {name: len(patches) for name, patches in judge.patches.items()} == {"": 2000, **dict.fromkeys(shown, 200)}
    for name, patches in shown.items():
        assert np.array_equal(judge.patches[name].image, patches.image)


def test_the_condition_that_changed_most_is_told():
    before = {"grid": 50.0, "grid on n1": 40.0, "grid on n2": 30.0}
    text = pairs_text(before, {"grid": 50.0, "grid on n1": 40.1, "grid on n2": 29.5})
    assert text == "grid 50.00 -> 50.00; most changed: grid on n2 30.00 -> 29.50"
    assert pairs_text({"iou": 1.0, "pd": 2.0}, {"iou": 1.0, "pd": 2.5}) == "iou 1.00 -> 1.00, pd 2.00 -> 2.50"
