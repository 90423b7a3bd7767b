"""The training loop: learning, exact resume, checkpoints."""

import json
import shutil
import signal
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from glint.errors import InputError, ModelError
from glint.training.checkpoint import keep_weights, load_checkpoint
from glint.training.loop import Recipe, Trainer
from glint.training.networks.dscsnet import DSCSNetConfig
from glint.training.networks.registry import load_model
from glint.training.tasks.unmixing import UnmixingTask

TINY = DSCSNetConfig(size=5, channels=4, hidden=8, stages=2, memory=1)
RECIPE = Recipe(steps=6, batch=8, warmup=2, validate_every=3, amp="off")


@pytest.fixture(autouse=True)
def few_validation_patches(monkeypatch):
    monkeypatch.setattr("glint.training.tasks.unmixing.VALIDATION_PATCHES", 20)


def task() -> UnmixingTask:
    return UnmixingTask("dscsnet-s", TINY, "csist")


class StoppedError(Exception):
    pass


def stopped_after_the_first_checkpoint(trainer: Trainer) -> None:
    original = trainer.save

    def save_and_stop(name):
        original(name)
        if name == "last":
            raise StoppedError

    trainer.save = save_and_stop
    with pytest.raises(StoppedError):
        trainer.fit()
    assert trainer.step == 3


def assert_same_end(whole: Trainer, parts: Trainer) -> None:
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name
    for name, value in whole.ema.items():
        assert torch.equal(value, parts.ema[name]), name
    assert whole.rng.bit_generator.state == parts.rng.bit_generator.state
    assert whole.scaler.state_dict() == parts.scaler.state_dict()


def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path):
    whole = Trainer(task(), RECIPE, tmp_path / "whole")
    whole.fit()
    stopped_after_the_first_checkpoint(Trainer(task(), RECIPE, tmp_path / "parts"))
    second = Trainer(task(), RECIPE, tmp_path / "parts")
    second.resume(tmp_path / "parts" / "last.safetensors")
    second.fit()
    assert_same_end(whole, second)


def signalled_at(step: int, trainer: Trainer, number: signal.Signals) -> Trainer:
    """The trainer gets a signal in the middle of that step."""
    loss = trainer.loss

    def loss_and_signal(*arguments):
        if trainer.step == step - 1:
            signal.raise_signal(number)
        return loss(*arguments)

    trainer.loss = loss_and_signal
    return trainer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_keeps_it(tmp_path, capsys, number):
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # as the command line has it: not the default
    whole = Trainer(task(), RECIPE, tmp_path / "whole")
    whole.fit()
    try:
        with pytest.raises(KeyboardInterrupt):
            signalled_at(2, Trainer(task(), RECIPE, tmp_path / "parts"), number).fit()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "step 2 is kept" in capsys.readouterr().err
    second = Trainer(task(), RECIPE, tmp_path / "parts")
    second.resume(tmp_path / "parts" / "last.safetensors")
    assert (second.step, second.history) == (2, [])
    second.fit()
    assert_same_end(whole, second)


def test_the_state_is_kept_every_few_minutes(tmp_path, monkeypatch):
    monkeypatch.setattr("glint.training.loop.CHECKPOINT_SECONDS", 0.0)
    trainer, kept = Trainer(task(), RECIPE, tmp_path), []
    monkeypatch.setattr(trainer, "save", lambda name: kept.append((trainer.step, name)))
    trainer.fit()
    assert [step for step, name in kept if name == "last"] == [1, 2, 3, 4, 5, 6]


def half_precision(folder) -> Trainer:
    """A trainer with fp16 and a scaled loss on the CPU, which the public way leaves to GPUs."""
    trainer = Trainer(task(), RECIPE, folder)
    trainer.recipe = replace(RECIPE, amp="fp16")
    # The first steps overflow at this scale, and it grows again after every second step that does not.
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**17, growth_interval=2)
    return trainer


def test_a_resumed_run_in_fp16_goes_on_with_the_scale_of_its_loss(tmp_path):
    whole = half_precision(tmp_path / "whole")
    start = {name: value.clone() for name, value in whole.model.state_dict().items()}
    whole.fit()
    assert whole.scaler.get_scale() < 2.0**17
    assert any((value != start[name]).any() for name, value in whole.model.state_dict().items())
    stopped_after_the_first_checkpoint(half_precision(tmp_path / "parts"))
    second = half_precision(tmp_path / "parts")
    second.resume(tmp_path / "parts" / "last.safetensors")
    assert second.scaler.get_scale() < 2.0**17
    second.fit()
    assert_same_end(whole, second)


def test_gradients_are_clipped_in_their_own_units_whatever_the_scale_of_the_loss(tmp_path):
    plain = Trainer(task(), RECIPE, tmp_path / "plain")
    scaled = Trainer(task(), RECIPE, tmp_path / "scaled")
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plain.fit()
    scaled.fit()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(scaled.model.state_dict()[name], value, rtol=1e-5, atol=1e-7)


def test_fp16_is_refused_on_a_cpu(tmp_path):
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        Trainer(task(), replace(RECIPE, amp="fp16"), tmp_path)


class Line:
    """A task as small as can be: y = 3 x, with a loss that depends on the progress."""

    network, best_metric, config, data = "line", "score", TINY, {"what": "a line"}

    def build(self):
        return torch.nn.Linear(1, 1)

    def batch(self, size, rng, device):
        x = torch.from_numpy(rng.standard_normal((size, 1)).astype(np.float32))
        return {"x": x, "y": 3 * x}

    def loss(self, model, batch, progress):
        return (1 + progress) * (model(batch["x"]) - batch["y"]).square().mean()

    def validate(self, model):
        return {"score": model.weight.item()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, of its older compiler
@pytest.mark.skipif(
    shutil.which("g++") is None or not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file(),
    reason="TorchInductor needs a C++ compiler and Python's headers on a CPU",
)
def test_a_compiled_step_is_the_same_step_and_compiled_once(tmp_path):
    recipe = replace(RECIPE, steps=20, lr=0.1)
    plain, compiled = (Trainer(Line(), recipe, tmp_path / str(c), compiled=c) for c in (False, True))
    plain.fit()
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled.fit()
    assert compiled.model.weight.item() == pytest.approx(plain.model.weight.item(), abs=1e-4)
    assert compiled.model.weight.item() != pytest.approx(Line().build().weight.item(), abs=0.1)


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_that_cannot_be_compiled_is_explained(tmp_path, backward):
    trainer = Trainer(Line(), RECIPE, tmp_path)

    def refuse(*_):
        raise torch._dynamo.exc.TorchDynamoException("InvalidCxxCompiler: no working compiler\nin [g++]")

    def loss(model, *_):
        model.weight.register_hook(refuse)
        return model.weight.sum()

    trainer.loss = loss if backward else refuse
    with pytest.raises(InputError, match=r"cannot be compiled: InvalidCxxCompiler: no working compiler$") as caught:
        trainer.fit()
    assert "--compile" in caught.value.hint


def test_the_loss_falls(tmp_path):
    trainer = Trainer(task(), Recipe(steps=120, batch=32, warmup=5, validate_every=40, lr=3e-3, amp="off"), tmp_path)
    trainer.fit()
    losses = [row["loss"] for row in trainer.history]
    assert losses[-1] < 0.8 * losses[0]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    Trainer(task(), RECIPE, tmp_path).fit()
    other = Trainer(UnmixingTask("dscsnet-s", TINY, "sensor"), RECIPE, tmp_path / "other")
    with pytest.raises(ModelError, match="its data is"):
        other.resume(tmp_path / "last.safetensors")


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path, monkeypatch):
    broken = task()
    monkeypatch.setattr(broken, "loss", lambda model, batch, progress: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(ModelError, match="loss became nan"):
        Trainer(broken, RECIPE, tmp_path).fit()


def test_load_model_gives_the_averaged_weights(tmp_path):
    trainer = Trainer(task(), RECIPE, tmp_path)
    trainer.fit()
    info, model = load_model(tmp_path / "last.safetensors")
    assert info.network == "dscsnet-s" and info.step == 6
    assert all(torch.equal(v, trainer.ema[k]) for k, v in model.state_dict().items())
    assert not model.training


@pytest.mark.parametrize("damage", ["tensors", "json", "config", "suffix", "missing"])
def test_a_damaged_checkpoint_is_refused_with_its_reason(tmp_path, damage):
    Trainer(task(), RECIPE, tmp_path).fit()
    path = tmp_path / "last.safetensors"
    if damage == "tensors":
        path.write_bytes(path.read_bytes()[:-10] + b"0123456789")
    elif damage == "json":
        path.with_suffix(".json").write_text("{")
    elif damage == "config":
        info = json.loads(path.with_suffix(".json").read_text())
        info["config"]["channels"] = 5
        path.with_suffix(".json").write_text(json.dumps(info))
    elif damage == "suffix":
        path = path.rename(tmp_path / "last.pt")
    else:
        path.unlink()
    with pytest.raises(ModelError, match="last"):
        load_model(path)


def test_the_checkpoint_says_how_it_was_made(tmp_path):
    Trainer(task(), RECIPE, tmp_path).fit()
    info, _ = load_checkpoint(tmp_path / "last.safetensors")
    assert info.recipe["batch"] == 8 and info.recipe["amp"] == "off" and info.data["domain"] == "csist"
    assert info.versions["torch"] == torch.__version__
    assert [row["step"] for row in info.history] == [3, 6]


def test_a_training_batch_holds_the_truth_of_its_patches():
    batch = UnmixingTask("dscsnet-s", DSCSNetConfig(size=7, channels=4, hidden=8), "csist").batch(
        64, np.random.default_rng(0), torch.device("cpu")
    )
    flux = batch["grid"].sum(dim=(1, 2, 3))
    assert ((flux >= 220) & (flux <= 1250)).all()
    torch.testing.assert_close(flux, batch["radiance"].sum(dim=1))
    # csist divides by 235, so a patch of K targets carries about K units of flux where it does not clip.
    counts = torch.round(flux / 235)
    assert set(counts.tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert torch.equal(counts, (batch["radiance"] > 0).sum(dim=1).float())
    assert torch.equal(batch["scale"], torch.full_like(batch["scale"], 235.0))


@pytest.mark.parametrize(
    "bad", [{"lr": -1.0}, {"steps": 0}, {"ema": 1.0}, {"seed": -1}, {"minutes": -1.0}, {"clip": 0}, {"amp": "fp8"}]
)
def test_a_recipe_out_of_range_is_refused(bad):
    with pytest.raises(InputError, match="Recipe"):
        Recipe(**bad)


def test_averaged_weights_alone_cannot_be_resumed(tmp_path):
    Trainer(task(), RECIPE, tmp_path).fit()
    keep_weights(tmp_path / "last.safetensors", tmp_path / "kept.safetensors")
    with pytest.raises(ModelError, match="averaged weights only"):
        Trainer(task(), RECIPE, tmp_path / "more").resume(tmp_path / "kept.safetensors")
