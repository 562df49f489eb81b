"""The page and the figures: what is in the files, read back as HTML and XML."""

from __future__ import annotations

import builtins
import copy
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from outside_records import PLUGIN, on_own_images, ours, theirs, with_backbone
from PIL import Image
from reclaim.benchmark.config import Config
from reclaim.benchmark.data.streams import LISTED
from reclaim.benchmark.papers.headers import papers
from reclaim.benchmark.papers.protocols import find_cell
from reclaim.benchmark.papers.published import CLAIMS, ClaimTier, cells, claims
from reclaim.benchmark.recipes import RECIPES, recipes_of
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.report import figures, forest
from reclaim.benchmark.report.board import (
    DENSE_NOT_COMPARABLE,
    MIDDLE_NOT_COMPARABLE,
    NOT_COMPARABLE,
    OF_ONES_OWN,
    rows,
    tier_name,
)
from reclaim.benchmark.report.page import CURVES, IN_WORDS, render, seed_options, size
from reclaim.benchmark.report.svg import Scale
from reclaim.benchmark.verdicts.cells import check_cells
from reclaim.benchmark.verdicts.claims import judge_claims
from small_runs import synthetic_record

VOID = {"meta", "link", "input", "br"}
# what a browser fetches by itself; <a href> is only a link
LOADING = {"src", "srcset", "data", "action", "poster", "background", "xlink:href", "formaction"}


class Node:
    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Node | str] = []

    def all(self, tag: str, **wanted: str) -> list[Node]:
        """Descendants with this tag and these attributes; ``class_`` holds one class."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                classes = (child.attributes.get("class") or "").split()
                if child.tag == tag and all(
                    value in classes if key == "class_" else child.attributes.get(key.replace("_", "-")) == value
                    for key, value in wanted.items()
                ):
                    found.append(child)
                found += child.all(tag, **wanted)
        return found

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Tree(HTMLParser):
    """The page as a tree; a tag that is closed out of turn or never fails the test."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert [node.tag for node in self.open[1:]] == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice: {attrs}"
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def sample() -> list[Record]:
    records = [
        *(synthetic_record("slca", seed=seed, last_acc=60 + seed, entropy=0.5) for seed in range(4)),
        *(synthetic_record("seqft-slow", seed=seed, last_acc=50 + seed % 2) for seed in range(3)),
        synthetic_record("joint", last_acc=70),
        *(synthetic_record("lora-ce", seed=seed, last_acc=55 + seed) for seed in (0, 1, 5)),
        *(synthetic_record("lora-aepg", seed=seed, last_acc=54 + seed) for seed in (0, 1, 5)),
        *(synthetic_record("olor-1", "quickdraw-1", seed, last_acc=65 + seed) for seed in range(2)),
    ]
    # one matrix that is not flat; its last row stays as it is, since the bits add up to it
    result = records[0].result
    result["accuracy"] = [*([90.0 - 2 * t - i for i in range(t + 1)] for t in range(9)), result["accuracy"][9]]
    return records


def of_a_cell(seed: int, mean: float) -> Record:
    """A run of a published cell, which only its records can be."""
    return synthetic_record(
        "slca.main.slca", "split-cifar100-10", seed, last_acc=mean, config=Config(backbone="vit_base_patch16_224")
    )


def page(records: list[Record], of_cells: list[Record] | None = None) -> str:
    return render(rows(records), judge_claims(records), check_cells([*records, *(of_cells or [])]))


def row_of(root: Node, opens: str) -> Node:
    (row,) = root.all("tr", class_="row", id=opens)
    return row


def data_of(root: Node) -> dict[str, Any]:
    """What the script builds from."""
    (block,) = root.all("script", id="data")
    return json.loads(block.text)


@pytest.fixture(scope="module")
def text() -> str:
    return page(sample())


@pytest.fixture(scope="module")
def tree(text: str) -> Node:
    return Tree(text).root


def test_nothing_is_loaded(text: str, tree: Node) -> None:
    def nodes(node: Node) -> list[Node]:
        return [node, *(n for child in node.children if isinstance(child, Node) for n in nodes(child))]

    everything = nodes(tree)
    assert not {"img", "iframe", "object", "embed", "video", "audio", "form", "base"} & {
        node.tag for node in everything
    }
    assert [a for node in everything for a in node.attributes if a in LOADING] == []
    assert [node.attributes["href"] for node in tree.all("link")] == ["data:,"]
    (policy,) = tree.all("meta", http_equiv="Content-Security-Policy")
    assert "default-src 'none'" in (policy.attributes["content"] or "")
    outside_links = re.sub(r'<a href="[^"]*"', "", text)
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|import\(", outside_links)


def test_everything_that_is_pointed_at_is_there(tree: Node) -> None:
    tags = ("section", "h3", "table", "tr", "button", "input", "select", "output")
    ids = [node.attributes["id"] for tag in tags for node in tree.all(tag) if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    pointed = [(a.attributes["href"] or "")[1:] for a in tree.all("a") if (a.attributes["href"] or "").startswith("#")]
    assert set(pointed) <= set(ids)
    filtered = {i.attributes["data-filter"] for i in tree.all("input", type="search")}
    assert filtered <= set(ids)
    assert filtered == {o.attributes["data-count"] for o in tree.all("output") if "data-count" in o.attributes}
    rows_ = tree.all("tr", class_="row")
    assert len(tree.all("button", class_="open")) == len(rows_) > len(cells())  # every row opens
    data = data_of(tree)
    opened = [*data["rows"], *data["claims"], *data["cells"]]
    assert sorted(opened) == sorted(row.attributes["id"] or "" for row in rows_)  # each to what is in the data


def test_protocols_share_a_table_and_no_ranking(tree: Node) -> None:
    (table,) = tree.all("table", id="table-methods")
    shown = {
        body.attributes["data-stream"]: [
            (row.all("code")[0].text, row.all("td")[0].text, row.all("td", class_="p1")[0].text.strip())
            for row in body.all("tr", class_="row")
        ]
        for body in table.all("tbody")
    }
    assert shown["split-quickdraw-10"] == [
        ("joint", "3 epochs", "-"),
        ("slca", "3 epochs", "1 of 2 1 to 1"),
        ("lora-ce", "5 epochs", "1 of 2 1 to 1"),
        ("lora-aepg", "5 epochs", "2 of 2 2 to 2"),
        ("seqft-slow", "3 epochs", "2 of 2 2 to 2"),
    ]  # by Last-Acc, over both protocols
    assert [place for _, _, place in shown["quickdraw-1"]] == ["-"]


def test_the_embedded_tier_is_labelled_where_its_numbers_are(tree: Node) -> None:
    (section,) = tree.all("section", id="claims")
    assert "Embedded tier" in [h3.text for h3 in section.all("h3")]
    assert NOT_COMPARABLE in section.all("p", class_="warning")[0].text
    groups = tree.all("section", id="methods")[0].all("tr", class_="group")
    assert len(groups) == 2
    assert all(NOT_COMPARABLE in group.text and "embedded tier" in group.text for group in groups)
    assert "paper tier" in tree.all("section", id="numbers")[0].all("h2")[0].text
    assert NOT_COMPARABLE not in tree.all("section", id="numbers")[0].text


def test_a_row_opens_recipe_records_and_command(tree: Node) -> None:
    data = data_of(tree)
    row = data["rows"]["lora-ce@split-quickdraw-10"]
    assert row["about"] == RECIPES["lora-ce"].description
    assert row["commands"] == [
        "reclaim run lora-ce split-quickdraw-10 --seeds 2",
        "reclaim run lora-ce split-quickdraw-10 --seeds 5-5",
    ]
    assert Config().set([data["settings"][k] for k in row["config"]]) == RECIPES["lora-ce"].config
    assert row["records"] == f"records/lora-ce/split-quickdraw-10/{synthetic_record('lora-ce').config_hash}/"
    assert (row["linked"], row["seeds"]) == (True, [0, 1, 5])
    assert "aepg/aepg" in row["claims"]
    mean, std, low, high = row["numbers"]["last_acc"]
    assert (mean, std, low + high) == (5700, 265, 11400)
    assert row["rank"] == [1, 1, 1, 2]
    assert data["rows"]["joint@split-quickdraw-10"]["numbers"]["last_acc"] == [7000]  # one seed


def test_heat_maps_and_curves_show_the_means(tree: Node) -> None:
    data = data_of(tree)
    row = data["rows"]["slca@split-quickdraw-10"]
    unknown, known = row["matrices"]
    first = sample()[0].result["accuracy"]
    assert (len(unknown), unknown[8 * 9 // 2]) == (55, round((first[8][0] + 61.0 + 62.0 + 63.0) / 4))
    assert known[9 * 10 // 2] == 62  # 61.5
    means, halves = row["curves"]["accuracy"]
    assert (means[9], len(means), len(halves)) == (615, 10, 10)  # tenths of a percent
    assert len(row["curves"]["entropy"][0]) == 30
    # the headline recipes at first, and never joint training
    expected = [f"{name}@split-quickdraw-10" for name in ("slca", "lora-ce", "lora-aepg", "seqft-slow")]
    assert sorted(data["boards"]["split-quickdraw-10"]["first"]) == sorted(expected)
    assert not data["rows"]["joint@split-quickdraw-10"]["drawn"]
    assert len(data["rows"]["olor-1@quickdraw-1"]["curves"]["accuracy"][0]) == 1  # one task: no chart


def test_claims_have_their_verdict(tree: Node) -> None:
    (row,) = tree.all("tr", id="slca/alignment")
    (verdict,) = (v for v in judge_claims(sample()) if v.claim.id == "slca/alignment")
    assert row.all("span", class_="badge")[0].text.split()[1] == verdict.outcome
    assert verdict.difference is not None
    assert f"{verdict.difference.value:+.2f}" in row.text
    assert "over 3 of 10 planned seeds: undecided until all of them are run." in row.text
    assert len(row.all("circle", class_="seed")) == 3
    assert "nats" in tree.all("section", id="claims")[0].all("p")[0].text
    (not_run,) = tree.all("tr", id="olor/full")
    assert "not run" in not_run.all("span", class_="badge")[0].text
    assert not_run.all("circle") == []


def test_the_first_screen_says_what_holds(tree: Node) -> None:
    assert tree.all("h1")[0].text == "Do the claims of three continual-learning papers hold?"
    cards = tree.all("article", class_="card")
    assert [(card.all("a")[0].text, card.all("a")[0].attributes["href"]) for card in cards] == [
        (paper.name, f"https://arxiv.org/abs/{paper.arxiv}")
        for paper in (papers()[k] for k in ("slca", "olor", "aepg"))
    ]
    verdicts = judge_claims(sample())
    for card, key in zip(cards, ("slca", "olor", "aepg"), strict=True):
        planned = [v for v in verdicts if v.claim.paper == key and v.claim.family == "confirmatory"]
        (said,) = card.all("p", class_="verdicts")
        assert f"of {len(planned)} planned claims" in said.text
        for outcome in {v.outcome for v in planned}:
            assert f"{sum(v.outcome == outcome for v in planned)} {IN_WORDS[outcome]}" in said.text
    assert "0 of 48 run" in cards[0].text
    assert "no readable copy" in cards[1].text
    points, nats = tree.all("table", class_="forest")
    assert len(points.all("tbody")[0].all("tr")) == 9
    assert len(nats.all("tbody")[0].all("tr")) == 2
    assert f"0 of {len(cells())} published numbers run" in tree.all("p", class_="lead")[0].text


# --- tiers ---


def of_all_tiers(*tiers: ClaimTier, embedded: Sequence[Record] = ()) -> str:
    """The page of the sample, and of ten seeds of every trained recipe of other tiers."""
    records = [*(embedded or sample())]
    for tier in tiers:
        for place, recipe in enumerate(r for r in recipes_of(tier).values() if r.config.epochs and not r.fact):
            records += [
                synthetic_record(recipe.name, recipe.home, seed, last_acc=40 + place + seed * (1 + place % 10) % 11)
                for seed in range(10)
            ]
    verdicts = [v for tier in CLAIMS for v in judge_claims(records, tier)]
    listed = [r for r in records if r.stream in LISTED]
    return render(rows(listed), verdicts, check_cells(records), records)


def test_a_tier_without_runs_says_so_in_words() -> None:
    root = Tree(of_all_tiers()).root
    test_everything_that_is_pointed_at_is_there(root)
    (lead,) = root.all("p", class_="lead")
    assert lead.all("strong")[0].text == f"0 of {len(cells())} published numbers run."
    assert "Middle tier, photographs and a small CNN: no runs yet." in lead.text
    assert "Detection and segmentation, on canvases of drawings: no runs yet." in lead.text
    names: dict[ClaimTier, str] = {"middle": "Middle tier", "dense": "Detection and segmentation"}
    for tier, name in names.items():
        for card, key in zip(root.all("article", class_="card"), ("slca", "olor", "aepg"), strict=True):
            planned = sum(c.paper == key and c.family == "confirmatory" for c in claims(tier))
            assert (f"{name}: no runs yet, {planned} planned claims." in card.text) == (planned > 0)
    listed = root.all("section", id="claims")[0].all("li")
    assert len(listed) == len(claims("middle")) + len(claims("dense"))
    assert not root.all("section", id="dense")
    assert len(root.all("table", class_="forest")) == 2
    assert set(data_of(root)["claims"]) == {claim.id for claim in claims("embedded")}


def test_every_tier_has_claims_forest_and_table_of_its_own() -> None:
    root = Tree(of_all_tiers("middle", "dense")).root
    test_everything_that_is_pointed_at_is_there(root)
    assert "no runs yet" not in root.text
    captions = [table.all("caption")[0].text for table in root.all("table", class_="forest")]
    for tier in CLAIMS:
        planned = [c for c in claims(tier) if c.family == "confirmatory"]
        (points,) = (caption for caption in captions if f"in points ({tier_name(tier)})" in caption)
        assert points.startswith(f"{sum(c.metric != 'final_entropy' for c in planned)} planned claims")
    titles = [h3.text for h3 in root.all("section", id="claims")[0].all("h3")]
    assert titles == ["Embedded tier", "Middle tier", "Detection and segmentation"]
    holm = {tier: sum(c.family == "confirmatory" for c in claims(tier)) for tier in CLAIMS}
    for claim in ("slca/middle-alignment", "olor/dense-sem-full"):
        (row,) = root.all("tr", id=claim)
        tier: ClaimTier = "middle" if "middle" in claim else "dense"
        assert f"after Holm over {holm[tier]} claims" in row.text
    groups = root.all("section", id="methods")[0].all("tr", class_="group")
    notes = {group.attributes["id"]: group.all("span", class_="warning")[0].text for group in groups}
    assert notes["split-cifar10-5"] == notes["cifar10-1"] == MIDDLE_NOT_COMPARABLE
    assert notes["split-quickdraw-10"] == NOT_COMPARABLE
    assert not any("canvases" in str(name) for name in notes)
    (dense,) = root.all("section", id="dense")
    assert DENSE_NOT_COMPARABLE in dense.text
    shown = [row.all("code")[0].text for table in dense.all("table") for row in table.all("tbody")[0].all("tr")]
    assert sorted(shown) == sorted(recipes_of("dense"))
    for table in dense.all("table"):
        lines = table.all("tbody")[0].all("tr")
        assert all(row.all("td")[-1].text == "10" for row in lines)
        assert all("±" in row.all("td")[0].text for row in lines)


def test_runs_of_another_tier_change_nothing_of_the_embedded_one() -> None:
    alone, among = (Tree(of_all_tiers(*tiers)).root for tiers in ((), ("middle", "dense")))

    def embedded(root: Node) -> list[str]:
        ids = [claim.id for claim in claims("embedded")]
        kept = [row.text for id in ids for row in root.all("tr", id=id)]
        kept += [forest.text for forest in root.all("table", class_="forest")[:2]]
        bodies = root.all("table", id="table-methods")[0].all("tbody")
        return kept + [b.text for b in bodies if "quickdraw" in (b.attributes["data-stream"] or "")]

    assert embedded(alone) == embedded(among)
    assert len(embedded(alone)) > len(claims("embedded"))


def test_canvases_alone_make_a_page() -> None:
    records = [synthetic_record("dense-sem-full", "quickdraw-canvases", seed, last_acc=30 + seed) for seed in range(3)]
    verdicts = [v for tier in CLAIMS for v in judge_claims(records, tier)]
    root = Tree(render([], verdicts, check_cells([]), records)).root
    test_everything_that_is_pointed_at_is_there(root)
    assert "Embedded tier, a miniature on drawings: no runs yet." in root.all("p", class_="lead")[0].text
    assert [section.attributes["id"] for section in root.all("section")] == [
        *("claims", "numbers", "dense", "disagree", "reading")
    ]


def test_a_claim_opens_its_numbers_recipes_and_commands(tree: Node) -> None:
    data = data_of(tree)
    claim = data["claims"]["slca/alignment"]
    (verdict,) = (v for v in judge_claims(sample()) if v.claim.id == "slca/alignment")
    assert verdict.difference is not None
    assert verdict.claim.source in claim["about"]
    shown = dict(claim["numbers"])
    assert shown["Difference, points"] == f"{verdict.difference.value:+.2f}"
    assert shown["95% interval"] == "{:+.2f} to {:+.2f}".format(*verdict.difference.interval() or ())
    assert shown["n, seeds that both have"] == "3 of 10 planned seeds"
    assert shown["By seed"] == "0: +10.00; 1: +10.00; 2: +12.00"
    assert "p, for the claim" not in shown  # not before all seeds are there
    assert claim["recipes"] == [[r, [f"reclaim run {r} split-quickdraw-10 --seeds 3"]] for r in ("slca", "seqft-slow")]
    assert "--seeds 10" in data["claims"]["olor/full"]["recipes"][0][1][0]  # as planned
    every = [
        synthetic_record(recipe, seed=seed, last_acc=60 + seed)
        for recipe in ("slca", "seqft-slow")
        for seed in range(10)
    ]
    shown = dict(data_of(Tree(page(every)).root)["claims"]["slca/alignment"]["numbers"])
    assert (shown["p, for the claim"], shown["Reverse p, against it"]) == ("1", "1")
    assert shown["95% interval"] == "none, the same in 10 seeds"
    of_one = [record for record in every if record.seed == 0]
    shown = dict(data_of(Tree(page(of_one)).root)["claims"]["slca/alignment"]["numbers"])
    assert shown["95% interval"] == "none, one seed"


def test_a_cell_opens_its_sources_records_and_commands() -> None:
    runs = [of_a_cell(seed, 91.5) for seed in range(2)]
    data = data_of(Tree(page(sample(), runs)).root)
    by_id = {cell.id: cell for cell in cells()}
    cell = by_id["slca/main/slca/split-cifar100-10/last_acc"]
    opened = data["cells"][cell.id]
    run, _, _ = cell.id.rpartition("/")
    assert opened["commands"] == [f"reclaim run --cell {run} --root DIR --seeds 3"]
    assert len(cell.reruns) == 5
    said = [text for _, text in opened["numbers"]]
    assert all(any(again.source in text for text in said) for again in cell.reruns)
    place = f"records/{cell.recipe}/{cell.stream}/{runs[0].config_hash}"
    assert opened["runs"] == [[str(seed), f"{place}/{seed}.json"] for seed in (0, 1)]
    shown = dict(opened["numbers"])
    assert shown["■ Printed in slca/main"] == "91.53; sd 0.28; n = 3"
    assert shown["● Ours"] == "91.50; the same with every seed; n = 2"
    natural = data["cells"]["slca/main/bic/split-cifar100-10/last_acc"]
    assert any("setting: natural reading" in note for note in natural["notes"])
    assert natural["runs"] == []
    first, *others = data["cells"]["aepg/table-2/lora-focal/split-imagenet-r-10/task_avg_last_acc"]["commands"]
    assert [other.removeprefix(f"{first} --set ").split("=")[0] for other in others] == ["loss.coefficient"] * (
        len(others) or 1
    )


def test_runs_of_cells_alone_make_a_page_without_the_embedded_tier() -> None:
    root = Tree(page([], [of_a_cell(seed, 91.5) for seed in range(2)])).root
    assert [section.attributes["id"] for section in root.all("section")] == ["numbers", "disagree", "reading"]
    assert f"2 of {len(cells())} published numbers run, in 2 runs" in root.all("p", class_="lead")[0].text
    assert NOT_COMPARABLE not in root.text
    assert len(root.all("section", id="numbers")[0].all("circle")) == 2  # Last-Acc and Inc-Acc


def test_cells_that_were_not_run_say_so_and_runs_are_judged() -> None:
    nothing = Tree(page(sample())).root.all("section", id="numbers")[0]
    assert len(nothing.all("tr", class_="row")) == len(cells())
    assert {badge.text.split(" ", 1)[1] for badge in nothing.all("span", class_="badge")} == {"not run"}
    assert "48 published numbers, none run" in nothing.all("h3")[0].text
    (grid, *_) = nothing.all("table", class_="grid-table")
    assert [td.text for td in grid.all("td")] == [f"0 of {n} run not run" for n in (13, 9, 11, 7, 2, 2, 2, 2)]
    assert nothing.all("circle") == []
    values = [91.4, 91.5, 91.6, 91.5, 91.45, 91.55]
    some = Tree(page(sample(), [of_a_cell(seed, value) for seed, value in enumerate(values)])).root.all(
        "section", id="numbers"
    )[0]
    row = row_of(some, "slca/main/slca/split-cifar100-10/last_acc")
    assert "91.53" in row.text
    assert "sd 0.28, n = 3" in row.text
    assert "±" not in row.text  # which would be two things
    assert "reproduced" in row.text
    assert len(row.all("circle")) == 1
    assert len(row.all("path", class_="rerun")) == 5
    assert "48 published numbers, 2 run" in some.all("h3")[0].text  # Last-Acc and Inc-Acc of one run
    (first, *_) = some.all("table", class_="grid-table")[0].all("td")
    assert first.text.startswith("2 of 13 run ✓ 1 reproduced")
    # both verdicts, each with its difference, and the prediction interval
    check = check_cells([of_a_cell(seed, value) for seed, value in enumerate(values)])[
        "slca/main/slca/split-cifar100-10/last_acc"
    ]
    assert check.judged is not None
    sampled, constant, predicted = check.judged.sampled, check.judged.constant, check.prediction_interval
    ours = check.judged.ours
    assert ours is not None
    assert ours.interval is not None
    assert "{:.2f} sd {:.2f}, n = 6 {:.2f} to {:.2f}".format(ours.mean, ours.std or 0, *ours.interval) in row.text
    assert sampled.interval is not None
    assert constant.interval is not None
    assert predicted is not None
    heads = [th.text.strip() for th in some.all("table", class_="numbers")[0].all("thead")[0].all("th")]
    shown = dict(zip(heads[1:], (td.text for td in row.all("td")), strict=True))
    assert shown["Difference"] == "{:+.2f} {:+.2f} to {:+.2f}".format(-0.03, *sampled.interval)
    assert shown["As a constant"] == "✓ reproduced {:+.2f} to {:+.2f}".format(*constant.interval)
    opened = dict(
        data_of(Tree(page(sample(), [of_a_cell(seed, v) for seed, v in enumerate(values)])).root)["cells"][
            check.cell.id
        ]["numbers"]
    )
    assert opened["Prediction"] == "in {:.2f} to {:.2f}".format(*predicted)
    assert "(as a constant)" not in row.text


def test_a_cell_without_published_std_is_judged_as_a_constant() -> None:
    (cell,) = (c for c in cells() if c.id == "slca/main/seqft+sl/split-imagenet-r-10/last_acc")
    assert cell.published.std is None
    config = find_cell(cell.id)[0].config
    runs = [
        synthetic_record(cell.recipe, cell.stream, seed, mean, config=config)
        for seed, mean in enumerate((74.0, 74.5, 74.0))
    ]
    for run in runs:
        run.result["remarks"] = ["NOT the papers' split: 0.8 / 0.2 by seed 0"]
    root = Tree(page(sample(), runs)).root.all("section", id="numbers")[0]
    row = row_of(root, cell.id)
    assert row.all("span", class_="badge")[0].text == "▲ above (as a constant; another split)"
    assert row.all("span", class_="badge")[1].text == "▲ above"
    assert "Prediction" not in dict(data_of(Tree(page(sample(), runs)).root)["cells"][cell.id]["numbers"])


def test_the_page_is_of_modest_size_with_ten_times_the_recipes() -> None:
    every = [
        synthetic_record(r.name, r.home, seed, last_acc=50 + seed)
        for r in recipes_of("embedded").values()
        if not r.fact
        for seed in range(2)
    ]
    table = rows(every)
    more = [replace(row, recipe=row.recipe, key=f"{row.key}-{k}") for k in range(10) for row in table]
    verdicts, checks = judge_claims(every), check_cells(every)
    once, ten = (render(of, verdicts, checks) for of in (table, more))
    assert len(ten.encode()) < 3_000_000
    # what a browser has to build: of a recipe its row, and neither details nor curves. A row is about 25 elements, a
    # point of a scatter plot two; all else of the page is there once
    elements = [len(re.findall(r"<[a-z]", text)) for text in (once, ten)]
    assert elements[1] - elements[0] <= 30 * (len(more) - len(table))
    assert elements[1] < 4 * elements[0]


def test_names_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = copy.copy(RECIPES["slca"])
    object.__setattr__(recipe, "title", '<script>alert("x")</script>')
    monkeypatch.setitem(RECIPES, "slca", recipe)
    root = Tree(page(sample())).root
    assert len(root.all("script")) == 2
    assert '<script>alert("x")</script>' in root.all("table", id="table-methods")[0].text
    assert data_of(root)["rows"]["slca@split-quickdraw-10"]["title"] == '<script>alert("x")</script>'


@pytest.mark.parametrize(
    ("seeds", "expected"), [((0,), ["1"]), (range(10), ["10"]), ((3, 4, 5), ["3-5"]), ((7, 0, 1), ["2", "7-7"])]
)
def test_seed_options(seeds: Any, expected: list[str]) -> None:
    assert seed_options(seeds) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0"), (999, "999"), (6_604_800, "6.6 M"), (24_576, "24.6 k"), (2e9, "2 G"), (999_600, "1 M"), (10**12, "1 T")],
)
def test_size(number: int, expected: str) -> None:
    assert size(number) == expected


# --- geometry ---


@pytest.mark.parametrize(
    ("values", "low", "high", "step"),
    [
        ((47.0, 66.2), 45, 70, 5),
        ((3.0,), 3, 4, 1),
        ((0.0, 0.31), 0, 0.4, 0.1),
        ((-20.0, 130.0), 0, 100, 20),
        ((50.0, 60.0), 50, 60, 2),
        ((48.0, 48.00000000000001), 48, 49, 1),
    ],
)
def test_scales_hold_their_values(values: tuple[float, ...], low: float, high: float, step: float) -> None:
    scale = Scale.around(values, 0, 100, limits=(0, 100))
    assert (scale.low, scale.high, scale.step) == pytest.approx((low, high, step))
    assert scale.ticks[0] == pytest.approx(low)
    assert scale.ticks[-1] == pytest.approx(high)
    assert (scale.at(low), scale.at(high), scale.at(high + 1)) == ("0", "100", "100")


def test_the_last_bits_do_not_show() -> None:
    scale = Scale(0, 100, 10, 0, 300)
    assert {scale.at(value) for value in (33.3, 33.3 + 1e-12, 33.3 - 1e-12)} == {"99.9"}
    assert scale.at(-1e-12) == "0"


# --- figures ---


def test_figures_are_the_same_twice(tmp_path: Path) -> None:
    table = [row for row in rows(sample()) if row.recipe in ("slca", "joint", "olor-1")]
    checks = {name: check for name, check in check_cells([]).items() if name.startswith("slca/slca++/")}
    split = [f"split-quickdraw-10-{part}" for part in ("last-acc", "accuracy", "entropy", "matrix-slca")]
    stems = [*split, "quickdraw-1-last-acc", "quickdraw-1-entropy", "cells-slca-slca++"]
    outputs = []
    for name in ("a", "b"):
        written = figures.write(table, checks, tmp_path / name)
        assert [path.name for path in written] == [f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")]
        outputs.append({path.name: path.read_bytes() for path in written})
    assert outputs[0] == outputs[1]
    for name, content in outputs[0].items():
        if name.endswith(".svg"):
            drawn = "".join(ElementTree.fromstring(content).itertext())
            assert ("Embedded tier" in drawn) == (not name.startswith("cells-"))
            assert (RECIPES["slca"].title in drawn) == (not name.startswith("quickdraw-1"))


def test_claims_have_a_figure_a_family_and_a_card(tmp_path: Path) -> None:
    verdicts = judge_claims(sample())
    written = figures.write([], {}, tmp_path, verdicts)
    families = ("claims-embedded-confirmatory", "claims-embedded-exploratory")
    assert {path.name for path in written} == {
        *(f"{f}.{kind}" for f in families for kind in ("svg", "png")),
        "card.png",
    }
    with Image.open(tmp_path / "card.png") as card:
        assert card.size == (1200, 630)
    drawn = "".join(ElementTree.parse(tmp_path / f"{families[0]}.svg").getroot().itertext())
    assert "Classifier alignment improves the slow learner: undecided" in drawn
    assert "in points" in drawn
    assert "in nats" in drawn


def test_pictures_of_claims_tell_the_tiers_apart(tmp_path: Path) -> None:
    records = [*sample(), *(synthetic_record("dense-sem-full", "quickdraw-canvases", seed) for seed in range(3))]
    records += [synthetic_record("dense-sem-olor", "quickdraw-canvases", seed, last_acc=60) for seed in range(3)]
    verdicts = [v for tier in CLAIMS for v in judge_claims(records, tier)]
    drawn = "".join(ElementTree.fromstring(forest.picture(verdicts)).itertext())
    assert "in points (embedded tier)" in drawn
    assert "in points (detection and segmentation)" in drawn
    assert "middle" not in drawn  # has no runs
    planned = [v.claim for v in verdicts if v.claim.family == "confirmatory" and v.claim.tier != "middle"]
    assert all(claim.text in drawn for claim in planned)  # none is cut
    written = {path.name for path in figures.write([], {}, tmp_path, verdicts)}
    assert {"claims-embedded-confirmatory.svg", "claims-dense-confirmatory.svg", "card.png"} <= written
    assert not any("middle" in name for name in written)


def test_a_long_table_is_drawn_by_stream_with_labels_that_differ(tmp_path: Path) -> None:
    checks = {name: check for name, check in check_cells([]).items() if name.startswith("aepg/table-2/")}
    written = figures.write([], checks, tmp_path)
    assert len(written) == 2 * len({check.cell.stream for check in checks.values()})
    for path in written[::2]:
        texts = [text.text for text in ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")]
        named = [text for text in texts if (text and "not judged" in text) or (text and "not run" in text)]
        assert len(named) == len(set(named)) > 20


def test_numbers_on_a_matrix_can_be_read() -> None:
    """WCAG AA: 4.5 to 1, on every value."""
    colours = pytest.importorskip("matplotlib").colormaps[figures.HEAT]

    def luminance(value: float) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colours(value / 100)[:3]]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for value in (tenths / 10 for tenths in range(1001)):
        ground = luminance(value) + 0.05
        assert (1.05 / ground if value > figures.LIGHT else ground / 0.05) >= 4.5, value


def test_without_matplotlib_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'reclaim\[figures\]'"):
        figures.write(rows(sample()), {}, tmp_path)


def test_at_most_so_many_curves_are_shown_at_first() -> None:
    names = [
        r.name
        for r in recipes_of("embedded").values()
        if r.home == "split-quickdraw-10" and not r.fact and not r.headline and not r.config.joint
    ]
    data = data_of(Tree(page([synthetic_record(name) for name in names[:12]])).root)
    assert 0 < len(data["boards"]["split-quickdraw-10"]["first"]) < CURVES


# --- records from outside ---


def with_outside() -> str:
    records = [*sample(), *(ours("slca", seed=seed) for seed in range(4, 6))]
    split = {"sizes": [10] * 10, "train_counts": [800] * 10, "split": {"seed": 3}}
    outside = [
        *(theirs(seed=seed) for seed in range(2)),
        theirs(seed=3, settings=["lr=0.77"]),
        # names that are sections, tables and rows of the page, too
        *(on_own_images(recipe, "claims", seed=1) for recipe in ("slca", "their-method", "joint")),
        on_own_images("linear", "split-quickdraw-10.own"),
        on_own_images("linear", "claims", own_stream=split),
    ]
    return render(rows(records, outside=outside), judge_claims(records), check_cells(records))


def test_recipes_from_outside_are_marked_on_the_page() -> None:
    text = with_outside()
    root = Tree(text).root
    test_everything_that_is_pointed_at_is_there(root)
    test_nothing_is_loaded(text, root)
    first = theirs()
    (row, other) = (row for row in root.all("tr", class_="row") if "their-method" in row.text and "lr=" in row.text)
    assert {"external: their_pkg.method:Their"} <= {node.text.strip() for node in row.all("span", class_="soft")}
    for marked in (row, other):
        assert "external" in (marked.attributes["data-text"] or "").split()
        assert "their-method (external: lr=" in marked.text
    opened = data_of(root)["rows"][f"their-method@{first.config_hash}@split-quickdraw-10"]
    assert "plugins[0]: their_pkg.method:Their, source abababababab." in opened["about"]
    assert "By its configuration it starts from slca." in opened["about"]
    assert opened["commands"] == []
    assert not opened["linked"]  # its records are in a store of theirs
    assert opened["records"] == f"their-method/split-quickdraw-10/{first.config_hash}/"
    assert "1 recipe external." in root.all("p", class_="lead")[0].text
    assert "external" not in row_of(root, "slca@split-quickdraw-10").text


def test_streams_of_ones_own_have_groups_of_their_own() -> None:
    root = Tree(with_outside()).root
    bodies = root.all("table", id="table-methods")[0].all("tbody")
    own = [body for body in bodies if (body.attributes["data-stream"] or "").startswith("own:")]
    names = [body.all("th")[0].text.split(" ")[0] for body in own]
    assert sorted(name.partition("@")[0] for name in names) == ["claims", "claims", "split-quickdraw-10.own"]
    assert sum("@" in name for name in names) == 2
    for body in own:
        assert "somebody's own images" in body.all("th")[0].text
        assert OF_ONES_OWN in body.text
        assert NOT_COMPARABLE not in body.text
        assert "mbedded tier" not in body.text
    (claims,) = root.all("section", id="claims")
    assert "Embedded tier" in claims.all("h3")[0].text


def test_a_page_of_streams_of_ones_own_alone_claims_no_embedded_tier() -> None:
    outside = [on_own_images(recipe) for recipe in ("slca", "linear")]
    text = render(rows([], outside=outside), judge_claims([]), check_cells([]))
    root = Tree(text).root
    test_everything_that_is_pointed_at_is_there(root)
    assert "mbedded tier" not in root.all("table", id="table-methods")[0].text
    assert not root.all("section", id="claims")
    assert not root.all("article", class_="card")
    assert OF_ONES_OWN in root.text


def test_names_and_arguments_of_others_are_escaped_on_the_page() -> None:
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(1)> \x1b[31m\n' + "long" * 500
    plugin = PLUGIN | {"arguments": {hostile: hostile}}
    outside = [
        with_backbone(hostile, theirs(external={"base": hostile, "plugins": [plugin]}, weights_sha256="7" * 64)),
        with_backbone(hostile, theirs(external={"base": "slca", "plugins": [plugin]}, weights_sha256="7" * 64)),
        with_backbone(hostile, on_own_images("slca")),
        on_own_images("slca", own_stream={"sizes": [10] * 10, "train_counts": [1] * 10, "split": {hostile: hostile}}),
    ]
    text = render(rows(sample(), outside=outside), judge_claims(sample()), check_cells([]))
    root = Tree(text).root
    assert "\x1b" not in text
    assert not root.all("img")
    assert len(root.all("script")) == 2
    assert "<script>alert(1)" in root.all("table", id="table-methods")[0].text
    assert data_of(root)["rows"]  # whole
    assert max(len(button.text) for button in root.all("button")) < 400
