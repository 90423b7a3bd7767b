"""A simulated scene as a source of frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from glint.runtime.sources.base import Source
from glint.runtime.sources.uri import parameters, positive
from glint.runtime.sources.waiting import Closed, Pacer
from glint.simulation.scenes import SceneConfig, parse_synthetic, read_background, simulate_scene
from glint.types import Frame, FrameSize


class SyntheticSource(Source):
    """A simulated scene with known truth (see ``glint.simulation.scenes``).

    With a ``rate`` it is live: that many frames per second at most, and the time of each is that at
    which it comes.
    """

    def __init__(self, uri: str, config: SceneConfig, rate: float | None = None) -> None:
        super().__init__(uri)
        self.config, self.rate = config, rate
        self.live = rate is not None
        self.total, self.size = config.frames, FrameSize(config.width, config.height)
        self.background = read_background(Path(config.background), config.bits) if config.background else None
        self._pacer = Pacer()

    def __iter__(self) -> Iterator[Frame]:
        for frame, truth in simulate_scene(self.config, self.background):
            if self.rate is None:
                yield replace(frame, truth=truth)
                continue
            try:
                now = self._pacer.wait(round(1e9 * frame.index / self.rate))
            except Closed:
                return
            yield replace(frame, truth=truth, t_ns=now)

    def close(self) -> None:
        self._pacer.close()


def open_synthetic(uri: str) -> SyntheticSource:
    """The scene that a ``synthetic://`` URI describes.

    Raises:
        InputError: if a parameter is unknown or malformed.
    """
    before, mark, query = uri.partition("?")
    words = query.split("&")
    rates = [word for word in words if word.startswith("rate=")]
    scene = parse_synthetic(before + mark + "&".join(word for word in words if word not in rates))
    return SyntheticSource(uri, scene, parameters(uri, "&".join(rates), {"rate": positive}).get("rate"))
