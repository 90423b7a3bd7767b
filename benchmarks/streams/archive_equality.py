"""Whether an archive is a run of each recording, whatever is killed: ``-m glint.benchmarks.streams.archive_equality``.

Images, a recording of glint and a video of 200 frames each are followed by ``glint run --track --no-moving``, a process
each, and by ``glint archive`` with 1, 2 and 3 workers, with a worker and with the driver killed (``kill -9``), and with
a stop by Ctrl-C; where the driver ended, the same command is given again. The lines of the runs are held against what
the parts of the first archive say, in the runs' decimals; the parts of the other archives against those of the first,
byte by byte.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.streams.processes import command, name_of, session
from glint.benchmarks.tool import Tool
from glint.cli import positive_int
from glint.images import write_image
from glint.runtime.commands.archive_command import require_libraries
from glint.types import Frame

_COMMON = ("--psf", "0.5", "--threads", "1", "--track")
_SHAPE = (96, 128)
_CHUNKS = 5  # of a recording
_KEYS = ("frame", "name", "t_ns", "targets", "blobs")
_ENVIRONMENT = {"RAY_worker_niceness": "0"}


def picture(index: int) -> NDArray[np.uint16]:
    """Two targets that move, and one that fades, on noise."""
    y, x = np.mgrid[: _SHAPE[0], : _SHAPE[1]]
    image = np.random.default_rng(index).normal(1000, 4, _SHAPE)
    for a, b, light in (
        (12 + 0.4 * index, 20.3, 500), (110 - 0.4 * index, 60.2, 400), (60.2, 80.4, 500 - 40 * (index % 10))
    ):  # fmt: skip
        image += light * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * 0.5**2))
    return image.astype(np.uint16)


def make_recordings(root: Path, frames: int) -> dict[str, str]:
    """Images, a recording and a video of the same frames; what ``glint run`` calls each, by its name in an archive."""
    from glint.runtime.sources.decoding import import_av
    from glint.runtime.sources.recording_format import SUFFIX, RecordingFile, encode_frame

    av = import_av()
    recorded = RecordingFile(root / f"recorded{SUFFIX}")
    with av.open(str(root / "film.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.height, stream.width = _SHAPE
        stream.pix_fmt, stream.options = "gray16le", {"g": "10"}
        for index in range(frames):
            data = picture(index)
            write_image(root / "images" / f"{index}.png", data)
            recorded.append(encode_frame(Frame(index, 10**9 + index * 33_333_333, data, name=f"f{index}")))
            shown = av.VideoFrame.from_ndarray(data, format="gray16le")
            shown.pts = index
            container.mux(stream.encode(shown))
        container.mux(stream.encode(None))
    recorded.close()
    names = {path: str(root / path) for path in ("images", "film.mkv")}
    return {**names, recorded.path.name: f"replay:{recorded.path}"}


def lines_of_run(source: str, out: Path) -> list[dict[str, Any]]:
    """What ``glint run --track --no-moving`` says of each frame."""
    with command("run", source, "--out", str(out), "--no-moving", *_COMMON) as process:
        process.wait()
    lines = map(json.loads, out.read_text().splitlines())
    return [{key: line[key] for key in _KEYS} for line in lines if "frame" in line]


def lines_of_archive(out: Path, name: str) -> list[dict[str, Any]]:
    """The same of a recording, from its parts."""
    from pyarrow import parquet

    from glint.runtime.archive.tables import frame_rows

    (tracked,) = (out / "tracks" / name).iterdir()
    tracks = {(row["frame"], row["target"]): row["track"] for row in parquet.read_table(tracked).to_pylist()}
    lines = []
    for part in sorted((out / "frames" / name).iterdir()):
        targets = out / "targets" / name / part.name
        for row in frame_rows(parquet.read_table(part), parquet.read_table(targets)):
            found = row.targets.records(counts=True)
            found = [{**t, "track": tracks.get((row.frame, i))} for i, t in enumerate(found)]
            blobs = [{**blob, "box": box} for blob, box in zip(row.blobs.records(), row.boxes.tolist())]
            values = (row.frame, row.name, row.t_ns, found, blobs)
            lines.append(dict(zip(_KEYS, values)))
    return lines


def make_archive(root: Path, out: Path, chunk: int, workers: int, killed: str) -> int:
    """Archive with something that ends when the first part is there; again if that was the driver.

    Returns:
        How many parts of frames there were when the command was given again, or 0.
    """
    words = ("archive", str(root), str(out), "--chunk", str(chunk), "--workers", str(workers), *_COMMON)
    with command(*words, environment=_ENVIRONMENT) as process:
        while killed and process.poll() is None and not list(out.glob("frames/**/*.parquet")):
            time.sleep(0.1)
        if killed == "worker":
            at_work = (pid for pid in session(process.pid) if name_of(pid).startswith("ray::MapWorker"))
            os.kill(next(at_work), signal.SIGKILL)
        elif killed:
            process.send_signal(signal.SIGKILL if killed == "driver" else signal.SIGINT)
        process.wait()
        if killed in ("", "worker"):
            return 0
        there = len(list(out.glob("frames/**/*.parquet")))
        with command(*words, environment=_ENVIRONMENT) as again:  # beside what is left of a killed one
            again.wait()
    return there


def archive_equality(frames: int) -> dict[str, Any]:
    """How many lines are the same, and for each archive whether it is complete and its parts are the first one's.

    Raises:
        MissingDependencyError: if Ray or pyarrow is not installed; nothing is run then.
    """
    require_libraries()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background would ignore it
    chunk = -(-frames // _CHUNKS)
    cases = [(1, ""), (2, ""), (3, ""), (2, "worker"), (3, "driver"), (2, "Ctrl-C")]
    with tempfile.TemporaryDirectory() as folder:
        root, outs = Path(folder, "root"), [Path(folder, f"out{i}") for i in range(len(cases))]
        root.mkdir()
        sources = make_recordings(root, frames)
        runs = {name: lines_of_run(source, Path(folder, f"{name}.jsonl")) for name, source in sources.items()}
        report: list[dict[str, Any]] = []
        first: dict[str, bytes] = {}
        for (workers, killed), out in zip(cases, outs):
            there = make_archive(root, out, chunk, workers, killed)
            parts = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.parquet")}
            first = first or parts
            complete = json.loads((out / "manifest.json").read_text())["complete"]
            case = {"workers": workers, "killed": killed or None, "there_before": there}
            report.append({**case, "complete": complete, "parts": len(parts), "same": complete and parts == first})
        same = {n: sum(a == b for a, b in zip(runs[n], lines_of_archive(outs[0], n))) for n in sources}
    lines = {name: len(found) for name, found in runs.items()}
    problems = [] if same == lines == dict.fromkeys(sources, frames) else ["lines of runs and of the archive differ"]
    problems += [f"{r['workers']} workers, killed: {r['killed']}: other parts" for r in report if not r["same"]]
    return {"lines": lines, "same": same, "archives": report, "problems": problems}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's option."""
    parser.add_argument("--frames", type=positive_int, default=200, help="of each of the three recordings")


TOOL = Tool("Hold an archive against runs, with workers and drivers that are killed.", archive_equality, add_arguments)


if __name__ == "__main__":
    sys.exit(TOOL())
