"""The command line of ``glint calibrate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from glint.calibration.thresholds import METHODS
from glint.cards import load_card
from glint.cli import options_of, positive_float, positive_int, print_json, seed
from glint.config import to_dict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint calibrate``."""
    parser.add_argument("model", help="fp32 model: name in the zoo, model card, or ONNX file beside its card")
    parser.add_argument("--precision", choices=("fp16", "int8"), required=True, help="of the result")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="for the files (default: here)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--json", action="store_true", help="print the card that was written as JSON")
    parser.add_argument(
        "--budget", type=positive_float, metavar="POINTS",
        help="largest change of a score: CSO-mAP or IoU (default: 0.1 for fp16, 0.3 for int8)",
    )  # fmt: skip
    parser.add_argument(
        "--scored", type=positive_int, metavar="N", help="patches or frames scored (default: 10000, 96)"
    )
    group = parser.add_argument_group("calibration set")
    group.add_argument("--samples", type=positive_int, metavar="N", help="of it (default: 512 patches or 24 frames)")
    group.add_argument(
        "--data", type=Path, metavar="PATH",
        help="real data for half of it: folder of images or SIRST-style; CSIST-100K folder or .npy of patches",
    )  # fmt: skip
    group.add_argument("--split", default="train", help="of a SIRST-style folder (default: %(default)s)")
    group.add_argument("--bits", type=positive_int, metavar="N", help="of the camera that the model is for")
    group.add_argument("--seed", type=seed, default=1, help="of everything simulated (default: %(default)s)")
    group.add_argument("--set", type=Path, metavar="FILE", dest="set_file", help="use a saved calibration set again")
    group.add_argument("--save-set", type=Path, metavar="FILE", help="save the list of the calibration set")
    group = parser.add_argument_group("int8")
    group.add_argument(
        "--methods", default=",".join(METHODS), metavar="LIST", help="that propose ranges (default: %(default)s)"
    )
    group.add_argument("--plan", type=Path, metavar="FILE", help="which layers run in int8 (default: all that may)")
    group.add_argument(
        "--search", action="store_true", help="find a plan that keeps to the budget and moves fewer bytes than fp16"
    )
    group.add_argument("--per-tensor", action="store_true", help="one scale for all weights of a layer")
    group.add_argument(
        "--float32-scales", action="store_true", help="for releases of TensorRT that refuse scales of float16"
    )
    group.add_argument("--save-plan", type=Path, metavar="FILE", help="save the plan that was used")


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint calibrate``."""
    load_card(arguments.model)  # a wrong name is told before a library that is missing
    from glint.calibration.calibrate import CalibrateOptions, calibrate
    from glint.calibration.qdq import Scales

    methods, scales = tuple(arguments.methods.split(",")), Scales(arguments.per_tensor, arguments.float32_scales)
    own = options_of(CalibrateOptions, arguments, methods=methods, find_plan=arguments.search, scales=scales)
    options = CalibrateOptions(**own)
    card = calibrate(**options_of(calibrate, arguments, options=options, save_plan_to=arguments.save_plan))
    if arguments.json:
        print_json(to_dict(card))
    return 0
