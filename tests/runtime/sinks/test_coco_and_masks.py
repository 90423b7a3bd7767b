"""COCO annotations and masks: what other tools read out of them is what was found."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from made_results import made_result
from PIL import Image

from glint.errors import OutputError
from glint.runtime.sinks.coco import CocoFile, run_lengths
from glint.runtime.sinks.masks import Masks
from glint.types import Blobs


def labelled(index, name=""):
    result = made_result(index, [(0, 22.0, 11.0, 300), (0, 23.0, 11.0, 200)], name=name)
    label_map = np.zeros(result.frame.shape, np.int32)
    label_map[10:13, 20:25] = 1
    label_map[40, 60] = 2
    blobs = Blobs([22.0, 60.0], [11.0, 40.0], [15, 1], [0.9, 0.5], label_map)
    return replace(result, detection=replace(result.detection, blobs=blobs)), label_map


def decoded(rle):
    """The mask of an uncompressed RLE, the way that pycocotools reads it."""
    flat = np.concatenate([np.full(n, i % 2, bool) for i, n in enumerate(rle["counts"])])
    return flat.reshape(rle["size"], order="F")


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_hold_the_mask(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 5)) < (0.0, 0.1, 0.5, 0.9, 1.0)[seed]
    assert (decoded(run_lengths(mask)) == mask).all()


def test_every_frame_is_an_image_and_every_spot_an_annotation(tmp_path):
    sink = CocoFile(tmp_path / "new" / "r.json", {"a": "a.tif"})
    (first, label_map), (second, _) = labelled(0, "a"), labelled(1)
    sink.write(first)
    sink.write(second)
    sink.write(made_result(2, rows=[]))
    assert not (tmp_path / "new").exists()
    sink.close()
    sink.close()
    document = json.loads((tmp_path / "new" / "r.json").read_text())
    assert [(i["id"], i["file_name"], i["width"], i["height"]) for i in document["images"]] == [
        (0, "a.tif", 64, 48), (1, "000001", 64, 48), (2, "000002", 64, 48),
    ]  # fmt: skip
    assert [c["id"] for c in document["categories"]] == [1]
    found = document["annotations"]
    assert [(a["id"], a["image_id"], a["bbox"], a["area"]) for a in found] == [
        (1, 0, [20, 10, 5, 3], 15), (2, 0, [60, 40, 1, 1], 1), (3, 1, [20, 10, 5, 3], 15), (4, 1, [60, 40, 1, 1], 1),
    ]  # fmt: skip
    assert (decoded(found[0]["segmentation"]) == (label_map == 1)).all()
    assert [len(a["targets"]) for a in found] == [2, 0, 2, 0]


def test_masks_are_0_and_255_and_stand_under_the_names_of_their_frames(tmp_path):
    sink = Masks(tmp_path / "m", overwrite=False)
    result, label_map = labelled(0, "a")
    sink.write(result)
    sink.write(labelled(1)[0])
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["000001.png", "a.png"]
    assert (np.asarray(Image.open(tmp_path / "m" / "a.png")) == np.where(label_map > 0, 255, 0)).all()
    with pytest.raises(OutputError, match="not empty"):
        Masks(tmp_path / "m", overwrite=False)


def test_an_existing_document_is_refused(tmp_path):
    (tmp_path / "r.json").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        CocoFile(tmp_path / "r.json", {})
