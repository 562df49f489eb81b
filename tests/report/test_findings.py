"""The findings page on records that nobody had to run: each section with the right numbers, or not there at all."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from reclaim.benchmark import recipes
from reclaim.benchmark.config import Config
from reclaim.benchmark.papers.published import claims
from reclaim.benchmark.recipes import RECIPES, SPLIT, Recipe
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.report.board import ends_of_grids
from reclaim.benchmark.report.findings import FACTORS, PAPER_METHODS, page
from reclaim.benchmark.verdicts.claims import judge_claims
from small_runs import synthetic_record

SINGLE, UNEVEN = "quickdraw-1", "split-quickdraw-uneven"
TITLES = [
    "What did not hold",
    "What else does as well or better",
    "Class statistics: how much alignment has to keep",
    "Combinations of the three methods",
    "Switches of the fidelity page",
    "What held",
    "How far this reaches",
]
UP_AND_DOWN = (1.0, -1.0, 0.5, -0.5, 0.0, 0.0)
ALL_TEN = (*UP_AND_DOWN, *UP_AND_DOWN[:4])
"""As many as the confirmatory claims were planned with."""


def records_of(recipe: str, accuracies: Sequence[float], stream: str = SPLIT, **results: Any) -> list[Record]:
    """One record per accuracy, which should be a multiple of 0.5 (of 2.5 on the uneven stream): then it
    is met exactly.
    """
    made = [synthetic_record(recipe, stream, seed, accuracy) for seed, accuracy in enumerate(accuracies)]
    for record in made:
        record.result.update(results)
    return made


def around(mean: float, spread: Sequence[float] = UP_AND_DOWN) -> list[float]:
    return [mean + s for s in spread]


def sections(records: Sequence[Record]) -> dict[str, str]:
    """Title -> what stands under it, in the order of the page."""
    parts = page(records).split("\n## ")[1:]
    return {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}


def table(section: str) -> list[list[str]]:
    """The cells of the rows of the section's table, without its head."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def one_line(text: str) -> str:
    return " ".join(text.split())


# --- claims ---


def test_what_did_not_hold_comes_before_what_held() -> None:
    records = [
        *records_of("seqft-slow", around(50, ALL_TEN)),
        *records_of("slca", [60.0] * 10),  # better than the slow learner, worse than the frozen backbone
        *records_of("frozen-ca", around(62)),
        *records_of("lora-ce", around(50, ALL_TEN)),
        *records_of("lora-epg", [48.0] * 10),  # worse than cross-entropy
        *records_of("lora-aepg", [50.0] * 10),  # like cross-entropy
    ]
    found = sections(records)
    failed, held = table(found["What did not hold"]), table(found["What held"])
    # the two claims on entropy compare equal ones
    assert [(row[0], row[1].split("<br>")[1]) for row in failed] == [
        ("**contradicted**<br>confirmatory", "`aepg/epg`"),
        ("**contradicted**<br>exploratory", "`slca/frozen-backbone`"),
        ("**undecided**<br>confirmatory", "`aepg/aepg`"),
        ("**undecided**<br>confirmatory", "`aepg/epg-entropy`"),
        ("**undecided**<br>confirmatory", "`aepg/aepg-entropy`"),
    ]
    assert [(row[0], row[1].split("<br>")[1]) for row in held] == [("**holds**<br>confirmatory", "`slca/alignment`")]
    (verdict,) = (v for v in judge_claims(records) if v.claim.id == "aepg/epg")
    assert str(verdict).startswith("-2.00 [-2.53, -1.47], adjusted [-2.87, -1.12], n = 10, reverse p = ")
    assert verdict.difference is not None
    assert failed[0][1:] == [
        f"{verdict.claim.text}<br>`aepg/epg`",
        f"{verdict}, g = {verdict.difference.hedges_g:+.2f}",
        f"`{SPLIT}` task_avg_last_acc<br>{verdict.claim.source}",
    ]
    assert failed[3][2] == "0, n = 10, p = 1, reverse p = 1"
    assert failed[3][3].startswith(f"`{SPLIT}` final_entropy (nats, less is better)<br>")
    assert "Where less is better, the sign is reversed" in one_line(found["What did not hold"])
    verdicts = judge_claims(records)
    counts = {f: [v.outcome for v in verdicts if v.claim.family == f] for f in ("confirmatory", "exploratory")}
    not_run = {family: outcomes.count("not run") for family, outcomes in counts.items()}
    text = one_line(found["What did not hold"])
    n = len(counts["confirmatory"])
    assert f"{n} confirmatory claims: 1 contradicted, 3 undecided, 1 hold, {not_run['confirmatory']} not run." in text
    n = len(counts["exploratory"])
    assert f"{n} exploratory claims: 1 contradicted, {not_run['exploratory']} not run." in text


def test_a_verdict_of_an_earlier_rule_is_said() -> None:
    worse = records_of("lora-ce", around(50, ALL_TEN)) + records_of("lora-epg", around(48.7, ALL_TEN[::-1]))
    text = one_line(sections(worse)["What did not hold"])
    changed = next(claim.earlier for claim in claims() if claim.id == "aepg/epg")
    assert "correction" in changed
    assert f"Earlier verdicts, by a rule that was changed or with fewer seeds: `aepg/epg`: {changed}." in text
    assert "earlier rules" not in page(records_of("slca", around(50, ALL_TEN)))


def test_a_claim_of_no_difference_says_its_margin() -> None:
    found = sections(
        [*records_of("slca", around(60)), *records_of("slca-no-norm", [60.0, 61.0, 59.5, 60.5, 60.0, 60.5])]
    )
    (row,) = (row for row in table(found["What did not hold"]) if row[1].endswith("`slca/logit-normalisation`"))
    assert " (by 1.00 or more)<br>" in row[1]
    assert "n = 6 of 10 planned seeds, g = " in row[2]  # and so undecided, whatever the difference


# --- recipe against recipe ---


def test_the_papers_methods_are_recipes() -> None:
    assert RECIPES.keys() >= PAPER_METHODS


def test_what_else_against_the_best_method() -> None:
    records = [
        *records_of("slca", [60.0] * 6, bytes_kept=6_604_800),
        *records_of("lora-aepg", [58.0] * 6),  # a paper's method too, not the best
        *records_of("slca-olor-aepg", [70.0] * 6),  # a combination
        *records_of("slca.f1", [70.0] * 6),  # a switch
        *records_of("joint", around(65)),  # the reference
        *records_of("full-1", [70.0] * 6, SINGLE),  # elsewhere
        *records_of("lora-ce", [70.0]),  # one run
        *records_of("linear", around(50)),  # worse
        *records_of("seqft-slow", around(59.5)),  # not to be told from it
        *records_of("frozen-ca", around(62), bytes_kept=51_200, trained_parameters=12_900),  # better
    ]
    found = sections(records)["What else does as well or better"]
    text = one_line(found)
    assert f"On `{SPLIT}` the best of the papers' methods is SLCA (`slca`): 60.00, n = 6." in text
    assert "Of 3 other recipes, " in text
    assert all(part in text for part in (" 1 did better ", " 1 is left open ", " and 1 did worse."))
    assert "Joint training (`joint`), " in text
    assert "reference: 65.00 ± 0.74, n = 6, +5.00 [+4.26, +5.74], n = 6 to `slca`." in text
    assert table(found) == [
        ["SLCA<br>`slca`", "60.00, n = 6", "-", "6,604,800 bytes kept<br>1,234 trained"],
        [
            "Frozen backbone + alignment<br>`frozen-ca`",
            "62.00 ± 0.74, n = 6",
            "+2.00 [+1.26, +2.74], n = 6",
            "51,200 bytes kept<br>12,900 trained",
        ],
        [
            "Slow learner<br>`seqft-slow`",
            "59.50 ± 0.74, n = 6",
            "-0.50 [-1.24, +0.24], n = 6",
            "56 bytes kept<br>1,234 trained",
        ],
    ]


def test_where_nothing_else_does_as_well_it_says_so() -> None:
    found = sections([*records_of("slca", around(60)), *records_of("linear", [50.0] * 6)])[
        "What else does as well or better"
    ]
    assert "Of 1 other recipe, " in one_line(found)
    assert "and 1 did worse." in one_line(found)
    assert table(found) == []


def test_no_spread_is_decided_by_the_signs() -> None:
    # five equal differences have a point for an interval, but signs alone are at 1/32
    for n, better in ((5, 0), (6, 1)):
        found = sections([*records_of("slca", [60.0] * n), *records_of("linear", [61.0] * n)])
        assert f" {better} did better " in one_line(found["What else does as well or better"])


def test_class_statistics_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    # smaller covariances, but not everything else alike
    for name, settings in (("other-tau", ["alignment.tau=0"]), ("other-rate", ["lr=0.5"])):
        base = RECIPES["slca"].base.set(["alignment.covariance=diagonal"])
        monkeypatch.setitem(RECIPES, name, Recipe(name, name, name, SPLIT, base.set(settings)))
    records = [
        *records_of("slca", [60.0] * 6, bytes_kept=6_604_800),
        *records_of("slca-shared", around(58), bytes_kept=116_736),
        *records_of("slca-low-rank", around(60.5), bytes_kept=307_200),
        *records_of("slca-diagonal", around(57), bytes_kept=102_400),
        *records_of("other-tau", around(60), bytes_kept=102_400),
        *records_of("other-rate", around(60), bytes_kept=102_400),
    ]
    found = sections(records)["Class statistics: how much alignment has to keep"]
    assert "`slca`, which keeps 6,604,800 bytes:" in one_line(found)
    assert "Least is kept by `slca-low-rank` of those whose loss is shown to be below 1 point" in one_line(found)
    assert table(found) == [
        ["full<br>`slca`", "6,604,800<br>100.00%", "60.00, n = 6", "-"],
        ["diagonal<br>`slca-diagonal`", "102,400<br>1.55%", "57.00 ± 0.74, n = 6", "-3.00 [-3.74, -2.26], n = 6"],
        ["shared<br>`slca-shared`", "116,736<br>1.77%", "58.00 ± 0.74, n = 6", "-2.00 [-2.74, -1.26], n = 6"],
        ["low-rank<br>`slca-low-rank`", "307,200<br>4.65%", "60.50 ± 0.74, n = 6", "+0.50 [-0.24, +1.24], n = 6"],
    ]
    without = [record for record in records if record.recipe != "slca-low-rank"]
    found = sections(without)["Class statistics: how much alignment has to keep"]
    assert "Of none the loss is shown to be below 1 point." in one_line(found)


def cell_of(config: Config) -> tuple[bool, ...]:
    return tuple(getattr(config, name) is not None for name in FACTORS.values())


def factorial(seeds: int = 6) -> list[Record]:
    """50 + 2 OLOR + 10 alignment - 1 aEPG + 4 OLOR x alignment, in the eight recipes that the design is run with."""
    names = (
        "seqft-slow",
        "slow-olor",
        "slow-aepg",
        "slow-olor-aepg",
        "slca",
        "slca-olor",
        "slca-aepg",
        "slca-olor-aepg",
    )
    records = []
    for name in names:
        olor, alignment, aepg = cell_of(RECIPES[name].config)
        records += records_of(
            name, [50.0 + seed + 2 * olor + 10 * alignment - aepg + 4 * olor * alignment for seed in range(seeds)]
        )
    assert len({cell_of(RECIPES[name].config) for name in names}) == 8
    return records


def test_effects_of_the_combinations() -> None:
    # of the same configuration but for another tau, and so in no cell
    others = records_of("slca-no-norm", [99.0] * 6)
    found = sections([*factorial(), *others])["Combinations of the three methods"]
    assert f"All 8 combinations on the slow learner, everything else alike, on `{SPLIT}`." in one_line(found)
    assert "An effect is its contrast over the 8 recipes divided by 4." in one_line(found)
    assert "Of 3 interactions of two the interval of 0 is below 0, of 1 above it." in one_line(found)

    def row(kind: str, of: str, effect: float) -> list[str]:
        return [kind, of, f"{effect:+.2f}, n = 6" if effect else "0, n = 6", "yes" if effect else "no"]

    assert sorted(table(found)) == sorted(
        [
            row("main effect", "OLOR", 4.0),
            row("main effect", "alignment", 12.0),
            row("main effect", "aEPG", -1.0),
            row("interaction", "OLOR x alignment", 2.0),
            row("interaction", "OLOR x aEPG", 0.0),
            row("interaction", "alignment x aEPG", 0.0),
            row("interaction", "OLOR x alignment x aEPG", 0.0),
        ]
    )
    assert [row[0] for row in table(found)] == ["main effect"] * 3 + ["interaction"] * 4


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (("seqft-slow",), "`seqft-slow` has no runs"),
        (("slow-aepg", "slca-olor-aepg"), "`slow-aepg`, `slca-olor-aepg` have no runs"),
    ],
)
def test_no_effects_without_all_cells(missing: Sequence[str], said: str) -> None:
    found = sections([r for r in factorial() if r.recipe not in missing])
    assert found["Combinations of the three methods"] == f"Not shown: {said} on `{SPLIT}`."


def test_effects_rest_on_the_seeds_of_all_cells() -> None:
    rows = table(
        sections([r for r in factorial() if (r.recipe, r.seed) != ("slow-olor", 3)])[
            "Combinations of the three methods"
        ]
    )
    assert {row[2].rpartition(", ")[2] for row in rows} == {"n = 5"}
    found = sections(factorial(seeds=1))["Combinations of the three methods"]
    assert found == "Not shown: the 8 recipes have fewer than two seeds in common."


def test_switches_against_the_recipe_they_were_turned_in() -> None:
    records = [
        *records_of("slca", [60.0] * 6),
        *records_of("slca", [70.0] * 6, UNEVEN),
        *records_of("slca.f1", around(62)),
        *records_of("slca.f3", around(60)),  # does nothing
        *records_of("slca.f5", [67.5, 65.0, 67.5, 65.0, 67.5, 65.0], UNEVEN),
        *records_of("slca-olor", [50.0] * 6),
        *records_of("slca-olor.anchor", [51.0] * 6),  # not as `slca`, whose hyper-parameters it has
        *records_of("olor-1.f8", [90.0] * 6, SINGLE),  # nothing to compare it with
    ]
    found = sections(records)["Switches of the fidelity page"]
    assert (
        "Of 4 switches turned, each in one recipe, the effect of 3 can be told from 0 (its interval excludes 0), "
        "that of 1 cannot." in one_line(found)
    )
    assert "by chance: 0.20 of these." in one_line(found)
    assert table(found) == [
        ["F5", "`slca.f5`", f"`{UNEVEN}`", "-3.75 [-5.19, -2.31], n = 6"],
        ["F1", "`slca.f1`", f"`{SPLIT}`", "+2.00 [+1.26, +2.74], n = 6"],
        ["anchor", "`slca-olor.anchor`", f"`{SPLIT}`", "+1.00, n = 6"],
    ]


def test_a_method_as_others_run_it() -> None:
    records = [
        *records_of("slca@authors", [60.0] * 6),
        *records_of("slca@pilot", around(58)),
        *records_of("slca@authors.f61", [59.0] * 6),
        *records_of("slca@authors.f62", around(60)),  # does nothing
    ]
    found = sections(records)["The same method as others run it"]
    assert table(found) == [
        [
            RECIPES["slca@pilot"].title,
            "`slca@pilot`<br>`slca@authors`",
            "-2.00 [-2.74, -1.26], n = 6",
            "F61 batch size -1.00<br>(2 of 4 run)",
        ]
    ]
    assert "The same method as others run it" not in sections(records_of("slca@authors", [60.0] * 6))


# --- the page ---


def test_choices_at_the_end_of_their_grid_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = copy.deepcopy(recipes.chosen())
    monkeypatch.setattr(recipes, "chosen", lambda: choices)
    choices["lora-ce"]["settings"], choices["lora-epg"]["settings"] = {"lr": 0.001}, {"lr": 0.003}
    said = ends_of_grids(["lora-ce", "lora-epg", "lora-ce-ca", "ncm", "slca-no-norm", "seqft-slow"])
    assert said == (
        "Recipes whose choice is at an end of their grid: 1 of the 2 with more than two values of a setting "
        "(`lora-ce`), and the 2 with "
        "only two values of each, where nothing is in between (`seqft-slow`, `slca`)."
    )
    choices["lora-ce"]["settings"] = {"lr": 0.01}
    assert ends_of_grids(["lora-ce"]).endswith(": 0 of the 1 with more than two values of a setting.")
    assert ends_of_grids(["ncm"]) == ""


def test_how_far_it_reaches_is_read_off_the_records() -> None:
    records = [
        *records_of("lora-ce", [50.0] * 5, hyperparameters_from="validation"),
        *records_of("frozen-ca", [50.0] * 10, hyperparameters_from="validation"),
        *records_of("slca-no-norm", [50.0] * 10, hyperparameters_from="validation"),
    ]
    text = one_line(sections(records)["How far this reaches"])
    assert (
        "1 backbone (`quickdraw_vit`), 1 data set of drawings, "
        "2,000 test drawings (binomial standard error 1.12 points at 50%)" in text
    )
    assert "5 or 10 seeds for a recipe on a stream, 3 or 5 epochs on an experience." in text
    # slca-no-norm has the choice of slca
    assert (
        "Hyper-parameters of 3 recipes chosen from 4 candidates (validation seeds: 1), others as for one of these."
        in text
    )
    assert ends_of_grids(["lora-ce", "frozen-ca", "slca"]) in text
    assert "Hyper-parameters" not in sections(records_of("linear", [50.0]))["How far this reaches"]
    elsewhere = records_of("linear", [50.0] * 2, weights_sha256="a" * 64, data_sha256="b" * 64)
    assert "2 backbones (`quickdraw_vit`), 2 data sets" in one_line(
        sections([*records, *elsewhere])["How far this reaches"]
    )


def test_the_order_of_the_page_and_not_that_of_the_records() -> None:
    records = [
        *factorial(),
        *records_of("frozen-ca", around(80)),
        *records_of("joint", around(80)),
        *records_of("slca.f1", around(80)),
        *records_of("slca-shared", around(50)),
        *records_of("slca.main.slca", [99.0]),  # a published cell's
        *records_of("linear", [99.0], "stream-of-another-version"),
    ]
    assert list(sections(records)) == TITLES
    text = page(records)
    assert f"What {len(records) - 2} runs of the embedded tier say" in text
    assert "99" not in text
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    for order in (records[::-1], records[7:] + records[:7]):
        assert page(order) == text


def test_what_was_not_run_is_not_mentioned() -> None:
    assert list(sections(records_of("linear", around(50)))) == ["How far this reaches"]
    assert "What 0 runs of" in page([])
    assert sections([]) == {}
    # one run of each has no interval: no verdict but "undecided", and nothing to compare
    one_each = list(itertools.chain(factorial(1), records_of("frozen-ca", [70.0]), records_of("slca.f1", [70.0])))
    assert list(sections(one_each)) == [
        "What did not hold",
        "Combinations of the three methods",
        "How far this reaches",
    ]


SIDE = "Two tiers side by side"


def in_the_middle(recipe: str, accuracies: Sequence[float]) -> list[Record]:
    return records_of(recipe, accuracies, RECIPES[recipe].home)


def test_two_tiers_stand_side_by_side_and_are_not_pooled() -> None:
    held = records_of("slca", around(60, ALL_TEN)) + records_of("seqft-slow", around(50, ALL_TEN[::-1]))
    against = in_the_middle("lite-slca", around(50, ALL_TEN)) + in_the_middle("lite-slow", around(60, ALL_TEN[::-1]))
    assert SIDE not in sections(held)
    found = sections([*held, *against])
    rows = {row[0].partition("<br>")[0]: row for row in table(found[SIDE])}
    row = rows["Classifier alignment improves the slow learner"]
    assert row[0].endswith("<br>confirmatory")
    assert row[1].startswith("**holds** +10.00")
    assert row[2].startswith("**contradicted** -10.00")
    assert row[3] == "opposite"
    text = one_line(found[SIDE])
    assert (
        "Claims with runs on both: 1; with the same verdict: 0; that hold on one and are contradicted on the other: 1."
        in text
    )
    assert "has images of nine of CIFAR-10's ten classes" in text
    assert rows["EPG is better than cross-entropy, of the heads alone"][3] == "of this tier alone"
    # the other sections are those of the embedded tier alone
    without = sections(held)
    assert {name: text for name, text in found.items() if name != SIDE} == without

    agreeing = in_the_middle("lite-slca", around(60, ALL_TEN)) + in_the_middle("lite-slow", around(50, ALL_TEN[::-1]))
    row = table(sections([*held, *agreeing])[SIDE])[0]
    assert row[3] == "the same"


def test_the_middle_tier_alone_has_its_section() -> None:
    text = page(in_the_middle("lite-slca", around(50, ALL_TEN)) + in_the_middle("lite-slow", around(60, ALL_TEN)))
    assert SIDE in text
