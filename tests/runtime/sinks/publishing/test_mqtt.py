from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import made_result, made_tracks

from glint.errors import InputError
from glint.runtime.sinks.publishing.mqtt import MqttSink
from glint.runtime.sinks.publishing.udp import DATAGRAM_BYTES, UdpSink, split_record
from glint.runtime.sinks.records import frame_record
from glint.types import Gap

MANY = [(i // 3, 10 + i, 12.5, 100 + i) for i in range(40)]


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        yield sock


def test_a_frame_and_a_gap_are_a_datagram_each(receiver: socket.socket) -> None:
    sink = UdpSink("127.0.0.1", receiver.getsockname()[1])
    result = made_result(3, track=[7])
    sink.write(result)
    sink.gap(Gap(5, 1.25, "lost"))
    assert json.loads(receiver.recv(65536)) == frame_record(result)
    assert json.loads(receiver.recv(65536)) == {
        "event": "gap",
        "t_ns": 5,
        "utc": None,
        "seconds": 1.25,
        "reason": "lost",
    }
    sink.close()
    sink.close()


def test_a_frame_with_many_targets_comes_in_parts(receiver: socket.socket) -> None:
    sink = UdpSink("127.0.0.1", receiver.getsockname()[1])
    result = made_result(3, MANY)
    sink.write(result)
    parts = [json.loads(receiver.recv(65536))]
    parts += [json.loads(receiver.recv(65536)) for _ in range(parts[0]["part"][1] - 1)]
    assert [p["part"] for p in parts] == [[i + 1, len(parts)] for i in range(len(parts))]
    whole = frame_record(result)
    assert [t for p in parts for t in p["targets"]] == whole["targets"]
    assert all(p["t_ns"] == whole["t_ns"] for p in parts)
    sink.close()


# A target alone, of 20 characters that take 12 bytes each, and what every part carries: up to 361 bytes.
@given(st.lists(st.text(max_size=60), max_size=40), st.integers(400, 2000))
def test_no_part_is_longer_than_asked_and_nothing_is_lost(names: list[str], limit: int) -> None:
    record = {"frame": 1, "name": "x" * 50, "targets": [{"flags": [n[:20]]} for n in names]}
    parts = split_record(record, limit)
    assert all(len(p) <= limit for p in parts)
    assert [t for p in parts for t in json.loads(p)["targets"]] == record["targets"]


def test_an_absent_receiver_costs_messages_not_frames(
    receiver: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    port = receiver.getsockname()[1]
    receiver.close()
    sink = UdpSink("127.0.0.1", port)
    for index in range(20):
        sink.write(made_result(index))
        time.sleep(0.002)
    assert sink.lost > 0
    assert sink.sent + sink.lost == 20
    sink.close()
    assert f"{sink.lost} of 20 messages" in capsys.readouterr().err


def test_one_message_of_a_full_frame_fits_into_a_datagram() -> None:
    assert len(split_record(frame_record(made_result()), DATAGRAM_BYTES)) == 1


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 9), ("127.0.0.1", 0), ("127.0.0.1", 70000)])
def test_bad_receivers_are_input_errors(host: str, port: int) -> None:
    with pytest.raises(InputError):
        UdpSink(host, port)


class Broker:
    """Enough of an MQTT 3.1.1 broker to take what is published; may be deaf, refuse, or hang up."""

    def __init__(self, port: int = 0, *, code: int = 0) -> None:
        self.code = code
        self.messages: list[tuple[str, bytes, bool]] = []
        self.user = self.will = ("", "")
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = self._server.getsockname()[1]
        self._clients: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):  # what waits in accept would keep the port open
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._clients.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, client.makefile("rb") as stream:
                while kind := stream.read(1):
                    body = stream.read(self._length(stream.read))
                    if kind[0] >> 4 == 1:
                        self._connect(body)
                        client.sendall(bytes([0x20, 2, 0, self.code]))
                    elif kind[0] >> 4 == 3:
                        size = int.from_bytes(body[:2], "big")
                        self.messages.append((body[2 : 2 + size].decode(), body[2 + size :], bool(kind[0] & 1)))
                    elif kind[0] >> 4 == 12:
                        client.sendall(bytes([0xD0, 0]))
        except OSError:
            return

    @staticmethod
    def _length(read: Callable[[int], bytes]) -> int:
        total, shift = 0, 0
        while True:
            byte = read(1)[0]
            total |= (byte & 127) << shift
            if byte < 128:
                return total
            shift += 7

    def _connect(self, body: bytes) -> None:
        flags, at, fields = body[7], 10, []
        while at < len(body):
            size = int.from_bytes(body[at : at + 2], "big")
            fields.append(body[at + 2 : at + 2 + size].decode())
            at += 2 + size
        self.will = fields[1], fields[2]
        if flags & 0x80:
            self.user = fields[-2], fields[-1]

    def wait(self, number: int) -> list[tuple[str, bytes, bool]]:
        deadline = time.monotonic() + 20
        while len(self.messages) < number and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.messages

    def receives(self, topic: str) -> bool:
        deadline = time.monotonic() + 20
        while topic not in [message[0] for message in self.messages] and time.monotonic() < deadline:
            time.sleep(0.01)
        return topic in [message[0] for message in self.messages]


def connected(sink: MqttSink) -> bool:
    deadline = time.monotonic() + 20
    while not sink._client.is_connected() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(sink._client.is_connected())


@pytest.fixture
def broker() -> Iterator[Broker]:
    pytest.importorskip("paho.mqtt", reason="needs paho-mqtt (pip install '.[mqtt]')")
    broker = Broker()
    yield broker
    broker.close()


def test_frames_gaps_and_the_state_are_published(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    sink = MqttSink(f"mqtt://me:s3cret%40@127.0.0.1:{broker.port}/night/cam/")
    assert connected(sink)
    result = made_result(3)
    sink.write(result)
    sink.gap(Gap(5, 1.25, "lost"))
    sink.write(replace(made_result(4), tracks=made_tracks([3], confirmed=(3,))))
    messages = broker.wait(5)
    sink.close()
    sink.close()
    assert messages[0] == ("night/cam/state", b"online", True)
    assert messages[1][0] == "night/cam/frames"
    assert json.loads(messages[1][1]) == frame_record(result)
    assert messages[2][0] == "night/cam/events"
    assert messages[4][0] == "night/cam/events"
    assert json.loads(messages[4][1]) == {"event": "confirmed", "track": 3, "frame": 4, "t_ns": 40000000, "utc": ""}
    assert broker.wait(6)[5] == ("night/cam/state", b"offline", True)
    assert broker.user == ("me", "s3cret@")
    assert broker.will == ("night/cam/state", "offline")
    assert (sink.sent, sink.lost) == (4, 0)
    said = capsys.readouterr().err
    assert "connected" in said
    assert "s3cret" not in said


def test_a_broker_that_comes_later_gets_what_comes_then(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    port = broker.port
    broker.close()
    sink = MqttSink(f"mqtt://127.0.0.1:{port}")
    started = time.monotonic()
    for index in range(200):
        sink.write(made_result(index, []))
    assert time.monotonic() - started < 5  # nobody waited
    assert sink.lost == 200
    deadline = time.monotonic() + 20
    while "cannot be reached" not in (said := capsys.readouterr().err) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "cannot be reached, trying again" in said
    late = Broker(port)
    assert connected(sink)
    sink.write(made_result(7))
    assert json.loads(late.wait(2)[1][1])["frame"] == 7
    late.close()
    sink.close()
    assert "200 of" in capsys.readouterr().err


def test_a_lost_broker_is_found_again(broker: Broker) -> None:
    sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}/a")
    assert connected(sink)
    broker.close()
    deadline = time.monotonic() + 20
    while sink._client.is_connected() and time.monotonic() < deadline:
        time.sleep(0.01)
    again = Broker(broker.port)
    assert connected(sink)
    sink.write(made_result(1))
    assert again.receives("a/frames")  # the state may come twice, once as what the lost one had not acknowledged
    sink.close()
    again.close()


def test_a_refusal_is_told_once_and_without_the_password(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    broker.code = 5
    sink = MqttSink(f"mqtt://me:s3cret@127.0.0.1:{broker.port}")
    said, deadline = "", time.monotonic() + 20
    while "refused" not in said and time.monotonic() < deadline:
        said += capsys.readouterr().err
        time.sleep(0.01)
    sink.close()
    said += capsys.readouterr().err
    assert said.count("trying again") == 1
    assert "s3cret" not in said


@pytest.mark.parametrize(
    "url",
    ["", "http://u:s3cret@h", "mqtt://", "mqtt://u:s3cret@h:x", "mqtt://u:s3cret@h:99999", "mqtt://u:s3cret@h/a/#"],
)
def test_bad_urls_are_input_errors_that_keep_the_password(url: str) -> None:
    with pytest.raises(InputError) as caught:
        MqttSink(url)
    assert "s3cret" not in str(caught.value)
