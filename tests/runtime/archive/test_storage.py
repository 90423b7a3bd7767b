"""Files are listed, read and put whole, on disks and in buckets."""

from __future__ import annotations

import pickle
from pathlib import Path

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
    with pytest.raises(SourceError, match=r"missing\.bin"):
        Storage(tmp_path).read("missing.bin")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write file/a"):
        Storage(tmp_path).put("file/a", b"x")


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
