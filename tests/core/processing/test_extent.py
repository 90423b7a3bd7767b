"""Where masks end, against the rule written with SciPy, and against targets whose light is known."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import ndimage

from glint.depth import EIGHT_BITS, Depth
from glint.errors import InputError
from glint.optics import Psf
from glint.processing.extent import Extent, confine

SHAPE = (48, 64)
RULE = Extent()


def spots(*targets):
    return sum(a * Psf(s).render(np.array([x]), np.array([y]), np.array([1.0]), SHAPE) for x, y, a, s in targets)


def sure(*centres):
    probability = np.full(SHAPE, 0.02, dtype=np.float32)
    for x, y in centres:
        probability[y, x] = 0.9
    return probability


def masks(light, probability, extent=RULE, *, depth=EIGHT_BITS, **options):
    frame, background = (light + 30).astype(np.float32), np.full(SHAPE, 30, dtype=np.float32)
    return confine(probability, frame, background, 1.0, extent, depth=depth, **options)


@pytest.mark.parametrize("peak", [20.0, 60.0, 200.0])
def test_a_target_ends_where_its_light_falls_below_the_root_of_its_peak(peak):
    light = spots((30.3, 20.8, 1.0, 0.9))
    light *= peak / light.max()
    near = np.zeros(SHAPE, dtype=bool)
    near[19:24, 28:33] = True  # two pixels around what the network marks
    mask = masks(light, sure((30, 21))) > 0.5
    assert np.array_equal(mask, near & (light > 2.6 * np.sqrt(peak)))
    assert mask[21, 30]


def test_with_an_exponent_of_one_it_ends_at_a_share_however_bright_it_is():
    light = spots((30.3, 20.8, 1.0, 0.7))
    extent = Extent(factor=0.3, exponent=1.0)
    faint, bright = (masks(b * light, sure((30, 21)), extent) > 0.5 for b in (5.0, 5000.0))
    assert np.array_equal(faint, bright)
    assert faint.sum() == (light > 0.3 * light.max()).sum()


def test_spots_below_the_square_of_the_factor_have_no_mask():
    light = spots((30, 20, 1.0, 0.8))
    for peak, some in ((6.4, False), (7.2, True)):
        assert (masks(light * peak / light.max(), sure((30, 20))) > 0.5).any() == some


@pytest.mark.parametrize("known", [True, False])
def test_masks_know_no_gain_if_the_unit_is_told(known):
    light = spots((30.2, 20.1, 300.0, 1.0), (50.0, 30.0, 40.0, 0.8))
    probability = sure((30, 20), (50, 30))
    one, many = (masks(g * light, probability, depth=Depth(g, known)) > 0.5 for g in (1.0, 64.0))
    assert np.array_equal(one, many)


def test_without_eight_bits_a_target_ends_at_half_of_its_peak_at_the_latest():
    light = spots((30.2, 20.1, 1.0, 1.0))
    light /= light.max()
    faint = masks(5 * light, sure((30, 20)), depth=Depth(1.0, known=False)) > 0.5
    assert np.array_equal(faint[18:23, 28:33], (light > 0.5)[18:23, 28:33])
    bright = masks(900 * light, sure((30, 20)), depth=Depth(1.0, known=False)) > 0.5
    assert np.array_equal(bright, masks(900 * light, sure((30, 20))) > 0.5)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("light", [-30.0, 0.0, 0.6])
def test_a_dark_pixel_does_not_make_a_mask_of_the_noise_around_it(known, light):
    noise = np.abs(np.random.default_rng(1).normal(size=SHAPE))
    noise[20, 30] = light
    mask = masks(noise, sure((30, 20)), depth=Depth(1.0, known)) > 0.5
    assert mask.any() == (light > 0 and not known)


@pytest.mark.parametrize("told", [0.3, 0.49, 0.51])
def test_a_spot_is_as_large_by_itself_however_sure_it_is_and_not_at_all_where_there_is_too_little_light(told):
    probability = np.full(SHAPE, 0.02, dtype=np.float32)
    probability[20, 30] = told
    areas = []
    for peak in (6.0, 60.0):
        light = np.zeros(SHAPE)
        light[20, 30] = peak
        areas.append((masks(light, probability) > 0.25).sum())
    assert areas == [0, 1]


def test_what_is_rather_no_target_reaches_nowhere():
    light = np.full(SHAPE, 50.0)
    probability = sure()
    probability[20, 30] = 0.5
    assert (masks(light, probability) > 0.02).sum() == 1


@pytest.mark.parametrize("shift", range(1, 5))
def test_masks_move_with_their_targets(shift):
    """A faint target beside a bright one, both moved by whole pixels."""
    light, probability = spots((18, 16, 700.0, 0.7), (27, 16, 90.0, 0.7)), sure((18, 16), (27, 16))
    still = masks(light, probability) > 0.5
    moved = masks(np.roll(light, shift, 1), np.roll(probability, shift, 1)) > 0.5
    assert still[16, 27]
    assert np.array_equal(np.roll(still, shift, 1), moved)


def test_an_object_has_one_peak_along_all_of_it():
    light, probability = np.zeros(SHAPE), np.full(SHAPE, 0.02, dtype=np.float32)
    probability[20, 5:50] = 0.9
    light[20, 5:50] = 60.0
    light[20, 5] = 250.0  # ends at 41 DN
    assert (masks(light, probability) > 0.5).sum() == 45
    light[20, 6:50] = 40.0
    assert (masks(light, probability) > 0.5).sum() == 1


def test_light_that_is_no_number_belongs_to_no_target():
    light = spots((30, 20, 400.0, 0.8))
    light[20, 31] = np.nan
    mask = masks(light, sure((30, 20))) > 0.5
    assert mask[20, 30]
    assert not mask[20, 31]


def test_the_probability_within_a_mask_is_the_highest_within_reach():
    light = spots((20, 20, 900.0, 1.5), (44, 30, 900.0, 1.5))
    probability = sure((20, 20), (44, 30))
    probability[30, 44] = 0.7
    told = masks(light, probability)
    assert set(np.unique(told[15:26, 15:26])) <= {np.float32(0), np.float32(0.02), np.float32(0.9)}
    assert told[20, 21] == np.float32(0.9)
    assert told[30, 43] == np.float32(0.7)


def test_each_target_has_its_own_peak_unless_a_brighter_one_reaches_it():
    light = spots((16, 16, 400.0, 0.7), (44, 32, 60.0, 0.7), (20, 16, 60.0, 0.7))
    centres = (16, 16), (44, 32), (20, 16)
    mask = masks(light, sure(*centres)) > 0.5
    assert [bool(mask[y, x]) for x, y in centres] == [True, True, True]
    mask = masks(light, sure(*centres), Extent(reach=4)) > 0.5
    assert [bool(mask[y, x]) for x, y in centres] == [True, True, False]  # below where the light of the bright one ends


def test_light_of_what_is_rather_no_target_is_no_peak():
    light = spots((30, 20, 40.0, 0.8), (34, 20, 4000.0, 0.6))
    probability = sure((30, 20))
    probability[20, 34] = 0.49
    assert masks(light, probability)[20, 30] == np.float32(0.9)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000), reach=st.integers(0, 3), exponent=st.sampled_from([0.3, 0.5, 1.0]),
    scale=st.sampled_from([1.0, 7.0]), unit=st.sampled_from([1.0, 3.0]), known=st.booleans(),
)  # fmt: skip
def test_it_is_as_the_rule_says(seed, reach, exponent, scale, unit, known):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    level = (10 * rng.normal(size=(height, width))).astype(np.float32)
    background = rng.normal(size=(height, width)).astype(np.float32)
    probability = rng.random((height, width)).astype(np.float32) ** 3
    light = (level - background) * scale / unit
    spot, number = ndimage.label(probability > 0.5, np.ones((3, 3)))
    own = np.zeros(number + 1)
    np.maximum.at(own, spot, light)
    own[0] = 0

    def around(values):
        return ndimage.maximum_filter(values, 2 * reach + 1, mode="constant")

    reached = around(spot > 0)
    peak = np.where(reached, around(own[spot]), light).clip(1e-9)
    edge = 0.8 * peak**exponent if known else np.minimum(0.8 * peak**exponent, 0.4 * peak)
    expected = np.where((light > edge) & (edge < peak), np.where(reached, around(probability), probability), 0)
    told = confine(probability, level, background, scale, Extent(reach, 0.8, exponent, 0.4), depth=Depth(unit, known))
    clear = (np.abs(light - edge) > 1e-4 * scale) & (np.abs(peak - edge) > 1e-4 * scale)
    assert np.array_equal(told[clear], expected[clear])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.2, 0.5, 0.8]))
def test_what_is_below_the_threshold_changes_nothing_above_it(seed, threshold):
    rng = np.random.default_rng(seed)
    probability = rng.random(SHAPE).astype(np.float32) ** 4
    light = 15 * rng.normal(size=SHAPE)
    whole, quick = masks(light, probability), masks(light, probability, least=threshold)
    assert np.array_equal(np.where(whole > threshold, whole, 0), np.where(quick > threshold, quick, 0))


@pytest.mark.parametrize(
    "wrong",
    [{"reach": -1}, {"reach": 2**70}, {"factor": 0.0}, {"factor": np.inf}, {"exponent": 1.5}, {"share": 1.0}],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match="Extent: expected"):
        Extent(**wrong)
