"""The command `reclaim`."""

from __future__ import annotations

import difflib
import json
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from tabulate import tabulate

from .config import QUICKDRAW_VIT
from .data.streams import PAPER_STREAMS, STREAMS, find_stream
from .files import asset
from .papers import published
from .papers.protocols import Uncovered, covered_runs, find_cell, protocol_of, run_names, run_of
from .recipes import CHOICE_SEEDS, CHOSEN, RECIPES, find_recipe, recipes_of
from .records.metrics import METRICS
from .records.record import metric_of
from .records.store import RecordStore, default_store, named_store
from .report.show import in_full
from .stats.estimates import mean_interval
from .training import sweep as tuning
from .training.jobs import Job, available_cores, jobs_of, run_jobs, try_jobs
from .training.runtime import Setup


def _device(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value != "cpu":
        import torch  # seconds that the default should not cost

        try:
            torch.empty(0, device=value)
        except (RuntimeError, AssertionError) as error:
            raise click.BadParameter(f"{value!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return value


RECORDS = click.option(
    "--records", type=click.Path(path_type=Path), help="Record store [default: ./leaderboards/records]."
)
JOBS = click.option("--jobs", type=click.IntRange(1), help="Runs at a time [default: one per core].")
DEVICE = click.option("--device", default="cpu", callback=_device, help="Torch device.")


class _Commands(click.Group):
    """Turns the errors that a user can mend into one line without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):  # RuntimeErrors: --help ends by one
            raise
        except (ValueError, RuntimeError, TypeError, OSError, FloatingPointError) as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            raise click.ClickException(
                "interrupted: what is finished is kept, the same command goes on from it"
            ) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="reclaim")
def main() -> None:
    """Re-run the claims of continual-learning papers with many seeds, and say which of them hold."""


@main.command("list")
@click.argument("thing", required=False)
def list_(thing: str | None) -> None:
    """List recipes, streams, backbones, claims or cells, or show one of them in full.

    THING is one of these words, or the name of a recipe, stream, backbone, claim or cell. Without it, everything is listed but the cells.
    """
    tables = {"recipes": _recipes, "streams": _streams, "backbones": _backbones, "claims": _claims, "cells": _cells}
    if thing is None:
        for title in ("recipes", "streams", "backbones", "claims"):
            click.echo(f"{title}\n{tables[title]()}\n")
    elif thing in tables:
        click.echo(tables[thing]())
    else:
        click.echo(_in_full(thing))


def _recipes() -> str:
    rows = [(r.name, r.title, r.home, r.hyperparameters_from) for r in RECIPES.values()]
    return tabulate(rows, headers=("name", "method", "home stream", "hyper-parameters"))


def _streams() -> str:
    streams = [*STREAMS.values(), *PAPER_STREAMS.values()]
    return tabulate(
        [(s.name, s.tier, len(s.sizes), s.description) for s in streams],
        headers=("name", "tier", "experiences", "classes"),
    )


def _backbones() -> str:
    report = json.loads(asset(f"{QUICKDRAW_VIT}.json").read_text())
    held_out = f"{report['held_out_accuracy']:.1f}% on held-out drawings of its 245 upstream classes"
    rows = [
        (QUICKDRAW_VIT, f"ViT, 28 x 28 x 1, {report['parameters'] / 1e6:.2f} M parameters; {held_out}"),
        *((name, f"pretrained; {known.used_by}; {known.licence}") for name, known in _known_backbones().items()),
        (
            "any timm model",
            "random weights without a tag, such as resnet50, pretrained with one; see timm.list_models(pretrained=True)",
        ),
    ]
    return tabulate(rows, headers=("name", "what"))


def _known_backbones() -> Mapping[str, Any]:
    from reclaim.strategies.backbones import KNOWN_BACKBONES  # brings torch, which reading names should not wait for

    return KNOWN_BACKBONES


def _claims() -> str:
    rows = [
        (c.id, c.family, f"{c.better} {'>' if c.kind == 'superior' else '>='} {c.worse}", c.stream, c.metric)
        for c in published.claims()
    ]
    return tabulate(rows, headers=("claim", "family", "says", "stream", "metric"))


def _cells() -> str:
    rows = [
        (
            c.id,
            c.published.mean,
            c.published.std,
            c.published.n,
            "no" if isinstance(protocol_of(run_of(c)), Uncovered) else "yes",
        )
        for c in published.cells()
    ]
    others = "\n".join(name for name in run_names() if name not in {run_of(c) for c in published.cells()})
    return f"{tabulate(rows, headers=('cell', 'mean', 'std', 'runs', 'covered'))}\n\nruns without a published number here:\n{others}"


def _in_full(name: str) -> str:
    streams = STREAMS | PAPER_STREAMS
    if name in streams:
        stream = streams[name]
        return f"{stream.name}: {stream.description}\nclasses per experience: {', '.join(map(str, stream.sizes))}\ntier: {stream.tier}"
    if name == QUICKDRAW_VIT:
        return asset(f"{QUICKDRAW_VIT}.md").read_text(encoding="utf-8")
    for claim in published.claims():
        if claim.id == name:
            return tabulate([(key, value) for key, value in vars(claim).items()], tablefmt="plain")
    of_papers = [*run_names(), *(cell.id for cell in published.cells())]
    if name in of_papers:
        return in_full(name)
    if name not in RECIPES:
        backbones = _known_backbones()
        if name in backbones:
            return tabulate([("backbone", name), *vars(backbones[name]).items()], tablefmt="plain")
        everything = [
            *RECIPES,
            *streams,
            QUICKDRAW_VIT,
            *backbones,
            *(claim.id for claim in published.claims()),
            *of_papers,
        ]
        similar = difflib.get_close_matches(name, everything, n=3, cutoff=0.3) or list(RECIPES)
        raise ValueError(
            f"nothing is called {name!r}: did you mean {', '.join(similar)}? (`reclaim list` shows the names)"
        )
    recipe = RECIPES[name]
    choice = (
        f"hyper-parameters: {recipe.hyperparameters_from}; grid {dict(recipe.grid)}"
        if recipe.grid
        else "nothing to choose"
    )
    choice = f"tuned as: {recipe.tuned_as}" if recipe.tuned_as else choice
    settings = json.dumps(recipe.config.as_dict(), indent=1)
    return f"{recipe.name}: {recipe.title}\n{recipe.description}\nhome stream: {recipe.home}\n{choice}\n{settings}"


def _seeds(context: click.Context, parameter: click.Parameter, value: str) -> range:
    first, dash, last = value.partition("-")
    try:
        seeds = range(int(first), int(last) + 1) if dash else range(int(first))
    except ValueError:
        seeds = range(0)
    if not seeds or seeds[0] < 0 or seeds[-1] >= 2**32:
        raise click.BadParameter(
            f"{value!r}: give a number of seeds, such as 10, or a range, such as 3-7; seeds lie below 2**32"
        )
    return seeds


@main.command()
@click.argument("names", nargs=-1, metavar="[RECIPE [STREAM]]")
@click.option(
    "--cell",
    help="A published cell instead of RECIPE: the paper's protocol (`reclaim list cells`; `reclaim list CELL` shows it).",
)
@click.option(
    "--rehearse",
    is_flag=True,
    help="Instead: rehearse the cells that are named, or `all`, one step per experience on synthetic images.",
)
@click.option(
    "--seeds",
    default="1",
    callback=_seeds,
    help="How many (0, 1, ...; of a cell the paper's first), or a range such as 3-7.",
)
@JOBS
@RECORDS
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting, such as lr=0.1 or alignment.tau=0.05; repeatable.",
)
@click.option("--again", is_flag=True, help="Make runs anew that are on record already.")
@DEVICE
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="Of cells: folder of the data sets (`reclaim data`).",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Of cells: folder of decoded images (`reclaim data cache`).",
)
@click.option(
    "--weights", type=click.Path(path_type=Path, dir_okay=False), help="Of cells: weights file, instead of timm's hub."
)
@click.option(
    "--workers", type=click.IntRange(0), default=0, help="Of cells: processes that load images, for each run."
)
@click.option(
    "--checkpoint-minutes",
    type=click.FloatRange(0),
    default=Setup.checkpoint_minutes,
    help="Least time between two checkpoints within an experience; there is one after each, too.",
)
@click.option(
    "--unverified",
    is_flag=True,
    help="Of cells: take data sets as they lie, such as small copies of your own; is recorded.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    help="Of the backbone [default: the recipe's].",
    show_default=False,
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the backbone.")
@click.option(
    "--micro-batch",
    type=click.IntRange(1),
    help="Images that pass the backbone at a time: less memory, the same gradient.",
)
@click.pass_context
def run(
    context: click.Context,
    names: tuple[str, ...],
    cell: str | None,
    rehearse: bool,
    seeds: range,
    jobs: int | None,
    records: Path | None,
    settings: tuple[str, ...],
    again: bool,
    device: str,
    root: Path | None,
    cache: Path | None,
    weights: Path | None,
    workers: int,
    checkpoint_minutes: float,
    unverified: bool,
    precision: str | None,
    compiled: bool,
    micro_batch: int | None,
) -> None:
    """Run RECIPE on STREAM (by default the recipe's home stream), or a published CELL, and record every seed.

    A run already on record is not run again. Interrupting keeps what is finished, and the same command goes on from there, long runs from
    their last checkpoint. Precision, compiling and micro-batches are recorded, and listed beside a cell's verdict.
    """
    settings += tuple(f"precision={precision}" for _ in [0] if precision) + ("compile=true",) * compiled
    settings += tuple(f"micro_batch={n}" for n in [micro_batch] if n)
    cores = available_cores()
    if rehearse:
        for option in ("seeds", "again", "cache", "weights", "checkpoint_minutes", "unverified"):
            if context.get_parameter_source(option) is not ParameterSource.DEFAULT:
                given = f"--{option.replace('_', '-')}"
                raise click.UsageError(
                    f"{given} means nothing to a rehearsal, which is of seed 0, on synthetic images, and always anew"
                )
        jobs = jobs or (cores if device == "cpu" else 1)
        setup = Setup(device, workers=workers, threads=max(1, cores // jobs))
        _rehearse(names or ((cell,) if cell else ()), settings, jobs, setup, root, records)
        return
    if bool(cell) == bool(names) or len(names) > 2:
        raise click.UsageError("name a RECIPE and, if it is not to be its home stream, a STREAM; or a --cell")
    if cell:
        found, target, own = find_cell(cell)
        jobs = jobs or 1
        threads = max(1, cores // jobs)
        chosen = _cell_seeds(seeds, own)
    else:
        found = find_recipe(names[0])
        target = find_stream(names[1] if len(names) > 1 else found.home)
        if target.name not in STREAMS and found.base.images is None:
            raise click.UsageError(
                f"{target.name!r} is of the paper tier, and {found.name} is not: use --cell, or one of {', '.join(STREAMS)}"
            )
        jobs = jobs or (None if device == "cpu" else 1)
        threads, chosen = 1, list(seeds)
    setup = Setup(
        device, root, cache, weights, workers, threads, checkpoint_minutes=checkpoint_minutes, unverified=unverified
    )
    store = RecordStore(records) if records else default_store()
    made = run_jobs(jobs_of(found, target, chosen, settings, setup), store, jobs, again)
    rows = []
    for metric in METRICS:
        summary = mean_interval([metric_of(record, metric) for record in made])
        interval = f"{summary.interval[0]:.2f} to {summary.interval[1]:.2f}" if summary.interval else "none (one run)"
        rows.append((metric, f"{summary.mean:.2f}", "-" if summary.std is None else f"{summary.std:.2f}", interval))
    click.echo(
        tabulate(
            rows,
            headers=(f"{found.name} on {target.name}, n = {len(made)}", "mean", "std", "95% interval"),
            disable_numparse=True,
        )
    )
    for remark in dict.fromkeys(remark for record in made for remark in record.result.get("remarks", ())):
        click.echo(f"note: {remark}")


def _cell_seeds(seeds: range, own: Sequence[int]) -> list[int]:
    """The paper's own seeds first, where it states them, then 0, 1, ...; a range is taken as it stands."""
    if seeds.start:
        return list(seeds)
    return [*own, *(seed for seed in range(len(seeds)) if seed not in own)][: len(seeds)]


def _rehearse(
    names: Sequence[str], settings: Sequence[str], jobs: int, setup: Setup, root: Path | None, records: Path | None
) -> None:
    """Rehearse the runs of cells, and say what the real ones take."""
    from .training.rehearsal import project, shortened

    if not names:
        raise click.UsageError("name the cells to rehearse, or `all`")
    if "all" in names and len(names) > 1:
        raise click.UsageError("`all` is every cell: name it alone")
    runs = list(
        {
            (r.name, s.name): (r, s) for r, s, _ in (covered_runs() if names == ("all",) else map(find_cell, names))
        }.values()
    )
    click.echo(f"{len(runs)} runs, on synthetic images and random weights", err=True)
    real, todo = {}, []
    for recipe, stream in runs:
        config = recipe.config.set(settings)
        short, surroundings = shortened(config, stream, root or Path("rehearsals", "data"), setup)
        job = Job(recipe.name, short, stream, 0, "given", surroundings)
        real[job] = config
        todo.append(job)
    known, failures = try_jobs(todo, RecordStore(records or Path("rehearsals", "records")), jobs, again=True)
    rows = []
    for job in todo:
        if job in failures:
            rows.append((job.recipe, job.stream.name, f"{type(failures[job]).__name__}: {failures[job]}", "-", "-"))
            continue
        record = known[job]
        seconds, memory = project(record.provenance["rehearsal"], real[job], job.stream, setup.workers)
        rows.append(
            (
                job.recipe,
                job.stream.name,
                f"{record.provenance['wall_seconds']:.0f} s",
                f"{seconds / 3600:.1f} h",
                f"{memory / 2**30:.1f} GiB",
            )
        )
    click.echo(
        tabulate(rows, headers=("run", "stream", "rehearsal", "real run: time here", "memory"), disable_numparse=True)
    )
    click.echo(f"{len(known)} of {len(todo)} rehearsed; no check counts their records")
    if failures:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("recipes", nargs=-1)
@click.option(
    "--seeds",
    "n_seeds",
    default=len(CHOICE_SEEDS),
    type=click.IntRange(1),
    help="Seeds per candidate (1000, 1001, ...).",
)
@JOBS
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help=f"Where the choice is written [default: the package's assets/{CHOSEN}].",
)
def sweep(recipes: Sequence[str], n_seeds: int, jobs: int | None, output: Path | None) -> None:
    """Choose the hyper-parameters of RECIPES (default: all that have a grid) on the validation part, and record the choice."""
    known = recipes_of("embedded")
    chosen = [find_recipe(name, known) for name in recipes] or [r for r in known.values() if r.grid]
    path = output or asset(CHOSEN)
    tuning.save(path, {})  # a file that cannot be written should be known before hours of training
    try:
        choices = tuning.sweep(chosen, range(CHOICE_SEEDS[0], CHOICE_SEEDS[0] + n_seeds), jobs)
    except KeyboardInterrupt:
        raise click.ClickException(
            "interrupted: no choice is made of half a sweep, and its runs are not kept"
        ) from None
    tuning.save(path, choices)
    for name, choice in choices.items():
        rows = [
            (json.dumps(c["settings"]), f"{c['score']:.2f}", "chosen" * (c["settings"] == choice["settings"]))
            for c in choice["candidates"]
        ]
        click.echo(tabulate(rows, headers=(name, choice["metric"], ""), disable_numparse=True) + "\n")


def _store_at_hand(records: Path | None) -> RecordStore | None:
    """The store to read: the one that is named, which must be there, or that of the working directory; None outside a checkout."""
    return named_store(records) if records else default_store() if Path("leaderboards", "records").is_dir() else None


@main.command()
@RECORDS
@click.option("--output", type=click.Path(path_type=Path), default=Path("leaderboards"), help="Folder of the pages.")
@click.option(
    "--docs",
    type=click.Path(path_type=Path),
    help="Folder of fidelity.md, findings.md and coverage.md, too [default: not written].",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="NAME",
    help="Only markdown, csv, json, svg, html or latex; repeatable.",
)
@click.option(
    "--figures", type=click.Path(path_type=Path), help="Folder of figures for papers and slides, too; needs matplotlib."
)
@click.option(
    "--check",
    "foreign",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Check a record from elsewhere; writes nothing.",
)
def leaderboard(
    records: Path | None,
    output: Path,
    docs: Path | None,
    formats: Sequence[str],
    figures: Path | None,
    foreign: Sequence[Path],
) -> None:
    """Write the leaderboards from the records: same records, same bytes.

    index.html shows everything, embedded.md, .csv and .svg all streams, and <stream>.md, .csv, .json and, with --format latex, .tex one.
    """
    from .report import leaderboard as boards
    from .verdicts import submission

    store = _store_at_hand(records)
    if foreign:
        checks = [submission.check(path, store) for path in foreign]
        click.echo("\n".join(map(str, checks)))
        if any(check.problems for check in checks):
            raise click.exceptions.Exit(1)
        return
    store = store or default_store()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            written = boards.write(store, output, formats or boards.FORMATS[:-1])
            written += boards.write_docs(store, docs) if docs else []
            written += boards.write_figures(store, figures) if figures else []
        finally:
            for message in dict.fromkeys(str(warning.message) for warning in caught):
                click.echo(f"warning: {message}", err=True)
    for path in written:
        click.echo(f"wrote {path}")


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def conform(files: Sequence[Path]) -> None:
    """Hold the implementations against golden FILES (.npz): the largest deviation beside its tolerance; fails beyond it."""
    from .checks import conform as conformance

    rows = []
    for path in files:
        deviations = conformance.check(path)
        rows += [
            (path.name, d.quantity, f"{d.value:.3g}", f"{d.tolerance:.3g}", "ok" if d.within else "BEYOND")
            for d in deviations
        ]
    click.echo(
        tabulate(rows, headers=("file", "quantity", "largest deviation", "tolerance", ""), disable_numparse=True)
    )
    if any(row[-1] == "BEYOND" for row in rows):
        raise click.exceptions.Exit(1)


@main.group()
def data() -> None:
    """The papers' data sets: where they come from, whether they are complete, and a decoded copy that loads fast.

    Below --root each lies in a folder of its own: `reclaim data list NAME` shows its name, and what is expected in it.
    """


ROOT = click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the data sets."
)
SHOWN = 50


@data.command("list")
@click.argument("name", required=False)
def data_list(name: str | None) -> None:
    """List the data sets, or show NAME in full."""
    from .data.catalogue import CATALOGUE, find_dataset
    from .data.streams import PAPER_STREAMS

    def images(n: int | None) -> str:
        return "-" if n is None else f"{n:,}"

    if name:
        entry = find_dataset(name)
        fields = {
            key: value
            for key, value in vars(entry).items()
            if key not in ("archives", "files", "also", "class_folders", "domains")
        }
        fields["files needed"] = ", ".join(entry.files) or "images only"
        fields["not read, not extra"] = ", ".join(entry.also) or "none known"
        fields["images of domains"] = ", ".join(f"{domain}/ {n:,}" for domain, n in entry.domains.items()) or "-"
        fields["folders of classes"] = (
            "\n".join(textwrap.wrap(", ".join(entry.class_folders), 110, break_on_hyphens=False)) or "as listed"
        )
        fields["streams"] = ", ".join(stream.name for stream in PAPER_STREAMS.values() if stream.dataset == name)
        fields["direct download"] = ", ".join(archive.url for archive in entry.archives) or "none"
        click.echo(tabulate(list(fields.items()), tablefmt="plain", disable_numparse=True))
    else:
        rows = [
            (e.name, e.classes, images(e.train), images(e.test), "yes" if e.archives else "by hand", e.licence)
            for e in CATALOGUE.values()
        ]
        click.echo(
            tabulate(rows, headers=("name", "classes", "train", "test", "fetch", "licence"), disable_numparse=True)
        )


@data.command("check")
@click.argument("name")
@ROOT
@click.option("--decode", is_flag=True, help="Decode every image, too: takes minutes.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help=f"Print every path, not the first {SHOWN} of those missing and of those extra.",
)
def data_check(name: str, root: Path, decode: bool, everything: bool) -> None:
    """Hold NAME against its own lists and the expected counts: what is missing, extra or damaged; fails if it cannot be used.

    Extra is what nothing names; it is not used, and no reason to fail. Hidden files, and what the data set's own archive holds besides, are
    not extra, nor is the archive that `fetch` keeps.
    """
    from .data.catalogue import find_dataset
    from .data.readers import list_images
    from .data.verify import take_stock, undecodable_files, wrong_counts

    stock = take_stock(name, root)
    problems = list(stock.problems)
    found = None
    if stock.readable:
        try:
            found = list_images(name, root)
        except ValueError as error:
            problems += str(error).splitlines()
    if found:
        for part, images in found.parts.items():
            click.echo(f"{part}: {len(images):,} images")
        click.echo(f"{len(found.names)} classes; SHA-256 of the index: {found.sha256}")
        problems += wrong_counts(found)
        if decode and stock.missing:
            problems.append("not decoded: mend what is missing first")
        elif decode:
            problems += undecodable_files(found)
    else:
        click.echo("not counted: the images cannot be read as a data set before the rest is mended")
    for note in (*(found.remarks if found else ()), *stock.notes):
        click.echo(f"note: {note}")
    for kind, paths in (("missing", stock.missing), ("extra", stock.extra)):
        shown = paths if everything else paths[:SHOWN]
        for path in shown:
            click.echo(f"{kind}: {path}")
        if len(shown) < len(paths):
            click.echo(f"{kind}: and {len(paths) - len(shown):,} more, which --all prints")
    problems = list(dict.fromkeys(problems))
    for problem in problems:
        click.echo(problem)
    extra = f"{len(stock.extra):,} extra"
    if problems or stock.missing:
        again = stock.missing and find_dataset(name).archives
        remedy = f"; `reclaim data fetch {name} --root {root}` puts back what is missing" if again else ""
        found_out = f"{len(stock.missing):,} missing, {extra}, {len(problems):,} other problems"
        raise click.ClickException(f"{name} is not as it should be: {found_out}; nothing was changed{remedy}")
    click.echo(f"complete; {extra}, not used" if stock.extra else "complete")


@data.command("fetch")
@click.argument("name")
@ROOT
def data_fetch(name: str, root: Path) -> None:
    """Download and unpack NAME where a public direct download exists; the same command goes on after an interruption."""
    from tqdm import tqdm

    from .data.catalogue import find_dataset
    from .data.fetch import fetch

    entry = find_dataset(name)
    click.echo(f"{entry.title}; licence: {entry.licence}; {entry.page}")
    bars: dict[Path, tqdm[Any]] = {}

    def show(file: Path, here: int, of: int | None) -> None:
        if file not in bars:
            bars[file] = stack.enter_context(tqdm(total=of, initial=here, unit="B", unit_scale=True, desc=file.name))
        bars[file].update(here - bars[file].n)

    with ExitStack() as stack:
        files = fetch(entry, root, show)
    for file in files:
        click.echo(f"fetched {file}")
    click.echo(f"now: reclaim data check {name} --root {root}")


@data.command("cache")
@click.argument("name")
@ROOT
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the caches [default: ROOT/decoded].")
def data_cache(name: str, root: Path, output: Path | None) -> None:
    """Decode all images of NAME once, into memory-mapped files of 3 bytes a pixel."""
    from tqdm import tqdm

    from .data.cache import make_cache
    from .data.verify import read_images

    found = read_images(name, root)
    with tqdm(total=sum(len(part) for part in found.parts.values()), unit="image", desc=name) as bar:
        targets = make_cache(found, output or root / "decoded", bar.update)
    for target in targets:
        click.echo(f"decoded {target}")


@main.command()
@click.argument("backbone", type=click.Choice(["quickdraw"]))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("pretrained"),
    help="Folder of weights, report and checkpoint.",
)
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--threads", type=click.IntRange(1), default=1)
@DEVICE
def pretrain(backbone: str, output: Path, epochs: int | None, seed: int, threads: int, device: str) -> None:
    """Pretrain the embedded backbone on the upstream drawings; the same command goes on from its checkpoint."""
    from .training.pretrain import Pretraining
    from .training.pretrain import pretrain as train

    report = train(Pretraining(seed=seed, **({"epochs": epochs} if epochs else {})), output, device, threads)
    click.echo(
        f"{report['held_out_accuracy']:.2f}% on held-out upstream drawings; fingerprint {report['fingerprint']}; wrote {output}"
    )


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="CLAIM|CELL|TABLE...")
@click.option(
    "--std",
    type=float,
    help="Spread between seeds in points: of a claim's paired differences, of a cell's runs [default: on record].",
)
@RECORDS
def plan(names: Sequence[str], std: float | None, records: Path | None) -> None:
    """Say what a study can decide and what it costs, before it is run.

    For a CLAIM the difference that 3, 5, 10 or 20 seeds find with 80% power; for a CELL, or every cell of a TABLE (such as slca/main), how
    likely so many seeds give "reproduced", and the seeds needed. Spread and cost are those of the runs on record, where there are any.
    """
    from .verdicts.counting import current
    from .verdicts.study import plan as planned

    store = _store_at_hand(records)
    loaded, problems = store.load() if store else ([], [])
    for problem in problems:
        click.echo(f"skipped {problem}", err=True)
    counted = current(loaded)
    click.echo("\n\n".join(planned(name, counted, std) for name in names))


if __name__ == "__main__":
    main()
