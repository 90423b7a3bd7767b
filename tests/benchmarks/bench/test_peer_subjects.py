"""Other people's methods, made ready to be timed."""

import pytest

from glint.benchmarks.bench.cases import BenchCase
from glint.benchmarks.bench.peer_subjects import CLASSICAL, SALIENCY, open_peer
from glint.benchmarks.bench.subjects import bench_patches
from glint.cards import load_card


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_peer_takes_patches_apart_and_tells_its_time(name):
    peer = open_peer(BenchCase(subject=name, engine="numpy", task="peer unmix", threads=1, batch=2, precision="fp64"))
    assert peer.call()["total"] > 0
    assert peer.facts() == {"name": "numpy"}
    found = peer.targets(bench_patches(load_card("dscsnet-s-csist")[0], 4))
    assert set(found.blob.tolist()) <= {0, 1, 2, 3} and len(found)


def test_a_peer_finds_targets_in_frames():
    peer = open_peer(
        BenchCase(subject=next(iter(SALIENCY)), task="peer detect", engine="numpy", threads=1, precision="fp64")
    )
    assert peer.call()["total"] > 0
    assert peer.facts()["name"] == "numpy"
