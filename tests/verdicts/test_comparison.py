"""`reclaim compare`: numbers by hand, Holm by another implementation, words that agree with the printed interval."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as draw
from reclaim.benchmark.config import config_hash
from reclaim.benchmark.records.metrics import METRICS
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.report.compare import FORMATS, show_comparison
from reclaim.benchmark.stats.words import p_in_words, signed
from reclaim.benchmark.verdicts.comparison import (
    Comparison,
    ComparisonRow,
    compare,
    compare_values,
    require_comparable,
)
from reclaim.benchmark.verdicts.study import detectable_effect, seeds_to_detect
from scipy import stats
from small_runs import synthetic_record

A = {0: 50.0, 1: 51.0, 2: 49.0, 3: 52.0, 4: 48.0}


def above(base: Mapping[int, float], *by: float) -> dict[int, float]:
    return {seed: value + d for (seed, value), d in zip(base.items(), by, strict=True)}


def runs(recipe: str, values: Mapping[int, float], **changes: Any) -> list[Record]:
    """Records with these values; a change is of a key of the result, or of the provenance."""
    records = []
    for seed, value in values.items():
        record = synthetic_record(recipe, seed=seed, last_acc=value)
        for key, changed in changes.items():
            (record.result if key in record.result else record.provenance)[key] = changed
        records.append(record)
    return records


def named(comparison: Comparison) -> dict[str, ComparisonRow]:
    return {row.name: row for row in comparison.rows}


# --- numbers ---


def test_numbers_by_hand() -> None:
    b, c = above(A, 1.0, 2.0, 3.0, 2.0, 2.0), above(A, -1.0, 1.0, 0.0, 1.0, -0.5)
    judged = compare_values({"a": A, "b": b, "c": c})
    assert judged["a"].verdict == "first"
    b_a = judged["b"].difference
    assert b_a is not None
    # by hand: mean 2, squared deviations 1 + 0 + 1 + 0 + 0, so std = sqrt(2 / 4)
    assert b_a.value == pytest.approx(2.0)
    assert b_a.std == pytest.approx(math.sqrt(0.5))
    # Holm on each side at 2.5%: the smaller p-value times two, the other as it is
    better = {
        name: stats.ttest_1samp([v[s] - A[s] for s in A], 0, alternative="greater").pvalue
        for name, v in (("b", b), ("c", c))
    }
    assert judged["b"].p == pytest.approx(2 * 2 * better["b"])
    assert judged["b"].verdict == "better"
    assert judged["c"].p == pytest.approx(min(1, 2 * max(better["c"], 2 * better["b"])))
    assert judged["c"].verdict == "undecided"
    # the lower end at the level at which Holm tests: half of 2.5%; the upper at half of the other side's
    low = 2 - stats.t.ppf(1 - 0.025 / 2, 4) * math.sqrt(0.5 / 5)
    assert judged["b"].interval is not None
    assert judged["b"].interval[0] == pytest.approx(low)


def test_holm_over_all_methods_against_another_implementation() -> None:
    generator = np.random.default_rng(0)
    for _ in range(30):
        values = {f"m{i}": dict(enumerate(generator.normal(i / 3, 1, 5))) for i in range(5)}
        judged = compare_values(values)
        t = [stats.ttest_rel(list(values[m].values()), list(values["m0"].values())).statistic for m in list(values)[1:]]
        by_side = []
        for side in (1, -1):
            p = np.array([stats.t.sf(side * each, 4) for each in t])
            order = np.argsort(p)
            # step by step, as Holm (1979) has it
            adjusted, largest = np.empty(4), 0.0
            for step, i in enumerate(order):
                largest = max(largest, min(1.0, (4 - step) * p[i]))
                adjusted[i] = largest
            by_side.append(adjusted)
        for i, name in enumerate(list(values)[1:]):
            up, down = by_side[0][i], by_side[1][i]
            assert judged[name].p == pytest.approx(min(1, 2 * min(up, down)))
            assert judged[name].verdict == ("better" if up < 0.025 else "worse" if down < 0.025 else "undecided")


def test_a_method_without_runs_keeps_its_place_in_the_family_and_a_reference_has_none() -> None:
    b = above(A, 1.0, 2.0, 3.0, 2.0, 2.0)
    alone, with_failed = compare_values({"a": A, "b": b}), compare_values({"a": A, "b": b, "c": {}})
    with_reference = compare_values({"a": A, "b": b, "joint": b}, references=["joint"])
    assert alone["b"].p is not None
    assert with_failed["b"].p == pytest.approx(2 * alone["b"].p)
    assert with_failed["c"] == type(with_failed["c"])("no runs")
    assert with_reference["b"] == alone["b"]
    assert with_reference["joint"].verdict == "reference"
    assert with_reference["joint"].p is None
    assert with_reference["joint"].interval == pytest.approx(alone["b"].interval)


def test_less_is_better() -> None:
    b = above(A, -1.0, -2.0, -3.0, -2.0, -2.0)
    more, less = compare_values({"a": A, "b": b}), compare_values({"a": A, "b": b}, less_is_better=True)
    assert (more["b"].verdict, less["b"].verdict) == ("worse", "better")
    assert more["b"].p == pytest.approx(less["b"].p)
    assert more["b"].interval == pytest.approx(less["b"].interval)
    assert less["b"].difference == more["b"].difference
    assert less["b"].difference is not None
    assert less["b"].difference.value == pytest.approx(-2.0)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 4])
@pytest.mark.parametrize("effect", [0.3, 1.0, 2.5])
def test_seeds_to_detect(effect: float, alpha: float) -> None:
    n = seeds_to_detect(effect, alpha)
    assert n is not None or effect == 0.3
    if n:
        assert detectable_effect(n, alpha) <= effect
        assert n == 2 or detectable_effect(n - 1, alpha) > effect
    assert seeds_to_detect(0.0, alpha) is None
    assert seeds_to_detect(0.01, alpha) is None


# --- words ---

VALUES = draw.lists(draw.integers(-300, 300), min_size=1, max_size=6)


@given(draw.lists(VALUES, min_size=1, max_size=4), draw.sampled_from([1.0, 0.01, 1e-4]), draw.booleans())
@example([[0, 0, 0]], 1.0, False)
@example([[7, 7, 7, 7, 7, 7, 7]], 1.0, True)
@example([[5], [1, 2]], 1.0, True)
@example([[10, 11, 12, 10, 11]], 1e-4, False)
def test_words_agree_with_the_printed_interval_and_p(
    differences: Sequence[Sequence[int]], unit: float, less: bool
) -> None:
    base = dict.fromkeys(range(7), 50.0)
    values = {"first": base}
    for i, each in enumerate(differences):
        values[f"m{i}"] = {seed: 50 + unit * d for seed, d in enumerate(each)}
    for name, judged in list(compare_values(values, less_is_better=less).items())[1:]:
        printed_p = float(p_in_words(judged.p))
        assert (printed_p < 0.05) == (judged.verdict in ("better", "worse")), name
        assert judged.difference is not None
        assert (judged.interval is None) == (not judged.difference.std)
        if judged.interval is None:
            continue
        low, high = (float(signed(end)) for end in judged.interval)
        up, down = ("worse", "better") if less else ("better", "worse")
        assert judged.verdict == (up if low > 0 else down if high < 0 else "undecided")
        assert low <= float(signed(judged.difference.value)) <= high


@pytest.mark.parametrize("metric", ["last_acc", "final_entropy"])
def test_printed_rows_agree_with_their_verdicts(metric: str) -> None:
    generator = np.random.default_rng(1)
    seen = set()
    for _ in range(20):
        # a spread that grows from method to method: clear differences and doubtful ones
        names = ("slca", "linear", "ewc", "lwf")
        records = {
            name: [
                synthetic_record(name, seed=seed, last_acc=50 + x, entropy=1 + x / 100)
                for seed, x in enumerate(generator.normal(k, 1, 5))
            ]
            for k, name in enumerate(names)
        }
        comparison = compare(records, metric)
        up, down = ("worse", "better") if metric == "final_entropy" else ("better", "worse")
        for row, line in zip(comparison.rows[1:], show_comparison(comparison).splitlines()[5:], strict=False):
            found = re.match(rf"{row.name} .*  \S+ \((\S+) to (\S+)\) +(\S+) +(\S+)", line)
            assert found, line
            low, high, p = map(float, found.groups()[:3])
            assert found[4] == (up if low > 0 else down if high < 0 else "undecided") == row.verdict
            assert (p < 0.05) == (row.verdict != "undecided")
            assert re.search(
                rf"^{row.name} (is {row.verdict} than|is not separated from) slca", comparison.conclusion, re.M
            )
            seen.add(row.verdict)
    assert len(seen) >= 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.234, "+1.23"), (-0.5, "-0.50"), (0.0, "0"), (0.004, "+0.004"), (-0.00031, "-0.0003"), (1e-15, "0")],
)
def test_signed(value: float, text: str) -> None:
    assert signed(value) == text


def test_p_in_words() -> None:
    assert p_in_words(0.0123) == "0.012"
    assert float(p_in_words(0.04996)) < 0.05
    assert p_in_words(0.05) == "0.05"
    assert p_in_words(1.0) == "1"
    assert p_in_words(None) == "-"


BETTER, WORSE, LIKE = (1.5, 2.5, 2.0, 2.5, 1.5), (-1.5, -2.5, -2.0, -2.5, -1.5), (-1.0, 1.0, 0.5, -0.5, 0.5)


@pytest.mark.parametrize(
    ("others", "last"),
    [
        ([BETTER], "m0 is better than slca: +2.00 points"),
        ([WORSE], "m0 is worse than slca: -2.00 points"),
        ([LIKE], "5 seeds would have found a difference of"),
        ([WORSE, WORSE], "slca is the best of the 3: every other is worse."),
        ([WORSE, BETTER], "m1 is the best of the 3: better than slca, which is better than m0."),
        ([BETTER, LIKE], "Whether it is better than m1 was not tested"),
        ([WORSE, LIKE], "m1 has the highest mean, but is not separated from slca: which is best stays open."),
        ([WORSE, tuple(-d for d in LIKE)], "slca has the highest mean, but that it is the best is not shown: see m1."),
    ],
)
def test_what_can_be_concluded_of_the_best(others: list[tuple[float, ...]], last: str) -> None:
    values = {f"m{i}": above(A, *by) for i, by in enumerate(others)}
    comparison = compare({"slca": runs("slca", A), **{name: runs("slca-pp", v) for name, v in values.items()}})
    lines = comparison.conclusion.splitlines()
    assert last in lines[-1]
    assert len(lines) == len(others) + (len(others) > 1)


def test_power_is_that_of_the_first_step_and_new_seeds_begin_after_the_last() -> None:
    comparison = compare({"slca": runs("slca", A), "linear": runs("linear", above(A, *LIKE)), "ncm": []})
    (row,) = (row for row in comparison.rows if row.name == "linear")
    assert row.difference is not None
    assert row.difference.std is not None
    found = detectable_effect(5, 0.05 / 2) * row.difference.std
    assert f"5 seeds would have found a difference of {found:.2f} points with 80% power" in comparison.conclusion
    assert "more than 100 seeds would be needed" in comparison.conclusion
    more = compare({"slca": runs("slca", A), "linear": runs("linear", above(A, 1.0, 0.5, 0.0, 1.0, 0.0))})
    match = re.search(r"it takes (\d+) new seeds \(--seeds (\d+)-(\d+)\)", more.conclusion)
    assert match
    n, first, last = map(int, match.groups())
    assert (first, last) == (5, 5 + n - 1)


# --- odd cases ---


def test_one_recipe_only() -> None:
    comparison = compare({"slca": runs("slca", A)})
    assert comparison.conclusion == "slca is the only method: there is nothing to compare it with."
    assert "minus" not in show_comparison(comparison)
    assert re.search(r"^slca +50\.00 ± 1\.96 +56 B +1\.23 k +-$", show_comparison(comparison), re.MULTILINE)


def test_one_seed_and_two_seeds() -> None:
    one = compare({"slca": runs("slca", {3: 50.0}), "linear": runs("linear", {3: 40.0})})
    row = named(one)["linear"]
    assert (row.verdict, row.interval, row.p) == ("undecided", None, 1.0)
    assert one.conclusion == (
        "linear is not separated from slca by one seed in common: one seed has no interval, 5 give one."
    )
    assert "±" not in show_comparison(one)
    two = compare({"slca": runs("slca", {0: 50.0, 1: 52.0}), "linear": runs("linear", {0: 40.0, 1: 47.0})})
    assert named(two)["linear"].interval is not None
    assert "2 seeds would have found a difference of" in two.conclusion


def test_equal_values_have_no_interval_and_few_of_them_no_verdict() -> None:
    same = compare({"slca": runs("slca", A), "linear": runs("linear", A)})
    assert "linear is not separated from slca: they are equal in each of 5 seeds" in same.conclusion
    shifted = compare({"slca": runs("slca", A), "linear": runs("linear", above(A, *[2.0] * 5))})
    assert named(shifted)["linear"].verdict == "undecided"  # 2 ** -5 a side
    assert "+2.00 points in each of 5 seeds" in shifted.conclusion
    eight = {seed: 50.0 for seed in range(8)}
    many = compare({"slca": runs("slca", eight), "linear": runs("linear", above(eight, *[2.0] * 8))})
    assert many.conclusion == "linear is better than slca: +2.00 points, the same in 8 seeds."


def test_failed_recipes_say_why() -> None:
    why = ["FloatingPointError: the loss is NaN"] * 5
    comparison = compare({"slca": runs("slca", A), "linear": [], "ncm": runs("ncm", A)}, failures={"linear": why})
    assert "linear has no runs (FloatingPointError: the loss is NaN)." in comparison.conclusion.splitlines()
    assert named(comparison)["linear"].failures == tuple(why[:1])
    assert re.search(r"^linear +- .* failed ", show_comparison(comparison), re.MULTILINE)
    first = compare({"linear": [], "slca": runs("slca", A)}, failures={"linear": why})
    assert first.conclusion == (
        "linear has no runs (FloatingPointError: the loss is NaN): nothing can be compared with it."
    )
    assert "50.00 ± 1.96" in show_comparison(first)
    both = compare({"linear": [], "slca": [], "ncm": []}, failures={"linear": why, "slca": ["A: b\n  c"], "ncm": why})
    assert both.conclusion == f"{first.conclusion}\nslca has no runs (A: b c)."
    some = compare({"slca": runs("slca", A), "linear": runs("linear", {0: 40, 1: 41})}, failures={"linear": why})
    assert any("runs of linear failed and are missing from its mean" in note for note in some.notes)
    nothing = compare({"slca": [], "linear": []}, failures={"slca": why, "linear": why})
    for form in FORMATS:
        assert "slca" in show_comparison(nothing, form)


def test_seeds_that_only_one_has_are_named_and_left_out() -> None:
    comparison = compare({"slca": runs("slca", A), "linear": runs("linear", {0: 40.0, 1: 42.0, 7: 10.0})})
    row = named(comparison)["linear"]
    assert row.seeds == (0, 1, 7)
    assert row.difference is not None
    assert row.difference.seeds == (0, 1)
    (note,) = (note for note in comparison.notes if "linear - slca" in note)
    assert "1 seed of linear (7)" in note
    assert "3 seeds of slca (2, 3, 4)" in note
    apart = compare({"slca": runs("slca", {0: 50.0}), "linear": runs("linear", {1: 50.0})})
    assert apart.conclusion == "linear cannot be compared with slca: they have no seed in common."
    assert named(apart)["linear"].verdict == "no runs"


def test_joint_training_without_runs_is_no_rival_either() -> None:
    two = {"slca": runs("slca", A), "linear": runs("linear", above(A, *BETTER))}
    without, failed = (named(compare(two | {"joint": joint})) for joint in (runs("joint", A), []))
    assert failed["linear"] == without["linear"]
    assert failed["joint"].verdict == "reference"


def test_what_is_worse_on_the_same_seeds_is_not_called_the_best() -> None:
    hard = {0: 60.0, 1: 61.0, 2: 62.0, 3: 40.0, 4: 41.0}
    three = {
        "slca": runs("slca", hard),
        "linear": runs("linear", {0: 59.0, 1: 59.5, 2: 61.0}),  # of the easy seeds alone
        "ncm": runs("ncm", {seed: value - 10 + seed / 10 for seed, value in hard.items()}),
    }
    comparison = compare(three)
    assert named(comparison)["linear"].mean.mean > named(comparison)["slca"].mean.mean
    assert {row.verdict for row in comparison.rows[1:]} == {"worse"}
    assert "not separated" not in comparison.conclusion
    assert "slca is the best of the 3: every other is worse" in comparison.conclusion


def test_joint_training_is_a_reference() -> None:
    three = {"slca": runs("slca", A), "joint": runs("joint", above(A, *BETTER)), "linear": runs("linear", A)}
    comparison = compare(three)
    row = named(comparison)["joint"]
    assert (row.verdict, row.p) == ("reference", None)
    assert row.interval is not None
    assert "joint" not in comparison.conclusion
    assert any("joint is joint training" in note for note in comparison.notes)
    forgetting = compare(three, "forgetting")
    assert named(forgetting)["joint"].mean is None
    assert any("joint has no forgetting that compares" in note for note in forgetting.notes)
    first = compare({"joint": three["joint"], "slca": three["slca"]})
    assert first.conclusion.startswith("slca is worse than joint: -2.00 points")
    with pytest.raises(ValueError, match="name another method first"):
        compare({"joint": three["joint"], "slca": three["slca"]}, "inc_acc")


def test_what_trains_nothing_has_no_entropy() -> None:
    ncm = runs("ncm", A, entropy=[], train_loss=[])
    comparison = compare({"slca": runs("slca", A), "ncm": ncm}, "final_entropy")
    assert named(comparison)["ncm"].mean is None
    assert "ncm trains nothing and has no final_entropy" in comparison.notes


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        ({"b": runs("linear", A, data_sha256="1" * 64)}, r"different images \(.*: a; .*: b\), which cannot be paired"),
        ({"b": [synthetic_record("linear", "split-quickdraw-5")]}, "several streams"),
        ({"b": [*runs("linear", A), *runs("linear", {2: 1.0})]}, "b has several records of seed 2"),
        ({"b": runs("linear", A, test_counts=[100] * 20)}, "other experiences on split-quickdraw-10, seed 0"),
    ],
)
def test_records_that_cannot_be_paired_are_refused(records: dict[str, list[Record]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        require_comparable({"a": runs("slca", A), **records})


def test_a_rehearsal_an_unknown_metric_and_nothing_are_refused() -> None:
    rehearsed = runs("linear", {0: 50.0})
    rehearsed[0].result["rehearsal"] = True
    with pytest.raises(ValueError, match="seed 0 of b is a rehearsal"):
        compare({"a": runs("slca", A), "b": rehearsed})
    with pytest.raises(ValueError, match=f"metric is 'accuracy': choose one of {METRICS[0]}"):
        compare({"a": runs("slca", A)}, "accuracy")
    with pytest.raises(ValueError, match="no method is named"):
        compare({})


def test_runs_of_several_configurations_are_no_method() -> None:
    mixed = [*runs("slca", dict(list(A.items())[:3])), *runs("slca", dict(list(A.items())[3:]))]
    for record in mixed[3:]:
        record.result["config"] = {**record.result["config"], "lr": 0.5}
        record.result["config_hash"] = config_hash(record.result["config"])
    with pytest.raises(ValueError, match=r"records of b are of several configurations \(seed 3 has another lr\)"):
        compare({"a": runs("linear", A), "b": mixed})


def test_other_arithmetic_is_noted() -> None:
    half = runs("linear", A)
    for record in half:
        record.result["config"] = {**record.result["config"], "precision": "bf16"}
        record.result["config_hash"] = config_hash(record.result["config"])
    assert "not the same for all: precision: fp32 (a); bf16 (b)" in compare({"a": runs("slca", A), "b": half}).notes


def test_texts_of_others_do_nothing_to_a_terminal() -> None:
    theirs = runs("linear", A)
    theirs[0].result["remarks"] = ["\x1b[2J hi\nnote: linear is best"]
    theirs[0].provenance["cpu_model"] = "\x1b[31mX"
    text = show_comparison(compare({"a": runs("slca", A), "b": theirs}))
    assert "\x1b" not in text
    assert not any(line.startswith("note: linear is best") for line in text.splitlines())


def test_equal_but_for_rounding_is_equal() -> None:
    """31 of 93 images, from other sums over the tasks; in both directions, and with enough seeds for a sign test."""
    one, other = 32.25806451612903, 32.25806451612904
    values = {"a": dict.fromkeys(range(12), one), "b": {seed: other if seed % 2 else one for seed in range(12)}}
    judged = compare_values(values)["b"]
    assert (judged.verdict, judged.p) == ("undecided", 1.0)
    judged = compare_values({"a": values["a"], "b": dict.fromkeys(range(12), other)})["b"]
    assert (judged.verdict, judged.p) == ("undecided", 1.0)


def test_images_with_an_alias_in_common_are_the_same() -> None:
    known = runs("linear", A, data_sha256="1" * 64)
    first = runs("slca", A)
    for record in known:
        record.result["data_aliases"] = [first[0].result["data_sha256"]]
    assert named(compare({"a": first, "b": known}))["b"].difference is not None


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"weights_sha256": "1" * 64}, "starting weights by SHA-256, seed 0: .* (slca); 111111111111 (linear)"),
        ({"cpu_model": "another"}, "times are not comparable, .*: a processor (slca); another (linear)"),
        ({"accelerator": "H100"}, "times are not comparable, .*: a processor (slca); H100 (linear)"),
        ({"hyperparameters_from": "validation"}, "origin of the hyper-parameters: given (slca); validation (linear)"),
        ({"varied": "initialisation"}, "what a seed varies: .* (slca); initialisation (linear)"),
    ],
)
def test_what_is_not_the_same_is_named(changes: dict[str, Any], note: str) -> None:
    comparison = compare({"slca": runs("slca", A), "linear": runs("linear", A, **changes)})
    pattern = re.escape(note).replace(r"\.\*", ".*")
    assert len([text for text in comparison.notes if re.search(pattern, text)]) == 1
    alike = compare({"slca": runs("slca", A), "linear": runs("linear", A)})
    assert not any(re.search(pattern, text) for text in alike.notes)


def test_remarks_seeds_of_a_choice_and_equal_settings_are_named() -> None:
    unverified = runs("slca", {1000: 50.0, 1001: 51.0})
    for record in unverified:
        record.result["remarks"] = ["another split"]
    comparison = compare({"slca": unverified, "twin": unverified})
    assert "another split" in comparison.notes
    assert "twin and slca have the same settings: one method under two names" in comparison.notes
    assert "seed 1000 is one on which hyper-parameters were chosen" in comparison.notes


def test_hyperparameters_chosen_on_another_stream_are_named() -> None:
    def at(stream: str) -> tuple[str, ...]:
        chosen = [synthetic_record("slca", stream, seed) for seed in range(2)]
        for record in chosen:
            record.result["hyperparameters_from"] = "validation"
        return compare({"slca": chosen, "mine": chosen}).notes

    elsewhere = "hyper-parameters were chosen on another stream: split-quickdraw-10 (slca, mine)"
    assert elsewhere in at("split-quickdraw-5")
    assert elsewhere not in at("split-quickdraw-10")


def test_time_is_that_of_the_clock_that_says_something() -> None:
    processor = runs("slca", A, cpu_seconds=10.0, wall_seconds=99.0)
    device = runs("linear", A, cpu_seconds=10.0, wall_seconds=20.0, accelerator="H100")
    comparison = compare({"slca": processor, "linear": device, "ncm": runs("ncm", A)})
    assert [(row.seconds, row.clock) for row in comparison.rows] == [(10.0, "processor"), (20.0, "wall"), (None, "")]
    assert "20.0 s" in show_comparison(comparison)
    assert "not the same for all: clock: processor time (slca); wall time (linear)" in comparison.notes


# --- as text ---


def test_formats() -> None:
    comparison = compare(
        {"slca": runs("slca", A), "linear": runs("linear", above(A, *WORSE)), "ncm": []}, failures={"ncm": ["Error: x"]}
    )
    document = json.loads(show_comparison(comparison, "json"))
    assert document == comparison.as_dict()
    assert [row["verdict"] for row in document["rows"]] == ["first", "worse", "no runs"]
    assert document["rows"][1]["interval"] == list(named(comparison)["linear"].interval or ())
    rows = list(csv.DictReader(show_comparison(comparison, "csv").splitlines()))
    assert [row["name"] for row in rows] == ["slca", "linear", "ncm"]
    assert float(rows[1]["difference"]) == pytest.approx(-2.0)
    assert rows[2]["failures"] == "Error: x"
    for form in ("text", "markdown"):
        text = show_comparison(comparison, form)
        for line in (*comparison.conclusion.splitlines(), *comparison.notes):
            assert line in text
        assert "Last-Acc on split-quickdraw-10" in text
        assert "50.00 ± 1.96" in text
    narrow = show_comparison(comparison, width=80).split("\n\n")[1]
    assert max(map(len, narrow.splitlines())) <= 80


def test_records_are_sound() -> None:
    """What stands here for records is what a store would take."""
    (record,) = runs("slca", {0: 50.0})
    assert record.config_hash == config_hash(record.result["config"])
