"""How fast patches are simulated on one core: ``python -m glint.benchmarks.streams.simulation_speed``.

Training on the fly needs more than the network consumes: 20,000 patches per second is the bar.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from glint.benchmarks.tool import Tool
from glint.simulation.patches import CONDITIONS, SENSOR_TRAINING, simulate_patches

_PATCHES_PER_BATCH = 4096
_REPEATS = 15


def simulation_speed() -> dict[str, tuple[float, float, float]]:
    """Patches per second for each condition: 10th, 50th and 90th percentile over repeats."""
    rng = np.random.default_rng(0)
    rates = {}
    for name, config in {**CONDITIONS, "sensor": SENSOR_TRAINING}.items():
        simulate_patches(config, _PATCHES_PER_BATCH, rng)
        spans = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            simulate_patches(config, _PATCHES_PER_BATCH, rng)
            spans.append(time.perf_counter() - started)
        p10, p50, p90 = np.percentile(_PATCHES_PER_BATCH / np.array(spans), (10, 50, 90))
        rates[name] = (float(p10), float(p50), float(p90))
    return rates


def text_of(rates: dict[str, tuple[float, float, float]]) -> str:
    """The rates for the terminal."""
    lines = [f"{name:<8}" + "".join(f"{r:12,.0f}" for r in rate) for name, rate in rates.items()]
    return "\n".join([f"patches per second, batches of {_PATCHES_PER_BATCH}, one core: p10, p50, p90", *lines])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool has no options of its own."""


TOOL = Tool("Measure how fast patches are simulated.", simulation_speed, add_arguments, text=text_of)


if __name__ == "__main__":
    sys.exit(TOOL())
