"""Settings as frozen dataclasses, read from and written to JSON with the mistakes pointed at."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from glint.errors import InputError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """JSON-ready object of a dataclass: tuples become lists, nested dataclasses objects."""
    return typing.cast("dict[str, Any]", _plain(dataclasses.asdict(config)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def from_dict(cls: type[T], data: Any, *, where: str) -> T:
    """Build the dataclass ``cls`` from a parsed JSON object.

    Args:
        cls: a dataclass; its fields may be numbers, strings, booleans, tuples, mappings, other
            dataclasses, and any of these or None.
        data: the parsed object; missing keys take the field's default.
        where: what the object is, for messages, e.g. ``"model card lsnet.json"``.

    Raises:
        InputError: on an unknown or missing key or a value of the wrong type; it names the key
            and, for an unknown one, the nearest known key.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: expected an object, got {type(data).__name__}")
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise InputError(f"{where}: unknown key {key!r}", hint=hint)
    hints = typing.get_type_hints(cls)
    values = {}
    for name, spec in known.items():
        if name in data:
            values[name] = _coerce(hints[name], data[name], f"{where}: {name}")
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}: missing key {name!r}", hint="add it; a file that glint wrote has all of them")
    try:
        return cls(**values)
    except InputError as error:  # what the class itself refuses
        raise InputError(f"{where}: {error}", hint=error.hint) from error


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (a for a in arguments if a is not type(None))
        return _coerce(inner, value, where)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast("type[Any]", hint), value, where=where)
    if isinstance(hint, type) and issubclass(hint, tuple):  # a NamedTuple
        return hint(*_coerce_tuple(tuple(typing.get_type_hints(hint).values()), value, where))
    if origin is tuple:
        return _coerce_tuple(arguments, value, where)
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected an object, got {value!r}")
        return dict(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise InputError(f"{where}: expected float, got a number too large for one") from error
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise InputError(f"{where}: expected {hint.__name__}, got {value!r}")


def _coerce_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{where}: expected a list, got {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_coerce(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(value) != len(arguments):
        raise InputError(f"{where}: expected {len(arguments)} entries, got {len(value)}")
    return tuple(_coerce(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(arguments, value)))
