"""Model cards: found by name or path, and trusted only with the right hash."""

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from glint import cards
from glint.cards import DetectorSpec, ModelCard, TensorSpec, UnmixerSpec, load_card, save_card, zoo_folder, zoo_names
from glint.errors import InputError, ModelError
from glint.processing.normalise import Normaliser
from glint.types import Frame

CONTENT = b"not really ONNX"


def card(**change):
    values = {
        "name": "tiny", "task": "detect", "precision": "fp32", "network": "lsnet-s", "config": {"width": [8, 16]},
        "file": "tiny.fp32.onnx", "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "inputs": (TensorSpec("image", "float32", (-1, 1, 64, 64)),),
        "outputs": (TensorSpec("target", "float32", (-1, 1, 64, 64)),),
        "normaliser": Normaliser("standard", 2.0), "detector": DetectorSpec(multiple=8),
    }  # fmt: skip
    return ModelCard(**{**values, **change})


def unmixer(**change):
    return card(task="unmix", detector=None, unmixer=UnmixerSpec(cells=3), **change)


def save(folder, model, content=CONTENT):
    (folder / model.file).write_bytes(content)
    return save_card(model, folder)


def edit(path, **change):
    """Change keys of a card behind glint's back."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return path


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    folder = tmp_path / "zoo"
    folder.mkdir()
    monkeypatch.setattr(cards, "zoo_folder", lambda: folder)
    return folder


KNOWING = card(
    task="unmix", detector=None, unmixer=UnmixerSpec(radiance_prior=(235.0, 8.66), sigma_sd=0.017, relative=0.2)
)


@pytest.mark.parametrize("model", [card(), unmixer(), KNOWING, card(metrics={"iou": 80.5}, macs=7)])
def test_a_card_survives_its_file(tmp_path, model):
    path = save(tmp_path, model)
    assert path.name == "tiny.fp32.json"
    assert load_card(path) == (model, tmp_path / "tiny.fp32.onnx")


def test_a_card_without_priors_knows_nothing_beforehand(tmp_path):
    path = save(tmp_path, unmixer())
    stored = json.loads(path.read_text())
    del stored["unmixer"]["radiance_prior"], stored["unmixer"]["sigma_sd"]
    spec = load_card(edit(path, **stored))[0].unmixer
    assert (spec.radiance_prior, spec.sigma_sd) == (None, 0.0)


@pytest.mark.parametrize("prior", [[235.0], [235.0, 8.66, 1.0], "235,8.66", ["a", "b"], 235.0])
def test_a_malformed_prior_is_refused(tmp_path, prior):
    path = save(tmp_path, KNOWING)
    stored = json.loads(path.read_text())
    with pytest.raises(ModelError, match="radiance_prior"):
        load_card(edit(path, unmixer={**stored["unmixer"], "radiance_prior": prior}))


def test_the_path_of_the_onnx_file_finds_the_card_beside_it(tmp_path):
    save(tmp_path, card())
    assert load_card(str(tmp_path / "tiny.fp32.onnx"))[0] == card()


def test_a_name_finds_the_released_model_in_the_precision_asked_for(zoo):
    save(zoo, card())
    save(zoo, card(precision="int8", file="tiny.int8.onnx"))
    assert load_card("tiny")[0].precision == "fp32"
    assert load_card("tiny", precision="int8")[1] == zoo / "tiny.int8.onnx"


def test_an_unknown_name_lists_the_released_models(zoo):
    save(zoo, card())
    with pytest.raises(ModelError, match="'lsnet' in fp32") as caught:
        load_card("lsnet")
    assert "tiny" in caught.value.hint


def test_an_empty_zoo_says_so(zoo):
    with pytest.raises(ModelError) as caught:
        load_card("tiny")
    assert "none" in caught.value.hint


def test_the_names_that_the_hint_offers_can_be_asked_for(zoo):
    save(zoo, card())
    with pytest.raises(ModelError) as caught:
        load_card("lsnet")
    offered = caught.value.hint.removeprefix("installed: ").split(";")[0].split(", ")
    assert [load_card(name)[0] for name in offered] == [card()]


@pytest.mark.parametrize("name", ["../tiny", "a/tiny", "", ".", ".."])
def test_a_name_does_not_lead_out_of_the_zoo(zoo, name):
    save(zoo.parent, card())
    with pytest.raises(ModelError, match="no released model"):
        load_card(name)


@pytest.mark.parametrize("suffix", [".json", ".onnx"])
def test_a_missing_card_is_a_model_error(tmp_path, suffix):
    with pytest.raises(ModelError, match="no such file"):
        load_card(tmp_path / f"tiny.fp32{suffix}")


def test_a_missing_model_file_is_named(tmp_path):
    path = save(tmp_path, card())
    (tmp_path / "tiny.fp32.onnx").unlink()
    with pytest.raises(ModelError, match=r"tiny\.fp32\.onnx is missing"):
        load_card(path)


def test_a_model_file_of_another_hash_is_refused_with_both(tmp_path):
    path = save(tmp_path, card(), content=CONTENT + b"!")
    with pytest.raises(ModelError) as caught:
        load_card(path)
    for content in (CONTENT, CONTENT + b"!"):
        assert hashlib.sha256(content).hexdigest()[:12] in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("file", ["../secret.onnx", "sub/tiny.onnx", "/etc/passwd", "..", "", "."])
def test_a_card_cannot_point_out_of_its_folder(tmp_path, file):
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "secret.onnx", folder / "sub" / "tiny.onnx"):
        path.write_bytes(CONTENT)
    with pytest.raises(ModelError):
        load_card(edit(save(folder, card()), file=file))


def test_a_card_of_the_other_task_is_refused(tmp_path):
    path = save(tmp_path, unmixer())
    assert load_card(path, task="unmix")[0] == unmixer()
    with pytest.raises(ModelError, match="tiny is made to unmix, not to detect"):
        load_card(path, task="detect")


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_card_that_is_no_json_object_is_a_model_error(tmp_path, text):
    path = save(tmp_path, card())
    path.write_text(text)
    with pytest.raises(ModelError, match=r"tiny\.fp32\.json"):
        load_card(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha": "1"}, "unknown key 'sha'"),
        ({"inputs": [{"name": "x", "dtype": "float32"}]}, r"inputs\[0\]: missing key 'shape'"),
        ({"inputs": [{"name": "x", "dtype": "float32", "shape": [1.5]}]}, r"shape\[0\]: expected int"),
        ({"normaliser": {"kind": "minmax"}}, "minmax"),
        ({"task": "segment"}, "segment"),
        ({"detector": None}, "needs its section"),
        ({"unmixer": {}}, "needs its section"),
        ({"detector": {"threshold": 1.0}}, r"tiny\.fp32\.json: detector: threshold .*between 0 and 1, got 1\.0"),
        ({"detector": {"multiple": 0}}, "multiple: expected at least 1 and at most 1024, got 0"),
        ({"detector": {"extent": {"reach": -1}}}, r"tiny\.fp32\.json: detector: extent: Extent: expected a reach"),
        ({"precision": "fp8"}, "fp8"),
        ({"format": 2}, "format 2"),
        ({"parameters": "many"}, "parameters: expected int"),
    ],
)
def test_a_malformed_card_is_a_model_error_that_says_where(tmp_path, change, message):
    path = edit(save(tmp_path, card()), **change)
    with pytest.raises(ModelError, match=message):
        load_card(path)


def test_the_hint_of_a_misspelt_key_survives(tmp_path):
    path = edit(save(tmp_path, card()), sha="1")
    with pytest.raises(ModelError) as caught:
        load_card(path)
    assert "sha256" in caught.value.hint


@pytest.mark.parametrize("name", ["", "../../x", "a/b", "a\\b", ".hidden", "a\0", "a\nb", "a\x1b[31m", "x" * 101, "-x"])
def test_a_name_is_never_a_path(name):
    with pytest.raises(InputError, match="name: expected letters"):
        card(name=name)


@pytest.mark.parametrize("name", ["lsnet-s", "v1.2 (of mine)+", "é", "_x"])
def test_usual_names_of_cards_are_taken(name):
    assert card(name=name).name == name


def test_a_card_is_checked_when_it_is_made():
    with pytest.raises(InputError, match="precision"):
        replace(card(), precision="fp64")
    with pytest.raises(InputError, match="section"):
        replace(card(), task="unmix")


def test_the_installed_zoo_lists_what_lies_in_it():
    assert zoo_folder().is_dir()
    assert zoo_names() == sorted(zoo_names())
    assert len(zoo_names()) == len(list(zoo_folder().glob("*.json")))


def test_a_checkpoint_given_as_a_model_is_told_how_to_become_one(zoo):
    with pytest.raises(ModelError, match="is a checkpoint") as caught:
        load_card("runs/best.safetensors")
    assert "glint export" in caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma": 1e308}, {"sigma": 0.0}, {"cells": -1}, {"cells": 10**9}, {"crop": 0}, {"crop": 12}, {"patch": 0},
        {"threshold": -1.0}, {"relative": 1.0}, {"radiance_unit": 0.0}, {"radiance_prior": (0.0, 1.0)},
        {"radiance_prior": (1e3, math.inf)}, {"sigma_sd": -0.1},
    ],
)  # fmt: skip
def test_an_unmixer_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        UnmixerSpec(**wrong)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e308, 1e-300, math.nan])
def test_a_scale_that_no_float32_holds_is_refused(scale):
    with pytest.raises(InputError, match="positive"):
        Normaliser("fixed", scale)


@pytest.mark.parametrize("full_scale", [0.0, -1.0, math.inf, math.nan])
def test_a_full_scale_is_positive(full_scale):
    with pytest.raises(InputError, match="full_scale"):
        Frame(0, 0, np.zeros((2, 2), np.uint8), full_scale=full_scale)
