"""One data set in several layouts: one identity, one order, and what is said of each."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from reclaim.benchmark.cli_data import data as command
from reclaim.benchmark.data.catalogue import CATALOGUE, find_dataset
from reclaim.benchmark.data.images import ImageData, ImageList
from reclaim.benchmark.data.layouts import find_layout, layouts_of
from reclaim.benchmark.data.verify import read_images, repeated_images, take_stock
from scipy.io import savemat
from torchvision.datasets import StanfordCars

PARTS = {"train": range(3), "test": range(3, 5)}


def picture(path: Path, colour: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(colour).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def images(classes: tuple[str, ...]) -> Iterator[tuple[str, str, str, int]]:
    """Part, class, name and colour of each image."""
    for c, name in enumerate(classes):
        for part, numbers in PARTS.items():
            for i in numbers:
                yield part, name, f"{name[-2:]}_{i}.png", 100 * c + i


def in_parts(folder: Path, classes: tuple[str, ...], test: str = "test") -> None:
    for part, name, file, colour in images(classes):
        picture(folder / {"train": "train", "test": test}[part] / name / file, colour)


# --- ImageNet-R ---

R = CATALOGUE["imagenet-r"].class_folders


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ImageNet-R's classes as lists, the same lists shuffled, and folders."""
    root = tmp_path_factory.mktemp("layouts")
    rows = list(images(R))
    for where in ("lists", "shuffled"):
        for _, name, file, colour in rows:
            picture(root / where / "imagenet-r" / name / file, colour)
        for part in PARTS:
            lines = [f"{name}/{file}" for which, name, file, _ in rows if which == part]
            if where == "shuffled":
                random.Random(0).shuffle(lines)
            (root / where / "imagenet-r" / f"{part}.txt").write_text("\n".join(lines) + "\n")
    in_parts(root / "folders" / "imagenet-r", R)
    return {where: root / where for where in ("lists", "shuffled", "folders")}


def read(root: Path) -> ImageData:
    return read_images("imagenet-r", root, verify=False)


def test_three_layouts_have_one_identity_and_one_order(three: dict[str, Path]) -> None:
    found = {where: read(root) for where, root in three.items()}
    assert len({data.sha256 for data in found.values()}) == 1
    assert len({data.split_sha256 for data in found.values()}) == 1
    for part in PARTS:
        orders = [
            [(data.parts[part].labels[i], data.parts[part].load(i).tobytes()) for i in range(len(data.parts[part]))]
            for data in found.values()
        ]
        assert orders[0] == orders[1] == orders[2]
        assert [label for label, _ in orders[0]] == sorted(label for label, _ in orders[0])


def test_earlier_identities_are_kept_as_aliases(three: dict[str, Path]) -> None:
    found = {where: read(root) for where, root in three.items()}
    # that of the lists did not know their order, but the paths of the layout
    assert found["lists"].aliases == found["shuffled"].aliases != found["folders"].aliases
    small = ImageData("svhn", ("a", "b"), *(ImageList(Path(), (name,), (1,)) for name in ("x/1.png", "x/2.png")))
    # printf 'class\t0\ta\nclass\t1\tb\ntest\t1\tx/2.png\ntrain\t1\tx/1.png' | sha256sum
    assert small.aliases == ("50aa084b71ed95e53260d058cbcf50b99a95a7d0c4359c4c130cc31c5933aef3",)


def changed(root: Path, tmp_path: Path, change: Callable[[Path], None]) -> ImageData:
    shutil.copytree(root, tmp_path / "copy")
    change(tmp_path / "copy" / "imagenet-r")
    return read(tmp_path / "copy")


@pytest.mark.parametrize("what", ["part", "class", "name", "content"])
def test_the_identity_knows_part_class_name_and_content(what: str, three: dict[str, Path], tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        first = folder / "train" / R[0] / f"{R[0][-2:]}_0.png"
        if what == "part":
            first.rename(folder / "test" / R[0] / first.name)
        elif what == "class":
            first.rename(folder / "train" / R[1] / first.name)
        elif what == "name":
            first.rename(first.with_name("other.png"))
        else:
            picture(first, 7777)

    assert changed(three["folders"], tmp_path, change).sha256 != read(three["folders"]).sha256


def test_a_byte_in_the_middle_of_a_small_file_counts(tmp_path: Path) -> None:
    for name in ("n01", "n02"):
        picture(tmp_path / "imagenet-r" / "train" / name / "a.png", 1)
        picture(tmp_path / "imagenet-r" / "test" / name / "b.png", 2)
    before, path = read(tmp_path).sha256, tmp_path / "imagenet-r" / "train" / "n01" / "a.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert read(tmp_path).sha256 != before


# --- the layouts that are read ---


def make_cub(folder: Path, classes: tuple[str, ...]) -> None:
    rows = list(images(classes))
    for _, name, file, colour in rows:
        picture(folder / "images" / name / file, colour)
    lines = {
        "images": [f"{i} {name}/{file}" for i, (_, name, file, _) in enumerate(rows, 1)],
        "image_class_labels": [f"{i} {classes.index(name) + 1}" for i, (_, name, _, _) in enumerate(rows, 1)],
        "train_test_split": [f"{i} {int(part == 'train')}" for i, (part, *_) in enumerate(rows, 1)],
        "classes": [f"{i} {name}" for i, name in enumerate(classes, 1)],
    }
    for file, text in lines.items():
        (folder / f"{file}.txt").write_text("\n".join(text) + "\n")


def test_cub_as_it_is_distributed_and_as_in_slcas_code(tmp_path: Path) -> None:
    birds = ("001.Albatross", "002.Auk")
    make_cub(tmp_path / "a" / "CUB_200_2011", birds)
    in_parts(tmp_path / "b" / "cub_200", birds, test="val")
    distributed, folders = (read_images("cub200", tmp_path / where, verify=False) for where in "ab")
    assert distributed.sha256 == folders.sha256
    assert folders.remarks == (
        "the split is that of the folders train/ and val/: the papers' if they were made from it",
    )
    assert "SLCA's code" in take_stock("cub200", tmp_path / "b").layout
    assert take_stock("cub200", tmp_path / "a").layout == "as it is distributed"


MODELS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")


def make_devkit(folder: Path) -> None:
    """torchvision's Stanford Cars: files are numbered anew in each part."""
    (folder / "devkit").mkdir(parents=True)
    names = np.empty((1, 2), dtype=object)
    names[0] = MODELS
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for part, file, below in (
        ("train", "devkit/cars_train_annos.mat", "cars_train"),
        ("test", "cars_test_annos_withlabels.mat", "cars_test"),
    ):
        cars = [(name, colour) for which, name, _, colour in images(MODELS) if which == part]
        rows = np.zeros(len(cars), dtype=fields)
        for i, (name, colour) in enumerate(cars):
            rows[i] = (1, 1, 2, 2, MODELS.index(name) + 1, f"{i + 1:05}.png")
            picture(folder / below / f"{i + 1:05}.png", colour)
        savemat(folder / file, {"annotations": rows[None]})


def test_torchvisions_stanford_cars(tmp_path: Path) -> None:
    make_devkit(tmp_path / "stanford_cars")
    found = read_images("cars196", tmp_path, verify=False)
    assert found.names == MODELS
    for part, theirs in (("test", "train"), ("train", "test")):  # F7
        reference = StanfordCars(str(tmp_path), split=theirs)
        ours = found.parts[part]
        assert {(str(ours.path(i)), ours.labels[i]) for i in range(len(ours))} == set(reference._samples)
    assert "(F7): 4 train, 6 test" in found.remarks[0]
    assert take_stock("cars196", tmp_path).layout.startswith("torchvision's Stanford Cars")
    _, notes = repeated_images(found)
    assert notes[0].startswith("3 test images have the name of a training image of their class, but another content")
    (tmp_path / "stanford_cars" / "cars_test" / "00002.png").unlink()
    stock = take_stock("cars196", tmp_path)
    assert stock.missing == (str(tmp_path / "stanford_cars" / "cars_test" / "00002.png"),)
    (tmp_path / "stanford_cars" / "devkit" / "cars_meta.mat").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"cars_meta.mat is not Stanford Cars' cars_meta.mat"):
        read_images("cars196", tmp_path, verify=False)


def test_cars_as_in_slcas_code(tmp_path: Path) -> None:
    in_parts(tmp_path / "cars196", MODELS, test="val")
    found = read_images("cars196", tmp_path, verify=False)
    assert (found.names, len(found.train), len(found.test)) == (MODELS, 6, 4)


def test_svhn_as_torchvision_leaves_it(tmp_path: Path) -> None:
    for part, value in (("train", 1), ("test", 2)):
        pixels = np.full((32, 32, 3, 2), value, np.uint8)
        pixels[0, 0, 0] = [5, 6]
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": np.array([[10], [1]], np.uint8)})
    (tmp_path / "another-data-set").mkdir()
    assert len(read_images("svhn", tmp_path, verify=False).train) == 2
    assert take_stock("svhn", tmp_path).extra == ()


def test_both_test_and_val_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test", "val"):
        picture(tmp_path / "imagenet-r" / part / "n01" / f"{part}.png", 3)
    with pytest.raises(ValueError, match="both test/ and val/ exist next to"):
        read(tmp_path)


def test_an_absent_data_set_says_what_is_there_instead(tmp_path: Path) -> None:
    (tmp_path / "CUB_200_2011.tgz").write_bytes(b"")
    (tmp_path / "food-101").mkdir()
    with pytest.raises(ValueError, match=r"there are CUB_200_2011.tgz, food-101/; unpack CUB_200_2011.tgz"):
        read_images("cub200", tmp_path)
    with pytest.raises(ValueError, match="there is nothing"):
        read_images("cub200", tmp_path / "nowhere")


def test_every_layout_has_words_of_its_own() -> None:
    for entry in CATALOGUE.values():
        titles = [layout.title for layout in layouts_of(entry)]
        assert len(set(titles)) == len(titles) > 0


# --- images that occur twice ---


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUB has two classes with three training and two test images each."""
    entry = replace(find_dataset("cub200"), classes=2, train=6, test=4)
    monkeypatch.setitem(CATALOGUE, "cub200", entry)


BIRDS = ("001.Albatross", "002.Auk")


def test_test_images_that_are_training_images(small: None, tmp_path: Path) -> None:
    folder = tmp_path / "cub_200"
    in_parts(folder, BIRDS, test="val")
    assert read_images("cub200", tmp_path).sha256
    assert "\ncomplete\n" in check("cub200", tmp_path)
    for bird in BIRDS:
        for i, path in enumerate(sorted((folder / "val" / bird).iterdir())):
            shutil.copy(sorted((folder / "train" / bird).iterdir())[i], path)
    output = check("cub200", tmp_path, fails=True)
    assert "4 of 4 test images are training images, too (the same content)" in output
    assert "complete\n" not in output
    with pytest.raises(ValueError, match="4 of 4 test images are training images"):
        read_images("cub200", tmp_path)


def test_the_same_file_in_both_parts_is_never_let_pass(tmp_path: Path) -> None:
    """One of many images is below the share that is let pass; not if its name is the same, too."""
    for i in range(150):
        picture(tmp_path / "imagenet-r" / "train" / "n01" / f"{i}.png", i)
        picture(tmp_path / "imagenet-r" / "test" / "n01" / f"t{i}.png", 1000 + i)
    folder = tmp_path / "imagenet-r"
    shutil.copy(folder / "train" / "n01" / "5.png", folder / "test" / "n01" / "t5.png")
    problems, notes = repeated_images(read(tmp_path))
    assert problems == []
    assert notes[0].startswith("1 of 150 test images are training images, too (the same content): ")
    shutil.copy(folder / "train" / "n01" / "5.png", folder / "test" / "n01" / "5.png")
    problems, _ = repeated_images(read(tmp_path))
    assert problems[0].startswith("2 of 151 test images are training images")


def test_an_image_that_is_there_fifty_times(small: None, tmp_path: Path) -> None:
    folder = tmp_path / "CUB_200_2011"
    make_cub(folder, BIRDS)
    lines = (folder / "images.txt").read_text().splitlines()
    lines[1] = f"2 {lines[0].split()[1]}"
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    output = check("cub200", tmp_path, fails=True)
    assert f"the first is {folder / 'images' / BIRDS[0] / 'ss_0.png'}, 2 times in train: list every image" in output
    lists = tmp_path / "imagenet-r"
    picture(lists / "n01" / "a.png", 1)
    picture(lists / "n01" / "b.png", 2)
    (lists / "train.txt").write_text("n01/a.png\n" * 50)
    (lists / "test.txt").write_text("n01/b.png\n")
    assert "n01/a.png, 50 times in train" in check("imagenet-r", tmp_path, fails=True)
    with pytest.raises(ValueError, match="50 times in train"):
        read(tmp_path)


def test_copies_under_other_names_in_one_part(tmp_path: Path) -> None:
    for i in range(10):
        picture(tmp_path / "imagenet-r" / "train" / "n01" / f"{i}.png", 0)
    picture(tmp_path / "imagenet-r" / "val" / "n01" / "x.png", 1)
    problems, _ = repeated_images(read(tmp_path))
    assert problems[0].startswith("9 of 10 train images repeat others (the same content): ")


def test_pixels_that_occur_twice(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    train = ImageList(tmp_path, pixels[:4], (0, 0, 1, 1))
    data = ImageData("cifar10", ("a", "b"), train, ImageList(tmp_path, pixels[3:], (1, 0, 1)))
    problems, _ = repeated_images(data)
    assert problems == [
        "1 of 3 test images are training images, too (the same content): number 0 of test in class b is "
        "number 3 of train in class b"
    ]


def test_one_name_and_two_contents_is_a_note(tmp_path: Path) -> None:
    for part, colour in (("train", 1), ("val", 2)):
        picture(tmp_path / "imagenet-r" / part / "n01" / "1.png", colour)
    problems, notes = repeated_images(read(tmp_path))
    assert problems == []
    assert "1 test images have the name of a training image of their class, but another content" in notes[0]


# --- the split as lists ---


def check(name: str, root: Path, fails: bool = False) -> str:
    return invoke("check", name, "--root", str(root), fails=fails)


def invoke(*arguments: str, fails: bool = False) -> str:
    result = CliRunner().invoke(command, arguments)
    assert (result.exit_code != 0) == fails, result.output
    return result.output


def test_the_split_is_written_as_lists(three: dict[str, Path], tmp_path: Path) -> None:
    outputs = {
        where: invoke("split", "imagenet-r", "--root", str(root), "--out", str(tmp_path / where))
        for where, root in three.items()
    }
    hashes = {output.splitlines()[-1] for output in outputs.values()}
    assert hashes == {f"SHA-256 of the split: {read(three['lists']).split_sha256}"}
    for part in PARTS:
        assert len({(tmp_path / where / f"{part}.txt").read_text() for where in three}) == 1
    # lists made of folders serve beside the images in their class folders
    unsplit = tmp_path / "unsplit" / "imagenet-r"
    for part in PARTS:
        shutil.copytree(three["folders"] / "imagenet-r" / part, unsplit, dirs_exist_ok=True)
        shutil.copy(tmp_path / "folders" / f"{part}.txt", unsplit)
    assert read(tmp_path / "unsplit").sha256 == read(three["folders"]).sha256


def test_our_own_split_does_not_become_the_papers_by_being_written_down(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet-r"
    for i in range(10):
        for name in ("n01", "n02"):
            picture(folder / name / f"{i}.png", i)
    before = read(tmp_path)
    assert before.remarks[0].startswith("NOT the papers' split: 0.8 / 0.2 by seed 0")
    output = invoke("split", "imagenet-r", "--root", str(tmp_path))
    assert "NOT the papers' split" in output
    assert f"{folder / 'train.txt'}: 16 images" in output
    after = read(tmp_path)
    assert after.remarks[0].startswith("NOT the papers' split")
    assert after.sha256 == before.sha256
    assert invoke("split", "imagenet-r", "--root", str(tmp_path)).splitlines()[-1] == output.splitlines()[-1]
    other = tmp_path / "other"
    other.mkdir()
    (other / "train.txt").write_text("n01/0.png\n")
    refused = invoke("split", "imagenet-r", "--root", str(tmp_path), "--out", str(other), fails=True)
    assert f"{other / 'train.txt'} lists other images" in refused
    assert not (other / "test.txt").exists()


def test_the_folder_of_a_layout_is_found_by_its_other_names(tmp_path: Path) -> None:
    for name in ("CUB200", "cub_200"):
        (tmp_path / name).mkdir()
    in_parts(tmp_path / "cub_200", BIRDS)
    folder, layout = find_layout("cub200", tmp_path)
    assert folder == tmp_path / "cub_200"
    assert "ImageFolder" in layout.title
