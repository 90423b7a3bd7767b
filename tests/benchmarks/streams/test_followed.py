from __future__ import annotations

import numpy as np

from glint.benchmarks.streams.followed import FRAMES, _by_cluster, _scores, sky_with_clusters
from glint.types import Targets


def test_the_truth_is_what_stands_in_the_sky_and_scores_perfectly() -> None:
    frames = list(sky_with_clusters(0.2, 1e-6, 0.5, np.random.default_rng(1)))
    assert len(frames) == FRAMES
    (first, x, y, radiance), (last, end_x, end_y, _) = frames[0], frames[-1]
    there = radiance > 0
    light = float(last.data.astype(float).sum() - first.data.astype(float).sum())
    assert abs(light) < 1e-3 * radiance.sum()
    moved = np.hypot(end_x - x, end_y - y)[there]
    np.testing.assert_allclose(moved, 0.2 * (FRAMES - 1))
    none, one = np.zeros(there.sum()), np.ones(there.sum())
    truth = Targets(x[there], y[there], radiance[there], none, none, none, none.astype(int), one, none.astype(int), one)
    assert _scores(_by_cluster(truth, x, y, radiance)) == {"cso_map": 100.0, "count_accuracy": 100.0}
    assert _scores(_by_cluster(truth.select(truth.x > 60), x, y, radiance))["cso_map"] < 90
