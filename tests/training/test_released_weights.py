"""The released weights load into the networks that they are of, and those of the large DSCSNet keep their promise."""

from pathlib import Path

import numpy as np
import pytest

from glint.benchmarks.torch_engine import open_checkpoint
from glint.metrics.unmixing import score_unmixing
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.patches import CONDITIONS, simulate_patches
from glint.training.networks.registry import load_model

FOLDER = Path(__file__).parents[2] / "training" / "weights"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.safetensors")), ids=lambda path: path.stem)
def test_weights_are_of_the_network_and_domain_in_their_name(path):
    info, _ = load_model(path)
    domain = info.data.get("domain")
    assert path.stem == (info.network if domain is None else f"{info.network}-{domain}")
    assert info.history and info.metrics and info.recipe["seed"] >= 0


def test_the_large_network_beats_the_papers_on_its_grid_and_every_grid_off_it():
    card, engine = open_checkpoint(FOLDER / "dscsnet-csist.safetensors", threads=1)
    truth = simulate_patches(CONDITIONS["14bit"], 150, np.random.default_rng(9))
    unmixed = Unmixer(engine, card)(truth.image, full_scale=truth.full_scale[:, None, None])
    for targets, least in ((unmixed.on_grid(), 46.36), (unmixed.targets(), 90)):
        score = score_unmixing(
            targets.blob, targets.x, targets.y, targets.radiance, targets.score,
            truth_x=truth.x, truth_y=truth.y, truth_radiance=truth.radiance,
        )  # fmt: skip
        assert score.cso_map > least
