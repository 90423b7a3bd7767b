"""What a manifest says of how and when its run was made."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import time
from typing import Any

from glint import __version__
from glint.clock import utc_text
from glint.errors import redact, safe_uri
from glint.libraries import libraries


class Provenance:
    """Remembers when a run began."""

    def __init__(self) -> None:
        self._started_ns = time.time_ns()

    def as_dict(self) -> dict[str, Any]:
        """``argv`` without secrets, ``versions``, and ``utc`` of beginning and end."""
        return {
            "argv": [safe_uri(redact(word)) for word in sys.argv],
            "utc": {"started": utc_text(self._started_ns), "ended": utc_text(time.time_ns())},
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Of Python, the machine, and the libraries that are loaded."""
    found = {"glint": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for library in libraries():
        if library.module.partition(".")[0] in sys.modules:
            try:
                found[library.distribution] = importlib.metadata.version(library.distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
    return found
