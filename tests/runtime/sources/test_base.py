from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.errors import GlintError, InputError, SourceError, SourceLostError
from glint.images import write_image
from glint.runtime.sources.images import ImageSource
from glint.runtime.sources.open import open_source
from glint.runtime.sources.synthetic import SyntheticSource
from glint.simulation.scenes import SceneConfig, parse_synthetic
from glint.types import Frame


def picture(path: Path, level: int = 0, dtype: type = np.uint8) -> Path:
    write_image(path, (np.arange(30).reshape(5, 6) + level).astype(dtype))
    return path


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A folder with b.png, a.png, c.png and things that are no images."""
    folder = tmp_path / "night"
    for level, name in enumerate(("b", "a", "c")):
        picture(folder / f"{name}.png", level)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def test_a_folder_delivers_its_images_by_name(night: Path) -> None:
    source = open_source(str(night))
    frames = list(source)
    assert source.total == 3
    assert [f.name for f in frames] == ["a", "b", "c"]
    assert [f.index for f in frames] == [0, 1, 2]
    assert [int(f.data[0, 0]) for f in frames] == [1, 0, 2]
    times = [f.t_ns for f in frames]
    assert 0 == times[0] < times[1] < times[2]
    assert all(f.truth is None for f in frames)
    assert source.skipped == []


def test_a_file_uri_is_the_same_as_its_path(night: Path) -> None:
    assert [f.name for f in open_source(f"file://{night}")] == ["a", "b", "c"]
    assert [f.name for f in open_source(f"file://{night}/c.png")] == ["c"]


def test_a_glob_takes_only_what_it_matches(night: Path) -> None:
    assert [f.name for f in open_source(f"{night}/[ab]*")] == ["a", "b"]
    assert [f.name for f in open_source(f"{night}/*")] == ["a", "b", "c"]
    assert [f.name for f in open_source(f"file://{night}/?.png")] == ["a", "b", "c"]


def test_a_name_with_brackets_that_exists_is_no_pattern(tmp_path: Path) -> None:
    picture(tmp_path / "shot[1].png", 9)
    (frame,) = open_source(str(tmp_path / "shot[1].png"))
    assert frame.data[0, 0] == 9


def test_a_single_image_is_a_source(night: Path) -> None:
    (frame,) = open_source(str(night / "c.png"))
    assert (frame.index, frame.name, frame.shape) == (0, "c", (5, 6))


def test_eight_bit_files_saturate_at_255_and_deeper_ones_at_an_unknown_level(tmp_path: Path) -> None:
    picture(tmp_path / "8.png")
    picture(tmp_path / "16.png", 20000, np.uint16)
    eight, sixteen = open_source(str(tmp_path))
    assert (eight.data.dtype, eight.full_scale) == (np.uint8, 255.0)
    assert (sixteen.data.dtype, sixteen.full_scale) == (np.uint16, None)
    assert sixteen.data[0, 0] == 20000


def test_a_truncated_image_among_good_ones_is_skipped_and_counted(night: Path) -> None:
    truncate(night / "b.png")
    source = open_source(str(night))
    frames = list(source)
    assert [(f.index, f.name) for f in frames] == [(0, "a"), (2, "c")]
    assert [s.name for s in source.skipped] == ["b.png"]
    assert source.skipped[0].reason


def test_a_folder_named_like_an_image_is_skipped(night: Path) -> None:
    (night / "d.png").mkdir()
    source = open_source(str(night))
    assert len(list(source)) == 3
    assert [s.name for s in source.skipped] == ["d.png"]


def test_reading_a_source_twice_counts_a_bad_file_once(night: Path) -> None:
    truncate(night / "b.png")
    source = open_source(str(night))
    assert len(list(source)) == len(list(source)) == 2
    assert len(source.skipped) == 1


def test_only_unreadable_images_are_a_source_error_with_the_first_reason(night: Path) -> None:
    for name in "abc":
        truncate(night / f"{name}.png")
    with pytest.raises(SourceError, match=r"none of its 3 files.*a\.png"):
        list(open_source(str(night)))


def test_a_truncated_image_that_was_asked_for_is_an_error(night: Path) -> None:
    truncate(night / "b.png")
    with pytest.raises(SourceError, match=r"b\.png"):
        list(open_source(str(night / "b.png")))


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("{}", "holds no images"),
        ("{}/nowhere", "no such file or folder"),
        ("{}/*.png", "no image matches"),
        ("file://{}/nowhere.png", "no such file or folder"),
        ("{}/" + 300 * "x", "name too long|no such file"),
    ],
)
def test_a_source_without_images_is_a_source_error(tmp_path: Path, uri: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        open_source(uri.format(tmp_path))


def test_an_unknown_scheme_is_named_beside_the_known_ones() -> None:
    with pytest.raises(SourceError, match="ftp://") as caught:
        open_source("ftp://camera/stream")
    assert "synthetic://" in (caught.value.hint or "")


def test_a_synthetic_source_delivers_frames_with_their_truth() -> None:
    source = open_source("synthetic://?size=96x80&frames=3&clusters=1&singles=2&bits=12&seed=5")
    assert isinstance(source, SyntheticSource)
    assert source.total == 3
    for index, frame in enumerate(source):
        assert (frame.index, frame.shape, frame.data.dtype, frame.full_scale) == (index, (80, 96), np.uint16, 4095)
        assert frame.truth is not None
        assert 4 <= len(frame.truth) <= 7
    assert index == 2


def test_a_scene_stands_before_a_picture_and_takes_its_size(tmp_path: Path) -> None:
    sky = np.random.default_rng(0).integers(20, 60, (50, 70)).astype(np.uint8)
    write_image(tmp_path / "sky.png", sky)
    (frame,) = open_source(f"synthetic://?background={tmp_path}/sky.png&frames=1&noise=0&clusters=0&singles=0")
    assert np.array_equal(frame.data, sky)


def test_a_picture_that_is_missing_or_of_another_size_is_no_background(tmp_path: Path) -> None:
    write_image(tmp_path / "sky.png", np.zeros((50, 70), np.uint8))
    with pytest.raises(SourceError, match=r"absent\.png"):
        open_source(f"synthetic://?background={tmp_path}/absent.png")
    with pytest.raises(InputError, match="background"):
        list(open_source(f"synthetic://?background={tmp_path}/sky.png&size=96x80&frames=1"))


def test_every_parameter_of_a_scene_can_be_given() -> None:
    uri = "synthetic://?size=100x90&frames=2&clusters=3&singles=1&noise=2.5&bits=14&radiance=50-70&sigma=0.6&speed=0&seed=9"
    assert parse_synthetic(uri) == SceneConfig(100, 90, 2, 3, 1, 2.5, 14, (50, 70), 0.6, 0, 9)
    assert parse_synthetic("synthetic://?width=50&height=60") == SceneConfig(50, 60)
    assert parse_synthetic("synthetic://") == parse_synthetic("synthetic:") == SceneConfig()


@pytest.mark.parametrize(
    "query",
    [
        "size=96", "size=96x", "size=96x80x3", "size=ax80", "size=", "size", "frames=two", "frames=1.5", "frames=-1",
        "noise=loud", "noise=-1", "bits=7", "bits=17", "radiance=80", "radiance=80-", "radiance=120-80", "radiance=0-5",
        "radiance=nan-5", "size=10x10", "size=100000x80", "colour=red", "Size=96x80", "=3",
    ],
)  # fmt: skip
def test_a_malformed_or_impossible_parameter_is_an_input_error(query: str) -> None:
    with pytest.raises(InputError, match=r"synthetic://|scene"):
        open_source(f"synthetic://?{query}")


@pytest.mark.parametrize(
    "query",
    [
        "seed=-1", "noise=nan", "noise=inf", "sigma=0", "sigma=-1", "sigma=nan", "speed=nan", "speed=inf",
        "radiance=1-inf",
    ],
)  # fmt: skip
def test_a_scene_that_cannot_be_simulated_is_refused_when_it_is_opened(query: str) -> None:
    with pytest.raises(InputError):
        open_source(f"synthetic://?size=96x80&frames=1&{query}")


@pytest.mark.parametrize(
    "uri", ["synthetic://96x80", "synthetic://size=96x80", "synthetic://[", "synthetic:///frames=2"]
)
def test_a_synthetic_uri_without_its_question_mark_is_refused_rather_than_ignored(uri: str) -> None:
    with pytest.raises(InputError):
        open_source(uri)


def test_an_unknown_parameter_is_named_beside_the_known_ones() -> None:
    with pytest.raises(InputError, match="'colour'") as caught:
        parse_synthetic("synthetic://?colour=red")
    assert "radiance" in (caught.value.hint or "")


def test_a_scene_with_a_rate_is_live_and_keeps_it() -> None:
    source = open_source("synthetic://?size=64x64&frames=5&rate=50&noise=0")
    assert source.live
    before = time.monotonic_ns()
    frames = list(source)
    times = [f.t_ns for f in frames if isinstance(f, Frame)]
    assert before <= times[0]
    assert times[-1] - times[0] >= 4 * 20_000_000
    assert times[-1] <= time.monotonic_ns()
    assert all(isinstance(f, Frame) and f.truth is not None for f in frames)
    assert not open_source("synthetic://?size=64x64&frames=5").live


def test_closing_ends_a_scene_that_waits() -> None:
    source = open_source("synthetic://?size=64x64&rate=0.001")
    frames = iter(source)
    next(frames)
    source.close()
    assert list(frames) == []


@pytest.mark.parametrize("rate", ["0", "-1", "fast", "nan", ""])
def test_a_rate_that_is_none_is_an_input_error(rate: str) -> None:
    with pytest.raises(InputError, match="rate"):
        open_source(f"synthetic://?size=64x64&rate={rate}")


def test_sources_import_no_library_before_they_are_asked() -> None:
    code = (
        "import sys; from glint.runtime.sources.open import open_source\n"
        "for uri in ('v4l2:///dev/video0', 'rtsp://camera/live', 'raw:-?size=5x5&dtype=uint8'): open_source(uri)\n"
        "print(sorted({'av', 'gi', 'cv2', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


NAMES = ["size", "width", "height", "frames", "clusters", "singles", "noise", "bits", "radiance", "sigma", "seed"]


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), st.text("0123456789.-+xe_ nainf%&=", max_size=8)))
def test_any_query_gives_a_scene_or_an_input_error(query: dict[str, str]) -> None:
    text = "&".join(f"{name}={value}" for name, value in query.items())
    try:
        config = parse_synthetic(f"synthetic://?{text}")
    except InputError:
        return
    assert isinstance(config, SceneConfig)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_any_text_that_is_no_source_is_refused_with_an_error_of_glint(text: str) -> None:
    try:
        source = open_source(f"synthetic:{text}")
    except GlintError:
        return
    assert isinstance(source, SyntheticSource)


def test_an_image_source_reads_nothing_before_it_is_asked(tmp_path: Path) -> None:
    source = ImageSource("two", [tmp_path / "absent.png", picture(tmp_path / "there.png")])
    assert source.skipped == []
    frames = source.frames()
    assert next(frames).name == "there"
    assert [s.name for s in source.skipped] == ["absent.png"]
    with pytest.raises(SourceLostError, match="1 of its 2 files vanished"):
        next(frames)


@pytest.mark.parametrize("uri", ["a\0b", "file://a%00b", "a" * 10_000])
def test_a_name_that_no_file_has_is_a_source_error(uri: str) -> None:
    with pytest.raises(SourceError):
        open_source(uri)


def test_a_folder_that_vanishes_is_lost_and_its_frames_before_are_good(tmp_path):
    for number in range(4):
        write_image(tmp_path / f"{number}.png", np.full((40, 50), number, np.uint8))
    source = open_source(str(tmp_path))
    frames = source.frames()
    assert next(frames).name == "0"
    (tmp_path / "2.png").unlink()
    with pytest.raises(SourceLostError, match="1 of its 4 files vanished"):
        assert [frame.name for frame in frames] == ["1", "3"]
    assert sum(source.skips.values()) == 1


@pytest.mark.parametrize("name", ["0", "video0", "usb:0"])
def test_a_camera_by_the_name_that_other_programs_give_it_is_told_its_uri(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="no such file") as caught:
        open_source(name)
    assert "v4l2:///dev/video0?fmt=y16" in (caught.value.hint or "")
