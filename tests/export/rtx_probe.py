"""``python rtx_probe.py FOLDER``: what the real TensorRT-RTX does with every ONNX file in a folder, as JSON.

It parses and builds ahead of time, which needs no GPU. A process of its own, because TensorRT keeps the first
logger of a process for good.

Outcome of a file: ``refused`` with the reason; ``int8`` if the layer ``the/...`` that is named after a weighted
operator takes int8; ``built`` otherwise.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import tensorrt_rtx as trt


class _Logger(trt.ILogger):
    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[str] = []

    def log(self, severity: object, message: str) -> None:
        self.lines.append(message)


def outcome(path: Path, logger: _Logger) -> str:
    """Parse and build one file."""
    logger.lines.clear()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        return "refused: " + "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    dynamic = False
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        if -1 in tensor.shape:
            dynamic = True
            profile.set_shape(tensor.name, *(tuple(n if d == -1 else d for d in tensor.shape) for n in (64, 128, 256)))
    if dynamic:
        config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        return "refused: " + "; ".join(line for line in logger.lines if "Error" in line)
    layers = "\n".join(line for line in logger.lines if "Layers:" in line)
    weighted = re.findall(
        r"Name: the/(?:Conv|ConvTranspose|MatMul|Gemm)_\w+, LayerType: \w+, Inputs: \[(.*?)\]", layers
    )
    typed = re.findall(r"Name: the/(?:Conv|ConvTranspose|MatMul|Gemm)_\w+, LayerType.*?Datatype: (\w+)", layers)
    return "int8" if weighted and set(typed) == {"Int8"} else "built"


if __name__ == "__main__":
    shared = _Logger()
    print(json.dumps({path.stem: outcome(path, shared) for path in sorted(Path(sys.argv[1]).glob("*.onnx"))}))
