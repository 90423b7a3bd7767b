from __future__ import annotations

import numpy as np

from glint.benchmarks.streams.joint import joint_unmixing, line_through


def test_more_frames_place_clusters_better() -> None:
    after = joint_unmixing(number=6, threads=1)["after"]
    assert list(after) == ["single frame", "1 frames", "5 frames", "10 frames", "20 frames"]
    assert after["20 frames"]["cso_map"] > after["1 frames"]["cso_map"] + 10
    assert after["20 frames"]["position_rmse_px"] < 0.06


def test_a_line_goes_through_what_is_known() -> None:
    places = np.array([1.0, 99.0, 2.0, 2.5])
    np.testing.assert_allclose(line_through(places, np.array([True, False, True, True])), [1, 1.5, 2, 2.5])
    np.testing.assert_allclose(line_through(places, np.array([False, False, True, False])), 2.0)
    np.testing.assert_allclose(line_through(places, np.zeros(4, dtype=bool)), 0.0)
