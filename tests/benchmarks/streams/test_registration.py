"""The scene of the benchmark turns as it says, and the benchmark scores what registration tells of it."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from glint.benchmarks.streams.registration import registration, rolling_scene
from glint.images import write_image


def texture() -> np.ndarray:
    rng = np.random.default_rng(0)
    return 100 + 200 * ndimage.gaussian_filter(rng.standard_normal((240, 280)), 3)


def test_the_first_frame_is_found_in_the_others_where_the_motion_says() -> None:
    scene = list(rolling_scene(texture(), (80, 96), 4, 1.0, 2.0, 0.0, np.random.default_rng(1)))
    x, y = np.array([40.0, 60.0, 50.0]), np.array([30.0, 50.0, 45.0])
    for frame, targets, motion in scene:
        for first, there in zip(np.stack([x, y]).T, (motion[:, :2] @ np.stack([x, y]) + motion[:, 2:]).T):
            if np.hypot(*(targets - there[:, None])).min() > 5:
                now = ndimage.map_coordinates(frame, there[::-1, None], order=3)[0]
                assert now == pytest.approx(scene[0][0][int(first[1]), int(first[0])], abs=2)
    assert scene[3][2][:, :2] == pytest.approx(turned(6.0), abs=1e-9)


def turned(degrees: float) -> np.ndarray:
    a = np.radians(degrees)
    return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


def test_a_rolling_camera_is_scored(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.clip(texture(), 0, 255).astype(np.uint8))
    report = registration(backgrounds=tmp_path, number=1, frames=5, size="256x224", roll=0.4)
    assert 0 < report["step_px"] < 0.1
    assert 0 < report["place_px"] < 0.2
    assert set(report["backgrounds"]) == {"a"}
