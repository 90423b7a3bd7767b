"""Describe the Python API of an installed TensorRT as JSON: what the stand-ins of the tests are made from.

    python describe.py tensorrt > tensorrt-10.3.json

Members, argument names and enums are read from the bindings themselves. Only the wheel
``tensorrt-cuNN-bindings`` is needed, no GPU and no NVIDIA library: the bindings import nine C symbols,
and three libraries (libnvinfer, libnvonnxparser, libnvinfer_plugin) that define these as functions
returning 0 are enough to load them (the wheel's package is named ``tensorrt_bindings``: link it as
``tensorrt``).
"""

import importlib
import json
import re
import sys

CLASSES = (
    "Builder", "IBuilderConfig", "INetworkDefinition", "ILayer", "ITensor", "OnnxParser", "ParserError",
    "IOptimizationProfile", "IHostMemory", "ITimingCache", "IProgressMonitor", "ILogger", "Runtime",
    "IRuntimeConfig", "ICudaEngine", "IExecutionContext", "EngineInspector", "IProfiler", "Dims",
)  # fmt: skip
ENUMS = (
    "BuilderFlag", "NetworkDefinitionCreationFlag", "DataType", "LayerType", "MemoryPoolType", "ProfilingVerbosity",
    "LayerInformationFormat", "TensorIOMode", "TensorLocation", "DeviceType", "ComputeCapability", "CudaGraphStrategy",
    "ExecutionContextAllocationStrategy", "EngineValidity",
)  # fmt: skip


def split(text):
    """Parts of a comma-separated list whose parts may hold brackets."""
    parts, depth, part = [], 0, ""
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    return [p.strip() for p in [*parts, part] if p.strip()]


def signatures(name, doc):
    """``[[argument, type, required], ...]`` of every overload that pybind11's docstring names."""
    found = []
    for match in re.finditer(rf"^(?:\d+\. )?{re.escape(name)}\((.*)\) -> ", doc or "", re.MULTILINE):
        arguments = []
        for part in split(match[1])[1:]:
            argument, _, rest = part.partition(":")
            kind, default, _ = rest.partition(" = ")
            simple = re.sub(r"[\w.]*\.(\w+)", r"\1", kind.strip()).replace("Supports", "").lower()
            simple = kind.strip().rpartition(".")[2] if simple not in ("int", "float", "str", "bool") else simple
            arguments.append([argument.strip(), simple, not default])
        found.append(arguments)
    return found


def describe_class(cls):
    """Methods with their signatures, and properties; those that can be set are marked."""
    methods, properties = {}, {}
    for name in dir(cls):
        member = getattr(cls, name)
        if isinstance(member, property):
            properties[name] = member.fset is not None
        elif callable(member) and (not name.startswith("_") or name == "__init__"):
            methods[name] = signatures(name, member.__doc__)
    return {"methods": methods, "properties": properties}


def main():
    module = importlib.import_module(sys.argv[1])
    print(f'{{"version": {json.dumps(module.__version__)},')
    print('"classes": {')
    classes = [name for name in CLASSES if hasattr(module, name)]
    print(",\n".join(f"{json.dumps(n)}: {json.dumps(describe_class(getattr(module, n)))}" for n in classes))
    print('},\n"enums": {')
    enums = [name for name in ENUMS if hasattr(module, name)]
    members = {n: {k: int(v) for k, v in getattr(module, n).__members__.items()} for n in enums}
    members["ILogger.Severity"] = {k: int(v) for k, v in module.ILogger.Severity.__members__.items()}
    print(",\n".join(f"{json.dumps(n)}: {json.dumps(values)}" for n, values in members.items()))
    print("}}")


main()
