"""The clock on the wall beside the monotonic one."""

from __future__ import annotations

import time
from datetime import datetime, timezone


def utc_of(t_ns: int) -> int:
    """UTC of a moment of ``time.monotonic_ns``, nanoseconds since 1970, as the clock stands now."""
    return time.time_ns() - (time.monotonic_ns() - t_ns)


def utc_text(utc_ns: int) -> str:
    """Nanoseconds since 1970 as ISO 8601 with milliseconds, e.g. ``2026-11-28T20:15:03.120Z``."""
    seconds, rest = divmod(utc_ns, 10**9)
    moment = datetime.fromtimestamp(seconds, tz=timezone.utc).replace(microsecond=rest // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
