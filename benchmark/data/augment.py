"""Augmentation of whole batches on their own device: one warp of the batch instead of a loop over images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Warp:
    """Ranges of a random warp. Every drawing of a batch gets its own warp.

    :param degrees: rotation, uniform in +-degrees.
    :param scale: zoom factor, log-uniform between its two ends (below 1 makes the drawing smaller).
    :param translate: shift, uniform in +-translate of the image's side.
    :param shear: shear, uniform in +-shear (tangent of the angle).
    :param elastic: standard deviation of a smooth displacement field (4 x 4 control points), in half-sides.
    :param flip: probability of a horizontal flip.
    """

    degrees: float = 10.0
    scale: tuple[float, float] = (0.85, 1.15)
    translate: float = 0.07
    shear: float = 0.0
    elastic: float = 0.0
    flip: float = 0.5


def warp_batch(images: Tensor, warp: Warp, generator: torch.Generator | None = None) -> Tensor:
    """Warp each image of a batch with its own random affine map, flip and smooth displacement. Pixels outside are 0.

    :param images: (N, C, H, W), floating point.
    :param generator: source of the random numbers; by default the CPU's global generator.
    :return: (N, C, H, W), a new tensor.
    """
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n).uniform_(low, high, generator=generator)

    angle = uniform(-math.radians(warp.degrees), math.radians(warp.degrees))
    zoom = torch.exp(uniform(-math.log(warp.scale[1]), -math.log(warp.scale[0])))
    mirror = 1.0 - 2.0 * (uniform(0, 1) < warp.flip).float()
    shear = uniform(-warp.shear, warp.shear)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack(
        [
            torch.stack([mirror * cos, mirror * (shear * cos - sin), uniform(-2, 2) * warp.translate], 1),
            torch.stack([sin, shear * sin + cos, uniform(-2, 2) * warp.translate], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    if warp.elastic:
        field = torch.randn(n, 2, 4, 4, generator=generator) * warp.elastic
        field = F.interpolate(field.to(images), images.shape[2:], mode="bicubic", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
