from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_gpu import install_gpu

from glint import cards, cli
from glint.cards import load_card, save_card
from glint.errors import EngineError, InputError
from glint.files import sha256
from glint.runtime.commands.doctor import doctor
from glint.runtime.commands.run import run
from glint.runtime.engines.choose import choose_engine, find_model, open_engine
from glint.runtime.engines.onnxruntime import OnnxRuntimeEngine
from glint.runtime.engines.tensorrt import build as tensorrt_build
from glint.runtime.engines.tensorrt import open as open_module
from glint.runtime.engines.tensorrt.api import load
from glint.runtime.engines.tensorrt.build import BuildOptions, build, preview_build
from glint.runtime.pipeline.detector import Detector
from glint.runtime.unmixing.unmixer import Unmixer
from glint.types import Frame, FrameSize

SCENE = "synthetic://?size=96x64&frames=2&clusters=1&noise=2&bits=14&seed=1"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCuda:
    """A GPU with TensorRT 10.3 and an empty cache of engines."""
    return install_gpu(monkeypatch, tmp_path / "cache")


def plans() -> list[str]:
    from glint.runtime.engines.tensorrt.cache import cache_folder

    return sorted(path.name for path in cache_folder().glob("*.plan"))


def frame(width: int, height: int, seed: int = 0) -> Frame:
    data = np.random.default_rng(seed).integers(0, 4000, (height, width)).astype(np.uint16)
    return Frame(index=0, t_ns=0, data=data)


def test_auto_takes_tensorrt_where_it_can_be_used(gpu: FakeCuda) -> None:
    assert choose_engine("auto") == ("tensorrt", "tensorrt 10.3.0 on Fake GPU")
    assert choose_engine("onnxruntime")[0] == "onnxruntime"


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("tensorrt", "TensorRT is not installed"),
        ("pycuda", "pycuda cannot be imported"),
        ("gpu", "no CUDA-capable device"),
    ],
)
def test_auto_falls_back_and_says_why_and_tensorrt_does_not(
    gpu: FakeCuda, broken: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken == "gpu":
        gpu.broken = "cuInit failed: no CUDA-capable device is detected"
    else:
        monkeypatch.setitem(sys.modules, broken, None)
    name, why = choose_engine("auto")
    assert name == "onnxruntime"
    assert told in why
    with pytest.raises(EngineError, match=told) as caught:
        choose_engine("tensorrt")
    assert "--engine onnxruntime" in (caught.value.hint or "")


def test_each_frame_size_gets_an_engine_once(gpu: FakeCuda, capsys: pytest.CaptureFixture[str]) -> None:
    detector = Detector.open("lsnet-s", engine="tensorrt", precision="fp32")
    reference = Detector.open("lsnet-s", engine="onnxruntime", threads=1)
    assert plans() == []  # no frame, no size
    for width, height in ((96, 64), (90, 50), (64, 64)):
        ours, theirs = detector(frame(width, height)), reference(frame(width, height))
        np.testing.assert_allclose(ours.probability, theirs.probability, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours.residual, theirs.residual, rtol=1e-3, atol=0.1)
    assert len(plans()) == 2  # 90x50 is padded to 96x64
    facts = detector.engine.details()
    assert facts["name"] == "tensorrt"
    assert facts["sizes"].keys() == {"96x64", "64x64"}
    told = capsys.readouterr().err
    assert told.count("frames of 96x64") == 1
    detector.engine.close()
    detector.engine.close()
    assert not gpu.live


@pytest.mark.parametrize(("precision", "models"), [("fp32", 1), ("fp16", 2)])  # fp32 may serve fp16, weakly typed
def test_a_card_is_read_and_its_model_hashed_once_whatever_the_sizes(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, precision: str, models: int
) -> None:
    done: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, *rest: Any, **more: Any) -> Any:
            if path.suffix in (".onnx", ".json") and "lsnet-s" in path.name and ".plan" not in path.name:
                done[name] += 1
            return function(path, *rest, **more)

        return call

    for module in (cards, tensorrt_build):
        monkeypatch.setattr(module, "sha256", counted("hashed", sha256))
    monkeypatch.setattr(cards, "read_json", counted("read", cards.read_json))
    monkeypatch.setattr(open_module, "preview_build", counted("previewed", open_module.preview_build))
    monkeypatch.setattr(tensorrt_build, "preview_build", counted("previewed again", tensorrt_build.preview_build))
    detector = Detector.open("lsnet-s", engine="tensorrt", precision=precision)
    for width, height in ((96, 64), (64, 64), (96, 64)):
        detector(frame(width, height))
    detector.engine.close()
    assert done == {"hashed": models, "read": models, "previewed": 2 * models}
    assert len(plans()) == 2


def test_many_sizes_are_remarked_on(gpu: FakeCuda, capsys: pytest.CaptureFixture[str]) -> None:
    detector = Detector.open("lsnet-s", engine="tensorrt")
    for number in range(2, 7):
        detector(frame(32, 16 * number))
    detector.engine.close()
    assert capsys.readouterr().err.count("--engine onnxruntime") == 1


def test_an_engine_that_was_built_before_is_used_whatever_its_options(gpu: FakeCuda) -> None:
    build("dscsnet-s-sensor", BuildOptions(batches=((1, 3, 5),), workspace=1 << 20))
    build("lsnet-s", BuildOptions(sizes=(FrameSize(64, 64), FrameSize(96, 64))))
    before = plans()
    with Unmixer.open(engine="tensorrt").engine, Detector.open("lsnet-s", engine="tensorrt").engine as detect:
        detect.infer(frame=np.zeros((1, 1, 64, 96), np.float32))
        assert plans() == before
        detect.infer(frame=np.zeros((1, 1, 32, 32), np.float32))
    assert len(plans()) == len(before) + 1


def test_an_fp16_engine_of_weak_typing_serves_the_fp16_model(gpu: FakeCuda, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    card, original = load_card("dscsnet-s-sensor")
    for precision in ("fp32", "fp16"):
        model = onnx.load(original)
        model.doc_string = precision  # another file
        path = tmp_path / f"{card.name}.{precision}.onnx"
        onnx.save(model, path)
        save_card(replace(card, precision=precision, file=path.name, sha256=sha256(path)), tmp_path)
    build(tmp_path / f"{card.name}.fp32.onnx", BuildOptions(precision="fp16", weak=True))
    before = plans()
    with open_engine(*load_card(tmp_path / f"{card.name}.fp16.onnx"), engine="tensorrt") as engine:
        assert engine.details()["precision"] == "fp16"
    assert plans() == before
    with open_engine(*load_card(tmp_path / f"{card.name}.fp32.onnx"), engine="tensorrt") as engine:
        assert engine.details()["precision"] == "fp32"
    assert len(plans()) == len(before) + 1


def test_a_damaged_engine_is_not_used_but_built_again(gpu: FakeCuda) -> None:
    path = build("dscsnet-s-sensor", BuildOptions(precision="fp32")).path
    path.write_bytes(b"nonsense")
    with open_engine(*load_card("dscsnet-s-sensor"), engine="tensorrt") as engine:
        assert engine.name == "tensorrt"
    assert path.read_bytes() != b"nonsense"


def test_unmixing_agrees_with_onnxruntime(gpu: FakeCuda) -> None:
    unmixer = Unmixer.open(engine="auto", precision="fp32")
    reference = Unmixer.open(engine="onnxruntime", threads=1)
    patches = np.random.default_rng(0).uniform(0, 200, (30, 11, 11)).astype(np.float32)
    ours, theirs = unmixer(patches), reference(patches)
    unmixer.engine.close()
    np.testing.assert_allclose(ours.grids, theirs.grids, rtol=1e-3, atol=1e-3)
    for name, expected in vars(theirs.candidates).items():
        np.testing.assert_allclose(getattr(ours.candidates, name), expected, rtol=1e-3, atol=1e-4, err_msg=name)
    assert len(ours.targets()) == len(theirs.targets()) > 0


def test_a_released_model_is_fp16_with_tensorrt_and_fp32_without(gpu: FakeCuda) -> None:
    for model in (Detector, Unmixer):
        for engine, precision in (("auto", "fp16"), ("tensorrt", "fp16"), ("onnxruntime", "fp32")):
            opened = model.open(engine=engine, threads=1)
            opened.engine.close()
            assert opened.card.precision == precision
    assert preview_build("dscsnet-s-sensor", BuildOptions(), trt=load()).precision == "fp16"


def test_auto_leaves_a_model_that_is_named_by_its_file_as_it_is(gpu: FakeCuda) -> None:
    path = load_card("dscsnet-s-sensor", precision="int8")[1]
    assert find_model(path)[0].precision == "int8"
    with pytest.raises(InputError, match="precision"):
        find_model("dscsnet-s-sensor", precision="fp8")


def test_a_run_says_what_ran(gpu: FakeCuda, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = run(SCENE)
    assert json.loads(json.dumps(manifest))["engine"] == "tensorrt"
    assert manifest["engines"]["unmix"]["gpu"] == "Fake GPU"
    assert manifest["engines"]["detect"]["sizes"]["96x64"]["tensorrt"] == "tensorrt 10.3.0"
    told = capsys.readouterr().err
    assert "engine: tensorrt (tensorrt 10.3.0 on Fake GPU); fp16 (auto: TensorRT moves half the bytes of fp32)" in told
    assert [model["precision"] for model in manifest["models"].values()] == ["fp16", "fp16"]
    assert not gpu.live


@pytest.mark.parametrize(
    ("query", "options", "expected"),
    [
        ("", {}, "96x64"),
        ("", {"roi": (8, 8, 40, 32)}, "48x32"),  # padded to a multiple of 16
        ("", {"tile": FrameSize(64, 64)}, "64x64"),
        ("&crop=2,2,80,48", {}, None),  # known when the first frame comes
    ],
)
def test_the_engine_for_frames_of_a_known_size_is_opened_before_the_first(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, query: str, options: dict[str, Any], expected: str | None
) -> None:
    detect, ready = Detector.__call__, []

    def spied(self: Detector, *arguments: Any, **words: Any) -> Any:
        ready.append([*self.engine.details()["sizes"]])
        return detect(self, *arguments, **words)

    monkeypatch.setattr(Detector, "__call__", spied)
    run(SCENE + query, **options)
    assert ready[0] == ([] if expected is None else [expected])
    assert len(ready[-1]) == 1


def test_a_region_outside_of_the_frame_builds_nothing(gpu: FakeCuda) -> None:
    with pytest.raises(InputError, match="does not fit"):
        run(SCENE, roi=(80, 8, 40, 32))
    assert not any(name.startswith("lsnet") for name in plans())


def test_a_run_of_onnxruntime_says_so_too() -> None:
    manifest = run(SCENE, engine="onnxruntime", threads=1)
    assert manifest["engines"]["unmix"]["name"] == "onnxruntime"
    assert manifest["engines"]["unmix"]["threads"] == 1


def test_require_forbids_the_fallback(
    gpu: FakeCuda, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert cli.main(["run", SCENE, "--require", "tensorrt"]) == 3
    assert "pycuda" in capsys.readouterr().err
    assert cli.main(["run", SCENE, "--engine", "auto", "--threads", "1"]) == 0
    assert cli.main(["run", SCENE, "--engine", "onnxruntime", "--require", "tensorrt"]) == 2
    assert "contradict" in capsys.readouterr().err


def test_an_unknown_engine_is_still_refused() -> None:
    with pytest.raises(InputError):
        choose_engine("abacus")


def test_the_doctor_finds_the_gpu(gpu: FakeCuda) -> None:
    gpu.integrated = True
    report = doctor()
    assert report["engine"] == {"auto": "tensorrt", "why": "tensorrt 10.3.0 on Fake GPU"}
    (entry,) = (c for c in report["checks"] if c["name"] == "gpu")
    assert entry["state"] == "ok"
    for part in ("Fake GPU", "compute capability 8.6", "1.1 of 1.1 GB free", "shared with the CPU", "CUDA 12.6"):
        assert part in entry["detail"]


def test_the_engine_of_onnxruntime_tells_its_version() -> None:
    with OnnxRuntimeEngine(load_card("dscsnet-s-sensor")[1], threads=1) as engine:
        assert engine.details().keys() == {"name", "onnxruntime", "threads"}
