"""The file of a measured PSF."""

import json

import pytest

from glint.errors import InputError
from glint.optics import PsfEstimate, load_psf, save_psf


def test_what_is_written_is_read(tmp_path):
    estimate = PsfEstimate(0.512, 0.003, 0.001, 40, {"edge": 2, "faint": 1}, "frames", "0.1.0")
    save_psf(estimate, tmp_path / "psf.json")
    assert load_psf(tmp_path / "psf.json") == estimate
    assert json.loads((tmp_path / "psf.json").read_text())["sigma"] == 0.512


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not JSON"),
        ('{"sigma": 0.5}', "sigma_error"),
        ('{"sigma": -0.5, "sigma_error": 0.1}', "positive"),
        ('{"sigma": 0.5, "sigma_error": -0.1}', "negative"),
        ('{"sigma": 0.5, "sigma_error": 0.1, "format": 2}', "format 2"),
        ('{"sigma": 0.5, "sigma_error": 0.1, "sigmas": 3}', "sigmas"),
        ("[]", "object"),
    ],
)
def test_another_file_is_refused(tmp_path, text, word):
    (tmp_path / "psf.json").write_text(text)
    with pytest.raises(InputError, match=word):
        load_psf(tmp_path / "psf.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json"):
        load_psf(tmp_path / "nowhere.json")
