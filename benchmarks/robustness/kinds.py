"""Kinds of input: a good one of each, and what glint makes of it, with the readers that its commands use."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glint.cards import TensorSpec, load_card, zoo_folder
from glint.cli import build_parser
from glint.data.boxes import boxed_images
from glint.data.coco import CocoMasks
from glint.data.csist import read_csist, write_csist
from glint.data.datasets import read_mask, read_split
from glint.errors import InputError, ModelError
from glint.files import load_npy, write_json
from glint.images import read_pictures, write_image
from glint.optics import PsfEstimate, load_psf, save_psf
from glint.runtime.sources.open import open_frames, open_source
from glint.runtime.sources.recording_format import RecordingFile, encode_frame
from glint.runtime.tracking.zones import read_zones
from glint.simulation.patches import PatchConfig, simulate_patches
from glint.types import Frame

WIDTH, HEIGHT, FRAMES = 72, 56, 5


@dataclass(frozen=True)
class Reading:
    """What was made of an input.

    Attributes:
        form: how much there was of what: shapes, counts, names.
        content: hash of the values.
        told: whether something was said of damage: skipped, marked, lost.
    """

    form: Any
    content: str
    told: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        name: of the row of the table.
        make: writes a good one into a folder and returns the file that is to be damaged.
        read: reads it; raises GlintError for what it refuses.
        text: whether numbers and brackets in it mean something.
        checked: whether the format has checksums (or a hash beside it), so that wrong values can be seen.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Reading]
    text: bool = False
    checked: bool = False


def _digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return found.hexdigest()


def _scene(seed: int = 0) -> NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    waves = 120 * np.sin(np.arange(WIDTH) / 9) + 90 * np.cos(np.arange(HEIGHT) / 7)[:, None]
    return np.round(7300 + 320 * seed + waves + rng.normal(0, 6, (HEIGHT, WIDTH))).astype(np.uint16)


def _grey() -> NDArray[np.uint8]:
    return (_scene() // 64).astype(np.uint8)


def _pictures(path: Path) -> Reading:
    pages = [picture.data for picture in read_pictures(path)]
    return Reading([(page.shape, page.dtype.name) for page in pages], _digest(*pages))


def _saved(name: str, array: NDArray[Any], **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        Image.fromarray(array).save(folder / name, **options)
        return folder / name

    return make


def _stack(folder: Path) -> Path:
    pages = [Image.fromarray(_scene(seed)) for seed in range(3)]
    pages[0].save(folder / "stack.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    return folder / "stack.tif"


def _written(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _npy(folder: Path) -> Path:
    np.save(folder / "a.npy", _scene())
    return folder / "a.npy"


def _array(path: Path) -> Reading:
    array = load_npy(path)
    return Reading((array.shape, array.dtype.name), _digest(array))


def _film(name: str, container: str, codec: str, pixels: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import av

        with av.open(str(folder / name), "w", format=container) as output:
            stream: Any = output.add_stream(codec, rate=Fraction(30))
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
            for seed in range(FRAMES):
                image = _scene(seed)
                picture = av.VideoFrame.from_ndarray(
                    image if pixels == "gray16le" else (image // 64).astype(np.uint8),
                    format="gray16le" if pixels == "gray16le" else "gray",
                )
                if pixels not in ("gray16le", "gray"):
                    picture = picture.reformat(format=pixels)
                for packet in stream.encode(picture):
                    output.mux(packet)
            for packet in stream.encode(None):
                output.mux(packet)
        return folder / name

    return make


def _frames(uri: str, *, endless: bool = False) -> Reading:
    """With ``endless``, nothing tells where the end is: fewer frames at the end cannot be seen."""
    source = open_source(uri)
    frames = list(source.frames())
    pairs = zip(frames[1:], frames)
    repeated = any(np.array_equal(a.data, b.data) for a, b in pairs)  # counted by every run
    told = bool(source.skips or source.missing) or repeated or any(frame.damaged for frame in frames)
    kinds = [(frame.shape, frame.data.dtype.name, frame.full_scale) for frame in frames]
    form = sorted(set(kinds), key=repr) if endless else kinds
    return Reading(form, _digest(*(frame.data for frame in frames)), told)


def _recording(folder: Path) -> Path:
    file = RecordingFile(folder / "r.tar", source="a test")
    for index in range(FRAMES):
        file.append(encode_frame(Frame(index, 1000 * index, _scene(index)), index - 1 if index else None))
    file.close()
    return file.path


def _replayed(path: Path) -> Reading:
    source = open_source(f"replay:{path}")
    frames = list(source.frames())
    facts = [(frame.index, frame.t_ns, frame.name, frame.full_scale) for frame in frames]
    return Reading([frame.shape for frame in frames], _digest(facts, *(f.data for f in frames)), bool(source.skips))


def _card(folder: Path) -> Path:
    stem = "dscsnet-s-csist.fp32"
    for ending in (".json", ".onnx"):
        (folder / (stem + ending)).write_bytes((zoo_folder() / (stem + ending)).read_bytes())
    return folder / f"{stem}.json"


def _model(path: Path) -> Reading:
    card, _ = load_card(path.with_suffix(".json"))
    return Reading(None, _digest(card))


def _graph(folder: Path) -> Path:
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((8, 8, 3, 3), np.float32), "w")
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 8, 16, 16)) for name in ("x", "z")]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["z"], name="relu"),
    ]
    graph = helper.make_graph(nodes, "small", sides[:1], sides[1:], initializer=[weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    (folder / "g.onnx").write_bytes(model.SerializeToString())
    return folder / "g.onnx"


def _inspected(path: Path) -> Reading:
    from glint.export.inspect.onnx_file import inspect_onnx

    return Reading(None, _digest(inspect_onnx(path)))


def _psf(folder: Path) -> Path:
    save_psf(PsfEstimate(0.5, 0.01, used=40, sigma_x=0.5, sigma_y=0.5), folder / "psf.json")
    return folder / "psf.json"


def _boxes(folder: Path) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    write_image(folder / "images" / "a.png", _grey())
    (folder / "val.txt").write_text("a\n", encoding="utf-8")
    write_json(folder / "points.json", {"a": {"box": [3, 4, 5, 6], "point": [5, 6], "good": True, "scr": 4.5}})
    return folder / "points.json"


def _boxed(path: Path) -> Reading:
    images = list(boxed_images(path.parent, "val"))
    return Reading(len(images), _digest([(i.name, i.box, i.point, i.good) for i in images]))


def _mask(path: Path) -> Reading:
    mask, grey = read_mask(path)
    return Reading(mask.shape, _digest(mask), bool(grey))


def _split(folder: Path) -> Path:
    (folder / "val.txt").write_text("".join(f"Misc_{i}.png\r\n" for i in range(20)), encoding="utf-16")
    return folder / "val.txt"


def _csist(folder: Path) -> Path:
    write_csist(folder, simulate_patches(PatchConfig(), 1, np.random.default_rng(1)))
    return next(folder.rglob("*.xml"))


def _annotated(path: Path) -> Reading:
    patches = read_csist(path.parents[1])
    return Reading(patches.image.shape, _digest(patches.image, patches.x, patches.y))


def _report(folder: Path) -> Path:
    from glint.benchmarks.bench.report import FORMAT

    machine = {"cpu": "x", "system": "Linux"}
    accuracy = {"metric": "CSO-mAP", "value": 46.5, "on": "500 patches"}
    times = {"times_ms": {"total": {"median": 3.2}}, "rounds_ms": {"total": [3.1, 3.2, 3.4, 3.2]}}
    report = {
        "kind": "glint bench", "format": FORMAT, "machine": machine, "settings": {"threads": 1}, "versions": {},
        "interrupted": False, "warnings": [], "rows": [{"name": "frame", "accuracy": accuracy, **times}],
    }  # fmt: skip
    write_json(folder / "bench.json", report)
    return folder / "bench.json"


def _compared(path: Path) -> Reading:
    from glint.benchmarks.bench.compare import compare

    return Reading(None, _digest(compare(path, path)))


def _plan(folder: Path) -> Path:
    from glint.calibration.precision_plan import PrecisionPlan, save_plan

    save_plan(PrecisionPlan("m", "0" * 64, {"conv1": "int8", "conv2": "fp16"}), folder / "plan.json")
    return folder / "plan.json"


def _planned(path: Path) -> Reading:
    from glint.calibration.precision_plan import load_plan

    return Reading(None, _digest(load_plan(path)))


def _engine(folder: Path) -> Path:
    from glint.runtime.engines.tensorrt.cache import Sidecar, store

    tensor = TensorSpec("x", "float32", (1, 1, 8, 8))
    info = Sidecar("m", "fp16", "0" * 64, "", _target(), {"level": 3}, (), (tensor,), (tensor,), seconds=1.5)
    store(folder / "m.plan", np.random.default_rng(1).bytes(4096), info)
    return folder / "m.plan"


def _target() -> Any:
    from glint.runtime.engines.tensorrt.cache import Target

    return Target("tensorrt", "10.3.0", "Orin", "8.7", cuda="12.6", multiprocessors=8)


def _trusted(plan: Path) -> Reading:
    from glint.runtime.engines.tensorrt.cache import read_info, read_plan

    info = read_info(plan)
    content, reason = read_plan(plan, info, _target())
    if reason is not None:
        raise ModelError(reason, hint="build it again")
    return Reading(None, _digest(info, content))


def _machine_code(folder: Path) -> Path:
    _kept(folder).save("key", (1, "code"))
    return next(folder.glob("*.nbc"))


def _kept(folder: Path) -> Any:
    from glint.native.kept import SealedFiles

    return SealedFiles(cache_path=str(folder), filename_base="f", source_stamp="stamp")


def _loaded(path: Path) -> Reading:
    """What is odd is as good as not there, and made again."""
    found = _kept(path.parent).load("key")
    return Reading(None, _digest(found), told=found is None)


def _own_network(folder: Path) -> Path:
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    shape = (1, 1, "height", "width")
    frame, *outputs = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("frame", "probability", "background")
    )
    nodes = [
        helper.make_node("Conv", ["frame", "w"], ["background"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["background"], ["probability"], name="sigmoid"),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "own", [frame], outputs, initializer=[weights]),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    (folder / "own.onnx").write_bytes(model.SerializeToString())
    return folder / "own.onnx"


def _carded(path: Path) -> Reading:
    from glint.runtime.commands.card import card

    made = card(path, overwrite=True)
    return Reading(None, made.sha256)


def _zones(folder: Path) -> Path:
    corners = [[0, 0], [40.5, 0], [40.5, 30]]
    write_json(folder / "zones.json", {"zones": [{"name": "gate", "polygon": corners, "in": "scene"}]})
    return folder / "zones.json"


def _annotations(folder: Path) -> Path:
    image = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
    parts: tuple[Any, ...] = (
        [[3, 4, 9, 4, 9, 9]], {"size": [HEIGHT, WIDTH], "counts": [100, 5, WIDTH * HEIGHT - 105]}, [],
    )  # fmt: skip
    boxes = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [20, 20, 5, 5], "segmentation": part}
        for i, part in enumerate(parts)
    ]
    write_json(folder / "annotations.json", {"images": [image], "annotations": boxes, "categories": []})
    return folder / "annotations.json"


def _drawn(path: Path) -> Reading:
    masks = CocoMasks(path)
    mask = masks.mask("a", _scene())
    return Reading((len(masks.names), mask.shape), _digest(mask))


_URIS = (
    "v4l2:///dev/video9?fmt=y16&size=640x512&fps=30&bits=14&timeout=3",
    "rtsp://me:secret@127.0.0.1:1/live?channel=1#timeout=3&transport=udp&bits=14",
    "raw:-?size=640x512&dtype=uint16&endian=big&bits=14&fps=30",
    "synthetic://?size=96x80&frames=3&clusters=2&singles=1&noise=1.5&bits=14&seed=1&rate=30",
    "replay:r.tar?speed=2.5",
)  # fmt: skip


def _opened(path: Path) -> Reading:
    """Sources are opened, not read: nothing is waited for."""
    for line in path.read_bytes().decode("utf-8", "surrogateescape").splitlines():
        if not line.startswith(("replay:", "raw:")):
            open_frames(line)
    return Reading(None, "")


_OPTIONS = (
    "--roi 1,2,30,40", "--tile 64x64", "--deadline-ms 20", "--threads 2", "--record-before 2.5", "--psf 0.5",
    "--record-max-gb 1.5", "--false-tracks-per-hour 0.5", "--radiance-prior 100,20", "--scale 0,1", "--drop oldest",
)  # fmt: skip


def _parsed(path: Path) -> Reading:
    lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    words = [word for line in lines for word in line.split(" ", 1)]
    try:
        build_parser("run").parse_args(["run", "x", *words])
    except SystemExit as error:
        if error.code:
            raise InputError("argparse has said what is wrong", hint="see above") from error
    return Reading(None, "")


def _pgm(*, words: bool) -> bytes:
    image = _grey()
    if words:
        return b"P2\n%d %d\n255\n" % (WIDTH, HEIGHT) + b"\n".join(b" ".join(b"%d" % v for v in row) for row in image)
    return b"P5\n%d %d\n65535\n" % (WIDTH, HEIGHT) + _scene().astype(">u2").tobytes()


def _big_tiff() -> bytes:
    content = io.BytesIO()
    Image.fromarray(_scene()).save(content, "TIFF", big_tiff=True)
    return content.getvalue()


def _joined(lines: tuple[str, ...]) -> bytes:
    return "\n".join(lines).encode()


_MASK = np.where(_scene() > np.percentile(_scene(), 99), 255, 0).astype(np.uint8)

KINDS: tuple[Kind, ...] = (
    Kind("PNG, 8 bits", _saved("a.png", _grey()), _pictures, checked=True),
    Kind("PNG, 16 bits", _saved("b.png", _scene()), _pictures, checked=True),
    Kind("TIFF", _saved("a.tif", _scene()), _pictures),
    Kind("BigTIFF", _written("b.tif", _big_tiff()), _pictures),
    Kind("TIFF, Deflate", _saved("c.tif", _scene(), compression="tiff_adobe_deflate"), _pictures),
    Kind("TIFF, three pages, LZW", _stack, _pictures),
    Kind("BMP", _saved("a.bmp", _grey()), _pictures),
    Kind("JPEG", _saved("a.jpg", _grey(), quality=95), _pictures),
    Kind("PGM, binary", _written("a.pgm", _pgm(words=False)), _pictures),
    Kind("PGM, in words", _written("b.pgm", _pgm(words=True)), _pictures, text=True),
    Kind("NumPy array", _npy, _array),
    Kind("raw frames", _written("a.raw", struct.pack(f"<{WIDTH * HEIGHT}H", *_scene().ravel()) * FRAMES),
         lambda path: _frames(f"raw:{path}?size={WIDTH}x{HEIGHT}&dtype=uint16")),
    Kind("recording", _recording, _replayed, checked=True),
    Kind("FFV1 in MKV", _film("a.mkv", "matroska", "ffv1", "gray16le"), lambda p: _frames(str(p)), checked=True),
    Kind("MPEG-2 in TS", _film("a.ts", "mpegts", "mpeg2video", "yuv420p"), lambda p: _frames(str(p), endless=True)),
    Kind("H.264 in MP4", _film("a.mp4", "mp4", "libx264", "yuv420p"), lambda p: _frames(str(p))),
    Kind("ffvhuff in AVI", _film("a.avi", "avi", "ffvhuff", "gray16le"), lambda p: _frames(str(p))),
    Kind("model card", _card, _model, text=True),
    Kind("model file", lambda folder: _card(folder).with_suffix(".onnx"), _model, checked=True),
    Kind("ONNX graph", _graph, _inspected),
    Kind("PSF file", _psf, lambda path: Reading(None, _digest(load_psf(path))), text=True),
    Kind("boxes", _boxes, _boxed, text=True),
    Kind("mask", _saved("m.png", _MASK), _mask, checked=True),
    Kind("split list", _split, lambda path: Reading(None, _digest(read_split(path.parent, "val"))), text=True),
    Kind("CSIST annotation", _csist, _annotated, text=True),
    Kind("bench report", _report, _compared, text=True),
    Kind("precision plan", _plan, _planned, text=True),
    Kind("engine sidecar", lambda folder: _engine(folder).with_name("m.plan.json"),
         lambda path: _trusted(path.with_suffix("")), text=True, checked=True),
    Kind("engine plan", _engine, _trusted, checked=True),
    Kind("machine code", _machine_code, _loaded, checked=True),
    Kind("own network", _own_network, _carded),
    Kind("zones", _zones, lambda path: Reading(None, _digest(read_zones(path))), text=True),
    Kind("COCO annotations", _annotations, _drawn, text=True),
    Kind("source URIs", _written("uris.txt", _joined(_URIS)), _opened, text=True),
    Kind("options of run", _written("options.txt", _joined(_OPTIONS)), _parsed, text=True),
)  # fmt: skip
