"""Built engines on disk: one plan and one sidecar each, found again by a key of all that they depend on.

An entry is ``STEM-KEY.plan`` (TensorRT's plan, nothing added) and ``STEM-KEY.plan.json`` (its
:class:`Sidecar`). The sidecar is written last: a plan without one does not count.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from glint import files
from glint.cards import TensorSpec
from glint.config import from_dict, to_dict
from glint.errors import InputError, ModelError, OutputError, system_errors_as
from glint.files import atomic_path, read_json, write_json
from glint.formats.seal import broken_seal, seal_of_document

PLAN_FORMAT = 1
ANY_GPU = "any"


@dataclass(frozen=True)
class Target:
    """What an engine is tied to.

    Attributes:
        flavour, tensorrt: which TensorRT, and its version.
        gpu: name of the GPU, or :data:`ANY_GPU` if it was built ahead of time for all of one ``sm``.
        sm: compute capability, e.g. ``8.7``.
        cuda, driver: versions, "" if unknown; an engine does not depend on the driver.
        multiprocessors: of the GPU that are switched on, 0 if unknown.
        power_mode: of a Jetson (``nvpmodel``), "" elsewhere: kernels are timed in it, so that each mode has engines
            of its own; one of another mode runs all the same.
    """

    flavour: str
    tensorrt: str
    gpu: str
    sm: str
    cuda: str = ""
    driver: str = ""
    multiprocessors: int = 0
    power_mode: str = ""


@dataclass(frozen=True)
class InputRange:
    """Shapes of one input that one profile takes: smallest, fastest and largest."""

    name: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


Profile = tuple[InputRange, ...]


@dataclass(frozen=True)
class Sidecar:
    """The sidecar of a plan.

    Attributes:
        model, precision: name of the model and the precision that was asked for.
        onnx_sha256, plan_sha256: hashes of the ONNX file and of the plan.
        target: what the plan runs on.
        options: what it was built with.
        profiles: the shapes that it takes.
        inputs, outputs: its tensors; -1 in a shape is any size that a profile takes.
        audit: layers per precision and the ONNX nodes that missed theirs.
        built, seconds: when (UTC, ISO 8601), and how long it took.
        format: of this file.
        seal: of the rest of this file: a checksum, or with ``GLINT_KEY`` a signature (see :mod:`glint.formats.seal`).
    """

    model: str
    precision: str
    onnx_sha256: str
    plan_sha256: str
    target: Target
    options: dict[str, Any]
    profiles: tuple[Profile, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    audit: dict[str, Any] = field(default_factory=dict)
    built: str = ""
    seconds: float = 0.0
    format: int = PLAN_FORMAT
    seal: str = ""

    def sealed(self) -> Sidecar:
        """The same with its seal."""
        return replace(self, seal=seal_of_document(to_dict(self)))


def cache_folder() -> Path:
    """Where engines are kept: ``$GLINT_CACHE/engines``, or ``glint/engines`` in the user's cache folder."""
    return files.cache_folder("engines")


def entry_path(
    stem: str, onnx_sha256: str, target: Target, profiles: tuple[Profile, ...], options: dict[str, Any]
) -> Path:
    """Path of the plan for a model (``stem`` is for the reader's eye), a machine, shapes and options."""
    shapes = [[to_dict(entry) for entry in profile] for profile in profiles]
    machine = to_dict(replace(target, driver=""))
    key = _digest([PLAN_FORMAT, onnx_sha256, machine, shapes, options])
    return cache_folder() / f"{_slug(stem)}-{key[:16]}.plan"


def sidecar_path(plan: Path) -> Path:
    """Path of a plan's sidecar."""
    return plan.with_name(plan.name + ".json")


def timing_cache_path(target: Target) -> Path:
    """Path of the timings that the builder took on this machine, which later builds reuse."""
    mode = f"-mode{target.power_mode}" if target.power_mode else ""
    machine = f"timing-{target.flavour}-{target.tensorrt}-{target.gpu}-{target.sm}{mode}"
    return cache_folder() / f"{_slug(machine)}.cache"


def read_info(plan: Path) -> Sidecar:
    """Read a plan's sidecar.

    Raises:
        ModelError: if it is missing, malformed or was edited.
    """
    path = sidecar_path(plan)
    hint = "build the engine again: glint build"
    try:
        info = from_dict(Sidecar, read_json(path, what="sidecar"), where=f"sidecar {path.name}")
    except InputError as error:
        raise ModelError(str(error), hint=hint) from error
    if info.format != PLAN_FORMAT:
        raise ModelError(f"sidecar {path.name}: format {info.format}, this glint reads {PLAN_FORMAT}", hint=hint)
    broken = broken_seal(to_dict(info))
    if broken is not None:
        raise ModelError(f"sidecar {path.name} {broken}", hint=hint)
    return info


def verify(plan: Path, target: Target, *, onnx_sha256: str | None = None) -> str | None:
    """Why a plan must not be loaded here, or None if it may be; looks at files only, never loads the plan.

    Args:
        plan: path of the plan; its sidecar stands beside it.
        target: this machine.
        onnx_sha256: of the model that is wanted, if that matters.
    """
    try:
        info = read_info(plan)
    except ModelError as error:
        return str(error)
    return read_plan(plan, info, target, onnx_sha256=onnx_sha256)[1]


def read_plan(plan: Path, info: Sidecar, target: Target, *, onnx_sha256: str | None = None) -> tuple[bytes, str | None]:
    """A plan, read once: the bytes that are loaded are those that were hashed; and why they must not be, or None."""
    reason = difference(info, target, onnx_sha256=onnx_sha256)
    if reason is not None:
        return b"", reason
    try:
        content = plan.read_bytes()
    except OSError as error:
        return b"", f"plan {plan.name}: {error.strerror or error}"
    if hashlib.sha256(content).hexdigest() != info.plan_sha256:
        return b"", f"plan {plan.name} is truncated or was changed: its hash is not the sidecar's"
    return content, None


def difference(info: Sidecar, target: Target, *, onnx_sha256: str | None = None) -> str | None:
    """How the machine and model that a plan was built for differ from these, or None."""
    theirs = info.target
    facts = [
        (f"{theirs.flavour} {theirs.tensorrt}", f"{target.flavour} {target.tensorrt}"),
        (f"compute capability {theirs.sm}", f"compute capability {target.sm}"),
    ]
    if theirs.gpu != ANY_GPU:
        facts += [(f"GPU {theirs.gpu}", f"GPU {target.gpu}"), (f"CUDA {theirs.cuda}", f"CUDA {target.cuda}")]
    if theirs.multiprocessors and target.multiprocessors:
        facts.append((f"{theirs.multiprocessors} multiprocessors", f"{target.multiprocessors} multiprocessors"))
    if onnx_sha256 is not None:
        facts.append((f"model hash {info.onnx_sha256[:12]}…", f"model hash {onnx_sha256[:12]}…"))
    for built, here in facts:
        if built != here:
            return f"it was built for {built}, this is {here}"
    return None


def unreadable_entries() -> int:
    """How many sidecars of the cache are damaged, or sealed under another key: their engines are built again."""
    return sum(1 for _ in cache_folder().glob("*.plan.json")) - sum(1 for _ in entries())


def entries() -> Iterator[tuple[Path, Sidecar]]:
    """Plans of the cache whose sidecars are readable, newest first."""
    for path in sorted(cache_folder().glob("*.plan.json"), key=_modified, reverse=True):
        plan = path.with_suffix("")
        try:
            yield plan, read_info(plan)
        except ModelError:
            continue


def store(plan: Path, data: Any, info: Sidecar) -> Sidecar:
    """Write a plan and its sidecar; an entry that was there stays whole until the new one is.

    Args:
        plan: where to.
        data: the plan, any buffer.
        info: its sidecar; hash and seal are filled in.

    Raises:
        OutputError: if the disk refuses.
    """
    content = memoryview(data)
    info = replace(info, plan_sha256=hashlib.sha256(content).hexdigest()).sealed()
    # Both are written whole before either takes its place; the plan goes first.
    with atomic_path(sidecar_path(plan)) as new_sidecar, atomic_path(plan) as new_plan:
        new_plan.write_bytes(content)
        write_json(new_sidecar, to_dict(info))
    return info


@contextmanager
def locked(waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the cache's lock: one build at a time, because builders time kernels on the GPU.

    Args:
        waiting: called once if another process holds it.

    Raises:
        OutputError: if the cache folder cannot be written.
    """
    path = cache_folder() / ".lock"
    hint = "set GLINT_CACHE to a folder that can be written"
    with system_errors_as(OutputError, f"engine cache {path.parent}", hint=hint):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)
