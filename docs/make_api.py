"""Write docs/api.md from the docstrings: the public names of ``import glint`` with their signatures.

``python docs/make_api.py`` writes it, ``python docs/make_api.py --check`` says whether it is up to date.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

import glint

WIDTH = 110  # characters of a signature in one line
PAGE = Path(__file__).with_name("api.md")
HEAD = """# Reference of the Python interface

Written by `make api` from the docstrings; how it is used: [python.md](python.md).
"""


def page() -> str:
    """The text of the page."""
    return "\n".join([HEAD, *(_section(name, getattr(glint, name)) for name in sorted(glint.API))])


def _section(name: str, value: Any) -> str:
    parts = [f"## {name}\n", f"In `{glint.API[name]}`.\n"]
    if not inspect.isclass(value):
        return "\n".join([*parts, _signature(value), _text(value)])
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
    parts[1] = f"In `{glint.API[name]}`" + (f", a kind of `{bases}`" if bases else "") + ".\n"
    parts.append(_text(value))
    if dataclasses.is_dataclass(value):
        parts.append(_fields(value))
    members = [(n, m) for n, m in vars(value).items() if n == "__call__" or not n.startswith("_")]
    for member, function in members:
        inner = getattr(function, "__func__", function)
        if inspect.isfunction(inner):
            parts += [f"### {name}.{member}\n", _signature(inner), _text(inner)]
        elif isinstance(function, property):
            parts += [f"### {name}.{member}\n", _text(function)]
    return "\n".join(parts)


def _source(value: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def _signature(function: Any) -> str:
    """As it stands in the source: the same for every version of Python and NumPy."""
    node = _source(inspect.unwrap(function))
    assert isinstance(node, ast.FunctionDef)  # noqa: S101
    returns = f" -> {_code(node.returns)}" if node.returns else ""
    pieces = _pieces(node.args)
    if options := getattr(function, "takes", None):  # fields of a data class, whose name is the last argument's
        pieces = [*pieces[:-1], "*", *_declared(options)]
    whole = f"{node.name}({', '.join(pieces)}){returns}"
    if len(whole) > WIDTH:
        whole = f"{node.name}(\n" + "".join(f"    {piece},\n" for piece in pieces) + f"){returns}"
    return f"```python\n{whole}\n```\n"


def _declared(options: Any) -> list[str]:
    """The fields of a data class and of those that it builds on, as they stand in the source."""
    lines = [piece for base in options.__bases__ if base is not object for piece in _declared(base)]
    node = _source(options)
    assert isinstance(node, ast.ClassDef)  # noqa: S101
    return lines + [_code(line) for line in node.body if isinstance(line, ast.AnnAssign)]


def _code(node: ast.AST) -> str:
    """With double quotes, as the formatter wants them."""
    return ast.unparse(node).replace("'", '"')


def _pieces(arguments: ast.arguments) -> list[str]:
    def text(argument: ast.arg, default: ast.expr | None) -> str:
        return _code(argument) + (f" = {_code(default)}" if default is not None else "")

    places = arguments.posonlyargs + arguments.args
    given = [None] * (len(places) - len(arguments.defaults)) + list(arguments.defaults)
    pieces = [text(a, d) for a, d in zip(places, given)]
    if arguments.vararg or arguments.kwonlyargs:
        pieces.append("*" + (_code(arguments.vararg) if arguments.vararg else ""))
    pieces += [text(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults)]
    return pieces + (["**" + _code(arguments.kwarg)] if arguments.kwarg else [])


def _fields(value: Any) -> str:
    return "```python\n" + "\n".join(_declared(value)) + "\n```\n"


def _text(value: Any) -> str:
    """A docstring: its words as they are, its sections as a block that keeps their lines."""
    text = (inspect.getdoc(value) or "").replace("``", "`")
    for role in (":class:", ":func:", ":meth:", ":attr:", ":data:"):
        text = text.replace(role, "")
    words: list[str] = []
    for block in text.split("\n\n"):
        head, _, rest = block.partition("\n")
        if head in ("Args:", "Attributes:", "Raises:", "Returns:"):
            words.append(f"{head}\n\n```text\n{textwrap.dedent(rest)}\n```")
        else:
            words.append(block)
    return "\n\n".join(words) + "\n"


def main() -> int:
    """Write the page, or check it."""
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.name} is out of date: make api", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
