"""``glint.detect``: images in, masks of their targets out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from glint.cards import DEFAULT_DETECTOR
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.polarity import detect as detected
from glint.runtime.sources.base import Source
from glint.runtime.sources.items import Item
from glint.runtime.sources.open import open_any

Mask = NDArray[np.uint8]


@overload
def detect(  # type: ignore[overload-overlap]
    images: NDArray[Any],
    *,
    detector: str | Path = ...,
    engine: str = ...,
    precision: str = ...,
    threads: int | None = ...,
) -> Mask: ...


@overload
def detect(
    images: str | Path | Iterable[Item] | Source,
    *,
    detector: str | Path = ...,
    engine: str = ...,
    precision: str = ...,
    threads: int | None = ...,
) -> list[Mask]: ...


def detect(
    images: str | Path | NDArray[Any] | Iterable[Item] | Source,
    *,
    detector: str | Path = DEFAULT_DETECTOR,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Mask | list[Mask]:
    """Masks of the targets of images.

    Args:
        images: an array ``[H, W]`` or ``[N, H, W]`` of integers or floats, or any source (see ``glint.stream``).
        detector: name in the zoo or path of a model card.
        engine, precision, threads: what runs it.

    Returns:
        ``uint8``, 255 where a target is and 0 elsewhere, as ``glint detect`` writes them: an array of the shape of
        ``images`` if that is an array, else a list with one ``[H, W]`` per frame.

    Raises:
        GlintError: one of its subclasses, for a bad source, model or argument.
    """
    frames = open_any(images)
    model = Detector.open(detector, engine=engine, precision=precision, threads=threads)
    with model.engine:
        masks = [detected(model, frame).mask for frame in frames.frames()]
    if isinstance(images, np.ndarray):
        return np.reshape(masks, images.shape).astype(np.uint8)
    return masks
