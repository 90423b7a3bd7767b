"""A sample of chunks is made again, and held against the parts that are there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from glint.errors import first_line
from glint.runtime.archive.chunks import Chunk
from glint.runtime.archive.plan import Executor
from glint.runtime.archive.settings import ArchiveSettings
from glint.runtime.archive.storage import Storage
from glint.runtime.archive.worker import Worker

ALIKE_PX = 0.01  # by which targets of another engine or processor may differ


@dataclass(frozen=True)
class Check:
    """How a part compares with what is made anew.

    Attributes:
        part: which.
        identical: all values are the same.
        position_px: greatest difference of a position; None if numbers of targets differ.
        error: why it could not be compared; "" if it could.
    """

    part: str
    identical: bool = False
    position_px: float | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether the part is what it should be."""
        return self.identical or (self.position_px is not None and self.position_px <= ALIKE_PX)


class Verifier:
    """Makes chunks again and compares; arguments as of ``Worker``."""

    def __init__(self, root: Storage, out: Storage, settings: ArchiveSettings, worker: Worker | None = None) -> None:
        self.out, self.worker = out, worker or Worker(root, out, settings)

    def __call__(self, chunk: Chunk) -> Check:
        """Compare one chunk; a failure is told, not raised."""
        try:
            _, _, fresh = self.worker.tables(chunk)
            with self.out.opened(chunk.targets_part) as stream:
                kept = pq.read_table(stream)
            return compare(chunk.targets_part, kept, fresh)
        except Exception as error:  # the recording may have gone
            return Check(chunk.targets_part, error=f"{type(error).__name__}: {first_line(error)}")


def compare(part: str, kept: Any, fresh: Any) -> Check:
    """Two tables of targets."""
    if kept.equals(fresh):
        return Check(part, identical=True, position_px=0.0)
    if kept.num_rows != fresh.num_rows or not kept["frame"].equals(fresh["frame"]):
        return Check(part)
    gaps = [np.abs(np.asarray(kept[axis]) - np.asarray(fresh[axis])).max(initial=0.0) for axis in "xy"]
    return Check(part, position_px=float(max(gaps)))


def verify(
    root: Storage, out: Storage, settings: ArchiveSettings, executor: Executor, chunks: Sequence[Chunk], number: int
) -> list[Check]:
    """Check ``number`` of some finished chunks, chosen at random, each time others."""
    sample = random.SystemRandom().sample(list(chunks), min(number, len(chunks)))
    return list(executor.map(partial(Verifier, root, out, settings), sample))
