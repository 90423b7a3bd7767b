"""The optical model against quadrature, finite differences and closed forms."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import dblquad
from scipy.special import ndtr

from glint.errors import InputError
from glint.optics import Psf, PsfEstimate, cell_centre, cell_index, load_psf, pixel_profiles, save_psf

quick = settings(deadline=None, max_examples=40, derandomize=True)
position = st.floats(0.0, 8.0)
sigma = st.floats(0.3, 1.5)


def gaussian(x, y, sigma):
    """Eq. 1 of the paper for a unit target at (x, y), as a function of (row, column)."""
    return lambda v, u: math.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2)) / (2 * math.pi * sigma**2)


def pixel_integral(x, y, sigma, column, row):
    return dblquad(gaussian(x, y, sigma), column - 0.5, column + 0.5, row - 0.5, row + 0.5, epsabs=1e-11)[0]


# Pixel convention: x is the column, y the row, whole numbers are pixel centres.


def test_target_at_x_3_3_y_1_lights_row_1_column_3_most_and_leans_to_column_4():
    image = Psf(0.5).render([3.3], [1.0], [100.0], (4, 7))
    assert image.shape == (4, 7)
    assert np.unravel_index(image.argmax(), image.shape) == (1, 3)
    assert image[1, 4] > image[1, 2]
    assert image[0, 3] == pytest.approx(image[2, 3], rel=1e-12)


@quick
@given(x=st.floats(10, 14), y=st.floats(10, 17))
def test_centroid_of_a_well_sampled_spot_is_its_position(x, y):
    # By Poisson's formula the error is of the order exp(-2 pi^2 sigma^2): 1e-19 at sigma 1.5.
    image = Psf(1.5).render([x], [y], [1.0], (28, 25))
    assert image.sum(0) @ np.arange(25) == pytest.approx(x, abs=1e-9)
    assert image.sum(1) @ np.arange(28) == pytest.approx(y, abs=1e-9)


@pytest.mark.parametrize(("x", "y", "sigma"), [(2.0, 3.0, 0.5), (2.37, 2.81, 0.5), (1.6, 3.45, 0.8), (2.2, 2.9, 0.3)])
def test_pixels_are_integrals_of_the_gaussian(x, y, sigma):
    image = Psf(sigma).render([x], [y], [7.0], (6, 5))
    for row, column in [(3, 2), (2, 2), (3, 1), (4, 3), (0, 0)]:
        assert image[row, column] == pytest.approx(7 * pixel_integral(x, y, sigma, column, row), rel=1e-8, abs=1e-9)


def test_pixel_of_a_centred_target_holds_the_closed_form_share():
    image = Psf(0.5).render([2.0], [2.0], [1.0], (5, 5))
    assert image[2, 2] == pytest.approx(math.erf(1 / math.sqrt(2)) ** 2, rel=1e-14)


@quick
@given(x=position, y=position, sigma=sigma, radiance=st.floats(0.1, 1e4))
def test_flux_is_the_radiance(x, y, sigma, radiance):
    # 12 px and 8 sigma of room on each side: nothing falls outside.
    image = Psf(sigma).render([x + 12], [y + 12], [radiance], (33, 33))
    assert image.sum() == pytest.approx(radiance, rel=1e-12)
    assert (image >= 0).all()


def test_light_beyond_the_edge_is_lost():
    # Half of a target on the outer edge of the image falls inside.
    assert Psf(0.5).render([-0.5], [5.0], [10.0], (11, 11)).sum() == pytest.approx(5.0, rel=1e-12)


def test_targets_add_up_and_radiance_0_is_no_target():
    psf = Psf(0.6)
    both = psf.render([1.2, 3.4, 2.0], [2.0, 2.6, 1.0], [5.0, 9.0, 0.0], (5, 6))
    single = psf.render([1.2], [2.0], [5.0], (5, 6)) + psf.render([3.4], [2.6], [9.0], (5, 6))
    assert_allclose(both, single, rtol=1e-13)


def test_no_targets_give_a_dark_image():
    assert not Psf().render([], [], [], (3, 4)).any()


def test_leading_dimensions_are_a_batch():
    rng = np.random.default_rng(3)
    x, y, radiance = rng.uniform(0, 6, (3, 2, 3, 4))
    images = Psf().render(x, y, radiance, (5, 7))
    assert images.shape == (2, 3, 5, 7)
    for index in np.ndindex(2, 3):
        assert_allclose(images[index], Psf().render(x[index], y[index], radiance[index], (5, 7)), rtol=1e-13)


@quick
@given(u=st.floats(-1, 6), sigma=sigma)
def test_profile_derivative_is_the_slope_of_the_profile(u, sigma):
    psf, h = Psf(sigma), 1e-5
    numeric = (psf.profile(u + h, 6) - psf.profile(u - h, 6)) / (2 * h)
    assert_allclose(psf.profile_derivative(u, 6), numeric, atol=1e-7)  # h^2 g''' / 6 < 1e-8


@quick
@given(theta=st.lists(st.tuples(position, position, st.floats(1, 300)), min_size=1, max_size=3), sigma=sigma)
def test_jacobian_is_the_finite_difference_of_render(theta, sigma):
    psf, shape, h = Psf(sigma), (8, 9), 1e-5
    theta = np.array(theta)
    jacobian = psf.jacobian(*theta.T, shape)
    assert jacobian.shape == (*shape, len(theta), 3)
    for k, parameter in np.ndindex(theta.shape):
        step = np.zeros_like(theta)
        step[k, parameter] = h
        numeric = (psf.render(*(theta + step).T, shape) - psf.render(*(theta - step).T, shape)) / (2 * h)
        # The third derivative of a target of 300 DN is below 1e5 DN/px^3: an error below 2e-6.
        assert_allclose(jacobian[:, :, k, parameter], numeric, atol=1e-5)


def test_jacobian_of_a_batch_is_that_of_its_members():
    rng = np.random.default_rng(4)
    x, y, radiance = rng.uniform(1, 5, (3, 2, 3))
    batch = Psf().jacobian(x, y, radiance, (6, 7))
    assert batch.shape == (2, 6, 7, 3, 3)
    for i in range(2):
        assert_allclose(batch[i], Psf().jacobian(x[i], y[i], radiance[i], (6, 7)), rtol=1e-13)


# Profiles with a sigma of their own per row, in either precision


@quick
@given(u=st.lists(st.floats(-2, 9), min_size=1, max_size=4), sigma=sigma)
def test_profiles_are_integrals_and_their_derivatives_finite_differences(u, sigma):
    u, h, n = np.array(u), 1e-5, 8
    g, by_u, by_sigma = pixel_profiles(u, sigma, n)
    assert g.shape == by_u.shape == by_sigma.shape == (len(u), n)
    edges = np.arange(n + 1) - 0.5
    expected = np.diff(ndtr((edges - u[:, None]) / sigma), axis=-1)
    assert_allclose(g, expected, atol=1e-14)
    assert_allclose(
        by_u, (pixel_profiles(u + h, sigma, n)[0] - pixel_profiles(u - h, sigma, n)[0]) / (2 * h), atol=1e-7
    )
    assert_allclose(
        by_sigma, (pixel_profiles(u, sigma + h, n)[0] - pixel_profiles(u, sigma - h, n)[0]) / (2 * h), atol=1e-7
    )


@quick
@given(seed=st.integers(0, 999))
def test_single_precision_gives_the_same_profiles_in_its_own_type(seed):
    rng = np.random.default_rng(seed)
    u, sigma = rng.uniform(-1, 10, (6, 5)), rng.uniform(0.3, 1.5, (6, 1))
    exact = pixel_profiles(u.astype(np.float32).astype(np.float64), sigma.astype(np.float32).astype(np.float64), 9)
    rough = pixel_profiles(u.astype(np.float32), sigma.astype(np.float32), 9)
    for a, b in zip(exact, rough):
        assert b.dtype == np.float32
        assert_allclose(b, a, atol=1e-5)  # edges of 10 px are rounded to 1e-6, slopes are below 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_row_has_a_sigma_of_its_own(dtype):
    rng = np.random.default_rng(1)
    u, sigmas = rng.uniform(0, 7, (4, 3)).astype(dtype), np.array([0.4, 0.5, 0.6, 1.1], dtype)
    together = pixel_profiles(u, sigmas[:, None], 8)
    for row, value in enumerate(sigmas):
        for batch, single in zip(together, pixel_profiles(u[row], value, 8)):
            assert batch.dtype == dtype
            assert_allclose(batch[row], single, rtol=1e-6, atol=1e-7)


def test_profiles_of_a_psf_are_those_of_its_sigma():
    u = np.array([[2.3], [4.9]])
    g, by_u, _ = pixel_profiles(u, 0.7, 8)
    assert_allclose(Psf(0.7).profile(u, 8), g)
    assert_allclose(Psf(0.7).profile_derivative(u, 8), by_u)


def test_far_from_all_pixels_there_is_no_light_and_no_slope():
    for value in pixel_profiles(np.array([1e4, -1e4], np.float32), 0.5, 5):
        assert not value.any()


# Cells


def test_cell_centres_of_three_cells_are_a_third_of_a_pixel_apart_around_the_pixel_centre():
    assert_allclose(cell_centre([0, 1, 2, 3, 4], 3), [-1 / 3, 0, 1 / 3, 2 / 3, 1], atol=1e-15)


def test_even_numbers_of_cells_straddle_the_pixel_centre():
    assert_allclose(cell_centre([0, 1, 2], 2), [-0.25, 0.25, 0.75])


@pytest.mark.parametrize("c", [3, 5, 7])
def test_the_cell_of_a_cell_centre_is_that_cell(c):
    index = np.arange(-3 * c, 2000)
    assert (cell_index(cell_centre(index, c), c) == index).all()


@quick
@given(coordinate=st.floats(-3, 1000), c=st.sampled_from([1, 2, 3, 5, 7]))
def test_a_coordinate_is_within_half_a_cell_of_its_cells_centre(coordinate, c):
    assert abs(cell_centre(cell_index(coordinate, c), c) - coordinate) <= 0.5 / c + 1e-12


def test_cells_meet_half_way_between_their_centres_and_tile_the_pixel():
    edges = np.arange(7) / 3 - 0.5  # of two pixels
    assert cell_index(edges + 1e-9, 3).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert cell_index(edges - 1e-9, 3).tolist() == [-1, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("c", [1, 3, 5])
def test_columns_of_the_sampling_matrix_are_images_of_unit_targets_at_cell_centres(c):
    psf, n = Psf(0.5), 4
    phi = psf.sampling_matrix(n, c)
    assert phi.shape == (n * n, (c * n) ** 2)
    for k in range((c * n) ** 2):
        row, column = divmod(k, c * n)
        image = psf.render([cell_centre(column, c)], [cell_centre(row, c)], [1.0], (n, n))
        assert_allclose(phi[:, k], image.ravel(), rtol=1e-12, atol=1e-15)


def test_sampling_matrix_is_the_kronecker_square_of_the_factor():
    psf = Psf(0.7)
    factor = psf.sampling_factor(3, 2)
    grid = np.random.default_rng(5).random((6, 6))
    assert_allclose(psf.sampling_matrix(3, 2) @ grid.ravel(), (factor @ grid @ factor.T).ravel(), rtol=1e-13)


# Fisher information


def test_fisher_is_the_curvature_of_the_expected_log_likelihood():
    psf, shape, noise, h = Psf(0.5), (7, 7), 2.0, 1e-3
    theta = np.array([2.8, 3.1, 90.0, 3.4, 3.3, 110.0])  # x, y, radiance of two targets

    def image(values):
        return psf.render(values[0::3], values[1::3], values[2::3], shape)

    def loss(values):
        return 0.5 * ((image(values) - image(theta)) ** 2).sum() / noise**2

    unit = np.diag(h * np.array([1, 1, 100, 1, 1, 100]))  # the radiance needs a longer step
    numeric = np.empty((6, 6))
    for i, j in np.ndindex(6, 6):
        a, b = unit[i], unit[j]
        difference = loss(theta + a + b) - loss(theta + a - b) - loss(theta - a + b) + loss(theta - a - b)
        numeric[i, j] = difference / (4 * a.max() * b.max())
    fisher = psf.fisher(theta[0::3], theta[1::3], theta[2::3], shape, noise)
    scale = np.sqrt(np.outer(np.diag(fisher), np.diag(fisher)))
    assert_allclose(numeric / scale, fisher / scale, atol=1e-4)  # central differences: h^2 times curvature


def test_fisher_is_the_gram_matrix_of_the_jacobian_over_the_variance():
    x, y, radiance = [2.8, 3.4], [3.1, 3.3], [90.0, 110.0]
    jacobian = Psf().jacobian(x, y, radiance, (7, 6))
    expected = np.einsum("hwkp,hwlq->kplq", jacobian, jacobian).reshape(6, 6) / 9
    assert_allclose(Psf().fisher(x, y, radiance, (7, 6), 3.0), expected, rtol=1e-12)


def test_fisher_of_a_broad_spot_is_the_closed_form_of_a_gaussian():
    # Pixel integration widens the variance by 1/12; what remains is of the order 1/sigma^4.
    radiance, noise, broad = 50.0, 0.7, 5.0
    variance = broad**2 + 1 / 12
    fisher = Psf(broad).fisher([40.0], [40.0], [radiance], (81, 81), noise)
    of_radiance = 1 / (4 * math.pi * variance * noise**2)
    of_position = radiance**2 / (8 * math.pi * variance**2 * noise**2)
    assert_allclose(np.diag(fisher), [of_position, of_position, of_radiance], rtol=1e-4)
    off = fisher - np.diag(np.diag(fisher))
    assert np.abs(off).max() < 1e-12 * np.diag(fisher).max()  # odd integrands vanish by symmetry


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan])
def test_fisher_refuses_noise_that_is_not_positive(noise):
    with pytest.raises(InputError, match="noise_sd"):
        Psf().fisher([1.0], [1.0], [1.0], (3, 3), noise)


@pytest.mark.parametrize("value", [0.0, -0.5, math.inf, math.nan])
def test_sigma_must_be_finite_and_positive(value):
    with pytest.raises(InputError, match=r"Psf\.sigma"):
        Psf(value)


def test_the_file_of_a_measured_psf_is_read_as_it_was_written(tmp_path):
    estimate = PsfEstimate(0.512, 0.003, 0.001, 40, {"edge": 2, "faint": 1}, "frames", "0.1.0")
    save_psf(estimate, tmp_path / "psf.json")
    assert load_psf(tmp_path / "psf.json") == estimate
    assert json.loads((tmp_path / "psf.json").read_text())["sigma"] == 0.512


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not JSON"),
        ('{"sigma": 0.5}', "sigma_error"),
        ('{"sigma": -0.5, "sigma_error": 0.1}', "positive"),
        ('{"sigma": 0.5, "sigma_error": -0.1}', "negative"),
        ('{"sigma": 0.5, "sigma_error": 0.1, "format": 2}', "format 2"),
        ('{"sigma": 0.5, "sigma_error": 0.1, "sigmas": 3}', "sigmas"),
        ("[]", "object"),
    ],
)
def test_another_file_than_a_psf_is_refused(tmp_path, text, word):
    (tmp_path / "psf.json").write_text(text)
    with pytest.raises(InputError, match=word):
        load_psf(tmp_path / "psf.json")


def test_a_missing_psf_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json"):
        load_psf(tmp_path / "nowhere.json")
