"""``glint unmix``: patches in, targets out."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.cards import DEFAULT_UNMIXER
from glint.cli import positive_float, print_json, talk
from glint.datasets import image_files
from glint.errors import InputError, SourceError
from glint.images import read_image
from glint.optics import Psf
from glint.progress import Progress
from glint.psf_file import load_psf
from glint.runtime.engine import choose_engine
from glint.runtime.options import add_engine_arguments, add_refine_arguments, engine_of
from glint.runtime.refine import RadiancePrior, prepare_refinement, refine, refine_config
from glint.runtime.sinks import JsonLines
from glint.runtime.unmixer import Unmixer
from glint.types import Targets

_CHUNK = 256  # patches between two signs of life


def read_patches(path: Path) -> NDArray[Any]:
    """``[N, n, n]`` from an ``.npy`` file, or from a folder of images in the order of their names.

    Raises:
        SourceError: if it is missing or unreadable.
        InputError: if the images differ in size, or the array is pickled.
    """
    if path.is_dir():
        images = [read_image(p) for p in image_files(path)]
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise InputError(f"{path}: expected patches of one size, got {', '.join(map(str, sorted(shapes)))}")
        return np.stack(images)
    if not path.is_file():
        raise SourceError(f"{path}: no such file or folder")
    try:
        with path.open("rb") as stream:
            archive = stream.read(2) == b"PK"
        if not archive:
            return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError, TokenError) as error:
        # NumPy's own message may advise to allow pickles, which run code: it is not passed on.
        hint = "write it with numpy.save(path, array), or give a folder of images"
        raise SourceError(f"{path} is not an .npy array of numbers", hint=hint) from error
    raise InputError(f"{path}: expected one array (.npy), got an archive (.npz)")


def unmix(
    patches: NDArray[Any],
    *,
    unmixer: str | Path = DEFAULT_UNMIXER,
    engine: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    refined: bool = True,
    radiance_prior: RadiancePrior = "card",
    full_scale: float | None = None,
    psf: str | Path | None = None,
) -> Targets:
    """Take patches apart.

    Args:
        patches: ``[N, n, n]``, DN above the background.
        unmixer: name in the zoo or path of a model card.
        engine, precision, threads: what runs the network.
        refined: fit the optical model to what the network found.
        radiance_prior: mean and standard deviation of a target's radiance, DN; None if it is unknown;
            "card": what the unmixer's card says.
        full_scale: DN at which the sensor clips; None: 255 for ``uint8`` patches, else never.
        psf: file of a measured PSF (see ``psf``) that the refinement takes instead of the model's.

    Returns:
        Targets in patch pixels; ``blob`` is the number of the patch.

    Raises:
        GlintError: one of its subclasses, for a bad model or bad patches.
    """
    measured = load_psf(Path(psf)) if psf is not None else None
    model = Unmixer.open(unmixer, engine=engine, precision=precision, threads=threads)
    values = model.check(patches)
    if full_scale is None and patches.dtype == np.uint8:
        full_scale = 255.0
    optics = Psf(measured.sigma if measured else model.spec.sigma)
    config = refine_config(model.spec, radiance=radiance_prior, measured=measured)
    if refined:
        prepare_refinement(optics)
    parts: list[Targets] = []
    with model.engine, Progress("unmix", len(values)) as line:
        for start in range(0, len(values), _CHUNK):
            chunk = values[start : start + _CHUNK]
            unmixed = model(chunk, full_scale=full_scale)
            if refined:
                targets = refine(chunk, unmixed.candidates, optics, full_scale=full_scale, config=config)
            else:
                targets = unmixed.targets()
            parts.append(Targets(**{**vars(targets), "blob": targets.blob + start}))
            line.update(start + len(chunk))
    return Targets.concatenate(parts)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint unmix``."""
    parser.add_argument("patches", type=Path, help="array [N, 11, 11] (.npy) or folder of 11x11 images, DN")
    parser.add_argument("--out", default="-", metavar="FILE", help="JSON lines, one object per patch (default: -)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of JSON lines")
    parser.add_argument("--unmixer", default=DEFAULT_UNMIXER, metavar="NAME|CARD", help="default: %(default)s")
    parser.add_argument(
        "--full-scale", type=positive_float, metavar="DN", help="saturation level (default: 255 for uint8)"
    )
    add_engine_arguments(parser)
    add_refine_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint unmix``."""
    if arguments.json and arguments.out != "-":
        raise InputError("--json prints on standard output: leave --out away")
    with JsonLines(arguments.out, overwrite=arguments.overwrite) as sink:
        patches = read_patches(arguments.patches)
        started = time.perf_counter()
        targets = unmix(
            patches, unmixer=arguments.unmixer, engine=engine_of(arguments), precision=arguments.precision,
            threads=arguments.threads, refined=not arguments.no_refine, radiance_prior=arguments.radiance_prior,
            full_scale=arguments.full_scale, psf=arguments.psf,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        engine = choose_engine(engine_of(arguments))[0]
        talk(f"{len(targets)} targets in {len(patches)} patches, {seconds:.1f} s ({engine}, {arguments.unmixer})")
        records: list[list[dict[str, Any]]] = [[] for _ in patches]
        for number, record in zip(targets.blob.tolist(), targets.records()):
            del record["blob"]
            records[number].append(record)
        lines = [{"patch": number, "targets": rows} for number, rows in enumerate(records)]
        if arguments.json:
            print_json(lines)
        else:
            for value in lines:
                sink.write(value)
    return 0
