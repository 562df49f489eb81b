"""Baselines with a replay buffer, on Avalanche's own implementations: experience replay, GDumb, BiC and DER++.

Each subclass lists what it fixes in Avalanche's code under "Fixes upstream", and takes its arguments and models. All
but DER++ train with a loss over all classes seen (``TaskCrossEntropy(restrict=False)``) and with trainable earlier
heads (``ContinualModel(freeze_earlier=False)``). DER++ needs one head over all classes, made before the optimizer.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from avalanche.models import MultiTaskModule
from avalanche.models.bic_model import BiasLayer
from avalanche.training.plugins import BiCPlugin, GDumbPlugin, ReplayPlugin
from avalanche.training.storage_policy import ClassBalancedBuffer, ExemplarsBuffer
from avalanche.training.supervised.der import DER
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader

from .byte_counts import bytes_of
from .features import eval_mode
from .heads import ContinualModel
from .runs import Owner, classes_of, require_counted
from .task_loss import TaskLoss
from .wrappers import unwrap


class Memory(ClassBalancedBuffer):
    """Avalanche's buffer of ``mem_size`` images, equally many of each class seen, drawn with torch's global generator.

    Fixes upstream: ``update`` warns at every experience that Avalanche 0.7 will remove it.
    """

    def __init__(self, mem_size: int) -> None:
        if mem_size < 1:
            raise ValueError(f"mem_size must be at least 1 image, got {mem_size}")
        super().__init__(mem_size)

    def update(self, strategy: Any, **kwargs: Any) -> None:
        self.post_adapt(strategy, strategy.experience)


class Replay(ReplayPlugin):
    """Experience replay by Avalanche's plugin: each batch of new images is joined by ``batch_size_mem``
    images from the memory.

    The arguments are Avalanche's, in its order. Only the memory is another one by default. With another strategy on
    another model it starts empty; so do those of GDumb and BiC.

    :param mem_size: number of images in the memory.
    :param batch_size: number of new images in each batch; by default the strategy's.
    :param batch_size_mem: number of images from the memory in each batch; by default the strategy's, too.
    :param task_balanced_dataloader: draw equally many images from each task in the memory.
    :param storage_policy: Avalanche's, of ``mem_size`` images; by default :class:`Memory`, equally many of each class.
    :raises ValueError: ``mem_size`` is below 1, or not that of ``storage_policy``; before training, the model freezes
        earlier heads, the loss sees the current classes only, or a given memory holds images of another strategy.
    """

    storage_policy: Any

    def __init__(
        self,
        mem_size: int = 500,
        batch_size: int | None = None,
        batch_size_mem: int | None = None,
        task_balanced_dataloader: bool = False,
        storage_policy: ExemplarsBuffer | None = None,
    ) -> None:
        policy = _memory(mem_size, storage_policy)
        super().__init__(mem_size, batch_size, batch_size_mem, task_balanced_dataloader, policy)
        self._owner = Owner()

    @property
    def bytes_kept(self) -> int:
        """Bytes of the memory: images after the evaluation transform, class ids and task labels."""
        return _bytes_of_images(self.storage_policy.buffer)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        _require_all_classes(strategy, "Replay")
        if self._owner.changes_to(strategy, strategy.model):
            self.storage_policy = _emptied(self.storage_policy)
        super().before_training_exp(strategy, **kwargs)


class GDumb(GDumbPlugin):
    """GDumb (Prabhu et al., 2020): in each experience, trains again from the initial model, on the memory only.

    The model gets its initial values again in place, and the optimizer loses its momentum. One epoch is one pass
    over the memory.

    Fixes upstream:

    - Avalanche makes ``strategy.model`` a new object in each experience, with new parameters. What was keyed by the old
      ones ended in silence, such as OLOR's rollback.
    - Evaluating classes before training on them gave the initial model heads for them, and so all later models.
    - A plugin used again, in another strategy, gave that strategy the first one's initial model.

    :param mem_size: number of images in the memory, equally many of each class. Those of the current experience are
        drawn before training.
    :raises ValueError: ``mem_size`` is below 1; before training, the model freezes earlier heads, or the loss sees the
        current classes only.
    """

    def __init__(self, mem_size: int = 500) -> None:
        super().__init__(mem_size)
        self.storage_policy = Memory(mem_size)
        self._owner = Owner()

    @property
    def bytes_kept(self) -> int:
        """Bytes of the memory (see :class:`Replay`) and of the initial model."""
        return _bytes_of_images(self.storage_policy.buffer) + bytes_of(self.init_model)

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        _require_all_classes(strategy, "GDumb")
        if self._owner.changes_to(strategy, strategy.model):
            self.init_model, self.storage_policy = None, Memory(self.mem_size)
        if self.init_model is None:
            self.init_model = copy.deepcopy(strategy.model)
        else:
            _start_again(strategy, self.init_model)
        strategy.model_adaptation(self.init_model)

    def before_eval_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        pass


class BiC(BiCPlugin):
    """Bias correction (Wu et al., 2019): replay and distillation, then a scale and a shift of the newest classes'
    logits in evaluation.

    Scale and shift are fitted to images held out from every class, with the evaluation transform. These images come on
    top of ``mem_size``.

    Fixes upstream (Avalanche 0.6):

    - It passes ``MultiStepLR`` an argument that torch no longer has.
    - Its distillation normalises the old model's logits over the batch instead of over the classes.
    - It runs the frozen model again in each of the 200 epochs of the second stage.
    - It removes the held-out images from the caller's experience. Streams whose experiences do not allow the copy that
      avoids this raise a ``TypeError``.

    The arguments are Avalanche's, in its order.

    :param mem_size, batch_size, batch_size_mem, task_balanced_dataloader, storage_policy: see :class:`Replay`.
    :param val_percentage: number of held-out images as a fraction of ``mem_size`` (0.1 is a tenth); at least one per
        class is needed.
    :param T: temperature of the distillation.
    :param stage_2_epochs: epochs of the fit. Its learning rate falls to a tenth after 50, 100 and 150 of them.
    :param lamb: factor of the distillation, beside cross-entropy; by default (-1) the part of the old classes among
        all, and the rest for cross-entropy.
    :param lr: learning rate of the fit.
    :param num_workers: processes that load the images of the fit; by default as many as for training.
    :param verbose: print scale and shift after the fit.
    :raises ValueError: as for :class:`Replay`; before training, too few or too many held-out images, or a new strategy
        on the same model, whose clock has not counted the experiences before.
    :raises TypeError: before training, a model with task labels, or a dataset that cannot be replaced.
    """

    storage_policy: Any
    bias_layer: Any
    val_buffer: dict[int, Any]
    seen_classes: set[int]
    class_to_tasks: dict[int, int]

    def __init__(
        self,
        mem_size: int = 500,
        batch_size: int | None = None,
        batch_size_mem: int | None = None,
        task_balanced_dataloader: bool = False,
        storage_policy: ExemplarsBuffer | None = None,
        val_percentage: float = 0.1,
        T: float = 2.0,
        stage_2_epochs: int = 200,
        lamb: float = -1,
        lr: float = 0.1,
        num_workers: int | Literal["as_strategy"] = "as_strategy",
        verbose: bool = False,
    ) -> None:
        super().__init__(
            mem_size,
            batch_size,
            batch_size_mem,
            task_balanced_dataloader,
            _memory(mem_size, storage_policy),
            val_percentage,
            T,
            stage_2_epochs,
            lamb,
            lr,
            num_workers,
            verbose,
        )
        self._owner = Owner()

    @property
    def bytes_kept(self) -> int:
        """Bytes of the memory and the held-out images (see :class:`Replay`), of the old model and of the correction."""
        images = [self.storage_policy.buffer, *(held_out.buffer for held_out in self.val_buffer.values())]
        return sum(map(_bytes_of_images, images)) + bytes_of(self.model_old) + bytes_of(self.bias_layer)

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(unwrap(strategy.model), MultiTaskModule):
            raise TypeError(
                f"BiC compares the logits of all classes, and {type(strategy.model).__name__} has those of one task at "
                f"a time: let the model end in Avalanche's IncrementalClassifier"
            )
        super().before_training(strategy, *args, **kwargs)

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        _require_all_classes(strategy, "BiC")
        if self._owner.changes_to(strategy, strategy.model):
            self.storage_policy, self.val_buffer = _emptied(self.storage_policy), {}
            self.seen_classes, self.class_to_tasks = set(), {}
            self.bias_layer = self.model_old = None
            self.is_first_experience = True
        require_counted(strategy, "BiC", max(self.class_to_tasks.values(), default=-1) + 1)
        seen = len(self.seen_classes | set(classes_of(strategy.experience)))
        held_out, fewest = (
            int(self.val_percentage * self.mem_size),
            min(strategy.experience.dataset.targets.count.values()),
        )
        if not 1 <= held_out / seen <= fewest - 1:
            raise ValueError(
                f"BiC holds out val_percentage x mem_size = {held_out} images of {seen} classes: "
                f"this must be at least one per class, "
                f"and leave one of the {fewest} to train on; change one of the two"
            )
        # Avalanche removes the held-out images: let it do so from a copy, not from the caller's experience
        strategy.experience = copy.copy(strategy.experience)
        try:
            strategy.experience.dataset = strategy.experience.dataset
        except AttributeError as error:
            kind = type(strategy.experience).__name__
            raise TypeError(
                f"BiC replaces the dataset of an experience, which {kind} does not allow: "
                f"make the stream with nc_benchmark"
            ) from error
        super().before_train_dataset_adaptation(strategy, **kwargs)

    def after_eval_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if not self._owner.is_another(strategy, strategy.model):
            super().after_eval_forward(strategy, **kwargs)

    def make_distillation_loss(self, strategy: Any) -> Tensor:
        """Upstream's, for streams in which classes come back, too: these count as classes of the experience."""
        initial, previous, _ = self._classes_groups(strategy)
        old = sorted({*initial, *previous})
        if not old or self.model_old is None:
            return strategy.mb_output.new_zeros(())
        with torch.no_grad():
            before = self.bias_forward(self.model_old(strategy.mb_x))
        return self.cross_entropy(strategy.mb_output[:, old], before[:, old])

    def cross_entropy(self, new_outputs: Tensor, old_outputs: Tensor) -> Tensor:
        return F.cross_entropy(new_outputs / self.T, torch.softmax(old_outputs / self.T, dim=1))

    def bias_correction_step(self, strategy: Any, persistent_workers: bool = False, num_workers: int = 0) -> None:
        with eval_mode(strategy.model):  # Avalanche calls train() once for all experiences of a stream
            batches = [
                (strategy.model(images.to(strategy.device)), targets.to(strategy.device))
                for held_out in self.val_buffer.values()
                for images, targets, *_ in DataLoader(
                    held_out.buffer.eval(),
                    strategy.eval_mb_size,
                    num_workers=num_workers,
                    collate_fn=held_out.buffer.collate_fn,
                )
            ]
        logits, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        self.bias_layer = BiasLayer(classes_of(strategy.experience)).to(strategy.device)
        optimizer = SGD(self.bias_layer.parameters(), self.lr, momentum=0.9)
        schedule = MultiStepLR(optimizer, [50, 100, 150], 0.1)
        for _ in range(self.stage_2_epochs):
            for batch in torch.randperm(len(targets)).split(strategy.train_mb_size):
                optimizer.zero_grad()
                loss = (
                    F.cross_entropy(self.bias_layer(logits[batch]), targets[batch])
                    + 0.1 * self.bias_layer.beta.square().sum() / 2
                )
                loss.backward()
                optimizer.step()
            schedule.step()
        if self.verbose:
            alpha, beta = self.bias_layer.alpha.item(), self.bias_layer.beta.item()
            print(f"BiC: classes {self.bias_layer.clss.tolist()}, scale {alpha:.4g}, shift {beta:.4g}")


class DERPlusPlus(DER):
    """DER++ (Buzzega et al., 2020), a strategy: used like ``Naive``, with ``mem_size``, ``batch_size_mem``,
    ``alpha`` and ``beta``.

    The loss on new images is cross-entropy over all classes. The loss on images from the memory is alpha x the mean
    squared difference between the logits and the stored ones + beta x cross-entropy. The stored logits are those of the
    model in eval mode after the experience, without augmentation. The same batch from the memory is used for both
    terms. The memory is used once it holds a whole batch.

    Once there is a memory, the loss does not use the criterion: leave the criterion at its default. The head must cover
    all classes of the stream: call ``model.heads.add_head(range(n_classes))`` before you make the optimizer.

    Fixes upstream: ``before_forward`` of plugins (augmentation) also sees the images from the memory, not only the new
    ones. Between two epochs the strategy can be pickled.
    """

    plugins: list[Any]
    replay_loader: Any

    @property
    def bytes_kept(self) -> int:
        """Bytes of the memory (see :class:`Replay`) and of its logits."""
        return _bytes_of_images(self.storage_policy.buffer)

    def _before_training_exp(self, **kwargs: Any) -> None:
        # another model may have a head of fixed width; where it grows, Avalanche's code fails
        heads = self.model.heads.classes if isinstance(self.model, ContinualModel) else classes_of(self.experience)
        missing = set(classes_of(self.experience)) - set(heads)
        if missing:
            raise ValueError(
                f"DER++ stores logits and needs a head that does not grow, "
                f"but there is no head for the classes {sorted(missing)}: "
                "call model.heads.add_head(range(n_classes)) before you make the optimizer"
            )
        _require_open_loss(self, "DER++")
        super()._before_training_exp(**kwargs)
        if self.replay_loader is not None:
            workers = kwargs.get("num_workers", 0)
            memory = DataLoader(
                self.storage_policy.buffer, self.batch_size_mem, shuffle=True, drop_last=True, num_workers=workers
            )
            self.replay_loader = Endless(memory)

    def _before_forward(self, **kwargs: Any) -> None:
        plugins, self.plugins = self.plugins, []
        try:
            super()._before_forward(**kwargs)  # puts the memory's images before the new ones
        finally:
            self.plugins = plugins
        super(DER, self)._before_forward(**kwargs)


class Endless:
    """The batches of a data loader, pass after pass.
    After unpickling in the middle of a pass it continues with the same batches.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self._batches: Iterator[Any] | None = None
        self._taken = 0  # in this pass
        self._random_state = torch.get_rng_state()  # at the start of this pass

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


def _memory(mem_size: int, policy: ExemplarsBuffer | None) -> ExemplarsBuffer:
    if policy is None:
        return Memory(mem_size)
    if policy.max_size != mem_size:
        raise ValueError(
            f"mem_size={mem_size}, but the storage_policy is for max_size={policy.max_size} images: they must agree"
        )
    return policy


def _emptied(policy: ExemplarsBuffer) -> ExemplarsBuffer:
    """A memory for another strategy."""
    if isinstance(policy, Memory):
        return Memory(policy.max_size)
    if len(policy.buffer):
        raise ValueError(
            f"the storage_policy {type(policy).__name__} holds {len(policy.buffer)} images of another strategy: "
            f"make a new plugin with a new storage_policy"
        )
    return policy


def _require_open_loss(strategy: Any, who: str) -> None:
    if isinstance(strategy._criterion, TaskLoss) and strategy._criterion.restrict:
        name = type(strategy._criterion).__name__
        raise ValueError(
            f"{who} trains on all classes, but {name} only on the current ones: use {name}(restrict=False)"
        )


def _require_all_classes(strategy: Any, who: str) -> None:
    _require_open_loss(strategy, who)
    model = unwrap(strategy.model)
    if isinstance(model, ContinualModel) and model.heads.freeze_earlier:
        raise ValueError(
            f"{who} trains the heads of earlier experiences too: "
            f"make the model with ContinualModel(freeze_earlier=False)"
        )


@torch.no_grad()
def _start_again(strategy: Any, initial: nn.Module) -> None:
    """Give the strategy's model the values and flags of ``initial``, in place. The optimizer forgets it.

    A model of other tensors than the initial one, because it has grown in evaluation, is replaced by a copy. Avalanche
    then puts the copy's parameters into the optimizer.
    """
    now, then = (
        dict(itertools.chain(model.named_parameters(), model.named_buffers())) for model in (strategy.model, initial)
    )
    if {name: t.shape for name, t in now.items()} != {name: t.shape for name, t in then.items()}:
        strategy.model = copy.deepcopy(initial)
        return
    for name, tensor in now.items():
        tensor.copy_(then[name])
    state = strategy.optimizer.state
    for name, parameter in strategy.model.named_parameters():
        parameter.requires_grad_(then[name].requires_grad)
        parameter.grad = None
        if parameter in state:
            state[parameter] = {}


def _bytes_of_images(dataset: Any) -> int:
    """Bytes of all samples of an Avalanche dataset, counted as if copied.
    The dataset itself has indices into the experiences' data.
    """
    if len(dataset) == 0:
        return 0
    return len(dataset) * sum(t.nbytes for t in dataset.collate_fn([dataset.eval()[0]]))
