"""Whether TensorRT will build what an ONNX file says: one table of rules for all supported versions.

The rules say what is known of TensorRT without asking it; they do not replace a build.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from glint.errors import ModelError, first_line
from glint.export.lint import operands as rules_operands
from glint.export.lint import operators as rules_operators
from glint.export.lint import quantisation as rules_quantisation
from glint.export.lint.findings import FLOAT, REFUSED, WARNING, Finding, View
from glint.export.lint.order import first_unsorted, in_order
from glint.export.lint.weights import weights as external_weights

RULES = (
    rules_operators.operators,
    rules_operators.options,
    rules_operators.training,
    rules_operands.constants,
    rules_operands.resizes,
    rules_operands.shapes,
    rules_operands.types,
    rules_operators.files,
    external_weights,
    rules_operators.serial,
    rules_quantisation.scales,
    rules_quantisation.sizes,
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
    typed = in_order(model)
    # Where inference fails, the types that the file itself gives must do.
    with contextlib.suppress(onnx.shape_inference.InferenceError, ValueError):
        typed = onnx.shape_inference.infer_shapes(typed)
    view = View(typed, folder, unsorted=first_unsorted(model.graph))
    found = [finding for rule in RULES for finding in rule(view)]
    return sorted(found, key=lambda finding: _ORDER.index(finding.severity))


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file as it is, with its external data if they are there (:func:`lint` tells if they are not).

    Raises:
        ModelError: if it cannot be read or is no ONNX model.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not _missing_weights(model, path.parent):
            onnx.load_external_data_for_model(model, str(path.parent))
            onnx.checker.check_model(in_order(model))  # engines take nodes in any order
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:  # names that are no text, unknown types
        raise ModelError(
            f"{path} is no valid ONNX model: {first_line(error)}",
            hint="export it again; onnx.checker.check_model tells more",
        ) from error
    return model


def load_whole_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file that is to be worked on: its weights are there, its nodes in order.

    Raises:
        ModelError: if it cannot be read, is no ONNX model, or its weights are missing.
    """
    model = load_onnx(path)
    for finding in _missing_weights(model, path.parent):
        raise ModelError(f"{path}: {finding.message} ({finding.node})", hint=finding.hint)
    return in_order(model)


def _missing_weights(model: onnx.ModelProto, folder: Path) -> list[Finding]:
    return list(external_weights(View(model, folder)))
