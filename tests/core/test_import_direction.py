"""Arrows point one way: core <- {training, runtime} <- {export, calibration} <- benchmarks."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

import glint
from glint.cli import COMMANDS

ALLOWED = {
    "core": {"core"},
    "training": {"core", "training"},
    "runtime": {"core", "runtime"},
    "export": {"core", "training", "export"},
    "calibration": {"core", "runtime", "calibration"},
}
LIBRARIES = {
    "core": {"numpy", "scipy", "numba", "PIL"},
    "training": {"numpy", "scipy", "torch", "safetensors"},
    "calibration": {"numpy", "scipy", "onnx", "onnxruntime"},
}
PACKAGES = {"training", "runtime", "export", "calibration", "benchmarks"}


def folder(package):
    """Where a package is installed; found without importing it, so that torch is not needed."""
    if package == "core":
        return Path(next(iter(glint.__path__)))
    spec = importlib.util.find_spec(f"glint.{package}")
    return Path(next(iter(spec.submodule_search_locations)))


def sources(package):
    # In a wheel the other packages lie inside core's folder: take core's own files and metrics only.
    root = folder(package)
    files = [*root.glob("*.py"), *root.glob("metrics/**/*.py")] if package == "core" else list(root.rglob("*.py"))
    assert files
    return files


def imports(text, module):
    """Dotted names that a module imports anywhere, also inside functions; ``module`` is its own name."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parent, *filter(None, [node.module])])
            found |= {f"{base}.{name.name}" for name in node.names}
    return found


def imported(package):
    root = folder(package)
    for path in sources(package):
        inside = ".".join(path.relative_to(root).with_suffix("").parts)
        name = f"glint.{inside}" if package == "core" else f"glint.{package}.{inside}"
        for dotted in sorted(imports(path.read_text(encoding="utf-8"), name)):
            yield path, dotted


def owner(dotted):
    second = dotted.split(".")[1] if "." in dotted else ""
    return second if second in PACKAGES else "core"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import glint.runtime.engine as e", {"glint.runtime.engine"}),
        ("from glint import runtime, types", {"glint.runtime", "glint.types"}),
        ("def f():\n    from glint.training.loop import Recipe", {"glint.training.loop.Recipe"}),
        ("from . import files", {"glint.files"}),
        ("from .runtime import engine", {"glint.runtime.engine"}),
    ],
)
def test_the_reader_of_imports_sees_every_form(text, expected):
    assert imports(text, "glint.module") == expected


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_stands_below_them(package):
    wrong = [
        f"{path.name}: {dotted}"
        for path, dotted in imported(package)
        if dotted.split(".")[0] == "glint" and owner(dotted) not in ALLOWED[package]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", LIBRARIES)
def test_packages_use_only_their_libraries(package):
    others = {dotted.split(".")[0] for _, dotted in imported(package)} - {"glint"} - set(sys.stdlib_module_names)
    assert others <= LIBRARIES[package]


@pytest.mark.parametrize("package", ["core", "runtime"])
def test_what_runs_on_a_device_never_imports_torch_or_onnx(package):
    tops = {dotted.split(".")[0] for _, dotted in imported(package)}
    assert tops.isdisjoint({"torch", "safetensors", "onnx", "onnxscript"})


@pytest.mark.parametrize("package", [*ALLOWED, "benchmarks"])
def test_packages_are_imported_by_their_installed_name(package):
    bare = {dotted.split(".")[0] for _, dotted in imported(package)} & {*PACKAGES, "core", "zoo", "metrics"}
    assert bare == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_module_with_arguments_and_a_main(command):
    name = COMMANDS[command][0]
    package, _, module = name.removeprefix("glint.").rpartition(".")
    tree = ast.parse((folder(package or "core") / f"{module}.py").read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"add_arguments", "main"} <= functions
