"""What golden files have in common: arrays, deviations from them, and the small ViT of most of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

Arrays = dict[str, np.ndarray]

GOLDEN_VIT_HEADS = 4
"""Of the recorded ViT, whose weights do not tell; a file may (``num_heads``, or the shape of its prefixes)."""


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


def relative_to(reference: np.ndarray) -> float:
    """What deviations from an array are divided by: its largest value, and 1 where all are 0."""
    return float(np.abs(reference).max(initial=0.0)) or 1.0


def require_known(arrays: Arrays, name: str, known: Sequence[str]) -> str:
    """The text in an array, one of the known ones.

    :raises ValueError: it is another.
    """
    value = arrays[name]
    text = value.item() if value.ndim == 0 else value.tolist()
    text = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    if text not in known:
        *others, last = known
        these = f"are {', '.join(others)} and {last}" if others else f"is {last}"
        raise ValueError(f"unknown {name} {text!r} in a golden file: known here {these}")
    return str(text)


def as_computed(arrays: Arrays) -> Arrays:
    """The arrays in the types that implementations compute with: float32, and 64 bits for integers."""
    kinds = {"f": np.float32, "i": np.int64, "u": np.int64}
    return {
        name: array.astype(kinds[array.dtype.kind]) if array.dtype.kind in kinds else array
        for name, array in arrays.items()
    }


def recorded_vit(arrays: Arrays) -> VisionTransformer:
    """The ViT whose weights a file has, in eval mode."""
    weights = {
        name.removeprefix("vit."): torch.from_numpy(array) for name, array in arrays.items() if name.startswith("vit.")
    }
    if "patch_embed.proj.weight" not in weights:
        raise KeyError("vit.patch_embed.proj.weight")
    dim, channels, patch, _ = weights["patch_embed.proj.weight"].shape
    hidden = weights["blocks.0.mlp.fc1.weight"].shape[0]
    vit = VisionTransformer(
        img_size=tuple(arrays["x"].shape[-2:]),  # type: ignore[arg-type]
        patch_size=patch,
        in_chans=channels,
        embed_dim=dim,
        depth=sum(name.endswith("attn.qkv.weight") for name in weights),
        num_heads=_heads(arrays),
        mlp_ratio=(hidden + 0.5) / dim,  # timm rounds down
        num_classes=0,
    )
    vit.load_state_dict(weights)
    return vit.eval()


def _heads(arrays: Arrays) -> int:
    for name in ("num_heads", "heads"):
        if name in arrays:
            return int(arrays[name])
    for name in ("e_prompt", "g_prompt"):  # (..., heads, width of a head)
        if name in arrays and arrays[name].ndim > 2 and arrays[name].size:
            return int(arrays[name].shape[-2])
    return GOLDEN_VIT_HEADS
