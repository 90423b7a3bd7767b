"""Folders and buckets by one interface (pyarrow.fs): files are listed, read, and put whole or not at all."""

from __future__ import annotations

import io
import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from glint.errors import InputError, OutputError, SourceError, first_line, safe_uri

_OBJECT_STORES = ("s3", "gcs", "abfs")  # a put is atomic there, and folders do not exist
_BLOCK_BYTES = 8 << 20  # bytes of one read or write
_GCS_PATIENCE_S = 60  # for which a request is repeated; the library's own patience is a quarter of an hour
TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Entry:
    """A file: its path below the storage's root, its size in bytes, and when it was changed, ns (0 if unknown)."""

    path: str
    size: int
    mtime_ns: int = 0

    @property
    def name(self) -> str:
        """Its name without folders."""
        return posixpath.basename(self.path)

    @property
    def folder(self) -> str:
        """Where it lies, "" at the root."""
        return posixpath.dirname(self.path)

    def facts(self) -> list[Any]:
        """What tells it from another one of the same name."""
        return [self.path, self.size, self.mtime_ns]


class Storage:
    """A folder, or a URL that ``pyarrow.fs`` knows (``s3://``, ``gs://``, ``hdfs://``, ``file://``).

    It travels to other processes as its URL.

    Attributes:
        url: as given; a folder by its absolute path.
        shown: the same without credentials.
        local: whether its files have paths.

    Raises:
        InputError: if the URL is not understood.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url) if "://" in str(url) else str(Path(url).absolute())  # workers may be elsewhere
        self.shown = safe_uri(self.url)
        try:
            self._fs, base = pafs.FileSystem.from_uri(_arrow_url(self.url))
        except (pa.ArrowException, ValueError, OSError) as error:
            hint = "expected a folder, s3://, gs://, hdfs:// or file://"
            if self.url.startswith("hdfs:"):
                hint = "hdfs:// needs Java and Hadoop's libhdfs: see JAVA_HOME, HADOOP_HOME and CLASSPATH"
            raise InputError(f"{self.shown}: {_reason(error)}", hint=hint) from error
        if self._fs.type_name in _OBJECT_STORES and not base.strip("/"):
            raise InputError(f"{self.shown} names no bucket", hint="expected s3://BUCKET/FOLDER or gs://BUCKET/FOLDER")
        self._base = base.rstrip("/") or "/"
        self.local = isinstance(self._fs, pafs.LocalFileSystem)

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.url,)

    def _whole(self, path: str) -> str:
        return posixpath.join(self._base, path) if path else self._base

    def path(self, path: str) -> Path:
        """The path of a local file."""
        return Path(self._whole(path))

    def entries(self, under: str = "") -> Iterator[Entry]:
        """All files at any depth, by path; none if the folder does not exist.

        Raises:
            SourceError: if it cannot be listed.
        """
        selector = pafs.FileSelector(self._whole(under), recursive=True, allow_not_found=True)
        found = self._infos(selector)
        prefix = len(self._base.rstrip("/")) + 1
        files = (i for i in found if i.type == pafs.FileType.File)
        return iter(sorted((Entry(i.path[prefix:], i.size, i.mtime_ns or 0) for i in files), key=lambda e: e.path))

    def exists(self, paths: Sequence[str]) -> list[bool]:
        """Whether each is a file.

        Raises:
            SourceError: if that cannot be told.
        """
        infos = self._infos([self._whole(path) for path in paths])
        return [info.type == pafs.FileType.File for info in infos]

    def is_folder(self) -> bool:
        """Whether the root is there.

        Raises:
            SourceError: if that cannot be told.
        """
        return bool(self._infos([self._base])[0].type == pafs.FileType.Directory)

    def may_be_folder(self) -> bool:
        """Whether the root is there as a folder or not at all.

        Raises:
            SourceError: if that cannot be told.
        """
        return bool(self._infos([self._base])[0].type != pafs.FileType.File)

    def _infos(self, what: Any) -> list[Any]:
        try:
            infos: list[Any] = self._fs.get_file_info(what)
        except (pa.ArrowException, OSError) as error:
            hint = "is it reached from here, and are the rights to list it there?"
            raise SourceError(f"{self.shown}: {_reason(error)}", hint=hint) from error
        return infos

    def read(self, path: str) -> bytes:
        """A whole file.

        Raises:
            SourceError: if it cannot be read.
        """
        with self.opened(path) as stream:
            try:
                return stream.read()
            except (pa.ArrowException, OSError) as error:
                raise SourceError(f"{path}: {_reason(error)}") from error

    @contextmanager
    def opened(self, path: str) -> Iterator[BinaryIO]:
        """A file as a stream that can seek.

        Raises:
            SourceError: if it cannot be opened.
        """
        try:
            raw = self._fs.open_input_file(self._whole(path))
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{path}: {_reason(error)}") from error
        with io.BufferedReader(raw, _BLOCK_BYTES if not self.local else 1 << 16) as stream:
            yield stream

    @contextmanager
    def as_path(self, path: str, folder: Path) -> Iterator[Path]:
        """A file as one on this machine: itself, or a copy in ``folder`` while it is needed.

        Raises:
            SourceError: if it cannot be read.
        """
        if self.local:
            yield self.path(path)
            return
        copy = folder / posixpath.basename(path)
        try:
            with self.opened(path) as stream, copy.open("wb") as target:
                while block := stream.read(_BLOCK_BYTES):
                    target.write(block)
            yield copy
        except pa.ArrowException as error:
            raise SourceError(f"{path}: {_reason(error)}") from error
        finally:
            copy.unlink(missing_ok=True)

    def put(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all; one that exists is replaced.

        Raises:
            OutputError: if it cannot be written.
        """
        self._put(path, io.BytesIO(data))

    def put_file(self, path: str, source: Path) -> None:
        """The same with the content of a file.

        Raises:
            OutputError: if it cannot be written.
        """
        with source.open("rb") as stream:
            self._put(path, stream)

    def _put(self, path: str, content: BinaryIO) -> None:
        whole = self._whole(path)
        objects = self._fs.type_name in _OBJECT_STORES
        folder, name = posixpath.split(whole)
        target = whole if objects else f"{folder}/.{name}.{os.getpid()}{TEMPORARY}"
        try:
            if not objects:
                self._fs.create_dir(folder, recursive=True)
            with self._fs.open_output_stream(target) as stream:
                while block := content.read(_BLOCK_BYTES):
                    stream.write(block)
            if self.local:
                _to_disk(target)
                Path(target).replace(whole)
            elif not objects:
                if self._fs.get_file_info(whole).type == pafs.FileType.File:
                    self._fs.delete_file(whole)
                self._fs.move(target, whole)
        except (pa.ArrowException, OSError) as error:
            raise OutputError(f"cannot write {path} to {self.shown}: {_reason(error)}") from error

    def move(self, path: str, to: str) -> None:
        """Give a file another place below the same root.

        Raises:
            OutputError: if that fails.
        """
        try:
            if self._fs.type_name not in _OBJECT_STORES:
                self._fs.create_dir(posixpath.dirname(self._whole(to)), recursive=True)
            self._fs.move(self._whole(path), self._whole(to))
        except (pa.ArrowException, OSError) as error:
            raise OutputError(f"cannot move {path} in {self.shown}: {_reason(error)}") from error

    def delete(self, path: str) -> None:
        """Remove a file.

        Raises:
            OutputError: if that fails.
        """
        try:
            self._fs.delete_file(self._whole(path))
        except (pa.ArrowException, OSError) as error:
            raise OutputError(f"cannot remove {path} from {self.shown}: {_reason(error)}") from error


def _arrow_url(url: str) -> str:
    """The same as pyarrow wants it."""
    if "://" not in url:
        return Path(url).as_uri()
    if url.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in url:
        return f"{url}{'&' if '?' in url else '?'}retry_limit_seconds={_GCS_PATIENCE_S}"
    return url


def _reason(error: BaseException) -> str:
    """What went wrong, without what the library tells itself."""
    return first_line(error).partition(" error_info=")[0]


def _to_disk(path: str) -> None:
    """A rename must not overtake what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
