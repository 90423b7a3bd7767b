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


def hashed(kind):
    """Releases of a file with hashes, each with its marker and its hashes."""
    text = (ROOT / "deploy" / f"requirements-{kind}.txt").read_text(encoding="utf-8")
    lines = text.replace("\\\n", " ").splitlines()
    for line in (line for line in lines if line and not line.startswith("#")):
        release, *hashes = line.split("--hash=")
        yield Requirement(release), [value.strip() for value in hashes]


@pytest.mark.parametrize("kind", ["cpu", "jetpack6", "jetpack7"])
def test_every_release_that_is_installed_has_hashes_and_is_the_one_that_is_pinned(kind):
    name = "constraints.txt" if kind == "cpu" else f"constraints-{kind}.txt"
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pinned = {(canonicalize_name(r.name), str(r.specifier)) for r in map(Requirement, filter(None, map(plain, lines)))}
    given, extras = {}, ("video", "mqtt") if kind == "cpu" else ("tensorrt", "video", "mqtt")
    for release, hashes in hashed(kind):
        assert hashes, release
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes)
        known = {version for other, version in pinned if other == canonicalize_name(release.name)}
        assert not known or str(release.specifier) in known, f"{release} against {known}: make hashes"
        given.setdefault(canonicalize_name(release.name), []).append(release)
    assert {canonicalize_name(needed.name) for needed in requirements(*extras)} <= given.keys()


def plain(line):
    """A line of constraints without its comment."""
    return line.partition("#")[0].strip()


def test_the_hook_formats_like_the_makefile():
    (ruff,) = [r for r in pins("constraints.txt") if r.name == "ruff"]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"\[ruff(\S+)\]", hooks)) == {str(ruff.specifier)}
