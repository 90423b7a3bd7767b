"""Two processes train one network: same weights on both, those of one process that sees both batches."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import distributed_worker as worker
import numpy as np
import pytest
import safetensors.torch
import torch

from glint.errors import InputError, ModelError
from glint.images import write_image
from glint.training.checkpoint import load_checkpoint
from glint.training.distributed import Ranks
from glint.training.loop import Trainer

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="PyTorch is built without torch.distributed"
)


def torchrun(what: str, folder: Path, *, fails: bool = False) -> str:
    """Output of two processes of the worker, that end well or are to fail."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*command, worker.__file__, what, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=300)
    finally:
        process.terminate()  # if it still runs, torchrun ends its workers
        process.wait()
    assert (process.returncode != 0) == fails, errors
    return output


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder that the worker's runs have left."""
    folder = tmp_path_factory.mktemp("two")
    rng = np.random.default_rng(0)
    for i in range(3):
        image = rng.integers(60, 70, (40, 56)).astype(np.uint8)
        image[10:13, 20:23] = 140
        write_image(folder / "frames" / "images" / f"f{i}.png", image)
        write_image(folder / "frames" / "masks" / f"f{i}.png", (image > 100).astype(np.uint8))
    (folder / "frames" / "train.txt").write_text("f0\nf1\n")
    (folder / "frames" / "val.txt").write_text("f2\n")
    torchrun("trainers", folder)
    return folder


def weights(folder: Path, name: str, rank: int) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / f"{name}-{rank}.safetensors")


@pytest.mark.parametrize("name", ["whole", "parts", "minutes", "lsnet"])
def test_both_processes_end_with_the_same_weights_and_average(run, name):
    first, second = (weights(run, name, rank) for rank in (0, 1))
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    steps = [(run / f"{name}-{rank}.txt").read_text() for rank in (0, 1)]
    assert steps[0] == steps[1]  # step and seconds


class Joined(worker.UnmixingTask):
    """The batches of both processes, one after the other."""

    def __init__(self) -> None:
        vars(self).update(vars(worker.unmixing_task()))
        self.rngs = [np.random.default_rng([rank, worker.RECIPE.seed]) for rank in (0, 1)]

    def batch(self, size, rng, device):
        parts = [super(Joined, self).batch(size // 2, own, device) for own in self.rngs]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_two_processes_do_what_one_does_on_their_joined_batches(run, tmp_path, monkeypatch):
    monkeypatch.setattr("glint.training.tasks.unmixing.VALIDATION_PATCHES", worker.VALIDATION_PATCHES)
    alone = Trainer(Joined(), worker.RECIPE, tmp_path)
    start = {k: v.clone() for k, v in alone.model.state_dict().items()}
    alone.fit()
    both = weights(run, "whole", 0)
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(both[f"model/{name}"], value, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(both[f"ema/{name}"], alone.ema[name], rtol=1e-4, atol=1e-6)
    assert any((value - start[name]).abs().max() > 1e-4 for name, value in both_model(both).items())
    for mine, theirs in zip(alone.history, load_checkpoint(run / "whole" / "last.safetensors")[0].history):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def both_model(tensors):
    return {name.removeprefix("model/"): v for name, v in tensors.items() if name.startswith("model/")}


def test_a_resumed_run_of_two_processes_ends_bit_for_bit_like_an_uninterrupted_one(run):
    whole, parts = (weights(run, name, 0) for name in ("whole", "parts"))
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key
    whole, parts = (load_checkpoint(run / name / "last.safetensors")[0] for name in ("whole", "parts"))
    assert whole.rng == parts.rng and whole.rng.keys() == {"0", "1"}
    assert whole.rng["0"] != whole.rng["1"]


def test_the_command_runs_under_torchrun_and_only_the_first_process_writes_and_talks(tmp_path):
    assert json.loads(torchrun("command", tmp_path))["step"] == 2
    assert len((tmp_path / "command" / "log.jsonl").read_text().splitlines()) == 2
    names = {p.name for p in (tmp_path / "command").iterdir()}
    checkpoints = {"last.safetensors", "last.json", "best.safetensors", "best.json"}
    assert names == checkpoints | {"log.jsonl", "curves.png"}


def test_a_loss_that_is_not_finite_in_one_process_ends_both_with_the_reason(run):
    for rank in (0, 1):
        assert "loss became nan" in (run / f"broken-{rank}.txt").read_text()


def test_a_killed_process_ends_the_others_and_leaves_a_young_checkpoint(tmp_path):
    torchrun("killed", tmp_path, fails=True)
    killed_at, longest_step = map(float, (tmp_path / "killed.txt").read_text().split())
    kept, tensors = load_checkpoint(tmp_path / "killed" / "last.safetensors")
    assert killed_at - kept.seconds <= worker.CHECKPOINT_SECONDS + longest_step
    assert kept.step > 0 and kept.rng.keys() == {"0", "1"} and any(k.startswith("optimizer/") for k in tensors)


def test_a_run_of_two_processes_is_not_resumed_by_one(run, tmp_path, monkeypatch):
    monkeypatch.setattr("glint.training.tasks.unmixing.VALIDATION_PATCHES", worker.VALIDATION_PATCHES)
    trainer = Trainer(worker.unmixing_task(), worker.RECIPE, tmp_path)
    with pytest.raises(ModelError, match="of 2 processes, this run has 1") as error:
        trainer.resume(run / "whole" / "last.safetensors")
    assert "--nproc-per-node 2" in str(error.value.hint)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(tmp_path):
    with pytest.raises(InputError, match="batch of 7 cannot be shared evenly by 2 processes"):
        Trainer(worker.unmixing_task(), replace(worker.RECIPE, batch=7), tmp_path, ranks=Ranks(0, 2))
