"""Weights that an ONNX file keeps in other files: whether these are where TensorRT reads them, and whole."""

from __future__ import annotations

import math
import os.path
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto

from glint.export.lint.findings import REFUSED, VERSIONS, Finding, View

_FOUR_BITS = (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1)


def weights(view: View) -> Iterator[Finding]:
    """``external-data``: files that are not there, not in the model's folder, or not of the tensors' sizes."""
    problems = dict(found for tensor in view.tensors.values() if (found := _problem(tensor, view.folder)) is not None)
    for location, problem in sorted(problems.items()):
        yield Finding(
            "external-data", REFUSED, VERSIONS, location, f"the weights are in another file, {problem}",
            "copy it beside the model, whole, or save the model in one file",
        )  # fmt: skip


def _problem(tensor: onnx.TensorProto, folder: Path | None) -> tuple[str, str] | None:
    """The file of a tensor's data and what is the matter with it, or None."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not location:
        return tensor.name, "which has no name"
    path = Path(os.path.normpath(location))
    if path.is_absolute():
        return location, "which is named by an absolute path"
    if path.parts[:1] == ("..",):
        return location, "outside of the model's folder"
    try:
        size = (folder / location).stat().st_size if folder is not None and (folder / location).is_file() else None
        offset = int(entries.get("offset", 0))
        length = int(entries["length"]) if "length" in entries else None
        needed = _bytes(tensor)
    except (ValueError, KeyError):  # a name with a null byte, an offset that is no number, an unknown type
        return location, "which is not described as one"
    if size is None:
        return location, "which is not there"
    if offset < 0 or offset + (needed if length is None else length) > size:
        return location, f"which is too short: {size} bytes"
    here = size - offset if length is None else length
    return None if here == needed else (location, f"of which {here} bytes are for {tensor.name}, which has {needed}")


def _bytes(tensor: onnx.TensorProto) -> int:
    bits = 4 if tensor.data_type in _FOUR_BITS else 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return -(-math.prod(tensor.dims) * int(bits) // 8)
