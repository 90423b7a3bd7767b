"""What an export needs to know of a network: its tensors, inputs to try it on, its section of the card."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from glint.cards import DetectorSpec, TensorSpec, UnmixerSpec
from glint.errors import InputError
from glint.processing.normalise import Normaliser
from glint.simulation.scenes import SceneConfig, simulate_scene
from glint.training.checkpoint import CheckpointInfo
from glint.training.networks.lsnet import MULTIPLE, LSNet
from glint.training.networks.registry import task_of
from glint.training.tasks.augmentation import NORMALISER
from glint.training.tasks.unmixing import (
    DOMAINS,
    RADIANCE_PRIOR,
    RADIANCE_UNIT_DN,
    SIGMA_SD_PX,
    THRESHOLD_DN,
    THRESHOLD_SHARE,
    UnmixingTask,
)
from glint.types import FrameSize

MACS_SIDE_PX = 512  # pixels per side of the frame that a detector's MACs are counted on
_MAX_TILES = 512  # of 16 pixels per side
_TRIED_SIZES = (FrameSize(128, 96), FrameSize(256, 256), FrameSize(320, 240))  # that a network of any size is tried on
_TRIED_BATCHES = (1, 7, 64)
_LEAST_SCENE_PX = 64  # pixels per side; smaller frames are cut out of one of these


@dataclass(frozen=True, eq=False)
class ExportSpec:
    """How one network becomes one ONNX file.

    Attributes:
        inputs, outputs: of the graph; -1 in a shape is any size.
        dynamic: axes of the input that stay free, with their ``torch.export.Dim``.
        trials: inputs on which parity is measured; the graph is traced with ``trials[example]``.
        normaliser: of the input.
        detector, unmixer: the section of the card.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dynamic: dict[int, Any]
    trials: list[NDArray[np.float32]]
    example: int
    normaliser: Normaliser
    detector: DetectorSpec | None = None
    unmixer: UnmixerSpec | None = None


def make_plan(
    info: CheckpointInfo, model: nn.Module, *, size: FrameSize | None = None, threshold: float | None = None
) -> ExportSpec:
    """ExportSpec of a network with the given weights.

    Args:
        size: of the only frames that the ONNX file will take; default: any.
        threshold: above which something is a target; default: the network's.

    Raises:
        InputError: if the network cannot be exported for that size.
    """
    if task_of(info.network) == "detect":
        return _detector(model, size, threshold)
    if size is not None:
        raise InputError(
            f"{info.network} takes patches of {info.config['size']}x{info.config['size']} pixels, got --size {size}",
            hint="leave --size away: the exported file takes any number of patches",
        )
    return _unmixer(info, model, threshold)


def _detector(model: nn.Module, size: FrameSize | None, threshold: float | None) -> ExportSpec:
    dynamic = {}
    if size is None:
        tiles = {axis: torch.export.Dim(n, min=2, max=_MAX_TILES) for axis, n in ((2, "rows"), (3, "columns"))}
        dynamic = {axis: MULTIPLE * dim for axis, dim in tiles.items()}
    elif min(size) < MULTIPLE or any(side % MULTIPLE for side in size):
        fitting = FrameSize(*(max(1, -(-side // MULTIPLE)) * MULTIPLE for side in size))
        raise InputError(
            f"--size {size}: width and height must be multiples of {MULTIPLE}",
            hint=f"take {fitting}: glint run fills frames up to it",
        )
    trials = [_frame(size or default, seed) for seed, default in enumerate(_TRIED_SIZES)]
    return ExportSpec(
        *_tensors(model, "frame", trials[0], dynamic), dynamic, trials, 0, NORMALISER,
        detector=DetectorSpec(
            MULTIPLE, 0.5 if threshold is None else threshold,
            *((model.EXTENT, model.CFAR, model.POINTS) if isinstance(model, LSNet) else (None, None, None)),
        ),
    )  # fmt: skip


def _frame(size: FrameSize, seed: int) -> NDArray[np.float32]:
    wide, high = (max(side, _LEAST_SCENE_PX) for side in size)
    scene = SceneConfig(width=wide, height=high, frames=1, clusters=2, singles=2, seed=seed)
    ((still, _),) = simulate_scene(scene)
    return np.ascontiguousarray(NORMALISER.apply(still.data[: size.height, : size.width]).value[None, None])


def _unmixer(info: CheckpointInfo, model: nn.Module, threshold: float | None) -> ExportSpec:
    domain, config = str(info.data["domain"]), info.config
    least, largest = info.data.get("scene", {}).get("sigma") or DOMAINS[domain][0].sigma
    one_camera = (least, largest) != DOMAINS[domain][0].sigma
    task = UnmixingTask(info.network, _config(model), domain, (least, largest))
    rng = np.random.default_rng(0)
    trials = [task.batch(number, rng, torch.device("cpu"))["patch"].numpy() for number in _TRIED_BATCHES]
    dynamic = {0: torch.export.Dim("batch", min=1, max=65536)}
    absolute = domain == "csist"
    level = (THRESHOLD_DN if absolute else THRESHOLD_SHARE) if threshold is None else threshold
    spec = UnmixerSpec(
        patch=task.scene.size, crop=int(config["size"]), cells=int(config["cells"]), sigma=float(config["sigma"]),
        threshold=level if absolute else 0.0, relative=0.0 if absolute else level, radiance_unit=RADIANCE_UNIT_DN,
        radiance_prior=RADIANCE_PRIOR[domain],
        sigma_sd=round((largest - least) / math.sqrt(12), 6) if one_camera else SIGMA_SD_PX[domain],
    )  # fmt: skip
    # Traced with 7 patches: a batch of 1 could be taken for a constant.
    return ExportSpec(*_tensors(model, "patch", trials[1], dynamic), dynamic, trials, 1, task.normaliser, unmixer=spec)


def _tensors(
    model: nn.Module, name: str, example: NDArray[np.float32], dynamic: dict[int, Any]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs; what is free in the input is free in every output."""

    def spec(name: str, shape: tuple[int, ...]) -> TensorSpec:
        return TensorSpec(name, "float32", tuple(-1 if axis in dynamic else n for axis, n in enumerate(shape)))

    results = run(model, example)
    return (spec(name, example.shape),), tuple(spec(n, r.shape) for n, r in zip(output_names(model), results))


def output_names(model: nn.Module) -> tuple[str, ...]:
    """What a network calls its outputs, the main one first; one that does not say it unmixes into a grid."""
    names: tuple[str, ...] = getattr(model, "OUTPUTS", ("grid",))
    return names


def run(model: nn.Module, value: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """The outputs of a network that gives one tensor or a tuple of them.

    Raises:
        InputError: if it does not name each of them.
    """
    with torch.no_grad():
        results = model(torch.from_numpy(value))
    results = results if isinstance(results, tuple) else (results,)
    if len(results) != len(output_names(model)):
        raise InputError(
            f"{type(model).__name__} gives {len(results)} outputs and names {output_names(model)}",
            hint="give each output of the network a name",
        )
    return tuple(result.numpy() for result in results)


def size(network: str, model: nn.Module) -> tuple[int, int]:
    """Parameters, and multiply-accumulates per patch or per frame of 512 x 512, of a network that ``network`` names."""
    if task_of(network) == "detect":
        return _count(model, (1, 1, MACS_SIDE_PX, MACS_SIDE_PX))
    patch = UnmixingTask(network, _config(model), "csist").batch(1, np.random.default_rng(0), torch.device("cpu"))[
        "patch"
    ]
    return _count(model, tuple(patch.shape))


def _config(model: nn.Module) -> Any:
    return model.config  # a module's attributes may be anything


def _count(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """Learned numbers, and multiply-accumulates for one input of that shape."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(shape))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2
