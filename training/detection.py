"""Training LSNet on real frames, with rendered clusters pasted on real and generated backgrounds.

Truth for the decomposition: B* is the frame inpainted (harmonically) inside the dilated target
mask, T* = D - B* inside the mask and 0 outside. Without it B + T = D is satisfied by any split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from glint.config import to_dict
from glint.datasets import image_files, labelled_images
from glint.errors import InputError
from glint.images import read_image
from glint.leaks import refuse_shared_names
from glint.metrics.detection import count_image, score_detection
from glint.normalise import Normaliser
from glint.optics import Psf
from glint.patches import draw_offsets
from glint.scenes import generate_background
from glint.training.lsnet import MULTIPLE, LSNet, LSNetConfig, Stage
from glint.training.networks import build
from glint.training.unet import UNet, UNetConfig

NORMALISER = Normaliser("standard", 1.0)
FRAME_ARRAY = NDArray[np.float32]


def inpaint(image: NDArray[np.floating], hole: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Harmonic inpainting: Laplace's equation inside ``hole`` with the image as its boundary.

    Pixels beyond the frame's edge are mirrored. Both arrays are ``[H, W]``; a hole that is the
    whole frame has no boundary.

    Raises:
        InputError: if nothing is left outside the hole.
    """
    if hole.all():
        raise InputError("inpaint: the hole covers the whole frame")
    result = image.astype(np.float64)
    rows, columns = np.nonzero(hole)
    if not len(rows):
        return result
    number = np.full(hole.shape, -1, dtype=np.int64)
    number[rows, columns] = np.arange(len(rows))
    height, width = hole.shape
    right_side = np.zeros(len(rows))
    entries = [(np.arange(len(rows)), np.arange(len(rows)), np.full(len(rows), 4.0))]
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        r, c = np.clip(rows + dy, 0, height - 1), np.clip(columns + dx, 0, width - 1)
        neighbour = number[r, c]
        inside = neighbour >= 0
        entries.append((np.flatnonzero(inside), neighbour[inside], np.full(inside.sum(), -1.0)))
        right_side[~inside] += result[r[~inside], c[~inside]]
    i, j, v = (np.concatenate(part) for part in zip(*entries))
    matrix = sparse.csr_matrix((v, (i, j)), shape=(len(rows), len(rows)))
    result[rows, columns] = scipy.sparse.linalg.spsolve(matrix, right_side)
    return result


@dataclass(frozen=True, eq=False)
class Sample:
    """A training frame: D, B*, mask, and the offset and scale of its normalisation, all ``[H, W]``."""

    frame: FRAME_ARRAY
    background: FRAME_ARRAY
    mask: NDArray[np.bool_]
    offset: float
    scale: float

    @staticmethod
    def of(image: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Sample:
        """From an image with its target mask (None: empty)."""
        if mask is None:
            mask = np.zeros(image.shape, dtype=bool)
        hole = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=2)
        background = inpaint(image, hole).astype(np.float32)
        statistics = NORMALISER.apply(image)
        return Sample(image.astype(np.float32), background, mask, statistics.offset.item(), statistics.scale.item())


@dataclass(frozen=True)
class Augmentation:
    """How samples are varied.

    Attributes:
        crop: pixels per side.
        scale: smallest and largest magnification (drawn log-uniformly).
        on_target: share of the crops that are centred near a target.
        negatives: share drawn from the empty real backgrounds.
        generated: share drawn from generated backgrounds.
        pasted: share of samples that get rendered clusters, all of the generated ones included.
        clusters: most clusters pasted into a crop.
        contrast: peak of a pasted cluster over the local standard deviation (drawn log-uniformly).
        sigma: of the PSF of pasted clusters, pixels.
        noise: largest standard deviation of added noise, in standard deviations of the frame.
    """

    crop: int = 256
    scale: tuple[float, float] = (0.6, 1.7)
    on_target: float = 0.6
    negatives: float = 0.25
    generated: float = 0.08
    pasted: float = 0.3
    clusters: int = 4
    contrast: tuple[float, float] = (4.0, 40.0)
    sigma: tuple[float, float] = (0.45, 1.2)
    noise: float = 0.08


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
        frame, background, mask = _crop(sample, augmentation, rng)
        if generated or rng.random() < augmentation.pasted:
            frame, mask = _paste_clusters(frame, mask, augmentation, rng)
        noise = rng.uniform(0, augmentation.noise) * sample.scale * rng.standard_normal(frame.shape)
        frame, background = (
            ((v + noise - sample.offset) / sample.scale).astype(np.float32) for v in (frame, background)
        )
        if rng.random() < 0.5:
            frame, background, mask = frame.T, background.T, mask.T
        flip = (slice(None, None, int(rng.choice((-1, 1)))), slice(None, None, int(rng.choice((-1, 1)))))
        return frame[flip].copy(), background[flip].copy(), mask[flip].copy()

    def loss(self, model: nn.Module, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Deep supervision: stage k of K weighs 2^(k - K); later training leans on IoU."""
        assert isinstance(model, (LSNet, UNet))  # noqa: S101  (the task built it)
        stages = model.stages(batch["frame"])
        total = torch.zeros((), device=batch["frame"].device)
        for k, stage in enumerate(stages):
            total = total + 0.5 ** (len(stages) - 1 - k) * _stage_loss(stage, batch, progress)
        return total

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Scores on the validation split at native size and threshold 0.5."""
        device = next(model.parameters()).device
        counts = []
        for sample in self.validation:
            probability = predict(model, sample.image, device)[0]
            counts.append(count_image(probability > 0.5, sample.mask))
        score = score_detection(counts)
        return {name: round(getattr(score, name), 3) for name in ("iou", "niou", "f1", "pd", "fa")}


def predict(model: nn.Module, image: NDArray[Any], device: torch.device) -> tuple[FRAME_ARRAY, ...]:
    """(probability, background, target) ``[H, W]`` of one image, the last two in DN."""
    normalised = NORMALISER.apply(image)
    height, width = image.shape
    pad = ((0, -height % MULTIPLE), (0, -width % MULTIPLE))
    padded = np.pad(normalised.value, pad, mode="edge")
    with torch.no_grad():
        outputs = model(torch.from_numpy(padded)[None, None].to(device))
    probability, background, target = (o[0, 0, :height, :width].float().cpu().numpy() for o in outputs)
    return probability, background * normalised.scale + normalised.offset, target * normalised.scale


def _stage_loss(stage: Stage, batch: dict[str, Tensor], progress: float) -> Tensor:
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
        + 0.3 * (target_error + background_error) + leak + 0.5 * off_target
    )  # fmt: skip


def _crop(
    sample: Sample, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[FRAME_ARRAY, FRAME_ARRAY, NDArray[np.bool_]]:
    """A magnified window of (frame, background, mask), mirrored where it leaves the frame."""
    scale = np.exp(rng.uniform(*np.log(augmentation.scale)))
    size = round(augmentation.crop / scale)
    height, width = sample.frame.shape
    rows, columns = np.nonzero(sample.mask)
    if len(rows) and rng.random() < augmentation.on_target:
        pick = rng.integers(len(rows))
        top, left = (int(v - size // 2 + rng.integers(-size // 3, size // 3 + 1)) for v in (rows[pick], columns[pick]))
    else:
        top, left = (int(rng.integers(min(0, n - size), max(0, n - size) + 1)) for n in (height, width))
    index = np.ix_(_mirror(np.arange(top, top + size), height), _mirror(np.arange(left, left + size), width))
    frame, background, mask = sample.frame[index], sample.background[index], sample.mask[index]
    if size == augmentation.crop:
        return frame, background, mask
    zoom = augmentation.crop / size
    big = [ndimage.zoom(v, zoom, order=1, mode="nearest", grid_mode=True) for v in (frame, background)]
    big_mask = ndimage.zoom(mask.astype(np.float32), zoom, order=1, mode="nearest", grid_mode=True) >= 0.5
    return big[0], big[1], big_mask


def _mirror(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    folded = np.mod(index, 2 * size)
    return np.where(folded < size, folded, 2 * size - 1 - folded)


def _paste_clusters(
    frame: FRAME_ARRAY, mask: NDArray[np.bool_], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[FRAME_ARRAY, NDArray[np.bool_]]:
    """Add rendered groups of 1-5 targets within one pixel; their mask is where they exceed a fifth of their peak."""
    size = frame.shape[0]
    empty, frame, mask = frame, frame.copy(), mask.copy()
    for _ in range(rng.integers(1, augmentation.clusters + 1)):
        count = rng.integers(1, 6, 1)
        members = np.nan_to_num(draw_offsets(count, 0.5, rng)[0, : count[0]])
        centre = rng.uniform(10, size - 11, 2)
        psf = Psf(rng.uniform(*augmentation.sigma))
        position = members - 0.5 + centre
        image = psf.render(position[:, 0], position[:, 1], rng.uniform(0.5, 1.0, count[0]), (size, size))
        column, row = np.round(centre).astype(int)
        local = empty[max(0, row - 10) : row + 11, max(0, column - 10) : column + 11]
        contrast = np.exp(rng.uniform(*np.log(augmentation.contrast)))
        image *= contrast * max(float(local.std()), 1.0) / image.max()
        frame += image.astype(np.float32)
        mask |= image >= 0.2 * image.max()
    return frame, mask
