"""RoIAlign on one level of a pyramid, with a gradient that takes a CPU less time than torchvision's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchvision.ops import MultiScaleRoIAlign, roi_align

SAMPLES = 2
"""Points along each side of a bin whose mean is its value."""
BINS = 128
"""Bins whose samples' gradients are made at a time. Of 64 channels that is 512 KiB; larger pieces took up to three
times as long."""


class RoIFeatures(MultiScaleRoIAlign):
    """RoIAlign on the map of level "0", whose cell i is the middle of the pixels stride x i to stride x (i + 1) - 1.
    torchvision's own rounds the scale of a map to a power of two: at a stride of 6 it would look for a box's features
    at an eighth of its place, not a sixth.
    """

    def __init__(self, side: int, stride: int) -> None:
        super().__init__(["0"], side, SAMPLES)
        self.scale = 1 / stride

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        features = x["0"]
        numbered = torch.cat([torch.cat([torch.full_like(of[:, :1], i), of], 1) for i, of in enumerate(boxes)])
        # of fewer bits torchvision computes in float32, under autocast
        exact = features.dtype == numbered.dtype and features.dtype in (torch.float32, torch.float64)
        align = _AlignOnCPU.apply if exact and features.device.type == "cpu" else _align
        return align(features, numbered, self.output_size[0], self.scale)


def _align(features: Tensor, boxes: Tensor, side: int, scale: float) -> Tensor:
    """torchvision's RoIAlign, (boxes, C, side, side).

    :param features: (N, C, H, W).
    :param boxes: (boxes, 5): number of the image, then left, top, right, bottom in pixels.
    """
    return roi_align(features, boxes, side, scale, SAMPLES, aligned=True)


class _AlignOnCPU(torch.autograd.Function):
    """:func:`_align` with the same gradient, which adds the same numbers in the same order. On x86 its bits are
    torchvision's, except of numbers below 1e-37.

    torchvision's own takes a fifth of the time of training Mask R-CNN on canvases, where 64 channels are read: it goes
    over the samples channel by channel, and finds the cells and weights of each anew. Of 8 channels or fewer it is the
    faster one.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, boxes: Tensor, side: int, scale: float) -> Tensor:
        ctx.save_for_backward(boxes)
        ctx.shape, ctx.side, ctx.scale = features.shape, side, scale
        return _align(features, boxes, side, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (boxes,) = ctx.saved_tensors
        images, channels, height, width = ctx.shape
        left, top, right, bottom = (boxes[:, 1:] * ctx.scale - 0.5).unbind(1)
        rows, of_rows = _samples(top, bottom, ctx.side, height)
        columns, of_columns = _samples(left, right, ctx.side, width)
        rows = rows + boxes[:, 0].long()[:, None, None, None] * height  # of all images, one below the other
        # bins x (samples x cells, 1): each bin's 2 x 2 samples, each between 2 x 2 cells
        weights = torch.mul(*_pairs(of_rows, of_columns)).reshape(-1, 4 * SAMPLES**2, 1) / SAMPLES**2
        cells = torch.add(*_pairs(rows * width, columns)).reshape(-1, 4 * SAMPLES**2)
        of_bins = grad.permute(0, 2, 3, 1).reshape(-1, 1, channels)
        of_cells = grad.new_zeros(images * height * width, channels)
        for g, weight, cell in zip(*(x.split(BINS) for x in (of_bins, weights, cells)), strict=True):
            of_cells.index_add_(0, cell.flatten(), (g * weight).flatten(0, 1))
        return of_cells.reshape(images, height, width, channels).permute(0, 3, 1, 2).contiguous(), None, None, None


def _samples(start: Tensor, end: Tensor, side: int, cells: int) -> tuple[Tensor, Tensor]:
    """Of each sample along an axis the cells before and behind it, and their weights; (boxes, side, SAMPLES, 2) both.

    :param start: of the boxes, (boxes,), in cells from the middle of the first; ``end`` as well.
    """
    start, bin_size = start[:, None, None], ((end - start) / side)[:, None, None]
    bins, samples = (torch.arange(n, dtype=start.dtype) for n in (side, SAMPLES))
    at = start + bins[:, None] * bin_size + (samples + 0.5) * bin_size / SAMPLES
    inside = (at >= -1) & (at <= cells)  # others count for nothing
    at = at.clamp(min=0)
    before = at.floor().clamp(max=cells - 1)
    behind = (before + 1).clamp(max=cells - 1)
    part = torch.where(before < cells - 1, at - before, 0)
    return torch.stack([before, behind], -1).long(), torch.stack([1 - part, part], -1) * inside.unsqueeze(-1)


def _pairs(of_rows: Tensor, of_columns: Tensor) -> tuple[Tensor, Tensor]:
    """Views that broadcast to (boxes, side, side, SAMPLES, SAMPLES, 2, 2)."""
    return of_rows[:, :, None, :, None, :, None], of_columns[:, None, :, None, :, None, :]
