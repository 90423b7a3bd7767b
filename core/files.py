"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from glint.errors import GlintError, InputError, OutputError


def cache_folder(part: str) -> Path:
    """Where what can be made again is kept: ``$GLINT_CACHE/part``, or ``glint/part`` in the user's cache folder."""
    own = os.environ.get("GLINT_CACHE")
    if own:
        return Path(own) / part
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glint" / part


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well.

    Raises:
        OutputError: if the file cannot be created or moved there; ``path`` is then as it was.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, GlintError):
            raise
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document atomically, indented, with a final newline."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def known(value: Any) -> Any:
    """The value, or the values of a dictionary, for a JSON document: a number that is not finite is None."""
    if isinstance(value, dict):
        return {name: known(entry) for name, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, *, what: str) -> Any:
    """Parse a JSON file.

    Raises:
        InputError: if it is missing or no JSON; ``what`` names it in the message.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{what} {path} is not JSON: {error}") from error


def append_whole(file: FileIO, data: bytes, size: int) -> int:
    """Append to a file of ``size`` bytes, all or nothing: what does not fit is taken back. Returns its new size.

    Raises:
        OSError: what the system says, with the file as it was.
    """
    left = memoryview(data)
    try:
        while left:  # a disk that fills up takes a part first
            left = left[file.write(left) :]
    except OSError:
        with suppress(OSError):  # no file but a device
            file.truncate(size)
        raise
    return size + len(data)


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Stop before any work if an output exists.

    Raises:
        OutputError: if ``path`` exists and ``overwrite`` is not set.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"output {path} exists", hint="choose another name or pass --overwrite")
