"""Reading and writing single images: greyscale, 8 or 16 bit, by Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from glint.errors import SourceError
from glint.files import write_bytes

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".pgm")
_GREY_MODES = {"1", "L", "I;16", "I;16B", "I;16L", "I", "F"}


def read_image(path: Path) -> NDArray[Any]:
    """A greyscale image as ``uint8``, ``uint16`` or ``float32`` ``[H, W]``, values as stored.

    A colour file is accepted if its three channels are the same everywhere (grey saved as colour).

    Raises:
        SourceError: if the file is missing, truncated, no image, in colour, or out of range.
    """
    try:
        with Image.open(path) as image:
            maximum = _pgm_maximum(image)
            _refuse_deep_colour(image, path)
            image.load()
            data = _to_grey(image, path)
            if maximum in (None, 255, 65535):
                return data
            # Pillow stretches a PGM to its full range: undo that, exactly.
            full = 255 if data.dtype == np.uint8 else 65535
            return np.round(data * (maximum / full)).astype(data.dtype)
    except (UnidentifiedImageError, SyntaxError) as error:
        raise SourceError(f"{path} is not an image that can be read", hint=f"known: {', '.join(SUFFIXES)}") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, SourceError):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceError(f"{path}: {reason}") from error


def _pgm_maximum(image: Image.Image) -> int | None:
    """The highest value that a PGM's header declares where Pillow would rescale it, else None."""
    tiles: Any = getattr(image, "tile", [])  # what a file's plugin leaves for the decoder
    if image.format != "PPM" or not tiles or tiles[0][0] != "ppm":
        return None
    return int(tiles[0][3][1])  # (mode, maximum) of this decoder


def _refuse_deep_colour(image: Image.Image, path: Path) -> None:
    """Pillow would cut such a file to 8 bits without a word."""
    tiles: Any = getattr(image, "tile", [])
    if any(";16" in str(tile[3]) for tile in tiles) and image.mode not in _GREY_MODES:
        raise SourceError(f"{path} holds 16-bit colour or alpha", hint="convert it to 16-bit greyscale")


def _to_grey(image: Image.Image, path: Path) -> NDArray[Any]:
    if image.mode not in _GREY_MODES:
        channels = np.asarray(image.convert("RGB"))
        if (channels != channels[..., :1]).any():
            raise SourceError(
                f"{path} is a colour image (mode {image.mode}); expected one channel of infrared",
                hint="convert it to greyscale yourself: how colours map to radiance is not ours to guess",
            )
        return channels[..., 0].copy()
    data = np.asarray(image)
    if data.dtype == np.bool_:
        return data.astype(np.uint8) * np.uint8(255)
    if data.dtype == np.int32:  # Pillow's mode "I" of 16-bit files
        if data.min() < 0 or data.max() > 65535:
            raise SourceError(f"{path}: values from {data.min()} to {data.max()} do not fit into 16 bits")
        return data.astype(np.uint16)
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise SourceError(f"{path} holds NaN or infinite values")
    return data.astype(data.dtype.newbyteorder("="))


def write_image(path: Path, data: NDArray[Any]) -> None:
    """Write ``uint8 [H, W]``, ``uint16 [H, W]`` or ``uint8 [H, W, 3]`` as PNG, atomically."""
    buffer = io.BytesIO()
    Image.fromarray(data).save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())
