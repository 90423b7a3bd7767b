"""Targets as an MCAP file of ROS 2 messages: for players, plots and nodes that know ``vision_msgs``."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from glint.errors import OutputError, system_errors_as
from glint.files import atomic_path, refuse_existing
from glint.libraries import missing
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink

TOPIC, MESSAGE = "/glint/detections", "vision_msgs/msg/Detection2DArray"
FRAME_ID, CLASS_ID = "camera", "target"
_PARTS = {
    "vision_msgs/Detection2D": """std_msgs/Header header
vision_msgs/ObjectHypothesisWithPose[] results
vision_msgs/BoundingBox2D bbox
string id""",
    "vision_msgs/ObjectHypothesisWithPose": """vision_msgs/ObjectHypothesis hypothesis
geometry_msgs/PoseWithCovariance pose""",
    "vision_msgs/ObjectHypothesis": "string class_id\nfloat64 score",
    "vision_msgs/BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "vision_msgs/Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "vision_msgs/Point2D": "float64 x\nfloat64 y",
    "geometry_msgs/PoseWithCovariance": "geometry_msgs/Pose pose\nfloat64[36] covariance",
    "geometry_msgs/Pose": "geometry_msgs/Point position\ngeometry_msgs/Quaternion orientation",
    "geometry_msgs/Point": "float64 x\nfloat64 y\nfloat64 z",
    "geometry_msgs/Quaternion": "float64 x\nfloat64 y\nfloat64 z\nfloat64 w",
    "std_msgs/Header": "builtin_interfaces/Time stamp\nstring frame_id",
    "builtin_interfaces/Time": "int32 sec\nuint32 nanosec",
}
DEFINITION = "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n" + "".join(
    f"{'=' * 80}\nMSG: {name}\n{fields}\n" for name, fields in _PARTS.items()
)
"""Of the message, with all that it is made of, as MCAP wants it."""


class McapSink(Sink):
    """One ``vision_msgs/Detection2DArray`` per frame; the file appears when it is whole.

    A detection is a target: its hypothesis has the score and, as ``pose.position``, x and y in pixels and the radiance
    in DN as z, with their variances on the diagonal of the covariance (0: unknown). ``bbox`` is the spot that it lies
    in, ``id`` the number of its confirmed track. Stamps are those of the wall clock; where nobody knows it, of the
    source.

    Args:
        path: the file.
        overwrite: replace an existing one.

    Raises:
        MissingDependencyError: if mcap-ros2-support is not installed.
        OutputError: if the file exists and ``overwrite`` is not set, or cannot be written.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        try:
            from mcap_ros2 import writer
        except ImportError as error:
            raise missing("mcap_ros2", "--mcap needs mcap-ros2-support, which is not installed") from error
        refuse_existing(path, overwrite=overwrite)
        self.path, self._overwrite, self._library = path, overwrite, writer
        self._open = ExitStack()
        self._writer: Any = None
        self._schema: Any = None

    def write(self, result: Result) -> None:
        frame = result.frame
        time_ns = frame.t_ns if frame.utc_ns is None else frame.utc_ns
        with self._errors():
            if self._writer is None:
                temporary = self._open.enter_context(atomic_path(self.path, overwrite=self._overwrite))
                self._writer = self._library.Writer(self._open.enter_context(temporary.open("wb")))
                self._schema = self._writer.register_msgdef(MESSAGE, DEFINITION)
            self._writer.write_message(
                TOPIC, self._schema, message(result, time_ns), log_time=time_ns, sequence=frame.index
            )

    def close(self) -> None:
        """Write the index; the file then takes its place. May be called twice."""
        if self._writer is None:
            return
        finished, self._writer = self._writer, None
        with self._errors(), self._open:
            finished.finish()

    def _errors(self) -> AbstractContextManager[None]:
        return system_errors_as(OutputError, f"cannot write {self.path}", caught=(OSError,))


def message(result: Result, time_ns: int) -> dict[str, Any]:
    """A result as ``vision_msgs/Detection2DArray``, unrounded.

    Args:
        result: of a frame.
        time_ns: its stamp.
    """
    seconds, rest = divmod(time_ns, 10**9)
    header = {"stamp": {"sec": seconds, "nanosec": rest}, "frame_id": FRAME_ID}
    targets, blobs = result.targets, result.blobs
    boxes = np.stack([blobs.x, blobs.y, 0 * blobs.x, 0 * blobs.y], axis=1)  # of unknown size
    if blobs.boxes is not None:
        left, top, width, height = blobs.boxes.T
        boxes = np.stack([left + (width - 1) / 2, top + (height - 1) / 2, width, height], axis=1)
    sigmas = np.stack([targets.sigma_x, targets.sigma_y, targets.sigma_radiance], axis=1)
    variances = np.nan_to_num(sigmas**2, nan=0.0).tolist()
    numbers = [-1] * len(targets) if result.track is None else result.track.tolist()
    columns = zip(targets.x.tolist(), targets.y.tolist(), targets.radiance.tolist(), targets.score.tolist())
    detections = [
        {
            "header": header, "results": [_hypothesis(place, score, variances[row])],
            "bbox": _box(*boxes[targets.blob[row]].tolist()), "id": str(numbers[row]) if numbers[row] >= 0 else "",
        }
        for row, (*place, score) in enumerate(columns)
    ]  # fmt: skip
    return {"header": header, "detections": detections}


def _hypothesis(place: list[float], score: float, variance: list[float]) -> dict[str, Any]:
    position = dict(zip("xyz", place))
    covariance = [0.0] * 36
    covariance[0], covariance[7], covariance[14] = variance  # the diagonal of 6 x 6
    pose = {"position": position, "orientation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}}
    return {
        "hypothesis": {"class_id": CLASS_ID, "score": score}, "pose": {"pose": pose, "covariance": covariance}
    }  # fmt: skip


def _box(x: float, y: float, width: float, height: float) -> dict[str, Any]:
    centre = {"position": {"x": x, "y": y}, "theta": 0.0}
    return {"center": centre, "size_x": width, "size_y": height}


def open_sink(opening: Opening) -> Sink:
    """What ``--mcap`` asks for."""
    return McapSink(opening.options["mcap"], overwrite=opening.options["overwrite"])
