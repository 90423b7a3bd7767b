"""The one place that knows Ray: work on many things by a pool of actors of Ray Data."""

from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from itertools import count
from typing import Any, TypeVar

from glint.cli import talk
from glint.errors import EngineError, InputError, first_line

T = TypeVar("T")
R = TypeVar("R")
LOCAL = "local"  # address of this machine alone
_ITEMS_PER_EXECUTION = 10_000  # things that one execution of Ray Data is given: what its driver keeps of each adds up
_PATIENCE_S = 10.0  # for a cluster's first answer
_MOST_DEATHS = 3  # of workers over one thing, before it is given up


class RayExecutor:
    """Actors of Ray Data, on this machine or on a cluster; see :func:`started`.

    Args:
        workers: how many at most.
        cpus: of each.
        gpus: of each that has any.
        on_gpus: how many of the workers have GPUs; they come first.
    """

    def __init__(self, workers: int, cpus: float, gpus: float = 0.0, on_gpus: int = 0) -> None:
        self.workers, self.cpus, self.gpus, self.on_gpus = workers, cpus, gpus, on_gpus

    def map(self, make: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Iterator[R]:
        """See ``plan.Executor``; a thing over which workers die again and again is left out.

        Raises:
            EngineError: if the workers cannot be started, or what they work with cannot be made.
        """
        for first in range(0, len(items), _ITEMS_PER_EXECUTION):
            yield from self._map(make, items[first : first + _ITEMS_PER_EXECUTION])

    def _map(self, make: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Iterator[R]:
        import ray
        from ray import cloudpickle

        # One thing at a time: one that kills its worker takes no other with it.
        pool = ray.data.ActorPoolStrategy(size=min(self.workers, len(items)), max_tasks_in_flight_per_actor=1)
        blocks = ray.data.from_items([{"item": cloudpickle.dumps(i)} for i in items], override_num_blocks=len(items))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")  # nothing else limits retries
            rows = blocks.map(
                _Actor, fn_constructor_args=(cloudpickle.dumps(make),), compute=pool, num_cpus=self.cpus,
                ray_remote_args_fn=partial(self._of_next_actor, count()),
            )  # fmt: skip
        try:
            for row in rows.iter_rows():
                if row["broken"]:
                    raise EngineError(
                        f"a worker cannot begin, on {row['broken']}",
                        hint="glint doctor on that machine says what it lacks",
                    )
                yield pickle.loads(row["result"])  # noqa: S301  (made by our own workers)
        except ray.exceptions.RayError as error:
            raise EngineError(f"workers cannot go on: {first_line(error)}", hint="see the logs of Ray") from error

    def _of_next_actor(self, numbers: Iterator[int]) -> dict[str, Any]:
        """What the next actor of a pool is given."""
        return {"max_task_retries": _MOST_DEATHS - 1, "num_gpus": self.gpus if next(numbers) < self.on_gpus else 0}


class _Actor:
    """Made once in each process of the pool."""

    def __init__(self, make: bytes) -> None:
        import ray

        if not ray.get_runtime_context().get_assigned_resources().get("GPU"):
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray shows all GPUs to whoever was given none
        self.broken = ""
        try:
            self.work: Callable[[Any], Any] = pickle.loads(make)()  # noqa: S301  (sent by our own driver)
        except Exception as error:  # Ray would try it again without an end
            self.broken = f"{socket.gethostname()}: {type(error).__name__}: {first_line(error)}"

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.broken:
            return {"result": b"", "broken": self.broken}
        item = pickle.loads(row["item"])  # noqa: S301  (sent by our own driver)
        return {"result": pickle.dumps(self.work(item)), "broken": ""}


@contextmanager
def started(
    address: str,
    *,
    workers: int | None = None,
    threads: int = 1,
    gpus_per_worker: float = 0.0,
    without_gpu: bool = True,
    gpus: int | None = None,
) -> Iterator[RayExecutor]:
    """Ray, on this machine or on the cluster that runs.

    On this machine it listens on loopback alone. It has no dashboard and reports nothing to anybody. What its libraries
    write to standard output goes to standard error.

    Args:
        address: ``local``: this machine alone; ``auto``: the cluster that this machine belongs to; or its address.
        workers: how many; None: as many as there are processors for, or GPUs for with ``gpus_per_worker``.
        threads: CPU threads of each.
        gpus_per_worker: GPUs of each; 0: none.
        without_gpu: whether workers for which there is no GPU work without one.
        gpus: of this machine; None: those that Ray finds.

    Raises:
        InputError: if there is no such cluster, or not room for one worker.
        MissingDependencyError: if Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _reach(address)
    if address == LOCAL:
        _stay_on_loopback()
    with _stdout_on_stderr():
        import ray
        import ray.data

        options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
        if address == LOCAL:
            number = workers or max(1, (os.cpu_count() or 1) // threads)
            options |= {
                "num_cpus": number * threads, "num_gpus": gpus if gpus_per_worker else 0,
                "include_dashboard": False, "_node_ip_address": "127.0.0.1",
            }  # fmt: skip
        try:
            with _termination_kept():
                ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            hint = "start one with ray start --head, or use --address local"
            raise InputError(f"Ray at {address}: {first_line(error)}", hint=hint) from error
        try:
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            context.print_on_execution_start = False
            context.max_errored_blocks = -1  # a chunk that kills its workers costs itself alone
            number, on_gpus = _staff(address, ray.cluster_resources(), workers, threads, gpus_per_worker, without_gpu)
            with_gpu = f", {on_gpus} of them with a GPU" if gpus_per_worker else ""
            talk(f"ray: {len(ray.nodes())} machines, {number} workers of {threads} threads{with_gpu}")
            yield RayExecutor(number, threads, gpus_per_worker, on_gpus)
        finally:
            ray.shutdown()


def _stay_on_loopback() -> None:
    """Else Ray takes the machine's outer address, whatever it is told."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if constants := sys.modules.get("ray._private.ray_constants"):  # it is read when Ray is imported
        vars(constants)["ENABLE_RAY_CLUSTER"] = False


def _staff(
    address: str, there: dict[str, float], workers: int | None, threads: int, gpus_per_worker: float, without_gpu: bool
) -> tuple[int, int]:
    """How many workers there will be, and how many of them with a GPU, of what a cluster has."""
    places, on_gpus = _room(there, threads, gpus_per_worker)
    if not (on_gpus if gpus_per_worker else places):
        raise InputError(
            f"Ray at {address} has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs: not enough "
            f"for a worker of {threads} CPUs and {gpus_per_worker:g} GPUs",
            hint="start Ray on more machines, or ask for fewer --threads",
        )
    most = places if not gpus_per_worker or (workers and without_gpu) else on_gpus
    number = min(workers or most, most)
    return number, min(number, on_gpus)


@contextmanager
def _termination_kept() -> Iterator[None]:
    """SIGTERM stays a request to end in order: Ray makes it an abort."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _reach(address: str) -> None:
    """Try the address of a cluster: Ray would go on trying for a long time.

    Raises:
        InputError: if nobody listens there.
    """
    match = re.fullmatch(r"(?:ray://)?\[?([^/\]]+?)\]?:(\d+)", address)
    if match is None:
        return
    try:
        socket.create_connection((match[1], int(match[2])), timeout=_PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        hint = "start one with ray start --head, or use --address local"
        raise InputError(f"Ray at {address}: {first_line(error)}", hint=hint) from error


def _room(there: dict[str, float], threads: int, gpus_per_worker: float) -> tuple[int, int]:
    """For how many workers there is room, and how many of them can have GPUs."""
    places, gpus = int(there.get("CPU", 0) / threads), int(there.get("GPU", 0))
    if not gpus_per_worker:
        return places, 0
    return places, min(places, gpus * int(1 / gpus_per_worker) if gpus_per_worker <= 1 else int(gpus / gpus_per_worker))


@contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Standard output carries data: what libraries print belongs elsewhere."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
