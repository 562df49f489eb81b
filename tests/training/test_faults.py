"""Training on degenerate images: singular covariances, and classes of one image."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from reclaim.benchmark.data.drawings import Drawings
from reclaim.benchmark.training.run import run
from small_runs import SMALL, drawings, shrink, small_config

pytestmark = pytest.mark.trains


def repeated(times: int) -> Drawings:
    """The first training drawing of each class, so many times."""
    whole = drawings()
    shape = (-1, times, *whole.train.shape[2:])
    return Drawings(whole.train[:, :1].expand(shape).contiguous(), whole.test, whole.names, whole.sha256)


@pytest.fixture
def train_on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Drawings], None]:
    def put(data: Drawings) -> None:
        shrink(monkeypatch)
        for module in ("data.experiences", "training.run"):
            monkeypatch.setattr(f"reclaim.benchmark.{module}.downstream", lambda part="test": data)

    return put


@pytest.mark.parametrize("times", [8, 1])
@pytest.mark.parametrize("recipe", ["slca", "slca-pp", "simplecil", "ranpac"])
def test_class_statistics_of_identical_images(recipe: str, times: int, train_on: Callable[[Drawings], None]) -> None:
    """Fewer images than features have a singular covariance, identical ones have none at all."""
    train_on(repeated(times))
    record = run(recipe, small_config(recipe), SMALL, 0)
    assert all(math.isfinite(accuracy) for row in record.result["accuracy"] for accuracy in row)
    assert all(math.isfinite(loss) for loss in record.result["train_loss"])


def test_what_cannot_hold_out_an_image_says_so(train_on: Callable[[Drawings], None]) -> None:
    train_on(repeated(1))
    with pytest.raises(ValueError, match=r"BiC holds out .* images of 3 classes: this must be at least one per class"):
        run("bic", small_config("bic"), SMALL, 0)
