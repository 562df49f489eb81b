"""Hyper-parameter sweeps: every candidate of a recipe's grid on the validation part,
with seeds that no leaderboard uses.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..data.streams import find_stream
from ..files import write_text
from ..recipes import CHOICE_SEEDS, Recipe
from .jobs import Job, try_jobs

METRIC = "last_acc"


def sweep(
    recipes: Sequence[Recipe], seeds: Sequence[int] = CHOICE_SEEDS, n_jobs: int | None = None
) -> dict[str, dict[str, Any]]:
    """Recipe -> the chosen settings, and the score of every candidate. Test drawings are not used.

    The candidate with the highest mean Last-Acc on the validation part is chosen; of several, the first. A run that
    diverges scores 0.

    :raises ValueError: a recipe has no grid of its own.
    """
    for recipe in recipes:
        if not recipe.grid:
            own = f": it is tuned as {recipe.tuned_as!r}" if recipe.tuned_as else ""
            raise ValueError(f"recipe {recipe.name!r} has no grid to choose from{own}")
    jobs = [
        Job(
            recipe.name,
            recipe.with_settings(candidate).set(["part=validation"]),
            find_stream(recipe.home),
            seed,
            "given",
        )
        for recipe in recipes
        for candidate in recipe.candidates()
        for seed in seeds
    ]
    records, failures = try_jobs(jobs, None, n_jobs)
    for job, error in failures.items():
        if not isinstance(error, FloatingPointError):
            raise RuntimeError(f"{job} failed: {error}") from error
    scores_of = iter([records[job].metrics()[METRIC] if job in records else 0.0 for job in jobs])
    chosen = {}
    for recipe in recipes:
        scores = [fmean(next(scores_of) for _ in seeds) for _ in recipe.candidates()]
        best = max(range(len(scores)), key=scores.__getitem__)
        chosen[recipe.name] = {
            "settings": recipe.candidates()[best],
            "made_for": recipe.made_for,
            "stream": recipe.home,
            "part": "validation",
            "metric": METRIC,
            "seeds": list(seeds),
            "candidates": [
                {"settings": c, "score": score} for c, score in zip(recipe.candidates(), scores, strict=True)
            ],
        }
    return chosen


def save(path: Path, choices: dict[str, dict[str, Any]]) -> None:
    """Merge choices into the JSON file at ``path`` and replace the file atomically."""
    known = json.loads(path.read_text()) if path.exists() else {}
    write_text(path, json.dumps(dict(sorted({**known, **choices}.items())), indent=1) + "\n")
