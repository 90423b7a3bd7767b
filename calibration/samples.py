"""Calibration sets: what a network is shown to learn the ranges of its tensors.

Simulated patches or frames, and real ones if there are any, of which :mod:`glint.calibration.sample_choice`
takes an even share. They pass through the runtime's own code up to the network's input. A set is kept
as a list of names and hashes with its seed, from which it can be made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.calibration.sample_choice import choose, frame_figures, patch_figures
from glint.cards import ModelCard
from glint.cli import talk
from glint.config import from_dict
from glint.data.csist import read_csist
from glint.data.datasets import image_files, images_of, own_folder, split_files
from glint.errors import InputError
from glint.files import load_npy, read_json
from glint.images import read_image
from glint.progress import Progress
from glint.runtime.engines.base import Arrays, EngineProxy
from glint.runtime.pipeline.detector import Detector
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.patches import SENSOR_TRAINING, PatchConfig, Patches, simulate_patches
from glint.simulation.scenes import SceneConfig, simulate_scene
from glint.types import Frame

SAMPLES_BY_TASK = {"unmix": 512, "detect": 24}
FEW_SAMPLES_BY_TASK = {"unmix": 64, "detect": 8}
LIST_FORMAT = 1
_CANDIDATES_PER_SAMPLE = 8  # simulated candidates for each one that is taken
_FRAME_PX = 256  # px per side of a simulated frame
_LARGEST_PX = 512  # px per side of what is taken of a real one
_BRIGHTEST_INPUT_RANGE = (0.02, 50.0)  # of the network's input: outside, the data are in other units than the model's


@dataclass(frozen=True, eq=False)
class Samples:
    """A calibration set.

    Attributes:
        model: that it was made for.
        seed: of the simulation.
        bits: of the camera, None if any.
        names, hashes: of every sample; the hash is over its pixels.
        batches: what the network is given, ``float32 [n, ...]`` each.
    """

    model: str
    seed: int
    bits: int | None
    names: tuple[str, ...]
    hashes: tuple[str, ...]
    batches: tuple[NDArray[np.float32], ...]

    def listed(self) -> dict[str, Any]:
        """As JSON: enough to make the same set again and to see that it is the same."""
        head = {"format": LIST_FORMAT, "model": self.model, "seed": self.seed, "bits": self.bits}
        return {**head, "rule": "even shares of all cells", "samples": dict(zip(self.names, self.hashes))}

    def digest(self) -> str:
        """Hash of all names and hashes."""
        return hashlib.sha256("".join(f"{n} {h}\n" for n, h in zip(self.names, self.hashes)).encode()).hexdigest()

    def split(self) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        """Three quarters to take ranges from, and a quarter to choose among methods by."""
        if len(self.batches) == 1:
            return [self.batches[0][np.arange(len(self.batches[0])) % 4 > 0]], [self.batches[0][::4]]
        return [b for i, b in enumerate(self.batches) if i % 4], list(self.batches[::4])


@dataclass(frozen=True, eq=False)
class _Pool:
    """Candidates: their names, pixels, levels of saturation and figures."""

    names: list[str]
    images: Sequence[NDArray[Any]]
    full_scale: NDArray[np.float64]
    figures: NDArray[np.float64]


def make_samples(
    card: ModelCard,
    *,
    number: int | None = None,
    data: Path | None = None,
    split: str = "train",
    bits: int | None = None,
    seed: int = 1,
) -> Samples:
    """Choose a calibration set.

    Args:
        card: of the network.
        number: of samples (default: 512 patches or 24 frames).
        data: real data beside the simulated ones, half of the set: for a detector a folder of images, or
            a SIRST-style one, of which the images of ``split`` are taken; for an unmixer an ``.npy`` array
            ``[N, n, n]`` or a CSIST-100K folder.
        split: of a SIRST-style folder.
        bits: of the camera that the model is for: simulated frames have as many, and real ones must.
        seed: of the simulation.

    Raises:
        InputError: if the data cannot calibrate: one sample, constants, NaN, another size or bit depth.
        SourceError: if they cannot be read.
    """
    number = number or SAMPLES_BY_TASK[card.task]
    if number < 2:
        raise InputError("one sample says nothing about the range of a tensor", hint="--samples 32 or more")
    unmixes = card.task == "unmix"
    real = None if data is None else _real_patches(card, data) if unmixes else _real_frames(data, split)
    if real is not None:
        check_images(real.images, real.names, bits=bits)
    taken = []
    simulated = _simulated_patches(card, number, seed) if unmixes else _simulated_frames(number, seed, bits)
    for pool, share in ((real, number // 2), (simulated, number if real is None else number - number // 2)):
        if pool is not None:
            rows = choose(pool.figures, share)
            names, images = ([getattr(pool, n)[i] for i in rows] for n in ("names", "images"))
            taken.append((names, images, pool.full_scale[rows]))
    names = [name for part in taken for name in part[0]]
    images = [image for part in taken for image in part[1]]
    if len(names) < FEW_SAMPLES_BY_TASK[card.task]:
        talk(f"warning: a calibration set of {len(names)} samples: ranges will be rough")
    hashes = tuple(hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:16] for image in images)
    if len(set(hashes)) == 1:
        raise InputError(
            f"the {len(names)} samples of the calibration set are all the same",
            hint="give --data with frames that differ, or another --seed",
        )
    batches = network_inputs(card, images, np.concatenate([part[2] for part in taken]))
    _check_level(card, batches)
    return Samples(card.name, seed, bits, tuple(names), hashes, batches)


def load_samples(card: ModelCard, path: Path, *, data: Path | None = None, split: str = "train") -> Samples:
    """Make the set of a list (:meth:`Samples.listed`) again.

    Raises:
        InputError: if the list is malformed, of another model, or its samples are no longer the same.
    """
    stored = read_json(path, what="calibration set", kind=dict)
    try:
        head = (stored["format"], stored["model"], int(stored["seed"]), stored["bits"])
        listed = dict(stored["samples"])
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"calibration set {path}: expected format, model, seed, bits and samples") from error
    if head[:2] != (LIST_FORMAT, card.name):
        raise InputError(
            f"calibration set {path} is format {head[0]} for {head[1]}, not {LIST_FORMAT} for {card.name}",
            hint="make it again with this model",
        )
    samples = make_samples(card, number=len(listed), data=data, split=split, bits=head[3], seed=head[2])
    made = dict(zip(samples.names, samples.hashes))
    if made != listed:
        other = next(name for name in (*listed, *made) if listed.get(name) != made.get(name))
        raise InputError(
            f"calibration set {path}: the samples differ from the listed ones, the first is {other}",
            hint="give the data that it was made with (--data), or make a new set",
        )
    return samples


def check_images(images: Sequence[NDArray[Any]], names: Sequence[str], *, bits: int | None = None) -> None:
    """Refuse pixels that cannot calibrate a network.

    Args:
        images: ``[H, W]`` each.
        names: of them, for messages.
        bits: that they should have; None for any.

    Raises:
        InputError: it says how many samples are bad, which is the first, and why.
    """
    if len(images) < 2:
        raise InputError(f"{len(images)} sample says nothing about the range of a tensor", hint="give at least 32")

    def refuse(bad: list[int], what: str, hint: str) -> None:
        if bad:
            raise InputError(f"{len(bad)} of {len(images)} samples {what}, the first is {names[bad[0]]}", hint=hint)

    refuse([i for i, image in enumerate(images) if image.dtype.kind not in "uif"], "are no numbers", "give pixels")
    bad = [i for i, image in enumerate(images) if not np.isfinite(image.astype(np.float64)).all()]
    refuse(bad, "hold NaN or infinite values", "mend or leave them out: one NaN would become every range")
    bad = [i for i, image in enumerate(images) if not image.any()]
    refuse(bad, "are all zeros", "a network shown nothing has no ranges: give images of the camera")
    bad = [i for i, image in enumerate(images) if image.min() == image.max()]
    refuse(bad, "are constant", "a lens cap says nothing of the scenes to come: give images of the camera")
    if bits is None:
        return
    if bits > 8 and max(float(image.max()) for image in images) <= 255:
        raise InputError(
            f"8-bit data for a {bits}-bit model: no value exceeds 255",
            hint=f"their rounding is noise that the {bits}-bit camera does not have; record in full depth",
        )
    bad = [i for i, image in enumerate(images) if image.max() >= 2**bits]
    refuse(bad, f"exceed {2**bits - 1}, the largest value of {bits} bits", "give the camera's --bits")


def network_inputs(
    card: ModelCard, images: Sequence[NDArray[Any]], full_scale: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float32], ...]:
    """What the runtime would give the network, in batches: patches together, frames one by one.

    Raises:
        InputError: if patches have another size than the network's.
    """
    seen: list[NDArray[np.float32]] = []

    def find_nothing(arrays: Arrays) -> Arrays:
        (value,) = arrays.values()
        seen.append(value)
        free = (len(value), 1, *value.shape[2:])
        shapes = {spec.name: [n if n != -1 else f for n, f in zip(spec.shape, free)] for spec in card.outputs}
        return {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}

    recorder = EngineProxy(card, find_nothing)
    if card.task == "detect":
        detector = Detector(recorder, card)
        for i, image in enumerate(images):
            detector(Frame(i, 0, image))
        return tuple(seen)
    if len({image.shape for image in images}) > 1:
        raise InputError("the patches differ in size", hint="cut them to one size")
    limit = None if full_scale is None else full_scale[:, None, None]
    Unmixer(recorder, card)(np.stack(images), full_scale=limit)
    return (np.concatenate(seen),)


def _check_level(card: ModelCard, batches: Sequence[NDArray[np.float32]]) -> None:
    """A normaliser of a fixed scale shows when data are in other units; the others undo the camera's gain."""
    if card.normaliser.kind != "fixed":
        return
    typical = float(np.median(np.concatenate([b[:, 0].reshape(len(b), -1).max(axis=1) for b in batches])))
    if not _BRIGHTEST_INPUT_RANGE[0] < typical < _BRIGHTEST_INPUT_RANGE[1]:
        raise InputError(
            f"the samples are {typical:.3g} times as bright as what {card.name} was trained on "
            f"(it divides by {card.normaliser.scale:g} DN)",
            hint="bring the data to the model's DN (an 8-bit image's; 14-bit values are 64 times as large)",
        )


def _simulated_patches(card: ModelCard, number: int, seed: int) -> _Pool:
    patches = simulate_patches(scene_of(card), _CANDIDATES_PER_SAMPLE * number, np.random.default_rng(seed))
    return _Pool(
        [f"simulated/{i}" for i in range(len(patches))], list(patches.image), patches.full_scale, patch_figures(patches)
    )


def scene_of(card: ModelCard) -> PatchConfig:
    """The scene that an unmixer was trained on, as far as its card tells."""
    scene = card.training.get("data", {}).get("scene")
    config = SENSOR_TRAINING if scene is None else from_dict(PatchConfig, scene, where=f"scene of {card.name}")
    return replace(config, size=card.unmixer.patch) if card.unmixer is not None else config


def _simulated_frames(number: int, seed: int, bits: int | None) -> _Pool:
    scenes = list(draw_scenes(_CANDIDATES_PER_SAMPLE // 2 * number, seed, bits))
    images = [next(iter(simulate_scene(scene)))[0].data for scene in scenes]
    return _Pool([f"simulated/{i}" for i in range(len(images))], images, np.full(len(images), np.inf), _figures(images))


def draw_scenes(number: int, seed: int, bits: int | None) -> list[SceneConfig]:
    """Scenes of one frame, from quiet to noisy, from empty to crowded, from faint to bright."""
    rng = np.random.default_rng(seed)
    scenes = []
    for _ in range(number):
        low = float(np.exp(rng.uniform(np.log(15.0), np.log(200.0))))
        scenes.append(
            SceneConfig(
                width=_FRAME_PX, height=_FRAME_PX, frames=1,
                clusters=int(rng.integers(7)), singles=int(rng.integers(7)),
                noise=float(np.exp(rng.uniform(np.log(0.1), np.log(5.0)))), bits=bits or int(rng.choice([8, 14])),
                radiance=(low, 1.5 * low), sigma=float(rng.uniform(0.45, 1.2)), seed=int(rng.integers(1 << 31)),
            )
        )  # fmt: skip
    return scenes


def _real_patches(card: ModelCard, data: Path) -> _Pool:
    if data.suffix == ".npy":
        stack = load_npy(data, what="patches")
        size = card.unmixer.patch if card.unmixer is not None else 0
        if stack.ndim != 3 or stack.shape[1:] != (size, size):
            raise InputError(f"{data}: expected patches [N, {size}, {size}], got {list(stack.shape)}")
        unknown = np.zeros((len(stack), 1))
        full = np.full(len(stack), 255.0 if stack.dtype == np.uint8 else np.inf)
        radiance = stack.astype(np.float64).sum(axis=(1, 2), keepdims=True)[:, 0]
        nothing = np.zeros(len(stack))
        patches = Patches(
            stack, unknown, unknown, radiance, np.ones(len(stack), np.int64), nothing, nothing, nothing, full
        )
    else:
        patches = read_csist(data)
    names = [f"{data.name}/{i}" for i in range(len(patches))]
    images = list(patches.image)
    check_images(images, names)  # figures of NaN would be chosen by
    return _Pool(names, images, patches.full_scale, patch_figures(patches))


def _real_frames(data: Path, split: str) -> _Pool:
    labelled = images_of(data) is not None or own_folder(data, split) is not None
    files = split_files(data, split) if labelled else image_files(data)
    images = [read_image(path) for path in files]
    names = [f"{data.name}/{path.name}" for path in files]
    check_images(images, names)
    images = [_cut(image) for image in images]
    return _Pool(names, images, np.full(len(images), np.inf), _figures(images))


def _cut(image: NDArray[Any]) -> NDArray[Any]:
    """At most 512 x 512 pixels around the brightest point: ranges need no more, and memory is finite."""
    row, column = np.unravel_index(int(image.argmax()), image.shape)
    top, left = (
        int(np.clip(at - _LARGEST_PX // 2, 0, max(0, n - _LARGEST_PX))) for at, n in zip((row, column), image.shape)
    )
    return image[top : top + _LARGEST_PX, left : left + _LARGEST_PX]


def _figures(images: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    rows = []
    with Progress("calibration set", len(images)) as line:
        for i, image in enumerate(images):
            rows.append(frame_figures(image))
            line.update(i + 1)
    return np.stack(rows)
