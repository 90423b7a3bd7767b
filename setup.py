"""Puts the library of machine code into the wheel; everything else about it stands in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithMachineCode(build_py):
    """The package, and the library that ``glint.build_native.build`` makes of it: without a linker, without one."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, "glint", "native")
        for old in (*folder.glob("*.so"), *folder.glob("*.json")):  # of a checkout
            old.unlink()
        path = os.pathsep.join([self.build_lib, *filter(None, [os.environ.get("PYTHONPATH")])])
        every = ["--all"] if os.environ.get("GLINT_NATIVE") == "all" else []
        command = [sys.executable, "-m", "glint.build_native.build", "--out", str(folder), *every]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False)
        if done.returncode:
            self.announce("no machine code is in this wheel: Numba will compile on the machine that runs it", 3)


setup(cmdclass={"build_py": BuildWithMachineCode})
