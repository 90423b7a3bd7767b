"""Files are listed, read and put whole, on disks and in buckets."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="archives need pyarrow")

from glint.errors import InputError, OutputError, SourceError
from glint.runtime.archive.storage import Storage


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_what_is_put_is_listed_and_read(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = str(tmp_path) if kind == "folder" else request.getfixturevalue("bucket").format("cam/one")
    storage = pickle.loads(pickle.dumps(Storage(url)))  # noqa: S301
    assert "a:b" not in storage.shown
    assert list(storage.entries("frames")) == []
    storage.put("frames/b/2.bin", b"second")
    storage.put("frames/a/1.bin", b"first")
    storage.put("frames/a/1.bin", b"replaced")
    (tmp_path / "whole").write_bytes(b"of a file")
    storage.put_file("tracks/t.bin", tmp_path / "whole")
    assert [(e.path, e.size) for e in storage.entries("frames")] == [("frames/a/1.bin", 8), ("frames/b/2.bin", 6)]
    assert storage.exists(["frames/a/1.bin", "frames/a", "nothing"]) == [True, False, False]
    assert storage.read("tracks/t.bin") == b"of a file"
    with storage.opened("frames/a/1.bin") as stream:
        assert (stream.seek(2), stream.read(3)) == (2, b"pla")
    with storage.as_path("frames/b/2.bin", tmp_path) as path:
        assert path.read_bytes() == b"second"
    storage.move("frames/b/2.bin", "replaced/frames/b/2.bin")
    assert storage.exists(["frames/b/2.bin", "replaced/frames/b/2.bin"]) == [False, True]


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nonsense"):
        Storage("nonsense://a/b")
    with pytest.raises(InputError, match="names no bucket"):
        Storage("s3://?region=us-east-1")
    with pytest.raises(SourceError, match=r"missing\.bin"):
        Storage(tmp_path).read("missing.bin")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write file/a"):
        Storage(tmp_path).put("file/a", b"x")


_S3 = "s3://a:b@night/x?region=us-east-1&scheme=http&endpoint_override=127.0.0.1%3A9"
_GCS = "gs://anonymous@night/x?scheme=http&endpoint_override=127.0.0.1%3A9&retry_limit_seconds=1"


@pytest.mark.parametrize(
    ("url", "ask"),
    [
        (_S3, Storage.is_folder),
        (_GCS, Storage.is_folder),
        (_GCS, lambda s: s.exists(["a"])),
        (_GCS, lambda s: list(s.entries())),
        (_GCS, lambda s: s.read("a")),
    ],
)
def test_a_bucket_that_is_not_reached_is_said_so(url: str, ask: Callable[[Storage], Any]) -> None:
    storage = Storage(url)
    with pytest.raises(SourceError, match=r"(?i)connect") as told:
        ask(storage)
    assert "a:b" not in str(told.value)


def test_requests_to_google_end_within_a_minute() -> None:
    for url in ("gs://anonymous@night/x", "gs://anonymous@night/x?scheme=https"):
        options = Storage(url)._fs.__reduce__()[1][0]
        assert options["retry_time_limit"] == timedelta(seconds=60)
    assert (
        Storage("gs://anonymous@night/x?retry_limit_seconds=5")._fs.__reduce__()[1][0]["retry_time_limit"].seconds == 5
    )


def test_a_put_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    class Torn:
        def __init__(self) -> None:
            self.parts = [b"half"]

        def read(self, size: int) -> bytes:
            if not self.parts:
                raise OSError("the disk has gone")
            return self.parts.pop()

    storage = Storage(tmp_path)
    storage.put("a", b"whole")
    with pytest.raises(OutputError, match="the disk has gone"):
        storage._put("a", Torn())  # type: ignore[arg-type]
    assert storage.read("a") == b"whole"
