"""aEPG's protocols: each setting with its source.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .sources import IN21K_1K, OURS, PAPER, Settings

# --- aEPG ---

LAE = "paper, or the code of LAE that it builds on"

AEPG: Settings = {
    "backbone": (IN21K_1K, "paper (F24)"),
    "final_norm": ("pretrained", "LAE's code: the backbone of modules is frozen (F17)"),
    "part": ("test", PAPER),
    "seeding": (
        "initialisation",
        "our reading: the classes in their own order, as in the first of the three orders of LAE's code",
    ),
    "images.protocol": ("aepg", "paper, or the code of LAE (F21)"),
    "images.hold_out": (False, OURS),
    "joint": (False, PAPER),
    "trainable": ("all", "heads and modules: the backbone of modules is frozen (F17)"),
    "epochs": (50, LAE),
    "batch_size": (256, "paper (F19)"),
    "drop_last": (True, "LAE's code (F19)"),
    "optimizer": ("adam", LAE),
    "lr": (5e-4, "paper (F19)"),
    "slow_factor": (1.0, LAE),
    "weight_decay": (0.0, LAE),
    "schedule": ("constant", LAE),
    "head_init_std": (0.001, LAE),
}
MODULES: dict[str, tuple[str, Settings]] = {
    "lora": ("LoRA", {"lora.rank": (4, "paper (F18)")}),
    "adapter": ("Adapter", {"adapter.hidden": (5, LAE)}),
    "prefix": ("Prefix", {"prefix.tokens": (10, LAE)}),
    "lae": ("LAE with LoRA", {"lora.rank": (4, "paper (F18)"), "lae.decay": (0.999, "paper (F18)")}),
}
LOSSES: dict[str, tuple[str, Settings]] = {
    "ce": ("cross-entropy", {"loss": (None, PAPER)}),
    "focal": (
        "focal loss",
        {"loss.kind": ("focal", PAPER), "loss.coefficient": (1.0, "paper: a hint in an appendix (F23)")},
    ),
    "ls": (
        "label smoothing",
        {"loss.kind": ("label-smoothing", PAPER), "loss.coefficient": (0.01, "paper: a hint in an appendix (F23)")},
    ),
    "cp": (
        "confidence penalty",
        {"loss.kind": ("confidence-penalty", PAPER), "loss.coefficient": (0.1, "our reading: not hinted at (F23)")},
    ),
    "epg": ("EPG", {"annealing.schedule": (0.0, PAPER)}),
    "aepg": (
        "aEPG",
        {
            "annealing.schedule": ("sigmoid", PAPER),
            "annealing.tau": (6.0, PAPER),
            "annealing.horizon": ("task", "our reading (F22)"),
        },
    ),
    "ep": ("entropy penalty", {"loss.kind": ("entropy-penalty", PAPER)}),
}
# the paper's; its hint first
_GRIDS: dict[str, tuple[float, ...]] = {"focal": (1.0, 0.5, 2.0), "ls": (0.01, 0.05, 0.1), "cp": (0.1, 0.2)}

_SCRATCH: Settings = {
    **AEPG,
    "backbone": ("resnet50_cifar", "paper: ResNet-50 from random weights; its stem is our reading"),
    "final_norm": ("pretrained", "not used: a ResNet has none"),
    "seeding": ("initialisation", "our reading: there is one experience"),
    "images.protocol": ("aepg", "paper: padding, crop and flip; no mean and standard deviation: our reading"),
    "trainable": ("all", PAPER),
    "epochs": (350, PAPER),
    "batch_size": (256, PAPER),
    "drop_last": (False, OURS),
    "optimizer": ("sgd", PAPER),
    "momentum": (0.9, PAPER),
    "lr": (0.1, PAPER),
    "slow_factor": (1.0, PAPER),
    "weight_decay": (0.0, PAPER),
    "schedule": ("step", "our reading: a tenth after each milestone"),
    "milestones": ([150, 225], "paper, in one place (F25)"),
    "head_init_std": (0.0128, "our reading: about that of torch's default for 2048 features"),
}


ALPHAS = ("0", "0.1", "0.2", "0.5", "0.7", "1")
"""Constant weights of cross-entropy in Table 3 and its ablation."""


def modules_and_loss(module: str, loss: str) -> tuple[str, Settings, tuple[str, ...], Mapping[str, Sequence[float]]]:
    """Title, settings, remarks and grid of a row of Tables 1 and 2."""
    (kind, modules), (title, of_loss) = MODULES[module], LOSSES[loss]
    name = "lora" if module == "lae" else module
    schedule = {
        f"{name}.blocks": (5, LAE),
        f"{name}.frozen_epochs": (30, "paper; of which tasks: LAE's code (F17)"),
        f"{name}.freeze": ("peft", "LAE's code (F17)"),
    }
    remarks = [
        "The paper does not say whether its seeds change the class order: here they set what is drawn at random "
        "alone. In LAE's code each "
        "of three seeds brings an order of its own."
    ]
    grid = {"loss.coefficient": _GRIDS[loss]} if loss in _GRIDS else {}
    if grid:
        values = ", ".join(f"{value:g}" for value in sorted(_GRIDS[loss]))
        remarks.append(
            f"The paper prints the best of the coefficients {values} (F23): the cell takes the best of those on record."
        )
    return f"{kind}, {title}", {**AEPG, **modules, **schedule, **of_loss}, tuple(remarks), grid


def from_scratch(alpha: str) -> tuple[str, Settings, tuple[str, ...]]:
    """Title, settings and remarks of a row of Table 3."""
    settings = {
        **_SCRATCH,
        "annealing.schedule": (float(alpha), "paper: the constant weight of cross-entropy, the rest is EPG"),
    }
    return f"ResNet-50 from scratch, alpha {alpha}", settings, ()
