"""A case made ready to be called: one call is one measurement, split into stages."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from glint.benchmarks.bench.cases import PIPELINE, BenchCase
from glint.calibration.task_score import ALL_CONDITIONS
from glint.cards import ModelCard, load_card
from glint.optics import Psf
from glint.runtime.engines.base import Engine, EngineProxy
from glint.runtime.engines.onnxruntime import OnnxRuntimeEngine
from glint.runtime.engines.tensorrt.open import open_tensorrt
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.pipeline import Pipeline
from glint.runtime.unmixing.refine import refine_config
from glint.runtime.unmixing.unmix import unmix_patches
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.patches import Patches, simulate_patches
from glint.simulation.scenes import SceneConfig, simulate_scene
from glint.types import Frame

SEED = 5  # of what is measured on
BITS = 14
_LEAST_PATCHES = 64  # different patches at least that calls go through, so that one is not taken for all
_FRAMES = 4

Times = dict[str, float]


class Subject(ABC):
    """Something that can be timed.

    Attributes:
        amount: what one call works through: patches or frames.
        unit: ``patches`` or ``frames``.
    """

    amount: int = 1
    unit: str = "frames"

    @abstractmethod
    def call(self) -> Times:
        """Run once; milliseconds of ``total`` and of the stages that it is the sum of."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What runs it, JSON-ready."""

    def models(self) -> list[tuple[ModelCard, Engine]]:
        """The models in it, with their engines."""
        return []

    def gpu_stages(self, runs: int) -> dict[str, list[float]]:
        """Milliseconds of a TensorRT engine's stages, on what was last put into it; see its ``stage_times``."""
        (_, clock) = self.models()[0]
        assert isinstance(clock, EngineProxy)  # noqa: S101  (all models here are timed)
        times: dict[str, list[float]] = clock.inner.stage_times(runs, **clock.given)  # type: ignore[union-attr]
        return times

    def close(self) -> None:
        """Give back what it holds."""
        for _, engine in self.models():
            engine.close()


class ModelSubject(Subject):
    """One model with its engine."""

    def __init__(self, case: BenchCase) -> None:
        self.card, engine = open_model(case, case.subject)
        self.clock = EngineProxy(engine)

    def facts(self) -> dict[str, Any]:
        return self.clock.details()

    def models(self) -> list[tuple[ModelCard, Engine]]:
        return [(self.card, self.clock)]


class UnmixerSubject(ModelSubject):
    """``glint unmix``: patches in, targets out."""

    unit = "patches"

    def __init__(self, case: BenchCase) -> None:
        super().__init__(case)
        self.unmixer = Unmixer(self.clock, self.card)
        self.amount, self.stages = case.batch, ["refined" if case.refine else "network"]
        self.config, self.psf = refine_config(self.unmixer.spec), Psf(self.unmixer.spec.sigma)
        number = case.batch * max(1, _LEAST_PATCHES // case.batch)
        patches = bench_patches(self.card, number)
        self.inputs = cycle(
            (patches.image[i : i + case.batch], patches.full_scale[i : i + case.batch, None, None])
            for i in range(0, number, case.batch)
        )

    def call(self) -> Times:
        image, limit = next(self.inputs)
        self.clock.reset()
        start = time.perf_counter()
        run = unmix_patches(self.unmixer, image, self.psf, self.config, full_scale=limit, stages=self.stages)
        network, refinement = map(float, run.seconds)
        times = _around(self.clock, start, start + network)
        if "refined" in run.targets:
            times["refine"] = 1e3 * refinement
        return _with_total(times)


class DetectorSubject(ModelSubject):
    """``glint detect``: a frame in, blobs out."""

    def __init__(self, case: BenchCase) -> None:
        super().__init__(case)
        self.detector = Detector(self.clock, self.card)
        self.frames = cycle(bench_frames(case))

    def call(self) -> Times:
        frame = next(self.frames)
        self.clock.reset()
        start = time.perf_counter()
        self.detector(frame)
        return _with_total(_around(self.clock, start, time.perf_counter()))


class PipelineSubject(Subject):
    """``glint run``: a frame in, refined targets out."""

    def __init__(self, case: BenchCase) -> None:
        engines = [open_model(case, model) for model in (case.detector, case.unmixer)]
        (first, detector), (second, unmixer) = ((card, EngineProxy(engine)) for card, engine in engines)
        self.clocks = (detector, unmixer)
        self.pipeline = Pipeline(Detector(detector, first), Unmixer(unmixer, second), refine=case.refine)
        self.frames, self.blobs = cycle(bench_frames(case)), 0

    def call(self) -> Times:
        frame = next(self.frames)
        for clock in self.clocks:
            clock.reset()
        start = time.perf_counter()
        result = self.pipeline(frame)
        total = 1e3 * (time.perf_counter() - start)
        self.blobs = len(result.detection.blobs)
        detector, unmixer = (1e3 * clock.seconds for clock in self.clocks)
        spent = result.latency_ms
        return {
            "total": total, "network": detector + unmixer, "detector": detector,
            "around detector": spent["detect"] - detector, "unmixer": unmixer,
            "around unmixer": spent["unmix"] - unmixer, "refine": spent["refine"],
        }  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """What runs both networks, and the blobs of the last frame."""
        detector, unmixer = (clock.details() for clock in self.clocks)
        return {"name": detector["name"], "detector": detector, "unmixer": unmixer, "blobs": self.blobs}

    def models(self) -> list[tuple[ModelCard, Engine]]:
        return list(zip((self.pipeline.detector.card, self.pipeline.unmixer.card), self.clocks))


def _around(clock: EngineProxy, start: float, end: float) -> Times:
    """Before the network, in it, and after it; between the calls of a cut batch counts as after."""
    began, ended = clock.began or start, clock.ended or start
    return {
        "pre": 1e3 * (began - start),
        "network": 1e3 * clock.seconds,
        "post": 1e3 * (end - ended + ended - began - clock.seconds),
    }


def _with_total(times: Times) -> Times:
    return {"total": sum(times.values()), **times}


def open_model(case: BenchCase, model: str) -> tuple[ModelCard, Engine]:
    """A model's card and the engine that a case asks for.

    Args:
        case: says which engine.
        model: name or card.
    """
    if case.engine.startswith("torch"):
        from glint.benchmarks.torch_engine import open_network

        card, _ = load_card(model, precision="fp32")
        checkpoint = Path(case.checkpoint) if case.checkpoint else None
        engine = open_network(
            card, checkpoint=checkpoint, threads=case.threads, precision=case.precision,
            compiled=case.engine == "torch-compile",
        )  # fmt: skip
        return replace(card, precision=case.precision), engine
    card, path = load_card(model, precision=case.precision)
    if case.engine == "tensorrt":
        return card, open_tensorrt(card, path, graph=case.graph, buffers=case.buffers)
    return card, OnnxRuntimeEngine(path, threads=case.threads)


def bench_condition(card: ModelCard) -> str:
    """The simulated condition that an unmixer is measured on: the one nearest to what it was made for."""
    return "8sat" if card.unmixer is not None and card.unmixer.radiance_prior else "sensor"


def bench_patches(card: ModelCard, number: int, *, seed: int = SEED) -> Patches:
    """Patches for an unmixer."""
    return simulate_patches(ALL_CONDITIONS[bench_condition(card)], number, np.random.default_rng(seed))


def bench_frames(case: BenchCase) -> list[Frame]:
    """Frames of a scene with the case's clusters."""
    width, height = case.size
    scene = SceneConfig(
        width=width, height=height, frames=_FRAMES, clusters=case.blobs, singles=0, bits=BITS, seed=SEED
    )
    return [frame for frame, _ in simulate_scene(scene)]


def model_files(case: BenchCase) -> list[Path]:
    """The files that a case runs: models, not engines made of them."""
    models = [case.detector, case.unmixer] if case.task == PIPELINE else [case.subject]
    return [load_card(model, precision=case.precision)[1] for model in models]


def float_model(model: str) -> tuple[ModelCard, Path] | None:
    """The fp32 model that a name or a card of any precision belongs to; None if it is not there."""
    path = Path(model)
    if path.suffix in (".json", ".onnx"):
        path = path.with_name(f"{load_card(model)[0].name}.fp32.json")
        return load_card(path) if path.is_file() else None
    return load_card(model, precision="fp32")
