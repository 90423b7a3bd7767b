"""The released models: intact, described, and at least as good as what their page promises, roughly."""

import numpy as np
import pytest

from glint.benchmarks.evaluate.evaluate import evaluate
from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER, load_card, zoo_folder, zoo_names
from glint.runtime.commands.run import run
from glint.runtime.unmixing.unmix import unmix
from glint.simulation.patches import CONDITIONS, simulate_patches


@pytest.mark.parametrize("stem", zoo_names())
def test_a_released_model_is_intact_and_described(stem):
    card, path = load_card(zoo_folder() / f"{stem}.json")
    assert path.stat().st_size > 1e5
    assert f"{card.name}.{card.precision}" == stem
    if card.precision == "fp32":
        assert card.parity["relative"] < 1e-3  # to PyTorch
    else:
        task = card.parity["task"]
        assert task["loss"] <= task["budget"] <= {"fp16": 0.1, "int8": 0.3}[card.precision]
    assert card.training["recipe"]["seed"] >= 0 and card.training["history"] and card.metrics
    assert card.parameters > 0 and card.macs > 0


def test_the_defaults_are_released():
    assert {f"{DEFAULT_DETECTOR}.fp32", f"{DEFAULT_UNMIXER}.fp32"} <= set(zoo_names())


def test_the_protocol_model_beats_every_answer_on_the_grid_and_more_so_refined():
    result = evaluate("dscsnet-s-csist", condition="14bit", number=150, seed=9)
    assert result["radiance_prior"] == (235.0, 8.66)  # its card knows it
    assert result["grid"]["cso_map"] > 42  # published networks: 44-47
    assert result["network"]["cso_map"] > 85  # an ideally ranked perfect grid: 59.7
    assert result["refined"]["cso_map"] > 98
    assert result["refined"]["count_accuracy"] > 97


def test_the_sensor_model_gains_by_refinement_and_by_a_prior():
    free, known = (
        evaluate("dscsnet-s-sensor", condition="14bit", number=150, seed=9, radiance_prior=prior)
        for prior in (None, (235.0, 8.66))
    )
    assert free["network"]["cso_map"] > 65
    assert free["refined"]["cso_map"] > free["network"]["cso_map"] + 10
    assert known["refined"]["cso_map"] > free["refined"]["cso_map"]
    assert known["refined"]["count_accuracy"] > 95


def test_the_sensor_model_does_not_depend_on_the_gain_of_the_camera():
    image = simulate_patches(CONDITIONS["float"], 20, np.random.default_rng(2)).image
    one, many = unmix(image, refine=False), unmix(64 * image, refine=False)
    assert np.array_equal(one.blob, many.blob)
    assert np.allclose(one.x, many.x, atol=1e-4) and np.allclose(64 * one.radiance, many.radiance, rtol=1e-3)


def test_a_simulated_scene_is_found_and_taken_apart():
    source = "synthetic://?size=256x224&frames=2&clusters=3&singles=2&noise=0.5&seed=12"
    truth = run(source, radiance_prior=(100.0, 12.0), psf=0.5)["truth"]
    assert truth["found"] >= 0.7 * truth["targets"]
    assert truth["false"] <= 0.2 * truth["targets"]
