"""Polygraphy's own question to the parser, ``inspect capability``, beside our operator rules: no GPU is needed."""

import os
import subprocess
import sys

import onnx
import pytest
import small_graphs as small

from glint.cards import zoo_folder
from glint.export.lint.findings import REFUSED
from glint.export.lint.lint import lint

pytest.importorskip("polygraphy", reason="polygraphy is not installed: the extra check")
pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (x86-64 Linux and Windows only)")

FINE = small.model([small.node("Relu", ["x"], ["a"]), small.node("Sigmoid", ["a"])])
REFUSED_BY_BOTH = small.model([small.node("Relu", ["x"], ["a"]), small.node("Det", ["a"])])


@pytest.mark.parametrize(
    "model",
    [FINE, REFUSED_BY_BOTH, *(f"{name}.fp16.onnx" for name in ("dscsnet-s-sensor", "lsnet-s"))],
    ids=["fine", "Det", "dscsnet-s-sensor", "lsnet-s"],
)
def test_polygraphy_and_our_rules_agree(tmp_path, model):
    path = zoo_folder() / model if isinstance(model, str) else tmp_path / "small.onnx"
    if not isinstance(model, str):
        onnx.save(model, path)
    code = "import sys; from polygraphy.tools import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", "capability", str(path)], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1"}, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    refused = [f for f in lint(onnx.load(path)) if f.severity == REFUSED and "rtx" in f.versions]
    assert ("fully supported by TensorRT" in said) == (refused == []), said[-2000:]
    for finding in refused:
        assert finding.node in said
