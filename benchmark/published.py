"""What the papers say: published cells and claims, read from papers/*.toml through one check."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, get_args

from .records import Record
from .statistics import ClaimKind, Outcome, PairedDifference, Published, judge_family, paired_difference

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAPERS = ("slca", "olor", "aepg")
DEFAULT_MARGIN = 1.0
METRICS = ("last_acc", "inc_acc", "task_avg_last_acc", "task_avg_inc_acc", "forgetting", "final_entropy")
LESS_IS_BETTER = ("forgetting", "final_entropy")
CELL_KEYS = (
    *("id", "table", "method", "stream", "metric", "mean", "std", "runs", "decimals", "evidence", "std_evidence", "source"),
    *("loss", "peft", "alpha"),  # what tells the methods of aEPG's tables apart
)


class PublishedError(ValueError):
    """A file in papers/ says something that cannot be; the message names file, entry and remedy."""


@dataclass(frozen=True)
class Cell:
    """One published number, in percent.

    :ivar id: paper/table/method/stream/metric; its first three parts, joined by dots, are the recipe under which its runs are recorded.
    """

    id: str
    paper: str
    method: str
    stream: str
    metric: str
    published: Published

    @property
    def recipe(self) -> str:
        return ".".join(self.id.split("/")[:3])

    @property
    def table(self) -> str:
        return " ".join(self.id.split("/")[:2])


@dataclass(frozen=True)
class Claim:
    """A statement about two recipes on one stream, checked on runs paired by seed."""

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


@dataclass(frozen=True)
class ClaimVerdict:
    """What the runs on record say of a claim: better - worse, the sign turned where less is better."""

    claim: Claim
    outcome: Outcome
    adjusted_p: float
    difference: PairedDifference | None

    def __str__(self) -> str:
        if self.difference is None:
            return "-"
        interval = self.difference.interval()
        spread = f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else ""
        return f"{self.difference.value:+.2f}{spread}, n = {self.difference.n}, p = {self.adjusted_p:.2g}"


@functools.cache
def cells() -> tuple[Cell, ...]:
    """Every published cell, in the order of the files."""
    found = []
    for paper in PAPERS:
        document = _document(f"{paper}.toml")
        _require(f"papers/{paper}.toml", document, ("paper",))
        runs = document["paper"].get("runs", 1)
        for entry in document.get("cell", []):
            where = f"papers/{paper}.toml, cell {entry.get('id', entry)!r}"
            _require(where, entry, ("id", "method", "stream", "metric", "mean"), CELL_KEYS)
            _require_choice(where, entry, "metric", METRICS)
            decimals = entry.get("decimals", document["paper"].get("decimals"))
            try:
                published = Published(entry["mean"], entry.get("std"), entry.get("runs", runs), rounding=0.5 * 10.0**-decimals)
            except (TypeError, ValueError) as error:
                raise PublishedError(f"{where}: mean, std, runs or decimals cannot be: {error}") from error
            found.append(Cell(entry["id"], paper, entry["method"], entry["stream"], entry["metric"], published))
    _require_distinct("papers/*.toml", [cell.id for cell in found])
    return tuple(found)


@functools.cache
def claims() -> tuple[Claim, ...]:
    """Every claim of papers/claims.toml, in its order."""
    found = []
    document = _document("claims.toml")
    _require("papers/claims.toml", document, ("claim",))
    for entry in document["claim"]:
        where = f"papers/claims.toml, claim {entry.get('id', entry)!r}"
        _require(
            where, entry, ("id", "text", "source", "family", "kind", "better", "worse", "stream", "metric"), Claim.__dataclass_fields__
        )
        _require_choice(where, entry, "metric", METRICS)
        _require_choice(where, entry, "family", ("confirmatory", "exploratory"))
        _require_choice(where, entry, "kind", get_args(ClaimKind))
        _require_choice(where, {"expected": None, **entry}, "expected", (None, *get_args(Outcome)))
        if (entry["kind"] == "noninferior") != ("margin" in entry and "margin_reason" in entry):
            raise PublishedError(f"{where}: a claim of no difference, and only that, states its margin and margin_reason")
        found.append(Claim(**entry))
    _require_distinct("papers/claims.toml", [claim.id for claim in found])
    return tuple(found)


def metric_of(record: Record, metric: str) -> float:
    """A run's number under a name of :data:`METRICS`: percent, points, or nats.

    ``final_entropy`` is the entropy of the training predictions in the last epoch of each experience, averaged over experiences; NaN when
    there was no epoch.
    """
    if metric == "final_entropy":
        entropy, epochs = record.result["entropy"], record.result["config"]["epochs"]
        last = entropy[epochs - 1 :: epochs] if epochs else []
        return sum(last) / len(last) if last else math.nan
    return record.metrics()[metric]


def judge_claims(runs: Sequence[Record]) -> list[ClaimVerdict]:
    """The verdict on every claim; Holm runs over the confirmatory family, exploratory claims stand alone.

    Only the seeds that the family was planned with count: adding seeds until a claim holds is not possible.

    :param runs: of the recipes' present configurations; one per recipe, stream and seed.
    """
    planned = _document("claims.toml")["family"]
    values: dict[tuple[str, str], dict[int, Record]] = {}
    for record in runs:
        if record.seed < planned["seeds"]:
            values.setdefault((record.recipe, record.stream), {})[record.seed] = record
    differences = {claim.id: _difference(claim, values) for claim in claims()}
    families = [[claim for claim in claims() if claim.family == "confirmatory"]]
    families += [[claim] for claim in claims() if claim.family == "exploratory"]
    verdicts = {}
    for family in families:
        judged = judge_family([(claim.kind, differences[claim.id], claim.margin) for claim in family], planned["alpha"])
        for claim, (outcome, p) in zip(family, judged, strict=True):
            verdicts[claim.id] = ClaimVerdict(claim, outcome, p, differences[claim.id])
    return [verdicts[claim.id] for claim in claims()]


def _difference(claim: Claim, values: Mapping[tuple[str, str], Mapping[int, Record]]) -> PairedDifference | None:
    sign = -1.0 if claim.metric in LESS_IS_BETTER else 1.0
    better, worse = (
        {seed: sign * metric_of(record, claim.metric) for seed, record in values.get((recipe, claim.stream), {}).items()}
        for recipe in (claim.better, claim.worse)
    )
    return paired_difference(better, worse)


def _document(name: str) -> dict[str, Any]:
    text = (resources.files("reclaim.benchmark") / "papers" / name).read_text(encoding="utf-8")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PublishedError(f"papers/{name} is not TOML: {error}") from error


def _require(where: str, entry: Mapping[str, Any], keys: Sequence[str], known: Collection[str] | None = None) -> None:
    if missing := [key for key in keys if key not in entry]:
        raise PublishedError(f"{where}: {', '.join(missing)} missing")
    if known is not None and (unknown := sorted(entry.keys() - set(known))):
        raise PublishedError(f"{where}: unknown entries {', '.join(unknown)}")


def _require_choice(where: str, entry: Mapping[str, Any], key: str, choices: Sequence[str | None]) -> None:
    if entry[key] not in choices:
        raise PublishedError(f"{where}: unknown {key} {entry[key]!r}, choose one of {', '.join(filter(None, choices))}")


def _require_distinct(where: str, ids: Sequence[str]) -> None:
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise PublishedError(f"{where}: ids stand there twice: {', '.join(twice)}")
