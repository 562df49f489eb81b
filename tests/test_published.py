"""What the papers say: every cell and claim is read through one check, and judged as its runs say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from reclaim.benchmark import published
from reclaim.benchmark.published import METRICS, Claim, PublishedError, cells, claims, judge_claims, metric_of
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.records import Record
from reclaim.benchmark.statistics import Published
from reclaim.benchmark.streams import STREAMS
from small_runs import synthetic_record

# --- the files as they are ---


def test_every_published_cell_is_there_once() -> None:
    assert len(cells()) == 260
    assert len({cell.id for cell in cells()}) == 260
    assert {cell.paper for cell in cells()} <= {"slca", "olor", "aepg"}
    for cell in cells():
        assert 0 < cell.published.mean < 100
        assert cell.published.n is None or cell.published.n >= 1
        assert cell.published.rounding in (0.5, 0.05, 0.005)
        assert cell.id.startswith(f"{cell.paper}/")
        assert cell.metric in METRICS
        # a record of it can be kept: the name of its recipe is a folder
        assert synthetic_record(cell.recipe, cell.stream).recipe == cell.recipe
        assert "/" not in cell.recipe
        assert cell.table.split()[0] == cell.paper
    assert not {cell.recipe for cell in cells()} & set(RECIPES)


def test_a_cell_as_it_stands_in_the_paper() -> None:
    (cell,) = (cell for cell in cells() if cell.id == "slca/main/slca/split-cifar100-10/last_acc")
    assert cell.published == Published(91.53, 0.28, 3, rounding=0.005)
    assert (cell.recipe, cell.table, cell.stream, cell.metric) == ("slca.main.slca", "slca main", "split-cifar100-10", "last_acc")


def test_every_claim_can_be_checked() -> None:
    assert len(claims()) == len({claim.id for claim in claims()})
    confirmatory = [claim for claim in claims() if claim.family == "confirmatory"]
    assert 8 <= len(confirmatory) <= 12
    for claim in claims():
        assert claim.better in RECIPES
        assert claim.worse in RECIPES
        assert claim.better != claim.worse
        assert claim.stream in STREAMS
        assert claim.metric in METRICS
        assert (claim.margin > 0) == bool(claim.margin_reason) == (claim.kind == "noninferior")


# --- files as they must not be ---

CELL = {"id": "slca/main/slca/stream/last_acc", "method": "SLCA", "stream": "stream", "metric": "last_acc", "mean": 91.5}
CLAIM: dict[str, Any] = {
    **{"id": "slca/x", "text": "a is better", "source": "a page", "family": "confirmatory", "kind": "superior"},
    **{"better": "slca", "worse": "linear", "stream": "quickdraw-1", "metric": "last_acc"},
}


@pytest.fixture
def document(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """What papers/slca.toml or papers/claims.toml holds instead; the others are empty."""

    def put(content: Any) -> None:
        empty = {"paper": {"decimals": 1}}
        monkeypatch.setattr(published, "_document", lambda name: content if name in ("slca.toml", "claims.toml") else empty)

    return put


def read_cells() -> Any:
    return cells.__wrapped__()


def read_claims() -> Any:
    return claims.__wrapped__()


@pytest.mark.parametrize(
    ("paper", "entry", "complaint"),
    [
        ({"decimals": 1}, {"mean": None}, "mean missing"),
        ({"decimals": 1}, {"id": None}, "id missing"),
        ({"decimals": 1}, {"metric": "accuracy"}, "unknown metric 'accuracy', choose one of last_acc"),
        ({"decimals": 1}, {"stdd": 0.3}, "unknown entries stdd"),
        ({"decimals": 1}, {"mean": "91.5"}, "mean, std, runs or decimals cannot be"),
        ({"decimals": 1}, {"mean": float("nan")}, "published mean is nan"),
        ({"decimals": 1}, {"std": -1.0, "runs": 3}, "published std is -1.0"),
        ({"decimals": 1}, {"std": 0.3, "runs": 1}, "a std needs at least 2"),
        ({}, {}, "mean, std, runs or decimals cannot be"),
    ],
)
def test_a_bad_cell_is_named(paper: dict[str, Any], entry: dict[str, Any], complaint: str, document: Callable[[Any], None]) -> None:
    values = {key: value for key, value in {**CELL, **entry}.items() if value is not None}
    document({"paper": paper, "cell": [values]})
    with pytest.raises(PublishedError, match=rf"papers/slca\.toml, cell .*{complaint}"):
        read_cells()


def test_a_sound_cell_is_read(document: Callable[[Any], None]) -> None:
    document(
        {
            "paper": {"decimals": 1, "runs": 4},
            "cell": [CELL, {**CELL, "id": "slca/main/x/s/last_acc", "std": 0.1, "runs": 2, "decimals": 2}],
        }
    )
    first, second = read_cells()
    assert first.published == Published(91.5, None, 4, rounding=0.05)
    assert second.published == Published(91.5, 0.1, 2, rounding=0.005)


def test_a_cell_twice_and_a_missing_paper_are_named(document: Callable[[Any], None]) -> None:
    document({"paper": {"decimals": 1}, "cell": [CELL, CELL]})
    with pytest.raises(PublishedError, match=rf"ids stand there twice: {CELL['id']}"):
        read_cells()
    document({"cell": [CELL]})
    with pytest.raises(PublishedError, match=r"papers/slca\.toml: paper missing"):
        read_cells()


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"better": None}, "better missing"),
        ({"source": None, "text": None}, "text, source missing"),
        ({"reason": "why"}, "unknown entries reason"),
        ({"metric": "acc"}, "unknown metric 'acc'"),
        ({"kind": "better"}, "unknown kind 'better', choose one of superior, noninferior"),
        ({"family": "main"}, "unknown family 'main', choose one of confirmatory, exploratory"),
        ({"expected": "hold"}, "unknown expected 'hold', choose one of holds, contradicted, undecided"),
        ({"kind": "noninferior"}, "states its margin and margin_reason"),
        ({"kind": "noninferior", "margin": 1.0}, "states its margin and margin_reason"),
        ({"margin": 1.0, "margin_reason": "so"}, "states its margin and margin_reason"),
    ],
)
def test_a_bad_claim_is_named(entry: dict[str, Any], complaint: str, document: Callable[[Any], None]) -> None:
    document({"claim": [{key: value for key, value in {**CLAIM, **entry}.items() if value is not None}]})
    with pytest.raises(PublishedError, match=rf"papers/claims\.toml, claim 'slca/x': .*{complaint}"):
        read_claims()


def test_a_sound_claim_is_read(document: Callable[[Any], None]) -> None:
    document({"claim": [{**CLAIM, "expected": "undecided"}]})
    assert read_claims() == (Claim(**CLAIM, expected="undecided"),)
    document({"claim": [CLAIM, CLAIM]})
    with pytest.raises(PublishedError, match="twice: slca/x"):
        read_claims()
    document({})
    with pytest.raises(PublishedError, match=r"papers/claims\.toml: claim missing"):
        read_claims()


def test_what_is_not_toml_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "slca.toml").write_text("[paper\n")
    monkeypatch.setattr(published.resources, "files", lambda package: tmp_path)
    with pytest.raises(PublishedError, match=r"papers/slca\.toml is not TOML: .*line 1"):
        read_cells()


# --- numbers and verdicts ---


def test_the_final_entropy_is_that_of_the_last_epochs() -> None:
    record = synthetic_record("lora-ce", entropy=0.25)
    assert record.result["config"]["epochs"] > 1
    assert record.result["entropy"][0] == 9.0
    assert metric_of(record, "final_entropy") == 0.25
    for name, value in record.metrics().items():
        assert metric_of(record, name) == value
    assert set(METRICS) == {*record.metrics(), "final_entropy"}


def claim(kind: str = "superior", metric: str = "last_acc", **changes: Any) -> Claim:
    margin = {"margin": 1.0, "margin_reason": "so"} if kind == "noninferior" else {}
    return Claim(
        **{
            **CLAIM,
            "better": "slca",
            "worse": "seqft-slow",
            "stream": "split-quickdraw-10",
            "kind": kind,
            "metric": metric,
            **margin,
            **changes,
        }
    )


def runs(recipe: str, values: list[float], metric: str = "last_acc", stream: str = "split-quickdraw-10") -> list[Record]:
    key = "entropy" if metric == "final_entropy" else "last_acc"
    named: Any = [{key: value} for value in values]
    return [synthetic_record(recipe, stream, seed, **name) for seed, name in enumerate(named)]


def judge(monkeypatch: pytest.MonkeyPatch, judged: list[Claim], records: list[Record]) -> list[published.ClaimVerdict]:
    monkeypatch.setattr(published, "claims", lambda: tuple(judged))
    verdicts = judge_claims(records)
    assert [verdict.claim for verdict in verdicts] == judged
    return verdicts


NOISE = [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("kind", "better", "outcome"),
    [
        ("superior", [55, 57, 58, 58, 61], "holds"),
        ("superior", [45, 47, 48, 48, 51], "contradicted"),
        ("superior", [55, 45, 57, 48, 54], "undecided"),
        ("superior", [50, 51, 52, 53, 54], "undecided"),
        ("noninferior", [50, 51, 52.5, 53, 54], "holds"),
        ("noninferior", [45, 47, 48, 48, 51], "contradicted"),
        ("noninferior", [55, 45, 57, 48, 54], "undecided"),
        ("superior", [60], "undecided"),
        ("superior", [], "not run"),
    ],
)
def test_outcomes(kind: str, better: list[float], outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    records = runs("slca", better) + runs("seqft-slow", [50 + x for x in NOISE])
    (verdict,) = judge(monkeypatch, [claim(kind)], records)
    assert verdict.outcome == outcome
    if better:
        assert verdict.difference is not None
        assert verdict.difference.n == len(better)
        expected = sum(b - 50 - x for b, x in zip(better, NOISE, strict=False)) / len(better)
        assert verdict.difference.value == pytest.approx(expected, abs=0.05)
        assert f"n = {len(better)}" in str(verdict)
        assert ("[" in str(verdict)) == (len(better) > 1)
    else:
        assert str(verdict) == "-"


@pytest.mark.parametrize(("better", "outcome"), [(0.2, "holds"), (0.8, "contradicted")])
def test_less_entropy_is_better(better: float, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    records = runs("slca", [better + 0.01 * x * x for x in NOISE], "final_entropy") + runs("seqft-slow", [0.5] * 5, "final_entropy")
    (verdict,) = judge(monkeypatch, [claim(metric="final_entropy")], records)
    assert verdict.outcome == outcome
    assert verdict.difference is not None
    assert (verdict.difference.value > 0) == (outcome == "holds")


def test_runs_are_paired_by_seed_on_the_stream_of_the_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    worse = runs("seqft-slow", [50 + x for x in NOISE])
    elsewhere = runs("slca", [10.0] * 5, stream="split-quickdraw-5")
    other_seeds = [synthetic_record("slca", seed=seed, last_acc=10) for seed in (8, 9)]
    (verdict,) = judge(monkeypatch, [claim()], worse + elsewhere + other_seeds + runs("slca", [55, 57, 58, 58, 61])[::-1])
    assert verdict.outcome == "holds"
    assert verdict.difference is not None
    assert verdict.difference.unmatched == (8, 9)
    (verdict,) = judge(monkeypatch, [claim()], worse + elsewhere + other_seeds)
    assert verdict.outcome == "not run"


def test_seeds_beyond_the_planned_ones_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = published._document("claims.toml")["family"]["seeds"]
    values = [50 + seed / 2 for seed in range(planned + 5)]
    (verdict,) = judge(monkeypatch, [claim()], runs("slca", [x + 5 for x in values]) + runs("seqft-slow", values))
    assert verdict.difference is not None
    assert verdict.difference.seeds == tuple(range(planned))


def test_holm_runs_over_the_confirmatory_family_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    records = runs("slca", [52, 51.5, 52.5, 55, 55]) + runs("seqft-slow", [50 + x for x in NOISE])
    (alone,) = judge(monkeypatch, [claim()], records)
    not_run = [claim(id=f"slca/{i}", better="joint") for i in range(10)]
    first, *_, explored = judge(monkeypatch, [claim(), *not_run, claim(id="slca/y", family="exploratory")], records)
    assert first.adjusted_p == pytest.approx(11 * alone.adjusted_p)  # what is not run yet keeps its place
    assert explored.adjusted_p == alone.adjusted_p
    assert (first.outcome, explored.outcome) == ("undecided", "holds")
