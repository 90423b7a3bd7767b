"""The film over UDP: whole packets of MPEG-TS that another decoder plays, and a receiver that is not there."""

from __future__ import annotations

import io
import socket

import pytest
from made_results import made_result

from glint.errors import InputError
from glint.progress import speaking
from glint.runtime.sinks.publishing.overlay_stream import DATAGRAM_BYTES, OverlayStream

av = pytest.importorskip("av", reason="needs PyAV (pip install '.[video]')")
NUMBER = 12


def test_a_receiver_gets_every_picture() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.2)
        sink = OverlayStream(*receiver.getsockname())
        for n in range(NUMBER):
            sink.write(made_result(n, t_ns=n * 40_000_000))
        sink.close()
        sink.close()
        data = []
        try:
            while True:
                data.append(receiver.recv(65536))
        except TimeoutError:
            pass
    assert {len(one) % 188 for one in data} == {0}
    assert max(map(len, data)) <= DATAGRAM_BYTES
    with av.open(io.BytesIO(b"".join(data)), format="mpegts") as film:
        times = [float(frame.time) for frame in film.decode(video=0)]
    assert [time - times[0] for time in times] == pytest.approx([0.04 * n for n in range(NUMBER)], abs=2e-3)


def test_nobody_is_waited_for_and_what_is_lost_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        where = free.getsockname()
    with speaking():
        sink = OverlayStream(*where)
        for n in range(3):
            sink.write(made_result(n))
        sink.close()
    assert "could not be sent" in capsys.readouterr().err


def test_a_port_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="UDP port 0"):
        OverlayStream("127.0.0.1", 0)
