"""Command-line arguments that several commands share."""

from __future__ import annotations

import argparse
import math

from glint.choices import ENGINES, PRECISION_CHOICES
from glint.cli import positive_int
from glint.errors import InputError


def add_engine_arguments(parser: argparse.ArgumentParser, *, threads: str = "(default: all cores)") -> None:
    """``--engine``, ``--require``, ``--precision``, ``--threads``; read the first two with :func:`engine_of`."""
    group = parser.add_argument_group("engine")
    group.add_argument("--engine", choices=ENGINES, default="auto", help="what runs the networks (default: auto)")
    group.add_argument(
        "--require", choices=ENGINES[1:], metavar="ENGINE", help="stop if this engine cannot be used; never fall back"
    )
    group.add_argument(
        "--precision", choices=PRECISION_CHOICES, default="auto",
        help="of the released model (default: auto, fp16 with TensorRT and fp32 with ONNX Runtime)",
    )  # fmt: skip
    group.add_argument("--threads", type=positive_int, help=f"CPU threads {threads}")


def engine_of(arguments: argparse.Namespace) -> str:
    """The engine that ``--engine`` and ``--require`` ask for.

    Raises:
        InputError: if they contradict each other.
    """
    if arguments.require is None:
        return str(arguments.engine)
    if arguments.engine not in ("auto", arguments.require):
        raise InputError(
            f"--engine {arguments.engine} and --require {arguments.require} contradict each other",
            hint="leave one of them out",
        )
    return str(arguments.require)


def add_refine_arguments(parser: argparse.ArgumentParser, *, switch: bool = True) -> None:
    """``--radiance-prior``, and with ``switch`` also ``--no-refine`` and ``--psf``."""
    group = parser.add_argument_group("refinement")
    if switch:
        group.add_argument("--no-refine", action="store_true", help="take the network's targets as they are")
        group.add_argument(
            "--psf",
            metavar="FILE|SIGMA|auto",
            help="PSF: measured (glint psf --out FILE), its sigma in pixels, or learned from the spots themselves",
        )
    group.add_argument(
        "--radiance-prior",
        metavar="MEAN,SD|none",
        type=_prior,
        default="card",
        help="radiance of a target in DN (default: what the unmixer's card knows)",
    )


def _prior(text: str) -> tuple[float, float] | str | None:
    if text == "card":  # argparse passes defaults through here
        return text
    if text == "none":
        return None
    try:
        mean, sd = (float(v) for v in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected MEAN,SD or none, got {text!r}") from error
    if not (0 < mean < math.inf and 0 < sd < math.inf):
        raise argparse.ArgumentTypeError(f"mean and standard deviation must be positive, got {text!r}")
    return mean, sd
