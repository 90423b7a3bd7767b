"""Seals of what glint keeps for itself: engines, timings and machine code.

Without a key a seal is a checksum: it finds what was torn, mixed up or damaged, and anybody who can write the file can
write the seal, too. With ``GLINT_KEY`` in the environment it is an HMAC: only who has the key can make one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from typing import Any

KEY = "GLINT_KEY"
_SEAL_BYTES = 64  # bytes of a seal


def seal_of(content: bytes) -> str:
    """SHA-256 of the content, or HMAC-SHA-256 with ``GLINT_KEY`` if that is set; hexadecimal."""
    key = os.environ.get(KEY)
    if not key:
        return hashlib.sha256(content).hexdigest()
    return hmac.new(key.encode("utf-8", "surrogateescape"), content, hashlib.sha256).hexdigest()


def is_sealed(content: bytes, seal: str) -> bool:
    """Whether the seal is that of the content, under the key of now."""
    return hmac.compare_digest(seal_of(content).encode(), _bytes(seal))


def seal_of_document(document: dict[str, Any]) -> str:
    """Seal of a JSON object, whose own field ``seal`` counts as empty."""
    return seal_of(json.dumps({**document, "seal": ""}, sort_keys=True).encode())


def broken_seal(document: dict[str, Any]) -> str | None:
    """What is wrong with a JSON object whose field ``seal`` is not its seal, or None."""
    seal = document.get("seal")
    if isinstance(seal, str) and hmac.compare_digest(seal_of_document(document).encode(), _bytes(seal)):
        return None
    other = f"another {KEY}" if has_key() else f"a {KEY}, and none is set here"
    return f"was changed after it was written, or sealed under {other}"


def has_key() -> bool:
    """Whether seals are signatures here."""
    return bool(os.environ.get(KEY))


def _bytes(seal: str) -> bytes:
    return seal.encode("utf-8", "surrogatepass")


def sealed(content: bytes) -> bytes:
    """The content behind its seal."""
    return seal_of(content).encode() + content


def unsealed(data: bytes) -> bytes | None:
    """The content, or None if the seal before it is another's."""
    content = data[_SEAL_BYTES:]
    return content if is_sealed(content, data[:_SEAL_BYTES].decode("latin-1")) else None
