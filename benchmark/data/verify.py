"""Checks a data set's folder against its own lists and the catalogue: missing and extra files, wrong
numbers of images.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..files import asset, replacing
from .catalogue import CatalogueEntry, find_dataset
from .images import ImageData, ImageList, is_image, is_of_system, plain_name
from .layouts import find_layout, list_images
from .readers import no_image

OF_A_COPY = "SYNTHETIC.txt"  # describes a synthetic copy


def read_images(name: str, root: Path | str, *, verify: bool = True) -> ImageData:
    """Read a data set below ``root``, in any form that :mod:`~reclaim.benchmark.data.layouts` knows.

    :param verify: also check the counts against the catalogue, test images against training images, the images of
        CIFAR-10 against the published ones, and the MD5 of the files of CIFAR-100 and SVHN. Use ``False`` only for
        small or synthetic data that you made yourself.
    :raises ValueError: something is missing or damaged, a count is wrong, or test images are training images; names it
        and the remedy. Nothing is changed.
    """
    data = list_images(name, root, verify=verify)
    missing = missing_files(data)
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} listed images are missing, the first is {missing[0]}: "
            f"an unfinished download or unpacking? "
            f"`reclaim data check {name} --root {root}` lists them"
        )
    wrong = wrong_counts(data) + foreign_images(data) if verify else []
    if wrong:
        entry = find_dataset(name)
        gets = f" (`reclaim data fetch {name}` gets one)" if entry.archives else ""
        raise ValueError(
            f"{name} in {data.train.folder} is not complete, or not {entry.title}: {'; '.join(wrong)}; put a fresh "
            f"copy there{gets}, or take it as it is with --unverified"
        )
    if verify and (problems := repeated_images(data)[0]):
        raise ValueError("; ".join(problems))
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

    :ivar layout: the form that the folder has, in words.
    :ivar missing: what the reader needs or a list names, but does not exist; folders first.
    :ivar extra: what neither the reader, a list nor the catalogue names. Hidden files are ignored.
    :ivar problems: other problems, one sentence each: an unreadable list, or a folder with a wrong number of images.
    :ivar notes: what could not be determined.
    :ivar readable: the reader has everything it needs, apart from images.
    """

    layout: str
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
    folder, layout = find_layout(name, root)
    lists = layout.lists
    files = [file for file in dict.fromkeys([*layout.files, *lists]) if not (folder / file).is_file()]
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

    above = layout.classes_below(folder)
    absent, surplus = [below for below in above if not (folder / below).is_dir()], []
    readable = not files and not absent
    for below in [below for below in above if below not in absent]:
        found = sorted(
            path.name for path in (folder / below).iterdir() if path.is_dir() and not is_of_system(path.name)
        )
        known = {plain_name(c) for c in entry.class_folders} or {plain_name(c) for c in found}
        absent += [
            below + c for c in entry.class_folders if plain_name(c) not in {plain_name(other) for other in found}
        ]
        surplus += [below + c for c in found if plain_name(c) not in known]
        if lists:
            continue
        counts = {
            c: [p.name for p in (folder / below / c).iterdir() if is_image(p)] for c in found if plain_name(c) in known
        }
        listed |= {f"{below}{c}/{image}" for c, of_class in counts.items() for image in of_class}
        problems += [no_image(folder / below / c) for c, of_class in counts.items() if not of_class]
        whole = not below  # else it is a part, whose images are counted as one
        expected = {c: entry.per_class for c in counts if whole and entry.per_class is not None and counts[c]}
        wrong = [(below + c, len(counts[c]), n) for c, n in expected.items()]
        if below.rstrip("/") in entry.domains:
            wrong.append((below, sum(map(len, counts.values())), entry.domains[below.rstrip("/")]))
        problems += [f"{folder / place}: {n:,} images instead of {right:,}" for place, n, right in wrong if n != right]
    # the root has other data sets beside the files of one that has no folder of its own
    extra = [] if folder == Path(root) else _beside(entry, folder, listed | set(layout.files))
    if unread:
        notes.append(f"cannot tell which images are extra without {', '.join(sorted(unread))}")
        extra = [file for file in extra if not is_image(Path(file))]
    elif above and not lists and entry.sha256 is None:
        notes.append(
            "no list names the images of the class folders: "
            "only their numbers can be checked, not which ones are missing or extra"
        )
    notes += [] if files else layout.notes(folder)
    return Stock(
        layout=layout.title,
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


REPEATED = 0.01
"""Share of a part's images whose content may occur twice: published data sets may have some such images."""


def repeated_images(data: ImageData) -> tuple[list[str], list[str]]:
    """Images that occur twice, by name and by content, in two parts or in one: problems and notes, a sentence each.

    By content it is a problem above :data:`REPEATED` of the test (or validation) images, or of a part's own, and where
    the name is the same as well. Images of one name and different content are a note: some data sets number the images
    of each part anew. Reads every file.

    :raises OSError: a file is missing.
    """
    problems, notes = list[str](), list[str]()
    labelled = {
        part: list(zip(images.labels, data.image_names(part), images.contents, strict=True))
        for part, images in data.parts.items()
    }
    for part, images in data.parts.items():
        contents = {content: i for i, content in enumerate(images.contents)}
        twice = [i for i, content in enumerate(images.contents) if contents[content] != i]
        twice = [i for i in twice if _same_content(data, part, i, part, contents[images.contents[i]])]
        if twice:
            i, other = twice[0], contents[images.contents[twice[0]]]
            where = f"{_shown(data, part, i)} and {_shown(data, part, other)}"
            text = f"{len(twice):,} of {len(images):,} {part} images repeat others (the same content): {where}"
            (problems if len(twice) > REPEATED * len(images) else notes).append(text)
    training = {content: i for i, content in enumerate(data.train.contents)}
    names = {(label, name): content for label, name, content in labelled["train"] if name}
    for part in (part for part in data.parts if part != "train"):
        held = data.parts[part]
        both = [i for i, content in enumerate(held.contents) if content in training]
        both = [i for i in both if _same_content(data, part, i, "train", training[held.contents[i]])]
        known = [i for i, (label, name, content) in enumerate(labelled[part]) if names.get((label, name)) == content]
        if both:
            i = both[0]
            where = f"{_shown(data, part, i)} is {_shown(data, 'train', training[held.contents[i]])}"
            text = f"{len(both):,} of {len(held):,} {part} images are training images, too (the same content): {where}"
            (problems if known or len(both) > REPEATED * len(held) else notes).append(text)
        renamed = [i for i, row in enumerate(labelled[part]) if names.get(row[:2], row[2]) != row[2]]
        if renamed:
            notes.append(
                f"{len(renamed):,} {part} images have the name of a training image of their class, but another "
                f"content; the first is {_shown(data, part, renamed[0])}"
            )
    return problems, notes


def _same_content(data: ImageData, part: str, i: int, other_part: str, j: int) -> bool:
    """Whether two images whose :attr:`~reclaim.benchmark.data.images.ImageList.contents` agree are the same."""
    path, other = data.parts[part].path(i), data.parts[other_part].path(j)
    return path is None or other is None or path.read_bytes() == other.read_bytes()


def _shown(data: ImageData, part: str, i: int) -> str:
    images = data.parts[part]
    if path := images.path(i):
        return str(path)
    where = images.sources[i] if images.sources else f"number {i} of {part}"
    return f"{where} in class {data.names[images.labels[i]]}"


_NAMED_FOREIGN = 5


def foreign_images(data: ImageData) -> list[str]:
    """How the images differ from the published ones, one sentence each; none if they do not, or if the catalogue does
    not know their identity. Says which images of the copy are foreign, in what, and of which class others are absent.
    """
    entry = find_dataset(data.name)
    if entry.sha256 in (None, data.sha256):
        return []
    names, published = _published_images(data.name)
    if data.names != names:
        return [f"its classes are {', '.join(data.names)} instead of {', '.join(names)}"]
    absent = {part: [Counter(of_class) for of_class in labelled] for part, labelled in published.items()}
    found: dict[str, list[int]] = {part: [] for part in data.parts}
    for part, images in data.parts.items():
        for i, (label, content) in enumerate(zip(images.labels, map(_begin, images.contents), strict=True)):
            if absent[part][label][content] > 0:
                absent[part][label][content] -= 1
            else:
                found[part].append(i)
    sentences = []
    for part, foreign in found.items():
        missing = {names[label]: n for label, of_class in enumerate(absent[part]) if (n := of_class.total())}
        if foreign:
            named = [f"{_shown(data, part, i)} {_why(data, part, i, published)}" for i in foreign[:_NAMED_FOREIGN]]
            more = f", and {len(foreign) - len(named):,} more" * (len(foreign) > len(named))
            sentences.append(
                f"{len(foreign):,} of {len(data.parts[part]):,} {part} images are foreign: {', '.join(named)}{more}"
            )
        if missing:
            listed = ", ".join(f"{n:,} of {name}" for name, n in missing.items())
            sentences.append(f"{sum(missing.values()):,} {part} images are absent: {listed}")
    return sentences or ["its images are not the published ones"]


def _why(data: ImageData, part: str, i: int, published: Mapping[str, Sequence[Sequence[int]]]) -> str:
    images = data.parts[part]
    content = _begin(images.contents[i])
    if content in published[part][images.labels[i]]:
        return "(there twice)"
    for other, labelled in published.items():
        for label, of_class in enumerate(labelled):
            if content in of_class:
                return f"(published as {data.names[label]} in {other})"
    return "(its pixels are of no published image)"


def _begin(content: str) -> int:
    """The first four bytes of a SHA-256 tell 60,000 images apart well enough to name them; the whole one decides."""
    return int(content[:8], 16)


def write_published(data: ImageData, path: Path) -> None:
    """Write what :func:`foreign_images` compares with: the beginnings of the images' hashes, by part and label."""
    arrays: dict[str, np.ndarray] = {}
    for part, images in data.parts.items():
        rows = sorted(zip(images.labels, map(_begin, images.contents), strict=True))
        arrays[part] = np.array([content for _, content in rows], np.uint32)
        arrays[f"{part}_counts"] = np.bincount([label for label, _ in rows], minlength=len(data.names))
    with replacing(path) as file:
        np.savez_compressed(file, names=np.array(data.names), **arrays)  # type: ignore[arg-type]


def _published_images(name: str) -> tuple[tuple[str, ...], dict[str, list[list[int]]]]:
    """Names of the classes; part -> label -> the beginnings of the images' hashes."""
    with np.load(asset(f"{name}.npz")) as file:
        parts = {
            part: [of_class.tolist() for of_class in np.split(file[part], file[f"{part}_counts"].cumsum()[:-1])]
            for part in file.files
            if f"{part}_counts" in file.files
        }
        return tuple(file["names"].tolist()), parts


def undecodable_files(data: ImageData, progress: Callable[[int], object] | None = None) -> list[str]:
    """Error message of :meth:`ImageList.load` for each image that cannot be decoded.
    Decodes everything, which takes minutes.

    :param progress: called with 1 after each image.
    """

    def problem(image: tuple[ImageList, int]) -> str | None:
        part, i = image
        try:
            part.load(i)
        except ValueError as error:
            return str(error)
        return None

    images = [(part, i) for part in data.parts.values() for i in range(len(part))]
    errors = []
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:  # decoders leave Python's lock to others
        for error in pool.map(problem, images):
            if progress:
                progress(1)
            if error:
                errors.append(error)
    return errors


NAMED = 50
"""Damaged images that an error names."""


def require_decodable(data: ImageData, quiet: bool = False) -> None:
    """Decode every image once, with a progress bar.

    :raises ValueError: some cannot be decoded; names them.
    """
    total = sum(map(len, data.parts.values()))
    with tqdm(total=total, unit="image", desc="looking at the images", leave=False, disable=quiet) as bar:
        damaged = undecodable_files(data, bar.update)
    if damaged:
        more = f"\nand {len(damaged) - NAMED:,} more" * (len(damaged) > NAMED)
        listed = "\n".join(damaged[:NAMED])
        raise ValueError(f"{len(damaged):,} images are damaged; nothing was changed:\n{listed}{more}")


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
