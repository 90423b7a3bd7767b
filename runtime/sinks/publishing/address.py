"""Where to send or to listen: ``HOST:PORT``."""

from __future__ import annotations

from urllib.parse import urlsplit

from glint.errors import InputError


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:8080``, ``[::1]:8080``, ``http://localhost:8080`` or ``:8080`` (this machine only).

    Raises:
        InputError: if it is none of these.
    """
    expected = InputError(f"address {text!r}: expected HOST:PORT, such as 127.0.0.1:8080")
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise expected from error
    if port is None or parts.scheme != "http" or parts.username or parts.path.strip("/") or parts.query:
        raise expected
    return host or "127.0.0.1", port
