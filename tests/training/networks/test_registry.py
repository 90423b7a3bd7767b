"""The register of networks: its names need no PyTorch, and each of its lines is complete."""

import subprocess
import sys

import pytest

from glint.config import to_dict
from glint.errors import InputError
from glint.training.networks.registry import NETWORKS, build, entry, preset


def test_the_help_of_train_names_the_networks_without_pytorch():
    code = "import sys; sys.modules['torch'] = None; from glint.cli import main; main(['train', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_line_leads_to_a_class_and_a_configuration(name):
    model = build(name, to_dict(preset(name)))
    assert type(model).__name__ == entry(name).made_by.partition(".")[2] and model.config == preset(name)


def test_an_unknown_network_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="no network 'resnet'") as caught:
        preset("resnet")
    assert "lsnet-s" in caught.value.hint
