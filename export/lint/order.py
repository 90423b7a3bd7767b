"""The order of an ONNX graph's nodes: each behind those that it reads."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def in_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes are sorted, those that are in order left as they stand; a circle is left as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if first_unsorted(copy.graph):
        ordered = _sorted(copy.graph)
        del copy.graph.node[:]
        copy.graph.node.extend(ordered)
    return copy


def first_unsorted(graph: onnx.GraphProto) -> str:
    """Name (else output) of the first node that reads what a later node makes; "" if the nodes are sorted."""
    later = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        if any(name in later for name in _read(node)):
            return node.name or next(filter(None, node.output), node.op_type)
        later.difference_update(node.output)
    return ""


def _sorted(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needed = [{makers[name] for name in _read(node) if name in makers} for node in graph.node]
    order: list[int] = []
    waiting = list(range(len(graph.node)))
    placed: set[int] = set()
    while waiting:
        # One pass takes all that stands behind what it reads; files are nearly sorted, so few are needed.
        left = []
        for index in waiting:
            if needed[index] <= placed:
                order.append(index)
                placed.add(index)
            else:
                left.append(index)
        if len(left) == len(waiting):  # a circle: the checker tells
            order += left
            break
        waiting = left
    nodes = []
    for index in order:
        node = onnx.NodeProto()
        node.CopyFrom(graph.node[index])
        nodes.append(node)
    return nodes


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those inside its graphs included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read(inner)
