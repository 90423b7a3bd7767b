"""DSCSNet on the device: patches in, candidates out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.cards import DEFAULT_UNMIXER, ModelCard, UnmixerSpec
from glint.casting import as_float32
from glint.errors import InputError, ModelError
from glint.processing import grid
from glint.processing.candidates import SLOTS, Candidates, find_candidates
from glint.processing.crop import recentre
from glint.runtime.engines.base import Engine
from glint.runtime.engines.choose import find_model, open_engine
from glint.types import TargetFlag, Targets

_PATCHES_PER_CALL = 512  # patches per call of the engine: bounds its memory
_MAPS = {"grid": 1, "presence": 1, "offset": 2, "radiance": 1, "spread": 3}  # what the network says, and its channels

_CANDIDATE_MAPS = tuple(name for name in _MAPS if name != "grid")


@dataclass(frozen=True, eq=False)
class Unmixed:
    """What the network says of N patches.

    Attributes:
        grids: radiance per cell of each patch's crop, ``float32 [N, g, g]``, DN; ``[N, 0, 0]`` if it was not asked for.
        candidates: possible targets, pixels of the patch and DN.
        left, top: column and row of the patch at which each crop starts, ``[N]``.
        spec: how the grids are read.
    """

    grids: NDArray[np.float32]
    candidates: Candidates
    left: NDArray[np.int64]
    top: NDArray[np.int64]
    spec: UnmixerSpec

    def targets(self) -> Targets:
        """The candidates that are more likely there than not, off the grid.

        Returns:
            Targets in patch pixels; ``blob`` is the number of the patch. Uncertainties are those that
            the network predicts; the score is exp(-(sigma_x^2 + sigma_y^2) / 0.01).
        """
        found = self.candidates
        patch, slot = np.nonzero(np.arange(SLOTS) < found.count()[:, None])
        columns = {name: value[patch, slot].astype(np.float64) for name, value in vars(found).items()}
        del columns["presence"]
        score = np.exp(-(columns["sigma_x"] ** 2 + columns["sigma_y"] ** 2) / 0.01)
        return Targets(**columns, blob=patch, score=score, flags=np.zeros(len(patch), dtype=np.int64))

    def on_grid(self) -> Targets:
        """Cells above the threshold, as the CSIST-100K benchmark reads a grid.

        Returns:
            Targets at cell centres, in patch pixels. Their uncertainties are unknown (NaN) and
            ``ON_GRID`` is set.
        """
        threshold = np.maximum(self.spec.threshold, self.spec.relative * self.grids.max(axis=(1, 2), initial=0.0))
        patch, x, y, radiance = grid.decode(self.grids, self.spec.cells, threshold)
        unknown = np.full(len(x), np.nan)
        # Monotone in the radiance, as the benchmark ranks grid answers, and bounded.
        score = radiance / (radiance + self.spec.radiance_unit)
        return Targets(
            x=x + self.left[patch], y=y + self.top[patch], radiance=radiance, sigma_x=unknown, sigma_y=unknown,
            sigma_radiance=unknown, blob=patch, score=score,
            flags=np.full(len(x), int(TargetFlag.ON_GRID)),
        )  # fmt: skip


class Unmixer:
    """An unmixing model and its card.

    Args:
        engine: runs the model.
        card: says how patches go in and how the maps are read.
    """

    def __init__(self, engine: Engine, card: ModelCard) -> None:
        self.engine, self.card = engine, card
        self.spec: UnmixerSpec = card.unmixer or UnmixerSpec()

    @staticmethod
    def open(
        model: str | Path = DEFAULT_UNMIXER,
        *,
        engine: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
    ) -> Unmixer:
        """Load an unmixer by name or card.

        Raises:
            ModelError: if the model is missing, corrupt or no unmixer.
            EngineError: if the engine cannot be used.
        """
        card, path = find_model(model, engine=engine, precision=precision, task="unmix")
        return Unmixer(open_engine(card, path, engine=engine, threads=threads), card)

    def check(self, patches: NDArray[Any]) -> NDArray[np.float32]:
        """Patches as ``float32 [N, n, n]``.

        Raises:
            InputError: if they have another shape, are not numbers, or are not finite.
        """
        n = self.spec.patch
        values = as_float32("patches", patches)
        if values.ndim != 3 or values.shape[1:] != (n, n):
            raise InputError(f"patches: expected shape [N, {n}, {n}], got {list(values.shape)}")
        bad = ~np.isfinite(values).all(axis=(1, 2))
        if bad.any():
            raise InputError(
                f"patches: {bad.sum()} of {len(patches)} hold NaN or infinite values, "
                f"the first is patch {int(np.flatnonzero(bad)[0])}",
                hint="leave them out, or put the background in their place",
            )
        return values

    def __call__(
        self, patches: NDArray[Any], *, full_scale: ArrayLike | None = None, with_grid: bool = True
    ) -> Unmixed:
        """Take patches apart.

        Args:
            patches: ``[N, n, n]``, DN above the background.
            full_scale: level at which a pixel of the patch is saturated, DN; one number, or an array
                that broadcasts against the patches; None if unknown.
            with_grid: whether the radiances of the grid are wanted, too; else no engine hands them over.

        Raises:
            InputError: if the patches are malformed.
        """
        values = self.check(patches)
        limit = np.asarray(np.inf if full_scale is None else full_scale, dtype=np.float32)
        saturated = np.broadcast_to(values >= limit, values.shape)
        crops, left, top = recentre(np.stack([values, saturated.astype(np.float32)], axis=1), self.spec.crop)
        normalised = self.card.normaliser.apply(crops[:, 0])
        inputs = np.stack([normalised.value, crops[:, 1]], axis=1)
        names = tuple(_MAPS) if with_grid else _CANDIDATE_MAPS
        starts = range(0, len(inputs), _PATCHES_PER_CALL)
        parts = [self._infer(inputs[i : i + _PATCHES_PER_CALL], names) for i in starts]
        if not parts:
            side = self.spec.crop * self.spec.cells
            parts = [{name: np.zeros((0, channels, side, side), np.float32) for name, channels in _MAPS.items()}]
        maps = parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        found = find_candidates(maps["presence"], maps["offset"], maps["radiance"], maps["spread"], self.spec.cells)
        scale = normalised.scale[:, 0]
        in_dn = {"radiance": found.radiance * scale, "sigma_radiance": found.sigma_radiance * scale}
        candidates = replace(found.moved(left, top), **in_dn)
        grids = maps["grid"][:, 0] * normalised.scale if with_grid else np.zeros((len(inputs), 0, 0), np.float32)
        return Unmixed(grids, candidates, left, top, self.spec)

    def _infer(self, inputs: NDArray[np.float32], names: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """The maps of some patches, by name.

        Raises:
            ModelError: if the network gives others than its card says: they would be read for something else.
        """
        maps = self.engine.infer(*(s.name for s in self.engine.outputs if s.name in names), patch=inputs)
        side = self.spec.crop * self.spec.cells
        for name in names:
            values = maps.get(name)
            expected = (len(inputs), _MAPS[name], side, side)
            if values is None or values.dtype != np.float32 or values.shape != expected:
                got = "nothing" if values is None else f"{values.dtype} {list(values.shape)}"
                raise ModelError(
                    f"the unmixer {self.card.name} gives {name}: {got}; expected float32 {list(expected)}",
                    hint="crop and cells of its card must be those of the network",
                )
        return maps
