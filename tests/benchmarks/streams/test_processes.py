"""What a benchmark starts ends with it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from glint.benchmarks.streams.processes import command, name_of, session


def test_a_command_that_is_interrupted_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "starts"
    script.write_text("#!/bin/sh\n(sleep 321 &)\nsleep 321\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(KeyboardInterrupt), command("archive") as process:
        until = time.monotonic() + 60
        while sum(name_of(pid) == "sleep" for pid in session(process.pid)) < 2:  # one is an orphan
            assert time.monotonic() < until
            time.sleep(0.02)
        raise KeyboardInterrupt
    assert session(process.pid) == {}
    assert process.wait() != 0
