"""L2P and DualPrompt against their golden files."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from reclaim.strategies.dualprompt import DualPrompt, attach_dualprompt
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.l2p import L2P, attach_l2p
from reclaim.strategies.prompt_pool import PoolTraining, cosine_similarity
from torch import Tensor
from torch.nn import functional as F

from .golden import Arrays, Deviation, recorded_vit

ANY_NORM = math.inf  # no gradient is clipped at it, but all are computed


def l2p(arrays: Arrays) -> list[Deviation]:
    """Choices, tokens, outputs, gradients and three steps of L2P, of the PyTorch twin and of Google's code."""
    recorded = _Recorded(arrays)
    for positions, suffix in (("reference", ""), ("google", "_google")):
        for mode, vote in (("sample", "image"), ("batch", "batch")):
            model = recorded.model()
            pool = attach_l2p(
                model,
                len(arrays["pool"]),
                arrays["pool"].shape[1],
                int(arrays["top_k"]),
                positions=positions,  # type: ignore[arg-type]
                train_vote=vote,  # type: ignore[arg-type]
                test_vote=vote,  # type: ignore[arg-type]
            )
            trained = recorded.write({"pool": pool.prompts, "keys": pool.keys}, model)
            recorded.compare(model.eval(), L2P(recorded.pull, ANY_NORM, "all"), trained, mode, suffix)
            if mode == "batch" and not suffix:
                recorded.step(model.train(), L2P(recorded.pull, clip=float(arrays["steps_clip"])), trained)
    return recorded.deviations


def dualprompt(arrays: Arrays) -> list[Deviation]:
    """Choices, tokens, outputs, gradients and three steps of DualPrompt, of the PyTorch twin and of Google's code."""
    recorded = _Recorded(arrays)
    g_layers, e_layers = arrays["g_layers"].tolist(), arrays["e_layers"].tolist()
    for pairing, suffix in (("reference", ""), ("google", "_google")):
        for mode in ("train", "sample", "batch"):
            model = recorded.model()
            pool = attach_dualprompt(
                model,
                len(arrays["keys"]),
                arrays["g_prompt"].shape[2],
                arrays["e_prompt"].shape[3],
                g_layers,
                e_layers,
                top_k=int(arrays["top_k"]),
                pairing=pairing,  # type: ignore[arg-type]
                test_vote="batch" if mode == "batch" else "image",
            )
            pool.experiences += int(arrays["task"])
            blocks: Any = model.backbone.blocks
            prompts = {
                f"{kind}_prompt": [blocks[index].attn.prefix.prompts for index in layers]
                for kind, layers in (("g", g_layers), ("e", e_layers))
            }
            trained = recorded.write({**prompts, "keys": pool.keys}, model)
            recorded.compare(
                model.train(mode == "train"), DualPrompt(recorded.pull, ANY_NORM, "all"), trained, mode, suffix
            )
            if mode == "train" and not suffix:
                recorded.step(model, DualPrompt(recorded.pull, clip=float(arrays["steps_clip"])), trained)
    return recorded.deviations


Trained = dict[str, Any]
"""The file's name of what trains -> the parameter, or those of all layers."""


class _Recorded:
    """A golden file of a pool of prompts, and the deviations from it so far.

    The plugins act on a strategy that has no more than they use.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.images, self.labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["labels"])
        self.classes = torch.from_numpy(arrays["class_mask"])
        self.pull = float(arrays["pull_coefficient"])
        self.deviations: list[Deviation] = []

    def model(self) -> ContinualModel:
        model = ContinualModel(recorded_vit(self.arrays))
        model.heads.add_head(range(len(self.arrays["head_bias"])))
        return model

    def write(self, prompts: Trained, model: ContinualModel) -> Trained:
        """Set prompts, keys and the head to the recorded values."""
        (head,) = model.heads.heads
        trained = {**prompts, "head_weight": head.weight, "head_bias": head.bias}
        for name, parameters in trained.items():
            value = torch.from_numpy(self.arrays[name])
            if isinstance(parameters, list):
                for parameter, own in zip(parameters, value, strict=True):
                    _as_recorded(parameter.data).copy_(own.reshape(_as_recorded(parameter.data).shape))
            else:
                parameters.data.copy_(value)
        return trained

    def compare(self, model: ContinualModel, plugin: PoolTraining, trained: Trained, mode: str, suffix: str) -> None:
        """One pass forward and back. What a file does not have of a mode is not compared."""
        pool: Any = model.backbone.prompt_pool
        tokens: Any = model.backbone.forward_features(self.images)  # type: ignore[operator]
        if not suffix:  # the same in both codes
            self._add(f"idx_{mode}", pool.indices, 0.5)  # equal
            self._add(f"reduce_sim_{mode}", pool.pull())
        if not suffix and mode == "sample":  # the same in all modes
            self._add("query", pool.query)
            self._add("similarity", cosine_similarity(pool.query, pool.keys))
        self._add(f"tokens_{mode}{suffix}", tokens)
        self._add(f"pre_logits_{mode}{suffix}", model.features(self.images))
        strategy: Any = SimpleNamespace(model=model)
        plugin.before_forward(strategy)
        logits = model(self.images)
        self._add(f"logits_{mode}{suffix}", logits)
        strategy.loss = self._loss(logits)
        plugin.before_backward(strategy)
        self._add(f"loss_{mode}{suffix}", strategy.loss)
        strategy.loss.backward()
        norm_all = _norm(model)
        plugin.before_update(strategy)
        for name, parameters in trained.items():
            self._add_relative(f"grad_{name}_{mode}{suffix}", _joined(parameters, gradient=True))
        self._add_relative(f"grad_norm_{mode}{suffix}", _norm(model))
        self._add_relative(f"grad_norm_all_{mode}{suffix}", norm_all)

    def step(self, model: ContinualModel, plugin: PoolTraining, trained: Trained) -> None:
        """Three steps of Adam on the batch."""
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], float(self.arrays["steps_lr"]))
        strategy: Any = SimpleNamespace(model=model)
        losses = []
        for _ in self.arrays["steps_loss"]:
            optimizer.zero_grad()
            plugin.before_forward(strategy)
            strategy.loss = self._loss(model(self.images))
            plugin.before_backward(strategy)
            losses.append(strategy.loss.detach())
            strategy.loss.backward()
            plugin.before_update(strategy)
            optimizer.step()
        self._add("steps_loss", torch.stack(losses))
        for name, parameters in trained.items():
            self._add(f"steps_{name}", _joined(parameters))

    def _loss(self, logits: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, self.classes], torch.searchsorted(self.classes, self.labels))

    def _add(self, name: str, own: Tensor, tolerance: float = 1e-5, relative: bool = False) -> None:
        if name not in self.arrays:
            return
        reference = self.arrays[name]
        difference = np.abs(own.detach().numpy().reshape(reference.shape) - reference).max()
        scale = np.abs(reference).max() if relative else 1.0
        self.deviations.append(Deviation(name, float(difference / scale), tolerance))

    def _add_relative(self, name: str, own: Tensor) -> None:
        self._add(name, own, 1e-4, relative=True)


def _as_recorded(prompts: Tensor) -> Tensor:
    """Prompts of a block without the pool's axis, if they are a general one's."""
    return prompts.squeeze(1)


def _joined(parameters: Any, gradient: bool = False) -> Tensor:
    """A parameter or those of all layers as one tensor, or their gradients."""
    if isinstance(parameters, list):
        return torch.stack([_joined(parameter, gradient) for parameter in parameters])
    values = parameters.grad if gradient else parameters.detach()
    return torch.zeros_like(parameters) if values is None else values


def _norm(model: ContinualModel) -> Tensor:
    return torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
