"""Holds the implementations against golden vectors recorded from the papers' public code.

A golden file is an ``.npz`` archive; which implementation it tests is recognised by the arrays in it. Each
implementation runs in its ``reference`` mode, and the largest deviation is compared with the tolerance that comes with
the vectors.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.gaussians import ClassGaussians
from reclaim.strategies.heads import TaskHeads
from reclaim.strategies.olor import OLORSGD, OLORAdam
from reclaim.strategies.peft import LoRA, Prefix, attach_adapter, attach_lora, attach_prefix
from reclaim.strategies.peft_module import PEFTModule
from reclaim.strategies.slca import align_heads
from timm.models.vision_transformer import VisionTransformer

from .conform_inflora import inflora
from .conform_prompts import dualprompt, l2p
from .golden import Arrays, Deviation, as_computed, recorded_vit, relative_to, require_known


# --- OLOR ---
def olor(arrays: Arrays) -> list[Deviation]:
    """The parameters after every step of a recorded trajectory; its learning rate falls to 0 along a cosine."""
    lr, steps, pretrained = float(arrays["lr0"]), int(arrays["steps"]), int(arrays["n_pretrained"])
    kind, count = require_known(arrays, "kind", ["adam", "sgd"]), sum(name.startswith("init_") for name in arrays)
    if steps < 1:
        raise ValueError(f"steps is {steps}: there is nothing to compare")
    if not 1 <= pretrained <= count:
        raise ValueError(f"n_pretrained is {pretrained} of {count} tensors: with none, nothing is rolled back")
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
    if kind == "adam":
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
    sizes = arrays["task_sizes"].tolist()
    newest = int(arrays.get("newest_task_size", np.array(sizes[-1])))
    if newest != sizes[-1]:
        raise ValueError(f"newest_task_size is {newest}, and the last of task_sizes {sizes[-1]}: make them agree")
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
    heads.restore(unaligned)
    with torch.no_grad():
        accuracy_before = (heads(test_features).argmax(dim=1) == test_targets).double().mean().item()
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
        off = np.abs(own.mean(axis=0) - reference_mean)
        # where neither varies, as of accuracies that are all 100%, equal is within and all else is not
        return np.divide(off, error, out=np.where(off <= 1e-7, 0.0, np.inf), where=error > 0)

    z = in_standard_errors(own_weights, arrays["weight_after_mean"], arrays["weight_after_std"])
    z_accuracy = in_standard_errors(own_accuracy, arrays["acc_after"].mean(), arrays["acc_after"].std(ddof=1))
    means = np.stack([gaussians[c].mean.numpy() for c in heads.classes])
    covariances = np.stack([gaussians[c].covariance.numpy() for c in heads.classes])
    largest = max(1.0, relative_to(arrays["class_covs"]))  # float32 holds no more of large ones
    before = [] if "acc_before" not in arrays else [abs(accuracy_before - float(arrays["acc_before"]))]
    return [
        *(Deviation("accuracy before alignment", off, 1e-6 + 1.5 / len(test_targets)) for off in before),
        Deviation("class means", float(np.abs(means - arrays["class_means"]).max()), 1e-5),
        Deviation("class covariances", float(np.abs(covariances - arrays["class_covs"]).max() / largest), 1e-5),
        Deviation("fraction of mean weights beyond 4 standard errors", float((z > 4).mean()), 0.01),
        Deviation("mean squared z of the mean weights", float((z**2).mean()), 1.3),
        Deviation("mean accuracy, in standard errors", float(z_accuracy), 4.0),
    ]


# --- LAE modules ---


def lae_module(arrays: Arrays) -> list[Deviation]:
    """Deviations of a PEFT module of LAE inside a small ViT: all tokens without and with the modules, and the modules'
    gradients.

    :raises ValueError: the file's ``kind`` is not "lora", "adapter" or "prefix".
    """
    vit = recorded_vit(arrays)
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
        deviations.append(Deviation(f"grad_{name}", float(difference / relative_to(reference)), 1e-4))
    return deviations


def _attach_recorded(vit: VisionTransformer, arrays: Arrays) -> Sequence[PEFTModule]:
    kind, blocks = require_known(arrays, "kind", ["lora", "adapter", "prefix"]), arrays["adapt_blocks"].tolist()
    if kind == "lora":
        return attach_lora(vit, blocks, rank=len(arrays["pet0.lora_A.0"]))
    if kind == "adapter":
        return attach_adapter(vit, blocks, hidden=len(arrays["pet0.layer.0.weight"]))
    return attach_prefix(vit, blocks, tokens=len(arrays["pet0.key.tokens"]))


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


# --- recognition ---

KINDS: tuple[tuple[frozenset[str], Callable[[Arrays], list[Deviation]]], ...] = (
    (frozenset({"lr0", "back_level_max", "n_pretrained", "init_0"}), olor),
    (frozenset({"X", "Y", "task_sizes", "head_weight", "weight_after_mean"}), slca),
    (frozenset({"kind", "adapt_blocks", "tokens_plain", "tokens_adapted"}), lae_module),
    (frozenset({"method", "pool", "keys"}), l2p),
    (frozenset({"method", "e_prompt", "g_layers"}), dualprompt),
    (frozenset({"method", "rank", "lamb"}), inflora),
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
    except Exception as error:  # what a file says of its arrays can be wrong in any way
        raise ValueError(f"cannot read {path} as an .npz archive: {error}") from error
    for names, run in KINDS:
        if names <= arrays.keys():
            try:
                return run(arrays if run is olor else as_computed(arrays))
            except KeyError as error:
                raise ValueError(f"{path} is not a whole golden file: it lacks the array {error}") from error
            except Exception as error:  # shapes and numbers that are not those of one implementation
                raise ValueError(f"{path} is no sound golden file: {type(error).__name__}: {error}") from error
    raise ValueError(f"{path} is no golden file known here: its arrays are {', '.join(sorted(arrays)[:8])}, ...")
