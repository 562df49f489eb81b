"""Models for canvases: the embedded ViT's feature map, and heads for segmentation, detection and instances on it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, cast

import torch
from reclaim.strategies.backbones import QUICKDRAW_VIT, create_backbone
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torchvision.models.detection import FCOS, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from ..config import Dense
from ..data.canvases import OBJECTS, SIDE
from ..files import asset
from .roi_features import RoIFeatures

STRIDE = 6
"""Pixels from one token of the embedded ViT to the next."""
WIDTH = 64
"""Channels of the pyramid and of the heads on it."""
DETECTIONS = 4 * OBJECTS[1]
"""Most boxes that are predicted on a canvas."""


class FeatureMap(nn.Module):
    """The embedded ViT on canvases (N, 1, 84, 84) in [0, 1]: the tokens of its last block as a map (N, 128, 14, 14).

    Its position embeddings, of 4 x 4 tokens, are resampled (bicubic). A border makes each token the middle of its 6 x 6
    pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vit = cast(Any, create_backbone(QUICKDRAW_VIT, asset(f"{QUICKDRAW_VIT}.safetensors")))
        self.grid, self.out_channels = SIDE // STRIDE, int(self.vit.embed_dim)
        positions = resample_abs_pos_embed(self.vit.pos_embed.detach(), [self.grid, self.grid], num_prefix_tokens=1)
        self.vit.pos_embed = nn.Parameter(positions)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.vit.forward_features(nn.functional.pad(images, (1, 3, 1, 3)))[:, 1:]
        return tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))


class Pyramid(nn.Module):
    """A simple pyramid from the last block (Li et al., "Exploring Plain Vision Transformer Backbones for Object
    Detection", 2022): "0" at the map's own stride, "1" at twice that, 64 channels each.
    """

    def __init__(self, body: FeatureMap) -> None:
        super().__init__()
        self.body, self.out_channels = body, WIDTH
        self.levels = nn.ModuleList(self._level(body.out_channels, first) for first in (nn.Identity(), nn.MaxPool2d(2)))

    @staticmethod
    def _level(channels: int, first: nn.Module) -> nn.Module:
        return nn.Sequential(
            first,
            nn.Conv2d(channels, WIDTH, 1, bias=False),
            nn.GroupNorm(1, WIDTH),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            nn.GroupNorm(1, WIDTH),
        )

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        features = self.body(images)
        return OrderedDict((str(i), level(features)) for i, level in enumerate(self.levels))


class PatchDecoder(nn.Module):
    """Two layers for each patch: its features to the logits of the classes of its 6 x 6 pixels."""

    def __init__(self, body: FeatureMap, n_classes: int) -> None:
        super().__init__()
        self.backbone = body
        self.head = nn.Sequential(
            nn.Conv2d(body.out_channels, body.out_channels, 1),
            nn.GELU(),
            nn.Conv2d(body.out_channels, (n_classes + 1) * STRIDE**2, 1),
            nn.PixelShuffle(STRIDE),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) to logits (N, classes + 1, H, W); 0 is the background."""
        return self.head(self.backbone(images))


def make_dense_model(dense: Dense, n_classes: int) -> Any:
    """The configured model. Draws from torch's global generator.

    torchvision's detectors take and give what they always do; a segmenter takes (N, 1, H, W) and returns logits. All
    have ``n_classes``.
    """
    body = FeatureMap()
    model = PatchDecoder(body, n_classes) if dense.task == "semantic" else _detector(dense, body, n_classes)
    model.n_classes = n_classes
    return model


def _detector(dense: Dense, body: FeatureMap, n_classes: int) -> Any:
    # canvases are neither resized nor normalised
    as_they_are: dict[str, Any] = {
        "min_size": SIDE,
        "max_size": SIDE,
        "image_mean": [0.0],
        "image_std": [1.0],
        "size_divisible": 1,
        "_skip_resize": True,
    }
    if dense.task == "detection":
        # objects of 21 to 42 pixels: FCOS gives level 0 the boxes whose farthest side is up to 8 x 4 pixels from a
        # point, and level 1 those from 4 x 6 pixels on
        return FCOS(
            Pyramid(body),
            num_classes=n_classes + 1,
            anchor_generator=AnchorGenerator(((4,), (6,)), ((1.0,),) * 2),
            score_thresh=0.05,
            detections_per_img=DETECTIONS,
            topk_candidates=200,
            **as_they_are,
        )
    return MaskRCNN(
        Pyramid(body),
        rpn_anchor_generator=AnchorGenerator(((24,), (36,)), ((0.5, 1.0, 2.0),) * 2),
        rpn_head=RPNHead(WIDTH, 3),
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=50,
        rpn_post_nms_top_n_test=50,
        rpn_batch_size_per_image=64,
        box_roi_pool=RoIFeatures(7, STRIDE),
        box_head=TwoMLPHead(WIDTH * 7**2, 2 * WIDTH),
        box_predictor=FastRCNNPredictor(2 * WIDTH, n_classes + 1),
        box_batch_size_per_image=32,
        box_detections_per_img=DETECTIONS,
        mask_roi_pool=RoIFeatures(14, STRIDE),
        mask_head=MaskRCNNHeads(WIDTH, (WIDTH, WIDTH), 1),
        mask_predictor=MaskRCNNPredictor(WIDTH, WIDTH, n_classes + 1),
        **as_they_are,
    )


def backbone_of(model: Any) -> nn.Module:
    """The pretrained part: the ViT."""
    return next(module for module in model.modules() if isinstance(module, FeatureMap)).vit


def new_parameters(model: nn.Module) -> list[nn.Parameter]:
    """All that is not pretrained."""
    pretrained = {*backbone_of(model).parameters()}
    return [p for p in model.parameters() if p not in pretrained]


def dense_loss(model: Any, images: Tensor, targets: list[dict[str, Tensor]], semantic: Tensor) -> dict[str, Tensor]:
    """The parts of the loss of a batch, by name.

    :param targets: boxes, labels and masks of each canvas.
    :param semantic: the class of each pixel, (N, H, W).
    """
    if isinstance(model, PatchDecoder):
        return {"cross-entropy": nn.functional.cross_entropy(model(images), semantic)}
    return model(list(images), targets)


@torch.no_grad()
def dense_predictions(model: Any, images: Tensor) -> Any:
    """Of a segmenter the class of each pixel, (N, H, W) int64; of a detector its boxes, labels, scores, and masks
    (objects, H, W) bool where it has them. The model is in eval mode.
    """
    if isinstance(model, PatchDecoder):
        return model(images).argmax(1)
    found = model(list(images))
    for of_canvas in found:
        if "masks" in of_canvas:
            of_canvas["masks"] = of_canvas["masks"][:, 0] >= 0.5
    return found
