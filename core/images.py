"""Reading and writing single images: greyscale, 8 or 16 bit.

Only the formats that are announced are read, told by a file's content and not by its name, each through a reader
of ``glint.formats`` that looks at its sizes, checksums and pages first; Pillow decodes what has passed.
"""

from __future__ import annotations

import io
import shlex
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from glint.errors import SourceError
from glint.files import write_bytes
from glint.formats import chunks, pgm, tiff
from glint.formats.stored import FormatError, StoredFile, UnknownFormatError, opened, stated_full_scale

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".pgm")
_RADIOMETRIC = b"FLIR\0"  # what a JPEG's segment begins with that holds raw values
_GREY_MODES = {"1", "L", "I;16", "I;16B", "I;16L", "I", "F"}
_WHOLE: tuple[tuple[bytes, str, Callable[[bytes], None]], ...] = (
    (chunks.PNG, "PNG", chunks.check_png),
    (chunks.JPEG, "JPEG", chunks.check_jpeg),
    (chunks.BMP, "BMP", chunks.check_bmp),
)


@dataclass(frozen=True, eq=False)
class Picture:
    """What a file holds: ``uint8``, ``uint16`` or ``float32`` ``[H, W]``.

    Attributes:
        data: pixels and values as stored.
        full_scale: the level at which the sensor saturates, DN, if the file tells; else None. A depth of 8 bits is 255,
            if the file says nothing else; 16 bits hold 10 to 16: not known.
    """

    data: NDArray[Any]
    full_scale: float | None


def read_image(path: Path) -> NDArray[Any]:
    """A greyscale image as ``uint8``, ``uint16`` or ``float32`` ``[H, W]``, pixels and values as stored.

    A colour file is accepted if its three channels are the same everywhere (grey saved as colour). Tags of
    orientation are ignored; where a TIFF says that white is zero, its values are turned so that black is.

    Raises:
        SourceError: if the file is missing, torn, damaged, no image, in colour, out of range, or holds several.
    """
    return read_picture(path).data


def read_picture(path: Path) -> Picture:
    """``read_image``, with what the file says of its full scale; raises as that."""
    pages = read_pictures(path)
    first = next(pages)
    further = sum(1 for _ in pages)
    if further:
        raise SourceError(
            f"{path} holds {further + 1} pictures; expected one",
            hint="save them one by one, or give the file alone to glint run: each becomes a frame",
        )
    return first


def read_pictures(path: Path) -> Iterator[Picture]:
    """All pictures that a file holds: pages of a TIFF, PGM files one behind the other; each as ``read_image``'s.

    Raises:
        SourceError: as ``read_image``, when the picture's turn comes.
    """
    for picture in try_pictures(path):
        if isinstance(picture, SourceError):
            raise picture
        yield picture


def try_pictures(path: Path) -> Iterator[Picture | SourceError]:
    """``read_pictures``, but in place of one that cannot be read stands why, and the others follow."""
    try:
        with opened(path) as file:
            for picture in _pictures(file, path):
                yield _refusal(picture, path) if isinstance(picture, Exception) else picture
    except (FormatError, OSError, ValueError) as error:
        yield _refusal(error, path)


def _refusal(error: Exception, path: Path) -> SourceError:
    """What a user is told of a picture."""
    if isinstance(error, SourceError):
        return error
    if isinstance(error, UnknownFormatError):
        return SourceError(f"{path} is not an image that can be read", hint=f"known: {', '.join(SUFFIXES)}")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    refused = SourceError(f"{path}: {reason}", hint="make the file again, or leave it out")
    refused.__cause__ = error
    return refused


def count_pages(path: Path) -> int:
    """How many pictures a file holds as far as its directory tells, without decoding them; 1 if it cannot be read."""
    try:
        with opened(path) as file:
            return tiff.count_pages(file) if file.at(0, min(4, file.size)) in tiff.MAGIC else 1
    except (FormatError, OSError):
        return 1


def _pictures(file: StoredFile, path: Path) -> Iterator[Picture | Exception]:
    start = file.at(0, min(8, file.size))
    if start[:4] in tiff.MAGIC:
        for page in tiff.read_pages(file):
            yield page if isinstance(page, FormatError) else _page(page, path)
        return
    if start[:2] in pgm.MAGIC:
        for data, maximum in pgm.read_pgm(file):
            yield Picture(data, stated_full_scale(maximum))
        return
    for magic, name, check in _WHOLE:
        if start.startswith(magic):
            content = file.whole()
            check(content)
            data = _decoded(content, name, path)
            if name == "JPEG":
                _check_amount(content, data, path)
            yield Picture(data, (chunks.png_full_scale(content) if name == "PNG" else None) or _of_depth(data))
            return
    raise UnknownFormatError("it begins like none of the formats that are read")


def _page(page: tiff.Page, path: Path) -> Picture | Exception:
    try:
        data = _decoded(page.content, "TIFF", path)
        data = data if page.white_at is None else _inverted(data, page.white_at)
        return Picture(data, page.full_scale or _of_depth(data))
    except (FormatError, OSError, ValueError) as error:
        return error


def _of_depth(data: NDArray[Any]) -> float | None:
    return 255.0 if data.dtype == np.uint8 else None


def _check_amount(content: bytes, data: NDArray[Any], path: Path) -> None:
    """A JPEG's size is that of its pixels: none is left over, and none is missing.

    Its decoder fills up what is missing and leaves what is too much; what it does with a spoiled end tells.

    Raises:
        FormatError: if not.
    """
    probes = chunks.jpeg_probes(content)
    if probes is None:
        return
    same = []
    for probe in probes:
        try:
            same.append(np.array_equal(_decoded(probe, "JPEG", path), data))
        except (FormatError, SourceError, OSError):
            same.append(False)
    height, width = data.shape
    if same[0]:
        raise FormatError(f"it is damaged: it holds more than {width}x{height} pixels")
    if not same[1]:
        raise FormatError(f"it is damaged: its pixels end before there are {width}x{height}")


def _decoded(content: bytes, name: str, path: Path) -> NDArray[Any]:
    """The one picture of a file that was checked."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of was looked at before
            with Image.open(io.BytesIO(content), formats=(name,)) as image:
                if getattr(image, "n_frames", 1) > 1:
                    raise FormatError(f"it holds {getattr(image, 'n_frames', 1)} pictures; expected one")
                _refuse_deep_colour(image, path)
                image.load()
                return _to_grey(image, path)
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise FormatError(f"this kind of {name} is not read, or it is damaged") from error
    except (FormatError, OSError):
        raise
    except Exception as error:  # whatever a damaged file makes a decoder stumble over
        raise FormatError(f"it is damaged: {error or type(error).__name__}") from error


def _inverted(data: NDArray[Any], white_at: int) -> NDArray[Any]:
    """White as zero turned to black as zero; 1, 2 and 4 bits have been stretched to 8 already."""
    top = max(255, white_at)
    if int(data.max()) > top:
        raise FormatError(f"it is damaged: a value of {data.max()} in pixels up to {top}")
    return (top - data).astype(data.dtype)


def _refuse_deep_colour(image: Image.Image, path: Path) -> None:
    """Pillow would cut such a file to 8 bits without a word."""
    tiles: Any = getattr(image, "tile", [])
    if any(";16" in str(tile[3]) for tile in tiles) and image.mode not in _GREY_MODES:
        raise SourceError(f"{path} holds 16-bit colour or alpha", hint="convert it to 16-bit greyscale")


def _to_grey(image: Image.Image, path: Path) -> NDArray[Any]:
    if image.mode not in _GREY_MODES:
        if "A" in image.mode or "transparency" in image.info:
            opacity = np.asarray(image.convert("RGBA"))[..., 3]
            if (opacity != opacity[0, 0]).any():
                raise SourceError(
                    f"{path} is transparent in places: what is seen there, nobody can tell",
                    hint="save it without an alpha channel",
                )
        channels = np.asarray(image.convert("RGB"))
        if image.mode == "P" and (channels == channels[0, 0]).all() and np.ptp(np.asarray(image)):
            raise SourceError(
                f"{path}: its palette shows different values as one colour", hint="save it in greys, without a palette"
            )
        if (channels != channels[..., :1]).any():
            kind = f"colour image (mode {image.mode})"
            hint = "convert it to greyscale yourself: how colours map to radiance is not ours to guess"
            if any(name == "APP1" and data.startswith(_RADIOMETRIC) for name, data in getattr(image, "applist", ())):
                kind = "radiometric JPEG with a picture in colours"
                values = shlex.quote(f"{path.stem}.png"), shlex.quote(f"{path.stem}.png?endian=swap")
                hint = (
                    f"its 16-bit values: exiftool -b -RawThermalImage {shlex.quote(path.name)} > {values[0]}; "
                    f"most cameras write them with swapped bytes: then glint run {values[1]}"
                )
            raise SourceError(f"{path} is a {kind}; expected one channel of infrared", hint=hint)
        return channels[..., 0].copy()
    data = np.asarray(image)
    if data.dtype == np.bool_:
        return data.astype(np.uint8) * np.uint8(255)
    if data.dtype == np.int32:  # Pillow's mode "I" of 16-bit files
        if data.min() < 0 or data.max() > 65535:
            raise SourceError(
                f"{path}: values from {data.min()} to {data.max()} do not fit into 16 bits",
                hint="save it as float32, or scale it to 16 bits",
            )
        return data.astype(np.uint16)
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise SourceError(f"{path} holds NaN or infinite values", hint="replace them before you save it")
    return data.astype(data.dtype.newbyteorder("="))


def write_image(path: Path, data: NDArray[Any]) -> None:
    """Write ``uint8 [H, W]``, ``uint16 [H, W]`` or ``uint8 [H, W, 3]`` as PNG, atomically."""
    buffer = io.BytesIO()
    Image.fromarray(data).save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())
