"""Backbones by name: any timm model, and the small ViT of the embedded tier; their weights and fingerprints."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

QUICKDRAW_VIT = "quickdraw_vit"


class ConvStem(nn.Module):
    """Images (N, 1, 28, 28) in [0, 1] to 16 tokens (N, 16, embed_dim), through three convolutions of total stride 6.

    A plain 7 x 7 patch embedding learns markedly more slowly from so few drawings; see Xiao et al., "Early Convolutions
    Help Transformers See Better" (2021). The arguments are those that timm's ViT hands to its ``embed_layer``.
    """

    MEAN, STD = 0.15, 0.32  # of the upstream drawings' pixels

    def __init__(self, img_size: int = 28, patch_size: int = 7, in_chans: int = 1, embed_dim: int = 128, **_: object) -> None:
        super().__init__()
        self.num_patches = (img_size // patch_size) ** 2
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_chans, 16, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.GELU(),
        )
        self.proj = nn.Conv2d(64, embed_dim, 5, stride=3)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.convolutions((images - self.MEAN) / self.STD)).flatten(2).transpose(1, 2)


def quickdraw_vit(num_classes: int = 0, drop_path_rate: float = 0.0) -> VisionTransformer:
    """The embedded tier's ViT: 28 x 28 x 1, 16 tokens and a class token, width 128, depth 6, 4 heads; 1.4 M parameters.

    Images (N, 1, 28, 28) in [0, 1] to features (N, 128): the class token after the final norm.
    """
    model = VisionTransformer(
        img_size=28,
        patch_size=7,
        in_chans=1,
        num_classes=num_classes,
        embed_dim=128,
        depth=6,
        num_heads=4,
        drop_path_rate=drop_path_rate,
        embed_layer=ConvStem,  # type: ignore[arg-type]
    )
    block: Any
    for block in model.blocks:
        block.attn.fused_attn = False  # for 17 tokens plain products are as fast, and with oneDNN's kernels several times faster
    return model


def create_backbone(name: str, weights: str | Path | None = None) -> nn.Module:
    """A backbone without a classifier, its weights loaded strictly.

    :param name: ``quickdraw_vit`` or the name of a timm model (``timm.list_models()``).
    :param weights: a safetensors file; without one the weights are random.
    :raises ValueError: unknown name, no such file, or weights that are not this model's.
    """
    if name == QUICKDRAW_VIT:
        model: nn.Module = quickdraw_vit()
    elif timm.is_model(name):
        try:
            model = timm.create_model(name, num_classes=0)
        except RuntimeError as error:  # a tag (after the dot) that this model does not have
            raise ValueError(f"unknown backbone {name!r}: {error}") from error
    else:
        similar = difflib.get_close_matches(name, [QUICKDRAW_VIT, *timm.list_models()], n=5)
        raise ValueError(
            f"unknown backbone {name!r}: use {QUICKDRAW_VIT!r} or a timm model" + (f", such as {', '.join(similar)}" if similar else "")
        )
    if weights is not None:
        if not Path(weights).is_file():
            raise ValueError(f"no weights at {weights}: pass an existing safetensors file")
        try:
            model.load_state_dict(load_file(weights))
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(f"the weights in {weights} are not those of {name!r}: {error}") from error
    return model


def fingerprint(model: nn.Module) -> str:
    """SHA-256 (hex) over names, shapes and values of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted((n, t) for n, t in model.state_dict().items() if isinstance(t, torch.Tensor)):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        # as bytes: numpy has no bfloat16
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
