"""Holds the implementations against golden vectors recorded from the papers' public code.

A golden file is an ``.npz`` archive; which implementation it tests is recognised by the arrays in it. Each
implementation runs in its ``reference`` mode, and the largest deviation is compared with the tolerance that comes with
the vectors.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.dualprompt import DualPrompt, attach_dualprompt
from reclaim.strategies.gaussians import ClassGaussians
from reclaim.strategies.heads import ContinualModel, TaskHeads
from reclaim.strategies.l2p import L2P, attach_l2p
from reclaim.strategies.olor import OLORSGD, OLORAdam
from reclaim.strategies.peft import LoRA, Prefix, attach_adapter, attach_lora, attach_prefix
from reclaim.strategies.peft_module import PEFTModule
from reclaim.strategies.prompt_pool import PoolTraining, cosine_similarity
from reclaim.strategies.slca import align_heads
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Deviation:
    """One quantity of a golden file: how far the implementation is from it, and how far it may be."""

    quantity: str
    value: float
    tolerance: float

    @property
    def within(self) -> bool:
        # written so that NaN is not within
        return self.value <= self.tolerance


# --- OLOR ---
def olor(arrays: Arrays) -> list[Deviation]:
    """The parameters after every step of a recorded trajectory; its learning rate falls to 0 along a cosine."""
    lr, steps, pretrained = float(arrays["lr0"]), int(arrays["steps"]), int(arrays["n_pretrained"])
    count = sum(name.startswith("init_") for name in arrays)
    params = torch.nn.ParameterList(torch.from_numpy(arrays[f"init_{i}"].copy()) for i in range(count))
    depths = layer_depths(torch.nn.ParameterList(params[:pretrained]), counting="tensors")
    # The code's b: lambda is lr b for Adam, and b for SGD, to which the authors' script gives b = iota / lr; so iota is
    # lr b for both.
    rollback: dict[str, Any] = {
        "rollback_input": lr * float(arrays["back_level_max"]),
        "rollback_output": lr * float(arrays["back_level_min"]),
        "rollback_power": float(arrays["back_pow"]),
    }
    optimizer: OLORAdam | OLORSGD
    if str(arrays["kind"]) == "adam":
        optimizer = OLORAdam(params, lr, depths, rollback_decay="reference", **rollback)
    else:
        optimizer = OLORSGD(
            params,
            lr,
            depths,
            momentum=float(arrays["beta"]),
            gradient_damping="reference",
            lr_factor="reference",
            momentum_average="reference",
            **rollback,
        )
    deviations = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + np.cos(np.pi * step / steps))
        for i, param in enumerate(params):
            param.grad = torch.from_numpy(arrays[f"grad_{step}_{i}"].copy())
        optimizer.step()
        deviations += [
            np.abs(param.detach().numpy() - arrays[f"param_{step}_{i}"]).max() for i, param in enumerate(params)
        ]
    return [Deviation("parameters over all steps", float(np.max(deviations)), 1e-5)]


# --- SLCA ---
ALIGNMENT_RUNS = 20


def slca(arrays: Arrays) -> list[Deviation]:
    """Class statistics, and the outcome of 20 alignments against that of 20 recorded ones, which drew other samples.

    The standard error of a difference is sqrt((s_ref^2 + s_own^2) / 20).
    """
    features, targets = torch.from_numpy(arrays["X"]), torch.from_numpy(arrays["Y"])
    test_features, test_targets = torch.from_numpy(arrays["Xt"]), torch.from_numpy(arrays["Yt"])
    heads = TaskHeads(features.shape[1])
    gaussians = ClassGaussians(ridge=1e-4)
    ends = np.cumsum(arrays["task_sizes"]).tolist()
    for task, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        heads.add_head(range(start, end))
        chosen = (targets >= start) & (targets < end)
        gaussians.fit(features[chosen], targets[chosen], experience=task)
    unaligned = [
        torch.from_numpy(part)
        for weight, bias in zip(
            np.split(arrays["head_weight"], ends[:-1]), np.split(arrays["head_bias"], ends[:-1]), strict=True
        )
        for part in (weight, bias)
    ]

    weights, accuracies = [], []
    for seed in range(ALIGNMENT_RUNS):
        heads.restore(unaligned)
        generator = torch.Generator().manual_seed(seed)
        align_heads(heads, gaussians, tau=float(arrays["logit_norm"]), task_index="reference", generator=generator)
        with torch.no_grad():
            accuracies.append((heads(test_features).argmax(dim=1) == test_targets).double().mean().item())
            weights.append(torch.cat(heads.snapshot()[::2]).double().numpy())
    own_weights, own_accuracy = np.stack(weights), np.array(accuracies)

    def in_standard_errors(own: np.ndarray, reference_mean: np.ndarray, reference_std: np.ndarray) -> np.ndarray:
        error = np.sqrt((reference_std.astype(np.float64) ** 2 + own.var(axis=0, ddof=1)) / ALIGNMENT_RUNS)
        return np.abs(own.mean(axis=0) - reference_mean) / error

    z = in_standard_errors(own_weights, arrays["weight_after_mean"], arrays["weight_after_std"])
    z_accuracy = in_standard_errors(own_accuracy, arrays["acc_after"].mean(), arrays["acc_after"].std(ddof=1))
    means = np.stack([gaussians[c].mean.numpy() for c in heads.classes])
    covariances = np.stack([gaussians[c].covariance.numpy() for c in heads.classes])
    return [
        Deviation("class means", float(np.abs(means - arrays["class_means"]).max()), 1e-5),
        Deviation("class covariances", float(np.abs(covariances - arrays["class_covs"]).max()), 1e-5),
        Deviation("fraction of mean weights beyond 4 standard errors", float((z > 4).mean()), 0.01),
        Deviation("mean squared z of the mean weights", float((z**2).mean()), 1.3),
        Deviation("mean accuracy, in standard errors", float(z_accuracy), 4.0),
    ]


# --- LAE modules ---

GOLDEN_VIT_HEADS = 4  # the one size of the recorded ViT that its weights do not tell


def lae_module(arrays: Arrays) -> list[Deviation]:
    """Deviations of a PEFT module of LAE inside a small ViT: all tokens without and with the modules, and the modules'
    gradients.

    :raises ValueError: the file's ``kind`` is not "lora", "adapter" or "prefix".
    """
    vit = _recorded_vit(arrays)
    images = torch.from_numpy(arrays["x"])
    with torch.no_grad():
        plain = vit.forward_features(images)
    recorded = [
        (f"pet{i}.{name}", parameter, index)
        for i, module in enumerate(_attach_recorded(vit, arrays))
        for name, parameter, index in _recorded_parameters(module)
    ]
    for name, parameter, index in recorded:
        parameter.data[index] = torch.from_numpy(arrays[name])
    adapted = vit.forward_features(images)
    adapted[:, 0].square().sum().backward()

    deviations = [
        Deviation("tokens_plain", float(np.abs(plain.numpy() - arrays["tokens_plain"]).max()), 1e-5),
        Deviation("tokens_adapted", float(np.abs(adapted.detach().numpy() - arrays["tokens_adapted"]).max()), 1e-5),
    ]
    for name, parameter, index in recorded:
        assert parameter.grad is not None
        reference = arrays[f"grad_{name}"]
        difference = np.abs(parameter.grad[index].numpy() - reference).max()
        deviations.append(Deviation(f"grad_{name}", float(difference / np.abs(reference).max()), 1e-4))
    return deviations


def _recorded_vit(arrays: Arrays) -> VisionTransformer:
    weights = {
        name.removeprefix("vit."): torch.from_numpy(array) for name, array in arrays.items() if name.startswith("vit.")
    }
    dim, channels, patch, _ = weights["patch_embed.proj.weight"].shape
    vit = VisionTransformer(
        img_size=arrays["x"].shape[-1],
        patch_size=patch,
        in_chans=channels,
        embed_dim=dim,
        depth=sum(name.endswith("attn.qkv.weight") for name in weights),
        num_heads=GOLDEN_VIT_HEADS,
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        num_classes=0,
    )
    vit.load_state_dict(weights)
    return vit.eval()


def _attach_recorded(vit: VisionTransformer, arrays: Arrays) -> Sequence[PEFTModule]:
    kind, blocks = str(arrays["kind"]), arrays["adapt_blocks"].tolist()
    if kind == "lora":
        return attach_lora(vit, blocks, rank=len(arrays["pet0.lora_A.0"]))
    if kind == "adapter":
        return attach_adapter(vit, blocks, hidden=len(arrays["pet0.layer.0.weight"]))
    if kind == "prefix":
        return attach_prefix(vit, blocks, tokens=len(arrays["pet0.key.tokens"]))
    raise ValueError(
        f"unknown kind {kind!r} of module of LAE in a golden file: the known ones are lora, adapter and prefix"
    )


def _recorded_parameters(module: PEFTModule) -> list[tuple[str, torch.nn.Parameter, Any]]:
    """The file's names of a module's parameters, each with the parameter and the index in it that the name refers
    to.
    """
    if isinstance(module, LoRA):
        of_both = {"lora_A.{}": module.A, "lora_B.{}": module.B, "scale.{}.scale": module.scale}
        return [(name.format(index), parameter, index) for name, parameter in of_both.items() for index in range(2)]
    if isinstance(module, Prefix):
        of_both = {"{}.tokens": module.tokens, "{}.scaler.scale": module.scale}
        return [
            (name.format(part), parameter, index)
            for name, parameter in of_both.items()
            for index, part in enumerate(("key", "val"))
        ]
    names = {
        "layer.0.weight": "down.weight",
        "layer.0.bias": "down.bias",
        "layer.2.weight": "up.weight",
        "layer.2.bias": "up.bias",
    }
    return [(name, module.get_parameter(own), ...) for name, own in {**names, "layer.3.scale": "scale"}.items()]


# --- pools of prompts ---

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
        model = ContinualModel(_recorded_vit(self.arrays))
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


# --- recognition ---

KINDS: tuple[tuple[frozenset[str], Callable[[Arrays], list[Deviation]]], ...] = (
    (frozenset({"lr0", "back_level_max", "n_pretrained", "init_0"}), olor),
    (frozenset({"X", "Y", "task_sizes", "head_weight", "weight_after_mean"}), slca),
    (frozenset({"kind", "adapt_blocks", "tokens_plain", "tokens_adapted"}), lae_module),
    (frozenset({"method", "pool", "keys"}), l2p),
    (frozenset({"method", "e_prompt", "g_layers"}), dualprompt),
)
"""The arrays by which a file is recognised, and what checks it."""


def check(path: Path) -> list[Deviation]:
    """The deviations of the implementation that a golden file tests.

    :raises ValueError: the file cannot be read or is not whole, or no implementation is known by its arrays or its
        kind.
    """
    try:
        with zipfile.ZipFile(path):  # numpy would also take other files, each with errors of its own
            pass
        with np.load(path) as archive:
            arrays = dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"cannot read {path} as an .npz archive: {error}") from error
    for names, run in KINDS:
        if names <= arrays.keys():
            try:
                return run(arrays)
            except KeyError as error:
                raise ValueError(f"{path} is not a whole golden file: it lacks the array {error}") from error
    raise ValueError(f"{path} is no golden file known here: its arrays are {', '.join(sorted(arrays)[:8])}, ...")
