"""Synthetic images in the papers' data sets' own formats, to rehearse the papers' runs without the real data."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from .catalogue import CatalogueEntry, find_dataset
from .images import ImageList
from .readers import seeded_split

MARKER = "SYNTHETIC.txt"
GRID = 8  # cells of noise along a side
NOISE = 24.0  # its standard deviation

# Width and height: exact if all images of the set have the same size, otherwise typical sizes.
_SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "cifar100": ((32, 32),),
    "cifar10": ((32, 32),),
    "imagenet-r": ((500, 375), (375, 500), (400, 400)),
    "cub200": ((500, 375), (500, 333), (375, 500)),
    "cars196": ((640, 480), (600, 400), (800, 600)),
    "food101": ((512, 512), (512, 384), (384, 512)),
    "clrs25": ((256, 256),),
    "svhn": ((32, 32),),
    "places-lt": ((256, 256),),
    "ip102": ((500, 375), (640, 480), (300, 300)),
    "officehome": ((300, 300), (500, 375), (640, 480)),
    "pacs": ((227, 227),),
}


def write_dataset(
    name: str, root: Path | str, *, train_per_class: int = 2, test_per_class: int = 1, seed: int = 0
) -> Path:
    """Write a small synthetic copy of a data set, which ``read_images(name, root, verify=False)`` can read.

    The format and the number of classes are the real ones. So is the image size where all images have the same (CIFAR
    and SVHN 32 x 32, CLRS and the small Places365 256 x 256, PACS 227 x 227). Elsewhere sizes alternate between a few
    typical ones. An image is its class's two colours under smooth noise. A network can tell the classes apart, but
    files are smaller and decode faster than photographs, so decoding times are not representative. With ``verify=True``
    the copy is refused, because it does not have the real number of images.

    :param root: the data set's folder is created below it.
    :param train_per_class: images of each class; in OfficeHome and PACS, of each class in each of the three training
        domains. CLRS gets the smallest number of images for which its reader's random 0.8 / 0.2 split leaves each class
        at least the requested numbers in both parts.
    :param test_per_class: as above; also used for an official validation part.
    :return: the data set's folder. It contains SYNTHETIC.txt, which describes it. A folder made with the same arguments
        is kept.
    :raises ValueError: a number is out of range, the copy would have as many images as the real set, or a folder exists
        that was not made with these arguments. Nothing is ever overwritten.
    """
    entry = find_dataset(name)
    if train_per_class < 1 or test_per_class < 1 or seed < 0:
        raise ValueError(
            f"train_per_class and test_per_class must be at least 1 and seed at least 0, "
            f"got {train_per_class}, {test_per_class} and {seed}"
        )
    if (entry.classes * train_per_class, entry.classes * test_per_class) == (entry.train, entry.test):
        raise ValueError(
            f"{train_per_class} and {test_per_class} images per class are as many as {entry.title} has: "
            f"ask for one less"
        )
    folder = Path(root) / entry.folder
    marker = (
        f"Synthetic images in the format of {entry.title}, for rehearsals: no accuracy on them means anything.\n"
        f"Written by reclaim.benchmark.data.synthetic: train_per_class={train_per_class}, "
        f"test_per_class={test_per_class}, seed={seed}\n"
    )
    if os.path.lexists(folder):
        _made_so(folder, marker)
        return folder
    Path(root).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".unfinished-{entry.folder}-", dir=root) as unfinished:
        made = Path(unfinished) / entry.folder
        made.mkdir()
        _WRITERS[name](_Plan(entry, made, train_per_class, test_per_class, seed))
        (made / MARKER).write_text(marker, encoding="utf-8")
        os.rename(made, folder)
    return folder


def _made_so(folder: Path, marker: str) -> None:
    if not (folder / MARKER).is_file():
        raise ValueError(f"{folder} exists but has no {MARKER}, so it may be real data: give another root")
    found = (folder / MARKER).read_text(encoding="utf-8", errors="replace")
    if found != marker:
        raise ValueError(
            f"{folder} contains other synthetic images ({' '.join(found.split())}): delete it, or give another root"
        )


@dataclass(frozen=True)
class _Plan:
    """What to write, and where. An image is identified by its label and a number within the class;
    parts do not share numbers.
    """

    entry: CatalogueEntry
    folder: Path
    train: int
    test: int
    seed: int

    def rows(self, part: str) -> Iterator[tuple[int, int]]:
        """Label and number of each image in a part."""
        start, n = {
            "train": (0, self.train),
            "test": (self.train, self.test),
            "val": (self.train + self.test, self.test),
        }[part]
        return ((label, number) for label in range(self.entry.classes) for number in range(start, start + n))

    def draw(self, label: int, number: int) -> Image.Image:
        sizes = _SIZES[self.entry.name]
        colours = np.random.default_rng((self.seed, label)).integers(
            32, 224, (2, 1, 3)
        )  # of the upper and the lower half
        noise = np.random.default_rng((self.seed, label, 1 + number)).normal(0, NOISE, (GRID, GRID, 3))
        cells = np.clip(colours.repeat(GRID // 2, axis=0) + noise, 0, 255).astype(np.uint8)
        return Image.fromarray(cells).resize(sizes[(label + number) % len(sizes)], Image.Resampling.BILINEAR)

    def pixels(self, rows: Sequence[tuple[int, int]]) -> np.ndarray:
        """(n, height, width, 3) uint8."""
        return np.stack([np.asarray(self.draw(*row)) for row in rows])

    def save(self, path: str, label: int, number: int) -> str:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        self.draw(label, number).save(target)
        return path

    def write_lines(self, path: str, lines: Sequence[str]) -> None:
        target = self.folder / path
        target.parent.mkdir(exist_ok=True)
        target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    @property
    def names(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return [f"synthetic_{label:03}" for label in range(self.entry.classes)]


def _cifar(plan: _Plan) -> None:
    fine = plan.entry.name == "cifar100"
    for part in ("train", "test"):
        files = [part] if fine else [f"data_batch_{i}" for i in range(1, 6)] if part == "train" else ["test_batch"]
        rows = list(plan.rows(part))
        for k, file in enumerate(files):
            batch = rows[k :: len(files)]
            content = {
                "data": plan.pixels(batch).transpose(0, 3, 1, 2).reshape(len(batch), -1),
                "fine_labels" if fine else "labels": [label for label, _ in batch],
            }
            (plan.folder / file).write_bytes(pickle.dumps(content))
    meta, key = ("meta", "fine_label_names") if fine else ("batches.meta", "label_names")
    (plan.folder / meta).write_bytes(pickle.dumps({key: plan.names}))


def _svhn(plan: _Plan) -> None:
    from scipy.io import savemat

    for part in ("train", "test"):
        rows = list(plan.rows(part))
        labels = np.array([[label or 10] for label, _ in rows], np.uint8)  # the digit 0 is class 10
        savemat(plan.folder / f"{part}_32x32.mat", {"X": plan.pixels(rows).transpose(1, 2, 3, 0), "y": labels})


def _imagenet_r(plan: _Plan) -> None:
    for part in ("train", "test"):
        plan.write_lines(
            f"{part}.txt", [plan.save(f"n{label:08}/{number}.jpg", label, number) for label, number in plan.rows(part)]
        )


def _clrs25(plan: _Plan) -> None:
    for label, name in enumerate(plan.names):
        for number in range(_enough_to_split(plan.entry.classes, plan.train, plan.test)):
            plan.save(f"{name}/{name}_{number:04}.tif", label, number)


def _enough_to_split(classes: int, train: int, test: int) -> int:
    """Number of images per class for which the reader's unstratified split leaves each class enough
    images in both parts.
    """
    n = max(train * 5 // 4, test * 5)
    while True:
        parts = seeded_split(ImageList(Path(), ("",) * (n * classes), tuple(np.repeat(np.arange(classes), n).tolist())))
        fewest = [np.bincount(part.labels, minlength=classes).min() for part in parts]
        if fewest[0] >= train and fewest[1] >= test:
            return n
        n += 1


def _cub200(plan: _Plan) -> None:
    names = [f"{label:03}.{name}" for label, name in enumerate(plan.names, 1)]
    rows = sorted((label, number, part == "train") for part in ("train", "test") for label, number in plan.rows(part))
    paths = [f"{names[label]}/{plan.names[label]}_{number:04}.jpg" for label, number, _ in rows]
    for path, (label, number, _) in zip(paths, rows, strict=True):
        plan.save(f"images/{path}", label, number)
    plan.write_lines("classes.txt", [f"{i} {name}" for i, name in enumerate(names, 1)])
    plan.write_lines("images.txt", [f"{i} {path}" for i, path in enumerate(paths, 1)])
    plan.write_lines("image_class_labels.txt", [f"{i} {label + 1}" for i, (label, _, _) in enumerate(rows, 1)])
    plan.write_lines("train_test_split.txt", [f"{i} {int(is_train)}" for i, (_, _, is_train) in enumerate(rows, 1)])


def _cars196(plan: _Plan) -> None:
    from scipy.io import savemat

    # the column `test` is 1 for the images that the papers train on: F7 (docs/fidelity.md)
    images = [
        (label, number, column) for part, column in (("train", 1), ("test", 0)) for label, number in plan.rows(part)
    ]
    columns = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    rows = np.zeros(len(images), dtype=[(column, object) for column in columns])
    for i, (label, number, column) in enumerate(images):
        path = plan.save(f"car_ims/{i + 1:06}.jpg", label, number)
        rows[i] = (path, 1, 1, 300, 200, label + 1, column)
    savemat(
        plan.folder / "cars_annos.mat", {"annotations": rows[None], "class_names": np.array([plan.names], dtype=object)}
    )


def _food101(plan: _Plan) -> None:
    for part in ("train", "test"):
        images: dict[str, list[str]] = {name: [] for name in plan.names}
        for label, number in plan.rows(part):
            image = f"{plan.names[label]}/{number}"
            plan.save(f"images/{image}.jpg", label, number)
            images[plan.names[label]].append(image)
        plan.write_lines(f"meta/{part}.json", [json.dumps(images)])


def _ip102(plan: _Plan) -> None:
    first = 0
    for part in ("train", "val", "test"):
        rows = list(enumerate(plan.rows(part), first))
        for i, (label, number) in rows:
            plan.save(f"images/{i:05}.jpg", label, number)
        plan.write_lines(f"{part}.txt", [f"{i:05}.jpg {label}" for i, (label, _) in rows])
        first += len(rows)
    plan.write_lines("classes.txt", [f"{i} {name}" for i, name in enumerate(plan.names, 1)])


def _places_lt(plan: _Plan) -> None:
    for part in ("train", "val", "test"):
        folder = "val" if part == "test" else "train"  # the test part is the validation part of Places365
        rows = [
            (f"{folder}/{plan.names[label]}/{number + 1:08}.jpg", label, number) for label, number in plan.rows(part)
        ]
        plan.write_lines(f"Places_LT_{part}.txt", [f"{plan.save(*row)} {row[1]}" for row in rows])


def _domains(training: Sequence[str], testing: str, plan: _Plan) -> None:
    for k, domain in enumerate((*training, testing)):
        suffix = ".png" if domain == "sketch" else ".jpg"
        for label, number in plan.rows("test" if domain == testing else "train"):
            plan.save(f"{domain}/{plan.names[label]}/{number + 1:05}{suffix}", label, number + k * plan.train)


_WRITERS: dict[str, Callable[[_Plan], None]] = {
    "cifar100": _cifar,
    "cifar10": _cifar,
    "imagenet-r": _imagenet_r,
    "cub200": _cub200,
    "cars196": _cars196,
    "food101": _food101,
    "clrs25": _clrs25,
    "svhn": _svhn,
    "places-lt": _places_lt,
    "ip102": _ip102,
    "officehome": partial(_domains, ("Art", "Clipart", "Product"), "Real World"),
    "pacs": partial(_domains, ("cartoon", "photo", "sketch"), "art_painting"),
}
