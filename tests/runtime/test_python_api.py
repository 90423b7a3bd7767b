"""The Python interface as a user meets it (docs/python.md)."""

from __future__ import annotations

import inspect
import itertools
import multiprocessing
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stream_parts import FakeSource, frame

import glint
from glint.errors import EngineError, InputError, ModelError, OutputError, SourceError
from glint.images import write_image
from glint.runtime.commands.run import run
from glint.runtime.pipeline.pipeline import Pipeline
from glint.runtime.pipeline.settings import Settings
from glint.runtime.sources.open import open_source
from glint.runtime.stream.results import stream
from glint.runtime.unmixing.unmix import unmix

SCENE = "synthetic://?size=96x80&frames=3&clusters=2&singles=3&radiance=180-240&noise=0.5&seed=2"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Three simulated frames, uint8 [3, 80, 96]."""
    return np.stack([f.data for f in open_source(SCENE).frames()])


@pytest.fixture(scope="module")
def pipeline() -> Any:
    """With known optics: what is learned depends on the frames before."""
    with glint.Pipeline.open(threads=1, psf=0.5) as opened:
        yield opened


def told(results: Any) -> list[Any]:
    return [r.to_dict()["targets"] for r in results]


def test_importing_glint_imports_nothing_heavy_and_every_name_is_found() -> None:
    code = (
        "import sys, glint\n"
        "heavy = {'numpy', 'scipy', 'torch', 'numba', 'PIL', 'onnxruntime', 'glint.runtime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert set(glint.API) <= set(dir(glint))\n"
        "for name in glint.API: assert getattr(glint, name).__name__ == name\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="glance"):
        glint.glance  # noqa: B018


def test_nothing_is_printed_unless_asked() -> None:
    start = f"import glint; s = {SCENE!r}\n"
    work = "list(glint.stream(s)); glint.detect(s); glint.run(s)\n"
    for code, heard in ((work, False), ("with glint.speaking(): " + work, True)):
        done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, timeout=600)
        assert (done.returncode, done.stdout, bool(done.stderr)) == (0, "", heard), done.stderr


def test_names_and_defaults_are_those_of_the_command() -> None:
    command = inspect.signature(run).parameters
    settings = inspect.signature(Settings).parameters
    assert list(inspect.signature(Pipeline.open).parameters) == list(settings) and "threads" in settings
    assert settings.keys() < inspect.signature(stream).parameters.keys()
    for function in (Settings, Pipeline.open, stream):
        for name, parameter in inspect.signature(function).parameters.items():
            if name not in ("source", "pipeline"):
                assert parameter.default == command[name].default, name
                assert parameter.kind == inspect.Parameter.KEYWORD_ONLY, name
    assert inspect.signature(unmix).parameters["refine"].default is True


def test_settings_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(detector="a", threads=3, refine=False, radiance_prior=None, roi=(1, 2, 3, 4), tile=(5, 6))
    assert pickle.loads(pickle.dumps(given)) == given  # noqa: S301
    seen: list[Any] = []
    monkeypatch.setattr(Pipeline, "of", staticmethod(lambda *settings: seen.append(settings) or 1 / 0))
    for opens in (Pipeline.open, partial(stream, SCENE, drop="none")):
        with pytest.raises(ZeroDivisionError):
            opens(**vars(given))
    assert seen == [(given,), (given, None)]
    with pytest.raises(TypeError, match="'detectr'"):
        Pipeline.open(detectr="lsnet-s")  # type: ignore[call-arg]


def test_a_pipeline_takes_arrays_and_its_result_is_the_json_line(
    pipeline: Pipeline, images: np.ndarray, tmp_path: Path
) -> None:
    result = pipeline(images[0])
    assert len(result.targets) > 2 and len(result.blobs) >= len(np.unique(result.targets.blob))
    lines: list[Any] = []
    run(SCENE, threads=1, psf=0.5, on_result=lambda r: lines.append(r.to_dict()))
    assert result.to_dict()["targets"] == lines[0]["targets"]
    assert result.to_dict().keys() == lines[0].keys()
    for same in (images[0].astype(np.int64), images[0].astype(float), np.asfortranarray(images[0])):
        assert len(pipeline(same).targets) == len(result.targets)
    for path in (result.plot(tmp_path / "a.png"), result.plot(tmp_path / "a.png", overwrite=True)):
        with Image.open(path) as picture:
            assert (picture.format, picture.mode) == ("PNG", "RGB")
    with pytest.raises(OutputError):
        result.plot(tmp_path / "a.png")
    with pytest.raises(InputError, match="png"):
        result.plot(tmp_path / "a.jpg")


def test_the_array_stays_the_callers(pipeline: Pipeline, images: np.ndarray) -> None:
    mine = images[0].copy()
    result = pipeline(mine)
    mine[:] = 0
    assert np.array_equal(result.frame.data, images[0])


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 3, 4, 5)), np.zeros((64, 64, 3)), np.zeros(5), np.full((8, 8), np.nan), [[1]], None, "a.png"]
)
def test_a_pipeline_refuses_what_is_no_frame(pipeline: Pipeline, bad: Any) -> None:
    with pytest.raises((InputError, SourceError)) as caught:
        pipeline(bad)
    assert caught.value.hint


@pytest.mark.parametrize(
    "bad", [{"radiance_prior": "much"}, {"radiance_prior": (1.0,)}, {"tile": (0, 4)}, {"roi": (0, 0, 0, 1)}]
)
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Pipeline.open(**bad)


def test_width_comes_before_height(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pipeline.open(threads=1, tile=(64, 32), roi=(8, 4, 96, 80)) as opened:
        seen: list[tuple[int, ...]] = []
        infer = opened.detector.engine.infer
        monkeypatch.setattr(
            opened.detector.engine,
            "infer",
            lambda *names, frame: [seen.append(frame.shape), infer(*names, frame=frame)][1],
        )
        result = opened(np.random.default_rng(0).normal(50, 2, (100, 120)))
    assert set(seen) == {(1, 1, 32, 64)}
    rows, columns = np.nonzero(result.detection.level)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (8, 4, 8 + 96 - 1, 4 + 80 - 1)


def test_every_source_gives_the_same_results(pipeline: Pipeline, images: np.ndarray, tmp_path: Path) -> None:
    for i, image in enumerate(images):
        write_image(tmp_path / "100% night" / f"{i}.png", image)
    paths = sorted((tmp_path / "100% night").iterdir())
    expected = told(pipeline(image) for image in images)
    sources = [SCENE, images, list(images), (i for i in images), paths, list(map(str, paths)), tmp_path / "100% night"]
    for source in sources:
        assert told(stream(source, pipeline=pipeline)) == expected
    assert told(stream(images[0], pipeline=pipeline)) == expected[:1]
    assert told(stream(paths[1], pipeline=pipeline)) == expected[1:2]
    assert [r.frame.name for r in stream(paths, pipeline=pipeline)] == ["0", "1", "2"]
    assert told(stream(images, threads=1, psf=0.5)) == expected
    assert all(r.track is not None for r in stream(images, pipeline=pipeline, track=True))


@pytest.mark.parametrize("source", [3, None, np.zeros((2, 64, 64, 3)), np.zeros((64, 64, 3)), np.zeros(3), ""])
def test_what_is_no_source_is_refused_at_once(source: Any) -> None:
    with pytest.raises(InputError):
        stream(source)


def test_errors_of_a_stream_come_where_they_belong(pipeline: Pipeline, images: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="yolo"):
        stream(images, detector="yolo")
    with pytest.raises(InputError, match="open pipeline"):
        stream(images, pipeline=pipeline, refine=False)
    with pytest.raises(SourceError):
        stream(tmp_path / "none")
    results = stream([images[0], tmp_path / "none.png"], pipeline=pipeline)
    assert next(results).frame.index == 0
    with pytest.raises(SourceError, match=r"none\.png"):
        next(results)


def test_closing_the_iterator_closes_everything(images: np.ndarray, pipeline: Pipeline) -> None:
    before = threading.active_count()
    for end in ("close", "forget"):
        source = FakeSource(frame(i) for i in itertools.count())
        results = stream(source, pipeline=pipeline)
        next(results)
        assert threading.active_count() == before + 1
        if end == "close":
            results.close()
        del results
        assert source.closed.is_set()
        assert threading.active_count() == before
    pipeline(images[0])  # its owner closes it


def test_a_closed_pipeline_says_so(images: np.ndarray) -> None:
    with Pipeline.open(threads=1) as opened:
        opened(images[0])
    opened.close()
    with pytest.raises(EngineError, match="closed"):
        opened(images[0])


def test_detect_gives_masks_of_the_shape_of_its_images(images: np.ndarray) -> None:
    masks = glint.detect(images, threads=1)
    assert masks.dtype == np.uint8 and masks.shape == images.shape and set(np.unique(masks)) == {0, 255}
    assert np.array_equal(glint.detect(images[1].astype(np.int32), threads=1) > 0, masks[1] > 0)
    listed = glint.detect([images[2], images[0][:64, :64]], threads=1)
    assert np.array_equal(listed[0], masks[2]) and listed[1].shape == (64, 64)
    assert glint.detect(images[:0], threads=1).shape == images[:0].shape


def test_unmix_takes_numbers_of_any_type(pipeline: Pipeline, images: np.ndarray) -> None:
    patches = np.round(pipeline(images[0]).spots.patches)
    expected = glint.unmix(patches, threads=1).records()
    for dtype in (np.float64, np.int16, np.int64):
        assert glint.unmix(patches.astype(dtype), threads=1).records() == expected
    for bad in (patches.astype(np.int64) + 2**40 + 1, patches.tolist(), patches > 0):
        with pytest.raises(InputError, match="patches"):
            glint.unmix(bad, threads=1)  # type: ignore[arg-type]


def test_one_pipeline_serves_several_threads(pipeline: Pipeline, images: np.ndarray) -> None:
    expected = told(pipeline(image) for image in images)
    barrier = threading.Barrier(4)

    def work(_: int) -> list[Any]:
        barrier.wait()
        return told(pipeline(image) for image in images for _ in range(2))

    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(work, range(4)):
            assert answer == [rows for rows in expected for _ in range(2)]


def _targets(given: tuple[Pipeline, np.ndarray]) -> list[Any]:
    opened, image = given
    return told([opened(image)])[0]


def test_a_pipeline_travels_to_other_processes(pipeline: Pipeline, images: np.ndarray) -> None:
    expected = told(pipeline(image) for image in images[:2])
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(_targets, [(pipeline, image) for image in images[:2]])) == expected
    again = pickle.loads(pickle.dumps(pipeline(images[0])))  # noqa: S301  (results travel back)
    assert again.to_dict()["targets"] == expected[0]
    with pytest.raises(InputError, match="cannot travel"):
        pickle.dumps(Pipeline(pipeline.detector, pipeline.unmixer))


def test_a_forked_process_is_told_to_open_its_own(images: np.ndarray) -> None:
    code = (
        "import glint, numpy as np, os, sys\n"
        "p = glint.Pipeline.open(threads=2); f = np.zeros((64, 64), np.uint8); p(f)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: p(f)\n"
        "    except glint.GlintError as e: os._exit(7 if 'another process' in str(e) else 8)\n"
        "    os._exit(9)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60).returncode == 7


def test_a_live_source_that_stands_still_is_closed_soon(pipeline: Pipeline) -> None:
    source = FakeSource([frame(0), 60.0], live=True)
    results = stream(source, pipeline=pipeline, warm_up=False)
    next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 2
