"""The background under a spot, continued from around it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import spsolve

from glint.optics import Psf
from glint.runtime.pipeline.behind import with_more, without
from glint.runtime.pipeline.continued import _membranes, _step, continued
from glint.runtime.pipeline.detector import Detection
from glint.runtime.pipeline.sensor_correction import Conditioned
from glint.runtime.tracking.history import NEAR, WINDOW_PX, Behind, less_plane
from glint.runtime.unmixing.shapes import measure_shapes
from glint.runtime.unmixing.windows import cut_windows
from glint.types import Blobs, Frame

SHAPE, NOISE, X, Y = (61, 71), 1.0, 35.3, 29.8
NONE = np.zeros(0, dtype=np.int64)


def scene(rng: np.random.Generator, rough: float) -> np.ndarray:
    """Clouds or roofs, of all sizes, and a slope."""
    wave = np.hypot(*np.meshgrid(np.fft.fftfreq(SHAPE[1]), np.fft.fftfreq(SHAPE[0])))
    wave[0, 0] = np.inf
    texture = np.fft.ifft2(np.fft.fft2(rng.standard_normal(SHAPE)) * wave**-1.7).real
    row, column = np.indices(SHAPE)
    return np.asarray(300 + 0.4 * row - 0.2 * column + rough * texture / texture.std())


def spot(background: np.ndarray, sigma: float, light: float, rng: np.random.Generator) -> tuple[Frame, Blobs]:
    shine = Psf(sigma).render(np.array([X]), np.array([Y]), np.array([light]), SHAPE)
    data = (background + shine + NOISE * rng.standard_normal(SHAPE)).astype(np.float32)
    label = (shine > 2.6 * np.sqrt(shine.max())).astype(np.int32)
    blobs = Blobs(np.array([X]), np.array([Y]), np.array([int(label.sum())]), np.ones(1), label)
    return Frame(0, 0, data, "0"), blobs


def rest_of(background: np.ndarray, blobs: Blobs) -> tuple[np.ndarray, np.ndarray]:
    """What the plane through the pixels around a spot leaves of the background ``[23, 23]``, and their weights."""
    half = WINDOW_PX // 2
    part = np.s_[round(Y) - half : round(Y) + half + 1, round(X) - half : round(X) + half + 1]
    lit = ndimage.binary_dilation(blobs.label_map[part] > 0, np.ones((5, 5)))
    ring = np.where(lit, 0.0, NEAR)
    return less_plane(background[part][None], ring[None])[0][0], lit


def test_less_of_a_rough_scene_is_left_under_a_spot_than_by_a_plane_and_no_more_than_is_told() -> None:
    plane, left, rough, told = [], [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        background = scene(rng, 8.0)
        frame, blobs = spot(background, 0.5, 300.0, rng)
        behind = continued(frame, blobs, np.full(1, NOISE), 0.5, NONE)
        if behind is None:
            continue
        assert behind.noise.tolist() == [NOISE]
        rest, lit = rest_of(background, blobs)
        plane.append(np.square(rest[lit]).mean())
        left.append(np.square((rest - behind.detail[0])[lit]).mean())
        rough.append(np.square(less_plane((rest - behind.detail[0])[None], lit[None].astype(float))[0][0][lit]).mean())
        told.append(behind.error[0])
    assert len(told) > 20
    assert np.sqrt(np.mean(left)) < 0.7 * np.sqrt(np.mean(plane))
    assert 0.2 * np.mean(told) < np.sqrt(np.mean(rough)) < np.mean(told)  # a fit has a plane of its own


def test_under_a_calm_sky_nothing_is_taken_off() -> None:
    rng = np.random.default_rng(0)
    frame, blobs = spot(scene(rng, 0.0), 0.5, 300.0, rng)
    assert continued(frame, blobs, np.full(1, NOISE), 0.5, NONE) is None


def test_nor_where_more_is_known_or_at_the_edge() -> None:
    rng = np.random.default_rng(0)
    frame, blobs = spot(scene(rng, 8.0), 0.5, 300.0, rng)
    assert continued(frame, blobs, np.full(1, NOISE), 0.5, np.array([0])) is None
    edge = Frame(0, 0, frame.data[:, 30:], "0")
    cut = Blobs(blobs.x - 30, blobs.y, blobs.area, blobs.score, blobs.label_map[:, 30:])
    assert continued(edge, cut, np.full(1, NOISE), 0.5, NONE) is None


def test_a_membrane_is_the_solution_of_its_equations() -> None:
    rng = np.random.default_rng(2)
    flat = ndimage.gaussian_filter(rng.standard_normal((WINDOW_PX, WINDOW_PX)), 1.0) * 20
    lit = np.zeros(flat.shape, dtype=bool)
    lit[8:14, 9:16] = True
    weight = np.where(lit, 0.0, NEAR)
    found, step = _membranes(flat[None], lit[None], weight[None], np.array([NOISE]))
    index = np.arange(flat.size).reshape(flat.shape)
    pairs = np.concatenate([np.stack([index[:, :-1].ravel(), index[:, 1:].ravel()]),
                            np.stack([index[:-1].ravel(), index[1:].ravel()])], axis=1)  # fmt: skip
    one = np.ones(pairs.shape[1])
    edges = csr_matrix((np.concatenate([one, -one]), (np.tile(np.arange(len(one)), 2), pairs.ravel())))
    known = (~lit).ravel() / NOISE**2
    expected = spsolve((diags(known) + edges.T @ edges / step[0] ** 2).tocsc(), known * flat.ravel())
    assert found[0] == pytest.approx(expected.reshape(flat.shape), abs=0.02 * np.abs(flat).max())


def test_the_steps_are_those_of_the_scene_without_the_noise() -> None:
    rng = np.random.default_rng(3)
    walk = np.cumsum(3.0 * rng.standard_normal((400, WINDOW_PX)), axis=1)
    flat = np.repeat(walk[:, None, :], WINDOW_PX, axis=1)  # steps of 3 across, none down
    flat = flat + NOISE * rng.standard_normal(flat.shape)
    steps = [_step(one, NEAR, NOISE) for one in flat]
    assert np.sqrt(np.mean(np.square(steps))) == pytest.approx(3 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 3.0])
def test_a_spot_of_unknown_optics_is_as_wide_as_before(sigma: float) -> None:
    rng = np.random.default_rng(4)
    frame, blobs = spot(scene(rng, 1.5), sigma, 100 * (2 * np.pi * sigma**2 + 1), rng)
    noise = np.full(1, NOISE)
    behind = continued(frame, blobs, noise, None, NONE)
    if behind is None:
        return
    detection = Detection(blobs, np.zeros(SHAPE, np.float32), frame.data, np.zeros(SHAPE, np.float32))
    clear, _ = without(Conditioned(frame, None), detection, behind)
    width = measure_shapes(cut_windows(clear.frame, blobs, noise, noise)).sigma[0]
    assert width == pytest.approx(sigma, rel=0.04)


def test_what_is_known_of_some_spots_and_of_others_is_known_of_all() -> None:
    def one(row: int) -> Behind:
        return Behind(*(np.array([row]) for _ in range(3)), np.zeros((1, 3, 3)), np.zeros(1), np.zeros(1))

    assert with_more(None, None) is None
    first = one(2)
    assert with_more(first, None) is first and with_more(None, first) is first
    both = with_more(first, one(0))
    assert both is not None and both.rows.tolist() == [2, 0] and both.detail.shape == (2, 3, 3)
