"""Features of a backbone that never changes: computed once for each image, in place of once a pass, and kept for the
next run of the process, which most often is the next seed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from reclaim.strategies.features import extract_features
from reclaim.strategies.heads import ContinualModel
from torch import Tensor, nn

from ..config import MODULES, Config
from ..data.experiences import of_tensors


class GivenFeatures(nn.Module):
    """A backbone for images that are features already.

    :param num_features: their width.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """The features (N, d) themselves."""
        return features


def never_changes(config: Config) -> bool:
    """Whether all features of a run are functions of their images alone: photographs under one transform, a backbone
    that is not trained, and nothing else that would see the images.
    """
    if config.images is None or config.external or config.keep == "best" or config.compile:
        return False
    if config.read_block is not None:  # the features would be those of another block
        return False
    as_tested = config.epochs == 0 or not config.images.augment
    untrained = config.epochs == 0 or config.trainable == "heads"
    adds = config.final_norm == "fresh" or config.memory or any(getattr(config, name) for name in MODULES)
    of_images = config.closed_form and config.closed_form.kind == "aper"
    return bool(as_tested and untrained and not adds and not of_images)


kept: dict[Hashable, list[tuple[Tensor, Tensor]]] = {}
"""What the last run of this process has computed: features and class ids of the training and of the test images."""


def with_features(
    read: Callable[[], Any],
    images: Hashable,
    sizes: Sequence[int],
    order: Sequence[int],
    backbone: nn.Module,
    config: Config,
    device: str,
    workers: int = 0,
) -> tuple[Any, GivenFeatures]:
    """A benchmark of features of images, under the transform of testing, and the backbone for it.

    They are computed in the order of the data set, whatever that of the classes: so they are the same bits for every
    seed. torch's global generator is not used.

    :param read: makes the benchmark of all images as one experience, with the data set's class ids for labels.
    :param images: what names these images, and the weights of the backbone. With the settings that features depend on
        it says whether the last run's are the same.
    :param sizes: number of classes of each experience.
    :param order: of the classes. Images are grouped by it as they would be without this: batches have the same images.
    :param backbone: is moved to the device.
    """
    batch_size = config.eval_batch_size or config.batch_size
    which = (images, config.backbone, config.images, config.part, config.precision, device, batch_size)
    if which not in kept:
        autocast = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
        model = ContinualModel(backbone, autocast=autocast)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        benchmark = read()
        kept.clear()
        kept[which] = [
            extract_features(model, stream[0].dataset.eval(), batch_size, device, workers)
            for stream in (benchmark.train_stream, benchmark.test_stream)
        ]
    train, test = kept[which]
    return of_tensors(sizes, order, train, test), GivenFeatures(train[0].shape[1])
