"""SLCA, OLOR and aEPG as plugins, optimizers and losses for Avalanche and plain torch, and what they are compared with."""

from .aepg import AnnealedEPGLoss, EPGLoss
from .backbones import KNOWN_BACKBONES, create_backbone, fingerprint, read_weights
from .baselines import EWC, L2SP, FrozenBackbone, LwF
from .best_epoch import BestEpoch
from .closed_form import LinearDiscriminant, NearestClassMean
from .depths import layer_depths
from .entropy import ConfidencePenaltyLoss, EntropyPenaltyLoss, FocalLoss, LabelSmoothingLoss
from .fresh_optimizer import FreshOptimizer
from .gaussians import ClassGaussians
from .heads import ContinualModel, TaskHeads
from .lae import LAE
from .olor import OLORSGD, OLORAdam
from .olor_plugin import OLORPlugin
from .peft import Adapter, LoRA, PEFTSchedule, Prefix, attach_adapter, attach_lora, attach_prefix, detach_lora, detach_peft
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
from .task_loss import TaskCrossEntropy, TaskLoss

__all__ = [
    "EWC",
    "KNOWN_BACKBONES",
    "L2SP",
    "LAE",
    "OLORSGD",
    "SLCA",
    "Adapter",
    "AnnealedEPGLoss",
    "BestEpoch",
    "BiC",
    "ClassGaussians",
    "ClassifierAlignment",
    "ConfidencePenaltyLoss",
    "ContinualModel",
    "DERPlusPlus",
    "EPGLoss",
    "EntropyPenaltyLoss",
    "FocalLoss",
    "FreshOptimizer",
    "FrozenBackbone",
    "GDumb",
    "HeadScaling",
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
    "Replay",
    "SLCAPlusPlus",
    "SlowLearnerRates",
    "SymmetricCrossEntropy",
    "TaskCrossEntropy",
    "TaskHeads",
    "TaskLoss",
    "align_heads",
    "attach_adapter",
    "attach_lora",
    "attach_prefix",
    "attach_prompts",
    "attach_svd_lora",
    "create_backbone",
    "detach_lora",
    "detach_peft",
    "detach_prompts",
    "detach_svd_lora",
    "fingerprint",
    "fresh_final_norm",
    "layer_depths",
    "read_weights",
    "slca_pp_groups",
    "slow_learner_groups",
    "train_low_rank_and_norms",
]
