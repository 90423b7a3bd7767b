"""Patches by themselves: what becomes of those in which the network sees nothing."""

import numpy as np
import pytest

from glint.optics import Psf
from glint.runtime.unmixing.patch_unmixing import unmix_known
from glint.runtime.unmixing.refine import RefineConfig
from glint.runtime.unmixing.unmix import unmix
from glint.types import TargetFlag

FULL_SCALE = 255


def square(side: int, level: int) -> np.ndarray:
    patch = np.zeros((11, 11), dtype=np.uint8)
    patch[4 : 4 + side, 4 : 4 + side] = level
    return patch


@pytest.mark.parametrize("radiance", [None, (2000.0, 500.0)])
def test_a_saturated_patch_in_which_the_network_sees_nothing_has_a_target(make_candidates, render, radiance):
    spot = np.minimum(render([(5.3, 4.8, 2000.0)], (11, 11)), FULL_SCALE)
    dim = render([(5.3, 4.8, 200.0)], (11, 11))
    patches = np.stack([dim, spot, np.zeros((11, 11)), spot]).astype(np.float32)
    candidates = make_candidates([(3, 5.3, 4.8, 2000.0)], 4)
    targets = unmix_known(patches, candidates, Psf(0.5), full_scale=FULL_SCALE, config=RefineConfig(radiance=radiance))
    # Below full scale the network's word counts: it sees nothing in the first.
    assert targets.blob.tolist() == [1, 3]
    np.testing.assert_allclose(targets.x, 5.3, atol=0.1)
    np.testing.assert_allclose(targets.y, 4.8, atol=0.1)
    assert (targets.flags & TargetFlag.SATURATED != 0).all()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_saturated_square_of_any_size_is_something(precision):
    patches = np.stack([square(side, FULL_SCALE) for side in (1, 2, 3, 4, 5, 7)])
    targets = unmix(patches, precision=precision, threads=1)
    assert np.bincount(targets.blob, minlength=len(patches)).min() >= 1
    assert (targets.flags & TargetFlag.SATURATED != 0).all()
    assert np.isfinite([targets.x, targets.y, targets.radiance, targets.sigma_x, targets.sigma_y]).all()
