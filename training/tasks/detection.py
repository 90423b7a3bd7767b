"""Training LSNet on real frames (see ``augmentation`` for how they are varied and what is added to them)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from glint.config import to_dict
from glint.data.datasets import image_files, labelled_images
from glint.data.leaks import refuse_shared_names
from glint.images import read_image
from glint.metrics.detection import bootstrap_detection, count_image, score_detection
from glint.processing.extent import confine
from glint.simulation.scenes import generate_background
from glint.training.networks.lsnet import MULTIPLE, LSNet, LSNetConfig, LSNetStage
from glint.training.networks.registry import build
from glint.training.networks.unet import UNet, UNetConfig
from glint.training.tasks.augmentation import (
    FRAME_ARRAY,
    NORMALISER,
    Augmentation,
    Sample,
    crop_sample,
    paste_clusters,
    veil,
)

_THRESHOLD = 0.5  # of the probability, in validation


class DetectionTask:
    """LSNet, or a U-Net, on a SIRST-style folder, with its empty backgrounds if it has any."""

    best_metric = "niou"

    def __init__(
        self, network: str, config: LSNetConfig | UNetConfig, root: Path, augmentation: Augmentation | None = None
    ) -> None:
        self.network, self.config, self.root = network, config, root
        self.augmentation = augmentation or Augmentation()
        refuse_shared_names(root, "train", "val")
        self.samples = [Sample.of(s.image, s.mask) for s in labelled_images(root, "train")]
        empty = image_files(root / "backgrounds") if (root / "backgrounds").is_dir() else []
        # Every second empty frame is left for measuring false alarms.
        self.negatives = [Sample.of(read_image(p)) for p in empty[::2]]
        self.validation = list(labelled_images(root, "val"))
        self.data = {
            "folder": root.name, "train": len(self.samples), "val": len(self.validation),
            "protocol": f"validation on val, native size, threshold {_THRESHOLD}",
            "negatives": [p.stem for p in empty[::2]], "normaliser": to_dict(NORMALISER),
            "augmentation": to_dict(self.augmentation),
        }  # fmt: skip

    def build(self) -> nn.Module:
        """A fresh network."""
        return build(self.network, to_dict(self.config))

    def batch(self, size: int, rng: np.random.Generator, device: torch.device) -> dict[str, Tensor]:
        """``frame``, ``background`` and ``mask``, each ``[N, 1, crop, crop]``, normalised."""
        drawn = zip(*(self._draw(rng) for _ in range(size)))
        frame, background, mask = (torch.from_numpy(np.stack(d)[:, None]).to(device) for d in drawn)
        return {"frame": frame, "background": background, "mask": mask.float()}

    def _draw(self, rng: np.random.Generator) -> tuple[FRAME_ARRAY, FRAME_ARRAY, NDArray[np.bool_]]:
        augmentation, kind = self.augmentation, rng.random()
        generated = kind < augmentation.generated
        if generated:
            sample = Sample.of(generate_background((augmentation.crop, augmentation.crop), rng))
        elif self.negatives and kind < augmentation.generated + augmentation.negatives:
            sample = self.negatives[rng.integers(len(self.negatives))]
        else:
            sample = self.samples[rng.integers(len(self.samples))]
        frame, background, mask = crop_sample(sample, augmentation, rng)
        if rng.random() < augmentation.veiled:
            other = self._any(rng)
            frame, background = veil(
                frame, background, crop_sample(other, augmentation, rng)[1], sample.scale / other.scale, rng
            )
        if generated or rng.random() < augmentation.pasted:
            frame, mask = paste_clusters(frame, mask, augmentation, rng)
        noise = rng.uniform(0, augmentation.noise) * sample.scale * rng.standard_normal(frame.shape)
        shift, stretch = rng.uniform(-augmentation.exposure, augmentation.exposure, 2)
        offset, scale = sample.offset + shift * sample.scale, sample.scale * np.exp(stretch)
        frame, background = (((v + noise - offset) / scale).astype(np.float32) for v in (frame, background))
        if rng.random() < 0.5:
            frame, background, mask = frame.T, background.T, mask.T
        flip = (slice(None, None, int(rng.choice((-1, 1)))), slice(None, None, int(rng.choice((-1, 1)))))
        return frame[flip].copy(), background[flip].copy(), mask[flip].copy()

    def _any(self, rng: np.random.Generator) -> Sample:
        known = (*self.samples, *self.negatives)
        return known[rng.integers(len(known))]

    def loss(self, model: nn.Module, batch: dict[str, Tensor], progress: Tensor) -> Tensor:
        """Deep supervision: stage k of K weighs 2^(k - K); later training leans on IoU."""
        assert isinstance(model, (LSNet, UNet))  # noqa: S101  (the task built it)
        stages = model.stages(batch["frame"])
        total = torch.zeros((), device=batch["frame"].device)
        for k, stage in enumerate(stages):
            total = total + 0.5 ** (len(stages) - 1 - k) * _stage_loss(stage, batch, progress)
        return total

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Scores on the validation split at native size, with 95 % intervals."""
        device = next(model.parameters()).device
        counts = []
        for sample in self.validation:
            probability = predict(model, sample.image, device)[0]
            counts.append(count_image(probability > _THRESHOLD, sample.mask))
        score, intervals = score_detection(counts), bootstrap_detection(counts)
        return {
            **{name: round(getattr(score, name), 3) for name in intervals},
            "intervals": {
                name: [round(v, 2) if v == v else None for v in limits] for name, limits in intervals.items()
            },
        }


def predict(model: nn.Module, image: NDArray[Any], device: torch.device) -> tuple[FRAME_ARRAY, ...]:
    """(probability, background, target) ``[H, W]`` of one image, the last two in DN."""
    normalised = NORMALISER.apply(image)
    height, width = image.shape
    pad = ((0, -height % MULTIPLE), (0, -width % MULTIPLE))
    padded = np.pad(normalised.value, pad, mode="edge")
    with torch.no_grad():
        outputs = model(torch.from_numpy(padded)[None, None].to(device))
    probability, background, target = (
        np.ascontiguousarray(o[0, 0, :height, :width].float().cpu().numpy()) for o in outputs
    )
    if isinstance(model, LSNet):
        scale, eight_bit = normalised.scale.item(), image.dtype == np.uint8
        probability = confine(probability, normalised.value, background, scale, model.EXTENT, eight_bit=eight_bit)
    return probability, background * normalised.scale + normalised.offset, target * normalised.scale


def _stage_loss(stage: LSNetStage, batch: dict[str, Tensor], progress: Tensor) -> Tensor:
    mask, frame, background = batch["mask"], batch["frame"], batch["background"]
    cross_entropy = F.binary_cross_entropy_with_logits(stage.logit, mask)
    probability = torch.sigmoid(stage.logit)
    overlap = (probability * mask).sum((1, 2, 3))
    union = (probability + mask).sum((1, 2, 3)) - overlap
    soft_iou = (1 - (overlap + 1) / (union + 1)).mean()
    # Decomposition, relative to the targets' own energy so that dim ones count.
    true_target = (frame - background) * mask
    energy = true_target.abs().sum() + 1.0
    target_error = ((stage.target - true_target) * mask).abs().sum() / energy
    background_error = ((stage.background - background) * mask).abs().sum() / energy
    leak = (stage.target * (1 - mask)).abs().mean()
    off_target = ((stage.background - background) * (1 - mask)).abs().mean()
    return (
        10 * (1 - 0.7 * progress) * cross_entropy + soft_iou
        + 0.3 * target_error + 0.6 * background_error + leak + 0.5 * off_target
    )  # fmt: skip
