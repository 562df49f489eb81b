"""What golden files have in common: arrays, deviations from them, and the small ViT of most of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

Arrays = dict[str, np.ndarray]

GOLDEN_VIT_HEADS = 4  # the one size of the recorded ViT that its weights do not tell


@dataclass(frozen=True)
class Deviation:
    """One quantity of a golden file: how far the implementation is from it, and how far it may be."""

    quantity: str
    value: float
    tolerance: float

    @property
    def within(self) -> bool:
        # written so that NaN is not within
        return self.value <= self.tolerance


def recorded_vit(arrays: Arrays) -> VisionTransformer:
    """The ViT whose weights a file has, in eval mode."""
    weights = {
        name.removeprefix("vit."): torch.from_numpy(array) for name, array in arrays.items() if name.startswith("vit.")
    }
    dim, channels, patch, _ = weights["patch_embed.proj.weight"].shape
    vit = VisionTransformer(
        img_size=arrays["x"].shape[-1],
        patch_size=patch,
        in_chans=channels,
        embed_dim=dim,
        depth=sum(name.endswith("attn.qkv.weight") for name in weights),
        num_heads=GOLDEN_VIT_HEADS,
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        num_classes=0,
    )
    vit.load_state_dict(weights)
    return vit.eval()
