"""InfLoRA against its golden files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.strategies.heads import ContinualModel
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
from reclaim.strategies.task_loss import TaskCrossEntropy
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from .golden import Arrays, Deviation, recorded_vit, relative_to, require_known

STAGE, MOMENT, EXACT, GRADIENT, CHAIN = 5e-5, 1e-5, 1e-5, 1e-4, 3e-4


def inflora(arrays: Arrays) -> list[Deviation]:
    """A small ViT trained on a few experiences: each stage from the recorded one before it, and the whole from the
    images on.

    Singular vectors have no sign: designed matrices are compared as A^T A, trained ones as B A.
    """
    require_known(arrays, "method", ["inflora"])
    largest: dict[str, Deviation] = {}
    for deviation in [*_inflora_stages(arrays), *_inflora_probe(arrays), *_inflora_chain(arrays)]:
        if not deviation.value <= largest.get(deviation.quantity, deviation).value:
            largest[deviation.quantity] = deviation
        largest.setdefault(deviation.quantity, deviation)
    return list(largest.values())


def _inflora_stages(arrays: Arrays) -> Iterator[Deviation]:
    model, modules = _inflora_model(arrays)
    depth = len(modules)
    for name in (name for name in arrays if name.startswith("lr_factor_")):
        epochs = int(name.removeprefix("lr_factor_"))
        factors = [cosine_factor(epoch, epochs) for epoch in range(epochs)]
        yield _off("factors of the learning rate", np.array(factors), arrays[name], EXACT)
    lamb, lame, sessions = (float(arrays[name]) for name in ("lamb", "lame", "sessions"))
    for t in range(len(arrays["x"])):
        yield _off("thresholds", np.array(lamb + (lame - lamb) * t / sessions), arrays[f"t{t}.threshold"], EXACT)
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
            F.cross_entropy(head(model.features(x)), y - _first_class(arrays, t)).backward()  # type: ignore[no-untyped-call]
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
    last = len(arrays["x"]) - 1
    for b, module in enumerate(modules):
        for t in range(last + 1):
            module.begin(torch.from_numpy(arrays[f"t{t}.b{b}.A"]))
            of_task = f"t{t}.b{b}" if t < last else f"probe.b{b}"
            module.B.data.copy_(torch.from_numpy(np.stack([arrays[f"{of_task}.B_{part}"] for part in "kv"])))
    n = len(arrays["probe.tokens"])
    images, labels = (torch.from_numpy(arrays[name][last][:n]) for name in ("x", "labels"))
    backbone: Any = model.backbone
    tokens = backbone.forward_features(images)
    head = [torch.from_numpy(arrays[f"t{last}.head_{name}_after"]) for name in ("weight", "bias")]
    loss = F.cross_entropy(F.linear(tokens[:, 0], *head), labels - _first_class(arrays, last))
    loss.backward()  # type: ignore[no-untyped-call]
    yield _off("probe: tokens", tokens.detach().numpy(), arrays["probe.tokens"], STAGE)
    yield _off("probe: loss", loss.detach().numpy(), arrays["probe.loss"], EXACT)
    for b, module in enumerate(modules):
        assert module.B.grad is not None
        for gradient, part in zip(module.B.grad, "kv", strict=True):
            recorded = arrays[f"probe.b{b}.grad_B_{part}"]
            scale = relative_to(recorded)
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
    for t, experience in enumerate(_inflora_stream(arrays)):
        model.heads.add_head(_classes(arrays, t))
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
    model = ContinualModel(recorded_vit(arrays))
    modules = attach_inflora(model, rank=int(arrays["rank"]))
    for t in range(len(arrays["x"]) if heads else 0):
        head = model.heads.add_head(_classes(arrays, t))
        head.weight.data.copy_(torch.from_numpy(arrays["head_weight"][t]))
        head.bias.data.copy_(torch.from_numpy(arrays["head_bias"][t]))
    return model.eval(), modules


def _first_class(arrays: Arrays, t: int) -> int:
    return t * int(arrays["head_weight"].shape[1])


def _classes(arrays: Arrays, t: int) -> range:
    """Of experience t, whether or not its few images show them all."""
    return range(_first_class(arrays, t), _first_class(arrays, t + 1))


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
    return Deviation(quantity, float(np.abs(own - recorded).max(initial=0.0)), tolerance)


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
    last = len(arrays["x"]) - 1
    for b, block in enumerate(backbone.blocks):
        _, keys, values = block.attn.qkv.weight.detach().numpy().reshape(3, -1, arrays["head_weight"].shape[-1])
        for name, own in (("k", keys), ("v", values)):
            yield _off(f"{chain}merged W_{name}", own, arrays[f"t{last}.b{b}.merged_{name}"], tolerance)
