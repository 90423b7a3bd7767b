"""The real tensorrt_rtx parses, builds and consumes the Q/DQ of what ``glint calibrate`` makes."""

import pytest
import tiny_net

from glint.calibration.calibrate import CalibrateOptions, calibrate
from glint.calibration.qdq import Scales
from glint.runtime.engines.tensorrt.build import BuildOptions, build
from glint.types import FrameSize

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (x86-64 Linux and Windows only)")


@pytest.mark.parametrize(
    ("model", "scales"),
    [
        ("tiny", Scales()), ("dscsnet-s-sensor", Scales()), ("tiny", Scales(per_tensor=True)),
        ("tiny", Scales(float32=True)),
    ],
    ids=["tiny", "dscsnet-s-sensor", "per tensor", "float32"],
)  # fmt: skip
def test_every_layer_that_is_quantised_runs_in_int8(tmp_path, monkeypatch, model, scales):
    monkeypatch.setenv("GLINT_CACHE", str(tmp_path / "cache"))
    tiny = model == "tiny"
    source = tiny_net.save_tiny(tmp_path) if tiny else model
    options = CalibrateOptions(samples=4 if tiny else 64, scored=2 if tiny else 60, budget=100.0, scales=scales)
    card = calibrate(source, tmp_path / "out", precision="int8", options=options)
    sizes = (FrameSize(96, 64),) if tiny else ()
    built = build(
        tmp_path / "out" / card.file, BuildOptions(sizes=sizes), flavour="tensorrt_rtx", compute_capability="8.6"
    )
    audit = built.info.audit
    assert audit["asked"]["int8"] == audit["obtained"]["int8"] == len(card.calibration["int8_layers"])
    assert audit["asked"] == audit["obtained"] and audit["missed"] in ([], ())
