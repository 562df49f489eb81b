"""The re-runs of others: the file that ships, and what is refused."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest
from reclaim.benchmark.papers.published import cells
from reclaim.benchmark.papers.reruns import RerunError, Reruns, read_reruns, reruns

TWO = """
[[rerun]]
method = "InfLoRA"
stream = "split-cifar100-10"
seed = 0
curve = [90.0, 80.0]
last_acc = 80.0
inc_acc = 85.0
last_acc_task = 79.0
inc_acc_task = 84.0
evidence = "primary"
source = "0.log"

[[rerun]]
method = "InfLoRA"
stream = "split-cifar100-10"
seed = 1
last_acc = 82.0
inc_acc = 87.0
last_acc_task = 81.0
inc_acc_task = 86.0
evidence = "primary"
source = "1.log"

[[summary]]
method = "InfLoRA"
stream = "split-cifar100-10"
seeds = [0, 1]
class_order = "natural"
last_acc = 81.0
last_acc_std = 1.41
inc_acc = 86.0
inc_acc_std = 1.41
last_acc_task = 80.0
last_acc_task_std = 1.41
inc_acc_task = 85.0
inc_acc_task_std = 1.41
published_last_acc = 86.51
published_inc_acc = 91.7
published_source = "a table"
source = "the logs"
"""


def read(folder: Path, text: str) -> Reruns:
    path = folder / "reruns.toml"
    path.write_text(text, encoding="utf-8")
    return read_reruns(path)


def test_what_ships() -> None:
    found = reruns()
    assert len(found.runs) == 65
    assert [run.method for run in found.runs if run.evidence == "primary"] == ["InfLoRA"] * 12
    assert {summary.stream: len(summary.seeds) for summary in found.summaries} == {
        "split-imagenet-r-10": 5,
        "split-cifar100-10": 5,
    }
    assert all(re.search(r"[A-Za-z]", run.source) for run in found.runs)


def test_the_papers_digits_are_marked_and_nothing_else_is() -> None:
    published = {(c.method, c.stream, c.metric): c.published.mean for c in cells() if c.paper == "slca"}
    for run in reruns().runs:
        own = [published.get((run.method, run.stream, metric)) for metric in ("last_acc", "inc_acc")]
        if (run.last_acc, run.inc_acc) != (None, None):
            assert (own == [run.last_acc, run.inc_acc]) == (not run.counts)


def test_means_over_tasks_stand_beside_no_accuracy_over_images() -> None:
    over_tasks = [run for run in reruns().runs if "mean over tasks" in run.source]
    assert len(over_tasks) >= 8
    assert all(run.last_acc is None and run.last_acc_task is not None for run in over_tasks)
    values = {run.last_acc_task for run in over_tasks}
    assert not [cell.id for cell in cells() for again in cell.reruns if again.value in values]


def test_every_re_run_of_a_published_cell_stands_beside_it() -> None:
    beside = {(c.method, c.stream, c.metric, r.value) for c in cells() for r in c.reruns}
    places = {(c.method, c.stream, c.metric) for c in cells()}
    averaged = {(s.method, s.stream, seed) for s in reruns().summaries for seed in s.seeds}
    for run in reruns().runs:
        for metric in ("last_acc", "inc_acc"):
            value, place = getattr(run, metric), (run.method, run.stream, metric)
            if value is not None and place in places and (*place[:2], run.seed) not in averaged:
                assert (*place, value) in beside


def test_a_paper_has_one_number() -> None:
    found: dict[tuple[str, str], set[float]] = {}
    for of in (*reruns().runs, *reruns().summaries):
        if of.published_last_acc is not None:
            found.setdefault((of.method, of.stream), set()).add(of.published_last_acc)
    assert found
    assert all(len(numbers) == 1 for numbers in found.values())


def test_two_seeds(tmp_path: Path) -> None:
    found = read(tmp_path, TWO)
    assert [run.seed for run in found.runs] == [0, 1]
    assert found.summaries[0].last_acc_std == pytest.approx(statistics.stdev([80, 82]), abs=0.005)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "inc_acc = 85.0\nlast_acc_task = 79",
            "inc_acc = 85.1\nlast_acc_task = 79",
            "rerun 1: inc_acc is 85.1, but its",
        ),
        ("last_acc = 80.0", "last_acc = 90.0", "rerun 1: last_acc is 90.0, but its curve give 80.000: correct"),
        (
            "last_acc_std = 1.41\ninc_acc = 86",
            "last_acc_std = 1\ninc_acc = 86",
            "summary 1: last_acc_std is 1, but its",
        ),
        ("seeds = [0, 1]", "seeds = [0, 2]", "summary 1: no primary run of InfLoRA on split-cifar100-10 has seed 2"),
        ("seeds = [0, 1]", "seeds = [0]", r"summary 1: seeds are \[0\]: give at least two, each once"),
        ("seeds = [0, 1]", "seeds = [0, 1, 1]", r"summary 1: seeds are \[0, 1, 1\]: give at least two, each once"),
        ("seed = 1\n", "seed = 0\n", "summary 1: InfLoRA on split-cifar100-10 has two primary runs of one seed"),
        ("last_acc_task = 81.0\n", "", "summary 1: a run of InfLoRA on split-cifar100-10 has no last_acc_task"),
        ("seeds = [0, 1]", "seeds = []", r"summary 1: seeds is \[\]: write a list of seeds"),
        ("last_acc = 82.0", "last_acc = 820", "rerun 2: last_acc is 820: write a number of percent, 0 to 100"),
        (
            "last_acc = 82.0\ninc_acc = 87.0\nlast_acc_task = 81.0\ninc_acc_task = 86.0\n",
            "",
            "rerun 2: neither last_acc nor inc_acc is there, nor",
        ),
        ('source = "1.log"', 'sauce = "1.log"', "rerun 2: unknown key 'sauce', which is '1.log': did you mean source"),
        ('source = "1.log"', "", "rerun 2: source is missing: add a text"),
        ("[[summary]]", "[[sum]]", r"unknown section 'sum': write \[\[rerun\]\] or \[\[summary\]\]"),
        (
            '"primary"\nsource = "1',
            '"heard"\nsource = "1',
            "rerun 2: evidence is 'heard': write one of primary, re-run",
        ),
        ("[[summary]]", "[summary", "is not TOML"),
    ],
)
def test_what_cannot_be_is_named(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    assert TWO.count(old) == 1
    with pytest.raises(RerunError, match=rf"^reruns\.toml.*{complaint}"):
        read(tmp_path, TWO.replace(old, new))
