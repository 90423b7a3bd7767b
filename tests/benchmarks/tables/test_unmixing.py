"""The table of unmixing methods: its rows are the methods' scores, and it can be continued."""

import json

import numpy as np
import pytest

from glint.benchmarks.peers.template_fit import TemplateFit
from glint.benchmarks.tables import unmixing as module
from glint.benchmarks.tables.unmixing import (
    Method,
    Stage,
    in_batches,
    markdown,
    measure,
    network_method,
    prior_of,
    unmixing_table,
)
from glint.errors import InputError, OutputError
from glint.metrics.unmixing import score_unmixing
from glint.simulation.patches import CONDITIONS, simulate_patches
from glint.types import Targets


def perfect(patches):
    """A method that knows the truth, found by the patch's content."""
    answers = {image.tobytes(): i for i, image in enumerate(patches.image)}

    def solve(images, limit):
        parts = []
        for row, image in enumerate(images):
            i = answers[image.tobytes()]
            k = int(patches.count[i])
            x, y, s = patches.x[i, :k], patches.y[i, :k], patches.radiance[i, :k]
            known = np.zeros(k)
            parts.append(Targets(x, y, s, known, known, known, np.full(k, row), np.ones(k), known))
        return Targets.concatenate(parts)

    return solve


def test_rows_hold_the_scores_of_each_stage_over_all_batches(monkeypatch):
    monkeypatch.setattr(module, "PATCHES_PER_BATCH", 16)
    patches = simulate_patches(CONDITIONS["8bit"], 50, np.random.default_rng(0))

    def make(radiance):
        def run(images, limit, progress):
            (whole,) = in_batches(perfect(patches), "all")(images, limit, progress)
            halved = whole.found.select(np.arange(len(whole.found)) % 2 == 0)
            return [whole, Stage("half", halved, 2 * whole.seconds)]

        return run

    whole, half = measure(Method("oracle", make), CONDITIONS["8bit"], patches)
    assert (whole["method"], half["method"]) == ("oracle, all", "oracle, half")
    assert whole["cso_map"] == 100
    assert whole["count_accuracy"] == 100
    assert whole["position_rmse"] == 0
    assert 40 < half["cso_map"] < 60
    assert half["ms_per_patch"] >= whole["ms_per_patch"] > 0


def test_a_method_is_told_the_radiance_range_of_the_condition():
    told = []

    def make(radiance):
        told.append(radiance)
        return in_batches(lambda images, limit: Targets())

    patches = simulate_patches(CONDITIONS["bright"], 4, np.random.default_rng(0))
    (row,) = measure(Method("none", make), CONDITIONS["bright"], patches)
    assert told == [(60.0, 250.0)]
    assert row["method"] == "none"
    assert row["position_rmse"] is None  # JSON knows no NaN
    assert prior_of((220.0, 250.0)) == pytest.approx((235.0, 8.66), abs=0.01)


def test_the_files_hold_what_the_methods_score(tmp_path):
    table = unmixing_table(tmp_path, conditions=["8sat", "n1"], methods=["template"], models=[], patches=40, seed=3)
    assert json.loads((tmp_path / "unmixing.json").read_text()) == table
    text = (tmp_path / "unmixing.md").read_text()
    assert text == markdown(table)
    patches = simulate_patches(CONDITIONS["n1"], 40, np.random.default_rng(3))
    found = TemplateFit()(patches.image, patches.full_scale)
    score = score_unmixing(
        found.blob, found.x, found.y, found.radiance, found.score,
        truth_x=patches.x, truth_y=patches.y, truth_radiance=patches.radiance,
    )  # fmt: skip
    (row,) = [r for r in table["rows"] if r["condition"] == "n1"]
    assert row["cso_map"] == pytest.approx(score.cso_map, abs=1e-3)
    assert row["ap"] == pytest.approx(score.ap, abs=1e-3)
    assert f"| template | {row['cso_map']:.2f} |" in text
    assert "### 8sat" in text


def test_a_table_is_continued_and_not_replaced_by_accident(tmp_path, monkeypatch):
    first = unmixing_table(tmp_path, conditions=["n1"], methods=["template"], models=[], patches=10)
    with pytest.raises(OutputError):
        unmixing_table(tmp_path, conditions=["n1"], methods=["template"], models=[], patches=10)
    with pytest.raises(InputError, match="seed"):
        unmixing_table(tmp_path, conditions=["n1"], methods=["template"], models=[], patches=10, seed=2, resume=True)

    def never(*_):
        raise AssertionError("what is measured is not measured again")

    again = unmixing_table(
        tmp_path, conditions=["n1", "n2"], methods=["template", "nnls-fit"], models=[], patches=10, resume=True
    )
    assert again["rows"][0] == first["rows"][0]
    assert len(again["rows"]) == 4
    monkeypatch.setattr(module, "measure", never)
    unmixing_table(tmp_path, conditions=["n2"], methods=["template"], models=[], patches=10, resume=True)


@pytest.mark.parametrize(
    ("bad", "word"),
    [({"conditions": ["n3"]}, "n3"), ({"methods": ["magic"]}, "magic"), ({"models": ["no-such"]}, "no-such")],
)
def test_unknown_names_are_refused_before_any_work(tmp_path, bad, word):
    settings = {"conditions": ["n1"], "methods": [], "models": [], **bad}
    with pytest.raises(ValueError, match=word):
        unmixing_table(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


def test_a_method_is_not_measured_twice_under_one_name(tmp_path):
    with pytest.raises(InputError, match="template"):
        unmixing_table(tmp_path, methods=["template", "template"], models=[], patches=4)


def test_the_weight_of_ista_is_tuned_once_and_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TUNING_PATCHES", 4)
    table = unmixing_table(tmp_path, conditions=["8sat"], methods=["fista"], models=[], patches=6)
    assert table["weights"]["fista"] > 0


def test_a_released_model_has_a_row_on_its_grid_one_off_it_and_one_refined():
    patches = simulate_patches(CONDITIONS["float"], 24, np.random.default_rng(4))
    rows = measure(network_method("dscsnet-s-csist"), CONDITIONS["float"], patches)
    assert [row["method"] for row in rows] == [f"dscsnet-s-csist, {s}" for s in ("grid", "network", "refined")]
    on_grid, network, refined = (row["cso_map"] for row in rows)
    assert network > on_grid + 10
    assert refined > on_grid + 20
    assert rows[2]["ms_per_patch"] > rows[0]["ms_per_patch"]


def test_a_trained_comparator_has_a_row_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from glint.cli import main
    from glint.training.networks.focus import PRESETS, FocusConfig

    monkeypatch.setitem(PRESETS, "focus", FocusConfig(pixel_channels=4, spread=2, channels=4, blocks=1))
    monkeypatch.setattr("glint.training.tasks.grid.VALIDATION_PATCHES", 10)
    out = tmp_path / "run"
    assert main(["train", "focus", "--domain", "csist", "--batch", "2", "--steps", "1", "--out", str(out)]) == 0
    patches = simulate_patches(CONDITIONS["8sat"], 5, np.random.default_rng(4))
    (row,) = measure(network_method(str(out / "last.safetensors")), CONDITIONS["8sat"], patches)
    assert row["method"] == "focus (run), grid"


def test_the_module_runs_as_a_command(tmp_path, capsys):
    words = ["--out", str(tmp_path), "--patches", "4", "--conditions", "8sat", "--methods", "template"]
    words += ["--model", "dscsnet-s-csist"]
    assert module.TOOL(words) == 0
    assert "| template |" in capsys.readouterr().out
    assert module.TOOL(words) == 2
    assert "--overwrite" in capsys.readouterr().err
