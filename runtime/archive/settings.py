"""What an archive is made with: plain values that travel to workers, and what names its parts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from glint import __version__
from glint.cards import load_card
from glint.choices import FALSE_TRACKS_PER_HOUR, Static
from glint.files import sha256
from glint.runtime.archive.chunks import digest
from glint.runtime.pipeline.follow import CANDIDATES_ABOVE
from glint.runtime.pipeline.settings import Settings
from glint.runtime.sources.adjusted import Scale
from glint.runtime.unmixing.optics_choice import chosen_optics
from glint.runtime.unmixing.optics_state import OpticsState

_FORMAT = 2  # of the parts; another number when their columns change


@dataclass(frozen=True)
class ArchiveSettings:
    """Settings of an archive.

    Attributes:
        pipeline: as of ``glint run``; its files must be there on every machine.
        polarity, scale: what values of frames mean.
        track: whether targets are followed.
        static, false_tracks_per_hour: of the tracks.
        frames: of a chunk.
    """

    pipeline: Settings = field(default_factory=Settings)
    polarity: str | None = None
    scale: Scale | str | None = None
    track: bool = False
    static: Static = "report"
    false_tracks_per_hour: float = FALSE_TRACKS_PER_HOUR
    frames: int = 1000

    @property
    def candidates_above(self) -> float | None:
        """Of the pipelines."""
        return CANDIDATES_ABOVE if self.track else None

    @property
    def learns(self) -> bool:
        """Whether a recording's first chunk tells something that the others need: its optics, or its scale."""
        spec = load_card(self.pipeline.unmixer)[0].unmixer
        known = spec is not None and chosen_optics(self.pipeline.psf, spec) is not None
        return not known or self.scale == "auto" or self.polarity == "black"

    def absolute(self) -> ArchiveSettings:
        """The same with absolute paths: workers may be in other folders."""
        given = {k: v for k, v in vars(self.pipeline).items() if isinstance(v, str | Path) and Path(v).is_file()}
        found: dict[str, Any] = {k: Path(v).absolute() for k, v in given.items()}
        return replace(self, pipeline=replace(self.pipeline, **found))

    def with_threads(self, threads: int) -> ArchiveSettings:
        """The same for workers of so many threads."""
        return replace(self, pipeline=replace(self.pipeline, threads=threads))

    def check(self) -> None:
        """Look at the models and files that are named, before anything is started.

        Raises:
            GlintError: one of its subclasses, for one that is not there or not what it should be.
        """
        self.as_dict()
        spec = load_card(self.pipeline.unmixer)[0].unmixer
        if spec is not None:
            chosen_optics(self.pipeline.psf, spec)
        self.pipeline.conditioner()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: what decides the numbers, with hashes of the files."""
        pipeline = {k: v for k, v in asdict(self.pipeline).items() if k != "threads"}
        cards = {k: load_card(pipeline.pop(k))[0] for k in ("detector", "unmixer")}
        pipeline |= {k: _plain(pipeline[k]) for k in ("psf", "dead_pixels", "dark", "flat")}
        models = {k: {"name": card.name, "sha256": card.sha256} for k, card in cards.items()}
        return {
            "glint": __version__, "format": _FORMAT, "pipeline": pipeline, "models": models, "polarity": self.polarity,
            "scale": self.scale, "candidates": self.track,
        }  # fmt: skip

    def digest(self) -> str:
        """Of what decides the parts of frames and targets."""
        return digest(self.as_dict())

    def tracks_digest(self) -> str:
        """Of what decides the parts of tracks beside the parts that they are made of."""
        return digest([__version__, self.static, self.false_tracks_per_hour])


def _plain(value: Any) -> Any:
    """A setting as what it means: a file by the hash of its content, the command line's ``0.5`` as the number."""
    if not isinstance(value, str | Path):
        return value
    if Path(value).is_file():
        return f"{Path(value).name}, sha256 {sha256(Path(value))}"
    try:
        return float(str(value))
    except ValueError:
        return str(value)


@dataclass(frozen=True)
class Start:
    """What the first chunk of a recording told.

    Attributes:
        optics: learned; None: given, or not learned.
        scale: values that become 0 and 16383 DN, or None.
        turn_at: value at which dark targets are turned, or None.
    """

    optics: OpticsState | None = None
    scale: tuple[float, float] | None = None
    turn_at: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, unrounded."""
        return asdict(self)

    @staticmethod
    def of(value: dict[str, Any] | None) -> Start:
        """What :meth:`as_dict` made."""
        value = value or {}
        optics, scale = value.get("optics"), value.get("scale")
        return Start(
            None if optics is None else OpticsState(**optics),
            None if scale is None else (float(scale[0]), float(scale[1])),
            value.get("turn_at"),
        )
