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

from .golden import Arrays, Deviation, recorded_vit, relative_to, require_known

_RESULTS = ("idx_", "reduce_sim_", "tokens_", "pre_logits_", "logits_", "loss_", "grad_", "steps_")
"""How names of results begin."""

ANY_NORM = math.inf  # no gradient is clipped at it, but all are computed


def l2p(arrays: Arrays) -> list[Deviation]:
    """Choices, tokens, outputs, gradients and three steps of L2P, of the PyTorch twin and of Google's code."""
    require_known(arrays, "method", ["l2p"])
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
            if mode == "batch" and not suffix and recorded.has_steps:
                recorded.step(model.train(), L2P(recorded.pull, clip=float(arrays["steps_clip"])), trained)
    recorded.require_all_compared()
    return recorded.deviations


def dualprompt(arrays: Arrays) -> list[Deviation]:
    """Choices, tokens, outputs, gradients and three steps of DualPrompt, of the PyTorch twin and of Google's code."""
    require_known(arrays, "method", ["dualprompt"])
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
            if mode == "train" and not suffix and recorded.has_steps:
                recorded.step(model, DualPrompt(recorded.pull, clip=float(arrays["steps_clip"])), trained)
    recorded.require_all_compared()
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
        self.has_steps = any(name.startswith("steps_") for name in arrays)
        self.deviations: list[Deviation] = []
        if foreign := sorted(set(self.labels.tolist()) - set(self.classes.tolist())):
            raise ValueError(f"label {foreign[0]} is not in class_mask, which is {self.classes.tolist()}")

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
        if not suffix:  # the same in both codes, and what every file has
            self._require(*(f"{name}_{mode}" for name in ("idx", "reduce_sim", "pre_logits", "logits", "loss")))
            chosen, tokens = self._in_the_files_order(mode, pool, tokens)
            self._add(f"idx_{mode}", chosen, 0.5)  # equal
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

    def require_all_compared(self) -> None:
        """:raises ValueError: the file has a result that nothing was compared with."""
        compared = {deviation.quantity for deviation in self.deviations} | {"steps_lr", "steps_clip"}
        if left := sorted(name for name in self.arrays if name.startswith(_RESULTS) and name not in compared):
            raise ValueError(f"nothing here computes {', '.join(left[:3])}: it is a result of no known mode")

    def _require(self, *names: str) -> None:
        for name in names:
            if name not in self.arrays:
                raise KeyError(name)

    def _in_the_files_order(self, mode: str, pool: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Chosen prompts and tokens, with the prompts of a vote in the order in which the file has them: among equally
        many votes its code's order is no rule, and attention does not depend on it.
        """
        own, recorded = pool.indices, torch.from_numpy(self.arrays[f"idx_{mode}"]).reshape(pool.indices.shape)
        alike = own.ndim == 2 and own.shape[1] > 1 and torch.equal(own.sort(dim=1).values, recorded.sort(dim=1).values)
        if mode != "batch" or not alike or torch.equal(own, recorded):
            return own, tokens
        if isinstance(prompts := getattr(pool, "prompts", None), Tensor):  # L2P's are tokens, behind the class token
            length, k = prompts.shape[1], own.shape[1]
            place = (own[:, :, None] == recorded[:, None, :]).int().argmax(dim=1)  # of each recorded prompt in ours
            before, of_prompts, patches = tokens.split([1, k * length, tokens.shape[1] - 1 - k * length], dim=1)
            blocks = of_prompts.unflatten(1, (k, length))
            moved = blocks.gather(1, place[:, :, None, None].expand(-1, -1, *blocks.shape[2:])).flatten(1, 2)
            tokens = torch.cat([before, moved, patches], dim=1)
        return recorded, tokens

    def _loss(self, logits: Tensor) -> Tensor:
        position = (self.labels[:, None] == self.classes).int().argmax(dim=1)
        return F.cross_entropy(logits[:, self.classes], position)

    def _add(self, name: str, own: Tensor, tolerance: float = 1e-5, relative: bool = False) -> None:
        if name not in self.arrays:
            return
        reference = self.arrays[name]
        difference = np.abs(own.detach().numpy().reshape(reference.shape) - reference).max(initial=0.0)
        scale = relative_to(reference) if relative else 1.0
        self.deviations.append(Deviation(name, float(difference / scale), tolerance))

    def _add_relative(self, name: str, own: Tensor) -> None:
        self._add(name, own, 1e-4, relative=True)


def _as_recorded(prompts: Tensor) -> Tensor:
    """Prompts of a block without the pool's axis, if they are a general one's."""
    return prompts.squeeze(1)


def _joined(parameters: Any, gradient: bool = False) -> Tensor:
    """A parameter or those of all layers as one tensor, or their gradients."""
    if isinstance(parameters, list):
        if not parameters:  # no layer has any
            return torch.zeros(0)
        return torch.stack([_joined(parameter, gradient) for parameter in parameters])
    values = parameters.grad if gradient else parameters.detach()
    return torch.zeros_like(parameters) if values is None else values


def _norm(model: ContinualModel) -> Tensor:
    return torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
