"""What a pipeline is opened with: plain values, which travel to other processes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER
from glint.errors import InputError
from glint.runtime.pipeline.dead_pixels import LearningConditioner
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.sensor_correction import Conditioner
from glint.runtime.unmixing.optics_choice import PsfChoice
from glint.runtime.unmixing.refine import RadiancePrior
from glint.runtime.unmixing.unmixer import Unmixer
from glint.types import FrameSize

AUTO = "auto"
Roi = tuple[int, int, int, int]
Fields = ParamSpec("Fields")
First = TypeVar("First")
Options = TypeVar("Options")
Answer = TypeVar("Answer")


def takes_fields_of(
    options: Callable[Fields, Options],
) -> Callable[[Callable[[First, Options], Answer]], Callable[Concatenate[First, Fields], Answer]]:
    """A function whose last argument is a data class takes its fields instead, by name.

    They are declared in the class alone; help, editors and type checkers see them in the function.
    """

    def decorate(function: Callable[[First, Options], Answer]) -> Callable[Concatenate[First, Fields], Answer]:
        @functools.wraps(function)
        def call(first: First, /, *values: Fields.args, **named: Fields.kwargs) -> Answer:
            return function(first, options(*values, **named))

        own = inspect.signature(function)
        kept, taken = list(own.parameters.values())[:-1], inspect.signature(options).parameters.values()
        vars(call).update(__signature__=own.replace(parameters=[*kept, *taken]), takes=options)
        return call

    return decorate


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a pipeline, with the names and defaults of ``glint run``.

    Attributes:
        detector, unmixer: names in the zoo or paths of model cards.
        engine: ``auto``, ``tensorrt`` or ``onnxruntime``.
        precision: ``fp32``, ``fp16``, ``int8``, or ``auto``: released models in fp16 with TensorRT, else in fp32.
        threads: CPU threads of the networks; None: all cores.
        refine: fit the optical model to what the network found.
        radiance_prior: mean and standard deviation of a target's radiance, DN; None if it is unknown; "card": what the
            unmixer's card says.
        psf: measured PSF, its file, its sigma in pixels, or "auto": learned from the spots; None: auto, but the card's
            own with an unmixer that is made for one protocol.
        roi: x, y, width, height of the part of a frame in which targets are looked for, pixels.
        tile: width and height above which a frame is given to the detector in tiles, pixels.
        dead_pixels, dark, flat: files of the sensor's corrections; dead pixels "auto" are learned from the frames.
    """

    detector: str | Path = DEFAULT_DETECTOR
    unmixer: str | Path = DEFAULT_UNMIXER
    engine: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    refine: bool = True
    radiance_prior: RadiancePrior = "card"
    psf: PsfChoice = None
    roi: Roi | None = None
    tile: tuple[int, int] | None = None
    dead_pixels: str | Path | None = None
    dark: str | Path | None = None
    flat: str | Path | None = None

    def __post_init__(self) -> None:
        prior: Any = self.radiance_prior
        if isinstance(prior, str) != (prior == "card") or not (prior is None or len(prior) in (2, 4)):
            raise InputError(f"radiance_prior: expected (mean, deviation) in DN, None or 'card', got {prior!r}")
        if self.tile is not None and (len(self.tile) != 2 or min(self.tile) < 1):
            raise InputError(f"tile: expected width and height of at least 1 pixel, got {self.tile}")

    def open_models(self) -> tuple[Detector, Unmixer]:
        """The two models; if the second one fails, the first is closed.

        Raises:
            GlintError: one of its subclasses, for a bad model or engine.
        """
        common: dict[str, Any] = {"engine": self.engine, "precision": self.precision, "threads": self.threads}
        tile = None if self.tile is None else FrameSize(*self.tile)
        detector = Detector.open(self.detector, tile=tile, **common)
        try:
            return detector, Unmixer.open(self.unmixer, **common)
        except BaseException:
            detector.engine.close()
            raise

    def conditioner(self) -> Conditioner | None:
        """The sensor's corrections, or None if there are none.

        Raises:
            GlintError: one of its subclasses, for a bad file.
        """
        learned = str(self.dead_pixels) == AUTO
        paths = (None if learned else self.dead_pixels, self.dark, self.flat)
        fixed = Conditioner.load(*(None if path is None else Path(path) for path in paths))
        if not learned:
            return fixed
        return LearningConditioner(*(() if fixed is None else fixed.files))
