"""What the papers say: published cells and claims, read from the TOML files of this folder through one check."""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..config import Seeding
from ..data.catalogue import CATALOGUE
from ..data.streams import DENSE_STREAMS, MIDDLE_STREAMS, PAPER_STREAMS, STREAMS, find_stream
from ..recipes import find_recipe, recipes_of
from ..stats.estimates import Published
from ..stats.paired import ClaimKind, Outcome
from .headers import FOLDER, PublishedError, papers
from .reruns import reruns

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
from ..records.metrics import AVERAGED, DENSE_METRICS, METRICS, OF_TASK
from .kinds import NATURAL_ORDER, SHUFFLED, UNKNOWN, Kind

DEFAULT_MARGIN = 1.0
EXPLORATORY_SEEDS = 5
"""Seeds that an exploratory claim was planned with, unless it says otherwise; claims.toml has those of the confirmatory
family.
"""
EVIDENCE = ("primary", "secondary")
ClaimTier = Literal["embedded", "middle", "dense"]
CLAIMS: dict[ClaimTier, str] = {
    "embedded": "claims.toml",
    "middle": "claims-middle.toml",
    "dense": "claims-dense.toml",
}
"""Tier -> file of its claims. Each has its own confirmatory family."""
OF_TIER = {"embedded": STREAMS, "middle": MIDDLE_STREAMS, "dense": DENSE_STREAMS}


@dataclass(frozen=True)
class Table:
    """A paper's table: its cells are one family in the sentence "k of K reproduced", and share a margin.

    :ivar id: paper/table.
    :ivar margin: points within which two means count as equal.
    :ivar margin_reason: why so many; a table without a ``[[table]]`` entry has the default.
    :ivar family_reason: why these cells are judged together.
    """

    id: str
    margin: float = DEFAULT_MARGIN
    margin_reason: str = "the default"
    family_reason: str = "all cells of the table"

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True)
class Rerun:
    """A run of the paper's method besides the printed one: shown next to the published number, never used as one.

    :ivar evidence: "primary": in a log of its authors; "re-run": by others; "copied": no run, the paper's own digits.
    """

    value: float
    source: str
    evidence: str = "re-run"

    @property
    def kind(self) -> str:
        """The evidence in words."""
        return {"primary": "run by its authors", "copied": "copied, not run"}.get(self.evidence, "re-run by others")


@dataclass(frozen=True)
class Cell:
    """One published number, in percent.

    :ivar id: paper/table/method/stream/metric; its first three parts, joined by dots, are the recipe under which its
        runs are recorded.
    :ivar seeds: those that the paper used, where it says so.
    :ivar kind: what the number is: seed scope, class order, what it is averaged over, split.
    """

    id: str
    paper: str
    method: str
    stream: str
    metric: str
    published: Published
    table: Table
    reruns: tuple[Rerun, ...] = ()
    seeds: tuple[int, ...] = ()
    kind: Kind = field(default_factory=Kind)

    @property
    def recipe(self) -> str:
        return ".".join(self.id.split("/")[:3])


@dataclass(frozen=True)
class Claim:
    """A statement about two recipes on one stream, checked on runs paired by seed.

    :ivar expected: the verdict over the committed records.
    :ivar earlier: a verdict of an earlier rule, where the rule was changed after the runs; empty otherwise.
    :ivar planned: number of seeds of an exploratory claim that was planned with another than
        :data:`EXPLORATORY_SEEDS`.
    """

    id: str
    text: str
    source: str
    family: Literal["confirmatory", "exploratory"]
    kind: ClaimKind
    better: str
    worse: str
    stream: str
    metric: str
    margin: float = 0.0
    margin_reason: str = ""
    expected: Outcome | None = None
    earlier: str = ""
    planned: int | None = None

    @property
    def paper(self) -> str:
        """The key of the paper that says so; "reclaim" for a question of this project's own."""
        return self.id.split("/")[0]

    @property
    def tier(self) -> ClaimTier:
        """The tier that it is tested on, and in whose family."""
        return next(tier for tier in CLAIMS if self.stream in OF_TIER[tier])

    @property
    def counterpart(self) -> str:
        """The id of the embedded tier's claim that says the same: of "slca/middle-alignment", "slca/alignment"."""
        return self.id.replace("/middle-", "/", 1)

    def __str__(self) -> str:
        return f"{self.better} {'>' if self.kind == 'superior' else '>='} {self.worse}"


@functools.cache
def cells() -> tuple[Cell, ...]:
    """Every published cell, in the order of the files.

    :raises PublishedError: any entry of a paper's file, cell or not, is not what it should be.
    """
    found = tuple(cell for paper in papers() for cell in _cells_of(paper))
    _require_distinct("papers/*.toml", [cell.id for cell in found])
    return found


def tables() -> tuple[Table, ...]:
    """The tables that have cells, in the order of the files."""
    return tuple(dict.fromkeys(cell.table for cell in cells()))


@functools.cache
def claims(tier: ClaimTier = "embedded") -> tuple[Claim, ...]:
    """Every claim of a tier, in the order of its file."""
    found, known = [], recipes_of(tier)
    file, document = f"papers/{CLAIMS[tier]}", _document(CLAIMS[tier])
    _require(file, document, ("family", "claim"), ())
    _plan(document, file)
    for number, entry in enumerate(_entries(file, document, "claim"), start=1):
        where = f"{file}, claim {entry.get('id', f'number {number}')!r}"
        required = ("id", "text", "source", "family", "kind", "better", "worse", "stream", "metric")
        _check_entry(where, entry, required, ("margin", "margin_reason", "expected", "earlier", "planned"))
        try:
            find_recipe(entry["better"], known), find_recipe(entry["worse"], known), find_stream(entry["stream"])
        except ValueError as error:
            raise PublishedError(f"{where}: {error}") from None
        _require_choice(where, entry, "stream", tuple(OF_TIER[tier]))
        _require_choice(where, entry, "family", ("confirmatory", "exploratory"))
        for recipe in (known[entry["better"]], known[entry["worse"]]):
            of_recipe = OF_TASK[recipe.base.dense.task] if recipe.base.dense else METRICS
            _require_choice(where, entry, "metric", of_recipe)
        _require_choice(where, entry, "kind", get_args(ClaimKind))
        _require_choice(where, {"expected": None, **entry}, "expected", (None, *get_args(Outcome)))
        if (entry["kind"] == "noninferior") != ("margin" in entry and "margin_reason" in entry):
            raise PublishedError(
                f"{where}: a claim of no difference, and only that, states its margin and margin_reason"
            )
        if entry["family"] == "confirmatory" and "planned" in entry:
            raise PublishedError(f"{where}: a confirmatory claim has the seeds of its family: delete planned")
        found.append(Claim(**entry))
    _require_distinct(file, [claim.id for claim in found])
    return tuple(found)


@functools.cache
def confirmatory_plan(tier: ClaimTier = "embedded") -> tuple[int, float]:
    """Seeds and family error that the confirmatory family of a tier was planned with.

    :raises PublishedError: they are not what they should be.
    """
    return _plan(_document(CLAIMS[tier]), f"papers/{CLAIMS[tier]}")


def planned_seeds(claim: Claim) -> int:
    """The claim was planned with seeds 0, 1, ... below this."""
    return confirmatory_plan(claim.tier)[0] if claim.family == "confirmatory" else claim.planned or EXPLORATORY_SEEDS


# --- the check of the files ---

_is_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*").fullmatch

_OF_KIND = {
    "varied": (*get_args(Seeding), UNKNOWN),
    "class_order": (NATURAL_ORDER, SHUFFLED, UNKNOWN),
    "averaged": ("images", "tasks", UNKNOWN),
    "split": None,
    "split_sha256": None,
}
"""Fields of a :class:`~reclaim.benchmark.papers.kinds.Kind` in a cell -> choices, or None for a text."""
# section: (entries that must be there, entries that may be there)
_SECTIONS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "paper": (
        ("key", "name", "title", "venue", "arxiv", "metric"),
        ("doi", "runs", "decimals", "seeds", "varied", "class_order", "splits", "backbone"),
    ),
    "table": (("id", "margin", "margin_reason", "family_reason"), ()),
    # loss, peft and alpha are what tells the methods of aEPG's tables apart
    "cell": (
        ("id", "table", "method", "stream", "metric", "mean", "evidence", "source"),
        (*("std", "runs", "decimals", "std_evidence", "loss", "peft", "alpha"), *_OF_KIND),
    ),
    "grid": (("streams", "backbones", "methods"), ()),
    # of a table that is known to be there, and of which nothing can be run or compared
    "row": (("task", "dataset", "metric", "dataset_evidence", "protocol"), ()),
}
_SINGLE = ("paper", "grid")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(type(item) is kind for item in value)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{64}}|{UNKNOWN}", value) is not None


def _are_splits(value: Any) -> bool:
    return isinstance(value, dict) and all(
        key in CATALOGUE and isinstance(split, str) and split.strip() for key, split in value.items()
    )


_number = (_is_number, "a number")
_not_negative = (lambda value: _is_number(value) and value >= 0, "a number that is not negative")
_percent = (lambda value: _is_number(value) and 0 <= value <= 100, "a number of percent, 0 to 100")
_count = (lambda value: type(value) is int and value >= 0, "a whole number")
_names = (_list_of(str), "a list of names")
_text = (lambda value: isinstance(value, str) and value.strip() != "", "a text that is not empty")
# what the value of a key must be; keys not listed here are texts
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("mean", "alpha", "forgetting"), _number),
    **dict.fromkeys((metric for metric in METRICS if metric.endswith("acc")), _percent),
    "final_entropy": _not_negative,
    "std": _not_negative,
    "margin": (lambda value: _is_number(value) and value > 0, "a number of points above 0"),
    **dict.fromkeys(
        ("runs", "planned"), (lambda value: type(value) is int and value >= 1, "a number of runs, 1 or more")
    ),
    "decimals": _count,
    "seeds": (_list_of(int), "a list of whole numbers"),
    **dict.fromkeys(("streams", "backbones", "methods"), _names),
    "splits": (_are_splits, 'a table of texts by data set, such as {cifar100 = "official"}'),
    "split_sha256": (_is_hash, "64 hex digits, or unknown"),
}


def _cells_of(paper: str) -> list[Cell]:
    """The cells of a paper's file, all of which is checked."""
    file, document = f"papers/{paper}.toml", _document(f"{paper}.toml")
    _require(file, document, ("paper",), tuple(_SECTIONS)[1:])
    for section, (required, optional) in _SECTIONS.items():
        for number, entry in enumerate(_entries(file, document, section), start=1):
            name = entry.get("id", entry.get("key", f"number {number}"))
            _check_entry(f"{file}, {section} {name!r}", entry, required, optional)
    head = document["paper"]
    if head["key"] != paper:
        raise PublishedError(f"{file}, paper: key is {head['key']!r}: write {paper!r}, the name of the file")
    listed = {entry["id"]: Table(**entry) for entry in document.get("table", [])}
    _require_distinct(file, [entry["id"] for entry in document.get("table", [])])
    found = [_cell(file, paper, entry, document, listed) for entry in document.get("cell", [])]
    if unused := sorted(listed.keys() - {cell.table.id for cell in found}):
        raise PublishedError(
            f"{file}, table {unused[0]!r}: no cell belongs to it: write the first two parts of its cells' ids, or "
            "delete it"
        )
    return found


def _cell(
    file: str, paper: str, entry: Mapping[str, Any], document: Mapping[str, Any], listed: Mapping[str, Table]
) -> Cell:
    where = f"{file}, cell {entry['id']!r}"
    head, grid = document["paper"], document.get("grid", {})
    parts = entry["id"].split("/")
    if (
        len(parts) != 5
        or not all(map(_is_name, parts))
        or (parts[0], *parts[3:]) != (paper, entry["stream"], entry["metric"])
    ):
        raise PublishedError(
            f"{where}: write the id as {paper}/<table>/<method>/{entry['stream']}/{entry['metric']}, without spaces"
        )
    if parts[1] not in (entry["table"], f"table-{entry['table']}"):
        raise PublishedError(f"{where}: table is {entry['table']!r}: write the id's second part, {parts[1]!r}")
    for key in ("stream", "method"):
        if grid and entry[key] not in grid[f"{key}s"]:
            raise PublishedError(
                f"{where}: {key} {entry[key]!r} is not in the file's grid: choose one of {', '.join(grid[f'{key}s'])}"
            )
    decimals = entry.get("decimals", head.get("decimals"))
    if decimals is None:
        raise PublishedError(f"{where}: decimals missing: add how many the paper prints, here or in [paper]")
    try:
        published = Published(
            entry["mean"], entry.get("std"), entry.get("runs", head.get("runs", 1)), rounding=0.5 * 10.0**-decimals
        )
    except ValueError as error:
        raise PublishedError(f"{where}: {error}") from error
    table = f"{paper}/{parts[1]}"
    return Cell(
        id=entry["id"],
        paper=paper,
        method=entry["method"],
        stream=entry["stream"],
        metric=entry["metric"],
        published=published,
        table=listed.get(table, Table(table)),
        reruns=_beside(entry["method"], entry["stream"], entry["metric"]),
        seeds=tuple(head.get("seeds", ())),
        kind=_kind(entry, head),
    )


def _beside(method: str, stream: str, metric: str) -> tuple[Rerun, ...]:
    """The re-runs of a cell, from reruns.toml: accuracies over images. Seeds of which there is a mean are left out."""
    if metric not in ("last_acc", "inc_acc"):
        return ()
    means = [summary for summary in reruns().summaries if (summary.method, summary.stream) == (method, stream)]
    averaged = {seed for summary in means for seed in summary.seeds}
    own = [
        Rerun(getattr(summary, metric), f"{summary.source}, seeds {', '.join(map(str, summary.seeds))}", "primary")
        for summary in means
    ]
    others = [
        Rerun(value, run.source, run.evidence)
        for run in reruns().runs
        if (run.method, run.stream) == (method, stream) and not (run.evidence == "primary" and run.seed in averaged)
        if (value := getattr(run, metric)) is not None
    ]
    return (*own, *others)


def _kind(entry: Mapping[str, Any], head: Mapping[str, Any]) -> Kind:
    """What a cell is: as it says itself, else as its paper's header, its metric and its data set say."""
    dataset = (STREAMS | PAPER_STREAMS)[entry["stream"]].dataset if entry["stream"] in STREAMS | PAPER_STREAMS else ""
    given = {
        **{key: head[key] for key in ("varied", "class_order") if key in head},
        "averaged": AVERAGED[entry["metric"]],
        "split": head.get("splits", {}).get(dataset, UNKNOWN),
    }
    return Kind(**given | {key: entry[key] for key in _OF_KIND if key in entry})


def _plan(document: Mapping[str, Any], file: str) -> tuple[int, float]:
    """Seeds and family error of ``[family]`` in a file of claims."""
    where, family = f"{file}, family", document["family"]
    if not isinstance(family, dict):
        raise PublishedError(f"{where} is {family!r}: write it as [family] with its entries")
    _require(where, family, ("alpha", "seeds"), ())
    seeds, alpha = family["seeds"], family["alpha"]
    if type(seeds) is not int or seeds < 2:
        raise PublishedError(f"{where}: seeds is {seeds!r}: write a whole number, 2 or more")
    if not _is_number(alpha) or not 0 < alpha < 1:
        raise PublishedError(f"{where}: alpha is {alpha!r}: write a number between 0 and 1")
    return seeds, float(alpha)


def _document(name: str) -> dict[str, Any]:
    try:
        return tomllib.loads((FOLDER / name).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PublishedError(f"papers/{name} is not TOML: {error}") from error


def _entries(file: str, document: Mapping[str, Any], section: str) -> Sequence[Mapping[str, Any]]:
    """The entries of a section: ``[section]``, of which there is one, or ``[[section]]``."""
    if section not in document:
        return []
    single, content = section in _SINGLE, document[section]
    entries = [content] if single else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PublishedError(
            f"{file}: {section} is {content!r}: write it as {f'[{section}]' if single else f'[[{section}]]'} with "
            "its entries"
        )
    return entries


def _check_entry(where: str, entry: Mapping[str, Any], required: Sequence[str], optional: Sequence[str]) -> None:
    _require(where, entry, required, optional)
    for key, value in entry.items():
        check, wanted = _KINDS.get(key, _text)
        if not check(value):
            raise PublishedError(f"{where}: {key} is {value!r}: write {wanted}")
    for key, choices in (
        ("metric", (*METRICS, *DENSE_METRICS) if "family" in entry else METRICS),
        ("evidence", EVIDENCE),
        ("std_evidence", EVIDENCE),
        *_OF_KIND.items(),
    ):
        # a row that nothing can be run of names its metric as its paper does
        if key in entry and choices and not (key == "metric" and "dataset_evidence" in entry):
            _require_choice(where, entry, key, choices)
    if "mean" in entry and "metric" in entry:
        check, wanted = _KINDS[entry["metric"]]
        if not check(entry["mean"]):
            raise PublishedError(f"{where}: mean is {entry['mean']!r}: write {wanted}")


def _require(where: str, entry: Mapping[str, Any], required: Sequence[str], optional: Sequence[str]) -> None:
    if missing := [key for key in required if key not in entry]:
        raise PublishedError(f"{where}: {', '.join(missing)} missing: add it")
    if unknown := sorted(entry.keys() - {*required, *optional}):
        raise PublishedError(
            f"{where}: unknown entries {', '.join(unknown)}: known are {', '.join((*required, *optional))}"
        )


def _require_choice(where: str, entry: Mapping[str, Any], key: str, choices: Sequence[str | None]) -> None:
    if entry[key] not in choices:
        raise PublishedError(f"{where}: unknown {key} {entry[key]!r}, choose one of {', '.join(filter(None, choices))}")


def _require_distinct(where: str, ids: Sequence[str]) -> None:
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise PublishedError(f"{where}: duplicate ids: {', '.join(twice)}; delete one of each")
