"""An archive gives what a run of each recording gives, whatever is cut, broken, repeated or started again.

In one process here; ``test_on_ray.py`` does it with Ray.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="archives need pyarrow")

import pyarrow.parquet as pq

from glint.errors import GlintError, InputError, OutputError
from glint.images import write_image
from glint.runtime.archive.job import Job
from glint.runtime.archive.settings import ArchiveSettings
from glint.runtime.archive.storage import Storage
from glint.runtime.archive.tracking import TrackMaker
from glint.runtime.archive.worker import Worker
from glint.runtime.commands.archive import archive
from glint.runtime.pipeline.pipeline import Pipeline, Result
from glint.runtime.pipeline.settings import Settings
from glint.runtime.sinks.recorder import Recorder
from glint.runtime.sources.adjusted import adjusted
from glint.runtime.sources.open import open_any, open_frames
from glint.runtime.stream.following import Following
from glint.runtime.stream.stream import Stream
from glint.types import Frame

KNOWN, LEARNS = Settings(psf=0.5, threads=1), Settings(threads=1)
_TARGET = ("x", "y", "radiance", "sigma_x", "sigma_y", "sigma_radiance", "blob", "score", "flags", "count_probability")
_TRACK = ("x", "y", "vx", "vy", "age_s", "radiance", "seen", "static")


class Once:
    """In this process, with models that were opened before; may stop, or call something, before a chunk."""

    def __init__(self, pipelines: Callable[[ArchiveSettings], Pipeline], before: Callable[[Any], None] | None = None):
        self.pipelines, self.before = pipelines, before
        self.worked: list[Any] = []

    def map(self, make: Any, items: Any) -> Iterator[Any]:
        made: Any = make.func
        if made is Worker:
            work: Any = Worker(*make.args, pipeline=self.pipelines(make.args[2]))
        elif made.__name__ == "Verifier":
            work = made(*make.args, worker=Worker(*make.args, pipeline=self.pipelines(make.args[2])))
        else:
            work = make()
        for item in items:
            if self.before is not None:
                self.before(item)
            self.worked.append(item)
            yield work(item)


@pytest.fixture(scope="module")
def pipelines() -> Iterator[Callable[[ArchiveSettings], Pipeline]]:
    opened: dict[Any, Pipeline] = {}

    def get(settings: ArchiveSettings) -> Pipeline:
        key = settings.pipeline, settings.candidates_above
        if key not in opened:
            opened[key] = Pipeline.of(*key)
        return opened[key]

    yield get
    for pipeline in opened.values():
        pipeline.close()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glint.runtime.archive.worker._PAUSE_S", 0.0)


def picture(index: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Two targets on noise; one moves, the other one fades."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = rng.normal(1000, 4, shape)
    for a, b, light in ((12 + 0.7 * index, 20.3, 500), (45.2, 30 - 0.2 * index, 500 - 40 * (index % 5))):
        image += light * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * 0.5**2))
    return image.astype(np.uint16)


def images(root: Path, number: int, start: int = 0) -> Path:
    for index in range(start, start + number):
        write_image(root / f"{index}.png", picture(index))
    return root


def many_targets(index: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Eight targets on noise, enough to tell the optics."""
    image = np.random.default_rng(index).normal(1000, 4, (96, 192))
    y, x = np.mgrid[:96, :192]
    for k in range(8):
        a, b = 24 + 48 * (k % 4) + 0.13 * k + 0.21 * index, 24 + 48 * (k // 4) + 0.31 * k
        image += 500 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * 0.5**2))
    return image.astype(np.uint16)


def recording(folder: Path, number: int, pipeline: Pipeline) -> str:
    """What ``--record`` writes, in several files; two frames hold the same pixels."""
    recorder = Recorder(folder, max_bytes=8 * 30000)
    for index in range(number):
        frame = Frame(index, 10**9 + index * 40_000_000, picture(index - (index == 7)), name=f"f{index}")
        recorder.write(replace(pipeline(frame), frame=frame))
    recorder.close()
    return f"replay:{folder}"


def film(path: Path, number: int, codec: str = "ffv1", **options: str) -> Path:
    av = pytest.importorskip("av", reason="video needs PyAV")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "gray16le" if codec == "ffv1" else "yuv420p"
        stream.options = options
        for index in range(number):
            data = picture(index)
            if codec == "ffv1":
                shown = av.VideoFrame.from_ndarray(data, format="gray16le")
            else:
                planes = np.full((72, 64), 128, dtype=np.uint8)
                planes[:48] = np.clip(data / 8, 0, 255).astype(np.uint8)
                shown = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            shown.pts = index
            container.mux(stream.encode(shown))
        container.mux(stream.encode(None))
    return path


def of_run(source: Any, settings: Settings, pipelines: Any, *, track: bool = True) -> list[Result]:
    """The results of ``glint run --no-moving``: a chunk does not know what its places showed before."""
    pipeline = pipelines(ArchiveSettings(settings, track=track))
    pipeline.start_over()
    frames = (
        open_frames(source) if isinstance(source, str) else open_any(source) if isinstance(source, Path) else source
    )
    return list(
        Stream(frames, pipeline, (), track=Following(track=track, moving=False).follower(frames, pipeline)).results()
    )


def archived(root: Path, out: Path, settings: ArchiveSettings, executor: Once) -> dict[str, Any]:
    return Job(Storage(root), Storage(out), settings, executor).run()


def rows(out: Path, name: str, recording: str) -> list[dict[str, Any]]:
    table = pq.read_table(out / name)
    found = [row for row in table.to_pylist() if row["recording"] == recording]
    return sorted(
        found, key=lambda r: tuple(-1 if r[k] is None else r[k] for k in ("frame", "target", "track") if k in r)
    )


def assert_same(out: Path, name: str, results: list[Result], *, track: bool = True) -> None:
    frames = [r for r in rows(out, "frames", name) if r["note"] is None]
    assert [r["frame"] for r in frames] == [r.frame.index for r in results]
    assert [r["name"] for r in frames] == [r.frame.name for r in results]
    assert [r["t_ns"] for r in frames] == [r.frame.t_ns for r in results]
    assert all(r["repeated"] in (None, a.repeated) for r, a in zip(frames, results))
    for row, result in zip(frames, results):
        boxes, dark = result.blobs.boxes, result.blobs.dark
        assert boxes is not None
        assert [[b[side] for side in ("left", "top", "width", "height")] for b in row["blobs"]] == boxes.tolist()
        assert [b["dark"] for b in row["blobs"]] == (dark.tolist() if dark is not None else [False] * len(boxes))
        for column in ("x", "y", "area", "score"):
            assert [b[column] for b in row["blobs"]] == getattr(result.blobs, column).tolist()
    targets = iter(rows(out, "targets", name))
    for result in results:
        for row in range(len(result.targets)):
            kept = next(targets)
            assert (kept["frame"], kept["target"]) == (result.frame.index, row)
            for column in _TARGET:
                value = getattr(result.targets, column)[row]
                assert kept[column] == (None if value != value else value), column
    assert next(targets, None) is None
    if not track:
        return
    tracks = {(r["frame"], r["track"]): r for r in rows(out, "tracks", name)}
    for result in results:
        assert result.tracks is not None and result.track is not None
        for row, number in enumerate(result.tracks.number.tolist()):
            kept = tracks.pop((result.frame.index, number))
            assert {c: kept[c] for c in _TRACK} == {c: getattr(result.tracks, c)[row] for c in _TRACK}
            assert kept["log_odds"] == result.tracks.score[row]
            assert [kept["var_y"], kept["cov_y_vy"], kept["var_vy"]] == result.tracks.covariance[row, 1].tolist()
            owner = np.flatnonzero(result.track == number)
            assert kept["target"] == (int(owner[0]) if len(owner) else None)
    assert tracks == {}


def test_images_recordings_and_videos_are_as_in_a_run(tmp_path: Path, pipelines: Any) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    settings = ArchiveSettings(KNOWN, track=True, frames=5)
    images(root / "a", 12)
    replayed = recording(root / "cam", 12, pipelines(settings))
    film(root / "film.mkv", 20, g="4")
    executor = Once(pipelines)
    manifest = archived(root, out, settings, executor)
    assert (manifest["complete"], manifest["failures"], manifest["recordings"], manifest["tracks"]) == (True, 0, 3, 3)
    assert_same(out, "a", of_run(root / "a", KNOWN, pipelines))
    (session,) = {f.name[:-11] for f in (root / "cam").iterdir()}
    assert len(list((root / "cam").iterdir())) > 1
    assert_same(out, f"cam/{session}", of_run(replayed, KNOWN, pipelines))
    assert len(list((out / "frames" / "film.mkv").iterdir())) == 2
    assert_same(out, "film.mkv", of_run(root / "film.mkv", KNOWN, pipelines))
    assert json.loads((out / "manifest.json").read_text())["frames"] == 12 + 12 + 20
    assert (out / "failed.jsonl").read_text() == ""


def test_a_bucket_is_as_good_as_a_folder(tmp_path: Path, pipelines: Any, bucket: str) -> None:
    settings = ArchiveSettings(KNOWN, track=True, frames=5)
    local = tmp_path / "root"
    images(local / "a", 12)
    replayed = recording(local / "cam", 12, pipelines(settings))
    film(local / "film.mkv", 20, g="4")
    root, out = Storage(bucket.format("job/root")), Storage(bucket.format("job/out"))
    for file in (f for f in local.rglob("*") if f.is_file()):
        root.put_file(str(file.relative_to(local)), file)

    def stop(_: Any) -> None:
        if len(executor.worked) == 4:
            raise KeyboardInterrupt

    executor = Once(pipelines, stop)
    assert Job(root, out, settings, executor).run()["interrupted"]
    manifest = Job(root, out, settings, Once(pipelines)).run()
    assert (manifest["complete"], manifest["failures"], manifest["recordings"], manifest["tracks"]) == (True, 0, 3, 3)
    assert manifest["already"] > 0
    assert "a:b" not in json.dumps(manifest)
    assert all(c.identical for c in Job(root, out, settings, Once(pipelines)).verify(3))
    fetched = tmp_path / "out"
    for entry in out.entries():
        (fetched / entry.folder).mkdir(parents=True, exist_ok=True)
        (fetched / entry.path).write_bytes(out.read(entry.path))
    (session,) = {f.name[:-11] for f in (local / "cam").iterdir()}
    sources = {"a": local / "a", f"cam/{session}": replayed, "film.mkv": local / "film.mkv"}
    for name, source in sources.items():
        assert_same(fetched, name, of_run(source, KNOWN, pipelines))


def test_dark_spots_say_so(tmp_path: Path, pipelines: Any) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    for index in range(4):
        data = picture(index).astype(np.int64)
        data[10:12, 40:42] -= 300
        write_image(root / "a" / f"{index}.png", data.astype(np.uint16))
    archived(root, out, ArchiveSettings(KNOWN, polarity="both", frames=4), Once(pipelines))
    frames = rows(out, "frames", "a")
    assert any(b["dark"] for f in frames for b in f["blobs"])
    assert any(not b["dark"] for f in frames for b in f["blobs"])
    source = adjusted(open_any(root / "a"), "both", None)
    assert_same(out, "a", of_run(source, KNOWN, pipelines, track=False), track=False)


@pytest.mark.parametrize("options", [{"bf": "2", "g": "12"}, {"bf": "3", "g": "8", "x264-params": "open-gop=1"}])
def test_pieces_of_a_video_with_frames_that_look_ahead(options: dict[str, str], tmp_path: Path) -> None:
    from glint.runtime.archive.plan import make_plan
    from glint.runtime.archive.reading import ChunkSource
    from tests.helpers.archive_executor import Here

    path = film(tmp_path / "root" / "film.mp4", 60, "libx264", **options)
    root, out = Storage(tmp_path / "root"), Storage(tmp_path / "out")
    plan = make_plan(root, out, 10, Here())
    assert plan.number > 2
    assert make_plan(root, out, 10, Here()) == plan
    whole = list(open_any(path).frames())
    pieces = [f for c in plan.chunks["film.mp4"] for f in ChunkSource(root, c).frames()]
    assert [f.index for f in pieces] == list(range(60))
    for a, b in zip(whole, pieces):
        assert (a.index, a.t_ns, a.full_scale) == (b.index, b.t_ns, b.full_scale)
        assert np.array_equal(a.data, b.data)


def test_optics_are_learned_from_the_first_chunk_and_held(tmp_path: Path, pipelines: Any) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    for index in range(45):
        write_image(root / "a" / f"{index}.png", many_targets(index))
    settings = ArchiveSettings(LEARNS, frames=15)
    executor = Once(pipelines)
    assert archived(root, out, settings, executor)["complete"]
    heads = [c.head for c in executor.worked]
    assert [bool(h) for h in heads] == [False, True, True]
    results = of_run(root / "a", LEARNS, pipelines, track=False)
    first = out / "frames" / executor.worked[0].name
    about = json.loads(pq.read_schema(first).metadata[b"about"])
    learned = results[14].optics
    assert learned is not None and about["start"]["optics"] == vars(learned)
    kept = {r["frame"]: r["targets"] for r in rows(out, "frames", "a")}
    assert [kept[r.frame.index] for r in results[:15]] == [len(r.targets) for r in results[:15]]
    # The order in which chunks are made changes nothing.
    shutil.rmtree(out / "frames")
    before = {p: p.read_bytes() for p in (out / "targets").rglob("*.parquet")}
    assert archived(root, out, settings, Once(pipelines))["made"] == 3
    assert {p: p.read_bytes() for p in (out / "targets").rglob("*.parquet")} == before


def test_a_broken_chunk_costs_itself_and_is_tried_again(tmp_path: Path, pipelines: Any) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    images(root / "a", 9)
    for index in (3, 4, 5):
        (root / "a" / f"{index}.png").write_bytes(b"torn")
    (root / "a" / "7.png").write_bytes(b"torn")
    settings = ArchiveSettings(KNOWN, track=True, frames=3)
    manifest = archived(root, out, settings, Once(pipelines))
    assert (manifest["done"], manifest["chunks"], manifest["failures"], manifest["complete"]) == (2, 3, 1, False)
    assert (manifest["frames"], manifest["skipped"], manifest["tracks"]) == (5, 1, 1)
    (failure,) = [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]
    assert (failure["recording"], failure["chunk"], failure["first_file"]) == ("a", 1, "a/3.png")
    assert "none of the 3 files can be read" in failure["reason"]
    notes = [r for r in rows(out, "frames", "a") if r["note"] is not None]
    assert [(r["frame"], r["name"], r["note"][:8]) for r in notes] == [(None, "7.png", "skipped:")]
    images(root / "a", 3, start=3)
    executor = Once(pipelines)
    manifest = archived(root, out, settings, executor)
    assert (manifest["made"], manifest["already"], manifest["failures"]) == (1, 2, 0)
    assert len(list((out / "tracks" / "a").iterdir())) == 1  # those without the middle were put away
    assert len(list((out / "replaced" / "tracks" / "a").iterdir())) == 1


def test_a_recording_starts_with_its_first_good_chunk(tmp_path: Path, pipelines: Any) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    images(root / "a", 8)
    for index in (0, 1):
        (root / "a" / f"{index}.png").write_bytes(b"torn")
    settings = ArchiveSettings(LEARNS, frames=2)
    executor = Once(pipelines)
    manifest = archived(root, out, settings, executor)
    assert (manifest["made"], manifest["failures"]) == (3, 1)
    second = next(c for c in executor.worked if c.number == 1)
    assert {c.head for c in executor.worked if c.number > 1} == {f"000001-{second.key}"}
    assert archived(root, out, settings, Once(pipelines))["already"] == 3
    images(root / "a", 2)
    manifest = archived(root, out, settings, Once(pipelines))
    assert (manifest["made"], manifest["already"], manifest["complete"]) == (4, 0, True)
    assert len(list((out / "frames" / "a").iterdir())) == 4


def test_a_job_that_was_stopped_goes_on_where_it_ended(tmp_path: Path, pipelines: Any) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    images(root / "a", 12)
    settings = ArchiveSettings(KNOWN, track=True, frames=4)
    count = iter(range(100))

    def stop(_: Any) -> None:
        if next(count) == 2:
            raise KeyboardInterrupt

    manifest = archived(root, out, settings, Once(pipelines, stop))
    assert (manifest["interrupted"], manifest["done"], manifest["complete"]) == (True, 2, False)
    assert not (out / "tracks").exists()
    left, at_work = (out / "frames" / "a" / f".00000{n}-0.parquet.99.tmp" for n in (2, 3))
    left.write_bytes(b"of a killed worker")
    os.utime(left, (time.time() - 7200,) * 2)
    at_work.write_bytes(b"of another start")
    executor = Once(pipelines)
    manifest = archived(root, out, settings, executor)
    assert (manifest["made"], manifest["already"], manifest["complete"]) == (1, 2, True)
    names = {p.name for p in (out / "frames" / "a").iterdir()}
    assert len([n for n in names if n.endswith(".parquet")]) == 3
    assert at_work.name in names and left.name not in names
    assert_same(out, "a", of_run(root / "a", KNOWN, pipelines))


def test_other_settings_and_files_make_other_parts_and_put_the_old_ones_away(tmp_path: Path, pipelines: Any) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    images(root / "a", 6)
    images(root / "gone", 2)
    settings = ArchiveSettings(KNOWN, frames=3)
    archived(root, out, settings, Once(pipelines))
    assert archived(root, out, settings, Once(pipelines))["made"] == 0
    shutil.rmtree(root / "gone")
    images(root / "a", 1, start=6)
    manifest = archived(root, out, settings, Once(pipelines))
    assert (manifest["made"], manifest["already"]) == (1, 2)
    other = replace(settings, pipeline=replace(KNOWN, psf=0.6))
    assert archived(root, out, other, Once(pipelines))["made"] == 3
    assert len(pq.read_table(out / "frames" / "a")) == 7  # nothing twice
    assert len(list((out / "replaced" / "targets" / "a").iterdir())) == 3
    assert len(pq.read_table(out / "frames" / "gone")) == 2  # what nobody has made again stays


def test_a_chunk_that_two_workers_make_is_there_once(tmp_path: Path, pipelines: Any) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    images(root / "a", 6)
    settings = ArchiveSettings(KNOWN, frames=3)

    class Twice(Once):
        def map(self, make: Any, items: Any) -> Iterator[Any]:
            yield from super().map(make, [*items, *items])

    manifest = archived(root, out, settings, Twice(pipelines))
    assert (manifest["made"], manifest["frames"], manifest["complete"]) == (2, 6, True)
    assert len(pq.read_table(out / "frames")) == 6


def test_a_chunk_that_is_lost_with_its_worker_is_told(tmp_path: Path, pipelines: Any) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    images(root / "a", 6)

    class Loses(Once):
        def map(self, make: Any, items: Any) -> Iterator[Any]:
            yield from super().map(make, items[1:])

    manifest = archived(root, out, ArchiveSettings(KNOWN, frames=3), Loses(pipelines))
    assert (manifest["made"], manifest["failures"], manifest["complete"]) == (1, 1, False)
    assert "its worker died each time" in (out / "failed.jsonl").read_text()


def test_verify_tells_parts_that_are_not_what_they_should_be(tmp_path: Path, pipelines: Any) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    images(root / "a", 6)
    settings = ArchiveSettings(KNOWN, frames=3)
    archived(root, out, settings, Once(pipelines))

    def checks() -> list[Any]:
        return Job(Storage(root), Storage(out), settings, Once(pipelines)).verify(10)

    assert [c.identical for c in checks()] == [True, True]
    path = sorted((out / "targets" / "a").iterdir())[0]
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index("x"), table.schema.field("x"), table["y"]), path)
    assert sorted(c.ok for c in checks()) == [False, True]


def test_a_recording_that_changes_before_its_tracks_is_told(tmp_path: Path, pipelines: Any) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    images(root / "a", 4)
    settings = ArchiveSettings(KNOWN, track=True, frames=4)

    class Changes(Once):
        def map(self, make: Any, items: Any) -> Iterator[Any]:
            if make.func is TrackMaker:
                (root / "a" / "2.png").unlink()
            yield from super().map(make, items)

    manifest = archived(root, out, settings, Changes(pipelines))
    assert (manifest["made"], manifest["tracks"], manifest["failures"]) == (1, 0, 1)
    assert '"what": "tracks"' in (out / "failed.jsonl").read_text()


def test_tensorrt_without_gpus_is_refused_before_ray_starts(tmp_path: Path) -> None:
    images(tmp_path / "root" / "a", 2)
    with pytest.raises(InputError, match="TensorRT needs GPUs") as told:
        archive(str(tmp_path / "root"), str(tmp_path / "out"), engine="tensorrt")
    assert "--gpus-per-worker" in str(told.value.hint)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "value"), [("psf", "7x"), ("dark", "none.png"), ("detector", "nope")])
def test_what_is_named_is_looked_at_before_ray_starts(option: str, value: str, tmp_path: Path) -> None:
    images(tmp_path / "root" / "a", 2)
    with pytest.raises(GlintError, match=value):
        archive(str(tmp_path / "root"), str(tmp_path / "out"), address="nonsense", **{option: value})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_file_is_no_place_for_data_sets(dry_run: bool, tmp_path: Path) -> None:
    images(tmp_path / "root" / "a", 2)
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(InputError, match="file is a file"):
        archive(str(tmp_path / "root"), str(tmp_path / "file"), dry_run=dry_run)
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_nothing_is_worked_for_where_nothing_can_be_written(tmp_path: Path, pipelines: Any) -> None:
    images(tmp_path / "root" / "a", 2)
    (tmp_path / "file").write_bytes(b"")
    executor = Once(pipelines)
    with pytest.raises(OutputError, match="cannot write"):
        archived(tmp_path / "root", tmp_path / "file" / "out", ArchiveSettings(KNOWN), executor)
    assert executor.worked == []


def test_a_job_at_work_is_not_complete(tmp_path: Path, pipelines: Any) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    images(root / "a", 4)

    def look(_: Any) -> None:
        told.append(json.loads((out / "manifest.json").read_text()))

    told: list[dict[str, Any]] = []
    assert archived(root, out, ArchiveSettings(KNOWN, frames=2), Once(pipelines, look))["complete"]
    assert [(m["complete"], m["chunks"], m["done"]) for m in told] == [(False, 2, 0)] * 2


def test_the_examples_of_the_page_run(tmp_path: Path, pipelines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("pandas", "polars", "duckdb"):
        pytest.importorskip(library, reason=f"the page shows {library}")
    page = (Path(__file__).parents[3] / "docs" / "archive.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    images(tmp_path / "night" / "a", 8)
    images(tmp_path / "night" / "b", 6)
    out = tmp_path / "results"
    archived(tmp_path / "night", out, ArchiveSettings(KNOWN, track=True, frames=5), Once(pipelines))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = []
    for statement in ast.parse(code).body:
        text = ast.unparse(statement)
        if isinstance(statement, ast.Expr):
            shown.append(eval(text, names))  # noqa: S307  (our own page)
        else:
            exec(text, names)  # noqa: S102
    sizes, several, tracks = shown
    sure = [r for n in "ab" for r in rows(out, "targets", n) if r["sigma_x"] < 0.05]
    assert len(sure) > 0 and sizes.sum() == len(sure)
    assert several.rows() == []  # no two targets are in one spot
    moving = {n: {r["track"] for r in rows(out, "tracks", n) if not r["static"]} for n in "ab"}
    assert dict(tracks.fetchall()) == {n: len(t) for n, t in moving.items() if t}
