"""Rehearsals: a cell's run at its real shapes, short, marked, counted by no check; and what is projected from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from reclaim.benchmark import build
from reclaim.benchmark.cli import main
from reclaim.benchmark.config import Alignment, Config, Images
from reclaim.benchmark.paper_check import current
from reclaim.benchmark.protocols import find_cell
from reclaim.benchmark.records import RecordStore
from reclaim.benchmark.rehearsal import STEP_IMAGES, project, shortened
from reclaim.benchmark.setup import Setup
from reclaim.benchmark.streams import find_stream

CELL = "aepg/table-3/resnet50-alpha-0.5/cifar10-1"


class Tiny(torch.nn.Module):
    """Instead of a ResNet-50, which takes seconds."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 8, stride=8)
        self.norm = torch.nn.LayerNorm(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.norm(self.convolution(images).mean((2, 3)))
        return features


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Backbones that were made: name and weights."""
    found: list[Any] = []
    monkeypatch.setattr(build, "create_backbone", lambda name, weights=None: found.append((name, weights)) or Tiny())  # type: ignore[func-returns-value]
    return found


def test_a_cell_is_rehearsed_to_a_record_that_no_check_counts(tmp_path: Path, asked: list[Any]) -> None:
    arguments = ["run", "--rehearse", CELL, "slca/main/seqft+sl/split-cifar100-10", "--jobs", "1", "--root", str(tmp_path / "data")]
    result = CliRunner().invoke(main, [*arguments, "--records", str(tmp_path / "records")])
    assert result.exit_code == 0, result.output
    assert "2 of 2 rehearsed" in result.output
    assert asked == [("resnet50_cifar", None), ("vit_base_patch16_224.augreg_in21k", None)]  # random weights
    records, problems = RecordStore(tmp_path / "records").load()
    assert not problems
    for record, tasks in zip(records, (1, 10), strict=True):
        assert record.result["rehearsal"] is True
        assert len(record.result["accuracy"]) == tasks
        assert record.result["test_counts"] == [1] * tasks
        assert len(record.result["train_loss"]) == tasks  # one step each
        assert record.provenance["rehearsal"]["step_images"] == STEP_IMAGES
    whole = [replace(record, result={**record.result, "config": find_cell(CELL)[0].config.as_dict()}) for record in records]
    assert current(records) == current(whole) == []


def test_what_is_shortened_is_the_batch_alone(tmp_path: Path) -> None:
    recipe, stream, _ = find_cell("slca/main/slca/split-cifar100-10")
    config, setup = shortened(recipe.config, stream, tmp_path, Setup(threads=2))
    assert config == replace(recipe.config, batch_size=STEP_IMAGES)
    assert setup == Setup(threads=2, root=tmp_path / "2-a-class", rehearsal=True)
    assert (tmp_path / "2-a-class" / "cifar-100-python" / "SYNTHETIC.txt").is_file()


def test_the_projection_is_the_real_lengths_times_what_was_measured() -> None:
    stream = find_stream("split-cifar100-10")
    config = Config(epochs=20, batch_size=128, images=Images("slca"))
    measured = {
        "step_seconds": 2.0,
        "step_images": 4,
        "test_image_seconds": 0.1,
        "closing_seconds": 7.0,
        "activation_bytes": 400,
        "fixed_bytes": 1000,
    }
    tests = sum(1000 * (t + 1) for t in range(10)) * 0.1
    seconds = 20 * 50_000 * 0.5 + tests + 7.0
    assert project(measured, config, stream) == (pytest.approx(seconds), pytest.approx(1000 + 100 * 128))
    aligned = replace(config, alignment=Alignment(), micro_batch=16)
    assert project(measured, aligned, stream) == (pytest.approx(seconds + 50_000 * 0.1), pytest.approx(1000 + 100 * 16))
    held = replace(config, images=Images("olor", hold_out=True), epochs=1)
    assert project(measured, held, find_stream("cifar100-1"))[0] == pytest.approx(45_000 * 0.5 + 1000 + 7.0)


def test_a_rehearsal_needs_a_cell() -> None:
    for names, complaint in (
        ([], "name the cells to rehearse"),
        (["slca/main/sca"], "did you mean"),
        (["slca/main/l2p/split-cub200-10"], "cannot be run"),
    ):
        result = CliRunner().invoke(main, ["run", "--rehearse", *names])
        assert result.exit_code != 0
        assert complaint in result.output
