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

from ..papers.headers import papers
from ..papers.protocols import Protocol, Uncovered, protocol_of, run_of
from ..papers.published import Cell, Table, cells
from ..papers.seed_scope import caveats
from ..records.record import Record, metric_of
from ..stats.equivalence import CellVerdict, Column, Verdict, judge_cell
from ..stats.estimates import ALPHA, prediction_interval
from ..stats.paired import holm

# --- cells and tables ---


@dataclass(frozen=True)
class CellCheck:
    """A published cell and what the runs on record say of it.

    :ivar judged: None where the runs must not be pooled; ``problem`` then says why.
    :ivar margin: points; ``overridden`` if it is not the table's own.
    :ivar choice: where the paper prints the best of a grid, which of it these runs are (F23).
    """

    cell: Cell
    judged: CellVerdict | None
    margin: float
    alpha: float
    overridden: bool = False
    problem: str | None = None
    runs: tuple[Record, ...] = ()
    choice: str | None = None

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
        notes += dict.fromkeys(remark for run in self.runs for remark in run.result.get("remarks", ()))
        if self.cell.published.std is not None:
            varied, seeds = ({record.result["varied"] for record in self.runs}, {record.seed for record in self.runs})
            notes += caveats(varied, seeds, self.cell.seeds, self.cell.paper)
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
        return (
            *(self.cell.id, f"{ours.mean:.2f}{interval}, n = {ours.n}", reference, reruns, margin),
            *(self.column.verdict + " (as a constant)" * (published.std is None), self.judged.constant.verdict, inside),
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values, unrounded."""
        published, judged = self.cell.published, self.judged
        ours = judged.ours if judged else None
        return {
            "id": self.cell.id,
            "verdict": self.verdict or "not judged",
            "problem": self.problem,
            "remarks": self.remarks,
            "deviations": self.deviations,
            "table": self.cell.table.id,
            "margin": self.margin,
            "margin_reason": "--paper-margin" if self.overridden else self.cell.table.margin_reason,
            "alpha": self.alpha,
            "ours": ours and {"mean": ours.mean, "std": ours.std, "n": ours.n, "interval": ours.interval},
            "seeds": sorted(record.seed for record in self.runs),
            "published": {
                "mean": published.mean,
                "std": published.std,
                "n": published.n,
                "rounding": published.rounding,
            },
            "sampled": judged and _column_as_dict(judged.sampled),
            "constant": judged and _column_as_dict(judged.constant),
            "published_leaves": judged and judged.published_leaves,
            "prediction_interval": self.prediction_interval,
            "in_prediction_interval": judged and judged.in_prediction_interval,
            "reruns": [{"value": again.value, "source": again.source} for again in self.cell.reruns],
        }


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
    runs, choice = _best_of_grid(cell, runs)
    problem = judged = None
    for what, key in (
        ("configurations", "config_hash"),
        ("backbones", "weights_sha256"),
        ("sets of images", "data_sha256"),
    ):
        # weights that are drawn at random differ from seed to seed
        found = sorted({record.result[key] for record in runs}) if key != "weights_sha256" or _same_start(cell) else []
        if len(found) > 1:
            problem = (
                f"the records of {cell.recipe} on {cell.stream} are of {len(found)} {what}, "
                f"{', '.join(one[:12] for one in found)}: "
                "move all but one of them out of the store"
            )
            break
    else:
        judged = judge_cell(
            [metric_of(record, cell.metric) for record in runs], cell.published, margin or cell.table.margin, alpha
        )
    return CellCheck(cell, judged, margin or cell.table.margin, alpha, margin is not None, problem, tuple(runs), choice)


def _same_start(cell: Cell) -> bool:
    """Whether all runs of a cell start from the same weights, those of a file."""
    protocol = protocol_of(run_of(cell))
    return isinstance(protocol, Protocol) and "." in protocol.recipe.config.backbone


def _best_of_grid(cell: Cell, runs: Sequence[Record]) -> tuple[Sequence[Record], str | None]:
    """Where the paper prints the best of a grid (F23): the runs of the candidate that is best on record, by the paper's
    own metric.

    The same for all metrics of a run; chosen on the test images, as the paper's for all that is known.
    """
    protocol = protocol_of(run_of(cell))
    if isinstance(protocol, Uncovered) or not protocol.recipe.grid or not runs:
        return runs, None
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
    best = max(found, key=lambda name: fmean(metric_of(record, papers()[cell.paper].metric) for record in found[name]))
    return found[
        best
    ], f"{best}: the best of {len(found)} on record, of {len(protocol.configs)} in the paper's grid (F23)"


def judge_tables(checks: Mapping[str, CellCheck]) -> list[dict[str, Any]]:
    """ "k of K reproduced" for every table, with the family error held by Holm over all K cells: one that was not run
    keeps its place.
    """
    families: dict[Table, list[CellCheck]] = {}
    for check in checks.values():
        families.setdefault(check.cell.table, []).append(check)
    judged = []
    for table, family in families.items():
        alpha = family[0].alpha
        p_values = [
            check.column.p_equivalence if check.column and check.column.p_equivalence is not None else 1.0
            for check in family
        ]
        reproduced = sum(p < alpha for p in holm(p_values))
        verdicts = Counter(check.verdict or "not judged" for check in family)
        counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(verdicts.items()))
        sentence = (
            f"{reproduced} of {len(family)} reproduced, family error {100 * alpha:g}% (Holm); one by one: {counts}"
        )
        judged.append(
            {
                "table": table.id,
                "reproduced": reproduced,
                "cells": len(family),
                "alpha": alpha,
                "margin": family[0].margin,
                "verdicts": dict(sorted(verdicts.items())),
                "family_reason": table.family_reason,
                "sentence": f"{table}: {sentence}",
            }
        )
    return judged
