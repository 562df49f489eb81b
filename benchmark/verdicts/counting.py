"""Which records count: of recipes, and of published cells."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import HUB, config_hash, differences
from ..data.streams import MIDDLE_STREAMS
from ..papers.protocols import Uncovered, protocol_of, run_names, run_of
from ..papers.published import cells
from ..recipes import CHOICE_SEEDS, RECIPES, weights_sha256
from ..records.record import UNVERIFIED, Record, RecordError, compare, plain
from ..records.store import Problem, RecordStore
from .soundness import misplaced


def merge(stores: Sequence[RecordStore]) -> tuple[list[Record], list[Problem], list[str]]:
    """The records of all stores, the files that are damaged or foreign, and a note on every run that an earlier store
    has too.

    Two records of one run are the same run if :func:`reclaim.benchmark.records.record.compare` says that they agree: to
    the last bit, or within its tolerance if they were made on different kinds of machine. The earlier store's counts,
    unless only the other one's images were verified.

    :raises RecordError: naming every pair of files that do not agree.
    """
    found: dict[tuple[str, str, str, int], tuple[Record, Path]] = {}
    damaged: list[Problem] = []
    notes, conflicts = [], []
    for store in stores:
        records, problems = store.load()
        damaged += problems
        for record in records:
            path = store.path_of(*_place(record))
            first, there = found.setdefault(_place(record), (record, path))
            if there == path:
                continue
            comparison = compare(first, record)
            if not comparison.agree:
                conflicts.append(f"{there} and {path} {comparison}")
                continue
            counted, other = there, path
            if _unverified(first) and not _unverified(record):
                found[_place(record)], counted, other = (record, path), path, there
            alike = "equal to" if not comparison.differing else "within tolerance of"
            notes.append(f"counted once: {other} is {alike} {counted}")
    if conflicts:
        raise RecordError(
            "records of the same configuration and seed contradict each other; find out which is right and move the "
            "other away:\n" + "\n".join(f"  {conflict}" for conflict in conflicts)
        )
    return [record for record, _ in found.values()], damaged, notes


def _unverified(record: Record) -> bool:
    return UNVERIFIED in record.result.get("remarks", ())


def _place(record: Record) -> tuple[str, str, str, int]:
    return record.recipe, record.stream, record.config_hash, record.seed


@dataclass(frozen=True)
class Reason:
    """Why a record does not count.

    :ivar kind: the same for many records, such as :data:`OTHER_CONFIGURATION`.
    :ivar detail: what it is about this one.
    """

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


OTHER_CONFIGURATION = "another configuration than the recipe's"
OTHER_WEIGHTS = "other starting weights than the recipe's"
OWN_STREAM = "on a stream of one's own"
OWN_CODE = "code from outside under the name of one of our recipes"


def reasons(records: Iterable[Record]) -> list[Reason | None]:
    """Why each of the records does not count; None for those that do.

    Of a recipe those count that were made with its present configuration from the present weights, on seeds that no
    choice of hyper-parameters used. Of a published cell: those made by its paper's protocol, up to how the arithmetic
    was done (:data:`reclaim.benchmark.config.EXECUTION`). A rehearsal never counts, nor does a record of other images
    or in another order of classes than its stream and seed have.
    """
    records = list(records)
    configs = {name: RECIPES[name].config for name in {record.recipe for record in records} & RECIPES.keys()}
    made_with = {name: (config_hash(config.as_dict()), weights_sha256(config)) for name, config in configs.items()}
    runs = _runs_of_cells()
    return [_reason(record, made_with, runs) for record in records]


def current(records: Sequence[Record]) -> list[Record]:
    """The records that count, see :func:`reasons`."""
    return [record for record, reason in zip(records, reasons(records), strict=True) if reason is None]


def not_counted(records: Sequence[Record]) -> list[str]:
    """A note on the runs that :func:`current` leaves out: how many of which run or recipe for which reason."""
    runs = _runs_of_cells()
    left_out = Counter(
        (runs.get((record.recipe, record.stream), f"{record.recipe} on {record.stream}"), reason)
        for record, reason in zip(records, reasons(records), strict=True)
        if reason
    )
    return [f"not counted: {n} of {run}: {reason}" for (run, reason), n in left_out.items()]


def weights_that_changed(made: Sequence[Record], records: Iterable[Record]) -> list[str]:
    """A note on each pretrained backbone that starts from other weights in these runs than in some on record.

    Of one name there should be one fingerprint, unless images of another size resampled position embeddings: only runs
    with the same transforms are held against each other. The tag ``.local`` says that the weights are anybody's.

    :param made: runs just made or read.
    :param records: all of the store.
    """
    here, there = _fingerprints(made), _fingerprints(records)
    return [
        f"{backbone} starts from other weights ({', '.join(short for short, _ in others)}) in runs on record of "
        f"{', '.join(sorted({recipe for _, recipes in others for recipe in recipes}))}, here from "
        f"{', '.join(sha256[:12] for sha256 in found)}: what is published under the name has changed, or another file "
        "was given"
        for (backbone, images), found in here.items()
        if (
            others := [
                (sha256[:12], recipes)
                for sha256, recipes in there.get((backbone, images), {}).items()
                if sha256 not in found
            ]
        )
    ]


def _fingerprints(records: Iterable[Record]) -> dict[tuple[str, str], dict[str, set[str]]]:
    """Pretrained backbone and transforms -> fingerprint of its weights -> the recipes of its runs."""
    found: dict[tuple[str, str], dict[str, set[str]]] = {}
    for record in records:
        config = record.result["config"]
        name = str(config.get("backbone", ""))
        if ("." in name or name.startswith(HUB)) and not name.endswith(".local") and not record.result.get("rehearsal"):
            images = json.dumps(config.get("images"), sort_keys=True)
            of_name = found.setdefault((name, images), {})
            of_name.setdefault(record.result["weights_sha256"], set()).add(record.recipe)
    return found


def _reason(
    record: Record, made_with: Mapping[str, tuple[str, str | None]], runs: Mapping[tuple[str, str], str]
) -> Reason | None:
    if "own_stream" in record.result:
        return Reason(OWN_STREAM)
    if record.external and (record.recipe in RECIPES or (record.recipe, record.stream) in runs):
        return Reason(OWN_CODE, plain(", ".join(record.external)))
    if record.recipe in made_with:
        present, weights = made_with[record.recipe]
        if record.result.get("rehearsal"):
            return Reason("a rehearsal")
        if record.seed >= min(CHOICE_SEEDS):
            return Reason("a seed on which hyper-parameters are chosen")
        if record.config_hash != present:
            changed = differences(record.result["config"], RECIPES[record.recipe].config)
            return Reason(OTHER_CONFIGURATION, _few(list(changed.values())))
        if RECIPES[record.recipe].tier == "middle":
            return _in_the_middle(record) or _misplaced(record)
        return Reason(OTHER_WEIGHTS) if record.result["weights_sha256"] != weights else _misplaced(record)
    if (record.recipe, record.stream) in runs:
        return _against(runs[record.recipe, record.stream], record) or _misplaced(record)
    if f"{record.recipe.replace('.', '/')}/{record.stream}" in run_names():
        return Reason("a run of a paper without a published number here")
    return Reason("no recipe or published cell of that name and stream")


def _misplaced(record: Record) -> Reason | None:
    problem = misplaced(record)
    return Reason("not of its stream and seed (`reclaim check` says more)", plain(problem, 200)) if problem else None


def _in_the_middle(record: Record) -> Reason | None:
    """Why a record of a middle recipe's present configuration does not count: its images and weights did not ship."""
    from reclaim.strategies.backbones import other_weights  # seconds, and the embedded tier does without

    if record.stream not in MIDDLE_STREAMS:
        return Reason("a recipe on a stream of another tier")
    if _unverified(record):
        return Reason(UNVERIFIED)
    other = other_weights(record.result["config"]["backbone"], record.result["weights_sha256"])
    return Reason(OTHER_WEIGHTS) if other else None


def _few(differing: Sequence[str]) -> str:
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    return f"{', '.join(plain(text, 120) for text in differing[:3])}{more}"


def _runs_of_cells() -> dict[tuple[str, str], str]:
    """Recipe and stream -> the run of a paper's table."""
    return {(cell.recipe, cell.stream): run_of(cell) for cell in cells()}


def _against(run: str, record: Record) -> Reason | None:
    """Why a record does not count for a paper's run."""
    protocol = protocol_of(run)
    if record.result.get("rehearsal"):
        return Reason("a rehearsal")
    if _unverified(record):
        return Reason(UNVERIFIED)
    if isinstance(protocol, Uncovered):
        return Reason("no protocol to hold it against", protocol.reason)
    if protocol.made_with(record.result["config"]) is None:
        return Reason("not made by the paper's protocol", _few(protocol.deviations(record.result["config"])))
    return None
