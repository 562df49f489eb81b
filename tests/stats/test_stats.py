"""Statistics against scipy, printed values, simulation, and the properties that any of it must have."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reclaim.benchmark.stats.equivalence import judge_cell, verdict
from reclaim.benchmark.stats.estimates import Published, mean_interval, prediction_interval, tost, welch
from reclaim.benchmark.stats.paired import (
    ClaimKind,
    PairedDifference,
    claim_p,
    factorial_effects,
    holm,
    judge_family,
    paired_difference,
)
from reclaim.benchmark.stats.power import MAX_SEEDS, published_leaves, seeds_needed, verdict_probabilities
from scipy import stats

OURS = [91.2, 91.9, 91.4, 91.6, 92.0]
accuracies = st.lists(st.floats(0, 100), min_size=2, max_size=12)


def paired(differences: list[float]) -> PairedDifference:
    """Differences as they come from two methods, the second at 0."""
    result = paired_difference(dict(enumerate(differences)), {seed: 0.0 for seed in range(len(differences))})
    assert result is not None
    return result


# --- means and differences ---


def test_mean_interval_from_a_t_table() -> None:
    # 1..5: mean 3, variance 2.5; t(0.975, 4) = 2.776 in any printed table
    result = mean_interval([1, 2, 3, 4, 5])
    assert (result.mean, result.n) == (3.0, 5)
    assert result.std == pytest.approx(math.sqrt(2.5))
    assert result.interval == pytest.approx((3 - 2.776 * math.sqrt(0.5), 3 + 2.776 * math.sqrt(0.5)), abs=1e-3)


def test_mean_interval_follows_the_level() -> None:
    result = mean_interval(OURS, level=0.9)
    assert result.interval == pytest.approx(stats.t.interval(0.9, 4, np.mean(OURS), stats.sem(OURS)))


def test_one_value_has_no_interval() -> None:
    result = mean_interval([91.0])
    assert (result.mean, result.std, result.n, result.interval) == (91.0, None, 1, None)


def test_equal_values_have_a_point_for_an_interval() -> None:
    # 0.1 + 0.2 is not 0.3: rounding errors are no spread
    result = mean_interval([0.1 + 0.2, 0.3, 0.3])
    assert result.std == 0.0
    assert result.interval == pytest.approx((0.3, 0.3))


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [1.0, float("inf")], [[1.0], [2.0]]])
def test_values_that_are_none_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        mean_interval(values)


def test_welch_is_that_of_scipy() -> None:
    published = Published(91.0, 0.7, 3)
    difference = welch(mean_interval(OURS), published)
    mean, std = np.mean(OURS), np.std(OURS, ddof=1)
    greater = stats.ttest_ind_from_stats(mean, std, 5, 91.0, 0.7, 3, equal_var=False, alternative="greater")
    less = stats.ttest_ind_from_stats(mean, std, 5, 91.0, 0.7, 3, equal_var=False, alternative="less")
    assert difference.p_above(0.0) == pytest.approx(greater.pvalue)
    assert difference.p_below(0.0) == pytest.approx(less.pvalue)
    shifted = stats.ttest_ind_from_stats(mean, std, 5, 91.4, 0.7, 3, equal_var=False, alternative="greater")
    assert difference.p_above(0.4) == pytest.approx(shifted.pvalue)


def test_welch_interval_is_that_of_scipy() -> None:
    theirs = [90.1, 92.3, 91.0]
    summary = mean_interval(theirs)
    difference = welch(mean_interval(OURS), Published(summary.mean, summary.std, 3))
    expected = stats.ttest_ind(OURS, theirs, equal_var=False).confidence_interval(0.95)
    assert difference.interval(0.95) == pytest.approx((expected.low, expected.high))


def test_a_constant_is_the_one_sample_test() -> None:
    difference = welch(mean_interval(OURS), Published(91.0, 0.7, 3).as_constant())
    expected = stats.ttest_1samp(OURS, 91.0, alternative="greater")
    assert difference.p_above(0.0) == pytest.approx(expected.pvalue)
    # scipy's interval is that of the mean, not of its difference from the constant
    low, high = stats.ttest_1samp(OURS, 91.0).confidence_interval(0.95)
    assert difference.interval(0.95) == pytest.approx((low - 91.0, high - 91.0))


def test_published_std_of_exactly_zero_leaves_our_error() -> None:
    exact = welch(mean_interval(OURS), Published(91.0, 0.0, 5))
    assert exact.df == pytest.approx(4)
    assert exact.interval() == pytest.approx(welch(mean_interval(OURS), Published(91.0)).interval())


def test_printed_zero_is_half_a_unit() -> None:
    # "73.0 +- 0.0" printed to 0.1: the std may be up to 0.05 and the mean off by 0.05
    printed = welch(mean_interval(OURS), Published(91.0, 0.0, 5, rounding=0.05))
    plain = welch(mean_interval(OURS), Published(91.0, 0.05, 5))
    low, high = plain.interval() or (0, 0)
    assert printed.interval() == pytest.approx((low - 0.05, high + 0.05))
    assert printed.p_above(0.3) == pytest.approx(plain.p_above(0.35))
    assert printed.p_below(1.3) == pytest.approx(plain.p_below(1.25))


def test_tost_is_the_larger_one_sided_p() -> None:
    difference = welch(mean_interval(OURS), Published(91.0, 0.3, 5))
    low = stats.ttest_ind_from_stats(
        np.mean(OURS), np.std(OURS, ddof=1), 5, 90.0, 0.3, 5, equal_var=False, alternative="greater"
    ).pvalue
    high = stats.ttest_ind_from_stats(
        np.mean(OURS), np.std(OURS, ddof=1), 5, 92.0, 0.3, 5, equal_var=False, alternative="less"
    ).pvalue
    assert tost(difference, 1.0) == pytest.approx(max(low, high))


def test_prediction_interval() -> None:
    # t(0.975, 2) = 4.303; a new mean of 6 runs: 0.9 * sqrt(1/3 + 1/6)
    half = 4.303 * 0.9 * math.sqrt(0.5)
    assert prediction_interval(Published(90, 0.9, 3), 6) == pytest.approx((90 - half, 90 + half), abs=1e-3)
    assert prediction_interval(Published(90), 6) is None


def test_prediction_interval_covers_replications() -> None:
    rng = np.random.default_rng(0)
    runs, inside = 4000, 0
    first, second = rng.normal(0, 1, (runs, 3)), rng.normal(0, 1, (runs, 5)).mean(axis=1)
    for sample, mean in zip(first, second, strict=True):
        low, high = prediction_interval(Published(float(sample.mean()), float(sample.std(ddof=1)), 3), 5) or (0, 0)
        inside += low <= mean <= high
    assert inside / runs == pytest.approx(0.95, abs=4 * math.sqrt(0.05 * 0.95 / runs))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"mean": math.nan}, "mean is nan"),
        ({"mean": 90, "std": -0.1, "n": 3}, "std is -0.1"),
        ({"mean": 90, "std": 0.1, "n": 1}, "over 1 runs"),
        ({"mean": 90, "std": 0.1}, "over None runs"),
        ({"mean": 90, "rounding": -1.0}, "rounding is -1.0"),
    ],
)
def test_published_numbers_are_checked(arguments: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Published(**arguments)  # type: ignore[arg-type]


# --- verdicts ---


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(0.0, "reproduced"), (3.0, "above"), (-3.0, "below"), (1.0, "undecided"), (-1.0, "undecided")],
)
def test_verdicts(shift: float, expected: str) -> None:
    values = [90 + shift + e for e in (-0.2, -0.1, 0.0, 0.1, 0.2)]
    cell = judge_cell(values, Published(90, 0.2, 5), margin=1.0)
    assert cell.sampled.verdict == expected
    assert cell.constant.verdict == expected
    assert cell.in_prediction_interval is (shift == 0.0)


def test_not_run_and_no_reference() -> None:
    missing = judge_cell([], Published(90, 0.2, 5), 1.0)
    assert (missing.sampled.verdict, missing.constant.verdict, missing.ours) == ("not run", "not run", None)
    unknown = judge_cell(OURS, None, 1.0)
    assert (unknown.sampled.verdict, unknown.constant.verdict) == ("no reference", "no reference")
    assert unknown.ours == mean_interval(OURS)
    mean_only = judge_cell(OURS, Published(91.6), 1.0)
    assert (mean_only.sampled.verdict, mean_only.constant.verdict) == ("no reference", "reproduced")
    assert mean_only.in_prediction_interval is None


def test_the_published_side_limits_what_can_be_decided() -> None:
    # DESIGN: n0 = 3 and std 0.9 leave +- 2.920 * 0.9 / sqrt(3) whatever we do; the constant column can always be
    # narrowed
    cell = judge_cell([90.9, 89.1, 90.0], Published(90, 0.9, 3), margin=1.0)
    assert (cell.sampled.verdict, cell.sampled.limited_by, cell.sampled.seeds_needed) == (
        "undecided",
        "published",
        None,
    )
    assert cell.published_leaves == pytest.approx(2.920 * 0.9 / math.sqrt(3), abs=1e-3)
    assert (cell.constant.verdict, cell.constant.limited_by) == ("undecided", "ours")
    assert cell.constant.seeds_needed is not None
    assert cell.constant.seeds_needed > 3


def test_our_side_limits_when_more_seeds_would_do() -> None:
    cell = judge_cell([91.2, 88.8, 90.0], Published(90, 0.2, 5), margin=1.0)
    assert (cell.sampled.verdict, cell.sampled.limited_by) == ("undecided", "ours")
    assert cell.sampled.seeds_needed is not None
    assert 3 < cell.sampled.seeds_needed <= MAX_SEEDS


def test_finite_numbers_of_seeds_can_decide_what_the_limit_cannot() -> None:
    # Welch's degrees of freedom fall to n0 - 1 = 2 in the limit: +- 1.012 there, +- 0.93 with ten seeds of std 0.4
    published = Published(90, 0.6, 3)
    assert published_leaves(published) > 1.0
    assert judge_cell([90.0, 90.4, 89.6], published, margin=1.0).sampled.verdict == "reproduced"
    assert judge_cell([90.0, 90.8, 89.2], published, margin=1.0).sampled.limited_by == "ours"


def test_one_run_decides_nothing() -> None:
    cell = judge_cell([90.0], Published(90, 0.2, 5), margin=1.0)
    assert (cell.sampled.verdict, cell.constant.verdict, cell.sampled.interval) == ("undecided", "undecided", None)
    assert (cell.sampled.limited_by, cell.sampled.p_equivalence) == ("ours", 1.0)
    assert cell.sampled.seeds_needed is not None
    assert (cell.constant.limited_by, cell.constant.seeds_needed) == ("ours", None)
    assert judge_cell([90.0], Published(90, 0.9, 3), margin=1.0).sampled.limited_by == "published"


@pytest.mark.parametrize(
    ("values", "published", "half"),
    [
        # two runs: t(0.975, 1) = 12.706; std 0.2 / sqrt(2) each, standard error 0.1
        ([90.1, 89.9], Published(90.0), 12.706 * 0.1),
        # the same std over two runs on both sides: df = 2, t(0.975, 2) = 4.303
        ([90.1, 89.9], Published(90.0, math.sqrt(0.02), 2), 4.303 * math.sqrt(0.02)),
        # no spread of ours: the published error alone, with its n0 - 1 = 3 degrees of freedom; t(0.975, 3) = 3.182
        ([90.0] * 3, Published(90.0, 0.4, 4), 3.182 * 0.2),
        # "0.0" printed to 0.1: std 0.05 over 5 runs, and 0.05 more for the mean; t(0.975, 4) = 2.776
        ([90.0] * 3, Published(90.0, 0.0, 5, rounding=0.05), 0.05 + 2.776 * 0.05 / math.sqrt(5)),
        # no spread anywhere, nothing rounded: a point
        ([90.0] * 3, Published(90.0, 0.0, 5), 0.0),
    ],
)
def test_intervals_of_the_difference_from_a_t_table(values: list[float], published: Published, half: float) -> None:
    interval = welch(mean_interval(values), published).interval()
    assert interval == pytest.approx((-half, half), abs=1e-3)


@pytest.mark.parametrize(("rounding", "expected"), [(0.005, "reproduced"), (0.05, "undecided")])
def test_a_coarser_print_can_leave_a_verdict_open(rounding: float, expected: str) -> None:
    # 0.9 away; std 0.05, its rounding included, over 5 runs on both sides: TOST's interval reaches 0.9 + 1.860 * 0.0316
    # = 0.959, and by the rounding further
    values = [73.9 + 0.05 * sign for sign in (-1, 1, 0, -1, 1)]
    cell = judge_cell(values, Published(73.0, 0.05 - rounding, 5, rounding), margin=1.0)
    assert cell.sampled.verdict == expected
    # and the prediction interval: t(0.975, 4) = 2.776
    low, high = prediction_interval(Published(73.0, 0.0, 5, rounding=0.05), 5) or (0, 0)
    assert (73 - low, high - 73) == pytest.approx([0.05 + 2.776 * 0.05 * math.sqrt(0.4)] * 2, abs=1e-3)


@pytest.mark.parametrize(
    ("values", "published", "sampled", "constant"),
    [
        # 2.920 * 0.9 / sqrt(3) = 1.517
        (
            [90.9, 89.1, 90.0],
            Published(90, 0.9, 3),
            r"none: the published n0 and std alone leave \+-1\.52",
            r"\d+ in all",
        ),
        ([90.0], Published(90), "", "unknown: a single run has no std"),
        # std 4 and margin 1 take some (1.64 + 1.28)^2 * 4^2 = 137 seeds
        ([94.0, 86.0, 90.0], Published(90, 0.1, 5), "none up to 100", "none up to 100"),
        # 0.98 away: within the rounding of the margin for good
        (
            [91.18, 90.78, 90.98],
            Published(90, rounding=0.05),
            "",
            r"none: the rounding of the printed value alone leaves \+-0\.05",
        ),
        ([90.1, 89.9, 90.0], Published(90, 0.1, 5), "", ""),
        ([], Published(90, 0.1, 5), "", ""),
    ],
)
def test_seeds_needed_in_words(values: list[float], published: Published, sampled: str, constant: str) -> None:
    cell = judge_cell(values, published, margin=1.0)
    assert re.fullmatch(sampled, cell.seeds_in_words(cell.sampled))
    assert re.fullmatch(constant, cell.seeds_in_words(cell.constant))


@pytest.mark.parametrize(("n", "expected"), [(2, "undecided"), (4, "undecided"), (5, "reproduced")])
def test_equal_values_decide_only_as_the_sign_test_does(n: int, expected: str) -> None:
    # 2 ** -5 < 0.05 < 2 ** -4
    cell = judge_cell([90.0] * n, Published(90.1), margin=1.0)
    assert cell.constant.verdict == expected
    assert cell.constant.p_equivalence == 2.0**-n
    if expected == "undecided":
        assert (cell.constant.limited_by, cell.constant.seeds_needed) == ("ours", 5)


@pytest.mark.parametrize(("n", "expected"), [(5, "undecided"), (6, "above")])
def test_equal_values_lie_beyond_only_as_the_sign_test_does(n: int, expected: str) -> None:
    # the two-sided 5%: 2 ** -6 < 0.025 < 2 ** -5
    assert judge_cell([95.0] * n, Published(90.0), margin=1.0).constant.verdict == expected


def test_a_spread_too_small_to_square_is_none() -> None:
    difference = welch(mean_interval([90.0, 90.0]), Published(90.0, 1e-160, 3))
    assert (difference.standard_error, difference.df) == (0.0, 1.0)
    assert tost(difference, 1.0) == 0.25


@given(accuracies, st.floats(0, 100), st.floats(0, 5), st.integers(2, 8), st.floats(0, 3))
@settings(max_examples=60, deadline=None)
def test_verdicts_agree_with_their_intervals(
    values: list[float], mean: float, std: float, n0: int, margin: float
) -> None:
    difference = welch(mean_interval(values), Published(mean, std, n0))
    assume(difference.standard_error)
    narrow, wide = difference.interval(0.9), difference.interval(0.95)
    assert narrow is not None
    assert wide is not None
    # a bound that meets the margin to the last digits may fall either way
    assume(all(abs(abs(bound) - margin) > 1e-6 for bound in (*narrow, *wide)))
    expected = "undecided"
    if -margin < narrow[0] and narrow[1] < margin:
        expected = "reproduced"
    elif wide[0] > margin:
        expected = "above"
    elif wide[1] < -margin:
        expected = "below"
    assert verdict(difference, margin) == expected


@given(accuracies, st.floats(0, 100), st.floats(0, 5), st.integers(2, 8), st.floats(0, 3), st.floats(0, 3))
@settings(deadline=None)
def test_a_wider_margin_is_never_harder(
    values: list[float], mean: float, std: float, n0: int, margin: float, more: float
) -> None:
    difference = welch(mean_interval(values), Published(mean, std, n0))
    assert tost(difference, margin + more) <= tost(difference, margin)
    assert difference.p_above(margin + more) >= difference.p_above(margin)
    if verdict(difference, margin) == "reproduced":
        assert verdict(difference, margin + more) == "reproduced"


@given(accuracies, st.floats(0, 100), st.floats(0, 5), st.integers(2, 8), st.floats(0, 3))
@settings(deadline=None)
def test_signs_mirror(values: list[float], mean: float, std: float, n0: int, margin: float) -> None:
    difference = welch(mean_interval(values), Published(mean, std, n0))
    mirrored = replace(difference, value=-difference.value)
    assert tost(difference, margin) == pytest.approx(tost(mirrored, margin))
    assert difference.p_above(margin) == pytest.approx(mirrored.p_below(-margin))
    assert verdict(mirrored, margin) == {"above": "below", "below": "above"}.get(
        verdict(difference, margin), verdict(difference, margin)
    )


@given(accuracies, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_seeds_does_not_matter(values: list[float], random: Random) -> None:
    shuffled = random.sample(values, len(values))
    assert mean_interval(shuffled) == mean_interval(values)


@given(accuracies, st.floats(0.0, 0.05))
@settings(deadline=None)
def test_rounding_only_makes_it_harder(values: list[float], rounding: float) -> None:
    plain, rounded = (welch(mean_interval(values), Published(50.0, 0.0, 5, r)) for r in (0.0, rounding))
    assume(plain.standard_error)
    # Satterthwaite's df may grow with the published std, hence not exactly monotone
    assert tost(rounded, 1.0) >= tost(plain, 1.0) - 0.01


@pytest.mark.parametrize(
    "call",
    [
        lambda: judge_cell(OURS, None, margin=-1.0),
        lambda: judge_cell(OURS, None, margin=math.nan),
        lambda: judge_cell(OURS, None, margin=1.0, alpha=0.0),
        lambda: mean_interval(OURS, level=1.0),
        lambda: prediction_interval(Published(90, 0.1, 3), 3, level=95),
        lambda: verdict_probabilities(0.5, 1, Published(90), 1.0),
        lambda: verdict_probabilities(-0.5, 3, Published(90), 1.0),
        lambda: seeds_needed(0.5, Published(90), 1.0, power=1.0),
    ],
)
def test_impossible_settings_are_named(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r" is (-|nan|0|1|95).*: "):
        call()


# --- probabilities, against the numbers of the design and by simulation ---


@pytest.mark.parametrize(
    ("std", "n", "expected"),
    [(0.9, 3, 0.03), (0.9, math.inf, 0.17), (0.3, 3, 0.85)],
)
def test_power_of_tost_at_three_published_runs(std: float, n: float, expected: float) -> None:
    power = verdict_probabilities(std, n, Published(90, std, 3), margin=1.0, given_published=False)["reproduced"]
    assert power == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(("n", "expected"), [(3, 0.965), (20, 0.926)])
def test_coverage_of_welch_at_three_published_runs(n: int, expected: float) -> None:
    # at margin 0 the verdict is decided exactly when the interval misses the true difference
    coverage = verdict_probabilities(1.0, n, Published(90, 1.0, 3), margin=0.0, given_published=False)["undecided"]
    assert coverage == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize(("n0", "bound"), [(3, 0.065), (5, 0.055)])
def test_size_of_tost(n0: int, bound: float) -> None:
    # the true difference lies on the margin; as many seeds of ours as published runs, or more
    for n in (n0, 20, math.inf):
        for std in (0.1, 0.3):
            for published_std in (0.1, 0.3):
                size = verdict_probabilities(
                    std, n, Published(90, published_std, n0), 1.0, difference=1.0, given_published=False
                )
                assert size["reproduced"] <= bound


def test_power_is_not_monotone_in_the_seeds() -> None:
    published = Published(90, 0.3, 3)
    ten, limit = (
        verdict_probabilities(0.3, n, published, 1.0, given_published=False)["reproduced"] for n in (10, math.inf)
    )
    assert ten > limit


def simulate(
    std: float, n: int, published: Published, margin: float, difference: float, given_published: bool
) -> dict[str, float]:
    """Frequency of the verdicts in 40,000 studies, all of it drawn and tested by numpy and scipy."""
    rng = np.random.default_rng(7)
    std0, n0 = published.std or 0.0, published.n or 0
    ours, theirs = rng.normal(difference, std, (RUNS, n)), rng.normal(0.0, std0, (RUNS, n0))
    mean, spread = (0.0, std0) if given_published else (theirs.mean(axis=1), theirs.std(axis=1, ddof=1))

    def reject(bound: float, alternative: Literal["greater", "less"], alpha: float) -> NDArray[np.bool_]:
        shift = (ours.mean(axis=1) - bound, ours.std(axis=1, ddof=1), n, mean, spread, n0)
        return np.asarray(stats.ttest_ind_from_stats(*shift, equal_var=False, alternative=alternative).pvalue < alpha)

    drawn = {
        "reproduced": reject(-margin, "greater", 0.05) & reject(margin, "less", 0.05),
        "above": reject(margin, "greater", 0.025),
        "below": reject(-margin, "less", 0.025),
    }
    frequencies = {name: float(hits.mean()) for name, hits in drawn.items()}
    return {**frequencies, "undecided": 1 - sum(frequencies.values())}


RUNS = 40_000


def by_chance(p: float, errors: float = 4.0) -> float:
    """So many binomial standard errors of a frequency in :data:`RUNS` studies."""
    return errors * math.sqrt(max(p * (1 - p), 1e-4) / RUNS)


@pytest.mark.parametrize(
    ("n", "difference", "given_published"),
    [(3, 0.0, False), (10, 0.4, False), (5, -2.0, False), (4, 0.3, True), (8, -1.6, True)],
)
def test_probabilities_by_simulation(n: int, difference: float, given_published: bool) -> None:
    study = (0.6, n, Published(0.0, 0.5, 3), 1.0, difference)
    expected = verdict_probabilities(*study, given_published=given_published)
    drawn = simulate(*study, given_published=given_published)
    assert sum(expected.values()) == pytest.approx(1.0)
    for name, p in expected.items():
        assert drawn[name] == pytest.approx(p, abs=by_chance(p)), name


@pytest.mark.parametrize(("n", "expected"), [(3, 0.965), (20, 0.926)])
def test_coverage_of_welch_by_simulation(n: int, expected: float) -> None:
    missed = simulate(1.0, n, Published(0.0, 1.0, 3), margin=0.0, difference=0.0, given_published=False)
    # the expected numbers are rounded to 0.001
    assert missed["undecided"] == pytest.approx(expected, abs=by_chance(expected) + 0.0005)


@pytest.mark.parametrize(
    ("n", "n0", "ratio", "bound"), [(3, 3, 3.0, 0.065), (20, 3, 1.0, 0.065), (20, 3, 2.0, 0.065), (20, 5, 1.0, 0.055)]
)
def test_size_of_tost_by_simulation(n: int, n0: int, ratio: float, bound: float) -> None:
    # a margin of many standard deviations, at which the size is largest
    study = (0.02 * ratio, n, Published(0.0, 0.02, n0), 1.0, 1.0)
    size, expected = (find(*study, given_published=False)["reproduced"] for find in (simulate, verdict_probabilities))
    assert size <= bound + by_chance(bound)
    assert size == pytest.approx(expected, abs=by_chance(expected))


def test_seeds_needed_is_the_smallest_number_that_suffices() -> None:
    published = Published(90, 0.3, 3)
    needed = seeds_needed(0.8, published, 1.0)
    assert needed is not None
    decided = [1 - verdict_probabilities(0.8, n, published, 1.0)["undecided"] for n in range(2, needed + 1)]
    assert decided[-1] >= 0.8
    assert max(decided[:-1]) < 0.8
    assert seeds_needed(0.8, published, 1.0, more_than=needed + 3) == needed + 4
    assert seeds_needed(0.8, published, 1.0, max_seeds=needed - 1) is None


def test_no_number_of_seeds_overcomes_a_wide_published_error() -> None:
    assert seeds_needed(0.9, Published(90, 0.9, 3), 1.0) is None
    assert seeds_needed(0.9, Published(90, 0.9, 3).as_constant(), 1.0) is not None


# --- claims ---


def test_paired_difference_is_that_of_scipy() -> None:
    a, b = {1: 50.0, 2: 52.0, 3: 51.5, 4: 55.0, 9: 0.0}, {4: 52.0, 3: 50.0, 2: 51.8, 1: 49.0, 7: 99.0}
    result = paired_difference(a, b)
    assert result is not None
    assert (result.seeds, result.unmatched, result.n) == ((1, 2, 3, 4), (7, 9), 4)
    x, y = [50.0, 52.0, 51.5, 55.0], [49.0, 51.8, 50.0, 52.0]
    assert result.p_superior == pytest.approx(stats.ttest_rel(x, y, alternative="greater").pvalue)
    assert result.interval() == pytest.approx(tuple(stats.ttest_rel(x, y).confidence_interval(0.95)))
    shifted = stats.ttest_rel(x, [value - 0.5 for value in y], alternative="greater")
    assert result.p_noninferior(0.5) == pytest.approx(shifted.pvalue)
    differences = np.subtract(x, y)
    assert result.effect_size == pytest.approx(differences.mean() / differences.std(ddof=1))


@pytest.mark.parametrize(
    ("n", "correction"),
    # J(m) in Hedges' table, m = n - 1
    [(3, 0.5642), (5, 0.7979), (10, 0.9139), (21, 0.9619)],
)
def test_effect_size_without_its_small_sample_bias(n: int, correction: float) -> None:
    result = paired([float(k) for k in range(n)])
    assert result.effect_size == pytest.approx((n - 1) / 2 / math.sqrt(n * (n + 1) / 12))
    assert result.hedges_g == pytest.approx(correction * result.effect_size, rel=1e-3)


def test_hedges_g_is_right_on_average() -> None:
    rng = np.random.default_rng(3)
    sizes = [
        (result.effect_size, result.hedges_g)
        for result in (paired(row) for row in rng.normal(1.0, 1.0, (2000, 6)).tolist())
    ]
    biased, unbiased = np.array(sizes, dtype=float).T
    assert unbiased.mean() == pytest.approx(1.0, abs=4 * unbiased.std() / math.sqrt(2000))
    assert biased.mean() > 1.1


@pytest.mark.parametrize("differences", [[1.0, 2.0], [1.0], [0.5, 0.5, 0.5]])
def test_no_hedges_g_where_nothing_can_be_corrected(differences: list[float]) -> None:
    assert paired(differences).hedges_g is None


def test_p_different_is_two_sided() -> None:
    for sign in (1, -1):
        differences = [sign * value for value in (0.5, 1.5, -0.2, 0.9)]
        assert paired(differences).p_different == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    # the sign test where there is no spread, and never more than 1
    assert [paired([value] * 5).p_different for value in (1.0, -1.0, 0.0)] == [2.0**-4, 2.0**-4, 1.0]


def test_no_common_seed_is_no_difference() -> None:
    assert paired_difference({1: 2.0}, {2: 2.0}) is None


def test_one_pair() -> None:
    result = paired([3.0])
    assert (result.std, result.interval(), result.p_superior, result.effect_size) == (None, None, 1.0, None)
    assert judge_alone("superior", result) == "undecided"


def test_two_pairs() -> None:
    # t = 10 with one degree of freedom: p = 1/2 - arctan(10) / pi = 0.0317
    result = paired([0.9, 1.1])
    assert result.p_superior == pytest.approx(0.5 - math.atan(10) / math.pi)


def test_holm_printed_example() -> None:
    # the worked example of Holm's procedure: 0.01, 0.02, 0.03, 0.04, 0.05 and ties
    assert holm([0.03, 0.01, 0.04, 0.02, 0.05]) == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.09])
    assert holm([0.005, 0.011, 0.02, 0.04, 0.13]) == pytest.approx([0.025, 0.044, 0.06, 0.08, 0.13])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.001, 0.2))
def test_holm_rejects_as_its_step_down_rule(p_values: list[float], alpha: float) -> None:
    adjusted = holm(p_values)
    assert all(after >= before for after, before in zip(adjusted, p_values, strict=True))
    rejected = 0
    for step, p in enumerate(sorted(p_values)):
        if p * (len(p_values) - step) >= alpha:
            break
        rejected += 1
    assert sum(p < alpha for p in adjusted) == rejected


@pytest.mark.parametrize("p_values", [[0.5, 1.2], [-0.1], [float("nan")]])
def test_holm_refuses_what_is_no_p_value(p_values: list[float]) -> None:
    with pytest.raises(ValueError, match="p-values"):
        holm(p_values)


def judge_alone(kind: ClaimKind, difference: PairedDifference | None, margin: float = 0.0) -> str:
    """Outcome of a claim that is all of its family."""
    (judged,) = judge_family([(kind, difference, margin)])
    return judged.outcome


@pytest.mark.parametrize(
    ("kind", "margin", "differences", "expected"),
    [
        ("superior", 0.0, [2.0, 2.2, 1.8], "holds"),
        # p = 0.037, 95% interval -0.48 to 4.48: neither side is favoured
        ("superior", 0.0, [1.0, 2.0, 3.0], "undecided"),
        ("superior", 0.0, [-1.0, -2.0, -3.0], "undecided"),
        ("noninferior", 1.0, [0.0, 1.0, 2.0], "undecided"),
        ("superior", 0.0, [-2.0, -2.2, -1.8], "contradicted"),
        ("superior", 0.0, [2.0, -2.0, 0.1], "undecided"),
        ("noninferior", 1.0, [0.0, 0.1, -0.1], "holds"),
        ("noninferior", 1.0, [-0.5, -0.6, -0.4], "holds"),
        ("noninferior", 1.0, [-2.0, -2.1, -1.9], "contradicted"),
        ("noninferior", 1.0, [-1.0, -1.1, -0.9], "undecided"),
        # significantly worse, but by less than the margin: not inferior in the stated sense
        ("superior", 0.0, [-0.5, -0.6, -0.4], "contradicted"),
    ],
)
def test_outcomes_of_claims(kind: ClaimKind, margin: float, differences: list[float], expected: str) -> None:
    assert judge_alone(kind, paired(differences), margin) == expected


def test_claims_without_runs() -> None:
    assert judge_alone("superior", None) == "not run"
    assert judge_alone("noninferior", None, 1.0) == "not run"
    assert claim_p("superior", None) == 1.0


def test_claims_on_equal_differences() -> None:
    # two methods that do the same: not worse, once there are enough seeds to say so, and never better
    assert judge_alone("noninferior", paired([0.0] * 2), 1.0) == "undecided"
    assert judge_alone("superior", paired([0.0] * 10)) == "undecided"
    # the sign test: 2^-5 is above 2.5%, 2^-6 below
    for n, decided in ((5, False), (6, True)):
        assert judge_alone("noninferior", paired([0.0] * n), 1.0) == ("holds" if decided else "undecided")
        assert judge_alone("superior", paired([0.5] * n)) == ("holds" if decided else "undecided")
        assert judge_alone("superior", paired([-0.5] * n)) == ("contradicted" if decided else "undecided")


@pytest.mark.parametrize(
    ("differences", "alone", "between", "outcome"),
    [
        ([1.5, 2.0, 2.9], lambda difference: difference.p_superior, (0.0125, 0.025), "holds"),
        ([-1.5, -2.0, -2.9], lambda difference: difference.p_below(0.0), (0.0125, 0.025), "contradicted"),
    ],
)
def test_in_a_family_both_sides_are_corrected(
    differences: list[float], alone: Callable[[PairedDifference], float], between: tuple[float, float], outcome: str
) -> None:
    difference = paired(differences)
    low, high = between
    assert low < alone(difference) < high
    (judged,) = judge_family([("superior", difference, 0.0)])
    assert judged.outcome == outcome
    first, second = judge_family([("superior", difference, 0.0), ("superior", None, 0.0)])
    assert (first.outcome, second.outcome) == ("undecided", "not run")
    assert (first.p if outcome == "holds" else first.reverse_p) == pytest.approx(2 * alone(difference))
    assert (second.p, second.reverse_p) == (1.0, 1.0)


def test_a_family_keeps_its_size_when_a_claim_was_not_run() -> None:
    weak, strong, worse = paired([1.0, 2.0, 3.0]), paired([2.0, 2.01, 1.99]), paired([-3.0, -3.01, -3.02])
    family = judge_family(
        [("superior", weak, 0.0), ("superior", None, 0.0), ("noninferior", strong, 1.0), ("noninferior", worse, 1.0)]
    )
    assert [judged.outcome for judged in family] == ["undecided", "not run", "holds", "contradicted"]
    assert [judged.p for judged in family] == pytest.approx(
        [3 * weak.p_superior, 1.0, 4 * strong.p_noninferior(1.0), 1.0]
    )
    assert [judged.reverse_p for judged in family] == pytest.approx([1.0, 1.0, 1.0, 4 * worse.p_below(-1.0)])


def test_family_errors_of_both_outcomes_by_simulation() -> None:
    """Eleven claims, each exactly where it neither holds nor is contradicted:
    superior at 0, non-inferior at its margin.
    """
    rng, studies = np.random.default_rng(5), 600
    kinds: list[tuple[ClaimKind, float]] = [("superior", 0.0)] * 9 + [("noninferior", 1.0)] * 2
    found = {"holds": 0, "contradicted": 0}
    by_itself = 0
    for draws in rng.normal(0, 1, (studies, len(kinds), 5)).tolist():
        family = [
            (kind, paired([x - margin for x in row]), margin) for (kind, margin), row in zip(kinds, draws, strict=True)
        ]
        outcomes = {judged.outcome for judged in judge_family(family)}
        for outcome in found:
            found[outcome] += outcome in outcomes
        by_itself += any(difference.p_below(-margin) < 0.025 for _, difference, margin in family)
    error = 0.025
    for outcome in found:
        # independent claims: 1 - (1 - error / 11) ** 11, all but the error itself
        assert found[outcome] / studies == pytest.approx(error, abs=4 * math.sqrt(error * (1 - error) / studies)), (
            outcome
        )
    assert by_itself / studies > 0.15  # 1 - 0.975 ** 11 = 0.24: what the correction is for


@st.composite
def families(draw: st.DrawFn) -> list[tuple[ClaimKind, PairedDifference | None, float]]:
    claim = st.tuples(st.sampled_from([0.0, 1.0]), st.none() | st.lists(st.floats(-4, 4), min_size=2, max_size=8))
    return [
        ("noninferior" if margin else "superior", None if differences is None else paired(differences), margin)
        for margin, differences in draw(st.lists(claim, min_size=1, max_size=6))
    ]


@given(families(), st.sampled_from([0.01, 0.05, 0.2]))
@settings(deadline=None)
def test_a_verdict_agrees_with_its_interval(
    family: list[tuple[ClaimKind, PairedDifference | None, float]], alpha: float
) -> None:
    for (_, difference, margin), judged in zip(family, judge_family(family, alpha), strict=True):
        if judged.interval is None:
            assert difference is None or not difference.standard_error
            continue
        low, high = judged.interval
        if min(abs(low + margin), abs(high + margin)) > 1e-9:  # at the border p and interval are rounded apart
            reading = "holds" if low > -margin else "contradicted" if high < -margin else "undecided"
            assert judged.outcome == reading
        plain = difference.interval(1 - alpha)
        assert low <= plain[0] + 1e-9
        assert high >= plain[1] - 1e-9
    alone = judge_family(family[:1], alpha)[0].interval
    assert alone is None or alone == pytest.approx(family[0][1].interval(1 - alpha))


@pytest.mark.parametrize(
    ("kind", "margin", "named"),
    [
        ("better", 0.0, "'better'"),
        ("superior", 1.0, "'superior' has margin 1.0"),
        ("noninferior", 0.0, "'noninferior' has margin 0.0"),
        ("noninferior", -1.0, "margin is -1.0"),
    ],
)
def test_claims_that_make_no_sense(kind: ClaimKind, margin: float, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        judge_alone(kind, paired([1.0, 2.0]), margin)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=10), st.floats(0.01, 3), st.floats(0, 3))
@settings(deadline=None)
def test_a_wider_margin_never_undoes_noninferiority(differences: list[float], margin: float, more: float) -> None:
    result = paired(differences)
    assert result.p_noninferior(margin + more) <= result.p_noninferior(margin)
    if judge_alone("noninferior", result, margin) == "holds":
        assert judge_alone("noninferior", result, margin + more) == "holds"


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=10))
@settings(deadline=None)
def test_swapping_two_methods_mirrors_the_difference(values: list[float]) -> None:
    a = dict(enumerate(values))
    b = {seed: 1.0 for seed in a}
    forth, back = paired_difference(a, b), paired_difference(b, a)
    assert forth is not None
    assert back is not None
    assert forth.value == pytest.approx(-back.value)
    if forth.std:
        assert forth.p_superior == pytest.approx(1 - back.p_superior)


# --- factorial designs ---


def cell(factors: str) -> frozenset[str]:
    return frozenset(factors)


def random_factorial(factors: str, seeds: int = 4) -> dict[frozenset[str], dict[int, float]]:
    rng = np.random.default_rng(11)
    cells = [cell("".join(c)) for size in range(len(factors) + 1) for c in itertools.combinations(factors, size)]
    return {c: dict(enumerate(rng.normal(50, 5, seeds).tolist())) for c in cells}


def test_effects_of_two_factors_by_hand() -> None:
    runs = {
        cell(""): {0: 10.0, 1: 20.0},
        cell("a"): {0: 14.0, 1: 22.0},
        cell("b"): {0: 11.0, 1: 25.0},
        cell("ab"): {1: 31.0, 0: 19.0},
    }
    effects = factorial_effects(runs)
    assert list(effects) == [cell("a"), cell("b"), cell("ab")]
    # with less without: 4 and 8, 2 and 6; so 6 and 4 for the two seeds, standard error 1, t(0.975, 1) = 12.706
    a = effects[cell("a")]
    assert (a.value, a.n, a.seeds, a.unmatched) == (5.0, 2, (0, 1), ())
    assert a.interval() == pytest.approx((5 - 12.706, 5 + 12.706), abs=1e-3)
    # 1 and 5, 5 and 9
    b = effects[cell("b")]
    assert (b.value, b.std) == pytest.approx((5.0, math.sqrt(8)))
    # half of 8 - 4 and of 6 - 2: no spread
    ab = effects[cell("ab")]
    assert (ab.value, ab.std, ab.interval()) == (2.0, 0.0, (2.0, 2.0))


def test_effects_of_three_factors_are_those_of_a_linear_model() -> None:
    runs = random_factorial("abc")
    effects = factorial_effects(runs)
    assert len(effects) == 7
    # factors coded -1 and +1: a coefficient is half an effect
    design = np.array(
        [[math.prod(1 if f in c else -1 for f in effect) for effect in [cell(""), *effects]] for c in runs]
    )
    values = np.array([[runs[c][seed] for seed in range(4)] for c in runs])
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    for effect, fitted in zip(effects, 2 * coefficients[1:], strict=True):
        assert effects[effect].value == pytest.approx(fitted.mean())
        assert effects[effect].interval() == pytest.approx(
            tuple(stats.ttest_1samp(fitted, 0).confidence_interval(0.95))
        )


def test_calling_presence_absence_turns_the_signs_of_one_factor() -> None:
    runs = random_factorial("abc")
    turned = factorial_effects({c ^ cell("a"): values for c, values in runs.items()})
    for effect, difference in factorial_effects(runs).items():
        sign = -1 if "a" in effect else 1
        assert turned[effect].value == pytest.approx(sign * difference.value)


def test_a_seed_that_one_cell_lacks_counts_nowhere() -> None:
    runs = random_factorial("ab")
    without = factorial_effects({c: {seed: v for seed, v in values.items() if seed != 2} for c, values in runs.items()})
    del runs[cell("b")][2]
    effects = factorial_effects(runs)
    for effect, difference in effects.items():
        assert (difference.seeds, difference.unmatched) == ((0, 1, 3), (2,))
        assert difference.interval() == without[effect].interval()
    runs[cell("b")] = {7: 1.0}
    assert factorial_effects(runs) == {}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda runs: runs.pop(cell("bc")), r"no runs for these combinations of a, b, c: b \+ c; all 8 cells"),
        (lambda runs: runs.update({cell(""): {}}), "a, b, c: none; all 8 cells"),
        (lambda runs: [runs.pop(c) for c in list(runs) if c], "no factor"),
        (lambda runs: runs[cell("a")].update({0: math.nan}), "finite numbers"),
    ],
)
def test_an_incomplete_factorial_is_refused(
    change: Callable[[dict[frozenset[str], dict[int, float]]], object], named: str
) -> None:
    runs = random_factorial("abc")
    change(runs)
    with pytest.raises(ValueError, match=named):
        factorial_effects(runs)


def test_a_mean_is_printed_with_the_half_width_of_its_interval() -> None:
    assert str(mean_interval([62.0, 62.5, 63.0])) == "62.50 ± 1.24"
    assert str(mean_interval([62.0])) == "62.00"
