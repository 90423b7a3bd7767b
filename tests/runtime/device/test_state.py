from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glint.runtime.device import state as device_state
from glint.runtime.device.state import DeviceState, parse_tegrastats, read_device_state

ORIN = Path(__file__).parents[2] / "data" / "sysfs" / "orin-nano.txt"
TEGRASTATS = (
    "01-24-2024 09:17:09 RAM 3503/7337MB (lfb 7x1MB) SWAP 430/3668MB (cached 1MB) "
    "CPU [11%@729,13%@729,9%@1510,18%@729,off,off] EMC_FREQ 0%@2133 GR3D_FREQ 41%@[305] VIC_FREQ 115 APE 174 "
    "CV0@-256C cpu@44.093C gpu@41.343C tj@46.968C "
    "VDD_IN 4915mW/5001mW VDD_CPU_GPU_CV 449mW/449mW NC 0mW/0mW"
)


def put(root: Path, file: str, text: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("\\n", "\n") + "\n")


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    for line in ORIN.read_text().splitlines():
        if not line.startswith("#"):
            put(tmp_path, *line.split(" ", 1))
    return tmp_path


def test_an_orin_tells_everything(orin: Path) -> None:
    state = read_device_state(orin)
    assert state.temperature_c == {"cpu-thermal": 51.312, "gpu-thermal": 49.906, "tj-thermal": 51.312}
    assert state.hottest_c == 51.312
    assert state.power_w == pytest.approx({"VDD_IN": 6.5722, "VDD_CPU_GPU_CV": 1.57, "VDD_SOC": 1.4492}, abs=1e-4)
    assert state.clock_mhz == {"cpu0": 729.6, "cpu4": 1510.4, "gpu": 306.0}
    assert state.clock_limit_mhz == {"cpu0": 1510.4, "cpu4": 1510.4, "gpu": 624.75}
    assert (state.gpu_load, state.fan, state.fan_rpm) == (0.317, 0.4, 2140)
    assert state.power_mode == "0 15W"
    assert state.over_current_events == 39
    assert state.throttled_by == ()
    assert json.loads(json.dumps(state.as_dict()))["throttled"] is False


@pytest.mark.parametrize(
    "kind",
    [
        "cpufreq-cpu4",
        "devfreq-gpu-gpc-0",
        "thermal-cpufreq-0",
        "thermal-devfreq-1",
        "soc012-throttle-alert",
        "Processor",
    ],
)
def test_an_engaged_cooling_device_that_slows_down_is_throttling(orin: Path, kind: str) -> None:
    put(orin, "sys/class/thermal/cooling_device10/type", kind)
    put(orin, "sys/class/thermal/cooling_device10/cur_state", "1")
    state = read_device_state(orin)
    assert state.throttled
    assert state.throttled_by == (kind,)


@pytest.mark.parametrize(("kind", "level"), [("pwm-fan", 3), ("hot-surface-alert", 1), ("gpu-throttle-alert", 0)])
def test_fans_and_alerts_at_rest_are_no_throttling(orin: Path, kind: str, level: int) -> None:
    put(orin, "sys/class/thermal/cooling_device10/type", kind)
    put(orin, "sys/class/thermal/cooling_device10/cur_state", str(level))
    assert not read_device_state(orin).throttled


def test_thor_names_its_gpu_clocks_and_measures_power_itself(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/devfreq/gpu-gpc-0/cur_freq", "1575000000")
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "ina238")
    put(tmp_path, "sys/class/hwmon/hwmon0/curr1_input", "2200")
    put(tmp_path, "sys/class/hwmon/hwmon0/in1_label", "VIN")
    put(tmp_path, "sys/class/hwmon/hwmon0/power1_input", "41800000")
    state = read_device_state(tmp_path)
    assert state.clock_mhz == {"gpu-gpc-0": 1575.0}
    assert state.clock_limit_mhz == {}
    assert state.power_w == {"VIN": 41.8}


def test_zones_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for i in (0, 2, 10):
        put(tmp_path, f"sys/class/thermal/thermal_zone{i}/type", "acpitz")
        put(tmp_path, f"sys/class/thermal/thermal_zone{i}/temp", str(20000 + 1000 * i))
    assert read_device_state(tmp_path).temperature_c == {"acpitz": 20.0, "acpitz-2": 22.0, "acpitz-10": 30.0}


def test_a_machine_that_tells_nothing_has_an_empty_state(tmp_path: Path) -> None:
    state = read_device_state(tmp_path)
    assert state == DeviceState(state.t_ns)
    assert (state.throttled, state.hottest_c, state.power_mode) == (False, None, None)


def test_this_machine_can_be_read() -> None:
    assert read_device_state().t_ns > 0


@given(text=st.text(max_size=20), seed=st.integers(0, 40))
def test_garbage_in_a_file_is_never_an_error(tmp_path_factory: pytest.TempPathFactory, text: str, seed: int) -> None:
    root = tmp_path_factory.mktemp("sys")
    lines = [line for line in ORIN.read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        put(root, *line.split(" ", 1))
    (root / lines[seed].split(" ", 1)[0]).write_bytes(text.encode("utf-16"))
    json.dumps(read_device_state(root).as_dict(), allow_nan=False)


def test_folders_and_missing_rights_are_never_an_error(orin: Path) -> None:
    (orin / "sys/class/thermal/thermal_zone0/temp").unlink()
    (orin / "sys/class/thermal/thermal_zone0/temp").mkdir()
    (orin / "var/lib/nvpmodel/status").chmod(0)
    assert "cpu-thermal" not in read_device_state(orin).temperature_c


def test_a_line_of_tegrastats() -> None:
    state = parse_tegrastats(TEGRASTATS)
    assert state.temperature_c == {"cpu": 44.093, "gpu": 41.343, "tj": 46.968}
    assert state.power_w == {"VDD_IN": 4.915, "VDD_CPU_GPU_CV": 0.449}
    assert state.clock_mhz == {"cpu0": 729, "cpu1": 729, "cpu2": 1510, "cpu3": 729, "gpu": 305}
    assert state.gpu_load == 0.41


def test_an_old_line_of_tegrastats_has_no_units_and_no_clocks() -> None:
    state = parse_tegrastats("RAM 3200/7620MB CPU [off] GR3D_FREQ 71% cpu@45.5C POM_5V_IN 12890/12000")
    assert (state.power_w, state.gpu_load) == ({"POM_5V_IN": 12.89}, 0.71)
    assert state.clock_mhz == {}


@given(st.text() | st.from_regex(r"(CPU \[[\d%@,off]*\] |GR3D_FREQ \d+%@\d* |\w+@-?\d+C |[A-Z]+ \d+mW/\d+mW )*"))
def test_any_line_can_be_parsed(line: str) -> None:
    json.dumps(parse_tegrastats(line).as_dict(), allow_nan=False)


def test_tegrastats_fills_in_where_sysfs_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tegrastats"
    program.write_text(f"#!/bin/sh\necho '{TEGRASTATS}'\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(device_state.shutil, "which", lambda name: str(program))
    monkeypatch.setattr(device_state, "_temperatures", lambda base: {})
    monkeypatch.setattr(device_state, "_power", lambda base: {})
    assert read_device_state().power_w["VDD_IN"] == 4.915
    program.write_text("not a program")
    assert read_device_state().power_w == {}
