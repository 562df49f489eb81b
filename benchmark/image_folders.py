"""The papers' data sets as they are distributed: which image belongs to which part, under which label."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from .catalogue import CatalogueEntry, find_dataset

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
OF_A_COPY = "SYNTHETIC.txt"  # says of a synthetic copy what it is
SPLIT_SEED = 0
FOLDS, FOLD_SEED = 10, 1  # OLOR


@dataclass(frozen=True)
class ImageList:
    """Images and their labels, in a fixed order.

    :ivar folder: of the data set.
    :ivar images: paths relative to ``folder`` with forward slashes, or all pixels, (n, height, width, 3) uint8.
    :ivar labels: n class ids from 0.
    """

    folder: Path
    images: tuple[str, ...] | np.ndarray
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, i: int) -> Path | None:
        """Of image ``i``; ``None`` where the images are pixels."""
        return None if isinstance(self.images, np.ndarray) else self.folder / self.images[i]

    def load(self, i: int) -> Image.Image:
        """Image ``i`` in RGB.

        :raises ValueError: it cannot be decoded; names the file.
        """
        if isinstance(self.images, np.ndarray):
            return Image.fromarray(self.images[i])
        path = self.folder / self.images[i]
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except Exception as error:  # Pillow's decoders raise errors of a dozen kinds for damaged files
            raise ValueError(f"{path} is no image that can be decoded ({error}): put a fresh copy there") from error

    def take(self, indices: Iterable[int]) -> ImageList:
        """Some of the images, in the order asked for."""
        chosen = list(indices)
        images = self.images[chosen] if isinstance(self.images, np.ndarray) else tuple(self.images[i] for i in chosen)
        return ImageList(self.folder, images, tuple(self.labels[i] for i in chosen))

    def names(self) -> list[str]:
        """What identifies each image: its path, or the SHA-256 of its pixels."""
        if isinstance(self.images, np.ndarray):
            return [hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in self.images]
        return list(self.images)


@dataclass(frozen=True)
class ImageData:
    """A data set.

    :ivar names: of the classes; a label is a place in it.
    :ivar validation: the official validation part, where there is one.
    :ivar remarks: in what the split is, or may be, another than the papers'.
    """

    name: str
    names: tuple[str, ...]
    train: ImageList
    test: ImageList
    validation: ImageList | None = None
    remarks: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, ImageList]:
        parts = {"train": self.train, "test": self.test, "validation": self.validation}
        return {name: part for name, part in parts.items() if part is not None}

    @cached_property
    def sha256(self) -> str:
        """Of the sorted index (part, label, path or hash of the pixels) and the class names, in hex."""
        lines = [f"class\t{label}\t{name}" for label, name in enumerate(self.names)]
        for part, images in self.parts.items():
            lines += [f"{part}\t{label}\t{name}" for label, name in zip(images.labels, images.names(), strict=True)]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


class ImageDataset(Dataset[tuple[Any, int]]):
    """An :class:`ImageList` as a torch dataset of (PIL image, label), with the ``targets`` that Avalanche splits by."""

    def __init__(self, images: ImageList) -> None:
        self.images = images
        self.targets = list(images.labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return self.images.load(i), self.images.labels[i]


def read_images(name: str, root: Path | str, *, verify: bool = True) -> ImageData:
    """A data set that lies below ``root``.

    :param verify: also hold the counts against the catalogue and, where the images lie in one file (CIFAR, SVHN), its MD5 against the
        published one. ``False`` is for small or synthetic data that you made yourself: CIFAR's files are pickles, which can run code.
    :raises ValueError: something is missing, damaged or of another number than expected; names it and the remedy. Nothing is changed.
    """
    data = list_images(name, root, verify=verify)
    missing = missing_files(data)
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} listed images are missing, the first is {missing[0]}: an unfinished download or unpacking? "
            f"`reclaim data check {name} --root {root}` lists them"
        )
    wrong = wrong_counts(data) if verify else []
    if wrong:
        entry = find_dataset(name)
        raise ValueError(f"{name} in {Path(root) / entry.folder} is not complete, or not {entry.title}: {'; '.join(wrong)}")
    return data


def list_images(name: str, root: Path | str, *, verify: bool = True) -> ImageData:
    """As :func:`read_images`, but as the lists say: without looking whether all images are there, and without counting."""
    entry = find_dataset(name)
    return _READERS[entry.name](_folder(entry, root), verify)


def _folder(entry: CatalogueEntry, root: Path | str) -> Path:
    folder = Path(root) / entry.folder
    if not folder.is_dir():
        how = f"`reclaim data fetch {entry.name} --root {root}`" if entry.archives else f"download it from {entry.page}"
        raise ValueError(f"{entry.title} is not in {folder}: {how}, or give the folder above {entry.folder}/ as --root")
    return folder


def missing_files(data: ImageData) -> list[Path]:
    """Images that are listed but are not there."""
    paths = [part.path(i) for part in data.parts.values() if not isinstance(part.images, np.ndarray) for i in range(len(part))]
    return [path for path in paths if path is not None and not os.path.isfile(path)]


def extra_files(data: ImageData) -> list[Path]:
    """Files in the data set's folder that no part lists, and that do not belong to what is distributed with it."""
    listed = {path for part in data.parts.values() if not isinstance(part.images, np.ndarray) for path in part.images}
    return [data.train.folder / file for file in _beside(find_dataset(data.name), data.train.folder, listed)]


@dataclass(frozen=True)
class Stock:
    """A data set's folder, held against its lists and the catalogue. Paths start with that of the folder; those of folders end in "/".

    :ivar missing: what the reader needs or a list names, and is not there; folders first.
    :ivar extra: what neither of them names, nor the catalogue as distributed with it; hidden files are not looked at.
    :ivar problems: what else is wrong, one sentence each: a list that cannot be read, a folder with another number of images than expected.
    :ivar notes: what could not be found out.
    :ivar readable: the reader has what it needs, apart from images.
    """

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    readable: bool


def take_stock(name: str, root: Path | str) -> Stock:
    """All that is missing from a data set's folder below ``root``, and all that is extra: goes on where the reader would stop.

    :raises ValueError: there is no such folder.
    """
    entry = find_dataset(name)
    folder = _folder(entry, root)
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
        found = sorted(path.name for path in (folder / below).iterdir() if path.is_dir() and not path.name.startswith("."))
        known = {_plain(c) for c in entry.class_folders} or {_plain(c) for c in found}
        absent += [below + c for c in entry.class_folders if _plain(c) not in {_plain(other) for other in found}]
        surplus += [below + c for c in found if _plain(c) not in known]
        if lists:
            continue
        counts = {c: [p.name for p in (folder / below / c).iterdir() if _is_image(p)] for c in found if _plain(c) in known}
        listed |= {f"{below}{c}/{image}" for c, of_class in counts.items() for image in of_class}
        problems += [_no_image(folder / below / c) for c, of_class in counts.items() if not of_class]
        expected = {c: entry.per_class for c in counts if entry.per_class is not None and counts[c]}
        wrong = [(below + c, len(counts[c]), n) for c, n in expected.items()]
        if below.rstrip("/") in entry.domains:
            wrong.append((below, sum(map(len, counts.values())), entry.domains[below.rstrip("/")]))
        problems += [f"{folder / place}: {n:,} images instead of {right:,}" for place, n, right in wrong if n != right]
    extra = _beside(entry, folder, listed)
    if unread:
        notes.append(f"which images are extra cannot be said without {', '.join(sorted(unread))}")
        extra = [file for file in extra if not _is_image(Path(file))]
    elif above and not lists:
        notes.append(
            "no list says which images the folders of the classes should hold: of those missing or extra there, only numbers are known"
        )
    return Stock(
        missing=tuple([*(f"{folder / path}/" for path in absent), *(str(folder / path) for path in (*files, *images))]),
        extra=tuple([*(f"{folder / path}/" for path in surplus), *(str(folder / path) for path in extra)]),
        problems=tuple(problems),
        notes=tuple(notes),
        readable=readable,
    )


def _beside(entry: CatalogueEntry, folder: Path, listed: set[str]) -> list[str]:
    """Files that are neither listed nor in the catalogue, nor halves of such files that an interrupted `fetch` goes on with."""
    known = listed | set(entry.files) | {OF_A_COPY}

    def belongs(file: str) -> bool:
        return file in known or any(fnmatchcase(file, pattern) for pattern in entry.also)

    return sorted(file for file in _files(folder) if not belongs(file) and not (file.endswith(".part") and belongs(file[: -len(".part")])))


def _files(folder: Path) -> Iterator[str]:
    """Relative to ``folder``, with forward slashes; nothing hidden."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(place).relative_to(folder)
        yield from ((below / name).as_posix() for name in files if not name.startswith("."))


def _lists(name: str, folder: Path) -> dict[str, Callable[[Path], list[str]]]:
    """Files that say which images there are, and what reads one; ImageNet-R has them in one of its forms only."""
    if name == "imagenet-r":
        lists = ("train.txt", "test.txt")
        in_lists = not (folder / "train").is_dir() and any((folder / file).is_file() for file in lists)
        return dict.fromkeys(lists, _lines) if in_lists else {}
    return _LISTS.get(name, {})


def _folders_of_classes(entry: CatalogueEntry, folder: Path) -> list[str]:
    """Folders with one folder per class each, relative to ``folder``, with a slash at the end unless it is ``folder`` itself."""
    if entry.name == "imagenet-r" and (folder / "train").is_dir():
        return ["train/", "val/" if (folder / "val").is_dir() and not (folder / "test").is_dir() else "test/"]
    return [f"{domain}/" for domain in entry.domains] or ([""] if entry.class_folders else [])


def _plain(name: str) -> str:
    """The same for spellings of the name of a class that differ in case, spaces and hyphens only."""
    return "".join(c for c in name.lower() if c.isalnum())


def undecodable_files(data: ImageData) -> list[str]:
    """What :meth:`ImageList.load` says of each image that it cannot decode; decodes everything, which takes minutes."""
    errors = []
    for part in data.parts.values():
        for i in range(len(part)):
            try:
                part.load(i)
            except ValueError as error:
                errors.append(str(error))
    return errors


def wrong_counts(data: ImageData) -> list[str]:
    """Where the numbers of classes and images are not the catalogue's, one sentence each; F7 exchanges Cars-196's two parts."""
    entry = find_dataset(data.name)
    found = {name: len(part) for name, part in data.parts.items()}
    expected: dict[str, int | None] = {"train": entry.train, "test": entry.test, "validation": entry.validation}
    if data.name == "cars196" and found == {"train": entry.test, "test": entry.train}:
        expected = {}
    wrong = [f"{found.get(k, 0):,} {k} images instead of {n:,}" for k, n in expected.items() if n is not None and found.get(k, 0) != n]
    return wrong + ([f"{len(data.names)} classes instead of {entry.classes}"] if len(data.names) != entry.classes else [])


Selection = tuple[str, Sequence[int]]
"""A part of a data set, and places in it."""


def hold_out(data: ImageData) -> tuple[Selection, Selection]:
    """The training images without a validation part, and that part.

    It is the official one where there is one (F16), else the first of OLOR's ten stratified folds (shuffled, random state 1). OLOR divided
    lists in the order in which a file system named the files, so that its folds hold other images of the same number.
    """
    if data.validation is not None:
        return ("train", range(len(data.train))), ("validation", range(len(data.validation)))
    from sklearn.model_selection import StratifiedKFold  # type: ignore[import-untyped]

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=FOLD_SEED).split(np.zeros(len(data.train)), data.train.labels)
    kept, held = next(folds)
    return ("train", kept.tolist()), ("train", held.tolist())


def read_cars196(folder: Path, verify: bool = True, *, official: bool = False) -> ImageData:
    """Stanford Cars from ``cars_annos.mat``.

    :param folder: holds ``cars_annos.mat`` and ``car_ims/``.
    :param official: rows whose last column is 1 are test images, as the file's own name for the column ("test") says. By default they
        are training images, as in SLCA's and OLOR's code (F7).
    """
    path = folder / "cars_annos.mat"
    paths, labels, column, names = _cars_annotations(path)
    _labels_fit(path, labels, len(names))
    train_value = 0 if official else 1
    train, test = (
        _listed(folder, [(p, c) for p, c, t in zip(paths, labels, column, strict=True) if (t == train_value) == is_train])
        for is_train in (True, False)
    )
    remark = (
        "the official split: the papers may train on its test part (F7)"
        if official
        else f"rows whose column `test` is 1 are trained on, as in the papers' code (F7): {len(train):,} train, {len(test):,} test"
    )
    return ImageData("cars196", names, train, test, remarks=(remark,))


def _cars_annotations(path: Path) -> tuple[list[str], list[int], list[int], tuple[str, ...]]:
    """Paths, labels, the column "test" and the names of the classes."""
    from scipy.io import loadmat

    try:
        content = loadmat(str(_there(path)), squeeze_me=True)
        rows, names = np.atleast_1d(content["annotations"]), tuple(str(n).strip() for n in np.atleast_1d(content["class_names"]))
        paths = [str(p) for p in rows["relative_im_path"]]
        return paths, [int(c) - 1 for c in rows["class"]], [int(t) for t in rows["test"]], names
    except (ValueError, KeyError, IndexError, TypeError, OSError, EOFError, NotImplementedError, zlib.error) as error:
        raise ValueError(f"{path} is not Stanford Cars' cars_annos.mat ({error}): put a fresh copy there") from error


def _cifar(name: str, folder: Path, verify: bool) -> ImageData:
    from torchvision import datasets  # seconds that naming the data sets should not cost

    kind: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    files = [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]
    _have_md5([(folder / file, md5 if verify else None) for file, md5 in files], name)
    if not verify:
        unverified = {
            "train_list": [[file, None] for file, _ in kind.train_list],
            "test_list": [[file, None] for file, _ in kind.test_list],
            "meta": {**kind.meta, "md5": None},
        }
        kind = type(kind.__name__, (kind,), unverified)
    try:
        read = [kind(str(folder.parent), train=part) for part in (True, False)]
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"{folder} does not hold {find_dataset(name).title} ({error}): put a fresh copy there") from error
    train, test = (ImageList(folder, r.data, tuple(int(c) for c in r.targets)) for r in read)
    return ImageData(name, tuple(read[0].classes), train, test)


def _svhn(folder: Path, verify: bool) -> ImageData:
    from torchvision.datasets import SVHN

    files = [SVHN.split_list[part][1:] for part in ("train", "test")]
    _have_md5([(folder / file, md5 if verify else None) for file, md5 in files], "svhn")
    kind: Any = SVHN if verify else type("SVHN", (SVHN,), {"split_list": {k: [*v[:2], None] for k, v in SVHN.split_list.items()}})
    try:
        read = [kind(str(folder), split=part) for part in ("train", "test")]
    except (ValueError, KeyError, EOFError, zlib.error) as error:
        raise ValueError(f"{folder} does not hold SVHN's .mat files ({error}): put fresh copies there") from error
    train, test = (ImageList(folder, r.data.transpose(0, 2, 3, 1), tuple(int(c) for c in r.labels)) for r in read)
    return ImageData("svhn", tuple("0123456789"), train, test)


def _imagenet_r(folder: Path, verify: bool) -> ImageData:
    lists = [folder / f"{part}.txt" for part in ("train", "test")]
    if (folder / "train").is_dir():
        tests = [folder / part for part in ("test", "val") if (folder / part).is_dir()]
        if not tests:
            raise ValueError(f"{folder / 'train'} is there, but neither test/ nor val/ beside it: put the test images there")
        names = _classes(folder / "train")
        train, test = (_labelled(folder, _images(folder, part.name), names) for part in (folder / "train", tests[0]))
        remark = f"the split is that of the folders train/ and {tests[0].name}/: the papers' (DualPrompt's) if they were made from it"
    elif lists[0].is_file() or lists[1].is_file():
        names = _classes(folder)
        train, test = (_labelled(folder, _lines(path), names) for path in lists)
        both = set(train.images) & set(test.images)
        if both:
            raise ValueError(
                f"{folder}: {len(both)} images are both in train.txt and in test.txt, the first is {min(both)}: mend the lists"
            )
        remark = "the split is that of train.txt and test.txt: the papers' (DualPrompt's) if these are its lists"
    else:
        names = _classes(folder)
        train, test = _seeded_split(_labelled(folder, _images(folder), names))
        remark = f"NOT the papers' split: 0.8 / 0.2 by seed {SPLIT_SEED}, for there is neither a train.txt nor a train/ in {folder}"
    return ImageData("imagenet-r", names, train, test, remarks=(remark,))


def _clrs25(folder: Path, verify: bool) -> ImageData:
    names = _classes(folder)
    train, test = _seeded_split(_labelled(folder, _images(folder), names))
    remark = f"the paper does not say its split: ours is 0.8 / 0.2 by seed {SPLIT_SEED}"
    return ImageData("clrs25", names, train, test, remarks=(remark,))


def _cub200(folder: Path, verify: bool) -> ImageData:
    """Whole images: Avalanche's own class cuts them to the birds' bounding boxes, which the papers do not."""
    columns = {name: dict(_pairs(folder / f"{name}.txt")) for name in ("images", "image_class_labels", "train_test_split", "classes")}
    images, classes, is_train, names = columns.values()
    for name in ("image_class_labels", "train_test_split"):
        if columns[name].keys() != images.keys():
            raise ValueError(f"{folder / name}.txt and images.txt do not name the same images: put fresh copies there")
    ids = {class_id: label for label, class_id in enumerate(names)}
    unknown = set(classes.values()) - set(ids)
    if unknown:
        raise ValueError(f"{folder / 'image_class_labels.txt'}: class {min(unknown)} is not in classes.txt: put fresh copies there")
    train, test = (
        _listed(folder, [(f"images/{path}", ids[classes[i]]) for i, path in images.items() if is_train[i] == value]) for value in ("1", "0")
    )
    return ImageData("cub200", tuple(names.values()), train, test)


def _food101(folder: Path, verify: bool) -> ImageData:
    parts = [_food_part(folder / "meta" / f"{part}.json") for part in ("train", "test")]
    names = tuple(sorted(parts[0]))
    if set(parts[1]) != set(names):
        raise ValueError(f"{folder / 'meta'}: train.json and test.json do not name the same classes: put fresh copies there")
    train, test = (
        _listed(folder, [(_food_image(image), names.index(c)) for c, images in part.items() for image in images]) for part in parts
    )
    return ImageData("food101", names, train, test)


def _food_part(path: Path) -> dict[str, list[str]]:
    """Names of the images of each class."""
    try:
        part = json.loads(_there(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): put a fresh copy there") from error
    if not isinstance(part, dict) or not all(isinstance(images, list) for images in part.values()):
        raise ValueError(f"{path} does not name the images of each class: put a fresh copy there")
    return part


def _food_image(name: str) -> str:
    return f"images/{name}.jpg"


def _ip102(folder: Path, verify: bool) -> ImageData:
    train, validation, test = (_listed(folder, _labelled_lines(folder / f"{part}.txt", "images/")) for part in ("train", "val", "test"))
    n_classes = 1 + max(max(part.labels) for part in (train, validation, test))
    names = tuple(str(c) for c in range(n_classes))
    if (folder / "classes.txt").is_file():
        names = tuple(name for _, name in _pairs(folder / "classes.txt"))
        _labels_fit(folder / "train.txt", train.labels, len(names))
    return ImageData("ip102", names, train, test, validation)


def _places_lt(folder: Path, verify: bool) -> ImageData:
    parts = [_listed(folder, _labelled_lines(folder / f"Places_LT_{part}.txt")) for part in ("train", "val", "test")]
    names = {label: Path(path).parent.name for part in parts for path, label in zip(part.images, part.labels, strict=True)}
    train, validation, test = parts
    return ImageData("places-lt", tuple(names.get(c, str(c)) for c in range(1 + max(names))), train, test, validation)


def _domains(name: str, training: Sequence[str], testing: str, folder: Path, verify: bool) -> ImageData:
    names = _classes(_there(folder / training[0], directory=True))
    for domain in (*training[1:], testing):
        other = _classes(_there(folder / domain, directory=True))
        if other != names:
            differing = sorted(set(names) ^ set(other))
            raise ValueError(f"{folder / domain} and {training[0]}/ do not hold the same classes: {', '.join(differing[:5])}")
    train, test = (
        _labelled(folder, [image for domain in domains for image in _images(folder, domain)], names) for domains in (training, [testing])
    )
    return ImageData(name, names, train, test, remarks=(f"tested on {testing}, trained on the other three, as OLOR",))


_READERS: dict[str, Callable[[Path, bool], ImageData]] = {
    "cifar100": partial(_cifar, "cifar100"),
    "cifar10": partial(_cifar, "cifar10"),
    "imagenet-r": _imagenet_r,
    "cub200": _cub200,
    "cars196": read_cars196,
    "food101": _food101,
    "clrs25": _clrs25,
    "svhn": _svhn,
    "places-lt": _places_lt,
    "ip102": _ip102,
    "officehome": partial(_domains, "officehome", ("Art", "Clipart", "Product"), "Real World"),
    "pacs": partial(_domains, "pacs", ("cartoon", "photo", "sketch"), "art_painting"),
}


_LISTS: dict[str, dict[str, Callable[[Path], list[str]]]] = {
    "cub200": {"images.txt": lambda path: [f"images/{image}" for _, image in _pairs(path)]},
    "cars196": {"cars_annos.mat": lambda path: _cars_annotations(path)[0]},
    "food101": dict.fromkeys(
        ("meta/train.json", "meta/test.json"),
        lambda path: [_food_image(image) for images in _food_part(path).values() for image in images],
    ),
    "places-lt": dict.fromkeys(
        (f"Places_LT_{part}.txt" for part in ("train", "val", "test")), lambda path: [image for image, _ in _labelled_lines(path)]
    ),
    "ip102": dict.fromkeys(
        (f"{part}.txt" for part in ("train", "val", "test")), lambda path: [image for image, _ in _labelled_lines(path, "images/")]
    ),
}


def _there(path: Path, directory: bool = False) -> Path:
    if not (path.is_dir() if directory else path.is_file()):
        raise ValueError(f"{path} is missing: an unfinished download or unpacking, or another layout than `reclaim data list` shows")
    return path


def _have_md5(files: Sequence[tuple[Path, str | None]], name: str) -> None:
    damaged = []
    for path, md5 in files:
        digest = hashlib.md5(usedforsecurity=False)
        with _there(path).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        if md5 is not None and digest.hexdigest() != md5:
            damaged.append(f"{path} is damaged or unfinished (MD5 {digest.hexdigest()}, not {md5}): move it away and fetch {name} again")
    if damaged:
        raise ValueError("\n".join(damaged))


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not names:
        raise ValueError(f"{folder} holds no folder of a class: an unfinished unpacking, or another layout than `reclaim data list` shows")
    return names


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _images(folder: Path, below: str = "") -> list[str]:
    """Paths, relative to ``folder``, of the images in the folders of the classes below it, sorted."""
    images = []
    for name in _classes(folder / below):
        found = sorted(path.relative_to(folder).as_posix() for path in (folder / below / name).iterdir() if _is_image(path))
        if not found:
            raise ValueError(_no_image(folder / below / name))
        images += found
    return images


def _no_image(folder: Path) -> str:
    return f"{folder} holds no image: an unfinished download or unpacking?"


def _labelled(folder: Path, images: Sequence[str], names: Sequence[str]) -> ImageList:
    """Labels by the name of the folder that an image lies in."""
    ids = {name: label for label, name in enumerate(names)}
    classes = [Path(image).parent.name for image in images]
    foreign = [image for image, name in zip(images, classes, strict=True) if name not in ids]
    if foreign:
        raise ValueError(f"{folder / foreign[0]} belongs to none of the {len(names)} classes: mend the list, or move the folder away")
    return _listed(folder, [(image, ids[name]) for image, name in zip(images, classes, strict=True)])


def _listed(folder: Path, rows: Sequence[tuple[str, int]]) -> ImageList:
    if not rows:
        raise ValueError(f"{folder}: a part of the data set lists no image: put a fresh copy of its lists there")
    return ImageList(folder, tuple(path for path, _ in rows), tuple(label for _, label in rows))


def _seeded_split(images: ImageList) -> tuple[ImageList, ImageList]:
    """0.8 / 0.2 of all images, as in DualPrompt not class by class; both parts in the order of the index."""
    order = np.random.RandomState(SPLIT_SEED).permutation(len(images))
    border = round(0.8 * len(images))
    return images.take(sorted(order[:border].tolist())), images.take(sorted(order[border:].tolist()))


def _lines(path: Path) -> list[str]:
    try:
        lines = _there(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file ({error}): put a fresh copy there") from error
    return [line.strip() for line in lines if line.strip()]


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Lines of "id value", the value possibly with spaces."""
    rows = [line.split(maxsplit=1) for line in _lines(path)]
    short = [number for number, row in enumerate(rows, 1) if len(row) != 2]
    if short:
        raise ValueError(f"{path}, line {short[0]}, is not of two columns: put a fresh copy there")
    return [(row[0], row[1]) for row in rows]


def _labelled_lines(path: Path, prefix: str = "") -> list[tuple[str, int]]:
    """Lines of "image label"."""
    rows = [line.rsplit(maxsplit=1) for line in _lines(path)]
    bad = [number for number, row in enumerate(rows, 1) if len(row) != 2 or not row[1].isdecimal()]
    if bad:
        raise ValueError(f"{path}, line {bad[0]}, is not an image and its label: put a fresh copy there")
    return [(prefix + row[0], int(row[1])) for row in rows]


def _labels_fit(path: Path, labels: Sequence[int], n_classes: int) -> None:
    outside = [label for label in labels if not 0 <= label < n_classes]
    if outside:
        raise ValueError(f"{path}: label {outside[0]} is outside the {n_classes} classes: put a fresh copy there")
