"""The table of bytes: ``python -m glint.benchmarks.tables.traffic [NAME:PRECISION ...]``.

What engines of the released models move and launch, from tensorrt_rtx's own list of their kernels, built ahead of
time: no GPU is needed. Networks of this kind are bound by memory, so that the bytes over a board's bandwidth are the
least time a frame can take. tensorrt_rtx is not TensorRT: these are leads, never measurements.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from glint.benchmarks.reporting.text import markdown_table
from glint.benchmarks.tool import Tool
from glint.cards import load_card, zoo_names
from glint.config import from_dict
from glint.runtime.engines.tensorrt.audit import Audit
from glint.runtime.engines.tensorrt.build import BuildOptions, build
from glint.types import FrameSize

COMPUTE_CAPABILITY = "8.6"  # of a GPU like Orin's (8.7), which tensorrt_rtx does not know
SIZE, PATCHES = FrameSize(640, 512), 64
_COUNTED_PIXELS = 512 * 512  # of the frame whose multiply-accumulates a detector's card tells
BOARDS_GBPS = {"Orin Nano Super": 102, "AGX Orin": 205}
_USUAL_SHARE = 0.35  # of the bandwidth that networks of many small kernels reach


@dataclass(frozen=True)
class Traffic:
    """One engine.

    Attributes:
        model, precision: which.
        gigamacs: multiply-accumulates of a frame of 640 x 512, or of 64 patches.
        kernels, bytes: launched, and read and written.
        elementwise: share of the bytes in kernels that multiply no matrices.
    """

    model: str
    precision: str
    gigamacs: float
    kernels: int
    bytes: int
    elementwise: float

    def milliseconds(self, board: str, share: float = 1.0) -> float:
        """Time of the bytes at a share of a board's bandwidth."""
        return self.bytes / (BOARDS_GBPS[board] * 1e6 * share)


def measure(model: str, precision: str) -> Traffic:
    """Build an engine of a released model ahead of time and count.

    Raises:
        MissingDependencyError: if tensorrt_rtx is not installed.
        GlintError: another one, if there is no such model or it cannot be built.
    """
    card, path = load_card(model, precision=precision)
    frames = card.detector is not None
    options = BuildOptions(sizes=(SIZE,)) if frames else BuildOptions(batches=((PATCHES,) * 3,))
    built = build(path, options, flavour="tensorrt_rtx", compute_capability=COMPUTE_CAPABILITY, overwrite=True)
    audit = from_dict(Audit, built.info.audit, where="audit")
    moved = audit.traffic["bytes"]
    macs = card.macs * (SIZE.width * SIZE.height / _COUNTED_PIXELS if frames else PATCHES)
    return Traffic(
        card.name, card.precision, round(macs / 1e9, 2), audit.traffic["kernels"], moved,
        round(1 - audit.traffic["product_bytes"] / moved, 3),
    )  # fmt: skip


def traffic_table(models: Sequence[str] = ()) -> dict[str, Any]:
    """:class:`Traffic` of released models, ``NAME:PRECISION`` each (none: all), as ``rows``, JSON-ready.

    Raises:
        GlintError: one of its subclasses, as :func:`measure` does.
    """
    names = models or [name.replace(".", ":") for name in zoo_names()]
    return {"rows": [asdict(measure(*name.split(":"))) for name in names]}


def markdown(report: Mapping[str, Any]) -> str:
    """The table."""
    head = ["network", "MACs, G", "kernels", "MB", "elementwise"]
    head += [f"{board}, ms at 100 % / {100 * _USUAL_SHARE:.0f} %" for board in BOARDS_GBPS]
    lines = []
    for row in (Traffic(**row) for row in report["rows"]):
        times = (f"{row.milliseconds(b):.2f} / {row.milliseconds(b, _USUAL_SHARE):.2f}" for b in BOARDS_GBPS)
        counts = [f"{row.gigamacs:.2f}", str(row.kernels), f"{row.bytes / 1e6:.1f}", f"{row.elementwise:.0%}"]
        lines.append([f"`{row.model}` {row.precision}", *counts, *times])
    return "\n".join(markdown_table(head, lines)) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("models", nargs="*", metavar="NAME:PRECISION", help="released models (default: all)")


TOOL = Tool("Count what engines of the released models move and launch.", traffic_table, add_arguments, text=markdown)


if __name__ == "__main__":
    sys.exit(TOOL())
