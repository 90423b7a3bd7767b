"""``glint doctor``: what is installed, what would run, and one line to mend each thing that is missing.

It looks with ``importlib`` and imports no heavy library, except to ask the GPU: pycuda, where it is installed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glint import __version__
from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER, load_card, zoo_folder, zoo_names
from glint.cli import print_result
from glint.compiled import digest_of
from glint.errors import EXIT_ENVIRONMENT, EXIT_OK, EngineError, GlintError, MissingDependencyError
from glint.files import cache_folder
from glint.formats.seal import KEY, has_key
from glint.libraries import Library, libraries
from glint.native.library import Library as MachineCode
from glint.native.library import library
from glint.runtime.engines.choose import choose_engine, choose_precision
from glint.runtime.engines.onnxruntime import available_cores
from glint.runtime.engines.tensorrt import cuda
from glint.runtime.engines.tensorrt.api import FLAVOURS
from glint.runtime.engines.tensorrt.cache import unreadable_entries
from glint.runtime.sources.cameras.gstreamer import LAUNCHER

OK, MISSING, BROKEN = "ok", "missing", "broken"

_PURPOSES = {
    "numpy": "arrays", "scipy": "optics and image labels", "pillow": "image files",
    "numba": "machine code where none came with the package",
    "onnxruntime": "engine on the CPU", "torch": "glint train, export", "safetensors": "glint train, export",
    "onnx": "glint export, calibrate, inspect", "onnxscript": "glint export",
    "pycuda": "GPU memory for the TensorRT engine", "cuda-bindings": "CUDA graphs of the TensorRT engine",
    "av": "PyAV: video files and rtsp:// as sources, --video", "paho-mqtt": "results to a broker, --mqtt",
    "pyarrow": "tables as Parquet, --parquet; glint archive", "ray": "glint archive",
    "mcap-ros2-support": "targets for ROS 2, --mcap",
    "polygraphy": "layers of a TensorRT engine one by one (docs/parity.md)",
    "shtab": "completion by the Tab key, glint --print-completion",
}  # fmt: skip
_FIXES = {
    "numba": 'pip install "numba>=0.59"', "pycuda": "pip install pycuda (needs nvcc on PATH)",
    "cuda-bindings": "pip install cuda-bindings",
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        state: ``ok``, ``missing`` or ``broken``.
        detail: version, path or reason.
        needed: whether ``glint run`` cannot do without it.
        fix: one line that mends it, or "".
    """

    name: str
    state: str
    detail: str
    needed: bool
    fix: str = ""


def doctor() -> dict[str, Any]:
    """The report: machine, checks, models, and the engine that ``auto`` takes."""
    checks = [_library(library) for library in libraries() if library.module not in FLAVOURS]
    checks += [_machine_code(), _seals(), _tensorrt(), _gpu(), _gstreamer(), _python(), _opencv(), *_models()]
    engine, why = choose_engine("auto")
    precision, reason = choose_precision("auto", engine)
    usable = all(c.state == OK for c in checks if c.name == engine)
    return {
        "glint": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": available_cores(),
        "jetson": _jetson(),
        "gpu_driver": _driver(),
        "engine": {"auto": engine if usable else None, "why": why if usable else f"{engine} is missing"},
        "precision": {"auto": precision, "why": reason.removeprefix("auto: ")},
        "checks": [asdict(c) for c in checks],
        "ready": usable and all(c.state == OK for c in checks if c.needed),
    }


def _library(library: Library) -> Check:
    name, needed = library.distribution, not library.extra
    purpose = _PURPOSES.get(name, f"the extra {library.extra}")
    if not _found(library.module):
        return Check(name, MISSING, purpose, needed, _FIXES.get(name, library.fix))
    return Check(name, OK, f"{_version(name)}, {purpose}", needed)


def _gstreamer() -> Check:
    path, purpose = shutil.which(LAUNCHER), "gst: pipelines as sources"
    if path is None:
        fix = "sudo apt install gstreamer1.0-tools gstreamer1.0-plugins-good"
        return Check("gstreamer", MISSING, purpose, False, fix)
    return Check("gstreamer", OK, f"{path}, {purpose}", False)


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "version unknown"


def _machine_code() -> Check:
    """Whether compiled functions are there, or can be made and outlive the process."""
    name, fix = "machine code", "set GLINT_CACHE to a folder that can be written"
    if (opened := library()) is not None:
        old = sum(not _is_current(opened, label) for label in opened.labels)
        if not old:
            return Check(name, OK, f"came with the package, for {opened.name}", False)
        detail = (
            f"for {opened.name}: {old} of {len(opened.labels)} functions have other sources by now, and are compiled"
        )
        return Check(
            name, BROKEN, detail, False, "python -m glint.build_native.build --out core/native, in the checkout"
        )
    if not _found("numba"):
        return Check(name, MISSING, "none came for this processor, and no Numba to make it", True, _FIXES["numba"])
    try:
        folder = cache_folder("compiled")
    except RuntimeError as error:
        why = str(error) if isinstance(error, GlintError) else "no home folder to keep it in"
        return Check(name, BROKEN, f"{why}: each start compiles for up to minutes", False, fix)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return Check(name, BROKEN, f"{there} cannot be written: each start compiles for up to minutes", False, fix)
    if not any(folder.rglob("*.nbc")):
        fix = "nothing to do: the first glint run or build compiles, which takes up to minutes"
        return Check(name, MISSING, f"none yet in {folder}", False, fix)
    return Check(name, OK, f"kept in {folder}", False)


def _seals() -> Check:
    """What the seals of engines and machine code are, and whether engines are there whose seals are others."""
    kind = f"signatures with {KEY}" if has_key() else f"checksums, {KEY} is not set"
    try:
        broken = unreadable_entries()
    except RuntimeError as error:
        return Check("seals", BROKEN, f"{kind}; {error}", False, "set GLINT_CACHE to a folder of your own")
    if broken:
        detail = f"{kind}; {broken} engines in the cache are damaged or under another key, and are built again"
        return Check("seals", BROKEN, detail, False, f"set the {KEY} that they were built with, or glint build")
    return Check("seals", OK, kind, False)


def _is_current(opened: MachineCode, label: str) -> bool:
    """Whether the library has a function as its sources are now."""
    module, _, function = label.rpartition(".")
    try:
        return opened.entry(label, digest_of(getattr(importlib.import_module(module), function).function)) is not None
    except (ImportError, AttributeError, OSError):  # gone, or without sources
        return False


def _tensorrt() -> Check:
    purpose = "engine on NVIDIA GPUs"
    for flavour in FLAVOURS:
        if _found(flavour):
            return Check("tensorrt", OK, f"{flavour} {_version(flavour)}, {purpose}", False)
    fix = (
        "on a Jetson sudo apt install python3-libnvinfer, and python3 -m venv --system-site-packages; "
        "with an RTX GPU pip install tensorrt_rtx"
    )
    return Check("tensorrt", MISSING, purpose, False, fix)


def _gpu() -> Check:
    try:
        gpu = cuda.gpu()
    except MissingDependencyError as error:
        return Check("gpu", MISSING, f"cannot be asked: {error}", False, error.hint or "")
    except EngineError as error:
        return Check("gpu", MISSING, str(error), False, "on a machine with an NVIDIA GPU, install its driver")
    memory = f"{gpu.free / 1e9:.1f} of {gpu.total / 1e9:.1f} GB free"
    shared = ", shared with the CPU" if gpu.integrated else ""
    detail = f"{gpu.name}, compute capability {gpu.sm}, {memory}{shared}, driver {gpu.driver}, CUDA {gpu.cuda}"
    return Check("gpu", OK, detail, False)


def _python() -> Check:
    good = sys.version_info >= (3, 10)
    detail = platform.python_version()
    return Check("python", OK if good else BROKEN, detail, True, "" if good else "install Python 3.10 or newer")


def _opencv() -> Check:
    """Two OpenCV wheels in one environment overwrite each other and JetPack's build."""
    names = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
    found = [n for n in names if _installed(n)]
    if len(found) > 1:
        return Check("opencv", BROKEN, f"several builds: {', '.join(found)}", False, f"pip uninstall {found[0]}")
    return Check("opencv", OK, f"{found[0]} (not used by glint)" if found else "not installed, not needed", False)


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _models() -> list[Check]:
    names = zoo_names()
    if not names:
        fix = "reinstall glint: the wheel carries its models"
        return [Check("models", MISSING, f"no model in {zoo_folder()}", True, fix)]
    checks, again = [], "pip install --force-reinstall ."
    for stem in names:
        try:
            card, path = load_card(zoo_folder() / f"{stem}.json")
            detail = f"{card.task}, {card.parameters / 1e6:.2f} M parameters, {path.stat().st_size / 1e6:.1f} MB"
            checks.append(Check(f"model {stem}", OK, detail, True))
        except GlintError as error:
            checks.append(Check(f"model {stem}", BROKEN, str(error), True, again))
    for stem in (f"{DEFAULT_DETECTOR}.fp32", f"{DEFAULT_UNMIXER}.fp32"):
        if stem not in names:
            checks.append(Check(f"model {stem}", MISSING, "glint run takes it by default", True, again))
    return checks


def _jetson() -> str | None:
    """L4T release of a Jetson, or None elsewhere."""
    release = Path("/etc/nv_tegra_release")
    try:
        return release.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") if release.is_file() else None
    except (OSError, IndexError):
        return "unknown release"


def _driver() -> str | None:
    """Version of the NVIDIA kernel driver, or None."""
    return cuda.driver_version() or ("nvidia-smi present" if shutil.which("nvidia-smi") else None)


def report_text(report: dict[str, Any]) -> str:
    """The report for the terminal."""
    lines = [
        f"glint {report['glint']}, Python {report['python']}, {report['machine']}, {report['cores']} cores",
        f"Jetson: {report['jetson'] or 'no'}; NVIDIA driver: {report['gpu_driver'] or 'none'}",
        f"engine: {report['engine']['auto'] or 'none'} ({report['engine']['why']})",
        f"precision: {report['precision']['auto']} ({report['precision']['why']})",
        "",
    ]
    for check in report["checks"]:
        mark = {OK: "ok     ", MISSING: "missing" if check["needed"] else "-      ", BROKEN: "BROKEN "}[check["state"]]
        lines.append(f"{mark}  {check['name']:<28} {check['detail']}")
        if check["fix"] and check["state"] != OK:
            lines.append(f"{'':9}fix: {check['fix']}")
    lines += ["", "ready: glint run works here" if report["ready"] else "not ready: mend what is missing or BROKEN"]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint doctor``."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON on standard output")


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint doctor``; exit code 3 if ``glint run`` cannot work."""
    report = doctor()
    print_result(report, report_text, as_json=arguments.json)
    return EXIT_OK if report["ready"] else EXIT_ENVIRONMENT
