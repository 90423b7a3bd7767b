"""What a camera draws into its picture is told from what it sees."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from glint.processing.marks import drawn_marks
from glint.runtime.pipeline.dead_pixels import WATCHED_FRAMES, DeadPixels
from glint.runtime.sources.adjusted import warnings_of
from glint.types import Frame


def sky(seed: int, *, bits: int, shape: tuple[int, int] = (192, 256)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    full = 2**bits - 1
    image = full * (0.35 + 0.1 * np.sin(x / 40 + seed) + 0.05 * np.cos(y / 30)) + rng.normal(0, full / 300, shape)
    return image.astype(np.uint8 if bits == 8 else np.uint16)


def drawn(image: np.ndarray, what: str, value: int, place: tuple[int, int]) -> np.ndarray:
    mask = Image.new("1", image.shape[::-1])
    draw = ImageDraw.Draw(mask)
    x, y = place
    if what == "text":
        draw.text((x, y), "AZ 123.4 EL 07", fill=1, font=ImageFont.load_default_imagefont())
    elif what == "cross":
        draw.line((x - 14, y, x + 14, y), fill=1)
        draw.line((x, y - 14, x, y + 14), fill=1)
    else:
        for left, top in ((x - 14, y - 14), (x + 6, y - 14), (x - 14, y + 6), (x + 6, y + 6)):
            draw.line((left, top, left + 8, top), fill=1)
            draw.line((left, top, left, top + 8), fill=1)
    return np.where(np.asarray(mask), value, image).astype(image.dtype)


@pytest.mark.parametrize("bits", [8, 14])
@pytest.mark.parametrize("what", ["text", "cross", "brackets"])
@pytest.mark.parametrize("place", [(20, 16), (128, 96), (100, 170)])
def test_text_and_reticles_are_marks_and_nothing_else_is(bits: int, what: str, place: tuple[int, int]) -> None:
    plain = sky(3, bits=bits)
    image = drawn(plain, what, 2**bits - 1, place)
    marks = drawn_marks(image)
    assert marks.sum() > 0.4 * (image != plain).sum()
    assert not (marks & (image == plain)).any()
    assert any("--dead-pixels auto" in word for word in warnings_of(Frame(0, 0, image)))


def test_dark_marks_are_looked_for_where_targets_may_be_dark() -> None:
    image = drawn(sky(1, bits=8), "text", 0, (40, 90))
    assert not drawn_marks(image).any()
    assert drawn_marks(image, dark_too=True).any()
    assert any("drawn" in word for word in warnings_of(Frame(0, 0, image, dark_too=True)))


@pytest.mark.parametrize("bits", [8, 14])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_targets_hot_pixels_and_clipped_clouds_are_no_marks(bits: int, sigma: float) -> None:
    full = 2**bits - 1
    image = sky(2, bits=bits).astype(float)
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:192, :256]
    for a, b in rng.uniform(10, 180, (12, 2)):
        image += 3 * full * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * sigma**2))
        image += 0.5 * full * np.exp(-((x - a - 3 * sigma) ** 2 + (y - b) ** 2) / (2 * sigma**2))
    image[rng.integers(0, 192, 40), rng.integers(0, 256, 40)] = full
    image += full * np.exp(-((x - 200) ** 2 + (y - 30) ** 2) / (2 * 25.0**2))
    image = np.clip(image, 0, full).astype(np.uint8 if bits == 8 else np.uint16)
    assert not drawn_marks(image).any()
    assert not any("drawn" in word for word in warnings_of(Frame(0, 0, image)))
    assert not drawn_marks(np.full((40, 40), 7, np.uint8)).any()


@pytest.mark.parametrize(("place", "area"), [((20, 4), "--roi 0,1"), ((20, 175), "--roi 0,0,256,17"), ((90, 90), None)])
def test_marks_at_a_side_come_with_the_region_without_them(place: tuple[int, int], area: str | None) -> None:
    image = drawn(sky(1, bits=8), "text", 255, place)
    (said,) = (word for word in warnings_of(Frame(0, 0, image)) if "drawn" in word)
    assert ("--roi" in said) == (area is not None)
    if area is not None:
        assert area in said
        x, y, width, height = map(int, said.split("--roi ")[1].split(" ")[0].split(","))
        assert not drawn_marks(image)[y : y + height, x : x + width].any()
        assert not any("drawn" in word for word in warnings_of(Frame(0, 0, image[y : y + height, x : x + width])))


@pytest.mark.parametrize("value", [0, 16383])
def test_marks_that_stay_are_learned_with_the_dead_pixels(value: int) -> None:
    watch = DeadPixels((192, 256))
    for seed in range(WATCHED_FRAMES):
        frame = sky(0, bits=14).astype(float) + np.random.default_rng(seed).normal(0, 50, (192, 256))
        y, x = np.mgrid[:192, :256]
        frame += 9000 * np.exp(-((x - 60 - 2 * seed) ** 2 + (y - 140) ** 2) / 2)  # a target that moves
        image = np.clip(frame, 0, 16383).astype(np.uint16)
        marked = drawn(drawn(image, "text", value, (20, 4)), "cross", value, (128, 96))
        watch.look(marked)
    assert watch.dead is not None
    assert watch.dead[marked != image].all()
    assert not watch.dead[130:150].any()
    assert watch.dead.sum() < 6 * (marked != image).sum()
