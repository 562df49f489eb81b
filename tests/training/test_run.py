"""A run: the same result to the last bit, whatever is evaluated in between, and a record that says what happened."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive
from click.testing import CliRunner
from reclaim.benchmark.cli import main
from reclaim.benchmark.config import Config
from reclaim.benchmark.data.experiences import Mixed, make_benchmark
from reclaim.benchmark.data.streams import STREAMS, class_order
from reclaim.benchmark.recipes import RECIPES, recipes_of
from reclaim.benchmark.records.metrics import METRICS
from reclaim.benchmark.records.record import Record, validate
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import build
from reclaim.benchmark.training import run as runner
from reclaim.benchmark.training.build import Augmentation, Reseeding, make_backbone, make_model, make_strategy
from reclaim.benchmark.training.observer import Observer
from reclaim.benchmark.training.run import run
from reclaim.strategies.aepg import AnnealedEPGLoss
from reclaim.strategies.averaging import WeightAverage, WiSEFT
from reclaim.strategies.baselines import L2SP, FrozenBackbone
from reclaim.strategies.fresh_optimizer import FreshOptimizer
from reclaim.strategies.olor import OLORSGD, OLORAdam
from reclaim.strategies.olor_plugin import OLORPlugin
from reclaim.strategies.peft import PEFTSchedule
from reclaim.strategies.peft_module import peft_parameters
from reclaim.strategies.slca import ClassifierAlignment
from reclaim.strategies.task_loss import TaskCrossEntropy
from small_runs import SMALL, shrink, small_config, small_settings
from torch import Tensor

EVERYTHING = "slca-olor-aepg"


class Spy(Observer):
    """Keeps the weights of each head before it is trained, and all weights at the end."""

    made: ClassVar[list[Spy]] = []

    def __init__(self) -> None:
        super().__init__()
        self.new_heads: list[Tensor] = []
        self.weights: dict[str, Tensor] = {}
        Spy.made.append(self)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.new_heads.append(strategy.model.heads.heads[-1].weight.detach().clone())

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.weights = {name: parameter.detach().clone() for name, parameter in strategy.model.named_parameters()}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    monkeypatch.setattr(Spy, "made", [])
    monkeypatch.setattr(runner, "Observer", Spy)


def run_small(recipe: str, *settings: str, seed: int = 0) -> Record:
    return run(recipe, small_config(recipe, *settings), SMALL, seed)


def checked(record: Record) -> Record:
    """The record, after the schema check and a trip through JSON."""
    document = json.loads(json.dumps({"result": record.result, "provenance": record.provenance}, allow_nan=False))
    validate(document)
    assert document["result"] == record.result
    return record


@pytest.mark.trains
@pytest.mark.parametrize("recipe", recipes_of("embedded"))
def test_every_recipe_runs_through_the_command_on_an_uneven_stream(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user types it: without a stream, on the recipe's home stream, which is small here."""
    home = RECIPES[recipe].home
    monkeypatch.setitem(STREAMS, home, replace(SMALL, name=home))
    config = small_config(recipe)
    settings = [word for setting in small_settings(recipe) for word in ("--set", setting)]
    command = ["run", recipe, "--seeds", "3-3", "--jobs", "1", "--records", str(tmp_path), *settings]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    scores = {line.split()[0] for line in done.output.splitlines() if re.search(r" -?\d+\.\d\d ", line)}
    # nothing has an entropy where nothing is trained
    trains_last = config.epochs and config.train_in == "every"  # else the last experience has no entropy in training
    assert scores >= (set(METRICS) if trains_last else set(METRICS) - {"final_entropy"}), done.output
    assert not re.search(r"\bnan\b", done.output)
    (record,), problems = RecordStore(tmp_path).load()  # validates
    assert not problems
    result = checked(record).result
    tasks = 1 if config.joint else 3
    assert (record.recipe, record.stream, record.seed) == (recipe, home, 3)
    assert result["config"] == config.as_dict()
    assert result["test_counts"] == ([24] if config.joint else [12, 8, 4])
    assert result["class_order"] == class_order(6, 3)
    trained = tasks if config.train_in == "every" else 1
    assert len(result["entropy"]) == len(result["train_loss"]) == config.epochs * trained
    assert result["hyperparameters_from"] == "given"
    for t in range(tasks):
        for i in range(t + 1):
            # who is right among all classes is right among those of the task
            assert result["accuracy_task_known"][t][i] >= result["accuracy"][t][i]
    if not config.joint:
        assert result["accuracy_task_known"][2][2] == 100  # one class in the task
    again = CliRunner().invoke(main, command)  # from the record alone
    assert again.exit_code == 0, again.output
    assert again.output.strip().replace("on record already:", "recorded:") in done.output


@pytest.mark.trains
def test_shuffled_test_images_count_for_their_experience() -> None:
    """Where each image chooses alone, neither size nor order of the test batches matters, image by image."""
    plain = run_small("l2p").result
    for settings in (["eval_batch_size=5"], ["test_order=shuffled"], ["eval_batch_size=3", "test_order=shuffled"]):
        other = run_small("l2p", *settings).result
        for key in ("correct", "test_counts", "accuracy", "accuracy_task_known", "train_loss"):
            assert other[key] == plain[key], (settings, key)


def test_the_order_of_the_test_is_one_over_all_experiences_so_far() -> None:
    benchmark = make_benchmark(SMALL, class_order(6, 0))
    mixed = Mixed(benchmark.test_stream[:2], 0)
    labels = [label for _, label, *_ in mixed.dataset]
    assert len(labels) == 20
    assert labels != sorted(labels)
    for part, experience in enumerate(benchmark.test_stream[:2]):
        rows = np.flatnonzero(mixed.part_of == part)
        images = {int(mixed.place[row]): mixed.dataset[int(row)] for row in rows}
        assert sorted(images) == list(range(len(experience.dataset)))
        for place, (image, label, *_) in images.items():
            assert torch.equal(image, experience.dataset[place][0])
            assert label == experience.dataset[place][1]
    assert mixed.classes_of == [[0, 1, 2], [3, 4]]
    assert Mixed(benchmark.test_stream[:2], 1).place.tolist() != mixed.place.tolist()


def test_a_record_says_where_the_hyperparameters_are_from() -> None:
    record = run("ncm", small_config("ncm"), SMALL, 0, hyperparameters_from="validation")
    assert record.result["hyperparameters_from"] == "validation"


def test_an_experience_of_less_than_a_batch_is_not_left_out_in_silence() -> None:
    with pytest.raises(
        ValueError,
        match=r"experience 2 of small has 8 images, less than a batch, .* set drop_last=false, or a batch_size below 9",
    ):
        run_small("lora-aepg.f19", "batch_size=9")


LOSSES = {
    "ce": [],
    "epg": ["annealing.schedule=0"],
    "aepg": ["annealing={}"],
    **{kind: [f"loss.kind={kind}"] for kind in ("focal", "label-smoothing", "confidence-penalty", "entropy-penalty")},
}


@pytest.mark.parametrize("module", ["lora", "adapter", "prefix"])
@pytest.mark.parametrize("loss", LOSSES)
def test_any_loss_with_any_module_in_lae(loss: str, module: str) -> None:
    settings = [
        "optimizer=adam",
        "epochs=2",
        "batch_size=16",
        "lr=0.01",
        "lae={}",
        f"{module}.frozen_epochs=1",
        *LOSSES[loss],
    ]
    record = checked(run("any", Config().set(settings), SMALL, 0))
    of_heads = 6 * (128 + 1)
    assert record.result["bytes_kept"] == 4 * (
        record.result["trained_parameters"] - of_heads
    )  # the second expert, in float32
    # what was trained moved away from where all losses start
    assert record.result["train_loss"][1] != record.result["train_loss"][0]


@pytest.mark.trains
def test_twice_the_same_run_gives_the_same_bits() -> None:
    first, second, other = run_small(EVERYTHING), run_small(EVERYTHING), run_small(EVERYTHING, seed=1)
    assert json.dumps(first.result) == json.dumps(second.result)
    assert Spy.made[0].weights.keys() == Spy.made[1].weights.keys()
    assert all(torch.equal(w, Spy.made[1].weights[name]) for name, w in Spy.made[0].weights.items())
    assert other.result["class_order"] != first.result["class_order"]
    assert other.result["train_loss"] != first.result["train_loss"]


def test_what_was_drawn_or_set_before_does_not_matter() -> None:
    first = run_small(EVERYTHING)
    torch.manual_seed(99)
    np.random.seed(99)
    torch.rand(5)
    assert run_small(EVERYTHING).result == first.result


@pytest.mark.trains
@pytest.mark.parametrize("recipe", ["seqft-fast", "lora-aepg", EVERYTHING])
def test_evaluating_in_between_changes_no_weight(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Naive.eval
    run_small(recipe)

    def evaluate_everything_twice(strategy: Any, experiences: Any, **kwargs: Any) -> None:
        whole = experiences[0].benchmark.test_stream
        for _ in range(2):
            torch.rand(7)
            evaluate(strategy, whole, **kwargs)

    monkeypatch.setattr(Naive, "eval", evaluate_everything_twice)
    run_small(recipe)
    monkeypatch.setattr(Naive, "eval", lambda *args, **kwargs: None)
    run_small(recipe)
    usual, often, never = (spy.weights for spy in Spy.made)
    assert usual.keys() == often.keys() == never.keys()
    for name, weight in usual.items():
        assert torch.equal(weight, often[name]), name
        assert torch.equal(weight, never[name]), name


def test_the_seed_varies_the_initialisation_or_not() -> None:
    for mode in ("class_order", "class_order+initialisation"):
        records = [run_small("seqft-slow", f"seeding={mode}", seed=seed) for seed in (0, 1, 2)]
        assert len({str(r.result["class_order"]) for r in records}) == 3
        assert {r.result["varied"] for r in records} == {mode}
    fixed, varied = Spy.made[:3], Spy.made[3:]
    for experience in range(3):
        reference = fixed[0].new_heads[experience]
        assert all(torch.equal(spy.new_heads[experience], reference) for spy in fixed)
        # seed 1 is the one that F2's mode always uses
        assert [torch.equal(spy.new_heads[experience], reference) for spy in varied] == [False, True, False]


def test_joint_training_is_one_experience() -> None:
    joint = run_small("joint")
    whole = run("joint", small_config("joint", "joint=false"), SMALL.joined(), 0)
    assert joint.stream == "small"
    assert len(joint.result["accuracy"]) == 1
    for key in ("accuracy", "correct", "train_loss", "entropy"):
        assert joint.result[key] == whole.result[key]


@pytest.mark.parametrize(
    ("recipe", "settings", "total"),
    [("linear", [], 6), ("linear", ["joint=true"], 2), ("gdumb", [], 6), ("bic", [], 6), ("lda", [], 3)],
)
def test_progress_counts_epochs(recipe: str, settings: list[str], total: int) -> None:
    """Six of them; two of a run of one experience, which is not at 0% until it ends; without epochs, experiences."""
    calls: list[tuple[int, int]] = []
    run(recipe, small_config(recipe, *settings), SMALL, 0, progress=lambda *call: calls.append(call))
    assert calls == [(done, total) for done in range(1, total + 1)]


def test_progress_of_a_single_epoch_goes_by_batches() -> None:
    calls: list[tuple[float, int]] = []
    config = small_config("linear", "joint=true", "epochs=1", "batch_size=8")
    run("linear", config, SMALL, 0, progress=lambda *call: calls.append(call))
    done = [done for done, _ in calls]
    assert done == sorted(set(done))
    assert len(done) > 2
    assert done[-1] == 1
    assert [round(epochs, 2) for epochs in done] == done


@pytest.mark.trains
def test_entropy_and_loss_are_those_of_the_current_classes() -> None:
    # heads at zero that hardly learn: every class of the experience is equally likely, and those of others do not count
    record = checked(run_small("linear", "head_init_std=1e-12", "lr=1e-12"))
    expected = np.repeat(np.log([3, 2, 1]), 2)
    np.testing.assert_allclose(record.result["entropy"], expected, atol=1e-4)
    np.testing.assert_allclose(record.result["train_loss"], expected, atol=1e-4)


def test_trained_parameters_and_bytes_kept() -> None:
    heads = 6 * (128 + 1)
    backbone = make_backbone(Config())
    size = sum(p.numel() for p in backbone.parameters())
    assert run_small("linear").result["trained_parameters"] == heads
    assert run_small("seqft-fast").result["trained_parameters"] == size + heads
    lora = small_config("lora-ce")
    modules = sum(p.numel() for p in peft_parameters(make_model(lora, make_backbone(lora)).backbone))
    assert run_small("lora-ce").result["trained_parameters"] == modules + heads
    assert modules > 0

    assert run_small("seqft-fast").result["bytes_kept"] == 0
    gaussians = 6 * 4 * (128 + 128 * 128)
    assert run_small("slca").result["bytes_kept"] >= gaussians
    assert run_small("olor-1").result["bytes_kept"] == 4 * size
    assert run_small("l2sp-1").result["bytes_kept"] == 4 * size


def test_the_record_names_data_and_starting_weights() -> None:
    plain, lora, validation = run_small("seqft-fast"), run_small("lora-ce"), run_small("seqft-fast", "part=validation")
    assert plain.result["weights_sha256"] == lora.result["weights_sha256"] == validation.result["weights_sha256"]
    assert plain.result["data_sha256"] == lora.result["data_sha256"] != validation.result["data_sha256"]
    assert plain.provenance["threads"] == 1
    assert plain.provenance["accelerator"] is None


# --- what goes wrong ---


def test_a_loss_that_is_not_finite_is_named_by_experience_and_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks(TaskCrossEntropy):
        """Not a number in the second epoch of the second experience: 2, 2, 1, 1, 1, 1 batches."""

        calls = 0

        def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
            self.calls += not self._evaluating
            return super().loss(logits, targets) * (math.nan if self.calls == 6 else 1.0)

    monkeypatch.setattr(build, "_loss", lambda config: Breaks())
    with pytest.raises(
        FloatingPointError, match="the loss became nan in experience 1, epoch 1: lower the learning rate"
    ):
        run_small("seqft-fast")


def test_a_diverging_run_is_no_result() -> None:
    with pytest.raises(FloatingPointError, match=r"in experience 0, epoch \d"):
        run_small("seqft-fast", "lr=1e30")
    # one step only: the loss was finite, what it left behind is not
    with pytest.raises(FloatingPointError, match=r"NaN or infinite when evaluated after 1 experience"):
        run_small("seqft-fast", "lr=1e38", "epochs=1", "batch_size=1000")


@pytest.mark.parametrize(
    ("recipe", "setting", "complaint"),
    [
        ("slca", "alignment.tau=-1", "tau must be .*got -1.0"),
        ("slca", "alignment.samples_per_class=0", "samples_per_class must be .*got 0"),
        ("slca", "alignment.ridge=-1", "ridge must be .*got -1.0"),
        ("slca", "alignment.epochs=-1", "epochs .*-1"),
        ("olor-1", "olor.rollback_input=-1", "rollback_input must be .*got -1.0"),
        ("olor-1", "olor.rollback_power=-1", "rollback_power must be .*got -1.0"),
        ("lora-aepg", "annealing.schedule=steep", "schedule must be one of sigmoid, linear, cosine, .*got 'steep'"),
        ("lora-aepg", "annealing.schedule=2", r"alpha must be in \[0, 1\]"),
        ("lora-aepg", "annealing.tau=0", "tau must be positive"),
        ("lora-ce", "lora.rank=0", "rank of LoRA must be at least 1, got 0"),
        ("lora-ce", "lora.blocks=7", "blocks must be distinct indices from 0 to 5"),
        ("lora-ce", "lora.frozen_epochs=3", "frozen_epochs=3 is more than"),
        ("l2sp-1", "l2_sp=-1", "l2_sp must not be negative, got -1.0"),
        ("llrd-1", "layer_decay=0", "decay must be above 0 and at most 1, got 0.0"),
        ("wise-ft-1", "wise_ft=2", r"alpha must be in \[0, 1\], got 2.0"),
        ("weight-average-1", "weight_average=1", r"decay must be in \[0, 1\), got 1.0"),
        ("coda-prompt", "coda.experiences=2", "shared by 2 experiences, and small has 3: --set coda.experiences=3"),
        ("linear", "backbone=vit_of_nobody", "unknown backbone 'vit_of_nobody'"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(recipe: str, setting: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        run_small(recipe, setting)


# --- the parts ---


def strategy_of(config: Config, seed: int = 0) -> Any:
    return make_strategy(config, make_model(config, make_backbone(config)), seed, [])


@pytest.mark.parametrize(
    ("settings", "plugins", "optimizer", "loss"),
    [
        ([], set(), torch.optim.SGD, TaskCrossEntropy),
        (["optimizer=adam", "augment=false"], set(), torch.optim.Adam, TaskCrossEntropy),
        (["trainable=heads"], {FrozenBackbone}, torch.optim.SGD, TaskCrossEntropy),
        (["alignment={}"], {ClassifierAlignment}, torch.optim.SGD, TaskCrossEntropy),
        (["olor={}"], {OLORPlugin}, OLORSGD, TaskCrossEntropy),
        (["olor={}", "optimizer=adam", "annealing={}"], {OLORPlugin}, OLORAdam, AnnealedEPGLoss),
        (["l2_sp=0.1"], {L2SP}, torch.optim.SGD, TaskCrossEntropy),
        (["wise_ft=0.5"], {WiSEFT}, torch.optim.SGD, TaskCrossEntropy),
        (["weight_average=0.9"], {WeightAverage}, torch.optim.SGD, TaskCrossEntropy),
        (["lora={}"], {PEFTSchedule}, torch.optim.SGD, TaskCrossEntropy),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else None,
)
def test_the_configuration_names_the_parts(
    settings: list[str], plugins: set[type], optimizer: type, loss: type
) -> None:
    config = Config().set(settings)
    strategy = strategy_of(config)
    ours = {
        Reseeding,
        FreshOptimizer,
        FrozenBackbone,
        PEFTSchedule,
        OLORPlugin,
        L2SP,
        WiSEFT,
        WeightAverage,
        ClassifierAlignment,
        Augmentation,
    }
    expected = {Reseeding, FreshOptimizer} | plugins | ({Augmentation} if config.augment else set())
    assert {type(p) for p in strategy.plugins} & ours == expected
    assert type(strategy.optimizer) is optimizer
    assert type(strategy._criterion) is loss


def test_numbers_reach_the_parts() -> None:
    config = Config().set(
        [
            *("lr=0.2", "slow_factor=0.1", "momentum=0.5", "weight_decay=0.01", "batch_size=7", "epochs=9"),
            *(
                "olor.rollback_input=0.3",
                "olor.rollback_output=0.1",
                "olor.rollback_power=2",
                "olor.rollback_decay=paper",
            ),
            *("annealing.schedule=linear", "annealing.horizon=stream", "alignment.tau=0.3", "alignment.epochs=2"),
            *(
                "alignment.samples_per_class=5",
                "alignment.ridge=0.5",
                "alignment.mean_decay=false",
                "alignment.task_index=reference",
            ),
            "alignment.restore_heads=false",
        ]
    )
    strategy = strategy_of(config)
    assert sorted({group["lr"] for group in strategy.optimizer.param_groups}) == [pytest.approx(0.02), 0.2]
    for group in strategy.optimizer.param_groups:
        assert (group["momentum"], group["weight_decay"]) == (0.5, 0.01)
        assert (group["rollback_input"], group["rollback_output"], group["rollback_power"]) == (0.3, 0.1, 2)
        assert group["rollback_decay"] == "paper"
    assert (strategy.train_mb_size, strategy.train_epochs) == (7, 9)
    (alignment,) = (p for p in strategy.plugins if isinstance(p, ClassifierAlignment))
    expected = {
        "tau": 0.3,
        "epochs": 2,
        "samples_per_class": 5,
        "lr": 0.2,
        "mean_decay": False,
        "task_index": "reference",
    }
    assert {key: alignment.settings[key] for key in expected} == expected
    assert alignment.gaussians.ridge == 0.5
    assert alignment.restore is False
    assert (strategy._criterion.schedule, strategy._criterion.horizon) == ("linear", "stream")


def test_numbers_reach_olors_rivals() -> None:
    def plugin(kind: type, *settings: str) -> Any:
        (found,) = (p for p in strategy_of(Config().set(settings)).plugins if isinstance(p, kind))
        return found

    l2sp = plugin(L2SP, "l2_sp=3", "l2_sp_form=sum")
    assert (l2sp.weight, l2sp.form) == (3, "sum")
    assert plugin(WiSEFT, "wise_ft=0.3").alpha == 0.3
    assert plugin(WeightAverage, "weight_average=0.3").decay == 0.3
    groups = strategy_of(Config().set(["layer_decay=0.5", "lr=0.2", "weight_decay=0.01"])).optimizer.param_groups
    # of tokens and patches, six blocks, the final norm, and the heads
    assert [group["lr"] for group in groups] == [*(0.2 * 0.5**i for i in range(7, -1, -1)), 0.2]
    assert {group["weight_decay"] for group in groups} == {0.01}


@pytest.mark.trains
def test_decoupled_l2sp_against_its_formula() -> None:
    """OLOR at power 0: theta <- theta - lr_t / lr_0 lambda (theta - theta_0) after Adam's step, for the whole backbone
    and no head.
    """

    class Double(SupervisedPlugin[Any]):
        def before_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            strategy.mbatch[0] = strategy.mb_x.double()

    class Pull(Double):
        """The formula, after plain Adam's step."""

        theta_0: ClassVar[list[Tensor]] = []

        def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            self.theta_0[:] = [p.detach().clone() for p in strategy.model.backbone.parameters()]

        @torch.no_grad()
        def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            (lr_t,) = {group["lr"] for group in strategy.optimizer.param_groups}
            for p, start in zip(strategy.model.backbone.parameters(), self.theta_0, strict=True):
                p -= lr_t / config.lr * 0.05 * (p - start)

    recipe = RECIPES["l2sp-decoupled-1"]
    plain = replace(recipe.base, olor=None)
    assert plain == RECIPES["full-1"].base
    config = recipe.base.set([*small_settings(recipe.name), "olor.rollback_input=0.05"])
    plain = plain.set(small_settings("full-1"))
    (experience,) = make_benchmark(SMALL.joined(), class_order(SMALL.n_classes, 0)).train_stream
    ends = []
    for settings, plugin in ((config, Double()), (plain, Pull()), (plain, Double())):
        torch.manual_seed(0)
        model = make_model(settings, make_backbone(settings)).double()
        make_strategy(settings, model, 0, [plugin]).train(experience)
        ends.append([p.detach() for p in model.parameters()])
    decoupled, by_formula, without = ends
    furthest, moved = (
        max(float((a - b).abs().max()) for a, b in zip(decoupled, other, strict=True) if a.numel())
        for other in (by_formula, without)
    )
    assert furthest < 1e-6 * moved


@pytest.mark.trains
def test_each_switch_of_the_parts_changes_the_result() -> None:
    def losses(*settings: str) -> tuple[str, ...]:
        result = run_small(EVERYTHING, "lr=0.1", "schedule=cosine", "olor.rollback_input=0.3", *settings).result
        return str(result["train_loss"]), result["correct"], str(result["accuracy_task_known"])

    settings = (
        "olor.counting=tensors",
        "olor.anchor=previous",
        "olor.rollback_decay=paper",
        "annealing.horizon=stream",
        "augment=false",
    )
    seen = [losses(), *(losses(setting) for setting in settings)]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("step", [1, 1, 1, 1, 0.1]),
        ("cosine", [0.5 * (1 + math.cos(math.pi * e / 5)) for e in range(5)]),
    ],
)
def test_schedules_run_over_the_epochs_of_each_experience(
    schedule: str, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    class Rates(Observer):
        """Notes the learning rate of every epoch."""

        def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            super().before_training_epoch(strategy)
            rates.append(strategy.optimizer.param_groups[-1]["lr"])

    monkeypatch.setattr(runner, "Observer", Rates)
    run_small("linear", "lr=1", "epochs=5", "batch_size=32", f"schedule={schedule}")
    np.testing.assert_allclose(rates, expected * 3, atol=1e-12)


def test_augmentation_is_for_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, float]] = []

    def blank(images: Tensor, *args: Any) -> Tensor:
        seen.append((torch.is_grad_enabled(), float(images.sum())))
        return torch.zeros_like(images)

    evaluated: list[float] = []

    class Looks(Observer):
        """Notes how much ink there is in what is evaluated."""

        def after_eval_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            super().after_eval_iteration(strategy)
            evaluated.append(float(strategy.mb_x.sum()))

    monkeypatch.setattr(build, "warp_batch", blank)
    monkeypatch.setattr(runner, "Observer", Looks)
    run_small("seqft-fast")
    assert len(seen) == 2 * (2 + 1 + 1)
    assert all(training and total > 0 for training, total in seen)
    assert evaluated
    assert min(evaluated) > 0  # the test drawings are not blank
    seen.clear()
    run_small("seqft-fast", "augment=false")
    assert not seen


@pytest.mark.trains
def test_one_experience_of_real_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    config = small_config("linear", "batch_size=128", "lr=0.1", "schedule=constant")
    observer = Observer()
    torch.manual_seed(0)
    model = make_model(config, make_backbone(config))
    strategy = make_strategy(config, model, 0, [observer])
    benchmark = make_benchmark(STREAMS["split-quickdraw-20"], class_order(100, 0))
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    strategy.eval(benchmark.test_stream[:1])
    assert observer.train_loss[-1] < observer.train_loss[0]
    assert observer.accuracy[0][0] > 30  # chance is 20; 91 to 93 with four seeds and two versions of torch
    assert len(observer.correct) == 100
    assert observer.accuracy[0][0] == pytest.approx(np.mean(observer.correct) * 100)


def test_reseeding_depends_on_seed_experience_and_epoch() -> None:
    class Clock:
        train_exp_counter = 0
        train_exp_epochs = 0

    class Strategy:
        clock = Clock()

    def drawn(seed: int, experience: int, hook: Callable[[Reseeding], Callable[..., None]], epoch: int = 0) -> float:
        Strategy.clock.train_exp_counter, Strategy.clock.train_exp_epochs = experience, epoch
        hook(Reseeding(seed))(Strategy())
        return float(torch.rand(1))

    def before(r: Reseeding) -> Callable[..., None]:
        return r.before_train_dataset_adaptation

    def each(r: Reseeding) -> Callable[..., None]:
        return r.before_training_epoch

    values = [drawn(s, e, before) for s in range(3) for e in range(3)] + [
        drawn(s, e, each, k) for s in range(3) for e in range(3) for k in (0, 1)
    ]
    assert len(set(values)) == len(values)
    assert drawn(1, 1, each, 1) == drawn(1, 1, each, 1)
