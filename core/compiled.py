"""Python functions compiled to machine code by Numba: the arithmetic on single patches, where NumPy is all overhead.

Numba is imported, and a function compiled, when it is first called: help and errors do not wait for
it. Compiling takes seconds, on a small processor minutes, so the machine code is kept in
``$GLINT_CACHE/compiled`` (see ``files.cache_folder``) and only the first run ever pays.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

from glint.errors import MissingDependencyError, OutputError
from glint.files import cache_folder, open_to_others
from glint.interruption import Deferral
from glint.progress import told_if_slow

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered, so that they run in vector registers. Infinity and NaN keep their meaning.
_FREEDOM = {"reassoc", "contract", "arcp", "nsz"}
_OPTIONS = {"nogil": True, "fastmath": _FREEDOM, "error_model": "numpy", "no_cfunc_wrapper": True}
_NOTE = "compiling {} for this processor, once; all together may take minutes"
_WAITS = "waiting for another process, which compiles; all together may take minutes"
_LOCK = threading.RLock()
_ONE_THREAD = threading.RLock()
_SIGNALS = Deferral()
"""An exception inside of LLVM's callbacks would be lost: signals are handled between two passes, and at the end."""
_digests: dict[str, str] = {}


def _root() -> Path | None:
    try:
        return cache_folder("compiled")
    except RuntimeError:  # no home
        return None


_ROOT = _root()  # once: functions that are parts of each other belong together


ENTRIES: list[Compiled] = []
"""Functions that Python calls: they are in the library of :mod:`glint.native`."""


def compiled(function: Function) -> Function:
    """The function as machine code, without the interpreter's lock; division by zero gives infinity."""
    return cast(Function, Compiled(function))


def entry(*signatures: str) -> Callable[[Function], Function]:
    """As ``compiled``, for a function that Python calls: what it takes, in the words of ``native.signature``.

    Several signatures differ in the type of the first argument.
    """

    def entered(function: Function) -> Function:
        one = Compiled(function, signatures)
        ENTRIES.append(one)
        return cast(Function, one)

    return entered


class Compiled:
    """A function that is machine code from its first call on, and a part of every compiled one that calls it.

    Calls raise ``OutputError`` if the machine code cannot be kept for want of room.
    """

    def __init__(self, function: Callable[..., Any], signatures: tuple[str, ...] = ()) -> None:
        functools.update_wrapper(self, function)
        self.function, self.signatures = function, signatures
        self.label = f"{function.__module__}.{function.__name__}"
        self._dispatcher: Any = None
        self._called = False
        self._looked = not signatures
        self._native: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """What the function returns."""
        if not self._looked:
            self._native, self._looked = _ahead_of_time(self), True
        if self._native is not None:
            with suppress(KeyError):  # arrays of a type that nothing was made for: Numba makes it
                return self._native(*arguments)
        try:
            return self._call(*arguments, **named)
        except OSError as error:  # arithmetic raises none
            hint = "make room, or set GLINT_CACHE to another folder"
            raise OutputError(f"cannot keep machine code in {_ROOT}: {error.strerror or error}", hint=hint) from error

    def _call(self, *arguments: Any, **named: Any) -> Any:
        if self._called:
            return self._dispatcher(*arguments, **named)
        with _one_compiles(), told_if_slow(_NOTE.format(self.label.removeprefix("glint."))), _SIGNALS:
            if named:
                return self.dispatcher(*arguments, **named)
            self.dispatcher.compile(tuple(_numba().typeof(one) for one in arguments))
        self._called = True
        return self.dispatcher(*arguments)

    @property
    def dispatcher(self) -> Any:
        """Numba's object for the function."""
        with _LOCK:
            if self._dispatcher is None:
                self._dispatcher = _dispatcher(self.function)
            return self._dispatcher


def _ahead_of_time(function: Compiled) -> Callable[..., Any] | None:
    """The function in the library of machine code, if it is there and of these sources."""
    from glint.native.library import library

    opened = library()
    with suppress(OSError):  # no sources: then there is no telling
        return None if opened is None else opened.entry(function.label, digest_of(function.function))
    return None


@contextmanager
def _one_compiles() -> Iterator[None]:
    """One process at a time: the others say that they wait, and find what it has made."""
    with _ONE_THREAD, ExitStack() as stack:
        if _ROOT is not None:
            with suppress(OSError):  # no room, no right, a file system without locks: then each for itself
                _ROOT.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context((_ROOT / "lock").open("ab"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    with told_if_slow(_WAITS):
                        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _numba() -> Any:
    """Numba, or an error that says who needs it."""
    try:
        return importlib.import_module("numba")
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        raise MissingDependencyError(
            "this installation has no machine code for this processor, and no Numba to make it",
            hint='pip install "numba>=0.59"',
        ) from error


def _dispatcher(function: Callable[..., Any]) -> Any:
    numba = _numba()
    _teach_numba()
    folder = _folder(function)
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder or "")
    try:
        dispatcher = numba.njit(cache=folder is not None, **_OPTIONS)(function)
    finally:
        numba.config.CACHE_DIR = before
    if folder is not None:
        from glint.native.kept import SealedFiles  # with Numba

        dispatcher._cache._cache_file = SealedFiles.of(dispatcher._cache._cache_file)
    part_of, plain = dispatcher.get_call_template, numba.types.unliteral

    def as_part(arguments: Any, named: Any) -> Any:
        """One machine code for all whole numbers, and not another one for each that is written out."""
        return part_of([plain(one) for one in arguments], {name: plain(one) for name, one in named.items()})

    dispatcher.get_call_template = as_part
    return dispatcher


@functools.cache
def _teach_numba() -> None:
    """Let Numba see its own object in place of a ``Compiled``, and tell of its work."""
    from numba import types
    from numba.core import event as events
    from numba.extending import typeof_impl

    event: Any = events  # Numba has no types

    class Compiling(event.Listener):  # type: ignore[misc]
        def on_start(self, _: Any) -> None:
            _SIGNALS.__enter__()

        def on_end(self, _: Any) -> None:
            _SIGNALS.__exit__()

    class Passing(event.Listener):  # type: ignore[misc]
        def on_start(self, _: Any) -> None:
            _SIGNALS.handle()

        def on_end(self, _: Any) -> None:
            pass

    event.register("numba:compile", Compiling())
    event.register("numba:run_pass", Passing())

    @typeof_impl.register(Compiled)
    def _(value: Compiled, context: Any) -> Any:
        return types.Dispatcher(value.dispatcher)


def _folder(function: Callable[..., Any]) -> Path | None:
    """Where the function's machine code is kept, or None if nothing can be written there.

    Each state of the sources has a folder of its own: Numba does not see changes of functions that
    were taken from another module.
    """
    if _ROOT is None:
        return None
    try:
        folder = _ROOT / digest_of(function)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # no source, no room, no right
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) and open_to_others(folder) is None else None


def digest_of(function: Callable[..., Any]) -> str:
    """Of the sources that a compiled function is made of."""
    path = function.__code__.co_filename
    if path not in _digests:
        sources: dict[str, bytes] = {}
        _gather(function, sources)
        _digests[path] = hashlib.sha256(b"\0".join(sources[name] for name in sorted(sources))).hexdigest()[:16]
    return _digests[path]


def _gather(function: Callable[..., Any], sources: dict[str, bytes]) -> None:
    """Add the source of the function's module and, in turn, of those from which it has compiled functions.

    Also of those of its own package from which it has classes and other functions: constants come from there.
    """
    path = function.__code__.co_filename
    if path in sources:
        return
    sources[path] = Path(path).read_bytes()
    for value in list(function.__globals__.values()):
        if isinstance(value, Compiled):
            _gather(value.function, sources)
        elif isinstance(value, type | FunctionType):
            module = sys.modules.get(value.__module__)
            other = getattr(module, "__file__", None)
            if other is not None and value.__module__.split(".")[0] == function.__module__.split(".")[0]:
                sources.setdefault(f"{other} for constants", Path(other).read_bytes())
