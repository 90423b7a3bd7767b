"""Images come in as they were stored, or not at all."""

import re
import shutil
import struct
import subprocess
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_array_equal
from PIL import Image

from glint.errors import OutputError, SourceError
from glint.images import SUFFIXES, read_image, write_image

quick = settings(deadline=None, max_examples=25, derandomize=True)
eight = np.arange(30, dtype=np.uint8).reshape(5, 6) * 8
sixteen = np.arange(30, dtype=np.uint16).reshape(5, 6) * 2000 + 7


def png(bits, colour, rows):
    """A PNG written by the book: Pillow cannot write all that PNG allows."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    channels = {0: 1, 2: 3, 4: 2}[colour]
    width = len(rows[0]) * 8 // (bits * channels)
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(data, order):
    """A TIFF of one strip of 16-bit samples: order ``<`` (II) or ``>`` (MM)."""
    body = data.astype(f"{order}u2").tobytes()
    height, width = data.shape
    tags = [
        (256, width),
        (257, height),
        (258, 16),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(body)),
    ]
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    mark = b"II" if order == "<" else b"MM"
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)
    return mark + struct.pack(f"{order}HI", 42, 8 + len(body)) + body + directory


def stored(path, content):
    path.write_bytes(content)
    return read_image(path)


# Round trips


@quick
@given(data=arrays(st.sampled_from([np.uint8, np.uint16]), array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_png_round_trip_keeps_values_and_type(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("png") / "a.png"
    write_image(path, data)
    back = read_image(path)
    assert back.dtype == data.dtype
    assert_array_equal(back, data)


@pytest.mark.parametrize("data", [eight, sixteen, sixteen.astype(np.float32) / 3], ids=["8", "16", "float"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_is_read_as_stored(tmp_path, data, compression):
    Image.fromarray(data).save(tmp_path / "a.tif", compression=compression)
    back = read_image(tmp_path / "a.tif")
    assert back.dtype == data.dtype
    assert_array_equal(back, data)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_either_byte_order_gives_native_values(tmp_path, order):
    back = stored(tmp_path / "a.tif", tiff(sixteen, order))
    assert back.dtype == np.uint16
    assert back.dtype.isnative
    assert_array_equal(back, sixteen)


@pytest.mark.parametrize(("suffix", "data"), [(".bmp", eight), (".pgm", eight), (".pgm", sixteen)])
def test_other_lossless_formats_are_read_as_stored(tmp_path, suffix, data):
    Image.fromarray(data).save(tmp_path / f"a{suffix}")
    back = read_image(tmp_path / f"a{suffix}")
    assert back.dtype == data.dtype
    assert_array_equal(back, data)


def test_every_suffix_that_is_offered_can_be_read(tmp_path):
    for suffix in SUFFIXES:
        Image.new("L", (4, 3), 7).save(tmp_path / f"a{suffix}")
        assert_array_equal(read_image(tmp_path / f"a{suffix}"), np.full((3, 4), 7))


def test_pgm_of_a_14_bit_camera_is_read_as_stored(tmp_path):
    # Pillow stretches values to 65535 when the header says 16383.
    back = stored(tmp_path / "a.pgm", b"P5 3 1 16383\n" + struct.pack(">3H", 0, 16, 16383))
    assert back.tolist() == [[0, 16, 16383]]


def test_1_bit_masks_become_0_and_255(tmp_path):
    mask = np.eye(9, dtype=bool)
    Image.fromarray(mask).save(tmp_path / "a.png")
    back = read_image(tmp_path / "a.png")
    assert back.dtype == np.uint8
    assert_array_equal(back, 255 * mask)


def test_images_can_be_written_to(tmp_path):
    Image.fromarray(sixteen).save(tmp_path / "a.png")
    back = read_image(tmp_path / "a.png")
    back[0, 0] = 1
    assert back[0, 0] == 1


def test_overlays_are_written_in_colour(tmp_path):
    rgb = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    write_image(tmp_path / "new" / "a.png", rgb)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert_array_equal(np.asarray(image), rgb)


def test_an_image_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        write_image(tmp_path / "file" / "a.png", eight)


# Colour


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_saved_as_colour_is_grey(tmp_path, mode):
    Image.fromarray(eight).convert(mode).save(tmp_path / "a.png")
    assert_array_equal(read_image(tmp_path / "a.png"), eight)


def test_colour_is_refused_with_a_hint(tmp_path):
    Image.fromarray(np.dstack([eight, eight, eight + 1])).save(tmp_path / "a.png")
    with pytest.raises(SourceError, match="colour") as caught:
        read_image(tmp_path / "a.png")
    assert "greyscale" in caught.value.hint


def test_a_colour_palette_is_refused(tmp_path):
    image = Image.fromarray(eight // 8).convert("P")
    image.putpalette([5, 6, 7] * 256)
    image.save(tmp_path / "a.png")
    with pytest.raises(SourceError, match="colour"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("colour", [2, 4], ids=["rgb", "grey-alpha"])
def test_16_bits_of_grey_saved_as_colour_are_not_cut_to_8(tmp_path, colour):
    pixel = [struct.pack(">3H", v, v, v) if colour == 2 else struct.pack(">2H", v, 65535) for v in (0x1234, 0x12FF)]
    path = tmp_path / "a.png"
    try:
        back = stored(path, png(16, colour, [b"".join(pixel)]))
    except SourceError:
        return  # saying no is as good
    assert back.tolist() == [[0x1234, 0x12FF]]


# What is no image


def test_a_missing_file_is_a_source_error(tmp_path):
    with pytest.raises(SourceError, match=r"a\.png: No such file"):
        read_image(tmp_path / "a.png")


def test_a_folder_is_a_source_error(tmp_path):
    with pytest.raises(SourceError):
        read_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "signature"])
def test_what_is_no_image_is_refused_with_the_known_formats(tmp_path, content):
    with pytest.raises(SourceError) as caught:
        stored(tmp_path / "a.png", content)
    assert ".tif" in caught.value.hint


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".pgm", ".tif"])
@pytest.mark.filterwarnings("ignore")  # Pillow also warns of what it found
def test_a_truncated_file_is_a_source_error_at_every_length(tmp_path, suffix):
    buffer = BytesIO()
    Image.fromarray(eight).save(buffer, format=Image.registered_extensions()[suffix])
    whole = buffer.getvalue()
    # A PNG may lose its last, empty chunk and a checksum, a BMP the padding of its last row.
    for length in range(0, len(whole) - 40, 7):
        with pytest.raises(SourceError):
            stored(tmp_path / f"a{suffix}", whole[:length])


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    kind=st.integers(0, 2),
)
def test_a_damaged_file_is_read_or_refused_but_never_crashes(tmp_path_factory, edits, kind):
    content = bytearray(
        [png(16, 0, [sixteen.astype(">u2").tobytes()]), tiff(sixteen, "<"), b"P5 6 5 255\n" + bytes(30)][kind]
    )
    for position, value in edits:
        content[position % len(content)] = value
    try:
        back = stored(tmp_path_factory.mktemp("damaged") / "a", bytes(content))
    except SourceError:
        return
    assert back.dtype in (np.uint8, np.uint16, np.float32)
    assert back.ndim == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_float_images_that_are_not_finite_are_refused(tmp_path, value):
    data = np.ones((3, 3), dtype=np.float32)
    data[1, 1] = value
    Image.fromarray(data).save(tmp_path / "a.tif")
    with pytest.raises(SourceError, match="NaN or infinite"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_16_bits_are_refused(tmp_path, value):
    Image.fromarray(np.full((2, 2), value, dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(SourceError, match="16 bits"):
        read_image(tmp_path / "a.tif")


def test_32_bit_integers_that_fit_become_16_bit(tmp_path):
    Image.fromarray(np.array([[0, 65535]], dtype=np.int32)).save(tmp_path / "a.tif")
    back = read_image(tmp_path / "a.tif")
    assert back.dtype == np.uint16
    assert back.tolist() == [[0, 65535]]


def test_of_a_radiometric_jpeg_in_colours_it_is_told_where_the_values_are(tmp_path):
    picture = BytesIO()
    colours = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(colours).save(picture, "JPEG")
    values = np.random.default_rng(1).integers(3000, 3100, (48, 64)).astype(np.uint16)
    data, segment = picture.getvalue(), b"FLIR\0\x01\0\0" + thermal_file(values)
    head = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big")
    (tmp_path / "a b.jpg").write_bytes(data[:2] + head + segment + data[2:])
    with pytest.raises(SourceError, match="radiometric JPEG") as caught:
        read_image(tmp_path / "a b.jpg")
    command = re.search("exiftool [^;]*", caught.value.hint)
    assert command is not None
    assert command[0] == "exiftool -b -RawThermalImage 'a b.jpg' > 'a b.png'"
    assert "glint run 'a b.png?endian=swap'" in caught.value.hint
    if shutil.which("exiftool"):  # Debian's libimage-exiftool-perl
        subprocess.run(command[0], shell=True, cwd=tmp_path, check=True)  # noqa: S602
        assert np.array_equal(read_image(tmp_path / "a b.png").byteswap(), values)


def thermal_file(values: np.ndarray) -> bytes:
    """What such a camera puts into its JPEG: a directory of one record, a PNG of values with swapped bytes."""
    picture = BytesIO()
    Image.fromarray(values.byteswap()).save(picture, "PNG")
    height, width = values.shape
    record = struct.pack("<16H", 2, width, height, 0, 0, 0, width - 1, 0, height - 1, *[0] * 7) + picture.getvalue()
    head = b"FFF\0" + bytes(16) + struct.pack(">III", 100, 0x40, 1) + bytes(0x20)
    return head + struct.pack(">HH7I", 1, 3, 0x64, 1, 0x60, len(record), 0, 0, 0) + record
