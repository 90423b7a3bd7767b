"""The pinned versions of each platform: complete, and within what the package asks for."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
JETSON = {"constraints-jetpack6.txt": "3.10", "constraints-jetpack7.txt": "3.12"}


def pins(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [r for r in wanted if r.marker is None or r.marker.evaluate()]


def requirements(*extras):
    """What pyproject.toml asks for; ``re`` reads it, because Python 3.10 has no TOML parser."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = []
    for key in ("dependencies", *extras):
        (body,) = re.findall(rf"^{key} = \[(.*)\]$", text, re.MULTILINE)
        found += [Requirement(entry) for entry in re.findall(r'"([^"]+)"', body)]
    return [r for r in found if r.name != "glint-ir"]


@pytest.mark.parametrize("name", ["constraints.txt", *JETSON])
def test_every_pin_is_one_version(name):
    names = [canonicalize_name(pin.name) for pin in pins(name)]
    assert len(names) == len(set(names))
    assert all(len(pin.specifier) == 1 and next(iter(pin.specifier)).operator == "==" for pin in pins(name))


@pytest.mark.parametrize("name", JETSON)
def test_jetpack_pins_what_the_device_needs(name):
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins(name)}
    for needed in requirements("tensorrt", "video", "mqtt"):
        version = pinned[canonicalize_name(needed.name)]
        assert needed.specifier.contains(version), f"{needed} against {version}"


@pytest.mark.parametrize("name", JETSON)
def test_jetpack_never_pins_what_comes_with_it(name):
    assert not any(pin.name.startswith("tensorrt") or pin.name == "torch" for pin in pins(name))


@pytest.mark.parametrize(("name", "python"), JETSON.items())
def test_the_check_in_the_file_is_for_its_python(name, python):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert f"--python-version {python}" in text
    assert f"Python {python}," in text


def test_the_hook_formats_like_the_makefile():
    (ruff,) = [r for r in pins("constraints.txt") if r.name == "ruff"]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"\[ruff(\S+)\]", hooks)) == {str(ruff.specifier)}
