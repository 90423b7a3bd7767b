"""Points against false alarms, of maps whose answer is known."""

import numpy as np
import pytest

from glint.benchmarks.evaluate.background_scores import SCRS
from glint.benchmarks.tables.points import compare, markdown, point_roc
from glint.errors import ModelError, SourceError
from glint.images import write_image


def frames(number=2):
    """Flat but for three single pixels each, 5.5, 20 and 30 DN above the rest."""
    image = np.full((300, 400), 60.0)
    image[0, [10, 200, 390]] += (5.5, 20.0, 30.0)
    return [(str(i), image) for i in range(number)]


def above(image):
    return image - 60.0


def roc(**options):
    return point_roc(above, np.arange(0.5, 50), frames(), **options)


def test_the_threshold_is_the_lowest_that_keeps_the_rate():
    rows = roc(rates=(0.5, 1.0, 2.0, 3.0))
    assert [row["level"] for row in rows] == [30.5, 20.5, 5.5, 0.5]
    assert [row["per_frame"] for row in rows] == [0, 1, 2, 3]


def test_what_is_found_is_what_stands_above_the_threshold():
    strict, loose = roc(rates=(2.0, 3.0))
    # A clutter of 1 DN: the SCR is the peak in DN.
    assert strict["pd"] == {f"{scr:g}": 100.0 if scr > 5.5 else 0.0 for scr in SCRS}
    assert set(loose["pd"].values()) == {100.0}


def test_a_rate_that_no_threshold_keeps_has_no_answer():
    (row,) = point_roc(above, (0.5, 1.5), frames(), rates=(0.2,))
    assert row["level"] is None
    assert set(row["pd"].values()) == {None}
    assert "| 0.2 | - | - |" in markdown({"x": [row]})


def test_spots_that_melt_together_below_a_threshold_do_not_make_it_a_good_one():
    image = np.full((60, 60), 10.0)
    image[30, ::2] = 20.0  # one spot below 10, thirty above
    rows = point_roc(lambda frame: frame, (5.0, 15.0, 25.0), [("a", image)], rates=(2.0,))
    assert rows[0]["level"] == 25.0


def test_every_model_has_rows_and_a_folder_must_exist(tmp_path):
    rng = np.random.default_rng(1)
    for i in range(2):
        write_image(tmp_path / f"{i}.png", rng.integers(60, 64, (160, 200)).astype(np.uint8))
    rows = compare(["lsnet-s"], str(tmp_path))
    assert list(rows) == ["point ratio", "lsnet-s"]
    text = markdown(rows)
    assert text.count("lsnet-s") == text.count("point ratio") == 4
    with pytest.raises(SourceError):
        compare([], str(tmp_path / "nothing"))


def test_the_same_seed_plants_the_same_points_for_every_method():
    def shown(seed, method):
        images = []
        point_roc(lambda image: images.append(image.copy()) or method(image), (1.0,), frames(), seed=seed)
        return np.stack(images)

    first = shown(3, above)
    assert np.array_equal(first, shown(3, np.zeros_like))
    assert not np.array_equal(first, shown(4, above))


def test_the_table_tells_the_rate_that_was_reached():
    (row,) = roc(rates=(10.0,))
    assert row["per_frame"] == 3.0
    assert "| x | 10 | 3.00 |" in markdown({"x": [row]})


@pytest.mark.parametrize(
    ("model", "message"),
    [("lsnet-xl", "lsnet-xl"), ("dscsnet-s-sensor", "made to unmix, not to detect")],
)
def test_a_model_that_will_not_do_is_told_before_anything_is_measured(tmp_path, monkeypatch, model, message):
    monkeypatch.setattr("glint.benchmarks.tables.points._row", lambda *arguments: pytest.fail("measured"))
    with pytest.raises(ModelError, match=message) as error:
        compare(["lsnet-s", model], str(tmp_path))
    assert error.value.hint
