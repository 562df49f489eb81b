"""SLCA, OLOR and aEPG as plugins, optimizers and losses for Avalanche and plain torch."""

from .aepg import AnnealedEPGLoss, EPGLoss
from .backbones import create_backbone, fingerprint
from .baselines import L2SP, FrozenBackbone
from .fresh_optimizer import FreshOptimizer
from .gaussians import ClassGaussians
from .heads import ContinualModel, TaskHeads
from .olor import OLORSGD, OLORAdam, OLORPlugin, layer_depths
from .peft import LoRA, PEFTSchedule, attach_lora, detach_lora
from .slca import SLCA, ClassifierAlignment, align_heads, fresh_final_norm, slow_learner_groups
from .task_loss import TaskCrossEntropy, TaskLoss

__all__ = [
    "L2SP",
    "OLORSGD",
    "SLCA",
    "AnnealedEPGLoss",
    "ClassGaussians",
    "ClassifierAlignment",
    "ContinualModel",
    "EPGLoss",
    "FreshOptimizer",
    "FrozenBackbone",
    "LoRA",
    "OLORAdam",
    "OLORPlugin",
    "PEFTSchedule",
    "TaskCrossEntropy",
    "TaskHeads",
    "TaskLoss",
    "align_heads",
    "attach_lora",
    "create_backbone",
    "detach_lora",
    "fingerprint",
    "fresh_final_norm",
    "layer_depths",
    "slow_learner_groups",
]
