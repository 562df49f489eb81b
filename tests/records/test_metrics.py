"""Metrics against numbers worked out by hand, and the packing of bits."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reclaim.benchmark.records.metrics import (
    forgetting,
    inc_acc,
    last_acc,
    metrics,
    pack_bits,
    task_avg_inc_acc,
    task_avg_last_acc,
    unpack_bits,
)

# 30, 60 and 10 test images; worked by hand:
#   after task 0: 90; after task 1: images (80 * 30 + 50 * 60) / 90 = 60, tasks 65;
#   after task 2: images (70 * 30 + 60 * 60 + 100 * 10) / 100 = 67, tasks 230 / 3.
#   Best before the last task: 90 and 50, so forgetting is ((90 - 70) + (50 - 60)) / 2 = 5.
MATRIX = [[90.0], [80.0, 50.0], [70.0, 60.0, 100.0]]
COUNTS = [30, 60, 10]


def test_worked_example() -> None:
    assert last_acc(MATRIX, COUNTS) == pytest.approx(67)
    assert inc_acc(MATRIX, COUNTS) == pytest.approx((90 + 60 + 67) / 3)
    assert task_avg_last_acc(MATRIX, COUNTS) == pytest.approx(230 / 3)
    assert task_avg_inc_acc(MATRIX, COUNTS) == pytest.approx((90 + 65 + 230 / 3) / 3)
    assert forgetting(MATRIX, COUNTS) == pytest.approx(5)


def test_metrics_names_every_number_once() -> None:
    values = metrics(MATRIX, COUNTS)
    assert values == {
        "last_acc": last_acc(MATRIX, COUNTS),
        "inc_acc": inc_acc(MATRIX, COUNTS),
        "task_avg_last_acc": task_avg_last_acc(MATRIX, COUNTS),
        "task_avg_inc_acc": task_avg_inc_acc(MATRIX, COUNTS),
        "forgetting": forgetting(MATRIX, COUNTS),
    }


def test_later_columns_are_not_read() -> None:
    padded = [[90.0, None, None], [80.0, 50.0, 3.0], [70.0, 60.0, 100.0]]
    assert metrics(padded, COUNTS) == metrics(MATRIX, COUNTS)


def test_forgetting_is_negative_when_later_tasks_help() -> None:
    assert forgetting([[40.0], [60.0, 10.0]], [5, 5]) == -20


def test_forgetting_takes_the_best_moment_and_not_the_first() -> None:
    assert forgetting([[40.0], [70.0, 10.0], [50.0, 10.0, 90.0]], [5, 5, 5]) == pytest.approx((70 - 50 + 0) / 2)


def test_one_task() -> None:
    assert metrics([[43.0]], [200]) == {
        "last_acc": 43.0,
        "inc_acc": 43.0,
        "task_avg_last_acc": 43.0,
        "task_avg_inc_acc": 43.0,
        "forgetting": 0.0,
    }


@given(st.lists(st.lists(st.floats(0, 100), min_size=4, max_size=4), min_size=4, max_size=4), st.integers(1, 500))
def test_equal_tasks_make_both_averages_equal(matrix: list[list[float]], count: int) -> None:
    values = metrics(matrix, [count] * 4)
    assert values["last_acc"] == pytest.approx(values["task_avg_last_acc"])
    assert values["inc_acc"] == pytest.approx(values["task_avg_inc_acc"])


@pytest.mark.parametrize(
    ("matrix", "counts", "named"),
    [
        ([[50.0]], [10, 10], "1 rows for 2"),
        ([[50.0], [50.0]], [10, 10], "row 1"),
        ([[50.0], [50.0, None]], [10, 10], r"accuracy\[1\]\[1\] is None"),
        ([[float("nan")]], [10], r"accuracy\[0\]\[0\] is nan"),
        ([[100.5]], [10], "100.5"),
        ([[50.0]], [0], "test counts"),
        ([[50.0]], [10.5], "test counts"),
        ([], [], "test counts"),
    ],
)
def test_bad_matrix_is_named(matrix: list[list[float | None]], counts: list[int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        metrics(matrix, counts)


@given(st.lists(st.booleans()))
def test_bits_come_back(bits: list[bool]) -> None:
    packed = pack_bits(bits)
    assert unpack_bits(packed, len(bits)).tolist() == bits
    assert len(base64.b64decode(packed)) == (len(bits) + 7) // 8


def test_bits_have_a_fixed_layout() -> None:
    assert (
        pack_bits([True, False, False, False, False, False, False, True, True])
        == base64.b64encode(b"\x81\x80").decode()
    )


@pytest.mark.parametrize("n", [7, 0, 17])
def test_wrong_number_of_images(n: int) -> None:
    with pytest.raises(ValueError, match=f"{n} images"):
        unpack_bits(pack_bits(np.ones(9, dtype=bool)), n)


def test_bits_beyond_the_images_are_refused() -> None:
    with pytest.raises(ValueError, match="beyond the 9 images"):
        unpack_bits(pack_bits(np.ones(10, dtype=bool)), 9)


@pytest.mark.parametrize("packed", ["a!bc", "abc", "ü==="])
def test_not_base64(packed: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        unpack_bits(packed, 16)


@pytest.mark.parametrize("bits", [np.ones((2, 2), dtype=bool), np.array([0.2, 0.9]), [1, 0]])
def test_only_flat_bools_are_packed(bits: object) -> None:
    with pytest.raises(ValueError, match="flat sequence of bools"):
        pack_bits(bits)  # type: ignore[arg-type]
