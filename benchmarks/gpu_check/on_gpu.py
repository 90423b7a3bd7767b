"""Checks on the GPU: contexts, memory, recording, engines against ONNX Runtime, overflow, speed and energy."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.gpu_check.anywhere import need
from glint.benchmarks.gpu_check.steps import Skip, Step
from glint.calibration.samples import network_inputs
from glint.cards import load_card
from glint.errors import CheckFailedError
from glint.runtime.engines.onnxruntime import OnnxRuntimeEngine
from glint.runtime.engines.tensorrt import cuda, cuda_graph
from glint.runtime.engines.tensorrt.build import BuildOptions, BuiltEngine, build
from glint.runtime.engines.tensorrt.engine import TensorRTEngine
from glint.simulation.patches import CONDITIONS, simulate_patches
from glint.simulation.scenes import SceneConfig, simulate_scene
from glint.types import FrameSize

_FRAME_SIZE = FrameSize(640, 512)  # of the detector's frames
_MODELS = ("lsnet-s", "dscsnet-s-sensor")
_TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2, "int8": 3e-1}  # of the largest value of an output, median of its errors
_TIMED_RUNS = 50
_BUFFER_BYTES = 1 << 20
_LOAD_S = 5.0  # of load while energy is read


def _contexts() -> dict[str, Any]:
    """Any thread can make the primary context current, and it is given back."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                with cuda.current() as driver:
                    driver.mem_alloc(_BUFFER_BYTES).free()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return {"gpu": str(cuda.gpu())}


def _memory() -> dict[str, Any]:
    """Pinned and mapped buffers bring bytes to the GPU and back."""
    pattern = np.random.default_rng(0).integers(0, 256, _BUFFER_BYTES).astype(np.uint8)
    figures = {}
    for mapped in (False, True):
        with cuda.current() as driver:
            stream, buffer = cuda.stream(driver), cuda.Buffer(driver, _BUFFER_BYTES, mapped=mapped)
            started = time.perf_counter()
            buffer.host[:] = pattern
            buffer.upload(stream)
            stream.synchronize()
            buffer.host[:] = pattern if mapped else 0
            buffer.download(stream)
            stream.synchronize()
            same = np.array_equal(buffer.host, pattern)
            figures["mapped" if mapped else "pinned"] = round(1e3 * (time.perf_counter() - started), 3)
            buffer.free()
        if not same:
            raise CheckFailedError(f"{'mapped' if mapped else 'pinned'} memory came back changed")
    return {"ms per MiB there and back": figures}


def _recording() -> dict[str, Any]:
    """A CUDA graph is recorded while another thread allocates, and copies what it should."""
    problem = cuda_graph.recording_problem()
    if problem:
        raise Skip(problem)
    stop = threading.Event()

    def noise() -> None:
        while not stop.is_set():
            with cuda.current() as driver:
                driver.mem_alloc(_BUFFER_BYTES).free()

    thread = threading.Thread(target=noise)
    thread.start()
    try:
        for round_ in range(20):
            with cuda.current() as driver:
                stream, buffer = cuda.stream(driver), cuda.Buffer(driver, _BUFFER_BYTES, mapped=False)

                def there_and_back(buffer: cuda.Buffer = buffer, stream: Any = stream) -> None:
                    buffer.upload(stream)
                    buffer.download(stream)

                graph = cuda_graph.CudaGraph(stream.handle, there_and_back)
                buffer.host[:] = round_
                graph.launch()
                stream.synchronize()
                same = bool((buffer.host == round_).all())
                graph.close()
                buffer.free()
            if not same:
                raise CheckFailedError("a recorded copy gave other bytes")
    finally:
        stop.set()
        thread.join()
    return {"graphs": 20}


def _memcheck() -> dict[str, Any]:
    """compute-sanitizer finds nothing in the step ``memory``."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        raise Skip("compute-sanitizer is not on PATH (it comes with the CUDA toolkit)")
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable]
    command += ["-m", "glint.benchmarks.gpu_check", "--step", "memory"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckFailedError(f"compute-sanitizer ended with {done.returncode}: {done.stdout[-500:]}")
    return {}


def _inputs(name: str, rows: int) -> dict[str, NDArray[np.float32]]:
    """What the network is given for a simulated frame, or for so many simulated patches."""
    card, _ = load_card(name)
    if card.unmixer is None:
        (frame, _), *_ = simulate_scene(
            SceneConfig(width=_FRAME_SIZE.width, height=_FRAME_SIZE.height, frames=1, clusters=6, bits=14, seed=1)
        )
        return {card.inputs[0].name: card.normaliser.apply(frame.data).value[None, None]}
    patches = simulate_patches(CONDITIONS["14bit"], rows, np.random.default_rng(1))
    (batch,) = network_inputs(card, list(patches.image), patches.full_scale)
    return {card.inputs[0].name: batch}


def _built(name: str, precision: str) -> BuiltEngine:
    sizes = (_FRAME_SIZE,) if name == "lsnet-s" else ()
    return build(name, BuildOptions(precision=precision, sizes=sizes))


def _engines(precision: str) -> dict[str, Any]:
    """Both networks are built, run, compared with ONNX Runtime in fp32, and timed by stage."""
    need("onnxruntime")
    figures: dict[str, Any] = {}
    for name in _MODELS:
        arrays = _inputs(name, 64)
        built = _built(name, precision)
        engine = TensorRTEngine(built.path)
        with engine, OnnxRuntimeEngine(load_card(name)[1]) as reference:
            ours, theirs = engine.infer(**arrays), reference.infer(**arrays)
            errors = {
                output: float(np.median(np.abs(ours[output] - expected)) / max(float(np.abs(expected).max()), 1e-9))
                for output, expected in theirs.items()
            }
            times = engine.stage_times(_TIMED_RUNS, **arrays)
            stages = {stage: round(float(np.median(ms)), 4) for stage, ms in times.items()}
            figures[name] = {
                "median errors": errors, "ms": stages, "build s": built.info.seconds, "audit": built.info.audit,
                **engine.details(),
            }  # fmt: skip
        worst = max(errors, key=lambda output: errors[output])
        if not errors[worst] <= _TOLERANCE[precision]:
            shown = ", ".join(f"{output} {error:.2g}" for output, error in errors.items())
            raise CheckFailedError(f"{name} in {precision}: median errors by the largest value: {shown}")
    return figures


def _gpu_overflow() -> dict[str, Any]:
    """fp16 on the GPU itself stays finite in extreme scenes (an output that is not is an error)."""
    need("onnx")
    from glint.calibration.clamps import extreme_images
    from glint.runtime.unmixing.unmixer import Unmixer

    card, _ = load_card("dscsnet-s-sensor", precision="fp16")
    with TensorRTEngine(_built("dscsnet-s-sensor", "fp16").path) as engine:
        images = np.stack(extreme_images(load_card("dscsnet-s-sensor")[0].unmixer.patch))  # type: ignore[union-attr]
        Unmixer(engine, card)(images.astype(np.float32), full_scale=255)
    return {"images": len(images)}


def _energy() -> dict[str, Any]:
    """Power of the rails while the detector runs, above what they draw at rest."""
    from glint.runtime.device.state import read_device_state

    rest = read_device_state().power_w
    if not rest:
        raise Skip("this machine tells no power")
    arrays, runs, seen = _inputs("lsnet-s", 1), 0, []
    with TensorRTEngine(_built("lsnet-s", "fp16").path) as engine:
        end = time.monotonic() + _LOAD_S
        while time.monotonic() < end:
            engine.infer(**arrays)
            runs += 1
            if runs % 20 == 0:
                seen.append(read_device_state().power_w)
    busy = {rail: round(float(np.mean([s.get(rail, 0.0) for s in seen])), 2) for rail in rest} if seen else {}
    return {"rest W": rest, "busy W": busy, "frames per second": round(runs / _LOAD_S, 1)}


def _engines_step(precision: str) -> Step:
    what = f"both networks in {precision}: built, run, compared, timed"
    return Step(f"engines-{precision}", what, lambda: _engines(precision))


# What glint run takes comes first: builds may use up the time.
ON_GPU = (
    Step("contexts", "the primary context in any thread (pycuda)", _contexts),
    Step("memory", "pinned and mapped memory", _memory),
    Step("recording", "CUDA graphs beside another thread's allocations", _recording),
    Step("memcheck", "compute-sanitizer over the memory", _memcheck),
    _engines_step("fp16"),
    Step("gpu-overflow", "fp16 stays finite in extreme scenes, on the GPU", _gpu_overflow),
    Step("energy", "power while the detector runs", _energy),
    _engines_step("fp32"),
    _engines_step("int8"),
)
