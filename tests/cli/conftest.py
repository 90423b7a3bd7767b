"""Shared by the tests of the command line: calls in process, small inputs, broken models."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glint.cards import zoo_folder
from glint.cli import main
from glint.images import write_image

SCENE = "synthetic://?size=96x80&frames=2&clusters=2&singles=3&radiance=180-240&noise=0.5&seed=2"


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *words: str) -> None:
        """It ended with this code, an error that holds these words, nothing on stdout and no traceback."""
        assert self.code == code, self.err
        assert "error:" in self.err
        assert "Traceback" not in self.err
        assert self.out == ""
        for word in words:
            assert word in self.err

    @property
    def lines(self) -> list[Any]:
        """Standard output as JSON lines; fails if anything else is there."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def glint(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """Calls the command line in this process."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse leaves like this
            code = int(stop.code or 0)
        shown = capsys.readouterr()
        return Outcome(code, shown.out, shown.err)

    yield call
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="session")
def shell() -> Callable[..., Outcome]:
    """Calls the command line in a process of its own."""

    def call(*words: object) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "glint", *map(str, words)], capture_output=True, text=True, timeout=60, check=False
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def scene() -> str:
    """The URI of a small simulated scene of two frames."""
    return SCENE


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A folder of three small noisy images: a.png, b.png, c.png, of 40 x 48 pixels."""
    rng = np.random.default_rng(0)
    for name in "abc":
        image = rng.normal(50, 2, (40, 48))
        image[15:17, 20:22] += 120
        write_image(tmp_path / "night" / f"{name}.png", np.round(image).astype(np.uint8))
    return tmp_path / "night"


def truncate(path: Path) -> None:
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def truncated(night: Path) -> Path:
    """The same folder with b.png cut in half."""
    truncate(night / "b.png")
    return night


@pytest.fixture
def colour(tmp_path: Path) -> Path:
    """An image in true colours."""
    path = tmp_path / "colour" / "day.png"
    write_image(path, np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8))
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    """All files below tmp_path with their contents, to see that nothing was left or changed."""
    return lambda: {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


@pytest.fixture
def broken(tmp_path: Path) -> Callable[[str, str], Path]:
    """``broken(model, how)``: the card of a copy of a released model that is broken in one way."""

    def make(model: str, how: str) -> Path:
        folder = tmp_path / "broken"
        folder.mkdir(exist_ok=True)
        card, onnx = (Path(shutil.copy(zoo_folder() / f"{model}.fp32.{end}", folder)) for end in ("json", "onnx"))
        if how == "hash":
            onnx.write_bytes(onnx.read_bytes() + b"\0")
        elif how == "corrupt":  # the card agrees, but it is no model
            onnx.write_bytes(b"no model" * 100)
            text = json.loads(card.read_text())
            text["sha256"] = hashlib.sha256(onnx.read_bytes()).hexdigest()
            card.write_text(json.dumps(text))
        elif how == "absent":
            onnx.unlink()
        elif how == "card":
            card.write_text("{ not json")
        return card

    return make
