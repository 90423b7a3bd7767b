"""Which precision the layers of a built engine really run in.

Two witnesses: the JSON of TensorRT's engine inspector (10.x and 11.x spell it differently), and, where
an engine is built ahead of time and cannot be loaded, the list of layers in the builder's verbose log.
A strongly typed network says what it asks for, node by node; the witness says what it got.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glint.cards import in_island
from glint.errors import CheckFailedError, EngineError

# Layers that compute nothing: they move, convert or hold data, or order kernels.
_NO_WORK = {"reformat", "noop", "constant", "signal", "wait", "shape_call", "memset", "copy"}
_WEIGHTED = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
# Layers that the parser may put between a DequantizeLinear and the layer that consumes it.
_PASS_THROUGH = ("SHUFFLE", "SQUEEZE", "UNSQUEEZE", "IDENTITY")
_PRECISION_OF = {
    "int8": "int8", "half": "fp16", "fp16": "fp16", "float": "fp32", "fp32": "fp32",
    "bfloat16": "bf16", "bf16": "bf16", "fp8": "fp8", "int4": "int4", "fp4": "fp4",
}  # fmt: skip
_WORD = re.compile(r"\b(?:" + "|".join(_PRECISION_OF) + r")\b", re.IGNORECASE)
# Kernels that multiply: a node's name also clings to the small kernels before and after its own.
_MULTIPLIES = re.compile(r"conv|corr|gemm|matmul|matrix|fusion|dla", re.IGNORECASE)
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_LINE = re.compile(r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+), Inputs: \[(?P<operands>.*)\], Outputs: \[")
_LOG_TENSOR = re.compile(r"Name: (.*?), Dimensions: \[([-\d,\s]*)\].*?Datatype: (\w+)")
_NOT_FINITE = re.compile(r"(?<=[:\[,\s])-?(?:nan|inf)(?=\s*[,}\]])")  # as C++ writes these numbers, which is no JSON
_BITS = {"fp4": 4, "int4": 4, "fp8": 8, "int8": 8, "bf16": 16, "fp16": 16, "fp32": 32}
_NAMED_KERNELS = 8  # kernels that are named
_WIDTH = ("fp4", "int4", "fp8", "int8", "bf16", "fp16", "fp32")  # ascending


@dataclass(frozen=True)
class EngineLayer:
    """A kernel of an engine.

    Attributes:
        name, kind: its name and type.
        reads: precisions of its inputs and constants.
        nodes: the ONNX nodes that went into it.
        writes: precisions of its outputs.
        bytes: that it reads and writes, constants included; a tensor that it reads several times counts once.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    nodes: tuple[str, ...]
    writes: tuple[str, ...] = ()
    bytes: int = 0

    @property
    def multiplies(self) -> bool:
        """Whether it is the kernel of a convolution or matrix product."""
        return _MULTIPLIES.search(self.kind) is not None

    @property
    def precision(self) -> str:
        """What it computes in; ``other`` if it reads no numbers of these kinds.

        A product computes in the wider of its two operands, the two narrowest things that it reads (scales,
        bias and skip input may be wider): one that reads INT8 data and float weights converts the data first.
        """
        reads = sorted(self.reads, key=_WIDTH.index)
        if not reads:
            return "other"
        return reads[1] if self.multiplies and len(reads) > 1 else reads[0]


@dataclass(frozen=True)
class Audit:
    """What an engine runs in.

    Attributes:
        layers: number of working kernels per precision (``int8``, ``fp16``, ``fp32``, ``other``, …).
        asked, obtained: convolutions and matrix products that the network asks for in a precision below fp32 (of a
            weakly typed one also in its float32 islands), and how many of them got it; nodes that the witness does
            not name are left out.
        missed: ``node: asked for int8, runs in fp32``.
        left_to_gpu: layers that DLA, which was asked for, does not take.
        traffic: of all layers: ``kernels`` that work, ``reformats`` between layouts, ``casts`` (kernels that convert
            and do not multiply), ``int8_products``, of which ``int8_writes_float`` write float, and ``bytes`` that are
            read and written (where the batch is free, of the usual one of the first profile), ``product_bytes`` of them
            by convolutions and matrix products.
        heaviest: ``kernel: 13.8 MB``, the largest first.
    """

    layers: dict[str, int]
    asked: dict[str, int]
    obtained: dict[str, int]
    missed: tuple[str, ...] = ()
    traffic: dict[str, int] = field(default_factory=dict)
    heaviest: tuple[str, ...] = ()
    left_to_gpu: tuple[str, ...] = ()

    def share(self, precision: str) -> float:
        """Part of the computing layers, 0 to 1, that run in a precision."""
        total = sum(self.layers.values())
        return self.layers.get(precision, 0) / total if total else 0.0

    def text(self) -> str:
        """One line for the person at the terminal."""
        if not self.layers:
            return "layers: TensorRT does not say what they run in"
        shares = ", ".join(f"{p.upper()} {self.share(p):.0%}" for p in ("int8", "fp16", "fp32"))
        nodes = "; ".join(
            f"{self.obtained.get(p, 0)} of {n} convolutions and matrix products asked for in {p.upper()} run in it"
            for p, n in sorted(self.asked.items())
        )
        return f"layers: {shares} of {sum(self.layers.values())}" + (f"; {nodes}" if nodes else "")

    def traffic_text(self) -> str:
        """One line about what is moved, "" if the witness tells nothing of it."""
        if not self.traffic:
            return ""
        counts = ", ".join(f"{self.traffic[key]} {key}" for key in ("kernels", "reformats", "casts"))
        return f"traffic: {self.traffic['bytes'] / 1e6:.1f} MB by {counts}"


def int8_verdict(result: Audit, fp16: Audit | None) -> str:
    """Why an int8 engine is not worth it, "" if nothing speaks against it.

    Args:
        result: of the int8 engine.
        fp16: of the same model and shapes in fp16, if there is one.
    """
    moved, other = result.traffic.get("bytes", 0), 0 if fp16 is None else fp16.traffic.get("bytes", 0)
    if other and moved >= other:
        return f"int8 is not worth it here: it moves {moved / 1e6:.1f} MB, fp16 {other / 1e6:.1f} MB"
    products, floats = (result.traffic.get(key, 0) for key in ("int8_products", "int8_writes_float"))
    if products and 2 * floats >= products and not other:
        return (
            f"int8 may not be worth it here: {floats} of {products} int8 products write float; "
            "compare with fp16 by glint bench"
        )
    return ""


def layers_of_inspector(text: str, rows: int = 1) -> list[EngineLayer]:
    """Layers in the JSON of ``EngineInspector.get_engine_information``, of 10.x and 11.x.

    Args:
        text: the JSON.
        rows: what an axis of any size counts for.

    Raises:
        EngineError: if it is no such JSON, or the plan was built without details.
    """
    try:
        # Node names in a layer's metadata are parted by a raw control character in some releases.
        document = json.loads(_NOT_FINITE.sub("null", text), strict=False)
    except ValueError as error:
        raise EngineError(
            f"TensorRT's engine inspector gave no JSON: {error}",
            hint="this TensorRT writes another format: please report it",
        ) from error
    entries = document.get("Layers") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise EngineError(
            "TensorRT's engine inspector gave no details of the layers",
            hint="build the engine again with this glint",
        )
    return [
        EngineLayer(
            name=str(entry.get("Name", "")),
            kind=str(entry.get("LayerType", "")),
            reads=tuple(p for text in _operand_types(entry) for p in _precisions(text)),
            nodes=tuple(_NODE.findall(str(entry.get("Metadata", "")))),
            writes=tuple(p for text in _types(entry.get("Outputs")) for p in _precisions(text)),
            bytes=_each_once([t for key in ("Inputs", "Constants") for t in _sizes(entry.get(key), rows)])
            + _each_once(_sizes(entry.get("Outputs"), rows)),
        )
        for entry in entries
    ]


def layers_of_log(lines: Iterable[str], rows: int = 1) -> list[EngineLayer]:
    """Layers in the messages of a verbose, detailed build (one layer per line).

    Args:
        lines: the messages.
        rows: what an axis of any size counts for.

    Raises:
        EngineError: if the log lists none.
    """
    found = []
    for line in (part for message in lines for part in message.splitlines()):
        match = _LINE.match(line)
        if match:
            types = re.findall(r"Datatype: (\w+)", match["operands"])
            reads = tuple(p for text in types for p in _precisions(text))
            outputs = line[match.end() :].partition("], TacticName")[0]
            writes = tuple(p for text in re.findall(r"Datatype: (\w+)", outputs) for p in _precisions(text))
            moved = sum(
                _each_once((name, _bytes(_numbers(dims), text, rows)) for name, dims, text in _LOG_TENSOR.findall(side))
                for side in (match["operands"], outputs)
            )
            nodes = tuple(_NODE.findall(line))
            found.append(EngineLayer(match["name"], match["kind"], reads, nodes, writes, moved))
    if not found:
        raise EngineError(
            "the builder's log lists no layers", hint="this TensorRT writes another log: please report it"
        )
    return found


def asked_of_network(network: Any, *, weak: str | None = None) -> dict[str, str]:
    """The precision that each convolution and matrix product of a network asks for, by node.

    Args:
        network: TensorRT's ``INetworkDefinition`` after parsing.
        weak: precision of a weakly typed one, in which types do not say it.

    Returns:
        Node name to ``int8`` (all its data inputs are dequantized) or ``fp16``; fp32 nodes are left out, unless they
        are in a float32 island of a weakly typed network.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    producer = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    asked = {}
    for layer in layers:
        if layer.type.name not in _WEIGHTED:
            continue
        inputs = [layer.get_input(i) for i in range(min(2, layer.num_inputs))]
        sources = [_source(tensor, producer) for tensor in inputs if tensor is not None]
        if weak is not None and in_island(layer.name):
            asked[layer.name] = "fp32"
        elif sources and all(source == "DEQUANTIZE" for source in sources):
            asked[layer.name] = "int8"
        elif weak is not None or (inputs and inputs[0] is not None and inputs[0].dtype.name == "HALF"):
            asked[layer.name] = "fp16"
    return asked


def audit(layers: Iterable[EngineLayer], asked: Mapping[str, str]) -> Audit:
    """Compare what a network asks for with what its engine runs in."""
    layers = list(layers)
    working = [layer for layer in layers if layer.kind.lower() not in _NO_WORK]
    seen: dict[str, set[str]] = {}
    for layer in sorted(working, key=lambda layer: not layer.multiplies):
        for node in layer.nodes:
            if layer.multiplies or node not in seen:
                seen.setdefault(node, set()).add(layer.precision)
    known = {node: precision for node, precision in asked.items() if node in seen}
    # A node has a kernel per profile: all of them count.
    obtained = Counter(precision for node, precision in known.items() if seen[node] == {precision})
    missed = [f"{n}: asked for {p}, runs in {'+'.join(sorted(seen[n]))}" for n, p in known.items() if seen[n] != {p}]
    return Audit(
        layers=dict(Counter(layer.precision for layer in working)),
        asked=dict(Counter(known.values())),
        obtained=dict(obtained),
        missed=tuple(missed),
        traffic=_traffic(layers, working) if layers else {},
        heaviest=tuple(
            f"{layer.name}: {layer.bytes / 1e6:.1f} MB"
            for layer in sorted(working, key=lambda layer: -layer.bytes)[:_NAMED_KERNELS]
            if layer.bytes
        ),
    )


def _traffic(layers: Iterable[EngineLayer], working: Sequence[EngineLayer]) -> dict[str, int]:
    int8 = [layer for layer in working if layer.multiplies and layer.precision == "int8"]
    return {
        "kernels": len(working),
        "reformats": sum(layer.kind.lower() == "reformat" for layer in layers),
        "casts": sum(
            not layer.multiplies and bool(layer.writes) and not set(layer.writes) & set(layer.reads)
            for layer in working
            if layer.reads
        ),
        "int8_products": len(int8),
        "int8_writes_float": sum(bool(layer.writes) and "int8" not in layer.writes for layer in int8),
        "bytes": sum(layer.bytes for layer in layers),
        "product_bytes": sum(layer.bytes for layer in working if layer.multiplies),
    }


def require(result: Audit, precision: str) -> None:
    """Stop if an engine does not run in the precision that was asked for.

    At least half of the nodes that ask for it must have it (a builder may keep a few in a higher
    precision where it has no kernel); where the witness names no nodes, at least one layer must. Of
    float32 islands of a weakly typed network, all must be in float32. Of an engine whose layers nobody tells, which a
    weakly typed network never is, nothing is asked.

    Raises:
        CheckFailedError: if not.
    """
    if precision == "fp32" or not result.layers:
        return
    if result.obtained.get("fp32", 0) < result.asked.get("fp32", 0):
        lost = "; ".join(text for text in result.missed if "asked for fp32" in text)
        raise CheckFailedError(
            f"float32 islands of the network run in less: {lost}",
            hint="build without --weak: the types then stand in the model",
        )
    asked = result.asked.get(precision, 0)
    obtained = result.obtained.get(precision, 0)
    if (2 * obtained >= asked) if asked else result.layers.get(precision, 0) > 0:
        return
    examples = "; ".join(result.missed[:3])
    raise CheckFailedError(
        f"precision {precision} was asked for, but the engine does not run in it: {result.text()}"
        + (f" ({examples})" if examples else ""),
        hint="glint inspect names what this TensorRT runs in float; or build with --precision fp16 or fp32",
    )


def _source(tensor: Any, producer: Mapping[str, Any]) -> str:
    """Type of the layer that a tensor comes from, seen through layers that only change its shape."""
    layer = producer.get(tensor.name)
    while layer is not None and layer.type.name in _PASS_THROUGH:
        layer = producer.get(layer.get_input(0).name)
    return layer.type.name if layer is not None else ""


def _operand_types(entry: dict[str, Any]) -> list[str]:
    """What an inspector's layer says of the types that it reads: one text per tensor in 10.x, two in 11.x."""
    weights = entry.get("Weights")
    texts = _types([*(entry.get("Inputs") or ()), *(entry.get("Constants") or ())])
    return [*texts, str(weights.get("Type", ""))] if isinstance(weights, dict) else texts


def _types(tensors: Any) -> list[str]:
    keys = ("Format/Datatype", "DataType", "Datatype", "Format")
    return [" ".join(str(t.get(key, "")) for key in keys) for t in tensors or () if isinstance(t, dict)]


def _sizes(tensors: Any, rows: int) -> list[tuple[str, int]]:
    """Names and bytes of tensors of the inspector."""
    found = []
    for tensor in tensors or ():
        dims = tensor.get("Dimensions") if isinstance(tensor, dict) else None
        if isinstance(dims, list) and all(isinstance(n, int) for n in dims):
            found.append((str(tensor.get("Name", "")), _bytes(dims, _types([tensor])[0], rows)))
    return found


def _each_once(tensors: Iterable[tuple[str, int]]) -> int:
    """Bytes of tensors; one that a kernel names several times (for parts of it) comes from memory once."""
    largest: dict[str, int] = {}
    unnamed = 0
    for name, size in tensors:
        if name:
            largest[name] = max(size, largest.get(name, 0))
        else:
            unnamed += size
    return sum(largest.values()) + unnamed


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n.strip()]


def _bytes(dims: list[int], text: str, rows: int) -> int:
    precision = _precisions(text)
    return math.prod(rows if n < 0 else max(n, 1) for n in dims) * (_BITS[precision[0]] if precision else 32) // 8


def _precisions(text: str) -> list[str]:
    match = _WORD.search(text)
    return [_PRECISION_OF[match.group().lower()]] if match else []
