"""What flows through a network: shapes, largest values and histograms of its tensors over a calibration set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from glint.calibration.int8_layers import with_outputs
from glint.errors import InputError
from glint.progress import Progress

BINS = 2048
_PATCHES_PER_RUN = 64  # patches per run
_TENSORS_PER_RUN = 128  # tensors kept per run: bounds the memory that large frames take
Batches = Sequence[NDArray[np.float32]]


@dataclass(frozen=True)
class Observed:
    """Of every tensor by its name: the shape in the first run and the largest absolute value of all runs."""

    shapes: dict[str, tuple[int, ...]]
    largest: dict[str, float]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """ONNX Runtime on one thread: sums then never depend on how many there are."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
    )


def values(
    model: onnx.ModelProto, tensors: Sequence[str], batches: Batches, *, what: str = "observe"
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every float32 tensor of every run: its name and its value ``[n, ...]``, some tensors after the other."""
    entry = model.graph.input[0].name
    runs = [batch[i : i + _PATCHES_PER_RUN] for batch in batches for i in range(0, len(batch), _PATCHES_PER_RUN)]
    groups = [tensors[i : i + _TENSORS_PER_RUN] for i in range(0, len(tensors), _TENSORS_PER_RUN)]
    with Progress(what, len(groups) * len(runs)) as line:
        for g, group in enumerate(groups):
            running = session(with_outputs(model, group))
            for r, run in enumerate(runs):
                yield from zip(group, running.run(list(group), {entry: run}))
                line.update(g * len(runs) + r + 1)


def observe(model: onnx.ModelProto, tensors: Sequence[str], batches: Batches) -> Observed:
    """Shapes and largest values.

    Raises:
        InputError: if a tensor is not finite.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    largest = dict.fromkeys(tensors, 0.0)
    for name, value in values(model, tensors, batches, what="ranges"):
        shapes.setdefault(name, value.shape)
        top = float(np.abs(value).max(initial=0.0))
        if not np.isfinite(top):
            raise InputError(f"{name} is not finite for a sample of the calibration set", hint="leave that sample out")
        largest[name] = max(largest[name], top)
    return Observed(shapes, largest)


def histograms(model: onnx.ModelProto, largest: dict[str, float], batches: Batches) -> dict[str, NDArray[np.int64]]:
    """Absolute values of each tensor of ``largest`` in 2,048 bins from 0 to its largest value."""
    counts = {name: np.zeros(BINS, dtype=np.int64) for name in largest}
    for name, value in values(model, list(largest), batches, what="histograms"):
        if largest[name] > 0:
            index = (np.abs(value).ravel() * (BINS / largest[name])).astype(np.int64)
            counts[name] += np.bincount(np.minimum(index, BINS - 1), minlength=BINS)
    return counts
