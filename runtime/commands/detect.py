"""``glint detect``: a mask for every image."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glint.cards import DEFAULT_DETECTOR
from glint.cli import talk
from glint.files import FileNames, refuse_full
from glint.images import write_image
from glint.progress import Progress
from glint.runtime.engines.choose import choose_engine
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.polarity import detect as detected
from glint.runtime.sources.open import open_frames


def detect(
    source: str,
    out: str | Path,
    *,
    detector: str | Path = DEFAULT_DETECTOR,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write one mask (PNG, 0 and 255, same size and stem) per image of a source.

    Returns:
        frames, skipped frames, blobs and seconds.

    Raises:
        GlintError: one of its subclasses, for a bad source, model, output or argument.
    """
    out = Path(out)
    frames = open_frames(source)
    refuse_full(out, overwrite=overwrite, what="output folder")
    frames.refuse_collisions(out)
    model = Detector.open(detector, engine=engine, precision=precision, threads=threads)
    talk(f"engine: {choose_engine(engine)[0]}; detector {model.card.name} ({model.card.precision})")
    started, count, blobs, names = time.perf_counter(), 0, 0, FileNames()
    with model.engine, Progress("detect", frames.total) as line:
        for frame in frames.frames():
            detection = detected(model, frame)
            write_image(out / f"{names.of(frame.name, frame.index)}.png", detection.mask)
            count, blobs = count + 1, blobs + len(detection.blobs)
            line.update(count + sum(frames.skips.values()))
    seconds = round(time.perf_counter() - started, 3)
    return {"frames": count, "skipped": [asdict(s) for s in frames.skipped], "blobs": blobs, "seconds": seconds}
