"""``GLINT_KEY`` from end to end: what each command does with engines of this key, of another one and of none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_models
from fake_gpu import install_gpu

from glint.cli import main
from glint.errors import ModelError
from glint.formats.seal import KEY, unsealed
from glint.runtime.commands.doctor import doctor
from glint.runtime.engines.tensorrt.cache import cache_folder, read_info, sidecar_path, unreadable_entries
from glint.runtime.engines.tensorrt.engine import TensorRTEngine
from glint.runtime.pipeline import rehearsal

OURS, THEIRS = "of-this-device-8d1f", "of-another-one-77aa"
SCENE = "synthetic://?size=96x64&frames=2&clusters=1&noise=2&bits=14&seed=1"
UNDER_ANOTHER = "was changed after it was written, or sealed under another GLINT_KEY"
UNDER_NONE = "was changed after it was written, or sealed under a GLINT_KEY, and none is set here"

SetKey = Callable[[str], None]


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SetKey:
    """A GPU, an empty cache, and a way to another key; "" takes it away."""
    install_gpu(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(rehearsal, "rehearse", lambda: None)
    monkeypatch.setenv(KEY, OURS)

    def set_key(value: str) -> None:
        if value:
            monkeypatch.setenv(KEY, value)
        else:
            monkeypatch.delenv(KEY)

    return set_key


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return small_models.unmixer(tmp_path)


def plan() -> Path:
    (path,) = cache_folder().glob("*.plan")
    return path


def forge() -> None:
    """Exchange the plan, and seal it as anybody without the key can."""
    path = plan()
    path.write_bytes(b"another plan")
    document = json.loads(sidecar_path(path).read_text())
    document |= {"plan_sha256": hashlib.sha256(b"another plan").hexdigest(), "seal": ""}
    document["seal"] = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    sidecar_path(path).write_text(json.dumps(document))


def edit() -> None:
    path = sidecar_path(plan())
    path.write_text(path.read_text().replace('"precision": "fp32"', '"precision": "fp16"'))


def flip() -> None:
    content = bytearray(plan().read_bytes())
    content[len(content) // 2] ^= 1
    plan().write_bytes(content)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """All that a command has said, which is never a key."""
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert OURS not in text
    assert THEIRS not in text
    return text


def test_build_takes_what_it_sealed_under_the_same_key(
    key: SetKey, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(model)]) == 0
    assert "built in" in said(capsys)
    assert main(["build", str(model), "--no-build"]) == 0
    assert "cache hit" in said(capsys)
    for path in cache_folder().rglob("*"):
        assert not path.is_file() or OURS.encode() not in path.read_bytes()


CASES: list[tuple[str, str, Callable[[], None] | None, str]] = [
    (OURS, THEIRS, None, UNDER_ANOTHER),
    (OURS, "", None, UNDER_NONE),
    ("", OURS, None, UNDER_ANOTHER),
    (OURS, OURS, forge, UNDER_ANOTHER),
    (OURS, OURS, edit, UNDER_ANOTHER),
    (OURS, OURS, flip, "truncated or was changed"),
]
IDS = ["wrong key", "no key", "key since", "forged", "edited", "damaged"]


@pytest.mark.parametrize(("then", "now", "harm", "why"), CASES, ids=IDS)
def test_every_command_says_why_it_does_not_take_an_engine(
    key: SetKey,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    then: str,
    now: str,
    harm: Callable[[], None] | None,
    why: str,
) -> None:
    key(then)
    assert main(["build", str(model)]) == 0
    said(capsys)
    if harm is not None:
        harm()
    key(now)

    assert main(["build", str(model), "--no-build"]) == 3
    text = said(capsys)
    assert why in text
    assert "hint: run the same without --no-build" in text

    assert main(["build", str(model), "--dry-run"]) == 0
    assert f"would:     build it: {'plan' if harm is flip else 'sidecar'}" in said(capsys)

    assert main(["inspect", str(plan())]) == 2
    text = said(capsys)
    assert (why if harm is not flip else "the hash is") in text
    assert "hint: build the engine again: glint build" in text

    assert main(["parity", str(plan()), str(model)]) in (2, 3)
    assert why in said(capsys)

    assert unreadable_entries() == (harm is not flip)
    (seals,) = (c for c in doctor()["checks"] if c["name"] == "seals")
    assert ("signatures with GLINT_KEY" if now else "checksums, GLINT_KEY is not set") in seals["detail"]
    assert (seals["state"] == "ok") == (harm is flip)  # whole sidecar; the plan is hashed when it is loaded
    main(["doctor"])
    assert "GLINT_KEY" in said(capsys)

    assert main(["build", str(model)]) == 0
    text = said(capsys)
    assert why in text
    assert "built in" in text
    assert main(["build", str(model), "--no-build"]) == 0
    assert "cache hit" in said(capsys)
    assert unreadable_entries() == 0


@pytest.mark.parametrize(("now", "why"), [(THEIRS, UNDER_ANOTHER), ("", UNDER_NONE)], ids=["wrong key", "no key"])
def test_a_run_builds_engines_of_another_key_again_and_says_why(
    key: SetKey, tmp_path: Path, capsys: pytest.CaptureFixture[str], now: str, why: str
) -> None:
    words = ["run", SCENE, "--engine", "tensorrt", "--precision", "fp32", "--detector", "lsnet-s", "--no-refine"]
    results: list[Any] = []
    for number, value in enumerate([OURS, OURS, now]):
        key(value)
        out = tmp_path / f"{number}.jsonl"
        assert main([*words, "--out", str(out)]) == 0
        text = said(capsys)
        assert (why in text) == (number == 2)
        assert ("build: lsnet-s" in text) == (number != 1)
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        results.append([line["targets"] for line in lines])
        for path in tmp_path.glob("*.json*"):
            assert OURS not in path.read_text() and THEIRS not in path.read_text()
    assert results[0] == results[1] == results[2]


def test_an_engine_of_another_key_is_never_loaded(key: SetKey, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["build", str(model)]) == 0
    key(THEIRS)
    from glint.runtime.engines.tensorrt.loaded_plan import LoadedPlan

    def never(*_: object) -> None:
        raise AssertionError("it was given to TensorRT")

    monkeypatch.setattr(LoadedPlan, "_deserialise", never)
    with pytest.raises(ModelError, match="sealed under another GLINT_KEY") as caught:
        TensorRTEngine(plan())
    assert "glint build" in (caught.value.hint or "")


def test_timings_of_another_key_are_not_given_to_the_builder(key: SetKey, model: Path) -> None:
    assert main(["build", str(model)]) == 0
    (timings,) = cache_folder().glob("timing-*.cache")
    assert unsealed(timings.read_bytes())
    key(THEIRS)
    assert unsealed(timings.read_bytes()) is None
    assert main(["build", str(model), "--overwrite"]) == 0
    assert unsealed(timings.read_bytes())
    assert read_info(plan()).model == "tiny-unmixer"


def test_a_copy_for_another_machine_is_taken_only_with_the_key(
    key: SetKey, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.plan"
    assert main(["build", str(model), "--out", str(out)]) == 0
    said(capsys)
    assert main(["inspect", str(out)]) == 0
    assert "tiny-unmixer" in said(capsys)
    key("")
    assert main(["inspect", str(out)]) == 2
    assert UNDER_NONE in said(capsys)
