"""Sources, pipelines and sinks that do as they are told, to see what a stream makes of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from glint.runtime.pipeline.detector import Detection
from glint.runtime.pipeline.pipeline import STAGES, Result, SpotPatches
from glint.runtime.sinks.base import Sink
from glint.runtime.sources.base import Source
from glint.types import Blobs, Frame, Gap, Targets

SHAPE = (4, 6)


def frame(index: int, t_ns: int | None = None) -> Frame:
    return Frame(index, time.monotonic_ns() if t_ns is None else t_ns, np.zeros(SHAPE, dtype=np.uint16))


def result_of(item: Frame, targets: Targets | None = None, **parts: Any) -> Result:
    maps = np.zeros(item.shape, dtype=np.float32)
    blobs = Blobs([], [], [], [], np.zeros(item.shape, dtype=np.int32))
    empty = np.zeros((0, 11, 11), dtype=np.float32)
    none = np.zeros(0, dtype=np.int64)
    spots = SpotPatches(empty, empty.astype(bool), none, none, np.zeros(0), empty)
    latency = dict.fromkeys(STAGES, 0.0)
    return Result(item, Detection(blobs, maps, maps), targets or Targets(), spots, latency, **parts)


class FakePipeline:
    """Takes ``seconds`` per frame, or as many as a function of the frame's index says; remembers what it was told."""

    def __init__(self, seconds: float | Callable[[int], float] = 0.0) -> None:
        self.seconds = seconds
        self.calls: list[dict[str, Any]] = []
        self.threads: set[int] = set()

    def __call__(self, item: Frame, **told: Any) -> Result:
        self.threads.add(threading.get_ident())
        self.calls.append({"index": item.index, **told})
        seconds = self.seconds(item.index) if callable(self.seconds) else self.seconds
        if seconds:
            time.sleep(seconds)
        return result_of(item)


class FakeSource(Source):
    """Gives items; an item that is an exception is raised, a number is slept, a function is called."""

    def __init__(self, items: Any, *, live: bool = False) -> None:
        super().__init__("fake:")
        self.items, self.live = items, live
        self.closed = threading.Event()
        self.given = 0

    def __iter__(self) -> Iterator[Frame | Gap]:
        for item in self.items:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, float):
                if self.closed.wait(item):
                    return
            elif callable(item):
                item()
            else:
                self.given += isinstance(item, Frame)
                yield item

    def close(self) -> None:
        self.closed.set()


class FakeSink(Sink):
    """Remembers all that it gets; may be slow, and may fail at a frame."""

    def __init__(self, seconds: float = 0.0, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.seconds, self.fail_at, self.error = seconds, fail_at, error
        self.got: list[Result | Gap] = []
        self.closed = 0
        self.threads: set[int] = set()

    @property
    def indices(self) -> list[int]:
        return [item.frame.index for item in self.got if isinstance(item, Result)]

    def write(self, result: Result) -> None:
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        if result.frame.index == self.fail_at and self.error is not None:
            raise self.error
        self.got.append(result)

    def gap(self, gap: Gap) -> None:
        self.got.append(gap)

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1
