"""Scores of predictions by protocol and threshold, and predictions read from files."""

import numpy as np
import pytest
from arithmetic_detector import above, detector
from PIL import Image

from glint.benchmarks.evaluate.detection_scores import (
    THRESHOLDS,
    Prediction,
    detector_prediction,
    evaluate_detection,
    in_protocol,
    resized,
)
from glint.benchmarks.evaluate.stored_predictions import StoredPredictions
from glint.data.datasets import LabelledImage
from glint.errors import InputError, SourceError
from glint.images import write_image
from glint.metrics.detection import count_image, score_detection
from glint.progress import speaking


def sample(name="a", *, shape=(40, 60), at=(10, 20), size=3, dtype=np.uint8):
    image, mask = np.full(shape, 50, dtype=dtype), np.zeros(shape, dtype=bool)
    mask[at[0] : at[0] + size, at[1] : at[1] + size] = True
    image[mask] = 200
    return LabelledImage(name, image, mask)


SAMPLES = [sample("a"), sample("b", at=(20, 30)), sample("c", at=(5, 5), size=5)]


def blurred(one):
    """A probability that falls off around the target: 0.9 inside, 0.4 in a ring of one pixel."""
    probability = np.where(one.mask, 0.9, 0.0)
    rows, columns = np.nonzero(one.mask)
    ring = np.s_[rows.min() - 1 : rows.max() + 2, columns.min() - 1 : columns.max() + 2]
    probability[ring] = np.maximum(probability[ring], 0.4)
    return Prediction(probability)


def test_figures_are_those_of_the_masks_at_the_threshold():
    for threshold in (0.3, 0.5):
        result = evaluate_detection(blurred, SAMPLES, threshold=threshold).result
        counts = [count_image(blurred(s).probability > threshold, s.mask) for s in SAMPLES]
        score = score_detection(counts)
        assert {k: result[k] for k in ("iou", "niou", "f1", "pd", "fa")} == pytest.approx(
            {k: getattr(score, k) for k in ("iou", "niou", "f1", "pd", "fa")}
        )
        assert (result["images"], result["targets"], result["threshold"]) == (3, 3, threshold)
        for name, (low, high) in result["intervals"].items():
            assert low <= result[name] <= high


def test_the_curve_has_the_scores_of_every_threshold():
    curve = evaluate_detection(blurred, SAMPLES).result["curve"]
    assert [point["threshold"] for point in curve] == list(THRESHOLDS)
    by_level = {point["threshold"]: point for point in curve}
    assert by_level[0.5]["iou"] == 100
    assert by_level[0.3]["iou"] == pytest.approx(100 * (9 + 9 + 25) / (25 + 25 + 49))
    assert (by_level[0.95]["iou"], by_level[0.95]["pd"]) == (0, 0)


def test_masks_have_no_curve():
    result = evaluate_detection(lambda one: Prediction(one.mask.astype(float)), SAMPLES).result
    assert result["curve"] == []
    assert result["iou"] == 100


def test_the_worst_images_are_kept_worst_first():
    misses = {"a": 0.0, "b": 1.0, "c": 0.0}

    def predict(one):
        half = one.mask.copy()
        half[: np.nonzero(half)[0].min() + 1] &= one.name != "c"  # one row of five is missing
        return Prediction(half * (1.0 - misses[one.name]))

    evaluation = evaluate_detection(predict, SAMPLES, worst=2)
    assert evaluation.result["worst"] == [{"name": "b", "iou": 0.0}, {"name": "c", "iou": 80.0}]
    assert [e.sample.name for e in evaluation.worst] == ["b", "c"]
    assert not evaluation.worst[0].predicted.any()


def test_the_legacy_matching_is_reported_beside():
    truth, guess = np.zeros((20, 30), dtype=bool), np.zeros((20, 30))
    truth[10, 10] = truth[10, 14] = True
    guess[9, 12] = guess[11, 9] = 1.0
    samples = [LabelledImage("a", np.zeros((20, 30), dtype=np.uint8), truth)]
    result = evaluate_detection(lambda one: Prediction(guess), samples, legacy=True).result
    assert (result["pd"], result["legacy"]["pd"]) == (100, 50)
    assert (result["fa"], result["legacy"]["fa"]) == (0, pytest.approx(1e6 / 600))
    assert result["matching"] == "one-to-one"
    assert "legacy" not in evaluate_detection(lambda one: Prediction(guess), samples).result


def test_images_without_targets_leave_pd_unknown():
    empty = [LabelledImage("a", np.full((20, 20), 9, dtype=np.uint8), np.zeros((20, 20), dtype=bool))]
    result = evaluate_detection(lambda one: Prediction(0.0 * one.image), empty).result
    assert result["pd"] is None
    assert result["intervals"]["pd"] == [None, None]
    assert result["niou"] == 100


def test_a_square_protocol_resizes_image_and_mask():
    original = sample(shape=(100, 50), at=(40, 10), size=10, dtype=np.uint16)
    square = in_protocol(original, "256")
    assert square.image.shape == square.mask.shape == (256, 256)
    assert square.image.dtype == np.float32
    rows, columns = np.nonzero(square.mask)
    assert (rows.min(), rows.max()) == (102, 127)  # the centres that fall into 40..50 of 100
    assert (columns.min(), columns.max()) == (51, 101)
    inside = square.mask & ~np.roll(square.mask, 6, 0)
    assert square.image[inside].max() == 200
    assert in_protocol(original, "native") is original
    assert square.full_scale is None
    assert in_protocol(sample(dtype=np.uint8), "256").full_scale == 255  # where masks end depends on it


def test_shrinking_averages_and_keeps_the_mean():
    image = np.random.default_rng(0).random((64, 96))
    small = resized(image, (16, 24))
    assert small.shape == (16, 24)
    assert small.mean() == pytest.approx(image.mean(), abs=0.01)
    assert small.std() < 0.5 * image.std()


def test_a_prediction_of_another_size_is_brought_to_the_image():
    samples = [sample(size=8)]
    half = resized(samples[0].mask.astype(np.float32), (20, 30))
    result = evaluate_detection(lambda one: Prediction(half), samples).result
    assert result["pd"] == 100
    assert result["iou"] > 50
    square = evaluate_detection(lambda one: Prediction(half), samples, protocol="256").result
    assert (square["protocol"], square["pd"]) == ("256", 100)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(InputError, match="native, 256, 512"):
        evaluate_detection(blurred, SAMPLES, protocol="128")


def test_a_detector_is_taken_apart_too():
    result = evaluate_detection(detector_prediction(detector(above(50))), SAMPLES).result
    assert result["iou"] == 100
    score = result["decomposition"]
    assert score["background_error_on"] == pytest.approx(0, abs=1e-3)
    assert score["target_energy_on"] == pytest.approx(100)
    assert score["target_energy_off"] == 0


def test_an_image_that_is_all_target_has_no_background_to_score():
    filled = sample(shape=(6, 8), at=(2, 2), size=4)
    result = evaluate_detection(detector_prediction(detector(above(50))), [filled]).result
    assert result["iou"] == 100
    assert "decomposition" not in result


# Stored predictions


def store(folder, arrays):
    folder.mkdir()
    for name, array in arrays.items():
        if array.dtype in (np.uint8, np.uint16):
            write_image(folder / f"{name}.png", array)
        elif array.dtype == np.float32:
            Image.fromarray(array).save(folder / f"{name}.tif")
        else:
            np.save(folder / f"{name}.npy", array)
    return folder


FORMS = {
    "0/255": lambda m: m.astype(np.uint8) * np.uint8(255),
    "0/1": lambda m: m.astype(np.uint8),
    "16 bit": lambda m: m.astype(np.uint16) * np.uint16(65535),
    "float": lambda m: m.astype(np.float32),
    "npy": lambda m: m.astype(np.float64)[None],
    "bool npy": lambda m: m,
    "12 bit": lambda m: m.astype(np.uint16) * np.uint16(4095),
    "0/255 float": lambda m: m.astype(np.float32) * np.float32(255),
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_of_any_form_are_the_same_masks(tmp_path, form):
    folder = store(tmp_path / "pred", {s.name: FORMS[form](s.mask) for s in SAMPLES})
    result = evaluate_detection(StoredPredictions(folder, [s.name for s in SAMPLES]), SAMPLES).result
    assert (result["iou"], result["pd"], result["fa"], result["curve"]) == (100, 100, 0, [])


@pytest.mark.parametrize("scale", [255, 65535])
def test_maps_are_scaled_by_their_type(tmp_path, scale):
    kind = np.uint8 if scale == 255 else np.uint16
    maps = {s.name: np.round(blurred(s).probability * scale).astype(kind) for s in SAMPLES}
    stored = StoredPredictions(store(tmp_path / "pred", maps), list(maps))
    for one in SAMPLES:
        assert stored(one).probability == pytest.approx(blurred(one).probability, abs=0.51 / scale)
    assert len(evaluate_detection(stored, SAMPLES).result["curve"]) == len(THRESHOLDS)


def test_a_dark_map_among_others_is_not_a_mask(tmp_path):
    maps = {"a": np.eye(4, dtype=np.uint8), "b": np.diag([200, 100, 50, 20]).astype(np.uint8)}
    stored = StoredPredictions(store(tmp_path / "pred", maps), ["a", "b"])
    dark = stored(LabelledImage("a", maps["a"], maps["a"] > 0))
    assert dark.probability.max() == pytest.approx(1 / 255)


def test_bad_predictions_are_refused(tmp_path):
    names = [s.name for s in SAMPLES]
    masks = {s.name: FORMS["0/255"](s.mask) for s in SAMPLES}
    with pytest.raises(SourceError, match="no such folder"):
        StoredPredictions(tmp_path / "nowhere", names)
    folder = store(tmp_path / "few", {"a": masks["a"]})
    with pytest.raises(SourceError, match="2 of 3 images, the first is 'b'"):
        StoredPredictions(folder, names)
    mixed = store(tmp_path / "mixed", {**masks, "b": FORMS["16 bit"](SAMPLES[1].mask)})
    with pytest.raises(InputError, match="uint16, uint8"):
        StoredPredictions(mixed, names)
    logits = store(tmp_path / "logits", {s.name: 20.0 * s.mask - 10 for s in SAMPLES})
    scales = store(tmp_path / "scales", {**masks, "b": FORMS["0/1"](SAMPLES[1].mask)})
    with pytest.raises(InputError, match="masks of different values"):
        StoredPredictions(scales, names)
    both = store(tmp_path / "both", masks)
    np.save(both / "a.npy", masks["a"])
    with pytest.raises(SourceError, match="and other files of the same names"):
        StoredPredictions(both, names)
    with pytest.raises(InputError, match="-10 to 10") as caught:
        StoredPredictions(logits, names)(SAMPLES[0])
    assert "sigmoid" in caught.value.hint
    cube = store(tmp_path / "cube", {"a": np.zeros((2, 4, 4))})
    with pytest.raises(InputError, match=r"\(2, 4, 4\)"):
        StoredPredictions(cube, ["a"])
    (tmp_path / "cube" / "a.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"a\.npy"):
        StoredPredictions(tmp_path / "cube", ["a"])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_maps_of_8_bits_in_wider_types_are_scaled_by_what_they_hold(tmp_path, dtype, capsys):
    maps = {s.name: (254 * blurred(s).probability).astype(dtype) for s in SAMPLES}
    with speaking():
        stored = StoredPredictions(store(tmp_path / "pred", maps), list(maps))
    assert stored.scale == 255
    assert "taken as parts of 255" in capsys.readouterr().err


def test_predictions_that_cannot_be_meant_are_told(tmp_path, capsys):
    def told(name, form):
        stored = StoredPredictions(store(tmp_path / name, {s.name: form(s.mask) for s in SAMPLES}), [SAMPLES[0].name])
        stored(SAMPLES[0])
        with speaking():
            stored.tell()
        return capsys.readouterr().err

    assert "are they inverted?" in told("inverted", lambda m: FORMS["0/255"](~m))
    assert "no prediction exceeds 0.5, the greatest is 0.2" in told("dark", lambda m: 0.2 * m.astype(np.float64))
    assert "of another size" in told("small", lambda m: FORMS["0/255"](m)[::2, ::2])
    assert told("right", FORMS["0/255"]) == ""
    if SAMPLES[0].mask.shape[0] != SAMPLES[0].mask.shape[1]:
        with pytest.raises(InputError, match="for an image of shape") as caught:
            told("turned", lambda m: FORMS["0/255"](m).T)
        assert "rows and columns are exchanged" in caught.value.hint
