"""Image files for the tests of formats, written by Pillow or by the book."""

import io
import struct

import numpy as np
from PIL import Image

STACK = np.random.default_rng(2).integers(0, 16384, (4, 12, 17)).astype(np.uint16)


def saved(form, data=STACK[0], **more):
    buffer = io.BytesIO()
    Image.fromarray(data).save(buffer, format=form, **more)
    return buffer.getvalue()


def tagged(data, tags, body=None):
    """A little-endian TIFF of one strip with further tags, by the book."""
    body = data.tobytes() if body is None else body
    bits = 8 * data.dtype.itemsize
    known = {256: data.shape[1], 257: data.shape[0], 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: data.shape[0]}
    known |= {279: len(body), **tags}
    text = known.pop(270, b"")
    entries = sorted(known.items())
    end = 8 + len(body) + 2 + 12 * (len(entries) + bool(text)) + 4
    table = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries]
    if text:
        table.insert(sum(tag < 270 for tag, _ in entries), struct.pack("<HHII", 270, 2, len(text), end))
    directory = struct.pack("<H", len(table)) + b"".join(table) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + text
