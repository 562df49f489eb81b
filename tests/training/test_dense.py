"""Runs on canvases: from a recipe to a record."""

from __future__ import annotations

import base64
import builtins
import json
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from reclaim.benchmark import api
from reclaim.benchmark.config import Config, ConfigError, Dense
from reclaim.benchmark.data.canvases import SIDE, Canvases, draw_canvases
from reclaim.benchmark.data.streams import CANVASES, STREAMS
from reclaim.benchmark.recipes import RECIPES, recipes_of
from reclaim.benchmark.records.metrics import METRICS, SHOWN_CANVASES
from reclaim.benchmark.records.record import (
    DENSE_TOLERANCE,
    Record,
    RecordError,
    compare,
    metric_of,
    metrics_of,
    validate,
)
from reclaim.benchmark.report import show
from reclaim.benchmark.training import dense
from reclaim.benchmark.training.dense import fit, predictions, require_finite, run_dense, score
from reclaim.benchmark.training.dense_models import (
    STRIDE,
    FeatureMap,
    backbone_of,
    dense_loss,
    make_dense_model,
    new_parameters,
)
from reclaim.benchmark.training.jobs import Job
from reclaim.benchmark.training.roi_features import RoIFeatures
from reclaim.benchmark.training.run import run
from reclaim.benchmark.training.runtime import Setup
from reclaim.benchmark.training.sweep import metric_for
from reclaim.benchmark.verdicts.counting import current, reasons
from reclaim.benchmark.verdicts.soundness import problems
from reclaim.strategies.depths import layer_depths
from small_runs import synthetic_record
from torch import nn

FEW = ("epochs=1", "batch_size=4", "dense.canvases=4", "dense.test_canvases=6")
TASKS = {"sem": "miou", "det": "box_ap", "inst": "mask_ap"}
METHODS = ("linear", "full", "l2sp", "olor")


def make(recipe: str, *settings: str, seed: int = 0) -> Record:
    record = run_dense(recipe, RECIPES[recipe].config.set([*FEW, *settings]), CANVASES, seed)
    validate({"result": record.result, "provenance": record.provenance})
    return record


def test_every_task_has_every_method_with_four_candidates() -> None:
    found = recipes_of("dense")
    assert set(found) == {f"dense-{task}-{method}" for task in TASKS for method in METHODS}
    for name, recipe in found.items():
        assert len(recipe.candidates()) == 4
        assert recipe.home == CANVASES.name
        assert recipe.base.optimizer == "adam"
        assert metric_for(recipe) == TASKS[name.split("-")[1]]
    assert metric_for(RECIPES["slca"]) == "last_acc"


@pytest.mark.trains
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_a_run_gives_a_sound_record(task: str, method: str) -> None:
    record = make(f"dense-{task}-{method}")
    result = record.result
    assert record.dense
    assert metric_of(record, TASKS[task]) == result["scores"][TASKS[task]]
    assert result["test_counts"] == [6]
    assert len(result["class_order"]) == 20
    assert len(result["predictions"]) == SHOWN_CANVASES
    assert record.provenance["torchmetrics"] == version("torchmetrics")
    assert record.provenance["pycocotools"] == version("pycocotools")
    assert len(result["class_scores"][TASKS[task]]) == (21 if task == "sem" else 20)
    assert not list(problems(record))
    n_new = sum(p.numel() for p in new_parameters(make_dense_model(Dense(RECIPES[record.recipe].base.dense.task), 20)))  # type: ignore[union-attr]
    assert (result["trained_parameters"] == n_new) == (method == "linear")
    with pytest.raises(ValueError, match=f"has no metric 'last_acc': choose one of .*{TASKS[task]}"):
        metric_of(record, "last_acc")
    assert "another configuration" in str(reasons([record])[0])


@pytest.mark.trains
def test_the_same_seed_gives_the_same_record_and_methods_see_the_same_canvases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Canvases, Canvases]] = []
    monkeypatch.setattr(dense, "draw_canvases", lambda *given: seen.append(draw_canvases(*given)) or seen[-1])
    first, again, other = make("dense-inst-olor"), make("dense-inst-olor"), make("dense-inst-olor", seed=1)
    assert first.result == again.result
    assert compare(first, again).agree
    assert first.result["class_order"] != other.result["class_order"]
    assert make("dense-inst-full").result["class_order"] == first.result["class_order"]
    for one, as_first in ((1, True), (2, False), (3, True)):  # of which the last is another method's
        for mine, others in zip(seen[one], seen[0], strict=True):
            assert torch.equal(mine.images, others.images) == as_first
            assert torch.equal(mine.semantic(), others.semantic()) == as_first


def test_records_of_other_machines_may_differ_by_the_tolerance() -> None:
    one = Record({**_result(), "scores": {"miou": 50.0}}, {"torch": "1", "platform": "x", "accelerator": None})
    for by, agree in ((DENSE_TOLERANCE - 0.1, True), (DENSE_TOLERANCE + 0.1, False)):
        other = Record(
            {**one.result, "scores": {"miou": 50.0 + by}}, {"torch": "2", "platform": "y", "accelerator": None}
        )
        assert compare(one, other).agree == agree
        assert compare(one, other).where == "scores.miou"


def _result() -> dict[str, Any]:
    config = RECIPES["dense-sem-full"].config.set(FEW)
    job = Job("dense-sem-full", config, CANVASES, 0, "given")
    return {
        "schema": 1,
        "recipe": job.recipe,
        "stream": CANVASES.name,
        "seed": 0,
        "config": config.as_dict(),
        "config_hash": job.place[2],
        "varied": config.seeding,
        "scores": {"miou": 10.0},
        "class_scores": {"miou": [10.0, None]},
        "predictions": [],
        "test_counts": [6],
        "train_loss": [1.0],
        "class_order": [1, 2],
        "data_sha256": "0" * 64,
        "weights_sha256": "0" * 64,
        "trained_parameters": 1,
        "bytes_kept": 0,
        "hyperparameters_from": "given",
    }


BAD = {
    "above 100": {"scores": {"miou": 101.0}},
    "no metric": {"scores": {"last_acc": 10.0}},
    "empty": {"scores": {}},
    "NaN": {"scores": {"miou": float("nan")}},
    "of classes": {"class_scores": {"miou": []}},
    "predictions": {"predictions": ["x"]},
    "epochs": {"train_loss": [1.0, 2.0]},
    "accuracies, too": {"accuracy": [[10.0]]},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_refused(name: str) -> None:
    provenance = {"torch": "2", "platform": "x"}
    validate({"result": _result(), "provenance": provenance})
    with pytest.raises(RecordError, match=next(iter(BAD[name]))):
        validate({"result": {**_result(), **BAD[name]}, "provenance": provenance})


def test_where_settings_come_from_is_checked() -> None:
    record = synthetic_record("dense-sem-olor", CANVASES.name)
    for stated, is_wrong in (("given", True), ("paper", True), ("validation", False)):
        record.result["hyperparameters_from"] = stated
        assert (f"hyperparameters_from is '{stated}'" in str(list(problems(record)))) == is_wrong


def test_scores_and_a_task_on_canvases_go_together() -> None:
    config = RECIPES["full-1"].config.as_dict()
    job = Job("full-1", RECIPES["full-1"].config, CANVASES, 0, "given")
    result = {**_result(), "config": config, "config_hash": job.place[2], "train_loss": [1.0] * config["epochs"]}
    with pytest.raises(RecordError, match="a part 'dense'"):
        validate({"result": result, "provenance": {"torch": "2", "platform": "x"}})
    record = json.loads(json.dumps(_result()))
    assert list(problems(Record({**record, "test_counts": [7], "class_scores": {}}, {})))


def test_what_does_not_fit_is_said_before_anything_is_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metric is 'last_acc', which dense-sem-olor has not: choose one of miou"):
        api.compare(["dense-sem-olor", "dense-sem-full"], records=tmp_path)
    with pytest.raises(ValueError, match="metric is 'miou', which dense-det-olor has not: choose one of box_ap"):
        api.compare(["dense-sem-olor", "dense-det-olor"], metric="miou", records=tmp_path)
    with pytest.raises(
        ValueError, match="split-quickdraw-5 consists of drawings, and dense-sem-olor trains on canvases"
    ):
        api.run("dense-sem-olor", "split-quickdraw-5", records=tmp_path)
    with pytest.raises(ValueError, match="quickdraw-canvases consists of canvases, and slca trains on drawings"):
        api.run("slca", "quickdraw-canvases", records=tmp_path)


def test_scores_are_shown_by_their_names() -> None:
    records = [synthetic_record("dense-inst-olor", seed=seed, last_acc=30.0 + seed) for seed in range(2)]
    assert metrics_of(records) == ("box_ap", "mask_ap")
    assert metrics_of([synthetic_record("slca")]) == metrics_of([]) == METRICS
    text = show.scores_table(records)
    assert "mask_ap" in text
    assert "last_acc" not in text
    pytest.importorskip("pandas")
    table = api.frame([*records, synthetic_record("slca")])
    assert table["mask_ap"].tolist()[:2] == [30.0, 31.0]
    assert table["last_acc"].isna().tolist() == [True, True, False]


def test_recipes_and_streams_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="consists of canvases: choose a recipe"):
        run("full-1", RECIPES["full-1"].config, CANVASES, 0)
    with pytest.raises(ValueError, match="is for canvases, which quickdraw-1 has not"):
        run_dense("dense-sem-full", RECIPES["dense-sem-full"].config, STREAMS["quickdraw-1"], 0)
    with pytest.raises(ValueError, match="leave out weights, root and cache"):
        run_dense("dense-sem-full", RECIPES["dense-sem-full"].config, CANVASES, 0, setup=Setup(weights=Path("x")))
    with pytest.raises(ValueError, match="is no recipe for canvases"):
        run_dense("full-1", RECIPES["full-1"].config, CANVASES, 0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("alignment={}", "has no alignment: leave out it"),
        ("wise_ft=0.5", "has no wise_ft"),
        ("augment=true", "set augment to false"),
        ("schedule=step", "constant and cosine"),
        ("seeding=initialisation", "makes other canvases of each seed"),
        ("l2_sp=-1", "l2_sp must not be negative, got -1.0"),
        ("dense.canvases=0", "dense.canvases must be at least 1"),
        ("dense.task=panoptic", "dense.task must be semantic"),
        ("backbone=resnet18", "has no backbone"),
    ],
)
def test_settings_that_canvases_have_not(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RECIPES["dense-sem-full"].config.set([setting])
    with pytest.raises(ConfigError, match="nothing previous"):
        RECIPES["dense-sem-olor"].config.set(["olor.anchor=previous"])


def test_average_precision_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'reclaim\[dense\]'"):
        dense.require_metrics(Dense("detection"))
    dense.require_metrics(Dense("semantic"))


@pytest.fixture(scope="module")
def few() -> tuple[Canvases, Canvases]:
    return draw_canvases(range(6), 4, 4, 0)


@pytest.mark.parametrize("task", ["semantic", "detection", "instances"])
def test_every_head_gets_a_gradient_and_depths_are_those_of_the_backbone(task: Any, few: Any) -> None:
    torch.manual_seed(0)
    model = make_dense_model(Dense(task), 6)
    canvases = few[0]
    parts = dense_loss(model, canvases.images, dense._targets(canvases, "cpu"), canvases.semantic())
    torch.stack([*parts.values()]).sum().backward()
    new = {*new_parameters(model)}
    assert all(p.grad is not None for p in new)
    assert all(p.grad is not None for p in backbone_of(model).parameters())
    assert layer_depths(model, exclude=new) == layer_depths(backbone_of(model))
    assert len(set(layer_depths(model, exclude=new).values())) == 8


def test_a_token_is_the_middle_of_its_pixels() -> None:
    """A dot moves the most the token whose 6 x 6 pixels it is in, seen where tokens do not mix: behind the stem."""
    body = FeatureMap()
    dots = torch.zeros(3, 1, SIDE, SIDE)
    places = [(3, 3), (6 * 5 + 3, 6 * 8 + 3), (SIDE - 3, SIDE - 3)]
    for dot, (row, column) in zip(dots, places, strict=True):
        dot[0, row - 1 : row + 1, column - 1 : column + 1] = 1.0
    stem = lambda images: body.vit.patch_embed(nn.functional.pad(images, (1, 3, 1, 3)))  # noqa: E731
    moved = (stem(dots) - stem(torch.zeros_like(dots))).norm(dim=2)
    assert moved.shape == (3, body.grid**2)
    for found, (row, column) in zip(moved.argmax(1).tolist(), places, strict=True):
        assert divmod(found, body.grid) == (row // STRIDE, column // STRIDE)


def test_boxes_are_read_at_their_place() -> None:
    """See test_roi_features.py."""
    heads = make_dense_model(Dense("instances"), 6).roi_heads
    for pool, side in ((heads.box_roi_pool, 7), (heads.mask_roi_pool, 14)):
        assert isinstance(pool, RoIFeatures)
        assert (pool.output_size, pool.scale) == ((side, side), 1 / STRIDE)


def test_what_is_right_scores_100_and_what_is_wrong_0(few: Any) -> None:
    canvases = few[0]
    right = [
        {**target, "masks": target["masks"].bool(), "scores": torch.ones(len(target["labels"]))}
        for target in dense._targets(canvases, "cpu")
    ]
    scores, of_classes = score(Dense("instances"), right, canvases, 6)
    assert scores == pytest.approx(dict.fromkeys(("box_ap", "box_ap_50", "mask_ap", "mask_ap_50"), 100.0))
    present = {c for labels in canvases.labels for c in labels.tolist()}
    assert [ap is not None for ap in of_classes["mask_ap"]] == [c in present for c in range(1, 7)]
    wrong = [
        {**one, "labels": one["labels"] % 6 + 1, "boxes": one["boxes"] * 0 + torch.tensor([0, 0, 1, 1])}
        for one in right
    ]
    assert score(Dense("detection"), wrong, canvases, 6)[0]["box_ap"] == 0.0
    nothing = [{key: value[:0] for key, value in one.items()} for one in right]
    scores, of_classes = score(Dense("instances"), nothing, canvases, 6)
    assert scores == dict.fromkeys(("box_ap", "box_ap_50", "mask_ap", "mask_ap_50"), 0.0)
    assert of_classes["mask_ap"] == [0.0 if c in present else None for c in range(1, 7)]
    semantic = canvases.semantic()
    assert score(Dense("semantic"), [*semantic], canvases, 6)[0] == {"miou": pytest.approx(100.0)}
    background = score(Dense("semantic"), [*torch.zeros_like(semantic)], canvases, 6)
    share = 100 * float((semantic == 0).float().mean())
    assert background[0]["miou"] == pytest.approx(share / (1 + len(present)), rel=1e-4)
    assert background[1]["miou"][0] == pytest.approx(share, rel=1e-4)


@pytest.mark.parametrize("task", ["semantic", "detection", "instances"])
def test_a_label_above_the_classes_of_the_model_is_named(task: Any, few: Any) -> None:
    model = make_dense_model(Dense(task), 5)
    with pytest.raises(ValueError, match="a canvas has the label 6, and the model 5 classes"):
        fit(model, RECIPES["dense-sem-full"].config.set(FEW), few[0], 0)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "any", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="dense-sem-full trains on canvases in one process: run it without torchrun"):
        run_dense("dense-sem-full", RECIPES["dense-sem-full"].config, CANVASES, 0)


def test_objects_go_to_the_level_of_their_size() -> None:
    """FCOS gives an anchor of side a boxes whose farthest side is 4 a to 8 a away, and torchvision rounds anchors."""
    of_levels = make_dense_model(Dense("detection"), 5).anchor_generator.cell_anchors
    assert [float(anchors[0, 2] - anchors[0, 0]) for anchors in of_levels] == [4.0, 6.0]


@pytest.mark.trains
def test_a_loss_that_is_nan_is_named(few: Any) -> None:
    torch.manual_seed(0)
    model = make_dense_model(Dense("semantic"), 6)
    with torch.no_grad():
        model.head[0].weight.fill_(float("nan"))
    with pytest.raises(
        FloatingPointError, match="the loss cross-entropy became nan in epoch 0: lower the learning rate"
    ):
        fit(model, RECIPES["dense-sem-full"].config.set(FEW), few[0], 0)
    with pytest.raises(FloatingPointError, match="a weight is NaN"):
        predictions(model, few[0])
    with pytest.raises(FloatingPointError, match="loss_mask became inf in epoch 2"):
        require_finite({"a": torch.tensor(1.0), "loss_mask": torch.tensor(float("inf"))}, 2)


@pytest.mark.trains
def test_frozen_weights_stay_and_rolled_back_ones_stay_nearer(few: Any) -> None:
    """After the same steps OLOR with a rollback of 1 at the input has the input's weights where they were."""

    def moved(recipe: str, *settings: str) -> list[float]:
        torch.manual_seed(0)
        model = make_dense_model(Dense("semantic"), 6)
        backbone: Any = backbone_of(model)
        config: Config = RECIPES[recipe].config.set([*FEW, *settings])
        if config.trainable == "heads":
            backbone.requires_grad_(False)
        before = [p.detach().clone() for p in backbone.parameters()]
        fit(model, config.set(["schedule=constant"]), few[0], 0)
        return [float((p.detach() - old).norm()) for p, old in zip(backbone.parameters(), before, strict=True)]

    assert max(moved("dense-sem-linear")) == 0.0
    vit: Any = FeatureMap().vit
    depth_of = layer_depths(vit)
    depths = [depth_of[p] for p in vit.parameters()]
    rolled = moved("dense-sem-olor", "olor.rollback_input=1.0")
    assert max(far for far, depth in zip(rolled, depths, strict=True) if depth == 0.0) < 1e-6
    full = moved("dense-sem-full", "epochs=3")
    pulled = moved("dense-sem-l2sp", "epochs=3", "l2_sp=100.0", "lr=" + str(RECIPES["dense-sem-full"].config.lr))
    assert sum(pulled) < sum(full)


def test_canvases_of_a_single_class_have_scores(few: Any) -> None:
    """torchmetrics returns numbers instead of lists then."""
    _, canvases = few
    alike = Canvases(canvases.images, canvases.boxes, [torch.ones_like(one) for one in canvases.labels], canvases.masks)
    right = [
        {"boxes": boxes, "labels": labels, "scores": torch.ones(len(labels)), "masks": masks.bool()}
        for boxes, labels, masks in zip(alike.boxes, alike.labels, alike.masks, strict=True)
    ]
    scores, of_classes = score(Dense("instances"), right, alike, 3)
    assert scores["mask_ap"] == pytest.approx(100.0)
    assert of_classes["mask_ap"] == [pytest.approx(100.0), None, None]


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


@pytest.mark.parametrize(
    ("recipe", "predictions", "said"),
    [
        ("dense-sem-full", [{"semantic": "!!!"}] * 4, "predictions[0].semantic is not 1 x 84 x 84 pixels"),
        ("dense-sem-full", [{"semantic": packed(b"short")}] * 4, "predictions[0].semantic is not"),
        ("dense-sem-full", [{"semantic": packed(bytes(10**7))}] * 4, "predictions[0].semantic is not"),
        ("dense-sem-full", [{"semantic": 5}] * 4, "predictions[0].semantic is not"),
        ("dense-sem-full", [{}] * 4, "predictions[0] has "),
        ("dense-sem-full", [{"semantic": packed(bytes(84 * 84))}] * 7, "predictions has 7 entries"),
        ("dense-det-full", [{"boxes": [[1, 2, 3, 4]], "labels": []}] * 4, "has 1 boxes and 0 labels"),
        ("dense-det-full", [{"boxes": [[1, 2, 3]], "labels": [1]}] * 4, "boxes or labels that are no lists"),
        ("dense-det-full", [{"boxes": [[1, 2, 3, 4.5]], "labels": [1]}] * 4, "boxes or labels that are no lists"),
        (
            "dense-inst-full",
            [{"boxes": [[1, 2, 3, 4]], "labels": [1], "masks": packed(b"")}] * 4,
            "masks is not 1 x 84 x 84 pixels",
        ),
    ],
)
def test_predictions_that_cannot_be_drawn_are_named_and_not_counted(
    recipe: str, predictions: list[Any], said: str
) -> None:
    sound, damaged = (synthetic_record(recipe, CANVASES.name, seed) for seed in (0, 1))
    damaged.result["predictions"] = predictions
    assert said in str(reasons([damaged])[0])
    assert current([sound, damaged]) == [sound]


def test_scores_of_other_classes_are_named() -> None:
    record = synthetic_record("dense-sem-full", CANVASES.name)
    record.result["class_scores"] = {"miou": [1.0]}
    assert "class_scores.miou has 1 entries: there are 21" in str(reasons([record])[0])
