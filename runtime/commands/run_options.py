"""The options of ``glint run``, declared once: arguments of the command, keywords of the function, what sinks ask for.

An option is a field with its help, the words that argparse wants, and the title under which help shows it. The field
of an output also names the module whose ``open_sink`` opens it: a new output is that file, and its field here.
"""

# ruff: noqa: RUF009  (a function makes the fields)

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args

from glint.choices import DEFAULT_DETECTOR, DEFAULT_UNMIXER, FALSE_TRACKS_PER_HOUR, Drop, Polarity, Static
from glint.cli import frame_size, positive_float, positive_int
from glint.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from glint.runtime.pipeline.settings import Roi, Settings
    from glint.runtime.sources.adjusted import Scale
    from glint.runtime.unmixing.optics_choice import PsfChoice
    from glint.runtime.unmixing.refine import RadiancePrior
    from glint.types import FrameSize

T = TypeVar("T")
_FILE: dict[str, Any] = {"type": Path, "metavar": "FILE"}
_FOLDER: dict[str, Any] = {"type": Path, "metavar": "FOLDER"}
_ADDRESS = {"metavar": "HOST:PORT"}
_RECORD = "recording of the frames, bit by bit"
TITLES = ("output", _RECORD, "publishing", "stream", "tracks", "sensor", "models")
"""Of the groups of arguments, in the order of ``glint run --help``."""


def _option(help: str, under: str = "", opens: str = "", *, default: Any = None, **argument: Any) -> Any:
    """A field; one without a title has an argument that commands share (see ``options``)."""
    return field(default=default, metadata={"help": help, "under": under, "opens": opens, "argument": argument})


def _switch(help: str, under: str) -> Any:
    return _option(help, under, default=False, action="store_true")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"expected 0 to 3600 seconds, got {text}")
    return value


def _roi(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"expected X,Y,W,H, got {text!r}")
    return numbers


def _described(cls: type[T]) -> type[T]:
    """The class, whose docstring tells the help of its fields."""
    lines = [f"    {f.name}: {f.metadata['help']}." for f in fields(cls)]  # type: ignore[arg-type]
    cls.__doc__ = "\n".join([cls.__doc__ or "", "", "Attributes:", *lines])
    return cls


class Group:
    """Options that belong together; names of files may be given as text."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.metadata["argument"].get("type") is Path and value is not None:
                object.__setattr__(self, f.name, Path(value))


@_described
@dataclass(frozen=True)
class Outputs(Group):
    """What to write, to publish and to serve."""

    out: str | Path | None = _option(
        "JSON lines, one object per frame; - for standard output", "output", "sinks.json_lines", metavar="FILE"
    )
    csv: Path | None = _option(
        "a table with one row per target; - for standard output", "output", "sinks.csv_table", **_FILE
    )
    parquet: Path | None = _option("the same table for data frames", "output", "sinks.parquet_table", **_FILE)
    mcap: Path | None = _option("targets as ROS 2 messages, Detection2DArray", "output", "sinks.mcap_file", **_FILE)
    coco: Path | None = _option("spots as COCO annotations", "output", "sinks.coco", **_FILE)
    masks: Path | None = _option("a mask of the spots of each frame, PNG", "output", "sinks.masks", **_FOLDER)
    overlay: Path | None = _option("a picture of each frame with its targets", "output", "sinks.overlay", **_FOLDER)
    video: Path | None = _option("the same as a film", "output", "sinks.overlay_video", **_FILE)
    tracks: Path | None = _option(
        "confirmed tracks as JSON lines; .csv: a table, .txt: MOT; implies --track",
        "tracks",
        "sinks.track_files",
        **_FILE,
    )
    overwrite: bool = _switch("replace existing outputs", "output")
    view: str | None = _option("serve the live page, e.g. 127.0.0.1:8080", "publishing", "view.live_view", **_ADDRESS)
    hold: bool = _switch("keep the live page open after the end, until Ctrl-C", "publishing")
    metrics: str | None = _option(
        "serve /metrics and /healthz alone", "publishing", "view.metrics_endpoint", **_ADDRESS
    )
    mqtt: str | None = _option(
        "publish results to a broker: mqtt://HOST/TOPIC", "publishing", "sinks.publishing.mqtt", metavar="URL"
    )
    udp: str | None = _option("send each JSON line as a datagram", "publishing", "sinks.publishing.udp", **_ADDRESS)
    video_udp: str | None = _option(
        "send the film as it is made, MPEG-TS for any player",
        "publishing",
        "sinks.publishing.overlay_stream",
        **_ADDRESS,
    )


@_described
@dataclass(frozen=True)
class Recording(Group):
    """The frames themselves, kept bit by bit."""

    record: Path | None = _option("where to; replay:FOLDER plays it", _RECORD, "sinks.recorder", **_FOLDER)
    record_events: bool = _switch("only what is near frames with targets", _RECORD)
    record_before: float = _option("before them (default: 3)", _RECORD, default=3.0, type=_seconds, metavar="S")
    record_after: float = _option("after them (default: 5)", _RECORD, default=5.0, type=_seconds, metavar="S")
    record_max_gb: float | None = _option("the oldest files make room", _RECORD, type=positive_float, metavar="GB")


@_described
@dataclass(frozen=True)
class Delivery(Group):
    """What happens between frames."""

    drop: Drop | None = _option(
        "frames that come too fast: keep the latest only, none is dropped (the source waits), or the oldest "
        "of eight goes (default: latest for live sources, none for others)", "stream", choices=get_args(Drop),
    )  # fmt: skip
    deadline_ms: float | None = _option(
        "age at which a frame is late: dropped before the detector, else not refined, at least marked",
        "stream", type=positive_float, metavar="MS",
    )  # fmt: skip
    wait_source: float | None = _option(
        "wait so long for a camera or stream that is not there yet (default: it must be there)",
        "stream", type=positive_float, metavar="SECONDS",
    )  # fmt: skip
    warm_up: bool | None = _option(
        "run the first frame until the latency settles, uncounted (default: for live sources)",
        "stream", action=argparse.BooleanOptionalAction,
    )  # fmt: skip
    track: bool = _switch("follow targets from frame to frame", "tracks")
    static: Static = _option(
        "tracks of what does not move: flag them, or hide them until they move (default: %(default)s)",
        "tracks", default="report", choices=get_args(Static),
    )  # fmt: skip
    false_tracks_per_hour: float = _option(
        "that clutter may confirm (default: %(default)g)",
        "tracks", default=FALSE_TRACKS_PER_HOUR, type=positive_float, metavar="N",
    )  # fmt: skip
    zones: Path | None = _option(
        "polygons (JSON) of which it is told which tracks enter and leave them; implies --track", "tracks", **_FILE
    )
    moving: bool = _option(
        "take spots that the detector doubts for targets where they move through the scene (default: yes)",
        "tracks", default=True, action=argparse.BooleanOptionalAction,
    )  # fmt: skip
    faint: bool = _switch("find points that no single frame shows; implies --track", "tracks")
    unmix_frames: int = _option(
        "last frames in which a followed cluster is taken apart together, up to 30; more than 1 implies --track "
        "(default: %(default)s)", "tracks", default=1, type=positive_int, metavar="N",
    )  # fmt: skip


@_described
@dataclass(frozen=True)
class Values(Group):
    """What the values of a source's frames mean; they go before those that its URI tells."""

    polarity: Polarity | None = _option(
        "targets are bright, dark, or either, which takes the networks twice as long (default: white)",
        "sensor", choices=get_args(Polarity),
    )  # fmt: skip
    scale: Scale | str | None = _option(
        "values that become 0 and 16383 DN, e.g. 0,1 for normalised floats; auto: all of the first frame",
        "sensor", metavar="auto|MIN,MAX",
    )  # fmt: skip


@_described
@dataclass(frozen=True)
class Sensor(Group):
    """What the sensor's frames need."""

    roi: Roi | None = _option("look for targets in this part of the frame", "sensor", type=_roi, metavar="X,Y,W,H")
    tile: FrameSize | None = _option(
        "give larger frames to the detector in tiles", "sensor", type=frame_size, metavar="WxH"
    )
    dead_pixels: Path | None = _option(
        "map of dead pixels (not 0), .npy or image; auto: learned from the first frames", "sensor",
        type=Path, metavar="FILE|auto",
    )  # fmt: skip
    dark: Path | None = _option("dark frame, taken off: .npy or image", "sensor", **_FILE)
    flat: Path | None = _option("flat frame, with --dark for two-point correction", "sensor", **_FILE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tile is not None:
            from glint.types import FrameSize  # with NumPy, which help does not need

            object.__setattr__(self, "tile", FrameSize(*self.tile))

    @property
    def corrections(self) -> dict[str, Path | None]:
        """Files of corrections, by what they are."""
        return {"dead_pixels": self.dead_pixels, "dark": self.dark, "flat": self.flat}


@_described
@dataclass(frozen=True)
class Models(Group):
    """The networks, what runs them, and what becomes of their targets."""

    detector: str | Path = _option("default: %(default)s", "models", default=DEFAULT_DETECTOR, metavar="NAME|CARD")
    unmixer: str | Path = _option("default: %(default)s", "models", default=DEFAULT_UNMIXER, metavar="NAME|CARD")
    engine: str = _option("what runs the networks", default="auto")
    precision: str = _option("of the released models; auto: fp16 with TensorRT, else fp32", default="auto")
    threads: int | None = _option("CPU threads; None: all cores")
    refine: bool = _option("fit the optical model to what the network found", default=True)
    radiance_prior: RadiancePrior = _option(
        "mean and standard deviation of a target's radiance, DN; None: unknown; card: what the unmixer's card says",
        default="card",
    )
    psf: PsfChoice = _option("PSF: a file that glint psf wrote, its sigma in pixels, or auto: learned from the spots")


@dataclass(frozen=True)
class RunOptions:
    """All options of a run."""

    outputs: Outputs = Outputs()
    recording: Recording = Recording()
    delivery: Delivery = Delivery()
    values: Values = Values()
    sensor: Sensor = Sensor()
    models: Models = Models()

    @staticmethod
    def of(*groups: Group, **options: Any) -> RunOptions:
        """From some groups, and options by their names.

        Raises:
            InputError: if there is no such option or group, or an option is given twice.
        """
        values: dict[str, Any] = {}
        for group in groups:
            if not isinstance(group, Group):
                raise InputError(f"run: expected groups of options, got {type(group).__name__}")
            own = {f.name: getattr(group, f.name) for f in fields(group)}
            _refuse_twice(values, own)
            values |= own
        _refuse_twice(values, options)
        for name in options.keys() - OPTIONS.keys():
            raise InputError(f"run: no option {name!r}", hint=did_you_mean(name, OPTIONS).strip() or None)
        values |= options
        kinds = ((where, kind, [f.name for f in fields(kind)]) for where, kind in _KINDS.items())
        return RunOptions(
            **{where: kind(**{name: values[name] for name in own if name in values}) for where, kind, own in kinds}
        )

    def settings(self) -> Settings:
        """What the pipeline of the run is opened with."""
        from glint.runtime.pipeline.settings import Settings  # with all that runs

        return Settings(**vars(self.models), **vars(self.sensor))

    def by_name(self) -> dict[str, Any]:
        """Every option by its name."""
        return {f.name: getattr(getattr(self, where), f.name) for where, kind in _KINDS.items() for f in fields(kind)}


def _refuse_twice(given: Container[str], more: Iterable[str]) -> None:
    for name in more:
        if name in given:
            raise InputError(f"run: {name} is given twice", hint="give it once")


_KINDS: dict[str, Any] = {f.name: type(f.default) for f in fields(RunOptions)}
OPTIONS = {f.name: f for kind in _KINDS.values() for f in fields(kind)}
"""The field of every option, by its name."""

ARCHIVE_OPTIONS = (
    "track", "static", "false_tracks_per_hour", *(f.name for kind in (Values, Sensor, Models) for f in fields(kind))
)  # fmt: skip
"""Names of those that ``glint archive`` takes."""


def with_options(function: Callable[..., T]) -> Callable[..., T]:
    """The function, whose signature tells the options that its ``**options`` are."""
    own = inspect.signature(function)
    kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for name, f in OPTIONS.items()
    ]
    function.__signature__ = own.replace(parameters=[*kept, *keywords])  # type: ignore[attr-defined]
    return function


def add_run_arguments(parser: argparse.ArgumentParser, names: Container[str] = OPTIONS) -> None:
    """An argument for every option that has a title, or for some of them; with outputs also ``--json``."""
    for title in TITLES:
        wanted = [name for name, f in OPTIONS.items() if f.metadata["under"] == title and name in names]
        if not wanted:
            continue
        group = parser.add_argument_group(title)
        for name in wanted:
            f, flag = OPTIONS[name], f"--{name.replace('_', '-')}"
            group.add_argument(flag, default=f.default, help=f.metadata["help"], **f.metadata["argument"])
        if title == "output":
            group.add_argument("--json", action="store_true", help="print the manifest as JSON on standard output")
