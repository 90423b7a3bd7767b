"""From the maps of DSCSNet's target head to a short list of candidates per patch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.errors import InputError
from glint.optics import cell_centre

SLOTS = 6  # one more than the targets of a patch, so that a doubtful sixth is seen
_CELLS = 24  # most probable cells that are looked at; 5 targets on borders of cells touch 20
_SEEN = 0.1  # least presence of a patch's first candidate for anything to be there
_SAME = 0.25  # px; cells whose targets are nearer than this mean the same one (true ones are 0.5 apart)

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Possible targets of N patches, the most probable first; all ``float32 [N, SLOTS]``.

    Attributes:
        presence: probability that there is such a target, 0 to 1.
        x, y: pixels from the centre of the crop's first pixel.
        radiance: in the units of the head.
        sigma_x, sigma_y, sigma_radiance: predicted standard deviations.
    """

    presence: Array
    x: Array
    y: Array
    radiance: Array
    sigma_x: Array
    sigma_y: Array
    sigma_radiance: Array

    def __len__(self) -> int:
        return len(self.presence)

    def count(self) -> NDArray[np.int64]:
        """Number of targets of each patch: candidates that are there rather than not.

        Where none is but one might be, it is 1: somebody cut the patch out for a reason.
        """
        return np.maximum((self.presence > 0.5).sum(axis=1), self.presence[:, 0] > _SEEN)

    def rows(self, index: NDArray[Any]) -> Candidates:
        """The patches that an index names."""
        return Candidates(*(getattr(self, name)[index] for name in vars(self)))

    def moved(self, dx: ArrayLike, dy: ArrayLike) -> Candidates:
        """All positions of a patch shifted by a number of pixels, ``[N]`` each."""
        shift = {
            "x": self.x + np.asarray(dx, dtype=np.float32)[:, None],
            "y": self.y + np.asarray(dy, dtype=np.float32)[:, None],
        }
        return replace(self, **shift)


def find_candidates(presence: Array, offset: Array, radiance: Array, spread: Array, c: int) -> Candidates:
    """Read the maps of the target head.

    The most probable cell speaks first; cells that place their target where it does are counted
    with it: probabilities add up, positions and radiances are averaged, and the variance of the
    average covers what they disagree on.

    Args:
        presence, radiance: ``[N, 1, g, g]``; offset ``[N, 2, g, g]``; spread ``[N, 3, g, g]``.
        c: cells per pixel and axis.

    Raises:
        InputError: if the shapes do not fit together.
    """
    number, side = len(presence), presence.shape[-1]
    shapes = [(number, channels, side, side) for channels in (1, 1, 2, 3)]
    if [a.shape for a in (presence, radiance, offset, spread)] != shapes:
        raise InputError(
            f"find_candidates: expected presence and radiance [N, 1, g, g], offset [N, 2, g, g], spread [N, 3, g, g], "
            f"got {presence.shape}, {radiance.shape}, {offset.shape}, {spread.shape}"
        )
    flat = presence.reshape(number, side * side)
    cells = np.argpartition(flat, -_CELLS, axis=1)[:, -_CELLS:] if side * side > _CELLS else None
    index = np.broadcast_to(np.arange(side * side), flat.shape) if cells is None else cells
    each = np.arange(number)
    rows = each[:, None]
    offsets, spreads = offset.reshape(number, 2, side * side), spread.reshape(number, 3, side * side)
    # [7, N, M]: the values and variances of x, y, radiance of every cell, and its probability.
    value = np.stack([
        offsets[rows, 0, index] + cell_centre(index % side, c).astype(np.float32),
        offsets[rows, 1, index] + cell_centre(index // side, c).astype(np.float32),
        radiance.reshape(number, side * side)[rows, index],
    ])  # fmt: skip
    variance = np.stack([spreads[rows, axis, index] for axis in range(3)]) ** 2
    left = flat[rows, index]
    gap = value[:2, :, :, None] - value[:2, :, None]
    same = (gap**2).sum(axis=0) < _SAME**2  # [N, M, M]
    members = np.zeros((SLOTS, *left.shape), dtype=np.float32)
    for slot in range(SLOTS):
        members[slot] = np.where(same[each, left.argmax(axis=1)], left, 0.0)
        left = np.where(members[slot] > 0, 0.0, left)
    total = members.sum(axis=2)  # [SLOTS, N]
    weight = members / np.maximum(total, 1e-12)[..., None]
    mean = (weight * value[:, None]).sum(axis=3)  # [3, SLOTS, N]
    spread_out = (weight * (variance[:, None] + (value[:, None] - mean[..., None]) ** 2)).sum(axis=3)
    found = np.concatenate([np.minimum(total, 1.0)[None], mean, spread_out]).swapaxes(1, 2)
    order = np.argsort(-found[0], axis=1, kind="stable")
    found = found[:, rows, order]
    found[4:] = np.sqrt(found[4:])
    return Candidates(*found)
