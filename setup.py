"""What of a wheel pyproject.toml cannot say: its machine code, its models, and the machines that it is for.

``GLINT_NATIVE=all`` makes machine code for all kinds of processors, ``none`` leaves it out: such a wheel needs
the extra ``jit``. ``GLINT_MODELS=all`` puts all released models in, not the default ones alone.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

MODELS = ("lsnet-s.fp32", "lsnet-s.fp16", "dscsnet-s-sensor.fp32", "dscsnet-s-sensor.fp16")
LINKER = "ziglang"
_NO_CODE = "the machine code could not be made, see above; GLINT_NATIVE=none makes a wheel without, which needs Numba"


def wants_machine_code() -> bool:
    """Whether the wheel is to hold machine code: there is none but for Linux."""
    return sys.platform == "linux" and os.environ.get("GLINT_NATIVE") != "none"


def needs_linker() -> list[str]:
    """A linker from the package index where the machine has none, or not for all machines."""
    own = any(map(shutil.which, ("cc", "gcc", "clang"))) and os.environ.get("GLINT_NATIVE") != "all"
    return [LINKER] if wants_machine_code() and not own else []


def leave_models_out(zoo: Path) -> None:
    """Take the models that are not default ones out of a folder, with their cards."""
    for path in (*zoo.glob("*.onnx"), *zoo.glob("*.json")):
        if path.stem not in MODELS:
            path.unlink()


def platform_tag(libraries: Iterable[str], by_zig: bool) -> str:
    """The machines that a wheel with libraries of these names is for; Zig links for the C library of 2018."""
    machines = sorted({"aarch64" if name.startswith("aarch64") else "x86_64" for name in libraries})
    return ".".join(f"{'manylinux_2_28' if by_zig else 'linux'}_{machine}" for machine in machines) or "any"


class Build(build_py):
    """The package, with the library that ``glint.build_native.build`` makes of it."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        if os.environ.get("GLINT_MODELS") != "all":
            leave_models_out(Path(self.build_lib, "glint", "zoo"))
        folder = Path(self.build_lib, "glint", "native")
        for old in (*folder.glob("*.so"), *folder.glob("*.json")):  # of a checkout
            old.unlink()
        if not wants_machine_code():
            return
        path = os.pathsep.join([self.build_lib, *filter(None, [os.environ.get("PYTHONPATH")])])
        every = ["--all"] if os.environ.get("GLINT_NATIVE") == "all" else []
        command = [sys.executable, "-m", "glint.build_native.build", "--out", str(folder), *every]
        if subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode:
            raise SystemExit(_NO_CODE)


class Wheel(bdist_wheel):
    """Any Python 3, and the machines that its library is for."""

    def get_tag(self) -> tuple[str, str, str]:
        found = [path.stem for path in Path(self.bdist_dir, "glint", "native").glob("*.so")]
        return "py3", "none", platform_tag(found, importlib.util.find_spec(LINKER) is not None)

    def write_wheelfile(self, *arguments: object, **named: object) -> None:
        self.root_is_pure = self.get_tag()[2] == "any"
        super().write_wheelfile(*arguments, **named)


setup(cmdclass={"build_py": Build, "bdist_wheel": Wheel}, setup_requires=needs_linker())
