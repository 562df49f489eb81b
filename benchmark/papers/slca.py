"""SLCA's and SLCA++'s protocols, and SLCA's as PILOT and Mammoth run it: each setting with its source.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

from .sources import CODE, IN21K, IN21K_1K, MOCO_V3, OURS, PAPER, Settings

SLCA_METHODS = ("slca", "seqft+sl", "joint", "slca++")
SLCA_STREAMS = ("split-cifar100-10", "split-imagenet-r-10", "split-cub200-10", "split-cars196-10")
SLCA_OF_OTHERS = {
    "slca@authors": SLCA_STREAMS,
    "slca@pilot": ("split-cifar100-10", "split-imagenet-r-10"),
    "slca@mammoth": ("split-cifar100-10", "split-imagenet-r-10"),
}
"""SLCA as its authors' code runs it to the letter, and as two frameworks do, and the streams for which they have it."""

_SLCA: Settings = {
    "backbone": (IN21K, "paper: ViT-B/16, ImageNet-21k; code: this checkpoint"),
    "final_norm": ("fresh", "code (F1)"),
    "part": ("test", PAPER),
    "seeding": ("class_order", "code (F2)"),
    "images.protocol": ("slca", CODE),
    "images.hold_out": (False, CODE),
    "joint": (False, PAPER),
    "trainable": ("all", PAPER),
    "batch_size": (128, CODE),
    "drop_last": (False, CODE),
    "optimizer": ("sgd", CODE),
    "momentum": (0.9, CODE),
    "weight_decay": (5e-4, CODE),
    "lr": (0.01, "code: the head's"),
    "slow_factor": (0.01, "paper and code: the backbone's rate is 1e-4"),
    "head_init_std": (0.02, CODE),
}
_ALIGNMENT: Settings = {
    "alignment.epochs": (5, CODE),
    "alignment.samples_per_class": (256, CODE),
    "alignment.lr": (None, "code: the head's of stage 1"),
    "alignment.weight_decay": (5e-4, CODE),
    "alignment.tau": (0.1, CODE),
    "alignment.covariance": ("full", PAPER),
    "alignment.ridge": (1e-4, "code (F3)"),
    "alignment.mean_decay": (True, "code (F4)"),
    "alignment.task_index": ("true", "neither: what the code means (F5)"),
    "alignment.restore_heads": (True, "code (F6)"),
}
_PLUS_PLUS: Settings = {
    "trainable": ("all", "not used: LoRA, norms, biases and class token train (code)"),
    "loss.kind": ("symmetric", PAPER),
    "low_rank.rank": (4, CODE),
    "low_rank.scale": (0.8, CODE),
    "low_rank.first_factor": (0.5, "code: LoRA's rate in the first task, in head rates"),
    "low_rank.later_factor": (0.1, CODE),
    "low_rank.other_factor": (0.1, "code: norms, biases and class token"),
    "low_rank.head_scaling": (0.02, CODE),
    "slow_factor": (1.0, "not used: the rates are those of low_rank"),
    "schedule": ("constant", "not used: every rate falls along a cosine, epoch by epoch, to one floor (code)"),
    "alignment.mean_decay": (False, "code: it has feature_decay in the place of F4"),
    "alignment.feature_decay": (0.02, CODE),
    "alignment.feature_decay_spread": (0.01, CODE),
}


_PILOT: Settings = {
    "backbone": (IN21K_1K, "PILOT's code (F60)"),
    "final_norm": ("pretrained", "PILOT's code (F60)"),
    "images.protocol": ("pilot", "PILOT's code (F64)"),
    "batch_size": (64, "PILOT's code (F61)"),
    "alignment.epochs": (3, "PILOT's code (F62)"),
    "alignment.ridge": (1e-4, "code, PILOT's too (F3, F65)"),
    "alignment.mean_decay": (True, "code, PILOT's too (F4, F65)"),
    "alignment.task_index": ("reference", "code, PILOT's too (F5, F65)"),
}
_MAMMOTH: Settings = {
    "final_norm": ("fresh", "code, Mammoth's too (F1, F69)"),
    "images.protocol": ("mammoth", "Mammoth's code (F69)"),
    "schedule": ("constant", "Mammoth's code: its milestones are never reached (F66)"),
    "milestones": ([], "not used (F66)"),
    "weight_decay": (0.0, "Mammoth's code (F67)"),
    "alignment.weight_decay": (0.0, "Mammoth's code (F67)"),
    "skip_first_step": (True, "Mammoth's code (F68)"),
    "alignment.ridge": (1e-4, "code, Mammoth's too (F3, F69)"),
    "alignment.task_index": ("true", "Mammoth's code (F69)"),
}


def slca_of_others(method: str, dataset: str) -> tuple[str, Settings, tuple[str, ...]]:
    """Title, settings and remarks of SLCA as in its authors' code to the letter, in PILOT, or in Mammoth.

    :param method: of :data:`SLCA_OF_OTHERS`.
    """
    _, settings, _ = slca("slca", dataset)
    if method == "slca@authors":
        return "SLCA, its authors' code", {**settings, "alignment.task_index": ("reference", "code (F5)")}, ()
    if method == "slca@pilot":
        short: Settings = {
            "epochs": (5, "PILOT's code (F63)"),
            "schedule": ("constant", "PILOT's code: its milestone is 40 of 5 epochs (F63)"),
            "milestones": ([], "not used (F63)"),
        }
        return (
            "SLCA in PILOT",
            {**settings, **_PILOT, **(short if dataset == "imagenet-r" else {})},
            ("PILOT runs one seed, 1993 (F65): the first of SLCA's.", "What F60 to F65 do not name is the authors'."),
        )
    unknown = f"{OURS}: the authors', Mammoth has no settings of SLCA for this data set (F69)"
    own: Settings = {key: (settings[key][0], unknown) for key in ("epochs", "batch_size")}
    return (
        "SLCA in Mammoth",
        {**settings, **_MAMMOTH, **(own if dataset == "imagenet-r" else {})},
        (
            "What F66 to F69 do not name is the authors'.",
            "Mammoth's list of reproduced results has the paper's own number for it (F70).",
        ),
    )


def slow_learner(dataset: str, backbone: str = IN21K) -> Settings:
    """The settings of SLCA's stage 1."""
    moco, cifar = backbone == MOCO_V3, dataset == "cifar100"
    epochs, milestone = (90, 80) if moco else (20, 18) if cifar else (50, 40)
    return {
        **_SLCA,
        "backbone": (backbone, "paper: MoCo v3, 300 epochs" if moco else _SLCA["backbone"][1]),
        "epochs": (epochs, CODE),
        "loss": (None, "code: cross-entropy over the classes of the current task"),
        "schedule": ("step", "code: a tenth after the milestones"),
        "milestones": ([milestone], CODE),
    }


def slca(method: str, dataset: str, backbone: str = IN21K) -> tuple[str, Settings, tuple[str, ...]]:
    """Title, settings and remarks of SLCA, its slow learner alone, joint training, and SLCA++."""
    moco, cars = backbone == MOCO_V3, dataset == "cars196"
    settings = slow_learner(dataset, backbone)
    remarks = (
        (
            "The code starts from a converted file of its authors, here from the one that Meta published: --weights "
            "(docs/weights.md).",
        )
        if moco
        else ()
    )
    aligned = {**_ALIGNMENT, "alignment.tau": (0.05 if cars else 0.1, CODE)}
    start = " from MoCo v3" if moco else ""
    if method == "slca":
        return f"SLCA{start}", {**settings, **aligned}, remarks
    if method == "seqft+sl":
        return (
            f"SeqFT+SL{start}, the slow learner alone",
            settings,
            (*remarks, "SLCA's settings: the code has no file for it."),
        )
    if method == "joint":
        ours = (
            "How joint training was done is not known: the slow learner's settings, on all classes "
            "at once, are our reading."
        )
        read = {
            key: (value, f"our reading, as the slow learner ({source})") for key, (value, source) in settings.items()
        }
        return "Joint training", {**read, "joint": (True, PAPER)}, (*remarks, ours)
    weight, coefficient, decay = (1.0, 0.1, 5e-4) if dataset in ("cifar100", "cub200") else (0.5, 0.5, 0.0)
    changed = {
        "weight_decay": (decay, CODE),
        "alignment.weight_decay": (decay, CODE),
        "loss.weight": (weight, "code: of the cross-entropy"),
        "loss.coefficient": (coefficient, "code: of the reverse cross-entropy"),
        "low_rank.floor_factor": (
            0.001 if moco else 0.01,
            "code: of the head's rate; a tenth, and a tenth of that for each milestone in its file",
        ),
    }
    kept = {key: value for key, value in settings.items() if key not in ("loss", "schedule", "milestones")}
    return f"SLCA++{start}", {**kept, **aligned, **_PLUS_PLUS, **changed}, remarks
