"""The full scale that a file states, and the one that its frame has."""

import struct
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from written_images import STACK, saved, tagged

from glint.images import read_picture
from glint.runtime.sources.items import frame_of
from glint.runtime.sources.open import open_source


def png(bits, data, depth):
    """A PNG that says how many bits of its values mean something."""
    content = saved("PNG", data)
    chunk = b"sBIT" + bytes([bits])
    end = content.index(b"IDAT") - 4
    said = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert content[24] == depth
    return content[:end] + said + content[end:]


GREY = (STACK[0] >> 6).astype(np.uint8)


@pytest.mark.parametrize(
    ("maximum", "expected"),
    [
        (1, 1), (15, 15), (127, 127), (255, 255), (254, None), (200, None), (511, 511), (1023, 1023), (4095, 4095),
        (16383, 16383), (16000, None), (32767, 32767), (65535, None), (65534, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["P2", "P5"])
def test_the_maximum_of_a_pgm_is_the_full_scale_if_it_is_one_of_a_sensor(tmp_path, form, maximum, expected):
    data = np.minimum(STACK[0], maximum)
    if form == "P2":
        body = b" ".join(b"%d" % value for value in data.ravel())
    else:
        body = data.astype(np.uint8 if maximum < 256 else ">u2").tobytes()
    (tmp_path / "a.pgm").write_bytes(b"%s\n17 12\n%d\n" % (form.encode(), maximum) + body)
    picture = read_picture(tmp_path / "a.pgm")
    assert picture.full_scale == expected
    assert_array_equal(picture.data, data)


@pytest.mark.parametrize(
    ("tags", "data", "expected"),
    [
        ({}, STACK[0], None), ({341: 16383}, STACK[0], 16383), ({341: 65535}, STACK[0], None),
        ({341: 9871}, STACK[0], None), ({281: 16383}, STACK[0], None), ({341: 16383, 262: 0}, STACK[0], None),
        ({}, GREY, 255), ({341: 127}, GREY >> 1, 127), ({341: 250}, GREY, 255),
    ],
)  # fmt: skip
def test_a_tiff_states_its_full_scale_by_a_tag_that_is_no_statistics(tmp_path, tags, data, expected):
    (tmp_path / "a.tif").write_bytes(tagged(data, tags))
    picture = read_picture(tmp_path / "a.tif")
    assert picture.full_scale == expected


def test_a_tiff_of_twelve_bits_per_pixel_says_so(tmp_path):
    values = (STACK[0, :, :16] >> 2).astype(np.uint16)
    first, second = values[:, ::2].astype(np.uint32), values[:, 1::2].astype(np.uint32)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8)
    content = tagged(values, {258: 12, 279: packed.size}, packed.tobytes())
    (tmp_path / "a.tif").write_bytes(content)
    picture = read_picture(tmp_path / "a.tif")
    assert picture.full_scale == 4095
    assert_array_equal(picture.data, values)


@pytest.mark.parametrize(
    ("bits", "data", "depth", "expected"),
    [
        (14, STACK[0] << 2, 16, 65532), (12, STACK[0], 16, 65520), (16, STACK[0], 16, None), (17, STACK[0], 16, None),
        (0, STACK[0], 16, None), (6, GREY, 8, 252), (8, GREY, 8, 255),
    ],
)  # fmt: skip
def test_white_of_a_png_with_significant_bits_is_that_of_stretched_values(tmp_path, bits, data, depth, expected):
    (tmp_path / "a.png").write_bytes(png(bits, data, depth))
    picture = read_picture(tmp_path / "a.png")
    assert picture.full_scale == expected
    assert_array_equal(picture.data, data)


def test_the_stated_full_scale_is_that_of_the_frame(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.pgm").write_bytes(b"P5\n17 12\n16383\n" + STACK[number].astype(">u2").tobytes())
    assert [frame.full_scale for frame in open_source(str(tmp_path)).frames()] == [16383, 16383]
    assert frame_of(tmp_path / "1.pgm").full_scale == 16383
