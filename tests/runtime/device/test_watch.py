from __future__ import annotations

import json
import time

import pytest

from glint.runtime.device.state import DeviceState
from glint.runtime.device.watch import DeviceWatch

HOT = ("gpu-throttle-alert",)


class Device:
    """States in order, the last one for ever."""

    def __init__(self, *states: DeviceState) -> None:
        self.states = list(states)

    def __call__(self) -> DeviceState:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


def second(n: float, **known: object) -> DeviceState:
    return DeviceState(int(n * 1e9), **known)  # type: ignore[arg-type]


def test_a_cool_run_is_not_marked() -> None:
    device = Device(second(0, temperature_c={"a": 40.0}, over_current_events=7), second(9, over_current_events=7))
    with DeviceWatch(device, period=60) as watch:
        pass
    report = watch.report()
    assert (report["throttled"], report["throttled_seconds"], report["throttled_by"]) == (False, 0.0, [])
    assert report["over_current_events"] == 0
    assert report["hottest_c"] == 40.0


def test_throttled_seconds_are_those_before_a_look_that_found_it() -> None:
    looks = [second(0), second(1, throttled_by=HOT), second(2), second(4.5, throttled_by=HOT), second(5)]
    watch = DeviceWatch(Device(*looks))
    for state in looks[1:]:
        watch._take(state)
    assert watch.report()["throttled_seconds"] == 3.5
    assert watch.report()["throttled"]
    assert watch.report()["throttled_by"] == list(HOT)


def test_over_current_marks_a_run_by_its_own_events() -> None:
    with DeviceWatch(Device(second(0, over_current_events=7), second(1, over_current_events=9)), period=60) as watch:
        pass
    assert watch.report()["over_current_events"] == 2
    assert watch.report()["throttled_by"] == ["over-current"]


def test_power_is_a_mean_over_time() -> None:
    looks = [second(0), second(1, power_w={"VDD_IN": 10.0}), second(4, power_w={"VDD_IN": 6.0})]
    watch = DeviceWatch(Device(*looks))
    for state in looks[1:]:
        watch._take(state)
    assert watch.report()["mean_power_w"] == {"VDD_IN": 7.0}


def test_a_machine_that_tells_nothing_gives_an_empty_report() -> None:
    with DeviceWatch(Device(second(0), second(1)), period=60) as watch:
        pass
    report = json.loads(json.dumps(watch.report(), allow_nan=False))
    assert report["throttled"] is False
    assert (report["over_current_events"], report["hottest_c"], report["mean_power_w"]) == (None, None, {})


def test_it_looks_while_the_block_runs_and_ends_with_it() -> None:
    looks = 0

    def look() -> DeviceState:
        nonlocal looks
        looks += 1
        return second(looks)

    with DeviceWatch(look, period=0.01) as watch:
        deadline = time.monotonic() + 5
        while watch.state().t_ns < 5e9 and time.monotonic() < deadline:
            time.sleep(0.005)
    assert watch.state().t_ns >= 5e9
    done = looks
    time.sleep(0.05)
    assert looks == done


def test_a_block_that_fails_still_ends_the_watch() -> None:
    with pytest.raises(RuntimeError, match="mine"), DeviceWatch(lambda: second(0), period=60) as watch:
        raise RuntimeError("mine")
    assert not watch._thread.is_alive()
