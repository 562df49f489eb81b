"""Images of one's own: which folders are read, how, and what is said of those that are not."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from reclaim.benchmark.cli import main
from reclaim.benchmark.config import Config, ConfigError, Images, config_hash
from reclaim.benchmark.data.folders import list_folder, read_own_images, stream_of_images, unread_entries
from reclaim.benchmark.data.streams import OWN, STREAMS, even_sizes, slug
from reclaim.benchmark.data.transforms import own_transforms
from reclaim.benchmark.data.verify import undecodable_files
from reclaim.benchmark.records.record import is_name


def fill(folder: Path, n: int, seed: int = 0) -> Path:
    """A class folder of ``n`` small pictures, each another."""
    folder.mkdir(parents=True, exist_ok=True)
    entropy = [seed, *unicodedata.normalize("NFC", str(folder)).encode()]
    pixels = np.random.default_rng(entropy).integers(0, 256, (n, 6, 8, 3), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for name, n in {"cat": 10, "dog": 5, "猫": 2, "Äpfel": 3}.items():
        fill(tmp_path / "pets" / name, n)
    return tmp_path / "pets"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    for part, n in {"train": 4, "test": 2}.items():
        for name in ("cat", "dog", "cow"):
            fill(tmp_path / "cattle" / part / name, n)
    return tmp_path / "cattle"


# --- what is read ---


def test_a_folder_of_classes_is_split_class_by_class(pets: Path) -> None:
    stream = stream_of_images(pets, 3)
    assert (stream.name, stream.dataset, stream.tier, stream.sizes) == ("pets-3", "pets", OWN, (2, 1, 1))
    assert stream.split == {"test_share": 0.2, "seed": 0}
    data = read_own_images(stream, pets)
    assert data.names == ("cat", "dog", "Äpfel", "猫")
    assert [data.test.labels.count(c) for c in range(4)] == [2, 1, 1, 1]
    assert [data.train.labels.count(c) for c in range(4)] == [8, 4, 2, 1]
    assert not set(data.train.images) & set(data.test.images)
    assert data.sha256 == read_own_images(stream, pets).sha256
    more = read_own_images(stream_of_images(pets, 3, test_share=0.5), pets)
    assert [more.test.labels.count(c) for c in range(4)] == [5, 2, 2, 1]
    other = read_own_images(stream_of_images(pets, 3, split_seed=1), pets)
    assert other.split_sha256 != data.split_sha256
    assert any("by seed 1" in remark for remark in other.remarks)


def test_training_and_test_folders_are_taken_as_they_are(parts: Path) -> None:
    stream = stream_of_images(parts, 2)
    assert stream.split == {}
    assert stream.sizes == (2, 1)
    data = read_own_images(stream, parts)
    assert (len(data.train), len(data.test), data.validation) == (12, 6, None)
    assert data.remarks == ()
    (parts / "test").rename(parts / "val")
    assert read_own_images(stream, parts).sha256 == data.sha256
    for name in ("cat", "dog", "cow"):
        fill(parts / "test" / name, 3)
    with_validation = read_own_images(stream, parts)
    assert with_validation.validation is not None
    assert (len(with_validation.test), len(with_validation.validation)) == (9, 6)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "car", "test"):
        fill(tmp_path / "vehicles" / name, 3)
    assert list_folder(tmp_path / "vehicles", {}).names == ("car", "test", "train")


def test_other_files_are_not_images(pets: Path) -> None:
    before = list_folder(pets, {}).sha256
    (pets / "README.txt").write_text("about")
    (pets / "cat" / "Thumbs.db").write_text("x")
    (pets / ".cache").mkdir()
    assert list_folder(pets, {}).sha256 == before


@pytest.mark.parametrize("n", [2, 3, 25])
def test_the_number_of_experiences_by_default(n: int, tmp_path: Path) -> None:
    for c in range(n):
        fill(tmp_path / f"class {c}", 2)
    sizes = stream_of_images(tmp_path).sizes
    assert sum(sizes) == n
    assert len(sizes) == min(10, max(1, n // 2))
    assert max(sizes) - min(sizes) <= 1
    assert list(sizes) == sorted(sizes, reverse=True)


def test_even_sizes() -> None:
    assert even_sizes(10, 3) == (4, 3, 3)
    assert even_sizes(6, 6) == (1,) * 6


# --- names ---


@pytest.mark.parametrize(
    "name", ["pets", "Crème brûlée", "мои 2", "твои 2", "猫", "..", " ", "-x-", "a/b", "x" * 300, "CON:?*", "\udcff"]
)
def test_every_name_makes_a_name_for_records(name: str) -> None:
    assert is_name(slug(name))
    assert len(slug(name)) < 80


def test_names_stay_apart_and_readable() -> None:
    assert slug("Crème brûlée") == "Creme-brulee"
    assert slug("my pets (2024)") == "my-pets-2024"
    assert slug("мои 2") != slug("твои 2")
    assert slug("x" * 300) != slug("x" * 301)
    accented = "Äpfel"
    assert slug(unicodedata.normalize("NFD", accented)) == slug(unicodedata.normalize("NFC", accented)) == "Apfel"


def test_a_name_of_ours_is_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "split-quickdraw"
    for c in range(10):
        fill(folder / str(c), 2)
    assert "split-quickdraw-5" in STREAMS
    assert stream_of_images(folder, 5).name == "own-split-quickdraw-5"


def test_many_classes(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"not looked at")
    for c in range(2000):
        (tmp_path / "many" / f"класс {c}").mkdir(parents=True)
        for i in range(2):
            (tmp_path / "many" / f"класс {c}" / f"{i}.png").hardlink_to(tmp_path / "image.png")
    stream = stream_of_images(tmp_path / "many", 20)
    assert stream.sizes == (100,) * 20


# --- what is refused, before anything runs ---


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere does not exist: name a folder"):
        stream_of_images(tmp_path / "nowhere", 2)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="file is a file: name a folder"):
        stream_of_images(tmp_path / "file", 2)
    with pytest.raises(ValueError, match="has no class folders: put the images of each class into"):
        stream_of_images(tmp_path, 2)
    fill(tmp_path, 3)
    with pytest.raises(ValueError, match="has 3 images, but no class folders"):
        stream_of_images(tmp_path, 2)
    fill(tmp_path / "cat", 3)
    with pytest.raises(ValueError, match="has one class, cat: there is nothing to tell apart"):
        stream_of_images(tmp_path, 2)


def test_classes_with_too_few_images(pets: Path) -> None:
    (pets / "cow").mkdir()
    with pytest.raises(ValueError, match=r"1 class has no image in .*pets: cow: add images, or move the folder away"):
        stream_of_images(pets, 2)
    fill(pets / "cow" / "calf", 2)
    with pytest.raises(ValueError, match=r"cow \(cow has folders instead: images must lie in the class folder itself"):
        stream_of_images(pets, 2)
    fill(pets / "cow", 1)
    for i in range(7):
        fill(pets / f"single {i}", 1)
    with pytest.raises(
        ValueError, match=r"8 classes have one image .* cannot be split .*: cow, single 0, .* and 3 more"
    ):
        stream_of_images(pets, 2)


def test_parts_with_different_classes(parts: Path) -> None:
    fill(parts / "train" / "sheep", 2)
    with pytest.raises(ValueError, match=r"1 class is in .*train and not in .*test: sheep: add images"):
        stream_of_images(parts, 2)
    (parts / "train" / "sheep").rename(parts / "test" / "goat")
    with pytest.raises(ValueError, match=r"1 class is in .*test and not in .*train: goat"):
        stream_of_images(parts, 2)


def test_training_images_alone(parts: Path) -> None:
    (parts / "test").rename(parts / "held out")
    with pytest.raises(ValueError, match=r"neither test/ nor val/ exists next to .*train: put the test images there"):
        stream_of_images(parts, 2)
    assert stream_of_images(parts / "train", 2).split


@pytest.mark.parametrize("tasks", [0, 5, -1])
def test_more_experiences_than_classes(tasks: int, pets: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tasks} experiences cannot be made of the 4 classes in .*from 1 to 4"):
        stream_of_images(pets, tasks)


@pytest.mark.parametrize("share", [0, 1, -0.2, 20])
def test_shares_that_leave_nothing(share: float, pets: Path) -> None:
    with pytest.raises(ValueError, match=f"share of test images must be between 0 and 1, got {share}"):
        stream_of_images(pets, 2, test_share=share)


def test_an_image_in_training_and_test(parts: Path) -> None:
    (parts / "test" / "dog" / "copy.png").write_bytes((parts / "train" / "dog" / "0.png").read_bytes())
    stream = stream_of_images(parts, 2)
    with pytest.raises(ValueError, match=r"copy.png is .*train/dog/0.png: delete one of each, or use --unverified"):
        read_own_images(stream, parts)
    assert len(read_own_images(stream, parts, verify=False).test) == 7


def test_a_folder_that_changes(pets: Path) -> None:
    stream = stream_of_images(pets, 2)
    fill(pets / "cow", 2)
    with pytest.raises(ValueError, match=r"pets-2 is of 4 classes of pets, but .* has 5: leave the folder as it is"):
        read_own_images(stream, pets)


def test_damaged_images_are_all_named(pets: Path) -> None:
    damaged = [pets / "cat" / "3.png", pets / "dog" / "0.png"]
    damaged[0].write_bytes(damaged[0].read_bytes()[:60])
    damaged[1].write_bytes(b"")
    seen: list[int] = []
    found = undecodable_files(list_folder(pets, {}), seen.append)
    assert len(seen) == 20
    assert sorted(path for path in damaged for text in found if str(path) in text) == damaged
    for command in (
        ["run", "lite-fast", "--images", str(pets), "--tasks", "2", "--records", str(pets.parent / "records")],
        ["data", "check", "--images", str(pets)],
    ):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 1
        assert "2 images are damaged; nothing was changed" in result.output
        assert all(str(path) in result.output for path in damaged)
    assert not (pets.parent / "records").exists()


def test_cmyk_is_converted_exif_is_not_applied_and_a_bomb_is_refused(pets: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    Image.new("RGB", (8, 6), "red").save(pets / "cat" / "turned.jpg", exif=turned)
    Image.new("CMYK", (8, 6), (0, 255, 255, 0)).save(pets / "cat" / "press.jpg")
    Image.new("1", (20_000, 20_000)).save(pets / "cat" / "bomb.png")  # 50 kB on the disk, 1.2 GB in RGB
    found = list_folder(pets, {"test_share": 0.2, "seed": 0})
    read = 0
    for part in found.parts.values():
        for i in range(len(part)):
            path = part.path(i)
            assert path is not None
            if path.stem in ("turned", "press"):
                image = part.load(i)
                assert (image.size, image.mode) == ((8, 6), "RGB")
                assert image.getpixel((0, 0))[0] > 200 > 60 > max(image.getpixel((0, 0))[1:]), path
                read += 1
    assert read == 2
    (refused,) = undecodable_files(found)
    assert "bomb.png cannot be decoded" in refused


# --- reclaim data check ---


def test_pictures_of_other_depths(pets: Path) -> None:
    """16 bits keep their range: Pillow's own conversion makes them white. 32 bits have no range to keep."""
    grey = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1_300
    for suffix in ("png", "tif", "pgm"):
        Image.fromarray(grey).save(pets / "cat" / f"deep.{suffix}")
    Image.fromarray(grey.astype(np.uint8)).convert("1").save(pets / "cat" / "bit.png")
    Image.fromarray(grey.astype(np.float32)).save(pets / "dog" / "float.tif")
    Image.fromarray(grey.astype(np.int32)).save(pets / "dog" / "integer.tif")
    found = list_folder(pets, {"test_share": 0.2, "seed": 0})
    for part in found.parts.values():
        for i in range(len(part)):
            path = part.path(i)
            assert path is not None
            if path.stem == "deep":
                pixels = np.asarray(part.load(i))
                assert pixels.shape == (6, 8, 3), path
                assert (pixels == (grey >> 8)[..., None]).all(), path
    refused = sorted(undecodable_files(found))
    assert [Path(line.split(" cannot")[0]).name for line in refused] == ["float.tif", "integer.tif"]
    assert all("save it in 8 or 16" in line for line in refused)


def test_the_check_of_a_folder(parts: Path) -> None:
    result = CliRunner().invoke(main, ["data", "check", "--images", str(parts)])
    assert result.exit_code == 0, result.output
    data = list_folder(parts, {})
    assert f"3 classes; SHA-256 of the split: {data.split_sha256}" in result.output
    assert f"SHA-256 of the images: {data.sha256}" in result.output
    assert result.stdout.splitlines()[-1] == "complete"
    (parts / "test" / "dog" / "copy.png").write_bytes((parts / "train" / "dog" / "0.png").read_bytes())
    result = CliRunner().invoke(main, ["data", "check", "--images", str(parts)])
    assert result.exit_code == 1
    assert "test images are training images, too (the same content)" in result.output
    assert f"{parts} has images that occur twice: delete one of each" in result.output


def test_the_check_says_what_is_not_read(parts: Path) -> None:
    (parts / "train" / "cat" / "film.gif").write_bytes(b"GIF89a")
    (parts / "train" / "cat" / "older").mkdir()
    (parts / "test" / "dog" / "photo.HEIC").write_bytes(b"")
    (parts / "test" / "dog" / ".hidden").write_bytes(b"")
    (parts / "test" / "README.txt").write_text("pictures of pets")
    (parts / "test" / "dog" / "gone.png").symlink_to(parts / "nowhere.png")
    result = CliRunner().invoke(main, ["data", "check", "--images", str(parts)])
    assert result.exit_code == 0, result.output
    note = "note: 1 .gif, 1 .heic, 1 .png, 1 .txt, 1 without a suffix not read, being no images in a class folder"
    assert f"{note}; the first is {parts / 'test' / 'README.txt'}" in result.output


@pytest.mark.parametrize("arguments", [["cub200"], ["--root", "x"], [], ["cub200", "--root", "x", "--images", "y"]])
def test_the_check_is_of_a_name_or_of_a_folder(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["data", "check", *arguments])
    assert result.exit_code == 2
    assert "--images FOLDER" in result.output


# --- transforms ---


def test_transforms_follow_the_backbone() -> None:
    train, test = own_transforms("test_vit")
    assert (train.size, test.size, test.resize) == (160, 160, 183)
    assert train.normalisation == test.normalisation == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    train, test = own_transforms("resnet50", 32)
    assert (train.size, test.size) == (32, 32)
    assert train.normalisation == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    wide = Image.fromarray(np.zeros((40, 90, 3), np.uint8))
    assert train.reference()(wide).shape == test.reference()(wide).shape == (3, 32, 32)


def test_the_size_is_of_own_images_only() -> None:
    with pytest.raises(ConfigError, match=r"images.size=64 is for images.protocol=own or lite, not slca"):
        Config(images=Images("slca", size=64))
    with pytest.raises(ConfigError, match=r"images.size must be a number of pixels, at least 1, got 0"):
        Config(images=Images("own", size=0))
    without = Config(images=Images("own")).as_dict()
    assert "size" not in without["images"]
    assert config_hash(without) != config_hash(Config(images=Images("own", size=64)).as_dict())


# --- folders as others leave them ---


def rewritten(folder: Path, target: Path, **names: str) -> Path:
    """A copy, with other names of folders."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            parts = [names.get(part, part) for part in path.relative_to(folder).parts]
            place = target.joinpath(*parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    return target


def test_accents_are_the_same_in_both_forms(pets: Path, parts: Path, tmp_path: Path) -> None:
    """An archive made on a Mac writes accents as signs of their own."""
    apart = {"Äpfel": unicodedata.normalize("NFD", "Äpfel")}
    other = rewritten(pets, tmp_path / "mac" / "pets", **apart)
    one, two = (list_folder(folder, {}) for folder in (pets, other))
    assert one.names == two.names
    assert (one.sha256, one.split_sha256) == (two.sha256, two.split_sha256)
    mixed = rewritten(parts, tmp_path / "mixed" / "cattle", cow="kühe")
    (mixed / "test" / "kühe").rename(mixed / "test" / unicodedata.normalize("NFD", "kühe"))
    assert len(list_folder(mixed, {}).names) == 3


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "lost+found", ".git"])
def test_what_systems_leave_is_no_class(name: str, pets: Path) -> None:
    whole = list_folder(pets, {}).sha256
    (pets / name).mkdir()
    assert list_folder(pets, {}).sha256 == whole


@pytest.mark.parametrize(
    "names", [{"train": "Train", "test": "Test"}, {"train": "training", "test": "testing"}, {"test": "Validation"}]
)
def test_parts_by_other_names(names: dict[str, str], parts: Path, tmp_path: Path) -> None:
    other = rewritten(parts, tmp_path / "other" / "cattle", **names)
    assert list_folder(other, {}).sha256 == list_folder(parts, {}).sha256
    assert unread_entries(other) == []


def test_a_validation_part_by_another_name_is_used_and_two_are_refused(parts: Path) -> None:
    for name in ("cat", "dog", "cow"):
        fill(parts / "valid" / name, 3)
    data = list_folder(parts, {})
    assert data.validation is not None
    assert len(data.validation) == 9
    shutil.copytree(parts / "valid", parts / "val")
    with pytest.raises(ValueError, match="has both val/ and valid/ for one part: move one of them away"):
        list_folder(parts, {})


def test_folders_beside_the_parts_are_named(parts: Path) -> None:
    fill(parts / "unlabelled" / "cat", 1)
    assert unread_entries(parts) == [parts / "unlabelled"]


def test_a_folder_in_a_folder_is_named(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "download").mkdir()
    pets.rename(tmp_path / "download" / "pets")
    with pytest.raises(ValueError, match=r"has one class, pets: .*; name .*download.pets if the classes are in it"):
        list_folder(tmp_path / "download", {})
