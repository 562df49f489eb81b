"""The readers of the papers' data sets, on small data in the real formats."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reclaim.benchmark.data import cifar
from reclaim.benchmark.data.catalogue import (
    CATALOGUE,
    Archive,
    CatalogueEntry,
    CatalogueError,
    find_dataset,
    read_catalogue,
)
from reclaim.benchmark.data.experiences import make_image_benchmark
from reclaim.benchmark.data.images import ImageData, ImageDataset, ImageList, first_of_each_class, hold_out, is_image
from reclaim.benchmark.data.layouts import list_images
from reclaim.benchmark.data.readers import read_cars196
from reclaim.benchmark.data.streams import find_stream
from reclaim.benchmark.data.transforms import ImageTransform
from reclaim.benchmark.data.verify import (
    extra_files,
    missing_files,
    read_images,
    take_stock,
    undecodable_files,
    wrong_counts,
)
from scipy.io import savemat
from torchvision import datasets as torchvision_datasets


def save(path: Path, grey: int | None = None) -> str:
    """A tiny image of one colour, that of its name unless told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest()
    Image.new("RGB", (5, 4), (own[0], own[1], own[2]) if grey is None else (grey,) * 3).save(path)
    return path.name


def make_folders(folder: Path, classes: str, n: int = 5, suffix: str = ".jpg") -> None:
    for name in classes.split():
        for i in range(n):
            save(folder / name / f"{name}_{i}{suffix}")


def make_cifar(root: Path, kind: str) -> None:
    folder = root / CATALOGUE[kind].folder
    folder.mkdir(parents=True)
    fine = kind == "cifar100"
    files = ["train", "test"] if fine else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for k, file in enumerate(files):
        pixels = np.full((4, 3, 32, 32), 10 * k, np.uint8)
        pixels[:, 0] += np.arange(4, dtype=np.uint8)[:, None, None]  # red tells the images apart
        content = {"data": pixels.reshape(4, -1), "fine_labels" if fine else "labels": [0, 1, 1, 0]}
        (folder / file).write_bytes(pickle.dumps(content))
    meta, key = ("meta", "fine_label_names") if fine else ("batches.meta", "label_names")
    (folder / meta).write_bytes(pickle.dumps({key: ["apple", "bear"]}))


def make_svhn(root: Path) -> None:
    (root / "svhn").mkdir(parents=True)
    for k, part in enumerate(("train", "test")):
        pixels = np.full((32, 32, 3, 3), k, np.uint8)
        pixels[0, 1, 2, :] = [7, 8, 9]
        savemat(root / "svhn" / f"{part}_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [9]], np.uint8)})


def make_cub(root: Path) -> None:
    folder = root / "CUB_200_2011"
    for name in ("001.Albatross", "002.Auk"):
        for i in range(3):
            save(folder / "images" / name / f"{i}.jpg")
    (folder / "images.txt").write_text(
        "".join(f"{c * 3 + i + 1} {n}/{i}.jpg\n" for c, n in enumerate(["001.Albatross", "002.Auk"]) for i in range(3))
    )
    (folder / "image_class_labels.txt").write_text("".join(f"{i} {1 + (i > 3)}\n" for i in range(1, 7)))
    (folder / "train_test_split.txt").write_text("1 0\n2 1\n3 1\n4 1\n5 1\n6 0\n")
    (folder / "classes.txt").write_text("1 001.Albatross\n2 002.Auk\n")


def make_cars(root: Path) -> None:
    folder = root / "stanford_cars"
    rows = np.zeros(
        4,
        dtype=[
            (name, object) for name in ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
        ],
    )
    for i, (c, test) in enumerate([(1, 0), (2, 1), (2, 1), (1, 1)]):
        rows[i] = (f"car_ims/{save(folder / 'car_ims' / f'{i:06}.jpg')}", 1, 1, 2, 2, c, test)
    savemat(
        folder / "cars_annos.mat",
        {"annotations": rows[None], "class_names": np.array([["AM Hummer", "Acura RL"]], dtype=object)},
    )


def make_food(root: Path) -> None:
    folder = root / "food-101"
    make_folders(folder / "images", "pie apple", 3)
    for part, indices in {"train": [2, 0], "test": [1]}.items():
        (folder / "meta").mkdir(exist_ok=True)
        (folder / "meta" / f"{part}.json").write_text(
            json.dumps({c: [f"{c}/{c}_{i}" for i in indices] for c in ("pie", "apple")})
        )


def make_listed(folder: Path, pattern: str, prefix: str = "") -> None:
    for part, images in {
        "train": ["a/1.jpg 0", "b/1.jpg 1", "b/2.jpg 1"],
        "val": ["a/3.jpg 0"],
        "test": ["b/4.jpg 1", "a/4.jpg 0"],
    }.items():
        for line in images:
            save(folder / prefix / line.split()[0])
        (folder / pattern.format(part)).write_text("\n".join(images) + "\n")


def make_ip102(root: Path) -> None:
    make_listed(root / "ip102_v1.1", "{}.txt", "images")
    (root / "ip102_v1.1" / "classes.txt").write_text("1  rice leaf roller \t\t\n2  grub\t\n")


def make_domains(folder: Path, domains: str, classes: str) -> None:
    for k, domain in enumerate(domains.split(",")):
        make_folders(folder / domain, classes, n=k + 1, suffix=".png")


MAKERS: dict[str, Callable[[Path], None]] = {
    "cifar100": lambda root: make_cifar(root, "cifar100"),
    "cifar10": lambda root: make_cifar(root, "cifar10"),
    "imagenet-r": lambda root: make_folders(root / "imagenet-r", "n02 n01"),
    "cub200": make_cub,
    "cars196": make_cars,
    "food101": make_food,
    "clrs25": lambda root: make_folders(root / "CLRS", "river airport", suffix=".TIF"),
    "svhn": make_svhn,
    "places-lt": lambda root: make_listed(root / "Places_LT", "Places_LT_{}.txt"),
    "ip102": make_ip102,
    "officehome": lambda root: make_domains(root / "OfficeHome", "Art,Clipart,Product,Real World", "Bed Axe"),
    "pacs": lambda root: make_domains(root / "PACS", "art_painting,cartoon,photo,sketch", "dog cat"),
}
# name: class names, labels of the training images, of the test images
EXPECTED: dict[str, tuple[str, list[int], list[int]]] = {
    "cifar100": ("apple,bear", [0, 1, 1, 0], [0, 1, 1, 0]),
    "cifar10": ("apple,bear", [0, 1, 1, 0] * 5, [0, 1, 1, 0]),
    "imagenet-r": ("n01,n02", [0] * 4 + [1] * 4, [0, 1]),
    "cub200": ("001.Albatross,002.Auk", [0, 0, 1, 1], [0, 1]),
    "cars196": ("AM Hummer,Acura RL", [1, 1, 0], [0]),
    "food101": ("apple,pie", [1, 1, 0, 0], [1, 0]),
    "clrs25": ("airport,river", [0] * 4 + [1] * 4, [0, 1]),
    "svhn": ("0,1,2,3,4,5,6,7,8,9", [0, 1, 9], [0, 1, 9]),
    "places-lt": ("a,b", [0, 1, 1], [1, 0]),
    "ip102": ("rice leaf roller,grub", [0, 1, 1], [1, 0]),
    "officehome": ("Axe,Bed", [0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1], [0] * 4 + [1] * 4),
    "pacs": ("cat,dog", [0, 0, 1, 1, 0, 0, 0, 1, 1, 1] + [0] * 4 + [1] * 4, [0, 1]),
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_data_set_is_read_in_its_own_format(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    data = read_images(name, tmp_path, verify=False)
    names, train, test = EXPECTED[name]
    assert ",".join(data.names) == names
    if name in ("imagenet-r", "clrs25"):  # split by seed: the sizes and that nothing is lost or in both parts
        assert (len(data.train), len(data.test)) == (8, 2)
        everything = [*data.train.images, *data.test.images]
        assert len(set(everything)) == 10
        assert sorted(everything) == sorted(
            p.relative_to(data.train.folder).as_posix() for p in data.train.folder.rglob("*.*")
        )
        for part in (data.train, data.test):
            assert list(part.images) == sorted(part.images)
            assert [data.names[c] for c in part.labels] == [Path(str(p)).parent.name for p in part.images]
        assert "0.8 / 0.2" in data.remarks[0]
    else:
        # in the order of the classes, whatever the order of the lists
        assert (list(data.train.labels), list(data.test.labels)) == (sorted(train), sorted(test))
    assert extra_files(data) == []
    # the same again, and from another place
    assert read_images(name, str(tmp_path), verify=False).sha256 == data.sha256
    image, label = ImageDataset(data.test)[len(data.test) - 1]
    assert image.mode == "RGB"
    assert label == data.test.labels[-1]
    # with its real name, a small copy is refused
    with pytest.raises(ValueError, match=r"is not complete|is damaged or unfinished"):
        read_images(name, tmp_path)


def test_the_index_hash_knows_labels_parts_names_and_pixels(tmp_path: Path) -> None:
    MAKERS["ip102"](tmp_path)
    hashes = {read_images("ip102", tmp_path, verify=False).sha256}
    for file, content in [("val.txt", "a/3.jpg 1\n"), ("classes.txt", "1 rice\n2 grub\n"), ("test.txt", "b/4.jpg 1\n")]:
        (tmp_path / "ip102_v1.1" / file).write_text(content)
        hashes.add(read_images("ip102", tmp_path, verify=False).sha256)
    MAKERS["svhn"](tmp_path)
    hashes.add(read_images("svhn", tmp_path, verify=False).sha256)
    path = tmp_path / "svhn" / "test_32x32.mat"
    savemat(path, {"X": np.zeros((32, 32, 3, 3), np.uint8), "y": np.array([[10], [1], [9]], np.uint8)})
    hashes.add(read_images("svhn", tmp_path, verify=False).sha256)
    assert len(hashes) == 6


def test_pixels_are_those_of_torchvision(tmp_path: Path) -> None:
    for name in ("cifar10", "svhn", "food101"):
        MAKERS[name](tmp_path)
    batches = read_images("cifar10", tmp_path, verify=False).train
    found = {(batches.load(i).getpixel((3, 3)), batches.labels[i]) for i in range(20)}
    assert found == {((10 * k + i, 10 * k, 10 * k), (0, 1, 1, 0)[i]) for k in range(5) for i in range(4)}
    digits = read_images("svhn", tmp_path, verify=False).test
    assert [digits.load(i).getpixel((1, 0)) for i in range(3)] == [(1, 1, 7), (1, 1, 8), (1, 1, 9)]
    food = read_images("food101", tmp_path, verify=False)
    reference = torchvision_datasets.Food101(str(tmp_path), "train")
    ours = {(str(food.train.path(i)), food.train.labels[i]) for i in range(4)}
    assert ours == {(str(p), c) for p, c in zip(reference._image_files, reference._labels, strict=True)}


def test_cars_are_split_as_the_papers_code_does_or_officially(tmp_path: Path) -> None:
    MAKERS["cars196"](tmp_path)
    folder = tmp_path / "stanford_cars"
    papers, official = read_cars196(folder), read_cars196(folder, official=True)
    assert (
        papers.train.images
        == official.test.images
        == ("car_ims/000001.jpg", "car_ims/000002.jpg", "car_ims/000003.jpg")
    )
    assert papers.test.images == official.train.images == ("car_ims/000000.jpg",)
    assert "(F7): 3 train, 1 test" in papers.remarks[0]
    assert papers.sha256 != official.sha256


def test_f7_exchanges_the_counts_of_cars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MAKERS["cars196"](tmp_path)
    small = {**vars(find_dataset("cars196")), "classes": 2, "train": 1, "test": 3}
    monkeypatch.setitem(CATALOGUE, "cars196", type(find_dataset("cars196"))(**small))
    assert len(read_images("cars196", tmp_path).train) == 3
    assert wrong_counts(read_cars196(tmp_path / "stanford_cars", official=True)) == []
    monkeypatch.setitem(CATALOGUE, "cars196", type(find_dataset("cars196"))(**{**small, "test": 2}))
    with pytest.raises(ValueError, match="3 train images instead of 1; 1 test images instead of 2"):
        read_images("cars196", tmp_path)


@pytest.mark.parametrize("form", ["lists", "folders"])
def test_imagenet_r_takes_the_papers_split_where_it_is_given(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "imagenet-r"
    if form == "lists":
        make_folders(folder, "n01 n02", 2)
        (folder / "train.txt").write_text("n02/n02_1.jpg\nn01/n01_0.jpg\n")
        (folder / "test.txt").write_text("n01/n01_1.jpg\n")
    else:
        save(folder / "train" / "n01" / "n01_0.jpg")
        save(folder / "train" / "n02" / "n02_1.jpg")
        save(folder / "val" / "n01" / "n01_1.jpg")
    data = read_images("imagenet-r", tmp_path, verify=False)
    assert {(Path(str(p)).name, c) for p, c in zip(data.train.images, data.train.labels, strict=True)} == {
        ("n02_1.jpg", 1),
        ("n01_0.jpg", 0),
    }
    assert (Path(str(data.test.images[0])).name, data.test.labels) == ("n01_1.jpg", (0,))
    assert "NOT" not in data.remarks[0]
    assert [path.name for path in extra_files(data)] == (["n02_0.jpg"] if form == "lists" else [])
    if form == "lists":
        (folder / "test.txt").write_text("n01/n01_0.jpg\n")
        twice = r"the first is .*n01/n01_0.jpg, 1 times in train and 1 times in test: list every image once"
        with pytest.raises(ValueError, match=twice):
            read_images("imagenet-r", tmp_path, verify=False)
        (folder / "test.txt").write_text("n09/n09_0.jpg\n")
        with pytest.raises(ValueError, match=r"n09_0.jpg belongs to none of the 2 classes"):
            read_images("imagenet-r", tmp_path, verify=False)


def break_cub(root: Path) -> None:
    (root / "CUB_200_2011" / "image_class_labels.txt").write_text("1 1\n")


DAMAGES: list[tuple[str, Callable[[Path], Any], str]] = [
    ("cub200", lambda r: (r / "CUB_200_2011" / "images.txt").unlink(), r"images.txt is missing: unfinished"),
    ("cub200", break_cub, r"image_class_labels.txt and images.txt do not list the same images"),
    ("cub200", lambda r: (r / "CUB_200_2011" / "classes.txt").write_text("1 a\n"), r"class 2 is not in classes.txt"),
    (
        "cub200",
        lambda r: (r / "CUB_200_2011" / "images.txt").write_text("1\n"),
        r"images.txt, line 1, does not have two columns",
    ),
    (
        "cub200",
        lambda r: (r / "CUB_200_2011/images/002.Auk/1.jpg").unlink(),
        r"1 listed images are missing, the first is .*002.Auk/1.jpg",
    ),
    (
        "cars196",
        lambda r: (r / "stanford_cars/cars_annos.mat").write_bytes(b"x" * 300),
        r"is not Stanford Cars' cars_annos.mat",
    ),
    ("food101", lambda r: (r / "food-101/meta/test.json").write_text("{"), r"test.json cannot be read"),
    ("food101", lambda r: (r / "food-101/meta/test.json").write_text("{}"), r"do not list the same classes"),
    (
        "ip102",
        lambda r: (r / "ip102_v1.1/val.txt").write_text("a/3.jpg\n"),
        r"val.txt, line 1, is not an image and a label",
    ),
    ("ip102", lambda r: (r / "ip102_v1.1/val.txt").write_text(""), r"lists no image"),
    ("ip102", lambda r: (r / "ip102_v1.1/classes.txt").write_text("1 a\n"), r"label 1 is outside the 1 classes"),
    ("svhn", lambda r: (r / "svhn/test_32x32.mat").unlink(), r"test_32x32.mat is missing"),
    ("svhn", lambda r: (r / "svhn/test_32x32.mat").write_bytes(b"x" * 300), r"does not contain SVHN's .mat files"),
    ("cifar10", lambda r: (r / "cifar-10-batches-py/data_batch_3").unlink(), r"data_batch_3 is missing"),
    (
        "cifar10",
        lambda r: (r / "cifar-10-batches-py/data_batch_3").write_bytes(b"x"),
        r"data_batch_3 is not a pickle of CIFAR's .*fresh copy",
    ),
    ("clrs25", lambda r: (r / "CLRS" / "empty").mkdir(), r"empty contains no image"),
    (
        "pacs",
        lambda r: (r / "PACS" / "photo" / "horse").mkdir(),
        r"photo and cartoon/ do not contain the same classes: horse",
    ),
    ("pacs", lambda r: (r / "PACS" / "sketch").rename(r / "PACS" / "Sketch2"), r"sketch is missing"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_damage_is_named_and_nothing_is_deleted(
    name: str, damage: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    MAKERS[name](tmp_path)
    damage(tmp_path)
    before = sorted((path, path.stat().st_size) for path in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        read_images(name, tmp_path, verify=False)
    assert sorted((path, path.stat().st_size) for path in tmp_path.rglob("*")) == before


def test_damaged_files_of_published_checksum_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MAKERS["cifar100"](tmp_path)
    monkeypatch.setattr(cifar, "_unpickled", lambda *_: pytest.fail("unpickled"))
    with pytest.raises(
        ValueError,
        match=r"cifar-100-python/train is damaged or unfinished \(MD5 .*: move it away and fetch cifar100 again",
    ):
        read_images("cifar100", tmp_path)


def test_a_data_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Food-101 is not in .*food-101: `reclaim data fetch food101 --root"):
        read_images("food101", tmp_path)
    with pytest.raises(ValueError, match=r"PACS is not in .*: download it from https"):
        read_images("pacs", tmp_path)
    with pytest.raises(ValueError, match="unknown data set 'food-101': did you mean food101"):
        read_images("food-101", tmp_path)


def test_what_is_missing_extra_or_undecodable_is_listed(tmp_path: Path) -> None:
    MAKERS["places-lt"](tmp_path)
    folder = tmp_path / "Places_LT"
    (folder / "b" / "2.jpg").unlink()
    save(folder / "b" / "9.jpg")
    (folder / "a" / "4.jpg").write_bytes((folder / "a" / "4.jpg").read_bytes()[:200])
    (folder / "a" / "3.jpg").write_text("no image")
    data = list_images("places-lt", tmp_path, verify=False)
    assert missing_files(data) == [folder / "b" / "2.jpg"]
    assert extra_files(data) == [folder / "b" / "9.jpg"]
    undecodable = undecodable_files(data)
    assert [error.split(" cannot be decoded")[0] for error in undecodable] == [
        str(folder / p) for p in ("b/2.jpg", "a/4.jpg", "a/3.jpg")
    ]
    assert all("replace it with a fresh copy" in error for error in undecodable)
    assert "62,500" in wrong_counts(data)[0]
    assert "2 classes instead of 365" in wrong_counts(data)


# name: files that the reader needs, images that a list names (or a folder of a class), what comes along and is not read
STOCK: dict[str, tuple[list[str], list[str], list[str]]] = {
    "cifar100": (["train", "test", "meta"], [], ["file.txt~"]),
    "cifar10": ([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"], [], ["readme.html"]),
    "imagenet-r": ([], ["n01/", "n02/"], ["README.txt"]),
    "cub200": (
        ["images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"],
        ["images/001.Albatross/0.jpg", "images/002.Auk/2.jpg"],
        ["README", "attributes/certainties.txt", "parts/parts.txt"],
    ),
    "cars196": (["cars_annos.mat"], ["car_ims/000001.jpg", "car_ims/000003.jpg"], []),
    "food101": (
        ["meta/train.json", "meta/test.json"],
        ["images/apple/apple_1.jpg", "images/pie/pie_0.jpg"],
        ["README.txt", "meta/labels.txt"],
    ),
    "clrs25": ([], ["airport/", "river/"], []),
    "svhn": (["train_32x32.mat", "test_32x32.mat"], [], []),
    "places-lt": (
        [f"Places_LT_{part}.txt" for part in ("train", "val", "test")],
        ["a/1.jpg", "a/3.jpg", "b/2.jpg"],
        [],
    ),
    "ip102": (["train.txt", "val.txt", "test.txt"], ["images/a/1.jpg", "images/a/3.jpg"], []),
    "officehome": ([], ["Art/", "Real World/", "Clipart/Axe/"], ["ImageInfo.csv"]),
    "pacs": ([], ["photo/", "sketch/", "art_painting/cat/"], []),
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_all_that_is_missing_or_extra_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find_dataset(name)
    classes = EXPECTED[name][0].split(",") if entry.class_folders else ()
    domains = {domain: 2 * (1 + k) for k, domain in enumerate(entry.domains)}
    monkeypatch.setitem(
        CATALOGUE, name, replace(entry, class_folders=tuple(classes), domains=domains, per_class=entry.per_class and 5)
    )
    MAKERS[name](tmp_path)
    folder = tmp_path / entry.folder
    needed, images, along = STOCK[name]
    (folder / ".DS_Store").touch()
    for file in along:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()
    stock = take_stock(name, tmp_path)
    assert (stock.missing, stock.extra, stock.problems, stock.readable) == ((), (), (), True)

    # extra: files anywhere, images, another archive, half a file of nobody's
    foreign = ["a.zip", "deep/er/x.jpg", "notes.txt", "other.bin.part", "z.jpg"]
    for file in foreign:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    if name in ("imagenet-r", "clrs25"):  # a folder here is one of a class
        stock = take_stock(name, tmp_path)
        assert stock.extra == tuple(str(folder / file) + "/" * (file == "deep") for file in ("deep", *foreign))
    else:
        assert take_stock(name, tmp_path).extra == tuple(str(folder / file) for file in foreign)

    # missing: images or folders of classes, and all of them
    for image in images:
        if image.endswith("/"):
            (folder / image).rename(tmp_path / image.replace("/", "_"))
        else:
            (folder / image).unlink()
    assert sorted(take_stock(name, tmp_path).missing) == sorted(
        str(folder / image) + "/" * image.endswith("/") for image in images
    )
    # and the files that the reader needs, to the last
    for file in needed:
        (folder / file).unlink()
    stock = take_stock(name, tmp_path)
    if needed:
        assert stock.missing == tuple(str(folder / file) for file in needed)
        assert not stock.readable
        assert [Path(file).name for file in stock.extra if not is_image(Path(file))] == [
            "a.zip",
            "notes.txt",
            "other.bin.part",
        ]


def test_lists_that_are_there_are_held_against_the_images_without_the_others(tmp_path: Path) -> None:
    MAKERS["ip102"](tmp_path)
    folder = tmp_path / "ip102_v1.1"
    (folder / "test.txt").unlink()
    (folder / "val.txt").write_text("a/3.jpg\n")
    (folder / "images" / "b" / "2.jpg").unlink()
    save(folder / "images" / "b" / "9.jpg")
    (folder / "more.csv").touch()
    stock = take_stock("ip102", tmp_path)
    assert stock.missing == (str(folder / "test.txt"), str(folder / "images" / "b" / "2.jpg"))
    assert stock.extra == (str(folder / "more.csv"),)
    assert stock.problems == (f"{folder / 'val.txt'}, line 1, is not an image and a label: put a fresh copy there",)
    assert stock.notes == ("cannot tell which images are extra without test.txt, val.txt",)


def test_a_surplus_class_of_imagenet_r_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet-r"
    names = find_dataset("imagenet-r").class_folders
    for name in (*names[1:], "n99999999"):
        save(folder / name / "art_0.jpg")
    (folder / "n00000000").mkdir()
    stock = take_stock("imagenet-r", tmp_path)
    assert stock.missing == (f"{folder / names[0]}/",)
    assert stock.extra == (
        f"{folder / 'n00000000'}/",
        f"{folder / 'n99999999'}/",
        str(folder / "n99999999" / "art_0.jpg"),
    )
    for name in names[:2]:
        (folder / "train" / name).mkdir(parents=True)
    stock = take_stock("imagenet-r", tmp_path)
    assert stock.missing[0] == f"{folder / 'test'}/"
    assert len(stock.missing) == 1 + 198
    assert stock.problems == tuple(
        f"{folder / 'train' / name} contains no image: unfinished download or unpacking?" for name in names[:2]
    )


def test_numbers_of_images_in_folders_that_no_list_names(tmp_path: Path) -> None:
    MAKERS["pacs"](tmp_path)
    expected = find_dataset("pacs").domains
    stock = take_stock("pacs", tmp_path)
    for k, domain in enumerate(("art_painting", "cartoon", "photo", "sketch")):
        assert f"{tmp_path / 'PACS' / domain}: {k + 1} images instead of {expected[domain]:,}" in stock.problems
    assert f"{tmp_path / 'PACS' / 'photo' / 'cat'}/" in stock.extra
    assert f"{tmp_path / 'PACS' / 'photo' / 'horse'}/" in stock.missing
    for name in ("pacs", "officehome"):
        entry = find_dataset(name)
        assert sum(entry.domains.values()) == (entry.train or 0) + (entry.test or 0)
    synsets = files("timm.data").joinpath("_info", "imagenet_r_synsets.txt").read_text()
    assert tuple(synsets.split()) == find_dataset("imagenet-r").class_folders
    for entry in CATALOGUE.values():
        assert len(set(entry.class_folders)) in (0, entry.classes)
        assert entry.per_class is None or entry.per_class * entry.classes == (entry.train or 0) + (entry.test or 0)


def test_every_damaged_batch_is_named(tmp_path: Path) -> None:
    MAKERS["cifar100"](tmp_path)
    with pytest.raises(ValueError, match=r"train is damaged(.|\n)*test is damaged(.|\n)*meta is damaged"):
        list_images("cifar100", tmp_path)


def test_the_held_out_part_is_official_or_a_stratified_tenth(tmp_path: Path) -> None:
    MAKERS["ip102"](tmp_path)
    data = read_images("ip102", tmp_path, verify=False)
    assert hold_out(data) == (("train", range(len(data.train))), ("validation", range(len(data.parts["validation"]))))
    make_folders(tmp_path / "CLRS", "river airport", 25)
    data = read_images("clrs25", tmp_path, verify=False)
    kept, held = (data.parts[part].take(places) for part, places in hold_out(data))
    assert set(kept.images) | set(held.images) == set(data.train.images)
    assert not set(kept.images) & set(held.images)
    counts = np.bincount(data.train.labels)
    assert np.all(np.abs(np.bincount(held.labels) - counts / 10) < 1)


def test_the_catalogue_is_complete() -> None:
    for entry in CATALOGUE.values():
        assert entry.page.startswith("http")
        assert entry.licence
        assert entry.counts_from
        for archive in entry.archives:
            assert len(archive.md5) == 32
            assert archive.file_name.endswith((".tar.gz", ".tgz", ".tar", ".mat"))
    # what torchvision knows, too
    for entry, kind in (
        (CATALOGUE["cifar100"], torchvision_datasets.CIFAR100),
        (CATALOGUE["cifar10"], torchvision_datasets.CIFAR10),
    ):
        assert (entry.archives[0].url, entry.archives[0].md5, entry.folder) == (
            kind.url,
            kind.tgz_md5,
            kind.base_folder,
        )
    food = torchvision_datasets.Food101
    assert (CATALOGUE["food101"].archives[0].url, CATALOGUE["food101"].archives[0].md5) == (food._URL, food._MD5)
    assert [(a.url, a.file_name, a.md5) for a in CATALOGUE["svhn"].archives] == [
        tuple(torchvision_datasets.SVHN.split_list[part]) for part in ("train", "test")
    ]


# --- catalogue.toml ---

ONE = """
[toys]
title = "Toys"
licence = "none stated"
page = "https://example.org"
folder = "toys-1.0"
layout = "one folder per class"
classes = 2
train = 1_000
counts_from = "official page"
also = ["README"]
class_folders = ["bear", "train"]
domains.Art = 5

[[toys.archives]]
url = "https://example.org/toys.tar?download=1"
md5 = "0123456789abcdef0123456789abcdef"
"""


def read(folder: Path, text: str) -> dict[str, CatalogueEntry]:
    path = folder / "catalogue.toml"
    path.write_text(text, encoding="utf-8")
    return read_catalogue(path)


def test_a_data_set_is_read(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, ONE).values()
    assert (entry.name, entry.title, entry.classes, entry.train, entry.test) == ("toys", "Toys", 2, 1000, None)
    assert (entry.also, entry.class_folders, entry.files, entry.domains) == (
        ("README",),
        ("bear", "train"),
        (),
        {"Art": 5},
    )
    assert entry.archives == (Archive("https://example.org/toys.tar?download=1", "0123456789abcdef0123456789abcdef"),)
    assert entry.archives[0].file_name == "toys.tar"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('title = "Toys"', "", "'toys': title is missing: add a text"),
        (
            'licence = "none stated"',
            'license = "none"',
            "'toys': unknown key 'license', which is 'none': did you mean licence",
        ),
        ("train = 1_000", "train = -1", "'toys': train is -1: write a whole number"),
        ("classes = 2", "classes = 3", "'toys': classes is 3, but class_folders has 2: make them agree"),
        (
            "domains.Art = 5",
            'domains.Art = "five"',
            "'toys': domains is {'Art': 'five'}: write a table of whole numbers",
        ),
        ('["README"]', '"README"', "'toys': also is 'README': write a list of texts"),
        ("[[toys.archives]]", "[toys.archives]", r"'toys': archives is .*: write \[\[<name>.archives\]\]"),
        ("url =", "uri =", "'toys', archive 1: unknown key 'uri', which is .*: did you mean url"),
        ('md5 = "0', 'md5 = "', "'toys', archive 1: md5 is '123.*': write 32 hexadecimal digits"),
        ("[[toys.archives]]", "[toys]", "is not TOML: Cannot declare"),
    ],
)
def test_a_bad_data_set_is_named(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    assert ONE.count(old) == 1
    with pytest.raises(CatalogueError, match=rf"^catalogue\.toml.*{complaint}"):
        read(tmp_path, ONE.replace(old, new))


def test_the_first_images_of_each_class() -> None:
    labels = (1, 0, 1, 1, 0, 2, 2, 0)
    part = ImageList(Path(), np.zeros((8, 2, 2, 3), np.uint8), labels)
    data = ImageData("some", ("a", "b", "c"), part, part)
    assert first_of_each_class(data, "train", None) == range(8)
    assert first_of_each_class(data, "train", 1) == [0, 1, 5]
    assert first_of_each_class(data, "test", 2) == [0, 1, 2, 4, 5, 6]
    with pytest.raises(
        ValueError, match=r"some has 2 test images of class 'c', fewer than images.test_per_class=3: set"
    ):
        first_of_each_class(data, "test", 3)


def test_a_subset_is_that_of_the_whole_set_and_holds_out_of_itself() -> None:
    """Experiences of a subset have the images of its places, and the validation part is a tenth of them."""
    labels = tuple(range(10)) * 40
    pixels = np.arange(400, dtype=np.uint16).view(np.uint8).reshape(400, 1, 1, 2)
    images = np.concatenate([pixels, np.zeros((400, 1, 1, 1), np.uint8)], axis=3)  # each knows its place
    part = ImageList(Path(), images, labels)
    data = ImageData("cifar10", tuple("abcdefghij"), part, part)
    exact = ImageTransform("as-is", 1)

    def places(stream: Any) -> list[int]:
        values = [x[:, 0, 0] * 255 for experience in stream for x, *_ in experience.dataset]
        return sorted(round(float(x[0])) + 256 * round(float(x[1])) for x in values)

    def made(of: str, hold_out_validation: bool = False) -> tuple[list[int], list[int]]:
        benchmark = make_image_benchmark(
            find_stream("split-cifar10-5"),
            list(range(10)),
            data,
            (exact, exact),
            of,
            hold_out_validation,
            per_class=(20, 5),
        )
        return places(benchmark.train_stream), places(benchmark.test_stream)

    train, test = made("test")
    assert (train, test) == (list(range(200)), list(range(50)))
    kept, held = made("validation")
    assert sorted([*kept, *held]) == train
    assert sorted(labels[i] for i in held) == sorted([*range(10)] * 2)
    assert made("test", hold_out_validation=True) == (kept, test)


# --- lists and folders as others write them ---


@pytest.mark.parametrize("written", ["./{}", "{}\r", ".//{}"])
@pytest.mark.parametrize("sign", ["", "\ufeff"])
def test_lists_of_other_tools_name_the_same_images(written: str, sign: str, tmp_path: Path) -> None:
    folder = tmp_path / "imagenet-r"
    make_folders(folder, "n01 n02", 2)
    lists = {"train.txt": ["n02/n02_1.jpg", "n01/n01_0.jpg"], "test.txt": ["n01/n01_1.jpg", "n02/n02_0.jpg"]}
    identities = []
    for form, first in (("{}", ""), (written, sign)):
        for name, images in lists.items():
            (folder / name).write_text(first + "\n".join(map(form.format, images)) + "\n", encoding="utf-8")
        data = read_images("imagenet-r", tmp_path, verify=False)
        identities.append((data.sha256, data.split_sha256, extra_files(data)))
    assert identities[0] == identities[1]
    (folder / "test.txt").write_text("n01\\n01_1.jpg\nn02\\n02_0.jpg\n")
    assert read_images("imagenet-r", tmp_path, verify=False).sha256 == identities[0][0]


def test_what_an_archive_leaves_is_no_class(tmp_path: Path) -> None:
    make_folders(tmp_path / "imagenet-r", "n01 n02")
    whole = read_images("imagenet-r", tmp_path, verify=False).sha256
    (tmp_path / "imagenet-r" / "__MACOSX").mkdir()
    assert read_images("imagenet-r", tmp_path, verify=False).sha256 == whole


def test_classes_have_the_order_of_the_catalogue_however_folders_are_written(tmp_path: Path) -> None:
    domains = "art_painting,cartoon,photo,sketch"
    make_domains(tmp_path / "one" / "PACS", domains, "dog house")
    for path in (tmp_path / "one" / "PACS").rglob("*.png"):
        domain, _, name = path.relative_to(tmp_path / "one" / "PACS").parts
        other = tmp_path / "two" / "PACS" / domain / {"dog": "dog", "house": "House"}[path.parent.name] / name
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other)  # "House" comes before "dog" by its first letter
    one, two = (read_images("pacs", tmp_path / name, verify=False) for name in ("one", "two"))
    assert one.names == two.names == ("dog", "house")
    assert (one.sha256, one.split_sha256) == (two.sha256, two.split_sha256)
    assert one.train.labels == two.train.labels


def test_the_order_of_lists_of_classes_does_not_matter(tmp_path: Path) -> None:
    make_cub(tmp_path)
    make_ip102(tmp_path)
    before = [read_images(name, tmp_path, verify=False) for name in ("cub200", "ip102")]
    for file in ("CUB_200_2011/classes.txt", "ip102_v1.1/classes.txt"):
        lines = (tmp_path / file).read_text().splitlines()
        (tmp_path / file).write_text("\n".join(lines[::-1]) + "\n")
    after = [read_images(name, tmp_path, verify=False) for name in ("cub200", "ip102")]
    assert [data.names for data in before] == [data.names for data in after]
    assert [data.sha256 for data in before] == [data.sha256 for data in after]


def test_scenes_of_one_name_are_told_apart_and_test_images_name_none(tmp_path: Path) -> None:
    folder = tmp_path / "Places_LT"
    lists = {
        "train": ["data/a/arena/indoor/1.jpg 0", "data/b/barn/1.jpg 1", "data/b/bow/1.jpg 2"],
        "val": ["data/a/arena/indoor/2.jpg 0"],
        "test": ["val_256/1.jpg 1", "val_256/2.jpg 2"],
    }
    for part, lines in lists.items():
        for line in lines:
            save(folder / line.split()[0])
        (folder / f"Places_LT_{part}.txt").write_text("\n".join(lines) + "\n")
    data = read_images("places-lt", tmp_path, verify=False)
    assert data.names == ("arena/indoor", "barn", "bow")
    (folder / "Places_LT_test.txt").write_text("val_256/1.jpg 2\nval_256/2.jpg 1\n")
    assert read_images("places-lt", tmp_path, verify=False).split_sha256 != data.split_sha256


def _svhn_file(x: Any, y: Any) -> Callable[[Path], None]:
    return lambda path: savemat(path, {"X": x, "y": y})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b""), "does not contain SVHN's .mat files"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "does not contain SVHN's .mat files"),
        (_svhn_file(np.zeros((32, 32, 3, 2), np.uint8), np.array([[1], [30]], np.uint8)), "label 30 is outside the 10"),
        (_svhn_file(np.zeros((32, 32, 3, 3), np.uint8), np.array([[1], [2]], np.uint8)), "3 images and 2 labels"),
    ],
)
def test_damaged_svhn_is_named(damage: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    make_svhn(tmp_path)
    damage(tmp_path / "svhn" / "test_32x32.mat")
    with pytest.raises(ValueError, match=said):
        read_images("svhn", tmp_path, verify=False)


def test_a_label_beyond_the_classes_of_ip102_is_named(tmp_path: Path) -> None:
    make_ip102(tmp_path)
    (tmp_path / "ip102_v1.1" / "test.txt").write_text("b/4.jpg 7\n")
    with pytest.raises(ValueError, match=r"test.txt: label 7 is outside the 2 classes"):
        read_images("ip102", tmp_path, verify=False)
