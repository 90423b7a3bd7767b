"""A run with secrets in its addresses shows them nowhere: a walk through everything that it says and writes."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glint.cli import main

pytest.importorskip("av", reason="needs PyAV")
from fake_streams import TcpServer

SECRET = "Zq7hunterqZ"  # noqa: S105


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def camera(frames: int) -> list[bytes]:
    """MJPEG over HTTP, which breaks off."""
    parts = [b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n"]
    for seed in range(frames):
        image = np.random.default_rng(seed).integers(20, 30, (64, 96)).astype(np.uint8)
        image[30:32, 40:42] = 250
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="JPEG", quality=95)
        parts.append(b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % file.tell() + file.getvalue())
    return parts


class Poller(threading.Thread):
    """Asks for the pages of a run while it lasts."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.ended, self.bodies = port, threading.Event(), dict[str, bytes]()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            for path in ("/", "/metrics", "/live?after=0", "/history?since=0", "/healthz", "/nowhere"):
                with suppress(OSError):
                    try:
                        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                            self.bodies[path] = self.bodies.get(path, b"") + answer.read()
                    except urllib.error.HTTPError as error:
                        self.bodies[path] = error.read()


def everything_in(folder: Path) -> dict[str, bytes]:
    """All files, those inside of recordings, too."""
    found: dict[str, bytes] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[str(path)] = path.read_bytes()
            if path.suffix == ".tar":
                with tarfile.open(path) as recording:
                    for member in recording.getmembers():
                        content = recording.extractfile(member)
                        found[f"{path}/{member.name}"] = content.read() if content is not None else b""
    return found


def test_no_output_of_a_run_holds_a_secret(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = free_port()
    poller = Poller(view)
    with TcpServer(camera(6), ends=True) as server:
        words = [
            "run", f"http://me:{SECRET}@127.0.0.1:{server.port}/mjpg?token={SECRET}#timeout=2&give_up=0.2",
            "--out", str(tmp_path / "r.jsonl"), "--csv", str(tmp_path / "r.csv"), "--tracks", str(tmp_path / "t.jsonl"),
            "--record", str(tmp_path / "kept"), "--view", f"127.0.0.1:{view}", "--drop", "none", "--json",
            "--mqtt", f"mqtt://me:{SECRET}@127.0.0.1:{free_port()}/a",
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["glint", *words])
        poller.start()
        code = main(words)
        poller.ended.set()
        poller.join(10)
    shown = capfd.readouterr()
    assert code == 4, shown.err  # it breaks off, and does not come back
    files = everything_in(tmp_path)
    names = {Path(name).name for name in files}
    assert {"r.jsonl", "r.csv", "t.jsonl"} <= names and any(name.endswith(".tar") for name in names)
    assert {"/", "/metrics", "/live?after=0"} <= poller.bodies.keys()
    texts = {**files, **poller.bodies, "stdout": shown.out.encode(), "stderr": shown.err.encode()}
    assert [name for name, content in texts.items() if SECRET.encode() in content] == []
    manifest = next(json.loads(content) for name, content in files.items() if name.endswith(".manifest.json"))
    assert manifest["argv"][2].startswith("http://***@127.0.0.1")


REFUSED: list[Callable[[str], list[str]]] = [
    lambda s: ["run", f"rtsp://me:{s}@127.0.0.1:1/a#give_up=0&timeout=1"],
    lambda s: ["run", f"rtsp://me:{s}@127.0.0.1:1/a#colour=red"],
    lambda s: ["run", f"rtsp:/me:{s}@cam/a"],
    lambda s: ["run", f"me:{s}@cam:554/a"],
    lambda s: ["run", f"rtsp%3A%2F%2Fme%3A{s}%40cam"],
    lambda s: ["run", f"gst:souphttpsrc extra-headers='h,Authorization=(string){s}"],
    lambda s: ["run", f"gst:nosuch location=rtsp://me:{s}@c user-pw={s}"],
    lambda s: ["run", f"nosuch://me:{s}@cam/a"],
    lambda s: ["run", f"replay:rtsp://me:{s}@cam/a"],
    lambda s: ["run", "synthetic://?size=96x64&frames=1", "--mqtt", f"http://me:{s}@b/t"],
    lambda s: ["run", "synthetic://?size=96x64&frames=1", "--mqtt", f"mqtt://me:{s}@b:x/t"],
    lambda s: ["run", "synthetic://?size=96x64&frames=1", "--view", f"http://me:{s}@b:80"],
    lambda s: ["run", "synthetic://?size=96x64&frames=1", "--udp", f"me:{s}@b:80"],
    lambda s: ["run", "x", "--password", s],
    lambda s: ["run", "x", f"--token={s}"],
    lambda s: ["runn", f"rtsp://me:{s}@cam/a"],
    lambda s: ["archive", f"s3://AK:{s}@nowhere.invalid/x", "--out", f"ftp://me:{s}@h/x"],
    lambda s: ["detect", f"rtsp://me:{s}@cam/a", "--out", "x"],
    lambda s: ["psf", f"rtsp://me:{s}@127.0.0.1:1/a#give_up=0&timeout=1", "--out", "x.json"],
    lambda s: ["review", f"http://me:{s}@b/r.jsonl"],
]


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
@pytest.mark.parametrize("words", REFUSED, ids=range(len(REFUSED)))
def test_no_error_shows_a_secret_not_even_its_traceback(
    words: Callable[[str], list[str]], debug: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(SECRET), *(["--debug"] if debug else [])]) != 0
    shown = capfd.readouterr()
    assert "error: " in shown.err
    assert SECRET not in shown.out + shown.err


def test_doctor_shows_no_secret_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("GLINT_KEY", "AWS_SECRET_ACCESS_KEY", "MQTT_PASSWORD"):
        monkeypatch.setenv(name, SECRET)
    for words in (["doctor"], ["doctor", "--json"]):
        main(words)
        shown = capfd.readouterr()
        assert SECRET not in shown.out + shown.err


@pytest.mark.parametrize("sources", [1, 2])
def test_print_python_takes_secrets_from_the_environment(
    sources: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    addresses = [f"rtsp://me:{SECRET}@cam{i}/a#timeout=3" for i in range(sources)]
    broker = f"mqtts://me:{SECRET}@b/t"
    assert main(["run", *addresses, "--mqtt", broker, "--csv", "a.csv", "--print-python"]) == 0
    text = capfd.readouterr().out
    assert SECRET not in text
    monkeypatch.setenv("GLINT_MQTT", broker)
    for i, address in enumerate(addresses):
        monkeypatch.setenv("GLINT_SOURCE" if sources == 1 else f"GLINT_SOURCE{i}", address)
        assert f"rtsp://***@cam{i}/a" in text
    told: dict[str, Any] = {}
    monkeypatch.setattr("glint.run", lambda source, **options: told.update(source=source, **options), raising=False)
    exec(text)  # noqa: S102
    assert told == {"source": addresses[0] if sources == 1 else addresses, "mqtt": broker, "csv": "a.csv"}
    assert os.environ["GLINT_MQTT"] == broker


def test_print_python_shows_addresses_without_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "rtsp://cam/a#timeout=3&transport=udp", "--print-python"]) == 0
    assert capfd.readouterr().out == ("import glint\n\nmanifest = glint.run('rtsp://cam/a#timeout=3&transport=udp')\n")
