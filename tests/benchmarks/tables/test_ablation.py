"""The ablation: the right variants, trained once each, continued, and scored as the paper decodes."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from glint.benchmarks.tables import ablation as module
from glint.benchmarks.tables.ablation import ablation, folder_name, markdown, variants
from glint.errors import InputError
from glint.metrics.unmixing import score_unmixing
from glint.processing import grid
from glint.simulation.patches import CONDITIONS, simulate_patches
from glint.training.loop import Trainer
from glint.training.networks.dscsnet import PRESETS, DSCSNetConfig
from glint.training.networks.registry import load_model

TINY = DSCSNetConfig(size=5, channels=4, hidden=8, stages=3, memory=2)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(PRESETS, "dscsnet-s", TINY)
    monkeypatch.setattr("glint.training.tasks.unmixing.VALIDATION_PATCHES", 10)


def run(out, **changes):
    return ablation(out, network="dscsnet-s", batch=4, patches=12, **{"parts": ["modules"], "steps": 2, **changes})


def test_the_variants_are_those_of_the_paper():
    paper = PRESETS["dscsnet"]
    chosen = variants(paper, module.PARTS)
    assert chosen["full"] == paper
    assert chosen["no DCN"].dynamic_weight == 0
    assert not chosen["no DIR"].use_dir
    assert not chosen["no DTG"].use_dtg
    plain = chosen["ADMM-CSNet"]
    assert (plain.dynamic_weight, plain.use_dir, plain.use_dtg) == (0.0, False, False)
    assert [chosen[f"stages {n}"].stages for n in (2, 4, 6, 8, 10)] == [2, 4, 6, 8, 10]
    assert chosen["stages 2"].memory == 2
    assert [chosen[f"memory {m}"].memory for m in range(1, 7)] == list(range(1, 7))
    assert chosen["weight 1.0"].dynamic_weight == 1
    # What the paper chose is the base itself, under three more names.
    assert chosen["stages 6"] == chosen["weight 0.7"] == chosen["memory 3"] == paper
    assert folder_name(paper, paper) == "base"
    assert folder_name(plain, paper) == "dynamic_weight=0.0,use_dir=False,use_dtg=False"
    assert len({folder_name(c, paper) for c in chosen.values()}) == 1 + 4 + 4 + 4 + 5


def test_every_variant_is_trained_once_and_tabulated(tmp_path, monkeypatch):
    trained = []
    fit = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda self: trained.append(self.folder.name) or fit(self))
    table = run(tmp_path, parts=["modules", "weight"])
    assert len(trained) == len(set(trained)) == 5 + 4
    names = [row["variant"] for row in table["rows"]]
    assert names[:5] == ["full", "no DCN", "no DIR", "no DTG", "ADMM-CSNet"]
    same = {row["variant"]: row["cso_map"] for row in table["rows"]}
    assert same["no DCN"] == same["weight 0.0"]
    assert json.loads((tmp_path / "ablation.json").read_text()) == table
    assert (tmp_path / "ablation.md").read_text() == markdown(table)
    parameters = {row["variant"]: row["parameters"] for row in table["rows"]}
    assert parameters["ADMM-CSNet"] < parameters["no DCN"] < parameters["full"]


def test_each_variant_is_compiled_anew(tmp_path, monkeypatch):
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiler(function, backend="eager", **options))
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        assert len(run(tmp_path, compiled=True)["rows"]) == 5


def test_what_is_trained_is_not_trained_again(tmp_path, monkeypatch):
    first = run(tmp_path, parts=[])
    monkeypatch.setattr(Trainer, "fit", lambda self: pytest.fail("trained again"))
    assert run(tmp_path, parts=[]) == first
    with pytest.raises(InputError, match="another recipe"):
        run(tmp_path, parts=[], seed=2)


def test_an_interrupted_training_is_continued(tmp_path, monkeypatch):
    step = Trainer._train_step

    def interrupted(self, started):
        if self.step == 2:
            raise KeyboardInterrupt
        return step(self, started)

    monkeypatch.setattr(module.Recipe, "__post_init__", lambda self: object.__setattr__(self, "validate_every", 2))
    monkeypatch.setattr(Trainer, "_train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, parts=[], steps=4)
    monkeypatch.setattr(Trainer, "_train_step", step)
    (row,) = run(tmp_path, parts=[], steps=4)["rows"]
    assert row["steps"] == 4


def test_the_score_is_that_of_the_papers_decoding(tmp_path):
    (row,) = run(tmp_path, parts=[], steps=30)["rows"]
    _, model = load_model(tmp_path / "base" / "last.safetensors")
    import torch

    from glint.processing.crop import recentre

    truth = simulate_patches(CONDITIONS["8sat"], 12, np.random.default_rng(module.TEST_SEED))
    crops, left, top = recentre(truth.image, TINY.size)
    saturated = crops >= 255
    assert saturated.any()
    with torch.no_grad():
        output = model(torch.from_numpy(np.stack([crops / 235.0, saturated], axis=1)).float())
    grids = output[0][:, 0].numpy() * 235.0
    patch, x, y, radiance = grid.decode(grids, 3, 50.0)
    score = score_unmixing(
        patch, x + left[patch], y + top[patch], radiance, radiance,
        truth_x=truth.x, truth_y=truth.y, truth_radiance=truth.radiance,
    )  # fmt: skip
    assert row["cso_map"] == pytest.approx(score.cso_map, abs=1e-3)
    assert row["count_accuracy"] == pytest.approx(score.count_accuracy, abs=1e-3)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"parts": ["modes"]}, "modes"),
        ({"steps": None}, "budget"),
        ({"minutes": 1.0}, "budget"),
        ({"condition": "n3"}, "n3"),
    ],
)
def test_wrong_arguments_are_refused_before_any_training(tmp_path, bad, word):
    with pytest.raises(InputError, match=word):
        run(tmp_path / "new", **bad)
    assert not (tmp_path / "new").exists()


def test_the_module_runs_as_a_command(tmp_path, capsys):
    words = ["--out", str(tmp_path), "--network", "dscsnet-s", "--parts", "modules", "--steps", "1", "--batch", "2"]
    assert module.TOOL([*words, "--patches", "5"]) == 0
    captured = capsys.readouterr()
    assert "| ADMM-CSNet |" in captured.out
    assert "5 trainings of 1 steps" in captured.err
