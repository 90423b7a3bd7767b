"""The training loop, the same for every network.

A :class:`Task` supplies the model, batches, loss and validation; the loop does the rest: the
optimizer with warm-up and cosine, mixed precision, exponential moving average, checkpoints, exact resume, a log.
All randomness of the data comes from one NumPy generator per process, whose state is part of the
checkpoint, so a resumed run continues as if it had not stopped (bit for bit on one CPU with the
same number of threads). Several processes share a run as :mod:`glint.training.distributed` says.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from glint.cli import talk
from glint.config import to_dict
from glint.errors import InputError, ModelError, first_line
from glint.files import known
from glint.interruption import Interruption
from glint.progress import Progress
from glint.training.checkpoint import CheckpointInfo, load_checkpoint, part, save_checkpoint
from glint.training.distributed import Ranks
from glint.training.optimizer import ADAMW, OPTIMIZERS, optimizer_of
from glint.training.pictures import write_curves

CHECKPOINT_SECONDS = 300.0  # of training, after which the state is written at the latest
AMP = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}


@contextmanager
def _compiling() -> Iterator[None]:
    try:
        yield
    except TorchDynamoException as error:
        hint = "on a CPU it needs a C++ compiler (g++) and Python's headers; or leave --compile away"
        raise InputError(f"the step cannot be compiled: {first_line(error)}", hint=hint) from error


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        steps: optimisation steps; the end of the schedule unless ``minutes`` is set.
        minutes: time budget instead of steps; the learning rate follows the time spent. 0 for none.
        batch: samples per step, all processes together.
        lr: peak learning rate.
        weight_decay: on matrices and kernels only.
        warmup: steps of linear warm-up.
        clip: largest gradient norm.
        ema: decay of the moving average of the weights (which is what is released).
        seed: of weights and data.
        validate_every: steps between validations, each followed by a checkpoint.
        amp: type of the autocast: ``bf16``, ``fp16`` (with a scaled loss; GPU only) or ``off``.
        optimizer: ``adamw`` or ``muon``, see :mod:`glint.training.optimizer`.
    """

    steps: int = 10_000
    minutes: float = 0.0
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 200
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 1
    validate_every: int = 500
    amp: str = "bf16"
    optimizer: str = ADAMW

    def __post_init__(self) -> None:
        if self.steps < 1 or self.minutes < 0 or self.batch < 1 or self.validate_every < 1:
            raise InputError(
                "Recipe: steps, batch and validate_every must be at least 1, minutes not negative",
                hint="glint train --help names the defaults",
            )
        if not (self.lr > 0 and self.clip > 0 and self.weight_decay >= 0 and 0 <= self.ema < 1 and self.seed >= 0):
            raise InputError(
                "Recipe: lr and clip must be positive, weight_decay and seed not negative, ema in [0, 1), got "
                f"lr {self.lr}, clip {self.clip}, weight_decay {self.weight_decay}, seed {self.seed}, ema {self.ema}",
                hint="glint train --help names the defaults",
            )
        if self.amp not in AMP:
            raise InputError(f"Recipe.amp: expected one of {', '.join(AMP)}, got {self.amp!r}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"Recipe.optimizer: expected one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")


class Task(Protocol):
    """What the loop needs to know about a network and its data."""

    network: str
    config: Any
    data: dict[str, Any]
    best_metric: str

    def build(self) -> nn.Module:
        """A freshly initialised model."""

    def batch(self, size: int, rng: np.random.Generator, device: torch.device) -> dict[str, Tensor]:
        """The next training batch, on the device; all randomness from ``rng``."""

    def loss(self, model: nn.Module, batch: dict[str, Tensor], progress: Tensor) -> Tensor:
        """Scalar loss; ``progress``, a number, runs from 0 to 1 over the training."""

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Scores of the model; higher ``best_metric`` is better."""


@runtime_checkable
class PartialStart(Protocol):
    """A task that can begin with a part of another network."""

    def take_over(self, model: nn.Module, other: nn.Module) -> str:
        """Bring that part of ``other`` into ``model``; says what it is, "" for nothing."""


@runtime_checkable
class Pictured(Protocol):
    """A task that can show what a model finds."""

    def picture(self, model: nn.Module, path: Path) -> None:
        """Write a picture of some validation samples."""


class Trainer:
    """One training run in one folder: ``last`` and ``best`` checkpoints and ``log.jsonl``.

    Of several processes each has a trainer; the first writes. A ``compiled`` step is fused by
    TorchInductor: the same arithmetic in another order, so not the same bits.

    Raises:
        InputError: if the recipe does not suit the device or the number of processes.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        folder: Path,
        *,
        device: str = "cpu",
        ranks: Ranks | None = None,
        compiled: bool = False,
    ) -> None:
        self.task, self.recipe, self.folder, self.device = task, recipe, folder, torch.device(device)
        self.ranks = ranks or Ranks()
        if recipe.batch % self.ranks.count:
            raise InputError(
                f"a batch of {recipe.batch} cannot be shared evenly by {self.ranks.count} processes",
                hint="give a --batch that is a multiple of the number of processes",
            )
        if recipe.amp == "fp16" and self.device.type != "cuda":
            raise InputError(f"amp fp16 needs a GPU, this is {self.device.type}", hint="--amp bf16 or --amp off")
        torch.manual_seed(recipe.seed)
        self.rng = np.random.default_rng([self.ranks.rank, recipe.seed])
        self.model = task.build().to(self.device)
        self.ema = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.loss = torch.compile(task.loss, dynamic=False) if compiled else task.loss
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = optimizer_of(recipe.optimizer, self.parameters.values(), recipe.lr, recipe.weight_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.amp == "fp16")
        self.step, self.seconds, self.history = 0, 0.0, list[dict[str, Any]]()
        self._signals, self._stopped, self._kept = Interruption(), False, 0.0

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        if self.recipe.minutes:
            return min(1.0, self.seconds / (60 * self.recipe.minutes))
        return min(1.0, self.step / self.recipe.steps)

    def fit(self) -> dict[str, Any]:
        """Train to the end of the budget; returns the last validation.

        Every few minutes the state is written as ``last``; also at Ctrl-C or SIGTERM, after the present step.

        Raises:
            KeyboardInterrupt: after such a signal, or at once at the second one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        total = None if self.recipe.minutes else self.recipe.steps
        losses: list[float] = []
        started = time.monotonic() - self.seconds
        with Progress(f"train {self.task.network}", total) as line, self._signals:
            while self.progress < 1:
                losses.append(self._train_step(started))
                self.step += 1
                if self.ranks.rank == 0:
                    line.update(self.step, f"loss {losses[-1]:.4g}  {100 * self.progress:.0f} %")
                if self.step % self.recipe.validate_every == 0 or self.progress >= 1:
                    self._validate(float(np.mean(losses)))
                    losses.clear()
                elif self._stopped or self.seconds - self._kept >= CHECKPOINT_SECONDS:
                    self.save("last")
                if self._stopped and self.progress < 1:
                    if self.ranks.rank == 0:
                        talk(f"step {self.step} is kept in {self.folder}: --resume goes on from there")
                    raise KeyboardInterrupt
        return self.history[-1] if self.history else {}

    def _train_step(self, started: float) -> float:
        recipe, progress = self.recipe, self.progress
        warm = min(1.0, (self.step + 1) / max(1, recipe.warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr * warm * (0.005 + 0.995 * (0.5 + 0.5 * math.cos(math.pi * progress)))
        self.model.train()
        batch = self.task.batch(recipe.batch // self.ranks.count, self.rng, self.device)
        with _compiling(), torch.autocast(self.device.type, AMP[recipe.amp], enabled=recipe.amp != "off"):
            # As a tensor: a compiled step would be compiled again for every number.
            loss = self.loss(self.model, batch, torch.tensor(progress, device=self.device))
        # One loss and one clock for all processes: they stop, fail and set their learning rates as one.
        spent = time.monotonic() - started
        mine = [loss.item(), spent, float(self._signals.requested)]
        agreed = self.ranks.mean(torch.tensor(mine, dtype=torch.float64, device=self.device))
        value, self.seconds, stopped = agreed.tolist()
        self._stopped = stopped > 0
        if not math.isfinite(value):
            raise ModelError(
                f"training {self.task.network}: the loss became {value} at step {self.step}",
                hint="lower the learning rate (--lr) or resume from the last checkpoint",
            )
        self.optimizer.zero_grad(set_to_none=True)
        with _compiling():  # the gradients are compiled when they are first wanted
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.ranks.mean_gradients(self.parameters.values())
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters.values(), recipe.clip)
        self.scaler.step(self.optimizer)  # leaves the weights alone where a half-precision gradient overflowed
        self.scaler.update()
        self._average_weights()
        return float(value)

    def _average_weights(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))  # a young average forgets faster
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                average = self.ema[name]
                if average.is_floating_point():
                    average.lerp_(value, 1 - decay)
                else:
                    average.copy_(value)

    def _validate(self, loss: float) -> None:
        scores = self._scores() if self.ranks.rank == 0 else {}
        row: dict[str, Any] = {"step": self.step, "seconds": round(self.seconds, 1), "loss": round(loss, 6)}
        row |= self.ranks.gather(scores)[0]
        self.history.append(row)
        if self.ranks.rank == 0:
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
            write_curves(self.folder / "curves.png", self.history)
        self.save("last")
        name = self.task.best_metric
        so_far = [r[name] for r in self.history if r[name] is not None]
        if row[name] is not None and row[name] >= max(so_far):
            self.save("best")

    def _scores(self) -> dict[str, Any]:
        """Validation of the averaged weights."""
        weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.ema)
        self.model.eval()
        with torch.no_grad():
            metrics = self.task.validate(self.model)
            if isinstance(self.task, Pictured):
                self.task.picture(self.model, self.folder / "validation.png")
        self.model.load_state_dict(weights)
        # A score without a single case is NaN, which JSON does not know.
        return known(metrics)

    def save(self, name: str) -> None:
        """Write the whole state as ``folder/name.safetensors`` and ``.json``; every process must call it."""
        states = self.ranks.gather(self.rng.bit_generator.state)
        self._kept = self.seconds
        if self.ranks.rank > 0:
            return
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema/{k}": v for k, v in self.ema.items()}
        for parameter, tensor in self.parameters.items():
            for key, value in self.optimizer.state[tensor].items():
                tensors[f"optimizer/{parameter}/{key}"] = value
        info = CheckpointInfo(
            network=self.task.network, config=to_dict(self.task.config), data=self.task.data,
            recipe=to_dict(self.recipe), step=self.step, seconds=self.seconds,
            rng={str(rank): state for rank, state in enumerate(states)}, scaler=self.scaler.state_dict(),
            metrics=self.history[-1] if self.history else {}, history=tuple(self.history),
        )  # fmt: skip
        save_checkpoint(self.folder / f"{name}.safetensors", info, tensors)

    def start_from(self, info: CheckpointInfo, model: nn.Module) -> None:
        """Begin with another run's weights; optimizer, schedule and data start afresh.

        Of another network the task may take over a part, and this is said.

        Raises:
            ModelError: if they are of another network or configuration.
            InputError: if the heads differ.
        """
        if (info.network, info.config) == (self.task.network, to_dict(self.task.config)):
            self.model.load_state_dict(model.state_dict())
        elif (
            info.network != self.task.network
            and isinstance(self.task, PartialStart)
            and (taken := self.task.take_over(self.model, model))
        ):
            talk(f"the {taken} is that of {info.network}, step {info.step}; everything else begins afresh")
        else:
            raise ModelError(
                f"--init is of {info.network} {info.config}, this run trains {self.task.network}",
                hint="start from a checkpoint of the same network, or leave --init away",
            )
        self.ema = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint as if the run had not stopped.

        Raises:
            ModelError: if it is of another network, configuration or number of processes.
        """
        info, tensors = load_checkpoint(path)
        if not part(tensors, "model"):
            raise ModelError(
                f"checkpoint {path} holds averaged weights only, no state of training",
                hint="start a new run from it with --init",
            )
        mine = {"network": self.task.network, "config": to_dict(self.task.config), "data": self.task.data}
        for name, value in mine.items():
            if getattr(info, name) != value:
                raise ModelError(
                    f"checkpoint {path}: its {name} is {getattr(info, name)}, this run has {value}",
                    hint="resume with the options that the run was started with, or choose another --out",
                )
        if len(info.rng) != self.ranks.count:
            raise ModelError(
                f"checkpoint {path}: of a run of {len(info.rng)} processes, this run has {self.ranks.count}",
                hint=f"torchrun --nproc-per-node {len(info.rng)}, or start a new run from it with --init",
            )
        self.model.load_state_dict(part(tensors, "model"))
        self.ema = {k: v.to(self.device) for k, v in part(tensors, "ema").items()}
        for name, tensor in self.parameters.items():
            state = part(tensors, f"optimizer/{name}")
            # AdamW keeps its step counter on the CPU and everything else beside the parameter.
            self.optimizer.state[tensor] = {k: v if k == "step" else v.to(self.device) for k, v in state.items()}
        self.step, self.seconds, self.history = info.step, info.seconds, list(info.history)
        self._kept = self.seconds
        self.rng.bit_generator.state = info.rng[str(self.ranks.rank)]
        self.scaler.load_state_dict(info.scaler)
