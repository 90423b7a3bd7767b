"""The table of detectors: tuning finds what is best on the training split, rows are what evaluation says."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.benchmarks.tables import detection as module
from glint.benchmarks.tables.detection import (
    CLASSICAL,
    LEVELS,
    Classical,
    Tuned,
    classical_prediction,
    detection_peers,
    standardised,
    tune,
)
from glint.data.datasets import LabelledImage, labelled_images
from glint.errors import InputError, ModelError, OutputError
from glint.images import write_image
from glint.metrics.detection import count_image, score_detection


@pytest.fixture
def root(tmp_path):
    """Six frames of noise with a spot each: four to tune on, two to measure."""
    rng = np.random.default_rng(0)
    for i in range(6):
        image, mask = rng.normal(60, 2, (64, 80)), np.zeros((64, 80), dtype=np.uint8)
        row, column = rng.integers(10, 50, 2)
        mask[row : row + 3, column : column + 3] = 255
        image[mask > 0] += 60
        write_image(tmp_path / "images" / f"{i}.png", np.round(image).astype(np.uint8))
        write_image(tmp_path / "masks" / f"{i}.png", mask)
    (tmp_path / "train.txt").write_text("0\n1\n2\n3\n")
    (tmp_path / "val.txt").write_text("4\n5\n")
    return tmp_path


def niou(method, settings, level, samples):
    counts = [count_image(standardised(method.saliency(s.image, **settings)) > level, s.mask) for s in samples]
    return score_detection(counts).niou


def test_tuning_finds_the_best_of_the_grid(root):
    samples = list(labelled_images(root, "train"))
    method = Classical(CLASSICAL["top-hat"].saliency, {"size": (3, 5)}, 4)
    best = tune(method, samples)
    scores = {(size, k): niou(method, {"size": size}, k, samples) for size in (3, 5) for k in LEVELS}
    assert best.niou == pytest.approx(max(scores.values()))
    assert scores[best.settings["size"], best.level] == pytest.approx(best.niou)
    assert best.images == 4


@settings(deadline=None, max_examples=40, derandomize=True)
@given(seed=st.integers(0, 200), filled=st.floats(0, 1))
def test_overlaps_at_all_levels_are_those_of_the_masks(seed, filled):
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(0, 20, (6, 7)))  # ties on purpose
    mask = rng.random((6, 7)) < filled
    expected = [score_detection([count_image(values > k, mask)]).niou / 100 for k in LEVELS]
    assert module._overlaps(values, mask) == pytest.approx(expected)


def test_a_map_exceeds_one_half_where_it_exceeds_its_level():
    image = np.random.default_rng(1).random((30, 30))
    method = Classical(lambda image: image**4, {}, 1)
    sample = LabelledImage("a", image, image > 2)
    prediction = classical_prediction(method, Tuned({}, 1.3, 0.0, 1))(sample)
    assert np.array_equal(prediction.probability > 0.5, standardised(image**4) > 1.3)
    assert prediction.probability.min() >= 0 and prediction.probability.max() < 1
    assert prediction.background is None


def test_a_flat_map_predicts_nothing():
    assert not np.any(standardised(np.full((5, 5), 3.0)))


def test_no_image_cannot_be_tuned_on():
    with pytest.raises(InputError, match="at least one image"):
        tune(CLASSICAL["top-hat"], [])


def test_the_table_has_a_row_for_every_method_and_model(root, tmp_path):
    out = tmp_path / "table"
    table = detection_peers(root, out, methods=["top-hat", "mpcm"], models=["lsnet-s"])
    assert [row["method"] for row in table["rows"]] == ["top-hat", "mpcm", "lsnet-s"]
    for row in table["rows"]:
        assert (row["images"], row["targets"], row["pd"]) == (2, 2, 100)
        assert row["ms_per_frame"] > 0
        low, high = row["intervals"]["niou"]
        assert low <= row["niou"] <= high
    assert table["rows"][0]["tuning"]["images"] == 4
    assert set(table["rows"][0]["settings"]) == {"size", "k"}
    assert json.loads((out / "detection.json").read_text()) == table
    text = (out / "detection.md").read_text()
    assert all(f"| {name} |" in text for name in ("top-hat", "mpcm", "lsnet-s"))
    assert f"- top-hat: size {table['rows'][0]['settings']['size']}, k " in text


def test_a_table_can_be_continued_but_not_overwritten_by_accident(root, tmp_path):
    out = tmp_path / "table"
    first = detection_peers(root, out, methods=["top-hat"], models=[])
    with pytest.raises(OutputError, match="exists"):
        detection_peers(root, out, methods=["top-hat"], models=[])
    more = detection_peers(root, out, methods=["top-hat", "mpcm"], models=[], resume=True)
    assert more["rows"][0] == first["rows"][0]
    assert len(more["rows"]) == 2
    (root / "test.txt").write_text("5\n")
    with pytest.raises(InputError, match=r"other settings \(split\)"):
        detection_peers(root, out, methods=["top-hat"], models=[], split="test", resume=True)
    again = detection_peers(root, out, methods=["mpcm"], models=[], overwrite=True)
    assert [row["method"] for row in again["rows"]] == ["mpcm"]


def test_slow_methods_are_tuned_on_a_part_of_the_images(root, tmp_path, monkeypatch):
    monkeypatch.setitem(module.CLASSICAL, "ipi", Classical(CLASSICAL["ipi"].saliency, {"weight": (1.0,)}, 2))
    (row,) = detection_peers(root, tmp_path / "table", methods=["ipi"], models=[])["rows"]
    assert row["tuning"]["images"] == 2
    assert row["pd"] == 100


def test_empty_frames_add_their_columns(root, tmp_path):
    sky = np.round(np.random.default_rng(3).normal(60, 2, (96, 128))).astype(np.uint8)
    write_image(tmp_path / "sky" / "a.png", sky)
    table = detection_peers(
        root, tmp_path / "table", methods=["top-hat"], models=["lsnet-s"], backgrounds=tmp_path / "sky"
    )
    top_hat, model = table["rows"]
    assert top_hat["backgrounds"]["flux"] is None
    assert model["backgrounds"]["flux"]["clusters"] > 0
    assert "false alarms per empty frame" in (tmp_path / "table" / "detection.md").read_text()


def test_bad_arguments_are_refused(root, tmp_path):
    with pytest.raises(InputError, match="'median'"):
        detection_peers(root, tmp_path / "t", methods=["median"], models=[])
    (root / "val.txt").write_text("4\n0\n")
    with pytest.raises(InputError, match="share 1 images: 0"):
        detection_peers(root, tmp_path / "t", methods=["top-hat"], models=[])


def test_a_model_that_will_not_do_is_told_before_anything_is_measured(root, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "tune", lambda *arguments: pytest.fail("tuned"))
    for model, message in (("dscsnet-s-csist", "made to unmix, not to detect"), ("lsnet-xl", "lsnet-xl")):
        with pytest.raises(ModelError, match=message):
            detection_peers(root, tmp_path / "t", methods=["top-hat"], models=[model])
    assert not (tmp_path / "t").exists()


def test_the_module_runs_as_a_command(root, tmp_path, capsys):
    words = ["--data", str(root), "--out", str(tmp_path / "t"), "--methods", "top-hat", "--model", "lsnet-s"]
    assert module.TOOL(words) == 0
    assert capsys.readouterr().out == (tmp_path / "t" / "detection.md").read_text()
    assert module.TOOL([*words, "--resume", "--json"]) == 0
    assert not math.isnan(json.loads(capsys.readouterr().out)["rows"][0]["iou"])
