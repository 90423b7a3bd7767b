"""Frames in, results out, while the three parts of the work overlap.

::

    capture thread ──frames──▶ caller's thread ──results──▶ output thread
    owns the source's           owns the engines             owns the sinks,
    iteration                   and the tracker              to their close

Both queues are bounded. A slow sink makes the caller's thread wait for room among the results, and that
makes frames pile up before the detector: there, and only there, they are dropped (``latest``, ``oldest``)
or the capture thread waits (``none``). Results and gaps are never dropped, and everything keeps its order.

The end comes in the same order whatever the reason. The capture thread ends the queue of frames: at the
source's end, at its error, or because ``stop`` is set. The caller's thread works off what is left of it, or
gives it up after a ``stop``, and ends the queue of results. The output thread writes what is left and closes
the sinks. An error in the output or the caller's thread, and a signal, set ``stop``; a source's error does
not, so that the frames before it are not lost. The first error is raised when all three have ended.

No thread waits for another without looking at ``stop`` every :data:`TICK_S` seconds; a source that waits for
its camera is woken by ``Source.close``. What does not end all the same within :data:`PATIENCE_S`, or before a
second signal, is left behind, as a daemon.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from glint.choices import Drop
from glint.clock import utc_of
from glint.errors import InputError
from glint.interruption import Interruption
from glint.runtime.pipeline.follow import Follower
from glint.runtime.pipeline.pipeline import Pipeline, Result
from glint.runtime.sinks.base import Sink
from glint.runtime.sources.base import Source
from glint.runtime.stream.bounded_queue import BoundedQueue
from glint.runtime.stream.warm_up import WarmUp, warm_up
from glint.types import Frame, Gap

DROPS: dict[Drop, int] = {"latest": 1, "none": 2, "oldest": 8}
"""How many frames wait for the detector, by what happens when one too many comes."""

TICK_S = 0.1
PATIENCE_S = 3.0  # after a stop: for the outputs to take what is left, for the source to come back
_WAITING_RESULTS = 2  # that wait for the outputs

Track = Callable[[Result], Result]


@dataclass(frozen=True, eq=False)
class _Captured:
    """A frame, when it was there (``time.monotonic_ns``), and how long the source took, milliseconds."""

    frame: Frame
    arrived_ns: int
    capture_ms: float


class Stream:
    """One pass over a source.

    Args:
        source: of frames and gaps.
        pipeline: what makes a result of a frame; called in the thread that calls :meth:`run`.
        sinks: get every result and gap in order; closed at the end.
        drop: what happens to frames that come faster than they are processed: ``latest`` keeps the newest one
            only, ``oldest`` loses the oldest of eight, ``none`` makes the source wait. None: ``latest`` for live
            sources, ``none`` for others.
        deadline_ms: age at which a frame is late. Late before the detector: dropped, unless ``drop`` is ``none``.
            Late before the refinement: not refined. Late at the end: marked.
        warm: whether to wait, on the first frame, for the latency to settle. None: for live sources.
        track: gives a result the tracks of its targets; called for frames that are no repetition.

    Attributes:
        captured: frames that the source delivered; each gives a result or counts as dropped.
        interrupted: whether a signal ended it.
        warm_up: how the latency settled, or None.
    """

    def __init__(
        self,
        source: Source,
        pipeline: Pipeline,
        sinks: Sequence[Sink],
        *,
        drop: Drop | None = None,
        deadline_ms: float | None = None,
        warm: bool | None = None,
        track: Track | None = None,
    ) -> None:
        if drop is not None and drop not in DROPS:
            raise InputError(f"drop: expected one of {', '.join(DROPS)}, got {drop!r}")
        if deadline_ms is not None and not 0 < deadline_ms < np.inf:
            raise InputError(f"deadline_ms: expected a positive number of milliseconds, got {deadline_ms}")
        self.source, self.pipeline, self.sinks, self.track = source, pipeline, sinks, track
        self.drop: Drop = drop or ("latest" if source.live else "none")
        self.deadline_ms = deadline_ms
        self.captured = 0
        self.interrupted = False
        self.warm_up: WarmUp | None = None
        self._warm = source.live if warm is None else warm
        self._frames: BoundedQueue[_Captured | Gap] = BoundedQueue(DROPS[self.drop], drop=self.drop != "none")
        self._results: BoundedQueue[Result | Gap] = BoundedQueue(_WAITING_RESULTS)
        self._lost: Counter[str] = Counter()  # counted by the caller's thread alone
        self._told: dict[str, int] = {}  # drops that a result has spoken of already
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._last: Result | None = None

    @property
    def dropped(self) -> dict[str, int]:
        """Frames without a result, by place.

        ``queue``: replaced by newer ones before the detector; ``late`` there; ``warm-up``: the frame that it
        took; ``stopped``: waiting or in work when the run was stopped.
        """
        counts = {"queue": self._frames.dropped, **self._lost}
        return {place: number for place, number in counts.items() if number}

    @property
    def queued(self) -> dict[str, int]:
        """Frames that wait for the detector and results that wait for the outputs."""
        return {"frames": len(self._frames), "results": len(self._results)}

    @property
    def waited_s(self) -> dict[str, float]:
        """Seconds for which the source waited for the detector, and the detector for the outputs."""
        waits = {"source": self._frames.waited_s, "detector": self._results.waited_s}
        return {who: round(seconds, 3) for who, seconds in waits.items()}

    def run(self, signals: Interruption | None = None) -> None:
        """Process the source to its end, to the first error or to a signal.

        Args:
            signals: entered by the caller; None: a signal does what it does anyway.

        Raises:
            GlintError: what the source, the pipeline or a sink raised; also BrokenPipeError of standard output.
        """
        signals = signals or Interruption()
        capture, output = _start("glint-capture", self._capture), _start("glint-output", self._output)
        try:
            self._infer(signals)
        except BaseException as error:  # raised below, when the threads have ended
            if not signals.requested:
                self._errors.append(error)
            self._stop.set()
        with suppress(KeyboardInterrupt):  # a further signal: wait no longer
            self._end(capture, output, signals)
        self.interrupted = signals.requested
        for queue in (self._frames, self._results):
            self._lost["stopped"] += sum(not isinstance(item, Gap) for item in queue.rest())
        if self._errors:
            raise self._errors[0]

    def results(self) -> Generator[Result, None, None]:
        """The results one by one, made in the thread that asks for them, instead of :meth:`run`; sinks get nothing.

        Frames are captured at the same time. Gaps are left out. Closing the iterator closes the source.

        Raises:
            GlintError: what the source or the pipeline raised, after the results before it.
        """
        capture = _start("glint-capture", self._capture)
        try:
            while not (self._frames.over or self._stop.is_set()):
                item = self._frames.take(TICK_S)
                result = self._process(item) if isinstance(item, _Captured) else None
                if result is not None:
                    yield result
        finally:
            self._stop.set()
            self.source.close()
            capture.join(PATIENCE_S)
        if self._errors:
            raise self._errors[0]

    def _infer(self, signals: Interruption) -> None:
        """The caller's part: results of frames, until there are none or it is told to stop."""
        while not (self._stop.is_set() or signals.requested):
            item = self._frames.take(TICK_S)
            if item is None:
                if self._frames.over:
                    return
            elif isinstance(item, Gap):
                self._give(item, signals)
            else:
                try:
                    with signals.at_once():  # the first frame of a size may build an engine for minutes
                        result = self._process(item)
                    if result is not None and not self._give(result, signals):
                        self._lost["stopped"] += 1
                except BaseException:
                    self._lost["stopped"] += 1
                    raise

    def _process(self, item: _Captured) -> Result | None:
        frame, live, dropped = item.frame, self.source.live, self.dropped
        if self._warm:
            self._warm = False
            self.warm_up = warm_up(lambda: self.pipeline(frame))
            if self.drop != "none":  # the frame has become old meanwhile
                self._lost["warm-up"] += 1
                return None
        now = time.monotonic_ns()
        # The age of a frame counts from its capture; files are read ahead, so theirs counts from here.
        captured = item.arrived_ns - int(1e6 * item.capture_ms) if live else now
        until = None if self.deadline_ms is None else captured + int(1e6 * self.deadline_ms)
        if until is not None and now > until and self.drop != "none":
            self._lost["late"] += 1
            return None
        waited = (now - item.arrived_ns) / 1e6 if live else 0.0
        follow = self.track if isinstance(self.track, Follower) else None
        repeated = self._last is not None and np.array_equal(self._last.frame.data, frame.data)
        earlier = {} if follow is None or repeated else {"earlier": follow.earlier}
        result = self.pipeline(frame, capture_ms=item.capture_ms, queue_ms=waited, deadline_ns=until, **earlier)
        late = until is not None and time.monotonic_ns() > until
        result = replace(result, repeated=repeated)
        if self.track is not None:
            result = self._tracked(result, self.track)
        self._last = result
        news = {place: number - self._told.get(place, 0) for place, number in dropped.items()}
        self._told = dropped
        return replace(result, late=late, dropped={place: n for place, n in news.items() if n})

    def _tracked(self, result: Result, track: Track) -> Result:
        """The result with tracks; a frame that came before is no evidence, and its targets keep theirs."""
        before = self._last
        if not result.repeated or before is None or before.track is None:
            return track(result)
        tracks = None if before.tracks is None else replace(before.tracks, confirmed=(), lost=(), crossed=())
        # What its targets are is known, from more frames than this.
        told = {name: getattr(before, name) for name in ("detection", "spots", "targets", "candidates", "track")}
        return replace(result, tracks=tracks, **told)

    def _give(self, item: Result | Gap, signals: Interruption) -> bool:
        while not self._results.put(item, TICK_S):
            if self._stop.is_set():
                return False
            if signals.requested:
                return self._results.put(item, PATIENCE_S)
        return True

    def _end(self, capture: threading.Thread, output: threading.Thread, signals: Interruption) -> None:
        self._results.end()
        if signals.requested:  # before the source is closed, which may complain of it
            self._stop.set()
        self.source.close()
        while output.is_alive() and not (self._stop.is_set() or signals.requested):
            output.join(TICK_S)  # it may take all the time that it needs
        if signals.requested:
            self._stop.set()
        output.join(PATIENCE_S)
        capture.join(PATIENCE_S)

    def _fail(self, error: BaseException) -> None:
        self._errors.append(error)
        self._stop.set()

    def _capture(self) -> None:
        try:
            ready = time.monotonic_ns()
            for item in self.source:
                arrived = time.monotonic_ns()
                if self.source.live and item.utc_ns is None:
                    item = replace(item, utc_ns=utc_of(item.t_ns))
                if isinstance(item, Gap):
                    taken = self._hand_over(item)
                else:
                    since = min(item.t_ns, arrived) if self.source.live else ready
                    taken = self._hand_over(_Captured(item, arrived, (arrived - since) / 1e6))
                    self.captured += taken
                if not taken:
                    return
                ready = time.monotonic_ns()
        except BaseException as error:  # raised by run
            if not self._stop.is_set():  # a source that is being closed may complain of it
                self._errors.append(error)
        finally:
            self._frames.end()

    def _hand_over(self, item: _Captured | Gap) -> bool:
        while not self._stop.is_set():
            if self._frames.put(item, TICK_S, keep=isinstance(item, Gap)):
                return True
        return False

    def _output(self) -> None:
        try:
            while not self._results.over:
                item = self._results.take(TICK_S)
                for sink in self.sinks if item is not None else ():
                    if isinstance(item, Gap):
                        sink.gap(item)
                    elif item is not None:
                        sink.write(item)
        except BaseException as error:  # raised by run
            self._fail(error)
        finally:
            for sink in self.sinks:
                try:
                    sink.close()
                except BaseException as error:  # raised by run
                    self._fail(error)


def _start(name: str, work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread
