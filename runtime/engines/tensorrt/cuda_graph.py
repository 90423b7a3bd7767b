"""CUDA graphs: work on a stream, recorded once and launched with one call.

pycuda cannot record, cuda-bindings can. Both name a stream by the same handle, so the one records what
the other enqueues.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from glint.errors import EngineError

_WITHOUT_HINT = "TensorRTEngine(plan, graph=False) runs without CUDA graphs"


def recording_problem() -> str | None:
    """Why no graph can be recorded on this machine, or None."""
    try:
        from cuda.bindings import driver  # noqa: F401
    except (ImportError, OSError) as error:
        return f"cuda-bindings cannot be imported ({error}); pip install cuda-bindings"
    return None


class CudaGraph:
    """Recorded work.

    Args:
        stream: handle of the stream to record on and to launch on; nothing may be under way on it.
        work: enqueues on that stream; must have run there once before, so that nothing is left to set up.

    Raises:
        EngineError: if the work cannot be recorded; the stream is then as it was.
    """

    def __init__(self, stream: int, work: Callable[[], None]) -> None:
        from cuda.bindings import driver

        self._driver = driver
        self._stream = driver.CUstream(stream)
        self._graph: Any = None
        # Thread-local: other threads may go on allocating memory meanwhile.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            _, recorded = driver.cuStreamEndCapture(self._stream)
            if recorded is not None and int(recorded):
                driver.cuGraphDestroy(recorded)
            raise
        recorded = self._call("cuStreamEndCapture", self._stream)
        try:
            self._graph = self._call("cuGraphInstantiate", recorded, 0)
        finally:
            driver.cuGraphDestroy(recorded)

    def launch(self) -> None:
        """Enqueue the work."""
        self._call("cuGraphLaunch", self._graph, self._stream)

    def close(self) -> None:
        """Give the graph back. Nothing of it may be under way."""
        if self._graph is not None:
            self._driver.cuGraphExecDestroy(self._graph)
            self._graph = None

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            status, *results = getattr(self._driver, name)(*arguments)
        except RuntimeError as error:  # cuda-bindings' way of saying that this driver has no such function
            raise EngineError(f"{name}: {error}; cuda-bindings newer than the driver?", hint=_WITHOUT_HINT) from error
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise EngineError(f"{name}: {status.name}", hint=_WITHOUT_HINT)
        return results[0] if results else None
