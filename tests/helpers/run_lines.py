"""What the tests of ``glint run`` share: the types of their fixtures, and the documented JSON lines, checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glint.types import TargetFlag

Glint = Callable[..., Any]
Tree = Callable[[], dict[str, bytes]]

FLAGS = {flag.name for flag in TargetFlag}
STAGES = ["capture", "queue", "detect", "unmix", "refine", "total"]
TARGET = [
    "x",
    "y",
    "radiance",
    "sigma_x",
    "sigma_y",
    "sigma_radiance",
    "blob",
    "score",
    "flags",
    "n",
    "count_probability",
]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_record(record: dict[str, Any], *further: str) -> None:
    """The documented JSON line of a frame."""
    keys = ["frame", "name", "t_ns", "utc", "targets", "blobs", "latency_ms"]
    assert [key for key in record if key != "events"] == keys
    assert isinstance(record["frame"], int)
    assert isinstance(record["t_ns"], int)
    assert isinstance(record["name"], str)
    latency = record["latency_ms"]
    assert list(latency) == STAGES
    assert latency["total"] == pytest.approx(sum(latency[s] for s in STAGES[:-1]), abs=0.01)
    for target in record["targets"]:
        assert list(target) == [*TARGET, *further]
        assert isinstance(target["blob"], int)
        assert set(target["flags"]) <= FLAGS
        assert 0 <= target["score"] <= 1
        assert all(isinstance(target[name], float) for name in ("x", "y", "radiance"))
