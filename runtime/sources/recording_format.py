"""The file format of recordings: a tar archive of NumPy arrays, each behind its JSON record.

Why this: tar grows by appending, so that a killed process loses at most its last frame; every
system unpacks it, every language reads ``.npy``; both are bit-exact for all dtypes of frames and
need nothing but the standard library and NumPy. Nothing is compressed: recording must cost less
than the pipeline, and what is kept is bounded by the recorder. A video codec would need a large
library and rounds times to milliseconds.

One file holds, in this order::

    recording.json       {"format": "glint recording", "version": 1, "source": ..., "utc": ..., "glint": ...}
    000000012.json       {"index": 12, "t_ns": ..., "name": ..., "full_scale": ..., "dtype": "uint16",
                          "shape": [512, 640], "crc32": ...}   (CRC of the next member)
    000000012.npy        the pixels
    000000013.gap.json   {"t_ns": ..., "seconds": ..., "reason": ...}
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from glint import __version__
from glint.errors import OutputError, SourceError
from glint.runtime.sources.base import Skipped
from glint.runtime.sources.uri import safe_uri
from glint.types import FRAME_DTYPES, Frame, Gap

SUFFIX = ".tar"
_FORMAT, _VERSION = "glint recording", 1
_BLOCK = tarfile.BLOCKSIZE
_MOST_JSON = 65536  # bytes of one record
_MOST_MEMBER = 1 << 30  # bytes
_MOST_SIDE = 65536  # pixels
_MOST_INTEGER = 2**63 - 1


def encode_frame(frame: Frame) -> bytes:
    """The two members of a frame."""
    pixels = io.BytesIO()
    np.save(pixels, frame.data, allow_pickle=False)
    payload = pixels.getvalue()
    record = {
        "index": frame.index,
        "t_ns": frame.t_ns,
        "name": frame.name,
        "full_scale": frame.full_scale,
        "dtype": frame.data.dtype.name,
        "shape": frame.shape,
        "crc32": zlib.crc32(payload),
    }
    key = f"{frame.index:09d}"
    return _member(f"{key}.json", json.dumps(record).encode()) + _member(f"{key}.npy", payload)


def encode_gap(gap: Gap, index: int) -> bytes:
    """The member of a gap before frame ``index``."""
    return _member(f"{index:09d}.gap.json", json.dumps(asdict(gap)).encode())


def _member(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(content), int(time.time())
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % _BLOCK)


class RecordingFile:
    """One file that grows by whole members; valid after each of them.

    Attributes:
        path: where it is.
        size: bytes so far.

    Raises:
        OutputError: if the file exists or cannot be written; what was written before stays valid.
    """

    def __init__(self, path: Path, *, source: str = "") -> None:
        self.path, self.size = path, 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("xb", buffering=0)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        about = {
            "format": _FORMAT,
            "version": _VERSION,
            "source": safe_uri(source),
            "utc": datetime.now(timezone.utc).isoformat(),
            "glint": __version__,
        }
        try:
            self.append(_member("recording.json", json.dumps(about).encode()))
        except OutputError:
            self._stream.close()
            path.unlink(missing_ok=True)
            raise

    def append(self, record: bytes) -> None:
        """Write whole members; unbuffered, so that they survive the end of the process."""
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[self._stream.write(rest) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._stream.fileno(), self.size)  # half a frame helps nobody
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error
        self.size += len(record)

    def close(self) -> None:
        """Write the archive's end mark and bring all to the disk."""
        if self._stream.closed:
            return
        try:
            with suppress(OutputError):  # a full disk: the archive is whole without its mark
                self.append(bytes(2 * _BLOCK))
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error
        finally:
            self._stream.close()


def read_recording(path: Path) -> Iterator[Frame | Gap | Skipped]:
    """What a recording holds, in order; whatever is damaged or cut off is said, the rest is read.

    Raises:
        SourceError: if it cannot be opened, is no recording, or is of a newer kind.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    with stream:
        known, record = False, None
        for member in _members(stream, path):
            if isinstance(member, Skipped):
                yield member
                continue
            name, content = member
            if name == "recording.json":
                _check_version(path, content)
                known, record = True, None
                continue
            try:
                if name.endswith(".gap.json"):
                    yield _gap(content)
                elif name.endswith(".json"):
                    record = _json(content)
                    continue
                elif name.endswith(".npy"):
                    yield _frame(record, content)
                known = True
            except (ValueError, RecursionError) as error:
                yield Skipped(f"{path.name}:{name}", str(error))
            record = None
        if not known:
            raise SourceError(f"{path} is no recording of glint", hint="expected a file that --record has written")


def _members(stream: BinaryIO, path: Path) -> Iterator[tuple[str, bytes] | Skipped]:
    """Names and contents of the archive's files; looks for the next one behind what is damaged."""
    end = os.fstat(stream.fileno()).st_size
    lost = 0
    while block := stream.read(_BLOCK):
        if not any(block):
            continue  # the end mark, or what a file system puts where nothing was written
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except tarfile.HeaderError:
            lost += len(block)
            continue
        if lost:
            yield Skipped(path.name, f"{lost} bytes before {info.name} are damaged")
            lost = 0
        left = end - stream.tell()
        if not 0 <= info.size <= left:
            yield Skipped(path.name, f"cut off inside {info.name}, after {left} of its {info.size} bytes")
            return
        if info.isfile() and info.name.endswith((".json", ".npy")) and info.size <= _MOST_MEMBER:
            yield info.name, stream.read(info.size)
        else:
            stream.seek(info.size, os.SEEK_CUR)
        stream.seek(-info.size % _BLOCK, os.SEEK_CUR)
    if lost:
        yield Skipped(path.name, f"its last {lost} bytes are damaged")


def _check_version(path: Path, content: bytes) -> None:
    try:
        about = _json(content)
    except (ValueError, RecursionError):
        return  # damaged; the frames speak for themselves
    version = about.get("version")
    if about.get("format") == _FORMAT and version != _VERSION:
        raise SourceError(f"{path}: recording of version {version!r}; this glint reads version {_VERSION}")


def _json(content: bytes) -> dict[str, Any]:
    if len(content) > _MOST_JSON:
        raise ValueError("its record is damaged: too long")
    try:
        value = json.loads(content)
    except ValueError:
        raise ValueError("its record is damaged: no JSON") from None
    if not isinstance(value, dict):
        raise ValueError("its record is damaged: no object")
    return value


def _gap(content: bytes) -> Gap:
    record = _json(content)
    seconds, reason = record.get("seconds"), record.get("reason")
    if not (isinstance(seconds, float | int) and 0 <= seconds < np.inf and isinstance(reason, str)):
        raise ValueError("its record is damaged: seconds or reason")
    return Gap(_integer(record, "t_ns"), float(seconds), reason)


def _frame(record: dict[str, Any] | None, payload: bytes) -> Frame:
    if record is None:
        raise ValueError("its record is missing")
    if zlib.crc32(payload) != _integer(record, "crc32"):
        raise ValueError("its pixels are damaged")
    dtype = {d.name: d for d in FRAME_DTYPES}.get(str(record.get("dtype")))
    shape, name, full_scale = record.get("shape"), record.get("name"), record.get("full_scale")
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 < n < _MOST_SIDE for n in shape)):
        raise ValueError("its record is damaged: shape")
    if dtype is None or not isinstance(name, str):
        raise ValueError("its record is damaged: dtype or name")
    if full_scale is not None and not (isinstance(full_scale, float | int) and 0 < full_scale < np.inf):
        raise ValueError("its record is damaged: full_scale")
    size = shape[0] * shape[1] * dtype.itemsize
    if payload[: len(payload) - size] != _npy_header(dtype, shape) or len(payload) < size:
        raise ValueError("its pixels are not what its record says")
    data = np.frombuffer(payload, dtype, offset=len(payload) - size).reshape(shape)
    return Frame(_integer(record, "index"), _integer(record, "t_ns"), data, name, full_scale)


def _npy_header(dtype: np.dtype[Any], shape: list[int]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
    )
    return header.getvalue()


def _integer(record: dict[str, Any], name: str) -> int:
    value = record.get(name)
    if type(value) is not int or not 0 <= value <= _MOST_INTEGER:
        raise ValueError(f"its record is damaged: {name}")
    return value


RECORDING = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-\d{6}\.tar")


def recordings(folder: Path) -> list[Path]:
    """The files that a recorder has written into a folder, oldest first."""
    return sorted(p for p in folder.iterdir() if RECORDING.fullmatch(p.name))
