"""Runs, comparisons and records as a library: what the command does, as functions that return dataclasses.

>>> from reclaim.benchmark import compare, frame, load_records, run

They are importable from ``reclaim.benchmark``; docs/library.md has three examples. Nothing is printed unless asked for.
"""

from __future__ import annotations

import itertools
import json
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import QUICKDRAW_VIT, Config, ConfigError
from .data.streams import DENSE, STREAMS, Stream, find_stream
from .recipes import MOST_SEEDS, Recipe
from .records.metrics import DENSE_METRICS, METRICS, OF_TASK
from .records.record import Record, metric_of, metrics_of
from .records.store import RecordStore, named_store
from .training.jobs import Job, available_cores, jobs_of, on_record, on_record_elsewhere, run_jobs, try_jobs
from .training.named_backbone import NamedBackbone, named_backbone
from .training.own import recipe_of
from .training.own_streams import NO_IMAGES, OwnImages, for_images, for_stream, own_stream
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
    test_share: float | None = None,
    split_seed: int | None = None,
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
    :param images: in place of ``stream``: a folder of images, with train and test folders or one folder a class.
    :param tasks: experiences that the classes of ``images`` are divided into.
    :param size: pixels of a side that the backbone sees of ``images``; by default its own.
    :param test_share: of ``images`` without training and test folders; ``split_seed`` likewise.
    :param seeds: how many (0, 1, ...), or which.
    :param settings: on top of the recipe's, such as ``{"lr": 0.1, "alignment.tau": 0.05}``.
    :param backbone: as ``--backbone`` of the command.
    :param records: folder that runs are read from and recorded in; None: nothing is read or written.
    :param jobs: runs at a time; by default one per core, on an accelerator one.
    :param quiet: no progress bars.
    :param setup: fields of :class:`~reclaim.benchmark.training.runtime.Setup`, such as ``device`` or ``root``.
    :raises ValueError: a name, setting or folder is invalid; before anything is run.
    :raises RuntimeError: some runs failed; the others are recorded.
    """
    pictures = OwnImages(_place(images), tasks, size, test_share, split_seed)
    where, texts, told = _circumstances(setup, settings, backbone)
    named = jobs_for([recipe_of(recipe)], stream, _seeds(seeds), texts, where, told, pictures, quiet=quiet)
    (todo,) = named.values()
    place = _place(records)
    return run_jobs(todo, None if place is None else RecordStore(place), at_a_time(jobs, where), again, quiet)


def compare(
    recipes: Sequence[Source],
    stream: str | None = None,
    *,
    images: str | Path | None = None,
    tasks: int | None = None,
    size: int | None = None,
    test_share: float | None = None,
    split_seed: int | None = None,
    seeds: int | Iterable[int] = 5,
    metric: str = "last_acc",
    settings: Mapping[str, Any] | None = None,
    backbone: str | None = None,
    records: str | Path = "records",
    jobs: int | None = None,
    again: bool = False,
    quiet: bool = True,
    **setup: Any,
) -> Comparison:
    """Which of several recipes is best on a stream: differences to the first, paired by seed, and what follows.

    What is on record, in ``records`` or in the ``leaderboards/records`` of the working directory, is read; the rest is
    run and recorded in ``records``. A recipe whose runs fail does not stop the others: its row says why. For the other
    parameters and errors see :func:`run`.

    :param metric: one of ``last_acc``, ``inc_acc``, ``task_avg_last_acc``, ``task_avg_inc_acc``, ``forgetting`` and
        ``final_entropy``.
    """
    pictures = OwnImages(_place(images), tasks, size, test_share, split_seed)
    where, texts, told = _circumstances(setup, settings, backbone)
    found = [recipe_of(recipe) for recipe in recipes]
    named = jobs_for(found, stream, _seeds(seeds), texts, where, told, pictures, quiet=quiet)
    return compare_jobs(named, RecordStore(Path(records).expanduser()), metric, at_a_time(jobs, where), again, quiet)


def load_records(*folders: str | Path) -> list[Record]:
    """All records in folders, sorted by recipe, stream, configuration and seed. A file that is none is warned of.

    :raises ValueError: there is no such folder.
    """
    found: list[Record] = []
    for folder in folders:
        records, problems = named_store(Path(folder).expanduser(), "another path").load()
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
    of = list(of)
    known = metrics_of(of)
    return pd.DataFrame(
        [
            {
                "recipe": record.recipe,
                "stream": record.stream,
                "seed": record.seed,
                "config_hash": record.config_hash,
                **{metric: metric_of(record, metric) if metric in metrics_of([record]) else None for metric in known},
                "trained_parameters": record.result["trained_parameters"],
                "bytes_kept": record.result["bytes_kept"],
                "wall_seconds": record.provenance.get("wall_seconds"),
                "external": bool(record.external),
            }
            for record in of
        ]
    )


# --- what the command does, too ---


def jobs_for(
    recipes: Sequence[Recipe],
    stream: str | None,
    seeds: Sequence[int],
    settings: Sequence[str],
    setup: Setup,
    backbone: NamedBackbone | None = None,
    pictures: OwnImages = NO_IMAGES,
    quiet: bool = False,
) -> dict[str, list[Job]]:
    """Recipe -> its jobs on one stream; for the parameters see :func:`run`.

    :param settings: such as ``lr=0.1``.
    :raises ValueError: a recipe is named twice, or it and the stream do not fit.
    """
    names = [recipe.name for recipe in recipes]
    if not names:
        raise ValueError("no recipe is named: give at least one")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} is named twice: a recipe can be compared with others only")
    foreign = f"--images {pictures.folder}" if pictures.folder else f"--stream {stream}" if ":" in str(stream) else ""
    if foreign and (setup.root or setup.cache):
        raise ValueError(f"{foreign} is the stream and its images: leave out --root and --cache")
    own = own_stream(stream, pictures, unverified=setup.unverified, quiet=quiet)
    settings = [*settings, *([f"backbone={backbone.name}"] if backbone else [])]
    if backbone and backbone.weights:
        if setup.weights:
            raise ValueError(f"--backbone is the file {backbone.weights}, --weights is {setup.weights}: leave out one")
        setup = replace(setup, weights=backbone.weights)
    seen = [text.partition("=")[2].strip() for text in settings if text.partition("=")[0].strip() == "backbone"]
    if own:
        target, root = own
        setup = replace(setup, root=root)
        recipes = [for_stream(recipe, target, seen[-1] if seen else None, pictures.size) for recipe in recipes]
    else:
        target = find_stream(stream or recipes[0].home)
        which = "drawings" if target.name in STREAMS else "canvases" if target.tier == DENSE else "photographs"
        if which == "photographs" and seen:  # as on photographs of one's own
            recipes = [for_images(r, seen[-1]) if _trains_on(r.config) == "drawings" else r for r in recipes]
        sees = {recipe.name: _trains_on(recipe.config) for recipe in recipes}
        if unfit := [name for name, theirs in sees.items() if theirs != which]:
            other = "a --backbone for photographs, " if which == "photographs" and "drawings" in sees.values() else ""
            raise ValueError(
                f"{target.name} consists of {which}, and {', '.join(unfit)} trains on {sees[unfit[0]]}: name recipes "
                f"and a stream of the same images, such as {', '.join(list(STREAMS)[:3])} for drawings, {other}or a "
                "--cell"
            )
        if which != "photographs" and (places := [name for name in ("root", "cache") if getattr(setup, name)]):
            raise ValueError(f"{target.name} consists of {which}, which ship: leave out --{' and --'.join(places)}")
    named = {recipe.name: _jobs(recipe, target, seeds, settings, setup) for recipe in recipes}
    if setup.weights:
        for name, jobs in named.items():
            if jobs and jobs[0].config.backbone == QUICKDRAW_VIT:
                raise ValueError(
                    f"{name} starts from {QUICKDRAW_VIT}, whose weights ship: leave out the weights {setup.weights}"
                )
    return named


def _trains_on(config: Config) -> str:
    return "photographs" if config.images else "canvases" if config.dense else "drawings"


def _jobs(recipe: Recipe, target: Stream, seeds: Sequence[int], settings: Sequence[str], setup: Setup) -> list[Job]:
    try:
        return jobs_of(recipe, target, seeds, settings, setup)
    except ConfigError as error:
        raise ConfigError(f"{recipe.name}: {error}") from None


def compare_jobs(
    named: Mapping[str, Sequence[Job]],
    store: RecordStore,
    metric: str = "last_acc",
    n_jobs: int | None = None,
    again: bool = False,
    quiet: bool = False,
    tell: Callable[[Sequence[Job], Sequence[Job]], object] = lambda todo, missing: None,
) -> Comparison:
    """The comparison of recipes by their jobs, see :func:`compare`.

    :param tell: called before the first run with all jobs, and with those that are not on record.
    """
    if metric not in (names := (*METRICS, *DENSE_METRICS)):
        raise ValueError(f"metric is {metric!r}: choose one of {', '.join(names)}")
    todo = [job for of_recipe in named.values() for job in of_recipe]
    for job in todo:
        if metric not in (has := OF_TASK[job.config.dense.task] if job.config.dense else METRICS):
            raise ValueError(f"metric is {metric!r}, which {job.recipe} has not: choose one of {', '.join(has)}")
    known = on_record(todo, store, again)
    if SHIPPED.is_dir() and not again and not (store.root.exists() and SHIPPED.samefile(store.root)):
        known |= on_record_elsewhere([job for job in todo if job not in known], RecordStore(SHIPPED))
    require_comparable(_by_recipe(named, known))
    missing = [job for job in todo if job not in known]
    tell(todo, missing)
    made, failures = try_jobs(missing, store, n_jobs, again, quiet) if missing else ({}, {})
    causes: dict[str, list[str]] = {}
    for job, error in failures.items():
        causes.setdefault(job.recipe, []).append(f"{type(error).__name__}: {error}")
    return compare_records(_by_recipe(named, known | made), metric, causes)


def _by_recipe(names: Iterable[str], records: Mapping[Job, Record]) -> dict[str, list[Record]]:
    """Recipe -> its records by seed, in the order of the names."""
    ordered = sorted(records.values(), key=lambda record: record.seed)
    return {name: [record for record in ordered if record.recipe == name] for name in names}


def at_a_time(jobs: int | None, setup: Setup) -> int:
    """Runs at a time: as many as asked for, else one per core, and on an accelerator one."""
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is {jobs}: give a number of runs at a time, at least 1, or leave it out")
    return jobs or (available_cores() if setup.device == "cpu" else 1)


def _circumstances(
    setup: Mapping[str, Any], settings: Mapping[str, Any] | None, backbone: str | None
) -> tuple[Setup, list[str], NamedBackbone | None]:
    known = {field.name for field in fields(Setup)} - {"rehearsal", "timed", "at_a_time"}  # runs set these themselves
    if unknown := sorted(set(setup) - known):
        raise ValueError(f"unknown argument {unknown[0]!r}: the environment of a run has {', '.join(sorted(known))}")
    places = {key: Path(value).expanduser() for key, value in setup.items() if key in _PLACES and value is not None}
    if settings is not None and not isinstance(settings, Mapping):
        raise ValueError(f"settings is {settings!r}: give a dictionary, such as {{'lr': 0.1}}")
    try:
        texts = [f"{key}={json.dumps(value, default=operator.index)}" for key, value in (settings or {}).items()]
    except TypeError as error:
        raise ValueError(
            f"settings is {settings!r}: {error}; use Python's numbers, texts, booleans and lists"
        ) from None
    return Setup(**{**setup, **places}), texts, None if backbone is None else named_backbone(backbone)


_PLACES = ("root", "cache", "weights", "checkpoints")


def _place(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser()


def _seeds(seeds: int | Iterable[int]) -> list[int]:
    try:  # NumPy's integers are integers, too
        numbers = seeds if isinstance(seeds, Iterable) else range(seeds)
        found = [operator.index(seed) for seed in itertools.islice(numbers, MOST_SEEDS + 1)]
    except TypeError:
        found = []
    if not found or any(not 0 <= seed < 2**32 for seed in found):
        raise ValueError(f"seeds is {seeds!r}: give a number of seeds, or integers from 0 to 2**32 - 1")
    if len(found) > MOST_SEEDS:
        raise ValueError(f"seeds are more than {MOST_SEEDS}: give at most so many at a time")
    return found
