"""``glint run`` as a process: what it imports, signals, readers that go away, full disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_lines import Glint, check_record, read


def test_a_process_leaves_with_the_code_of_the_command(shell: Callable[..., Any], scene: str, tmp_path: Path) -> None:
    shell("run", tmp_path / "nowhere").refused(2, "nowhere")


def test_running_imports_neither_torch_nor_onnx(scene: str, tmp_path: Path) -> None:
    code = (
        "import sys; from glint.cli import main; code = main(sys.argv[1:]); "
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'onnx', 'onnxscript', 'safetensors'})); "
        "sys.exit(code)"
    )
    words = [sys.executable, "-c", code, "run", scene, "--overlay", str(tmp_path / "p")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_reader_that_goes_away_is_no_error(scene: str) -> None:
    words = [sys.executable, "-m", "glint", "run", scene.replace("frames=2", "frames=1000"), "--out", "-"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        check_record(json.loads(process.stdout.readline()))
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        assert process.wait(timeout=60) == 0
    assert "Traceback" not in err
    assert "Exception" not in err


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("first line", signal.SIGINT), ("some lines", signal.SIGTERM), ("some lines", signal.SIGINT),
        ("warm-up", signal.SIGTERM), ("twice", signal.SIGINT), ("end", signal.SIGTERM),
    ],
)  # fmt: skip
def test_a_signal_at_any_moment_leaves_valid_files_and_a_summary(tmp_path: Path, moment: str, number: int) -> None:
    out = tmp_path / "r.jsonl"
    frames = 4 if moment == "end" else 100_000
    words = [sys.executable, "-m", "glint", "run", f"synthetic://?size=96x80&frames={frames}", "--out", str(out)]
    words += ["--csv", str(tmp_path / "r.csv"), "--track", *(["--warm-up"] if moment == "warm-up" else [])]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    lines = {"first line": 1, "some lines": 7, "twice": 3, "end": 3, "warm-up": 0}[moment]
    try:
        if moment == "warm-up":  # the engine has been named, and the first frame is in work
            assert process.stderr is not None
            process.stderr.readline()
        deadline = time.monotonic() + 60
        while lines and not (out.exists() and out.read_bytes().count(b"\n") >= lines):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        for _ in range(2 if moment == "twice" else 1):
            os.kill(process.pid, number)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in stderr
    assert "Exception" not in stderr
    assert process.returncode in ((0, 130) if moment == "end" else (130,)), stderr
    assert stdout == ""
    assert not list(tmp_path.glob(".*"))
    if moment == "warm-up" and not out.exists():  # the signal came before the first frame
        return
    text = out.read_text()
    assert text == "" or text.endswith("\n")
    records = read(out)
    truth = read(tmp_path / "r.truth.jsonl") if records else []
    for record in records:
        check_record(record, "track")
    if moment == "twice" and not (tmp_path / "r.manifest.json").exists():
        return  # whoever asks twice may get less
    manifest = json.loads((tmp_path / "r.manifest.json").read_text())
    assert manifest["interrupted"] is (process.returncode == 130)
    assert manifest["frames"] == len(records) == len(truth)
    assert manifest["captured"] == len(records) + sum(manifest["dropped"].values())
    assert "frames " in stderr
    rows = (tmp_path / "r.csv").read_text().splitlines() if records else []
    assert len(rows) == (1 + sum(len(r["targets"]) for r in records) if records else 0)


@pytest.mark.parametrize("delay_s", [0.0, 1.5])
def test_a_signal_while_functions_are_compiled_ends_like_any_other(tmp_path: Path, delay_s: float) -> None:
    out = tmp_path / "r.jsonl"
    words = ["run", "synthetic://?size=96x80&frames=9", "--out", str(out)]
    program = (
        "import sys, glint.native.library as native; native.library = lambda: None\n"  # nothing came with the package
        f"from glint.cli import main; sys.exit(main({words!r}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "GLINT_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert any("compiling" in line for line in process.stderr)
        time.sleep(delay_s)
        os.kill(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert not any(word in said for word in ("unexpected", "Traceback", "Exception"))
    if out.exists():  # the stream had begun
        assert "frames " in said
        assert json.loads((tmp_path / "r.manifest.json").read_text())["interrupted"]


def test_a_quiet_run_says_nothing(shell: Glint, scene: str, tmp_path: Path) -> None:
    done = shell("run", scene, "--out", tmp_path / "r.jsonl", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert len(read(tmp_path / "r.jsonl")) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_page_that_is_held(tmp_path: Path, number: int) -> None:
    words = [sys.executable, "-m", "glint", "run", "synthetic://?size=96x80&frames=1", "--out", str(tmp_path / "r")]
    process = subprocess.Popen(
        [*words, "--view", "127.0.0.1:0", "--hold"], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert any("stays open" in line for line in process.stderr)
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_killed_run_loses_at_most_the_line_that_it_was_writing(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    words = [sys.executable, "-m", "glint", "run", "synthetic://?size=96x80&frames=100000", "--out", str(out)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (out.exists() and out.read_bytes().count(b"\n") >= 5):
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    whole, _, rest = out.read_text().rpartition("\n")
    assert [json.loads(line)["frame"] for line in whole.splitlines()] == list(range(whole.count("\n") + 1))
    assert rest == "" or rest.startswith('{"frame"')


def test_a_disk_that_fills_up_ends_the_run_with_whole_lines(scene: str, tmp_path: Path) -> None:
    code = (
        "import resource, sys; from glint.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "r.jsonl"
    words = [sys.executable, "-c", code, "run", scene.replace("frames=2", "frames=100000"), "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "error: cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert out.read_text().endswith("\n")
    for record in read(out):
        check_record(record)
    manifest = json.loads((tmp_path / "r.manifest.json").read_text())
    assert "cannot write" in manifest["error"]
    assert manifest["frames"] in (len(read(out)), len(read(out)) - 1)  # the truth may have been what did not fit


def test_a_full_disk_behind_standard_output_is_an_error(scene: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    words = [sys.executable, "-m", "glint", "run", scene, "--out", "-"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 3, done.stderr
    assert "cannot write standard output: No space left" in done.stderr
    assert "Traceback" not in done.stderr
