"""What a user names as backbone: the configuration gets a name, this machine a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from reclaim.benchmark.cli import main
from reclaim.benchmark.config import Config
from reclaim.benchmark.data.synthetic import write_dataset
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training.named_backbone import NamedBackbone, named_backbone
from reclaim.strategies.backbones import create_backbone, fingerprint
from safetensors.torch import save_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as timm saves it for the hub."""
    torch.manual_seed(7)
    place = tmp_path / "a model"
    place.mkdir()
    save_file(timm.create_model("test_vit", num_classes=3).state_dict(), place / "model.safetensors")
    (place / "config.json").write_text(json.dumps({"architecture": "test_vit.r160_in1k", "num_classes": 3}))
    return place


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vit_base_patch16_224.mae", "vit_base_patch16_224.mae"),
        ("resnet50", "resnet50"),
        ("hf-hub:owner/name", "hf-hub:owner/name"),
        ("hf_hub:owner/name@v1.0", "hf-hub:owner/name@v1.0"),
    ],
)
def test_a_name(text: str, name: str) -> None:
    assert named_backbone(text) == NamedBackbone(name)
    assert Config(backbone=name).backbone == name


def test_a_file_or_folder_gives_an_architecture_and_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = NamedBackbone("test_vit.local", folder / "model.safetensors")
    for text in (str(folder), f"local-dir:{folder}", str(folder / "model.safetensors")):
        assert named_backbone(text) == found
    monkeypatch.chdir(folder.parent)
    assert named_backbone(f"./{folder.name}").name == found.name
    assert named_backbone(f"local-dir:{folder.name}").name == found.name
    (folder / "ema.pth").touch()
    assert named_backbone(str(folder)) == found, "timm's name for it goes first"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            None,
            r"has no config.json beside it.*: name the architecture and pass the file: --backbone NAME --weights .*",
        ),
        ("{", "config.json is not JSON"),
        ("[" * 100_000, "config.json is not JSON"),
        ('{"architecture": "test_vit", "model_args": 3}', "has 3 as 'model_args'.*--weights"),
        ('["test_vit"]', "names no architecture of timm under 'architecture'"),
        ('{"architectures": ["ViTModel"]}', "names no architecture of timm under 'architecture'.*--weights"),
        ('{"architecture": "vit_of_nobody"}', "unknown backbone 'vit_of_nobody.local'"),
        (
            '{"architecture": "test_vit", "model_args": {"depth": 2, "img_size": 96}}',
            "changes .*'test_vit' by depth in",
        ),
    ],
)
def test_a_file_without_its_architecture(folder: Path, config: str | None, message: str) -> None:
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(config)
    for text in (folder, folder / "model.safetensors"):
        with pytest.raises(ValueError, match=message):
            named_backbone(str(text))


def test_a_folder_without_one_file_of_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "b.pth")
    assert named_backbone(str(folder)).weights == folder / "b.pth"
    (folder / "a.pt").touch()
    with pytest.raises(ValueError, match=r"one file of weights, but has several: a.pt, b.pth: name the file itself"):
        named_backbone(str(folder))
    for file in ("a.pt", "b.pth"):
        (folder / file).unlink()
    with pytest.raises(ValueError, match=r"one file of weights, but has none \(.safetensors, "):
        named_backbone(str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("./nowhere", "there is no file or folder nowhere: name an existing one as backbone$"),
        ("owner/name", "there is no file or folder owner/name: .*; a repository is hf-hub:owner/name$"),
        ("vit.safetensors", "there is no file or folder vit.safetensors"),
        ("resnet5O", "unknown backbone 'resnet5O': .* such as resnet50"),
        ("hf-hub:name", "names no repository"),
        ("", "unknown backbone ''"),
    ],
)
def test_nothing_of_that_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_backbone(text)


def command(*arguments: object, fails: bool = False) -> str:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert (result.exit_code != 0) == fails, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


@pytest.mark.trains
def test_a_run_from_a_folder(folder: Path, tmp_path: Path) -> None:
    """The record holds the architecture and what the weights are, and no place on this machine."""
    write_dataset("cifar10", tmp_path / "data", train_per_class=4)
    few = ("--set", "epochs=1", "--set", "images.train_per_class=null", "--set", "images.test_per_class=null")
    run = ("run", "lite-linear", "cifar10-1", *few, "--root", tmp_path / "data", "--unverified")
    run = (*run, "--jobs", 1, "--records", tmp_path / "records")
    command(*run, "--backbone", folder)
    (record,), _ = RecordStore(tmp_path / "records").load()
    assert record.result["config"]["backbone"] == "test_vit.local"
    backbone = create_backbone("test_vit", folder / "model.safetensors", allow_unexpected=["head.*"], img_size=96)
    assert record.result["weights_sha256"] == fingerprint(backbone)
    assert str(tmp_path) not in json.dumps([record.result, record.provenance])
    assert "on record already" in command(*run, "--backbone", folder / "model.safetensors")
    save_file(create_backbone("test_vit").state_dict(), folder / "model.safetensors")
    assert "already recorded with other weights" in re.sub(r"\s+", " ", command(*run, "--backbone", folder, fails=True))


def test_what_the_command_refuses(folder: Path, tmp_path: Path) -> None:
    run: Any = ("run", "linear", "--records", tmp_path / "records", "--jobs", 1)
    weights = folder / "model.safetensors"
    assert "--backbone is the file" in command(*run, "--backbone", folder, "--weights", weights, fails=True)
    assert "unknown backbone 'resnet5O'" in command(*run, "--backbone", "resnet5O", fails=True)
    assert "28 x 28 with one channel, which 'resnet50' does" in command(*run, "--backbone", "resnet50", fails=True)
    assert not [*tmp_path.glob("records/**/*.json")]
