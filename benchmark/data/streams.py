"""Streams by name: their sizes and data sets, without images. experiences.py makes the benchmarks."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..config import LITE0, QUICKDRAW_VIT, Component
from .catalogue import find_dataset
from .drawings import shared_classes

EMBEDDED = "embedded"
MIDDLE = "middle"
DENSE = "dense"
PAPER = "paper"
OWN = "own"


@dataclass(frozen=True)
class Stream:
    """The definition of a stream.

    :ivar sizes: number of classes in each experience.
    :ivar tier: ``"embedded"``: drawings that ship with the package. ``"dense"``: canvases made of
        them. ``"paper"``: a data set of the papers, which the
        user provides. ``"own"``: somebody's own images or benchmark.
    :ivar dataset: paper tier: its name in the catalogue. Own images: the name of their folder, not its place, which is
        that of :class:`~reclaim.benchmark.training.runtime.Setup`.
    :ivar made_by: own tier: what returns the Avalanche benchmark; None if the stream is made of a folder of images.
    :ivar split: own images that come without training and test parts: how they are split, see
        :mod:`~reclaim.benchmark.data.folders`.
    """

    name: str
    sizes: tuple[int, ...]
    description: str
    tier: str = EMBEDDED
    dataset: str = ""
    made_by: Component | None = None
    split: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def n_classes(self) -> int:
        return sum(self.sizes)

    def joined(self) -> Stream:
        """The same classes in one experience, for joint training."""
        return replace(self, sizes=(self.n_classes,))


def _embedded(name: str, sizes: Sequence[int]) -> Stream:
    even = len(set(sizes)) == 1
    shape = f"{len(sizes)} x {sizes[0]}" if even else " + ".join(map(str, sizes))
    return Stream(
        name, tuple(sizes), f"100 downstream classes of Quick, Draw!, {shape}; 80 training and 20 test drawings a class"
    )


STREAMS: dict[str, Stream] = {
    stream.name: stream
    for stream in (
        _embedded("split-quickdraw-5", [20] * 5),
        _embedded("split-quickdraw-10", [10] * 10),
        _embedded("split-quickdraw-20", [5] * 20),
        _embedded("split-quickdraw-50", [2] * 50),
        _embedded("split-quickdraw-uneven", [10] * 9 + [6, 4]),
        _embedded("quickdraw-1", [100]),
    )
}

CANVASES = Stream(
    "quickdraw-canvases",
    (20,),
    "20 of the 100 downstream classes of Quick, Draw!, chosen by the seed; two to five drawings on a canvas",
    DENSE,
)
DENSE_STREAMS: dict[str, Stream] = {CANVASES.name: CANVASES}


def _paper(dataset: str, sizes: Sequence[int], name: str | None = None, remark: str = "") -> Stream:
    entry = find_dataset(dataset)
    name = name or (f"split-{dataset}-{len(sizes)}" if len(sizes) > 1 else f"{dataset}-1")
    return Stream(
        name, tuple(sizes), f"{entry.classes} classes of {entry.title}, {in_words(sizes)}{remark}", PAPER, dataset
    )


def in_words(sizes: Sequence[int]) -> str:
    """Numbers of classes, such as "9 x 10 + 6 + 4"."""
    runs = [(len(list(same)), size) for size, same in itertools.groupby(sizes)]
    return " + ".join(f"{n} x {size}" if n > 1 else str(size) for n, size in runs)


# the streams in the papers' tables, CIFAR and OLOR's data sets as a single experience, and those of 20 and 50
# experiences that others re-ran the papers' methods on
PAPER_STREAMS: dict[str, Stream] = {
    stream.name: stream
    for stream in (
        _paper("cifar100", [10] * 10),
        _paper("cifar100", [5] * 20),
        _paper("cifar100", [2] * 50),
        _paper("cifar100", [100]),
        _paper("cifar10", [2] * 5),
        _paper("cifar10", [10]),
        _paper("imagenet-r", [40] * 5),
        _paper("imagenet-r", [20] * 10),
        _paper("imagenet-r", [10] * 20),
        _paper("imagenet-r", [4] * 50),
        _paper("cub200", [20] * 10),
        _paper("cub200", [10] * 20),
        _paper("cub200", [4] * 50),
        _paper("cub200", [200]),
        _paper("cars196", [20] * 9 + [16]),
        _paper("cars196", [10] * 19 + [6]),
        _paper("cars196", [196]),
        _paper(
            "food101",
            [10] * 9 + [11],
            remark="; the paper does not say how 101 classes make 10 experiences: our reading",
        ),
        _paper("food101", [5] * 19 + [6], remark="; how 101 classes make 20 experiences is our reading"),
        _paper("food101", [2] * 49 + [3], remark="; how 101 classes make 50 experiences is our reading"),
        _paper("clrs25", [5] * 5, "clrs25-5"),
        _paper("svhn", [10]),
        _paper("places-lt", [365]),
        _paper("ip102", [102]),
        _paper("officehome", [65]),
        _paper("pacs", [7]),
    )
}


MIDDLE_STREAMS: dict[str, Stream] = {
    name: replace(
        PAPER_STREAMS[name],
        tier=MIDDLE,
        description=f"{PAPER_STREAMS[name].description}; the first 500 training and 200 test images of each class",
    )
    for name in ("split-cifar10-5", "cifar10-1")
}
"""Streams of the papers as the middle tier's recipes have them, on a part of their images."""
LISTED = STREAMS | MIDDLE_STREAMS
"""The streams that have a leaderboard, tier by tier."""


def find_stream(name: str) -> Stream:
    """The stream of that name, of any tier.

    :raises ValueError: there is none; the message names similar ones.
    """
    streams = STREAMS | DENSE_STREAMS | PAPER_STREAMS
    if name not in streams:
        similar = difflib.get_close_matches(name, streams, n=3, cutoff=0.3) or list(streams)
        raise ValueError(
            f"unknown stream {name!r}: did you mean {', '.join(similar)}? (`reclaim list streams` shows all)"
        )
    return streams[name]


def even_sizes(n_classes: int, tasks: int) -> tuple[int, ...]:
    """Classes of each experience, as even as possible: the first ones have one more."""
    each, more = divmod(n_classes, tasks)
    return (each + 1,) * more + (each,) * (tasks - more)


_LONGEST = 60  # characters of a name, which becomes part of file names


def slug(name: str) -> str:
    """A name for files and records, of ASCII letters, digits and ``._+-``: accents are dropped; a name that loses
    letters gets a hash of itself, so that no two become one.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    kept = re.sub(r"[^A-Za-z0-9._+-]+", "-", plain).strip("-._+")
    lost = any(c.isalnum() and not c.isascii() for c in plain) or len(kept) > _LONGEST or not kept
    if not lost:
        return kept
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{kept[:_LONGEST].rstrip('-._+') or 'images'}-{digest}"


def own_name(name: str) -> str:
    """The name, if no stream of this project has it."""
    return f"own-{name}" if name in STREAMS | DENSE_STREAMS | PAPER_STREAMS else name


def pretraining_overlap(stream: Stream, backbone: str) -> str:
    """How many of the stream's classes the backbone was pretrained on: a number, or "unknown"."""
    if stream.tier == EMBEDDED and backbone == QUICKDRAW_VIT:
        return str(shared_classes())
    # ImageNet has an aircraft, a car, a bird, ... of each of CIFAR-10's classes, most of them in many breeds
    return str(stream.n_classes) if stream.dataset == "cifar10" and backbone == LITE0 else "unknown"


def class_order(n_classes: int, seed: int | None) -> list[int]:
    """SLCA's class order: ``numpy.random.seed(seed); numpy.random.permutation(n_classes)``.
    Without a seed, LAE's first order: sequential.
    """
    if seed is None:
        return list(range(n_classes))
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32), got {seed}")
    return [int(c) for c in np.random.RandomState(seed).permutation(n_classes)]
