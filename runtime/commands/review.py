"""``glint review``: look at a finished run in the browser, frame by frame."""

from __future__ import annotations

import argparse
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from glint.cli import options_of, talk

if TYPE_CHECKING:
    from glint.runtime.view.review_page import ReviewPage


def review(
    lines: str | Path, frames: str | None = None, *, truth: str | Path | None = None, view: str = "127.0.0.1:0"
) -> ReviewPage:
    """Serve the page of a finished run.

    Args:
        lines: what ``glint run --out`` has written.
        frames: URI of its source; None: what the manifest beside the lines says.
        truth: ``*.truth.jsonl``, or a folder of masks named like the frames; None: the file beside the lines, if any.
        view: where to listen, ``HOST:PORT``; port 0 takes any free one.

    Returns:
        The page, with its ``url``; close it, or use it in a ``with`` block.

    Raises:
        GlintError: one of its subclasses, if lines, frames or truth cannot be read or the port cannot be had.
    """
    from glint.runtime.sinks.publishing.address import parse_address
    from glint.runtime.view.finished_run import FinishedRun
    from glint.runtime.view.review_page import ReviewPage

    where = parse_address(view)
    return ReviewPage(FinishedRun(Path(lines), frames, None if truth is None else Path(truth)), *where)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint review``."""
    parser.add_argument("lines", type=Path, help="JSON lines that glint run --out has written")
    parser.add_argument("frames", nargs="?", help="the source of the run (default: what its manifest says)")
    parser.add_argument(
        "--truth", type=Path, metavar="FILE|FOLDER",
        help="truth.jsonl, or masks named like the frames (default: the file beside LINES)",
    )  # fmt: skip
    parser.add_argument("--view", default="127.0.0.1:8080", metavar="HOST:PORT", help="default: %(default)s")


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint review``, until Ctrl-C."""
    with review(**options_of(review, arguments)) as page:
        talk(f"review of {len(page.run.lines)} frames: {page.url}; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    return 0
