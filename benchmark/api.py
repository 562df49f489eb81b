"""Runs, comparisons and records as a library: what the command does, as functions that return dataclasses.

>>> from reclaim.benchmark import compare, frame, load_records, run

They are importable from ``reclaim.benchmark``; docs/library.md has three examples. Nothing is printed unless asked for.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data.streams import EMBEDDED, Stream, find_stream
from .recipes import Recipe
from .records.metrics import METRICS
from .records.record import Record, metric_of
from .records.store import RecordStore, named_store
from .training.jobs import Job, available_cores, jobs_of, on_record, on_record_elsewhere, run_jobs, try_jobs
from .training.named_backbone import named_backbone
from .training.own import for_stream, recipe_of, stream_of_benchmark
from .training.runtime import Setup
from .verdicts.comparison import Comparison, require_comparable
from .verdicts.comparison import compare as compare_records

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

Source = str | Path | Mapping[str, Any]
"""A recipe: its name, a TOML file, ``my_module:recipe``, or a mapping with the keys of such a file and a ``name``."""

SHIPPED = Path("leaderboards", "records")
"""The records of a checkout, which a comparison reads, too."""


def run(
    recipe: Source,
    stream: str | None = None,
    *,
    images: str | Path | None = None,
    tasks: int | None = None,
    size: int | None = None,
    seeds: int | Iterable[int] = 1,
    settings: Mapping[str, Any] | None = None,
    backbone: str | None = None,
    records: str | Path | None = "records",
    jobs: int | None = None,
    again: bool = False,
    quiet: bool = True,
    **setup: Any,
) -> list[Record]:
    """The records of a recipe on a stream, one a seed. What is on record is read, the rest is run.

    :param stream: a name (``reclaim list streams``), or ``my_module:make_benchmark``, something that returns an
        Avalanche benchmark; by default the recipe's home stream.
    :param images: in place of ``stream``: a folder of images, with ``train`` and ``test`` folders or one folder a class.
    :param tasks: experiences that the classes of ``images`` are divided into.
    :param size: pixels of a side that the backbone sees of ``images``; by default its own.
    :param seeds: how many (0, 1, ...), or which.
    :param settings: on top of the recipe's, such as ``{"lr": 0.1, "alignment.tau": 0.05}``.
    :param backbone: as ``--backbone`` of the command.
    :param records: folder that runs are read from and recorded in; None: nothing is read or written.
    :param jobs: runs at a time; by default one per core.
    :param quiet: no progress bar.
    :param setup: fields of :class:`~reclaim.benchmark.training.runtime.Setup`, such as ``device`` or ``root``.
    :raises ValueError: a name, setting or folder is invalid; before anything is run.
    :raises RuntimeError: some runs failed; the others are recorded.
    """
    (todo,) = jobs_for([recipe], stream, images, tasks, size, _seeds(seeds), _texts(settings), backbone, setup).values()
    return run_jobs(todo, None if records is None else RecordStore(records), _at_a_time(jobs, setup), again, quiet)


def compare(
    recipes: Sequence[Source],
    stream: str | None = None,
    *,
    images: str | Path | None = None,
    tasks: int | None = None,
    size: int | None = None,
    seeds: int | Iterable[int] = 5,
    metric: str = "last_acc",
    settings: Mapping[str, Any] | None = None,
    backbone: str | None = None,
    records: str | Path = "records",
    jobs: int | None = None,
    again: bool = False,
    quiet: bool = True,
    tell: Callable[[Sequence[Job], Sequence[Job], int], object] = lambda todo, missing, at_a_time: None,
    **setup: Any,
) -> Comparison:
    """Which of several recipes is best on a stream: differences to the first, paired by seed, and what follows.

    What is on record, in ``records`` or in the ``leaderboards/records`` of the working directory, is read; the rest is
    run and recorded in ``records``. A recipe whose runs fail does not stop the others: its row says why. For the other
    parameters and errors see :func:`run`.

    :param metric: one of ``last_acc``, ``inc_acc``, ``task_avg_last_acc``, ``task_avg_inc_acc``, ``forgetting`` and
        ``final_entropy``.
    :param tell: called before the first run with all jobs, with those that are not on record, and with the number of
        runs at a time.
    """
    named = jobs_for(recipes, stream, images, tasks, size, _seeds(seeds), _texts(settings), backbone, setup)
    todo = [job for of_recipe in named.values() for job in of_recipe]
    store = RecordStore(records)
    known = on_record(todo, store, again)
    if SHIPPED.is_dir() and not again and not (store.root.exists() and SHIPPED.samefile(store.root)):
        known |= on_record_elsewhere([job for job in todo if job not in known], RecordStore(SHIPPED))
    require_comparable(_by_recipe(named, known))
    missing = [job for job in todo if job not in known]
    at_a_time = min(_at_a_time(jobs, setup), max(1, len(missing)))
    tell(todo, missing, at_a_time)
    made, failures = try_jobs(missing, store, at_a_time, again, quiet) if missing else ({}, {})
    causes: dict[str, list[str]] = {}
    for job, error in failures.items():
        causes.setdefault(job.recipe, []).append(f"{type(error).__name__}: {error}")
    return compare_records(_by_recipe(named, known | made), metric, causes)


def load_records(*folders: str | Path) -> list[Record]:
    """All records in folders, sorted by recipe, stream, configuration and seed. A file that is none is warned of.

    :raises ValueError: there is no such folder.
    """
    found: list[Record] = []
    for folder in folders:
        records, problems = named_store(folder, "another path").load()
        found += records
        for problem in problems:
            warnings.warn(f"skipped {problem}", stacklevel=2)
    return sorted(found, key=lambda r: (r.recipe, r.stream, r.config_hash, r.seed))


def frame(of: Sequence[Record] | Comparison) -> pd.DataFrame:
    """Records or a comparison as a pandas DataFrame; needs the extra ``reclaim[pandas]``.

    Of records a row a run: recipe, stream, seed, config_hash, all metrics (percent, points or nats), trained
    parameters, bytes kept, seconds, and whether code from outside took part. Of a comparison a row a recipe, with the
    fields of :class:`~reclaim.benchmark.verdicts.comparison.ComparisonRow`, unrounded.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("frames need pandas: pip install 'reclaim[pandas]'") from error
    if isinstance(of, Comparison):
        return pd.DataFrame(of.as_dict()["rows"]).set_index("name")
    return pd.DataFrame(
        [
            {
                "recipe": record.recipe,
                "stream": record.stream,
                "seed": record.seed,
                "config_hash": record.config_hash,
                **{metric: metric_of(record, metric) for metric in METRICS},
                "trained_parameters": record.result["trained_parameters"],
                "bytes_kept": record.result["bytes_kept"],
                "wall_seconds": record.provenance.get("wall_seconds"),
                "external": bool(record.external),
            }
            for record in of
        ]
    )


def jobs_for(
    recipes: Sequence[Source],
    stream: str | None,
    images: str | Path | None,
    tasks: int | None,
    size: int | None,
    seeds: Sequence[int],
    settings: Sequence[str],
    backbone: str | None,
    setup: Mapping[str, Any],
) -> dict[str, list[Job]]:
    """Recipe -> its jobs on one stream; see :func:`run` and :func:`compare`.

    :param settings: such as ``lr=0.1``.
    :raises ValueError: as they do.
    """
    found = [recipe_of(source) for source in recipes]
    names = [recipe.name for recipe in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} is named twice: a recipe can be compared with others only")
    values = dict(setup)
    if backbone is not None:
        there = named_backbone(backbone)
        settings = [*settings, f"backbone={there.name}"]
        if there.weights:
            values["weights"] = there.weights
    target = stream_named(found[0], stream, images, tasks)
    if images is not None:
        values["root"] = Path(images)
    if target.tier == "own":
        seen = next((text.partition("=")[2] for text in reversed(settings) if text.startswith("backbone=")), None)
        found = [for_stream(recipe, target, seen, size) for recipe in found]
    else:
        require_same_images(found, target)
    where = Setup(**{key: Path(v) if key in ("root", "cache", "weights") and v else v for key, v in values.items()})
    return {recipe.name: _jobs(recipe, target, seeds, settings, where) for recipe in found}
