"""Training LSNet on real frames (see ``augmentation`` for how they are varied and what is added to them)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from glint.config import to_dict
from glint.data.boxes import boxed_images
from glint.data.datasets import labelled_images
from glint.depth import depth_of
from glint.images import read_image
from glint.processing.cfar import against_clutter
from glint.processing.extent import confine
from glint.processing.inpaint import reach_of
from glint.processing.point_evidence import with_point_evidence
from glint.simulation.scenes import generate_background
from glint.training.networks.lsnet import MULTIPLE, LSNet, LSNetConfig, LSNetStage
from glint.training.networks.registry import build
from glint.training.networks.unet import UNet, UNetConfig
from glint.training.pictures import write_sheet
from glint.training.tasks.augmentation import (
    FRAME_ARRAY,
    NORMALISER,
    Augmentation,
    Sample,
    crop_sample,
    disturb,
    paste_clusters,
    statistics_after,
    veil,
)
from glint.training.tasks.camera_faults import Crop
from glint.training.tasks.data_sets import DataSet, checked_sets, empty_frames
from glint.training.tasks.hard import HardPlaces
from glint.training.tasks.validation import THRESHOLD, Validation

_SHEET_FRAMES = 12  # frames of the contact sheet
_BOXED_WEIGHT = 0.5  # weight of targets of which the box is known only
_ALARM_WEIGHT = 0.6  # weight of the likeliest false alarms
_ALARM_PIXELS_PER_CROP = 12  # per crop, the likeliest
_ALARM_DISTANCE_PX = 3  # from the nearest target: nearer ones are its edge


class DetectionTask:
    """LSNet, or a U-Net, on one or several sets of frames and on empty backgrounds.

    Args:
        network, config: what is trained.
        data: folder or folders of labelled frames, of masks or of boxes; shares are relative to each other.
        augmentation: how they are varied.
        backgrounds: more folders of frames without targets, beside ``backgrounds/`` in the sets.
        validate_on: most frames of a set that a validation looks at, evenly taken; None: all.
        hard: where a detector raised false alarms in frames that are trained on.

    Raises:
        GlintError: one of its subclasses, for bad data.
    """

    best_metric = "score"

    def __init__(
        self, network: str, config: LSNetConfig | UNetConfig, data: Path | Sequence[DataSet | Path],
        augmentation: Augmentation | None = None, *, backgrounds: Sequence[Path] = (), validate_on: int | None = None,
        hard: HardPlaces | None = None,
    ) -> None:  # fmt: skip
        self.network, self.config = network, config
        self.augmentation = augmentation or Augmentation()
        self.sets = checked_sets(data)
        empty = empty_frames(self.sets, backgrounds)
        named = [dict(_samples(s)) for s in self.sets]
        self.samples = [[*of.values()] for of in named]
        shares = np.array([s.share for s in self.sets])
        self.shares = shares / shares.sum()
        bare = {(name, p.stem): Sample.of(read_image(p)) for name, trained, _ in empty for p in trained}
        self.negatives = [*bare.values()]
        by_name = bare | {(s.root.resolve().name, n): v for s, of in zip(self.sets, named) for n, v in of.items()}
        self.hard = [(h.frame_of(by_name), h.place) for h in hard.places] if hard else []
        self.validation = Validation.of(self.sets, [(name, held) for name, _, held in empty], validate_on)
        self.data = {
            "folder": "+".join(s.root.resolve().name for s in self.sets),
            "train": sum(map(len, self.samples)), "val": self.validation.labelled,
            "sets": [
                {"folder": s.root.resolve().name, "share": round(float(share), 4), "train": len(of)}
                for s, share, of in zip(self.sets, self.shares, self.samples)
            ],
            "protocol": f"validation on val, native size, threshold {THRESHOLD}",
            "negatives": [p.stem for _, trained, _ in empty for p in trained], "normaliser": to_dict(NORMALISER),
            "augmentation": to_dict(self.augmentation),
        }  # fmt: skip
        if hard:
            self.data["hard"] = {"places": len(hard.places), "found_by": hard.found_by}

    def build(self) -> nn.Module:
        """A fresh network."""
        return build(self.network, to_dict(self.config))

    def batch(self, size: int, rng: np.random.Generator, device: torch.device) -> dict[str, Tensor]:
        """``frame``, ``background`` (normalised), ``mask``, ``known`` and ``box``, each ``[N, 1, crop, crop]``."""
        drawn = zip(*(self._draw(rng) for _ in range(size)))
        stacked = (torch.from_numpy(np.stack(d)[:, None]).to(device).float() for d in drawn)
        return dict(zip(Crop._fields, stacked))

    def _draw(self, rng: np.random.Generator) -> Crop:
        augmentation, kind, at = self.augmentation, rng.random(), None
        generated = kind < augmentation.generated
        if self.hard and rng.random() < augmentation.hard:
            generated = False
            sample, at = self.hard[rng.integers(len(self.hard))]
        elif generated:
            sample = Sample.of(generate_background((augmentation.crop, augmentation.crop), rng))
        elif self.negatives and kind < augmentation.generated + augmentation.negatives:
            sample = self.negatives[rng.integers(len(self.negatives))]
        else:
            of = self.samples[rng.choice(len(self.samples), p=self.shares)]
            sample = of[rng.integers(len(of))]
        crop = crop_sample(sample, augmentation, rng, at)
        if rng.random() < augmentation.veiled:
            other = self._any(rng)
            behind = crop_sample(other, augmentation, rng).background
            frame, background = veil(crop.frame, crop.background, behind, sample.scale / other.scale, rng)
            crop = crop._replace(frame=frame, background=background)
        before = crop.frame
        if generated or rng.random() < augmentation.pasted:
            frame, mask = paste_clusters(crop.frame, crop.mask, augmentation, rng)
            crop = crop._replace(frame=frame, mask=mask, known=crop.known | reach_of(mask & ~crop.mask))
        crop = disturb(crop, sample, augmentation, rng)
        offset, scale = statistics_after(sample, before, crop.frame)
        shift, stretch = rng.uniform(-augmentation.exposure, augmentation.exposure, 2)
        offset, scale = offset + shift * scale, scale * np.exp(stretch)
        frame, background = (((v - offset) / scale).astype(np.float32) for v in (crop.frame, crop.background))
        crop = Crop(frame, background, *crop[2:])
        if rng.random() < 0.5:
            crop = Crop(*(v.T for v in crop))  # type: ignore[arg-type]
        flip = (slice(None, None, int(rng.choice((-1, 1)))), slice(None, None, int(rng.choice((-1, 1)))))
        return Crop(*(v[flip].copy() for v in crop))  # type: ignore[arg-type]

    def _any(self, rng: np.random.Generator) -> Sample:
        """A frame that is known everywhere: others may hold unlabelled targets."""
        whole = [of for of in self.samples if of[0].known is None]
        number = sum(map(len, whole)) + len(self.negatives)
        if not number:
            return self.samples[0][rng.integers(len(self.samples[0]))]
        pick = int(rng.integers(number))
        for of in whole:
            if pick < len(of):
                return of[pick]
            pick -= len(of)
        return self.negatives[pick]

    def loss(self, model: nn.Module, batch: dict[str, Tensor], progress: Tensor) -> Tensor:
        """Deep supervision: stage k of K weighs 2^(k - K); later training leans on IoU."""
        assert isinstance(model, (LSNet, UNet))  # noqa: S101  (the task built it)
        stages = model.stages(batch["frame"])
        total = torch.zeros((), device=batch["frame"].device)
        for k, stage in enumerate(stages):
            total = total + 0.5 ** (len(stages) - 1 - k) * _stage_loss(stage, batch, progress)
        return total

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Scores on the validation splits and held-back empty frames at native size (see ``validation``)."""
        device = next(model.parameters()).device
        return self.validation.score(lambda image: predict(model, image, device)[0])

    def picture(self, model: nn.Module, path: Path) -> None:
        """A contact sheet of some frames of the validation, PNG: what is true, and what the model finds."""
        device = next(model.parameters()).device
        tiles = [
            (name, image, mask, predict(model, image, device)[0] > THRESHOLD)
            for name, image, mask in self.validation.samples(_SHEET_FRAMES)
        ]
        write_sheet(path, tiles)


def _samples(of: DataSet) -> Iterator[tuple[str, Sample]]:
    if of.boxed:
        yield from ((b.name, Sample.of_box(b)) for b in boxed_images(of.root, "train"))
    else:
        yield from ((s.name, Sample.of(s.image, s.mask)) for s in labelled_images(of.root, "train"))


def predict(model: nn.Module, image: NDArray[Any], device: torch.device) -> tuple[FRAME_ARRAY, ...]:
    """(probability, background, target) ``[H, W]`` of one image, the last two in DN."""
    depth = depth_of(image)
    normalised = NORMALISER.apply(image, unit=depth.divisor)
    height, width = image.shape
    pad = ((0, -height % MULTIPLE), (0, -width % MULTIPLE))
    padded = np.pad(normalised.value, pad, mode="edge")
    with torch.no_grad():
        outputs = model(torch.from_numpy(padded)[None, None].to(device))
    probability, background, target = (
        np.ascontiguousarray(o[0, 0, :height, :width].float().cpu().numpy()) for o in outputs
    )
    if isinstance(model, LSNet):
        scale = normalised.scale.item()
        probability = against_clutter(probability, model.CFAR)
        probability = with_point_evidence(probability, normalised.value, model.POINTS, depth.unit / scale)
        probability = confine(probability, normalised.value, background, scale, model.EXTENT, depth=depth)
    return probability, background * normalised.scale + normalised.offset, target * normalised.scale


def _stage_loss(stage: LSNetStage, batch: dict[str, Tensor], progress: Tensor) -> Tensor:
    known, frame, background = batch["known"], batch["frame"], batch["background"]
    mask = batch["mask"] * known
    off = known - mask
    cross_entropy = (F.binary_cross_entropy_with_logits(stage.logit, mask, reduction="none") * known).mean()
    probability = torch.sigmoid(stage.logit) * known
    overlap = (probability * mask).sum((1, 2, 3))
    union = (probability + mask).sum((1, 2, 3)) - overlap
    soft_iou = (1 - (overlap + 1) / (union + 1)).mean()
    # Decomposition, relative to the targets' own energy so that dim ones count.
    true_target = (frame - background) * mask
    energy = true_target.abs().sum() + 1.0
    target_error = ((stage.target - true_target) * mask).abs().sum() / energy
    background_error = ((stage.background - background) * mask).abs().sum() / energy
    leak = (stage.target * off).abs().mean()
    off_target = ((stage.background - background) * off).abs().mean()
    return (
        10 * (1 - 0.7 * progress) * cross_entropy + soft_iou + _BOXED_WEIGHT * _box_loss(stage.logit, batch["box"])
        + _ALARM_WEIGHT * _alarm_loss(stage.logit, mask, known)
        + 0.3 * target_error + 0.6 * background_error + leak + 0.5 * off_target
    )  # fmt: skip


def _alarm_loss(logit: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy of the likeliest false alarms away from targets; all ``[N, 1, H, W]``.

    A false alarm is a few pixels of the crop: in a mean over all it counts for nothing.
    """
    side = 2 * _ALARM_DISTANCE_PX + 1
    away = known * (1 - F.max_pool2d(mask, side, stride=1, padding=_ALARM_DISTANCE_PX))
    alarms = torch.where(away > 0, logit, torch.full_like(logit, -30.0)).flatten(1).topk(_ALARM_PIXELS_PER_CROP).values
    return F.softplus(alarms).mean()


def _box_loss(logit: Tensor, box: Tensor) -> Tensor:
    """Cross-entropy of the highest probability in each box, where some pixel is target; both ``[N, 1, H, W]``."""
    highest = torch.where(box > 0, logit, torch.full_like(logit, -30.0)).amax((1, 2, 3))
    return (F.softplus(-highest) * box.amax((1, 2, 3))).mean()
