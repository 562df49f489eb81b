"""Metrics of one run, from its accuracy matrix and the number of test images of each task.

``a[t][i]`` is the accuracy in percent on task ``i`` after training on task ``t``, for ``i <= t``. SLCA (ICCV 2023)
averages accuracies over test IMAGES, aEPG (arXiv 2602.14078) averages over TASKS. The two agree only if all tasks have
the same size, so both are computed, under different names.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

METRICS = ("last_acc", "inc_acc", "task_avg_last_acc", "task_avg_inc_acc", "forgetting", "final_entropy")
"""Names of a run's metrics: percent, points (forgetting) or nats (entropy)."""

AVERAGED = {
    **dict.fromkeys(("last_acc", "inc_acc"), "images"),
    **dict.fromkeys(("task_avg_last_acc", "task_avg_inc_acc", "forgetting", "final_entropy"), "tasks"),
}
"""Name of a metric -> what it averages over; a task has one weight, whatever its number of images."""

DENSE_METRICS = ("miou", "box_ap", "mask_ap")
"""Of runs on canvases, in percent: mean intersection over union, and COCO's average precision of boxes and masks."""

OF_TASK = {"semantic": ("miou",), "detection": ("box_ap",), "instances": ("box_ap", "mask_ap")}
"""Task on canvases -> its metrics; hyper-parameters are chosen by the last."""

DENSE_SCORES = ("miou", "box_ap", "box_ap_50", "mask_ap", "mask_ap_50")
"""What a record of a run on canvases may hold: the metrics, and average precision at an IoU of 0.50."""

SHOWN_CANVASES = 4
"""First test canvases whose predictions a record keeps."""

LESS_IS_BETTER = ("forgetting", "final_entropy")

Matrix = Sequence[Sequence[float | None]]


def last_acc(matrix: Matrix, counts: Sequence[int]) -> float:
    """Last-Acc of SLCA: percent of the test images of all tasks that are classified correctly after the last task."""
    lower, images = _checked(matrix, counts)
    return float(np.average(lower[-1], weights=images))


def inc_acc(matrix: Matrix, counts: Sequence[int]) -> float:
    """Inc-Acc of SLCA: accuracy over all test images of the tasks seen so far,
    averaged over the times after each task; percent.
    """
    lower, images = _checked(matrix, counts)
    return float(np.mean([np.average(lower[t, : t + 1], weights=images[: t + 1]) for t in range(len(images))]))


def task_avg_last_acc(matrix: Matrix, counts: Sequence[int]) -> float:
    """Last accuracy of aEPG: mean over tasks of the accuracy after the last task, with equal weights; percent."""
    lower, _ = _checked(matrix, counts)
    return float(np.mean(lower[-1]))


def task_avg_inc_acc(matrix: Matrix, counts: Sequence[int]) -> float:
    """Incremental accuracy of aEPG: mean over tasks seen so far, averaged over the times after each task; percent."""
    lower, images = _checked(matrix, counts)
    return float(np.mean([np.mean(lower[t, : t + 1]) for t in range(len(images))]))


def forgetting(matrix: Matrix, counts: Sequence[int]) -> float:
    """Forgetting of Chaudhry et al. (ECCV 2018): a task's best accuracy before the last task, minus its final accuracy.

    Mean over all tasks except the last, in points. Negative if later tasks improved earlier ones; 0 for a single task.
    """
    lower, images = _checked(matrix, counts)
    if len(images) == 1:
        return 0.0
    return float(np.mean([lower[i:-1, i].max() - lower[-1, i] for i in range(len(images) - 1)]))


def metrics(matrix: Matrix, counts: Sequence[int]) -> dict[str, float]:
    """All the metrics above, by name.

    :param matrix: T rows. Row ``t`` has at least ``t + 1`` accuracies in percent; later entries (numbers or None) are
        ignored.
    :param counts: T numbers of test images, one per task.
    :raises ValueError: the shapes do not match, an accuracy is missing, not finite or outside 0..100, or a task has no
        test image.
    """
    return {f.__name__: f(matrix, counts) for f in (last_acc, inc_acc, task_avg_last_acc, task_avg_inc_acc, forgetting)}


def pack_bits(correct: Sequence[bool] | NDArray[np.bool_]) -> str:
    """Base64 of one bit per test image (1 = correct): first image in the highest bit, last byte padded with zeros."""
    bits = np.asarray(correct)
    if bits.ndim != 1 or (bits.size and bits.dtype != np.bool_):
        raise ValueError(
            f"got shape {bits.shape} of {bits.dtype}, expected one bool per image: pass a flat sequence of bools"
        )
    return base64.b64encode(np.packbits(bits.astype(np.bool_)).tobytes()).decode("ascii")


def unpack_bits(packed: str, n: int) -> NDArray[np.bool_]:
    """The ``n`` bools that :func:`pack_bits` packed, shape (n,).

    :raises ValueError: ``packed`` is not base64 of exactly ``n`` bits and zero padding.
    """
    try:
        data = np.frombuffer(base64.b64decode(packed, validate=True), dtype=np.uint8)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"packed bits are not base64 ({error}): make them with pack_bits") from None
    if len(data) != (n + 7) // 8:
        raise ValueError(
            f"{len(data)} bytes cannot be the bits of {n} images, which need {(n + 7) // 8}: check the number of images"
        )
    bits = np.unpackbits(data)
    if bits[n:].any():
        raise ValueError(f"bits are set beyond the {n} images: check the number of images")
    return bits[:n].astype(np.bool_)


def _checked(matrix: Matrix, counts: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The lower triangle (T x T, zeros above the diagonal) and the counts."""
    images = np.asarray(counts)
    tasks = len(images)
    if tasks == 0 or images.dtype.kind not in "iu" or images.min() < 1:
        raise ValueError(
            f"test counts are {list(counts)}: every task needs an integer number of test images, at least 1"
        )
    if len(matrix) != tasks:
        raise ValueError(
            f"the accuracy matrix has {len(matrix)} rows for {tasks} test counts: one row per task trained"
        )
    lower = np.zeros((tasks, tasks))
    for t, row in enumerate(matrix):
        if len(row) < t + 1:
            raise ValueError(
                f"row {t} of the accuracy matrix has {len(row)} entries: it needs at least {t + 1}, one per task seen"
            )
        for i, value in enumerate(row[: t + 1]):
            # written this way so that NaN is refused too
            if value is None or not 0 <= value <= 100:
                raise ValueError(f"accuracy[{t}][{i}] is {value}: a percentage between 0 and 100 is needed")
            lower[t, i] = value
    return lower, images.astype(np.int64)
