"""Studies: many runs in one file, each with what it occupies: `reclaim run STUDY.toml`.

.. code-block:: toml

    seeds = 5                       # of all runs that do not say otherwise: a number, or a list
    needs.gpus = 0.5                # cores, gpus (also a fraction), memory_gb

    [[runs]]
    recipes = ["slca", "mine.toml"]
    streams = ["split-quickdraw-10", "split-quickdraw-5"]   # default: each recipe's home stream
    settings.epochs = 1             # as with --set

    [[runs]]
    papers = ["slca"]               # all runs of a paper, by its protocol; without any `seeds` by its own
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from .api import jobs_for
from .config import flatten
from .data.streams import MIDDLE_STREAMS, PAPER_STREAMS
from .papers.protocols import Uncovered, find_cell, protocol_of, run_names
from .recipes import MOST_SEEDS
from .toml_files import TABLE, TEXTS, Kind, check_entry, read_document
from .training.components import ComponentError, look_into
from .training.engines import Needs
from .training.jobs import Job, jobs_of
from .training.own import recipe_of
from .training.runtime import HERE, Setup


class StudyError(ValueError):
    """A file that is no study; names the entry, the value and the remedy."""


def _is_seeds(value: Any) -> bool:
    if isinstance(value, list):
        return 0 < len(value) <= MOST_SEEDS and all(type(seed) is int and 0 <= seed < 2**32 for seed in value)
    return type(value) is int and 1 <= value <= MOST_SEEDS


SEEDS: Kind = (_is_seeds, f"how many, such as 5, or a list of seeds, such as [3, 4], of at most {MOST_SEEDS}")
_TOP: dict[str, Kind] = {"seeds": SEEDS, "needs": TABLE}
_RUNS: Kind = (lambda v: isinstance(v, list) and bool(v) and all(isinstance(e, dict) for e in v), "tables: [[runs]]")
_NAMES: Kind = (lambda value: bool(value) and TEXTS[0](value), 'a list of names, such as ["slca"]')
_OF_RUNS: dict[str, Kind] = {"recipes": _NAMES, "streams": _NAMES, "papers": _NAMES, "settings": TABLE, **_TOP}


def is_study(path: Path) -> bool:
    """Whether a file is a study, not a recipe or a name."""
    return path.suffix == ".toml" and path.is_file() and "runs" in read_document(path, StudyError)


def read_study(path: Path, setup: Setup = HERE) -> dict[Job, Needs]:
    """The runs of a study, each once, with what it occupies. Nothing is run, and everything is checked.

    :param setup: of all runs.
    :raises ValueError: something in the file is wrong or does not fit; names the file, entry, value and remedy.
    """
    document = read_document(path, StudyError)
    look_into(path.absolute().parent)  # for modules of recipes and streams
    check_entry(path.name, document, {"runs": _RUNS}, _TOP, StudyError)
    found: dict[Job, Needs] = {}
    for number, entry in enumerate(document["runs"], 1):
        where = f"{path.name}: [[runs]] {number}"
        check_entry(where, entry, {}, _OF_RUNS, StudyError)
        if ("recipes" in entry) == ("papers" in entry):
            raise StudyError(f"{where}: name either recipes or papers")
        if "papers" in entry and "streams" in entry:
            raise StudyError(f"{where}: a paper's cells have their streams: leave out streams")
        needs = _needs(where, {**document.get("needs", {}), **entry.get("needs", {})})
        seeds = entry.get("seeds", document.get("seeds"))
        try:
            settings = [f"{key}={json.dumps(value)}" for key, value in flatten(entry.get("settings", {})).items()]
            if "papers" in entry:
                jobs = _of_papers(where, entry["papers"], seeds, settings, setup)
            else:
                jobs = _of_recipes(path.parent, entry, 1 if seeds is None else seeds, settings, setup)
        except StudyError:
            raise
        except (ValueError, TypeError, ComponentError) as error:
            raise StudyError(f"{where}: {error}") from error
        for job in jobs:
            found.setdefault(job, needs)
    return found


def _of_recipes(folder: Path, entry: Mapping[str, Any], seeds: Any, settings: Sequence[str], setup: Setup) -> list[Job]:
    recipes = [recipe_of(str(folder / name) if name.endswith(".toml") else name) for name in entry["recipes"]]
    # drawings ship: what the environment of a study says of images and weights is for its other recipes
    shipped = replace(setup, root=None, cache=None, weights=None)
    found: list[Job] = []
    for r, s in itertools.product(recipes, entry.get("streams", [None])):
        of_photographs = r.config.images or s in PAPER_STREAMS or s in MIDDLE_STREAMS
        for jobs in jobs_for([r], s, _listed(seeds), settings, setup if of_photographs else shipped).values():
            found += jobs
    return found


def _of_papers(where: str, papers: Sequence[str], seeds: Any, settings: Sequence[str], setup: Setup) -> list[Job]:
    jobs: list[Job] = []
    known = sorted({run.partition("/")[0] for run in run_names()})
    for paper in papers:
        if paper not in known:
            raise StudyError(f"{where}: there is no paper {paper!r}: choose among {', '.join(known)}")
        for run in run_names():
            if run.partition("/")[0] == paper and not isinstance(protocol_of(run), Uncovered):
                recipe, stream, own = find_cell(run)
                numbers = _listed(seeds) if seeds is not None else list(own) or [0]
                jobs += jobs_of(recipe, stream, numbers, settings, setup)
    return jobs


def _listed(seeds: Any) -> list[int]:
    return seeds if isinstance(seeds, list) else list(range(seeds))


def _needs(where: str, entry: Mapping[str, Any]) -> Needs:
    number: Kind = (lambda v: type(v) in (int, float) and 0 <= v < 1e6, "a number that is not negative")
    check_entry(f"{where}: needs", entry, {}, {field.name: number for field in fields(Needs)}, StudyError)
    try:
        return replace(Needs(), **{key: float(value) for key, value in entry.items()})
    except ValueError as error:
        raise StudyError(f"{where}: {error}") from error
