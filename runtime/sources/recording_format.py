"""The file format of recordings: a tar archive of NumPy arrays, each behind its JSON record.

Why this: tar grows by appending, so that a killed process loses at most its last frame; every
system unpacks it, every language reads ``.npy``; both are bit-exact for all dtypes of frames and
need nothing but the standard library and NumPy. Nothing is compressed: recording must cost less
than the pipeline, and what is kept is bounded by the recorder. A video codec would need a large
library and rounds times to milliseconds.

One file holds, in this order::

    recording.json       {"format": "glint recording", "version": 1, "source": ..., "utc": ..., "glint": ...}
    000000012.json       {"index": 12, "t_ns": ..., "utc_ns": ..., "name": ..., "full_scale": ..., "dtype": "uint16",
                          "shape": [512, 640], "crc32": ...,   (CRC of the next member)
                          "previous": 11,                      (frame before it in this file, or null)
                          "record_crc32": ...}                 (CRC of this record without it)
                         "damaged": ... where a frame's pixels may be wrong
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
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from glint import __version__
from glint.errors import OutputError, SourceError, safe_uri, system_errors_as, system_reason
from glint.files import parse_json
from glint.runtime.sources.base import Skipped
from glint.types import FRAME_DTYPES, Frame, Gap

SUFFIX = ".tar"
_FORMAT, _VERSION = "glint recording", 1
_SEAL = "record_crc32"
_BLOCK_BYTES = tarfile.BLOCKSIZE
_MOST_RECORD_BYTES = 65536  # bytes of one record
_MOST_MEMBER_BYTES = 1 << 30  # bytes
_MOST_SIDE_PX = 65536  # pixels
_MOST_INTEGER = 2**63 - 1


def encode_frame(frame: Frame, previous: int | None = None) -> bytes:
    """The two members of a frame; ``previous`` is the index of the one before it in its file."""
    pixels = io.BytesIO()
    np.save(pixels, frame.data, allow_pickle=False)
    payload = pixels.getvalue()
    record = {
        "index": frame.index,
        "t_ns": frame.t_ns,
        "utc_ns": frame.utc_ns,
        "name": frame.name,
        "full_scale": frame.full_scale,
        "dtype": frame.data.dtype.name,
        "shape": frame.shape,
        "crc32": zlib.crc32(payload),
        "previous": previous,
        **({"damaged": frame.damaged} if frame.damaged else {}),
    }
    key = f"{frame.index:09d}"
    return _member(f"{key}.json", _sealed(record)) + _member(f"{key}.npy", payload)


def encode_gap(gap: Gap, index: int) -> bytes:
    """The member of a gap before frame ``index``."""
    return _member(f"{index:09d}.gap.json", _sealed(asdict(gap)))


def _sealed(record: dict[str, Any]) -> bytes:
    """A record with its own checksum."""
    return json.dumps({**record, _SEAL: _seal_of(record)}).encode()


def _seal_of(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True, separators=(",", ":")).encode())


def _member(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(content), int(time.time())
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % _BLOCK_BYTES)


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
        with system_errors_as(OutputError, f"cannot write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("xb", buffering=0)
        about = {
            "format": _FORMAT,
            "version": _VERSION,
            "source": safe_uri(source),
            "utc": datetime.now(timezone.utc).isoformat(),
            "glint": __version__,
            "sealed": True,  # every record has its checksum
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
            raise OutputError(f"cannot write {self.path}: {system_reason(error)}") from error
        self.size += len(record)

    def close(self) -> None:
        """Write the archive's end mark and bring all to the disk."""
        if self._stream.closed:
            return
        with closing(self._stream), system_errors_as(OutputError, f"cannot write {self.path}"):
            with suppress(OutputError):  # a full disk: the archive is whole without its mark
                self.append(bytes(2 * _BLOCK_BYTES))
            os.fsync(self._stream.fileno())


@dataclass(frozen=True)
class Missing(Skipped):
    """Frames that should be there and are not; ``number`` of them at least."""

    number: int = 1


def read_recording(path: Path) -> Iterator[Frame | Gap | Skipped]:
    """What a recording holds, in order; whatever is damaged or cut off is said, the rest is read.

    Raises:
        SourceError: if it cannot be opened, is no recording, or is of a newer kind.
    """
    with system_errors_as(SourceError, str(path)):
        stream = path.open("rb")
    with stream:
        known, record, sealed = False, None, False
        last: int | None = None  # index of the frame before
        damaged = False  # something was said since then
        for member in _members(stream, path):
            if isinstance(member, Skipped):
                damaged = True
                yield member
                continue
            name, content = member
            if name == "recording.json":
                sealed = _check_version(path, content)
                known, record = True, None
                continue
            try:
                if name.endswith(".gap.json"):
                    yield _gap(_opened(content, sealed=sealed))
                elif name.endswith(".json"):
                    record = _opened(content, sealed=sealed)
                    continue
                elif name.endswith(".npy"):
                    frame = _frame(record, content)
                    if not damaged and (missing := _missing(record or {}, frame.index, last)):
                        yield replace(missing, name=path.name)
                    last, damaged = frame.index, False
                    yield frame
                known = True
            except (ValueError, RecursionError) as error:
                damaged = True
                yield Skipped(f"{path.name}:{name}", str(error))
            record = None
        if not known:
            raise SourceError(f"{path} is no recording of glint", hint="expected a file that --record has written")


def _members(stream: BinaryIO, path: Path) -> Iterator[tuple[str, bytes] | Skipped]:
    """Names and contents of the archive's files; looks for the next one behind what is damaged."""
    end = os.fstat(stream.fileno()).st_size
    lost, ended, last = 0, False, "its beginning"
    while block := stream.read(_BLOCK_BYTES):
        if not any(block):
            ended = True
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
            yield Missing(path.name, f"cut off inside {info.name}, after {left} of its {info.size} bytes")
            return
        last, ended = info.name, False
        if info.isfile() and info.name.endswith((".json", ".npy")) and info.size <= _MOST_MEMBER_BYTES:
            yield info.name, stream.read(info.size)
        else:
            yield Skipped(f"{path.name}:{info.name}", "it is nothing that a recording holds")
            stream.seek(info.size, os.SEEK_CUR)
        stream.seek(-info.size % _BLOCK_BYTES, os.SEEK_CUR)
    if lost:
        yield Skipped(path.name, f"its last {lost} bytes are damaged")
    if not ended:
        yield Missing(path.name, f"it has no end mark: what came after {last} is missing, if anything did")


def _missing(record: dict[str, Any], index: int, last: int | None) -> Missing | None:
    """What lies between a frame and the last one that was read; an old recording tells by its numbers alone."""
    if "previous" not in record:
        if last is None or index <= last + 1:
            return None
        return Missing("", f"frames {last + 1} to {index - 1} are not there: lost, or never recorded", index - last - 1)
    before = record["previous"]
    if before is None or before == last:
        return None
    first = "its first frames" if last is None else f"frames after {last}"
    number = before - last if isinstance(before, int) and last is not None and before > last else 1
    return Missing("", f"{first}, up to {before}, are missing", number)


def _check_version(path: Path, content: bytes) -> bool:
    """Whether its records have checksums."""
    try:
        about = _json(content)
    except (ValueError, RecursionError):
        return False  # damaged; the frames speak for themselves
    version = about.get("version")
    if about.get("format") == _FORMAT and version != _VERSION:
        raise SourceError(
            f"{path}: recording of version {version!r}; this glint reads version {_VERSION}",
            hint="replay it with the glint that wrote it, or read it with tar and numpy.load",
        )
    return about.get("sealed") is True


def _opened(content: bytes, *, sealed: bool) -> dict[str, Any]:
    """A record whose checksum, if it has or must have one, is right."""
    record = _json(content)
    seal = record.pop(_SEAL, None)
    if (sealed or seal is not None) and seal != _seal_of(record):
        raise ValueError("its record is damaged: checksum")
    return record


def _json(content: bytes) -> dict[str, Any]:
    if len(content) > _MOST_RECORD_BYTES:
        raise ValueError("its record is damaged: too long")
    try:
        value = parse_json(content)
    except ValueError:
        raise ValueError("its record is damaged: no JSON") from None
    if not isinstance(value, dict):
        raise ValueError("its record is damaged: no object")
    return value


def _gap(record: dict[str, Any]) -> Gap:
    seconds, reason = record.get("seconds"), record.get("reason")
    if not (isinstance(seconds, float | int) and 0 <= seconds < np.inf and isinstance(reason, str)):
        raise ValueError("its record is damaged: seconds or reason")
    return Gap(_integer(record, "t_ns"), float(seconds), reason, _utc(record))


def _frame(record: dict[str, Any] | None, payload: bytes) -> Frame:
    if record is None:
        raise ValueError("its record is missing")
    if zlib.crc32(payload) != _integer(record, "crc32"):
        raise ValueError("its pixels are damaged")
    dtype = {d.name: d for d in FRAME_DTYPES}.get(str(record.get("dtype")))
    shape, name, full_scale = record.get("shape"), record.get("name"), record.get("full_scale")
    damaged = record.get("damaged", "")
    if not (
        isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 < n < _MOST_SIDE_PX for n in shape)
    ):
        raise ValueError("its record is damaged: shape")
    if dtype is None or not (isinstance(name, str) and isinstance(damaged, str)):
        raise ValueError("its record is damaged: dtype or name")
    if full_scale is not None and not (isinstance(full_scale, float | int) and 0 < full_scale < np.inf):
        raise ValueError("its record is damaged: full_scale")
    size = shape[0] * shape[1] * dtype.itemsize
    if payload[: len(payload) - size] != _npy_header(dtype, shape) or len(payload) < size:
        raise ValueError("its pixels are not what its record says")
    data = np.frombuffer(payload, dtype, offset=len(payload) - size).reshape(shape)
    index, t_ns, utc_ns = _integer(record, "index"), _integer(record, "t_ns"), _utc(record)
    return Frame(index, t_ns, data, name, full_scale, damaged=damaged, utc_ns=utc_ns)


def _utc(record: dict[str, Any]) -> int | None:
    """Of older recordings, and of frames whose time nobody knew, None."""
    return None if record.get("utc_ns") is None else _integer(record, "utc_ns")


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


RECORDING = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-(\d{6})\.tar")


def recordings(folder: Path) -> list[Path]:
    """The files that a recorder has written into a folder, oldest first."""
    return sorted(p for p in folder.iterdir() if RECORDING.fullmatch(p.name))
