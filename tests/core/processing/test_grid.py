"""Between lists of targets and the finer grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from glint.errors import InputError
from glint.optics import Psf, cell_centre
from glint.processing.grid import decode, encode

quick = settings(deadline=None, max_examples=40, derandomize=True)


def test_target_lands_in_row_of_y_and_column_of_x():
    # Pixel (2, 1) in three parts per axis: x 2.3 is the last third of column 2, y 0.7 the first of row 1.
    grid = encode([[2.3]], [[0.7]], [[9.0]], 4, 3)
    assert grid.shape == (1, 12, 12)
    assert grid.dtype == np.float32
    assert np.argwhere(grid[0]).tolist() == [[3, 8]]
    assert grid.sum() == 9


def test_targets_in_one_cell_add_up():
    grid = encode([[1.0, 1.1]], [[1.0, 0.9]], [[3.0, 4.0]], 3, 3)
    assert grid[0, 4, 4] == 7
    assert np.count_nonzero(grid) == 1


def test_empty_slots_and_targets_outside_leave_no_trace():
    x = [[0.0, -0.6, 2.6, 1.0, 1.0]]
    y = [[0.0, 1.0, 1.0, -0.6, 2.6]]
    assert not encode(x, y, [[0.0, 5.0, 5.0, 5.0, 5.0]], 3, 3).any()


def test_each_patch_has_its_own_grid():
    grids = encode([[0.0], [1.0]], [[0.0], [0.0]], [[1.0], [2.0]], 2, 1)
    assert grids.tolist() == [[[1, 0], [0, 0]], [[0, 2], [0, 0]]]


def test_decode_returns_the_benchmarks_positions():
    # A.1 of the benchmark: cell i is at (i - 1) / 3.
    grids = np.zeros((2, 33, 33))
    grids[1, 16, 5] = 120.0
    patch, x, y, radiance = decode(grids, 3, 50)
    assert patch.tolist() == [1]
    assert (x[0], y[0], radiance[0]) == pytest.approx(((5 - 1) / 3, (16 - 1) / 3, 120.0), abs=1e-12)


def test_a_cell_at_the_threshold_is_no_target():
    grids = np.array([[[50.0, 50.001], [49.9, 0.0]]])
    patch, x, y, _ = decode(grids, 1, 50)
    assert (patch.tolist(), x.tolist(), y.tolist()) == ([0], [1.0], [0.0])


def test_each_patch_may_have_its_own_threshold():
    grids = np.full((3, 1, 1), 5.0)
    assert decode(grids, 1, [4.0, 5.0, 6.0])[0].tolist() == [0]


def test_no_patches_decode_to_no_targets():
    assert all(len(column) == 0 for column in decode(np.zeros((0, 6, 6)), 3, 1.0))


@quick
@given(
    cells=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), unique=True, max_size=5),
    radiance=st.floats(1, 300, width=32),
    c=st.sampled_from([3, 5]),
)
def test_targets_at_cell_centres_survive_the_round_trip(cells, radiance, c):
    rows, columns = (np.array([cell[i] for cell in cells], dtype=int) for i in (0, 1))
    grid = encode([cell_centre(columns, c)], [cell_centre(rows, c)], [np.full(len(cells), radiance)], 15 // c, c)
    _, x, y, found = decode(grid, c, 0.5)
    order = np.lexsort((columns, rows))  # decode goes row by row
    assert_allclose(x, cell_centre(columns[order], c), atol=1e-12)
    assert_allclose(y, cell_centre(rows[order], c), atol=1e-12)
    assert (found == radiance).all()


def test_the_sampling_matrix_takes_an_encoded_grid_to_the_image():
    x, y, radiance = cell_centre([3, 10], 3), cell_centre([7, 4], 3), np.array([220.0, 250.0])
    grid = encode([x], [y], [radiance], 5, 3)[0]
    image = Psf(0.5).sampling_matrix(5, 3) @ grid.ravel()
    assert_allclose(image.reshape(5, 5), Psf(0.5).render(x, y, radiance, (5, 5)), atol=1e-12)


@pytest.mark.parametrize("shape", [(33, 33), (1, 33, 30), (1, 32, 32)])
def test_decode_refuses_other_shapes(shape):
    with pytest.raises(InputError, match="decode"):
        decode(np.zeros(shape), 3, 50)
