"""Whole runs of SLCA, OLOR and L2P on embedded drawings in the way of the public codes, as plain loops: what
test_speed.py compares runs of the harness with.

Drawings are read, augmented and batched one by one by torchvision and a DataLoader. The loss is read back in each step.
Optimizers and alignment go through tensors, heads and classes one after the other. Each makes the passes of its public
code, also those for accuracies that the harness gets from others or does not need. What these codes do on a GPU alone
is left out.

- :func:`slca`: GengDavid/SLCA, models/slca.py and models/base.py.
- :func:`olor`: rainbow-xiao/OLOR-AAAI-2024, OLOR/train.py and OLOR/utils/AdamB.py.
- :func:`l2p`: JH-LEE-KR/l2p-pytorch, engine.py and prompt.py.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchvision import transforms  # type: ignore[import-untyped]

from ..config import Config
from ..training.build import make_backbone

TEST = transforms.ToTensor()
TRAIN = transforms.Compose(
    [
        transforms.RandomAffine(10, (0.07, 0.07), (0.85, 1.15), interpolation=transforms.InterpolationMode.BILINEAR),
        transforms.RandomHorizontalFlip(),
        TEST,
    ]
)


class Drawn(Dataset[tuple[Tensor, int]]):
    """Drawings (n, 1, 28, 28) in [0, 1] with their labels (n,), transformed one by one."""

    def __init__(self, drawings: Tensor, labels: Tensor, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images = (drawings[:, 0] * 255).round().to(torch.uint8).numpy()
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


Experience = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Drawings and labels for training, and for testing. Labels are numbered in order of appearance."""


def experiences(sizes: Sequence[int], train: Tensor, test: Tensor) -> list[Experience]:
    """Of drawings (classes, n, 1, 28, 28), with so many classes each."""
    return [(labelled(train, some), labelled(test, some)) for some in torch.arange(len(train)).split(list(sizes))]


def labelled(drawings: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Those of some classes (k n, 1, 28, 28), and their labels (k n,)."""
    return drawings[classes].flatten(0, 1), classes.repeat_interleave(drawings.shape[1])


def vit(config: Config) -> Any:
    """The embedded tier's pretrained ViT, with the attention that timm chooses."""
    model: Any = make_backbone(config)
    for block in model.blocks:
        block.attn.fused_attn = True
    return model


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[Any]) -> float:
    model.eval()
    hits = total = 0
    for images, labels in batches:
        hits += int((model(images).argmax(dim=1) == labels).sum())
        total += len(labels)
    return hits / total


class Joined(nn.Module):
    """A backbone, and a linear layer for each experience, whose logits (N, classes) are put side by side."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.heads, self.sizes = backbone, nn.ModuleList(), list[int]()

    def add_head(self, classes: int) -> nn.Linear:
        self.heads.requires_grad_(False)
        head = nn.Linear(128, classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        self.heads.append(head)
        self.sizes.append(classes)
        return head

    def logits(self, features: Tensor) -> Tensor:
        return torch.cat([head(features) for head in self.heads], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.backbone(images))


# SLCA


def slca(config: Config, experiences: Sequence[Experience]) -> float:
    """The last accuracy over all test drawings."""
    model, gaussians = Joined(vit(config)), list[tuple[Tensor, Tensor]]()
    tested: list[Dataset[Any]] = []
    last = math.nan
    for t, ((drawings, labels), test) in enumerate(experiences):
        known = len(gaussians)
        head = model.add_head(len(labels.unique()))
        tested.append(Drawn(*test, TEST))
        tests: DataLoader[Any] = DataLoader(ConcatDataset(tested), config.batch_size)
        batches = DataLoader(Drawn(drawings, labels, TRAIN), config.batch_size, shuffle=True)
        train_slowly(model, head, batches, tests, config, known)

        snapshot = copy.deepcopy(model.heads.state_dict())
        model.eval()
        for c in labels.unique():
            of_class = labels == c
            one = DataLoader(Drawn(drawings[of_class], labels[of_class], TEST), config.batch_size)
            with torch.no_grad():
                features = torch.cat([model.backbone(images) for images, _ in one])
            covariance = torch.cov(features.double().T).float() + 1e-4 * torch.eye(features.shape[1])
            gaussians.append((features.mean(dim=0), covariance))
        if t:
            align(model, gaussians, tests, config, per_head=model.sizes[-1])
        last = accuracy(model, tests)
        model.heads.load_state_dict(snapshot)
    return last


def train_slowly(
    model: Joined, head: nn.Linear, batches: Iterable[Any], tests: Iterable[Any], config: Config, known: int
) -> None:
    groups = [
        {"params": model.backbone.parameters(), "lr": config.lr * config.slow_factor},
        {"params": head.parameters(), "lr": config.lr},
    ]
    optimizer = SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay)
    scheduler = MultiStepLR(optimizer, [round(0.9 * config.epochs)])
    for epoch in range(1, config.epochs + 1):
        model.train()
        for images, targets in batches:
            loss = F.cross_entropy(model(images)[:, known:], targets - known)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        scheduler.step()
        if epoch % 5 == 0:
            accuracy(model, batches)
            accuracy(model, tests)


def align(
    model: Joined, gaussians: list[tuple[Tensor, Tensor]], tests: Iterable[Any], config: Config, per_head: int
) -> None:
    assert config.alignment
    of = config.alignment
    assert of.tau
    model.heads.requires_grad_(True)
    optimizer = SGD(model.heads.parameters(), lr=config.lr, momentum=0.9, weight_decay=of.weight_decay)
    scheduler = CosineAnnealingLR(optimizer, of.epochs)
    for _ in range(of.epochs):
        drawn = []
        for c, (mean, covariance) in enumerate(gaussians):
            kept = 0.9 + 0.1 * (c // per_head + 1) / len(model.sizes)
            drawn.append(
                torch.distributions.MultivariateNormal(mean * kept, covariance).sample(
                    torch.Size([of.samples_per_class])
                )
            )
        features, targets = torch.cat(drawn), torch.arange(len(gaussians)).repeat_interleave(of.samples_per_class)
        shuffled = torch.randperm(len(features))
        features, targets = features[shuffled], targets[shuffled]
        for batch in torch.arange(len(features)).split(of.samples_per_class):
            logits = model.logits(features[batch])
            norms = [part.norm(dim=1, keepdim=True) + 1e-7 for part in logits.split(model.sizes, dim=1)]
            norm = torch.cat(norms, dim=1).mean(dim=1, keepdim=True)
            loss = F.cross_entropy(logits / norm / of.tau, targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        scheduler.step()
        accuracy(model, tests)


# OLOR


class RolledBack:
    """Adam with OLOR's rollback, tensor by tensor. The sum of a tensor's updates is its distance from the start.

    :param rolled: parameters that are rolled back, with their levels.
    :param new: those that are not.
    """

    def __init__(self, rolled: Sequence[tuple[Tensor, float]], new: Iterable[Tensor], lr: float) -> None:
        self.lr, self.steps = lr, 0
        zeros = torch.zeros_like
        self.state = [(p, level, zeros(p), zeros(p), zeros(p)) for p, level in rolled]
        self.state += [(p, 0.0, zeros(p), zeros(p), zeros(p)) for p in new]

    def zero_grad(self) -> None:
        for p, *_ in self.state:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        first, second = 1 - 0.9**self.steps, 1 - 0.999**self.steps
        for p, level, average, of_squares, moved in self.state:
            if p.grad is None:
                continue
            average.mul_(0.9).add_(p.grad, alpha=0.1)
            of_squares.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
            update = (average / first).div_((of_squares.sqrt() / math.sqrt(second)).add_(1e-8))
            if level:
                update.mul_(1 - self.lr * level).add_(moved, alpha=level)
                moved.add_(update, alpha=-self.lr)
            p.add_(update, alpha=-self.lr)


def olor(config: Config, experiences: Sequence[Experience]) -> float:
    """The best accuracy on the test drawings after an epoch."""
    assert config.olor
    ((drawings, labels), test), *_ = experiences
    model = Joined(vit(config))
    head = model.add_head(len(labels.unique()))
    pretrained = [*model.backbone.parameters()]
    of, count = config.olor, max(1, len(pretrained) - 1)
    levels = [
        of.rollback_output + (1 - i / count) ** of.rollback_power * (of.rollback_input - of.rollback_output)
        for i in range(len(pretrained))
    ]
    optimizer = RolledBack([*zip(pretrained, levels, strict=True)], head.parameters(), config.lr)
    batches = DataLoader(Drawn(drawings, labels, TRAIN), config.batch_size, shuffle=True, drop_last=True)
    plain = DataLoader(Drawn(drawings, labels, TEST), config.batch_size)
    tests = DataLoader(Drawn(*test, TEST), config.batch_size)
    steps, best, taken = config.epochs * len(batches), 0.0, 0
    for _ in range(config.epochs):
        model.train()
        for images, targets in batches:
            optimizer.lr = config.lr * (1 + math.cos(math.pi * taken / steps)) / 2
            loss = F.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            taken += 1
        accuracy(model, plain)
        best = max(best, accuracy(model, tests))
    return best


# L2P


class Prompted(nn.Module):
    """A frozen ViT with a pool of prompts, a linear layer for all classes, and a second ViT that makes the queries."""

    def __init__(self, config: Config, classes: int) -> None:
        super().__init__()
        assert config.l2p
        self.of = config.l2p
        self.query_vit, self.vit = vit(config).requires_grad_(False), vit(config).requires_grad_(False)
        self.prompts = nn.Parameter(torch.empty(self.of.pool, self.of.length, 128).uniform_(-1, 1))
        self.keys = nn.Parameter(torch.empty(self.of.pool, 128).uniform_(-1, 1))
        self.head = nn.Linear(128, classes)
        self.similarity = torch.tensor(0.0)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            self.query_vit.eval()
            query = F.normalize(self.query_vit(images), dim=1)
        cosines = query @ F.normalize(self.keys, dim=1).T
        chosen = cosines.topk(self.of.top_k, dim=1).indices
        if self.training:  # the majority's
            ids, counts = chosen.unique(return_counts=True)
            chosen = ids[counts.topk(self.of.top_k).indices].expand(len(images), -1)
        self.similarity = cosines.gather(1, chosen).sum() / len(images)
        position: Any = self.vit.pos_embed
        tokens = self.vit.patch_embed(images)
        own: Any = self.vit.cls_token
        tokens = torch.cat([own.expand(len(images), -1, -1), tokens], dim=1) + position
        prompts = self.prompts[chosen].flatten(1, 2) + position[:, :1]
        tokens = self.vit.norm(self.vit.blocks(torch.cat([prompts, tokens], dim=1)))
        return self.head(tokens[:, : prompts.shape[1]].mean(dim=1))  # type: ignore[no-any-return]


def l2p(config: Config, experiences: Sequence[Experience]) -> float:
    """The mean over the experiences of the last accuracies on their test drawings."""
    assert config.l2p
    model = Prompted(config, sum(len(labels.unique()) for (_, labels), _ in experiences))
    tests: list[Iterable[Any]] = []
    found: list[float] = []
    for (drawings, labels), test in experiences:
        tests.append(DataLoader(Drawn(*test, TEST), config.eval_batch_size or config.batch_size))
        others = [c for c in range(model.head.out_features) if c not in labels.unique()]
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = Adam(trained, lr=config.lr)
        batches = DataLoader(Drawn(drawings, labels, TRAIN), config.batch_size, shuffle=True)
        for _ in range(config.epochs):
            model.train()
            for images, targets in batches:
                logits = model(images)
                masked = logits.index_fill(1, torch.tensor(others), -math.inf)
                loss = F.cross_entropy(masked, targets) - config.l2p.pull * model.similarity
                (masked.argmax(dim=1) == targets).float().mean().item()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), config.l2p.clip or math.inf)
                optimizer.step()
                loss.item()
        found = [accuracy(model, batches) for batches in tests]
    return sum(found) / len(found)
