"""The pages of the documentation are true of what is installed: the reference, names of modules, links."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.test_import_direction import ROOMS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "core|training|export|calibration|runtime|benchmarks|zoo|tests|docs|deploy|examples"


def test_the_reference_is_what_the_docstrings_say():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_api.py"), "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_modules_files_and_links_exist(page):
    text = page.read_text(encoding="utf-8")
    for dotted in set(re.findall(r"\bglint\.(?:[a-z_]+\.)*[a-z_]+\b(?=[^(]|$)", text)):
        if dotted.split(".")[1] in FOLDERS.split("|"):
            assert found(dotted), dotted
    for path in set(re.findall(rf"`((?:{FOLDERS})/[\w/.-]+)`", text)):
        assert "NAME" in path or (ROOT / path).exists(), path
    for link in set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)):
        assert (page.parent / link).exists(), link
        assert page.parent == ROOT or not link.startswith(".."), f"{link}: the site has the pages of docs/ alone"


@pytest.mark.parametrize("package", ["runtime", "core", "benchmarks"])
def test_the_rooms_of_the_architecture_are_those_that_are_held(package):
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = text.partition(f"| `{package}/` | |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    told = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in rows]
    assert [sorted(names or ["."]) for names in told] == [sorted(names) for names in ROOMS[package]]


def found(dotted):
    """Whether it is a module, or what may be a name in one."""
    for name in (dotted, dotted.rpartition(".")[0]):
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            continue
        if spec is not None:
            return name == dotted or spec.submodule_search_locations is None
    return False
