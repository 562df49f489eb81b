"""Baselines with a replay buffer, by Avalanche's own implementations: experience replay, GDumb, BiC and DER++.

Each subclass says what it mends. All but DER++ train with a loss over all classes seen (``TaskCrossEntropy(restrict=False)``) and with
earlier heads open (``ContinualModel(freeze_earlier=False)``); DER++ needs one head over all classes, made before the optimizer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from avalanche.models.bic_model import BiasLayer
from avalanche.training.plugins import BiCPlugin, GDumbPlugin, ReplayPlugin
from avalanche.training.storage_policy import ClassBalancedBuffer
from avalanche.training.supervised.der import DER
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader

from .byte_counts import bytes_of
from .heads import require_continual_model
from .task_loss import TaskLoss


class Memory(ClassBalancedBuffer):
    """Avalanche's buffer of ``mem_size`` images, the same number of each class seen; images are drawn by torch's global generator.

    Mends: ``update`` warns at every experience that it will go away with Avalanche 0.7.
    """

    def __init__(self, mem_size: int) -> None:
        if mem_size < 1:
            raise ValueError(f"mem_size must be at least 1 image, got {mem_size}")
        super().__init__(mem_size)

    def update(self, strategy: Any, **kwargs: Any) -> None:
        self.post_adapt(strategy, strategy.experience)


class Replay(ReplayPlugin):
    """Experience replay: to each batch of new images as Avalanche's plugin does it come ``batch_size_mem`` images of the memory.

    :param mem_size: images in the memory, the same number of each class.
    :param batch_size_mem: images of the memory in each batch; as many as new ones when not given.
    """

    def __init__(self, mem_size: int = 500, batch_size_mem: int | None = None) -> None:
        super().__init__(mem_size, batch_size_mem=batch_size_mem, storage_policy=Memory(mem_size))

    @property
    def bytes_kept(self) -> int:
        """Bytes of the memory: images as the evaluation transform gives them, class ids and task labels."""
        return _bytes_of_images(self.storage_policy.buffer)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        _require_open_heads(strategy.model, "Replay")
        super().before_training_exp(strategy, **kwargs)


class GDumb(GDumbPlugin):
    """GDumb (Prabhu et al., 2020): for each experience the initial model is trained anew, on the memory alone.

    ``strategy.model`` becomes another object with each experience; Avalanche puts its parameters where those of the last one were in the
    optimizer. An epoch is one over the memory.

    Mends: evaluating classes not trained yet gave the initial model heads for them, and so all later models.

    :param mem_size: images in the memory, the same number of each class; the current experience's are drawn before training.
    """

    def __init__(self, mem_size: int = 500) -> None:
        super().__init__(mem_size)
        self.storage_policy = Memory(mem_size)

    @property
    def bytes_kept(self) -> int:
        """Bytes of the memory (see :class:`Replay`) and of the initial model."""
        return _bytes_of_images(self.storage_policy.buffer) + bytes_of(self.init_model)

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        _require_open_heads(strategy.model, "GDumb")
        super().before_train_dataset_adaptation(strategy, **kwargs)

    def before_eval_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        pass


class BiC(BiCPlugin):
    """Bias correction (Wu et al., 2019): replay and distillation; then a scale and a shift of the newest classes' logits, for evaluation.

    The two numbers are fitted on images held out from every class, under the evaluation transform; these come on top of ``mem_size``.

    Mends: Avalanche 0.6 passes ``MultiStepLR`` an argument that torch no longer takes; its distillation normalises the old model's logits
    over the batch instead of over the classes; it runs the frozen model anew in each of the 200 epochs of the second stage; and it takes
    the held-out images out of the caller's experience. Streams whose experiences forbid that last step raise a ``TypeError``.

    :param mem_size: images in the memory, the same number of each class.
    :param val_percentage: number of held-out images, as a part of ``mem_size`` (0.1 is a tenth); at least one of each class is needed.
    :param T: temperature of the distillation.
    :param stage_2_epochs: epochs of the fit; its rate falls to a tenth after 50, 100 and 150 of them.
    :param lr: learning rate of the fit.
    """

    def __init__(
        self,
        mem_size: int = 500,
        batch_size_mem: int | None = None,
        val_percentage: float = 0.1,
        T: float = 2.0,
        stage_2_epochs: int = 200,
        lr: float = 0.1,
    ) -> None:
        super().__init__(
            mem_size,
            batch_size_mem=batch_size_mem,
            storage_policy=Memory(mem_size),
            val_percentage=val_percentage,
            T=T,
            stage_2_epochs=stage_2_epochs,
            lr=lr,
        )

    @property
    def bytes_kept(self) -> int:
        """Bytes of the memory and the held-out images (see :class:`Replay`), of the old model and of the correction."""
        images = [self.storage_policy.buffer, *(held_out.buffer for held_out in self.val_buffer.values())]
        return sum(map(_bytes_of_images, images)) + bytes_of(self.model_old) + bytes_of(self.bias_layer)

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        _require_open_heads(strategy.model, "BiC")
        seen = len(self.seen_classes | set(strategy.experience.classes_in_this_experience))
        held_out, fewest = int(self.val_percentage * self.mem_size), min(strategy.experience.dataset.targets.count.values())
        if not 1 <= held_out / seen <= fewest - 1:
            raise ValueError(
                f"BiC holds out val_percentage x mem_size = {held_out} images of {seen} classes: that must be at least one of each class, "
                f"and leave one of the {fewest} to train on; change one of the two"
            )
        strategy.experience = copy.copy(strategy.experience)  # Avalanche takes the held-out images out of it; the caller's stays whole
        try:
            strategy.experience.dataset = strategy.experience.dataset
        except AttributeError as error:
            kind = type(strategy.experience).__name__
            raise TypeError(f"BiC replaces the dataset of an experience, which {kind} forbids: make the stream by nc_benchmark") from error
        super().before_train_dataset_adaptation(strategy, **kwargs)

    def cross_entropy(self, new_outputs: Tensor, old_outputs: Tensor) -> Tensor:
        return F.cross_entropy(new_outputs / self.T, torch.softmax(old_outputs / self.T, dim=1))

    def bias_correction_step(self, strategy: Any, persistent_workers: bool = False, num_workers: int = 0) -> None:
        strategy.model.eval()
        with torch.no_grad():
            batches = [
                (strategy.model(images.to(strategy.device)), targets.to(strategy.device))
                for held_out in self.val_buffer.values()
                for images, targets, *_ in DataLoader(held_out.buffer.eval(), strategy.eval_mb_size, collate_fn=held_out.buffer.collate_fn)
            ]
        logits, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        self.bias_layer = BiasLayer(strategy.experience.classes_in_this_experience).to(strategy.device)
        optimizer = SGD(self.bias_layer.parameters(), self.lr, momentum=0.9)
        schedule = MultiStepLR(optimizer, [50, 100, 150], 0.1)
        for _ in range(self.stage_2_epochs):
            for batch in torch.randperm(len(targets)).split(strategy.train_mb_size):
                optimizer.zero_grad()
                loss = F.cross_entropy(self.bias_layer(logits[batch]), targets[batch]) + 0.1 * self.bias_layer.beta.square().sum() / 2
                loss.backward()
                optimizer.step()
            schedule.step()


class DERPlusPlus(DER):
    """DER++ (Buzzega et al., 2020), a strategy: used like ``Naive``, with ``mem_size``, ``batch_size_mem``, ``alpha`` and ``beta``.

    Loss on the new images: cross-entropy over all classes; on those of the memory: alpha x the mean squared distance of the logits to
    the stored ones + beta x cross-entropy. The stored logits are the model's in eval mode after the experience, without augmentation.
    One batch of the memory serves both terms. The memory is used once it holds a whole batch.

    The loss does not go through the criterion once there is a memory: leave that at its default. The head must be as wide as the stream:
    ``model.heads.add_head(range(n_classes))`` before the optimizer is made.

    Mends: plugins' ``before_forward`` (augmentation) sees the memory's images too, not the new ones alone; between two epochs the strategy
    can be pickled.
    """

    plugins: list[Any]
    replay_loader: Any

    @property
    def bytes_kept(self) -> int:
        """Bytes of the memory (see :class:`Replay`) and of its logits."""
        return _bytes_of_images(self.storage_policy.buffer)

    def _before_training_exp(self, **kwargs: Any) -> None:
        missing = set(self.experience.classes_in_this_experience) - set(require_continual_model(self.model, "DER++").heads.classes)
        if missing:
            raise ValueError(
                f"DER++ stores logits and needs a head that does not grow, but there is none for the classes {sorted(missing)}: "
                "call model.heads.add_head(range(n_classes)) before you make the optimizer"
            )
        if isinstance(self._criterion, TaskLoss) and self._criterion.restrict:
            name = type(self._criterion).__name__
            raise ValueError(f"DER++ trains on all classes, but {name} on the current ones alone: use {name}(restrict=False)")
        super()._before_training_exp(**kwargs)
        if self.replay_loader is not None:
            workers = kwargs.get("num_workers", 0)
            memory = DataLoader(self.storage_policy.buffer, self.batch_size_mem, shuffle=True, drop_last=True, num_workers=workers)
            self.replay_loader = Endless(memory)

    def _before_forward(self, **kwargs: Any) -> None:
        plugins, self.plugins = self.plugins, []
        super()._before_forward(**kwargs)  # puts the memory's images before the new ones
        self.plugins = plugins
        super(DER, self)._before_forward(**kwargs)


class Endless:
    """The batches of a data loader, pass after pass. Pickled and unpickled, it goes on with the same batches in the midst of a pass."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self._batches: Iterator[Any] | None = None
        self._taken = 0  # in this pass
        self._random_state = torch.get_rng_state()  # where it began

    def __next__(self) -> Any:
        if self._batches is None and self._taken:  # unpickled
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self._random_state)
                self._batches = iter(self.loader)
                for _ in range(self._taken):
                    next(self._batches)
        batch = None if self._batches is None else next(self._batches, None)
        if batch is None:
            self._random_state, self._taken = torch.get_rng_state(), 0
            self._batches = iter(self.loader)
            batch = next(self._batches)
        self._taken += 1
        return batch

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_batches": None}


def _require_open_heads(model: nn.Module, who: str) -> None:
    if require_continual_model(model, who).heads.freeze_earlier:
        raise ValueError(f"{who} trains the heads of earlier experiences too: make the model with ContinualModel(freeze_earlier=False)")


def _bytes_of_images(dataset: Any) -> int:
    """Bytes of all that the samples of an Avalanche dataset hold, as if they were copied: it keeps indices into the experiences' data."""
    if len(dataset) == 0:
        return 0
    return len(dataset) * sum(t.nbytes for t in dataset.collate_fn([dataset.eval()[0]]))
