"""The papers' protocols: for every published cell the recipe that repeats it, each value with its source, or the reason why there is none.

A source is the "paper" (its text), the "code" of its authors, an entry F1 to F26 of docs/fidelity.md where these two disagree or are
silent, or "our reading" where nothing says. A run is named as its cells without their last part, the metric: both metrics come of it.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tabulate import tabulate

from .config import EXECUTION, Config, differences, shown
from .data.streams import Stream, find_stream
from .facts import FACTS, Switch
from .published import Cell, cells, tables
from .recipes import Recipe

Settings = Mapping[str, tuple[Any, str]]
"""Key for `reclaim run --set` -> value and source."""


@dataclass(frozen=True)
class Protocol:
    """How a paper made a number.

    :ivar recipe: trains so; its name is that under which runs are recorded, its home the cell's stream.
    :ivar settings: every value that matters, with its source.
    :ivar remarks: what has to be known beside them.
    :ivar seeds: the paper's, where it or its code says.
    """

    recipe: Recipe
    settings: Settings
    remarks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    @property
    def stream(self) -> Stream:
        return find_stream(self.recipe.home)

    @cached_property
    def configs(self) -> tuple[Config, ...]:
        """The recipe's configuration; where the paper prints the best of a grid (F23), one for each candidate, the hinted one first."""
        return tuple(self.recipe.with_settings(candidate) for candidate in self.recipe.candidates())

    def made_with(self, recorded: Mapping[str, Any]) -> Config | None:
        """That of :attr:`configs` with which a run was made, up to :data:`EXECUTION`; None if it was made with none of them.

        :param recorded: a record's ``config``.
        """
        return next((config for config in self.configs if differences(recorded, config).keys() <= set(EXECUTION)), None)

    def deviations(self, recorded: Mapping[str, Any]) -> list[str]:
        """Such as "precision=bf16 instead of fp32": what a recorded configuration has in place of the paper's."""
        return list(differences(recorded, self.made_with(recorded) or self.configs[0]).values())

    @property
    def facts(self) -> list[str]:
        """Ids of the entries of docs/fidelity.md that sources and remarks name, in that page's order."""
        named = set(re.findall(r"\bF\d+\b", " ".join([*(source for _, source in self.settings.values()), *self.remarks])))
        return [fact.id for fact in FACTS if fact.id in named]


@dataclass(frozen=True)
class Uncovered:
    """Why a run of a paper's table cannot be made here."""

    reason: str


# --- SLCA ---

PAPER, CODE, OURS = "paper", "code", "our reading"
IN21K, IN21K_1K, MOCO_V3 = (f"vit_base_patch16_224.{tag}" for tag in ("augreg_in21k", "augreg_in21k_ft_in1k", "mocov3"))
SLCA_STREAMS = ("split-cifar100-10", "split-imagenet-r-10", "split-cub200-10", "split-cars196-10")

_SLCA: Settings = {
    "backbone": (IN21K, "paper: ViT-B/16, ImageNet-21k; code: this checkpoint"),
    "final_norm": ("fresh", "code (F1)"),
    "part": ("test", PAPER),
    "seeding": ("class_order", "code (F2)"),
    "images.protocol": ("slca", CODE),
    "images.hold_out": (False, CODE),
    "joint": (False, PAPER),
    "trainable": ("all", PAPER),
    "batch_size": (128, CODE),
    "drop_last": (False, CODE),
    "optimizer": ("sgd", CODE),
    "momentum": (0.9, CODE),
    "weight_decay": (5e-4, CODE),
    "lr": (0.01, "code: the head's"),
    "slow_factor": (0.01, "paper and code: the backbone's rate is 1e-4"),
    "head_init_std": (0.02, CODE),
}
_ALIGNMENT: Settings = {
    "alignment.epochs": (5, CODE),
    "alignment.samples_per_class": (256, CODE),
    "alignment.lr": (None, "code: the head's of stage 1"),
    "alignment.weight_decay": (5e-4, CODE),
    "alignment.tau": (0.1, CODE),
    "alignment.covariance": ("full", PAPER),
    "alignment.ridge": (1e-4, "code (F3)"),
    "alignment.mean_decay": (True, "code (F4)"),
    "alignment.task_index": ("true", "neither: what the code means (F5)"),
    "alignment.restore_heads": (True, "code (F6)"),
}
_PLUS_PLUS: Settings = {
    "trainable": ("all", "not used: LoRA, norms, biases and class token train (code)"),
    "loss.kind": ("symmetric", PAPER),
    "low_rank.rank": (4, CODE),
    "low_rank.scale": (0.8, CODE),
    "low_rank.first_factor": (0.5, "code: LoRA's rate in the first task, in head rates"),
    "low_rank.later_factor": (0.1, CODE),
    "low_rank.other_factor": (0.1, "code: norms, biases and class token"),
    "low_rank.head_scaling": (0.02, CODE),
    "slow_factor": (1.0, "not used: the rates are those of low_rank"),
    "schedule": ("constant", "not used: every rate falls along a cosine, epoch by epoch, to one floor (code)"),
    "alignment.mean_decay": (False, "code: it has feature_decay in the place of F4"),
    "alignment.feature_decay": (0.02, CODE),
    "alignment.feature_decay_spread": (0.01, CODE),
}


def _slca(method: str, dataset: str, backbone: str = IN21K) -> tuple[str, Settings, tuple[str, ...]]:
    """Title, settings and remarks of SLCA, its slow learner alone, joint training, and SLCA++."""
    moco, cifar, cars = backbone == MOCO_V3, dataset == "cifar100", dataset == "cars196"
    epochs, milestone = (90, 80) if moco else (20, 18) if cifar else (50, 40)
    settings = {
        **_SLCA,
        "backbone": (backbone, "paper: MoCo v3, 300 epochs" if moco else _SLCA["backbone"][1]),
        "epochs": (epochs, CODE),
    }
    plain = {
        "loss": (None, "code: cross-entropy over the classes of the current task"),
        "schedule": ("step", "code: a tenth after the milestones"),
        "milestones": ([milestone], CODE),
    }
    remarks = (
        ("The code starts from a converted file of its authors, here from the one that Meta published: --weights (docs/weights.md).",)
        if moco
        else ()
    )
    aligned = {**_ALIGNMENT, "alignment.tau": (0.05 if cars else 0.1, CODE)}
    start = " from MoCo v3" if moco else ""
    if method == "slca":
        return f"SLCA{start}", {**settings, **plain, **aligned}, remarks
    if method == "seqft+sl":
        return (
            f"SeqFT+SL{start}, the slow learner alone",
            {**settings, **plain},
            (*remarks, "SLCA's settings: the code has no file for it."),
        )
    if method == "joint":
        ours = "How joint training was done is not known: the slow learner's settings, on all classes at once, are our reading."
        settings = {key: (value, f"our reading, as the slow learner ({source})") for key, (value, source) in (settings | plain).items()}
        return "Joint training", {**settings, "joint": (True, PAPER)}, (*remarks, ours)
    weight, coefficient, decay = (1.0, 0.1, 5e-4) if dataset in ("cifar100", "cub200") else (0.5, 0.5, 0.0)
    changed = {
        "weight_decay": (decay, CODE),
        "alignment.weight_decay": (decay, CODE),
        "loss.weight": (weight, "code: of the cross-entropy"),
        "loss.coefficient": (coefficient, "code: of the reverse cross-entropy"),
        "low_rank.floor_factor": (
            0.001 if moco else 0.01,
            "code: of the head's rate; a tenth, and a tenth of that for each milestone in its file",
        ),
    }
    return f"SLCA++{start}", {**settings, **aligned, **_PLUS_PLUS, **changed}, remarks


# --- aEPG ---

LAE = "paper, or the code of LAE that it builds on"

_AEPG: Settings = {
    "backbone": (IN21K_1K, "paper (F24)"),
    "final_norm": ("pretrained", "LAE's code: the backbone of modules is frozen (F17)"),
    "part": ("test", PAPER),
    "seeding": ("initialisation", "our reading: the classes in their own order, as in the first of the three orders of LAE's code"),
    "images.protocol": ("aepg", "paper, or the code of LAE (F21)"),
    "images.hold_out": (False, OURS),
    "joint": (False, PAPER),
    "trainable": ("all", "heads and modules: the backbone of modules is frozen (F17)"),
    "epochs": (50, LAE),
    "batch_size": (256, "paper (F19)"),
    "drop_last": (True, "LAE's code (F19)"),
    "optimizer": ("adam", LAE),
    "lr": (5e-4, "paper (F19)"),
    "slow_factor": (1.0, LAE),
    "weight_decay": (0.0, LAE),
    "schedule": ("constant", LAE),
    "head_init_std": (0.001, LAE),
}
_MODULES: dict[str, tuple[str, Settings]] = {
    "lora": ("LoRA", {"lora.rank": (4, "paper (F18)")}),
    "adapter": ("Adapter", {"adapter.hidden": (5, LAE)}),
    "prefix": ("Prefix", {"prefix.tokens": (10, LAE)}),
    "lae": ("LAE with LoRA", {"lora.rank": (4, "paper (F18)"), "lae.decay": (0.999, "paper (F18)")}),
}
_LOSSES: dict[str, tuple[str, Settings]] = {
    "ce": ("cross-entropy", {"loss": (None, PAPER)}),
    "focal": ("focal loss", {"loss.kind": ("focal", PAPER), "loss.coefficient": (1.0, "paper: a hint in an appendix (F23)")}),
    "ls": ("label smoothing", {"loss.kind": ("label-smoothing", PAPER), "loss.coefficient": (0.01, "paper: a hint in an appendix (F23)")}),
    "cp": (
        "confidence penalty",
        {"loss.kind": ("confidence-penalty", PAPER), "loss.coefficient": (0.1, "our reading: not hinted at (F23)")},
    ),
    "epg": ("EPG", {"annealing.schedule": (0.0, PAPER)}),
    "aepg": (
        "aEPG",
        {"annealing.schedule": ("sigmoid", PAPER), "annealing.tau": (6.0, PAPER), "annealing.horizon": ("task", "our reading (F22)")},
    ),
    "ep": ("entropy penalty", {"loss.kind": ("entropy-penalty", PAPER)}),
}
# the paper's; its hint first
_GRIDS: dict[str, tuple[float, ...]] = {"focal": (1.0, 0.5, 2.0), "ls": (0.01, 0.05, 0.1), "cp": (0.1, 0.2)}

_SCRATCH: Settings = {
    **_AEPG,
    "backbone": ("resnet50_cifar", "paper: ResNet-50 from random weights; its stem is our reading"),
    "final_norm": ("pretrained", "not used: a ResNet has none"),
    "seeding": ("initialisation", "our reading: there is one experience"),
    "images.protocol": ("aepg", "paper: padding, crop and flip; no mean and standard deviation: our reading"),
    "trainable": ("all", PAPER),
    "epochs": (350, PAPER),
    "batch_size": (256, PAPER),
    "drop_last": (False, OURS),
    "optimizer": ("sgd", PAPER),
    "momentum": (0.9, PAPER),
    "lr": (0.1, PAPER),
    "slow_factor": (1.0, PAPER),
    "weight_decay": (0.0, PAPER),
    "schedule": ("step", "our reading: a tenth after each milestone"),
    "milestones": ([150, 225], "paper, in one place (F25)"),
    "head_init_std": (0.0128, "our reading: about that of torch's default for 2048 features"),
}


def _modules_and_loss(module: str, loss: str) -> tuple[str, Settings, tuple[str, ...], Mapping[str, Sequence[float]]]:
    """Title, settings, remarks and grid of a row of Tables 1 and 2."""
    (kind, modules), (title, of_loss) = _MODULES[module], _LOSSES[loss]
    name = "lora" if module == "lae" else module
    schedule = {
        f"{name}.blocks": (5, LAE),
        f"{name}.frozen_epochs": (30, "paper; of which tasks: LAE's code (F17)"),
        f"{name}.freeze": ("peft", "LAE's code (F17)"),
    }
    remarks = [
        "The paper does not say whether its seeds change the class order: here they set what is drawn at random alone. In LAE's code each "
        "of three seeds brings an order of its own."
    ]
    grid = {"loss.coefficient": _GRIDS[loss]} if loss in _GRIDS else {}
    if grid:
        values = ", ".join(f"{value:g}" for value in sorted(_GRIDS[loss]))
        remarks.append(f"The paper prints the best of the coefficients {values} (F23): the cell takes the best of those on record.")
    return f"{kind}, {title}", {**_AEPG, **modules, **schedule, **of_loss}, tuple(remarks), grid


def _from_scratch(alpha: str) -> tuple[str, Settings, tuple[str, ...]]:
    """Title, settings and remarks of a row of Table 3."""
    settings = {**_SCRATCH, "annealing.schedule": (float(alpha), "paper: the constant weight of cross-entropy, the rest is EPG")}
    return f"ResNet-50 from scratch, alpha {alpha}", settings, ()


# --- OLOR ---

OLOR_STREAMS = ("cifar100-1", "svhn-1", "cub200-1", "cars196-1", "places-lt-1", "ip102-1", "officehome-1", "pacs-1")
CONVNEXT = "convnext_base.clip_laion2b_augreg_ft_in12k_in1k"
OLOR_BACKBONES = (
    IN21K,
    "vit_base_patch16_clip_224.laion2b",
    "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
    "vit_base_patch16_224.mae",
    CONVNEXT,
)

_OLOR: Settings = {
    "final_norm": ("pretrained", CODE),
    "part": ("test", CODE),
    "seeding": ("initialisation", "our reading: there is one experience, and the code has one seed"),
    "images.protocol": ("olor", CODE),
    "images.clipped": (False, "neither: what the code means (F15)"),
    "images.hold_out": (True, "code: nine of ten folds are trained on"),
    "joint": (False, PAPER),
    "trainable": ("all", PAPER),
    "loss": (None, "code: cross-entropy"),
    "epochs": (50, CODE),
    "keep": ("last", "code (F14)"),
    "batch_size": (128, "code: its notebook; the script's default is 64"),
    "drop_last": (True, CODE),
    "optimizer": ("adam", CODE),
    "lr": (1e-4, "code: of a ViT"),
    "slow_factor": (1.0, CODE),
    "weight_decay": (0.0, "paper and code"),
    "schedule": ("cosine", "code: iteration by iteration; without warm-up as in its notebook, the script's default is 5 epochs (F13)"),
    "horizon_beyond": (1.0, "code (F13)"),
    "precision": ("fp16", "code: mixed precision in training; here of the backbone alone, and when testing, too"),
    "head_init_std": (0.02, "code: torch's default, uniform with about that deviation; here normal, and bias 0"),
}
_OFFICIAL_PART = ("places-lt", "ip102")  # what is held out is that, not a fold (F16)
_OLOR_METHODS: dict[str, tuple[str, Settings]] = {
    "linear": ("Linear probe", {"trainable": ("heads", PAPER)}),
    "full": ("Full fine-tuning", {}),
    "l2-sp": ("L2-SP", {"l2_sp": (0.01, CODE)}),
    "vpt": ("VPT", {"prompts.tokens": (10, CODE), "prompts.deep": (True, "our reading: the published code cannot run it")}),
    "olor": (
        "OLOR",
        {
            "olor.rollback_input": (0.01, "code: b = 0.01 / lr, used times lr"),
            "olor.rollback_output": (0.0, CODE),
            "olor.rollback_power": (1.0, "code: its configuration"),
            "olor.counting": ("layers", "paper (F8, F11)"),
            "olor.rollback_decay": ("reference", "code (F12)"),
            "olor.anchor": ("pretrained", PAPER),
        },
    ),
}


def _olor(method: str, backbone: str, stream: Stream) -> tuple[str, Settings, tuple[str, ...]]:
    """Title, settings and remarks of a method in OLOR's experiments."""
    title, changed = _OLOR_METHODS[method]
    remarks = ["The grid is of Adam; the code has SGD with momentum 0.9 as well."]
    if method != "olor":
        remarks.append("The learning rate is the code's default for all methods; its one published command is OLOR's, on a ViT.")
    settings = {"backbone": (backbone, "code: its configuration names it"), **_OLOR, **changed}
    if stream.dataset in _OFFICIAL_PART:
        settings["images.hold_out"] = (True, CODE)
    if stream.dataset == "svhn":
        remarks.append("The code saved SVHN as JPEG first: here it is read as it is published.")
    if backbone == CONVNEXT:
        settings["lr"] = (1e-4, "our reading: the code gives a ViT's alone")
        settings["optimizer"] = ("adam", "our reading: the code's default; its one published command is a ViT's")
        settings["head_init_std"] = (0.02, "code: torch's default, uniform with a deviation of 0.018; here normal, and bias 0")
        if method == "olor":
            settings["olor.counting"] = ("layers", "paper (F8, F11); what a layer of a ConvNeXt is: our reading")
    return title, settings, tuple(remarks)


# --- runs by name ---

_SEEDS = {"slca": (1993, 1996, 1997), "olor": (2023,), "aepg": ()}
_OF_OTHERS = "a baseline of another paper, whose settings in these experiments were not found"
_UNCOVERED = {
    **dict.fromkeys(("bic", "der++", "lwf"), f"{_OF_OTHERS}; Avalanche's, mended, runs on the embedded tier"),
    "l2p": f"{_OF_OTHERS}; Avalanche's is broken upstream (docs/baselines.md)",
    **dict.fromkeys(("dualprompt", "dualprompt-ce", "inflora-ce"), f"{_OF_OTHERS}; Avalanche has none (docs/baselines.md)"),
}
_OF_DATASETS = {
    "imagenet-r": "The split is by lists of files; without them `reclaim data` makes one of that size that is another.",
    "cars196": "Whether the official training images were trained on is not settled; here it is as in the code (F7).",
    "food101": "The paper does not say how 101 classes make 10 experiences: nine of 10 and one of 11 are our reading.",
    "clrs25": "The paper does not say which images of CLRS are tested on: the 0.8 / 0.2 of `reclaim data` is ours.",
    **dict.fromkeys(_OFFICIAL_PART, "What is held out is the official validation part, not a fold of the training images (F16)."),
    "officehome": "Tested on Real World, trained on the other three domains (code).",
    "pacs": "Tested on art_painting, trained on the other three domains (code).",
}
_OF_DATASETS_IN = {
    "slca": {
        "imagenet-r": "The paper's split is DualPrompt's.",
        "cars196": "SLCA numbers the classes by names of folders that it does not publish: its class orders cannot be had exactly.",
    },
    "aepg": {"imagenet-r": "The paper does not name its split: LAE's code takes L2P's."},
}


def run_of(cell: Cell) -> str:
    """The name of the run that a cell's number comes of: its id without the metric."""
    return cell.id.rpartition("/")[0]


def run_names() -> list[str]:
    """Every run: those of the cells in the order of the files, then those without a published number here.

    The latter are what is left of SLCA's four data sets, SLCA from MoCo v3, and OLOR's grid.
    """
    slca = [f"slca/main/{method}/{stream}" for method in ("slca", "seqft+sl", "joint") for stream in SLCA_STREAMS]
    moco = [f"slca/mocov3/{method}/{stream}" for method in ("slca", "seqft+sl", "slca++") for stream in SLCA_STREAMS]
    grid = ["/".join(("olor/grid", *parts)) for parts in itertools.product(_OLOR_METHODS, OLOR_STREAMS, OLOR_BACKBONES)]
    return list(dict.fromkeys([*(run_of(cell) for cell in cells()), *slca, *moco, *grid]))


@functools.cache
def protocol_of(run: str) -> Protocol | Uncovered:
    """The protocol of a run of :func:`run_names`, or why there is none."""
    paper, table, method, home, *backbones = run.split("/")
    stream = find_stream(home)
    grid: Mapping[str, Sequence[float]] = {}
    remarks: tuple[str, ...]
    if method in _UNCOVERED:
        return Uncovered(_UNCOVERED[method])
    if paper == "slca":
        title, settings, remarks = _slca(method, stream.dataset, MOCO_V3 if table == "mocov3" else IN21K)
    elif paper == "olor":
        backbone = backbones[0] if backbones else IN21K
        if method not in _OLOR_METHODS:
            return Uncovered(f"no method of OLOR's experiments is called {method!r}: they are {', '.join(_OLOR_METHODS)}")
        if (method, backbone) == ("vpt", CONVNEXT):
            return Uncovered(
                "OLOR's code has learnt pixels around the image for ConvNets, in a branch never reached; prompts are for a ViT here"
            )
        title, settings, remarks = _olor(method, backbone, stream)
        remarks += () if backbones else ("The cell does not name its backbone: the ViT of ImageNet-21k is our reading.",)
    elif table == "table-3":
        title, settings, remarks = _from_scratch(method.rpartition("-")[2])
    else:
        title, settings, remarks, grid = _modules_and_loss(*method.split("-"))
        if home == "split-imagenet-r-10" and method in ("lora-ce", "lora-aepg"):
            remarks += ("Tables 1 and 2 print different numbers for it (F26).",)
    remarks += tuple(remark[where] for remark in (_OF_DATASETS, _OF_DATASETS_IN.get(paper, {})) if (where := stream.dataset) in remark)
    recipe = Recipe(
        ".".join([paper, table, method, *backbones]),
        title,
        f"The paper's protocol, on {stream.description}.",
        home,
        Config().set(f"{key}={json.dumps(value)}" for key, (value, _) in settings.items()),
        grid,
        from_paper=True,
        tier="paper",
    )
    return Protocol(recipe, settings, remarks, _SEEDS[paper])


def find_run(name: str) -> str:
    """The run of that name, or of the cell of that name.

    :raises ValueError: there is none; the message names similar ones.
    """
    runs = run_names()
    for run in (name, name.rpartition("/")[0]):
        if run in runs and (run == name or any(cell.id == name for cell in cells())):
            return run
    similar = difflib.get_close_matches(name, [*(cell.id for cell in cells()), *runs], n=3, cutoff=0.3) or runs[:1]
    raise ValueError(f"no cell or run is called {name!r}: did you mean {', '.join(similar)}? (`reclaim list cells` shows all)")


def find_cell(name: str) -> tuple[Recipe, Stream, tuple[int, ...]]:
    """Recipe, stream and the paper's seeds of a cell, with its metric or without, or of another run of a paper.

    :raises ValueError: there is none of that name, or no protocol for it; the message names similar ones, or the reason.
    """
    run = find_run(name)
    protocol = protocol_of(run)
    if isinstance(protocol, Uncovered):
        raise ValueError(f"{run} cannot be run: {protocol.reason}")
    return protocol.recipe, protocol.stream, protocol.seeds


def covered_runs(everything: bool = False) -> list[tuple[Recipe, Stream, tuple[int, ...]]]:
    """As :func:`find_cell` gives them, the runs of all cells that have a protocol.

    :param everything: those without a published number, too.
    """
    of_cells = {run_of(cell) for cell in cells()}
    protocols = [protocol_of(run) for run in run_names() if everything or run in of_cells]
    return [(found.recipe, found.stream, found.seeds) for found in protocols if isinstance(found, Protocol)]


# --- as text ---


def in_full(name: str) -> str:
    """All there is to know of a run, or of the run of a cell: the published numbers, the protocol with its sources, how to run it.

    :raises ValueError: there is none of that name.
    """
    run = find_run(name)
    protocol, numbers = protocol_of(run), [cell for cell in cells() if run_of(cell) == run]
    lines = []
    for cell in numbers:
        spread = "" if cell.published.std is None else f" +- {cell.published.std:g}"
        lines.append(
            f"published: {cell.metric} {cell.published.mean:g}{spread}, n = {cell.published.n or 'not known'}; margin {cell.table.margin:g}"
        )
        lines += [f"re-run by others: {cell.metric} {again.value:g} ({again.source})" for again in cell.reruns]
    lines += [] if numbers else ["published: no number here"]
    if isinstance(protocol, Uncovered):
        return "\n".join([run, *lines, f"cannot be run: {protocol.reason}"])
    recipe, stream = protocol.recipe, protocol.stream
    rows = [(key, shown(value), source) for key, (value, source) in protocol.settings.items()]
    return "\n".join(
        [
            f"{run}: {recipe.title}",
            f"{stream.name}: {stream.description}",
            *lines,
            f"the paper's seeds: {', '.join(map(str, protocol.seeds)) or 'not known'}",
            f"recorded as: {recipe.name}",
            "",
            tabulate(rows, headers=("setting", "value", "source"), disable_numparse=True),
            "",
            *(f"note: {remark}" for remark in protocol.remarks),
            *(line for fact in protocol.facts for line in _fact(fact, protocol)),
            "",
            *(f"run it: {command}" for command in commands(run)),
        ]
    )


def commands(run: str) -> list[str]:
    """The commands that make a run, one for each candidate of the paper's grid; none where it has no protocol."""
    protocol = protocol_of(run)
    if isinstance(protocol, Uncovered):
        return []
    recipe, printed = protocol.recipe, [cell.published.n or 1 for cell in cells() if run_of(cell) == run]
    command = f"reclaim run --cell {run} --root DIR --seeds {max(printed, default=3)}"
    command += " --weights FILE" if recipe.config.backbone == MOCO_V3 else ""
    others = [f"{command} --set {key}={value:g}" for key, values in recipe.grid.items() for value in values[1:]]
    return [command, *others]


def _fact(fact: str, protocol: Protocol) -> list[str]:
    """An entry of docs/fidelity.md, and what of it stands in this protocol."""
    entry = next(entry for entry in FACTS if entry.id == fact)
    if not isinstance(entry, Switch):
        return [f"{fact}: {entry.text}"]
    here = [f"{key}={shown(value)}" for key, (value, source) in protocol.settings.items() if re.search(rf"\b{fact}\b", source)]
    return [f"{fact}, {entry.title}", f"  text: {entry.text}", f"  code: {entry.code}", f"  here: {', '.join(here) or 'see the notes'}"]


COVERAGE = """\
# Coverage: which of the papers' runs are one command away

A run is a method of a paper's table on a stream; its published numbers, the cells, are one or two of its metrics. A run is covered
if its protocol is known well enough to be repeated: `reclaim list RUN` shows it, each value with its source, and
`reclaim run --cell RUN --root DIR` makes it. Covered does not mean reproduced: what the runs on record say of a cell is
told by `pytest benchmark/ --paper-check`. "Our reading" names the settings for which neither text nor code, as far as they could
be read, gives a value.
"""


def coverage_page() -> str:
    """docs/coverage.md: for each table how many cells are covered and why the others are not, then every run."""
    metrics: dict[str, list[str]] = {}
    for cell in cells():
        metrics.setdefault(run_of(cell), []).append(cell.metric)
    counts: list[tuple[Any, ...]] = []
    reasons: dict[tuple[str, str, str], int] = {}
    for table in tables():
        found = [(cell, protocol_of(run_of(cell))) for cell in cells() if cell.table == table]
        missing = [(table.id, cell.method, protocol.reason) for cell, protocol in found if isinstance(protocol, Uncovered)]
        counts.append((table.id, len(found), len(found) - len(missing), len(missing)))
        reasons |= {reason: missing.count(reason) for reason in missing}
    counts.append(("all", *(sum(row[column] for row in counts) for column in (1, 2, 3))))
    others = [run for run in run_names() if run not in metrics and not run.startswith("olor/grid/")]
    grid = [
        (title, *("-" if isinstance(protocol_of(f"olor/grid/{name}/{OLOR_STREAMS[0]}/{b}"), Uncovered) else "yes" for b in OLOR_BACKBONES))
        for name, (title, _) in _OLOR_METHODS.items()
    ]
    return "\n".join(
        [
            COVERAGE,
            _table(("table", "cells", "covered", "not covered"), counts),
            _table(
                ("table", "method", "cells", "not covered, because it is"), [(*reason[:2], n, reason[2]) for reason, n in reasons.items()]
            ),
            "## Runs with published numbers\n",
            _table(("run", "cells", "method", "our reading"), [(f"`{run}`", ", ".join(of), *_row(run)) for run, of in metrics.items()]),
            "## Runs without\n\nNo published number of these stands in `papers/*.toml`.\n",
            _table(("run", "method", "our reading"), [(f"`{run}`", *_row(run)) for run in others]),
            "OLOR's grid, `olor/grid/<method>/<stream>/<backbone>`. VPT's prompts are for ViTs: what OLOR's code has for ConvNets is never "
            "reached.",
            f"The streams are {', '.join(f'`{stream}`' for stream in OLOR_STREAMS)}.\n",
            _table(("", *(f"`{backbone}`" for backbone in OLOR_BACKBONES)), grid),
        ]
    )


def _row(run: str) -> tuple[str, str]:
    """The method, and the settings that neither text nor code gives."""
    protocol = protocol_of(run)
    if isinstance(protocol, Uncovered):
        return "not covered", ""
    own = [f"`{key}`" for key, (_, source) in protocol.settings.items() if OURS in source]
    return protocol.recipe.title, "all of it" if protocol.recipe.config.joint else ", ".join(own) or "-"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in (header, ["---"] * len(header), *rows))
