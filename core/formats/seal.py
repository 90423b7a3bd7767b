"""Seals of what glint keeps for itself: engines, timings and machine code.

Without a key a seal is a checksum: it finds what was torn, mixed up or damaged, and anybody who can write the file can
write the seal, too. With ``GLINT_KEY`` in the environment it is an HMAC: only who has the key can make one.
"""

from __future__ import annotations

import hashlib
import hmac
import os

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
    return hmac.compare_digest(seal_of(content).encode(), seal.encode("utf-8", "surrogatepass"))


def sealed(content: bytes) -> bytes:
    """The content behind its seal."""
    return seal_of(content).encode() + content


def unsealed(data: bytes) -> bytes | None:
    """The content, or None if the seal before it is another's."""
    content = data[_SEAL_BYTES:]
    return content if is_sealed(content, data[:_SEAL_BYTES].decode("latin-1")) else None
