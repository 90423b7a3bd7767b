"""glint: infrared small-target detection and unmixing for Jetson-class devices.

The Python interface is documented in docs/python.md. Each of its names is imported when it is first used, so that
``import glint`` is instant.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

API = {
    "Blobs": "glint.types",
    "Frame": "glint.types",
    "GlintError": "glint.errors",
    "Pipeline": "glint.runtime.pipeline.pipeline",
    "Result": "glint.runtime.pipeline.pipeline",
    "Settings": "glint.runtime.pipeline.settings",
    "TargetFlag": "glint.types",
    "Targets": "glint.types",
    "detect": "glint.runtime.pipeline.masks",
    "run": "glint.runtime.commands.run",
    "speaking": "glint.progress",
    "stream": "glint.runtime.stream.results",
    "unmix": "glint.runtime.unmixing.unmix",
}
"""The module of each public name; ``__init__.pyi`` tells them to editors and type checkers."""

__all__ = ["__version__", *API]


def __getattr__(name: str) -> Any:
    if name not in API:
        raise AttributeError(f"module 'glint' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(API[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *API})
