"""Patches in, targets out: the network and the refinement, in chunks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.cards import DEFAULT_UNMIXER
from glint.cli import talk
from glint.data.datasets import image_files
from glint.errors import InputError, SourceError
from glint.files import load_npy
from glint.images import read_image
from glint.optics import Psf
from glint.processing.candidates import Candidates
from glint.progress import Progress
from glint.runtime.unmixing.optics_choice import PsfChoice, chosen_optics
from glint.runtime.unmixing.patch_unmixing import unmix_known, unmix_through
from glint.runtime.unmixing.refine import RadiancePrior, RefineConfig, prepare_refinement, refine_config
from glint.runtime.unmixing.unmixer import Unmixer
from glint.runtime.unmixing.windows import clipping_level
from glint.simulation.patches import Patches
from glint.types import Targets

STAGES = ("grid", "network", "refined")  # of an unmixer's answer: on its grid, off it, fitted to the optics


_PATCHES_PER_CHUNK = 256  # patches between two signs of life


@dataclass(frozen=True, eq=False)
class UnmixerRun:
    """What an unmixer says of patches.

    Attributes:
        targets: for each of :data:`STAGES`, in patch pixels; ``blob`` is the number of the patch.
        seconds: spent on the network and on the refinement.
        candidates: what the network said; None if there was no patch.
    """

    targets: dict[str, Targets]
    seconds: tuple[float, float]
    candidates: Candidates | None


def run_unmixer(
    unmixer: Unmixer,
    patches: Patches,
    *,
    radiance_prior: RadiancePrior = "card",
    stages: Sequence[str] = STAGES,
    progress: Callable[[int], None] | None = None,
) -> UnmixerRun:
    """Unmix and refine patches with the level at which each is saturated; see :func:`unmix_patches`.

    Raises:
        InputError: if the patches are malformed.
    """
    config, psf = refine_config(unmixer.spec, radiance=radiance_prior), Psf(unmixer.spec.sigma)
    values = unmixer.check(patches.image)
    if "refined" in stages:
        prepare_refinement(psf)
    limits = patches.full_scale[:, None, None]
    return unmix_patches(unmixer, values, psf, config, full_scale=limits, stages=stages, progress=progress)


def unmix_patches(
    unmixer: Unmixer,
    patches: NDArray[np.float32],
    psf: Psf,
    config: RefineConfig,
    *,
    full_scale: NDArray[Any] | float | None = None,
    stages: Sequence[str] = STAGES,
    progress: Callable[[int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> UnmixerRun:
    """Unmix and refine in chunks.

    Args:
        unmixer: the network and its card.
        patches: ``[N, n, n]`` as ``unmixer.check`` gives them.
        psf, config: of the refinement.
        full_scale: DN at which a pixel is saturated, of each patch ``[N, 1, 1]`` or of all; None: never.
        stages: what is wanted; without ``refined`` nothing is fitted, which takes half of the time.
        progress: called with the number of patches done so far.
        clock: seconds.
    """
    parts: dict[str, list[Targets]] = {stage: [] for stage in stages}
    said: list[Candidates] = []
    seconds = np.zeros(2)
    for start in range(0, len(patches), _PATCHES_PER_CHUNK):
        rows = slice(start, start + _PATCHES_PER_CHUNK)
        chunk, limit = patches[rows], full_scale[rows] if isinstance(full_scale, np.ndarray) else full_scale
        began = clock()
        unmixed = unmixer(chunk, full_scale=limit, with_grid="grid" in parts)
        middle = clock()
        found = {}
        if "refined" in parts:
            found["refined"] = unmix_known(chunk, unmixed.candidates, psf, full_scale=limit, config=config)
        seconds += (middle - began, clock() - middle)
        if "grid" in parts:
            found["grid"] = unmixed.on_grid()
        found["network"] = unmixed.targets()
        said.append(unmixed.candidates)
        for stage, targets in parts.items():
            targets.append(Targets(**{**vars(found[stage]), "blob": found[stage].blob + start}))
        if progress is not None:
            progress(start + len(chunk))
    found_by_stage = {stage: Targets.concatenate(rows) for stage, rows in parts.items()}
    candidates = None
    if said:
        candidates = Candidates(*(np.concatenate([getattr(c, name) for c in said]) for name in vars(said[0])))
    return UnmixerRun(found_by_stage, (seconds[0], seconds[1]), candidates)


def read_patches(path: Path) -> NDArray[Any]:
    """``[N, n, n]`` from an ``.npy`` file, or from a folder of images in the order of their names.

    Raises:
        SourceError: if it is missing or unreadable.
        InputError: if the images differ in size, or the file is no array of numbers.
    """
    if path.is_dir():
        images = [read_image(p) for p in image_files(path)]
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise InputError(f"{path}: expected patches of one size, got {', '.join(map(str, sorted(shapes)))}")
        return np.stack(images)
    if not path.is_file():
        raise SourceError(f"{path}: no such file or folder", hint="is the name right, seen from this folder? ls tells")
    return load_npy(path, what="patches")


def recognised_clipping(patches: NDArray[Any]) -> float | None:
    """The value at which patches ``[N, n, n]`` are seen to be clipped, which is told; None if they are not."""
    level = clipping_level(patches)
    if level is not None:
        talk(f"many patches end at {level:g} DN: it is taken as full scale (--full-scale DN says another one)")
    return level


def unmix(
    patches: NDArray[Any],
    *,
    unmixer: str | Path = DEFAULT_UNMIXER,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    refine: bool = True,
    radiance_prior: RadiancePrior = "card",
    full_scale: float | None = None,
    psf: PsfChoice = None,
) -> Targets:
    """Take patches apart.

    Args:
        patches: ``[N, n, n]``, DN above the background.
        unmixer: name in the zoo or path of a model card.
        engine, precision, threads: what runs the network.
        refine: fit the optical model to what the network found.
        radiance_prior: mean and standard deviation of a target's radiance, DN; None if it is unknown;
            "card": what the unmixer's card says.
        full_scale: DN at which the sensor clips; None: 255 for ``uint8`` patches, else the highest value if many
            patches end there, which is told; else never.
        psf: file of a measured PSF (see ``psf``), its sigma in pixels, or "auto": learned from the patches; None: the
            one that the model is made for.

    Returns:
        Targets in patch pixels; ``blob`` is the number of the patch.

    Raises:
        GlintError: one of its subclasses, for a bad model or bad patches.
    """
    model = Unmixer.open(unmixer, engine=engine, precision=precision, threads=threads)
    values = model.check(patches)
    if full_scale is None:
        full_scale = 255.0 if patches.dtype == np.uint8 else recognised_clipping(patches)
    own, known = Psf(model.spec.sigma), psf is None
    config = refine_config(model.spec, radiance=radiance_prior)
    state = chosen_optics(psf, model.spec, protocol=True)
    if refine:
        prepare_refinement(own)
    stage = "refined" if refine and known else "network"
    with model.engine, Progress("unmix", len(values)) as line:
        run = unmix_patches(model, values, own, config, full_scale=full_scale, stages=[stage], progress=line.update)
    if not refine or known or run.candidates is None:
        return run.targets[stage]
    targets, state = unmix_through(values, run.candidates, state, full_scale=full_scale, config=config, own=own.sigma)
    talk(f"optics: {state.text()}")
    return targets
