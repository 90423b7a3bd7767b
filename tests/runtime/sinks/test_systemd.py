from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_results import made_result

from glint.runtime.sinks.systemd import Watchdog, systemd_watchdog


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(0.2)
        yield sock


def said(systemd: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(systemd.recv(4096).decode())
        except TimeoutError:
            return messages


def test_ready_with_the_first_frame_then_alive_once_a_second(systemd: socket.socket) -> None:
    now = [0.0]
    watchdog = Watchdog(systemd.getsockname(), clock=lambda: now[0])
    assert said(systemd) == []
    for step in range(25):
        now[0] = step / 10
        watchdog.write(made_result(step))
    watchdog.close()
    watchdog.close()
    assert said(systemd) == [
        "READY=1\nWATCHDOG=1\nSTATUS=1 frames, 1 targets",
        "WATCHDOG=1\nSTATUS=11 frames, 11 targets",
        "WATCHDOG=1\nSTATUS=21 frames, 21 targets",
        "STOPPING=1",
    ]


def test_a_systemd_that_has_gone_does_not_end_the_run(systemd: socket.socket) -> None:
    watchdog = Watchdog(systemd.getsockname())
    systemd.close()
    watchdog.write(made_result())
    watchdog.close()


def test_only_a_service_has_a_watchdog(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert systemd_watchdog() is None
    monkeypatch.setenv("NOTIFY_SOCKET", "vsock:2:1234")
    assert systemd_watchdog() is None
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.getsockname())
    watchdog = systemd_watchdog()
    assert watchdog is not None
    watchdog.close()
    assert said(systemd) == ["STOPPING=1"]


def test_abstract_sockets_are_known() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0glint-watchdog-test")
        listener.settimeout(5)
        watchdog = Watchdog("@glint-watchdog-test")
        watchdog.write(made_result())
        assert listener.recv(4096).startswith(b"READY=1")
        watchdog.close()
