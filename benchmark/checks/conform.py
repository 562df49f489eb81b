"""Holds the implementations against golden vectors recorded from the papers' public code.

A golden file is an ``.npz`` archive; which implementation it tests is recognised by the arrays in it. Each
implementation runs in its ``reference`` mode, and the largest deviation is compared with the tolerance that comes with
the vectors.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.gaussians import ClassGaussians
from reclaim.strategies.heads import ContinualModel, TaskHeads
from reclaim.strategies.inflora import (
    Branches,
    DualGPM,
    InfLoRA,
    InfLoRARates,
    attach_inflora,
    cosine_factor,
    detach_inflora,
    second_moments,
)
from reclaim.strategies.olor import OLORSGD, OLORAdam
from reclaim.strategies.peft import LoRA, Prefix, attach_adapter, attach_lora, attach_prefix
from reclaim.strategies.peft_module import PEFTModule
from reclaim.strategies.slca import align_heads
from reclaim.strategies.task_loss import TaskCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F
from torch.utils.data import TensorDataset

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


# --- InfLoRA ---

STAGE, MOMENT, EXACT, GRADIENT, CHAIN = 5e-5, 1e-5, 1e-5, 1e-4, 3e-4


def inflora(arrays: Arrays) -> list[Deviation]:
    """A small ViT trained on three experiences: each stage from the recorded one before it, and the whole from the
    images on.

    Singular vectors have no sign: designed matrices are compared as A^T A, trained ones as B A.
    """
    largest: dict[str, Deviation] = {}
    for deviation in [*_inflora_stages(arrays), *_inflora_probe(arrays), *_inflora_chain(arrays)]:
        if not deviation.value <= largest.get(deviation.quantity, deviation).value:
            largest[deviation.quantity] = deviation
        largest.setdefault(deviation.quantity, deviation)
    return list(largest.values())


def _inflora_stages(arrays: Arrays) -> Iterator[Deviation]:
    model, modules = _inflora_model(arrays)
    depth = len(modules)
    for epochs in (3, 20, 50):
        factors = [cosine_factor(epoch, epochs) for epoch in range(epochs)]
        yield _off("factors of the learning rate", np.array(factors), arrays[f"lr_factor_{epochs}"], EXACT)
    for t in range(int(arrays["sessions"])):
        images = torch.from_numpy(arrays["x"][t])
        before = second_moments(model, [images])
        for b, module in enumerate(modules):
            key = f"t{t}.b{b}"
            yield _off("second moments before training", before[b].numpy(), arrays[f"{key}.cov_before"], MOMENT)
            designed = _recorded_basis(arrays, t - 1, b).design(
                torch.from_numpy(arrays[f"{key}.cov_before"]), int(arrays["rank"])
            )
            recorded = arrays[f"{key}.A"]
            yield _off("designed A^T A", (designed.T @ designed).numpy(), recorded.T @ recorded, STAGE)
            module.begin(torch.from_numpy(recorded))
        yield from _inflora_training(arrays, model, modules, t)
        after = second_moments(model, [images])
        for b in range(depth):
            key = f"t{t}.b{b}"
            yield _off("second moments after training", after[b].numpy(), arrays[f"{key}.cov_after"], MOMENT)
            basis = _recorded_basis(arrays, t - 1, b)
            basis.update(torch.from_numpy(arrays[f"{key}.cov_after"]), float(arrays[f"t{t}.threshold"]))
            yield from _off_basis("", basis, arrays, key, STAGE)
    yield from _inflora_end("", arrays, model, STAGE)


def _inflora_training(arrays: Arrays, model: ContinualModel, modules: list[Branches], t: int) -> Iterator[Deviation]:
    """Train B and the head of experience t, compare them, and put the recorded ones in their place."""
    head: Any = model.heads.heads[t]
    trained = [*(module.B for module in modules), head.weight, head.bias]
    optimizer = torch.optim.Adam(trained, lr=float(arrays["lr"]))
    images, labels = torch.from_numpy(arrays["x"][t]), torch.from_numpy(arrays["labels"][t])
    epochs, size = int(arrays["epochs"]), int(arrays["batch_size"])
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = float(arrays["lr"]) * cosine_factor(epoch, epochs)
        for x, y in zip(images.split(size), labels.split(size), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(head(model.features(x)), y - int(labels.min())).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    yield from _off_trained("", arrays, t, modules, head)
    with torch.no_grad():
        for b, module in enumerate(modules):
            module.B.copy_(torch.from_numpy(np.stack([arrays[f"t{t}.b{b}.B_{part}"] for part in "kv"])))
        head.weight.copy_(torch.from_numpy(arrays[f"t{t}.head_weight_after"]))
        head.bias.copy_(torch.from_numpy(arrays[f"t{t}.head_bias_after"]))


def _inflora_probe(arrays: Arrays) -> Iterator[Deviation]:
    """Tokens, loss and gradients with other B in the last experience, and the recorded ones before."""
    model, modules = _inflora_model(arrays)
    last = int(arrays["sessions"]) - 1
    for b, module in enumerate(modules):
        for t in range(last + 1):
            module.begin(torch.from_numpy(arrays[f"t{t}.b{b}.A"]))
            of_task = f"t{t}.b{b}" if t < last else f"probe.b{b}"
            module.B.data.copy_(torch.from_numpy(np.stack([arrays[f"{of_task}.B_{part}"] for part in "kv"])))
    images, labels = torch.from_numpy(arrays["x"][last][:4]), torch.from_numpy(arrays["labels"][last])
    backbone: Any = model.backbone
    tokens = backbone.forward_features(images)
    head = [torch.from_numpy(arrays[f"t{last}.head_{name}_after"]) for name in ("weight", "bias")]
    loss = F.cross_entropy(F.linear(tokens[:, 0], *head), labels[:4] - int(labels.min()))
    loss.backward()  # type: ignore[no-untyped-call]
    yield _off("probe: tokens", tokens.detach().numpy(), arrays["probe.tokens"], STAGE)
    yield _off("probe: loss", loss.detach().numpy(), arrays["probe.loss"], EXACT)
    for b, module in enumerate(modules):
        assert module.B.grad is not None
        for gradient, part in zip(module.B.grad, "kv", strict=True):
            recorded = arrays[f"probe.b{b}.grad_B_{part}"]
            scale = np.abs(recorded).max()
            yield _off(f"probe: gradient of B_{part}", gradient.numpy() / scale, recorded / scale, GRADIENT)


class _Recorded(SupervisedPlugin[Any]):
    """Starts each head as recorded, and compares what the experience came to. It follows :class:`InfLoRA`."""

    def __init__(self, arrays: Arrays, modules: list[Branches], method: InfLoRA) -> None:
        super().__init__()
        self.arrays, self.modules, self.method = arrays, modules, method
        self.deviations: list[Deviation] = []
        self.t = -1

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.t = t = strategy.clock.train_exp_counter
        head = strategy.model.heads.heads[t]
        head.weight.data.copy_(torch.from_numpy(self.arrays["head_weight"][t]))
        head.bias.data.copy_(torch.from_numpy(self.arrays["head_bias"][t]))
        for b, module in enumerate(self.modules):
            recorded = self.arrays[f"t{t}.b{b}.A"]
            quantity = "chain: designed A^T A"
            self.deviations.append(_off(quantity, (module.A.T @ module.A).numpy(), recorded.T @ recorded, CHAIN))

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        t, head = self.t, strategy.model.heads.heads[self.t]
        self.deviations += _off_trained("chain: ", self.arrays, t, self.modules, head, CHAIN)
        for b, basis in enumerate(self.method.bases):
            self.deviations += _off_basis("chain: ", basis, self.arrays, f"t{t}.b{b}", CHAIN)


def _inflora_chain(arrays: Arrays) -> Iterator[Deviation]:
    """The plugin, in Avalanche's plain strategy."""
    model, modules = _inflora_model(arrays, heads=False)
    method = InfLoRA(float(arrays["lamb"]), float(arrays["lame"]), int(arrays["sessions"]), images="test")
    recorded = _Recorded(arrays, modules, method)
    trained = [{"params": [module.B for module in modules]}, {"params": list(model.heads.parameters())}]
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(trained, lr=float(arrays["lr"])),
        criterion=TaskCrossEntropy(),
        train_mb_size=int(arrays["batch_size"]),
        train_epochs=int(arrays["epochs"]),
        plugins=[InfLoRARates(), method, recorded],
        evaluator=EvaluationPlugin(loggers=[BaseLogger()]),
    )
    for experience in _inflora_stream(arrays):
        strategy.train(experience, shuffle=False)
    yield from recorded.deviations
    yield from _inflora_end("chain: ", arrays, model.eval(), CHAIN)


def _inflora_stream(arrays: Arrays) -> Any:
    """The images in their order, which Avalanche keeps in a benchmark of given datasets only."""
    datasets = []
    for images, labels in zip(arrays["x"], arrays["labels"], strict=True):
        data: Any = TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
        data.targets = labels.tolist()
        datasets.append(as_classification_dataset(data))
    return benchmark_from_datasets(train=datasets).train_stream


def _inflora_model(arrays: Arrays, heads: bool = True) -> tuple[ContinualModel, list[Branches]]:
    model = ContinualModel(_recorded_vit(arrays))
    modules = attach_inflora(model, rank=int(arrays["rank"]))
    for t, labels in enumerate(arrays["labels"] if heads else ()):
        head = model.heads.add_head(sorted(set(labels.tolist())))
        head.weight.data.copy_(torch.from_numpy(arrays["head_weight"][t]))
        head.bias.data.copy_(torch.from_numpy(arrays["head_bias"][t]))
    return model.eval(), modules


def _recorded_basis(arrays: Arrays, t: int, b: int) -> DualGPM:
    """The state of a layer after experience t; -1: before the first."""
    basis = DualGPM()
    if t >= 0:
        key = f"t{t}.b{b}"
        projector = torch.from_numpy(arrays[f"{key}.basis_projector"]).double()
        basis.basis = torch.linalg.svd(projector).U[:, : int(arrays[f"{key}.basis_size"])]
        basis.kind = "retain" if str(arrays[f"{key}.basis_type"]) == "retain" else "remove"
    return basis


def _off(quantity: str, own: np.ndarray, recorded: np.ndarray, tolerance: float) -> Deviation:
    return Deviation(quantity, float(np.abs(own - recorded).max()), tolerance)


def _off_trained(
    chain: str, arrays: Arrays, t: int, modules: list[Branches], head: Any, tolerance: float = STAGE
) -> Iterator[Deviation]:
    for b, module in enumerate(modules):
        for part, trained in zip("kv", module.B.detach(), strict=True):
            recorded = arrays[f"t{t}.b{b}.B_{part}"] @ arrays[f"t{t}.b{b}.A"]
            yield _off(f"{chain}B_{part} A", (trained @ module.A).numpy(), recorded, tolerance)
    for name in ("weight", "bias"):
        own = getattr(head, name).detach().numpy()
        yield _off(f"{chain}head's {name}", own, arrays[f"t{t}.head_{name}_after"], tolerance)


def _off_basis(chain: str, basis: DualGPM, arrays: Arrays, key: str, tolerance: float) -> Iterator[Deviation]:
    assert basis.basis is not None
    size, kind = int(arrays[f"{key}.basis_size"]), str(arrays[f"{key}.basis_type"])
    projector = (basis.basis @ basis.basis.T).numpy()
    yield _off(f"{chain}projector of the basis", projector, arrays[f"{key}.basis_projector"], tolerance)
    yield Deviation(f"{chain}bases of another size", float(basis.basis.shape[1] != size), 0.5)
    yield Deviation(f"{chain}bases of another type", float(basis.kind != kind), 0.5)


def _inflora_end(chain: str, arrays: Arrays, model: ContinualModel, tolerance: float) -> Iterator[Deviation]:
    """The logits of all heads, and the weights with all branches folded into them. The model loses its branches."""
    images = torch.from_numpy(arrays["x"][:, :2]).flatten(0, 1)
    with torch.no_grad():
        yield _off(f"{chain}logits of all heads", model(images).numpy(), arrays["logits_all"], tolerance)
    detach_inflora(model, merge=True)
    backbone: Any = model.backbone
    last = int(arrays["sessions"]) - 1
    for b, block in enumerate(backbone.blocks):
        _, keys, values = block.attn.qkv.weight.detach().numpy().reshape(3, -1, arrays["head_weight"].shape[-1])
        for name, own in (("k", keys), ("v", values)):
            yield _off(f"{chain}merged W_{name}", own, arrays[f"t{last}.b{b}.merged_{name}"], tolerance)


# --- recognition ---

KINDS: tuple[tuple[frozenset[str], Callable[[Arrays], list[Deviation]]], ...] = (
    (frozenset({"lr0", "back_level_max", "n_pretrained", "init_0"}), olor),
    (frozenset({"X", "Y", "task_sizes", "head_weight", "weight_after_mean"}), slca),
    (frozenset({"kind", "adapt_blocks", "tokens_plain", "tokens_adapted"}), lae_module),
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
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"cannot read {path} as an .npz archive: {error}") from error
    for names, run in KINDS:
        if names <= arrays.keys():
            try:
                return run(arrays)
            except KeyError as error:
                raise ValueError(f"{path} is not a whole golden file: it lacks the array {error}") from error
    raise ValueError(f"{path} is no golden file known here: its arrays are {', '.join(sorted(arrays)[:8])}, ...")
