"""InfLoRA's protocol: each setting with its source.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

from .sources import CODE, IN21K, Settings

INFLORA_METHODS = ("inflora",)
INFLORA_STREAMS = (
    "split-imagenet-r-5",
    "split-imagenet-r-10",
    "split-imagenet-r-20",
    "split-cifar100-10",
    "split-cifar100-20",
)

_INFLORA: Settings = {
    "backbone": (IN21K, "code (F54)"),
    "final_norm": ("pretrained", "code: the backbone of modules is frozen"),
    "part": ("test", CODE),
    "seeding": ("initialisation", "code: the classes in their own order (F55)"),
    "images.protocol": ("inflora", "code (F54)"),
    "images.hold_out": (False, CODE),
    "joint": (False, CODE),
    "trainable": ("all", "heads and modules: the backbone is frozen (code)"),
    "batch_size": (128, "code (F53)"),
    "drop_last": (False, "code (F52)"),
    "optimizer": ("adam", "code (F52)"),
    "lr": (5e-4, "code (F52)"),
    "slow_factor": (1.0, CODE),
    "weight_decay": (0.0, "code (F52)"),
    "schedule": ("constant", "not used: it is inflora.schedule"),
    "head_init_std": (0.02, "our reading: about that of torch's default for 768 features"),
    "inflora.rank": (10, "code (F53)"),
    "inflora.last_threshold": (1.0, "code (F53)"),
    "inflora.blocks": (None, "paper and code: every block (F53)"),
    "inflora.schedule": ("reference", "code (F50)"),
    "inflora.design_images": ("train", "code (F51)"),
}


def inflora(dataset: str) -> tuple[str, Settings, tuple[str, ...]]:
    """Title, settings and remarks of InfLoRA, on CIFAR-100 or ImageNet-R."""
    cifar = dataset == "cifar100"
    settings = {
        **_INFLORA,
        "epochs": (20 if cifar else 50, "code (F53)"),
        "inflora.threshold": (0.95 if cifar else 0.98, "code (F53)"),
    }
    remarks = (
        "The paper's text averages over tasks, its code over images; the published numbers fit the code's (F56): the "
        "cells are means over images.",
    )
    return "InfLoRA", settings, remarks
