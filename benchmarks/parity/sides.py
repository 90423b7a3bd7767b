"""What ``glint parity`` can compare: checkpoints, ONNX files, models by name or card, and TensorRT plans."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from glint.benchmarks.parity.layers import Graph
from glint.cards import PRECISIONS, ModelCard, TensorSpec, load_card
from glint.errors import CheckFailedError, InputError, ModelError
from glint.files import sha256
from glint.runtime.engines.base import Arrays, Engine, EngineProxy
from glint.runtime.engines.choose import ENGINES, open_engine
from glint.runtime.engines.onnxruntime import OnnxRuntimeEngine
from glint.runtime.engines.tensorrt.cache import Sidecar


class NotFiniteError(CheckFailedError):
    """A network computes numbers that are NaN or infinite."""


def _finite(engine: Engine, label: str) -> EngineProxy:
    """The engine, which lets no NaN pass."""

    def answer(arrays: Arrays) -> Arrays:
        said = engine._infer(arrays)  # Engine.infer would tell less
        for name, values in said.items():
            if bad := int((~np.isfinite(values)).sum()):
                raise NotFiniteError(f"{label}: {bad} of {values.size} numbers of {name!r} are NaN or infinite")
        return said

    return EngineProxy(engine, answer)


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two.

    Attributes:
        text: as the user named it, without folders.
        engine: loaded.
        precision: ``fp32``, ``fp16`` or ``int8``.
        card: if it has one.
        file: what was loaded.
        model: name of the model, "" if unknown.
        info: of a plan.
    """

    text: str
    engine: EngineProxy
    precision: str
    card: ModelCard | None
    file: Path
    model: str = ""
    info: Sidecar | None = None

    @property
    def onnx(self) -> Path | None:
        """The ONNX file if it is one."""
        return self.file if self.file.suffix == ".onnx" else None

    def graph(self, other: Side) -> Graph | None:
        """What one can look into layer by layer; of a plan the ONNX file that it was built from, if it is to be found.

        Args:
            other: the other side, whose file that may be.
        """
        if self.onnx is not None:
            return Graph(self.onnx, tensorrt=self.engine.details()["name"] == "tensorrt")
        if self.info is None:
            return None
        files = [*_files_of(self.info.model), *([] if other.onnx is None else [other.onnx])]
        made_of = next((file for file in files if sha256(file) == self.info.onnx_sha256), None)
        weak = self.info.precision if self.info.options.get("weak") else None
        return None if made_of is None else Graph(made_of, tensorrt=True, weak=weak)

    def facts(self) -> dict[str, Any]:
        """What was compared, JSON-ready."""
        return {
            "name": self.text, "model": self.model or None, "precision": self.precision, "file": self.file.name,
            "sha256": sha256(self.file), "engine": self.engine.details(),
        }  # fmt: skip


def open_pair(reference: str, candidate: str, stack: ExitStack, *, threads: int | None) -> tuple[Side, Side, ModelCard]:
    """Load both; ``stack`` closes them.

    Returns:
        reference, candidate, and the card by which both are read: the candidate's, because that is what
        ships; where it has none, the reference's.

    Raises:
        GlintError: one of its subclasses, if one cannot be loaded, or if the two are not of one network.
    """
    first = _open(reference, threads)
    stack.enter_context(first.engine)
    second = _open(candidate, threads)
    stack.enter_context(second.engine)
    card = second.card or first.card or _card_of_plan(second) or _card_of_plan(first)
    if card is None:
        raise InputError(
            f"neither {reference} nor {candidate} has a model card, which says how patches or frames go in",
            hint="put NAME.json beside NAME.onnx, or compare with a released model or a checkpoint",
        )
    _refuse_different(first, second)
    return first, second, card


def _open(given: str, threads: int | None) -> Side:
    name, wanted = _split(given, "@", ENGINES[1:])
    path, text = Path(name), Path(given).name
    if path.suffix in (".safetensors", ".plan"):
        if wanted:
            raise InputError(f"{given}: what runs a {path.suffix} file is not a choice", hint="leave @ENGINE away")
        return _checkpoint(text, path, threads) if path.suffix == ".safetensors" else _plan(text, path)
    engine = wanted or "onnxruntime"
    if path.suffix == ".onnx" and path.is_file() and not path.with_suffix(".json").is_file():
        if engine == "tensorrt":
            raise InputError(f"{given}: building an engine needs the model's card", hint=f"{path.stem}.json beside it")
        return Side(text, _finite(OnnxRuntimeEngine(path, threads=threads), text), _precision(path), None, path)
    if path.suffix in (".onnx", ".json"):
        card, file = load_card(path)
    else:
        model, precision = _split(name, ":", PRECISIONS)
        card, file = load_card(model, precision=precision or "fp32")
    loaded = open_engine(card, file, engine=engine, threads=threads)
    return Side(text, _finite(loaded, text), card.precision, card, file, card.name)


def _split(text: str, mark: str, known: tuple[str, ...]) -> tuple[str, str]:
    """``NAME``, ``WORD`` of ``NAME<mark>WORD`` if the word is known."""
    name, found, word = text.rpartition(mark)
    return (name, word) if found and word in known else (text, "")


def _checkpoint(text: str, path: Path, threads: int | None) -> Side:
    from glint.benchmarks.torch_engine import open_checkpoint

    card, engine = open_checkpoint(path, threads=threads)
    return Side(text, _finite(engine, text), "fp32", card, path, card.name)


def _plan(text: str, path: Path) -> Side:
    from glint.runtime.engines.tensorrt.cache import read_info
    from glint.runtime.engines.tensorrt.engine import TensorRTEngine

    if not path.is_file():
        raise ModelError(f"engine {path}: no such file", hint="glint build makes one")
    info = read_info(path)
    return Side(text, _finite(TensorRTEngine(path), text), info.precision, None, path, info.model, info)


def _files_of(model: str) -> list[Path]:
    """The ONNX files of a released model that are here."""
    files = []
    for precision in PRECISIONS:
        with suppress(ModelError):
            files.append(load_card(model, precision=precision)[1])
    return files


def _card_of_plan(side: Side) -> ModelCard | None:
    """The card of the released model that a plan was built from."""
    try:
        return load_card(side.model, precision=side.precision)[0]
    except ModelError:
        return None


def _precision(path: Path) -> str:
    """Of an ONNX file without a card."""
    import onnx

    from glint.export.lint.lint import load_onnx

    graph = load_onnx(path).graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        return "int8"
    return "fp16" if any(t.data_type == onnx.TensorProto.FLOAT16 for t in graph.initializer) else "fp32"


def _refuse_different(first: Side, second: Side) -> None:
    """Stop if the two cannot be the same network."""
    for what in ("inputs", "outputs"):
        one, two = ({spec.name: spec for spec in getattr(side.engine, what)} for side in (first, second))
        if one.keys() != two.keys() or not all(_fits(one[name], two[name]) for name in one):
            texts = [", ".join(map(_shown, specs.values())) for specs in (one, two)]
            raise InputError(
                f"the {what} differ: {first.text} has {texts[0]}; {second.text} has {texts[1]}",
                hint="parity compares two forms of one network",
            )
    if first.card is None or second.card is None:
        return
    one_card, two_card = (_reading(side.card) for side in (first, second) if side.card)
    for name in one_card:
        if one_card[name] != two_card[name]:
            raise InputError(
                f"the cards disagree on {name}: {first.text} has {one_card[name]}, {second.text} has {two_card[name]}",
                hint="parity compares two forms of one network",
            )


def _reading(card: ModelCard) -> dict[str, Any]:
    """What must be the same on both cards; thresholds may differ."""
    unmixer = card.unmixer and replace(card.unmixer, threshold=0.0, relative=0.0)
    detector = card.detector and replace(card.detector, threshold=0.5)
    return {"task": card.task, "normaliser": card.normaliser, "unmixer": unmixer, "detector": detector}


def _fits(one: TensorSpec, two: TensorSpec) -> bool:
    same = all(a == b or -1 in (a, b) for a, b in zip(one.shape, two.shape))
    return one.dtype == two.dtype and len(one.shape) == len(two.shape) and same


def _shown(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {'x'.join('any' if n == -1 else str(n) for n in spec.shape)}"
