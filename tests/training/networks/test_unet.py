"""The U-Net that LSNet is compared with: as many operations, the same outputs, task and way to the runtime."""

import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from glint.benchmarks.evaluate.evaluate import evaluate
from glint.config import to_dict
from glint.errors import InputError
from glint.images import write_image
from glint.training.loop import Recipe, Trainer
from glint.training.networks.registry import build, load_model, preset, task_of
from glint.training.networks.unet import UNet, UNetConfig
from glint.training.tasks.detection import Augmentation, DetectionTask
from glint.training.train import train

TINY = UNetConfig((2, 3, 4, 5, 6))


def macs(name):
    model = build(name, to_dict(preset(name)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 1, 512, 512))
    return counter.get_total_flops() / 2


def test_it_costs_what_lsnet_s_costs():
    assert task_of("unet-s") == "detect"
    assert macs("unet-s") == pytest.approx(macs("lsnet-s"), rel=0.06)


def test_outputs_have_the_frames_size_and_add_up_to_it():
    model = UNet(TINY).eval()
    torch.nn.init.normal_(model.head.weight)
    frame = torch.randn(2, 1, 48, 80)
    with torch.no_grad():
        probability, background, target = model(frame)
    assert probability.shape == background.shape == target.shape == frame.shape
    assert torch.allclose(background + target, frame, atol=1e-5)
    assert probability.min() >= 0 and probability.max() <= 1


def test_a_fresh_network_finds_nothing():
    probability, _, target = UNet(TINY)(torch.randn(1, 1, 32, 32))
    assert probability.max() < 0.02
    assert not target.any()


@pytest.mark.parametrize("channels", [(1, 2, 3), (1, 2, 3, 4, 0)])
def test_bad_sizes_are_refused(channels):
    with pytest.raises(InputError, match="5 positive numbers"):
        UNetConfig(channels)


@pytest.fixture
def folder(tmp_path):
    """Four frames with one square target each."""
    rng = np.random.default_rng(0)
    for i in range(4):
        image, mask = rng.integers(60, 70, (40, 56)).astype(np.uint8), np.zeros((40, 56), dtype=np.uint8)
        mask[10 + i : 13 + i, 20:23] = 255
        image[mask > 0] = 140
        write_image(tmp_path / "images" / f"f{i}.png", image)
        write_image(tmp_path / "masks" / f"f{i}.png", mask)
    (tmp_path / "train.txt").write_text("f0\nf1\n")
    (tmp_path / "val.txt").write_text("f2\nf3\n")
    return tmp_path


def test_it_learns_lsnets_task(folder):
    torch.manual_seed(0)
    task = DetectionTask("unet-s", TINY, folder, Augmentation(crop=32))
    model = task.build()
    batch = task.batch(4, np.random.default_rng(0), torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = task.loss(model, batch, torch.tensor(0.0))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_a_checkpoint_comes_back_and_is_evaluated_like_any_detector(folder, tmp_path):
    task = DetectionTask("unet-s", TINY, folder, Augmentation(crop=32))
    Trainer(task, Recipe(steps=2, batch=2, warmup=1, validate_every=2), tmp_path / "run").fit()
    info, model = load_model(tmp_path / "run" / "last.safetensors")
    assert info.network == "unet-s"
    assert isinstance(model, UNet) and model.config == TINY
    result = evaluate(tmp_path / "run" / "last.safetensors", data=folder)
    assert (result["model"], result["engine"], result["images"]) == ("unet-s", "torch", 2)
    assert "decomposition" in result


def test_glint_train_knows_it(folder, tmp_path):
    out = tmp_path / "run"
    train("unet-s", out, data=folder, steps=1, batch=1, validate_every=1)
    assert json.loads((out / "last.json").read_text())["network"] == "unet-s"


def test_images_of_the_training_split_must_not_be_validated_on(folder):
    (folder / "val.txt").write_text("f2\nf1\n")
    with pytest.raises(InputError, match="share 1 images: f1"):
        DetectionTask("unet-s", TINY, folder)
