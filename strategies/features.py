"""Features of a whole dataset, for what is fitted to them:
class statistics, heads in closed form, the choice of an epoch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .heads import require_continual_model


@torch.no_grad()
def extract_features(
    model: nn.Module, dataset: Any, batch_size: int, device: torch.device | str, num_workers: int = 0
) -> tuple[Tensor, Tensor]:
    """Features (N, d), float32, and targets (N,) of a dataset, in its order, on the CPU,
    computed with the model in eval mode.

    The modes of all modules are restored afterwards. torch's global generator is not used.

    :param model: a :class:`~reclaim.strategies.heads.ContinualModel`.
    :param num_workers: number of processes that load the images. Pass on what ``strategy.train`` was given.
    :raises TypeError: the model is not a :class:`~reclaim.strategies.heads.ContinualModel`.
    """
    model = require_continual_model(model, "extract_features")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # without its own generator, the loader would draw a seed from the global one
        collate = getattr(dataset, "collate_fn", None)
        loader = DataLoader(
            dataset, batch_size, num_workers=num_workers, collate_fn=collate, generator=torch.Generator()
        )
        batches = [(model.features(batch[0].to(device)).float().cpu(), torch.as_tensor(batch[1])) for batch in loader]
    finally:
        for module, mode in modes:
            module.training = mode
    return torch.cat([features for features, _ in batches]), torch.cat([targets for _, targets in batches])
