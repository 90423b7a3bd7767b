"""The libraries that glint asks for, read from its own metadata: which, by which extra, and how to get one."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from functools import cache

from glint.errors import MissingDependencyError

DISTRIBUTION = "glint-ir"
"""What pip calls glint."""
_MODULES = {  # where the names differ
    "pillow": "PIL", "paho-mqtt": "paho", "cuda-bindings": "cuda.bindings", "mcap-ros2-support": "mcap_ros2",
}  # fmt: skip
_NOT_FOR_USERS = ("dev", "docs")


@dataclass(frozen=True)
class Library:
    """A distribution, the module that it brings, and the extra that asks for it; "" if glint always does."""

    distribution: str
    module: str
    extra: str

    @property
    def fix(self) -> str:
        """One line that installs it."""
        if not self.extra:
            return f"pip install {self.distribution}"
        return f"pip install '.[{self.extra}]' in the checkout of glint"


@cache
def libraries() -> tuple[Library, ...]:
    """All that users may need, in the order of ``pyproject.toml``; nothing where glint is not installed."""
    lines = _requirements(DISTRIBUTION) or _requirements("glint")  # what a checkout was called before
    found: dict[str, Library] = {}
    for line in lines:
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        extra = re.search(r"extra == [\"'](\w+)[\"']", line)
        library = Library(name, _MODULES.get(name, name), extra[1] if extra else "")
        if name not in (DISTRIBUTION, "glint") and library.extra not in _NOT_FOR_USERS:
            found.setdefault(name, library)
    return tuple(found.values())


def _requirements(distribution: str) -> list[str]:
    try:
        return importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def library_of(module: str) -> Library | None:
    """The library that brings a module or the package that it is in; None if glint asks for none such."""
    return next((one for one in libraries() if module.split(".")[0] == one.module.split(".")[0]), None)


def missing(module: str, message: str) -> MissingDependencyError:
    """The error to raise for a module that is not there; its hint says how to get it."""
    library = library_of(module)
    return MissingDependencyError(message, hint=None if library is None else library.fix)
