"""Words and defaults of options that arguments show: a module that imports nothing, so that help is instant."""

from __future__ import annotations

from typing import Literal

PRECISIONS = ("fp32", "fp16", "int8")
DEFAULT_DETECTOR = "lsnet-s"
DEFAULT_UNMIXER = "dscsnet-s-sensor"
ENGINES = ("auto", "tensorrt", "onnxruntime")
PRECISION_CHOICES = ("auto", *PRECISIONS)

Drop = Literal["latest", "none", "oldest"]
"""Which frame goes when they come too fast."""

Polarity = Literal["white", "black", "both"]
"""Whether targets are bright, dark, or either."""

Static = Literal["report", "hide"]
"""What becomes of tracks of what does not move."""

FALSE_TRACKS_PER_HOUR = 10.0  # that clutter may confirm

PROTOCOLS = ("native", "256", "512")
"""Sizes at which detectors are scored."""

PATCH_CONDITIONS = (
    "float", "14bit", "8bit", "8sat", "n1", "n2", "n5", "bright", "sigma-", "sigma+", "background", "sensor",
)  # fmt: skip
"""Names of what patches are simulated under (see ``glint.simulation.patches``)."""

BENCH_ENGINES = ("tensorrt", "onnxruntime", "torch", "torch-compile")
"""What ``glint bench`` measures on."""

BASELINE = "onnxruntime fp32"
"""Row that ``glint bench`` compares others with."""
