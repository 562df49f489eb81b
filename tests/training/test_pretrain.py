"""Pretraining: seeded, and interrupted or not it ends with the same weights; what it writes can be loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reclaim.benchmark.data.drawings import Drawings, upstream
from reclaim.benchmark.training import pretrain as module
from reclaim.benchmark.training.pretrain import Pretraining, pretrain
from reclaim.strategies.backbones import QUICKDRAW_VIT, create_backbone, fingerprint

CONFIG = Pretraining(epochs=3, batch_size=8)
WEIGHTS, REPORT, CHECKPOINT = (f"{QUICKDRAW_VIT}{end}" for end in (".safetensors", ".json", ".checkpoint.pt"))

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="pretraining needs torch >= 2.9")


@pytest.fixture(scope="module")
def few() -> Drawings:
    whole = upstream()
    return Drawings(whole.train[:3, :6].contiguous(), whole.test[:3, :2].contiguous(), whole.names[:3], "0" * 64)


@pytest.fixture(scope="module")
def undisturbed(few: Drawings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    pretrain(CONFIG, folder, data=few)
    return folder


@needs_muon
def test_what_is_written(undisturbed: Path, few: Drawings) -> None:
    assert {path.name for path in undisturbed.iterdir()} >= {REPORT, WEIGHTS}
    assert not (undisturbed / CHECKPOINT).exists()  # it has done its work
    report = json.loads((undisturbed / REPORT).read_text())
    backbone = create_backbone(QUICKDRAW_VIT, undisturbed / WEIGHTS)
    assert report["fingerprint"] == fingerprint(backbone)
    assert report["parameters"] == sum(p.numel() for p in backbone.parameters())
    assert report["config"]["epochs"] == len(report["curve"]) == 3
    assert report["held_out_accuracy"] == report["curve"][-1]["held_out_accuracy"]
    assert all(0 <= point["held_out_accuracy"] <= 100 and np.isfinite(point["loss"]) for point in report["curve"])
    assert report["drawings_sha256"] == few.sha256
    assert (undisturbed / WEIGHTS).stat().st_size < 8 * 2**20


@needs_muon
@pytest.mark.parametrize("finished_epochs", [1, 2])
def test_resuming_ends_with_the_weights_of_an_undisturbed_run(
    finished_epochs: int, few: Drawings, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy, calls = module._accuracy, 0

    def interrupt(model: torch.nn.Module, images: torch.Tensor) -> float:
        nonlocal calls
        calls += 1
        if calls > finished_epochs:
            raise KeyboardInterrupt
        return accuracy(model, images)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_accuracy", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pretrain(CONFIG, tmp_path, data=few)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    torch.manual_seed(77)
    np.random.seed(77)
    report = pretrain(CONFIG, tmp_path, data=few)
    assert json.loads(json.dumps(report)) == json.loads((undisturbed / REPORT).read_text())
    for path in undisturbed.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@needs_muon
def test_the_seed_decides(few: Drawings, undisturbed: Path, tmp_path: Path) -> None:
    fingerprints = [
        pretrain(Pretraining(epochs=1, batch_size=8, seed=seed), tmp_path, data=few)["fingerprint"]
        for seed in (0, 0, 1, 2**31)
    ]
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 3


@needs_muon
def test_a_checkpoint_of_another_configuration_is_refused(
    few: Drawings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(Pretraining(epochs=1, batch_size=8), tmp_path, data=few)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(
        RuntimeError, match=rf"{CHECKPOINT} belongs to another configuration.*'seed': 0.*another folder"
    ):
        pretrain(Pretraining(epochs=1, batch_size=8, seed=1), tmp_path, data=few)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


@needs_muon
@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_named(content: bytes, few: Drawings, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(RuntimeError, match=rf"{CHECKPOINT} is damaged \(.*\): delete it to start from the beginning"):
        pretrain(CONFIG, tmp_path, data=few)


@needs_muon
def test_a_place_that_cannot_be_written_is_an_error_before_training(few: Drawings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        pretrain(CONFIG, tmp_path / "file" / "out", data=few)


def test_without_muon_it_says_what_is_missing(few: Drawings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(RuntimeError, match=r"needs torch\.optim\.Muon, which torch .* lacks: install torch >= 2\.9"):
        pretrain(CONFIG, tmp_path, data=few)
