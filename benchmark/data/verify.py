"""Checks a data set's folder against its own lists and the catalogue: missing and extra files, wrong
numbers of images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from .catalogue import CatalogueEntry, find_dataset
from .images import ImageData, is_image
from .readers import LISTS, folder_of, lines_of, list_images, no_image

OF_A_COPY = "SYNTHETIC.txt"  # describes a synthetic copy


def read_images(name: str, root: Path | str, *, verify: bool = True) -> ImageData:
    """Read a data set below ``root``.

    :param verify: also check the counts against the catalogue and, if the images are in one file (CIFAR, SVHN), its MD5
        against the published one. Use ``False`` only for small or synthetic data that you made yourself: CIFAR's files
        are pickles, which can run code.
    :raises ValueError: something is missing or damaged, or a count is wrong; names it and the remedy. Nothing is
        changed.
    """
    data = list_images(name, root, verify=verify)
    missing = missing_files(data)
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} listed images are missing, the first is {missing[0]}: "
            f"an unfinished download or unpacking? "
            f"`reclaim data check {name} --root {root}` lists them"
        )
    wrong = wrong_counts(data) if verify else []
    if wrong:
        entry = find_dataset(name)
        raise ValueError(
            f"{name} in {Path(root) / entry.folder} is not complete, or not {entry.title}: {'; '.join(wrong)}"
        )
    return data


def missing_files(data: ImageData) -> list[Path]:
    """Images that are listed but do not exist."""
    paths = [
        part.path(i)
        for part in data.parts.values()
        if not isinstance(part.images, np.ndarray)
        for i in range(len(part))
    ]
    return [path for path in paths if path is not None and not os.path.isfile(path)]


def extra_files(data: ImageData) -> list[Path]:
    """Files in the data set's folder that no part lists and that are not distributed with it."""
    listed = {path for part in data.parts.values() if not isinstance(part.images, np.ndarray) for path in part.images}
    return [data.train.folder / file for file in _beside(find_dataset(data.name), data.train.folder, listed)]


@dataclass(frozen=True)
class Stock:
    """A data set's folder compared with its lists and the catalogue. Paths include the folder;
    paths of folders end in "/".

    :ivar missing: what the reader needs or a list names, but does not exist; folders first.
    :ivar extra: what neither the reader, a list nor the catalogue names. Hidden files are ignored.
    :ivar problems: other problems, one sentence each: an unreadable list, or a folder with a wrong number of images.
    :ivar notes: what could not be determined.
    :ivar readable: the reader has everything it needs, apart from images.
    """

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    readable: bool


def take_stock(name: str, root: Path | str) -> Stock:
    """List everything that is missing or extra in a data set's folder below ``root``.
    Continues where the reader would stop.

    :raises ValueError: there is no such folder.
    """
    entry = find_dataset(name)
    folder = folder_of(entry, root)
    lists = _lists(entry.name, folder)
    files = [file for file in dict.fromkeys([*entry.files, *lists]) if not (folder / file).is_file()]
    listed: set[str] = set()
    problems, notes = [], []
    unread = [file for file in lists if file in files]
    for file in (file for file in lists if file not in files):
        try:
            listed |= set(lists[file](folder / file))
        except ValueError as error:
            problems.append(str(error))
            unread.append(file)
    images = sorted(image for image in listed if not os.path.isfile(folder / image))

    above = _folders_of_classes(entry, folder)
    absent, surplus = [below for below in above if not (folder / below).is_dir()], []
    readable = not files and not absent
    for below in [below for below in above if below not in absent]:
        found = sorted(
            path.name for path in (folder / below).iterdir() if path.is_dir() and not path.name.startswith(".")
        )
        known = {_plain(c) for c in entry.class_folders} or {_plain(c) for c in found}
        absent += [below + c for c in entry.class_folders if _plain(c) not in {_plain(other) for other in found}]
        surplus += [below + c for c in found if _plain(c) not in known]
        if lists:
            continue
        counts = {
            c: [p.name for p in (folder / below / c).iterdir() if is_image(p)] for c in found if _plain(c) in known
        }
        listed |= {f"{below}{c}/{image}" for c, of_class in counts.items() for image in of_class}
        problems += [no_image(folder / below / c) for c, of_class in counts.items() if not of_class]
        expected = {c: entry.per_class for c in counts if entry.per_class is not None and counts[c]}
        wrong = [(below + c, len(counts[c]), n) for c, n in expected.items()]
        if below.rstrip("/") in entry.domains:
            wrong.append((below, sum(map(len, counts.values())), entry.domains[below.rstrip("/")]))
        problems += [f"{folder / place}: {n:,} images instead of {right:,}" for place, n, right in wrong if n != right]
    extra = _beside(entry, folder, listed)
    if unread:
        notes.append(f"cannot tell which images are extra without {', '.join(sorted(unread))}")
        extra = [file for file in extra if not is_image(Path(file))]
    elif above and not lists:
        notes.append(
            "no list names the images of the class folders: "
            "only their numbers can be checked, not which ones are missing or extra"
        )
    return Stock(
        missing=tuple([*(f"{folder / path}/" for path in absent), *(str(folder / path) for path in (*files, *images))]),
        extra=tuple([*(f"{folder / path}/" for path in surplus), *(str(folder / path) for path in extra)]),
        problems=tuple(problems),
        notes=tuple(notes),
        readable=readable,
    )


def _beside(entry: CatalogueEntry, folder: Path, listed: set[str]) -> list[str]:
    """Files that are neither listed nor in the catalogue, nor partial downloads of such files,
    which `fetch` can resume.
    """
    known = listed | set(entry.files) | {OF_A_COPY}

    def belongs(file: str) -> bool:
        return file in known or any(fnmatchcase(file, pattern) for pattern in entry.also)

    return sorted(
        file
        for file in _files(folder)
        if not belongs(file) and not (file.endswith(".part") and belongs(file[: -len(".part")]))
    )


def _files(folder: Path) -> Iterator[str]:
    """Paths relative to ``folder``, with forward slashes; no hidden files."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(place).relative_to(folder)
        yield from ((below / name).as_posix() for name in files if not name.startswith("."))


def _lists(name: str, folder: Path) -> dict[str, Callable[[Path], list[str]]]:
    """Files that list the images, and the function that reads each. ImageNet-R has lists in one of its forms only."""
    if name == "imagenet-r":
        lists = ("train.txt", "test.txt")
        in_lists = not (folder / "train").is_dir() and any((folder / file).is_file() for file in lists)
        return dict.fromkeys(lists, lines_of) if in_lists else {}
    return LISTS.get(name, {})


def _folders_of_classes(entry: CatalogueEntry, folder: Path) -> list[str]:
    """Folders that contain one folder per class, relative to ``folder``,
    with a slash at the end unless it is ``folder`` itself.
    """
    if entry.name == "imagenet-r" and (folder / "train").is_dir():
        return ["train/", "val/" if (folder / "val").is_dir() and not (folder / "test").is_dir() else "test/"]
    return [f"{domain}/" for domain in entry.domains] or ([""] if entry.class_folders else [])


def _plain(name: str) -> str:
    """A class name without differences of case, spaces and hyphens."""
    return "".join(c for c in name.lower() if c.isalnum())


def undecodable_files(data: ImageData) -> list[str]:
    """Error message of :meth:`ImageList.load` for each image that cannot be decoded.
    Decodes everything, which takes minutes.
    """
    errors = []
    for part in data.parts.values():
        for i in range(len(part)):
            try:
                part.load(i)
            except ValueError as error:
                errors.append(str(error))
    return errors


def wrong_counts(data: ImageData) -> list[str]:
    """Differences from the catalogue in the numbers of classes and images, one sentence each. F7 (docs/fidelity.md)
    swaps Cars-196's two parts.
    """
    entry = find_dataset(data.name)
    found = {name: len(part) for name, part in data.parts.items()}
    expected: dict[str, int | None] = {"train": entry.train, "test": entry.test, "validation": entry.validation}
    if data.name == "cars196" and found == {"train": entry.test, "test": entry.train}:
        expected = {}
    wrong = [
        f"{found.get(k, 0):,} {k} images instead of {n:,}"
        for k, n in expected.items()
        if n is not None and found.get(k, 0) != n
    ]
    return wrong + (
        [f"{len(data.names)} classes instead of {entry.classes}"] if len(data.names) != entry.classes else []
    )
