"""Pipelines of GStreamer: ``gst:nvarguscamerasrc ! nvvidconv ! video/x-raw,format=GRAY8``.

``gst-launch-1.0`` runs the pipeline in a process of its own and hands its frames through a pipe. No
Python binding is needed in the environment of glint, and a driver that hangs or crashes takes only
that process with it. The frame's size is read from the caps that the process reports.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from contextlib import suppress
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import InputError, MissingDependencyError, SourceError, SourceLostError, redact
from glint.formats.seal import KEY
from glint.runtime.sources.cameras.live import Captured, Connection, LiveSource, Reconnect
from glint.runtime.sources.waiting import InterruptibleWait

LAUNCHER = "gst-launch-1.0"
_CAPS = "glint_frames.GstPad:sink: caps = video/x-raw"
_FIELD = re.compile(r"(format|width|height)=\((?:string|int)\)(\w+)")
_PIPELINE_HINT = "does gst-launch-1.0 with the same pipeline run on?"
_DTYPES: dict[str, tuple[np.dtype[Any], float | None]] = {
    "GRAY8": (np.dtype(np.uint8), 255.0),
    "GRAY16_LE": (np.dtype(np.uint16), None),
}
_WANTED = ("capsfilter", "caps=video/x-raw,format=(string){GRAY16_LE,GRAY8}")
_STOP_S = 1.0  # seconds that a pipeline may take to stop


class GstSource(LiveSource):
    """What a pipeline delivers, grey of 8 or 16 bits; times are those of its arrival.

    The pipeline ends where frames come out: glint adds the sink. One that ends by itself (a file)
    ends the source; one that fails or stalls is started again.

    Raises:
        InputError: if the pipeline is empty or its quotes do not match.
        MissingDependencyError: if GStreamer is not installed.
    """

    def __init__(self, uri: str, policy: Reconnect | None = None) -> None:
        super().__init__(uri, policy or Reconnect())
        try:
            self._words = shlex.split(uri.removeprefix("gst:"))
        except ValueError as error:
            raise InputError(
                f"{self.uri}: {error}",
                hint="e.g. gst:v4l2src device=/dev/video0 ! video/x-raw,format=GRAY16_LE,width=640,height=512",
            ) from error
        if not self._words:
            raise InputError("gst: names no pipeline", hint="e.g. gst:videotestsrc ! video/x-raw,format=GRAY8")
        launcher = shutil.which(LAUNCHER)
        if launcher is None:
            raise MissingDependencyError(
                f"gst: needs GStreamer ({LAUNCHER}), which is not installed", hint="apt install gstreamer1.0-tools"
            )
        self._launcher = launcher

    def connect(self) -> Connection:
        return _Pipeline(self._launcher, self._words, self.uri, self.waker)


class _Pipeline(Connection):
    def __init__(self, launcher: str, words: list[str], uri: str, waker: InterruptibleWait) -> None:
        self._uri, self._waker = uri, waker
        self._log: deque[str] = deque(maxlen=30)
        self._caps: list[tuple[str, int, int]] = []
        self._has_caps = threading.Event()
        self._frames, end = os.pipe()
        sink = ["!", *_WANTED, "!", "fdsink", "name=glint_frames", f"fd={end}", "sync=false"]
        try:
            self._process = subprocess.Popen(
                [launcher, "-v", *words, *sink],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                pass_fds=(end,), start_new_session=True,
                env={**{name: value for name, value in os.environ.items() if name != KEY}, "LC_ALL": "C"},
            )  # fmt: skip
        except OSError as error:
            os.close(self._frames)
            raise SourceError(
                f"{uri}: cannot start {launcher}: {error.strerror or error}",
                hint="is GStreamer installed whole? apt install gstreamer1.0-tools",
            ) from error
        finally:
            os.close(end)
        assert self._process.stdout is not None  # noqa: S101  (asked for above)
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    def read(self, seconds: float) -> Captured | None:
        deadline = time.monotonic() + seconds
        first = bytearray(1)
        if not self._fill(memoryview(first), deadline):
            self._raise_if_failed()
            return None
        arrived = time.monotonic_ns()
        if not self._has_caps.wait(max(0.1, deadline - time.monotonic())):
            raise SourceError(
                f"{self._uri}: GStreamer did not tell the format of its frames",
                hint="end the pipeline in video/x-raw,format=GRAY8 or GRAY16_LE",
            )
        name, width, height = self._caps[0]
        dtype, full_scale = _DTYPES[name]
        stride = -(-width * dtype.itemsize // 4) * 4  # GStreamer pads rows to 4 bytes
        data: NDArray[np.uint8] = np.empty((height, stride), np.uint8)
        data[0, 0] = first[0]
        if not self._fill(data.data.cast("B")[1:], deadline):
            self._raise_if_failed()
            raise SourceLostError("the pipeline ended inside a frame", hint=_PIPELINE_HINT)
        if len(self._caps) > 1:
            raise SourceLostError(
                "the pipeline has changed the format of its frames",
                hint="fix it in the pipeline, e.g. video/x-raw,format=GRAY16_LE,width=640,height=512",
            )
        image = np.ascontiguousarray(data[:, : width * dtype.itemsize].view(dtype))
        return Captured(arrived, image, full_scale)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)  # lets cameras close their session
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._listener.join(_STOP_S)
        os.close(self._frames)

    def _fill(self, view: memoryview, deadline: float) -> bool:
        """Read until the buffer is full; False if the pipeline ends before."""
        while view:
            if not self._waker.wait(self._frames, deadline - time.monotonic()):
                raise SourceLostError(
                    "no frame in time from GStreamer",
                    hint="does gst-launch-1.0 with the same pipeline deliver? --wait-source SECONDS waits for it",
                )
            count = os.readv(self._frames, [view])
            if not count:
                return False
            view = view[count:]
        return True

    def _raise_if_failed(self) -> None:
        try:
            code = self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            raise SourceLostError("the pipeline closed its output", hint=_PIPELINE_HINT) from None
        self._listener.join(_STOP_S)
        if code == 0:
            return
        if any("erroneous pipeline" in line for line in self._log):  # no waiting mends that
            raise SourceError(f"{self._uri}: {self._reason()}", hint=self._hint() or "try it with gst-launch-1.0")
        raise SourceLostError(self._reason(), hint=self._hint())

    def _listen(self, output: IO[bytes]) -> None:
        """Take what the process says, so that it never waits for us; keep its last words."""
        with output:
            for raw in output:
                line = raw.decode("utf-8", "replace").strip()
                fields = dict(_FIELD.findall(line)) if _CAPS in line else {}
                if len(fields) < 3:
                    self._log.append(line)
                    continue
                found = (fields["format"], int(fields["width"]), int(fields["height"]))
                if found not in self._caps[-1:]:
                    self._caps.append(found)
                self._has_caps.set()

    def _reason(self) -> str:
        errors = [line for line in self._log if "ERROR" in line or "erroneous" in line]
        return redact(errors[0] if errors else f"GStreamer ended with code {self._process.returncode}")

    def _hint(self) -> str | None:
        if any("not-negotiated" in line or "could not link" in line for line in self._log):
            return "end the pipeline with grey: ... ! videoconvert ! video/x-raw,format=GRAY8 (or GRAY16_LE)"
        return None
