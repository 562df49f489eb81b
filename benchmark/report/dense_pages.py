"""Detection and segmentation on canvases: a section of the findings, and a picture of what was predicted."""

from __future__ import annotations

import base64
import colorsys
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..config import from_dict
from ..data.canvases import OBJECTS, SIDE, draw_canvases
from ..recipes import recipes_of
from ..records.metrics import DENSE_SCORES
from ..records.record import Record
from ..stats.estimates import MeanInterval, mean_interval
from .tables import markdown_table

PICTURE = "dense.svg"
NAMES = {"miou": "mIoU", "box_ap": "box AP", "box_ap_50": "box AP50", "mask_ap": "mask AP", "mask_ap_50": "mask AP50"}
MOST = OBJECTS[1]
"""Most objects of a prediction that are drawn: as many as a canvas has at most, the surest."""
ENLARGED, GAP, CAPTION = 2, 6, 16
"""Pixels of the picture for one of a canvas; between canvases; height of a caption."""


@dataclass(frozen=True)
class Scores:
    """A recipe on canvases, over its seeds.

    :ivar task: ``semantic``, ``detection`` or ``instances``.
    :ivar means: by metric, in percent; those of its task alone.
    :ivar seconds: median processor time of a run; None where no record has one.
    """

    recipe: str
    title: str
    task: str
    seeds: tuple[int, ...]
    means: dict[str, MeanInterval]
    seconds: float | None


def scores(records: Sequence[Record]) -> list[Scores]:
    """Those of every recipe on canvases, in the order of the recipes.

    :param records: those that count; others than of canvases are ignored.
    """
    found = []
    for name, group in _runs(records).items():
        values = {m: [r.metrics()[m] for r in group if m in r.metrics()] for m in DENSE_SCORES}
        seconds = [float(s) for r in group if (s := r.provenance.get("cpu_seconds"))]
        found.append(
            Scores(
                recipe=name,
                title=recipes_of("dense")[name].title,
                task=group[0].result["config"]["dense"]["task"],
                seeds=tuple(r.seed for r in group),
                means={m: mean_interval(of) for m, of in values.items() if of},
                seconds=median(seconds) if seconds else None,
            )
        )
    return found


def section(records: Sequence[Record]) -> str:
    """:func:`scores` as Markdown; empty without a run."""
    found = scores(records)
    if not found:
        return ""
    lines = [
        (
            f"{one.title}<br>`{one.recipe}`",
            "<br>".join(f"{NAMES[metric]} {mean}" for metric, mean in one.means.items()),
            len(one.seeds),
            "-" if one.seconds is None else f"{one.seconds:.0f}",
        )
        for one in found
    ]
    header = ("method", "scores", "n", "seconds")
    return (
        "## Detection and segmentation\n\nOn canvases of drawings ([dense.md](dense.md)); means over n seeds with 95% "
        "Student-t intervals, in percent; processor time of a run.\n\n"
        f"{markdown_table(lines, header, padded=False)}\n"
    )


def _runs(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Recipe -> its runs by seed, in the order of the recipes."""
    of_name: dict[str, dict[int, Record]] = {}
    for record in records:
        of_name.setdefault(record.recipe, {})[record.seed] = record
    return {
        name: [of_name[name][seed] for seed in sorted(of_name[name])] for name in recipes_of("dense") if name in of_name
    }


def picture(records: Sequence[Record]) -> str:
    """The predictions of every recipe on the first test canvases of the first seed, beside the truth, as SVG; empty
    without a run that kept any.
    """
    first = {name: group[0] for name, group in _runs(records).items() if group[0].result["predictions"]}
    rows: list[tuple[str, list[Image.Image]]] = []
    of_task: dict[str, list[tuple[str, Record]]] = {}
    for name, record in first.items():
        of_task.setdefault(record.result["config"]["dense"]["task"], []).append((name, record))
    for task, group in of_task.items():
        truth, images = _truth(group[0][1])
        rows.append((f"{task}, truth, seed {group[0][1].seed}", [*map(_drawn, images, truth)]))
        for name, record in group:
            if record.seed == group[0][1].seed:
                found = [_unpacked(one) for one in record.result["predictions"]]
                rows.append((name, [*map(_drawn, images, found)]))
    return _svg(rows) if rows else ""


def _truth(record: Record) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """What is on the canvases that a record shows, in the form of its predictions, and their pixels."""
    config, result = from_dict(record.result["config"]), record.result
    _, test = draw_canvases(result["class_order"], 1, len(result["predictions"]), record.seed, config.part)
    images = [image[0].numpy() for image in test.images]
    if config.dense and config.dense.task == "semantic":
        return [{"semantic": one.numpy().astype(np.uint8)} for one in test.semantic()], images
    masks = config.dense is not None and config.dense.task == "instances"
    return [
        {"boxes": boxes.tolist(), "labels": labels.tolist(), **({"masks": m.numpy()} if masks else {})}
        for boxes, labels, m in zip(test.boxes, test.labels, test.masks, strict=True)
    ], images


def _unpacked(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """A prediction of a record with its masks, or its classes of pixels, as arrays."""
    return {
        key: np.frombuffer(zlib.decompress(base64.b64decode(value)), np.uint8).reshape(
            (SIDE, SIDE) if key == "semantic" else (-1, SIDE, SIDE)
        )
        if key in ("semantic", "masks")
        else value
        for key, value in prediction.items()
    }


def _color(label: int) -> tuple[int, int, int]:
    """A class's colour: hues one golden ratio apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618 % 1, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _drawn(pixels: np.ndarray, found: Mapping[str, Any]) -> Image.Image:
    """A canvas, dark on light, under what is found on it: of objects, which come by falling score, the surest, and the
    surest of these on top.
    """
    shown = np.repeat((255 * (1 - 0.8 * pixels))[:, :, None], 3, axis=2)
    labels = found.get("labels", ())
    drawn = range(min(MOST, len(labels)) - 1, -1, -1)
    classes = found.get("semantic", np.zeros((SIDE, SIDE), int)).astype(int)
    for i in drawn if "masks" in found else ():
        classes[found["masks"][i].astype(bool)] = labels[i]
    for label in np.unique(classes[classes > 0]).tolist():
        where = classes == label
        shown[where] = 0.4 * shown[where] + 0.6 * np.array(_color(label))
    image = Image.fromarray(shown.round().astype(np.uint8)).resize((ENLARGED * SIDE,) * 2, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    for i in drawn:
        left, top, right, bottom = (ENLARGED * side for side in found["boxes"][i])
        if left < right and top < bottom:
            pen.rectangle((left, top, right - 1, bottom - 1), outline=_color(labels[i]), width=2)
    return image


def _svg(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> str:
    side = ENLARGED * SIDE
    step = side + GAP
    width, height = max(len(images) for _, images in rows) * step, len(rows) * (step + CAPTION)
    sheet = Image.new("RGB", (width, height), "white")
    captions = []
    for y, (caption, images) in enumerate(rows):
        top = y * (step + CAPTION)
        captions.append(f'<text x="0" y="{top + CAPTION - 4}">{caption}</text>')
        for x, image in enumerate(images):
            sheet.paste(image, (x * step, top + CAPTION))
    png = io.BytesIO()
    sheet.quantize(128).save(png, "PNG", optimize=True)
    data = base64.b64encode(png.getvalue()).decode("ascii")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12"><image width="{width}" height="{height}" '
        f'href="data:image/png;base64,{data}"/>{"".join(captions)}</svg>\n'
    )
