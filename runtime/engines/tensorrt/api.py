"""The TensorRT that is installed: one object that hides where its releases and flavours differ.

Differences are found by looking (``hasattr``), never by comparing versions. Enum members are taken by
name: their numbers move between releases.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from glint.errors import InputError, MissingDependencyError

FLAVOURS = ("tensorrt", "tensorrt_rtx")

# By the name of TensorRT's enum member. trt.nptype fails with a NumPy newer than the bindings.
_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "FP8": "float8", "FP4": "float4",
    "INT4": "int4", "INT8": "int8", "INT32": "int32", "INT64": "int64", "UINT8": "uint8", "BOOL": "bool",
}  # fmt: skip

_SERIOUS = ("INTERNAL_ERROR", "ERROR")


class Messages:
    """What TensorRT said: the Python half of the logger that :meth:`TensorRT.logger` gives.

    Attributes:
        lines: messages in order, of the block of :meth:`listening`; verbose ones only if they were asked for.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._errors: dict[str, None] = {}
        self._kept: Callable[[str], bool] = lambda severity: False

    def keep(self, severity: str, message: str) -> None:
        """Keep one message; ``severity`` is the name of TensorRT's enum member."""
        if severity in _SERIOUS:
            self._errors[" ".join(message.split())] = None
        if self._kept(severity):
            self.lines.append(message)

    @contextmanager
    def listening(self, *, verbose: bool = False) -> Iterator[None]:
        """Keep the lines of a block; what failed before it does not count any more."""
        self.forget_errors()
        self.lines, self._kept = [], lambda severity: verbose or severity != "VERBOSE"
        try:
            yield
        finally:
            self.lines, self._kept = [], lambda severity: False
            self.forget_errors()

    def forget_errors(self) -> None:
        """Start a new attempt: what failed before does not count any more."""
        self._errors = {}

    def errors(self) -> str:
        """The distinct errors so far, for the text of an exception; "" if there are none."""
        return "; ".join(self._errors)


@dataclass(frozen=True)
class TensorRT:
    """An imported TensorRT.

    Attributes:
        module: the Python module itself.
        flavour: ``tensorrt`` or ``tensorrt_rtx``.
        version: of the library, e.g. ``10.3.0``.
    """

    module: Any
    flavour: str
    version: str

    @property
    def release(self) -> tuple[int, ...]:
        """The version's leading numbers, e.g. ``(10, 3, 0)``."""
        numbers = []
        for part in self.version.split("."):
            if not part.isdigit():
                break
            numbers.append(int(part))
        return tuple(numbers)

    @property
    def ahead_of_time(self) -> bool:
        """Whether engines can be built for a GPU that is not in this machine."""
        return hasattr(self.module.IBuilderConfig, "set_compute_capability")

    @property
    def keeps_timings(self) -> bool:
        """Whether the builder measures kernels on the GPU; tensorrt_rtx chooses them when it loads a plan."""
        return not self.ahead_of_time

    @property
    def can_be_weak(self) -> bool:
        """Whether the builder may choose precisions itself (the FP16 and INT8 flags of 10.x)."""
        return all(hasattr(self.module.BuilderFlag, flag) for flag in ("FP16", "INT8"))

    def network_flags(self, *, weak: bool = False) -> int:
        """Flags of ``create_network``: explicit batch where it must be said, and strong typing unless ``weak``."""
        names = ("EXPLICIT_BATCH",) if weak else ("EXPLICIT_BATCH", "STRONGLY_TYPED")
        members = (getattr(self.module.NetworkDefinitionCreationFlag, name, None) for name in names)
        return sum(1 << int(member) for member in members if member is not None)

    def dtype_name(self, dtype: Any) -> str:
        """NumPy's (or ONNX's) name of a TensorRT data type, e.g. ``float32``."""
        return _DTYPES.get(dtype.name, dtype.name.lower())

    def logger(self) -> Messages:
        """The logger to hand to TensorRT, which keeps what it is told.

        There is one: while a builder or a runtime lives, TensorRT tells much to the logger of the first one alone,
        that memory ran out for instance.
        """
        return _logger(self.module)


@lru_cache(maxsize=len(FLAVOURS))
def _logger(module: Any) -> Messages:
    interface = module.ILogger

    class Logger(Messages, interface):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            interface.__init__(self)
            Messages.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            self.keep(severity.name, msg)

    return Logger()


def load(flavour: str | None = None) -> TensorRT:
    """Import TensorRT.

    Args:
        flavour: one of :data:`FLAVOURS`; default: the first that can be imported.

    Raises:
        InputError: if there is no such flavour.
        MissingDependencyError: if it cannot be imported.
    """
    if flavour is not None and flavour not in FLAVOURS:
        raise InputError(f"TensorRT flavour: expected {' or '.join(FLAVOURS)}, got {flavour!r}")
    reasons = []
    for name in FLAVOURS if flavour is None else (flavour,):
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: a library of it is missing or damaged
            reasons.append(f"{name}: {error}")
        else:
            version = str(getattr(module, "__version__", ""))
            if hasattr(getattr(module, "NetworkDefinitionCreationFlag", None), "STRONGLY_TYPED"):
                return TensorRT(module, name, version)
            found = f"release {version}" if version else "something else of that name"
            reasons.append(f"{name}: {found}, expected 10 or newer")
    raise MissingDependencyError(f"TensorRT cannot be used ({'; '.join(reasons)})", hint=_hint(flavour))


def _hint(flavour: str | None) -> str:
    if flavour == "tensorrt_rtx":
        return "pip install tensorrt_rtx (workstations with an RTX GPU; not for Jetson)"
    return (
        "on a Jetson: sudo apt install python3-libnvinfer, and python3 -m venv --system-site-packages "
        "so that the environment sees /usr/lib/python3/dist-packages"
    )
