from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glint.errors import InputError, OutputError
from glint.progress import speaking
from glint.runtime.sinks.publishing.address import parse_address
from glint.runtime.view import web_server as web
from glint.runtime.view.web_server import Answer, WebServer, is_loopback, json_answer


def get(server: WebServer, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=10)) as connection:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture
def server() -> Iterator[WebServer]:
    routes = {
        "/echo": lambda query: json_answer(dict(query)),
        "/big": lambda query: Answer(b"x" * 50_000_000, "text/plain"),
        "/fault": lambda query: json_answer(1 // int(query["by"])),
        "/healthz": lambda query: json_answer("well"),
    }
    server = WebServer("127.0.0.1", 0, routes, what="a test", clients=8)
    yield server
    server.close()


def test_paths_answer_with_their_query(server: WebServer) -> None:
    assert get(server, "/echo?a=1&b=x%20y") == (200, b'{"a": "1", "b": "x y"}')
    assert get(server, "/nothing")[0] == 404
    assert get(server, "/echo", method="POST")[0] == 501


def test_a_head_has_no_body(server: WebServer) -> None:
    assert get(server, "/echo", method="HEAD") == (200, b"")


def test_every_answer_forbids_other_sites_to_use_it(server: WebServer) -> None:
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=10)) as connection:
        connection.request("GET", "/echo")
        answer = connection.getresponse()
        headers = {k.lower(): v for k, v in answer.getheaders()}
        answer.read()
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers
    assert headers["server"] == "glint"


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:80", "127.3.2.1:9"])
def test_this_machine_may_use_any_name_of_its_own(server: WebServer, host: str) -> None:
    assert get(server, "/echo", {"Host": host})[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "[", "10.0.0.1"])
def test_a_foreign_name_for_a_private_address_is_refused(server: WebServer, host: str) -> None:
    assert get(server, "/echo", {"Host": host})[0] == 403


def test_a_public_address_warns_and_takes_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    server = WebServer("0.0.0.0", 0, {"/": lambda query: json_answer(1)}, what="the live view")  # noqa: S104
    try:
        assert "warning: the live view" in capsys.readouterr().err
        server.host = "127.0.0.1"
        assert get(server, "/", {"Host": "jetson.local"})[0] == 200
    finally:
        server.close()


def test_a_private_address_is_no_warning(server: WebServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert "warning" not in capsys.readouterr().err


def test_a_port_in_use_is_an_error_that_says_so(server: WebServer) -> None:
    with pytest.raises(OutputError, match=f"127.0.0.1:{server.port}: Address already in use") as caught:
        WebServer("127.0.0.1", server.port, {}, what="a test")
    assert "another port" in (caught.value.hint or "")


def test_addresses_of_others_and_ports_that_are_none_are_errors() -> None:
    with pytest.raises(OutputError, match=r"192\.0\.2\.1"):
        WebServer("192.0.2.1", 0, {}, what="a test")
    with pytest.raises(InputError, match="65536"):
        WebServer("127.0.0.1", 65536, {}, what="a test")


def test_more_clients_than_allowed_are_turned_away_and_then_welcome_again(server: WebServer) -> None:
    idle = [socket.create_connection((server.host, server.port)) for _ in range(8)]
    try:
        deadline = time.monotonic() + 5
        while len(server._server._open) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert get(server, "/echo")[0] == 503
    finally:
        for connection in idle:
            connection.close()
    deadline = time.monotonic() + 5
    while server._server._open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert get(server, "/echo")[0] == 200


def test_fifty_clients_at_once_are_all_answered() -> None:
    server = WebServer("127.0.0.1", 0, {"/echo": lambda query: json_answer(dict(query))}, what="a test")
    answers: list[int] = []

    def ask() -> None:
        for _ in range(5):
            answers.append(get(server, "/echo?a=1")[0])

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.close()
    assert answers == [200] * 250


def test_a_client_that_does_not_read_holds_up_nobody(server: WebServer) -> None:
    with socket.create_connection((server.host, server.port)) as lazy:
        lazy.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.1)
        started = time.monotonic()
        assert get(server, "/echo")[0] == 200
        assert time.monotonic() - started < 2


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch, server: WebServer) -> None:
    monkeypatch.setattr(web._Handler, "timeout", 0.3)
    with socket.create_connection((server.host, server.port)) as lazy:
        lazy.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deadline = time.monotonic() + 5
        time.sleep(0.1)
        while server._server._open and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not server._server._open


def test_whoever_asks_for_the_health_is_answered_however_many_others_hang_on(server: WebServer) -> None:
    idle = [socket.create_connection((server.host, server.port)) for _ in range(20)]
    try:
        for _ in range(3):
            assert get(server, "/healthz") == (200, b'"well"')
    finally:
        for connection in idle:
            connection.close()


def test_a_request_that_drips_in_is_cut_off(monkeypatch: pytest.MonkeyPatch, server: WebServer) -> None:
    monkeypatch.setattr(web, "_PATIENCE_S", 0.3)
    with socket.create_connection((server.host, server.port), timeout=5) as slow:
        started = time.monotonic()
        with pytest.raises(OSError):  # reset or broken, as it happens
            while time.monotonic() < started + 5:
                slow.sendall(b"G")
                time.sleep(0.02)
        assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://[ HTTP/1.1",
        b"GET /echo?" + b"a=1&" * 200 + b" HTTP/1.1",
        b"\x00\xff\xfe",
        b"GET",
        b"GET / HTTP/9.x",
    ],
)
def test_malformed_requests_are_answered_and_nothing_is_told(
    server: WebServer, capsys: pytest.CaptureFixture[str], line: bytes
) -> None:
    with socket.create_connection((server.host, server.port), timeout=5) as client:
        client.sendall(line + b"\r\nHost: localhost\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(4096):
            answer += part
    assert b"400" in answer or b"505" in answer or not answer
    assert capsys.readouterr() == ("", "")


def test_closing_hangs_up_and_frees_the_port(server: WebServer) -> None:
    with socket.create_connection((server.host, server.port), timeout=5) as idle:
        assert get(server, "/echo")[0] == 200
        started = time.monotonic()
        server.close()
        assert idle.recv(1) == b""
        assert time.monotonic() - started < 3
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), timeout=5)
    WebServer(server.host, server.port, {}, what="a test").close()
    server.close()


def test_a_fault_of_ours_is_told_and_ends_only_that_request(
    server: WebServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with speaking(), pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        get(server, "/fault?by=0")
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert get(server, "/fault?by=1") == (200, b"1")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        (":8080", ("127.0.0.1", 8080)),
        ("[::1]:80", ("::1", 80)),
        ("http://localhost:8080/", ("localhost", 8080)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),  # noqa: S104
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "8080", "host", "host:", "host:x", "h:99999", "ftp://h:1", "u:p@h:1", "h:1/p", "[:1"]
)
def test_what_is_no_address_is_an_error_that_says_what_is(text: str) -> None:
    with pytest.raises(InputError, match="expected HOST:PORT"):
        parse_address(text)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_an_input_error(text: str) -> None:
    try:
        host, port = parse_address(text)
    except InputError:
        return
    assert host
    assert 0 <= port <= 65535
    is_loopback(host)
