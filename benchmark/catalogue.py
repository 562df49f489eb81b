"""What there is to know of each data set of the papers before a byte of it is here: origin, licence, layout, expected counts."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A file with a public direct address.

    :ivar md5: of the file, as its distributor or torchvision publishes it.
    :ivar folder: below the root, where the file lies and is unpacked; "" is the root itself.
    :ivar unpacked_limit: bytes; unpacking stops with an error beyond it. 0: the file is no archive and stays as it is.
    """

    url: str
    md5: str
    folder: str = ""
    unpacked_limit: int = 16 * 2**30

    @property
    def file_name(self) -> str:
        return self.url.partition("?")[0].rpartition("/")[2]


@dataclass(frozen=True)
class CatalogueEntry:
    """A data set.

    :ivar licence: what its distributor says; "not verified" where that could not be read.
    :ivar page: its official page.
    :ivar folder: below the root.
    :ivar layout: what lies in that folder.
    :ivar train: number of training images, as ``test`` and ``validation``; ``None``: not known, or there is none.
    :ivar counts_from: who says so.
    :ivar archives: what can be fetched; empty: by hand, from the page.
    """

    name: str
    title: str
    licence: str
    page: str
    folder: str
    layout: str
    classes: int
    train: int | None
    test: int | None
    counts_from: str
    validation: int | None = None
    archives: tuple[Archive, ...] = ()


OFFICIAL = "official page"
UNVERIFIED = "not verified: as other papers print them"

CATALOGUE: dict[str, CatalogueEntry] = {
    entry.name: entry
    for entry in (
        CatalogueEntry(
            "cifar100",
            "CIFAR-100",
            "none stated",
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            "cifar-100-python",
            "train, test, meta (Python version)",
            classes=100,
            train=50_000,
            test=10_000,
            counts_from=OFFICIAL,
            archives=(Archive("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),),
        ),
        CatalogueEntry(
            "cifar10",
            "CIFAR-10",
            "none stated",
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            "cifar-10-batches-py",
            "data_batch_1 to data_batch_5, test_batch, batches.meta (Python version)",
            classes=10,
            train=50_000,
            test=10_000,
            counts_from=OFFICIAL,
            archives=(Archive("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),),
        ),
        CatalogueEntry(
            "imagenet-r",
            "ImageNet-R(endition)",
            "not verified: the renditions belong to their makers",
            "https://github.com/hendrycks/imagenet-r",
            "imagenet-r",
            "one folder per class; for the papers' split with train.txt and test.txt (a path a line), or below train/ and test/",
            classes=200,
            train=24_000,
            test=6_000,
            counts_from="official page (30,000 in all), DualPrompt's 0.8 / 0.2",
            archives=(Archive("https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar", "a61312130a589d0ca1a8fca1f2bd3337"),),
        ),
        CatalogueEntry(
            "cub200",
            "Caltech-UCSD Birds-200-2011",
            "non-commercial research and education",
            "https://www.vision.caltech.edu/datasets/cub_200_2011/",
            "CUB_200_2011",
            "images/, images.txt, image_class_labels.txt, train_test_split.txt, classes.txt",
            classes=200,
            train=5_994,
            test=5_794,
            counts_from=OFFICIAL,
            archives=(
                Archive(
                    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1", "97eceeb196236b17998738112f37df78"
                ),
            ),
        ),
        CatalogueEntry(
            "cars196",
            "Stanford Cars",
            "not verified: the official page is offline",
            "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
            "stanford_cars",
            "cars_annos.mat, car_ims/",
            classes=196,
            train=8_144,
            test=8_041,
            counts_from="torchvision's documentation",
        ),
        CatalogueEntry(
            "food101",
            "Food-101",
            "scientific fair use: the images are Foodspotting's",
            "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
            "food-101",
            "images/, meta/train.json, meta/test.json",
            classes=101,
            train=75_750,
            test=25_250,
            counts_from=OFFICIAL,
            archives=(Archive("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87"),),
        ),
        CatalogueEntry(
            "clrs25",
            "CLRS, remote sensing scenes",
            "none stated",
            "https://github.com/lehaifeng/CLRS",
            "CLRS",
            "one folder per class (layout of the download not verified)",
            classes=25,
            train=12_000,
            test=3_000,
            counts_from="official page (25 x 600); the split is ours",
        ),
        CatalogueEntry(
            "svhn",
            "Street View House Numbers, cropped digits",
            "non-commercial use",
            "http://ufldl.stanford.edu/housenumbers/",
            "svhn",
            "train_32x32.mat, test_32x32.mat",
            classes=10,
            train=73_257,
            test=26_032,
            counts_from=OFFICIAL,
            archives=(
                Archive(
                    "http://ufldl.stanford.edu/housenumbers/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", "svhn", unpacked_limit=0
                ),
                Archive(
                    "http://ufldl.stanford.edu/housenumbers/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", "svhn", unpacked_limit=0
                ),
            ),
        ),
        CatalogueEntry(
            "places-lt",
            "Places-LT",
            "not verified: see the terms of Places365",
            "http://places2.csail.mit.edu/download.html",
            "Places_LT",
            "Places_LT_train.txt, Places_LT_val.txt, Places_LT_test.txt and, below the paths in them, Places365-Standard's images",
            classes=365,
            train=62_500,
            test=36_500,
            validation=7_300,
            counts_from=UNVERIFIED,
        ),
        CatalogueEntry(
            "ip102",
            "IP102, insect pests",
            "academic use",
            "https://github.com/xpwu95/IP102",
            "ip102_v1.1",
            "images/, train.txt, val.txt, test.txt; optional classes.txt",
            classes=102,
            train=45_095,
            test=22_619,
            validation=7_508,
            counts_from="official page (75,222 in all); parts " + UNVERIFIED,
        ),
        CatalogueEntry(
            "officehome",
            "Office-Home",
            "non-commercial research and education (not verified)",
            "https://www.hemanthdv.org/officeHomeDataset.html",
            "OfficeHome",
            "Art/, Clipart/, Product/, Real World/, each with one folder per class",
            classes=65,
            train=11_231,
            test=4_357,
            counts_from=UNVERIFIED,
        ),
        CatalogueEntry(
            "pacs",
            "PACS",
            "none known",
            "https://arxiv.org/abs/1710.03077",
            "PACS",
            "art_painting/, cartoon/, photo/, sketch/, each with one folder per class",
            classes=7,
            train=7_943,
            test=2_048,
            counts_from="published dataset cards (1,670 + 2,048 + 2,344 + 3,929)",
        ),
    )
}


def find_dataset(name: str) -> CatalogueEntry:
    """The data set of that name.

    :raises ValueError: there is none; the message names similar ones.
    """
    if name not in CATALOGUE:
        similar = difflib.get_close_matches(name, CATALOGUE, n=3, cutoff=0.3) or list(CATALOGUE)
        raise ValueError(f"unknown data set {name!r}: did you mean {', '.join(similar)}? (`reclaim data list` shows all)")
    return CATALOGUE[name]
