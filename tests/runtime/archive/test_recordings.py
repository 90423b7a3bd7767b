"""What is found below a root, and how it is cut and named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason="archives need pyarrow")

from glint.runtime.archive.chunks import cut, tracks_part
from glint.runtime.archive.plan import make_plan
from glint.runtime.archive.recordings import find_recordings
from glint.runtime.archive.settings import ArchiveSettings
from glint.runtime.archive.storage import Entry, Storage
from glint.runtime.archive.video_index import pieces_of
from glint.runtime.pipeline.settings import Settings
from tests.helpers.archive_executor import Here


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def pages(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [Image.fromarray(np.full((4, 5), i, dtype=np.uint16)) for i in range(number)]
    first.save(path, save_all=True, append_images=others)


def test_recordings_of_all_kinds_are_found_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "b/10.png", "b/9.png", "b/notes.txt", "b/.hidden.png", ".cache/1.png", "top.png", "b/film.mkv")
    for run in ("20260101T000000.000000Z", "20260102T000000.000000Z"):
        touch(tmp_path, f"cam/{run}-000001.tar", f"cam/{run}-000000.tar")
    touch(tmp_path, "cam/other.tar")
    pages(tmp_path / "stacks" / "one.tif", 3)
    pages(tmp_path / "stacks" / "two.tif", 1)
    pages(tmp_path / "singles" / "one.tif", 1)
    found = {r.name: (r.kind, [f.name for f in r.files]) for r in find_recordings(Storage(tmp_path))}
    assert found == {
        ".": ("images", ["top.png"]),
        "b": ("images", ["9.png", "10.png"]),
        "b/film.mkv": ("video", ["film.mkv"]),
        "cam/20260101T000000.000000Z": (
            "replay", ["20260101T000000.000000Z-000000.tar", "20260101T000000.000000Z-000001.tar"],
        ),
        "cam/20260102T000000.000000Z": (
            "replay", ["20260102T000000.000000Z-000000.tar", "20260102T000000.000000Z-000001.tar"],
        ),
        "cam/other.tar": ("replay", ["other.tar"]),
        "singles": ("images", ["one.tif"]),
        "stacks/one.tif": ("stack", ["one.tif"]),
        "stacks/two.tif": ("stack", ["two.tif"]),
    }  # fmt: skip


def test_outputs_below_the_root_are_no_recordings(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "out/pictures/1.png")
    plan = make_plan(Storage(tmp_path), Storage(tmp_path / "out"), 10, Here())
    assert list(plan.recordings) == ["a"]


def test_images_are_cut_without_loss_or_overlap(tmp_path: Path) -> None:
    touch(tmp_path, *(f"a/{i}.png" for i in range(23)))
    (recording,) = find_recordings(Storage(tmp_path))
    chunks = list(cut(recording, 10))
    assert [c.first for c in chunks] == [0, 10, 20]
    assert [p for c in chunks for p in c.paths()] == [f"a/{i}.png" for i in range(23)]
    assert sum(c.size for c in chunks) == recording.bytes


def test_a_key_follows_files_and_settings_and_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path, *(f"a/{i}.png" for i in range(6)))
    (recording,) = find_recordings(Storage(tmp_path))
    settings = ArchiveSettings(Settings(psf=0.5))

    def keys(files: tuple[Entry, ...], of: ArchiveSettings) -> list[str]:
        return [c.keyed(of.digest(), None).key for c in cut(replace(recording, files=files), 3)]

    files = recording.files
    before = keys(files, settings)
    assert keys(files, settings.with_threads(7)) == before
    changed = (replace(files[0], mtime_ns=files[0].mtime_ns + 1), *files[1:])
    assert [a == b for a, b in zip(keys(changed, settings), before)] == [False, True]
    assert keys((*files, replace(files[0], path="a/6.png")), settings)[:2] == before
    assert set(keys(files, ArchiveSettings(Settings(psf=0.6)))).isdisjoint(before)
    first, second = (c.keyed("s", None) for c in cut(recording, 3))
    assert second.keyed("s", first).key != second.key
    assert second.keyed("s", first).head_part == first.frames_part
    assert tracks_part([first], "s") != tracks_part([first, second], "s")


def test_changed_content_of_a_settings_file_is_another_setting(tmp_path: Path) -> None:
    assert ArchiveSettings(Settings(psf="0.5")).digest() == ArchiveSettings(Settings(psf=0.5)).digest()
    dark = tmp_path / "dark.npy"
    np.save(dark, np.zeros((4, 4)))
    settings = ArchiveSettings(Settings(psf=0.5, dark=dark))
    before = settings.digest()
    np.save(dark, np.ones((4, 4)))
    assert settings.digest() != before


def test_workers_in_other_folders_find_what_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("dark.npy", np.zeros((4, 4)))
    relative = ArchiveSettings(Settings(psf=0.5, dark="dark.npy"))
    assert relative.absolute().pipeline.dark == tmp_path / "dark.npy"
    assert relative.absolute().pipeline.detector == relative.pipeline.detector
    assert relative.absolute().digest() == relative.digest()
    assert Storage("out").url == str(tmp_path / "out")


@pytest.mark.parametrize(("psf", "scale", "learns"), [(0.5, None, False), (None, None, True), (0.5, "auto", True)])
def test_what_has_to_be_learned_is_known_before(psf: float | None, scale: str | None, learns: bool) -> None:
    assert ArchiveSettings(Settings(psf=psf), scale=scale).learns is learns


def test_videos_are_cut_at_key_frames_only() -> None:
    stamps = list(range(0, 1000, 10))
    pieces = pieces_of(stamps, list(range(0, 1000, 120)), 20)
    assert [(p.first, p.frames) for p in pieces] == [(0, 24), (24, 24), (48, 24), (72, 28)]
    assert [(p.start, p.stop) for p in pieces] == [(0, 240), (240, 480), (480, 720), (720, None)]
    assert pieces_of(stamps, [0], 20) == [pieces_of(stamps, [0, 500], 100)[0]]
    assert pieces_of(stamps, [10, 500], 20) == []
