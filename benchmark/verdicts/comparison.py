"""Which of several methods is best on one stream: differences to the first, paired by seed, and what follows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from ..config import EXECUTION, Config
from ..recipes import CHOICE_SEEDS, RECIPES
from ..records.metrics import DENSE_METRICS, LESS_IS_BETTER, METRICS
from ..records.record import Record, image_sets, metric_of, plain
from ..stats.estimates import ALPHA, NO_SPREAD, MeanInterval, mean_interval
from ..stats.paired import Outcome, PairedDifference, judge_family, paired_difference
from ..stats.power import MAX_SEEDS
from ..stats.words import signed, span
from .study import POWER, count, detectable_effect, seeds_to_detect

Verdict = Literal["first", "better", "worse", "undecided", "no runs", "reference"]


@dataclass(frozen=True)
class ComparisonRow:
    """One method over its seeds, and its difference to the first.

    :ivar seeds: those that it has a value for.
    :ivar mean: over these seeds, in the metric's unit (percent, points or nats); None without a value.
    :ivar difference: this method minus the first, over the seeds that both have; None for the first itself, and where
        they have no seed in common.
    :ivar verdict: ``better`` or ``worse`` than the first, ``undecided``, or ``no runs`` in common with it. ``first``
        and ``reference`` (joint training, which is no continual learner) are not judged.
    :ivar p: two-sided p-value of the difference after Holm's correction over all judged methods; None if not judged.
    :ivar interval: of the difference, adjusted for the other methods: it lies on one side of 0 exactly if the verdict
        is ``better`` or ``worse``. Of a reference the plain 95% interval. None for a single seed, and where all
        differences are equal: p alone decides there.
    :ivar bytes_kept: between experiences; the most of any seed.
    :ivar trained_parameters: the most of any seed.
    :ivar seconds: median time of a run, evaluation included: of the ``clock`` "processor", or "wall" for runs on an
        accelerator and for records without processor time.
    :ivar failures: why runs failed, one text a cause.
    """

    name: str
    seeds: tuple[int, ...]
    mean: MeanInterval | None
    difference: PairedDifference | None
    verdict: Verdict
    p: float | None = None
    interval: tuple[float, float] | None = None
    bytes_kept: int | None = None
    trained_parameters: int | None = None
    seconds: float | None = None
    clock: str = ""
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Methods on one stream, the first of which the others are compared with.

    :ivar metric: one of :data:`~reclaim.benchmark.records.metrics.METRICS`.
    :ivar rows: in the order in which the methods were named.
    :ivar conclusion: what can be concluded and no more, one sentence or two a line.
    :ivar notes: what limits the conclusion, such as weights or machines that differ.
    """

    stream: str
    metric: str
    rows: tuple[ComparisonRow, ...]
    conclusion: str
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> ComparisonRow:
        return self.rows[0]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values, unrounded."""
        return {
            "stream": self.stream,
            "metric": self.metric,
            "rows": [_row_as_dict(row) for row in self.rows],
            "conclusion": self.conclusion.splitlines(),
            "notes": list(self.notes),
        }


def _row_as_dict(row: ComparisonRow) -> dict[str, Any]:
    difference, values = row.difference, asdict(row)
    del values["difference"]
    return {
        **values,
        "seeds": list(row.seeds),
        "failures": list(row.failures),
        "mean": row.mean and row.mean.mean,
        "std": row.mean and row.mean.std,
        "mean_interval": row.mean and row.mean.interval and list(row.mean.interval),
        "difference": difference and difference.value,
        "difference_interval": difference and (plain := difference.interval()) and list(plain),
        "difference_std": difference and difference.std,
        "interval": row.interval and list(row.interval),
        "common_seeds": list(difference.seeds) if difference else [],
        "unmatched": list(difference.unmatched) if difference else [],
    }


def compare(
    runs: Mapping[str, Sequence[Record]],
    metric: str = "last_acc",
    failures: Mapping[str, Sequence[str]] | None = None,
) -> Comparison:
    """Compare methods by their records on one stream.

    Differences are those to the first method, paired by seed. They are judged two-sided at 5%, 2.5% a side, with Holm's
    correction over the other methods on each side, whether or not they have runs. Joint training is a reference, not a
    rival: it is not judged, unless it is what the others are compared with.

    :param runs: method -> its records, one a seed; the first method is the one to compare with.
    :param metric: one of :data:`~reclaim.benchmark.records.metrics.METRICS`.
    :param failures: method -> why runs of it failed.
    :raises ValueError: the records cannot be compared, see :func:`require_comparable`; no method is named; the metric
        is unknown, or means something else for joint training, which is the first.
    """
    failures = failures or {}
    if metric not in (*METRICS, *DENSE_METRICS):
        raise ValueError(f"metric is {metric!r}: choose one of {', '.join((*METRICS, *DENSE_METRICS))}")
    if not runs:
        raise ValueError("no method is named: give the records of at least one")
    require_comparable(runs)
    first, *_ = runs
    joint = {
        name
        for name, records in runs.items()
        if any(r.result["config"].get("joint") for r in records)
        or (not records and name in RECIPES and RECIPES[name].config.joint)
    }
    if first in joint and metric != "last_acc":
        raise ValueError(f"{first} is joint training, whose {metric} is of one experience: name another method first")
    values = {
        name: {
            record.seed: value
            for record in records
            if (name not in joint or metric == "last_acc") and math.isfinite(value := metric_of(record, metric))
        }
        for name, records in runs.items()
    }
    judged = compare_values(values, less_is_better=metric in LESS_IS_BETTER, references=joint - {first})
    rows = tuple(
        _row(name, values[name], judged[name], records, failures.get(name, ())) for name, records in runs.items()
    )
    everything = [record for records in runs.values() for record in records]
    streams = {record.stream for record in everything}
    return Comparison(
        stream=streams.pop() if streams else "",
        metric=metric,
        rows=rows,
        conclusion="\n".join(_conclusion(rows, metric)),
        notes=tuple(_notes(rows, runs, metric, joint)),
    )


@dataclass(frozen=True)
class Judged:
    """A method against the first; the fields are those of :class:`ComparisonRow`."""

    verdict: Verdict
    difference: PairedDifference | None = None
    p: float | None = None
    interval: tuple[float, float] | None = None


def compare_values(
    values: Mapping[str, Mapping[int, float]], *, less_is_better: bool = False, references: Iterable[str] = ()
) -> dict[str, Judged]:
    """Judge every method against the first, as one family.

    :param values: method -> seed -> value; the first method is the one to compare with.
    :param less_is_better: of the values.
    :param references: methods that are not judged and do not count towards the family.
    :raises ValueError: a value is not finite.
    """
    first, *others = values
    references = set(references)
    differences = {name: paired_difference(values[name], values[first]) for name in others}
    rivals = [name for name in others if name not in references]
    sides = [(values[first], values[name]) if less_is_better else (values[name], values[first]) for name in rivals]
    family = judge_family([("superior", paired_difference(*pair), 0.0) for pair in sides])
    judged = {first: Judged("first")}
    for name in others:
        if name in references:
            difference = differences[name]
            judged[name] = Judged("reference", difference, interval=difference.interval() if difference else None)
    for name, judgement in zip(rivals, family, strict=True):
        interval = judgement.interval
        if interval and less_is_better:
            interval = -interval[1], -interval[0]
        tested = differences[name] is not None
        p = min(1.0, 2 * min(judgement.p, judgement.reverse_p)) if tested else None
        judged[name] = Judged(_VERDICTS[judgement.outcome], differences[name], p, interval)
    return {name: judged[name] for name in values}


_VERDICTS: dict[Outcome, Verdict] = {
    "holds": "better",
    "contradicted": "worse",
    "undecided": "undecided",
    "not run": "no runs",
}


def require_comparable(runs: Mapping[str, Sequence[Record]]) -> None:
    """Refuse records that cannot be paired.

    :raises ValueError: they are of several streams or other images, a method has two records of one seed or records of
        several configurations, or one is a rehearsal; names the methods and what differs.
    """
    everything = [(name, record) for name, records in runs.items() for record in records]
    for name, record in everything:
        if record.result.get("rehearsal"):
            raise ValueError(f"seed {record.seed} of {name} is a rehearsal, which counts nowhere: leave it out")
    if len(streams := {record.stream: name for name, record in everything}) > 1:
        told = ", ".join(f"{name} on {stream}" for stream, name in streams.items())
        raise ValueError(f"the records are of several streams ({told}): compare methods on one")
    for name, records in runs.items():
        seeds = [record.seed for record in records]
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            raise ValueError(f"{name} has several records of seed {_listed(twice)}: give those of one configuration")
        if len({record.config_hash for record in records}) > 1:
            odd = next(r for r in records if r.config_hash != records[0].config_hash)
            a, b = records[0].result["config"], odd.result["config"]
            told = _listed(sorted(plain(key) for key in a.keys() | b.keys() if a.get(key) != b.get(key))[:5])
            raise ValueError(
                f"the records of {name} are of several configurations (seed {odd.seed} has another {told}): "
                "give those of one"
            )
    if len(sets := image_sets(record for _, record in everything)) > 1:
        told = "; ".join(
            f"{min(known)[:12]}...: {', '.join(dict.fromkeys(n for n, r in everything if r.images & known))}"
            for known in sets
        )
        raise ValueError(
            f"the records are of different images ({told}), which cannot be paired: make those of one set of images "
            "again, into another --records folder"
        )
    layouts: dict[tuple[int, tuple[int, ...]], tuple[str, list[int]]] = {}
    for name, record in everything:
        if record.result["config"].get("joint"):
            continue
        place = record.seed, tuple(record.result["class_order"])
        other, counts = layouts.setdefault(place, (name, record.result["test_counts"]))
        if counts != record.result["test_counts"]:
            raise ValueError(
                f"{name} and {other} have other experiences on {record.stream}, seed {record.seed}: test images "
                f"{record.result['test_counts']} and {counts}; run one of them again"
            )


def _row(
    name: str, values: Mapping[int, float], judged: Judged, records: Sequence[Record], failures: Iterable[str]
) -> ComparisonRow:
    seconds, clock = median_time(records)
    return ComparisonRow(
        name=name,
        seeds=tuple(sorted(values)),
        mean=mean_interval(list(values.values())) if values else None,
        difference=judged.difference,
        verdict=judged.verdict,
        p=judged.p,
        interval=judged.interval,
        bytes_kept=max((r.result["bytes_kept"] for r in records), default=None),
        trained_parameters=max((r.result["trained_parameters"] for r in records), default=None),
        seconds=seconds,
        clock=clock,
        failures=tuple(dict.fromkeys(failures)),
    )


def median_time(records: Sequence[Record]) -> tuple[float | None, str]:
    """Median time of a run in seconds, and its clock."""
    on_processors = [record for record in records if not record.provenance.get("accelerator")]
    for clock, key, timed in (("processor", "cpu_seconds", on_processors), ("wall", "wall_seconds", records)):
        if known := [float(seconds) for record in timed if (seconds := record.provenance.get(key))]:
            return median(known), clock
    return None, ""


# --- sentences ---


def _conclusion(rows: Sequence[ComparisonRow], metric: str) -> list[str]:
    """What can be concluded about each method, then about the best."""
    first, *others = rows
    rivals = [row for row in others if row.verdict != "reference"]
    if not others:
        return [f"{first.name} is the only method: there is nothing to compare it with."]
    if not first.seeds:
        why = _because(first)
        others_too = [f"{row.name} has no runs{_because(row)}." for row in rivals if _because(row) not in ("", why)]
        return [f"{first.name} has no runs{why}: nothing can be compared with it.", *others_too]
    unit = unit_of(metric)
    said = [_sentence(row, first, len(rivals), unit) for row in rivals]
    return [*said, *_best(first, rivals, metric)]


def _sentence(row: ComparisonRow, first: ComparisonRow, family: int, unit: str) -> str:
    difference = row.difference
    if not row.seeds:
        return f"{row.name} has no runs{_because(row)}."
    if difference is None:
        return f"{row.name} cannot be compared with {first.name}: they have no seed in common."
    size = f"{signed(difference.value, unit)} {unit}"
    if row.verdict in ("better", "worse"):
        how = f"adjusted interval {span(row.interval, unit)}" if row.interval else f"the same in {difference.n} seeds"
        return f"{row.name} is {row.verdict} than {first.name}: {size}, {how}."
    open_ = f"{row.name} is not separated from {first.name}"
    if difference.n == 1:
        return f"{open_} by one seed in common: one seed has no interval, 5 give one."
    if not difference.std:
        equal = "they are equal" if abs(difference.value) <= NO_SPREAD else f"{size}"
        return f"{open_}: {equal} in each of {difference.n} seeds, and without spread only the sign test is left."
    found = detectable_effect(difference.n, ALPHA / family) * difference.std
    power = (
        f"{difference.n} seeds would have found a difference of {signed(found, unit)[1:]} {unit} "
        f"with {100 * POWER:.0f}% power"
    )
    needed = seeds_to_detect(abs(difference.value) / difference.std, ALPHA / family)
    start = max(*row.seeds, *first.seeds) + 1
    more = f"more than {MAX_SEEDS} seeds would be needed for one of the size observed"
    if needed:
        more = f"for one of the size observed it takes {needed} new seeds (--seeds {start}-{start + needed - 1})"
    corrected = f"{open_} after correcting for {family} comparison{'s' * (family > 1)}"
    return f"{corrected}: {size}, adjusted interval {span(row.interval, unit)}. {power}; {more}."


def _best(first: ComparisonRow, rivals: Sequence[ComparisonRow], metric: str) -> list[str]:
    """What can be said about the method with the best mean, where it is not said already."""
    sign, most = (-1.0, "lowest") if metric in LESS_IS_BETTER else (1.0, "highest")
    judged = [row for row in rivals if row.difference]
    if len(judged) < len(rivals) or len(rivals) < 2:  # one sentence has said it, or who is best stays open
        return []
    # means are over the seeds that each has: what is worse on the same seeds is not the best
    candidates = (first, *(row for row in judged if row.verdict != "worse"))
    best = max(candidates, key=lambda row: sign * row.mean.mean if row.mean else -math.inf)
    open_ = [row.name for row in judged if row is not best and row.verdict != "worse"]
    if best is first:
        if not open_:
            return [f"{first.name} is the best of the {len(rivals) + 1}: every other is worse."]
        return [f"{first.name} has the {most} mean, but that it is the best is not shown: see {', '.join(open_)}."]
    if best.verdict != "better":
        return [f"{best.name} has the {most} mean, but is not separated from {first.name}: which is best stays open."]
    if not open_:
        beaten = ", ".join(row.name for row in judged if row is not best)
        return [
            f"{best.name} is the best of the {len(rivals) + 1}: better than {first.name}, "
            f"which is better than {beaten}."
        ]
    return [
        f"{best.name} has the {most} mean and is better than {first.name}. Whether it is better than "
        f"{', '.join(open_)} was not tested: differences are to the first."
    ]


def _because(row: ComparisonRow) -> str:
    """Why runs failed, on one line, whatever a component's error looks like."""
    return f" ({' '.join('; '.join(row.failures).split())})" if row.failures else ""


# --- notes ---


def _notes(
    rows: Sequence[ComparisonRow], runs: Mapping[str, Sequence[Record]], metric: str, joint: Iterable[str]
) -> list[str]:
    first = rows[0]
    notes = []
    for row in rows:
        if row.name in joint:
            notes.append(f"{row.name} is joint training on all classes at once: a reference, no continual learner")
            if row.verdict == "reference" and metric != "last_acc":
                notes.append(f"{row.name} has no {metric} that compares: it is trained on one experience")
        elif runs[row.name] and not row.seeds:
            notes.append(f"{row.name} trains nothing and has no {metric}")
        if row.seeds and row.failures:
            notes.append(f"runs of {row.name} failed and are missing from its mean: {'; '.join(row.failures)}")
        if row.difference and row.difference.unmatched:
            seeds = row.difference.unmatched
            only = {row.name: set(row.seeds) & set(seeds), first.name: set(first.seeds) & set(seeds)}
            told = " and ".join(
                f"{count(len(own), 'seed')} of {name} ({_listed(sorted(own))})" for name, own in only.items() if own
            )
            notes.append(f"not in the difference {row.name} - {first.name}, because only one has them: {told}")
    configs = {name: records[0].result["config"] for name, records in runs.items() if records}
    for name in list(configs)[1:]:
        if first.name in configs and configs[name] == configs[first.name]:
            notes.append(f"{name} and {first.name} have the same settings: one method under two names")
    notes += _same_for_all("epochs of an experience", {name: c.get("epochs") for name, c in configs.items()})
    notes += _same_for_all("backbone", {name: c.get("backbone") for name, c in configs.items()})
    for key in EXECUTION:
        usual = getattr(Config(), key)
        notes += _same_for_all(key, {name: str(c.get(key, usual)) for name, c in configs.items()})
    notes += _weights(runs)
    for what, key in (("origin of the hyper-parameters", "hyperparameters_from"), ("what a seed varies", "varied")):
        notes += _same_for_all(what, {n: _listed({r.result[key] for r in records}) for n, records in runs.items()})
    chosen_on = {
        name: RECIPES[record.recipe].home
        for name, records in runs.items()
        for record in records[:1]
        if record.result["hyperparameters_from"] == "validation" and record.recipe in RECIPES
    }
    if elsewhere := {name: home for name, home in chosen_on.items() if home != runs[name][0].stream}:
        notes.append(f"hyper-parameters were chosen on another stream: {_grouped(elsewhere)}")
    clocks = {row.name: f"{row.clock} time" for row in rows if row.clock}
    notes += _same_for_all("clock", clocks)
    notes += _machines(runs)
    everything = [record for records in runs.values() for record in records]
    if chosen := sorted({record.seed for record in everything} & set(CHOICE_SEEDS)):
        notes.append(f"seed {_listed(chosen)} is one on which hyper-parameters were chosen")
    notes += dict.fromkeys(plain(text, 300) for record in everything for text in record.result.get("remarks", ()))
    return notes


def _same_for_all(what: str, by_name: Mapping[str, object]) -> list[str]:
    """A note on what should be the same for all methods and is not."""
    known = {name: value for name, value in by_name.items() if value not in (None, "")}
    if len(set(known.values())) < 2:
        return []
    return [f"not the same for all: {what}: {_grouped(known)}"]


def _grouped(by_name: Mapping[str, object]) -> str:
    """Such as "3 (slca, linear); 0 (ncm)"."""
    names: dict[object, list[str]] = {}
    for name, value in by_name.items():
        names.setdefault(value, []).append(name)
    return "; ".join(f"{value} ({', '.join(same)})" for value, same in names.items())


def _weights(runs: Mapping[str, Sequence[Record]]) -> list[str]:
    """Methods that started from other weights than another did on the same seed: drawn weights are others for each."""
    of_seed: dict[int, dict[str, str]] = {}
    for name, records in runs.items():
        for record in records:
            of_seed.setdefault(record.seed, {})[name] = record.result["weights_sha256"][:12]
    for seed, by_name in sorted(of_seed.items()):
        if note := _same_for_all(f"starting weights by SHA-256, seed {seed}", by_name):
            return note
    return []


def _machines(runs: Mapping[str, Sequence[Record]]) -> list[str]:
    machines: dict[str, dict[str, None]] = {}
    for name, records in runs.items():
        for record in records:
            where = record.provenance.get("accelerator") or record.provenance.get("cpu_model") or "an unknown one"
            machines.setdefault(plain(str(where)), {})[name] = None
    if len(machines) < 2:
        return []
    told = "; ".join(f"{where} ({', '.join(names)})" for where, names in machines.items())
    return [f"times are not comparable, the runs were made on different machines: {told}"]


# --- numbers in words ---


def unit_of(metric: str) -> str:
    """The unit of a difference."""
    return "nats" if metric == "final_entropy" else "points"


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))
