"""``glint build``: its options, what it prints, and its exit codes."""

import argparse
import json
import re

import pytest
import small_models
from built_engines import SIZES, contents, plans
from hypothesis import given
from hypothesis import strategies as st

from glint.cli import main
from glint.errors import InputError
from glint.runtime.commands import build as build_command
from glint.runtime.engines.tensorrt import onnx_to_plan as builder
from glint.runtime.engines.tensorrt.build import BuildOptions, build
from glint.runtime.engines.tensorrt.cache import sidecar_path
from glint.types import FrameSize

pytestmark = pytest.mark.usefixtures("gpu", "prepared")


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp8"},
        {"batches": ((0, 1, 2),)},
        {"batches": ((2, 1, 4),)},
        {"batches": ((1, 5, 4),)},
        {"sizes": ((0, 32),)},
        {"workspace": 0},
        {"dla": -1},
        {"weak": True},
        {"weak": True, "precision": "fp32"},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError):
        BuildOptions(**options)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (BuildOptions(), "takes frames of any size", "--size 640x512"),
        (BuildOptions(sizes=(FrameSize(64, 50),)), "size 64x50: .* multiples of 16", "--size 64x64"),
        (BuildOptions(sizes=(FrameSize(64, 16),)), "size 64x16: .* from 32 on", "--size 64x32"),
        (BuildOptions(sizes=(FrameSize(32, 32),), batches=((1, 2, 4),)), "one frame at a time", None),
    ],
)
def test_sizes_and_batches_that_a_detector_does_not_take(orin, tmp_path, options, message, hint):
    with pytest.raises(InputError, match=message) as caught:
        build(small_models.detector(tmp_path), options)
    assert hint is None or hint in caught.value.hint


def test_an_unmixer_takes_no_size(orin, tmp_path):
    with pytest.raises(InputError, match="patches of one size"):
        build(small_models.unmixer(tmp_path), SIZES)


def test_the_progress_of_nested_phases_never_falls():
    state = builder.BuildState()
    state.start("build", None, 2)
    seen = [state.fraction()]
    state.start("time", "build", 4)
    for _ in range(4):
        assert state.step("time")
        seen.append(state.fraction())
    state.finish("time")
    state.step("build")
    seen.append(state.fraction())
    state.start("time", "build", 1)
    state.step("time")
    seen.append(state.fraction())
    state.step("unknown")
    assert seen == [0, 0.125, 0.25, 0.375, 0.5, 0.5, 1.0]
    state.cancelled = True
    assert not state.step("build")


# The command.


def test_the_command_tells_and_prints(orin, tmp_path, capsys):
    model = small_models.detector(tmp_path)
    words = ["build", str(model), "--size", "96x64", "32x32", "--json"]
    assert main(words) == 0
    first = capsys.readouterr()
    assert "built in" in first.err
    assert "layers: INT8 0%" in first.err
    document = json.loads(first.out)
    assert not document["cached"]
    assert [p[0]["opt"] for p in document["sidecar"]["profiles"]] == [[1, 1, 64, 96], [1, 1, 32, 32]]
    assert main(words) == 0
    second = capsys.readouterr()
    assert "cache hit: " in second.err
    assert json.loads(second.out)["cached"]
    assert json.loads(second.out)["path"] == document["path"]


def test_the_command_also_compiles_what_the_first_run_here_needs(orin, tmp_path, prepared):
    words = ["build", str(small_models.unmixer(tmp_path)), "--batch", "1,32,100"]
    assert main([*words, "--dry-run"]) == 0
    assert not prepared
    assert main(words) == 0
    assert len(prepared) == 1


def test_a_dry_run_builds_nothing(orin, tmp_path, capsys):
    model = small_models.unmixer(tmp_path)
    words = ["build", str(model), "--batch", "1,8,16", "--workspace", "100", "--dry-run"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "patch 1x1x7x7 to 8x1x7x7 to 16x1x7x7" in text
    assert "100 MiB" in text
    assert "would:     build it: the cache has none" in text
    assert orin.builds == []
    assert contents() == {}
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["workspace"] == 100 << 20
    assert not document["cached"]
    assert main(words[:-1]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "would:     take it from the cache" in capsys.readouterr().out


def test_out_gets_a_copy_with_its_sidecar(orin, tmp_path, capsys):
    model, out = small_models.unmixer(tmp_path), tmp_path / "engines" / "mine.plan"
    words = ["build", str(model), "--out", str(out)]
    assert main(words) == 0
    assert out.read_bytes() == plans()[0].read_bytes()
    assert sidecar_path(out).read_bytes() == sidecar_path(plans()[0]).read_bytes()
    assert main(words) == 2
    assert "exists" in capsys.readouterr().err
    out.write_bytes(b"old")
    assert main([*words, "--overwrite"]) == 0
    assert out.read_bytes() == plans()[0].read_bytes()
    assert main(["build", str(model), "--out", "-"]) == 2


@pytest.mark.parametrize(
    "words", [["--size", "64"], ["--size", "64x"], ["--batch", "1,2"], ["--batch", "a,b,c"], ["--workspace", "0"]]
)
def test_malformed_arguments_are_usage_errors(words, capsys):
    assert main(["build", "lsnet-s", *words]) == 2
    assert "error" in capsys.readouterr().err


@given(st.text(max_size=12) | st.from_regex(r"[0-9]{1,6}[x,][0-9]{1,6}([x,][0-9]{1,6})?", fullmatch=True))
def test_sizes_and_batches_are_read_or_refused(text):
    for read, form in ((build_command.frame_size, "{0}x{1}"), (build_command._batch, "{0},{1},{2}")):
        try:
            numbers = read(text)
        except argparse.ArgumentTypeError:
            continue
        assert [int(n) for n in re.split("[x,]", text)] == [int(n) for n in re.split("[x,]", form.format(*numbers))]


@pytest.mark.parametrize(("failure", "code"), [({"kernels": "FLOAT"}, 1), ({"build_error": "no"}, 3)])
def test_exit_codes(orin, tmp_path, capsys, failure, code):
    vars(orin).update(failure)
    assert main(["build", str(small_models.unmixer(tmp_path, precision="fp16"))]) == code
    err = capsys.readouterr().err
    assert "error: " in err
    assert "Traceback" not in err
