"""What there is to know of each data set of the papers before a byte of it is here: origin, licence, layout, expected counts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field


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
    :ivar files: that must be there, apart from images.
    :ivar also: patterns of what else comes with it: nobody reads it, and it is not extra.
    :ivar class_folders: names of the folders of the classes, where no list says which images there are.
    :ivar domains: folders that each hold one folder per class, and their numbers of images.
    :ivar per_class: number of images of every class, where that is one number and no list says which.
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
    files: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    class_folders: tuple[str, ...] = ()
    domains: Mapping[str, int] = field(default_factory=dict, hash=False)
    per_class: int | None = None


OFFICIAL = "official page"
UNVERIFIED = "not verified: as other papers print them"

# names of folders of classes
_IMAGENET_R = """
n01443537 n01484850 n01494475 n01498041 n01514859 n01518878 n01531178 n01534433 n01614925 n01616318 n01630670 n01632777 n01644373
n01677366 n01694178 n01748264 n01770393 n01774750 n01784675 n01806143 n01820546 n01833805 n01843383 n01847000 n01855672 n01860187
n01882714 n01910747 n01944390 n01983481 n01986214 n02007558 n02009912 n02051845 n02056570 n02066245 n02071294 n02077923 n02085620
n02086240 n02088094 n02088238 n02088364 n02088466 n02091032 n02091134 n02092339 n02094433 n02096585 n02097298 n02098286 n02099601
n02099712 n02102318 n02106030 n02106166 n02106550 n02106662 n02108089 n02108915 n02109525 n02110185 n02110341 n02110958 n02112018
n02112137 n02113023 n02113624 n02113799 n02114367 n02117135 n02119022 n02123045 n02128385 n02128757 n02129165 n02129604 n02130308
n02134084 n02138441 n02165456 n02190166 n02206856 n02219486 n02226429 n02233338 n02236044 n02268443 n02279972 n02317335 n02325366
n02346627 n02356798 n02363005 n02364673 n02391049 n02395406 n02398521 n02410509 n02423022 n02437616 n02445715 n02447366 n02480495
n02480855 n02481823 n02483362 n02486410 n02510455 n02526121 n02607072 n02655020 n02672831 n02701002 n02749479 n02769748 n02793495
n02797295 n02802426 n02808440 n02814860 n02823750 n02841315 n02843684 n02883205 n02906734 n02909870 n02939185 n02948072 n02950826
n02951358 n02966193 n02980441 n02992529 n03124170 n03272010 n03345487 n03372029 n03424325 n03452741 n03467068 n03481172 n03494278
n03495258 n03498962 n03594945 n03602883 n03630383 n03649909 n03676483 n03710193 n03773504 n03775071 n03888257 n03930630 n03947888
n04086273 n04118538 n04133789 n04141076 n04146614 n04147183 n04192698 n04254680 n04266014 n04275548 n04310018 n04325704 n04347754
n04389033 n04409515 n04465501 n04487394 n04522168 n04536866 n04552348 n04591713 n07614500 n07693725 n07695742 n07697313 n07697537
n07714571 n07714990 n07718472 n07720875 n07734744 n07742313 n07745940 n07749582 n07753275 n07753592 n07768694 n07873807 n07880968
n07920052 n09472597 n09835506 n10565667 n12267677
"""
_CLRS = """
airport bare-land beach bridge commercial desert farmland forest golf-course highway industrial meadow mountain overpass park
parking playground port railway railway-station residential river runway stadium storage-tank
"""
_OFFICEHOME = """
Alarm_Clock Backpack Batteries Bed Bike Bottle Bucket Calculator Calendar Candles Chair Clipboards Computer Couch Curtains
Desk_Lamp Drill Eraser Exit_Sign Fan File_Cabinet Flipflops Flowers Folder Fork Glasses Hammer Helmet Kettle Keyboard Knives
Lamp_Shade Laptop Marker Monitor Mop Mouse Mug Notebook Oven Pan Paper_Clip Pen Pencil Postit_Notes Printer Push_Pin Radio
Refrigerator Ruler Scissors Screwdriver Shelf Sink Sneakers Soda Speaker Spoon TV Table Telephone ToothBrush Toys Trash_Can Webcam
"""

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
            files=("train", "test", "meta"),
            also=("file.txt~",),
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
            files=(*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
            also=("readme.html",),
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
            also=("README.txt", "train.txt", "test.txt"),
            class_folders=tuple(_IMAGENET_R.split()),
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
            files=("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"),
            also=("README", "bounding_boxes.txt", "attributes/*", "parts/*"),
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
            files=("cars_annos.mat",),
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
            files=("meta/train.json", "meta/test.json"),
            also=("README.txt", "license_agreement.txt", "meta/classes.txt", "meta/labels.txt", "meta/train.txt", "meta/test.txt"),
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
            class_folders=tuple(_CLRS.split()),
            per_class=600,
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
            files=("train_32x32.mat", "test_32x32.mat"),
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
            files=("Places_LT_train.txt", "Places_LT_val.txt", "Places_LT_test.txt"),
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
            files=("train.txt", "val.txt", "test.txt"),
            also=("classes.txt",),
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
            also=("ImageInfo.csv", "imagelist.txt"),
            class_folders=tuple(_OFFICEHOME.split()),
            domains={"Art": 2_427, "Clipart": 4_365, "Product": 4_439, "Real World": 4_357},
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
            class_folders=("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
            domains={"art_painting": 2_048, "cartoon": 2_344, "photo": 1_670, "sketch": 3_929},
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
