"""Layer-wise learning-rate decay: lower layers train more slowly (BEiT, arXiv 2106.08254, and MAE, arXiv 2111.06377,
fine-tune with it).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .checks import require_not_negative
from .depths import layer_depths
from .parts import parts_of


def layer_decay_groups(
    model: nn.Module, lr: float, decay: float, weight_decay: float | None = None
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: layer i of n at lr * decay^(n - i), and the heads, including future ones, at
    ``lr``.

    Layers are those of :func:`~reclaim.strategies.depths.layer_depths`, as MAE counts them: layer 0 is what comes
    before the first block, layer n the final norm. What has no layer, such as modules of parameter-efficient
    fine-tuning, trains at ``lr``.

    :param model: a :class:`~reclaim.strategies.heads.ContinualModel`, or a model with a classifier of its own
        (:func:`~reclaim.strategies.parts.parts_of`).
    :param decay: in (0, 1]: 1 is plain fine-tuning.
    :param weight_decay: of all groups; ``None`` uses the optimizer's.
    :returns: the layers from the input on, and the heads last.
    :raises ValueError: a number is out of its range.
    :raises TypeError: no classifier is found in the model.
    """
    parts = parts_of(model, "layer_decay_groups")
    require_not_negative(lr=lr, weight_decay=weight_decay or 0.0)
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be above 0 and at most 1, got {decay}")
    heads = set(parts.classifier.parameters())
    depths = {p: depth for p, depth in layer_depths(model).items() if p not in heads}
    order = sorted(set(depths.values()))
    backbone = [*parts.backbone_parameters().values()]
    groups = [
        {"params": [p for p in backbone if depths.get(p) == depth], "lr": lr * decay ** (len(order) - 1 - i)}
        for i, depth in enumerate(order)
    ]
    groups += [
        {"params": [p for p in backbone if p not in depths], "lr": lr},
        {"params": list(parts.classifier.parameters()), "lr": lr},
    ]
    groups = [group for group in groups[:-1] if group["params"]] + groups[-1:]
    return groups if weight_decay is None else [{**group, "weight_decay": weight_decay} for group in groups]
