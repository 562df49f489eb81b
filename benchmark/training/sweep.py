"""Hyper-parameter sweeps: every candidate of a recipe's grid on the validation part,
with seeds that no leaderboard uses.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..data.streams import find_stream
from ..files import require_writable, write_text
from ..recipes import CHOICE_SEEDS, Recipe
from ..records.metrics import OF_TASK
from ..records.store import RecordStore
from .jobs import Job, try_jobs
from .runtime import HERE, Setup

METRIC = "last_acc"


def metric_for(recipe: Recipe) -> str:
    """The metric that a recipe's hyper-parameters are chosen by."""
    return OF_TASK[recipe.base.dense.task][-1] if recipe.base.dense else METRIC


def jobs_of_candidates(
    recipes: Sequence[Recipe], seeds: Sequence[int] = CHOICE_SEEDS, setup: Setup = HERE
) -> list[Job]:
    """A job on the validation part for every recipe, candidate and seed, in this order.

    :param setup: of recipes for photographs, where their images are.

    :raises ValueError: a recipe has no grid of its own.
    """
    for recipe in recipes:
        if not recipe.grid:
            own = f": it is tuned as {recipe.tuned_as!r}" if recipe.tuned_as else ""
            raise ValueError(f"recipe {recipe.name!r} has no grid to choose from{own}")
    return [
        Job(
            recipe.name,
            recipe.with_settings(candidate).set(["part=validation"]),
            find_stream(recipe.home),
            seed,
            "given",
            HERE if recipe.tier == "embedded" else setup,
        )
        for recipe in recipes
        for candidate in recipe.candidates()
        for seed in seeds
    ]


def sweep(
    recipes: Sequence[Recipe],
    store: RecordStore,
    seeds: Sequence[int] = CHOICE_SEEDS,
    n_jobs: int | None = None,
    setup: Setup = HERE,
) -> dict[str, dict[str, Any]]:
    """Recipe -> the chosen settings, and the score of every candidate. Test drawings are not used.

    The candidate with the highest mean Last-Acc (on canvases: :func:`metric_for`) on the validation part is chosen; of
    several, the first. A run that diverges scores 0.

    :param setup: see :func:`jobs_of_candidates`.
    :param store: where the candidates' runs are kept: the same call after an interruption goes on from there.
    :raises ValueError: a recipe has no grid of its own.
    :raises RuntimeError: a run failed for another reason than divergence, or every candidate of a recipe diverged; the
        other runs are kept.
    """
    jobs = jobs_of_candidates(recipes, seeds, setup)
    records, failures = try_jobs(jobs, store, n_jobs)
    for job, error in failures.items():
        if not isinstance(error, FloatingPointError):
            raise RuntimeError(
                f"{job} failed: {error}; finished runs are kept in {store.root}, the same command goes on from there"
            ) from error
    for recipe in recipes:
        if not any(job.recipe == recipe.name and job in records for job in jobs):
            raise RuntimeError(
                f"every candidate of {recipe.name} diverged: there is nothing to choose; change its grid"
            )
    of_jobs = iter(jobs)
    chosen = {}
    for recipe in recipes:
        metric = metric_for(recipe)
        scores = [
            fmean(
                records[job].metrics()[metric] if job in records else 0.0
                for job in itertools.islice(of_jobs, len(seeds))
            )
            for _ in recipe.candidates()
        ]
        best = max(range(len(scores)), key=scores.__getitem__)
        chosen[recipe.name] = {
            "settings": recipe.candidates()[best],
            "made_for": recipe.made_for,
            "stream": recipe.home,
            "part": "validation",
            "metric": metric,
            "seeds": list(seeds),
            "candidates": [
                {"settings": c, "score": score} for c, score in zip(recipe.candidates(), scores, strict=True)
            ],
        }
    return chosen


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The choices in a file that :func:`save` can merge others into, which may not be there yet.

    :raises ValueError: it is no file of choices, or it cannot be written.
    """
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        require_writable(path.absolute().parent)
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror or error}): name another file with --output") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): name another file with --output") from error
    if not isinstance(known, dict) or not all(isinstance(choice, dict) for choice in known.values()):
        raise ValueError(f"{path} is no file of choices, recipe -> choice: name another file with --output")
    return known


def save(path: Path, choices: dict[str, dict[str, Any]]) -> None:
    """Merge choices into the JSON file at ``path`` and replace the file atomically."""
    write_text(path, json.dumps(dict(sorted({**read(path), **choices}.items())), indent=1) + "\n")
