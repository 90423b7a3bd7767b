"""What each spot looks like by itself: one Gaussian of free width, elliptical where the data ask for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled, entry
from glint.runtime.unmixing.evidence import measured_spot, spot_start
from glint.runtime.unmixing.fit import ANY_WIDTH_PX, BoolArray, Patch, Prior, fit_points
from glint.runtime.unmixing.normal_equations import PLANE, Array, diagonal_of_inverse
from glint.runtime.unmixing.point_model import SHAPE
from glint.runtime.unmixing.windows import Windows

_PARAMETERS = 3 + PLANE + SHAPE
_LEAST_HALF_PX, _BEYOND_PX, _REACH_WIDTHS = 4, 2.0, 3.0  # half of a window: at least, and beyond so many widths
_WIDTH_PER_MASK_RADIUS = 0.55  # width of a spot over the radius of its mask, about
_WIDEST_RADII_AND_PX = (1.2, 0.5)  # widths of a spot at most: so many radii of its mask and px
_SURROUNDINGS_PIXELS = 20.0  # that the word of a spot's surroundings counts for on how rough the ground under it is
_ALIKE_PIXELS = 2.0  # neighbours of the ground that go together, as those of a point do
_ELONGATED_CHI_SQUARE = 9.2  # chi square of two freedoms that a round spot exceeds once in a hundred


@dataclass(frozen=True, eq=False)
class Shapes:
    """Fits of B spots.

    Attributes:
        theta: parameters ``[B, 9]`` in pixels of the window (see ``point_model``).
        error: their standard deviations ``[B, 9]``; 0 of e and shear of a round one.
        half: the fit took the pixels within so many of the window's middle, ``[B]``.
        stretch, stretch_error: e and shear, measured whether significant or not, and their deviations, ``[B, 2]``.
        elliptical: whether the ellipse is significant, ``bool [B]``.
        gain: misfit that it gained over a round spot, ``[B]``.
        chi_square: squared residuals over their expectation, ``[B]``.
        whole: near its centre no pixel is missing or saturated, and it lies in the middle, ``bool [B]``.
    """

    theta: NDArray[np.float64]
    error: NDArray[np.float64]
    stretch: NDArray[np.float64]
    stretch_error: NDArray[np.float64]
    half: NDArray[np.int64]
    elliptical: NDArray[np.bool_]
    gain: NDArray[np.float64]
    chi_square: NDArray[np.float64]
    whole: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.theta)

    @property
    def sigma(self) -> NDArray[np.float64]:
        """Geometric mean of the standard deviations of the axes, px, ``[B]``."""
        return np.exp(self.theta[:, -3])

    def rows(self, rows: list[int]) -> Shapes:
        """Some of the spots."""
        return Shapes(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def concatenate(parts: list[Shapes]) -> Shapes:
        """All spots of several frames."""
        return Shapes(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Shapes)})


def measure_shapes(windows: Windows) -> Shapes:
    """Fit every spot by itself."""
    number = len(windows)
    theta, error = np.zeros((number, _PARAMETERS)), np.zeros((number, _PARAMETERS))
    stretch, stretch_error = np.zeros((number, 2)), np.zeros((number, 2))
    half, elliptical = np.zeros(number, dtype=np.int64), np.zeros(number, dtype=np.bool_)
    gain, chi_square, whole = np.zeros(number), np.zeros(number), np.zeros(number, dtype=np.bool_)
    if number:
        _measure_all(
            windows.data, windows.clear, windows.full_scale, windows.noise, windows.area, theta, error,
            stretch, stretch_error, half, elliptical, gain, chi_square, whole,
        )  # fmt: skip
    return Shapes(theta, error, stretch, stretch_error, half, elliptical, gain, chi_square, whole)


def settled(windows: Windows, shapes: Shapes) -> tuple[Windows, Shapes]:
    """Both with the noise that the spots themselves speak for.

    The ground under a spot is as rough as its surroundings, or smoother: where one Gaussian leaves less than was
    expected, there is less. What there is covers several pixels, as points do: white noise would have to be stronger to
    feign as much. The sensor's own noise stays as it is.

    Args:
        windows: with the noise that their surroundings speak for.
        shapes: of their spots.
    """
    size = 2 * shapes.half + 1
    freedom = np.maximum(np.minimum(size**2, windows.clear.sum(axis=(1, 2))) - _PARAMETERS, 1)
    left = (_SURROUNDINGS_PIXELS + freedom * shapes.chi_square) / (_SURROUNDINGS_PIXELS + freedom)
    ground = np.maximum(np.minimum(left, 1.0) * windows.noise**2 - windows.white**2, 0.0)
    noise = np.sqrt(windows.white**2 + _ALIKE_PIXELS * ground)
    ratio = noise / windows.noise
    return replace(windows, noise=noise), replace(
        shapes, error=ratio[:, None] * shapes.error, stretch_error=ratio[:, None] * shapes.stretch_error,
        gain=shapes.gain / ratio**2, chi_square=shapes.chi_square / ratio**2,
    )  # fmt: skip


@compiled
def inner(data: Array, noise: float, full_scale: Array, clear: BoolArray, half: int) -> Patch:
    """The middle of a window: pixels within ``half`` of its centre."""
    middle = data.shape[0] // 2
    low, high = middle - half, middle + half + 1
    return Patch(
        data[low:high, low:high].copy(), noise, full_scale[low:high, low:high].copy(), clear[low:high, low:high].copy()
    )


@entry("f8[3] b1[3] f8[3] f8[1] i8[1] f8[2] f8[2] f8[2] f8[2] i8[1] b1[1] f8[1] f8[1] b1[1]")
def _measure_all(
    data: Array, clear: BoolArray, full_scale: Array, noise: Array, area: NDArray[np.int64], theta: Array, error: Array,
    stretch: Array, stretch_error: Array, half: NDArray[np.int64], elliptical: BoolArray, gain: Array,
    chi_square: Array, whole: BoolArray,
) -> None:  # fmt: skip
    most = data.shape[1] // 2
    for b in range(len(data)):
        radius = math.sqrt(area[b] / math.pi)
        widest = _WIDEST_RADII_AND_PX[0] * radius + _WIDEST_RADII_AND_PX[1] if area[b] else float(most)
        width = max(_WIDTH_PER_MASK_RADIUS * radius, 0.45)
        start = spot_start(inner(data[b], noise[b], full_scale[b], clear[b], most), width if area[b] else 0.0)
        reach = _half_window(start, most)
        patch = inner(data[b], noise[b], full_scale[b], clear[b], reach)
        start[:2] -= most - reach
        spot = measured_spot(patch, 1, start, widest)
        wider = _half_window(spot.theta, most)
        if wider > reach:
            start = spot.theta.copy()
            start[:2] += wider - reach
            reach = wider
            patch = inner(data[b], noise[b], full_scale[b], clear[b], reach)
            spot = measured_spot(patch, 1, start, widest)
        round_misfit = spot.misfit
        nothing = Prior(spot.theta, np.zeros(_PARAMETERS))
        glance = fit_points(patch, spot.theta, nothing, SHAPE, 5, ANY_WIDTH_PX, np.empty((0, 0)))
        deviation = diagonal_of_inverse(glance.information)
        for i in range(2):
            stretch[b, i], stretch_error[b, i] = glance.theta[i - 2], math.sqrt(deviation[i - 2])
        if round_misfit - glance.misfit > 0.5 * _ELONGATED_CHI_SQUARE:
            tried = measured_spot(patch, SHAPE, glance.theta, widest)
            if round_misfit - tried.misfit > _ELONGATED_CHI_SQUARE:
                spot = tried
                deviation = diagonal_of_inverse(spot.information)
                for i in range(2):
                    stretch[b, i], stretch_error[b, i] = spot.theta[i - 2], math.sqrt(deviation[i - 2])
        gain[b] = round_misfit - spot.misfit
        elliptical[b] = len(spot.information) == _PARAMETERS
        variance = diagonal_of_inverse(spot.information)
        for i in range(len(variance)):
            error[b, i] = math.sqrt(variance[i])
        chi_square[b] = spot.misfit / max(spot.counted - len(spot.information), 1)
        whole[b] = _is_whole(patch, spot.theta)
        theta[b] = spot.theta
        theta[b, :2] += most - reach
        half[b] = reach


@compiled
def _half_window(theta: Array, most: int) -> int:
    return int(min(max(math.ceil(_REACH_WIDTHS * math.exp(theta[-3]) + _BEYOND_PX), _LEAST_HALF_PX), most))


@compiled
def _is_whole(patch: Patch, theta: Array) -> bool:
    size = patch.image.shape[0]
    reach = max(1.5, 1.5 * math.exp(theta[-3]))
    if math.hypot(theta[0] - size // 2, theta[1] - size // 2) > reach:
        return False
    for row in range(size):
        for column in range(size):
            dark = not patch.valid[row, column] or patch.image[row, column] >= patch.full_scale[row, column]
            if dark and math.hypot(column - theta[0], row - theta[1]) <= reach:
                return False
    return True
