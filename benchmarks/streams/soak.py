"""Hours in minutes: frames as fast as this machine takes them, and whether anything grows or gets lost.

``python -m glint.benchmarks.streams.soak --minutes 30 --faults --view --out results/soak.json``

Small simulated frames go through the whole stream, tracks and JSON lines included. Once a second memory, threads
and open files are read. It fails if memory grows by 1 % or more between the second and the last tenth of the
time, if there are more threads or files at the end, or if a frame is neither processed nor counted as dropped.
With ``--rate`` frames come as a camera sends them, and it fails also if fewer are processed than came due.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from glint.benchmarks.streams.faults import Clients, FaultySource
from glint.benchmarks.tool import Tool, add_pipeline_arguments, add_threads_argument
from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER
from glint.choices import Drop
from glint.cli import positive_float
from glint.errors import EngineError
from glint.interruption import Interruption
from glint.progress import Progress
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.follow import Follower
from glint.runtime.pipeline.pipeline import Pipeline, Result
from glint.runtime.pipeline.rehearsal import rehearse
from glint.runtime.sinks.base import Sink
from glint.runtime.sinks.json_lines import JsonLines
from glint.runtime.sinks.records import frame_record
from glint.runtime.sinks.summary import Summary
from glint.runtime.sources.base import Source
from glint.runtime.sources.open import open_source
from glint.runtime.stream.stream import DROPS, Stream
from glint.runtime.unmixing.unmixer import Unmixer
from glint.runtime.view.live_view import LiveView
from glint.types import Frame, Gap

SCENE = "synthetic://?size=160x128&frames=1000000000&clusters=2&singles=2&bits=14&seed=1"
MOST_GROWTH_PERCENT = 1.0  # percent
LEAST_HELD = 0.995  # of the frames that are due; the last second of half a minute may still be waiting
_PATHS = ("/healthz", "/metrics", "/", "/live?after=0", "/history?since=0")  # that clients ask for
_PERIOD_S = 1.0  # s between two looks
_LEAST_LOOKS = 20


@dataclass(frozen=True)
class Look:
    """The process at one moment: resident memory in bytes, threads, open file descriptors."""

    seconds: float
    memory: int
    threads: int
    files: int


def look(seconds: float) -> Look:
    """The process now.

    Raises:
        EngineError: on a system without ``/proc``.
    """
    try:
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        files = len(list(Path("/proc/self/fd").iterdir()))
    except OSError as error:
        raise EngineError(f"the soak reads /proc/self: {error}", hint="run it on Linux") from error
    return Look(seconds, memory, threading.active_count(), files)


class DiscardingSink(Sink):
    """JSON lines that nobody keeps."""

    def __init__(self) -> None:
        self._lines = JsonLines(os.devnull, overwrite=True)

    def write(self, result: Result) -> None:
        self._lines.write(frame_record(result))

    def close(self) -> None:
        self._lines.close()


class Watch(Sink):
    """Looks at the process about once a second, from the thread of the outputs."""

    def __init__(self, line: Progress) -> None:
        self.looks: list[Look] = []
        self._line, self._started = line, time.monotonic()
        self.frames = 0

    def write(self, result: Result) -> None:
        self.frames += 1
        seconds = time.monotonic() - self._started
        if seconds >= len(self.looks) * _PERIOD_S:
            self.looks.append(look(seconds))
        self._line.update(int(seconds), f"{self.frames} frames")


class Paced(Source):
    """Another source, live: each frame comes when it is due, or at once if that time is over.

    A stall is followed by the frames that it held back, as on a network, so the rate does not depend on the faults.

    Attributes:
        due: frames that were due when the last one was asked for.
    """

    def __init__(self, source: Source, rate: float) -> None:
        super().__init__(source.uri)
        self.source, self.rate, self.live, self.due = source, rate, True, 0
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Frame | Gap]:
        started = time.monotonic()
        for number, item in enumerate(self.source):
            elapsed = time.monotonic() - started
            self.due = int(self.rate * elapsed)
            if self._closed.wait(max(0.0, number / self.rate - elapsed)):
                return
            yield replace(item, t_ns=time.monotonic_ns())

    def close(self) -> None:
        self._closed.set()
        self.source.close()


class Bounded(Source):
    """Another source, for so many seconds."""

    def __init__(self, source: Source, seconds: float) -> None:
        super().__init__(source.uri)
        self.source, self.seconds, self.live = source, seconds, source.live

    def __iter__(self) -> Iterator[Frame | Gap]:
        ends = time.monotonic() + self.seconds
        for item in self.source:
            yield item
            if time.monotonic() >= ends:
                return

    def close(self) -> None:
        self.source.close()


def growth(looks: list[Look]) -> dict[str, float]:
    """The last tenth against the second tenth: medians of the memory, percent; fewest threads and files, by number.

    Clients come and go, and what they open with them: what leaks raises the fewest there are.
    """
    tenth = len(looks) // 10
    early, late = looks[tenth : 2 * tenth], looks[-tenth:]
    before, after = (float(np.median([entry.memory for entry in part])) for part in (early, late))
    fewest = [
        {name: min(getattr(entry, name) for entry in part) for name in ("threads", "files")} for part in (early, late)
    ]
    steps = {name: float(fewest[1][name] - fewest[0][name]) for name in ("threads", "files")}
    return {"memory_percent": round(100 * (after / before - 1), 3), **steps}


def soak(
    *,
    minutes: float = 30.0,
    scene: str = SCENE,
    rate: float | None = None,
    drop: Drop = "none",
    detector: str = DEFAULT_DETECTOR,
    unmixer: str = DEFAULT_UNMIXER,
    threads: int | None = None,
    faults: bool = False,
    view: bool = False,
) -> dict[str, Any]:
    """Run the stream for so many minutes; arguments are the options of the tool.

    Returns:
        Rate, latencies, account of the frames, growth and ``problems``: what should not be, empty if all is well.
    """
    rehearse()  # compiling is no part of the time
    first, second = Detector.open(detector, threads=threads), Unmixer.open(unmixer, threads=threads)
    tracker, summary, source = Follower(), Summary(), open_source(scene)
    paced = None if rate is None else Paced(source, rate)
    faulty = FaultySource(paced or source) if faults else None
    page = LiveView("127.0.0.1", 0) if view else None
    clients = None if page is None else Clients("127.0.0.1", urlsplit(page.url).port or 0, _PATHS)
    with Progress("soak", int(60 * minutes)) as line, Interruption() as signals, clients or nullcontext():
        watch = Watch(line)
        sinks = [DiscardingSink(), summary, watch, *([] if page is None else [page])]
        stream = Stream(
            Bounded(faulty or paced or source, 60 * minutes), Pipeline(first, second), sinks, drop=drop, track=tracker
        )
        started = time.monotonic()
        stream.run(signals)
        seconds = time.monotonic() - started
    lost = sum(stream.dropped.values())
    grown = growth(watch.looks) if len(watch.looks) >= _LEAST_LOOKS else None
    return {
        "scene": scene,
        "drop": stream.drop,
        "minutes": round(seconds / 60, 2),
        "interrupted": stream.interrupted,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rate": rate,
        "due": None if paced is None else paced.due,
        "captured": stream.captured,
        "frames": summary.frames,
        "dropped": stream.dropped,
        "fps": round(summary.frames / seconds, 2),
        "latency_ms": summary.as_dict()["latency_ms"],
        "tracks": tracker.confirmed,
        "growth": grown,
        "first": asdict(watch.looks[0]) if watch.looks else None,
        "last": asdict(watch.looks[-1]) if watch.looks else None,
        "faults": None if faulty is None else dict(faulty.injected),
        "clients": None if clients is None else {str(code): n for code, n in clients.answered.items()},
        "problems": problems(stream.captured - summary.frames - lost, grown)
        + ([] if paced is None else rate_problems(paced.due, summary.frames))
        + ([] if faulty is None else fault_problems(faulty, summary, exact=not lost))
        + ([] if clients is None else client_problems(clients)),
    }


def fault_problems(faulty: FaultySource, summary: Summary, *, exact: bool) -> list[str]:
    """Faults that were not told; what frames say of themselves can only be held against them if none was dropped."""
    seen = {"skip": sum(faulty.skips.values()), "gap": summary.gaps}
    if exact:
        seen |= {"repeat": summary.repeated, "damage": summary.damaged}
    wanted = {name: faulty.injected[name] for name in seen}
    return [
        f"{wanted[name]} times {name}, of which {seen[name]} were told" for name in seen if wanted[name] != seen[name]
    ]


def rate_problems(due: int, frames: int) -> list[str]:
    """Frames that came due long before the end, and were not processed."""
    return [f"{frames} frames of {due} that were due"] if frames < LEAST_HELD * due else []


def client_problems(clients: Clients) -> list[str]:
    """Clients that got no answer, or another one than they asked for."""
    others = {code: number for code, number in clients.answered.items() if code not in (200, 503)}
    found = [f"{clients.failed} requests without an answer"] if clients.failed else []
    return found + ([f"answers that nobody asked for: {others}"] if others else [])


def problems(missing: int, grown: dict[str, float] | None) -> list[str]:
    """What should not be."""
    if grown is None:
        return [f"too short: expected at least {_LEAST_LOOKS} seconds with frames"]
    found = [f"{missing} frames neither processed nor counted as dropped"] if missing else []
    if grown["memory_percent"] >= MOST_GROWTH_PERCENT:
        found.append(f"memory grew by {grown['memory_percent']:.2f} %")
    return found + [f"{grown[name]:.0f} {name} more than before" for name in ("threads", "files") if grown[name] > 0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--minutes", type=positive_float, default=30.0, help="default: %(default)s")
    parser.add_argument("--scene", default=SCENE, metavar="URI", help="default: %(default)s")
    parser.add_argument("--rate", type=positive_float, metavar="FPS", help="frames per second that come due")
    parser.add_argument("--drop", choices=list(DROPS), default="none", help="default: %(default)s")
    add_pipeline_arguments(parser)
    add_threads_argument(parser)
    parser.add_argument("--faults", action="store_true", help="frames that are skipped, repeated, damaged, late ...")
    parser.add_argument("--view", action="store_true", help="serve the live page, and let clients of all kinds at it")


TOOL = Tool("Run the stream for long, and see whether anything grows or gets lost.", soak, add_arguments, file=True)


if __name__ == "__main__":
    sys.exit(TOOL())
