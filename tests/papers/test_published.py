"""What the papers say: every cell and claim is read through one check, and judged as its runs say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from reclaim.benchmark.data.streams import DENSE_STREAMS, MIDDLE_STREAMS, STREAMS
from reclaim.benchmark.papers import headers, published
from reclaim.benchmark.papers.headers import papers
from reclaim.benchmark.papers.published import (
    Claim,
    PublishedError,
    Table,
    cells,
    claims,
    confirmatory_plan,
    planned_seeds,
    tables,
)
from reclaim.benchmark.recipes import RECIPES, recipes_of
from reclaim.benchmark.records.metrics import DENSE_METRICS, METRICS
from reclaim.benchmark.records.record import Record, metric_of
from reclaim.benchmark.stats.estimates import Published
from reclaim.benchmark.verdicts import claims as verdicts_of_claims
from reclaim.benchmark.verdicts.claims import ClaimVerdict, judge_claims
from reclaim.benchmark.verdicts.counting import current
from small_runs import synthetic_record

# --- the files as they are ---


def test_every_published_cell_is_there_once() -> None:
    assert len(cells()) == 264
    assert len({cell.id for cell in cells()}) == 264
    assert {cell.paper for cell in cells()} == {"slca", "inflora", "aepg"}
    for cell in cells():
        assert 0 < cell.published.mean < 100
        assert cell.published.n is None or cell.published.n >= 1
        assert cell.published.rounding in (0.5, 0.05, 0.005)
        assert cell.id.startswith(f"{cell.paper}/")
        assert cell.metric in METRICS
        # a record of it can be kept: the name of its recipe is a folder
        assert synthetic_record(cell.recipe, cell.stream).recipe == cell.recipe
        assert "/" not in cell.recipe
        assert cell.id.startswith(f"{cell.table.id}/")
    assert not {cell.recipe for cell in cells()} & set(RECIPES)


def test_a_cell_as_it_stands_in_the_paper() -> None:
    (cell,) = (cell for cell in cells() if cell.id == "slca/main/slca/split-cifar100-10/last_acc")
    assert cell.published == Published(91.53, 0.28, 3, rounding=0.005)
    assert (cell.recipe, cell.stream, cell.metric, cell.seeds) == (
        "slca.main.slca",
        "split-cifar100-10",
        "last_acc",
        (1993, 1996, 1997),
    )
    assert cell.table == next(table for table in tables() if table.id == "slca/main")
    assert sorted(again.value for again in cell.reruns) == [87.5, 89.21, 89.3, 91.26, 91.57]
    assert all(again.source for again in cell.reruns)


def test_a_run_beside_the_printed_one_says_whose_it_is() -> None:
    found = {again.evidence: again.kind for cell in cells() for again in cell.reruns}
    assert found == {"re-run": "re-run by others", "primary": "run by its authors", "copied": "copied, not run"}
    by_id = {cell.id: cell for cell in cells()}
    (copied,) = (r for r in by_id["slca/main/slca/split-imagenet-r-10/last_acc"].reruns if r.evidence == "copied")
    assert copied.value == by_id["slca/main/slca/split-imagenet-r-10/last_acc"].published.mean
    own = by_id["inflora/main/inflora/split-imagenet-r-10/last_acc"]
    # the mean of the five seeds stands for them; another order of the classes does not
    assert [(r.value, r.evidence) for r in own.reruns] == [(75.34, "primary"), (75.97, "primary")]
    assert (own.published, own.seeds) == (Published(75.65, None, 5, rounding=0.005), (0, 1, 2, 3, 4))


LAST, INC = "last_acc", "inc_acc"
GAINS = [
    ("slca/main/slca", "slca/main/(?!joint|slca$).*", LAST, 2.67, True),
    ("slca/main/slca", "slca/main/(?!joint|slca$).*", INC, 0.72, False),
    (r"slca/slca\+\+/slca\+\+", "slca/main/slca", LAST, 1.09, True),
    (r"slca/slca\+\+/slca\+\+", "slca/main/slca", INC, 0.11, False),
    ("(aepg/table-1/.*)-aepg", "{}-ce", LAST, 0.9, True),
    ("(aepg/table-1/.*)-aepg", "{}-ce", INC, 0.8, True),
    ("(aepg/table-2/.*)-aepg", "{}-ce", LAST, 0.7, True),
    ("(aepg/table-2/.*)-aepg", "{}-ce", INC, 0.2, False),
    ("(aepg/table-2/lora)-aepg", "{}-ce", INC, 0.5, False),
    ("(aepg/table-2/.*)-aepg", "{}-(?!aepg|ce).*", LAST, 0.1, False),
    ("(aepg/table-2/.*)-aepg", "{}-(?!aepg|ce).*", INC, 0.1, False),
    ("aepg/table-3/resnet50-alpha-0.2", "aepg/table-3/resnet50-alpha-1", LAST, 0.5, True),
    ("aepg/table-3/resnet50-alpha-0.2", "aepg/table-3/resnet50-alpha-0.5", LAST, 0.19, False),
]


@pytest.mark.parametrize(("better", "worse", "metric", "gain", "resolved"), GAINS)
def test_a_margin_says_which_gains_it_resolves(
    better: str, worse: str, metric: str, gain: float, resolved: bool
) -> None:
    """The smallest gain of a paper's method over its rivals, those that are ahead of it left aside."""
    rows = {
        (cell.id.rsplit("/", 2)[0], cell.stream, cell.metric): cell for cell in cells() if cell.metric.endswith(metric)
    }
    found, reasons = [], set()
    for (method, *measured), cell in rows.items():
        if match := re.fullmatch(better, method):
            rivals = [
                other
                for (name, *on), other in rows.items()
                if on == measured and re.fullmatch(worse.format(*match.groups()), name)
            ]
            found += [round(cell.published.mean - other.published.mean, 2) for other in rivals]
            reasons.add((cell.table.margin, cell.table.margin_reason))
    assert min(difference for difference in found if difference > 0) == gain
    ((margin, reason),) = reasons
    assert (margin < gain) == resolved
    can, _, cannot = reason.partition("cannot resolve")
    assert re.search(rf"\b{gain:g}\b", can if resolved else cannot)


def test_every_margin_has_a_reason() -> None:
    for table in tables():
        assert table.margin_reason != Table("x").margin_reason
        assert "Last-Acc" in table.margin_reason


@pytest.mark.parametrize(
    ("tier", "streams"), [("embedded", STREAMS), ("middle", MIDDLE_STREAMS), ("dense", DENSE_STREAMS)]
)
def test_every_claim_can_be_checked(tier: Any, streams: Any) -> None:
    assert len(claims(tier)) == len({claim.id for claim in claims(tier)})
    confirmatory = [claim for claim in claims(tier) if claim.family == "confirmatory"]
    assert 8 <= len(confirmatory) <= 12
    for claim in claims(tier):
        assert claim.tier == tier
        assert claim.better in recipes_of(tier)
        assert claim.worse in recipes_of(tier)
        assert claim.better != claim.worse
        assert claim.stream in streams
        assert claim.metric in (DENSE_METRICS if tier == "dense" else METRICS)
        assert (claim.margin > 0) == bool(claim.margin_reason) == (claim.kind == "noninferior")


def test_the_middle_tier_asks_what_the_embedded_one_asked() -> None:
    embedded = {claim.id: claim for claim in claims()}
    middle = claims("middle")
    assert not embedded.keys() & {claim.id for claim in middle}
    asked = {claim.counterpart for claim in middle if claim.family == "confirmatory"}
    assert asked == {claim.id for claim in embedded.values() if claim.family == "confirmatory"}
    for claim in middle:
        if other := embedded.get(claim.counterpart):
            same = ("text", "family", "kind", "metric", "margin", "margin_reason")
            assert [getattr(claim, key) for key in same] == [getattr(other, key) for key in same] or (
                claim.text != other.text and claim.id == "slca/middle-frozen-backbone"  # no final norm to make fresh
            )


def test_each_tier_has_a_family_of_its_own() -> None:
    """Records of one tier leave the verdicts of the other as they were."""
    claim = claims("middle")[0]
    runs = [
        synthetic_record(recipe, claim.stream, seed, last_acc=value + seed % 3)
        for recipe, value in ((claim.better, 60), (claim.worse, 50))
        for seed in range(10)
    ]
    assert current(runs) == runs
    alone = judge_claims(runs, "middle")
    (verdict,) = (v for v in alone if v.claim == claim)
    assert verdict.difference is not None
    assert verdict.difference.n == 10
    assert [v.outcome for v in judge_claims(runs)] == ["not run"] * len(claims())
    other = claims()[0]
    more = [synthetic_record(r, other.stream, seed) for r in (other.better, other.worse) for seed in range(10)]
    assert judge_claims([*runs, *more], "middle") == alone


def test_the_dense_claims_ask_for_all_three_tasks() -> None:
    dense = claims("dense")
    assert {(claim.better, claim.metric) for claim in dense} == {
        ("dense-sem-olor", "miou"),
        ("dense-det-olor", "box_ap"),
        ("dense-inst-olor", "mask_ap"),
    }
    assert all(planned_seeds(claim) == confirmatory_plan("dense")[0] for claim in dense)


def test_holm_runs_over_the_dense_claims_alone() -> None:
    """Differences of one size on all of them hold with the planned seeds, whatever the other tiers have."""
    dense = claims("dense")
    records = [
        synthetic_record(recipe, claim.stream, seed, last_acc=(52.0 if recipe == claim.better else 50.0) + seed % 3)
        for recipe, claim in {name: claim for claim in dense for name in (claim.better, claim.worse)}.items()
        for seed in range(10)
    ]
    assert {v.outcome for v in judge_claims(records, "dense")} == {"holds"}
    assert {v.outcome for v in judge_claims(records)} == {"not run"}
    assert {v.outcome for v in judge_claims([r for r in records if r.seed < 9], "dense")} == {"undecided"}


# --- files as they must not be ---

PAPER: dict[str, Any] = {
    "key": "slca",
    "name": "SLCA",
    "title": "a paper",
    "venue": "ICCV",
    "arxiv": "1",
    "metric": "last_acc",
}
CELL: dict[str, Any] = {
    **{
        "id": "slca/main/slca/stream/last_acc",
        "table": "main",
        "method": "SLCA",
        "stream": "stream",
        "metric": "last_acc",
    },
    **{"mean": 91.5, "evidence": "primary", "source": "Table 1"},
}
TABLE = {"id": "slca/main", "margin": 0.5, "margin_reason": "half of the gain", "family_reason": "one table"}
FAMILY = {"alpha": 0.05, "seeds": 10}
CLAIM: dict[str, Any] = {
    **{"id": "slca/x", "text": "a is better", "source": "a page", "family": "confirmatory", "kind": "superior"},
    **{"better": "slca", "worse": "linear", "stream": "quickdraw-1", "metric": "last_acc"},
}


@pytest.fixture
def document(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """What papers/slca.toml or papers/claims.toml holds instead; the others are empty."""

    def put(content: Any) -> None:
        def read(name: str) -> Any:
            return (
                content
                if name in ("slca.toml", "claims.toml")
                else {"paper": {**PAPER, "key": name.removesuffix(".toml")}}
            )

        monkeypatch.setattr(published, "_document", read)

    return put


def read_cells() -> Any:
    return cells.__wrapped__()


def read_claims() -> Any:
    return claims.__wrapped__("embedded")


@pytest.mark.parametrize(
    ("paper", "entry", "complaint"),
    [
        ({"decimals": 1}, {"mean": None}, "mean missing: add it"),
        ({"decimals": 1}, {"varied": "seed"}, "unknown varied 'seed', choose one of class_order"),
        ({"decimals": 1}, {"class_order": "random"}, "unknown class_order 'random', choose one of natural, shuffled"),
        ({"decimals": 1}, {"averaged": "epochs"}, "unknown averaged 'epochs', choose one of images, tasks, unknown"),
        ({"decimals": 1}, {"split_sha256": "abc"}, "split_sha256 is 'abc': write 64 hex digits, or unknown"),
        ({"decimals": 1}, {"id": None}, "id missing: add it"),
        ({"decimals": 1}, {"source": None}, "source missing: add it"),
        ({"decimals": 1}, {"metric": "accuracy"}, "unknown metric 'accuracy', choose one of last_acc"),
        ({"decimals": 1}, {"evidence": "hearsay"}, "unknown evidence 'hearsay', choose one of primary, secondary"),
        ({"decimals": 1}, {"stdd": 0.3}, "unknown entries stdd: known are id, .*std"),
        ({"decimals": 1}, {"mean": "91.5"}, "mean is '91.5': write a number"),
        ({"decimals": 1}, {"mean": float("nan")}, "mean is nan: write a number"),
        ({"decimals": 1}, {"mean": 915.3}, "mean is 915.3: write a number of percent, 0 to 100"),
        ({"decimals": 1}, {"mean": -0.1}, "mean is -0.1: write a number of percent, 0 to 100"),
        ({"decimals": 1}, {"std": -1.0, "runs": 3}, "std is -1.0: write a number that is not negative"),
        ({"decimals": 1}, {"runs": 0}, "runs is 0: write a number of runs"),
        ({"decimals": 1}, {"source": " "}, "source is ' ': write a text"),
        ({"decimals": 1}, {"std": 0.3, "runs": 1}, "a std needs at least 2"),
        ({"decimals": 1}, {"id": "slca/main/slca/last_acc"}, "write the id as slca/<table>/<method>/stream/last_acc"),
        ({"decimals": 1}, {"id": "aepg/main/slca/stream/last_acc"}, "write the id as slca/"),
        ({"decimals": 1}, {"stream": "other"}, "write the id as slca/<table>/<method>/other/last_acc"),
        ({"decimals": 1}, {"table": "2"}, "table is '2': write the id's second part, 'main'"),
        ({}, {}, "decimals missing: add how many"),
    ],
)
def test_a_bad_cell_is_named(
    paper: dict[str, Any], entry: dict[str, Any], complaint: str, document: Callable[[Any], None]
) -> None:
    values = {key: value for key, value in {**CELL, **entry}.items() if value is not None}
    document({"paper": {**PAPER, **paper}, "cell": [values]})
    with pytest.raises(PublishedError, match=rf"papers/slca\.toml, cell .*{complaint}"):
        read_cells()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"tables": []}, r": unknown entries tables: known are paper, table, cell"),
        ({"paper": {"key": "slca"}}, "paper 'slca': name, title, venue, arxiv, metric missing"),
        ({"paper": {**PAPER, "key": "olor"}}, "paper: key is 'olor': write 'slca', the name of the file"),
        ({"cell": CELL}, r": cell is .*: write it as \[\[cell\]\]"),
        ({"paper": [PAPER]}, r": paper is .*: write it as \[paper\]"),
        ({"paper": {**PAPER, "seeds": ["1993"]}}, "seeds is .*: write a list of whole numbers"),
        ({"paper": {**PAPER, "splits": {"cifar": "official"}}}, "splits is .*: write a table of texts by data set"),
        ({"paper": {**PAPER, "varied": "seed"}}, "paper 'slca': unknown varied 'seed', choose one of class_order"),
        ({"table": [{**TABLE, "margin": 0}]}, "table 'slca/main': margin is 0: write a number of points above 0"),
        (
            {"table": [{"id": "slca/main", "margin": 0.5}]},
            "table 'slca/main': margin_reason, family_reason missing: add it",
        ),
        (
            {"table": [{**TABLE, "id": "slca/other"}]},
            "table 'slca/other': no cell belongs to it: write the first two parts",
        ),
        ({"table": [TABLE, TABLE]}, "duplicate ids: slca/main; delete one"),
        ({"rerun": [{}]}, "unknown entries rerun: known are paper, table, cell, grid"),
        (
            {"grid": {"streams": ["s"], "backbones": ["b"], "methods": ["SLCA"]}},
            "stream 'stream' is not in the file's grid: choose one of s",
        ),
    ],
)
def test_a_bad_file_is_named(content: dict[str, Any], complaint: str, document: Callable[[Any], None]) -> None:
    document({"paper": {**PAPER, "decimals": 1}, "cell": [CELL], **content})
    with pytest.raises(PublishedError, match=rf"papers/slca\.toml.*{complaint}"):
        read_cells()


def test_a_sound_cell_is_read(document: Callable[[Any], None]) -> None:
    other = {
        **CELL,
        "id": "slca/table-2/x/stream/inc_acc",
        "table": "2",
        "metric": "inc_acc",
        "std": 0.1,
        "runs": 2,
        "decimals": 2,
    }
    document({"paper": {**PAPER, "decimals": 1, "runs": 4}, "table": [TABLE], "cell": [CELL, other]})
    first, second = read_cells()
    assert first.published == Published(91.5, None, 4, rounding=0.05)
    assert second.published == Published(91.5, 0.1, 2, rounding=0.005)
    assert first.table == Table(**TABLE)
    assert second.table == Table("slca/table-2", margin=1.0)


def test_a_cell_of_olor_is_one_edit_that_the_check_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example in olor.toml's own comment, with its signs of a comment taken away."""
    known = set(cells())
    text = (published.FOLDER / "olor.toml").read_text(encoding="utf-8")
    start, end = text.index("# [[cell]]"), text.index("[paper]")
    example = "\n".join(line.removeprefix("#").strip() for line in text[start:end].splitlines())
    read = published._document

    def filled(edit: Callable[[str], str]) -> None:
        content = published.tomllib.loads(text + edit(example))
        monkeypatch.setattr(published, "_document", lambda name: content if name == "olor.toml" else read(name))

    filled(lambda cell: cell.replace("mean = 0.0", "mean = 91.2"))
    (added,) = set(read_cells()) - known
    assert (added.id, added.published) == (
        "olor/table-2/olor/cifar100-1/last_acc",
        Published(91.2, None, 1, rounding=0.005),
    )
    assert added.table == Table("olor/table-2")
    filled(lambda cell: cell.replace("cifar100-1", "cifar10-1"))
    with pytest.raises(
        PublishedError, match=r"papers/olor\.toml, cell .*stream 'cifar10-1' is not in the file's grid: .*cifar100-1"
    ):
        read_cells()
    filled(lambda cell: cell + "\nstd = 0.3")
    with pytest.raises(PublishedError, match=r"papers/olor\.toml, cell .*a std needs at least 2"):
        read_cells()


def test_a_cell_twice_and_a_missing_paper_are_named(document: Callable[[Any], None]) -> None:
    document({"paper": {**PAPER, "decimals": 1}, "cell": [CELL, CELL]})
    with pytest.raises(PublishedError, match=rf"duplicate ids: {CELL['id']}"):
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
        ({"metric": "miou"}, "unknown metric 'miou', choose one of last_acc"),
        ({"better": "dense-sem-olor"}, "unknown recipe 'dense-sem-olor'"),
        ({"kind": "better"}, "unknown kind 'better', choose one of superior, noninferior"),
        ({"family": "main"}, "unknown family 'main', choose one of confirmatory, exploratory"),
        ({"expected": "hold"}, "unknown expected 'hold', choose one of holds, contradicted, undecided"),
        ({"kind": "noninferior"}, "states its margin and margin_reason"),
        ({"kind": "noninferior", "margin": 1.0}, "states its margin and margin_reason"),
        ({"margin": 1.0, "margin_reason": "so"}, "states its margin and margin_reason"),
        (
            {"kind": "noninferior", "margin": "0.5", "margin_reason": "so"},
            "margin is '0.5': write a number of points above 0",
        ),
        (
            {"kind": "noninferior", "margin": -0.5, "margin_reason": "so"},
            "margin is -0.5: write a number of points above 0",
        ),
        ({"kind": "noninferior", "margin": 0.5, "margin_reason": ""}, "margin_reason is '': write a text"),
        ({"text": 3}, "text is 3: write a text"),
        ({"better": "slac"}, "unknown recipe 'slac': did you mean .*slca"),
        ({"worse": "linaer"}, "unknown recipe 'linaer': did you mean .*linear"),
        ({"stream": "quickdraw"}, "unknown stream 'quickdraw': did you mean .*quickdraw-1"),
        ({"family": "confirmatory", "planned": 10}, "has the seeds of its family: delete planned"),
        ({"family": "exploratory", "planned": 0}, "planned is 0: write a number of runs, 1 or more"),
    ],
)
def test_a_bad_claim_is_named(entry: dict[str, Any], complaint: str, document: Callable[[Any], None]) -> None:
    document(
        {"family": FAMILY, "claim": [{key: value for key, value in {**CLAIM, **entry}.items() if value is not None}]}
    )
    with pytest.raises(PublishedError, match=rf"papers/claims\.toml, claim 'slca/x': .*{complaint}"):
        read_claims()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"family": {**FAMILY, "seeds": 10.5}}, "family: seeds is 10.5: write a whole number, 2 or more"),
        ({"family": {**FAMILY, "seeds": 1}}, "family: seeds is 1: write a whole number"),
        ({"family": {**FAMILY, "alpha": "5%"}}, "family: alpha is '5%': write a number between 0 and 1"),
        ({"family": {**FAMILY, "alpha": 5}}, "family: alpha is 5: write a number between 0 and 1"),
        ({"family": {"alpha": 0.05}}, "family: seeds missing"),
        ({"family": [FAMILY]}, r"family is .*: write it as \[family\]"),
        ({"claim": CLAIM}, r": claim is .*: write it as \[\[claim\]\]"),
        ({"claim": [{"text": "no id"}]}, "claim 'number 1': id, source, .* missing"),
    ],
)
def test_a_bad_file_of_claims_is_named(
    content: dict[str, Any], complaint: str, document: Callable[[Any], None]
) -> None:
    document({"family": FAMILY, "claim": [CLAIM], **content})
    with pytest.raises(PublishedError, match=rf"papers/claims\.toml.*{complaint}"):
        read_claims()


def test_a_sound_claim_is_read(document: Callable[[Any], None]) -> None:
    document({"family": FAMILY, "claim": [{**CLAIM, "expected": "undecided"}]})
    assert read_claims() == (Claim(**CLAIM, expected="undecided"),)
    more = {**CLAIM, "family": "exploratory"}
    document({"family": FAMILY, "claim": [{**more, "planned": 7}, {**more, "id": "slca/y"}]})
    assert [planned_seeds(claim) for claim in read_claims()] == [7, 5]
    document({"family": FAMILY, "claim": [CLAIM, CLAIM]})
    with pytest.raises(PublishedError, match="duplicate ids: slca/x"):
        read_claims()
    document({})
    with pytest.raises(PublishedError, match=r"papers/claims\.toml: family, claim missing"):
        read_claims()


def test_what_is_not_toml_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "slca.toml").write_text("[paper\n")
    monkeypatch.setattr(headers, "FOLDER", tmp_path)
    with pytest.raises(PublishedError, match=r"papers/slca\.toml is not TOML: .*line 1"):
        papers.__wrapped__()
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    monkeypatch.setattr(published, "papers", lambda: {"slca": papers()["slca"]})
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
            "family": "exploratory",
            "better": "slca",
            "worse": "seqft-slow",
            "stream": "split-quickdraw-10",
            "kind": kind,
            "metric": metric,
            **margin,
            **changes,
        }
    )


def runs(
    recipe: str, values: list[float], metric: str = "last_acc", stream: str = "split-quickdraw-10"
) -> list[Record]:
    key = "entropy" if metric == "final_entropy" else "last_acc"
    named: Any = [{key: value} for value in values]
    return [synthetic_record(recipe, stream, seed, **name) for seed, name in enumerate(named)]


def judge(monkeypatch: pytest.MonkeyPatch, judged: list[Claim], records: list[Record]) -> list[ClaimVerdict]:
    monkeypatch.setattr(verdicts_of_claims, "claims", lambda tier: tuple(judged))
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
        assert ("[" in str(verdict)) == (len(better) > 1 and bool(verdict.difference.std))
        assert (verdict.note == "1 of 5 planned seeds") == (len(better) == 1)
        assert verdict.p_name == ("reverse p" if outcome == "contradicted" else "p")
        assert (f", {verdict.p_name} = {verdict.adjusted_p:.2g}" in str(verdict)) == (len(better) == 5)
        assert (verdict.adjusted_p < 0.05) == (outcome in ("holds", "contradicted"))
        shown = verdict.as_dict()
        assert (shown["adjusted_p"], shown["p_name"], shown["note"]) == (
            verdict.adjusted_p,
            verdict.p_name,
            verdict.note,
        )
        assert (shown["effect_size"], shown["hedges_g"]) == (
            verdict.difference.effect_size,
            verdict.difference.hedges_g,
        )
    else:
        assert str(verdict) == "-"


@pytest.mark.parametrize(("better", "outcome"), [(0.2, "holds"), (0.8, "contradicted")])
def test_less_entropy_is_better(better: float, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    records = runs("slca", [better + 0.01 * x * x for x in NOISE], "final_entropy") + runs(
        "seqft-slow", [0.5] * 5, "final_entropy"
    )
    (verdict,) = judge(monkeypatch, [claim(metric="final_entropy")], records)
    assert verdict.outcome == outcome
    assert verdict.difference is not None
    assert (verdict.difference.value > 0) == (outcome == "holds")


def test_runs_are_paired_by_seed_on_the_stream_of_the_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    worse = runs("seqft-slow", [50 + x for x in NOISE])
    elsewhere = runs("slca", [10.0] * 5, stream="split-quickdraw-5")
    better = runs("slca", [55, 57, 58, 58, 61])[::-1]
    (verdict,) = judge(monkeypatch, [claim()], worse + elsewhere + better)
    assert verdict.outcome == "holds"
    assert verdict.difference is not None
    assert (verdict.difference.seeds, verdict.difference.unmatched) == ((0, 1, 2, 3, 4), ())
    (verdict,) = judge(monkeypatch, [claim()], worse[1:] + elsewhere + better)
    assert verdict.difference is not None
    assert (verdict.difference.seeds, verdict.difference.unmatched) == ((1, 2, 3, 4), (0,))
    assert verdict.as_dict()["unmatched"] == [0]
    (verdict,) = judge(monkeypatch, [claim()], worse + elsewhere)
    assert verdict.outcome == "not run"


@pytest.mark.parametrize(("family", "planned"), [("confirmatory", 10), ("exploratory", 5)])
def test_seeds_beyond_the_planned_ones_do_not_count(family: str, planned: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert planned == published.planned_seeds(claim(family=family))
    # the first seeds speak for the claim, all others against it
    values = [50 + seed / 2 for seed in range(planned + 5)]
    better = [x + (5 + seed % 2 if seed < planned else -40) for seed, x in enumerate(values)]
    (verdict,) = judge(monkeypatch, [claim(family=family)], runs("slca", better) + runs("seqft-slow", values))
    assert verdict.difference is not None
    assert verdict.difference.seeds == tuple(range(planned))
    assert (verdict.outcome, verdict.note) == ("holds", "")


@pytest.mark.parametrize(("family", "planned"), [("confirmatory", 10), ("exploratory", 5)])
@pytest.mark.parametrize("gain", [5, -5])
def test_there_is_no_verdict_before_all_planned_seeds(
    family: str, planned: int, gain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [50 + seed for seed in range(planned)]
    better = [x + gain + seed % 2 for seed, x in enumerate(values)]
    for n in range(planned + 1):
        (verdict,) = judge(monkeypatch, [claim(family=family)], runs("slca", better[:n]) + runs("seqft-slow", values))
        if n in (0, planned):
            final = "holds" if gain > 0 else "contradicted"
            assert (verdict.outcome, verdict.note) == ("not run" if n == 0 else final, "")
        else:
            assert (verdict.outcome, verdict.note) == ("undecided", f"{n} of {planned} planned seeds")
            assert str(verdict).endswith(f", n = {n} of {planned} planned seeds")
            assert (verdict.judged.p, verdict.judged.reverse_p) == (1.0, 1.0)


NARROW = [2.0, 0.5, 0.5, 2.0, 1.0, -1.0, 1.0, 0.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("better", "worse", "outcome"), [("slca", "seqft-slow", "holds"), ("seqft-slow", "slca", "contradicted")]
)
def test_holm_runs_over_the_confirmatory_family_alone(
    better: str, worse: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = runs("slca", [50 + seed + x for seed, x in enumerate(NARROW)]) + runs(
        "seqft-slow", [50 + seed for seed in range(10)]
    )
    records += runs(
        "linear", [20 + seed + x for seed, x in enumerate([0.0, 0.5] * 4 + [0.0])]
    )  # strong, but a seed is missing
    asked = {"better": better, "worse": worse}
    (alone,) = judge(monkeypatch, [claim(family="confirmatory", **asked)], records)
    assert alone.outcome == outcome
    unfinished = claim(family="confirmatory", id="slca/z", better=worse, worse="linear")
    not_run = [claim(family="confirmatory", id=f"slca/{i}", better="joint") for i in range(9)]
    family = [claim(family="confirmatory", **asked), unfinished, *not_run]
    first, second, *_, explored = judge(monkeypatch, [*family, claim(id="slca/y", **asked)], records)
    assert second.outcome == "undecided"
    assert second.difference is not None
    assert second.difference.n == 9
    # what is not run yet keeps its place, and so does what is not finished
    p = (lambda judged: judged.p) if outcome == "holds" else (lambda judged: judged.reverse_p)
    assert p(first.judged) == pytest.approx(11 * p(alone.judged))
    assert (first.outcome, explored.outcome) == ("undecided", outcome)
    assert str(first).endswith(f", p = {first.judged.p:.2g}, reverse p = {first.judged.reverse_p:.2g}")
    (by_itself,) = judge(monkeypatch, [claim(id="slca/y", **asked)], records)
    assert explored == by_itself


def test_one_header_a_paper() -> None:
    found = papers()
    # in the order in which they appeared
    assert list(found) == ["l2p", "dualprompt", "ssf", "coda", "slca", "aper", "ranpac", "olor", "inflora", "aepg"]
    assert found["slca"].label == "SLCA (ICCV 2023, arXiv 2303.05118)"
    assert found["aepg"].label == "aEPG (arXiv 2602.14078)"
    assert {paper.metric for paper in found.values()} <= set(METRICS)
    assert found["slca"].seeds == (1993, 1996, 1997)


def test_a_header_without_what_it_needs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "new.toml").write_text('[paper]\nkey = "new"\ntitle = "A paper"\n\n[[cell]]\n')
    monkeypatch.setattr(headers, "FOLDER", tmp_path)
    with pytest.raises(PublishedError, match=r"papers/new\.toml, paper: name, venue, arxiv, metric missing: add it"):
        headers.papers.__wrapped__()
