"""One run on several devices: a process for each, started by ``torchrun``, which trains on its part of every batch.

All processes do the same: they read the same batches in the same order and draw the same random numbers. In a step
each passes its part of the batch through torch's ``DistributedDataParallel``, which averages the gradients to that of
the whole batch. Features of a whole dataset are shared out by batches (:mod:`reclaim.strategies.features`), evaluation
is repeated by each process. The first process is the one that has locks, checkpoints, records and the terminal; the
others make the runs that it makes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from reclaim.strategies.frozen_batch_norm import moving_batch_norms
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..config import Config
from .runtime import process


class Replicas:
    """The passes of a model in training, each process with its part of the batch."""

    def __init__(self) -> None:
        self._wrapped: DistributedDataParallel | None = None
        self._trained: list[int] = []

    def forward(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits of this process's images. The backward pass that follows averages gradients over the processes."""
        trained = [id(model), *(id(p) for p in model.parameters() if p.requires_grad)]
        if self._wrapped is None or trained != self._trained:  # a new head, or what was frozen trains now
            self._wrapped = DistributedDataParallel(model, find_unused_parameters=True)
            self._trained = trained
        logits: Tensor = self._wrapped(images)
        return logits

    @staticmethod
    def part(batch: Sequence[Tensor]) -> tuple[list[Tensor], int, float]:
        """This process's part of a batch, the number of its images, and the weight that makes the average of all
        processes' gradients that of the batch.

        Of a batch that is smaller than the number of processes some get the first image, with weight 0.
        """
        rank, processes = process()
        n = len(batch[0])
        part = slice(n * rank // processes, n * (rank + 1) // processes)
        counted = part.stop - part.start
        return [of_all[part if counted else slice(1)] for of_all in batch], counted, counted * processes / n


def summed(values: np.ndarray) -> np.ndarray:
    """The sum of an array (float64) over the processes."""
    if process()[1] == 1:
        return values
    found: list[Any] = [None] * process()[1]
    distributed.all_gather_object(found, values)
    total: np.ndarray = np.sum(found, axis=0)
    return total


@contextmanager
def first_process_first() -> Iterator[None]:
    """A context that the others enter when the first process has left it."""
    rank, processes = process()
    if rank:
        distributed.barrier()
    yield
    if processes > 1 and not rank:
        distributed.barrier()


def require_alike(strategy: Any) -> None:
    """Refuse processes that would go on from different places, such as different checkpoints.

    :raises RuntimeError: the experiences and epochs that they have trained differ.
    """
    clock = strategy.clock
    found: list[Any] = [None] * process()[1]
    if len(found) > 1:
        distributed.all_gather_object(found, (clock.train_exp_counter, clock.train_exp_epochs, clock.train_iterations))
    if len(set(found)) > 1:
        raise RuntimeError(
            f"the processes go on from different places (experiences, epochs and steps done: {found}): start the same "
            f"command again"
        )


def require_divisible(config: Config, backbone: nn.Module) -> None:
    """Refuse what is not the same when a batch is divided.

    :raises ValueError: names it.
    """
    estimates = config.batch_norm == "train" and config.trainable == "all" and bool(moving_batch_norms(backbone))
    why = {
        "micro_batch": config.micro_batch is not None,
        "l2p": config.l2p is not None,
        "dualprompt": config.dualprompt is not None,
        "batch_norm": estimates,
        "memory": config.memory is not None,
        "external": config.external is not None,
    }
    if found := [name for name, is_so in why.items() if is_so]:
        raise ValueError(f"{found[0]} needs whole batches, or a strategy of its own: use one process, without torchrun")


@contextmanager
def joined(device: str) -> Iterator[bool]:
    """The processes that torchrun started, for as long as the context lasts: whether this one leads.

    :param device: "cpu", or "cuda": each process has that of its number on the machine.
    """
    if process()[1] == 1:
        yield True
        return
    accelerated = torch.device(device).type == "cuda"
    if accelerated:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if accelerated else "gloo")
    try:
        yield process()[0] == 0
        if process()[0] == 0:
            announce(None)
    finally:
        distributed.destroy_process_group()


def announce(job: Any) -> None:
    """Tell the others which run the first process makes now; None: no more."""
    distributed.broadcast_object_list([job])


def announced() -> Iterator[Any]:
    """The runs that the first process announces."""
    while True:
        found: list[Any] = [None]
        distributed.broadcast_object_list(found)
        if found[0] is None:
            return
        yield found[0]
