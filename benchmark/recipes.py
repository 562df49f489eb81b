"""Recipes: what a name on a leaderboard stands for, and how its hyper-parameters were chosen.

A recipe is a configuration and, unless it is tuned as another, a grid of four candidates for what the paper's protocol cannot tell about
drawings of 28 x 28 pixels. `reclaim sweep` runs the grid on the validation part and writes the choice to assets/chosen.json, which is
read here; a choice made for another grid, base or backbone does not count.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .assets import asset
from .config import EXECUTION, QUICKDRAW_VIT, Alignment, ClosedForm, Config, LowRank
from .records import config_hash

SPLIT = "split-quickdraw-10"
SINGLE = "quickdraw-1"
UNEVEN = "split-quickdraw-uneven"
HALVES = "split-quickdraw-20"
"""Its experiences of 400 drawings end with half a batch."""
CHOSEN = "chosen.json"


@dataclass(frozen=True)
class Recipe:
    """A named way to train.

    :ivar home: the stream on which the hyper-parameters are chosen.
    :ivar base: the configuration without the choice.
    :ivar grid: setting -> candidates; their product has four members in every recipe that has a choice at all.
    :ivar headline: trained live by every paper check.
    :ivar tuned_as: take the choice of another recipe, for ablations that must differ in one thing only.
    :ivar fact: the entry of docs/fidelity.md whose switch this recipe turns in the recipe that it is named after (the name up to the last
        dot): its effect stands on that page, not on a leaderboard.
    :ivar from_paper: the hyper-parameters are a paper's (:mod:`reclaim.benchmark.protocols`); a grid is then the paper's, too, of any size.
    """

    name: str
    title: str
    description: str
    home: str
    base: Config
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    headline: bool = False
    tuned_as: str | None = None
    fact: str | None = None
    from_paper: bool = False

    def candidates(self) -> list[dict[str, Any]]:
        """Every combination of the grid's values."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def with_settings(self, settings: Mapping[str, Any]) -> Config:
        return self.base.set(f"{key}={json.dumps(value)}" for key, value in settings.items())

    @property
    def choice(self) -> dict[str, Any] | None:
        """What `reclaim sweep` recorded for this recipe, or for the one that it is tuned as.

        Nothing if that was made for another grid, other settings beside it or other weights.
        """
        tuned = RECIPES[self.tuned_as] if self.tuned_as else self
        recorded = chosen().get(tuned.name)
        same = recorded and recorded["made_for"] == tuned.made_for and [c["settings"] for c in recorded["candidates"]] == tuned.candidates()
        return recorded if same else None

    @property
    def made_for(self) -> dict[str, Any]:
        """What a choice depends on beside the grid: the hash of the configuration without the choice, and the starting weights."""
        return {"base": config_hash(self.base.as_dict()), "weights_sha256": weights_sha256(self.base)}

    @property
    def config(self) -> Config:
        """The configuration with the recorded choice, or with the grid's first candidate where none is recorded."""
        tuned = RECIPES[self.tuned_as] if self.tuned_as else self
        return self.with_settings(self.choice["settings"] if self.choice else (tuned.candidates() or [{}])[0])

    @property
    def hyperparameters_from(self) -> str:
        return "paper" if self.from_paper else "validation" if self.choice else "given"

    def origin_of(self, config: Config) -> str:
        """Where the hyper-parameters of a run with a changed configuration come from: how the arithmetic is done is none of them, and a
        paper's grid is the paper's."""
        known = map(self.with_settings, self.candidates()) if self.from_paper else [self.config]
        as_this = {key: getattr(config, key) for key in EXECUTION}
        return self.hyperparameters_from if any(config == replace(own, **as_this) for own in known) else "given"


@functools.cache
def chosen() -> dict[str, Any]:
    """Recipe -> what `reclaim sweep` recorded: settings, stream, seeds and the score of every candidate."""
    path = asset(CHOSEN)
    return json.loads(path.read_text()) if path.exists() else {}


def weights_sha256(config: Config) -> str | None:
    """Fingerprint of the weights that a run of this configuration starts from; None when they are drawn at random."""
    if config.backbone != QUICKDRAW_VIT:
        return None
    return str(json.loads(asset(f"{QUICKDRAW_VIT}.json").read_text())["fingerprint"])


_FAST_LRS = [0.001, 0.003, 0.01, 0.03]
_HEAD_LRS = [0.003, 0.01, 0.03, 0.1]
_SLOW = {"lr": [0.01, 0.03], "slow_factor": [0.03, 0.3]}
_ADAM_LRS = [1e-4, 3e-4, 1e-3, 3e-3]
_PEFT_LRS = [1e-3, 3e-3, 1e-2, 3e-2]

_slow = Config(slow_factor=0.03, schedule="step", weight_decay=5e-4, final_norm="fresh")
_fast = _slow.set(["slow_factor=1"])
_plus_plus = Config(weight_decay=5e-4, final_norm="fresh", low_rank=LowRank()).set(
    [
        'loss={"kind": "symmetric", "coefficient": 0.1, "weight": 1.0}',
        "alignment.mean_decay=false",
        "alignment.feature_decay=0.02",
        "alignment.feature_decay_spread=0.01",
    ]
)
_single = Config(optimizer="adam", lr=1e-3, epochs=4, schedule="cosine")
_heads = Config(optimizer="adam", lr=1e-3, epochs=5, head_init_std=0.001)
_lora = _heads.set(["lora={}"])
_MODULES = {"lora": "LoRA", "adapter": "Adapter", "prefix": "Prefix"}
_LOSSES: dict[str, tuple[str, dict[str, Any], dict[str, Sequence[Any]]]] = {
    # name: title, setting at the paper's hint (F23), grid on LoRA
    "focal": ("focal loss", {"kind": "focal", "coefficient": 1.0}, {"lr": [0.003, 0.01], "loss.coefficient": [1.0, 2.0]}),
    "ls": ("label smoothing", {"kind": "label-smoothing", "coefficient": 0.01}, {"lr": [0.003, 0.01], "loss.coefficient": [0.01, 0.1]}),
    "cp": ("confidence penalty", {"kind": "confidence-penalty", "coefficient": 0.1}, {"lr": [0.003, 0.01], "loss.coefficient": [0.1, 0.2]}),
    "ep": ("entropy penalty", {"kind": "entropy-penalty"}, {"lr": _PEFT_LRS}),
}


def _turned(fact: str, recipe: str, setting: str, home: str | None = None) -> Recipe:
    """A recipe with one switch of the fidelity page turned, named after both; everything else is as chosen for it."""
    plain = RECIPES[recipe]
    return Recipe(
        f"{recipe}.{fact.lower()}",
        f"{plain.title}, {fact} turned",
        f"{plain.title} with `{setting}`, everything else as chosen for it: the measured effect of a switch of docs/fidelity.md.",
        home or plain.home,
        plain.base.set([setting]),
        tuned_as=plain.tuned_as or recipe,
        fact=fact,
    )


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "seqft-fast",
            "Sequential fine-tuning",
            "All weights at one learning rate, one experience after another (SLCA's SeqFT).",
            SPLIT,
            _fast,
            {"lr": _FAST_LRS},
            headline=True,
        ),
        Recipe(
            "seqft-slow",
            "Slow learner",
            "Sequential fine-tuning with the backbone at a fraction of the heads' learning rate (SLCA's SeqFT+SL).",
            SPLIT,
            _slow,
            _SLOW,
            headline=True,
        ),
        Recipe(
            "slca",
            "SLCA",
            "Slow learner, then classifier alignment after each experience.",
            SPLIT,
            _slow.set(["alignment={}"]),
            _SLOW,
            headline=True,
        ),
        Recipe(
            "slca-no-norm",
            "SLCA without logit normalisation",
            "SLCA with the alignment's logit normalisation off; everything else as chosen for SLCA.",
            SPLIT,
            _slow.set(["alignment.tau=0"]),
            tuned_as="slca",
        ),
        Recipe(
            "frozen-ca",
            "Frozen backbone + alignment",
            "Heads alone are trained, and aligned after each experience.",
            SPLIT,
            Config(trainable="heads", schedule="step", weight_decay=5e-4, alignment=Alignment()),
            {"lr": _HEAD_LRS},
        ),
        Recipe(
            "frozen-ca-slca-lr",
            "Frozen backbone + alignment at SLCA's rate",
            "Heads alone are trained, and aligned, at the learning rate chosen for SLCA.",
            SPLIT,
            Config(trainable="heads", schedule="step", weight_decay=5e-4, alignment=Alignment()),
            tuned_as="slca",
        ),
        Recipe(
            "linear",
            "Linear probe",
            "Heads alone are trained.",
            SPLIT,
            Config(trainable="heads", schedule="step", weight_decay=5e-4),
            {"lr": _HEAD_LRS},
        ),
        Recipe(
            "joint",
            "Joint training",
            "All experiences at once: not a continual learner, the usual upper reference.",
            SPLIT,
            _slow.set(["joint=true"]),
            _SLOW,
        ),
        Recipe("lora-ce", "LoRA, cross-entropy", "LoRA modules and heads, cross-entropy.", SPLIT, _lora, {"lr": _PEFT_LRS}, headline=True),
        Recipe(
            "lora-epg",
            "LoRA, EPG",
            "LoRA modules and heads, expected policy gradient from the first step.",
            SPLIT,
            _lora.set(["annealing.schedule=0"]),
            {"lr": _PEFT_LRS},
        ),
        Recipe(
            "lora-aepg",
            "LoRA, aEPG",
            "LoRA modules and heads, cross-entropy annealed into expected policy gradient (sigmoid).",
            SPLIT,
            _lora.set(["annealing={}"]),
            {"lr": _PEFT_LRS},
            headline=True,
        ),
        Recipe(
            "lora-half-epg",
            "LoRA, 1/2 CE + 1/2 EPG",
            "LoRA modules and heads, a constant half of each loss: annealing without annealing.",
            SPLIT,
            _lora.set(["annealing.schedule=0.5"]),
            {"lr": _PEFT_LRS},
        ),
        Recipe(
            "lora-epg-ce-lr",
            "LoRA, EPG at cross-entropy's rate",
            "EPG with the learning rate chosen for cross-entropy, so that nothing but the loss differs.",
            SPLIT,
            _lora.set(["annealing.schedule=0"]),
            tuned_as="lora-ce",
        ),
        Recipe(
            "lora-aepg-ce-lr",
            "LoRA, aEPG at cross-entropy's rate",
            "aEPG with the learning rate chosen for cross-entropy, so that nothing but the loss differs.",
            SPLIT,
            _lora.set(["annealing={}"]),
            tuned_as="lora-ce",
        ),
        Recipe("full-1", "Full fine-tuning", "All weights, Adam, one experience (OLOR's Full).", SINGLE, _single, {"lr": _ADAM_LRS}),
        Recipe(
            "olor-1",
            "OLOR",
            "Full fine-tuning with weights rolled back towards the pretrained ones, most at the input.",
            SINGLE,
            _single.set(["olor={}"]),
            {"lr": [3e-4, 1e-3], "olor.rollback_input": [0.001, 0.01]},
            headline=True,
        ),
        Recipe(
            "l2sp-1",
            "L2-SP",
            "Full fine-tuning with a quadratic pull towards the pretrained weights.",
            SINGLE,
            _single.set(["l2_sp=0.01"]),
            {"lr": [3e-4, 1e-3], "l2_sp": [0.01, 1.0]},
        ),
        Recipe(
            "linear-1",
            "Linear probe, one experience",
            "The head alone, Adam, one experience (OLOR's Linear).",
            SINGLE,
            _single.set(["trainable=heads"]),
            {"lr": _PEFT_LRS},
        ),
        Recipe(
            "vpt-1",
            "Visual prompt tuning",
            "Ten prompts in every block and the head, Adam, one experience (OLOR's VPT).",
            SINGLE,
            _single.set(["prompts={}"]),
            {"lr": _PEFT_LRS},
        ),
        Recipe(
            "olor-sgd-1",
            "OLOR, SGD",
            "Full fine-tuning by SGD with momentum, weights rolled back towards the pretrained ones.",
            SINGLE,
            _single.set(["optimizer=sgd", "olor={}"]),
            {"lr": [0.03, 0.1], "olor.rollback_input": [0.001, 0.01]},
        ),
        Recipe(
            "full-sgd-1",
            "Full fine-tuning, SGD",
            "All weights, SGD with momentum, one experience (OLOR's Full).",
            SINGLE,
            _single.set(["optimizer=sgd"]),
            {"lr": [0.01, 0.03, 0.1, 0.3]},
        ),
        Recipe(
            "slca-olor-aepg",
            "SLCA + OLOR + aEPG",
            "The three methods at once: slow learner with rollback, annealed EPG, aligned heads; nobody's claim.",
            SPLIT,
            _slow.set(["alignment={}", "olor={}", "annealing={}"]),
            _SLOW,
        ),
        *(
            Recipe(name, title, f"{title}, everything else as chosen for SLCA; nobody's claim.", SPLIT, _slow.set(parts), tuned_as="slca")
            for name, title, parts in (
                ("slow-olor", "Slow learner + OLOR", ["olor={}"]),
                ("slow-aepg", "Slow learner + aEPG", ["annealing={}"]),
                ("slow-olor-aepg", "Slow learner + OLOR + aEPG", ["olor={}", "annealing={}"]),
                ("slca-olor", "SLCA + OLOR", ["alignment={}", "olor={}"]),
                ("slca-aepg", "SLCA + aEPG", ["alignment={}", "annealing={}"]),
            )
        ),
        Recipe(
            "slca-pp",
            "SLCA++",
            "LoRA from singular vectors, norms and biases train slowly, symmetric cross-entropy; then alignment with decaying features.",
            SPLIT,
            _plus_plus,
            {"lr": [0.003, 0.01, 0.03, 0.1]},
        ),
        *(
            Recipe(
                f"slca-{kind}",
                f"SLCA, {title}",
                f"SLCA that keeps {what}; everything else as chosen for SLCA.",
                SPLIT,
                _slow.set([f"alignment.covariance={kind}"]),
                tuned_as="slca",
            )
            for kind, title, what in (
                ("diagonal", "diagonal covariances", "the variances of each class instead of its covariance"),
                ("shared", "one covariance", "one covariance for all classes instead of one each"),
                ("low-rank", "covariances of rank 16", "16 directions and the residual variances of each class instead of its covariance"),
            )
        ),
        # aEPG's Table 2, three kinds of modules and seven losses. On LoRA each has its own choice, elsewhere cross-entropy's rate.
        *(
            Recipe(
                f"lora-{name}",
                f"LoRA, {title}",
                f"LoRA modules and heads, {title}.",
                SPLIT,
                _lora.set([f"loss={json.dumps(loss)}"]),
                grid,
            )
            for name, (title, loss, grid) in _LOSSES.items()
        ),
        *(
            Recipe(
                f"{module}-ce",
                f"{_MODULES[module]}, cross-entropy",
                f"{_MODULES[module]} modules and heads, cross-entropy.",
                SPLIT,
                _heads.set([f"{module}={{}}"]),
                {"lr": _PEFT_LRS},
            )
            for module in ("adapter", "prefix")
        ),
        *(
            Recipe(
                f"{module}-{name}",
                f"{_MODULES[module]}, {title}",
                f"{_MODULES[module]} modules and heads, {title}; learning rate as chosen for cross-entropy, coefficient as hinted.",
                SPLIT,
                _heads.set([f"{module}={{}}", setting]),
                tuned_as=f"{module}-ce",
            )
            for module in ("adapter", "prefix")
            for name, title, setting in (
                ("epg", "EPG", "annealing.schedule=0"),
                ("aepg", "aEPG", "annealing={}"),
                *((name, title, f"loss={json.dumps(loss)}") for name, (title, loss, _) in _LOSSES.items()),
            )
        ),
        *(
            Recipe(
                f"lae-lora-{loss}",
                f"LAE, LoRA, {title}",
                f"LoRA with a second, slow expert that votes; {title}, everything else as chosen without it.",
                SPLIT,
                _lora.set(["lae={}", *settings]),
                tuned_as=f"lora-{loss}",
            )
            for loss, title, settings in (("ce", "cross-entropy", []), ("aepg", "aEPG", ["annealing={}"]))
        ),
        # SLCA's alignment on top of other methods
        *(
            Recipe(
                f"{name}-ca",
                f"{title} + alignment",
                f"{title}, and classifier alignment after each experience; everything else as chosen without it.",
                SPLIT,
                base.set(["alignment.lr=0.01"]),
                tuned_as=tuned_as,
            )
            for name, title, base, tuned_as in (
                ("lora-ce", "LoRA, cross-entropy", _lora, "lora-ce"),
                ("lae-lora-ce", "LAE, LoRA, cross-entropy", _lora.set(["lae={}"]), "lora-ce"),
                ("ewc", "EWC", _slow.set(["ewc=10"]), "ewc"),
                ("lwf", "LwF", _slow.set(["lwf=10"]), "lwf"),
            )
        ),
        # what a critic would ask for
        Recipe(
            "ncm",
            "Nearest class mean",
            "The frozen backbone's features, the class whose mean is nearest; nothing is trained.",
            SPLIT,
            Config(trainable="heads", epochs=0, augment=False, closed_form=ClosedForm()),
        ),
        Recipe(
            "lda",
            "Streaming LDA",
            "The frozen backbone's features, linear discriminants with one covariance (Deep SLDA); nothing is trained.",
            SPLIT,
            Config(trainable="heads", epochs=0, augment=False, closed_form=ClosedForm("linear-discriminant")),
            {"closed_form.shrinkage": [1e-4, 1e-3, 1e-2, 1e-1]},
        ),
        # Those that train the backbone have SLCA's own grid. Coefficients, and GDumb's epochs, are from earlier sweeps without a rate of
        # its own for the backbone, which were given up: they were unfair to these baselines. Each is the better of two on the validation
        # part but EWC's, where the last such sweep had 46.06 for 1 and 45.81 for 10.
        *(
            Recipe(name, title, description, SPLIT, _slow.set(settings), _SLOW)
            for name, title, description, settings in (
                ("ewc", "EWC", "Slow learner with a pull to earlier weights by their importance.", ["ewc=10"]),
                ("lwf", "LwF", "Slow learner that distils the model before the experience.", ["lwf=10"]),
                (
                    "replay",
                    "Experience replay, 500",
                    "Slow learner with 500 drawings kept and mixed into every batch.",
                    ["memory.method=replay"],
                ),
                (
                    "bic",
                    "BiC, 500",
                    "Slow learner with 400 drawings kept, distillation, and a correction of the newest logits fitted on 100 more.",
                    ["memory.method=bic", "memory.size=400", "memory.held_out=0.25"],
                ),
                (
                    "gdumb",
                    "GDumb, 500",
                    "500 drawings kept, on which the pretrained model is trained anew each time, by the slow learner's rates.",
                    ["memory.method=gdumb", "epochs=15"],
                ),
                (
                    "der++",
                    "DER++, 500",
                    "Slow learner with 500 drawings and their logits kept; one head over all classes, whose number is known.",
                    ["memory.method=der++", "memory.alpha=0.5"],
                ),
            )
        ),
    )
}

RECIPES |= {
    recipe.name: recipe
    for recipe in (
        # the switches of docs/fidelity.md, each turned in one recipe
        _turned("F1", "slca", "final_norm=pretrained"),
        _turned("F2", "slca", "seeding=class_order"),
        _turned("F3", "slca", "alignment.ridge=0"),
        _turned("F4", "slca", "alignment.mean_decay=false"),
        _turned("F5", "slca", "alignment.task_index=reference", home=UNEVEN),
        _turned("F6", "slca", "alignment.restore_heads=false"),
        _turned("F8", "olor-1", "olor.counting=tensors"),
        _turned("F9", "olor-sgd-1", "olor.gradient_damping=reference"),
        _turned("F10", "olor-sgd-1", "olor.lr_factor=reference"),
        _turned("F12", "olor-1", "olor.rollback_decay=paper"),
        _turned("F13", "olor-1", "horizon_beyond=0.08"),
        _turned("momentum", "olor-sgd-1", "olor.momentum_average=reference"),
        _turned("anchor", "slca-olor", "olor.anchor=previous"),
        _turned("F17", "lora-aepg", "lora.freeze=backbone"),
        _turned("F18", "lora-aepg", "lora.rank=5"),
        _turned("F19", "lora-aepg", "drop_last=true", home=HALVES),
        _turned("F22", "lora-aepg", "annealing.horizon=stream"),
        _turned("F18", "lae-lora-ce", "lae.decay=0.9999"),
    )
}


def find_recipe(name: str, among: Mapping[str, Recipe] = RECIPES) -> Recipe:
    """The recipe of that name.

    :raises ValueError: there is none; the message names similar ones.
    """
    if name not in among:
        similar = difflib.get_close_matches(name, among, n=3, cutoff=0.3) or list(among)
        raise ValueError(f"unknown recipe {name!r}: did you mean {', '.join(similar)}? (`reclaim list recipes` shows all)")
    return among[name]
