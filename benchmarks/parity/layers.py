"""Two ONNX graphs layer by layer: where a candidate leaves its reference.

Layers are matched by the names of their nodes, which exporters, converters to float16 and
quantizers keep. What only one of the graphs has (casts, quantizers) belongs to the layer behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from glint.benchmarks.parity.tensor_error import TensorError
from glint.errors import InputError, ModelError, first_line
from glint.runtime.engines.onnxruntime import available_cores

if TYPE_CHECKING:
    import onnx

_TENSORS_PER_RUN = 48  # tensors fetched per run: bounds the memory
_NOTHING_LEFT_DB = -10.0  # dB at which nothing is left to lose


@dataclass(frozen=True)
class LayerError:
    """How far the first output of one node is from the reference.

    Attributes:
        name, operator: of the node.
        sqnr: signal to noise, dB; infinite if nothing differs.
        before: the lowest of what goes into it, dB; infinite at the start.
        needed: largest difference over the largest magnitude.
        not_finite: numbers that are NaN or infinite in the candidate only.
    """

    name: str
    operator: str
    sqnr: float
    before: float
    needed: float
    not_finite: int

    def lost(self, clean: float) -> float:
        """dB lost in this layer; signals better than ``clean`` dB count as that good."""
        return max(min(self.before, clean) - max(self.sqnr, _NOTHING_LEFT_DB), 0.0)


@dataclass(frozen=True)
class Graph:
    """One of the two.

    Attributes:
        file: the ONNX file.
        tensorrt: runs in TensorRT, by :class:`glint.benchmarks.parity.plan_layers.MarkedEngine`.
        weak: precision that TensorRT may choose itself there; None: types say it.
    """

    file: Path
    tensorrt: bool = False
    weak: str | None = None


def compare_layers(
    reference: Path | Graph,
    candidate: Path | Graph,
    inputs: Mapping[str, NDArray[Any]],
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[LayerError]:
    """Run two graphs on the same inputs, in ONNX Runtime or TensorRT, and compare every layer that both have.

    Args:
        reference, candidate: ONNX files, for ONNX Runtime if nothing else is said.
        inputs: of the graph, by name.
        threads: CPU threads; default: all cores that this process may use.
        progress: called with the number of layers done and of all.

    Returns:
        One entry per floating-point layer, in the order of the reference graph.

    Raises:
        ModelError: if a file is no ONNX model or does not run.
        InputError: if the graphs have no layer in common.
        EngineError: if TensorRT fails.
        MissingDependencyError: if it or Polygraphy is not installed.
    """
    from glint.export.lint.lint import load_onnx  # with onnx, which no other part of a comparison needs

    graphs = [side if isinstance(side, Graph) else Graph(side) for side in (reference, candidate)]
    first, second = (load_onnx(graph.file) for graph in graphs)
    other = {node.name: node for node in second.graph.node if node.name}
    pairs = [
        (node, other[node.name])
        for node in first.graph.node
        if node.name in other
        and other[node.name].op_type == node.op_type
        and node.output[0]
        and other[node.name].output[0]
    ]
    if not pairs:
        raise InputError(
            f"{graphs[0].file.name} and {graphs[1].file.name} have no layer of the same name and kind in common",
            hint="compare files that were made of one export",
        )
    with ExitStack() as stack:
        answers = [
            _answers(graph, model, [pair[i].output[0] for pair in pairs], inputs, threads, stack)
            for i, (graph, model) in enumerate(zip(graphs, (first, second)))
        ]
        return _compared(pairs, answers, progress)


def _compared(
    pairs: Sequence[tuple[onnx.NodeProto, onnx.NodeProto]],
    answers: Sequence[Callable[[list[str]], Mapping[str, NDArray[Any]]]],
    progress: Callable[[int, int], None] | None,
) -> list[LayerError]:
    sqnr: dict[str, float] = {}  # of the reference's tensors
    layers = []
    for start in range(0, len(pairs), _TENSORS_PER_RUN):
        group = pairs[start : start + _TENSORS_PER_RUN]
        expected, actual = (answer([pair[i].output[0] for pair in group]) for i, answer in enumerate(answers))
        for node, other in group:
            one, two = expected.get(node.output[0]), actual.get(other.output[0])
            before = min((sqnr[name] for name in node.input if name in sqnr), default=math.inf)
            layer = None if one is None or two is None else _compare(node, one, two, before)
            sqnr.update(dict.fromkeys(node.output, before if layer is None else layer.sqnr))
            layers += [] if layer is None else [layer]
        if progress is not None:
            progress(start + len(group), len(pairs))
    return layers


def _answers(
    graph: Graph,
    model: onnx.ModelProto,
    tensors: list[str],
    inputs: Mapping[str, NDArray[Any]],
    threads: int | None,
    stack: ExitStack,
) -> Callable[[list[str]], Mapping[str, NDArray[Any]]]:
    """What gives the values of some of these tensors by name; TensorRT knows fewer of them."""
    if not graph.tensorrt:
        session = _session(model, tensors, graph.file, threads)
        return lambda names: dict(zip(names, _run(session, names, inputs)))
    from glint.benchmarks.parity.plan_layers import MarkedEngine

    engine = stack.enter_context(MarkedEngine(graph.file, tensors, inputs, precision=graph.weak))
    values = engine.run(inputs)
    return lambda _: values


def first_below(layers: Sequence[LayerError], limit: float) -> LayerError | None:
    """The first layer whose signal to noise is below a limit in dB, or that computes NaN or infinity."""
    return next((layer for layer in layers if layer.not_finite or layer.sqnr < limit), None)


def largest_losses(layers: Sequence[LayerError], clean: float, number: int = 10) -> list[LayerError]:
    """The layers that lose most dB (:meth:`LayerError.lost`), the worst first."""
    losers = [layer for layer in layers if layer.lost(clean) > 0]
    return sorted(losers, key=lambda layer: -layer.lost(clean))[:number]


def _compare(node: onnx.NodeProto, one: NDArray[Any], two: NDArray[Any], before: float) -> LayerError | None:
    """None if there is nothing to compare: no floating-point numbers, other shapes, or a reference of zeros."""
    if one.dtype.kind != "f" or two.dtype.kind != "f" or one.shape != two.shape:
        return None
    error = TensorError()
    error.add(one, two)
    bad = int((np.isfinite(one) & ~np.isfinite(two)).sum())
    if error.peak == 0 and not bad:
        return None
    return LayerError(node.name, node.op_type, error.sqnr, before, error.needed, bad)


def _session(model: onnx.ModelProto, tensors: list[str], path: Path, threads: int | None) -> Any:
    """A session that can deliver these tensors, without the optimisations that would merge them away."""
    import onnx

    present = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in present)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or available_cores()
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no base but this
        raise ModelError(
            f"ONNX Runtime cannot load {path} with all its tensors: {first_line(error)}",
            hint="glint inspect tells what is wrong with the file",
        ) from error


def _run(session: Any, tensors: list[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    try:
        return list(session.run(tensors, dict(inputs)))
    except Exception as error:  # as above
        raise ModelError(
            f"ONNX Runtime failed: {first_line(error)}", hint="glint inspect tells what the model expects"
        ) from error
