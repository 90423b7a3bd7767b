"""What a place of the frame remembers of the tracks that ended there."""

import numpy as np
import pytest

from glint.runtime.tracking.clutter_map import DENSITY_PER_END, MEMORY_S, MOST_ENDS, ClutterMap

HERE = np.array([100.0]), np.array([50.0])
NOBODY = np.zeros(0), np.zeros(0)


def test_all_cells_forget_alike_and_none_counts_more_than_it_may() -> None:
    rng = np.random.default_rng(2)
    remembered, clutter = np.zeros((8, 8)), ClutterMap()
    grid = [v.ravel().astype(float) for v in np.meshgrid(np.arange(8) * 8 + 3, np.arange(8) * 8 + 3)]
    for _ in range(1200):
        seconds = float(rng.choice([0.0, 0.04, 0.5]))
        x, y = rng.uniform(0, 63, (2, int(rng.integers(0, 6))))
        x[: len(x) // 2] = y[: len(x) // 2] = 5.0  # a place where many end
        clutter.learn(x, y, seconds)
        remembered *= 1 - seconds / MEMORY_S
        np.add.at(remembered, ((y // 8).astype(int), (x // 8).astype(int)), 1)
        remembered = np.minimum(remembered, MOST_ENDS)
    assert clutter.factor(*grid) == pytest.approx(1 + DENSITY_PER_END * remembered.ravel(), rel=1e-9)
    assert remembered[0, 0] > 10


def test_a_long_break_is_forgotten_whole() -> None:
    clutter = ClutterMap()
    clutter.learn(*HERE, 0.04)
    assert clutter.factor(*HERE) == 1 + DENSITY_PER_END
    clutter.learn(*NOBODY, 2 * MEMORY_S)
    assert clutter.factor(*HERE) == 1
    clutter.learn(*HERE, 0.04)
    assert clutter.factor(*HERE) == 1 + DENSITY_PER_END
