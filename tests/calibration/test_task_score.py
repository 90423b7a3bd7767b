"""Task scores: the runtime's own way, on data that are made once."""

import numpy as np
import pytest

from glint.calibration.task_score import TASK_CONDITIONS, score_detector, score_unmixer, task_patches
from glint.cards import DetectorSpec, ModelCard, TensorSpec, load_card
from glint.data.datasets import LabelledImage
from glint.errors import InputError
from glint.metrics.unmixing import score_unmixing
from glint.processing.normalise import Normaliser
from glint.runtime.engines.base import Engine
from glint.runtime.engines.onnxruntime import OnnxRuntimeEngine
from glint.runtime.unmixing.unmix import STAGES, unmix


class Bright(Engine):
    """Calls a pixel a target if it is far above the mean of its frame."""

    name = "bright"
    inputs = (TensorSpec("frame", "float32", (1, 1, -1, -1)),)
    outputs = tuple(TensorSpec(name, "float32", (1, 1, -1, -1)) for name in ("probability", "background"))

    def _infer(self, arrays):
        return {"probability": (arrays["frame"] > 2).astype(np.float32), "background": np.zeros_like(arrays["frame"])}


BRIGHT = ModelCard(
    name="bright", task="detect", precision="fp32", network="bright", config={}, file="", sha256="",
    inputs=Bright.inputs, outputs=Bright.outputs, normaliser=Normaliser("standard"), detector=DetectorSpec(),
)  # fmt: skip


@pytest.fixture(scope="module")
def unmixer():
    card, path = load_card("dscsnet-s-csist")
    return OnnxRuntimeEngine(path, threads=1), card


def test_the_scores_are_those_of_what_glint_unmix_says(unmixer):
    patches = task_patches(["8bit"], number=12, seed=3)
    scores = score_unmixer(*unmixer, patches)
    targets = unmix(patches["8bit"].image, unmixer="dscsnet-s-csist")
    expected = score_unmixing(
        targets.blob, targets.x, targets.y, targets.radiance, targets.score,
        truth_x=patches["8bit"].x, truth_y=patches["8bit"].y, truth_radiance=patches["8bit"].radiance,
    )  # fmt: skip
    assert scores["8bit"]["refined"] == expected
    assert scores["8bit"].keys() == set(STAGES)


def test_stages_that_nobody_wants_are_not_computed_and_change_nothing(unmixer):
    patches = task_patches(["n1"], number=10)
    assert score_unmixer(*unmixer, patches, stages=["grid"])["n1"] == {
        "grid": score_unmixer(*unmixer, patches)["n1"]["grid"]
    }


def test_the_pace_of_several_sets_counts_all_of_their_patches(unmixer):
    seen = []
    score_unmixer(*unmixer, task_patches(["n1", "n2"], number=5), stages=["grid"], progress=seen.append)
    assert seen == [5, 10]
    images = [LabelledImage(f"{i}", np.zeros((32, 32), np.uint8), np.zeros((32, 32), bool)) for i in range(3)]
    seen.clear()
    score_detector(Bright(), BRIGHT, images, progress=seen.append)
    assert seen == [1, 2, 3]


def test_a_set_is_the_same_whatever_else_is_asked_for():
    alone, among = task_patches(["n2"], number=5, seed=7)["n2"], task_patches(number=5, seed=7)
    assert tuple(among) == TASK_CONDITIONS
    assert np.array_equal(alone.image, among["n2"].image)
    assert np.isinf(among["8bit"].full_scale).all() and (among["8sat"].full_scale == 255).all()


def test_an_unknown_condition_is_refused():
    with pytest.raises(InputError, match="'rain'"):
        task_patches(["8bit", "rain"])


def test_a_detector_is_scored_on_labelled_images():
    image = np.zeros((32, 48), dtype=np.uint8)
    image[5:7, 8:10] = 200  # a target
    image[20:22, 30:31] = 200  # two false pixels
    truth = np.zeros(image.shape, dtype=bool)
    truth[5:7, 8:10] = truth[5, 40] = True  # and one pixel that nobody sees
    score = score_detector(Bright(), BRIGHT, [LabelledImage("a", image, truth)])
    assert (score.iou, score.pd, score.targets) == (pytest.approx(100 * 4 / 7), 50, 2)
    assert score.fa == pytest.approx(1e6 * 2 / image.size)
