"""Command-line arguments of ``glint run`` alone: outputs, stream, sensor."""

from __future__ import annotations

import argparse
from pathlib import Path

from glint.cli import frame_size, positive_float
from glint.runtime.stream.stream import DROPS


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """What to write, record, publish and serve."""
    group = parser.add_argument_group("output")
    group.add_argument("--out", metavar="FILE", help="JSON lines, one object per frame; - for standard output")
    group.add_argument("--csv", type=Path, metavar="FILE", help="a table with one row per target")
    group.add_argument("--overlay", type=Path, metavar="FOLDER", help="a picture of each frame with its targets")
    group.add_argument("--video", type=Path, metavar="FILE", help="the same as a film")
    group.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    group.add_argument("--json", action="store_true", help="print the manifest as JSON on standard output")
    group = parser.add_argument_group("recording of the frames, bit by bit")
    group.add_argument("--record", type=Path, metavar="FOLDER", help="where to; replay:FOLDER plays it")
    group.add_argument("--record-events", action="store_true", help="only what is near frames with targets")
    group.add_argument("--record-before", type=_seconds, default=3.0, metavar="S", help="before them (default: 3)")
    group.add_argument("--record-after", type=_seconds, default=5.0, metavar="S", help="after them (default: 5)")
    group.add_argument("--record-max-gb", type=positive_float, metavar="GB", help="the oldest files make room")
    group = parser.add_argument_group("publishing")
    group.add_argument("--view", metavar="HOST:PORT", help="serve the live page, e.g. 127.0.0.1:8080")
    group.add_argument("--metrics", metavar="HOST:PORT", help="serve /metrics and /healthz alone")
    group.add_argument("--mqtt", metavar="URL", help="publish results to a broker: mqtt://HOST/TOPIC")
    group.add_argument("--udp", metavar="HOST:PORT", help="send each JSON line as a datagram")


def add_stream_arguments(parser: argparse.ArgumentParser) -> None:
    """What happens between frames."""
    group = parser.add_argument_group("stream")
    group.add_argument(
        "--drop", choices=list(DROPS),
        help="frames that come too fast: keep the latest only, none is dropped (the source waits), or the oldest "
        "of eight goes (default: latest for live sources, none for others)",
    )  # fmt: skip
    group.add_argument(
        "--deadline-ms", type=positive_float, metavar="MS",
        help="age at which a frame is late: dropped before the detector, else not refined, at least marked",
    )  # fmt: skip
    group.add_argument(
        "--warm-up", action=argparse.BooleanOptionalAction,
        help="run the first frame until the latency settles, uncounted (default: for live sources)",
    )  # fmt: skip
    group.add_argument("--track", action="store_true", help="follow targets from frame to frame")


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """What the sensor's frames need."""
    group = parser.add_argument_group("sensor")
    group.add_argument("--roi", type=_roi, metavar="X,Y,W,H", help="look for targets in this part of the frame")
    group.add_argument("--tile", type=frame_size, metavar="WxH", help="give larger frames to the detector in tiles")
    group.add_argument("--dead-pixels", type=Path, metavar="FILE", help="map of dead pixels (not 0), .npy or image")
    group.add_argument("--dark", type=Path, metavar="FILE", help="dark frame, taken off: .npy or image")
    group.add_argument("--flat", type=Path, metavar="FILE", help="flat frame, with --dark for two-point correction")


def _roi(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"expected X,Y,W,H, got {text!r}")
    return numbers


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"expected 0 to 3600 seconds, got {text}")
    return value
