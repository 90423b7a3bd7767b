"""The files for devices fit the package that they start."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from glint.errors import EXIT_INTERRUPTED, EXIT_USAGE, OutputError, SourceAbsentError, SourceLostError, exit_code_of

ROOT = Path(__file__).resolve().parents[1]
UNIT = ROOT / "deploy" / "glint.service"
CONTAINER = ROOT / "deploy" / "Dockerfile.jetpack6"
KINDS = ("jetpack6", "jetpack7", "cpu")


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze")
    copy = tmp_path / UNIT.name  # glint need not be installed where the tests run
    copy.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/glint/bin/glint", "/bin/true"), encoding="utf-8")
    done = subprocess.run([program, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "glint" in line]
    assert (ours, done.returncode) == ([], 0), done.stderr


def test_the_unit_knows_the_exit_codes() -> None:
    text = UNIT.read_text(encoding="utf-8")
    assert f"RestartPreventExitStatus={EXIT_USAGE}\n" in text
    assert f"SuccessExitStatus={EXIT_INTERRUPTED}\n" in text


def test_the_unit_starts_again_what_waiting_may_mend() -> None:
    full = OutputError("cannot write x")
    full.__cause__ = OSError(errno.ENOSPC, "no room")
    assert EXIT_USAGE not in {exit_code_of(e) for e in (SourceAbsentError("x"), SourceLostError("x"), full)}
    assert "Restart=on-failure\n" in UNIT.read_text(encoding="utf-8")


def test_the_unit_and_its_settings_name_the_same_variables() -> None:
    used = set(re.findall(r"\$(\w+)", UNIT.read_text(encoding="utf-8")))
    settings = (ROOT / "deploy" / "glint.env").read_text(encoding="utf-8")
    assert used == set(re.findall(r"^(\w+)=", settings, re.MULTILINE))


@pytest.mark.parametrize("kind", KINDS)
def test_the_container_is_given_what_the_package_is_built_from(kind: str) -> None:
    container = CONTAINER.with_suffix(f".{kind}")
    lines = container.with_name(container.name + ".dockerignore").read_text(encoding="utf-8").splitlines()
    given = {line[1:] for line in lines if line.startswith("!")}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    folders = set(re.findall(r'^"?glint[\w.]*"? = "(\w+)"$', project, re.MULTILINE))
    assert {"core", "runtime", "zoo"} <= folders
    assert given == folders | {"pyproject.toml", "setup.py", "README.md", "LICENSE", f"deploy/requirements-{kind}.txt"}
    assert all((ROOT / name).exists() for name in given)


@pytest.mark.parametrize("kind", KINDS)
def test_the_container_installs_what_the_package_asks_for(kind: str) -> None:
    text = CONTAINER.with_suffix(f".{kind}").read_text(encoding="utf-8")
    assert f"--require-hashes -r /src/requirements-{kind}.txt\n" in text
    given = (ROOT / "deploy" / f"requirements-{kind}.txt").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = set()
    for key in ("dependencies", *(["tensorrt"] if kind != "cpu" else []), "video", "mqtt"):
        (body,) = re.findall(rf"^{key} = \[(.*)\]$", project, re.MULTILINE)
        wanted |= {re.match(r"[\w-]+", entry)[0] for entry in re.findall(r'"([^"]+)"', body)}
    assert wanted <= set(re.findall(r"^([\w-]+)==", given, re.MULTILINE))


def test_what_is_built_or_compiled_is_kept_over_restarts() -> None:
    unit, container = UNIT.read_text(encoding="utf-8"), CONTAINER.read_text(encoding="utf-8")
    assert "CacheDirectory=glint\n" in unit
    (folder,) = re.findall(r'^VOLUME \["(.*?)"', container, re.MULTILINE)
    for text in (unit, container):
        assert re.findall(r"GLINT_CACHE=(\S+)", text) == [folder] == ["/var/cache/glint"]
    assert "MemoryDenyWriteExecute" not in unit  # machine code is written to memory and run


def test_no_file_for_devices_holds_a_credential() -> None:
    for path in (ROOT / "deploy").iterdir():
        assert not re.search(r"//[^/\s]*:[^/\s]*@|(?i:token|passwd|docker login)", path.read_text(encoding="utf-8"))


def test_the_workflow_does_what_ci_run_does_on_every_python() -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    jobs = flow["jobs"]
    assert set(jobs) == {"test", "docs", "package"}
    for job in jobs.values():
        assert job["runs-on"] == "ubuntu-latest"
        assert job["steps"][0]["uses"].startswith("actions/checkout@")
        assert all(len({"uses", "run"} & set(step)) == 1 for step in job["steps"])
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert commands["test"] == [".ci/run"]
    assert commands["docs"][-1] == "mkdocs build --strict"
    versions = jobs["test"]["strategy"]["matrix"]["python"]
    told = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"3.10", "3.12", "3.13"} == set(versions) <= set(told)  # text: 3.10 is no number
    python = next(step["with"]["python-version"] for step in jobs["test"]["steps"] if "with" in step)
    assert python == "${{ matrix.python }}"
