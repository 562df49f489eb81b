"""The findings page, written from records alone: what did not hold comes first, and what has no records is left out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..config import Alignment
from ..data.streams import EMBEDDED, MIDDLE_STREAMS, STREAMS
from ..papers.published import DEFAULT_MARGIN, Claim, ClaimTier, confirmatory_plan
from ..recipes import RECIPES, SPLIT, Recipe, recipes_of
from ..records.metrics import LESS_IS_BETTER
from ..records.record import Record, metric_of
from ..stats.estimates import ALPHA, mean_interval
from ..stats.paired import PairedDifference, factorial_effects, paired_difference
from ..stats.words import bracketed, signed
from ..verdicts.claims import ClaimVerdict, judge_claims
from ..verdicts.study import count
from . import dense_pages, disagree
from .board import ends_of_grids
from .svg import templates
from .tables import markdown_table

PAPER_METHODS = frozenset(
    {
        *("slca", "slca-pp", "olor-1", "olor-sgd-1", "lae-lora-aepg", "lora-epg-ce-lr", "lora-aepg-ce-lr"),
        *(f"{module}-{loss}" for module in ("lora", "adapter", "prefix") for loss in ("epg", "aepg")),
    }
)
"""The recipes of what the papers propose, whole: neither what they compare it with nor one part of it."""

FACTORS = {"OLOR": "olor", "alignment": "alignment", "aEPG": "annealing"}
"""The papers' methods as factors on the slow learner, and the part of a configuration that each is, with its
defaults.
"""

EFFECT = (
    "g is Hedges' g: the difference over the standard deviation of the paired differences, corrected for few seeds."
)

Runs = Mapping[tuple[str, str], Mapping[int, Record]]
"""(recipe, stream) -> seed -> record, all in order."""


def page(records: Sequence[Record]) -> str:
    """The page in Markdown: the same records, in any order, give the same text.

    :param records: those that count (:func:`reclaim.benchmark.verdicts.counting.current`); those of the middle tier
        are judged apart, and others ignored.
    """
    known = recipes_of("embedded")
    counted = [r for r in records if r.recipe in known and r.stream in STREAMS and STREAMS[r.stream].tier == EMBEDDED]
    sides = [r for r in records if r.stream in MIDDLE_STREAMS and r.recipe in recipes_of("middle")]
    if not counted:
        return "\n".join(filter(None, (_introduction("0 runs"), _tiers(judge_claims([]), sides))))
    runs: dict[tuple[str, str], dict[int, Record]] = {}
    for record in sorted(counted, key=lambda r: (r.recipe, r.stream, r.seed)):
        runs.setdefault((record.recipe, record.stream), {})[record.seed] = record
    verdicts = judge_claims(counted)
    sections = (
        _introduction(count(len(counted), "run")),
        _what_did_not_hold(verdicts),
        _what_else(runs),
        _class_statistics(runs),
        _combinations(runs),
        _switches(runs),
        _as_others_run_them(counted),
        _canvases(records),
        _what_held(verdicts),
        _tiers(verdicts, sides),
        _reach(runs),
    )
    return "\n".join(filter(None, sections))


def _introduction(runs: str) -> str:
    return templates().get_template("findings.md").render(runs=runs)


# --- the papers' claims ---


def differences(tier: ClaimTier = "embedded") -> str:
    """How the differences and p-values of claims are to be read."""
    _, alpha = confirmatory_plan(tier)
    return (
        "Difference = better - worse, paired by seed; positive supports the claim. Where less is better, the sign is "
        f"reversed. It is in points, for entropies in nats. Every claim is tested two-sided at {100 * alpha:g}%, with "
        "Holm's correction over the confirmatory family on each side. It holds where its interval lies above 0, or "
        "above minus the margin, and is contradicted where it lies below: in the confirmatory family the adjusted "
        "interval. p values are one-sided, after that correction: a claim holds where p, and is contradicted where the "
        f"reverse p, is below {alpha / 2:g}. With fewer seeds than planned it is undecided and has no p."
    )


def _what_did_not_hold(verdicts: Sequence[ClaimVerdict]) -> str:
    if all(v.outcome == "not run" for v in verdicts):
        return ""
    words = {"contradicted": "contradicted", "undecided": "undecided", "holds": "hold", "not run": "not run"}
    counts = []
    for family in ("confirmatory", "exploratory"):
        outcomes = [v.outcome for v in verdicts if v.claim.family == family]
        parts = [f"{outcomes.count(outcome)} {word}" for outcome, word in words.items() if outcome in outcomes]
        counts.append(f"{count(len(outcomes), f'{family} claim')}: {', '.join(parts)}.")
    failed = [*_of_outcome(verdicts, "contradicted"), *_of_outcome(verdicts, "undecided")]
    return _section(
        "What did not hold",
        " ".join(counts),
        f"{differences()} {EFFECT}",
        _changed_rules(verdicts),
        claims_table(failed),
    )


def _changed_rules(verdicts: Sequence[ClaimVerdict]) -> str:
    """The verdicts that were others before a rule was changed after the runs, or with fewer seeds
    (docs/statistics.md).
    """
    changed = [f"`{v.claim.id}`: {v.claim.earlier}" for v in verdicts if v.claim.earlier and v.difference]
    return f"Earlier verdicts, by a rule that was changed or with fewer seeds: {'; '.join(changed)}." if changed else ""


def _what_held(verdicts: Sequence[ClaimVerdict]) -> str:
    held = _of_outcome(verdicts, "holds")
    return _section("What held", claims_table(held)) if held else ""


def _of_outcome(verdicts: Sequence[ClaimVerdict], outcome: str) -> list[ClaimVerdict]:
    """Confirmatory claims first, otherwise in the order of the file."""
    return sorted((v for v in verdicts if v.outcome == outcome), key=lambda v: v.claim.family)


def claims_table(verdicts: Sequence[ClaimVerdict]) -> str:
    """A claim in each row, as Markdown of four columns; read with :func:`differences` and :data:`EFFECT`."""
    rows = [
        (
            f"**{v.outcome}**<br>{v.claim.family}",
            f"{v.claim.text}{f' (by {v.claim.margin:.2f} or more)' if v.claim.margin else ''}<br>`{v.claim.id}`",
            f"{v}{_effect_size(v)}",
            f"{_measured_on(v.claim)}<br>{v.claim.source}",
        )
        for v in verdicts
    ]
    return markdown_table(rows, ("verdict", "claim", "difference (95% interval)", "measured on, source"), padded=False)


def _effect_size(verdict: ClaimVerdict) -> str:
    g = verdict.difference.hedges_g if verdict.difference else None
    return "" if g is None else f", g = {g:+.2f}"


def _measured_on(claim: Claim) -> str:
    notes = ["nats"] * (claim.metric == "final_entropy") + ["less is better"] * (claim.metric in LESS_IS_BETTER)
    return f"`{claim.stream}` {claim.metric}" + (f" ({', '.join(notes)})" if notes else "")


TIERS_DIFFER = (
    "What differs from the embedded tier: photographs in place of drawings; a CNN (EfficientNet-Lite0) with batch "
    "normalisation, whose statistics are frozen, in place of a ViT with layer normalisation; aEPG's losses train all "
    "weights or the heads, not LoRA; and the backbone was trained on ImageNet, which has images of nine of CIFAR-10's "
    "ten classes (it has antelopes, no deer), while the embedded one has seen none of its stream's. On a stream whose "
    "classes pretraining has seen, frozen features can be expected to be better than on one of new classes, and there "
    "is less for training the backbone to gain."
)


def _canvases(records: Sequence[Record]) -> str:
    """Scores and claims of runs on canvases; empty without one."""
    scores = dense_pages.section(records)
    return scores and f"{scores}\n{differences('dense')}\n\n{claims_table(judge_claims(records, 'dense'))}\n"


def _tiers(embedded: Sequence[ClaimVerdict], records: Sequence[Record]) -> str:
    """The claims of the middle tier beside those of the embedded one. Nothing is pooled."""
    verdicts = judge_claims(records, "middle")
    if all(v.outcome == "not run" for v in verdicts):
        return ""
    other = {v.claim.id: v for v in embedded}
    pairs = [(v, other.get(v.claim.counterpart)) for v in verdicts]
    both = [(mine, theirs) for mine, theirs in pairs if theirs and "not run" not in (mine.outcome, theirs.outcome)]
    alike = sum(mine.outcome == theirs.outcome for mine, theirs in both)
    against = sum({mine.outcome, theirs.outcome} == {"holds", "contradicted"} for mine, theirs in both)
    said = (
        "Each tier has a family of claims of its own, and nothing is pooled over them. Claims with runs on both: "
        f"{len(both)}; with the same verdict: {alike}; that hold on one and are contradicted on the other: {against}. "
        "An undecided claim is not a disagreement."
    )
    rows = [
        (
            f"{mine.claim.text}<br>{mine.claim.family}",
            "-" if theirs is None else f"**{theirs.outcome}** {theirs}",
            f"**{mine.outcome}** {mine}",
            _agreement(mine, theirs),
        )
        for mine, theirs in pairs
    ]
    header = ("says", "embedded tier", "middle tier", "verdicts")
    return _section("Two tiers side by side", said, TIERS_DIFFER, markdown_table(rows, header, padded=False))


def _agreement(mine: ClaimVerdict, theirs: ClaimVerdict | None) -> str:
    if theirs is None:
        return "of this tier alone"
    outcomes = {mine.outcome, theirs.outcome}
    if "not run" in outcomes:
        return "-"
    if len(outcomes) == 1:
        return "the same"
    return "opposite" if outcomes == {"holds", "contradicted"} else "undecided on one"


# --- recipe against recipe ---


def _what_else(runs: Runs) -> str:
    """What is no paper's method, and no combination of two, against the best paper's method on one stream."""
    recipes = [recipe for recipe in _recipes(runs) if len(_accuracies(runs, recipe.name)) > 1]
    methods = [recipe for recipe in recipes if recipe.name in PAPER_METHODS]
    if not methods:
        return ""
    best = max(methods, key=lambda r: mean_interval(list(_accuracies(runs, r.name).values())).mean)
    others = [
        (recipe, difference)
        for recipe in recipes
        if recipe not in methods
        and recipe.tuned_as not in PAPER_METHODS
        and not _combines(recipe)
        and (difference := _difference(runs, recipe.name, best.name))
    ]
    compared = [(recipe, difference) for recipe, difference in others if not recipe.config.joint]
    as_good = sorted(
        ((recipe, difference) for recipe, difference in compared if not _below_0(difference)), key=lambda c: -c[1].value
    )
    better = sum(_above_0(difference) for _, difference in as_good)
    undecided, worse = len(as_good) - better, len(compared) - len(as_good)
    said = [
        f"On `{SPLIT}` the best of the papers' methods is {best.title} (`{best.name}`): {_mean(runs, best.name)}. It "
        "was picked by its "
        f"mean over these seeds, which favours it. Of {count(len(compared), 'other recipe')}, variants and "
        "combinations excluded, "
        f"{better} did better (the interval is above 0), {undecided} {'is' if undecided == 1 else 'are'} left open "
        "(the uncorrected interval includes 0, which does not "
        f"show that they are equal) and {worse} did worse.",
        *(
            f"{recipe.title} (`{recipe.name}`), which sees all classes at once, is only the reference: "
            f"{_mean(runs, recipe.name)}, "
            f"{_shown(difference)} to `{best.name}`."
            for recipe, difference in others
            if recipe.config.joint
        ),
    ]
    rows = [
        (
            f"{recipe.title}<br>`{recipe.name}`",
            _mean(runs, recipe.name),
            _shown(difference),
            "{bytes_kept:,} bytes kept<br>{trained_parameters:,} trained".format(**_result(runs, recipe.name)),
        )
        for recipe, difference in [(best, None), *as_good]
    ]
    header = ("method", "Last-Acc", f"difference to `{best.name}`", "bytes kept, trained parameters")
    listed = markdown_table(rows, header, padded=False) if as_good else ""
    return _section("What else does as well or better", " ".join(said), listed)


def _class_statistics(runs: Runs) -> str:
    """SLCA with a smaller kind of covariance against SLCA: the recipes that differ from it in nothing else."""
    slca = RECIPES["slca"].config
    compared = []
    for recipe in _recipes(runs):
        alignment = recipe.config.alignment
        if alignment is None or alignment.covariance == "full":
            continue
        whole = replace(alignment, covariance="full", rank=Alignment.rank)
        if replace(recipe.config, alignment=whole) == slca and (difference := _difference(runs, recipe.name, "slca")):
            compared.append((alignment.covariance, recipe.name, difference))
    if not compared:
        return ""
    bytes_kept = {name: _result(runs, name)["bytes_kept"] for name in ("slca", *(name for _, name, _ in compared))}
    compared.sort(key=lambda c: bytes_kept[c[1]])
    said = (
        f"Alignment draws features from a Gaussian for each class. What is kept of the covariances, on `{SPLIT}`, "
        "everything else as in "
        f"`slca`, which keeps {bytes_kept['slca']:,} bytes:"
    )
    cheap = [
        name
        for _, name, difference in compared
        if (interval := difference.interval()) and interval[0] > -DEFAULT_MARGIN
    ]
    concluded = (
        f"Least is kept by `{cheap[0]}` of those whose loss is shown to be below {DEFAULT_MARGIN:g} point (the "
        "interval is above it)."
        if cheap
        else f"Of none the loss is shown to be below {DEFAULT_MARGIN:g} point."
    )
    rows = [
        (
            f"{kind}<br>`{name}`",
            f"{bytes_kept[name]:,}<br>{100 * bytes_kept[name] / bytes_kept['slca']:.2f}%",
            _mean(runs, name),
            _shown(difference),
        )
        for kind, name, difference in [("full", "slca", None), *compared]
    ]
    header = ("covariances", "bytes kept, of `slca`", "Last-Acc", "difference to `slca`")
    listed = markdown_table(rows, header, padded=False)
    return _section("Class statistics: how much alignment has to keep", said, listed, concluded)


def _combinations(runs: Runs) -> str:
    """The factorial of the papers' methods on the slow learner; the recipes are found by their configuration, not their
    name.
    """
    slow = RECIPES["seqft-slow"].config
    title = "Combinations of the three methods"
    names = {
        recipe.config: recipe.name
        for recipe in recipes_of("embedded").values()
        if recipe.home == SPLIT and recipe.fact is None
    }
    cells, missing = {}, []
    for present in itertools.product((False, True), repeat=len(FACTORS)):
        factors = frozenset(itertools.compress(FACTORS, present))
        config = slow.set(f"{FACTORS[factor]}={{}}" for factor in factors)
        cells[factors] = _accuracies(runs, names.get(config, ""))
        if not cells[factors]:
            missing.append(
                f"`{names[config]}`" if config in names else " + ".join(["the slow learner", *sorted(factors)])
            )
    if len(missing) == len(cells):
        return ""
    if missing:
        return _section(
            title, f"Not shown: {', '.join(missing)} {'has' if len(missing) == 1 else 'have'} no runs on `{SPLIT}`."
        )
    effects = {factors: effect for factors, effect in factorial_effects(cells).items() if effect.interval()}
    if not effects:
        return _section(title, f"Not shown: the {len(cells)} recipes have fewer than two seeds in common.")
    pairs = [effect for factors, effect in effects.items() if len(factors) == 2]
    said = (
        f"All {len(cells)} combinations on the slow learner, everything else alike, on `{SPLIT}`. An effect is its "
        "contrast over the "
        f"{len(cells)} recipes divided by {len(cells) // 2}. A main effect is the mean with a method less the mean "
        "without it, over all "
        "settings of the other two. An interaction of two methods is half of what the effect of one gains from the "
        "other, averaged over "
        "the third: below 0, the two together give less than the sum of what each gives alone. That of all three "
        "says only whether the "
        "interaction of a pair changes with the third. "
        f"Of {len(pairs)} interactions of two the interval of {sum(map(_below_0, pairs))} is below 0, of "
        f"{sum(map(_above_0, pairs))} above it."
    )
    rows = [
        (
            "main effect" if len(factors) == 1 else "interaction",
            " x ".join(name for name in FACTORS if name in factors),
            _shown(effect),
            "yes" if _below_0(effect) or _above_0(effect) else "no",
        )
        for factors, effect in effects.items()
    ]
    return _section(title, said, markdown_table(rows, ("", "of", "effect on Last-Acc", "excludes 0")))


def _switches(runs: Runs) -> str:
    """The switches of the fidelity page, each against the recipe in which it was turned."""
    measured = [
        (recipe, difference)
        for recipe in recipes_of("embedded").values()
        if recipe.fact and (difference := _difference(runs, recipe.name, recipe.name.rpartition(".")[0], recipe.home))
    ]
    if not measured:
        return ""
    apart = sorted((m for m in measured if _below_0(m[1]) or _above_0(m[1])), key=lambda m: -abs(m[1].value))
    said = (
        "Where text and code disagree, a switch chooses ([fidelity.md](fidelity.md)). Of "
        f"{count(len(measured), 'switch', 'es')} turned, "
        f"each in one recipe, the effect of {len(apart)} can be told from 0 (its interval excludes 0), that of "
        f"{len(measured) - len(apart)} cannot. Of switches that do nothing, one in twenty would be told from 0 by "
        "chance: "
        f"{len(measured) * ALPHA:.2f} of these."
    )
    rows = [(recipe.fact, f"`{recipe.name}`", f"`{recipe.home}`", _shown(difference)) for recipe, difference in apart]
    return _section(
        "Switches of the fidelity page",
        said,
        markdown_table(rows, ("switch", "recipe", "measured on", "turned less default")),
    )


def _as_others_run_them(records: Sequence[Record]) -> str:
    """What a method loses or gains by the settings of each public framework."""
    found = [
        (path, path.total) for method in disagree.METHODS for path in disagree.paths(method, records) if path.total
    ]
    rows = []
    for path, total in found:
        apart = [(name, d) for name, d in path.steps.items() if d and (_below_0(d) or _above_0(d))]
        apart.sort(key=lambda step: -abs(step[1].value))
        run = sum(d is not None for d in path.steps.values())
        shown = [f"{disagree.fact_of(name)} {signed(d.value)}" for name, d in apart] or ["none"]
        shown += [f"({run} of {len(path.steps)} run)"] if run < len(path.steps) else []
        names = f"`{path.end.name}`<br>`{path.start.name}`"
        rows.append((path.end.title, names, _shown(total), "<br>".join(shown)))
    if not rows:
        return ""
    said = (
        "The same method, seeds and drawings, with the settings of others in place of its own, everything else alike; "
        "what each difference does alone, and what published re-runs say: [why numbers "
        "disagree](why-numbers-disagree.md)."
    )
    header = ("method", "recipe<br>less", "Last-Acc", "single differences whose interval excludes 0")
    return _section("The same method as others run it", said, markdown_table(rows, header, padded=False))


# --- limits ---


def _reach(runs: Runs) -> str:
    results = [record.result for group in runs.values() for record in group.values()]

    def settings(key: str) -> set[Any]:
        return {result["config"][key] for result in results}

    backbones, data = ({result[key] for result in results} for key in ("weights_sha256", "data_sha256"))
    tests = {sum(result["test_counts"]) for result in results}
    names = _or(f"`{name}`" for name in settings("backbone"))
    error = 100 * (0.25 / min(tests)) ** 0.5
    lines = [
        f"{count(len(backbones), 'backbone')} ({names}), {count(len(data), 'data set')} of drawings, {_or(tests)} "
        "test drawings "
        f"(binomial standard error {error:.2f} points at 50%): the intervals know nothing of other backbones, data "
        "or test drawings.",
        f"{_or(len(group) for group in runs.values())} seeds for a recipe on a stream, {_or(settings('epochs'))} "
        "epochs on an experience.",
        _tuning(results),
        "Only the confirmatory claims are corrected for their number. All else is exploratory: its intervals are "
        "uncorrected.",
    ]
    return _section("How far this reaches", "\n".join(f"- {line}" for line in lines if line))


def _tuning(results: Sequence[Mapping[str, Any]]) -> str:
    """How the hyper-parameters were chosen, where they were."""
    names = {RECIPES[r["recipe"]].tuned_as or r["recipe"] for r in results if r["hyperparameters_from"] == "validation"}
    choices = [choice for name in names if (choice := RECIPES[name].choice)]
    if not choices:
        return ""
    return (
        f"Hyper-parameters of {count(len(choices), 'recipe')} chosen from "
        f"{_or(len(choice['candidates']) for choice in choices)} "
        f"candidates (validation seeds: {_or(len(choice['seeds']) for choice in choices)}), others as for one of "
        "these. "
        f"{ends_of_grids(names)}"
    )


# --- numbers and text ---


def _recipes(runs: Runs) -> list[Recipe]:
    """The recipes of the stream that have runs on it, without the switches of the fidelity page."""
    return [
        r for r in recipes_of("embedded").values() if r.home == SPLIT and r.fact is None and (r.name, SPLIT) in runs
    ]


def _accuracies(runs: Runs, recipe: str, stream: str = SPLIT) -> dict[int, float]:
    """Seed -> Last-Acc in percent."""
    return {seed: metric_of(record, "last_acc") for seed, record in runs.get((recipe, stream), {}).items()}


def _difference(runs: Runs, a: str, b: str, stream: str = SPLIT) -> PairedDifference | None:
    """Last-Acc of a - b; None with fewer than two seeds in common, which have no interval."""
    difference = paired_difference(_accuracies(runs, a, stream), _accuracies(runs, b, stream))
    return difference if difference and difference.interval() else None


def _above_0(difference: PairedDifference) -> bool:
    """Whether the 95% interval is above 0; without any spread, whether the sign test says as much."""
    return difference.p_above(0) < ALPHA / 2


def _below_0(difference: PairedDifference) -> bool:
    return difference.p_below(0) < ALPHA / 2


def _combines(recipe: Recipe) -> bool:
    """Whether more than one of the papers' methods is in it."""
    return sum(getattr(recipe.config, part) is not None for part in FACTORS.values()) > 1


def _result(runs: Runs, recipe: str) -> dict[str, Any]:
    """The first seed's result, for what is the same with every seed."""
    return next(iter(runs[recipe, SPLIT].values())).result


def _mean(runs: Runs, recipe: str) -> str:
    summary = mean_interval(list(_accuracies(runs, recipe).values()))
    return f"{summary}, n = {summary.n}"


def _shown(difference: PairedDifference | None) -> str:
    if difference is None:
        return "-"
    return f"{bracketed(difference)}, n = {difference.n}"


def _or(values: Iterable[Any]) -> str:
    """The distinct values in order, such as "5 or 10"."""
    *first, last = (f"{value:,}" if isinstance(value, int) else str(value) for value in sorted(set(values)))
    return f"{', '.join(first)} or {last}" if first else last


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *filter(None, parts)]) + "\n"
