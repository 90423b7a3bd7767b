"""Which rows there are: names, places, and why some do not exist."""

from dataclasses import replace
from pathlib import Path

import pytest

from glint.benchmarks.bench.cases import PIPELINE, BenchCase, expand
from glint.benchmarks.bench.report import weights_by_key
from glint.benchmarks.bench.turns import groups_of
from glint.cards import zoo_folder
from glint.errors import InputError, ModelError
from glint.types import FrameSize

COMMON = BenchCase("", "", threads=2, detector="lsnet-s", unmixer="dscsnet-s-sensor")


def rows(*subjects, engines=("onnxruntime",), precisions=("fp32",), **changes):
    options = {
        "batches": (1, 64),
        "sizes": (FrameSize(640, 512), FrameSize(320, 256)),
        "common": COMMON,
        "checkpoints": {},
    }
    options |= {"gpu_torch": False, **changes}
    return expand(subjects, engines=engines, precisions=precisions, **options)


def test_models_have_a_row_per_batch_or_size_and_the_pipeline_per_size():
    cases, skipped = rows("lsnet-s", "dscsnet-s-csist", PIPELINE)
    assert [case.name for case in cases] == [
        "lsnet-s 640x512, onnxruntime fp32",
        "lsnet-s 320x256, onnxruntime fp32",
        "dscsnet-s-csist x1, onnxruntime fp32",
        "dscsnet-s-csist x64, onnxruntime fp32",
        "pipeline 640x512, 10 blobs, onnxruntime fp32",
        "pipeline 320x256, 10 blobs, onnxruntime fp32",
    ]
    assert [case.task for case in cases] == ["detect"] * 2 + ["unmix"] * 2 + ["pipeline"] * 2
    assert all(case.threads == 2 for case in cases)
    assert skipped == []


def test_tensorrt_has_rows_with_and_without_graph_and_copies():
    cases, _ = rows("dscsnet-s-csist", engines=("tensorrt",), batches=(64,))
    assert [case.variant for case in cases] == [
        "tensorrt fp32 pinned",
        "tensorrt fp32 no graph pinned",
        "tensorrt fp32 mapped",
    ]
    assert len({case.place for case in cases}) == 1


def test_pytorch_has_fresh_weights_unless_it_is_given_some():
    (fresh,), _ = rows("dscsnet-s-csist", engines=("torch",), batches=(1,))
    assert (fresh.variant, fresh.telling) == ("torch fp32 (fresh weights)", False)
    (known,), _ = rows(
        "dscsnet-s-csist", engines=("torch",), batches=(1,), checkpoints={"dscsnet-s csist": "a.safetensors"}
    )
    assert (known.variant, known.telling, known.checkpoint) == ("torch fp32", True, "a.safetensors")


@pytest.mark.parametrize(
    ("subject", "engine", "precision", "reason"),
    [
        ("dscsnet-s-csist", "torch", "int8", "the float network"),
        ("dscsnet-s-csist", "torch", "fp16", "on a GPU only"),
        (PIPELINE, "torch", "fp32", "does not run on PyTorch"),
    ],
)
def test_what_does_not_exist_is_skipped_with_a_reason(subject, engine, precision, reason):
    cases, (skip,) = rows(subject, engines=(engine,), precisions=(precision,))
    assert cases == []
    assert reason in skip.reason


def test_a_precision_that_is_not_released_is_skipped_if_it_was_asked_for(monkeypatch):
    def only_fp32(model, *, precision="fp32", task=None):
        if precision != "fp32":
            raise ModelError(f"no released model {model!r} in {precision}")
        return real(model, precision=precision, task=task)

    from glint.benchmarks.bench import cases as bench_case

    real = bench_case.load_card
    monkeypatch.setattr(bench_case, "load_card", only_fp32)
    cases, skipped = rows("dscsnet-s-csist", precisions=("fp32", "int8"))
    assert {case.precision for case in cases} == {"fp32"}
    assert ["no released model" in skip.reason for skip in skipped] == [True]
    cases, skipped = rows("dscsnet-s-csist", precisions=None)
    assert {case.precision for case in cases} == {"fp32"}
    assert skipped == []


def test_a_card_has_the_precision_that_it_has():
    cases, _ = rows(str(zoo_folder() / "dscsnet-s-csist.fp32.json"), precisions=None, batches=(1,))
    assert [case.name for case in cases] == ["dscsnet-s-csist x1, onnxruntime fp32"]


def test_what_is_not_known_is_refused():
    with pytest.raises(InputError, match="unknown engine 'openvino'"):
        rows("lsnet-s", engines=("openvino",))
    with pytest.raises(InputError, match="unknown precision 'fp8'"):
        rows("lsnet-s", precisions=("fp8",))
    with pytest.raises(ModelError, match="no released model 'lsnot'"):
        rows("lsnot")


def test_rows_of_one_place_take_turns():
    cases = [replace(COMMON, subject="a", task="unmix", batch=b, precision=p) for p in ("fp32", "fp16") for b in (1, 8)]
    assert [[case.batch for case in group] for group in groups_of(cases)] == [[1, 1], [8, 8]]


def test_released_weights_are_told_apart_by_their_domain():
    pytest.importorskip("torch")
    folder = Path(__file__).parents[3] / "training" / "weights"
    if not folder.is_dir():
        pytest.skip("the float weights are in the checkout only")
    found = weights_by_key(sorted(folder.glob("*.safetensors")))
    assert {key: Path(file).stem for key, file in found.items()} == {
        "dscsnet csist": "dscsnet-csist",
        "dscsnet sensor": "dscsnet-sensor",
        "dscsnet-s csist": "dscsnet-s-csist",
        "dscsnet-s sensor": "dscsnet-s-sensor",
        "lsnet": "lsnet",
        "lsnet-s": "lsnet-s",
    }
    with pytest.raises(InputError, match="two checkpoints are of lsnet-s"):
        weights_by_key(2 * [folder / "lsnet-s.safetensors"])
