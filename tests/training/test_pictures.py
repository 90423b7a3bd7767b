"""Pictures of a training run: curves of the log, and a contact sheet."""

import numpy as np
from PIL import Image

from glint.training.pictures import write_curves, write_sheet


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def has(picture, colour):
    return bool((np.abs(picture.astype(int) - colour).max(axis=2) < 30).any())


def test_every_figure_that_is_a_number_has_a_plot(tmp_path):
    rows = [
        {"step": 10 * i, "seconds": 1.0, "loss": 1 / (i + 1), "iou": None if i == 0 else 50.0 + i, "sets": {"a": {}}}
        for i in range(5)
    ]
    write_curves(tmp_path / "c.png", rows)
    two = len(pixels(tmp_path / "c.png"))
    write_curves(tmp_path / "d.png", [{k: v for k, v in row.items() if k != "iou"} for row in rows])
    one = len(pixels(tmp_path / "d.png"))
    assert two - one == one - 12 == 190
    assert has(pixels(tmp_path / "c.png"), (0, 110, 220))


def test_a_log_of_one_row_or_none_is_no_error(tmp_path):
    write_curves(tmp_path / "c.png", [{"step": 0, "seconds": 0.0, "loss": float("nan"), "score": 3}])
    write_curves(tmp_path / "c.png", [])


def test_what_is_true_and_what_is_found_have_rings(tmp_path):
    image = np.random.default_rng(0).normal(1000, 5, (48, 64)).astype(np.uint16)
    mask = np.zeros((48, 64), bool)
    spot = mask.copy()
    spot[20:23, 30:32] = True
    for true, found in ((spot, mask), (mask, spot), (spot, spot), (mask, mask)):
        write_sheet(tmp_path / "s.png", [("a", image, true, found)] * 5)
        tiles = pixels(tmp_path / "s.png")[:-36]  # below is the legend
        assert [has(tiles, colour) for colour in ((90, 220, 120), (255, 80, 60))] == [true.any(), found.any()]
    write_sheet(tmp_path / "s.png", [])
