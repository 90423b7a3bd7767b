"""``glint train`` from the command line: outputs, resume, start from other weights, wrong arguments."""

import json
from dataclasses import replace

import pytest
import torch

from glint.cli import main
from glint.optics import PsfEstimate, save_psf
from glint.training.networks.dscsnet import PRESETS, DSCSNetConfig
from glint.training.networks.registry import load_model

TINY = DSCSNetConfig(size=5, channels=4, hidden=8, stages=2, memory=1)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(PRESETS, "dscsnet-s", TINY)
    monkeypatch.setattr("glint.training.tasks.unmixing.VALIDATION_PATCHES", 20)


def train(*words: str, network: str = "dscsnet-s") -> int:
    return main(["train", network, "--domain", "csist", "--batch", "4", "--validate-every", "2", *words])


def test_a_run_leaves_checkpoints_a_log_and_json(tmp_path, capsys):
    assert train("--out", str(tmp_path / "a"), "--steps", "4", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["step"] == 4
    names = {p.name for p in (tmp_path / "a").iterdir()}
    checkpoints = {"last.safetensors", "last.json", "best.safetensors", "best.json"}
    assert names == checkpoints | {"log.jsonl", "curves.png"}


def test_a_run_is_not_started_twice_but_resumed(tmp_path, capsys):
    out = str(tmp_path / "a")
    assert train("--out", out, "--steps", "2") == 0
    assert train("--out", out, "--steps", "2") == 2
    assert "holds a training run" in capsys.readouterr().err
    assert train("--out", out, "--steps", "4", "--resume") == 0
    assert load_model(tmp_path / "a" / "last.safetensors")[0].step == 4


def test_a_new_run_can_start_from_other_weights_and_says_so(tmp_path):
    assert train("--out", str(tmp_path / "a"), "--steps", "2") == 0
    first = tmp_path / "a" / "last.safetensors"
    # A learning rate of next to nothing leaves the weights where they started.
    assert train("--out", str(tmp_path / "b"), "--steps", "2", "--init", str(first), "--lr", "1e-12") == 0
    old, old_model = load_model(first)
    new, new_model = load_model(tmp_path / "b" / "last.safetensors")
    for (name, a), b in zip(old_model.state_dict().items(), new_model.state_dict().values()):
        assert torch.allclose(a, b, atol=1e-6), name
    assert new.data["init"]["sha256"] == old.sha256


def test_the_large_network_can_start_from_the_small_ones_head(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "dscsnet", replace(TINY, stages=3, memory=2))
    small = tmp_path / "a" / "last.safetensors"
    more = ("--out", str(tmp_path / "b"), "--steps", "2", "--init", str(small), "--lr", "1e-12")
    assert train("--out", str(tmp_path / "a"), "--steps", "2") == 0
    assert train(*more, network="dscsnet") == 0
    old, old_model = load_model(small)
    new, new_model = load_model(tmp_path / "b" / "last.safetensors")
    assert torch.allclose(new_model.head.presence.weight, old_model.head.presence.weight, atol=1e-6)
    assert (new.data["init"]["network"], new.data["init"]["sha256"]) == ("dscsnet-s", old.sha256)


@pytest.mark.parametrize(
    "words", [["--resume"], ["--lr", "-1"], ["--seed", "-1"], ["--init", "nothing.safetensors"], ["--amp", "fp16"]]
)
def test_wrong_arguments_are_explained_and_leave_nothing(tmp_path, capsys, words):
    assert train("--out", str(tmp_path / "a"), "--steps", "2", *words) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "a").exists()


def test_lsnet_needs_data(tmp_path, capsys):
    assert main(["train", "lsnet-s", "--out", str(tmp_path / "a")]) == 2
    assert "--data" in capsys.readouterr().err


def test_a_network_is_trained_for_one_camera(tmp_path, capsys):
    measured = tmp_path / "psf.json"
    save_psf(PsfEstimate(0.62, 0.004, scatter=0.01, used=30), measured)
    assert train("--psf", str(measured), "--out", str(tmp_path / "a"), "--steps", "2") == 0
    info = load_model(tmp_path / "a" / "last.safetensors")[0]
    half = max(0.02 * 0.62, 3**0.5 * (0.004**2 + 0.01**2) ** 0.5)
    assert info.config["sigma"] == 0.62
    assert info.data["scene"]["sigma"] == pytest.approx([0.62 - half, 0.62 + half], abs=1e-6)
    assert train("--psf", "0.62", "--out", str(tmp_path / "b"), "--steps", "2") == 0
    assert load_model(tmp_path / "b" / "last.safetensors")[0].data["scene"]["sigma"] == [0.6076, 0.6324]
    assert train("--psf", "1.4", "--out", str(tmp_path / "c"), "--steps", "2") == 2
    assert "glint run --psf" in capsys.readouterr().err
    assert train("--psf", str(tmp_path / "none.json"), "--out", str(tmp_path / "c"), "--steps", "2") == 2
    assert train("--psf", "0.6", "--out", str(tmp_path / "c"), "--steps", "2", network="lsnet-s") == 2
    assert not (tmp_path / "c").exists()
