"""The section and picture of runs on canvases."""

from __future__ import annotations

import base64
import io
import re
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reclaim.benchmark.data.canvases import SIDE, draw_canvases
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.report import dense_pages, findings
from small_runs import synthetic_record


def packed(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(array.astype(np.uint8).tobytes())).decode()


def perfect(recipe: str) -> Record:
    """A record whose predictions are the truth."""
    record = synthetic_record(recipe, last_acc=40.0)
    classes = record.result["class_order"]
    _, test = draw_canvases(classes, 1, 2, record.seed)
    kept: list[dict[str, Any]] = []
    for boxes, labels, masks, semantic in zip(test.boxes, test.labels, test.masks, test.semantic(), strict=True):
        found = {"boxes": boxes.int().tolist(), "labels": labels.tolist(), "masks": packed(masks.numpy())}
        kind = recipe.split("-")[1]
        kept.append({"semantic": packed(semantic.numpy())} if kind == "sem" else found)
        if kind == "det":
            del found["masks"]
    record.result["predictions"] = kept
    return record


def test_without_runs_there_is_nothing() -> None:
    assert dense_pages.section([synthetic_record("slca")]) == ""
    shows_nothing = synthetic_record("dense-sem-full")
    shows_nothing.result["predictions"] = []
    assert dense_pages.picture([synthetic_record("slca"), shows_nothing]) == ""


def test_the_section_has_a_row_for_each_recipe() -> None:
    records = [synthetic_record("dense-det-olor", seed=s, last_acc=30.0 + s) for s in range(3)]
    records += [synthetic_record("dense-sem-full", last_acc=20.0), synthetic_record("slca")]
    text = dense_pages.section(records)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert [row[0].partition("<br>")[2] for row in rows[2:]] == ["`dense-sem-full`", "`dense-det-olor`"]
    assert rows[3][2] == "3"
    assert "box AP 31.00 ± 2.48" in rows[3][1].split("<br>")  # 4.303 / sqrt(3)
    assert text in findings.page([*records, synthetic_record("seqft-fast")])


@pytest.mark.parametrize("task", ["sem", "det", "inst"])
def test_what_is_predicted_right_looks_like_the_truth(task: str) -> None:
    text = dense_pages.picture([perfect(f"dense-{task}-olor")])
    assert text == dense_pages.picture([perfect(f"dense-{task}-olor")])
    data = re.search(r"base64,([^\"]*)\"", text)
    assert data
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(data[1]))).convert("RGB")).astype(int)
    half = len(sheet) // 2
    assert len(sheet) == 2 * half
    assert np.array_equal(sheet[:half], sheet[half:])
    colors = {tuple(color) for color in sheet[:half].reshape(-1, 3) if np.ptp(color) > 60}
    assert len(colors) >= 2
    assert sheet.shape[1] == 2 * (dense_pages.ENLARGED * SIDE + dense_pages.GAP)
    assert f"dense-{task}-olor</text>" in text


@pytest.mark.parametrize("task", ["det", "inst"])
def test_the_surest_of_one_place_is_what_shows(task: str) -> None:
    """Predictions come by falling score: less sure ones of other classes, over and beside them, change nothing."""
    right, unsure = perfect(f"dense-{task}-olor"), perfect(f"dense-{task}-olor")
    for found in unsure.result["predictions"]:
        labels, n = found["labels"], len(found["labels"])
        found["boxes"] = found["boxes"] + found["boxes"][:1] * 4 + [[0, 0, SIDE, SIDE]]
        found["labels"] = [*labels, *[labels[0] % 20 + 1] * 4, 1]
        if task == "inst":
            masks = np.frombuffer(zlib.decompress(base64.b64decode(found["masks"])), np.uint8).reshape(n, SIDE, SIDE)
            found["masks"] = packed(np.concatenate([masks, *[masks[:1]] * 4, np.ones((1, SIDE, SIDE))]))
    assert dense_pages.picture([right]) == dense_pages.picture([unsure])
