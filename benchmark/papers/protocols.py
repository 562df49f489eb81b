"""The papers' protocols: for every published cell the recipe that repeats it, each value with its source, or the reason
why there is none.

A source is the "paper" (its text), the "code" of its authors, an entry of docs/fidelity.md where these two
disagree or are silent, or "our reading" where nothing says. A run is named as its cells without their last part, the
metric: both metrics come of it.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..config import EXECUTION, Config, differences
from ..data.streams import Stream, find_stream
from ..recipes import RECIPES, Recipe
from .aepg import ALPHAS, LOSSES, MODULES, from_scratch, modules_and_loss
from .facts import FACTS
from .headers import papers
from .inflora import INFLORA_METHODS, INFLORA_STREAMS, inflora
from .olor import CONVNEXT, OFFICIAL_PART, OLOR_BACKBONES, OLOR_METHODS, OLOR_STREAMS, olor
from .published import Cell, cells
from .rivals import OF_AEPG, OF_SLCA, rival_of_aepg, rival_of_slca
from .slca import SLCA_METHODS, SLCA_OF_OTHERS, SLCA_STREAMS, slca, slca_of_others
from .sources import IN21K, MOCO_V3, NATURAL, OURS, Settings


@dataclass(frozen=True)
class Protocol:
    """How a paper made a number.

    :ivar recipe: trains so; its name is that under which runs are recorded, its home the cell's stream.
    :ivar settings: every value that matters, with its source.
    :ivar remarks: what a reader must know about them.
    :ivar seeds: the paper's, where it or its code says.
    :ivar natural: the paper states no setting for the row: all of it is a natural reading (F71, F72), and a verdict on
        it says so.
    """

    recipe: Recipe
    settings: Settings
    remarks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    natural: bool = False

    @property
    def stream(self) -> Stream:
        return find_stream(self.recipe.home)

    @cached_property
    def configs(self) -> tuple[Config, ...]:
        """The recipe's configuration; where the paper prints the best of a grid (F23), one for each candidate, the
        hinted one first.
        """
        return tuple(self.recipe.with_settings(candidate) for candidate in self.recipe.candidates())

    def made_with(self, recorded: Mapping[str, Any]) -> Config | None:
        """That of :attr:`configs` with which a run was made, up to :data:`EXECUTION`; None if it was made with none of
        them.

        :param recorded: a record's ``config``.
        """
        return next((config for config in self.configs if differences(recorded, config).keys() <= set(EXECUTION)), None)

    def deviations(self, recorded: Mapping[str, Any]) -> list[str]:
        """Such as "precision=bf16 instead of fp32": what a recorded configuration has in place of the paper's."""
        return list(differences(recorded, self.made_with(recorded) or self.configs[0]).values())

    @property
    def readings(self) -> list[str]:
        """What is our reading, because neither the paper nor its code says: keys of :attr:`settings`, the stream, the
        split.
        """
        keys = [key for key, (_, source) in self.settings.items() if OURS in source]
        return [*keys, *(what for what, datasets in _READINGS.items() if self.stream.dataset in datasets)]

    @property
    def facts(self) -> list[str]:
        """Ids of the entries of docs/fidelity.md that sources and remarks name, in that page's order."""
        named = set(
            re.findall(r"\bF\d+\b", " ".join([*(source for _, source in self.settings.values()), *self.remarks]))
        )
        return [fact.id for fact in FACTS if fact.id in named]


@dataclass(frozen=True)
class Uncovered:
    """Why a run of a paper's table cannot be made here."""

    reason: str


# --- runs by name ---

_OF_DATASETS = {
    "imagenet-r": "The split is by lists of files; without them `reclaim data` makes one of that size that is another.",
    "cars196": "Whether the official training images were trained on is not settled; here it is as in the code (F7).",
    "food101": "The paper does not say how 101 classes make 10 experiences: nine of 10 and one of 11 are our reading.",
    "clrs25": "The paper does not say which images of CLRS are tested on: the 0.8 / 0.2 of `reclaim data` is ours.",
    **dict.fromkeys(
        OFFICIAL_PART, "What is held out is the official validation part, not a fold of the training images (F16)."
    ),
    "officehome": "Tested on Real World, trained on the other three domains (code).",
    "pacs": "Tested on art_painting, trained on the other three domains (code).",
}
_READINGS = {"stream": ("food101",), "split": ("clrs25",)}
"""What of a data set the papers do not say: how its classes make experiences, which images are tested on."""
_OF_DATASETS_IN = {
    "slca": {
        "imagenet-r": "The paper's split is DualPrompt's.",
        "cars196": "SLCA numbers the classes by names of folders that it does not publish: its class orders cannot "
        "be had exactly.",
    },
    "aepg": {"imagenet-r": "The paper does not name its split: LAE's code takes L2P's."},
}


_NATURAL = {
    *(("slca", "main", method) for method in OF_SLCA),
    *(("aepg", "table-1", f"{method}-ce") for method in OF_AEPG),
}
"""Paper, table and method of the rows whose settings the papers do not state."""
PAPERS = ("slca", "olor", "inflora", "aepg")
"""Those that have runs here; of the others in this folder there are only facts. Of OLOR no table could be read."""
_TABLES = {"inflora": ("main",), "slca": ("main", "mocov3", "slca++"), "aepg": ("table-1", "table-2", "table-3")}


def run_of(cell: Cell) -> str:
    """The name of the run that a cell's number comes of: its id without the metric."""
    return cell.id.rpartition("/")[0]


def run_names() -> list[str]:
    """Every run: those of the cells in the order of the files, then those without a published number here.

    The latter are what is left of SLCA's four data sets, SLCA as others run it, SLCA from MoCo v3, OLOR's grid, and
    InfLoRA's other streams.
    """
    slca = [f"slca/main/{method}/{stream}" for method in ("slca", "seqft+sl", "joint") for stream in SLCA_STREAMS]
    others = [f"slca/main/{method}/{stream}" for method, streams in SLCA_OF_OTHERS.items() for stream in streams]
    moco = [f"slca/mocov3/{method}/{stream}" for method in ("slca", "seqft+sl", "slca++") for stream in SLCA_STREAMS]
    grid = ["/".join(("olor/grid", *parts)) for parts in itertools.product(OLOR_METHODS, OLOR_STREAMS, OLOR_BACKBONES)]
    longer = [f"inflora/main/inflora/{stream}" for stream in INFLORA_STREAMS]
    of_cells = (run_of(cell) for cell in cells())
    return list(dict.fromkeys([*of_cells, *slca, *others, *moco, *grid, *longer]))


def taken_name(recipe: str) -> str | None:
    """The recipe or run of this project whose name a recipe from outside has, or has but for upper and lower case; None
    for a name of its own, and for our recipes themselves.
    """
    return None if recipe in RECIPES else _taken().get(recipe.casefold())


@functools.cache
def _taken() -> dict[str, str]:
    runs = {run.rpartition("/")[0].replace("/", ".") for run in run_names()}
    return {name.casefold(): name for name in (*sorted(runs), *RECIPES)}


@functools.cache
def protocol_of(run: str) -> Protocol | Uncovered:
    """The protocol of a run, or why there is none.

    :param run: paper/table/method/stream, in OLOR's grid with the backbone as a fifth part; see :func:`run_names`.
    :raises ValueError: a part of the name is unknown; the message names it and what is known.
    """
    parts = run.split("/")
    if len(parts) not in (4, 5):
        raise ValueError(f"{run!r} is no run: write paper/table/method/stream, such as {run_of(cells()[0])}")
    paper, table, method, home, *backbones = parts
    _require_known(run, "paper", paper, PAPERS)
    stream = find_stream(home)
    if paper in _TABLES:
        _require_known(run, "table", table, _TABLES[paper])
    if paper != "olor" and backbones:
        raise ValueError(f"{run!r}: only runs of OLOR name a backbone, leave out {backbones[0]!r}")
    grid: Mapping[str, Sequence[float]] = {}
    remarks: tuple[str, ...]
    natural = (paper, table, method) in _NATURAL
    if natural and paper == "slca":
        title, settings, remarks = rival_of_slca(method, stream.dataset, stream.n_classes)
    elif natural:
        title, settings, remarks = rival_of_aepg(method.removesuffix("-ce"), len(stream.sizes))
    elif paper == "slca" and table == "main" and method in SLCA_OF_OTHERS:
        _require_known(run, "stream", home, SLCA_OF_OTHERS[method])
        title, settings, remarks = slca_of_others(method, stream.dataset)
    elif paper == "slca":
        others = (*SLCA_OF_OTHERS, *OF_SLCA) if table == "main" else ()
        _require_known(run, "method", method, (*SLCA_METHODS, *others))
        title, settings, remarks = slca(method, stream.dataset, MOCO_V3 if table == "mocov3" else IN21K)
    elif paper == "inflora":
        _require_known(run, "method", method, INFLORA_METHODS)
        _require_known(run, "stream", home, INFLORA_STREAMS)
        title, settings, remarks = inflora(stream.dataset)
    elif paper == "olor":
        backbone = backbones[0] if backbones else IN21K
        _require_known(run, "method", method, OLOR_METHODS)
        _require_known(run, "backbone", backbone, OLOR_BACKBONES)
        if (method, backbone) == ("vpt", CONVNEXT):
            return Uncovered(
                "OLOR's code has learnt pixels around the image for ConvNets, in a branch never reached; prompts are "
                "for a ViT here"
            )
        title, settings, remarks = olor(method, backbone, stream)
        remarks += (
            () if backbones else ("The cell does not name its backbone: the ViT of ImageNet-21k is our reading.",)
        )
    elif table == "table-3":
        alpha = method.removeprefix("resnet50-alpha-")
        _require_known(run, "method", method, [f"resnet50-alpha-{known}" for known in ALPHAS])
        title, settings, remarks = from_scratch(alpha)
    else:
        module, _, loss = method.partition("-")
        _require_known(run, "module", module, MODULES)
        _require_known(run, "loss", loss, LOSSES)
        title, settings, remarks, grid = modules_and_loss(module, loss)
        if home == "split-imagenet-r-10" and method in ("lora-ce", "lora-aepg"):
            remarks += ("Tables 1 and 2 print different numbers for it (F26).",)
    remarks += tuple(
        remark[where]
        for remark in (_OF_DATASETS, _OF_DATASETS_IN.get(paper, {}))
        if (where := stream.dataset) in remark
    )
    said = "The paper's protocol"
    recipe = Recipe(
        ".".join([paper, table, method, *backbones]),
        title,
        f"{f'Setting: {NATURAL}' if natural else said}, on {stream.description}.",
        home,
        Config().set(f"{key}={json.dumps(value)}" for key, (value, _) in settings.items()),
        grid,
        from_paper=not natural,
        tier="paper",
    )
    return Protocol(recipe, settings, remarks, papers()[paper].seeds, natural)


def _require_known(run: str, what: str, value: str, known: Iterable[str]) -> None:
    if value not in (names := list(known)):
        raise ValueError(f"{run!r}: unknown {what} {value!r}, choose one of {', '.join(names)}")


def find_run(name: str) -> str:
    """The run of that name, or of the cell of that name.

    :raises ValueError: there is none; the message names similar ones.
    """
    runs = run_names()
    for run in (name, name.rpartition("/")[0]):
        if run in runs and (run == name or any(cell.id == name for cell in cells())):
            return run
    similar = difflib.get_close_matches(name, [*(cell.id for cell in cells()), *runs], n=3, cutoff=0.3) or runs[:1]
    raise ValueError(
        f"no cell or run is called {name!r}: did you mean {', '.join(similar)}? (`reclaim list cells` shows all)"
    )


def find_cell(name: str) -> tuple[Recipe, Stream, tuple[int, ...]]:
    """Recipe, stream and the paper's seeds of a cell, with its metric or without, or of another run of a paper.

    :raises ValueError: there is none of that name, or no protocol for it; the message names similar ones, or the
        reason.
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
