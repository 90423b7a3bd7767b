"""``glint psf`` and what ``run`` and ``unmix`` make of its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glint.optics import Psf, PsfEstimate
from glint.processing.effective_psf import STEP_PX
from glint.runtime.unmixing.optics_choice import gaussian_samples
from glint.simulation.patches import PatchConfig, Patches, simulate_patches

Glint = Callable[..., Any]
SCENE = "synthetic://?size=320x256&frames=2&clusters=0&singles=20&radiance=150-220&noise=0.5&sigma=0.55&bits=14&seed=3"


def test_frames_tell_the_sigma_and_the_file_holds_it(glint: Glint, tmp_path: Path) -> None:
    done = glint("psf", SCENE, "--out", tmp_path / "psf.json", "--json", "--threads", 1)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result == json.loads((tmp_path / "psf.json").read_text())
    assert result["source"] == SCENE
    assert abs(result["sigma"] - 0.55) < max(4 * result["sigma_error"], 0.01)
    assert result["used"] >= 15
    assert "sigma     0.5" in done.err
    assert glint("psf", SCENE, "--out", tmp_path / "psf.json").code == 2
    assert glint("psf", SCENE, "--out", tmp_path / "psf.json", "--overwrite").code == 0


def patches_of(sigma: float) -> Patches:
    config = PatchConfig(targets=(1, 1), noise=(0.5, 0.5), sigma=(sigma, sigma))
    return simulate_patches(config, 30, np.random.default_rng(2))


def patches_file(folder: Path, sigma: float) -> Path:
    np.save(folder / "patches.npy", patches_of(sigma).image)
    return folder / "patches.npy"


def test_patches_tell_it_too(glint: Glint, tmp_path: Path) -> None:
    done = glint("psf", patches_file(tmp_path, 0.6), "--json")
    assert abs(json.loads(done.out)["sigma"] - 0.6) < 0.01


def test_the_report_shows_the_psf_and_every_spot(glint: Glint, tmp_path: Path) -> None:
    patches, report = patches_file(tmp_path, 0.6), tmp_path / "psf.png"
    faint = np.random.default_rng(1).standard_normal((3, 11, 11)).astype(np.float32)
    np.save(patches, np.concatenate([np.load(patches), faint]))
    done = glint("psf", patches, "--report", report)
    assert done.code == 0, done.err
    picture = np.asarray(Image.open(report))
    panel = picture[:, 300:560]  # the sampled PSF: brightest in its middle
    light = panel[64:344].astype(float).sum(axis=2)
    assert light[130:150, 120:140].mean() > 3 * light[:40].mean()
    assert "spots: faint" in done.err
    assert glint("psf", patches, "--report", report).code == 2
    page = glint("psf", patches, "--report", tmp_path / "psf.html")
    assert (page.code, "--report psf.png" in page.err) == (2, True)
    assert glint("psf", patches, "--report", report, "--overwrite").code == 0


def test_the_gaussian_of_the_report_is_that_of_the_optics() -> None:
    samples = gaussian_samples(PsfEstimate(sigma=0.7, sigma_error=0.01))
    middle = len(samples) // 2
    for row, column in ((0, 0), (2, -3), (-5, 1), (8, 8)):
        x, y = 10 - column * STEP_PX, 10 - row * STEP_PX
        expected = Psf(0.7).render([x], [y], 1.0, (21, 21))[10, 10]
        assert samples[middle + row, middle + column] == pytest.approx(expected, abs=1e-7)


def test_run_and_unmix_take_the_file(glint: Glint, tmp_path: Path) -> None:
    patches, measured = patches_file(tmp_path, 0.6), tmp_path / "psf.json"
    assert glint("psf", patches, "--out", measured).code == 0
    assumed, told = (glint("unmix", patches, *extra).lines for extra in ((), ("--psf", measured)))

    truth = patches_of(0.6)

    def error(lines: list[dict[str, Any]]) -> float:
        """Distance of each patch's brightest target from the only one that is there, pixels."""
        best = [max(line["targets"], key=lambda t: t["radiance"]) for line in lines]
        dx, dy = [t["x"] for t in best] - truth.x[:, 0], [t["y"] for t in best] - truth.y[:, 0]
        return float(np.median(np.hypot(dx, dy)))

    # Taken for narrower than it is, one target looks like several around it, or like an extended one.
    assert error(told) < 0.1
    assert error(told) < error(assumed)
    flags = [flag for line in told for t in line["targets"] for flag in t["flags"]]
    assert flags.count("EXTENDED") <= 0.1 * len(told)
    assert sum(len(line["targets"]) for line in told) < 1.1 * len(told)
    scene = "synthetic://?size=96x80&frames=1&clusters=0&singles=2&seed=2"
    done = glint("run", scene, "--psf", measured, "--json")
    sigma = json.loads(measured.read_text())["sigma"]
    state = json.loads(done.out)["psf"]
    assert (state["kind"], state["sigma"], state["given"]) == ("known", sigma, str(measured))
    state = json.loads(glint("run", scene, "--json").out)["psf"]
    assert (state["sigma"], state["given"]) == (0.5, None)
    state = json.loads(glint("run", scene, "--json", "--psf", "0.62").out)["psf"]
    assert (state["kind"], state["sigma"]) == ("known", 0.62)


def test_too_few_targets_and_wrong_files_are_refused(glint: Glint, tmp_path: Path) -> None:
    few = "synthetic://?size=96x80&frames=1&clusters=0&singles=1&seed=2"
    glint("psf", few, "--out", tmp_path / "psf.json").refused(2, "isolated single targets", "hint:", "frames")
    assert not (tmp_path / "psf.json").exists()
    glint("psf", "synthetic://?size=96x80&frames=0").refused(2, "no frames")
    (tmp_path / "psf.json").write_text("{}")
    glint("run", few, "--psf", tmp_path / "psf.json").refused(2, "sigma")
    glint("unmix", patches_file(tmp_path, 0.5), "--psf", tmp_path / "none.json").refused(2, "none.json")


def clusters_of(sigma: float, number: int, rng: np.random.Generator) -> np.ndarray:
    """Two to five targets within 1.2 widths of the middle, one apart at least, ``[N, 21, 21]``."""
    images = []
    for count in rng.integers(2, 6, number).tolist():
        gaps = np.zeros(1)
        while gaps.min() < sigma:
            place = 10 + rng.uniform(-1.2 * sigma, 1.2 * sigma, (count, 2))
            gaps = np.hypot(*(place[:, None] - place).transpose(2, 0, 1))[np.triu_indices(count, 1)]
        place = place + rng.uniform(-0.5, 0.5, 2)
        light = rng.uniform(40, 80, count) * (2 * np.pi * sigma**2 + 0.6)
        images.append(Psf(sigma).render(place[:, 0], place[:, 1], light, (21, 21)))
    return np.stack(images) + 100 + rng.standard_normal((number, 21, 21))


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_clusters_alone_tell_it(glint: Glint, tmp_path: Path, sigma: float) -> None:
    np.save(tmp_path / "clusters.npy", clusters_of(sigma, 24, np.random.default_rng(4)).astype(np.float32))
    done = glint("psf", tmp_path / "clusters.npy", "--json", "--report", tmp_path / "psf.png")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert abs(result["sigma"] - sigma) < max(0.01 * sigma, 2 * result["sigma_error"])
    assert result["sigma_error"] < 0.05 * sigma
    assert result["clusters"]
    assert result["used"] >= 20
    assert not result["samples"]
    assert "clusters" in done.err
    assert (tmp_path / "psf.png").exists()


@pytest.mark.parametrize("least", ["0", "1", "x"])
def test_a_figure_rests_on_two_spots_at_least(glint: Glint, tmp_path: Path, least: str) -> None:
    assert glint("psf", patches_file(tmp_path, 0.5), "--least", least).code == 2


def test_an_engine_that_is_required_is_never_replaced(glint: Glint, tmp_path: Path) -> None:
    patches, out = patches_file(tmp_path, 0.5), tmp_path / "psf.json"
    for source in (SCENE, patches):
        for option in ("--require", "--engine"):
            glint("psf", source, "--out", out, option, "tensorrt").refused(3, "TensorRT", "hint:")
        glint("psf", source, "--require", "tensorrt", "--engine", "onnxruntime").refused(2, "contradict")
    assert not out.exists()
    assert glint("psf", patches, "--require", "onnxruntime").code == 0
