"""Configurations: what can be set, what is refused, what the hash holds. Recipes: every one of them builds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import pytest
from avalanche.training.supervised import Naive
from reclaim.benchmark import recipes
from reclaim.benchmark.config import (
    LITE0,
    OLOR_SGD_ONLY,
    Alignment,
    Annealing,
    Config,
    Images,
    Lae,
    Lora,
    Olor,
    config_hash,
    from_dict,
)
from reclaim.benchmark.data.streams import PAPER_STREAMS, STREAMS
from reclaim.benchmark.recipes import RECIPES, Recipe, RecipeError, find_recipe, read_recipes, recipes_of
from reclaim.benchmark.training.build import make_backbone, make_model, make_strategy
from reclaim.benchmark.training.jobs import jobs_of
from reclaim.strategies.fresh_optimizer import FreshOptimizer
from reclaim.strategies.replay import DERPlusPlus
from torch.optim.lr_scheduler import CosineAnnealingLR

EMBEDDED = recipes_of("embedded")

# --- configurations ---


def test_settings_are_read_as_json_or_words() -> None:
    config = Config().set(
        [
            "lr=0.1",
            "epochs = 7",
            "augment=false",
            "optimizer=adam",
            "alignment.tau=0.05",
            'olor={"rollback_input": 0.5}',
            "lora={}",
            "l2_sp=null",
        ]
    )
    assert (config.lr, config.epochs, config.augment, config.optimizer) == (0.1, 7, False, "adam")
    assert config.alignment == Alignment(tau=0.05)  # naming a part's setting switches the part on
    assert config.olor == Olor(rollback_input=0.5)
    assert config.lora == Lora()
    assert config.l2_sp is None
    assert config.set(["alignment.epochs=2"]).alignment == Alignment(tau=0.05, epochs=2)
    assert config.set(["alignment={}"]).alignment == Alignment()
    assert config.set(["alignment=null"]).alignment is None
    assert Config().set(["annealing.schedule=0.5"]).annealing == Annealing(schedule=0.5)
    assert Config().set(["annealing.schedule=linear"]).annealing == Annealing(schedule="linear")
    assert Config().set([]) == Config()


def test_an_integer_passes_for_a_float_and_hashes_like_one() -> None:
    assert config_hash(Config().set(["lr=1"]).as_dict()) == config_hash(Config().set(["lr=1.0"]).as_dict())
    assert type(Config().set(["l2_sp=1"]).l2_sp) is float


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("lr", "cannot read 'lr': write key=value"),
        ("=5", "unknown setting ''"),
        ("learning_rate=1", "unknown setting 'learning_rate'.*did you mean"),
        ("epoch=1", "did you mean epochs"),
        ("alignment.taw=1", "unknown setting 'alignment.taw'.*did you mean tau"),
        ('alignment={"taw": 1}', "unknown setting 'alignment.taw'"),
        ("lr.factor=1", "'lr' has no parts"),
        ("alignment.tau.x=1", "'tau' has no parts"),
        ("alignment=5", "alignment must be Alignment or null, got 5"),
        ("alignment=", "alignment must be Alignment or null, got ''"),
        ("lr=fast", "lr must be a finite number, got 'fast'"),
        ("lr=", "lr must be a finite number, got ''"),
        ("lr=true", "lr must be a finite number, got True"),
        ("lr=NaN", "lr must be a finite number, got nan"),
        ("lr=Infinity", "lr must be a finite number, got inf"),
        ("weight_decay=-Infinity", "weight_decay must be a finite number"),
        ("lr=null", "lr must be a finite number, got None"),
        ("lr=[1]", r"lr must be a finite number, got \[1\]"),
        ("epochs=2.5", "epochs must be an integer, got 2.5"),
        ("epochs=true", "epochs must be an integer, got True"),
        ("augment=1", "augment must be bool, got 1"),
        ("backbone=5", "backbone must be str, got 5"),
        ("backbone=/mnt/me/vit.pth", "backbone is '/mnt/me/vit.pth': a configuration names no file; use --backbone"),
        ("backbone=local-dir:vit", "a configuration names no file"),
        ("backbone=hf_hub:owner/name", "or write hf-hub:owner/name"),
        ("optimizer=rmsprop", r"optimizer must be sgd\|adam, got 'rmsprop'"),
        ("part=train", r"part must be test\|validation, got 'train'"),
        ("seeding=none", r"seeding must be class_order\|class_order\+initialisation"),
        ("annealing.schedule=null", "annealing.schedule must be str or a finite number, got None"),
        ("l2_sp=much", "l2_sp must be a finite number or null, got 'much'"),
        ("epochs=0", "epochs must be positive, got 0"),
        ("batch_size=-1", "batch_size must be positive, got -1"),
        ("lr=0", "lr must be positive"),
        ("head_init_std=-1", "head_init_std must not be negative"),
        ("eval_batch_size=0", "eval_batch_size must be a number of images, at least 1, got 0"),
        ("l2p.top_k=11", "l2p.top_k must be from 1 to l2p.pool=10, got 11"),
        ("momentum=-0.1", "momentum must not be negative, got -0.1"),
        ("slow_factor=-1", "slow_factor must not be negative"),
        ("weight_decay=-1", "weight_decay must not be negative"),
    ],
)
def test_bad_settings_are_refused_by_name(setting: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Config().set([setting])


@pytest.mark.parametrize(
    "part",
    [
        *("lora={}", "adapter={}", "prefix={}", "low_rank={}"),
        *("olor={}", "l2_sp=0.1", "layer_decay=0.5", "wise_ft=0.5"),
    ],
)
def test_training_what_is_frozen_is_refused(part: str) -> None:
    with pytest.raises(
        ValueError, match=f"trainable='heads' freezes the backbone: {part.split('=')[0]} would do nothing"
    ):
        Config().set(["trainable=heads", part])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["lora={}", "prefix={}"], "lora and prefix cannot be combined"),
        (["low_rank={}", "adapter={}"], "adapter and low_rank cannot be combined"),
        (["lae={}"], "lae is a second expert of PEFT modules, but there are none"),
        (["loss={}", "annealing={}"], "loss and annealing both replace cross-entropy"),
        (["memory.method=der++", "annealing={}"], r"DER\+\+ has its own loss"),
        (["epochs=0"], "epochs must be positive"),
        (
            ["alignment={}", "closed_form={}"],
            "alignment would retrain the heads that nearest-class-mean computes or corrects",
        ),
        (["alignment={}", "memory.method=gdumb"], "alignment would retrain the heads that gdumb computes"),
        (["l2p={}", "dualprompt={}"], "l2p and dualprompt cannot be combined"),
        (["l2p={}", "micro_batch=8"], "l2p lets the images of a whole batch choose prompts"),
        (["dualprompt={}", "precision=fp16"], r"dualprompt\.clip=1\.0 would clip gradients that fp16 has scaled"),
        (["l2p.clip=0", "l2p.clip_over=all"], r"l2p\.clip_over='all' says by which norm to clip"),
        (["dualprompt.g_layers=[1, 2]"], r"dualprompt\.g_layers and e_layers share \[2\]"),
        (["l2_sp_form=sum"], "l2_sp_form=sum is the form of l2_sp, which is null"),
        (["layer_decay=0.5", "slow_factor=0.5"], "layer_decay, slow_factor and low_rank each set .* learning rates"),
        (["layer_decay=0.5", "low_rank={}"], "layer_decay, slow_factor and low_rank each set .* learning rates"),
        (["wise_ft=0.5", "weight_average=0.9"], "wise_ft and weight_average each choose the weights that predict"),
        (["wise_ft=0.5", "memory.method=gdumb"], "wise_ft goes on from the trained weights, and GDumb starts again"),
        (
            ["weight_average=0.9", "keep=best", "images={}", "images.hold_out=true"],
            "weight_average is over all epochs, not those up to the best",
        ),
        (
            ["inflora={}", "lae={}"],
            "lae keeps to earlier weights, and InfLoRA begins each experience with a new branch",
        ),
        (["inflora={}", "weight_average=0.9"], "weight_average keeps to earlier weights, and InfLoRA"),
        (["inflora={}", "wise_ft=0.5"], "wise_ft keeps to earlier weights, and InfLoRA"),
        (
            ["coda={}", "weight_average=0.9"],
            "weight_average averages over all steps, and coda gives prompts new values",
        ),
        (
            ["dualprompt.copy_prompts=true", "weight_average=0.9"],
            r"weight_average averages over all steps, and dualprompt\.copy_prompts gives",
        ),
        (["l2p.share=true", "lae={}"], r"lae averages over all steps, and l2p\.share gives"),
        (["low_rank={}", "slow_factor=0.5"], "low_rank has its own learning rates and schedule"),
        (["inflora={}", "schedule=cosine"], "inflora has its own schedule, inflora.schedule=reference"),
        (["inflora={}", "slow_factor=0.5"], "slow_factor=0.5 would slow down InfLoRA's branches"),
        (["inflora.threshold=1.5"], "inflora.threshold must be from 0 to 1, got 1.5"),
        (["inflora.last_threshold=-1"], "inflora.last_threshold must be from 0 to 1, got -1"),
        (["inflora.rank=0"], "inflora.rank must be at least 1, got 0"),
        (["inflora.blocks=0"], "inflora.blocks must be at least 1, got 0"),
        (["inflora={}", "ewc=1.0"], "ewc keeps to earlier weights, and InfLoRA begins each experience"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(settings: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Config().set(settings)


def test_heads_in_closed_form_need_no_epoch() -> None:
    assert Config().set(["closed_form={}", "epochs=0"]).epochs == 0


def test_two_pulls_to_the_pretrained_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="olor and l2_sp both pull"):
        Config().set(["olor={}", "l2_sp=0.1"])


@pytest.mark.parametrize(
    ("start", "settings"),
    [
        (Config(olor=Olor()), ["trainable=heads", "olor=null"]),
        (Config(l2_sp=0.1), ["olor={}", "l2_sp=null"]),
        (Config(l2_sp=0.1, olor=None), ["l2_sp=null", "olor.rollback_input=0.5"]),
    ],
)
def test_the_order_of_settings_does_not_matter(start: Config, settings: list[str]) -> None:
    assert start.set(settings) == start.set(settings[::-1])


def test_a_configuration_is_not_changed_by_setting() -> None:
    config = Config(alignment=Alignment())
    config.set(["lr=9", "alignment.tau=9"])
    assert config == Config(alignment=Alignment())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("recipe", RECIPES)
def test_round_trip(recipe: str) -> None:
    config = RECIPES[recipe].config
    text = json.dumps(config.as_dict(), sort_keys=True)
    assert from_dict(json.loads(text)) == config
    assert config_hash(from_dict(json.loads(text)).as_dict()) == config_hash(config.as_dict())


def test_parts_that_are_absent_are_not_in_the_hash() -> None:
    values = Config().as_dict()
    parts = {
        "alignment",
        "olor",
        "annealing",
        "lora",
        "adapter",
        "prefix",
        "low_rank",
        "lae",
        "loss",
        "memory",
        "closed_form",
    }
    assert not (parts | {"ewc", "lwf", "l2_sp"}) & values.keys()
    assert "lr" not in Config(alignment=Alignment()).as_dict()["alignment"]

    @dataclasses.dataclass(frozen=True)
    class Later(Config):
        """The configuration of a later version, with one more part."""

        mixup: float | None = None

    assert config_hash(Later().as_dict()) == config_hash(values)
    assert config_hash(Later(mixup=0.1).as_dict()) != config_hash(values)


def test_fields_that_came_later_are_in_the_hash_once_they_are_set() -> None:
    base = Config(olor=Olor(), lora=Lora(), schedule="cosine")
    assert not {"gradient_damping", "freeze", "horizon_beyond"} & {
        *base.as_dict(),
        *base.as_dict()["olor"],
        *base.as_dict()["lora"],
    }
    for setting in ("olor.gradient_damping=reference", "lora.freeze=backbone", "horizon_beyond=1"):
        changed = base.set([setting])
        assert config_hash(changed.as_dict()) != config_hash(base.as_dict())
        assert from_dict(changed.as_dict()) == changed


@pytest.mark.parametrize("name", OLOR_SGD_ONLY)
def test_switches_of_olor_with_sgd_are_refused_elsewhere(name: str) -> None:
    assert Config().set([f"olor.{name}=reference"]).olor
    with pytest.raises(ValueError, match=f"{name}.* are switches of OLOR with SGD"):
        Config(optimizer="adam").set([f"olor.{name}=reference"])


def test_the_horizon_is_of_the_cosine_schedule() -> None:
    with pytest.raises(ValueError, match=r"horizon_beyond=1\.0 needs the cosine schedule"):
        Config().set(["horizon_beyond=1"])
    config = Config(schedule="cosine", epochs=2, horizon_beyond=1)
    strategy = make_strategy(config, make_model(config, make_backbone(config)), 0, [])
    fresh = next(p for p in strategy.plugins if isinstance(p, FreshOptimizer))
    assert fresh.schedule
    schedule = cast(CosineAnnealingLR, fresh.schedule(strategy.optimizer, 50))
    assert schedule.T_max == 75  # two epochs of 25 steps, and a third that is not trained (F13)


def test_every_number_is_in_the_hash() -> None:
    base = Config(alignment=Alignment(), olor=Olor(), annealing=Annealing(), lora=Lora(), lae=Lae())
    changed: dict[str, Any] = {
        **dict.fromkeys(
            ("part=validation", "seeding=class_order", "joint=true", "augment=false", "optimizer=adam", "schedule=step")
        ),
        **dict.fromkeys(
            ("numerics=2", "backbone=other", "epochs=9", "batch_size=9", "lr=9", "slow_factor=9", "momentum=9")
        ),
        **dict.fromkeys(
            ("weight_decay=9", "head_init_std=9", "final_norm=fresh", "alignment.tau=9", "alignment.lr=9", "olor=null")
        ),
        **dict.fromkeys(
            (
                "olor.counting=tensors",
                "olor.anchor=previous",
                "annealing.tau=9",
                "lora.rank=9",
                "alignment.mean_decay=false",
            )
        ),
        **dict.fromkeys(
            (
                "alignment.covariance=shared",
                "alignment.rank=9",
                "alignment.feature_decay=9",
                "alignment.feature_decay_spread=9",
            )
        ),
        **dict.fromkeys(("lae.decay=0.9", "lae=null", "memory={}", "memory.size=9")),
        **dict.fromkeys(
            (
                "ewc=9",
                "alignment.feature_decay_spread=9",
                "alignment.samples_per_class=9",
                "memory.held_out=0.9",
                "memory.beta=9",
                "memory.alpha=9",
            )
        ),
    }

    hashes = {config_hash(base.as_dict()), *(config_hash(base.set([setting]).as_dict()) for setting in changed)}
    assert len(hashes) == len(changed) + 1
    without = (
        "memory.method=bic",
        "memory={}",
        "closed_form={}",
        "closed_form.shrinkage=1",
        "low_rank={}",
        "low_rank.scale=1",
        "loss={}",
    )
    assert len({config_hash(Config().set([setting]).as_dict()) for setting in without}) == len(without)


# --- recipes ---


@pytest.mark.parametrize("recipe", EMBEDDED.values(), ids=EMBEDDED)
def test_every_method_gets_four_candidates(recipe: Recipe) -> None:
    if recipe.tuned_as:
        assert not recipe.grid
        assert RECIPES[recipe.tuned_as].grid
        return
    candidates = recipe.candidates()
    if recipe.name in ("ncm", "simplecil", "ranpac"):  # have nothing to choose, or choose it themselves
        assert candidates == [{}]
        return
    assert len(candidates) == 4
    assert len({config_hash(recipe.with_settings(c).as_dict()) for c in candidates}) == 4


@pytest.mark.parametrize("recipe", [r for r in RECIPES.values() if r.fact], ids=lambda recipe: recipe.name)
def test_a_turned_switch_is_the_only_difference(recipe: Recipe) -> None:
    plain = RECIPES[recipe.name.rpartition(".")[0]]
    flat, turned = (
        {f"{k}.{i}": v for k, p in c.items() for i, v in (p.items() if isinstance(p, dict) else [("", p)])}
        for c in (plain.config.as_dict(), recipe.config.as_dict())
    )
    keys = {key for key, _ in flat.items() ^ turned.items()}  # an absent one is at its default
    # a pool's length, choices and pull; the optimizer, its rate and the threshold; weight decay, in alignment too
    several = {"F30": 3, "F59": 3, "F67": 2}
    assert len(keys) == several.get(str(recipe.fact), 1)
    assert recipe.name == f"{plain.name}.{str(recipe.fact).lower()}"


@pytest.mark.parametrize("recipe", EMBEDDED.values(), ids=EMBEDDED)
def test_every_recipe_builds(recipe: Recipe) -> None:
    assert recipe.home in STREAMS
    assert recipe.name == recipe.name.lower()
    config = recipe.config
    strategy = make_strategy(config, make_model(config, make_backbone(config), n_classes=100), 0, [])
    assert isinstance(strategy, DERPlusPlus if recipe.name == "der++" else Naive)
    assert (strategy.train_epochs, strategy.train_mb_size) == (config.epochs, config.batch_size)


def test_the_middle_tier_is_apart() -> None:
    middle = recipes_of("middle")
    assert list(RECIPES) == [*EMBEDDED, *middle, *recipes_of("dense")]
    assert {name.partition("-")[0] for name in middle} == {"lite"}
    assert {recipe.home for recipe in middle.values()} <= PAPER_STREAMS.keys()
    assert not any(recipe.headline or recipe.fact for recipe in middle.values())
    for recipe in middle.values():
        config = recipe.config
        assert (config.backbone, config.batch_norm) == (LITE0, "frozen")
        assert config.images == Images(
            "lite", augment=config.trainable == "all", train_per_class=500, test_per_class=200
        )
        assert recipe.grid or recipe.tuned_as or config.closed_form, "chosen on the validation part, as everywhere"


def test_the_recorded_choice_is_what_a_recipe_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = RECIPES["slca"].candidates()
    best = candidates[-1]
    choice = {
        "settings": best,
        "made_for": RECIPES["slca"].made_for,
        "candidates": [{"settings": c, "score": 1.0} for c in candidates],
    }
    monkeypatch.setattr(recipes, "chosen", lambda: {"slca": choice})
    for name in ("slca", "slca-no-norm"):  # the ablation differs in one thing only
        assert RECIPES[name].config == RECIPES[name].with_settings(best)
        assert RECIPES[name].hyperparameters_from == "validation"
    assert RECIPES["slca-no-norm"].config == RECIPES["slca"].config.set(["alignment.tau=0"])
    assert RECIPES["linear"].hyperparameters_from == "given"
    first = RECIPES["linear"].candidates()[0]
    assert RECIPES["linear"].config == RECIPES["linear"].with_settings(first)

    jobs = jobs_of(RECIPES["slca"], STREAMS["quickdraw-1"], [0, 1])
    assert [(job.seed, job.hyperparameters_from) for job in jobs] == [(0, "validation"), (1, "validation")]
    (job,) = jobs_of(RECIPES["slca"], STREAMS["quickdraw-1"], [0], ["lr=0.5"])
    assert (job.config.lr, job.hyperparameters_from) == (0.5, "given")
    (job,) = jobs_of(RECIPES["slca"], STREAMS["quickdraw-1"], [0], [f"lr={best['lr']}"])
    assert job.hyperparameters_from == "validation"


@pytest.mark.parametrize(
    "change",
    [
        {"made_for": {"base": "0" * 12, "weights_sha256": "0" * 64}},
        {"candidates": [{"settings": {"lr": 0.5}, "score": 1.0}]},
    ],
    ids=["other base or weights", "other grid"],
)
def test_a_choice_made_for_something_else_does_not_count(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES["linear"]
    candidates = [{"settings": c, "score": 1.0} for c in recipe.candidates()]
    choice = {"settings": recipe.candidates()[-1], "made_for": recipe.made_for, "candidates": candidates}
    monkeypatch.setattr(recipes, "chosen", lambda: {"linear": choice})
    assert (recipe.config, recipe.hyperparameters_from) == (recipe.with_settings(recipe.candidates()[-1]), "validation")
    choice |= change
    assert (recipe.config, recipe.hyperparameters_from) == (recipe.with_settings(recipe.candidates()[0]), "given")


def test_unknown_recipes_get_suggestions() -> None:
    assert find_recipe("slca") is RECIPES["slca"]
    with pytest.raises(ValueError, match="unknown recipe 'slcaa': did you mean slca"):
        find_recipe("slcaa")
    with pytest.raises(ValueError, match=r"unknown recipe ''.*seqft-fast.*reclaim list recipes"):
        find_recipe("")


# --- recipes.toml ---

TWO = """
[slow]
title = "Slow"
description = "Slow learner."
home = "split-quickdraw-10"
settings.slow_factor = 0.1
settings.alignment.tau = 0.5
grid.lr = [0.1, 0.2]
grid.alignment.epochs = [1, 2]

[slca]
title = "SLCA"
description = "With alignment."
home = "split-quickdraw-5"
tuned_as = "slow"
extends = "slow"
settings.alignment.ridge = 0
settings.olor = {}
"""


def read(folder: Path, text: str) -> dict[str, Recipe]:
    path = folder / "recipes.toml"
    path.write_text(text, encoding="utf-8")
    return read_recipes(path)


def test_a_recipe_extends_settings_alone(tmp_path: Path) -> None:
    slow, slca = read(tmp_path, TWO).values()
    assert slow.base == Config(slow_factor=0.1, alignment=Alignment(tau=0.5))
    assert slow.candidates() == [{"lr": lr, "alignment.epochs": epochs} for lr in (0.1, 0.2) for epochs in (1, 2)]
    assert slca.base == Config(slow_factor=0.1, alignment=Alignment(tau=0.5, ridge=0.0), olor=Olor())
    assert (slca.name, slca.title, slca.description, slca.home) == (
        "slca",
        "SLCA",
        "With alignment.",
        "split-quickdraw-5",
    )
    assert (slca.grid, slca.tuned_as, slca.headline, slca.fact, slca.tier) == ({}, "slow", False, None, "embedded")


def test_the_order_of_recipes_does_not_matter(tmp_path: Path) -> None:
    first, second = TWO.split("\n[slca]")
    assert list(read(tmp_path, f"[slca]{second}{first}").values()) == list(read(tmp_path, TWO).values())[::-1]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('title = "SLCA"', "", "recipe 'slca': title is missing: add a text"),
        ('title = "SLCA"', 'title = " "', "recipe 'slca': title is ' ': write a text that is not empty"),
        ('title = "SLCA"', 'titel = "SLCA"', "recipe 'slca': unknown key 'titel', which is 'SLCA': did you mean title"),
        ("[slca]", "[slow.f3]", "recipe 'slow': unknown key 'f3'.*if it is part of a name with a dot, quote the name"),
        ("[slca]", "[slow]", "is not TOML: Cannot declare"),
        ("[slow]", "slower = 1\n[slow]", r": slower is 1: write it as \[slower\]"),
        (
            'extends = "slow"',
            'extends = "slo"',
            "recipe 'slca': extends is 'slo', but no recipe has this name: did you mean slow",
        ),
        (
            'tuned_as = "slow"',
            'tuned_as = "slo"',
            "recipe 'slca': tuned_as is 'slo', but no recipe has this name: did you mean slow",
        ),
        (
            'tuned_as = "slow"',
            'tuned_as = "slca"',
            "recipe 'slca': tuned_as is 'slca', which has no grid: name a recipe that has",
        ),
        (
            'tuned_as = "slow"',
            'tuned_as = "slow"\ngrid.lr = [1, 2, 3, 4]',
            "tuned_as is 'slow', but the recipe also has a grid: delete one",
        ),
        (
            "settings.slow_factor = 0.1",
            'extends = "slca"',
            r"extends is 'slow', a circular reference \(slow -> slca -> slow\): let one of them",
        ),
        (
            "settings.slow_factor = 0.1",
            'extends = "slow"',
            r"extends is 'slow', a circular reference \(slow -> slow\): let one of them",
        ),
        (
            "grid.lr = [0.1, 0.2]",
            "grid.lr = [0.1, 0.2, 0.3]",
            r"grid is \{'lr': .*6 candidates: make them 4, as every other",
        ),
        ("grid.lr = [0.1, 0.2]", "grid.lr = [0.1, 0.1]", r"grid.lr is \[0.1, 0.1\]: write a list of different values"),
        ("grid.lr = [0.1, 0.2]", "grid.lr = 0.1", r"grid.lr is 0.1: write a list of different values"),
        ("grid.lr = [0.1, 0.2]", "grid.lr = []", r"grid is .*, 0 candidates: make them 4"),
        (
            "grid.lr = [0.1, 0.2]",
            "grid.epoch = [1, 2]",
            "recipe 'slow', grid: unknown setting 'epoch'.*did you mean epochs",
        ),
        (
            "slow_factor = 0.1",
            'slow_factor = "much"',
            "recipe 'slow', settings: slow_factor must be a finite number, got 'much'",
        ),
        ("settings.olor", "settings.olot", "recipe 'slca', settings: unknown setting 'olot': .*did you mean olor"),
        (
            "alignment.ridge = 0",
            "alignment.ride = 0",
            "settings: unknown setting 'alignment.ride'.* did you mean ridge",
        ),
        ("settings.olor = {}", "settings.lr = 2026-01-01", "recipe 'slca', settings: .*date is not JSON"),
        ("settings.olor = {}", "headline = 1", "recipe 'slca': headline is 1: write true or false"),
        (
            "settings.olor = {}",
            'tier = "paper"',
            "recipe 'slca': tier is 'paper': write one of embedded, dense, middle",
        ),
        (
            "settings.olor = {}",
            'fact = "F3"',
            "recipe 'slca': fact is 'F3' and extends is 'slow': the name must combine both",
        ),
    ],
)
def test_a_bad_recipe_is_named(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    assert TWO.count(old) == 1
    with pytest.raises(RecipeError, match=rf"^recipes\.toml.*{complaint}"):
        read(tmp_path, TWO.replace(old, new))
