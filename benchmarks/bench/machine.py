"""What a benchmark ran on: the machine, the versions, and how warm, fast and hungry it was meanwhile."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from glint import __version__
from glint.errors import GlintError
from glint.runtime.device.state import read_device_state
from glint.runtime.engines.onnxruntime import available_cores
from glint.runtime.engines.tensorrt import cuda

_LIBRARIES = (
    "numpy", "scipy", "onnxruntime", "torch", "tensorrt", "tensorrt_rtx", "pycuda", "cuda-bindings", "onnx",
)  # fmt: skip
_SMI = "temperature.gpu,power.draw,clocks.sm,clocks_throttle_reasons.active"


def machine() -> dict[str, Any]:
    """The machine: CPU, cores, memory, GPU, release, power mode, governor, and how busy it is."""
    return {
        "cpu": _cpu_model(), "architecture": platform.machine(), "cores": available_cores(),
        "memory_bytes": _memory(), "system": platform.platform(), "jetson": _first_line("/etc/nv_tegra_release"),
        "gpu": _gpu(), "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "power_mode": read_device_state().power_mode, "load": [round(v, 2) for v in os.getloadavg()],
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Of glint, Python and the libraries that are installed; nothing is imported."""
    found = {"glint": __version__, "python": sys.version.split()[0]}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def busy(facts: dict[str, Any]) -> str | None:
    """Why times taken now should not be trusted, or None: other programs keep more than a quarter of the cores busy."""
    load, cores = facts["load"][0], facts["cores"]
    if load <= 0.25 * cores:
        return None
    return f"other programs were running: load average {load} on {cores} cores"


def sample() -> dict[str, Any]:
    """The state of the device now: temperatures, power, clocks, throttling; empty where nothing can be read."""
    told = read_device_state()
    state: dict[str, Any] = {
        "temperature_c": dict(told.temperature_c), "power_w": dict(told.power_w), "clock_mhz": dict(told.clock_mhz),
        "throttled_by": list(told.throttled_by), "over_current_events": told.over_current_events,
    }  # fmt: skip
    for name, value in parse_smi(_ask_smi(_SMI)).items():
        if name == "throttled_by":
            state[name] += value
        else:
            state[name]["gpu"] = value
    return state


def condense(states: list[dict[str, Any]], calls_per_second: float) -> dict[str, Any]:
    """Samples of a row's state in few figures; None where the machine tells nothing.

    Energy is the mean power of the rail that feeds most, times the time of a call: idle power is in it.
    """
    hottest = [max(s["temperature_c"].values()) for s in states if s["temperature_c"]]
    rails: dict[str, list[float]] = {}
    for state in states:
        for rail, watts in state["power_w"].items():
            rails.setdefault(rail, []).append(watts)
    power = {rail: sum(w) / len(w) for rail, w in rails.items()}
    main = max(power, key=lambda rail: power[rail], default=None)
    clocks = [s["clock_mhz"] for s in states if s["clock_mhz"]]
    names = sorted({name for clock in clocks for name in clock})
    events = [s["over_current_events"] for s in states if s["over_current_events"] is not None]
    return {
        "hottest_c": max(hottest, default=None),
        "power_w": power,
        "energy_mj": None if main is None else 1e3 * power[main] / calls_per_second,
        "energy_rail": main,
        "clock_mhz": {n: [min(v), max(v)] for n in names if (v := [c[n] for c in clocks if n in c])},
        "throttled_by": sorted({reason for state in states for reason in state["throttled_by"]}),
        "over_current_events": events[-1] - events[0] if events else None,
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "unknown"
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return None


def _gpu() -> dict[str, Any] | None:
    try:
        gpu = cuda.gpu()
    except GlintError:
        told = _ask_smi("name,driver_version,memory.total")
        return {"name": told[0], "driver": told[1], "memory_mib": told[2]} if len(told) == 3 else None
    return {
        "name": gpu.name, "compute_capability": gpu.sm, "memory_bytes": gpu.total, "integrated": gpu.integrated,
        "cuda": gpu.cuda, "driver": gpu.driver,
    }  # fmt: skip


def _ask_smi(fields: str) -> list[str]:
    """What nvidia-smi answers for the first GPU; nothing where it is not there (Jetsons) or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [word.strip() for word in done.stdout.strip().split(",")] if done.returncode == 0 else []


def parse_smi(words: list[str]) -> dict[str, Any]:
    """Temperature, power and clock of the GPU, and the bits of its reasons to hold the clocks down but idleness."""
    if len(words) != 4:
        return {}
    state: dict[str, Any] = {}
    for name, word in zip(("temperature_c", "power_w", "clock_mhz"), words):
        try:
            state[name] = float(word)
        except ValueError:  # [N/A]
            continue
    try:
        reasons = int(words[3], 16) & ~0x3  # idle, and clocks that the user set, are no throttling
    except ValueError:
        reasons = 0
    state["throttled_by"] = [f"gpu {reasons:#x}"] if reasons else []
    return state
