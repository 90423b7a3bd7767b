"""``glint export``: checkpoint to fp32 ONNX with its model card; parity is measured on the way."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from glint import __version__, normalise
from glint.cards import DetectorSpec, ModelCard, TensorSpec, UnmixerSpec, save_card
from glint.cli import talk
from glint.crop import recentre
from glint.errors import CheckFailedError
from glint.files import atomic_path, refuse_existing, sha256
from glint.patches import simulate_patches
from glint.scenes import SceneConfig, simulate_scene
from glint.training.checkpoint import CheckpointInfo, keep_weights
from glint.training.detection import NORMALISER
from glint.training.dscsnet import DSCSNet
from glint.training.lsnet import MULTIPLE, LSNet
from glint.training.networks import load_model, task_of
from glint.training.unmixing import DOMAINS, RADIANCE_PRIOR, RADIANCE_UNIT, SIGMA_SD, THRESHOLD_DN, THRESHOLD_SHARE

OPSET = 19
PARITY_LIMIT = 1e-3  # largest error of a sound export, relative to the largest output
_MAX_TILES = 512  # of 16 pixels per side
_SIZES = ((96, 128), (256, 256), (240, 320))  # frames on which parity is measured


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is particular to one network: names, shapes, test inputs and the card's sections."""

    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    dynamic: dict[int, Any]
    example: torch.Tensor
    trials: list[np.ndarray[Any, Any]]
    normaliser: normalise.Normaliser
    detector: DetectorSpec | None = None
    unmixer: UnmixerSpec | None = None


def export(
    checkpoint: Path,
    out: Path,
    *,
    name: str | None = None,
    threshold: float | None = None,
    weights: Path | None = None,
    overwrite: bool = False,
) -> ModelCard:
    """Write ``NAME.fp32.onnx`` and ``NAME.fp32.json`` into a folder.

    LSNet takes frames of any height and width that are multiples of 16, DSCSNet any batch.

    Args:
        checkpoint: ``*.safetensors``; its averaged weights are exported.
        out: folder.
        name: of the model; default: the network's name.
        threshold: above which something is a target: probability of a pixel (LSNet, default 0.5), DN
            of a cell (DSCSNet ``csist``, 50) or its share of the brightest cell (``sensor``, 0.2).
        weights: folder that also gets the averaged weights (``NAME.safetensors``), from which training
            can start again.
        overwrite: replace existing files.

    Raises:
        ModelError: if the checkpoint is unusable.
        OutputError: if an output exists or cannot be written.
        CheckFailedError: if the ONNX file does not compute what the checkpoint does.
    """
    info, model = load_model(checkpoint)
    name = name or info.network
    path = out / f"{name}.fp32.onnx"
    refuse_existing(path, overwrite=overwrite)
    refuse_existing(path.with_suffix(".json"), overwrite=overwrite)
    if weights is not None:
        refuse_existing(weights / f"{name}.safetensors", overwrite=overwrite)
    plan = _plan(info, threshold)
    talk(f"exporting {name} ({info.network}, step {info.step})")
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / path.name
        _write_onnx(model, plan, draft)
        parity = measure_parity(model, draft, plan.trials)
        if not parity["relative"] <= PARITY_LIMIT:
            raise CheckFailedError(
                f"export of {name}: ONNX Runtime differs from PyTorch by {parity['relative']:.2e} of the largest "
                f"output, at most {PARITY_LIMIT:.0e} is sound",
                hint="nothing was written; report this with the checkpoint's JSON file",
            )
        card = replace(_card(info, model, plan, name), file=path.name, sha256=sha256(draft), parity=parity)
        out.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(draft.read_bytes())
    save_card(card, out)
    if weights is not None:
        keep_weights(checkpoint, weights / f"{name}.safetensors")
    talk(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB), parity {parity['relative']:.1e} of the largest output")
    return card


def _plan(info: CheckpointInfo, threshold: float | None) -> _Plan:
    if task_of(info.network) == "detect":
        frame = TensorSpec("frame", "float32", (1, 1, -1, -1))
        outputs = tuple(TensorSpec(n, "float32", frame.shape) for n in ("probability", "background", "target"))
        side = {
            axis: MULTIPLE * torch.export.Dim(n, min=2, max=_MAX_TILES) for axis, n in ((2, "rows"), (3, "columns"))
        }
        trials = []
        for seed, (height, width) in enumerate(_SIZES):
            scene = SceneConfig(width=width, height=height, frames=1, clusters=2, singles=2, seed=seed)
            ((still, _),) = simulate_scene(scene)
            trials.append(NORMALISER.apply(still.data).value[None, None])
        detector = DetectorSpec(MULTIPLE, 0.5 if threshold is None else threshold)
        return _Plan(frame, outputs, side, torch.from_numpy(trials[0]), trials, NORMALISER, detector=detector)
    size, cells = int(info.config["size"]), int(info.config["cells"])
    domain = str(info.data["domain"])
    scene_config, normaliser = DOMAINS[domain]
    grid = size * cells
    patch = TensorSpec("patch", "float32", (-1, 2, size, size))
    channels = dict(zip(DSCSNet.OUTPUTS, (1, 1, 2, 1, 3)))
    outputs = tuple(TensorSpec(n, "float32", (-1, c, grid, grid)) for n, c in channels.items())
    rng = np.random.default_rng(0)
    trials = []
    for number in (1, 7, 64):
        crops = recentre(simulate_patches(scene_config, number, rng).image, size)[0]
        trials.append(np.stack([normaliser.apply(crops).value, (crops >= 255).astype(np.float32)], axis=1))
    absolute = domain == "csist"
    level = (THRESHOLD_DN if absolute else THRESHOLD_SHARE) if threshold is None else threshold
    unmixer = UnmixerSpec(
        patch=scene_config.size, crop=size, cells=cells, sigma=float(info.config["sigma"]),
        threshold=level if absolute else 0.0, relative=0.0 if absolute else level, radiance_unit=RADIANCE_UNIT,
        radiance_prior=RADIANCE_PRIOR[domain], sigma_sd=SIGMA_SD[domain],
    )  # fmt: skip
    dynamic = {0: torch.export.Dim("batch", min=1, max=65536)}
    return _Plan(patch, outputs, dynamic, torch.from_numpy(trials[1]), trials, normaliser, unmixer=unmixer)


def _write_onnx(model: nn.Module, plan: _Plan, path: Path) -> None:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # about torchvision, which we do not use
            program = torch.onnx.export(
                model, (plan.example,), dynamo=True, opset_version=OPSET, dynamic_shapes=(plan.dynamic,),
                input_names=[plan.input.name], output_names=[o.name for o in plan.outputs], verbose=False,
            )  # fmt: skip
            assert program is not None  # noqa: S101  (dynamo=True returns a program)
            program.optimize()
            program.save(str(path), external_data=False)
    finally:
        logger.setLevel(level)
    onnx.checker.check_model(str(path), full_check=True)


def measure_parity(model: nn.Module, path: Path, trials: list[np.ndarray[Any, Any]]) -> dict[str, float]:
    """Largest difference between ONNX Runtime and PyTorch over all outputs and trials.

    Returns:
        ``absolute``: in the network's units; ``relative``: over the largest value of that output.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = {"absolute": 0.0, "relative": 0.0}
    for trial in trials:
        with torch.no_grad():
            expected = model(torch.from_numpy(trial))
        expected = expected if isinstance(expected, tuple) else (expected,)
        for reference, actual in zip(expected, session.run(None, {session.get_inputs()[0].name: trial})):
            absolute = float(np.abs(reference.numpy() - actual).max())
            relative = absolute / max(float(reference.abs().max()), 1e-12)
            # "not <=" keeps a NaN, which max() would drop.
            worst = {
                k: v if not v <= worst[k] else worst[k] for k, v in (("absolute", absolute), ("relative", relative))
            }
    return worst


def describe(
    info: CheckpointInfo, model: nn.Module, *, name: str | None = None, threshold: float | None = None
) -> ModelCard:
    """The card of a checkpoint: everything but what only an ONNX file has (file, hash, parity)."""
    return _card(info, model, _plan(info, threshold), name or info.network)


def _card(info: CheckpointInfo, model: nn.Module, plan: _Plan, name: str) -> ModelCard:
    shape = (1, 1, 512, 512) if isinstance(model, LSNet) else (1, *plan.input.shape[1:])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(shape))
    training = {
        "data": info.data, "recipe": info.recipe, "step": info.step, "seconds": round(info.seconds),
        "weights": "exponential moving average", "history": list(info.history),
    }  # fmt: skip
    versions = {"glint": __version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "opset": OPSET}
    return ModelCard(
        name=name, task=task_of(info.network), precision="fp32", network=info.network, config=info.config,
        file="", sha256="", inputs=(plan.input,), outputs=plan.outputs, normaliser=plan.normaliser,
        detector=plan.detector, unmixer=plan.unmixer, parameters=sum(p.numel() for p in model.parameters()),
        macs=counter.get_total_flops() // 2, training=training, metrics=info.metrics,
        versions={**info.versions, **versions},
    )  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint export``."""
    parser.add_argument("checkpoint", type=Path, help="weights, *.safetensors")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the two files")
    parser.add_argument("--name", help="name of the model (default: the network's)")
    parser.add_argument("--threshold", type=float, help="of a target: probability, DN (csist) or share (sensor)")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="also keep the averaged weights there")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint export``."""
    export(
        arguments.checkpoint, arguments.out, name=arguments.name, threshold=arguments.threshold,
        weights=arguments.weights, overwrite=arguments.overwrite,
    )  # fmt: skip
    return 0
