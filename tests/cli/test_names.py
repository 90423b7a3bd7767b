"""What a user misspelt is told before a library that is missing, with the nearest name."""

from __future__ import annotations

import json
import subprocess
import sys

CALLS = {
    "inspect lsnt": "did you mean lsnet-s?",
    "calibrate lsnt --precision fp16": "did you mean lsnet-s?",
    "build lsnt": "did you mean lsnet-s?",
    "parity lsnt lsnet-s": "did you mean lsnet-s?",
    "train lsnt --out o": "did you mean lsnet?",
    "train lsnet --out o": "training a detector needs labelled images",
    "export lsnt.safetensors --out o": "no such file",
    "inspect lsnt.safetensors": "no such file",
}
PROGRAM = """
import contextlib, io, json, sys
for name in ("torch", "onnx", "safetensors", "tensorrt", "tensorrt_rtx"):
    sys.modules[name] = None
from glint.cli import main
said = {}
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as text, contextlib.redirect_stdout(text):
        said[words] = [main(words.split()), text.getvalue()]
print(json.dumps(said))
"""


def run(calls):
    words = [sys.executable, "-c", PROGRAM, json.dumps(calls)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout)


def test_names_are_resolved_before_libraries_are_asked_for():
    for words, (code, text) in run([*CALLS]).items():
        assert code == 2, words
        assert CALLS[words] in text, (words, text)


def test_a_dry_run_needs_no_tensorrt():
    ((code, text),) = run(["build lsnet-s --size 640x512 --dry-run"]).values()
    assert code == 0
    assert "model:     lsnet-s (fp16)" in text
    assert "profile 0: frame 1x1x512x640" in text
    assert "for:       not known here: " in text
