"""A labelled folder as SIRST has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from glint.images import write_image


def sirst_folder(root: Path, *, target: bool = True) -> Path:
    """Two images with one target each, or none, their masks and the list ``val``."""
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        image, mask = rng.normal(50, 2, (40, 48)), np.zeros((40, 48), np.uint8)
        if target:
            image[15:17, 20:22] += 120
            mask[15:17, 20:22] = 255
        write_image(root / "images" / f"{name}.png", np.round(image).astype(np.uint8))
        write_image(root / "masks" / f"{name}.png", mask)
    (root / "val.txt").write_text("one\ntwo\n")
    return root
