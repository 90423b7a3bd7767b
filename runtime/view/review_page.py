"""The live view's page on a finished run: any frame, in any order, with what was found and what is true."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from glint import __version__
from glint.errors import GlintError
from glint.runtime.view.finished_run import FinishedRun, Line
from glint.runtime.view.live_frame import MOST_TARGETS, display_range, picture, values_around
from glint.runtime.view.live_view import page_answer
from glint.runtime.view.web_server import Answer, Route, WebServer, json_answer
from glint.types import Frame

_PATCH_PX = 11
_NEAR_PX = 20.0  # within which a spot is the one that was pointed at


class ReviewPage:
    """Serves a finished run from the moment it is made until it is closed; a context manager.

    Args:
        run: what is shown.
        host, port: where to listen; port 0 takes any free one (see ``url``).

    Raises:
        InputError: if ``host`` is not known.
        OutputError: if the port cannot be had.
    """

    def __init__(self, run: FinishedRun, host: str = "127.0.0.1", port: int = 0) -> None:
        self.run, self._lock = run, threading.Lock()
        page, index = page_answer(review=True), json_answer(run.index())
        routes: dict[str, Route] = {"/": lambda query: page, "/review": lambda query: index, "/live": self._shown}
        self._server = WebServer(host, port, routes, what="the review")
        self.url = self._server.url

    def __enter__(self) -> ReviewPage:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up on everybody; may be called twice."""
        self._server.close()

    def _shown(self, query: Mapping[str, str]) -> Answer:
        """The frame ``at`` a row of the index and the cluster at ``x``, ``y``: a document and a picture."""
        try:
            row = int(query["at"])
            at = (float(query["x"]), float(query["y"])) if "x" in query else None
            line = self.run.lines[row] if row >= 0 else None
        except (KeyError, ValueError, IndexError):
            line = None
        if line is None:
            return Answer(b"expected at=ROW, and x=PIXELS&y=PIXELS or neither\n", "text/plain", 400)
        try:
            with self._lock:
                frame = self.run.frame(row)
        except GlintError as error:
            return Answer(f"{error}\n".encode(), "text/plain", 404)
        low, high = display_range(frame.data)
        image, factor = picture(frame.data, low, high)
        spots = spots_of(line)
        facts: dict[str, Any] = {
            "version": __version__, "state": "review", "source": self.run.source.uri, "engine": "",
            "last_gaps": [], "device": None, "dropped": {}, "queued": {},
            "shown": {
                "number": row + 1, "frame": line["frame"], "name": line.get("name", ""), "height": frame.shape[0],
                "width": frame.shape[1], "factor": factor, "range": [round(low, 1), round(high, 1)], "patch": _PATCH_PX,
                "blobs": [[round(x) - _PATCH_PX // 2, round(y) - _PATCH_PX // 2, n] for x, y, n in spots],
                "targets": sorted(line["targets"], key=lambda t: -(t["radiance"] or 0.0))[:MOST_TARGETS],
                "found": len(line["targets"]), "tails": {}, "tracks": [], "latency_ms": line["latency_ms"],
                "truth": self.run.truth(row),
            },
            "cluster": _cluster(frame, spots, at),
        }  # fmt: skip
        text = json.dumps(facts, allow_nan=False).encode()
        return Answer(struct.pack(">I", len(text)) + text + image, "application/octet-stream")


def spots_of(line: Line) -> list[tuple[float, float, int]]:
    """Centre of each spot of a line, and how many targets it holds; of lines without blobs, those that hold some."""
    count: dict[int, int] = {}
    for target in line["targets"]:
        count[target["blob"]] = count.get(target["blob"], 0) + 1
    if "blobs" in line:
        return [(blob["x"], blob["y"], count.get(i, 0)) for i, blob in enumerate(line["blobs"])]
    places = {b: [(t["x"], t["y"]) for t in line["targets"] if t["blob"] == b] for b in count}
    means = [np.mean(places[b], axis=0) if b in places else (-99.0, -99.0) for b in range(max(count, default=-1) + 1)]
    return [(float(x), float(y), count.get(b, 0)) for b, (x, y) in enumerate(means)]


def _cluster(
    frame: Frame, spots: list[tuple[float, float, int]], at: tuple[float, float] | None
) -> dict[str, Any] | None:
    """The spot that was pointed at, or the one with most targets, magnified; its patch has its own median taken off."""
    distance = [np.hypot(x - at[0], y - at[1]) if at is not None else -float(n) for x, y, n in spots]
    blob = int(np.argmin(distance)) if distance else None
    if blob is not None and at is not None and distance[blob] > _NEAR_PX:
        blob = None
    if blob is None and at is None:
        return None
    x, y = (spots[blob][0], spots[blob][1]) if blob is not None else at or (0.0, 0.0)
    crop = values_around(frame.data, x, y)
    patch = None
    if blob is not None:
        left, top = round(x) - _PATCH_PX // 2, round(y) - _PATCH_PX // 2
        padded = np.pad(frame.data.astype(np.float64), _PATCH_PX, mode="edge")
        rows = slice(np.clip(top, -_PATCH_PX, frame.shape[0]) + _PATCH_PX, None)
        columns = slice(np.clip(left, -_PATCH_PX, frame.shape[1]) + _PATCH_PX, None)
        window = padded[rows, columns][:_PATCH_PX, :_PATCH_PX]
        patch = {"left": left, "top": top, "rows": (window - np.median(window)).round(1).tolist()}
    return {"x": round(x, 2), "y": round(y, 2), "blob": blob, "crop": crop, "patch": patch}
