"""Calls that must not wait for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def within(seconds: float, action: Callable[[], Any]) -> Any:
    """Run in a thread of its own; fails if that takes too long, passes its error on."""
    box: list[Any] = []

    def call() -> None:
        try:
            box.append((action(), None))
        except BaseException as error:
            box.append((None, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"still waiting after {seconds} s"
    value, error = box[0]
    if error is not None:
        raise error
    return value
