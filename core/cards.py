"""Model cards: what stands beside every ONNX file, and how a model is named, found and trusted.

A card is ``NAME.PRECISION.json`` beside ``NAME.PRECISION.onnx``. It carries everything that the
runtime must know about the network (inputs, normaliser, PSF, thresholds) and everything that a
person wants to know (data, recipe, measured accuracy, parity), and the hash of the ONNX file.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from glint.choices import DEFAULT_DETECTOR as DEFAULT_DETECTOR
from glint.choices import DEFAULT_UNMIXER as DEFAULT_UNMIXER
from glint.choices import PRECISIONS as PRECISIONS
from glint.config import from_dict, to_dict
from glint.errors import InputError, ModelError, did_you_mean
from glint.files import read_json, sha256, write_json
from glint.processing.cfar import Cfar
from glint.processing.extent import Extent
from glint.processing.normalise import Normaliser
from glint.processing.point_evidence import PointEvidence

CARD_FORMAT = 1
_MOST_SIDE_PX, _MOST_CELLS_PER_PX = 1024, 32
ISLAND = "fp32"
"""Part of the name of every node that must stay float32 when its model becomes float16."""


_MOST_NAME_LETTERS = 100
_NAME = re.compile(rf"\w[\w .+()-]{{0,{_MOST_NAME_LETTERS - 1}}}")


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type (ONNX spelling, e.g. ``float32``) and shape of a tensor; -1 is any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class DetectorSpec:
    """How LSNet's outputs become blobs.

    Attributes:
        multiple: height and width of the input are padded to a multiple of this.
        threshold: target probability above which a pixel belongs to a blob, between 0 and 1. LSNet's is the sigmoid of
            an eighth of its logit: an order of spots, of which 0.5 is the middle, not a share of hits.
        extent: where targets end (:mod:`glint.processing.extent`); None: where the probability does.
        cfar: how the clutter of a frame changes the probability (:mod:`glint.processing.cfar`); None: not at all.
        points: what a sharp point adds to it (:mod:`glint.processing.point_evidence`); None: nothing.
    """

    multiple: int = 16
    threshold: float = 0.5
    extent: Extent | None = None
    cfar: Cfar | None = None
    points: PointEvidence | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(
                f"threshold of a target's probability: expected between 0 and 1, got {self.threshold}", hint="e.g. 0.5"
            )
        if not 1 <= self.multiple <= _MOST_SIDE_PX:
            raise InputError(
                f"DetectorSpec.multiple: expected at least 1 and at most {_MOST_SIDE_PX}, got {self.multiple}",
                hint="16 suits most networks",
            )


@dataclass(frozen=True)
class UnmixerSpec:
    """How DSCSNet's maps become targets.

    Attributes:
        patch: pixels per side of the patches that the runtime cuts out.
        crop: pixels per side of what the network sees, re-centred; equal to ``patch``: no crop.
        cells: cells per pixel and axis, c.
        sigma: of the PSF that the network was trained for, pixels.
        threshold: radiance that a cell must exceed, DN; 0 if ``relative`` is used.
        relative: share of the brightest cell of the patch that a cell must exceed.
        radiance_unit: DN (of the normalised scale) of a typical target.
        radiance_prior: mean and standard deviation of a target's radiance in the data that the model
            is for, DN; None where radiances are anybody's guess.
        sigma_sd: standard deviation of the PSF's sigma in those data, pixels.
    """

    patch: int = 11
    crop: int = 11
    cells: int = 3
    sigma: float = 0.5
    threshold: float = 0.0
    relative: float = 0.0
    radiance_unit: float = 235.0
    radiance_prior: tuple[float, float] | None = None
    sigma_sd: float = 0.0

    def __post_init__(self) -> None:
        from glint.optics import Psf  # with SciPy, which names of models do not need

        Psf(self.sigma)  # checks it
        mean, deviation = self.radiance_prior or (1.0, 1.0)
        wanted = {
            f"patch of 1 to {_MOST_SIDE_PX} pixels": 1 <= self.patch <= _MOST_SIDE_PX,
            "crop of 1 pixel to the patch": 1 <= self.crop <= self.patch,
            f"1 to {_MOST_CELLS_PER_PX} cells per pixel": 1 <= self.cells <= _MOST_CELLS_PER_PX,
            "threshold of 0 DN or more": 0 <= self.threshold < math.inf,
            "relative threshold from 0 to below 1": 0 <= self.relative < 1,
            "positive radiance_unit": 0 < self.radiance_unit < math.inf,
            "radiance_prior of positive numbers": 0 < mean < math.inf and 0 < deviation < math.inf,
            "sigma_sd from 0 to sigma": 0 <= self.sigma_sd <= self.sigma,
        }
        for what, holds in wanted.items():
            if not holds:
                raise InputError(
                    f"UnmixerSpec: expected a {what}, got {self}", hint="glint card NAME.onnx writes a card"
                )


@dataclass(frozen=True)
class ModelCard:
    """A released model.

    Attributes:
        name: e.g. ``lsnet-s``; with the precision it is the stem of the files.
        task: ``detect`` or ``unmix``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        network, config: the architecture and its configuration.
        file, sha256: the ONNX file beside the card and its hash.
        inputs, outputs: of the ONNX graph.
        normaliser: brings DN to what the network was trained on.
        detector, unmixer: the one that fits the task.
        parameters, macs: learned numbers; multiply-accumulates per patch or per 512 x 512 frame.
        training: data, recipe, steps, time, seed.
        metrics: accuracy on the validation data named in it.
        parity: largest error of the ONNX file against its PyTorch original, or against the fp32 model.
        calibration: samples, ranges and layers in int8 of a model in another precision than fp32.
        islands: what the names of nodes begin with that must stay float32 in every precision.
        versions: of the programs that made it.
        format: of this file.
    """

    name: str
    task: str
    precision: str
    network: str
    config: dict[str, Any]
    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    normaliser: Normaliser
    detector: DetectorSpec | None = None
    unmixer: UnmixerSpec | None = None
    parameters: int = 0
    macs: int = 0
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    islands: tuple[str, ...] = ()
    versions: dict[str, Any] = field(default_factory=dict)
    format: int = CARD_FORMAT

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):  # files of calibrations and engines are called so
            raise InputError(
                f"model card: name: expected letters, digits, spaces and . _ - + ( ), at most {_MOST_NAME_LETTERS}, "
                f"the first a letter or digit, got {self.name!r}",
                hint="glint card NAME.onnx --name NAME writes a card",
            )
        if (self.task, self.detector is None, self.unmixer is None) not in {
            ("detect", False, True),
            ("unmix", True, False),
        }:
            raise InputError(
                f"model card {self.name}: task {self.task!r} needs its section 'detector' or 'unmixer'",
                hint="glint card NAME.onnx writes a card",
            )
        if self.precision not in PRECISIONS:
            raise InputError(
                f"model card {self.name}: precision {self.precision!r} is none of {', '.join(PRECISIONS)}",
                hint="glint card NAME.onnx --precision fp32 writes a card",
            )
        if self.format != CARD_FORMAT:
            raise InputError(
                f"model card {self.name}: format {self.format}, this glint reads {CARD_FORMAT}",
                hint="install the models that came with this glint",
            )


def in_island(node: str) -> bool:
    """Whether the node of that name must stay float32, e.g. ``proxes.0/fp32/Div``."""
    return ISLAND in node.split("/")[:-1]


def count_macs(operator: str, first: tuple[int, ...], second: tuple[int, ...], out: tuple[int, ...]) -> int:
    """Multiply-accumulates of a ``Conv``, ``ConvTranspose``, ``Gemm`` or ``MatMul`` by the shapes of its tensors."""
    factors = {
        "Conv": (*out, *second[1:]), "ConvTranspose": (*first, *second[1:]), "Gemm": (*first, *out[-1:]),
        "MatMul": (*out, *first[-1:]),
    }  # fmt: skip
    return math.prod(factors[operator])


def zoo_folder() -> Path:
    """Where the released models are installed."""
    return Path(str(resources.files("glint.zoo")))


def zoo_names() -> list[str]:
    """``NAME.PRECISION`` of every released model."""
    return sorted(path.stem for path in zoo_folder().glob("*.json"))


def save_card(card: ModelCard, folder: Path) -> Path:
    """Write the card beside its ONNX file; returns its path."""
    path = folder / f"{card.name}.{card.precision}.json"
    write_json(path, to_dict(card))
    return path


def load_card(model: str | Path, *, precision: str = "fp32", task: str | None = None) -> tuple[ModelCard, Path]:
    """Find a model, read its card and check the hash of its ONNX file.

    Args:
        model: a name in the zoo, or the path of a card (``*.json``) or of the ONNX file beside it.
        precision: which one of the zoo's; a path says it itself.
        task: ``detect`` or ``unmix`` if only that will do.

    Returns:
        The card and the path of the ONNX file.

    Raises:
        ModelError: if there is no such model, the card is malformed, or the hash does not match.
    """
    path = _card_path(model, precision)
    try:
        card = from_dict(ModelCard, read_json(path, what="model card"), where=f"model card {path.name}")
    except InputError as error:
        raise ModelError(str(error), hint=error.hint) from error
    onnx = path.parent / card.file
    if Path(card.file).name != card.file:
        raise ModelError(
            f"model card {path}: 'file' must name a file beside the card, got {card.file!r}",
            hint="put the ONNX file beside its card",
        )
    if not onnx.is_file():
        raise ModelError(
            f"model card {path.name}: its model file {onnx} is missing",
            hint="put it there, or glint card writes a card for another file",
        )
    actual = sha256(onnx)
    if actual != card.sha256:
        raise ModelError(
            f"{onnx}: the hash is {actual[:12]}…, its card says {card.sha256[:12]}…",
            hint="the file is corrupt or of another version: install it again together with its card",
        )
    require_task(card, task)
    return card, onnx


def require_task(card: ModelCard, task: str | None) -> None:
    """Refuse a model that is made for another task than ``detect`` or ``unmix``; None: any will do.

    Raises:
        ModelError: if it is.
    """
    if task is not None and card.task != task:
        default = DEFAULT_DETECTOR if task == "detect" else DEFAULT_UNMIXER
        raise ModelError(f"model {card.name} is made to {card.task}, not to {task}", hint=f"one that does: {default}")


def _card_path(model: str | Path, precision: str) -> Path:
    path = Path(model)
    if path.suffix in (".json", ".onnx"):
        card = path.with_suffix(".json")
        if not card.is_file():
            hint = f"glint card {path} writes one" if path.suffix == ".onnx" and path.is_file() else None
            raise ModelError(f"model card {card}: no such file", hint=hint)
        return card
    if path.suffix == ".safetensors":
        raise ModelError(f"{path} is a checkpoint, not a model", hint="glint export makes a model of it")
    card = zoo_folder() / f"{model}.{precision}.json"
    if len(path.parts) != 1 or not card.is_file():
        ending = f".{precision}"
        names = [n.removesuffix(ending) for n in zoo_names() if n.endswith(ending)]
        raise ModelError(
            f"no released model {str(model)!r} in {precision}",
            hint=f"{did_you_mean(str(model), names)}installed: {', '.join(names) or 'none'}; in the sources of glint "
            "GLINT_MODELS=all pip install . brings all; or give the path of a model card",
        )
    return card
