"""Telemetry as the text that Prometheus scrapes (exposition format 0.0.4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate

from glint import __version__
from glint.runtime.device.state import DeviceState
from glint.runtime.view.status import StreamStatus
from glint.runtime.view.telemetry import BUCKETS_S, Histogram, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[Mapping[str, str], float]


def metrics_text(run: Snapshot, stream: StreamStatus, device: DeviceState | None = None) -> str:
    """Counters of the run and the stream and, where known, what the device says of itself."""
    plain: Mapping[str, str] = {}
    lines = [
        *_family("glint_info", "gauge", "What runs; always 1.", [
            ({"version": __version__, "engine": stream.engine, "source": stream.source}, 1)]),
        *_family("glint_healthy", "gauge", "1 while frames come.", [(plain, run.state == "ok")]),
        *_family("glint_frames_captured_total", "counter", "Frames that the source delivered.", [
            (plain, stream.captured)]),
        *_family("glint_frames_total", "counter", "Frames processed.", [(plain, run.frames)]),
        *_family("glint_frames_dropped_total", "counter", "Frames not processed, by place.", [
            ({"at": at}, n) for at, n in stream.dropped.items()]),
        *_family("glint_queue_length", "gauge", "Frames and results that wait, by queue.", [
            ({"queue": name}, n) for name, n in stream.queued.items()]),
        *_family("glint_frames_per_second", "gauge", "Over the last 5 s.", [(plain, run.fps)]),
        *_family("glint_frame_age_seconds", "gauge", "Since the last frame was done.", [(plain, run.age_s)]),
        *_family("glint_blobs_total", "counter", "Blobs found.", [(plain, run.blobs)]),
        *_family("glint_targets_total", "counter", "Targets found.", [(plain, run.targets)]),
        *_family("glint_targets", "gauge", "Targets in the last frame.", [(plain, run.last_targets)]),
        *_family("glint_frames_repeated_total", "counter", "Frames with the bytes of the one before.", [
            (plain, run.repeated)]),
        *_family("glint_tracks", "gauge", "Confirmed tracks that live.", [] if run.tracks is None else [
            (plain, run.tracks)]),
        *_family("glint_track_events_total", "counter", "Tracks confirmed and lost.", [
            ({"event": event}, n) for event, n in run.track_events.items()]),
        *_family("glint_zone_events_total", "counter", "Tracks that entered and left zones.", [
            ({"zone": zone, "event": event}, n) for (zone, event), n in run.zone_events.items()]),
        *_family("glint_gaps_total", "counter", "Gaps of the source.", [(plain, run.gaps)]),
        *_family("glint_gap_seconds_total", "counter", "Length of all gaps.", [(plain, run.gap_seconds)]),
        *_latency(run.latency),
    ]  # fmt: skip
    if device is not None:
        lines += _device(device)
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> list[str]:
    rows = [f"{name}{_labels(labels)} {_value(value)}" for labels, value in samples]
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *rows] if rows else []


def _latency(stages: Mapping[str, Histogram]) -> list[str]:
    name = "glint_stage_latency_seconds"
    rows = []
    for stage, histogram in stages.items():
        edges = [*(_value(b) for b in BUCKETS_S), "+Inf"]
        for edge, count in zip(edges, accumulate(histogram.counts)):
            rows.append(f"{name}_bucket{_labels({'stage': stage, 'le': edge})} {count}")
        rows.append(f"{name}_sum{_labels({'stage': stage})} {_value(histogram.total)}")
        rows.append(f"{name}_count{_labels({'stage': stage})} {sum(histogram.counts)}")
    return [f"# HELP {name} Time that each stage took per frame.", f"# TYPE {name} histogram", *rows] if rows else []


def _device(device: DeviceState) -> list[str]:
    def scaled(label: str, values: Mapping[str, float], factor: float = 1.0) -> list[Sample]:
        return [({label: name}, factor * value) for name, value in values.items()]

    def single(value: float | None) -> list[Sample]:
        return [] if value is None else [({}, value)]

    prefix = "glint_device_"
    return [
        *_family(prefix + "temperature_celsius", "gauge", "By thermal zone.", scaled("zone", device.temperature_c)),
        *_family(prefix + "power_watts", "gauge", "By supply rail.", scaled("rail", device.power_w)),
        *_family(prefix + "clock_hertz", "gauge", "By clock.", scaled("clock", device.clock_mhz, 1e6)),
        *_family(prefix + "clock_limit_hertz", "gauge", "What each clock may reach.", scaled(
            "clock", device.clock_limit_mhz, 1e6)),
        *_family(prefix + "gpu_load_ratio", "gauge", "Share of time the GPU is busy.", single(device.gpu_load)),
        *_family(prefix + "fan_ratio", "gauge", "Share of the fan's full drive.", single(device.fan)),
        *_family(prefix + "throttled", "gauge", "1 while heat holds a clock down.", [({}, device.throttled)]),
        *_family(prefix + "over_current_events_total", "counter", "Since the start of the machine.", single(
            device.over_current_events)),
    ]  # fmt: skip


def _labels(labels: Mapping[str, str]) -> str:
    def escaped(text: str) -> str:
        return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

    return "{" + ",".join(f'{k}="{escaped(v)}"' for k, v in labels.items()) + "}" if labels else ""


def _value(value: float) -> str:
    if math.isfinite(value):
        return repr(int(value)) if value == int(value) else repr(float(value))
    return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
