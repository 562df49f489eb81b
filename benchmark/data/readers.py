"""Readers of the papers' data sets in their distributed form: the part and label of each image."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .catalogue import GIVEN_SPLIT, OTHER_SPLIT
from .cifar import read_pickles
from .images import ImageData, ImageList, is_image, is_of_system
from .on_disk import require_md5, require_there

SPLIT_SEED = 0


def read_cars196(folder: Path, verify: bool = True, *, official: bool = False) -> ImageData:
    """Stanford Cars from ``cars_annos.mat``.

    :param folder: contains ``cars_annos.mat`` and ``car_ims/``.
    :param official: rows whose last column is 1 are test images, as its name in the file ("test") says. By default they
        are training images, as in SLCA's and OLOR's code: F7 (docs/fidelity.md).
    """
    path = folder / "cars_annos.mat"
    paths, labels, column, names = _cars_annotations(path)
    _labels_fit(path, labels, len(names))
    train_value = 0 if official else 1
    train, test = (
        _listed(
            folder, [(p, c) for p, c, t in zip(paths, labels, column, strict=True) if (t == train_value) == is_train]
        )
        for is_train in (True, False)
    )
    return ImageData("cars196", names, train, test, remarks=(_which_cars(official, train, test),))


def read_devkit(folder: Path, verify: bool = True, *, official: bool = False) -> ImageData:
    """Stanford Cars in torchvision's layout.

    :param folder: contains ``devkit/``, ``cars_test_annos_withlabels.mat``, ``cars_train/`` and ``cars_test/``.
    :param official: as for :func:`read_cars196`; by default the images of cars_test/ are trained on (F7).
    """
    meta = folder / "devkit" / "cars_meta.mat"
    try:
        names = tuple(str(n).strip() for n in np.atleast_1d(_matlab(meta)["class_names"]))
    except (KeyError, *_NO_MATLAB) as error:
        raise ValueError(f"{meta} is not Stanford Cars' cars_meta.mat ({error}): put a fresh copy there") from error
    parts = []
    for path, below in ((folder / file, below) for file, below in _DEVKIT.items()):
        rows = _devkit_rows(path, below)
        _labels_fit(path, [label for _, label in rows], len(names))
        parts.append(_listed(folder, rows))
    train, test = parts if official else parts[::-1]
    return ImageData("cars196", names, train, test, remarks=(_which_cars(official, train, test),))


_DEVKIT = {"devkit/cars_train_annos.mat": "cars_train/", "cars_test_annos_withlabels.mat": "cars_test/"}


def _devkit_rows(path: Path, below: str) -> list[tuple[str, int]]:
    try:
        rows = np.atleast_1d(_matlab(path)["annotations"])
        return [(below + str(file), int(c) - 1) for file, c in zip(rows["fname"], rows["class"], strict=True)]
    except (KeyError, *_NO_MATLAB) as error:
        raise ValueError(f"{path} does not list Stanford Cars' images ({error}): put a fresh copy there") from error


def split_lists_of_devkit() -> dict[str, Callable[[Path], list[str]]]:
    return {
        file: lambda path, below=below: [image for image, _ in _devkit_rows(path, below)]  # type: ignore[misc]
        for file, below in _DEVKIT.items()
    }


def _which_cars(official: bool, train: ImageList, test: ImageList) -> str:
    return (
        "the official split: the papers may train on its test part (F7)"
        if official
        else f"the images of the official test part are trained on, as in the papers' code (F7): "
        f"{len(train):,} train, {len(test):,} test"
    )


_NO_MATLAB = (ValueError, IndexError, TypeError, OSError, EOFError, NotImplementedError, zlib.error)


def _matlab(path: Path) -> Any:
    from scipy.io.matlab import MatReadError, loadmat

    try:
        return loadmat(str(require_there(path)), squeeze_me=True)
    except MatReadError as error:
        raise ValueError(str(error)) from error


def _cars_annotations(path: Path) -> tuple[list[str], list[int], list[int], tuple[str, ...]]:
    """Paths, labels, the column "test" and the class names."""
    try:
        content = _matlab(path)
        rows, names = (
            np.atleast_1d(content["annotations"]),
            tuple(str(n).strip() for n in np.atleast_1d(content["class_names"])),
        )
        paths = [str(p) for p in rows["relative_im_path"]]
        return paths, [int(c) - 1 for c in rows["class"]], [int(t) for t in rows["test"]], names
    except (KeyError, *_NO_MATLAB) as error:
        raise ValueError(f"{path} is not Stanford Cars' cars_annos.mat ({error}): put a fresh copy there") from error


def _svhn(folder: Path, verify: bool) -> ImageData:
    from scipy.io.matlab import MatReadError
    from torchvision.datasets import SVHN

    files = [SVHN.split_list[part][1:] for part in ("train", "test")]
    require_md5([(folder / file, md5 if verify else None) for file, md5 in files], "svhn")
    kind: Any = (
        SVHN
        if verify
        else type("SVHN", (SVHN,), {"split_list": {k: [*v[:2], None] for k, v in SVHN.split_list.items()}})
    )
    try:
        read = [kind(str(folder), split=part) for part in ("train", "test")]
    except (KeyError, MatReadError, *_NO_MATLAB) as error:
        raise ValueError(f"{folder} does not contain SVHN's .mat files ({error}): put fresh copies there") from error
    for (file, _), r in zip(files, read, strict=True):
        if len(r.labels) != len(r.data):
            n = f"{len(r.data)} images and {len(r.labels)} labels"
            raise ValueError(f"{folder / file} has {n}: put a fresh copy there")
        _labels_fit(folder / file, [int(c) for c in r.labels], 10)
    train, test = (ImageList(folder, r.data.transpose(0, 2, 3, 1), tuple(int(c) for c in r.labels)) for r in read)
    return ImageData("svhn", tuple("0123456789"), train, test)


def _imagenet_r(folder: Path, verify: bool) -> ImageData:
    names = _classes(folder)
    train, test = seeded_split(_labelled(folder, _images(folder), names))
    why = f"there is neither a train.txt nor a train/ in {folder.name}/"
    remark = f"{OTHER_SPLIT}: 0.8 / 0.2 by seed {SPLIT_SEED}, for {why}"
    return ImageData("imagenet-r", names, train, test, remarks=(remark,))


def read_split_lists(folder: Path, verify: bool = True) -> ImageData:
    """ImageNet-R as one folder per class, with train.txt and test.txt: a path, such as n01443537/art_0.jpg, a line."""
    names = _classes(folder)
    train, test = (_labelled(folder, listed(folder / file), names) for file, listed in SPLIT_LISTS.items())
    remark = f"{GIVEN_SPLIT} train.txt and test.txt: the papers' (DualPrompt's) if these are its lists"
    everything = sorted({*zip(train.images, train.labels, strict=True), *zip(test.images, test.labels, strict=True)})
    ours, _ = seeded_split(ImageList(folder, *(tuple(column) for column in zip(*everything, strict=True))))
    if set(ours.images) == set(train.images):
        remark = f"{OTHER_SPLIT}: train.txt and test.txt are the 0.8 / 0.2 by seed {SPLIT_SEED} of `reclaim data split`"
    return ImageData("imagenet-r", names, train, test, remarks=(remark,))


def read_part_folders(name: str, folder: Path, verify: bool = True) -> ImageData:
    """A data set as train/ and test/ (or val/), each with one folder per class."""
    names = _classes(folder / "train")
    train, test = (_labelled(folder, _images(folder, part), names) for part in ("train", test_folder(folder)))
    whose = "the papers' (DualPrompt's)" if name == "imagenet-r" else "the papers'"
    remark = f"{GIVEN_SPLIT} the folders train/ and {test_folder(folder)}: {whose} if they were made from it"
    return ImageData(name, names, train, test, remarks=(remark,))


def test_folder(folder: Path) -> str:
    """The folder of the test images beside train/: "test/" or "val/".

    :raises ValueError: there is neither, or there are both.
    """
    found = [part for part in ("test/", "val/") if (folder / part).is_dir()]
    if len(found) != 1:
        what = "both test/ and val/ exist" if found else "neither test/ nor val/ exists"
        raise ValueError(f"{what} next to {folder / 'train'}: keep the one that has the test images there")
    return found[0]


def _clrs25(folder: Path, verify: bool) -> ImageData:
    names = _classes(folder)
    train, test = seeded_split(_labelled(folder, _images(folder), names))
    remark = f"the paper does not say its split: ours is 0.8 / 0.2 by seed {SPLIT_SEED}"
    return ImageData("clrs25", names, train, test, remarks=(remark,))


def _cub200(folder: Path, verify: bool) -> ImageData:
    """Whole images. Avalanche's own class crops them to the birds' bounding boxes, which the papers do not."""
    columns = {
        name: dict(_pairs(folder / f"{name}.txt"))
        for name in ("images", "image_class_labels", "train_test_split", "classes")
    }
    images, classes, is_train, names = columns.values()
    for name in ("image_class_labels", "train_test_split"):
        if columns[name].keys() != images.keys():
            raise ValueError(f"{folder / name}.txt and images.txt do not list the same images: put fresh copies there")
    if odd := [class_id for class_id in names if not class_id.isdecimal()]:
        raise ValueError(f"{folder / 'classes.txt'}: {odd[0]} is no number of a class: put a fresh copy there")
    names = dict(sorted(names.items(), key=lambda row: int(row[0])))
    ids = {class_id: label for label, class_id in enumerate(names)}
    unknown = set(classes.values()) - set(ids)
    if unknown:
        raise ValueError(
            f"{folder / 'image_class_labels.txt'}: class {min(unknown)} is not in classes.txt: put fresh copies there"
        )
    train, test = (
        _listed(folder, [(f"images/{path}", ids[classes[i]]) for i, path in images.items() if is_train[i] == value])
        for value in ("1", "0")
    )
    return ImageData("cub200", tuple(names.values()), train, test)


def _food101(folder: Path, verify: bool) -> ImageData:
    parts = [_food_part(folder / "meta" / f"{part}.json") for part in ("train", "test")]
    names = tuple(sorted(parts[0]))
    if set(parts[1]) != set(names):
        raise ValueError(
            f"{folder / 'meta'}: train.json and test.json do not list the same classes: put fresh copies there"
        )
    train, test = (
        _listed(folder, [(_food_image(image), names.index(c)) for c, images in part.items() for image in images])
        for part in parts
    )
    return ImageData("food101", names, train, test)


def _food_part(path: Path) -> dict[str, list[str]]:
    """Names of the images of each class."""
    try:
        part = json.loads(require_there(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}): put a fresh copy there") from error
    if not isinstance(part, dict) or not all(isinstance(images, list) for images in part.values()):
        raise ValueError(f"{path} does not list the images of each class: put a fresh copy there")
    return part


def _food_image(name: str) -> str:
    return f"images/{name}.jpg"


def _ip102(folder: Path, verify: bool) -> ImageData:
    train, validation, test = (
        _listed(folder, _labelled_lines(folder / f"{part}.txt", "images/")) for part in ("train", "val", "test")
    )
    n_classes = 1 + max(max(part.labels) for part in (train, validation, test))
    names = tuple(str(c) for c in range(n_classes))
    if (folder / "classes.txt").is_file():
        rows = {number: name for number, name in _pairs(folder / "classes.txt")}
        if sorted(rows) != sorted(str(n) for n in range(1, len(rows) + 1)):
            raise ValueError(f"{folder / 'classes.txt'} does not number its classes from 1: put a fresh copy there")
        names = tuple(rows[str(n)] for n in range(1, len(rows) + 1))
        for part, images in (("train", train), ("val", validation), ("test", test)):
            _labels_fit(folder / f"{part}.txt", images.labels, len(names))
    return ImageData("ip102", names, train, test, validation)


def _places_lt(folder: Path, verify: bool) -> ImageData:
    parts = [_listed(folder, _labelled_lines(folder / f"Places_LT_{part}.txt")) for part in ("train", "val", "test")]
    train, validation, test = parts
    n_classes = 1 + max(max(part.labels) for part in parts)
    names = {label: _scene(path) for path, label in zip(train.images, train.labels, strict=True)}
    repeated = {name for name, n in Counter(names.values()).items() if n > 1}
    told = [f"{names[c]} ({c})" if names.get(c) in repeated else names.get(c, str(c)) for c in range(n_classes)]
    return ImageData("places-lt", tuple(told), train, test, validation)


def _scene(path: str) -> str:
    """Such as "apartment_building/outdoor": what lies below the folder of the first letter. Test images have none."""
    *folders, _ = path.split("/")
    letters = [place for place, folder in enumerate(folders[:-1]) if len(folder) == 1]
    return "/".join(folders[letters[0] + 1 :] if letters else folders[-1:]) or path


def _domains(name: str, training: Sequence[str], testing: str, folder: Path, verify: bool) -> ImageData:
    names = _classes(require_there(folder / training[0], directory=True))
    for domain in (*training[1:], testing):
        other = _classes(require_there(folder / domain, directory=True))
        if other != names:
            differing = sorted(set(names) ^ set(other))
            raise ValueError(
                f"{folder / domain} and {training[0]}/ do not contain the same classes: {', '.join(differing[:5])}"
            )
    train, test = (
        _labelled(folder, [image for domain in domains for image in _images(folder, domain)], names)
        for domains in (training, [testing])
    )
    return ImageData(name, names, train, test, remarks=(f"tested on {testing}, trained on the other three, as OLOR",))


READERS: dict[str, Callable[[Path, bool], ImageData]] = {
    "cifar100": partial(read_pickles, "cifar100"),
    "cifar10": partial(read_pickles, "cifar10"),
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


SPLIT_LISTS = dict.fromkeys(("train.txt", "test.txt"), lambda path: [_posix(line) for line in lines_of(path)])
"""ImageNet-R's lists."""

LISTS: dict[str, dict[str, Callable[[Path], list[str]]]] = {
    "cub200": {"images.txt": lambda path: [f"images/{image}" for _, image in _pairs(path)]},
    "cars196": {"cars_annos.mat": lambda path: _cars_annotations(path)[0]},
    "food101": dict.fromkeys(
        ("meta/train.json", "meta/test.json"),
        lambda path: [_food_image(image) for images in _food_part(path).values() for image in images],
    ),
    "places-lt": dict.fromkeys(
        (f"Places_LT_{part}.txt" for part in ("train", "val", "test")),
        lambda path: [image for image, _ in _labelled_lines(path)],
    ),
    "ip102": dict.fromkeys(
        (f"{part}.txt" for part in ("train", "val", "test")),
        lambda path: [image for image, _ in _labelled_lines(path, "images/")],
    ),
}


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_of_system(path.name)))
    if not names:
        raise ValueError(
            f"{folder} has no class folders: unfinished unpacking, or another layout than `reclaim data list` shows"
        )
    return names


def _images(folder: Path, below: str = "") -> list[str]:
    """Paths, relative to ``folder``, of the images in the class folders below it, sorted."""
    images = []
    for name in _classes(folder / below):
        found = sorted(
            path.relative_to(folder).as_posix() for path in (folder / below / name).iterdir() if is_image(path)
        )
        if not found:
            raise ValueError(no_image(folder / below / name))
        images += found
    return images


def no_image(folder: Path) -> str:
    return f"{folder} contains no image: unfinished download or unpacking?"


def _labelled(folder: Path, images: Sequence[str], names: Sequence[str]) -> ImageList:
    """Labels from the name of the folder that contains each image."""
    ids = {name: label for label, name in enumerate(names)}
    classes = [Path(image).parent.name for image in images]
    foreign = [image for image, name in zip(images, classes, strict=True) if name not in ids]
    if foreign:
        raise ValueError(
            f"{folder / foreign[0]} belongs to none of the {len(names)} classes: fix the list, or move the folder away"
        )
    return _listed(folder, [(image, ids[name]) for image, name in zip(images, classes, strict=True)])


def _listed(folder: Path, rows: Sequence[tuple[str, int]]) -> ImageList:
    if not rows:
        raise ValueError(f"{folder}: a part of the data set lists no images: put a fresh copy of its lists there")
    return ImageList(folder, tuple(path for path, _ in rows), tuple(label for _, label in rows))


def seeded_split(images: ImageList) -> tuple[ImageList, ImageList]:
    """Random 0.8 / 0.2 split of all images, as in DualPrompt not stratified by class; both parts in index order."""
    order = np.random.RandomState(SPLIT_SEED).permutation(len(images))
    border = round(0.8 * len(images))
    return images.take(sorted(order[:border].tolist())), images.take(sorted(order[border:].tolist()))


def lines_of(path: Path) -> list[str]:
    try:
        lines = require_there(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file ({error}): put a fresh copy there") from error
    return [line.strip() for line in lines if line.strip()]


def _posix(image: str) -> str:
    """A path of a list as this project writes it: lists may have been made by `find .`, or on Windows."""
    return PurePosixPath(image if "/" in image else image.replace("\\", "/")).as_posix()


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Lines of "id value"; the value may contain spaces."""
    rows = [line.split(maxsplit=1) for line in lines_of(path)]
    short = [number for number, row in enumerate(rows, 1) if len(row) != 2]
    if short:
        raise ValueError(f"{path}, line {short[0]}, does not have two columns: put a fresh copy there")
    return [(row[0], row[1]) for row in rows]


def _labelled_lines(path: Path, prefix: str = "") -> list[tuple[str, int]]:
    """Lines of "image label"."""
    rows = [line.rsplit(maxsplit=1) for line in lines_of(path)]
    bad = [number for number, row in enumerate(rows, 1) if len(row) != 2 or not row[1].isdecimal()]
    if bad:
        raise ValueError(f"{path}, line {bad[0]}, is not an image and a label: put a fresh copy there")
    return [(prefix + _posix(row[0]), int(row[1])) for row in rows]


def _labels_fit(path: Path, labels: Sequence[int], n_classes: int) -> None:
    outside = [label for label in labels if not 0 <= label < n_classes]
    if outside:
        raise ValueError(f"{path}: label {outside[0]} is outside the {n_classes} classes: put a fresh copy there")
