"""Which records count: of recipes, and of published cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..config import config_hash
from ..papers.protocols import Uncovered, protocol_of, run_of
from ..papers.published import cells
from ..recipes import CHOICE_SEEDS, recipes_of, weights_sha256
from ..records.record import UNVERIFIED, Record, RecordError, compare
from ..records.store import RecordStore


def merge(stores: Sequence[RecordStore]) -> tuple[list[Record], list[str]]:
    """The records of all stores, and a note on every file that is not counted: damaged or foreign, or a run that an
    earlier store has too.

    Two records of one run are the same run if :func:`reclaim.benchmark.records.record.compare` says that they agree: to
    the last bit, or within its tolerance if they were made on different kinds of machine. The earlier store's counts.

    :raises RecordError: naming every pair of files that do not agree.
    """
    found: dict[tuple[str, str, str, int], tuple[Record, Path]] = {}
    notes, conflicts = [], []
    for store in stores:
        records, problems = store.load()
        notes += [f"skipped {problem}" for problem in problems]
        for record in records:
            path = store.path_of(*_place(record))
            first, there = found.setdefault(_place(record), (record, path))
            if there == path:
                continue
            comparison = compare(first, record)
            if not comparison.agree:
                conflicts.append(f"{there} and {path} {comparison}")
            else:
                notes.append(
                    f"counted once: {path} is {'equal to' if not comparison.differing else 'within tolerance of'} "
                    f"{there}"
                )
    if conflicts:
        raise RecordError(
            "records of the same configuration and seed contradict each other; find out which is right and move the "
            "other away:\n" + "\n".join(f"  {conflict}" for conflict in conflicts)
        )
    return [record for record, _ in found.values()], notes


def _place(record: Record) -> tuple[str, str, str, int]:
    return record.recipe, record.stream, record.config_hash, record.seed


def current(records: list[Record]) -> list[Record]:
    """The records that count.

    Of a recipe: those made with its present configuration from the present weights, on seeds that no choice of
    hyper-parameters used. Of a published cell: those made by its paper's protocol, up to how the arithmetic was done
    (:data:`reclaim.benchmark.config.EXECUTION`). A rehearsal never counts.
    """
    embedded = recipes_of("embedded")
    made_with = {
        name: (config_hash(recipe.config.as_dict()), weights_sha256(recipe.config)) for name, recipe in embedded.items()
    }
    runs = _runs_of_cells()
    counted = []
    for record in records:
        if record.recipe in embedded:
            present = made_with[record.recipe] == (record.config_hash, record.result["weights_sha256"])
            if present and record.seed < min(CHOICE_SEEDS) and not record.result.get("rehearsal"):
                counted.append(record)
        elif (place := (record.recipe, record.stream)) in runs and not _against(runs[place], record):
            counted.append(record)
    return counted


def not_counted(records: Sequence[Record]) -> list[str]:
    """A note on the runs under a published cell's name that :func:`current` leaves out: how many for which reason."""
    runs = _runs_of_cells()
    places = [(record, (record.recipe, record.stream)) for record in records]
    reasons = Counter((runs[place], _against(runs[place], record)) for record, place in places if place in runs)
    return [f"not counted: {n} of {run}: {reason}" for (run, reason), n in reasons.items() if reason]


def _runs_of_cells() -> dict[tuple[str, str], str]:
    """Recipe and stream -> the run of a paper's table."""
    return {(cell.recipe, cell.stream): run_of(cell) for cell in cells()}


def _against(run: str, record: Record) -> str:
    """Why a record does not count for a paper's run; nothing if it does."""
    protocol = protocol_of(run)
    if record.result.get("rehearsal"):
        return "a rehearsal"
    if UNVERIFIED in record.result.get("remarks", ()):
        return UNVERIFIED
    if isinstance(protocol, Uncovered):
        return f"no protocol to hold it against: {protocol.reason}"
    if protocol.made_with(record.result["config"]) is None:
        differences = protocol.deviations(record.result["config"])
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        return f"not made by the paper's protocol: {', '.join(differences[:3])}{more}"
    return ""
