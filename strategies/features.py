"""What a model makes of a whole dataset, for what is fitted to it:
class statistics, heads in closed form, the choice of an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from avalanche.models.utils import avalanche_forward
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, default_collate

from .heads import ContinualModel
from .parts import parts_of
from .wrappers import unwrap


def extract_features(
    model: nn.Module, dataset: Any, batch_size: int, device: torch.device | str, num_workers: int = 0
) -> tuple[Tensor, Tensor]:
    """Features (N, d), float32, and targets (N,) of a dataset, in its order, on the CPU,
    computed with the model in eval mode.

    The modes of all modules are restored afterwards. torch's global generator is not used.

    :param model: see :func:`~reclaim.strategies.parts.parts_of`.
    :param num_workers: number of processes that load the images. Pass on what ``strategy.train`` was given.
    :raises TypeError: no classifier is found in the model, so that its features are unknown.
    """
    parts = parts_of(model, "extract_features")
    # a hook reads them where the model is not ours, and code compiled before does not call it
    with nullcontext() if isinstance(parts.model, ContinualModel) else not_compiled(parts.model):
        return _of_all(parts.features, model, dataset, batch_size, device, num_workers)


def extract_logits(
    model: nn.Module, dataset: Any, batch_size: int, device: torch.device | str, num_workers: int = 0
) -> tuple[Tensor, Tensor]:
    """As :func:`extract_features`, but logits (N, C), of any model."""
    return _of_all(partial(avalanche_forward, unwrap(model)), model, dataset, batch_size, device, num_workers)


def check_features(model: nn.Module, dataset: Any, device: torch.device | str, who: str) -> Tensor:
    """Features (at most 2, d) of the first images of a dataset: whether those of all can be computed, before training.

    Generators and modes do not change.

    :param who: what needs them, for the message.
    :raises TypeError: no classifier is found in the model, or samples are not images with targets.
    :raises ValueError: the model does not end in its classifier, or features are NaN or infinite.
    """
    parts = parts_of(model, who)
    if not len(dataset):
        return torch.empty(0, 0)
    with torch.random.fork_rng(devices=[]):  # transforms may draw from it
        first = [dataset[i] for i in range(min(2, len(dataset)))]
    batch = (getattr(dataset, "collate_fn", None) or default_collate)(first)
    if isinstance(batch, Mapping) or len(batch) < 2 or not hasattr(batch[0], "to"):
        raise TypeError(
            f"{who} needs batches that begin with images and class ids, got {type(batch).__name__} of "
            f"{[type(b).__name__ for b in (batch.values() if isinstance(batch, Mapping) else batch)]}: "
            f"let the dataset return tuples"
        )
    with not_compiled(parts.model):  # two images would make a compiled model anticipate batches of any size
        features, _ = _together(_of_batches(parts.check, model, [batch], device))
    if not torch.isfinite(features).all():
        raise ValueError(
            f"NaN or infinity in the features that {type(parts.model).__name__} makes of the first images: "
            f"check its weights and the images"
        )
    return features


def require_used(strategy: Any, who: str) -> None:
    """Check, before an experience, that the layer which is taken for the model's classifier is part of its forward
    pass: all others count as the backbone.

    :raises ValueError: it is not.
    """
    parts = parts_of(strategy.model, who)
    data: Any = getattr(getattr(strategy, "experience", None), "dataset", ())
    if isinstance(parts.model, ContinualModel) or not len(data):
        return
    calls: list[None] = []
    handle = parts.classifier.register_forward_hook(lambda *_: calls.append(None))
    try:
        with not_compiled(parts.model):
            extract_logits(parts.model, data.eval().subset([0]), 1, strategy.device)
    finally:
        handle.remove()
    if not calls:
        raise ValueError(
            f"{who} takes the last {type(parts.classifier).__name__} of {type(parts.model).__name__} for its "
            f"classifier, and the model does not call it: put the classifier last, or use a ContinualModel"
        )


@contextmanager
def not_compiled(model: nn.Module) -> Iterator[None]:
    """A context in which a compiled model runs as it is written: compiled code does not call hooks that came later."""
    compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield


def _of_all(
    function: Callable[..., Tensor],
    model: nn.Module,
    dataset: Any,
    batch_size: int,
    device: torch.device | str,
    num_workers: int,
) -> tuple[Tensor, Tensor]:
    """Where several processes have joined (``torch.distributed``), each has a part of the batches, and all get all."""
    joined = distributed.is_available() and distributed.is_initialized()
    rank, processes = (distributed.get_rank(), distributed.get_world_size()) if joined else (0, 1)
    starts = range(0, len(dataset), batch_size)
    batches = [range(start, min(start + batch_size, len(dataset))) for start in starts]
    # without its own generator, the loader would draw a seed from the global one
    loader = DataLoader(
        dataset,
        batch_sampler=batches[rank::processes],  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=getattr(dataset, "collate_fn", None),
        generator=torch.Generator(),
    )
    results = _of_batches(function, model, loader, device)
    if processes > 1:
        parts: list[Any] = [None] * processes
        distributed.all_gather_object(parts, results)
        results = [parts[i % processes][i // processes] for i in range(len(batches))]
    return _together(results)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """A context: all modules in eval mode, nothing has a gradient; the modes of all are restored after it."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _of_batches(
    function: Callable[..., Tensor], model: nn.Module, batches: Any, device: torch.device | str
) -> list[tuple[Tensor, Tensor]]:
    """What a function of images (and task labels, in Avalanche the last entry) returns, and the targets, of each
    batch.
    """
    with eval_mode(model):
        return [
            (function(x.to(device), _task_labels(rest, device)).float().cpu(), torch.as_tensor(y))
            for x, y, *rest in batches
        ]


def _together(results: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([result for result, _ in results]), torch.cat([targets for _, targets in results])


def _task_labels(rest: list[Any], device: torch.device | str) -> Tensor | None:
    """Of what follows images and targets in a batch."""
    return rest[-1].to(device) if rest and isinstance(rest[-1], Tensor) else None
