"""Maps of methods without a network, against their definitions written out in loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.benchmarks.peers import saliency
from glint.benchmarks.peers.robust_pca import robust_pca, threshold_singular_values
from glint.benchmarks.peers.saliency import patch_contrast, patch_image, point_ratio, top_hat
from glint.optics import Psf

images = st.integers(0, 1000).map(lambda seed: np.random.default_rng(seed).integers(0, 256, (9, 11)).astype(np.uint8))


def at(image, row, column):
    """A pixel, the nearest one beyond the edge."""
    return float(image[min(max(row, 0), image.shape[0] - 1), min(max(column, 0), image.shape[1] - 1)])


def around(size):
    half = size // 2
    return [(i, j) for i in range(-half, half + 1) for j in range(-half, half + 1)]


@settings(deadline=None, max_examples=15, derandomize=True)
@given(image=images, size=st.sampled_from([3, 5]))
def test_the_top_hat_is_the_image_less_its_opening(image, size):
    def filtered(values, choose):
        return np.array(
            [[choose(at(values, r + i, c + j) for i, j in around(size)) for c in range(11)] for r in range(9)]
        )

    opened = filtered(filtered(image, min), max)
    assert np.array_equal(top_hat(image, size), image - opened)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(image=images, size=st.sampled_from([1, 3]), bright=st.booleans())
def test_the_patch_contrast_is_the_least_product_of_opposite_differences(image, size, bright):
    def mean(row, column):  # of a patch whose centre is inside the frame
        row, column = min(max(row, 0), 8), min(max(column, 0), 10)
        return np.mean([at(image, row + i, column + j) for i, j in around(size)])

    expected = np.zeros(image.shape)
    for row, column in np.ndindex(image.shape):
        products = []
        for dy, dx in ((0, 1), (1, 1), (1, 0), (1, -1)):
            pair = [mean(row, column) - mean(row + s * size * dy, column + s * size * dx) for s in (-1, 1)]
            pair = [max(d, 0) for d in pair] if bright else pair
            products.append(pair[0] * pair[1])
        expected[row, column] = min(products)
    assert patch_contrast(image, (size,), bright=bright) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=10, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_the_point_ratio_is_the_t_value_of_a_point_beside_a_plane(seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 5, (13, 15)) + 3 * np.arange(15)
    ratio = point_ratio(image, sigmas=(0.8,), half=3)
    row, column = 5, 7
    window = image[row - 3 : row + 4, column - 3 : column + 4].ravel()
    y, x = np.mgrid[-3:4, -3:4]
    values = []
    for dx in (-0.25, 0.25):
        for dy in (-0.25, 0.25):
            point = Psf(0.8).render(np.array([3 + dx]), np.array([3 + dy]), np.ones(1), (7, 7)).ravel()
            design = np.stack([np.ones(49), x.ravel(), y.ravel(), point], axis=1)
            answer, rss, _, _ = np.linalg.lstsq(design, window, rcond=None)
            spread = np.linalg.inv(design.T @ design)[3, 3]
            values.append(answer[3] / np.sqrt((rss[0] / 45 + 1 / 12) * spread))
    assert ratio[row, column] == pytest.approx(max(values), rel=1e-6)


def test_several_scales_give_the_largest_contrast():
    image = np.random.default_rng(0).random((20, 24))
    single = [patch_contrast(image, (s,)) for s in (1, 3, 5)]
    assert np.array_equal(patch_contrast(image, (1, 3, 5)), np.maximum.reduce(single))


def test_dark_spots_count_unless_only_bright_ones_are_wanted():
    image = np.full((15, 15), 50.0)
    image[7, 7] = 10
    assert patch_contrast(image, (1,))[7, 7] == 1600
    assert patch_contrast(image, (1,), bright=True)[7, 7] == 0


def spotted(shape=(120, 150)):
    """A smooth background with two small spots, and their mask."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(float)
    image = 100 + 20 * np.sin(columns / 25) + rows / 4 + np.random.default_rng(0).normal(0, 0.5, shape)
    mask = np.zeros(shape, dtype=bool)
    mask[40:42, 60:62] = mask[90:92, 20:22] = True
    return image + 30 * mask, mask


@pytest.mark.parametrize(
    "method",
    [lambda i: top_hat(i, 5), lambda i: patch_contrast(i, (1, 3)), lambda i: patch_image(i, 1.0)],
    ids=["top-hat", "mpcm", "ipi"],
)
def test_spots_are_the_highest_places_of_every_map(method):
    image, mask = spotted()
    values = method(image)
    assert values.shape == image.shape
    assert values.dtype == np.float64
    highest = np.argsort(values.ravel())[::-1][:4]
    assert mask.ravel()[highest].all()


def test_the_patch_image_of_any_size_covers_every_pixel():
    for shape in ((30, 40), (51, 50), (77, 203)):
        assert np.isfinite(patch_image(np.random.default_rng(0).random(shape), 1.0, most=6)).all()


@pytest.mark.parametrize("most", [400, 20, 6])
def test_patches_go_back_to_where_they_came_from(monkeypatch, most):
    monkeypatch.setattr(saliency, "robust_pca", lambda matrix, weight: (0 * matrix, matrix))
    image, _ = spotted((137, 171))
    scaled = (image - image.min()) / np.ptp(image)
    assert patch_image(image, 1.0, most=most) == pytest.approx(scaled, abs=1e-6)


def test_pixels_take_the_median_of_the_patches_that_cover_them(monkeypatch):
    def shifted(matrix, weight):
        return 0 * matrix, matrix + np.arange(matrix.shape[1])  # every patch says something else

    monkeypatch.setattr(saliency, "robust_pca", shifted)
    values = patch_image(np.zeros((4, 10)), 1.0, patch=4, step=2)  # patches at columns 0, 2, 4, 6
    assert values[0].tolist() == [0, 0, 0.5, 0.5, 1.5, 1.5, 2.5, 2.5, 3, 3]


# Robust PCA


@settings(deadline=None, max_examples=20, derandomize=True)
@given(seed=st.integers(0, 100), shape=st.sampled_from([(6, 9), (9, 6), (7, 7)]), amount=st.floats(0, 4))
def test_singular_values_are_thresholded_as_by_the_svd(seed, shape, amount):
    data = np.random.default_rng(seed).normal(size=shape)
    u, s, v = np.linalg.svd(data, full_matrices=False)
    assert threshold_singular_values(data, amount) == pytest.approx(u * np.maximum(s - amount, 0) @ v, abs=1e-7)


def test_a_low_rank_matrix_with_sparse_errors_is_taken_apart():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 50))
    errors = np.where(rng.random(truth.shape) < 0.05, rng.choice([-8.0, 8.0], truth.shape), 0)
    low_rank, sparse = robust_pca(truth + errors, 1 / np.sqrt(60), tolerance=1e-7)
    assert np.abs(low_rank - truth).max() < 1e-3
    assert np.abs(sparse - errors).max() < 1e-3


def test_a_constant_matrix_has_no_sparse_part_and_an_empty_one_none_at_all():
    low_rank, sparse = robust_pca(np.full((20, 30), 0.5), 1.0)
    assert np.abs(sparse).max() < 1e-3
    assert low_rank == pytest.approx(np.full((20, 30), 0.5), abs=1e-3)
    assert not np.any(robust_pca(np.zeros((4, 5)), 1.0))
