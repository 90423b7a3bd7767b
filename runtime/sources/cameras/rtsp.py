"""Streams from the network, by PyAV: ``rtsp://``, ``udp://``, ``tcp://``, ``http://`` (a camera's MJPEG).

libav blocks where nobody can wake it, so each connection has a thread of its own. The thread owns
the container; one picture at a time goes to the reader, with a byte in a pipe that wakes it. The
thread ends with the connection, at the latest when libav's own timeout strikes.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from glint.errors import GlintError, InputError, SourceAbsentError, SourceError, SourceLostError, safe_uri
from glint.runtime.sources.base import check_like
from glint.runtime.sources.cameras.live import (
    RECONNECT_PARAMETERS,
    Captured,
    Connection,
    LiveSource,
    Reconnect,
    reconnect_of,
)
from glint.runtime.sources.decoding import (
    DAMAGED,
    GREY_PARAMETERS,
    OF_HTTP,
    OF_STREAMS,
    Clock,
    Decoder,
    choose_stream,
    import_av,
    reason_of,
)
from glint.runtime.sources.grey import grey_of
from glint.runtime.sources.uri import one_of, parameters

_DOUBTFUL_PICTURES = 3  # pictures after a loss that are doubted: libav reports a loss a packet early or late
_PARAMETERS = {**GREY_PARAMETERS, **RECONNECT_PARAMETERS, "transport": one_of("tcp", "udp")}


class NetworkSource(LiveSource):
    """A stream that somebody sends; times are those of its arrival.

    Args:
        url: with credentials if need be; shown without.
        policy: when it is lost and what to do then.
        transport: of RTSP: ``tcp`` or ``udp``.
        luma: take the luma of colour pictures.
        full_scale: the sensor's, if the format does not tell.
        number: of the video stream, from 0; None: the first.
    """

    def __init__(
        self,
        url: str,
        policy: Reconnect,
        *,
        transport: str = "tcp",
        luma: bool = False,
        full_scale: float | None = None,
        number: int | None = None,
    ) -> None:
        super().__init__(url, policy)
        self._url = url
        self.transport, self.luma, self.full_scale, self.number = transport, luma, full_scale, number

    def connect(self) -> Connection:
        allowed = OF_HTTP if self._url.lower().startswith("http") else OF_STREAMS
        options = {**allowed, "fpsprobesize": "0"}  # else the first frames wait until their rate is known
        if self._url.lower().startswith("rtsp"):
            options["rtsp_transport"] = self.transport
            if self.transport == "tcp":
                options["reorder_queue_size"] = "2"  # packets; without, libav does not tell what a camera left out
        return _Stream(self, self._url, options)


class _Stream(Connection):
    def __init__(self, source: NetworkSource, url: str, options: dict[str, str]) -> None:
        self._av = import_av()
        self._source, self._waker = source, source.waker
        self._closed = threading.Event()
        self._items: queue.Queue[Captured | Exception] = queue.Queue(maxsize=1)
        self._readable, self._writable = os.pipe()
        self._opened = False
        thread = threading.Thread(target=self._run, args=(url, options), name="glint-network", daemon=True)
        try:
            thread.start()
        except BaseException:
            os.close(self._writable)
            os.close(self._readable)
            raise

    def read(self, seconds: float) -> Captured:
        # libav's own timeout comes first, so that its thread is over when the next one starts.
        patience = seconds + 0.5 if self._opened else 2 * seconds + 0.5
        if not self._waker.wait(self._readable, patience):
            raise SourceLostError(
                f"no frame for {seconds:g} s",
                hint="does it send? #timeout=SECONDS waits longer, --wait-source SECONDS for one that is not there yet",
            )
        os.read(self._readable, 1)
        item = self._items.get_nowait()
        if isinstance(item, Exception):
            raise item
        self._opened = True
        return item

    def close(self) -> None:
        self._closed.set()
        with suppress(queue.Empty):  # the thread may be about to put one more, and no second
            self._items.get_nowait()
        os.close(self._readable)

    def _run(self, url: str, options: dict[str, str]) -> None:
        delivered = False
        try:
            for captured in self._capture(url, options):
                if not self._hand_over(captured):
                    return
                delivered = True
            self._hand_over(
                SourceLostError(
                    "the sender has closed the stream", hint="does it send? --wait-source SECONDS waits for it"
                )
            )
        except GlintError as error:
            self._hand_over(error)
        except Exception as error:
            kind = SourceLostError if delivered else SourceAbsentError
            shown = "" if delivered else f"{self._source.uri}: "
            self._hand_over(kind(f"{shown}{self._words(error)}", hint=self._hint(error)))
        finally:
            os.close(self._writable)

    def _hand_over(self, item: Captured | Exception) -> bool:
        if self._closed.is_set():
            return False
        self._items.put(item)
        with suppress(BrokenPipeError):
            os.write(self._writable, b"x")
        return True

    def _capture(self, url: str, options: dict[str, str]) -> Iterator[Captured]:
        seconds, source = self._source.policy.timeout, self._source
        with self._av.open(url, options=options, timeout=(seconds, seconds)) as container:
            lost, shape, doubtful = "", None, 0
            stream = choose_stream(container, source.uri, source.number)
            clock, decoder = Clock(stream), Decoder(self._av, container, stream)
            for decoded in decoder:
                arrived = time.monotonic_ns()
                lost = decoded.lost or lost
                doubtful = _DOUBTFUL_PICTURES if decoded.lost else doubtful
                for picture, damaged in decoded.pictures:
                    clock.time_of(picture, lost=doubtful > 0 and shape is not None)
                    doubtful = max(0, doubtful - 1)
                    if clock.missing and not lost:
                        lost, damaged = DAMAGED, decoder.lacks(picture)
                    source.missing, clock.missing = source.missing + clock.missing, 0
                    try:
                        data, full_scale = grey_of(picture, luma=source.luma, where=source.uri)
                        check_like(data, shape)
                    except SourceError as error:
                        if shape is None and not damaged:
                            raise
                        lost = str(error).removeprefix(f"{source.uri}: ")
                        source.skip("a picture", lost)
                        continue
                    shape = data.shape
                    yield Captured(arrived, data, source.full_scale or full_scale, lost, damaged)
                    lost = ""

    def _words(self, error: Exception) -> str:
        if isinstance(error, self._av.error.ExitError):
            return f"no data for {self._source.policy.timeout:g} s"
        return reason_of(error)

    def _hint(self, error: Exception) -> str | None:
        if isinstance(error, self._av.error.HTTPUnauthorizedError):
            return "the camera wants a user and a password, with a colon between and an @ behind, before its host"
        return None


def open_network(uri: str) -> NetworkSource:
    """``rtsp://...#timeout=5&transport=udp``: what stands behind ``#`` is for glint, the rest for the sender.

    Raises:
        InputError: if a parameter is unknown or malformed, or no host is named.
    """
    url, mark, query = uri.rpartition("#")
    if not mark or "@" in query:  # an unescaped # of a password
        url, query = uri, ""
    if url.endswith("://"):
        raise InputError(f"{safe_uri(uri)} names no host", hint="e.g. rtsp://camera.local/live, udp://127.0.0.1:5000")
    values = parameters(uri, query, _PARAMETERS)
    return NetworkSource(
        url,
        reconnect_of(values),
        transport=values.get("transport", "tcp"),
        luma="gray" in values,
        full_scale=values.get("bits"),
        number=values.get("stream"),
    )
