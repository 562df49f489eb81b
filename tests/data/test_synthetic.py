"""Synthetic copies of the papers' data sets: read back at the real shapes, refused as the real thing,
never written over anything.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from reclaim.benchmark.data import synthetic
from reclaim.benchmark.data.catalogue import CATALOGUE, find_dataset
from reclaim.benchmark.data.images import ImageList
from reclaim.benchmark.data.synthetic import MARKER, write_dataset
from reclaim.benchmark.data.verify import extra_files, read_images

SIDE = {
    "cifar100": 32,
    "cifar10": 32,
    "svhn": 32,
    "clrs25": 256,
    "places-lt": 256,
    "pacs": 227,
}  # of the sets with one size
DOMAINS = ("officehome", "pacs")
MAT_HEADER = 128  # bytes, with the time of writing


@pytest.fixture
def root() -> Iterator[Path]:
    """As tmp_path, but removed at once: the copies are large."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()[MAT_HEADER if path.suffix == ".mat" else 0 :]
        ).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def colours(part: ImageList, below: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean colours of the two halves, (n, 6), and labels of a part's images of the first classes."""
    chosen = [i for i, label in enumerate(part.labels) if label < below]
    halves = [np.array_split(np.asarray(part.load(i)), 2) for i in chosen]
    return np.stack([np.concatenate([half.mean((0, 1)) for half in pair]) for pair in halves]), np.array(
        [part.labels[i] for i in chosen]
    )


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_copy_has_the_real_format_classes_and_sizes(name: str, root: Path) -> None:
    entry = find_dataset(name)
    folder = write_dataset(name, root, train_per_class=1, test_per_class=1)
    assert folder == root / entry.folder
    assert list(root.iterdir()) == [folder]
    data = read_images(name, root, verify=False)
    assert len(data.names) == len(set(data.names)) == entry.classes
    assert set(data.parts) == {"train", "test", *(["validation"] if entry.validation else [])}
    for part_name, part in data.parts.items():
        counts = Counter(part.labels)
        assert set(counts) == set(range(entry.classes))
        if name != "clrs25":  # its reader's split is not class by class
            assert set(counts.values()) == {3 if name in DOMAINS and part_name == "train" else 1}
    assert extra_files(data) == []
    if not isinstance(data.train.images, np.ndarray):
        files = [path for path in folder.rglob("*") if path.suffix in (".jpg", ".png", ".tif")]
        assert len(files) == sum(len(part) for part in data.parts.values())
        assert len({path.read_bytes() for path in files}) == len(files)

    sizes = {part.load(i).size for part in data.parts.values() for i in range(min(6, len(part)))}
    if name in SIDE:
        assert sizes == {(SIDE[name], SIDE[name])}
    else:
        assert len(sizes) > 1
        assert all(300 <= min(size) <= max(size) <= 800 for size in sizes)

    # a class has the same label in all parts, and can be told from the others
    means, labels = colours(data.train, 7)
    for part in (data.test, *([data.validation] if data.validation else [])):
        shown, expected = colours(part, 7)
        nearest = labels[np.linalg.norm(shown[:, None] - means, axis=2).argmin(1)]
        assert nearest.tolist() == expected.tolist()

    with pytest.raises(ValueError, match=r"is not complete|is damaged or unfinished"):
        read_images(name, root)


@pytest.mark.parametrize(
    ("name", "train", "test"), [("cifar10", 3, 2), ("svhn", 3, 2), ("clrs25", 3, 2), ("pacs", 3, 2)]
)
def test_the_numbers_asked_for(name: str, train: int, test: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(synthetic._SIZES, "clrs25", ((8, 8),))  # several hundred images
    write_dataset(name, root, train_per_class=train, test_per_class=test)
    data = read_images(name, root, verify=False)
    counts = [np.bincount(part.labels) for part in (data.train, data.test)]
    if name == "clrs25":
        assert counts[0].min() >= train
        assert counts[1].min() == test  # no more than needed
    else:
        assert set(counts[0]) == {3 * train if name == "pacs" else train}
        assert set(counts[1]) == {test}


@pytest.mark.parametrize("name", ["cifar10", "svhn", "pacs"])
def test_the_same_arguments_make_the_same_bytes(name: str, tmp_path: Path) -> None:
    folders = [write_dataset(name, tmp_path / where, seed=seed) for where, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, again, other = (contents(folder) for folder in folders)
    assert first == again
    assert first.keys() == other.keys()
    images = [file for file in first if file.endswith((".jpg", ".png", ".mat")) or "batch_" in file]
    assert len(images) > 1
    assert all(first[file] != other[file] for file in images)
    hashes = [read_images(name, tmp_path / where, verify=False).sha256 for where in "abc"]
    assert hashes[0] == hashes[1]
    assert hashes[2] != hashes[0]


def test_a_finished_copy_is_kept_and_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = write_dataset("pacs", tmp_path, train_per_class=1)
    marker = (folder / MARKER).read_text()
    assert "Synthetic images in the format of PACS" in marker
    assert "train_per_class=1, test_per_class=1, seed=0" in marker
    (folder / "photo" / "synthetic_003" / "00001.jpg").unlink()
    before = contents(tmp_path)
    assert write_dataset("pacs", str(tmp_path), train_per_class=1) == folder
    for other in ({}, {"train_per_class": 1, "test_per_class": 2}, {"train_per_class": 1, "seed": 1}):
        with pytest.raises(
            ValueError, match=r"PACS contains other synthetic images .*seed=0\): delete it, or give another root"
        ):
            write_dataset("pacs", tmp_path, **other)
    (folder / MARKER).unlink()
    del before[f"PACS/{MARKER}"]
    with pytest.raises(ValueError, match=r"PACS exists but has no SYNTHETIC.txt.*may be real data: give another root"):
        write_dataset("pacs", tmp_path, train_per_class=1)
    assert contents(tmp_path) == before
    # neither a file nor a link to a disk that is not mounted is taken for free room
    (tmp_path / "svhn").write_text("mine")
    (tmp_path / "CLRS").symlink_to(tmp_path / "gone")
    for name in ("svhn", "clrs25"):
        with pytest.raises(ValueError, match="may be real data"):
            write_dataset(name, tmp_path)
    assert (tmp_path / "svhn").read_text() == "mine"


def test_an_interrupted_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, drawn = synthetic._Plan.draw, []

    def draw(plan: synthetic._Plan, label: int, number: int) -> object:
        drawn.append(label)
        if len(drawn) == 10:
            raise OSError("No space left on device")
        return real(plan, label, number)

    monkeypatch.setattr(synthetic._Plan, "draw", draw)
    with pytest.raises(OSError, match="No space left"):
        write_dataset("pacs", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("pacs", {"train_per_class": 0}, r"at least 1 .* got 0, 1 and 0"),
        ("pacs", {"test_per_class": 0}, r"at least 1 .* got 2, 0 and 0"),
        ("pacs", {"seed": -1}, r"seed at least 0, got 2, 1 and -1"),
        ("imagenette", {}, r"unknown data set 'imagenette'"),
        # with these verify=True would have nothing to refuse
        (
            "imagenet-r",
            {"train_per_class": 120, "test_per_class": 30},
            r"120 and 30 images per class are as many as ImageNet-R",
        ),
        ("food101", {"train_per_class": 750, "test_per_class": 250}, r"as many as Food-101 has: ask for one less"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    name: str, arguments: dict[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_dataset(name, tmp_path / "root", **arguments)
    assert list(tmp_path.iterdir()) == []
