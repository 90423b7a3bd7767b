"""Single points and clusters through other optics than the model's: ``python -m glint.benchmarks.tables.optics``.

Singles: isolated points on a flat background through the whole pipeline; how many come out as several, how far their
positions are off over the Cramer-Rao bound, and how many lie within their stated error. Clusters: 2 to 5 targets within
two widths of the PSF, at least one apart, whose masks are those of their true light; the optics are known, or learned
from a stream of such clusters with no, 20 % or 50 % single targets. The Cramer-Rao column has the score of the truth
scattered by the bound, with every count right.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.reporting.text import markdown_table
from glint.benchmarks.tables.table_file import refuse_unknown
from glint.benchmarks.tool import Tool
from glint.cli import positive_int, seed, words
from glint.metrics.unmixing import score_unmixing
from glint.optics import Psf
from glint.runtime.pipeline.detector import Detection, Detector, find_blobs
from glint.runtime.pipeline.pipeline import Pipeline, to_frame
from glint.runtime.unmixing.optics_state import KNOWN, OpticsState
from glint.runtime.unmixing.point_model import shine_any
from glint.runtime.unmixing.unmixer import Unmixer
from glint.types import Frame, TargetFlag

PARTS = ("singles", "clusters")
SIGMAS_PX = (0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)
AXIS_RATIOS = (1.0, 1.5)
SNRS = (10, 30, 200)
CLUSTER_SIGMAS_PX = (0.5, 0.7, 1.0, 1.5, 2.0)
SINGLE_SHARES = (0.0, 0.2, 0.5)  # shares of single targets among the spots that optics are learned from
_LEARNED_FRAMES = 6
_LEAST_INFORMATION = 1e-9  # added to a matrix to keep it regular
_DRAWS = 20  # of errors as small as the bound
_SIDE_PX, _STEP_PX, _TILE_PX = 320, 80, 41  # px
_NOISE_DN = 4.0  # of 14 bits
_LEVEL_DN = 400.0
_RADIANCE_DN = (220.0, 250.0)  # of a cluster's targets, at noise 1

Array = NDArray[np.float64]


def gaussian_shape(sigma: float, ratio: float, angle: float) -> tuple[float, float, float]:
    """u, e and shear of a Gaussian (see ``point_model``)."""
    long, short = sigma**2 * ratio, sigma**2 / ratio
    cos, sin = math.cos(angle), math.sin(angle)
    variance_y, both = long * sin**2 + short * cos**2, (long - short) * sin * cos
    return math.log(sigma), 0.5 * math.log(sigma**2 / variance_y), both / variance_y


def _point(x: float, y: float, radiance: float, shape: tuple[float, float, float]) -> tuple[Array, Array]:
    """Jacobian ``[6, t^2]`` and image ``[t, t]`` of one point."""
    jacobian, model = np.empty((6, _TILE_PX * _TILE_PX)), np.empty(_TILE_PX * _TILE_PX)
    shine_any(np.array([x, y, radiance, 0.0, 0.0, 0.0, *shape]), jacobian, model, _TILE_PX)
    return jacobian, model.reshape(_TILE_PX, _TILE_PX)


def single_frames(
    sigma: float, ratio: float, snr: float, frames: int, number: int
) -> Iterator[tuple[Frame, Array, tuple[float, float, float]]]:
    """Frames with 16 points each; their truth (x, y, radiance, bound of x, bound of y) and the shape of the PSF."""
    rng = np.random.default_rng([number, round(100 * sigma), round(10 * ratio), round(snr)])
    shape = gaussian_shape(sigma, ratio, float(rng.uniform(0, math.pi)))
    bright = snr * _NOISE_DN * (2 * math.pi * sigma**2 + 0.6)
    for index in range(frames):
        image, truth = np.full((_SIDE_PX, _SIDE_PX), _LEVEL_DN), []
        for x, y in np.argwhere(np.ones((4, 4))) * _STEP_PX + _STEP_PX / 2 + rng.uniform(-8, 8, (16, 2)):
            radiance = bright * rng.uniform(0.7, 1.4)
            left, top = round(x) - _TILE_PX // 2, round(y) - _TILE_PX // 2
            jacobian, model = _point(x - left, y - top, radiance, shape)
            image[top : top + _TILE_PX, left : left + _TILE_PX] += model
            bound = np.sqrt(np.diag(np.linalg.inv(jacobian @ jacobian.T / _NOISE_DN**2))[:2])
            truth.append((x, y, radiance, *bound))
        image += rng.normal(0, _NOISE_DN, image.shape)
        data = np.clip(np.round(image), 0, 65535).astype(np.uint16)
        yield Frame(index, index, data, full_scale=65535.0), np.array(truth), shape


def singles(pipeline: Pipeline, frames: list[tuple[Frame, Array, tuple[float, float, float]]]) -> dict[str, Any]:
    """What becomes of isolated points."""
    found = split = extended = 0
    over_bound: list[float] = []
    within: list[bool] = []
    for frame, truth, _ in frames:
        targets = pipeline(frame).targets
        for x, y, _, *bound in truth:
            near = np.flatnonzero(np.hypot(targets.x - x, targets.y - y) < 4)
            found += len(near) > 0
            split += len(near) > 1
            extended += bool((targets.flags[near] & TargetFlag.EXTENDED).any())
            if len(near) == 1:
                off = np.array([targets.x[near[0]] - x, targets.y[near[0]] - y])
                over_bound += (off / bound).tolist()
                stated = np.array([targets.sigma_x[near[0]], targets.sigma_y[near[0]]])
                within += (np.abs(off) < stated).tolist()
    return {
        "found": found,
        "split": split,
        "extended": extended,
        "over_bound": round(float(np.sqrt(np.mean(np.square(over_bound)))), 3) if over_bound else None,
        "within": round(float(np.mean(within)), 3) if within else None,
        "optics": pipeline.optics.kind,
        "sigma_found": round(pipeline.optics.sigma, 4),
    }


def cluster_frame(
    sigma: float, rng: np.random.Generator, noise: float, singles: float = 0.0
) -> tuple[Frame, Detection, list[Array]]:
    """A frame with 16 clusters, a detection that has their true light as masks, and the truth of each ``[K, 3]``.

    ``singles``: share of the clusters that are one target.
    """
    light, clusters = np.zeros((_SIDE_PX, _SIDE_PX)), []
    for x, y in np.argwhere(np.ones((4, 4))) * _STEP_PX + _STEP_PX / 2 + rng.uniform(-8, 8, (16, 2)):
        count = 1 if singles and rng.random() < singles else int(rng.integers(2, 6))
        while True:
            offset = rng.uniform(-sigma, sigma, (count, 2))
            gap = np.hypot(*(offset[:, None] - offset).transpose(2, 0, 1))[np.triu_indices(count, 1)]
            if gap.min(initial=np.inf) >= sigma:
                break
        radiance = rng.uniform(*_RADIANCE_DN, count)
        light += Psf(sigma).render(x + offset[:, 0], y + offset[:, 1], radiance, light.shape)
        clusters.append(np.column_stack([np.array([x, y]) + offset, radiance]))
    image = (_LEVEL_DN + 64 * (light + noise * rng.standard_normal(light.shape))).round()
    data = np.clip(image, 0, 65535).astype(np.uint16)
    residual = (64 * light).astype(np.float32)
    probability = (light > max(4 * noise, 0.05 * light.max())).astype(np.float32)
    blobs = find_blobs(probability, residual.__getitem__, 0.5)
    above = (data - _LEVEL_DN).astype(np.float32)
    return Frame(0, 0, data, full_scale=65535.0), Detection(blobs, probability, above), clusters


def clusters(
    pipeline: Pipeline, sigma: float, frames: int, number: int, noise: float = 1.0, singles: float = 0.0
) -> dict[str, Any]:
    """Scores of clusters, distances over 2 sigma, so that those of the protocol are 1.

    Optics that are not known are learned from other frames before, in which a share of ``singles`` is one target.
    """
    if pipeline.learner is not None:
        before = np.random.default_rng([number, round(100 * sigma), round(100 * singles)])
        for _ in range(_LEARNED_FRAMES):
            frame, detection, _ = cluster_frame(sigma, before, noise, singles)
            pipeline.look(frame, detection, frame.full_scale)
    rng = np.random.default_rng([number, round(100 * sigma)])
    rows: list[list[float]] = []
    truths: list[Array] = []
    right = patch = 0
    for _ in range(frames):
        frame, detection, places = cluster_frame(sigma, rng, noise)
        scene = pipeline.look(frame, detection, frame.full_scale, learn=False)
        unmixed = pipeline.unmixer(scene.view.patches, full_scale=scene.view.full_scale)
        targets = to_frame(pipeline.settle(scene, unmixed), frame, scene)
        for truth in places:
            near = np.hypot(targets.x - truth[:, 0].mean(), targets.y - truth[:, 1].mean()) < max(4.0, 4 * sigma)
            right += int(near.sum()) == len(truth)
            place = np.column_stack([targets.x, targets.y, targets.radiance / 64, targets.score])[near]
            rows += [[patch, *row] for row in place.tolist()]
            truths.append(truth)
            patch += 1
    return {
        "optics": pipeline.optics.kind,
        "sigma_found": round(pipeline.optics.sigma, 4),
        "clusters": patch,
        "count_right": round(100 * right / patch, 2),
        "cso_map": cso_map(rows, truths, 2 * sigma),
        "cso_map_bound": bound_score(truths, sigma, noise, rng),
    }


def bound_score(truths: list[Array], sigma: float, noise: float, rng: np.random.Generator) -> float:
    """CSO-mAP of the truth scattered by its bound, the mean of ``_DRAWS``: one of 64 clusters is off by 2 at random."""
    scores = []
    for _ in range(_DRAWS):
        rows = [[i, *row] for i, one in enumerate(truths) for row in scattered(one, sigma, noise, rng).tolist()]
        scores.append(cso_map(rows, truths, 2 * sigma))
    return round(float(np.mean(scores)), 2)


def scattered(
    truth: Array, sigma: float, noise: float, rng: np.random.Generator, radiance_sd: float = math.inf,
    full_scale: float = math.inf,
) -> Array:  # fmt: skip
    """The truth with errors as small as any unbiased estimate can have: x, y, radiance, score ``[K, 4]``.

    Args:
        truth: x, y and radiance ``[K, 3]``.
        sigma, noise: of the PSF, px, and of a pixel, DN.
        rng: of the errors.
        radiance_sd: standard deviation to which the radiance of a target is told, DN.
        full_scale: light from which on a pixel tells nothing, DN.
    """
    x, y, radiance = truth.T
    middle, shape = np.round([x.mean(), y.mean()]) - _TILE_PX // 2, (_TILE_PX, _TILE_PX)
    targets = x - middle[0], y - middle[1], radiance
    seen = Psf(sigma).render(*targets, shape) < full_scale
    jacobian = Psf(sigma).jacobian(*targets, shape)[seen].reshape(-1, 3 * len(truth))
    fisher = jacobian.T @ jacobian / noise**2 + _LEAST_INFORMATION * np.eye(3 * len(truth))
    fisher[np.arange(2, len(fisher), 3), np.arange(2, len(fisher), 3)] += radiance_sd**-2.0
    covariance = np.linalg.inv(fisher)
    error = rng.multivariate_normal(np.zeros(len(covariance)), covariance, check_valid="ignore").reshape(-1, 3)
    variance = np.diag(covariance).reshape(-1, 3)
    return np.column_stack([truth + error, np.exp(-(variance[:, 0] + variance[:, 1]) / 0.01)])


def cso_map(rows: list[list[float]], truths: list[Array], unit: float) -> float:
    """CSO-mAP of rows (patch, x, y, radiance, score), positions in units of ``unit`` px."""
    columns = np.array(rows).reshape(-1, 5).T
    padded = np.full((len(truths), 5, 3), np.nan)
    for i, truth in enumerate(truths):
        padded[i, : len(truth)] = truth
    padded[..., :2] /= unit
    radiance = np.nan_to_num(padded[..., 2])
    score = score_unmixing(
        columns[0].astype(np.int64), columns[1] / unit, columns[2] / unit, columns[3], columns[4],
        truth_x=padded[..., 0], truth_y=padded[..., 1], truth_radiance=radiance,
    )  # fmt: skip
    return round(float(score.cso_map), 2)


def optics_table(*, frames: int = 4, seed: int = 1, parts: Sequence[str] = PARTS) -> dict[str, Any]:
    """Measure everything; arguments are the options of the tool."""
    refuse_unknown("part", parts, PARTS)
    detector, unmixer = Detector.open(threads=1), Unmixer.open(threads=1)
    table: dict[str, Any] = {"frames": frames, "seed": seed, "singles": [], "clusters": []}
    for sigma in SIGMAS_PX if "singles" in parts else ():
        for ratio in AXIS_RATIOS:
            for snr in SNRS:
                scenes = list(single_frames(sigma, ratio, snr, frames, seed))
                _, e, shear = scenes[0][2]
                for psf in (None, OpticsState(KNOWN, sigma, e=e if ratio != 1 else 0.0, shear=shear)):
                    row = singles(Pipeline(detector, unmixer, psf=psf), scenes)
                    given = "auto" if psf is None else "given"
                    table["singles"].append({"psf": given, "sigma": sigma, "ratio": ratio, "snr": snr, **row})
    for sigma in CLUSTER_SIGMAS_PX if "clusters" in parts else ():
        for share in (None, *SINGLE_SHARES):
            pipeline = Pipeline(detector, unmixer, psf=Psf(sigma) if share is None else None)
            told = "known" if share is None else f"learned, {100 * share:.0f} % single"
            row = clusters(pipeline, sigma, frames, seed, singles=share or 0.0)
            table["clusters"].append({"sigma": sigma, "psf": told, **row})
    return table


def markdown(table: dict[str, Any]) -> str:
    """Both tables."""
    columns = ("psf", "sigma", "ratio", "snr", "found", "split", "extended", "over_bound", "within", "sigma_found")
    text = markdown_table(columns, ([str(row[c]) for c in columns] for row in table["singles"]))
    for given in ("auto", "given"):
        rows = [row for row in table["singles"] if row["psf"] == given]
        found, split = sum(r["found"] for r in rows), sum(r["split"] for r in rows)
        text.append(f"\n{given}: {split} of {found} single points split ({100 * split / max(found, 1):.2f} %)")
    scores = ("sigma", "psf", "sigma_found", "clusters", "count_right", "cso_map", "cso_map_bound")
    text += ["", *markdown_table(scores, ([str(row[c]) for c in scores] for row in table["clusters"]))]
    return "\n".join(text) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument(
        "--frames", type=positive_int, default=4, help="of each condition, 16 spots each (default: %(default)s)"
    )
    parser.add_argument("--seed", type=seed, default=1, help="of the scenes (default: %(default)s)")
    parser.add_argument("--parts", type=words, default=list(PARTS), metavar="A,B", help=f"of {', '.join(PARTS)}")


TOOL = Tool("Unmixing through other optics.", optics_table, add_arguments, text=markdown, file=True)


if __name__ == "__main__":
    sys.exit(TOOL())
