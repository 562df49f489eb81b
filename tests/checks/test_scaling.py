"""What `make scaling` measures and writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from reclaim.benchmark.checks.scaling import AXES, BEGIN, END, Cost, Size, draw, exponent, measure, page


def test_the_exponent_is_that_of_a_power_of_the_larger_half() -> None:
    sizes = [10, 20, 40, 80, 160]
    assert exponent(sizes, [5.0, 5.0, *(0.01 * n**1.5 for n in sizes[2:])]) == pytest.approx(1.5)


def test_every_axis_varies_one_thing() -> None:
    for axis, sizes in AXES.items():
        for kind in {size.covariance for size in sizes}:
            chosen = [size for size in sizes if size.covariance == kind]
            values = [getattr(size, axis) for size in chosen]
            assert values == sorted(set(values))
            assert len({tuple(v for k, v in vars(size).items() if k != axis) for size in chosen}) == 1


@pytest.mark.parametrize("kind", ["full", "shared", "low-rank"])
def test_a_size_is_measured(kind: str) -> None:
    cost = measure(Size(7, 3, 8, kind))
    assert cost.fit_seconds > 0
    assert cost.align_seconds > 0
    assert cost.peak_bytes >= 0


def test_table_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = {
        axis: [(size, Cost(1e-3 * getattr(size, axis), 2e-3 * getattr(size, axis) ** 2, 1000)) for size in sizes]
        for axis, sizes in AXES.items()
    }
    rows = [line for line in page(found).splitlines() if line.startswith("| classes 10 to 1000;")]
    assert len(rows) == 1
    assert [cell.strip() for cell in rows[0].split("|")[2:6]] == ["full", "1.00", "2.00", "0.00"]
    draw(found, tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").read_text().count("<svg") == 1


def test_the_page_has_the_marks() -> None:
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
