"""Images of one's own: a folder of pictures as a stream.

Two layouts are read: ``train/`` and ``test/`` (or ``val/``), each with one folder per class; or one folder per class,
which are then split at random, class by class. With ``train/``, ``test/`` and ``val/``, the last is the validation
part.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .images import FOLDS, ImageData, ImageList, is_image, is_of_system
from .streams import OWN, Stream, even_sizes, own_name, slug
from .verify import missing_files, repeated_images

TEST_SHARE, SPLIT_SEED = 0.2, 0
TASKS = 10

_NAMED = 5  # classes in a message


def stream_of_images(
    folder: Path | str, tasks: int | None = None, test_share: float = TEST_SHARE, split_seed: int = SPLIT_SEED
) -> Stream:
    """A class-incremental stream of a folder of images. Looks at names of files only.

    :param tasks: number of experiences, as even as possible, the first ones with one class more; None: ten, or fewer,
        so that each has two classes.
    :param test_share: share of each class's images that are tested on, if the folder has no training and test parts.
    :param split_seed: of that split.
    :raises ValueError: the folder has no such layout, a class has too few images, or there are more tasks than classes.
    """
    folder = Path(folder)
    split = {} if _in_parts(_existing(folder)) else {"test_share": float(test_share), "seed": split_seed}
    data = list_folder(folder, split)
    n = len(data.names)
    if tasks is None:
        tasks = max(1, min(TASKS, n // 2))
    if not 1 <= tasks <= n:
        raise ValueError(
            f"{tasks} experiences cannot be made of the {n} classes in {folder}: use a number from 1 to {n} (--tasks)"
        )
    sizes = even_sizes(n, tasks)
    how = f"split by seed {split_seed}, {test_share:.0%} for testing" if split else "in training and test folders"
    return Stream(
        own_name(f"{data.name}-{tasks}"),
        sizes,
        f"{n:,} classes of the images in {slug(folder.resolve().name)}, {how}",
        OWN,
        data.name,
        split=split,
    )


def read_own_images(stream: Stream, folder: Path | str, *, verify: bool = True) -> ImageData:
    """The images of a stream that :func:`stream_of_images` made.

    :param verify: also look for images that are in training and test. Reads every file.
    :raises ValueError: the folder has no such images any more, or images occur twice.
    """
    data = list_folder(folder, stream.split)
    if len(data.names) != stream.n_classes or data.name != stream.dataset:
        raise ValueError(
            f"{stream.name} is of {stream.n_classes} classes of {stream.dataset}, but {folder} has {len(data.names)}: "
            f"leave the folder as it is during runs"
        )
    if missing := missing_files(data):
        raise ValueError(f"{missing[0]} is gone: leave the folder as it is during runs")
    if verify and (problems := repeated_images(data)[0]):
        raise ValueError(f"{'; '.join(problems)}: delete one of each, or use --unverified")
    return data


def require_enough_to_hold_out(data: ImageData) -> None:
    """Check that :func:`~reclaim.benchmark.data.images.hold_out` finds validation images of every class.

    :raises ValueError: a class has too few training images, and there is no validation part.
    """
    counts = Counter(data.train.labels)
    few = [name for label, name in enumerate(data.names) if counts[label] < FOLDS]
    if few and data.validation is None:
        raise ValueError(
            f"one training image in {FOLDS} of each class is held out for validation, and "
            f"{_counted(few, 'class has', 'classes have')} fewer than {FOLDS}: {_some(few)}: add images, or val/ "
            f"beside train/ and test/, or set images.hold_out to false and part to test"
        )


def list_folder(folder: Path | str, split: Mapping[str, float]) -> ImageData:
    """The images of a folder by the names of its files.

    :param split: ``test_share`` and ``seed``, for a folder without training and test parts.
    :raises ValueError: the folder has no such layout, or a class has too few images.
    """
    folder = _existing(Path(folder))
    name = slug(folder.resolve().name)
    if _in_parts(folder):
        return _of_parts(name, folder).in_order()
    share, seed = split.get("test_share", TEST_SHARE), int(split.get("seed", SPLIT_SEED))
    if not 0 < share < 1:
        raise ValueError(f"the share of test images must be between 0 and 1, got {share}: use 0.2, for example")
    if not 0 <= seed < 2**32:
        raise ValueError(f"the seed of the split must be in [0, 2**32), got {seed}")
    return _of_classes(name, folder, share, seed).in_order()


def unread_entries(folder: Path | str) -> list[Path]:
    """What lies among the classes or images of a folder and is not read: files of other kinds, links that lead nowhere,
    folders in a class. Hidden ones are left out.
    """
    folder = Path(folder)
    parts = list(_parts(folder).values()) if _in_parts(folder) else []
    roots = parts or [folder]
    classes = [root / name for root in roots for name in _subfolders(root)]
    unread = [path for root in roots for path in root.iterdir() if not path.is_dir()]
    unread += [path for c in classes for path in c.iterdir() if not (path.is_file() and is_image(path))]
    unread += [folder / name for name in _subfolders(folder) if folder / name not in parts] if parts else []
    return sorted(path for path in unread if not path.name.startswith("."))


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"{folder} {what}: name a folder with one folder of images per class")
    return folder


def _in_parts(folder: Path) -> bool:
    """Whether it has a training part: a folder "train" with class folders. A class may be called "train", too."""
    return "train" in (parts := _parts(folder)) and bool(_subfolders(parts["train"]))


_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
"""Names of the folders of parts, in any case."""


def _parts(folder: Path) -> dict[str, Path]:
    """Training, test and validation part -> its folder.

    :raises ValueError: a part has two.
    """
    found: dict[str, Path] = {}
    for name in _subfolders(folder):
        if part := _PARTS.get(name.casefold()):
            if part in found:
                raise ValueError(
                    f"{folder} has both {found[part].name}/ and {name}/ for one part: move one of them away"
                )
            found[part] = folder / name
    return {part: found[part] for part in ("train", "test", "val") if part in found}


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, in an order that does not depend on how a system writes accents."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not is_of_system(entry.name)]
    return sorted(names, key=lambda name: (_composed(name), name))


def _composed(name: str) -> str:
    """A name with its accents in one form: systems write them in two."""
    return unicodedata.normalize("NFC", name)


def _classes(folder: Path) -> dict[str, list[str]]:
    """Class -> names of its images."""
    classes = {}
    for name in _subfolders(folder):
        with os.scandir(folder / name) as entries:
            classes[name] = sorted(e.name for e in entries if is_image(Path(e.name)) and e.is_file())
    if not classes:
        loose = sum(is_image(path) for path in folder.iterdir())
        what = f"{loose:,} images, but no" if loose else "no"
        raise ValueError(f"{folder} has {what} class folders: put the images of each class into a folder of its own")
    if len(classes) == 1:
        (only,) = classes
        deeper = f"; name {folder / only} if the classes are in it" if _subfolders(folder / only) else ""
        raise ValueError(f"{folder} has one class, {only}: there is nothing to tell apart{deeper}")
    if empty := [name for name, images in classes.items() if not images]:
        below = [name for name in empty if _subfolders(folder / name)]
        deeper = f" ({below[0]} has folders instead: images must lie in the class folder itself)" if below else ""
        raise ValueError(
            f"{_counted(empty, 'class has', 'classes have')} no image in {folder}: {_some(empty)}{deeper}: add images, "
            f"or move the folder away"
        )
    return classes


def _of_classes(name: str, folder: Path, share: float, seed: int) -> ImageData:
    classes = _classes(folder)
    if single := [c for c, images in classes.items() if len(images) == 1]:
        raise ValueError(
            f"{_counted(single, 'class has', 'classes have')} one image in {folder}, which cannot be split into "
            f"training and test: {_some(single)}: add images, or move the folder away"
        )
    generator = np.random.RandomState(seed)
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for label, (c, images) in enumerate(classes.items()):
        n_test = min(max(1, round(share * len(images))), len(images) - 1)
        order = generator.permutation(len(images))
        for place, i in enumerate(order.tolist()):
            rows["test" if place < n_test else "train"].append((f"{c}/{images[i]}", label))
    remark = f"split by Reclaim, class by class: {share:g} of the images for testing, by seed {seed}"
    train, test = (_listed(folder, rows[part]) for part in ("train", "test"))
    return ImageData(name, tuple(map(_composed, classes)), train, test, None, (remark,))


def _of_parts(name: str, folder: Path) -> ImageData:
    folders = _parts(folder)
    if len(folders) == 1:
        raise ValueError(
            f"neither test/ nor val/ exists next to {folders['train']}: put the test images there, or name that folder "
            f"itself, of which a part is then tested on"
        )
    paths = {
        part: {_composed(c): [f"{root.name}/{c}/{image}" for image in images] for c, images in _classes(root).items()}
        for part, root in folders.items()
    }
    for part in [*folders][1:]:
        for here, other in (("train", part), (part, "train")):
            if alone := [c for c in paths[here] if c not in paths[other]]:
                raise ValueError(
                    f"{_counted(alone, 'class is', 'classes are')} in {folders[here]} and not in {folders[other]}: "
                    f"{_some(alone)}: add images, or move the folder away"
                )
    names = tuple(paths["train"])
    parts: dict[str, Any] = {
        part: _listed(folder, [(path, label) for label, c in enumerate(names) for path in of_part[c]])
        for part, of_part in paths.items()
    }
    test = "test" if "test" in parts else "val"
    return ImageData(
        name, names, parts["train"], parts[test], parts["val"] if test == "test" and "val" in parts else None
    )


def _listed(folder: Path, rows: Sequence[tuple[str, int]]) -> ImageList:
    return ImageList(folder, tuple(path for path, _ in rows), tuple(label for _, label in rows))


def _counted(names: Sequence[str], one: str, several: str) -> str:
    return f"1 {one}" if len(names) == 1 else f"{len(names):,} {several}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + f" and {len(names) - _NAMED:,} more" * (len(names) > _NAMED)
