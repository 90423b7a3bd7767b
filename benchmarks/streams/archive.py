"""What an archive costs beside the networks: ``python -m glint.benchmarks.streams.archive plan|overhead``.

``plan`` cuts, names and looks up a simulated archive: CPU time and memory of the driver. ``overhead`` runs the
same frames by ``glint run`` and by ``glint archive``, each in processes of its own, and compares
their CPU time, all processes counted.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from glint.benchmarks.streams.processes import command, name_of, session
from glint.benchmarks.tool import Tool
from glint.cli import frame_size, positive_int
from glint.images import write_image
from glint.runtime.commands.archive_command import require_libraries
from glint.types import FrameSize

_CHUNKS_PER_FOLDER = 100
_LISTED_PROCESSES = 10  # processes, of those of an archive


def plan_costs(chunks: int, images: int) -> dict[str, Any]:
    """Cut, name and look up ``chunks`` chunks of ``images`` images each; one stands for a tar file too.

    Returns:
        Seconds of CPU time, MiB of the process at its end and by which it grew, kB by which it grew per chunk, and
        bytes of a chunk on its way to a worker.
    """
    from glint.runtime.archive.chunks import Chunk, cut
    from glint.runtime.archive.recordings import find_recordings
    from glint.runtime.archive.storage import Entry, Storage

    def entries() -> Iterator[Entry]:
        for chunk in range(chunks):
            folder, first = divmod(chunk, _CHUNKS_PER_FOLDER)
            for index in range(first * images, (first + 1) * images):
                yield Entry(f"cam{folder // 100:03d}/night{folder:06d}/{index:06d}.png", 655360, 1_700_000_000 + index)

    before, began = _peak_mib(), time.process_time()
    with tempfile.TemporaryDirectory() as root:
        recordings = find_recordings(Storage(root), entries())
    keyed: list[Chunk] = [c.keyed("settings", None) for r in recordings for c in cut(r, images)]
    there = {c.frames_part for c in keyed[::2]}
    todo = sorted((c for c in keyed if c.frames_part not in there), key=lambda c: -c.size)
    took, grown = time.process_time() - began, _peak_mib() - before
    return {
        "chunks": len(keyed), "images": images, "todo": len(todo), "cpu_s": round(took, 2),
        "peak_mib": round(_peak_mib()), "grown_mib": round(grown), "kb_per_chunk": round(grown * 1048.576 / chunks, 2),
        "chunk_bytes": len(pickle.dumps(keyed[-1])),
    }  # fmt: skip


def overhead(frames: int, size: FrameSize, chunk: int, workers: int) -> dict[str, Any]:
    """CPU seconds of ``glint run`` and of ``glint archive`` on the same images, machine code compiled before.

    Raises:
        MissingDependencyError: if Ray or pyarrow is not installed; nothing is run then.
    """
    require_libraries()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        level = rng.normal(1000, 4, size.shape)
        y, x = np.mgrid[: size.height, : size.width]
        for index in range(frames):
            image = np.roll(level, index, axis=1)
            for row in range(30, size.height - 30, 60):
                centre = 20 + (7 * index + row) % (size.width - 40)
                image = image + 400 * np.exp(-((x - centre) ** 2 + (y - row) ** 2) / 0.5)
            write_image(folder / "root" / "a" / f"{index}.png", image.astype(np.uint16))
        common = ["--psf", "0.5", "--threads", "1"]
        _cpu_s(["run", str(folder / "root" / "a" / "0.png"), "--out", str(folder / "first.jsonl"), *common])
        run = _cpu_s(["run", str(folder / "root" / "a"), "--out", str(folder / "run.jsonl"), *common])
        archive = [str(folder / "root"), str(folder / "out"), "--workers", str(workers), "--chunk", str(chunk)]
        made = _cpu_s(["archive", *archive, *common])
        manifest = json.loads((folder / "out" / "manifest.json").read_text())
    run_s, made_s = sum(run.values()), sum(made.values())
    workers_s = sum(s for name, s in made.items() if name.startswith("ray::MapWorker"))
    most = sorted(made.items(), key=lambda item: -item[1])[:_LISTED_PROCESSES]
    return {
        "frames": frames, "size": str(size), "workers": workers, "chunks": manifest["chunks"],
        "run_cpu_s": round(run_s, 2), "archive_cpu_s": round(made_s, 2), "of_that_workers_cpu_s": round(workers_s, 2),
        "archive_wall_s": manifest["seconds"], "processes_cpu_s": dict(most), "more": round(made_s / run_s - 1, 4),
    }  # fmt: skip


def _cpu_s(words: list[str]) -> dict[str, float]:
    """CPU seconds of a command of glint and of all that it starts, by what the processes were called at last.

    Ray's processes are adopted by nobody who waits for them here: they are looked at while they run.
    """
    seen: dict[int, tuple[str, float]] = {}
    # At Ray's own niceness it may wait for long, while Ray's other processes go on using the processor.
    with command(*words, environment={"RAY_worker_niceness": "0"}) as process:
        while process.poll() is None:
            now = session(process.pid)
            seen |= {pid: (name_of(pid) or seen.get(pid, ("",))[0], seconds) for pid, seconds in now.items()}
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"glint {' '.join(words)} ended with {process.returncode}")
    return {f"{name} {pid}": seconds for pid, (name, seconds) in seen.items()}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def archive_costs(
    what: str, *, chunks: int, images: int, frames: int, size: FrameSize, chunk: int, workers: int
) -> dict[str, Any]:
    """Figures of ``plan_costs`` or of ``overhead``."""
    return plan_costs(chunks, images) if what == "plan" else overhead(frames, size, chunk, workers)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("what", choices=("plan", "overhead"))
    parser.add_argument("--chunks", type=positive_int, default=100_000, help="of the simulated plan")
    parser.add_argument("--images", type=positive_int, default=10, help="of one of these chunks")
    parser.add_argument("--frames", type=positive_int, default=10_000, help="of the comparison")
    parser.add_argument("--size", type=frame_size, default=FrameSize(256, 192), help="of these frames, pixels")
    parser.add_argument("--chunk", type=positive_int, default=1000, help="frames of a chunk, of the comparison")
    parser.add_argument("--workers", type=positive_int, default=2, help="of the archive that is compared")


TOOL = Tool("Measure what an archive costs beside the frames themselves.", archive_costs, add_arguments)


if __name__ == "__main__":
    sys.exit(TOOL())
