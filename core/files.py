"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from glint.errors import EngineError, GlintError, InputError, OutputError, SourceError, system_errors_as, system_reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def cache_folder(part: str) -> Path:
    """Where what can be made again is kept: ``$GLINT_CACHE/part``, or ``glint/part`` in the user's cache folder.

    Raises:
        EngineError: if somebody else can write there: what is kept is loaded and run.
    """
    own = os.environ.get("GLINT_CACHE")
    root = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glint"
    for folder in (root / part, root):
        if (why := open_to_others(folder)) is not None:
            hint = f"chmod go-w {folder}, if it is yours, or set GLINT_CACHE to a folder of your own"
            raise EngineError(f"the cache {folder} {why}: what is kept there could be anybody's", hint=hint)
    return root / part


def open_to_others(folder: Path) -> str | None:
    """Why others than this user and root can put something into a folder; None if they cannot, or there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    if status.st_uid not in (os.geteuid(), 0):
        return f"belongs to the user {status.st_uid}"
    if status.st_mode & stat.S_IWOTH:
        return "can be written by everybody"
    if status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid():
        return f"can be written by the group {status.st_gid}"
    return None


@contextmanager
def atomic_path(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well.

    Args:
        path: where the file is to be.
        overwrite: replace what stands there at the end; else it stays, and the new file beside it gets another name.

    Raises:
        OutputError: if the file cannot be created or moved there; ``path`` is then as it was.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem[:_MOST_STEM_LETTERS]}-", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        if overwrite:
            temporary.replace(path)
        else:
            _put(temporary, path)
    except OSError as error:
        if isinstance(error, GlintError):
            raise
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _put(temporary: Path, path: Path) -> None:
    """Move a file to a name that nobody has.

    Raises:
        OutputError: if somebody has it by now; the file then stands beside it.
    """
    try:
        path.hardlink_to(temporary)
    except FileExistsError as error:
        names = (path.with_stem(f"{path.stem[:_MOST_STEM_LETTERS]}-{number}") for number in itertools.count(2))
        other = next(name for name in names if not name.exists())
        temporary.replace(other)
        raise OutputError(
            f"output {path} was written by another run meanwhile; that of this one is {other}",
            hint="give each run an output of its own",
        ) from error
    except OSError:  # a file system without links
        temporary.replace(path)


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


MOST_JSON_BYTES = 64 << 20  # bytes
_MOST_NESTED_LEVELS = 64  # arrays and objects inside each other
MOST_ARRAY_BYTES = 1 << 32  # bytes
_MOST_NAME_BYTES = 200  # bytes; file systems take 255
_MOST_STEM_LETTERS = 40  # letters of a name that a temporary one keeps
_TRIAL_BYTES = 4096  # that a place must take


def parse_json(content: bytes) -> Any:
    """A JSON document that cannot make its reader stumble: bounded in size and depth, every number finite.

    Raises:
        ValueError: if it is not JSON, too long, too deep, or holds NaN, infinity or a number beyond all others.
    """
    if len(content) > MOST_JSON_BYTES:
        raise ValueError(f"{len(content)} bytes; expected at most {MOST_JSON_BYTES}")
    if _depth(content) > _MOST_NESTED_LEVELS:
        raise ValueError(f"more than {_MOST_NESTED_LEVELS} levels inside each other")
    return json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_number, parse_float=_finite)


def _depth(content: bytes) -> int:
    """How deep brackets go, those of strings left out."""
    depth = deepest = 0
    for mark in re.findall(rb'"(?:[^"\\]|\\.)*"|[\[{\]}]', content, re.DOTALL):
        if mark in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in b"]}":
            depth -= 1
    return deepest


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_number(text)


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is no finite number")


def read_json(path: Path, *, what: str, kind: type = object) -> Any:
    """Parse a JSON file (see :func:`parse_json`).

    Args:
        path: the file.
        what: names it in messages.
        kind: what the document must be, e.g. dict.

    Raises:
        InputError: if it is missing, no JSON, too large, or of another kind.
    """
    with system_errors_as(InputError, f"{what} {path}", hint="is the name right?"), path.open("rb") as stream:
        content = stream.read(MOST_JSON_BYTES + 1)
    try:
        value = parse_json(content)
    except ValueError as error:
        raise InputError(f"{what} {path} is not JSON: {error}", hint="make the file again") from error
    if not isinstance(value, kind):
        raise InputError(
            f"{what} {path}: expected {kind.__name__}, got {type(value).__name__}",
            hint="make the file again with the command that writes it",
        )
    return value


@dataclass(frozen=True)
class NpyHeader:
    """What an ``.npy`` file says of its array, held against the bytes that are there.

    Attributes:
        shape: of the array.
        dtype: of its numbers, with their byte order.
        fortran: whether the first index runs fastest.
        start: where the numbers begin, bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int


_NPY_HINT = "write it with numpy.save(path, array), numbers only"


def npy_header(stream: IO[bytes], size: int, name: str) -> NpyHeader:
    """The header of one array of numbers or booleans, which fills the rest of a file.

    Args:
        stream: at the beginning of the file.
        size: of the file, bytes.
        name: of the file in messages.

    Raises:
        InputError: if it is torn, damaged, followed by something else, or holds anything but numbers.
    """
    import numpy as np

    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read[version](stream)
    except OSError:
        raise
    except Exception as error:  # NumPy parses the header as Python: a damaged one ends in any of a dozen errors
        # NumPy's own message may advise to allow pickles, which run code: it is not passed on.
        raise InputError(f"{name} is not an .npy array of numbers", hint=_NPY_HINT) from error
    if dtype.kind not in "buif" or not all(0 <= n < MOST_ARRAY_BYTES for n in shape):
        raise InputError(f"{name} is not an .npy array of numbers, but {dtype} of shape {shape}", hint=_NPY_HINT)
    start = stream.tell()
    needed = math.prod(shape) * dtype.itemsize
    if needed != size - start:
        raise InputError(
            f"{name}: {size - start} bytes for {dtype} of shape {shape}, which are {needed}",
            hint="it is torn, damaged, or holds several arrays: save one",
        )
    return NpyHeader(shape, dtype, fortran, start)


def read_npy(stream: IO[bytes], size: int, name: str) -> NDArray[Any]:
    """One array of numbers or booleans, in the byte order of this machine (see :func:`npy_header`).

    Raises:
        InputError: as ``npy_header``; also if it is larger than any that is read whole.
    """
    import numpy as np

    header = npy_header(stream, size, name)
    if size > MOST_ARRAY_BYTES:
        raise InputError(f"{name}: {size} bytes; expected at most {MOST_ARRAY_BYTES}", hint="cut it into several")
    content = stream.read(size - header.start)
    if len(content) != size - header.start:
        raise InputError(f"{name} became shorter while it was read", hint="make it again")
    flat = np.frombuffer(content, header.dtype) if content else np.empty(0, header.dtype)
    array = flat.reshape(header.shape[::-1]).T if header.fortran else flat.reshape(header.shape)
    return array.astype(array.dtype.newbyteorder("="))


def load_npy(path: Path, *, what: str = "array") -> NDArray[Any]:
    """One array of numbers or booleans out of an ``.npy`` file.

    Nothing is unpickled, and the size that the header tells is held against the bytes that are there.

    Args:
        path: the file.
        what: names it in messages.

    Raises:
        SourceError: if it is missing or cannot be read.
        InputError: if it is an archive (``.npz``), torn, damaged, or holds anything but numbers.
    """
    name = f"{what} {path}"
    with system_errors_as(SourceError, name), path.open("rb") as stream:
        if stream.read(2) == b"PK":
            raise InputError(f"{name}: expected one array (.npy), got an archive (.npz)", hint=_NPY_HINT)
        stream.seek(0)
        return read_npy(stream, os.fstat(stream.fileno()).st_size, name)


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


def claim(path: Path, *, overwrite: bool) -> FileIO:
    """Create a file, or empty it, for one writer at a time.

    Raises:
        OutputError: if it exists and ``overwrite`` is not set, if another process writes it, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = os.O_EXCL if not (overwrite or is_device(path)) else 0
        file = FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | new, 0o644), "w")
    except (OSError, ValueError) as error:
        if isinstance(error, FileExistsError) and path.is_file():
            raise OutputError(f"output {path} exists", hint="choose another name or pass --overwrite") from error
        raise OutputError(f"cannot write {path}: {system_reason(error)}") from error
    try:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            with _told_of_another(path):
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def _told_of_another(path: Path) -> Iterator[None]:
    try:
        yield
    except BlockingIOError as error:
        raise OutputError(f"output {path} is being written by another run", hint="choose another name") from error
    except OSError:
        return  # a file system without locks


class FileNames:
    """File names for what brings a name along: safe as the name of one file in one folder, each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def of(self, name: str, index: int) -> str:
        """A name without an ending; that of a frame without one is its ``index`` in six digits."""
        safe = re.sub(r"[^\w .()\[\]{}+,;=@~#%&'!-]", "_", name.encode("utf-8", "replace").decode("utf-8"))
        safe = safe.strip(" ").encode()[:_MOST_NAME_BYTES].decode("utf-8", "ignore")
        if not safe.strip("."):
            safe = f"{index:06d}" if not safe else "_" * len(safe)
        if not name:
            return safe  # numbers do not repeat: nothing is kept of a stream without end
        if safe in self._given:
            safe = f"{safe}-{index:06d}"
        self._given.add(safe)
        return safe


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Stop before any work if an output exists, or if a file could not be made there. Leaves nothing behind.

    Raises:
        OutputError: if ``path`` exists and ``overwrite`` is not set, is a folder, or its place takes no file: no
            such folder can be made, it may not be written to, its disk is full, or the name is too long.
    """
    with system_errors_as(OutputError, f"cannot write {path}"):
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            mode = 0
        if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return  # a device takes what it gets
        if mode and not overwrite:
            raise OutputError(f"output {path} exists", hint="choose another name or pass --overwrite")
        if stat.S_ISDIR(mode):
            raise OutputError(f"cannot write {path}: it is a folder", hint="choose another name")
        try_folder(path.parent)


def is_device(path: Path) -> bool:
    """Whether something that is neither file nor folder stands there."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def try_folder(folder: Path) -> None:
    """Write into a folder, or where it would be made, and leave nothing behind.

    Raises:
        OutputError: if that fails.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    hint = "whose folder is it, and who runs glint? ls -ld tells"
    refused = system_errors_as(OutputError, f"cannot write into {folder}", hint=hint)
    with refused, tempfile.TemporaryFile(dir=place, buffering=0) as file:
        file.write(bytes(_TRIAL_BYTES))


def refuse_full(folder: Path, *, overwrite: bool, what: str) -> None:
    """Stop before any work if files cannot be put into a folder, or if it holds some. Leaves nothing behind.

    Args:
        folder: where to; need not exist.
        overwrite: files may be there.
        what: names it in messages.

    Raises:
        OutputError: if it is a file, holds files and ``overwrite`` is not set, or takes none.
    """
    with system_errors_as(OutputError, f"cannot write into {folder}"):
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{what} {folder} is a file; expected a folder", hint="choose another name")
        if not overwrite and folder.is_dir() and any(folder.iterdir()):
            raise OutputError(f"{what} {folder} is not empty", hint="choose another or pass --overwrite")
        try_folder(folder)


class FolderClaim:
    """A folder for one writer at a time; made and locked when it is asked for.

    Args:
        folder: which.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def take(self) -> None:
        """Make and lock the folder, if that is not done yet.

        Raises:
            OutputError: if another process writes there, or it cannot be made.
        """
        if self._descriptor is not None:
            return
        with system_errors_as(OutputError, f"cannot write into {self._folder}"):
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _told_of_another(self._folder):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others write there; may be called twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
