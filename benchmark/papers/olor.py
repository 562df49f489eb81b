"""OLOR's protocols: each setting with its source.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

from ..data.streams import Stream
from .sources import CODE, IN21K, PAPER, Settings

# --- OLOR ---

OLOR_STREAMS = ("cifar100-1", "svhn-1", "cub200-1", "cars196-1", "places-lt-1", "ip102-1", "officehome-1", "pacs-1")
CONVNEXT = "convnext_base.clip_laion2b_augreg_ft_in12k_in1k"
OLOR_BACKBONES = (
    IN21K,
    "vit_base_patch16_clip_224.laion2b",
    "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
    "vit_base_patch16_224.mae",
    CONVNEXT,
)

_OLOR: Settings = {
    "final_norm": ("pretrained", CODE),
    "part": ("test", CODE),
    "seeding": ("initialisation", "our reading: there is one experience, and the code has one seed"),
    "images.protocol": ("olor", CODE),
    "images.clipped": (False, "neither: what the code means (F15)"),
    "images.hold_out": (True, "code: nine of ten folds are trained on"),
    "joint": (False, PAPER),
    "trainable": ("all", PAPER),
    "loss": (None, "code: cross-entropy"),
    "epochs": (50, CODE),
    "keep": ("last", "code (F14)"),
    "batch_size": (128, "code: its notebook; the script's default is 64"),
    "drop_last": (True, CODE),
    "optimizer": ("adam", CODE),
    "lr": (1e-4, "code: of a ViT"),
    "slow_factor": (1.0, CODE),
    "weight_decay": (0.0, "paper and code"),
    "schedule": (
        "cosine",
        "code: iteration by iteration; without warm-up as in its notebook, the script's default is 5 epochs (F13)",
    ),
    "horizon_beyond": (1.0, "code (F13)"),
    "precision": ("fp16", "code: mixed precision in training; here of the backbone alone, and when testing, too"),
    "head_init_std": (0.02, "code: torch's default, uniform with about that deviation; here normal, and bias 0"),
}
OFFICIAL_PART = ("places-lt", "ip102")  # what is held out is that, not a fold (F16)
OLOR_METHODS: dict[str, tuple[str, Settings]] = {
    "linear": ("Linear probe", {"trainable": ("heads", PAPER)}),
    "full": ("Full fine-tuning", {}),
    "l2-sp": ("L2-SP", {"l2_sp": (0.01, CODE)}),
    "vpt": (
        "VPT",
        {"prompts.tokens": (10, CODE), "prompts.deep": (True, "our reading: the published code cannot run it")},
    ),
    "olor": (
        "OLOR",
        {
            "olor.rollback_input": (0.01, "code: b = 0.01 / lr, used times lr"),
            "olor.rollback_output": (0.0, CODE),
            "olor.rollback_power": (1.0, "code: its configuration"),
            "olor.counting": ("layers", "paper (F8, F11)"),
            "olor.rollback_decay": ("reference", "code (F12)"),
            "olor.anchor": ("pretrained", PAPER),
        },
    ),
}


def olor(method: str, backbone: str, stream: Stream) -> tuple[str, Settings, tuple[str, ...]]:
    """Title, settings and remarks of a method in OLOR's experiments."""
    title, changed = OLOR_METHODS[method]
    remarks = ["The grid is of Adam; the code has SGD with momentum 0.9 as well."]
    if method != "olor":
        remarks.append(
            "The learning rate is the code's default for all methods; its one published command is OLOR's, on a ViT."
        )
    settings = {"backbone": (backbone, "code: its configuration names it"), **_OLOR, **changed}
    if stream.dataset in OFFICIAL_PART:
        settings["images.hold_out"] = (True, CODE)
    if stream.dataset == "svhn":
        remarks.append("The code saved SVHN as JPEG first: here it is read as it is published.")
    if backbone == CONVNEXT:
        settings["lr"] = (1e-4, "our reading: the code gives a ViT's alone")
        settings["optimizer"] = ("adam", "our reading: the code's default; its one published command is a ViT's")
        settings["head_init_std"] = (
            0.02,
            "code: torch's default, uniform with a deviation of 0.018; here normal, and bias 0",
        )
        if method == "olor":
            settings["olor.counting"] = ("layers", "paper (F8, F11); what a layer of a ConvNeXt is: our reading")
    return title, settings, tuple(remarks)
