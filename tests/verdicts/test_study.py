"""`reclaim plan`: against tables of power, simulation, and the probabilities that it prints."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from reclaim.benchmark.cli import main
from reclaim.benchmark.papers.protocols import find_cell
from reclaim.benchmark.papers.published import cells, claims, planned_seeds
from reclaim.benchmark.recipes import RECIPES, recipes_of
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.stats.estimates import Published
from reclaim.benchmark.stats.power import published_leaves, seeds_needed, verdict_probabilities
from reclaim.benchmark.verdicts.study import SEEDS, detectable_effect, plan
from scipy import stats
from small_runs import synthetic_record

CLAIM = next(
    claim
    for claim in claims()
    if claim.kind == "superior" and claim.metric == "last_acc" and claim.family == "confirmatory"
)
MARGINAL = next(claim for claim in claims() if claim.kind == "noninferior" and claim.family == "confirmatory")
FAMILY = sum(claim.family == "confirmatory" for claim in claims())
ALL = {cell.id: cell for cell in cells()}
CELL = ALL["slca/main/slca/split-cifar100-10/last_acc"]


def rows(text: str) -> list[list[str]]:
    """The lines of the one table in a text, as columns."""
    lines = text.splitlines()
    rule = next(i for i, line in enumerate(lines) if re.fullmatch(r"[- ]*---[- ]*", line))
    body = lines[rule + 1 :]
    return [
        re.split(r"\s{2,}", line.strip())
        for line in body[: next((i for i, line in enumerate(body) if not re.match(r"\S+.*\s{2,}", line)), None)]
    ]


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.05 / 11), (5, 0.05), (10, 0.05 / 10), (20, 0.05 / 11)])
def test_the_effect_is_found_with_80_percent(n: int, alpha: float) -> None:
    effect = detectable_effect(n, alpha)
    draws = np.random.default_rng(0).normal(effect, 1, (100_000, n))
    t = draws.mean(1) / draws.std(1, ddof=1) * math.sqrt(n)
    found = np.mean(stats.t.sf(t, n - 1) < alpha / 2)
    assert found == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 100_000))


def test_effects_of_the_printed_tables() -> None:
    # docs/statistics.md
    assert detectable_effect(5, 0.05 / 11) == pytest.approx(3.2, abs=0.05)
    assert detectable_effect(10, 0.05 / 11) == pytest.approx(1.5, abs=0.05)
    # Cohen 1988: d = 0.5 two-sided at 5% with 80% power takes 34 pairs
    assert detectable_effect(34, 0.05) <= 0.5 < detectable_effect(33, 0.05)
    with pytest.raises(ValueError, match="n is 1: at least 2 seeds"):
        detectable_effect(1, 0.05)


def test_the_plan_of_a_claim() -> None:
    without = plan(CLAIM.id, [])
    assert f"Holm's first step of {FAMILY} claims at 5%" in without
    assert "std of the paired differences: not known" in without
    assert [row[2:] for row in rows(without)] == [["-", "-"]] * len(SEEDS)

    records = [synthetic_record(CLAIM.better, CLAIM.stream, seed, last_acc=60 + 2 * seed) for seed in range(5)]
    records += [synthetic_record(CLAIM.worse, CLAIM.stream, seed, last_acc=50 + seed) for seed in range(5)]
    for record in records:
        record.provenance.update(cpu_seconds=60.0 if record.recipe == CLAIM.better else 120.0, wall_seconds=1e6)
    std = float(
        np.std(
            [
                synthetic.metrics()["last_acc"] - other.metrics()["last_acc"]
                for synthetic, other in zip(records[:5], records[5:], strict=True)
            ],
            ddof=1,
        )
    )
    known = rows(plan(CLAIM.id, records))
    assert [row[0] for row in known] == [f"{n}{' (planned)' * (n == planned_seeds(CLAIM))}" for n in SEEDS]
    for n, row in zip(SEEDS, known, strict=True):
        effect = detectable_effect(n, 0.05 / FAMILY)
        assert row[1:] == [f"{effect:.2f}", f"{effect * std:+.2f}", f"{3 * n:.1f} min"]
    given = rows(plan(CLAIM.id, records, std=0.5))
    assert given[0][2] == f"{0.5 * detectable_effect(3, 0.05 / FAMILY):+.2f}"

    explored = next(claim for claim in claims() if claim.family == "exploratory")
    assert "alone at 5%" in plan(explored.id, [])


def test_before_a_study_is_run_others_stand_in_for_it() -> None:
    accuracies = [c for c in claims() if c.stream == CLAIM.stream and c.metric != "final_entropy"]
    other = next(c for c in accuracies if {c.better, c.worse}.isdisjoint({CLAIM.better, CLAIM.worse}))
    records = [synthetic_record(other.worse, other.stream, seed, last_acc=50) for seed in range(5)]
    records += [synthetic_record(other.better, other.stream, seed, last_acc=50 + 2 * seed) for seed in range(5)]
    epochs = RECIPES[CLAIM.better].config.epochs
    same = [
        name
        for name, recipe in recipes_of("embedded").items()
        if recipe.config.epochs == epochs and name not in (CLAIM.better, CLAIM.worse)
    ]
    mine = {recipe for c in claims() for recipe in (c.better, c.worse)}
    timed = [name for name in same if name not in mine][:3]
    for name, seconds in zip(timed, (60.0, 600.0, 120.0), strict=True):
        for seed in range(1 + 3 * (seconds == 600)):  # a recipe counts once, whatever its seeds
            records.append(synthetic_record(name, CLAIM.stream, seed))
            records[-1].provenance["cpu_seconds"] = seconds
    off = [synthetic_record("ncm", CLAIM.stream), synthetic_record(timed[0], "split-quickdraw-5")]
    for record in off:  # other epochs, another stream
        record.provenance["cpu_seconds"] = 1e6
    assert RECIPES["ncm"].config.epochs != epochs
    text = plan(CLAIM.id, records + off)
    std = math.sqrt(10)
    assert (
        f"std of the paired differences: {std:.2f} points, the median of 1 claim on {CLAIM.stream}, "
        f"of this one nothing is on record" in text
    )
    for n, row in zip(SEEDS, rows(text), strict=True):
        assert row[2:] == [f"{std * detectable_effect(n, 0.05 / FAMILY):+.2f}", f"~{2 * n * 2:.1f} min"]
    for recipe in (CLAIM.better, CLAIM.worse):
        assert (
            f"~: no run of {recipe} on record, taken to be the median of 3 recipes of {epochs} epochs on {CLAIM.stream}"
            in text
        )

    own = synthetic_record(CLAIM.better, CLAIM.stream)
    own.provenance["cpu_seconds"] = 60.0
    text = plan(CLAIM.id, [*records, own])
    assert rows(text)[0][3] == f"~{3 * (1 + 1.5):.1f} min"  # the median of 60, 60, 120 and 600 seconds for the other
    assert f"no run of {CLAIM.better}" not in text


def test_entropies_are_planned_in_nats() -> None:
    entropic = next(claim for claim in claims() if claim.metric == "final_entropy")
    records = [synthetic_record(entropic.worse, entropic.stream, seed, entropy=1.0) for seed in range(5)]
    records += [
        synthetic_record(entropic.better, entropic.stream, seed, entropy=0.5 + 0.004 * seed) for seed in range(5)
    ]
    text = plan(entropic.id, records)
    std = 0.004 * math.sqrt(2.5)
    assert f"std of the paired differences: {std:.4f} nats over 5 seeds on record" in text
    assert rows(text)[0][2] == f"{std * detectable_effect(3, 0.05 / FAMILY):+.4f}"
    assert "std of the paired differences: not known" in plan(
        CLAIM.id, [r for r in records if r.recipe == entropic.better]
    )


def test_a_claim_of_no_difference_is_planned_from_its_margin() -> None:
    text = plan(MARGINAL.id, [], std=0.1)
    assert f"is above -{MARGINAL.margin:g} points ({MARGINAL.margin_reason})" in text
    assert rows(text)[1][2] == f"{0.1 * detectable_effect(5, 0.05 / FAMILY) - MARGINAL.margin:+.2f}"


def test_the_plan_of_a_cell() -> None:
    text = plan(CELL.id, [])
    assert "91.53 +- 0.28 over 3 runs; margin 1 points" in text
    assert "taken to be the published one" in text
    std, published = 0.28 + 0.005, CELL.published
    for n, row in zip((*SEEDS, math.inf), rows(text), strict=True):
        expected = [
            verdict_probabilities(std, n, published, 1.0)["reproduced"],
            verdict_probabilities(std, n, published, 1.0, given_published=False)["reproduced"],
            verdict_probabilities(std, n, Published(91.53, rounding=0.005), 1.0)["reproduced"],
        ]
        assert row[1:4] == [f"{p:.2f}" for p in expected]
    assert f"if our true mean is the printed one: {seeds_needed(std, published, 1.0)}\n" in text

    assert text.endswith("\ncost: `reclaim rehearse slca/main/slca/split-cifar100-10` projects it")

    hopeless = ALL["slca/main/bic/split-cub200-10/last_acc"]
    leaves = published_leaves(hopeless.published)
    assert f"none: the published n0 and std alone leave +-{leaves:.2f}" in plan(hopeless.id, [])

    records = [synthetic_record(CELL.recipe, CELL.stream, seed, last_acc=91 + seed) for seed in range(3)]
    for record in records:
        record.provenance["wall_seconds"] = 7200.0  # of the first records, which have no processor time
    known = plan(CELL.id, records)
    assert "our std: 1.00 points over 3 seeds on record" in known
    assert rows(known)[1][-1] == "10.0 h"
    assert "reclaim rehearse" not in known


def test_a_cell_without_published_std_has_the_constant_alone() -> None:
    cell = ALL["slca/main/joint/split-imagenet-r-10/last_acc"]
    assert "give --std" in plan(cell.id, [])
    text = plan(cell.id, [], std=0.3)
    assert all(row[1:3] == ["-", "-"] for row in rows(text))
    assert "if our true mean is the printed one: - (no published std)" in text
    assert f"as a constant: {seeds_needed(0.3, Published(79.6, rounding=0.005), 1.0)}" in text


def test_the_plan_of_a_table() -> None:
    mine = [cell for cell in cells() if cell.table.id == "slca/slca++"]
    text = plan("slca/slca++", [])
    found = rows(text)
    assert [row[0] for row in found] == [cell.id for cell in mine]
    runs: dict[str, int] = {}
    needed = {}
    for cell, row in zip(mine, found, strict=True):
        std = cell.published.std + 0.005 if cell.published.std else 0.0
        needed[cell.id] = seeds_needed(std, cell.published, cell.table.margin)
        wanted = f"none: +-{published_leaves(cell.published):.2f}" if needed[cell.id] is None else str(needed[cell.id])
        assert row[-1] == wanted
        if (n := needed[cell.id]) is not None:
            runs[cell.stream] = max(runs.get(cell.stream, 0), n)
    decidable = sum(n is not None for n in needed.values())
    assert 0 < decidable < len(mine)
    assert f"{decidable} of {len(mine)} cells can be decided" in text
    assert f"{sum(runs.values())} runs of {len(runs)} recipes and streams; their cost is not known" in text


def test_more_seeds_than_a_paper_has_are_new_class_orders() -> None:
    wide = plan(CELL.id, [], std=0.8)
    assert int(re.search(r"printed one: (\d+)", wide)[1]) > 3  # type: ignore[index]
    assert (
        "F2: the paper's 3 seeds are as many class orders, and this cell takes more: those are new class orders" in wide
    )
    assert "F2" not in plan(CELL.id, [])  # takes 3
    assert "F2" not in plan(
        "aepg/table-1/lora-ce/split-imagenet-r-10/task_avg_last_acc", [], std=0.5
    )  # which names no seeds


def test_cells_without_any_std_are_counted_apart() -> None:
    text = plan("slca/main", [])
    found = rows(text)
    assert len(found) == 40
    without = sum(row[2] == "-" for row in found)
    needed = [int(row[-1]) for row in found if row[-1].isdigit()]
    assert without == 4
    assert (
        f"{len(needed)} of 36 cells (not counting 4 without a published std or runs on record) can be decided" in text
    )
    # the seeds of the rows that are not SLCA's own are of unknown scope
    of_order = {name for name, cell in ALL.items() if cell.kind.varied == "class_order"}
    more = [row[0] for row in found if row[-1].isdigit() and int(row[-1]) > 3]
    assert len(more) == 4
    assert len({*more} & of_order) == 1
    assert "and 1 cell takes more: those are new class orders" in text


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no records are
    result = CliRunner().invoke(main, ["plan", CLAIM.id, MARGINAL.id, "--std", "0.5"])
    assert result.exit_code == 0, result.output
    assert result.output.count("std of the paired differences: 0.5 points (--std)") == 2
    store = RecordStore(tmp_path / "records")
    for seed in range(3):
        store.write(
            synthetic_record(CELL.recipe, CELL.stream, seed, last_acc=91 + seed, config=find_cell(CELL.id)[0].config)
        )
    (store.root / "notes.txt").write_text("mine")
    result = CliRunner().invoke(main, ["plan", CELL.id, "--records", str(store.root)])
    assert "over 3 seeds on record" in result.output
    assert "notes.txt: not a record" in result.output
    for arguments, complaint in (
        (("slca/man",), "did you mean slca/main"),
        ((CELL.id, "--std", "0"), "std is 0.0: give a number"),
        ((CELL.id, "--records", "nowhere"), "there is no folder nowhere: name a record store with --records"),
    ):
        result = CliRunner().invoke(main, ["plan", *arguments])
        assert result.exit_code == 1
        assert complaint in result.output


def test_a_claim_of_the_middle_tier_is_planned_in_its_own_family() -> None:
    family = [claim for claim in claims("middle") if claim.family == "confirmatory"]
    text = plan(family[0].id, [])
    assert f"Holm's first step of {len(family)} claims at 5%" in text
    assert f"on {family[0].stream}, last_acc" in text
