"""Machine code on disk and its seals: what is odd is never unpickled, and made again."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from glint.formats.seal import KEY, is_sealed, seal_of, sealed, unsealed
from glint.native.kept import SealedFiles


class Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def files(folder: Path, stamp: str = "stamp") -> SealedFiles:
    return SealedFiles(cache_path=str(folder), filename_base="f", source_stamp=stamp)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    files(tmp_path).save("key", (1, "code"))
    assert files(tmp_path).load("key") == (1, "code")
    assert files(tmp_path).load("other") is None
    assert files(tmp_path, "newer").load("key") is None


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_every_damaged_bit_and_length_is_a_miss(tmp_path: Path, ending: str) -> None:
    files(tmp_path).save("key", (1, "code"))
    (path,) = tmp_path.glob(f"*.{ending}")
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert files(tmp_path).load("key") is None
        path.write_bytes(content[:place])
        assert files(tmp_path).load("key") is None
    path.write_bytes(content + b"x")
    assert files(tmp_path).load("key") is None
    files(tmp_path).save("key", (2, "code"))
    assert files(tmp_path).load("key") == (2, "code")


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("how", ["plain", "other key"])
def test_nothing_is_unpickled_that_has_not_our_seal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, how: str
) -> None:
    monkeypatch.setenv(KEY, "ours")
    files(tmp_path).save("key", (1, "code"))
    bomb = pickle.dumps(Bomb(tmp_path / "mark"))
    monkeypatch.delenv(KEY)
    (path,) = tmp_path.glob(f"*.{ending}")
    path.write_bytes(bomb if how == "plain" else sealed(bomb))
    monkeypatch.setenv(KEY, "ours")
    assert files(tmp_path).load("key") is None
    assert not (tmp_path / "mark").exists()


def test_a_directory_in_the_place_of_a_file_is_a_miss(tmp_path: Path) -> None:
    files(tmp_path).save("key", (1, "code"))
    (path,) = tmp_path.glob("*.nbc")
    path.unlink()
    path.mkdir()
    assert files(tmp_path).load("key") is None


def test_a_seal_is_a_checksum_without_a_key_and_a_signature_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    plain = seal_of(b"content")
    assert plain == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    for key in ("one", "two"):
        monkeypatch.setenv(KEY, key)
        assert seal_of(b"content") != plain
        assert is_sealed(b"content", seal_of(b"content"))
        assert not is_sealed(b"content", plain)
        assert unsealed(sealed(b"content")) == b"content"
    monkeypatch.setenv(KEY, "one")
    kept = sealed(b"content")
    monkeypatch.setenv(KEY, "two")
    assert unsealed(kept) is None
    monkeypatch.setenv(KEY, "")
    assert seal_of(b"content") == plain
    for odd in (b"", b"short", b"\xff" * 100):
        assert unsealed(odd) is None
