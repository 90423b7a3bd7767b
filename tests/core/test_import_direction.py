"""Arrows point one way: core <- {training, runtime} <- {export, calibration} <- benchmarks."""

import ast
import importlib.util
import sys
from collections import Counter
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
    "core": {"numpy", "scipy", "numba", "llvmlite", "PIL", "shtab"},
    "training": {"numpy", "scipy", "torch", "safetensors", "PIL"},
    "calibration": {"numpy", "scipy", "onnx", "onnxruntime"},
}
EXCEPTIONS = {
    "calibration": "glint.export.lint"
}  # what TensorRT refuses, asked of files that calibration reads and writes
PACKAGES = {"training", "runtime", "export", "calibration", "benchmarks"}

# Rooms inside a package, from the top to the bottom: a room imports only rooms of the lines below its own.
# "." is the files of the package itself; in core, the few that know rooms have a line of their own.
ROOMS = {
    "core": [
        ["simulate_command"],
        ["simulate"],
        ["data", "metrics", "cards"],
        ["simulation", "processing"],
        ["build_native"],
        ["optics", "images", "compiled"],
        ["native"],
        ["formats"],
        ["."],
    ],
    "training": [["train", "mine"], ["loop"], ["tasks"], ["networks"], ["."]],
    "export": [["inspect"], ["."], ["lint"]],
    "calibration": [["."]],
    "runtime": [
        ["commands"],
        ["archive"],
        ["stream", "view"],
        ["sinks"],
        ["pipeline"],
        ["tracking"],
        ["unmixing"],
        ["sources", "engines", "device"],
    ],
    "benchmarks": [
        ["robustness"],
        ["bench", "gpu_check"],
        ["tables"],
        ["evaluate", "parity"],
        ["streams"],
        ["peers", "reporting", "torch_engine"],
        ["tool"],
    ],
}
DOORS = {"glint.runtime.engines.choose", "glint.runtime.sources.open"}  # what stands beside a door never imports it
MOST_FILES = 20  # in a folder


def folder(package):
    """Where a package is installed; found without importing it, so that torch is not needed."""
    if package == "core":
        return Path(next(iter(glint.__path__)))
    spec = importlib.util.find_spec(f"glint.{package}")
    return Path(next(iter(spec.submodule_search_locations)))


def sources(package):
    root = folder(package)
    # In a wheel the other packages lie inside core's folder.
    others = {root / name for name in (*PACKAGES, "zoo")} if package == "core" else set()
    files = [p for p in sorted(root.rglob("*.py")) if not others.intersection(p.parents)]
    assert files
    return files


def module_name(package, path):
    inside = path.relative_to(folder(package)).with_suffix("").parts
    names = ("glint",) if package == "core" else ("glint", package)
    return ".".join((*names, *inside)).removesuffix(".__init__")


def room(package, dotted):
    """The room of a module: its line's word in ``ROOMS``."""
    rest = dotted.split(".")[1:] if package == "core" else dotted.split(".")[2:]
    known = {word for line in ROOMS[package] for word in line}
    return rest[0] if rest and rest[0] in known else "."


def modules():
    """Every module of the project, by its dotted name, with its package and its file."""
    return {module_name(p, path): (p, path) for p in (*ALLOWED, "benchmarks") for path in sources(p)}


def graph():
    """Which modules each module imports, lazily or not."""
    known = modules()
    edges = {}
    for name, (_, path) in known.items():
        found = imports(path.read_text(encoding="utf-8"), name)
        # "from glint.a.b import c" names glint.a.b.c, which is a module or a name in glint.a.b.
        targets = {dotted if dotted in known else dotted.rpartition(".")[0] for dotted in found}
        edges[name] = {t for t in targets if t in known and t != name and known[t][1].name != "__init__.py"}
    return edges


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
    for path in sources(package):
        for dotted in sorted(imports(path.read_text(encoding="utf-8"), module_name(package, path))):
            yield path, dotted


def owner(dotted):
    second = dotted.split(".")[1] if "." in dotted else ""
    return second if second in PACKAGES else "core"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import glint.runtime.engines.base as e", {"glint.runtime.engines.base"}),
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
        if dotted.split(".")[0] == "glint"
        and owner(dotted) not in ALLOWED[package]
        and not dotted.startswith(EXCEPTIONS.get(package, dotted + "."))
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_only_what_stands_below_them(package):
    height = {word: -line for line, words in enumerate(ROOMS[package]) for word in words}
    wrong = []
    for name, targets in graph().items():
        if owner(name) != package:
            continue
        mine = room(package, name)
        for target in sorted(t for t in targets if owner(t) == package):
            theirs = room(package, target)
            if theirs != mine and height[theirs] >= height[mine]:
                wrong.append(f"{name} imports {target}")
    assert wrong == []


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_stands_in_the_list(package):
    rooms = {word for line in ROOMS[package] for word in line} | {"__pycache__"}
    folders = {p.parent.name for p in folder(package).glob("*/__init__.py")} - {*PACKAGES, "zoo"}
    assert folders <= rooms


def test_no_two_files_import_each_other_in_a_circle():
    edges = graph()
    done, way = set(), []

    def walk(name):
        assert name not in way, "a circle: " + " > ".join([*way[way.index(name) :], name])
        if name in done:
            return
        way.append(name)
        for target in sorted(edges[name]):
            walk(target)
        way.pop()
        done.add(name)

    for name in sorted(edges):
        walk(name)


def test_what_stands_beside_a_door_never_imports_it():
    wrong = [
        f"{name} imports {door}"
        for name, targets in graph().items()
        for door in DOORS & targets
        if name.startswith(door.rpartition(".")[0] + ".")
    ]
    assert wrong == []


def test_no_folder_holds_more_files_than_can_be_seen_at_once():
    held = Counter(path.parent for _, path in modules().values() if path.name != "__init__.py")
    assert {str(where): n for where, n in held.items() if n > MOST_FILES} == {}


@pytest.mark.parametrize("package", ROOMS)
def test_each_folder_says_in_one_line_what_it_is_for(package):
    for path in sources(package):
        if path.name == "__init__.py" and path.parent != folder("core"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert len(tree.body) == 1, path
            assert len((ast.get_docstring(tree) or "").splitlines()) == 1, path


@pytest.mark.parametrize("package", LIBRARIES)
def test_packages_use_only_their_libraries(package):
    others = {dotted.split(".")[0] for _, dotted in imported(package)} - {"glint"} - set(sys.stdlib_module_names)
    assert others <= LIBRARIES[package]


@pytest.mark.parametrize("package", ["core", "runtime"])
def test_what_runs_on_a_device_never_imports_torch_or_onnx(package):
    tops = {dotted.split(".")[0] for _, dotted in imported(package)}
    assert tops.isdisjoint({"torch", "safetensors", "onnx", "onnxscript"})


def test_archives_and_their_libraries_are_imported_by_their_command_alone():
    edges = graph()
    room, door = "glint.runtime.archive.", "glint.runtime.commands.archive"
    users = {name for name, targets in edges.items() if any(t.startswith(room) for t in targets)}
    assert {name for name in users if not name.startswith((room, "glint.benchmarks."))} == {door}
    assert {name for name, targets in edges.items() if door in targets} == {f"{door}_command"}
    rays = {str(path.name) for path, dotted in imported("runtime") if dotted.split(".")[0] == "ray"}
    assert rays == {"on_ray.py"}


@pytest.mark.parametrize("package", [*ALLOWED, "benchmarks"])
def test_packages_are_imported_by_their_installed_name(package):
    bare = {dotted.split(".")[0] for _, dotted in imported(package)} & {*PACKAGES, "core", "zoo", "metrics"}
    assert bare == set()


def test_every_public_name_is_in_its_module_and_told_to_type_checkers():
    told = ast.parse((folder("core") / "__init__.pyi").read_text(encoding="utf-8"))
    lines = {
        (name.asname, node.module) for node in told.body if isinstance(node, ast.ImportFrom) for name in node.names
    }
    assert lines == set(glint.API.items())
    for name, module in glint.API.items():
        tree = ast.parse(modules()[module][1].read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_module_with_arguments_and_a_main(command):
    _, path = modules()[COMMANDS[command][0]]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"add_arguments", "main"} <= functions
