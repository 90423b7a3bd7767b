"""Which TensorRT engine runs a model here: the newest one that was built and fits, else one that is built now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from glint.cards import ModelCard, load_card
from glint.cli import talk
from glint.progress import told_if_slow
from glint.runtime.engines.base import Arrays, Engine
from glint.runtime.engines.tensorrt.api import TensorRT, load
from glint.runtime.engines.tensorrt.build import BuildOptions, BuildPreview, build_previewed, preview_build
from glint.runtime.engines.tensorrt.cache import Sidecar, difference, entries, verify
from glint.runtime.engines.tensorrt.engine import TensorRTEngine
from glint.types import FrameSize

_MOST_SIZES = 4
_READY_ROWS = 32  # patches of a frame; more come seldom, and then wait for a context once


def open_tensorrt(card: ModelCard, onnx: Path, *, graph: bool = True, buffers: str | None = None) -> Engine:
    """A TensorRT engine of a model.

    An engine takes frames of one size; for a model that takes any, it is found or built when the
    first frame of a size arrives.

    Args:
        card, onnx: the model, as :func:`~glint.cards.load_card` gives it: the card is not read again.
        graph, buffers: as of :class:`TensorRTEngine`.

    Raises:
        GlintError: one of its subclasses, as ``build`` and :class:`TensorRTEngine` do.
    """
    trt = load()
    models = [(card, onnx, BuildOptions())]
    original = onnx.with_name(f"{card.name}.fp32.onnx")
    if card.precision == "fp16" and trt.can_be_weak and original.is_file():
        # An fp16 engine of the fp32 model, by a TensorRT that chose the precisions, will do as well.
        models.append((*load_card(original), BuildOptions(precision="fp16", weak=True)))

    def open_size(size: FrameSize | None) -> TensorRTEngine:
        plan = _find(models, size, trt)
        with told_if_slow(f"loading the engine of {card.name}"):
            engine = TensorRTEngine(plan, graph=graph, buffers=buffers, ready=_READY_ROWS)
        facts = engine.details()
        recorded = "CUDA graph" if facts["cuda_graph"] else f"no CUDA graph ({facts['cuda_graph_problem']})"
        frames = "" if size is None else f" for frames of {size}"
        talk(
            f"engine of {card.name}{frames}: {facts['tensorrt']} on {facts['gpu']}, {facts['precision']}, "
            f"{facts['buffers']} buffers, {recorded}"
        )
        return engine

    if any(-1 in spec.shape[1:] for spec in card.inputs):
        return SizedEngine(card, open_size)
    return open_size(None)


def _find(models: Sequence[tuple[ModelCard, Path, BuildOptions]], size: FrameSize | None, trt: TensorRT) -> Path:
    """The newest engine of the cache that would do, of the first model that has one; else the first model's, built."""
    sizes = () if size is None else (size,)
    previews = []
    for card, onnx, options in models:
        preview = preview_build(onnx, replace(options, sizes=sizes), trt=trt, card=card)
        if (path := _built_by_hand(preview)) is not None:
            return path
        previews.append(preview)
    return build_previewed(previews[0], trt=trt).path


def _built_by_hand(wanted: BuildPreview) -> Path | None:
    """The newest engine of the cache that would do, whatever its batch, further sizes and other options."""

    def fits(info: Sidecar) -> bool:
        return (
            info.precision == wanted.precision
            and info.target.power_mode == wanted.target.power_mode
            and difference(info, wanted.target, onnx_sha256=wanted.onnx_sha256) is None
            and any(all(_within(w.opt, has.min, has.max) for w, has in zip(asked, p)) for p in info.profiles)
        )

    (asked,) = wanted.profiles
    for path, info in entries():
        if fits(info) and verify(path, wanted.target) is None:
            return path
    return None


def _within(shape: tuple[int, ...], smallest: tuple[int, ...], largest: tuple[int, ...]) -> bool:
    """Whether a profile takes a shape; any batch will do, because batches are cut to size."""
    return all(low <= n <= high for n, low, high in zip(shape[1:], smallest[1:], largest[1:]))


class SizedEngine(Engine):
    """A network that takes frames of any size, by one engine per size, opened when its first frame arrives or before.

    Args:
        card: of the network.
        open_size: opens the engine for frames of a size.
    """

    name = "tensorrt"

    def __init__(self, card: ModelCard, open_size: Callable[[FrameSize], TensorRTEngine]) -> None:
        self.inputs, self.outputs = card.inputs, card.outputs
        self._card, self._open = card, open_size
        self._engines: dict[FrameSize, TensorRTEngine] = {}
        self._facts: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()  # two threads must not build an engine of one size

    def _infer(self, arrays: Arrays) -> Arrays:
        return self._infer_some(arrays, tuple(spec.name for spec in self.outputs))

    def _infer_some(self, arrays: Arrays, names: tuple[str, ...]) -> Arrays:
        height, width = next(iter(arrays.values())).shape[-2:]
        return self._engine(FrameSize(width, height)).infer(*names, **arrays)

    def prepare(self, size: FrameSize) -> None:
        """Open the engine for frames of a size now."""
        self._engine(size)

    def _engine(self, size: FrameSize) -> TensorRTEngine:
        with self._lock:
            if size not in self._engines:
                engine = self._engines[size] = self._open(size)
                self._facts[str(size)] = engine.details()
                if len(self._engines) == _MOST_SIZES:
                    talk(
                        f"{self._card.name}: frames of {_MOST_SIZES} sizes so far; "
                        "--engine onnxruntime takes any without a build"
                    )
            return self._engines[size]

    def stage_times(self, runs: int, **arrays: NDArray[Any]) -> dict[str, list[float]]:
        """See :meth:`TensorRTEngine.stage_times`; of the engine for frames of this size, once it is open."""
        height, width = next(iter(arrays.values())).shape[-2:]
        return self._engines[FrameSize(width, height)].stage_times(runs, **arrays)

    def details(self) -> dict[str, Any]:
        """What runs the frames of each size so far."""
        return {**super().details(), "sizes": self._facts}

    def close(self) -> None:
        """Close the engines of all sizes; they would be opened again if need be."""
        for engine in self._engines.values():
            engine.close()
        self._engines = {}
