"""Files appear whole or not at all."""

import errno
import hashlib
import json
import math
import os
from pathlib import Path

import pytest

from glint.errors import EXIT_ENVIRONMENT, EngineError, InputError, OutputError, SourceError, exit_code_of
from glint.files import (
    FolderClaim,
    atomic_path,
    cache_folder,
    known,
    read_json,
    refuse_existing,
    refuse_full,
    sha256,
    write_bytes,
    write_json,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "deep" / "a.bin"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent  # the same file system: the move is atomic
        assert temporary.suffix == ".bin"
        temporary.write_bytes(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert names(path.parent) == ["a.bin"]


def test_the_old_file_is_replaced(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError("disk full")])
def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises((type(error), OutputError)), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_full_disk_is_an_output_error_that_names_the_file(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*a\.bin: No space left"), atomic_path(tmp_path / "a.bin"):
        raise OSError(28, "No space left on device")


def test_glints_own_errors_inside_the_block_keep_their_kind(tmp_path):
    # A source that fails while an output is being written is no problem of the output.
    with pytest.raises(SourceError, match="camera"), atomic_path(tmp_path / "a.bin"):
        raise SourceError("the camera is gone", hint="plug it in")


def test_a_file_in_the_way_of_the_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        write_bytes(tmp_path / "file" / "a.bin", b"")


def test_a_folder_in_the_way_of_the_file_is_an_output_error_and_leaves_no_rest(tmp_path):
    (tmp_path / "a.bin" / "full").mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot write"):
        write_bytes(tmp_path / "a.bin", b"")
    assert names(tmp_path) == ["a.bin"]


def test_written_files_can_be_read_by_everybody(tmp_path):
    write_bytes(tmp_path / "a.bin", b"")
    assert (tmp_path / "a.bin").stat().st_mode & 0o444 == 0o444


def test_json_round_trip_is_indented_and_ends_with_a_newline(tmp_path):
    value = {"a": [1, 2.5, None], "b": {"c": "ü"}}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert '\n  "a"' in text
    assert json.loads(text) == read_json(tmp_path / "a.json", what="settings") == value


def test_what_json_cannot_say_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json", what="settings") == 1


@pytest.mark.parametrize("content", [b"", b"{", b"{'a': 1}", b"\xff\xfe"], ids=["empty", "half", "python", "binary"])
def test_malformed_json_is_an_input_error_that_says_what_it_should_be(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"settings .*a\.json is not JSON"):
        read_json(tmp_path / "a.json", what="settings")


def test_missing_json_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"settings .*a\.json: No such file"):
        read_json(tmp_path / "a.json", what="settings")


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_sha256_is_that_of_the_whole_content(tmp_path, size):
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "a.bin").write_bytes(content)
    assert sha256(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()


def test_existing_outputs_are_refused_unless_overwriting(tmp_path):
    path = tmp_path / "a.bin"
    refuse_existing(path, overwrite=False)
    path.write_bytes(b"")
    refuse_existing(path, overwrite=True)
    with pytest.raises(OutputError, match="exists") as caught:
        refuse_existing(path, overwrite=False)
    assert "--overwrite" in caught.value.hint


def test_numbers_that_json_does_not_know_are_none() -> None:
    values = {"a": 1.5, "b": math.nan, "c": {"d": math.inf, "e": "nan", "f": 3}, "g": [1]}
    assert known(values) == {"a": 1.5, "b": None, "c": {"d": None, "e": "nan", "f": 3}, "g": [1]}
    assert known(-math.inf) is None and known(0.0) == 0.0


@pytest.mark.parametrize("inside", [False, True])
def test_a_cache_that_others_can_write_is_not_used(tmp_path, monkeypatch, inside):
    monkeypatch.setenv("GLINT_CACHE", str(tmp_path / "cache"))
    assert cache_folder("engines") == tmp_path / "cache" / "engines"
    (tmp_path / "cache" / "engines").mkdir(parents=True)
    cache_folder("engines")
    (tmp_path / "cache" / ("engines" if inside else "")).chmod(0o777)
    with pytest.raises(EngineError, match="everybody"):
        cache_folder("engines")


def test_a_cache_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("GLINT_CACHE", str(tmp_path))
    owner = tmp_path.stat().st_uid
    if owner == 0:
        pytest.skip("root's folders are trusted")
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(EngineError, match="belongs to"):
        cache_folder("engines")


# Places of outputs


def test_a_place_is_tried_before_any_work_and_left_as_it_was(tmp_path):
    (tmp_path / "file").write_text("x")
    refuse_existing(tmp_path / "new" / "deep" / "a.jsonl", overwrite=False)
    refuse_existing(tmp_path / "file", overwrite=True)
    refuse_existing(Path("/dev/null"), overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for path, overwrite, why in (
        (tmp_path / "file", False, "exists"),
        (tmp_path / "file" / "a.csv", False, "Not a directory"),
        (tmp_path / ("x" * 256), False, "name too long"),
        (tmp_path / "a\0b", False, "null"),
        (Path("/proc/x.csv"), False, "No such file"),
        (tmp_path, True, "cannot write"),
    ):
        with pytest.raises(OutputError, match=why):
            refuse_existing(path, overwrite=overwrite)


def test_a_folder_is_tried_before_any_work(tmp_path):
    (tmp_path / "file").write_text("x")
    refuse_full(tmp_path / "new", overwrite=False, what="folder")
    refuse_full(tmp_path, overwrite=True, what="folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for folder, why in ((tmp_path, "not empty"), (tmp_path / "file", "is a file"), (Path("/proc/x"), "cannot write")):
        with pytest.raises(OutputError, match=why):
            refuse_full(folder, overwrite=False, what="folder")


def test_a_full_disk_is_noticed_before_any_work(tmp_path, monkeypatch):
    class Full:
        def __init__(self, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(OutputError, match="No space left") as caught:
        refuse_existing(tmp_path / "a.csv", overwrite=False)
    assert exit_code_of(caught.value) == EXIT_ENVIRONMENT


def test_what_two_runs_put_into_one_name_is_both_kept(tmp_path):
    path = tmp_path / "t.parquet"
    with pytest.raises(OutputError, match=r"meanwhile.*t-2\.parquet"), atomic_path(path, overwrite=False) as mine:
        mine.write_text("mine")
        with atomic_path(path, overwrite=False) as other:
            other.write_text("other")
    assert path.read_text() == "other"
    assert (tmp_path / "t-2.parquet").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_path(tmp_path / f"{'n' * 248}.csv") as long:
        long.write_text("x")


def test_a_folder_has_one_writer(tmp_path):
    first, second = FolderClaim(tmp_path / "a"), FolderClaim(tmp_path / "a")
    first.take()
    first.take()
    with pytest.raises(OutputError, match="being written by another run"):
        second.take()
    first.release()
    first.release()
    second.take()
    second.release()
