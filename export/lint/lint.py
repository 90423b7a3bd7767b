"""Whether TensorRT will build what an ONNX file says: one table of rules for all supported versions.

The rules say what is known of TensorRT without asking it; they do not replace a build.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from glint.errors import ModelError, first_line
from glint.export.lint import operators as rules_operators
from glint.export.lint import quantisation as rules_quantisation
from glint.export.lint.findings import FLOAT, REFUSED, WARNING, Finding, View

RULES = (
    rules_operators.operators,
    rules_operators.options,
    rules_operators.types,
    rules_operators.files,
    rules_operators.serial,
    rules_quantisation.zero_points,
    rules_quantisation.float_layers,
)
_ORDER = (REFUSED, FLOAT, WARNING)


def lint(model: onnx.ModelProto, *, folder: Path | None = None) -> list[Finding]:
    """Everything that some supported TensorRT would refuse, run in float, or run badly; the worst first.

    Args:
        model: an ONNX graph.
        folder: where its external data should be.
    """
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    # Where inference fails, the types that the file itself gives must do.
    with contextlib.suppress(onnx.shape_inference.InferenceError, ValueError):
        typed = onnx.shape_inference.infer_shapes(model)
    view = View(typed, folder)
    found = [finding for rule in RULES for finding in rule(view)]
    return sorted(found, key=lambda finding: _ORDER.index(finding.severity))


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, with its external data if they are there.

    Raises:
        ModelError: if it cannot be read or is no ONNX model.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not any(finding.code == "external-data" for finding in rules_operators.files(View(model, path.parent))):
            onnx.load_external_data_for_model(model, str(path.parent))
            onnx.checker.check_model(model)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path} is no valid ONNX model: {first_line(error)}") from error
    return model
