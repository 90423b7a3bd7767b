"""What is said and asked of the builder layer by layer: float32 islands of weak networks, and what DLA leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glint.cards import in_island
from glint.cli import talk
from glint.errors import InputError
from glint.runtime.engines.tensorrt.api import TensorRT

DLA_LOADABLES = 16  # networks that a DLA core holds
_MOST_NAMED = 5


def keep_islands(trt: TensorRT, network: Any) -> None:
    """Have the builder of a weakly typed network compute the float32 islands in float32 (with the flag to obey)."""
    float32 = trt.module.DataType.FLOAT
    for layer in _layers(network):
        outputs = range(layer.num_outputs)
        if in_island(layer.name) and all(layer.get_output(i).dtype.name == "FLOAT" for i in outputs):
            layer.precision = float32
            for i in outputs:
                layer.set_output_type(i, float32)


def left_to_gpu(network: Any, config: Any, name: str) -> tuple[str, ...]:
    """Names of the layers that DLA does not take, told to the user.

    Raises:
        InputError: if it takes none, or in more pieces than a core holds.
    """
    on_dla = [(layer.name, config.can_run_on_DLA(layer)) for layer in _layers(network)]
    left = tuple(layer for layer, takes in on_dla if not takes)
    if len(left) == len(on_dla):
        raise InputError(f"DLA: it takes no layer of {name}", hint="leave --dla out to build for the GPU")
    pieces = sum(takes and not (i and on_dla[i - 1][1]) for i, (_, takes) in enumerate(on_dla))
    if pieces > DLA_LOADABLES:
        raise InputError(
            f"DLA: {name} falls into {pieces} pieces for it, between which {len(left)} layers run on the GPU; a core "
            f"holds {DLA_LOADABLES}",
            hint="leave --dla out to build for the GPU",
        )
    if left:
        some = ", ".join([*left[:_MOST_NAMED], *(["..."] if len(left) > _MOST_NAMED else [])])
        talk(f"build: {len(left)} of {len(on_dla)} layers run on the GPU, not on DLA: {some}")
    return left


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(i) for i in range(network.num_layers))
