"""Several processes that train one network together: ``torchrun --nproc-per-node N -m glint train ...``.

Every process holds the whole network, draws data of its own and averages its gradients with the
others', so that all take the same step. The average is one call on one vector; PyTorch's
``DistributedDataParallel`` would hide the methods that a task calls on its model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from glint.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """The processes of a run as one of them sees them; by default it is alone.

    Attributes:
        rank: number of this process; 0 writes and talks.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over the processes, in place; the same bits on all of them."""
        if self.count > 1:
            dist.all_reduce(tensor)
            tensor /= self.count
        return tensor

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients over the processes; each must have them for the same parameters."""
        if self.count > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            vector = self.mean(nn.utils.parameters_to_vector(gradients))
            nn.utils.vector_to_parameters(vector, gradients)

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, on every process."""
        values = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value)
        return values


def is_first() -> bool:
    """Whether this process is the only one or the first of those that ``torchrun`` started."""
    return not dist.is_torchelastic_launched() or os.environ["RANK"] == "0"


@contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Join the other processes of ``torchrun``, if there are any; ``cuda`` then is this process's own GPU.

    Once per process: a second group would meet the remains of the first.

    Raises:
        InputError: if there are more processes on this machine than GPUs.
    """
    if not dist.is_torchelastic_launched():
        yield Ranks()
        return
    if device == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise InputError(
                f"--device cuda: process {local} of this machine has no GPU, PyTorch sees {gpus}",
                hint=f"torchrun --nproc-per-node {gpus}",
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        ranks = Ranks(dist.get_rank(), dist.get_world_size())
        yield ranks
        ranks.gather(None)  # nobody leaves while the first still writes
    finally:
        dist.destroy_process_group()
