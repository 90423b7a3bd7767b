"""The whole job: what is missing is made, what failed is listed, and a second start goes on where the first ended."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import Any

from glint import __version__
from glint.cli import talk
from glint.errors import InputError
from glint.progress import Progress
from glint.runtime.archive.chunks import Chunk, tracks_part
from glint.runtime.archive.plan import Executor, Plan, make_plan
from glint.runtime.archive.settings import ArchiveSettings
from glint.runtime.archive.storage import TEMPORARY, Storage
from glint.runtime.archive.tracking import TrackMaker, TrackWork
from glint.runtime.archive.verify import Check, verify
from glint.runtime.archive.worker import Done, Worker

_SETS = ("frames", "targets", "tracks")
_PART = re.compile(r"(?:\d{6}-)?[0-9a-f]{16}\.parquet")
_ABANDONED_NS = 3600 * 10**9  # after which nobody writes to a temporary file any more
_EVERY_S = 30.0  # a line of progress where there is no terminal


@dataclass
class Tally:
    """What was done by this start.

    Attributes:
        made, already: chunks that it made, and that were there.
        frames, targets, skipped: of the chunks that it made.
        tracks: parts of tracks that are there.
        failures: one record each.
        interrupted: whether it was stopped.
    """

    made: int = 0
    already: int = 0
    frames: int = 0
    targets: int = 0
    skipped: int = 0
    tracks: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False


class Job:
    """One start of an archive.

    Args:
        root, out: where recordings are, and where data sets go.
        settings: of the archive.
        executor: what runs the workers.
    """

    def __init__(self, root: Storage, out: Storage, settings: ArchiveSettings, executor: Executor) -> None:
        self.root, self.out, self.settings, self.executor = root, out, settings, executor
        self.digest = settings.digest()
        self.tally = Tally()
        self.done: dict[str, dict[int, Chunk]] = {}  # by recording and number
        self._there: set[str] = set()
        self._warned: set[str] = set()

    def run(self) -> dict[str, Any]:
        """Make what is missing.

        Returns:
            The manifest.

        Raises:
            GlintError: one of its subclasses, if the root or the settings are wrong, or OUT cannot be written.
        """
        started, clock = datetime.now(timezone.utc), time.monotonic()
        plan: Plan | None = None
        try:
            self._there = self._listed()
            plan = make_plan(self.root, self.out, self.settings.frames, self.executor)
            self._tell(self._manifest(plan, started, 0.0))  # where that fails, nothing is worked for
            self._make_parts(plan)
            if self.settings.track:
                self._make_tracks(plan)
            self._put_away(plan)
        except KeyboardInterrupt:
            self.tally.interrupted = True
        manifest = self._manifest(plan, started, time.monotonic() - clock)
        self._tell(manifest)
        return manifest

    def _tell(self, manifest: dict[str, Any]) -> None:
        lines = "".join(json.dumps(failure) + "\n" for failure in self.tally.failures)
        self.out.put("failed.jsonl", lines.encode())
        self.out.put("manifest.json", (json.dumps(manifest, indent=2, default=str) + "\n").encode())

    def verify(self, number: int) -> list[Check]:
        """Make ``number`` of the finished parts again, chosen at random, and compare them; nothing is written.

        Raises:
            GlintError: one of its subclasses, if the root or the settings are wrong.
            InputError: if no part is finished.
        """
        self._there = self._listed(tidy=False)
        plan = make_plan(self.root, self.out, self.settings.frames, self.executor)
        finished: list[Chunk] = []
        for wave in self.waves(plan):
            for chunk in wave:
                if chunk.frames_part in self._there:
                    self._finish(chunk)
                    finished.append(chunk)
        if not finished:
            raise InputError(f"{self.out.shown} holds no part of these recordings and settings", hint="make them first")
        return verify(self.root, self.out, self.settings, self.executor, finished, number)

    def _listed(self, *, tidy: bool = True) -> set[str]:
        """Parts that are there; what a killed worker left behind is removed."""
        there = set()
        for entry in (e for name in _SETS for e in self.out.entries(name)):
            if entry.name.startswith(".") and entry.name.endswith(TEMPORARY):
                if tidy and time.time_ns() - entry.mtime_ns > _ABANDONED_NS:  # else another start may be at it
                    self.out.delete(entry.path)
            else:
                there.add(entry.path)
        return there

    def _make_parts(self, plan: Plan) -> None:
        with self._progress("archive", plan.number) as told:
            for wave in self.waves(plan):
                todo = sorted((c for c in wave if c.frames_part not in self._there), key=lambda c: -c.size)
                for chunk in wave:
                    if chunk.frames_part in self._there:
                        self._finish(chunk)
                        self.tally.already += 1
                self._work(todo, told)

    def waves(self, plan: Plan) -> Iterator[list[Chunk]]:
        """Chunks with their keys: first those that learn a recording's start, then all others.

        A recording whose first chunk fails starts with the next one. What comes after depends on what has become of the
        chunks before.
        """
        if not self.settings.learns:
            yield [c.keyed(self.digest, None) for chunks in plan.chunks.values() for c in chunks]
            return
        heads: dict[str, Chunk] = {}
        tried = 0
        while waiting := [n for n, c in plan.chunks.items() if n not in heads and len(c) > tried]:
            wave = {name: plan.chunks[name][tried].keyed(self.digest, None) for name in waiting}
            yield list(wave.values())
            heads |= {n: c for n, c in wave.items() if tried in self.done.get(n, {})}
            tried += 1
        rest = ((head, c) for n, head in heads.items() for c in plan.chunks[n] if c.number > head.number)
        yield [chunk.keyed(self.digest, head) for head, chunk in rest]

    def _work(self, todo: Sequence[Chunk], told: _Told) -> None:
        by_part = {c.frames_part: c for c in todo}
        make = partial(Worker, self.root, self.out, self.settings)
        for done in self.executor.map(make, todo):
            chunk = by_part.pop(done.part, None)
            if chunk is None:  # told twice, by a worker that died and by the one that took its place
                continue
            self._count(chunk, done)
            told.update(self.tally)
        # An executor may lose a chunk with the worker that it killed.
        there = self.out.exists([c.frames_part for c in by_part.values()]) if by_part else []
        for chunk, is_there in zip(by_part.values(), there):
            died = "" if is_there else "its worker died each time"
            self._count(chunk, Done(chunk.frames_part, error=died))

    def _count(self, chunk: Chunk, done: Done) -> None:
        for warning in done.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                talk(f"warning: {chunk.recording}: {warning}")
        if done.error:
            self._fail(chunk, "chunk", done.error)
            return
        if done.lost:
            self._fail(chunk, "rest of a file", done.lost)
        self.tally.made += 1
        self.tally.frames += done.frames
        self.tally.targets += done.targets
        self.tally.skipped += done.skipped
        self._finish(chunk)

    def _finish(self, chunk: Chunk) -> None:
        self.done.setdefault(chunk.recording, {})[chunk.number] = chunk

    def _fail(self, chunk: Chunk, what: str, reason: str) -> None:
        paths = chunk.paths()
        self.tally.failures.append(
            {
                "what": what, "recording": chunk.recording, "chunk": chunk.number, "part": chunk.frames_part,
                "first_file": paths[0], "files": len(paths), "reason": reason,
            }
        )  # fmt: skip

    def _make_tracks(self, plan: Plan) -> None:
        settings = self.settings.tracks_digest()
        works, parts = [], {}
        for name in plan.chunks:
            chunks = tuple(c for _, c in sorted(self.done.get(name, {}).items()))
            if chunks:
                part = tracks_part(chunks, settings)
                parts[part] = chunks
                if part in self._there:
                    self.tally.tracks += 1
                else:
                    works.append(TrackWork(chunks))
        works.sort(key=lambda w: -sum(c.size for c in w.chunks))
        with self._progress("tracks", len(works)) as told:
            for done in self.executor.map(partial(TrackMaker, self.root, self.out, self.settings), works):
                if done.error:
                    self._fail(parts[done.part][0], "tracks", done.error)
                else:
                    self.tally.tracks += 1
                told.update(self.tally, done=True)

    def _put_away(self, plan: Plan) -> None:
        """Move parts of former settings and files out of the data sets, where those in their place are complete."""
        keep: set[str] = set()
        complete: set[str] = set()
        for name, chunks in plan.chunks.items():
            done = self.done.get(name, {})
            if len(done) == len(chunks):
                complete.add("" if name == "." else name)
                keep |= {part for c in done.values() for part in (c.frames_part, c.targets_part)}
                keep.add(tracks_part([c for _, c in sorted(done.items())], self.settings.tracks_digest()))
        for path in sorted(self._there - keep):
            folder, _, file = path.partition("/")[2].rpartition("/")
            old_tracks = path.startswith("tracks/") and not self.settings.track
            if folder in complete and _PART.fullmatch(file) and not old_tracks:
                self.out.move(path, f"replaced/{path}")

    def _manifest(self, plan: Plan | None, started: datetime, seconds: float) -> dict[str, Any]:
        tally = self.tally
        done = sum(map(len, self.done.values()))
        number = None if plan is None else plan.number
        failed = [f for f in tally.failures if f["what"] != "rest of a file"]
        return {
            "glint": __version__,
            "root": self.root.shown,
            "out": self.out.shown,
            "settings": {**self.settings.as_dict(), "digest": self.digest},
            "chunk": self.settings.frames,
            "track": {"static": self.settings.static, "false_tracks_per_hour": self.settings.false_tracks_per_hour}
            if self.settings.track
            else None,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "interrupted": tally.interrupted,
            "complete": done == number and not failed and not tally.interrupted,
            "recordings": None if plan is None else len(plan.recordings),
            "bytes": None if plan is None else plan.bytes,
            "chunks": number,
            "done": done,
            **{k: v for k, v in asdict(tally).items() if k not in ("failures", "interrupted")},
            "failures": len(tally.failures),
        }

    @contextmanager
    def _progress(self, what: str, total: int) -> Iterator[_Told]:
        with Progress(what, total) as line:
            yield _Told(line, self.tally)


class _Told:
    """How far it is: a line on a terminal, one now and then elsewhere."""

    def __init__(self, line: Progress, tally: Tally) -> None:
        self.line, self.steps = line, 0
        self._began, self._next = time.monotonic(), time.monotonic() + _EVERY_S
        self._before = tally.frames

    def update(self, tally: Tally, *, done: bool = False) -> None:
        self.steps += 1
        steps = self.steps if done else tally.already + tally.made + len(tally.failures)
        rate = (tally.frames - self._before) / max(time.monotonic() - self._began, 1e-3)
        note = f"{rate:.1f} frames/s, {len(tally.failures)} failed"
        self.line.update(steps, note)
        if time.monotonic() > self._next and not sys.stderr.isatty():
            self._next = time.monotonic() + _EVERY_S
            talk(f"{self.line.what}: {steps} of {self.line.total}, {note}")
