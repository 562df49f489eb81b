"""Features of a backbone that never changes: computed once for each image of a run, in place of once a pass."""

from __future__ import annotations

from collections.abc import Sequence
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


def with_features(
    benchmark: Any,
    order: Sequence[int],
    backbone: nn.Module,
    config: Config,
    device: str,
    batch_size: int,
    workers: int = 0,
) -> tuple[Any, GivenFeatures]:
    """A benchmark of the features of another one's images, under the transform of testing, and the backbone for them.

    torch's global generator is not used.

    :param benchmark: of this project's, whose classes are numbered in order of appearance.
    :param order: of its classes, by which images are grouped again as they were: batches have the same images.
    :param backbone: is moved to the device.
    """
    autocast = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    model = ContinualModel(backbone, autocast=autocast)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts = [
        [extract_features(model, each.dataset.eval(), batch_size, device, workers) for each in experiences]
        for experiences in (benchmark.train_stream, benchmark.test_stream)
    ]
    sizes = [len(each.classes_in_this_experience) for each in benchmark.train_stream]
    train, test = (
        (torch.cat([x for x, _ in part]), torch.tensor(order)[torch.cat([y for _, y in part])]) for part in parts
    )
    return of_tensors(sizes, order, train, test), GivenFeatures(train[0].shape[1])
