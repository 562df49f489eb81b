"""Continual-learning methods for Avalanche and plain torch:
SLCA, SLCA++, OLOR, aEPG, LAE, L2P, DualPrompt, CODA-Prompt, InfLoRA, SSF, APER, RanPAC, and baselines to compare with.

The names below are resolved when they are first used (PEP 562). Importing this package loads nothing. A name that needs
torch only, such as ``OLORAdam`` or ``epg_loss``, loads neither Avalanche nor timm.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .aepg import AnnealedEPGLoss, EPGLoss
    from .aper import APER, BesidePretrained
    from .averaging import WeightAverage, WiSEFT
    from .backbones import KNOWN_BACKBONES, create_backbone, fingerprint, read_weights
    from .baselines import EWC, L2SP, FrozenBackbone, LwF
    from .best_epoch import BestEpoch
    from .closed_form import CosineClassMean, LinearDiscriminant, NearestClassMean, RandomProjection, RanPAC
    from .coda import CODAComponents, CODAPrompt, attach_coda, detach_coda
    from .depths import describe_depths, layer_depths
    from .dualprompt import DualPrompt, attach_dualprompt, detach_dualprompt
    from .entropy import ConfidencePenaltyLoss, EntropyPenaltyLoss, FocalLoss, LabelSmoothingLoss
    from .first_experience import FirstExperienceOnly
    from .fresh_optimizer import FreshOptimizer
    from .frozen_batch_norm import FrozenBatchNorm
    from .gaussians import ClassGaussians
    from .heads import ContinualModel, TaskHeads
    from .inflora import (
        InfLoRA,
        InfLoRARates,
        attach_inflora,
        detach_inflora,
        merge_inflora,
        unmerge_inflora,
    )
    from .l2p import L2P, attach_l2p, detach_l2p
    from .lae import LAE
    from .layer_decay import layer_decay_groups
    from .losses import (
        annealed_epg_loss,
        annealing_weight,
        confidence_penalty_loss,
        entropy_penalty_loss,
        epg_loss,
        focal_loss,
        label_smoothing_loss,
        symmetric_cross_entropy,
    )
    from .olor import OLORSGD, OLORAdam
    from .olor_plugin import OLORPlugin
    from .peft import (
        Adapter,
        LoRA,
        PEFTSchedule,
        Prefix,
        attach_adapter,
        attach_lora,
        attach_prefix,
        detach_lora,
        detach_peft,
    )
    from .prompts import Prompts, attach_prompts, detach_prompts
    from .replay import BiC, DERPlusPlus, GDumb, Replay
    from .slca import SLCA, ClassifierAlignment, align_heads, fresh_final_norm, slow_learner_groups
    from .slca_pp import (
        HeadScaling,
        SLCAPlusPlus,
        SlowLearnerRates,
        SymmetricCrossEntropy,
        attach_svd_lora,
        detach_svd_lora,
        slca_pp_groups,
        train_low_rank_and_norms,
    )
    from .ssf import SSF, attach_ssf, detach_ssf
    from .task_loss import TaskCrossEntropy, TaskLoss

__all__ = [
    "APER",
    "EWC",
    "KNOWN_BACKBONES",
    "L2P",
    "L2SP",
    "LAE",
    "OLORSGD",
    "SLCA",
    "SSF",
    "Adapter",
    "AnnealedEPGLoss",
    "BesidePretrained",
    "BestEpoch",
    "BiC",
    "CODAComponents",
    "CODAPrompt",
    "ClassGaussians",
    "ClassifierAlignment",
    "ConfidencePenaltyLoss",
    "ContinualModel",
    "CosineClassMean",
    "DERPlusPlus",
    "DualPrompt",
    "EPGLoss",
    "EntropyPenaltyLoss",
    "FirstExperienceOnly",
    "FocalLoss",
    "FreshOptimizer",
    "FrozenBackbone",
    "FrozenBatchNorm",
    "GDumb",
    "HeadScaling",
    "InfLoRA",
    "InfLoRARates",
    "LabelSmoothingLoss",
    "LinearDiscriminant",
    "LoRA",
    "LwF",
    "NearestClassMean",
    "OLORAdam",
    "OLORPlugin",
    "PEFTSchedule",
    "Prefix",
    "Prompts",
    "RanPAC",
    "RandomProjection",
    "Replay",
    "SLCAPlusPlus",
    "SlowLearnerRates",
    "SymmetricCrossEntropy",
    "TaskCrossEntropy",
    "TaskHeads",
    "TaskLoss",
    "WeightAverage",
    "WiSEFT",
    "align_heads",
    "annealed_epg_loss",
    "annealing_weight",
    "attach_adapter",
    "attach_coda",
    "attach_dualprompt",
    "attach_inflora",
    "attach_l2p",
    "attach_lora",
    "attach_prefix",
    "attach_prompts",
    "attach_ssf",
    "attach_svd_lora",
    "confidence_penalty_loss",
    "create_backbone",
    "describe_depths",
    "detach_coda",
    "detach_dualprompt",
    "detach_inflora",
    "detach_l2p",
    "detach_lora",
    "detach_peft",
    "detach_prompts",
    "detach_ssf",
    "detach_svd_lora",
    "entropy_penalty_loss",
    "epg_loss",
    "fingerprint",
    "focal_loss",
    "fresh_final_norm",
    "label_smoothing_loss",
    "layer_decay_groups",
    "layer_depths",
    "merge_inflora",
    "read_weights",
    "slca_pp_groups",
    "slow_learner_groups",
    "symmetric_cross_entropy",
    "train_low_rank_and_norms",
    "unmerge_inflora",
]

# The imports above as data, which __getattr__ can use. tests/strategies/test_imports.py compares the two, and __all__
# with them.
_MODULE_OF = {
    name: module
    for module, names in {
        "aepg": "AnnealedEPGLoss EPGLoss",
        "averaging": "WeightAverage WiSEFT",
        "aper": "APER BesidePretrained",
        "backbones": "KNOWN_BACKBONES create_backbone fingerprint read_weights",
        "baselines": "EWC L2SP FrozenBackbone LwF",
        "best_epoch": "BestEpoch",
        "closed_form": "CosineClassMean LinearDiscriminant NearestClassMean RanPAC RandomProjection",
        "coda": "CODAComponents CODAPrompt attach_coda detach_coda",
        "depths": "describe_depths layer_depths",
        "dualprompt": "DualPrompt attach_dualprompt detach_dualprompt",
        "entropy": "ConfidencePenaltyLoss EntropyPenaltyLoss FocalLoss LabelSmoothingLoss",
        "first_experience": "FirstExperienceOnly",
        "fresh_optimizer": "FreshOptimizer",
        "frozen_batch_norm": "FrozenBatchNorm",
        "gaussians": "ClassGaussians",
        "heads": "ContinualModel TaskHeads",
        "inflora": "InfLoRA InfLoRARates attach_inflora detach_inflora merge_inflora unmerge_inflora",
        "l2p": "L2P attach_l2p detach_l2p",
        "lae": "LAE",
        "layer_decay": "layer_decay_groups",
        "losses": (
            "annealed_epg_loss annealing_weight confidence_penalty_loss entropy_penalty_loss "
            "epg_loss focal_loss label_smoothing_loss symmetric_cross_entropy"
        ),
        "olor": "OLORSGD OLORAdam",
        "olor_plugin": "OLORPlugin",
        "peft": "Adapter LoRA PEFTSchedule Prefix attach_adapter attach_lora attach_prefix detach_lora detach_peft",
        "prompts": "Prompts attach_prompts detach_prompts",
        "replay": "BiC DERPlusPlus GDumb Replay",
        "slca": "SLCA ClassifierAlignment align_heads fresh_final_norm slow_learner_groups",
        "slca_pp": (
            "HeadScaling SLCAPlusPlus SlowLearnerRates SymmetricCrossEntropy "
            "attach_svd_lora detach_svd_lora slca_pp_groups train_low_rank_and_norms"
        ),
        "ssf": "SSF attach_ssf detach_ssf",
        "task_loss": "TaskCrossEntropy TaskLoss",
    }.items()
    for name in names.split()
}

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name

    def __getattr__(name: str) -> object:
        """The object of a public name. Its module is imported on first use,
        and the object is stored in this package.
        """
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
