"""What an evaluation of a detector looks like: pictures of the worst images and one HTML page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from glint.benchmarks.evaluate.detection_scores import Examined
from glint.benchmarks.reporting.html import figures, page, paragraph, section, table
from glint.benchmarks.reporting.interval_plot import Interval, interval_plot
from glint.benchmarks.reporting.plots import Axis, Series, line_plot
from glint.files import write_bytes, write_json
from glint.images import write_image
from glint.metrics.detection import FIGURES
from glint.runtime.pipeline.picture import stretch

_TRUE_RGB, _PREDICTED_RGB, _PAPER_GREY = (90, 220, 120), (255, 80, 60), 18
_CROP_PX = 41  # pixels of the image that a magnified piece shows
_ZOOM_FACTOR = 9
_PIECES_PER_IMAGE = 2
_MOST_FALSE_PER_MILLION = 1e4  # false pixels per million at which the axis ends
_MOST_LEAK_PAIRS = 20  # of images that look the same
_GAP_PX = 6
_SIDE_PX = 2 * (_CROP_PX * _ZOOM_FACTOR) + _GAP_PX  # screen pixels of the whole image's longer side

NAMES = {name: f"{written}, {unit}" for name, (written, unit) in FIGURES.items()}


def draw_errors(examined: Examined) -> NDArray[np.uint8]:
    """The image with boxes, and below it the places where truth and prediction differ most: ``uint8 [H, W, 3]``.

    Truth is green, the prediction red.
    """
    image, truth = stretch(examined.sample.image), examined.sample.mask
    zoom = _SIDE_PX / max(image.shape)
    size = (max(1, round(image.shape[1] * zoom)), max(1, round(image.shape[0] * zoom)))
    grey = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    whole = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    for mask, colour, room in ((truth, _TRUE_RGB, 4), (examined.predicted, _PREDICTED_RGB, 7)):
        _draw_boxes(whole, mask, zoom, room, colour)
    pieces = [_piece(image, truth, examined.predicted, centre) for centre in _worst_places(examined)]
    strip = np.full((_CROP_PX * _ZOOM_FACTOR, _SIDE_PX, 3), _PAPER_GREY, dtype=np.uint8)
    for i, piece in enumerate(pieces):
        left = i * (_CROP_PX * _ZOOM_FACTOR + _GAP_PX)
        strip[: piece.shape[0], left : left + piece.shape[1]] = piece
    below = _GAP_PX + len(strip) if pieces else 0
    sheet = np.full((whole.shape[0] + below, _SIDE_PX, 3), _PAPER_GREY, dtype=np.uint8)
    sheet[: whole.shape[0], : whole.shape[1]] = whole
    if not pieces:
        return sheet
    sheet[whole.shape[0] + _GAP_PX :] = strip
    return sheet


def _draw_boxes(
    picture: NDArray[np.uint8], mask: NDArray[np.bool_], zoom: float, room: int, colour: tuple[int, int, int]
) -> None:
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    for rows, columns in ndimage.find_objects(labels):
        top, left = (max(0, int(s.start * zoom) - room) for s in (rows, columns))
        bottom, right = (
            min(n - 1, int(s.stop * zoom) + room) for s, n in zip((rows, columns), picture.shape[:2], strict=True)
        )
        for line in (
            np.s_[top, left : right + 1], np.s_[bottom, left : right + 1], np.s_[top : bottom + 1, left],
            np.s_[top : bottom + 1, right],
        ):  # fmt: skip
            picture[line] = colour


def _worst_places(examined: Examined) -> list[tuple[int, int]]:
    """Centres (row, column) of the spots, true or predicted, with most wrong pixels."""
    either = examined.predicted | examined.sample.mask
    labels, number = ndimage.label(ndimage.binary_dilation(either, np.ones((3, 3))), structure=np.ones((3, 3)))
    wrong = np.bincount(labels[examined.predicted ^ examined.sample.mask], minlength=number + 1)
    order = [i for i in np.argsort(-wrong, kind="stable").tolist() if i > 0 and wrong[i] > 0][:_PIECES_PER_IMAGE]
    centres = ndimage.center_of_mass(either, labels, order) if order else []
    return [(round(row), round(column)) for row, column in centres]


def _piece(
    image: NDArray[np.uint8], truth: NDArray[np.bool_], predicted: NDArray[np.bool_], centre: tuple[int, int]
) -> NDArray[np.uint8]:
    """A magnified window with the outlines of both masks."""
    half = _CROP_PX // 2
    row, column = (min(max(c, half), max(n - half - 1, half)) for c, n in zip(centre, image.shape))
    window = (slice(row - half, row + half + 1), slice(column - half, column + half + 1))
    big = np.ones((_ZOOM_FACTOR, _ZOOM_FACTOR), dtype=np.uint8)
    picture = np.repeat(np.kron(image[window], big)[..., None], 3, axis=2)
    for mask, colour, width in ((truth, _TRUE_RGB, 2), (predicted, _PREDICTED_RGB, 1)):
        full = np.kron(mask[window].astype(np.uint8), big).astype(bool)
        picture[full & ~ndimage.binary_erosion(full, np.ones((3, 3)), iterations=width)] = colour
    return picture


def write_report(folder: Path, result: dict[str, Any], worst: Sequence[Examined]) -> None:
    """``scores.json``, ``report.html`` and a picture of each of the worst images in ``worst/``.

    Raises:
        OutputError: if a file cannot be written.
    """
    for examined in worst:
        write_image(folder / "worst" / f"{examined.sample.name}.png", draw_errors(examined))
    write_json(folder / "scores.json", result)
    write_bytes(folder / "report.html", render(result, folder / "worst").encode())


def render(result: dict[str, Any], pictures: Path) -> str:
    """The page; ``pictures`` holds those of the worst images."""
    title = f"{result['model']} on {result['data']}/{result['split']}"
    subtitle = (
        f"{result['images']} images, {result['targets']} targets; protocol {result['protocol']}, "
        f"threshold {result['threshold']:g}; {result['precision']}, {result['engine']}"
    )
    parts = [_scores(result)]
    if result["curve"]:
        parts.append(_curve(result["curve"]))
    if "decomposition" in result:
        parts.append(_decomposition(result["decomposition"]))
    if "backgrounds" in result:
        parts.append(_backgrounds(result["backgrounds"]))
    parts.append(_leaks(result["leaks"]))
    if result["worst"]:
        parts.append(_worst(result["worst"], pictures))
    return page(title, parts, subtitle=subtitle)


def _scores(result: dict[str, Any]) -> str:
    rows = [[label, result[name], *result["intervals"][name]] for name, label in NAMES.items()]
    if "legacy" in result:
        rows += [[f"legacy {NAMES[name]}", result["legacy"][name], None, None] for name in ("pd", "fa")]
    intervals = _intervals(result)
    least = min((row.low for row in intervals), default=0.0)
    ends = 10.0 * min(int(least // 10), 9), 100.0  # of the axis, %
    return section(
        "Scores",
        interval_plot(intervals, "%", ends=ends, caption="Scores with their 95 % intervals"),
        table(["", "score", "low", "high"], rows),
        paragraph(
            "Low and high: 95 % of 2,000 draws of as many images, with replacement. Pd: true spots matched one-to-one "
            "by a predicted spot whose centre is less than 3 px away; Fa: pixels of unmatched predicted spots."
            + (" Legacy: greedy matching in scan order, as widely copied code does it." if "legacy" in result else "")
        ),
    )


def _intervals(result: dict[str, Any]) -> list[Interval]:
    """Of the scores in percent that are known."""
    rows = []
    for name, (written, unit) in FIGURES.items():
        low, high = result["intervals"][name]
        if unit == "%" and None not in (low, high, result[name]):
            rows.append(Interval(written, low, result[name], high))
    return rows


def _curve(curve: Sequence[dict[str, Any]]) -> str:
    labels = [f"{point['threshold']:g}" for point in curve]
    # Beyond a hundredth of all pixels there is nothing to choose from, and a logarithm has no place for 0.
    fa = [p["fa"] if p["fa"] is not None and 0 < p["fa"] <= _MOST_FALSE_PER_MILLION else np.nan for p in curve]
    pd = [np.nan if p["pd"] is None else p["pd"] for p in curve]
    levels = [p["threshold"] for p in curve]
    overlap = [
        Series(label, levels, [np.nan if p[name] is None else p[name] for p in curve])
        for name, label in (("iou", "IoU"), ("niou", "nIoU"), ("pd", "Pd"))
    ]
    rows = [[p["threshold"], p["iou"], p["niou"], p["pd"], p["fa"]] for p in curve]
    return section(
        "Thresholds",
        figures(
            line_plot(
                [Series("", fa, pd, labels)],
                Axis("Fa, 1e-6", log=True),
                Axis("Pd, %"),
                caption="Pd against Fa, where there are false pixels and up to a hundredth of all",
            ),
            line_plot(overlap, Axis("threshold", low=0.0, high=1.0), Axis("%"), caption="Scores by threshold"),
        ),
        table(["threshold", "IoU, %", "nIoU, %", "Pd, %", "Fa, 1e-6"], rows),
    )


def _decomposition(score: dict[str, Any]) -> str:
    # Numbers first: on a phone the words may be cut, the figures not.
    rows = [
        [score["background_error_on"], "background error on target, of the targets' energy"],
        [score["background_error_off"], "background error off target, of the frame's standard deviation"],
        [score["target_energy_on"], "target energy on target, of the true one (100 is right)"],
        [score["target_energy_off"], "target energy off target, of the frame's standard deviation"],
    ]
    return section(
        "Decomposition",
        table(["%", ""], rows),
        paragraph(
            "The true background under a target is the frame continued from around it. A network that leaves the "
            "targets in its background (B = D) has an error of 100 on target."
        ),
    )


def _backgrounds(score: dict[str, Any]) -> str:
    alarms, points = score["false_alarms"], score["pd_by_scr"]
    known = [p for p in points if p["pd"] is not None]
    scr = [p["scr"] for p in known]
    plot = line_plot(
        [
            Series("Pd", scr, [p["pd"] for p in known]),
            Series("95 %: low", scr, [p["interval"][0] for p in known]),
            Series("high", scr, [p["interval"][1] for p in known]),
        ],
        Axis("signal-to-clutter ratio"), Axis("Pd, %", low=0.0, high=100.0),
        caption="Planted single targets that are found",
    )  # fmt: skip
    worst = ", ".join(f"{w['name']} ({w['alarms']})" for w in alarms["worst"])
    return section(
        f"Frames without targets: {score['data']}",
        table(
            ["false alarms per frame", "frames", ""],
            [
                [alarms["per_frame"], alarms["frames"], "all"],
                [alarms["per_unseen_frame"], alarms["unseen_frames"], "not trained on"],
            ],
        ),
        paragraph(f"Most are on {worst}." if worst else "There is none."),
        figures(plot, table(["SCR", "planted", "Pd, %"], [[p["scr"], p["targets"], p["pd"]] for p in points])),
        paragraph(
            "SCR: the target's brightest pixel above the background over the standard deviation of the 21 x 21 pixels "
            "of background around it, at least 1 DN. Width of the PSF 0.5 to 1 px. Found: a predicted spot's centre "
            "less than 3 px away, one-to-one."
        ),
        *(_flux(score["flux"]) if score["flux"] else ()),
    )


def _flux(flux: dict[str, Any]) -> list[str]:
    rows = [
        [flux["residual_error"], "median error of the flux of D - B in the spot, %"],
        [flux["residual_ratio"], "median ratio of that flux to the true one"],
        [flux["target_error"], "median error of the flux of T in the spot, %"],
        [flux["inside"], "median share of the cluster's flux in the spot, %"],
    ]
    found = f"{flux['found']} of {flux['clusters']} found"
    return [
        paragraph(f"Planted clusters of 2 to 5 targets within one pixel, SCR 5 to 40: {found}."),
        table(["flux", ""], rows),
    ]


def _leaks(leaks: dict[str, Any] | None) -> str:
    if leaks is None:
        return section("Leaks", paragraph("Not looked for: there is no training list to compare with."))
    rows = [[pair["first"], pair["second"], pair["correlation"]] for pair in leaks["near_duplicates"]]
    text = f"No image is in this split and in {leaks['against']} too."
    if not rows:
        return section("Leaks", paragraph(text + " No two look the same."))
    return section(
        "Leaks",
        paragraph(text + " These look the same (edges of 32 x 32 thumbnails, any shift of up to 3 cells):"),
        table([leaks["against"], "this split", "correlation"], rows[:_MOST_LEAK_PAIRS]),
        *(
            [paragraph(f"{len(rows) - _MOST_LEAK_PAIRS} more are in scores.json.")]
            if len(rows) > _MOST_LEAK_PAIRS
            else []
        ),
    )


def _worst(worst: Sequence[dict[str, Any]], pictures: Path) -> str:
    parts = []
    for row in worst:
        data = base64.b64encode((pictures / f"{row['name']}.png").read_bytes()).decode()
        text = escape(f"{row['name']}: IoU {row['iou']:.1f} %")
        parts.append(
            f'<figure class="broad"><img style="width:100%" alt="{text}" src="data:image/png;base64,{data}">'
            f"<figcaption>{text}</figcaption></figure>"
        )
    return section(
        "Worst images",
        paragraph("Green: truth. Red: prediction. Below: the places with most wrong pixels, magnified."),
        *parts,
    )
