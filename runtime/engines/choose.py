"""``auto``, ``tensorrt`` or ``onnxruntime``: the one door to engines."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from glint.cards import ModelCard, load_card, zoo_names
from glint.choices import ENGINES as ENGINES
from glint.choices import PRECISION_CHOICES
from glint.errors import EngineError, GlintError, InputError, MissingDependencyError
from glint.progress import told_if_slow
from glint.runtime.engines.base import Engine
from glint.runtime.engines.onnxruntime import OnnxRuntimeEngine

AUTO = "auto"


def choose_engine(wanted: str) -> tuple[str, str]:
    """Which engine ``auto`` (or a name) means here, and why.

    Raises:
        InputError: if there is no such engine.
        EngineError: if it cannot be used.
    """
    if wanted not in ENGINES:
        raise InputError(f"engine: expected one of {', '.join(ENGINES)}, got {wanted!r}")
    if wanted == "onnxruntime":
        return wanted, "asked for"
    try:
        return "tensorrt", _tensorrt()
    except GlintError as error:
        if wanted == "auto":
            return "onnxruntime", f"on the CPU, because {error}"
        hint = "--engine onnxruntime runs everywhere"
        raise EngineError(
            f"TensorRT cannot be used here: {error}", hint=f"{error.hint}; {hint}" if error.hint else hint
        ) from error


def choose_precision(wanted: str, engine: str) -> tuple[str, str]:
    """Which precision ``auto`` (or a name) means for a released model, and why.

    Args:
        wanted: one of :data:`PRECISION_CHOICES`.
        engine: what :func:`choose_engine` chose.

    Raises:
        InputError: if there is no such precision.
    """
    if wanted not in PRECISION_CHOICES:
        raise InputError(f"precision: expected one of {', '.join(PRECISION_CHOICES)}, got {wanted!r}")
    if wanted != AUTO:
        return wanted, "asked for"
    if engine == "tensorrt":
        return "fp16", "auto: TensorRT moves half the bytes of fp32"
    return "fp32", "auto: ONNX Runtime computes in fp32 on the CPU"


def find_model(
    model: str | Path, *, engine: str = AUTO, precision: str = AUTO, task: str | None = None
) -> tuple[ModelCard, Path]:
    """A model in the precision that ``precision`` means with the engine that ``engine`` means here.

    The path of a card or ONNX file says its precision itself; a released model without the one that ``auto``
    chooses is taken in fp32.

    Returns:
        The card and the path of the ONNX file.

    Raises:
        GlintError: one of its subclasses, as :func:`choose_engine`, :func:`choose_precision` and ``load_card`` do.
    """
    chosen, _ = choose_precision(precision, choose_engine(engine)[0])
    if precision == AUTO and f"{model}.{chosen}" not in zoo_names():
        chosen = "fp32"
    return load_card(model, precision=chosen, task=task)


def _tensorrt() -> str:
    """TensorRT and the GPU that it would run on.

    Raises:
        MissingDependencyError: if TensorRT or pycuda cannot be imported.
        EngineError: if there is no GPU.
    """
    from glint.runtime.engines.tensorrt import api as tensorrt_api
    from glint.runtime.engines.tensorrt import cuda

    # The GPU first: importing TensorRT takes a second.
    if not any(importlib.util.find_spec(flavour) for flavour in tensorrt_api.FLAVOURS):
        raise MissingDependencyError("TensorRT is not installed", hint="glint doctor says how to get it")
    gpu = cuda.gpu()
    trt = tensorrt_api.load()
    return f"{trt.flavour} {trt.version} on {gpu.name}"


def open_engine(card: ModelCard, path: Path, *, engine: str = "auto", threads: int | None = None) -> Engine:
    """Load an ONNX file with the engine that ``engine`` means here (see :func:`choose_engine`).

    Args:
        card, path: the model, as :func:`~glint.cards.load_card` gives it: TensorRT builds an engine of it if
            there is none yet.
        engine: one of :data:`ENGINES`.
        threads: CPU threads of ONNX Runtime.

    Raises:
        GlintError: one of its subclasses, if the engine cannot be used, built or loaded.
    """
    name, _ = choose_engine(engine)
    if name == "tensorrt":
        from glint.runtime.engines.tensorrt.open import open_tensorrt

        return open_tensorrt(card, path)
    with told_if_slow(f"loading {card.name} ({card.precision}) into ONNX Runtime"):
        return OnnxRuntimeEngine(path, threads=threads, sha256=card.sha256)
