"""DSCSNet on the device: patches in, targets on the network's grid out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint import grid
from glint.cards import DEFAULT_UNMIXER, ModelCard, UnmixerSpec, load_card
from glint.crop import recentre
from glint.errors import InputError
from glint.runtime.engine import Engine, open_engine
from glint.types import TargetFlag, Targets

_CHUNK = 512  # patches per call of the engine: bounds its memory


class Unmixer:
    """An unmixing model and its card.

    Args:
        engine: runs the model.
        card: says how patches go in and how the grid is read.
    """

    def __init__(self, engine: Engine, card: ModelCard) -> None:
        self.engine, self.card = engine, card
        self.spec: UnmixerSpec = card.unmixer or UnmixerSpec()

    @staticmethod
    def open(
        model: str | Path = DEFAULT_UNMIXER,
        *,
        engine: str = "auto",
        precision: str = "fp32",
        threads: int | None = None,
    ) -> Unmixer:
        """Load an unmixer by name or card.

        Raises:
            ModelError: if the model is missing, corrupt or no unmixer.
            EngineError: if the engine cannot be used.
        """
        card, path = load_card(model, precision=precision, task="unmix")
        return Unmixer(open_engine(path, engine=engine, threads=threads), card)

    def check(self, patches: NDArray[Any]) -> NDArray[np.float32]:
        """Patches as ``float32 [N, n, n]``.

        Raises:
            InputError: if they have another shape, are not numbers, or are not finite.
        """
        n = self.spec.patch
        if patches.ndim != 3 or patches.shape[1:] != (n, n):
            raise InputError(f"patches: expected shape [N, {n}, {n}], got {list(patches.shape)}")
        if patches.dtype.kind not in "uif":
            raise InputError(f"patches: expected integers or floating-point numbers, got {patches.dtype}")
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite and is refused below
            values = patches.astype(np.float32)
        bad = ~np.isfinite(values).all(axis=(1, 2))
        if bad.any():
            raise InputError(
                f"patches: {bad.sum()} of {len(patches)} hold NaN or infinite values, "
                f"the first is patch {int(np.flatnonzero(bad)[0])}"
            )
        return values

    def grids(self, patches: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """The network's radiance maps.

        Args:
            patches: ``float32 [N, n, n]``, DN above the background.

        Returns:
            grids ``float32 [N, g, g]`` in DN, and the column and row of the patch at which each
            grid's crop starts, ``[N]``.
        """
        crops, left, top = recentre(patches, self.spec.crop)
        normalised = self.card.normaliser.apply(crops)
        side = self.spec.crop * self.spec.cells
        parts = [
            self.engine.infer(patch=np.ascontiguousarray(normalised.value[i : i + _CHUNK, None]))["grid"][:, 0]
            for i in range(0, len(patches), _CHUNK)
        ]
        grids = np.concatenate(parts) if parts else np.zeros((0, side, side), dtype=np.float32)
        return grids * normalised.scale, left, top

    def __call__(self, patches: NDArray[Any]) -> Targets:
        """Take patches apart.

        Args:
            patches: ``[N, n, n]``, DN above the background.

        Returns:
            Targets at cell centres, in patch pixels; ``blob`` is the number of the patch. Their
            uncertainties are unknown (NaN) and ``ON_GRID`` is set.

        Raises:
            InputError: if the patches are malformed.
        """
        grids, left, top = self.grids(self.check(patches))
        threshold = np.maximum(self.spec.threshold, self.spec.relative * grids.max(axis=(1, 2), initial=0.0))
        patch, x, y, radiance = grid.decode(grids, self.spec.cells, threshold)
        unknown = np.full(len(x), np.nan)
        # Monotone in the radiance, as the benchmark ranks grid answers, and bounded.
        score = radiance / (radiance + self.spec.radiance_unit)
        return Targets(
            x=x + left[patch], y=y + top[patch], radiance=radiance, sigma_x=unknown, sigma_y=unknown,
            sigma_radiance=unknown, blob=patch, score=score,
            flags=np.full(len(x), int(TargetFlag.ON_GRID)),
        )  # fmt: skip
