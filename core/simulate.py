"""``glint simulate``: patches or frames with their truth, as files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from glint.data.csist import write_csist
from glint.errors import InputError
from glint.files import refuse_existing, refuse_full, write_bytes
from glint.images import write_image
from glint.progress import Progress
from glint.simulation.patches import CONDITIONS, SENSOR_TRAINING, Patches, simulate_patches
from glint.simulation.scenes import SceneConfig, simulate_scene

_CONDITIONS = {**CONDITIONS, "sensor": SENSOR_TRAINING}


def simulate(
    out: Path, *, condition: str = "float", number: int = 1000, seed: int = 1, overwrite: bool = False
) -> Patches:
    """Simulate patches and write them.

    Args:
        out: ``*.npy`` for an array ``float32 [N, 11, 11]`` with ``NAME.truth.jsonl`` beside it, or a
            folder for the CSIST-100K layout (8 bit).
        condition: a name of ``patches.CONDITIONS``, or ``sensor``.
        number: patches.
        seed: of the generator.
        overwrite: replace existing ``.npy`` output.

    Raises:
        InputError: if the condition is unknown.
        OutputError: if the output exists or cannot be written.
    """
    if condition not in _CONDITIONS:
        raise InputError(f"condition: expected one of {', '.join(_CONDITIONS)}, got {condition!r}")
    truth = out.with_name(f"{out.stem}.truth.jsonl")
    if out.suffix == ".npy":
        refuse_existing(out, overwrite=overwrite)
        refuse_existing(truth, overwrite=overwrite)
    patches = simulate_patches(_CONDITIONS[condition], number, np.random.default_rng(seed))
    if out.suffix != ".npy":
        write_csist(out, patches)
        return patches
    buffer = io.BytesIO()
    np.save(buffer, patches.image, allow_pickle=False)
    write_bytes(out, buffer.getvalue())
    lines = [json.dumps({"patch": i, "targets": _truth(patches, i)}) for i in range(number)]
    write_bytes(truth, "".join(line + "\n" for line in lines).encode())
    return patches


def simulate_frames(scene: SceneConfig, out: Path) -> int:
    """Write the frames of a scene as ``NNNNNN.png`` and their truth as ``truth.jsonl``.

    Returns:
        The number of frames.

    Raises:
        OutputError: if the folder is not empty or cannot be written.
        SourceError: if the scene's background cannot be read.
    """
    refuse_full(out, overwrite=False, what="output folder")
    lines = []
    with Progress("simulate", scene.frames) as line:
        for frame, truth in simulate_scene(scene):
            write_image(out / f"{frame.name}.png", frame.data)
            lines.append(json.dumps({"frame": frame.index, "t_ns": frame.t_ns, "targets": truth.records()}))
            line.update(frame.index + 1)
    write_bytes(out / "truth.jsonl", "".join(text + "\n" for text in lines).encode())
    return len(lines)


def _truth(patches: Patches, i: int) -> list[dict[str, Any]]:
    k = int(patches.count[i])
    columns = (patches.x[i, :k], patches.y[i, :k], patches.radiance[i, :k])
    return [{"x": x, "y": y, "radiance": s} for x, y, s in zip(*(c.tolist() for c in columns))]
