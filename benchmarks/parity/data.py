"""What ``glint parity`` shows to both engines: simulated or given patches and frames, labelled or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.calibration.task_score import conditions_of, task_patches
from glint.cards import ModelCard
from glint.data.csist import read_csist
from glint.data.datasets import is_labelled, labelled_images, read_split
from glint.errors import InputError
from glint.runtime.sources.open import open_source
from glint.runtime.unmixing.unmix import read_patches
from glint.simulation.patches import Patches

_SCENE = "synthetic://?size=320x256&frames={number}&clusters=4&singles=4&speed=6&noise=1&bits=14&seed={seed}"
_FRAMES = 20  # of the simulated scene, unless said otherwise
_PATCHES = 1000  # per condition, likewise


@dataclass(frozen=True, eq=False)
class FrameData:
    """One frame, with its true mask ``bool [H, W]`` if there is one."""

    name: str
    image: NDArray[Any]
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class PatchSets:
    """Patches by the name of their set.

    Attributes:
        sets: at least one patch each.
        labelled: whether their truth is known.
        facts: where they come from, JSON-ready.
    """

    sets: dict[str, Patches]
    labelled: bool
    facts: dict[str, Any]


@dataclass(frozen=True, eq=False)
class FrameSet:
    """Frames; iterate to read them one by one.

    Attributes:
        name: of the set.
        total: number of frames, if known.
        labelled: whether every frame has a mask.
        facts: where they come from, JSON-ready.
        source: the frames.
    """

    name: str
    total: int | None
    labelled: bool
    facts: dict[str, Any]
    source: Iterator[FrameData]


def patch_sets(
    data: str | None, card: ModelCard, *, conditions: Sequence[str], number: int | None, seed: int
) -> PatchSets:
    """Patches for an unmixer.

    Args:
        data: an ``.npy`` array, a folder of patches, a CSIST-100K folder; None: simulated ones.
        card: of the unmixer.
        conditions: of the simulated ones; none: all of the benchmark, and ``sensor`` for a model of no
            known radiance.
        number: of simulated patches per condition, or the most that are taken of the data.
        seed: of the simulation.

    Raises:
        SourceError: if the data are missing or unreadable.
        InputError: if there are none, or a condition is unknown.
    """
    if data is None:
        names = tuple(conditions) or conditions_of(card)
        count = _PATCHES if number is None else number
        facts = {"data": "simulated", "conditions": list(names), "number": count, "seed": seed}
        return PatchSets(task_patches(names, number=count, seed=seed), True, facts)
    if conditions:
        raise InputError("--condition is for simulated patches: leave it or --data away", hint="leave one of them away")
    path = Path(data)
    labelled = path.is_dir() and next(path.rglob("*.xml"), None) is not None
    patches = read_csist(path) if labelled else _unlabelled(read_patches(path))
    patches = patches_of(patches, slice(0, number))
    if not len(patches):
        raise InputError(f"{data} holds no patches", hint="name an .npy of patches [N, n, n] with N above 0")
    return PatchSets({path.name: patches}, labelled, {"data": path.name, "number": len(patches)})


def patches_of(patches: Patches, index: slice) -> Patches:
    """Some of the patches."""
    return Patches(**{name: value[index] for name, value in vars(patches).items()})


def _unlabelled(image: NDArray[Any]) -> Patches:
    if image.ndim != 3 or image.dtype.kind not in "uif":
        raise InputError(f"patches: expected numbers [N, n, n], got {image.dtype} {list(image.shape)}")
    n = len(image)
    unknown = np.full(n, np.nan)
    return Patches(
        image=image.astype(np.float32), x=np.zeros((n, 1)), y=np.zeros((n, 1)), radiance=np.zeros((n, 1)),
        count=np.zeros(n, dtype=np.int64), sigma=unknown, noise=unknown, background=unknown,
        full_scale=np.full(n, 255.0 if image.dtype == np.uint8 else np.inf),
    )  # fmt: skip


def frame_set(data: str | None, *, split: str, number: int | None, seed: int) -> FrameSet:
    """Frames for a detector.

    Args:
        data: a folder of images with labels (see :mod:`glint.data.datasets`), a source of frames (folder, glob, image,
            ``synthetic://...``); None: a simulated scene.
        split: of a folder with labels.
        number: of simulated frames, or the most that are taken of the data.
        seed: of the simulation.

    Raises:
        SourceError: if the data are missing or unreadable; that of single frames on iteration.
    """
    root = Path(data or "")
    if data is not None and is_labelled(root, split):
        total = len(read_split(root, split))
        total = total if number is None else min(number, total)
        frames = (FrameData(s.name, s.image, s.mask) for s in labelled_images(root, split))
        facts: dict[str, Any] = {"data": root.name, "split": split, "number": total}
        return FrameSet(f"{root.name}/{split}", total, True, facts, islice(frames, total))
    uri = data or _SCENE.format(number=_FRAMES if number is None else number, seed=seed)
    if Path(uri).suffix == ".npy":
        raise InputError(f"{uri}: a detector takes frames, not patches", hint="a folder of images, or synthetic://...")
    source = open_source(uri)
    frames = (FrameData(f.name or str(f.index), f.data, None) for f in source.frames())
    name = "simulated" if data is None else Path(uri.partition("?")[0]).name
    return FrameSet(name, source.total, False, {"data": uri, "number": number}, islice(frames, number))
