"""Every block of commands in the documentation runs as it stands, or says why not.

``<!-- not run: REASON -->`` on the line above a block leaves it out. The others are run, a page in a folder of its own
with a few small simulated frames, in which ``pip`` does nothing and simulated scenes are two frames long.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glint.simulate import simulate_frames
from glint.simulation.scenes import parse_synthetic

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- not run: ([^\n]+) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCENE = "synthetic://?size=224x192&frames=2&clusters=1&singles=8&noise=0.5&seed=3"


def to_run(page: Path) -> list[tuple[str, str]]:
    """Language and text of the blocks that have no reason not to be run."""
    if page.name == "api.md":  # signatures
        return []
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(kind, text) for reason, kind, text in found if not reason and kind in ("", "bash", "sh", "python")]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "night"
    simulate_frames(parse_synthetic(SCENE), folder)
    (folder / "truth.jsonl").unlink()
    for path in list(folder.glob("*.png")):
        image = Image.open(path)
        image.save(path.with_suffix(".tif"))
        path.unlink()
    np.save(folder.parent / "frame.npy", np.asarray(image))
    (folder.parent / "bin").mkdir()
    pip = folder.parent / "bin" / "pip"
    pip.write_text("#!/bin/sh\n", encoding="utf-8")
    pip.chmod(0o755)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)], ids=lambda p: p.name)
def test_blocks_run(page: Path, frames: Path, tmp_path: Path) -> None:
    for name in ("night", "SOURCE", "FRAMES", "FOLDER"):
        (tmp_path / name).symlink_to(frames)
    shutil.copy(frames.parent / "frame.npy", tmp_path)
    path = os.pathsep.join([str(frames.parent / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    for kind, text in to_run(page):
        program = [sys.executable, "-c", text]
        if kind != "python":
            short = re.sub(r"(synthetic://\S*frames=)\d+", r"\g<1>2", text)
            program = ["bash", "-e", "-o", "pipefail", "-c", short]
        done = subprocess.run(
            program, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, (text, done.stderr)


def test_every_fence_is_a_block_that_the_tests_see() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = BLOCK.findall(text)
        assert len(re.findall("```", text)) == 2 * len(found), page
        reasons = re.findall("^<!-- not run:", text, re.MULTILINE)
        assert len(reasons) == len([reason for reason, *_ in found if reason]), page
