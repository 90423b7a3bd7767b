"""Judging rows: distances from a reference by hand, scores of the released models and of peers."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glint.benchmarks.bench.accuracy import compare, judge, simulated_images
from glint.benchmarks.bench.cases import BenchCase
from glint.benchmarks.bench.peer_subjects import DetectionPeer, UnmixingPeer
from glint.benchmarks.bench.session import open_subject
from glint.benchmarks.bench.subjects import float_model
from glint.cards import load_card, save_card
from glint.types import FrameSize


def test_parity_names_the_worst_output():
    reference = {"a": np.array([3.0, 4.0]), "b": np.array([10.0, 0.0])}
    outputs = {"a": reference["a"] + 0.001, "b": np.array([9.0, 0.0])}
    assert compare(outputs, reference) == {"sqnr_db": pytest.approx(20), "output": "b", "max_relative": 0.1}
    assert compare(reference, reference) == {"sqnr_db": 300.0, "output": "a", "max_relative": 0.0}
    broken = compare({**outputs, "a": np.array([np.nan, 4.0])}, reference)
    assert broken == {"sqnr_db": None, "output": "a", "max_relative": None}


def test_unmixers_are_scored_refined_and_on_their_grid():
    case = BenchCase("dscsnet-s-csist", "unmix", batch=2)
    subject = open_subject(case)
    subject.call()
    verdict = judge(case, subject, patches=60)
    assert verdict["accuracy"]["value"] > verdict["accuracy"]["grid"] > 30
    assert verdict["accuracy"]["on"] == "60 simulated patches, 8sat"
    assert verdict["parity"] is None


def test_another_engine_is_held_against_the_float_model():
    torch = pytest.importorskip("torch")
    case = BenchCase("dscsnet-s-csist", "unmix", engine="torch", batch=2)
    subject = open_subject(case)
    times = subject.call()
    assert times["total"] == pytest.approx(sum(v for k, v in times.items() if k != "total"))
    assert subject.facts()["torch"] == torch.__version__
    assert judge(case, subject, patches=10) == {"accuracy": None, "parity": None}  # fresh weights say nothing


def test_a_card_of_another_precision_is_held_against_the_float_model_beside_it(tmp_path):
    (card, onnx), copy = load_card("dscsnet-s-csist"), tmp_path / "mine.fp16.onnx"
    shutil.copy(onnx, copy)
    card = save_card(replace(card, name="mine", precision="fp16", file=copy.name), tmp_path)
    case = BenchCase(str(card), "unmix", precision="fp16", batch=2)
    assert case.place == "mine x2"
    subject = open_subject(case)
    subject.call()
    assert judge(case, subject, patches=4)["parity"] is None  # there is no fp32 model
    float_copy = Path(shutil.copy(onnx, tmp_path / "mine.fp32.onnx"))
    save_card(replace(load_card("dscsnet-s-csist")[0], name="mine", file=float_copy.name), tmp_path)
    assert float_model(str(card))[1] == float_copy
    assert judge(case, subject, patches=4)["parity"]["sqnr_db"] == 300  # it is a copy


def test_detectors_are_scored_on_simulated_frames():
    images = simulated_images()
    assert all(0 < sample.mask.sum() < 0.01 * sample.mask.size for sample in images)
    case = BenchCase("lsnet-s", "detect", size=FrameSize(96, 80), blobs=2)
    subject = open_subject(case)
    times = subject.call()
    assert set(times) == {"total", "pre", "network", "post"}
    accuracy = judge(case, subject, patches=1)["accuracy"]
    assert accuracy["metric"] == "Pd"
    assert accuracy["value"] > 70


def test_the_pipeline_is_the_sum_of_its_stages():
    case = BenchCase(
        "pipeline", "pipeline", size=FrameSize(160, 128), blobs=3, detector="lsnet-s", unmixer="dscsnet-s-sensor"
    )
    subject = open_subject(case)
    times = subject.call()
    stages = ("detector", "around detector", "unmixer", "around unmixer", "refine")
    assert sum(times[s] for s in stages) == pytest.approx(times["total"], rel=0.05)
    assert times["network"] == pytest.approx(times["detector"] + times["unmixer"])
    assert subject.facts()["blobs"] >= 1
    assert 0 <= judge(case, subject, patches=1)["accuracy"]["value"] <= 100


@pytest.mark.parametrize(("name", "least"), [("template", 80), ("nnls-fit", 40), ("fista", 4)])
def test_peers_answer_on_the_same_patches(name, least):
    case = BenchCase(name, "peer unmix", engine="numpy", precision="fp64", batch=8)
    peer = open_subject(case)
    assert isinstance(peer, UnmixingPeer)
    assert peer.call()["total"] > 0
    accuracy = judge(case, peer, patches=40)["accuracy"]
    assert accuracy["on"] == "40 simulated patches, 8sat"
    assert accuracy["value"] > least


@pytest.mark.parametrize("name", ["dista-net", "focus"])
def test_networks_of_others_are_timed_with_fresh_weights(name):
    pytest.importorskip("torch")
    case = BenchCase(name, "peer unmix", engine="torch", batch=2)
    peer = open_subject(case)
    assert peer.call()["total"] > 0
    assert peer.facts()["threads"] == 1
    assert judge(case, peer, patches=4) == {"accuracy": None, "parity": None}


def test_detectors_of_others_are_timed_on_the_same_frames():
    pytest.importorskip("glint.benchmarks.peers.saliency")
    case = BenchCase("top-hat", "peer detect", engine="numpy", precision="fp64", size=FrameSize(96, 80), blobs=1)
    peer = open_subject(case)
    assert isinstance(peer, DetectionPeer)
    assert peer.call()["total"] > 0
    assert judge(case, peer, patches=4) == {"accuracy": None, "parity": None}
