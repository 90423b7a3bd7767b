"""How warm, how fast and how hungry the device is, and whether it holds its clocks down.

Everything is read from sysfs, as Linux and NVIDIA's kernels for Jetson (L4T 35 and later) lay it out, and
reading it needs no rights that a user lacks; what a machine does not tell is missing from the answer. Where sysfs
tells neither temperatures nor power and ``tegrastats`` is there (a container with little of ``/sys``), one
line of it is read instead.

The device counts as throttled while one of the kernel's cooling devices that slow a processor down is
engaged: one whose type starts with ``cpufreq-``, ``devfreq-``, ``thermal-cpufreq-``, ``thermal-devfreq-`` or
``Processor``, or ends in ``-throttle-alert``, and whose state is above 0. A fan that turns is no throttling,
nor is a power mode that limits the clocks. Over-current events slow a Jetson down too, for moments: the
kernel counts them, so what matters is whether their number has grown (see ``device_watch``).
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

_SLOWS_DOWN = re.compile(r"(thermal-)?(cpu|dev)freq-|Processor|.*-throttle-alert$")
_GPU_NAMES = ("gpu", "ga10b", "gv11b", "gp10b")  # of devfreq devices: Orin, Xavier, TX2
_GPU_LOADS = tuple(f"sys/devices/{p}/load" for p in ("platform/gpu.0", "platform/bus@0/17000000.gpu", "gpu.0"))
_PLAUSIBLE_C = (-60.0, 200.0)  # a sensor that is off reads e.g. -256


@dataclass(frozen=True)
class DeviceState:
    """What the device said of itself at one moment; empty or None where it said nothing.

    Attributes:
        t_ns: monotonic time of reading, nanoseconds.
        temperature_c: °C by thermal zone, e.g. ``gpu-thermal``.
        power_w: W by supply rail, e.g. ``VDD_IN``. Rails may feed each other: they do not add up.
        clock_mhz: MHz by clock, e.g. ``cpu0`` (the cluster that starts with this core) and ``gpu``.
        clock_limit_mhz: MHz that each clock may reach at present: power mode, user and heat have their say.
        gpu_load: share of time that the GPU is busy, in [0, 1].
        fan: share of the fan's full drive, in [0, 1].
        fan_rpm: turns per minute.
        power_mode: number and, where known, name of the power mode, e.g. ``0 MAXN``.
        throttled_by: cooling devices that slow a processor down.
        over_current_events: since the start of the machine.
    """

    t_ns: int
    temperature_c: dict[str, float] = field(default_factory=dict)
    power_w: dict[str, float] = field(default_factory=dict)
    clock_mhz: dict[str, float] = field(default_factory=dict)
    clock_limit_mhz: dict[str, float] = field(default_factory=dict)
    gpu_load: float | None = None
    fan: float | None = None
    fan_rpm: float | None = None
    power_mode: str | None = None
    throttled_by: tuple[str, ...] = ()
    over_current_events: int | None = None

    @property
    def throttled(self) -> bool:
        """Whether a processor is being slowed down (see the module's rule)."""
        return bool(self.throttled_by)

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature of all zones, °C."""
        return max(self.temperature_c.values(), default=None)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with ``throttled`` beside the attributes."""
        return {**asdict(self), "throttled_by": list(self.throttled_by), "throttled": self.throttled}


def read_device_state(root: Path | None = None) -> DeviceState:
    """The state of this machine; never raises.

    Args:
        root: where ``sys``, ``var`` and ``etc`` are found instead of ``/``.
    """
    base = root or Path("/")
    clocks, limits = _clocks(base)
    engaged, fan, rpm = _engaged(base), _hwmon_value(base, "pwm1"), _hwmon_value(base, "fan1_input", "rpm")
    state = DeviceState(
        t_ns=time.monotonic_ns(), temperature_c=_temperatures(base), power_w=_power(base), clock_mhz=clocks,
        clock_limit_mhz=limits, gpu_load=_gpu_load(base), fan=None if fan is None else min(fan / 255, 1.0), fan_rpm=rpm,
        power_mode=_power_mode(base), throttled_by=engaged, over_current_events=_over_current(base),
    )  # fmt: skip
    if root is None and not state.temperature_c and not state.power_w:
        return _with_tegrastats(state)
    return state


def parse_tegrastats(line: str) -> DeviceState:
    """What one line of ``tegrastats`` tells: temperatures, power, clock and load of the GPU, clocks of the cores."""
    temperatures = {m[1]: float(m[2]) for m in re.finditer(r"(?<![\w@])([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C(?!\w)", line)}
    power = {m[1]: int(m[2]) / 1000 for m in re.finditer(r"(?<!\S)([A-Z]\w*) (\d+)(?:mW)?/\d+(?:mW)?(?!\S)", line)}
    power.pop("NC", None)  # a channel that measures nothing
    clocks: dict[str, float] = {}
    if cores := re.search(r"CPU \[([^\]]*)\]", line):
        running = [(i, re.fullmatch(r"\d+%@(\d+)", core.strip())) for i, core in enumerate(cores[1].split(","))]
        clocks = {f"cpu{i}": float(m[1]) for i, m in running if m}
    gpu = re.search(r"GR3D_FREQ (\d+)%(?:@\[?(\d+))?", line)
    if gpu and gpu[2]:
        clocks["gpu"] = float(gpu[2])
    return DeviceState(
        time.monotonic_ns(), {k: v for k, v in temperatures.items() if _plausible(v)}, power, clocks,
        gpu_load=min(int(gpu[1]) / 100, 1.0) if gpu else None,
    )  # fmt: skip


def _with_tegrastats(state: DeviceState) -> DeviceState:
    program = shutil.which("tegrastats")
    if program is None:
        return state
    try:  # it never ends by itself
        text = subprocess.run([program, "--interval", "200"], capture_output=True, timeout=0.5, check=False).stdout
    except subprocess.TimeoutExpired as late:
        text = late.stdout or b""
    except OSError:
        return state
    told = parse_tegrastats(text.decode(errors="replace").partition("\n")[0])
    return replace(
        state, temperature_c=told.temperature_c, power_w=told.power_w,
        clock_mhz=state.clock_mhz or told.clock_mhz,
        gpu_load=told.gpu_load if state.gpu_load is None else state.gpu_load,
    )  # fmt: skip


def _text(path: Path) -> str | None:
    """Content of a file of sysfs; None if there is none, or the kernel has nothing to say (a unit that is off)."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def _number(path: Path) -> float | None:
    try:
        value = float(_text(path) or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _each(folder: Path, pattern: str) -> list[Path]:
    def order(path: Path) -> tuple[str, int]:  # thermal_zone2 before thermal_zone10
        digits = re.search(r"\d+$", path.name)
        return (path.name[: digits.start()], int(digits[0])) if digits else (path.name, -1)

    try:
        return sorted(folder.glob(pattern), key=order)
    except OSError:
        return []


def _plausible(celsius: float) -> bool:
    return _PLAUSIBLE_C[0] < celsius < _PLAUSIBLE_C[1]


def _temperatures(base: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for zone in _each(base / "sys/class/thermal", "thermal_zone*"):
        milli = _number(zone / "temp")
        if milli is not None and _plausible(milli / 1000):
            name = _text(zone / "type") or zone.name
            found[f"{name}-{zone.name[12:]}" if name in found else name] = milli / 1000
    return found


def _monitors(base: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of each hardware monitor; older drivers keep their files one level deeper."""
    for folder in _each(base / "sys/class/hwmon", "hwmon*"):
        for place in (folder, folder / "device"):
            if name := _text(place / "name"):
                yield name, place
                break


def _power(base: Path) -> dict[str, float]:
    """W by rail, of the INA3221 (mV and mA per channel) and INA238 (µW) that Jetson boards carry."""
    rails: dict[str, float] = {}
    for name, folder in _monitors(base):
        if not name.startswith("ina"):
            continue
        for current in _each(folder, "curr*_input"):
            channel = current.name[4 : -len("_input")]
            label = (
                _text(folder / f"in{channel}_label") or _text(folder / f"curr{channel}_label") or f"{name}-{channel}"
            )
            micro, milli_a = _number(folder / f"power{channel}_input"), _number(current)
            milli_v = _number(folder / f"in{channel}_input")
            if "sum of shunt" in label or label == "NC":
                continue
            if micro is not None:
                rails[label] = round(micro / 1e6, 4)
            elif milli_v is not None and milli_a is not None:
                rails[label] = round(milli_v * milli_a / 1e6, 4)
    return rails


def _clocks(base: Path) -> tuple[dict[str, float], dict[str, float]]:
    clocks: dict[str, float] = {}
    limits: dict[str, float] = {}

    def take(name: str, now: Path, limit: Path, per_mhz: float) -> None:
        value, most = _number(now), _number(limit)
        if value is not None:
            clocks[name] = value / per_mhz
            if most is not None:
                limits[name] = most / per_mhz

    for policy in _each(base / "sys/devices/system/cpu/cpufreq", "policy*"):
        take(f"cpu{policy.name[6:]}", policy / "scaling_cur_freq", policy / "scaling_max_freq", 1e3)
    for device in _gpus(base):
        name = "gpu" if device.name[:1].isdigit() else device.name  # 17000000.gpu, or gpu-gpc-0 on Thor
        take(name, device / "cur_freq", device / "max_freq", 1e6)
    return clocks, limits


def _gpus(base: Path) -> list[Path]:
    return [d for d in _each(base / "sys/class/devfreq", "*") if any(n in d.name for n in _GPU_NAMES)]


def _gpu_load(base: Path) -> float | None:
    for path in (*(base / p for p in _GPU_LOADS), *(d / "device/load" for d in _gpus(base))):
        load = _number(path)
        if load is not None:
            return min(max(load / 1000, 0.0), 1.0)
    return None


def _hwmon_value(base: Path, *files: str) -> float | None:
    for file in files:
        for _, folder in _monitors(base):
            value = _number(folder / file)
            if value is not None:
                return value
    return None


def _power_mode(base: Path) -> str | None:
    mode = re.search(r"pmode:(\d+)", _text(base / "var/lib/nvpmodel/status") or "")
    if not mode:
        return None
    number = int(mode[1])
    named = re.search(rf"POWER_MODEL\s+ID={number}\s+NAME=(\S+)", _text(base / "etc/nvpmodel.conf") or "")
    return f"{number} {named[1]}" if named else str(number)


def _engaged(base: Path) -> tuple[str, ...]:
    found = []
    for device in _each(base / "sys/class/thermal", "cooling_device*"):
        kind, state = _text(device / "type"), _number(device / "cur_state")
        if kind and state and state > 0 and _SLOWS_DOWN.match(kind):
            found.append(kind)
    return tuple(dict.fromkeys(found))


def _over_current(base: Path) -> int | None:
    counts = [_number(file) for _, folder in _monitors(base) for file in _each(folder, "oc*_event_cnt")]
    known = [int(c) for c in counts if c is not None]
    return sum(known) if known else None
