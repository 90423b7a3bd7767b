"""From a PyTorch module to a tidy ONNX graph: plain operators, readable names, marked float32 islands.

Every node is called ``MODULE.PATH/Operator`` after the module that it comes from, and every tensor
after the node that makes it. What must stay float32 when the rest becomes float16 is called
``MODULE.PATH/fp32/Operator`` (:func:`glint.cards.in_island`). It is what training already computes
in float32 while the rest runs in half precision: the regions that a network takes out of autocast,
and the functions that autocast itself keeps in float32.

torch.onnx's own optimiser does the simplification. Polygraphy's constant folding and onnxslim
remove less than 1 % of what it leaves and change no latency, so that they are not needed.
"""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxscript.optimizer import fold_constants
from torch import nn

from glint.cards import ISLAND, in_island
from glint.errors import CheckFailedError, ModelError, first_line

OPSET = 19
_LARGEST_CONSTANT_NUMBERS = 1 << 20  # numbers in a weight that is computed here, once
_FLOAT32_FUNCTIONS = {"exp", "log", "pow", "rsqrt", "softmax", "softplus"}  # of autocast, as far as we use them
_SCOPES = "pkg.torch.onnx.name_scopes"


def to_onnx(
    model: nn.Module,
    example: NDArray[np.float32],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Mapping[int, Any],
) -> onnx.ModelProto:
    """The ONNX graph of a module of one input and one output or a tuple of them.

    The same module gives the same bytes.

    Args:
        model: in evaluation mode.
        example: an input; the graph takes its shape where it is not ``dynamic``.
        inputs, outputs: names, in order.
        dynamic: the axes of the input that stay free, with their ``torch.export.Dim``.

    Raises:
        ModelError: if an operator has no place in a graph that every engine runs; it says which one and where.
        CheckFailedError: if the graph lost the marks of its float32 islands.
    """
    value = torch.from_numpy(example)
    with _quiet():
        try:
            program = torch.export.export(model, (value,), dynamic_shapes=(dict(dynamic),), strict=False)
        except Exception as error:  # torch raises whatever comes up while it traces
            raise ModelError(
                f"{_module_of(error.__traceback__, model)} cannot be traced: {first_line(error)}",
                hint="control flow and conversions that depend on the data have no place in an ONNX graph",
            ) from error
        islands = _mark_islands(program)
        try:
            converted = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, input_names=list(inputs), output_names=list(outputs),
                dynamic_shapes=(dict(dynamic),), verbose=False,
                custom_translation_table={torch.ops.aten.pixel_unshuffle.default: _space_to_depth},
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            raise _unsupported(error, program) from error
        assert converted is not None  # noqa: S101  (dynamo=True returns a program)
        fold_constants(
            converted.model, input_size_limit=_LARGEST_CONSTANT_NUMBERS, output_size_limit=_LARGEST_CONSTANT_NUMBERS
        )
        converted.optimize()
        graph: onnx.ModelProto = converted.model_proto
    _refuse_control_flow(graph)
    _rename(graph.graph)
    _strip(graph)
    graph = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True)
    onnx.checker.check_model(graph, full_check=True)
    if islands and not island_prefixes(graph):
        raise CheckFailedError(
            f"the {islands} float32 islands of the network got lost in this version of PyTorch",
            hint="export with the PyTorch of constraints.txt",
        )
    return graph


def island_prefixes(model: onnx.ModelProto) -> tuple[str, ...]:
    """What the names of the nodes in float32 islands begin with, in order: ``low_rank.0.fine/fp32/`` and so on."""
    names = (node.name for node in model.graph.node if in_island(node.name))
    return tuple(dict.fromkeys(name.rpartition("/")[0] + "/" for name in names))


def _space_to_depth(image: Any, downscale_factor: int) -> Any:
    """PyTorch's pixel_unshuffle; torch.onnx itself makes a 6-D transposition of it, several times as slow."""
    from onnxscript import opset19

    op: Any = opset19  # its types know no tensors of torch.onnx
    folded = op.SpaceToDepth(image, blocksize=downscale_factor)
    channels = int(image.shape[1])
    if channels == 1:
        return folded
    # ONNX keeps the pixels of a block together, PyTorch the channels.
    order = np.arange(downscale_factor**2 * channels).reshape(-1, channels).T.ravel()
    return op.Gather(folded, op.Constant(value_ints=order.tolist()), axis=1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.onnx reports its progress and its doubts on every channel there is; failures are raised anyway."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def _mark_islands(program: torch.export.ExportedProgram) -> int:
    """Let the nodes of regions without autocast appear as those of a submodule ``fp32``; returns their number."""
    number = 0
    for node in program.graph.nodes:
        if str(node.target) == "wrap_with_autocast" and not node.args[2]:  # device, dtype, enabled, ...
            stack = dict(node.meta.get("nn_module_stack") or {})
            path = next(reversed(stack.values()))[0] if stack else ""
            node.meta["nn_module_stack"] = {**stack, ISLAND: (f"{path}/{ISLAND}", ISLAND)}
            number += 1
    return number


def _rename(graph: onnx.GraphProto) -> None:
    """Name nodes after their modules and tensors after their nodes; inputs, outputs and parameters keep their names."""
    fixed = {value.name for value in graph.output}
    paths: dict[str, str] = {}  # of the module that made a tensor
    tensors: dict[str, str] = {}
    used: dict[str, int] = {}
    for node in graph.node:
        path = _path(node)
        if path is None:  # put in by the optimiser
            path = next((paths[name] for name in node.input if name in paths), "")
        stem = f"{path}/{node.op_type}".lstrip("/")
        used[stem] = used.get(stem, -1) + 1
        node.name = stem if used[stem] == 0 else f"{stem}_{used[stem]}"
        for index, name in enumerate(node.output):
            paths[name] = path
            if name and name not in fixed:
                tensors[name] = node.name if index == 0 else f"{node.name}:{index}"
    tensors |= _computed_weights(graph)
    for node in graph.node:
        node.input[:] = [tensors.get(name, name) for name in node.input]
        node.output[:] = [tensors.get(name, name) for name in node.output]
    for initializer in graph.initializer:
        initializer.name = tensors.get(initializer.name, initializer.name)


def _computed_weights(graph: onnx.GraphProto) -> dict[str, str]:
    """Names for what convolutions compute from their parameters, as if it were the parameters: MODULE.PATH.weight."""
    taken = {initializer.name for initializer in graph.initializer}
    names: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Conv":
            module = node.name.rpartition("/")[0].removesuffix(ISLAND).removesuffix("/")
            for name, kind in zip(node.input[1:], ("weight", "bias")):
                if "." not in name and name in taken and name not in names:
                    better = f"{module}.{kind}"
                    for further in itertools.count(1):
                        if better not in taken:
                            break
                        better = f"{module}.{kind}_{further}"
                    names[name] = better
                    taken.add(better)
    return names


def _path(node: onnx.NodeProto) -> str | None:
    """Path of the module that a node was made by, with ``/fp32`` at its end if it is in an island."""
    scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), None)
    if scopes is None:
        return None
    *modules, function = ast.literal_eval(scopes)
    path = modules[-1] if modules and not modules[-1].startswith("_empty") else ""
    if re.sub(r"_\d+$", "", function) in _FLOAT32_FUNCTIONS and not in_island(f"{path}/x"):
        path = f"{path}/{ISLAND}"
    return path.lstrip("/")


def _strip(model: onnx.ModelProto) -> None:
    """Take away what torch.onnx tells of the machine and the run: paths, stack traces, the traced shapes."""
    del model.graph.value_info[:]
    for item in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.initializer,
        *model.graph.input,
        *model.graph.output,
    ):
        item.doc_string = ""
        del item.metadata_props[:]
    default = [opset for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(default)
    model.graph.name = "glint"


def _refuse_control_flow(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        inner = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
        if inner or node.domain not in ("", "ai.onnx"):
            what = "control flow" if inner else f"of the domain {node.domain!r}"
            raise ModelError(
                f"{_place(_path(node) or '')} needs the operator {node.op_type} ({what})",
                hint="glint exports plain ONNX operators only, because every engine runs them",
            )


def _unsupported(error: Exception, program: torch.export.ExportedProgram) -> ModelError:
    """Which operator, and in which module: the decomposed program has the node that the message names."""
    found = re.search(r"translating node %(\w+).*?target=([\w.]+)", str(error.__cause__ or error), re.DOTALL)
    if found is None:
        return ModelError(
            f"cannot be converted to ONNX: {first_line(error.__cause__ or error)}",
            hint="export with the PyTorch of constraints.txt, or keep to the operators that it names",
        )
    name, operator = found[1], found[2].removeprefix("torch.ops.").removesuffix(".default")
    stacks = {n.name: n.meta.get("nn_module_stack") for n in program.run_decompositions().graph.nodes}
    stack = stacks.get(name)
    place = _place(next(reversed(stack.values()))[0]) if stack else "the network"
    return ModelError(
        f"{place} needs the operator {operator}, which ONNX opset {OPSET} does not have",
        hint="compute it from plain operators, or before the export if it does not depend on the input",
    )


def _module_of(trace: TracebackType | None, model: nn.Module) -> str:
    """The innermost module of the network in a traceback."""
    names = {id(module): name for name, module in model.named_modules()}
    place = ""
    while trace is not None:
        place = names.get(id(trace.tb_frame.f_locals.get("self")), place)
        trace = trace.tb_next
    return _place(place)


def _place(path: str) -> str:
    return f"module {path}" if path else "the network"
