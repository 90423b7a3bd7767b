"""Hard negatives of a detector: ``python -m glint.training.mine CHECKPOINT --data FOLDER --out FILE``.

``glint train --hard FILE`` trains on them again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from glint.cli import positive_int, standalone, talk
from glint.errors import EXIT_OK, InputError
from glint.files import refuse_existing
from glint.training.tasks.data_sets import DataSet, checked_sets

_MINED_PROBABILITY = 0.4  # a little below that of the detector, so that next round's are among them


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="weights of a detector (*.safetensors)")
    parser.add_argument("--data", action="append", required=True, metavar="FOLDER", help="as for glint train")
    parser.add_argument("--backgrounds", action="append", type=Path, default=[], metavar="FOLDER", help="as there")
    parser.add_argument(
        "--threshold", type=float, default=_MINED_PROBABILITY, help="probability (default: %(default)s)"
    )
    parser.add_argument("--threads", type=positive_int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="places of false alarms, JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _main(arguments: argparse.Namespace) -> int:
    refuse_existing(arguments.out, overwrite=arguments.overwrite)
    if not 0 < arguments.threshold < 1:
        raise InputError(f"--threshold: expected a probability between 0 and 1, got {arguments.threshold}")
    sets = checked_sets([DataSet.parse(text) for text in arguments.data])
    import torch

    from glint.training.networks.registry import load_model
    from glint.training.tasks.detection import predict
    from glint.training.tasks.hard import HardPlaces, mine

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    info, model = load_model(arguments.checkpoint)
    model.eval()
    found = mine(
        lambda frame: predict(model, frame, torch.device("cpu"))[0], sets, arguments.backgrounds, arguments.threshold
    )
    places = HardPlaces(info.sha256, tuple(found))
    places.write(arguments.out)
    talk(f"{len(places.places)} false alarms above {arguments.threshold:g} in {arguments.out}")
    return EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    return standalone("Find the false alarms of a detector in its training frames.", _options, _main, argv)


if __name__ == "__main__":
    sys.exit(main())
