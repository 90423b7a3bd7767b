"""Where masks end, against the rule written with SciPy, and against targets whose light is known."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.ndimage import maximum_filter

from glint.errors import InputError
from glint.extent import Extent, confine
from glint.optics import Psf

SHAPE = (48, 64)
RULE = Extent()


def spots(*targets):
    return sum(a * Psf(s).render(np.array([x]), np.array([y]), np.array([1.0]), SHAPE) for x, y, a, s in targets)


def sure(*centres):
    probability = np.full(SHAPE, 0.02, dtype=np.float32)
    for x, y in centres:
        probability[y, x] = 0.9
    return probability


def masks(light, probability, extent=RULE, **options):
    frame = (light + 30).astype(np.float32)
    return confine(probability, frame, np.full(SHAPE, 30, dtype=np.float32), 1.0, extent, **options)


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


def test_brighter_peaks_than_of_eight_bits_end_at_the_lowest_share():
    light = spots((30, 20, 1.0, 1.0))
    light *= 9000 / light.max()
    mask = masks(light, sure((30, 20))) > 0.5
    assert np.array_equal(mask[18:23, 28:33], (light > 0.15 * 9000)[18:23, 28:33])


def test_the_probability_within_a_mask_is_the_highest_within_reach():
    light = spots((20, 20, 900.0, 1.5), (44, 30, 900.0, 1.5))
    probability = sure((20, 20), (44, 30))
    probability[30, 44] = 0.7
    told = masks(light, probability)
    assert set(np.unique(told[15:26, 15:26])) <= {np.float32(0), np.float32(0.02), np.float32(0.9)}
    assert told[20, 21] == np.float32(0.9)
    assert told[30, 43] == np.float32(0.7)


def test_each_target_has_its_own_peak_unless_a_brighter_one_is_near():
    light = spots((16, 16, 400.0, 0.7), (44, 32, 60.0, 0.7), (21, 16, 60.0, 0.7))
    mask = masks(light, sure((16, 16), (44, 32), (21, 16))) > 0.5
    assert mask[16, 16]
    assert mask[32, 44]
    assert not mask[16, 21]  # below where the light of the bright one ends
    assert light[16, 21] == pytest.approx(light[32, 44], rel=0.01)


def test_light_of_what_is_rather_no_target_is_no_peak():
    light = spots((30, 20, 40.0, 0.8), (34, 20, 4000.0, 0.6))
    probability = sure((30, 20))
    probability[20, 34] = 0.49
    assert masks(light, probability)[20, 30] == np.float32(0.9)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000), reach=st.integers(0, 3), exponent=st.sampled_from([0.3, 0.5, 1.0]),
    scale=st.sampled_from([1.0, 7.0]),
)  # fmt: skip
def test_it_is_as_the_rule_says(seed, reach, exponent, scale):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(9, 40, 2)
    level = (10 * rng.normal(size=(height, width))).astype(np.float32)
    background = rng.normal(size=(height, width)).astype(np.float32)
    probability = rng.random((height, width)).astype(np.float32) ** 3
    light = (level - background) * scale
    padded = np.zeros((-(-height // 4) * 4, -(-width // 4) * 4))
    padded[:height, :width] = np.where(probability > 0.5, light, 0).clip(0)
    cells = padded.reshape(padded.shape[0] // 4, 4, padded.shape[1] // 4, 4).max((1, 3))
    peak = np.kron(maximum_filter(cells, 5, mode="constant"), np.ones((4, 4)))[:height, :width]
    reached = maximum_filter(probability, 2 * reach + 1, mode="constant")
    edge = np.maximum(1.5 * peak**exponent, 0.2 * peak)
    told = confine(probability, level, background, scale, Extent(reach, 1.5, exponent, 0.2))
    unclear = np.abs(light - edge) < 1e-4 * scale
    assert np.array_equal(told[~unclear], np.where(light > edge, reached, 0)[~unclear])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.2, 0.5, 0.8]))
def test_what_is_below_the_threshold_changes_nothing_above_it(seed, threshold):
    rng = np.random.default_rng(seed)
    probability = rng.random(SHAPE).astype(np.float32) ** 4
    light = 15 * rng.normal(size=SHAPE)
    whole, quick = masks(light, probability), masks(light, probability, least=threshold)
    assert np.array_equal(np.where(whole > threshold, whole, 0), np.where(quick > threshold, quick, 0))


@pytest.mark.parametrize("wrong", [{"reach": -1}, {"factor": 0.0}, {"exponent": 1.5}, {"lowest": 1.0}])
def test_a_rule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match="Extent: expected"):
        Extent(**wrong)
