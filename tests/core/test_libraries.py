"""Libraries and extras stand in pyproject.toml alone."""

import importlib.metadata

import pytest

from glint import libraries as module
from glint.libraries import libraries, library_of
from glint.runtime.commands.doctor import _PURPOSES
from glint.runtime.engines.tensorrt.api import FLAVOURS


@pytest.fixture(autouse=True)
def _fresh():
    module.libraries.cache_clear()
    yield
    module.libraries.cache_clear()


def test_what_glint_asks_for_is_known_with_its_extra():
    found = {one.distribution: one.extra for one in libraries()}
    assert found["numpy"] == found["onnxruntime"] == ""
    assert (found["torch"], found["onnx"], found["av"], found["paho-mqtt"]) == ("train", "export", "video", "mqtt")
    assert not {"glint", "glint-ir", "pytest", "ruff", "mkdocs-material"} & found.keys()
    assert library_of("paho.mqtt.client").fix == "pip install '.[mqtt]' in the checkout of glint"
    assert library_of("PIL.Image").fix == "pip install pillow"
    assert library_of("cuda.bindings").distribution == "cuda-bindings"
    assert library_of("nonesuch") is None


def test_the_doctor_says_what_each_is_for():
    assert {one.distribution for one in libraries() if one.module not in FLAVOURS} == _PURPOSES.keys()


def test_a_checkout_that_is_not_installed_knows_none(monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert libraries() == ()
