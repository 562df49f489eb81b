"""The tutorial notebook runs from its first cell to its verdict, here on fewer drawings than it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from reclaim.benchmark.records.store import RecordStore

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"
FEWER = """
import sys
sys.path.insert(0, {tests!r})
import small_runs
small_runs.jobs._make = small_runs.make_tiny
"""
SENTENCE = {"better": "is better than ncm", "worse": "is worse than ncm", "undecided": "is not separated from ncm"}


@pytest.mark.trains
def test_the_tutorial_ends_in_a_verdict(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FEWER.format(tests=str(Path(__file__).parent))))
    client = nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises where a cell fails
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    verdict, *sentences = last.outputs[0]["text"].splitlines()
    assert f"heads-by-gradient {SENTENCE[verdict]}" in " ".join(sentences)
    records, problems = RecordStore(tmp_path / "tutorial-records").load()
    assert problems == []
    assert sorted({(record.recipe, record.seed) for record in records}) == [
        (recipe, seed) for recipe in ("heads-by-gradient", "ncm") for seed in range(5)
    ]


def test_what_the_tutorial_printed_is_committed_and_names_no_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    printed = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in printed} == {"stream", "execute_result"}
    assert [bool(cell.outputs) for cell in cells].count(False) == 1  # the recipe alone prints nothing
    assert not re.search(r"/(home|root|tmp|Users)/", NOTEBOOK.read_text(encoding="utf-8"))


def test_links_of_the_tutorial_lead_to_pages() -> None:
    links = re.findall(r"\]\(([^)]+)\)", NOTEBOOK.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (NOTEBOOK.parent / link).is_file()] == []
