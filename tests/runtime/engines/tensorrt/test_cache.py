"""The engine cache: keys, sidecars that were tampered with, and plans that do not fit."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.cards import TensorSpec
from glint.errors import ModelError
from glint.runtime.engines.tensorrt.cache import (
    ANY_GPU,
    InputRange,
    Sidecar,
    Target,
    cache_folder,
    difference,
    entries,
    entry_path,
    read_info,
    sidecar_path,
    store,
    verify,
)

ORIN = Target("tensorrt", "10.3.0", "Orin", "8.7", "12.6", "540.4.0")
PROFILES = ((InputRange("patch", (1, 1, 7, 7), (64, 1, 7, 7), (256, 1, 7, 7)),),)
OPTIONS = {"precision": "fp16", "weak": False, "dla": None, "workspace": None}
PLAN = bytes(range(256)) * 8


def info(**changes):
    values = {
        "model": "tiny",
        "precision": "fp16",
        "onnx_sha256": "ab" * 32,
        "plan_sha256": "",
        "target": ORIN,
        "options": OPTIONS,
        "profiles": PROFILES,
        "inputs": (TensorSpec("patch", "float32", (-1, 1, 7, 7)),),
        "outputs": (TensorSpec("grid", "float32", (-1, 1, 21, 21)),),
        "audit": {"layers": {"fp16": 3}},
        "built": "2026-01-01T00:00:00+00:00",
        "seconds": 1.5,
    }
    return Sidecar(**{**values, **changes})


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GLINT_CACHE", str(tmp_path))
    return cache_folder()


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "tiny.plan"
    store(path, PLAN, info())
    return path


def test_a_stored_plan_comes_back_and_fits(plan):
    assert plan.read_bytes() == PLAN
    assert dataclasses.replace(read_info(plan), plan_sha256="", seal="") == info()
    assert verify(plan, ORIN, onnx_sha256="ab" * 32) is None


def forge(path):
    """Exchange the plan, and seal it as anybody can."""
    path.write_bytes(b"another plan")
    document = json.loads(sidecar_path(path).read_text())
    document |= {"plan_sha256": hashlib.sha256(b"another plan").hexdigest(), "seal": ""}
    document["seal"] = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    sidecar_path(path).write_text(json.dumps(document))


def test_a_seal_without_a_key_is_a_checksum_that_anybody_can_make(plan):
    forge(plan)
    assert verify(plan, ORIN) is None


def test_with_a_key_only_its_owner_can_seal(monkeypatch, tmp_path):
    monkeypatch.setenv("GLINT_KEY", "of this device")
    path = tmp_path / "tiny.plan"
    store(path, PLAN, info())
    assert verify(path, ORIN) is None
    forge(path)
    assert "changed after it was written, or sealed under another GLINT_KEY" in verify(path, ORIN)


@pytest.mark.parametrize(("then", "now"), [("", "one"), ("one", "two"), ("one", "")])
def test_an_engine_under_another_key_is_as_good_as_none(monkeypatch, tmp_path, then, now):
    monkeypatch.setenv("GLINT_KEY", then)
    path = tmp_path / "tiny.plan"
    store(path, PLAN, info())
    monkeypatch.setenv("GLINT_KEY", now)
    assert "was changed" in verify(path, ORIN)


def test_the_sidecar_is_plain_json_beside_the_plan(plan):
    assert sidecar_path(plan).name == "tiny.plan.json"
    assert json.loads(sidecar_path(plan).read_text())["target"]["tensorrt"] == "10.3.0"


def changed(value):
    """The same kind of value, but another."""
    if isinstance(value, dict):
        return {**value, "new": 1}
    if isinstance(value, list):
        return [*value, value[0]]
    return value + "x" if isinstance(value, str) else value + 1


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(Sidecar)])
def test_no_field_of_a_sidecar_can_be_edited_unnoticed(plan, key):
    document = json.loads(sidecar_path(plan).read_text())
    document[key] = changed(document[key])
    sidecar_path(plan).write_text(json.dumps(document))
    assert verify(plan, ORIN) is not None
    with pytest.raises(ModelError) as caught:
        read_info(plan)
    assert "glint build" in caught.value.hint


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=100, deadline=None)
def test_any_bytes_for_a_sidecar_are_a_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("plan") / "a.plan"
    sidecar_path(path).write_bytes(content)
    with pytest.raises(ModelError):
        read_info(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Sidecar)]), values, min_size=1))
@settings(max_examples=200, deadline=None)
def test_any_values_in_a_sidecar_are_a_clear_error(tmp_path_factory, replacements):
    path = tmp_path_factory.mktemp("plan") / "a.plan"
    store(path, PLAN, info())
    document = json.loads(sidecar_path(path).read_text())
    if {**document, **replacements} == document:
        return
    sidecar_path(path).write_text(json.dumps({**document, **replacements}))
    assert verify(path, ORIN) is not None


@given(st.integers(0, len(PLAN) - 1), st.integers(1, 255))
@settings(max_examples=50, deadline=None)
def test_a_truncated_or_changed_plan_does_not_fit(tmp_path_factory, position, change):
    path = tmp_path_factory.mktemp("plan") / "a.plan"
    store(path, PLAN, info())
    path.write_bytes(PLAN[:position])
    assert "truncated or was changed" in verify(path, ORIN)
    path.write_bytes(PLAN[:position] + bytes([PLAN[position] ^ change]) + PLAN[position + 1 :])
    assert "truncated or was changed" in verify(path, ORIN)


@pytest.mark.parametrize(
    ("here", "reason"),
    [
        ({"flavour": "tensorrt_rtx"}, "built for tensorrt 10.3.0, this is tensorrt_rtx 10.3.0"),
        ({"tensorrt": "10.4.0"}, "built for tensorrt 10.3.0, this is tensorrt 10.4.0"),
        ({"sm": "11.0"}, "built for compute capability 8.7, this is compute capability 11.0"),
        ({"gpu": "Thor"}, "built for GPU Orin, this is GPU Thor"),
        ({"cuda": "13.0"}, "built for CUDA 12.6, this is CUDA 13.0"),
        ({"driver": "580"}, None),
        ({}, None),
    ],
)
def test_what_a_plan_is_tied_to(here, reason):
    found = difference(info(), dataclasses.replace(ORIN, **here))
    assert found == (reason and f"it was {reason}")


def test_the_machine_is_compared_before_the_plan_is_read(plan):
    plan.unlink()
    assert "tensorrt 10.4.0" in verify(plan, dataclasses.replace(ORIN, tensorrt="10.4.0"))


def test_a_plan_built_ahead_of_time_fits_every_gpu_of_its_capability():
    ahead = info(target=Target("tensorrt_rtx", "1.7", ANY_GPU, "8.6"))
    assert difference(ahead, Target("tensorrt_rtx", "1.7", "RTX A2000", "8.6", "13.0")) is None
    assert difference(ahead, Target("tensorrt_rtx", "1.7", "RTX 4090", "8.9", "13.0")) is not None


def test_every_part_of_the_key_counts_but_the_driver(cache):
    machines = [
        dataclasses.replace(ORIN, **{field.name: "other"})
        for field in dataclasses.fields(Target)
        if field.name != "driver"
    ]
    arguments = [
        ("ab", ORIN, PROFILES, OPTIONS),
        ("cd", ORIN, PROFILES, OPTIONS),
        *(("ab", machine, PROFILES, OPTIONS) for machine in machines),
        ("ab", ORIN, PROFILES * 2, OPTIONS),
        ("ab", ORIN, PROFILES, {**OPTIONS, "weak": True}),
    ]
    paths = {entry_path("tiny", *a) for a in arguments}
    assert len(paths) == len(arguments)
    other_driver = dataclasses.replace(ORIN, driver="999")
    assert entry_path("tiny", "ab", other_driver, PROFILES, OPTIONS) in paths


def test_names_of_models_do_not_leave_the_folder(cache):
    path = entry_path("../../etc/passwd", "ab", ORIN, PROFILES, OPTIONS)
    assert path.parent == cache


def test_entries_come_newest_first_without_the_unreadable(cache):
    for number in range(3):
        path = cache / f"{number}.plan"
        store(path, PLAN, info(model=f"m{number}"))
        os.utime(sidecar_path(path), (number, number))
    sidecar_path(cache / "1.plan").write_text("{}")
    assert [(path.name, found.model) for path, found in entries()] == [("2.plan", "m2"), ("0.plan", "m0")]


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("GLINT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "engines"
    monkeypatch.delenv("GLINT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "glint" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "glint" / "engines"
