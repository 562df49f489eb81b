"""Every published cell against the runs on record, and the sentence of each table.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from ..data.catalogue import GIVEN_SPLIT, OTHER_SPLIT
from ..papers.headers import papers
from ..papers.kinds import Kind, caveats, comparable, kind_of, seed_caveats, together
from ..papers.protocols import Protocol, Uncovered, protocol_of, run_of
from ..papers.published import Cell, Table, cells
from ..papers.sources import NATURAL
from ..records.record import UNVERIFIED, Record, image_sets, metric_of, plain
from ..stats.equivalence import CellVerdict, Column, Verdict, judge_cell
from ..stats.estimates import ALPHA, prediction_interval
from ..stats.paired import holm

_OF_REMARKS = {
    OTHER_SPLIT: "another split",
    GIVEN_SPLIT: "split not verified",
    UNVERIFIED: "unverified images",
}
"""How a remark on a run's images begins -> the qualifier of a verdict on them."""

# --- cells and tables ---


@dataclass(frozen=True)
class CellCheck:
    """A published cell and what the runs on record say of it.

    :ivar judged: None where the runs must not be pooled; ``problem`` then says why.
    :ivar margin: points; ``overridden`` if it is not the table's own.
    :ivar choice: where the paper prints the best of a grid, which of it these runs are (F23).
    :ivar of_grid: then how many candidates are on record, and how many the grid has.
    """

    cell: Cell
    judged: CellVerdict | None
    margin: float
    alpha: float
    overridden: bool = False
    problem: str | None = None
    runs: tuple[Record, ...] = ()
    choice: str | None = None
    of_grid: tuple[int, int] | None = None

    @property
    def column(self) -> Column | None:
        """The one that gives the verdict: Welch's, or for a cell without published std the printed value as a
        constant.
        """
        if self.judged is None:
            return None
        return self.judged.constant if self.cell.published.std is None else self.judged.sampled

    @property
    def verdict(self) -> Verdict | None:
        return self.column.verdict if self.column else None

    @cached_property
    def qualifiers(self) -> list[str]:
        """Why the verdict is not one on what the paper did, in a few words each: other or unverified images, another
        split, changed settings, a natural reading. Such a verdict does not count as reproduced.
        """
        protocol = protocol_of(run_of(self.cell))
        if not self.runs or isinstance(protocol, Uncovered):
            return []
        remarks = dict.fromkeys(remark for run in self.runs for remark in run.result.get("remarks", ()))
        found = [words for begin, words in _OF_REMARKS.items() if any(remark.startswith(begin) for remark in remarks)]
        changed = dict.fromkeys(change for run in self.runs for change in protocol.deviations(run.result["config"]))
        found += [f"changed settings: {_first_of([*changed])}"] if changed else []
        if self.in_part and self.of_grid:
            found.append(f"the best of {self.of_grid[0]} of the grid's {self.of_grid[1]}")
        if protocol.natural:
            found.append(f"setting: {NATURAL}")
        elif protocol.readings:
            found.append(f"{NATURAL}: {_first_of(protocol.readings)}")
        kinds = {record.result["varied"] for record in self.runs}
        if self.cell.published.std is not None and any(
            comparable(kind, self.cell.kind.varied) is False for kind in kinds
        ):
            found.append("seeds of another kind")
        return found

    @property
    def in_part(self) -> bool:
        """Whether candidates of the paper's grid are missing, of which one may be better."""
        return self.of_grid is not None and self.of_grid[0] < self.of_grid[1]

    @property
    def words(self) -> str:
        """The verdict with its qualifiers, such as "reproduced (another split)"."""
        verdict = self.verdict or "not judged"
        return f"{verdict} ({'; '.join(self.qualifiers)})" if self.qualifiers and self.verdict else verdict

    @cached_property
    def kinds(self) -> list[Kind]:
        """What our numbers are, the runs' in their order."""
        return [kind_of(record, self.cell.metric) for record in self.runs]

    @property
    def sides(self) -> list[str]:
        """What the published number is, and ours where there are runs, in words."""
        return [f"published: {self.cell.kind}", *([f"ours: {together(self.kinds)}"] if self.runs else [])]

    @cached_property
    def prediction_interval(self) -> tuple[float, float] | None:
        n = len(self.runs)
        return prediction_interval(self.cell.published, n, 1 - self.alpha) if n else None

    @cached_property
    def deviations(self) -> list[str]:
        """How the arithmetic of some run was done otherwise than the paper's, such as "precision=bf16 instead of fp32";
        and on which devices, for no two of them add alike."""
        protocol = protocol_of(run_of(self.cell))
        if isinstance(protocol, Uncovered):
            return []
        differences = [difference for run in self.runs for difference in protocol.deviations(run.result["config"])]
        return list(
            dict.fromkeys(
                [*differences, *(f"device={run.provenance.get('accelerator') or 'cpu'}" for run in self.runs)]
            )
        )

    @property
    def remarks(self) -> list[str]:
        """Notes on the verdict: why there is none, what differs from the paper's runs, how the seeds relate (F2)."""
        if not self.runs or self.judged is None or self.column is None:
            return []
        undecided = (
            f"undecided, limited by: {self.column.limited_by}; seeds needed: {self.judged.seeds_in_words(self.column)}"
        )
        notes = [undecided] if self.verdict == "undecided" else []
        notes += [f"made with {', '.join(self.deviations)}"] if self.deviations else []
        notes += [self.choice] if self.choice else []
        notes += dict.fromkeys(plain(text, 300) for run in self.runs for text in run.result.get("remarks", ()))
        notes += caveats(self.kinds, self.cell.kind)
        if self.cell.published.std is not None:
            notes += seed_caveats(self.kinds, self.cell.kind, {record.seed for record in self.runs}, self.cell.seeds)
        return notes

    def row(self) -> tuple[str, ...]:
        """The cell's line in the summary; for a cell with runs."""
        published, ours = self.cell.published, self.judged.ours if self.judged else None
        reruns = ", ".join(f"{again.value:g}" for again in self.cell.reruns) or "-"
        margin = f"{self.margin:g}{' (--paper-margin)' if self.overridden else ''}"
        reference = f"{published.mean:g}" + (
            "" if published.std is None else f" +- {published.std:g} (n = {published.n})"
        )
        if self.judged is None or ours is None or self.column is None:
            return self.cell.id, f"n = {len(self.runs)}", reference, reruns, margin, "not judged", "-", "-"
        interval = " [{:.2f}, {:.2f}]".format(*ours.interval) if ours.interval else ""
        predicted = self.prediction_interval
        inside = (
            "-"
            if predicted is None
            else "{} {:.2f} to {:.2f}".format("in" if self.judged.in_prediction_interval else "not in", *predicted)
        )
        qualified = [*(["as a constant"] if published.std is None else []), *self.qualifiers]
        verdict = f"{self.verdict} ({'; '.join(qualified)})" if qualified else str(self.verdict)
        return (
            *(self.cell.id, f"{ours.mean:.2f}{interval}, n = {ours.n}", reference, reruns, margin),
            *(verdict, self.judged.constant.verdict, inside),
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values, unrounded."""
        published, judged = self.cell.published, self.judged
        ours = judged.ours if judged else None
        return {
            "id": self.cell.id,
            "verdict": self.verdict or "not judged",
            "words": self.words,
            "qualifiers": self.qualifiers,
            "sides": self.sides,
            "problem": self.problem,
            "remarks": self.remarks,
            "deviations": self.deviations,
            "table": self.cell.table.id,
            "margin": self.margin,
            "margin_reason": "--paper-margin" if self.overridden else self.cell.table.margin_reason,
            "alpha": self.alpha,
            "ours": ours
            and {
                "mean": ours.mean,
                "std": ours.std,
                "n": ours.n,
                "interval": ours.interval,
                **together(self.kinds).as_dict(),
            },
            "seeds": sorted(record.seed for record in self.runs),
            "published": {
                "mean": published.mean,
                "std": published.std,
                "n": published.n,
                "rounding": published.rounding,
                **self.cell.kind.as_dict(),
            },
            "sampled": judged and _column_as_dict(judged.sampled),
            "constant": judged and _column_as_dict(judged.constant),
            "published_leaves": judged and judged.published_leaves,
            "prediction_interval": self.prediction_interval,
            "in_prediction_interval": judged and judged.in_prediction_interval,
            "reruns": [
                {"value": again.value, "source": again.source, "evidence": again.evidence} for again in self.cell.reruns
            ],
        }


def _first_of(texts: Sequence[str]) -> str:
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def _column_as_dict(column: Column) -> dict[str, Any]:
    return {
        "verdict": column.verdict,
        "difference": column.difference and column.difference.value,
        "interval": column.interval,
        "p_equivalence": column.p_equivalence,
        "limited_by": column.limited_by,
        "seeds_needed": column.seeds_needed,
    }


def check_cells(
    records: Sequence[Record],
    papers: Sequence[str] | None = None,
    margin: float | None = None,
    alpha: float | None = None,
) -> dict[str, CellCheck]:
    """Id -> what the records (those that count, :func:`current`) say of it, for every cell of these papers (None: all).

    :param margin: instead of each table's own.
    """
    runs: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        runs.setdefault((record.recipe, record.stream), []).append(record)
    return {
        cell.id: _check_cell(cell, runs.get((cell.recipe, cell.stream), ()), margin, ALPHA if alpha is None else alpha)
        for cell in cells()
        if papers is None or cell.paper in papers
    }


def _check_cell(cell: Cell, runs: Sequence[Record], margin: float | None, alpha: float) -> CellCheck:
    runs, choice, of_grid = _best_of_grid(cell, runs)
    problem = judged = None
    within = cell.table.margin if margin is None else margin
    images = [min(known) for known in image_sets(runs)]
    for what, found in (
        ("configurations", sorted({record.config_hash for record in runs})),
        # weights that are drawn at random differ from seed to seed
        ("backbones", sorted({record.result["weights_sha256"] for record in runs}) if _same_start(cell) else []),
        ("sets of images", sorted(images)),
    ):
        if len(found) > 1:
            problem = (
                f"the records of {cell.recipe} on {cell.stream} are of {len(found)} {what}, "
                f"{', '.join(one[:12] for one in found)}: "
                "move all but one of them out of the store"
            )
            break
    else:
        judged = judge_cell([metric_of(record, cell.metric) for record in runs], cell.published, within, alpha)
    return CellCheck(cell, judged, within, alpha, margin is not None, problem, tuple(runs), choice, of_grid)


def _same_start(cell: Cell) -> bool:
    """Whether all runs of a cell start from the same weights, those of a file."""
    protocol = protocol_of(run_of(cell))
    return isinstance(protocol, Protocol) and protocol.recipe.config.starts_pretrained


def _best_of_grid(cell: Cell, runs: Sequence[Record]) -> tuple[Sequence[Record], str | None, tuple[int, int] | None]:
    """Where the paper prints the best of a grid (F23): the runs of the candidate that is best on record, by the paper's
    own metric, over the seeds that all those on record have; over each one's own where there are none.

    The same for all metrics of a run; chosen on the test images, as the paper's for all that is known.
    """
    protocol = protocol_of(run_of(cell))
    if isinstance(protocol, Uncovered) or not protocol.recipe.grid or not runs:
        return runs, None, None
    found: dict[str, list[Record]] = {}
    for record in runs:
        made_with = protocol.made_with(record.result["config"])
        values = next(
            (
                v
                for v, config in zip(protocol.recipe.candidates(), protocol.configs, strict=True)
                if config == made_with
            ),
            {},
        )
        found.setdefault(", ".join(f"{key}={value:g}" for key, value in values.items()), []).append(record)
    common = set.intersection(*({record.seed for record in of_one} for of_one in found.values()))

    def score(name: str) -> float:
        counted = [record for record in found[name] if record.seed in common or not common]
        return fmean(metric_of(record, papers()[cell.paper].metric) for record in counted)

    best = max(found, key=score)
    known, all_ = len(found), len(protocol.configs)
    return found[best], f"{best}: the best of {known} on record, of {all_} in the paper's grid (F23)", (known, all_)


def judge_tables(checks: Mapping[str, CellCheck]) -> list[dict[str, Any]]:
    """ "k of K reproduced" for every table, with the family error held by Holm over all K cells: one that was not run,
    or whose verdict is qualified, keeps its place and is not counted as reproduced. "K not run" where nothing was.
    """
    families: dict[Table, list[CellCheck]] = {}
    for check in checks.values():
        families.setdefault(check.cell.table, []).append(check)
    judged = []
    for table, family in families.items():
        alpha = family[0].alpha
        p_values = [
            1.0
            if check.qualifiers or check.column is None or check.column.p_equivalence is None
            else check.column.p_equivalence
            for check in family
        ]
        reproduced = sum(p < alpha for p in holm(p_values))
        verdicts = Counter(check.verdict or "not judged" for check in family)
        counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(verdicts.items()))
        qualified = sum(bool(check.verdict and check.qualifiers) for check in family)
        not_counted = f" ({qualified} qualified and not counted as reproduced)" if qualified else ""
        sentence = (
            f"{reproduced} of {len(family)} reproduced, family error {100 * alpha:g}% (Holm); one by one: "
            f"{counts}{not_counted}"
            if any(check.runs for check in family)
            else f"{len(family)} not run"
        )
        judged.append(
            {
                "table": table.id,
                "reproduced": reproduced,
                "cells": len(family),
                "qualified": qualified,
                "alpha": alpha,
                "margin": family[0].margin,
                "verdicts": dict(sorted(verdicts.items())),
                "family_reason": table.family_reason,
                "sentence": f"{table}: {sentence}",
            }
        )
    return judged
