"""How many bytes INT8 saves: what a plan moves less than fp16, counted on the graph.

A model, not a measurement: what is no product becomes one kernel with what it follows, and what a kernel writes and
another reads goes through memory. Then, of a tensor of n numbers,

- each reader in INT8 reads n bytes instead of 2 n;
- it is written in n bytes instead of 2 n if all of its readers are in INT8: whoever makes it quantises it. One that
  stays in float needs its 2 n bytes all the same, and a kernel more reads them and writes n.

So a layer alone loses where others need its data in float, and islands of INT8 save most. Weights are read in half
the bytes. What real engines make of a plan: ``python -m glint.benchmarks.tables.traffic``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from glint.calibration.balance import BALANCE
from glint.calibration.int8_layers import Graph, QuantisableLayer


class BytesSaved:
    """Counts what plans for one network save.

    Args:
        graph: of the network in fp32, balanced or not.
        shapes: of the tensors that its layers read, as they were in a run; a balanced one has that of its source.
    """

    def __init__(self, graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._graph, self._shapes = graph, shapes
        self._outputs = {value.name for value in graph.model.graph.output}

    def __call__(self, layers: Sequence[QuantisableLayer], skips: Sequence[QuantisableLayer]) -> int:
        """Bytes that a run moves less than in fp16; below 0 if it moves more.

        Args:
            layers: in INT8.
            skips: those of the layers whose skip is.
        """
        quantised: dict[str, dict[str, list[str]]] = {}  # tensor: its copies in int8 and who reads them
        for layer in layers:
            quantised.setdefault(self._source(layer.data), {}).setdefault(layer.data, []).append(layer.name)
        for layer in skips:
            quantised.setdefault(layer.skip, {}).setdefault(layer.skip, []).append(layer.add)
        saved = sum(math.prod(self._graph.constants[layer.weight].dims) for layer in layers)
        for tensor, copies in quantised.items():
            numbers = math.prod(self._shapes[tensor])
            readers = [name for names in copies.values() for name in names]
            in_float = {node.name for node in self._graph.readers[tensor]} - {*readers, *copies}
            made = 2 + 3 * len(copies) if in_float or tensor in self._outputs else len(copies)
            saved += numbers * (len(readers) + 2 - made)
        return saved

    def _source(self, tensor: str) -> str:
        """What a balanced tensor is made of; another is its own."""
        maker = self._graph.maker.get(tensor)
        return maker.input[0] if maker is not None and maker.name.endswith(BALANCE) else tensor
