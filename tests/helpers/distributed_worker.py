"""What each of the processes of ``test_distributed.py`` does; ``torchrun`` starts it with a word and a folder."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch

from glint import cli
from glint.training import loop
from glint.training.distributed import Ranks, join
from glint.training.loop import Recipe, Trainer
from glint.training.networks import dscsnet
from glint.training.networks.dscsnet import DSCSNetConfig
from glint.training.networks.lsnet import LSNetConfig
from glint.training.tasks import unmixing
from glint.training.tasks.augmentation import Augmentation
from glint.training.tasks.detection import DetectionTask
from glint.training.tasks.unmixing import UnmixingTask

TINY = DSCSNetConfig(size=5, channels=4, hidden=8, stages=2, memory=1)
TINY_LSNET = LSNetConfig(stages=2, background=(8, 12), heads=1, head_dim=4, state=2, sparse=(4, 6, 8), unshuffle=2)
RECIPE = Recipe(steps=4, batch=8, warmup=2, validate_every=2, amp="off")
VALIDATION_PATCHES = 20
CHECKPOINT_SECONDS, DEATH_SECONDS = 0.5, 1.8


def unmixing_task() -> UnmixingTask:
    """Patches of exactly three targets: the head's loss is a mean over targets, which then is one over patches."""
    task = UnmixingTask("dscsnet-s", TINY, "csist")
    task.scene = replace(task.scene, targets=(3, 3))
    return task


def detection_task(folder: Path) -> DetectionTask:
    return DetectionTask("lsnet-s", TINY_LSNET, folder, Augmentation(crop=32))


def keep(trainer: Trainer, folder: Path, name: str) -> None:
    """Write what this process ends with."""
    tensors = {f"model/{k}": v for k, v in trainer.model.state_dict().items()}
    tensors |= {f"ema/{k}": v for k, v in trainer.ema.items()}
    path = folder / f"{name}-{trainer.ranks.rank}.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    path.with_suffix(".txt").write_text(f"{trainer.step} {trainer.seconds}")


def train(folder: Path, ranks: Ranks) -> None:
    def run(name: str, task: UnmixingTask | DetectionTask, recipe: Recipe) -> None:
        trainer = Trainer(task, recipe, folder / name, ranks=ranks)
        trainer.fit()
        keep(trainer, folder, name)

    run("whole", unmixing_task(), RECIPE)
    run("minutes", unmixing_task(), replace(RECIPE, minutes=0.01, validate_every=100))
    run("lsnet", detection_task(folder / "frames"), replace(RECIPE, steps=2))

    class StoppedError(Exception):
        pass

    class Stopping(Trainer):
        def save(self, name: str) -> None:
            super().save(name)
            if name == "last":
                raise StoppedError

    try:
        Stopping(unmixing_task(), RECIPE, folder / "parts", ranks=ranks).fit()
    except StoppedError:
        ranks.gather(None)  # the first one has written
    second = Trainer(unmixing_task(), RECIPE, folder / "parts", ranks=ranks)
    second.resume(folder / "parts" / "last.safetensors")
    second.fit()
    keep(second, folder, "parts")

    broken = unmixing_task()
    rank_of_nan = 1
    original = broken.loss
    broken.loss = lambda *a: original(*a) * (np.nan if ranks.rank == rank_of_nan else 1.0)  # type: ignore[method-assign]
    try:
        Trainer(broken, RECIPE, folder / "broken", ranks=ranks).fit()
    except ValueError as error:
        (folder / f"broken-{ranks.rank}.txt").write_text(str(error))


def be_killed(folder: Path, ranks: Ranks) -> None:
    """Train without an end, until one of the processes is killed; its last words are its seconds and longest step."""
    loop.CHECKPOINT_SECONDS = CHECKPOINT_SECONDS

    class Mortal(Trainer):
        longest = 0.0

        def _train_step(self, started: float) -> float:
            if self.ranks.rank == 1 and self.seconds > DEATH_SECONDS:
                (folder / "killed.txt").write_text(f"{self.seconds} {self.longest}")
                os.kill(os.getpid(), signal.SIGKILL)
            before, loss = self.seconds, super()._train_step(started)
            self.longest = max(self.longest, self.seconds - before)
            return loss

    endless = replace(RECIPE, steps=10**6, validate_every=10**6)
    Mortal(unmixing_task(), endless, folder / "killed", ranks=ranks).fit()


if __name__ == "__main__":
    what, place = sys.argv[1], Path(sys.argv[2])
    unmixing.VALIDATION_PATCHES = VALIDATION_PATCHES
    dscsnet.PRESETS["dscsnet-s"] = TINY
    if what == "command":
        words = "--domain csist --steps 2 --batch 4 --validate-every 1 --json --out"
        sys.exit(cli.main(["train", "dscsnet-s", *words.split(), str(place / "command")]))
    with join("cpu") as everyone:
        (be_killed if what == "killed" else train)(place, everyone)
