"""From the pixel formats of cameras and codecs to one channel of infrared."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import SourceError

Grey = tuple[NDArray[Any], float | None]  # the image and the level at which it saturates, if known
_RGB = ("rgb24", "bgr24", "rgba", "bgra", "argb", "abgr", "rgb0", "bgr0", "0rgb", "0bgr", "gbrp", "pal8")
_PACKED = {"yuyv422": 0, "yvyu422": 0, "uyvy422": 1}  # byte of the first luma
_NEUTRAL_LEVELS = 2  # levels of 8 bits that the chroma of a grey picture may stray
_FULL_RANGE = 2  # libav's AVCOL_RANGE_JPEG
_LIMITED_RANGE = 1


def packed_luma(data: NDArray[np.uint8], first: int, *, luma: bool, where: str) -> NDArray[np.uint8]:
    """Luma of ``[H, 2 W]`` packed 4:2:2 bytes; ``first`` is the column of its first luma.

    Raises:
        SourceError: if the picture is in colour and ``luma`` does not say what to do with it.
    """
    if not luma and not _is_neutral(data[:, 1 - first :: 2], 8):
        raise colour_error(where, "4:2:2 colour")
    return data[:, first::2].copy()


def colour_error(where: str, what: str) -> SourceError:
    """The refusal of a colour picture."""
    return SourceError(
        f"{where}: the picture is in colour ({what}); expected one channel of infrared",
        hint="choose a palette of greys in the camera, or take the luma as it is with gray=luma",
    )


def _is_neutral(chroma: NDArray[Any], bits: int) -> bool:
    middle, tolerance = 1 << (bits - 1), _NEUTRAL_LEVELS << (bits - 8)
    return int(chroma.min()) >= middle - tolerance and int(chroma.max()) <= middle + tolerance


def grey_of(frame: Any, *, luma: bool, where: str) -> Grey:
    """The grey image of a decoded ``av.VideoFrame``, values as stored: nothing is stretched or rounded.

    Grey formats come as they are. Luma and chroma: the luma, if the chroma is neutral in the whole
    picture or ``luma`` is set. Red, green and blue: their common value, or with ``luma`` the rounded
    sum 0.299 R + 0.587 G + 0.114 B. Other formats are refused.

    Raises:
        SourceError: if the picture is in colour, or its format is not known.
    """
    name = frame.format.name
    if name in _RGB:
        return _of_rgb(frame.to_ndarray(format="rgb24"), luma=luma, where=f"{where} ({name})"), 255.0
    if name in _PACKED:
        data = _plane(frame, 0, np.dtype(np.uint8), 2 * frame.width)
        return packed_luma(data, _PACKED[name], luma=luma, where=where), _yuv_scale(frame, name, 8)
    if grey := re.fullmatch(r"gray(?:(9|10|12|14|16|f32)(le|be))?", name):
        return _of_grey(frame, grey[1] or "8", "<" if grey[2] == "le" else ">")
    if planar := re.fullmatch(r"(?:yuvj?4[124][0-4]p|nv(?:12|21|16|24|42)|p[024](?=1))(?:(\d+)(le|be))?", name):
        return _of_yuv(frame, int(planar[1] or 8), "<" if planar[2] == "le" else ">", luma=luma, where=where)
    raise SourceError(
        f"{where}: pixel format {name} is not known", hint="record or send 8- or 16-bit grey (gray, gray16le)"
    )


def _of_rgb(image: NDArray[np.uint8], *, luma: bool, where: str) -> NDArray[np.uint8]:
    if luma:
        return np.round(image @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    if (image != image[..., :1]).any():
        raise colour_error(where, "red, green and blue differ")
    return image[..., 0].copy()


def _of_grey(frame: Any, bits: str, order: str) -> Grey:
    if bits == "f32":
        return _plane(frame, 0, np.dtype(f"{order}f4"), frame.width).astype(np.float32), None
    if bits == "8":
        return _plane(frame, 0, np.dtype(np.uint8), frame.width).copy(), 255.0
    data = _plane(frame, 0, np.dtype(f"{order}u2"), frame.width).astype(np.uint16)
    return data, None if bits == "16" else 2.0 ** int(bits) - 1  # 16-bit streams carry sensors of 10 to 16 bits


def _of_yuv(frame: Any, bits: int, order: str, *, luma: bool, where: str) -> Grey:
    name = frame.format.name
    dtype = np.dtype(np.uint8 if bits == 8 else f"{order}u2")
    shift = 16 - bits if name.startswith("p") else 0  # p010 keeps its bits at the top
    if not luma:
        for index in range(1, len(frame.planes)):
            pairs = 2 if len(frame.planes) == 2 else 1  # two planes: both chromas side by side
            chroma = _plane(frame, index, dtype, pairs * frame.planes[index].width)
            if not _is_neutral(chroma >> shift, bits):
                raise colour_error(where, name)
    image = _plane(frame, 0, dtype, frame.width)
    return (image >> shift).astype(dtype.newbyteorder("=")), _yuv_scale(frame, name, bits)


def _yuv_scale(frame: Any, name: str, bits: int) -> float | None:
    if name.startswith("yuvj") or frame.color_range == _FULL_RANGE:
        return 2.0**bits - 1
    return float(235 << (bits - 8)) if frame.color_range == _LIMITED_RANGE else None


def _plane(frame: Any, index: int, dtype: np.dtype[Any], width: int) -> NDArray[Any]:
    """One plane without the padding of its rows; a view of the frame's memory."""
    plane = frame.planes[index]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]
    return rows[:, : width * dtype.itemsize].view(dtype)
