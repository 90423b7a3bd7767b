"""A Polygraphy that runs "TensorRT" in ONNX Runtime: the calls of ``glint.benchmarks.parity.plan_layers``, no more."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import onnxruntime


class Network:
    """The layers of an ONNX file; constants that were folded (``folded``) are none."""

    def __init__(self, path, folded):
        self.path = path
        made = [name for node in onnx.load(path).graph.node for name in node.output if name and name not in folded]
        self.layers = [
            SimpleNamespace(num_outputs=1, get_output=lambda _, n=name: SimpleNamespace(name=n)) for name in made
        ]
        self.num_layers = len(made)

    def get_layer(self, index):
        return self.layers[index]


def install(monkeypatch, *, folded=(), harm=None, fails=None):
    """Put it in place of Polygraphy.

    Args:
        monkeypatch: of pytest.
        folded: tensors that TensorRT does not have.
        harm: called with the name and the value of each tensor that is read; gives the value to tell.
        fails: the exception of a build.

    Returns:
        What was asked for: ``typed``, ``shapes``, ``config``, ``marked`` and ``closed``.
    """
    asked = {}

    class Profile(dict):
        def add(self, name, least, opt, most):
            assert least == opt == most
            self[name] = opt

    class TrtRunner:
        def __init__(self, engine):
            if fails is not None:
                raise fails
            self.path, self.names = engine

        def __enter__(self):
            model = onnx.load(self.path)
            have = {value.name for value in model.graph.output}
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.names if name not in have)
            self.session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            return self

        def __exit__(self, *_):
            asked["closed"] = True

        def infer(self, feed):
            found = dict(zip(self.names, self.session.run(list(self.names), feed)))
            return {name: value if harm is None else harm(name, value) for name, value in found.items()}

    def network_from_path(path, *, strongly_typed):
        asked["typed"] = strongly_typed
        return lambda: ("builder", Network(path, folded), "parser")

    def config(*, profiles, fp16, int8):
        asked.update(shapes=dict(profiles[0]), config={"fp16": fp16, "int8": int8})

    def modify(parsed, *, outputs):
        asked["marked"] = outputs
        return parsed[1].path, outputs

    trt = ModuleType("polygraphy.backend.trt")
    trt.NetworkFromOnnxPath, trt.Profile, trt.CreateConfig = network_from_path, Profile, config
    trt.ModifyNetworkOutputs, trt.TrtRunner = modify, TrtRunner
    trt.EngineFromNetwork = lambda network, _: network
    backend = ModuleType("polygraphy.backend")
    backend.trt = trt
    for name, module in {"polygraphy": ModuleType("polygraphy"), "polygraphy.backend": backend}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "polygraphy.backend.trt", trt)
    return asked


def doubled(tensor):
    """Harm to one tensor."""
    return lambda name, value: np.asarray(2 * value) if name == tensor else value
