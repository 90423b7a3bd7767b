"""Where tracks have been lately: the tails that pictures draw."""

from __future__ import annotations

from collections import deque
from itertools import islice

from glint.runtime.pipeline.pipeline import Result

Points = tuple[tuple[float, float], ...]


class Tails:
    """Remembers the last positions of every track that is alive.

    Args:
        length: positions per track.
        patience: frames without its track after which a tail is forgotten.
        most: tails at once; those seen longest ago go first.
    """

    def __init__(self, length: int = 32, patience: int = 15, most: int = 200) -> None:
        self._length, self._patience, self._most = length, patience, most
        self._tails: dict[int, deque[tuple[float, float]]] = {}
        self._seen: dict[int, int] = {}
        self._count = 0

    def add(self, result: Result) -> None:
        """Take the positions of one result; nothing happens if its targets are not tracked.

        Where the result has its ``tracks`` they are theirs, predicted ones too, else those of its targets.
        """
        self._count += 1
        if result.track is not None:
            at = result.targets if result.tracks is None else result.tracks
            numbers = result.track if result.tracks is None else result.tracks.number
            for track, x, y in zip(numbers.tolist(), at.x.tolist(), at.y.tolist()):
                if track < 0:  # not confirmed yet
                    continue
                self._tails.setdefault(track, deque(maxlen=self._length)).append((x, y))
                self._seen.pop(track, None)  # the order of this table is that of the last sight
                self._seen[track] = self._count
        old = [t for t, last in self._seen.items() if self._count - last > self._patience]
        old += islice(self._seen, max(0, len(self._seen) - self._most))
        for track in old:
            self._tails.pop(track, None)
            self._seen.pop(track, None)

    def points(self) -> dict[int, Points]:
        """Positions (x, y) by track, oldest first; tails of one point have nothing to show."""
        return {track: tuple(tail) for track, tail in self._tails.items() if len(tail) > 1}
