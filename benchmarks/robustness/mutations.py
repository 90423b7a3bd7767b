"""Damage: what happens to bytes on their way, and what people and attackers do to text."""

from __future__ import annotations

import random
from collections.abc import Callable

_NUMBERS = (b"NaN", b"-1", b"0", b"1e999", b"1e308", b"-0.0", b"99999999999999999999", b"true", b"null", b'""', b"[]")
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_DEEP_BRACKETS = 5000  # brackets inside each other


def _flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def _extreme(data: bytearray, rng: random.Random) -> None:
    """A number of the header that cannot be."""
    size = rng.choice((2, 4))
    place = rng.randrange(min(len(data), 512))
    value = rng.choice(_EXTREMES) & (256**size - 1)
    data[place : place + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _drop(data: bytearray, rng: random.Random) -> None:
    start, length = _block(data, rng)
    del data[start : start + length]


def _double(data: bytearray, rng: random.Random) -> None:
    start, length = _block(data, rng)
    data[start:start] = data[start : start + length]


def _blank(data: bytearray, rng: random.Random) -> None:
    start, length = _block(data, rng)
    data[start : start + length] = bytes(len(data[start : start + length]))


def _append(data: bytearray, rng: random.Random) -> None:
    data += rng.choice((bytes(64), rng.randbytes(64), bytes(data[:4096])))


def _block(data: bytearray, rng: random.Random) -> tuple[int, int]:
    return rng.randrange(len(data)), rng.randrange(1, max(2, min(4096, len(data) // 2)))


def _number(data: bytearray, rng: random.Random) -> None:
    """A number of a text becomes something else."""
    places = [i for i, c in enumerate(data) if 48 <= c <= 57]
    if not places:
        return _set(data, rng)
    start = end = rng.choice(places)
    while start and data[start - 1] in b"0123456789.eE+-":
        start -= 1
    while end < len(data) and data[end] in b"0123456789.eE+-":
        end += 1
    data[start:end] = rng.choice(_NUMBERS)
    return None


def _nest(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    data[place:place] = rng.choice((b"[", b'{"a":', b"<a>", b"(")) * _DEEP_BRACKETS


BYTES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _flip, _flip, _set, _extreme, _extreme, _cut, _drop, _double, _blank, _append,
)  # fmt: skip
TEXT = (*BYTES, _number, _number, _number, _number, _nest)


def mutated(data: bytes, seed: int, *, text: bool) -> bytes:
    """The bytes with one to three kinds of damage, the same for the same ``seed``."""
    rng = random.Random(seed)  # noqa: S311  (damage, no secret)
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not result:
            break
        rng.choice(TEXT if text else BYTES)(result, rng)
    return bytes(result)
