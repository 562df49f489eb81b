"""What the implementations cost compared with their plain alternatives. Every measurement is a ratio of two things done
in turn, on one thread.

`pytest benchmark/checks/test_speed.py` runs it; the ratios are in pytest-benchmark's table, next to the absolute times
of this machine.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from PIL import Image
from reclaim.benchmark.checks import public_ways
from reclaim.benchmark.config import Config
from reclaim.benchmark.data.augment import Warp, warp_batch
from reclaim.benchmark.data.cache import CachedImages, Postponed, make_cache, open_cache
from reclaim.benchmark.data.drawings import downstream
from reclaim.benchmark.data.experiences import of_tensors
from reclaim.benchmark.data.images import ImageData, ImageList
from reclaim.benchmark.data.streams import find_stream
from reclaim.benchmark.data.synthetic import write_dataset
from reclaim.benchmark.data.transforms import transforms_of
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.training import frozen_features
from reclaim.benchmark.training.build import make_backbone, make_model, make_strategy
from reclaim.benchmark.training.kernels import arithmetic
from reclaim.benchmark.training.observer import Observer
from reclaim.benchmark.training.roi_features import RoIFeatures
from reclaim.benchmark.training.run import run
from reclaim.benchmark.training.runtime import Setup
from reclaim.strategies.aepg import AnnealedEPGLoss
from reclaim.strategies.backbones import quickdraw_vit
from reclaim.strategies.coda import attach_coda
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.dualprompt import attach_dualprompt
from reclaim.strategies.fresh_optimizer import FreshOptimizer
from reclaim.strategies.gaussians import ClassGaussians
from reclaim.strategies.heads import ContinualModel, TaskHeads
from reclaim.strategies.inflora import attach_inflora, merge_inflora
from reclaim.strategies.l2p import attach_l2p
from reclaim.strategies.losses import (
    confidence_penalty_loss,
    entropy_penalty_loss,
    focal_loss,
    label_smoothing_loss,
)
from reclaim.strategies.olor import OLORSGD, OLORAdam
from reclaim.strategies.olor_plugin import OLORPlugin
from reclaim.strategies.peft import attach_adapter, attach_lora, attach_prefix
from reclaim.strategies.prompts import attach_prompts
from reclaim.strategies.slca import align_heads, slow_learner_groups
from reclaim.strategies.ssf import attach_ssf
from safetensors.torch import save_model
from scipy.stats import binom
from timm import create_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import default_collate
from torchvision.ops import roi_align
from torchvision.transforms import v2  # type: ignore[import-untyped]

pytestmark = pytest.mark.paper_speed

WIDTH = 128  # of the embedded tier's features
HEADS, CLASSES_PER_HEAD = 10, 10
SAMPLES = 64


@dataclass(frozen=True)
class Ratio:
    """Median of the time of A divided by the time of B, and its 95% interval, which assumes no distribution: between
    two order statistics, whose ranks are binomial quantiles. Of fewer than six pairs it is the range, which is no 95%
    interval.
    """

    median: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lower:.2f}-{self.upper:.2f})"


def seconds_of(run: Callable[[], Any]) -> float:
    """CPU seconds of this process: whatever else the machine does in the meantime is not counted."""
    start = time.process_time()
    run()
    return time.process_time() - start


def ratio(a: Callable[[], Any], b: Callable[[], Any], rounds: int, seconds: Callable[..., float] = seconds_of) -> Ratio:
    """Time of ``a`` over time of ``b`` in ``rounds`` pairs, first one first and then the other."""
    a(), b()
    times = [(seconds(a), seconds(b)) if i % 2 else (seconds(b), seconds(a))[::-1] for i in range(rounds)]
    ratios = sorted(of_a / of_b for of_a, of_b in times)
    below = max(int(binom.ppf(0.025, rounds, 0.5)) - 1, 0)
    return Ratio(float(np.median(ratios)), ratios[below], ratios[rounds - 1 - below])


@pytest.fixture
def check(benchmark: Any) -> Callable[..., None]:
    """Measures A against B, shows it in pytest-benchmark's table and compares the median with a bound.

    ``below`` is what a mistake would exceed, on any machine; ``goal`` is what docs/performance.md compares with. The
    absolute times in pytest-benchmark's table are of ``shown`` rounds.
    """

    def check(
        a: Callable[[], Any],
        b: Callable[[], Any],
        below: float,
        than: str,
        rounds: int = 15,
        seconds: Callable[..., float] = seconds_of,
        *,
        what: str,
        goal: float | None = None,
        shown: int = 5,
    ) -> None:
        found = ratio(a, b, rounds, seconds)
        benchmark.extra_info |= {
            "ratio": found.median,
            "interval": [found.lower, found.upper],
            "pairs": rounds,
            "what": what,
            "than": than,
            "below": below,
            "goal": goal,
            "versions": {"torch": torch.__version__},
            "load": os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else math.nan,
        }
        benchmark.name = f"{benchmark.name}: {found} x {than}"
        benchmark.pedantic(a, rounds=shown)
        assert found.median < below, f"{found} times as long as {than}, expected less than {below}"

    return check


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Training


@pytest.mark.parametrize(
    ("make", "shape", "count", "batch", "what", "goal"),
    [
        (quickdraw_vit, (1, 28, 28), 192, 32, "the embedded tier's ViT", 1.1),
        (partial(create_model, "vit_base_patch16_224", num_classes=0), (3, 224, 224), 6, 2, "ViT-B/16", 1.05),
    ],
    ids=["embedded", "ViT-B"],
)
def test_all_plugins_in_avalanche(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    count: int,
    batch: int,
    what: str,
    goal: float,
    check: Callable[..., None],
) -> None:
    """An epoch with OLOR, annealed EPG and a slow learner in Avalanche, against the same steps in a bare loop."""
    images, targets = torch.rand(count, *shape), torch.arange(count) % CLASSES_PER_HEAD
    stream = tensors_benchmark(train_tensors=[(images, targets)], test_tensors=[(images, targets)], task_labels=[0])
    model, bare = ContinualModel(make()), ContinualModel(make())
    bare.heads.add_head(sorted(set(targets.tolist())))

    def optimizer_of(model: ContinualModel) -> OLORAdam:
        return OLORAdam(slow_learner_groups(model, 1e-3, weight_decay=None), depths=layer_depths(model))

    strategy = Naive(
        model=model,
        optimizer=optimizer_of(model),
        criterion=AnnealedEPGLoss(),
        train_mb_size=batch,
        plugins=[FreshOptimizer(), OLORPlugin()],
        evaluator=EvaluationPlugin(),
    )
    optimizer, loss = optimizer_of(bare), AnnealedEPGLoss(total_steps=math.ceil(count / batch))

    def loop() -> None:
        loss.restart()
        for chosen in torch.randperm(count).split(batch):
            optimizer.zero_grad()
            loss(bare(images[chosen]), targets[chosen]).backward()
            optimizer.step()
            loss.step()

    check(
        lambda: strategy.train(stream.train_stream[0], eval_streams=[]),
        loop,
        below=1.3,
        than="a bare loop's",
        rounds=7,
        what=f"an epoch of {what} in Avalanche with OLOR, annealed EPG and a slow learner",
        goal=goal,
    )


@pytest.mark.parametrize(
    ("recipe", "sizes", "public"),
    [
        ("slca", (5, 5, 5), public_ways.slca),
        ("olor-1", (15,), public_ways.olor),
        ("l2p", (5, 5, 5), public_ways.l2p),
    ],
    ids=["slca", "olor", "l2p"],
)
def test_a_whole_run(
    recipe: str,
    sizes: tuple[int, ...],
    public: Callable[[Config, Sequence[public_ways.Experience]], float],
    check: Callable[..., None],
) -> None:
    """Training and all evaluations on all drawings of fifteen classes, against the public codes' way of doing it."""
    config = RECIPES[recipe].config
    train, test = downstream().train[:15], downstream().test[:15]
    everything = [public_ways.labelled(part, torch.arange(15)) for part in (train, test)]

    def ours() -> None:
        with arithmetic():
            benchmark = of_tensors(sizes, range(15), *everything)
            strategy = make_strategy(config, make_model(config, make_backbone(config)), 0, [Observer()])
            for t, experience in enumerate(benchmark.train_stream):
                strategy.train(experience, eval_streams=[], drop_last=config.drop_last)
                strategy.eval(benchmark.test_stream[: t + 1])

    check(
        ours,
        partial(public, config, public_ways.experiences(sizes, train, test)),
        below=1.1,
        than="the public code's way, as a plain loop",
        rounds=6,
        shown=1,
        what=f"a whole run of `{recipe}` on 15 classes",
        goal=1 / 1.5,
    )


def attach_merged_inflora(model: nn.Module) -> None:
    attach_inflora(model)
    merge_inflora(model)


MODULES: dict[str, Callable[[nn.Module], Any]] = {
    "attach_lora": attach_lora,
    "attach_adapter": attach_adapter,
    "attach_prefix": attach_prefix,
    "attach_ssf": attach_ssf,
    "attach_prompts": attach_prompts,
    "attach_inflora": attach_inflora,
}
QUERIED: dict[str, Callable[[nn.Module], Any]] = {
    "attach_l2p": attach_l2p,
    "attach_dualprompt": partial(attach_dualprompt, train_choice="query"),
    "attach_coda": partial(attach_coda, experiences=10),
}
"""Their images pass twice, first for a query without modules and gradients; so do those that they are compared with."""


@pytest.mark.parametrize("name", [*MODULES, *QUERIED])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_modules_in_a_frozen_vit(name: str, training: bool, check: Callable[..., None]) -> None:
    """ViT-S/16 at 224 pixels. In training gradients flow through the same blocks of both."""
    attach = {**MODULES, **QUERIED}[name]
    if name == "attach_inflora" and not training:
        attach = attach_merged_inflora
    frozen, attached = (create_model("vit_small_patch16_224", num_classes=0).requires_grad_(False) for _ in range(2))
    attach(attached)
    images = torch.randn(2, 3, 224, 224).requires_grad_(training)

    def passes(model: nn.Module, query: bool = False) -> None:
        if query:
            with torch.no_grad():
                model(images)
        with torch.set_grad_enabled(training):
            features = model(images)
        if training:
            features.sum().backward()

    check(
        partial(passes, attached.train(training)),
        partial(passes, frozen.train(training), query=name in QUERIED),
        below=1.6,
        than="the frozen ViT's, after a pass for the query" if name in QUERIED else "the frozen ViT's",
        rounds=9,
        what=f"{'forward and backward' if training else 'forward'} pass of ViT-S/16 after {name}"
        + (", merged" if attach is attach_merged_inflora else ""),
        goal=1.15,
    )


def steps(model: nn.Module, make: Callable[[nn.Module], Optimizer], count: int = 1) -> Callable[[], None]:
    """Steps of an optimizer on the parameters of a model."""
    optimizer = make(model)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)

    def run() -> None:
        for _ in range(count):
            optimizer.step()

    return run


@pytest.mark.parametrize(
    ("ours", "torchs", "options"),
    [(OLORAdam, Adam, {}), (OLORSGD, SGD, {"lr": 1e-3, "momentum": 0.9})],
    ids=["Adam", "SGD"],
)
def test_olor_step(ours: Any, torchs: Any, options: dict[str, Any], check: Callable[..., None]) -> None:
    """Of the parameters of ViT-B/16."""
    vits = [create_model("vit_base_patch16_224", num_classes=100) for _ in range(2)]
    check(
        steps(vits[0], lambda model: ours(model.parameters(), depths=layer_depths(model), **options)),
        steps(vits[1], lambda model: torchs(model.parameters(), fused=True, **options)),
        below=2.0,
        than=f"torch's fused {torchs.__name__}'s",
        what=f"a step of {ours.__name__}, ViT-B/16",
        goal=1.6,
    )


def test_olor_step_of_the_embedded_vit(check: Callable[..., None]) -> None:
    """Small tensors: what counts is the work per tensor, not per number."""
    check(
        steps(quickdraw_vit(), lambda model: OLORAdam(model.parameters(), depths=layer_depths(model)), 5),
        steps(quickdraw_vit(), lambda model: Adam(model.parameters(), foreach=True), 5),
        below=1.3,
        than="torch's foreach Adam's",
        what="a step of OLORAdam, the embedded tier's ViT",
    )


# Losses


@pytest.mark.parametrize(
    ("loss_function", "name"),
    [
        (focal_loss, "the focal loss"),
        (label_smoothing_loss, "LS"),
        (confidence_penalty_loss, "CP"),
        (entropy_penalty_loss, "EP"),
    ],
    ids=["focal", "LS", "CP", "EP"],
)
def test_losses(loss_function: Callable[[Tensor, Tensor], Tensor], name: str, check: Callable[..., None]) -> None:
    """Of 256 images and 1000 classes, forward and backward."""
    logits, targets = (3 * torch.randn(256, 1000)).requires_grad_(), torch.randint(1000, (256,))

    def gradients(of: Callable[[Tensor, Tensor], Tensor]) -> None:
        for _ in range(10):
            torch.autograd.grad(of(logits, targets), logits)

    check(
        partial(gradients, loss_function),
        partial(gradients, F.cross_entropy),
        below=3.0,
        than="F.cross_entropy's",
        rounds=31,
        what=f"gradient of {name}, 256 x 1000",
        goal=2.0,
    )


# Boxes


def test_features_of_boxes(check: Callable[..., None]) -> None:
    """Of a training step's boxes on four canvases, forward and backward."""
    features = torch.randn(4, 64, 14, 14, requires_grad=True)
    corners = 60 * torch.rand(4, 32, 2)
    boxes = list(torch.cat([corners, corners + 10 + 30 * torch.rand(4, 32, 2)], dim=2))
    of_pooled = torch.randn(128, 64, 7, 7)

    def gradient(of: Callable[[], Tensor]) -> None:
        torch.autograd.grad(of(), features, of_pooled)

    check(
        partial(gradient, lambda: RoIFeatures(7, 6)({"0": features}, boxes, [])),
        partial(gradient, lambda: roi_align(features, boxes, 7, 1 / 6, 2, aligned=True)),
        below=1.0,
        than="torchvision's",
        what="gradient of RoIAlign, 128 boxes of 64 channels",
    )


# Alignment


def statistics() -> ClassGaussians:
    gaussians = ClassGaussians()
    features = torch.randn(HEADS, CLASSES_PER_HEAD, 40, WIDTH) + 3 * torch.randn(HEADS, CLASSES_PER_HEAD, 1, WIDTH)
    for t, of_task in enumerate(features):
        targets = t * CLASSES_PER_HEAD + torch.arange(CLASSES_PER_HEAD).repeat_interleave(40)
        gaussians.fit(of_task.flatten(0, 1), targets, t)
    return gaussians


def test_class_statistics(check: Callable[..., None]) -> None:
    """Mean and covariance of 100 classes, 300 images each, 768 features, against one class after the other in
    float64.
    """
    features, targets = torch.randn(30_000, 768), torch.randperm(30_000) % 100

    def one_by_one() -> list[Tensor]:
        rows = [features[targets == c] for c in range(100)]
        return [torch.cov(of_class.double().T).float() for of_class in rows]

    def at_once() -> ClassGaussians:
        gaussians = ClassGaussians(ridge=0.0)
        gaussians.fit(features, targets)
        return gaussians

    found = at_once()
    for c, expected in enumerate(one_by_one()):
        torch.testing.assert_close(found[c].covariance, expected, rtol=0, atol=1e-5)
    check(
        at_once,
        one_by_one,
        below=0.8,
        than="torch.cov's in float64",
        rounds=9,
        what="statistics of 100 classes, 300 x 768 each",
        goal=0.5,
    )


def some_heads() -> TaskHeads:
    torch.manual_seed(0)
    heads = TaskHeads(WIDTH)
    for t in range(HEADS):
        heads.add_head(range(t * CLASSES_PER_HEAD, (t + 1) * CLASSES_PER_HEAD))
    return heads


def align_head_by_head(heads: TaskHeads, gaussians: ClassGaussians, generator: torch.Generator) -> None:
    """One epoch of alignment as one would write it down: a forward pass, a norm and an update for each head."""
    train_head_by_head(heads, gaussians.sample(heads.classes, SAMPLES, generator), generator)


def train_head_by_head(heads: TaskHeads, drawn: Tensor, generator: torch.Generator) -> None:
    """On features (classes, n, width) drawn of each class."""
    optimizer = SGD(heads.heads.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    features, targets = drawn.flatten(0, 1), torch.tensor(heads.classes).repeat_interleave(drawn.shape[1])
    for batch in torch.randperm(len(features), generator=generator).split(256):
        logits = [head(features[batch]) for head in heads.heads]
        norm = torch.stack([part.norm(dim=1) + 1e-7 for part in logits]).mean(dim=0)
        optimizer.zero_grad()
        F.cross_entropy(torch.cat(logits, dim=1) / (norm * 0.1).unsqueeze(1), targets[batch]).backward()
        optimizer.step()


def align_at_once(heads: TaskHeads, gaussians: ClassGaussians, generator: torch.Generator) -> None:
    align_heads(heads, gaussians, epochs=1, samples_per_class=SAMPLES, mean_decay=False, generator=generator)


def test_alignment(check: Callable[..., None]) -> None:
    gaussians, results = statistics(), []
    for align in (align_at_once, align_head_by_head):
        heads = some_heads()
        align(heads, gaussians, torch.Generator().manual_seed(0))
        results.append(heads.snapshot())
    torch.testing.assert_close(*results)  # the same work
    at_once, by_head = (
        partial(align, some_heads(), gaussians, torch.Generator().manual_seed(0))
        for align in (align_at_once, align_head_by_head)
    )
    check(at_once, by_head, below=0.85, than="head by head", what="an epoch of alignment, 100 x 128")


@pytest.mark.parametrize(("classes", "rounds"), [(100, 7), (1000, 3)])
def test_alignment_of_papers_shapes(classes: int, rounds: int, check: Callable[..., None]) -> None:
    """The first epoch, whose Cholesky factors nobody has computed yet, beside the public codes' way of drawing: a
    distribution made anew of each class and epoch. Of 1000 classes it takes minutes and 8 GB.
    """
    torch.manual_seed(0)
    gaussians, mixing = ClassGaussians(), 0.05 * torch.randn(768, 768)
    heads, generator = TaskHeads(768), torch.Generator().manual_seed(0)
    for of_head in torch.arange(classes).split(10):
        gaussians.fit(torch.randn(3000, 768) @ mixing, of_head.repeat_interleave(300))
        heads.add_head(of_head.tolist())

    def first_epoch() -> None:
        for c in gaussians.classes:
            vars(gaussians[c].kept).pop("_factored", None)
        align_heads(heads, gaussians, epochs=1, mean_decay=False, generator=generator)

    def public_way() -> None:
        drawn = [
            torch.distributions.MultivariateNormal(gaussians[c].mean, gaussians[c].covariance).sample(torch.Size([256]))
            for c in gaussians.classes
        ]
        train_head_by_head(heads, torch.stack(drawn), generator)

    check(
        first_epoch,
        public_way,
        below=0.2,
        than="a MultivariateNormal for each class and epoch",
        rounds=rounds,
        shown=1,
        what=f"the first epoch of alignment, {classes} x 768",
        goal=1 / 12,
    )


def test_sampling(check: Callable[..., None]) -> None:
    """Features of 100 classes, against torch's distribution of each, both with their Cholesky factors at hand."""
    gaussians, generator = statistics(), torch.Generator().manual_seed(0)
    normals = [
        torch.distributions.MultivariateNormal(gaussians[c].mean, gaussians[c].covariance) for c in gaussians.classes
    ]

    def one_by_one() -> Tensor:
        return torch.stack([normal.sample(torch.Size([SAMPLES])) for normal in normals])

    check(
        lambda: gaussians.sample(gaussians.classes, SAMPLES, generator),
        one_by_one,
        below=0.3,
        than="MultivariateNormal's",
        what="drawing features, 100 x 128, factors at hand",
    )


# Images


def test_augmentation(check: Callable[..., None]) -> None:
    images, warp = torch.rand(128, 1, 28, 28), Warp(flip=0)
    per_image = v2.RandomAffine(
        10, translate=(0.07, 0.07), scale=(0.85, 1.15), interpolation=v2.InterpolationMode.BILINEAR
    )
    check(
        lambda: warp_batch(images, warp),
        lambda: torch.stack([per_image(x) for x in images]),
        below=0.3,
        than="image by image",
        what="augmenting 128 drawings",
    )


def test_decoded_photographs(check: Callable[..., None], tmp_path: Path) -> None:
    """A batch of photographs of 500 x 375 from the decoded cache, cropped at random to 224 x 224, against one from
    their JPEG files.
    """
    generator = np.random.default_rng(0)
    for i in range(16):
        blocks = Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(blocks) + generator.normal(0, 8, (375, 500, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{i}.jpg", quality=90)
    photographs = ImageList(tmp_path, tuple(f"{i}.jpg" for i in range(16)), (0,) * 16)
    data = ImageData("photographs", ("one",), photographs, photographs.take([0]))
    make_cache(data, tmp_path)
    cached = CachedImages(open_cache(data, "train", tmp_path), range(16))
    transform, _ = transforms_of("slca", "imagenet-r")
    pending, of_one = Postponed(transform), transform.reference()
    check(
        lambda: cached.collate_fn([(pending(pixels), label) for pixels, label in map(cached.__getitem__, range(16))]),
        lambda: default_collate([(of_one(photographs.load(i)), 0) for i in range(16)]),
        below=0.9,
        than="from files",
        what="16 photographs at 224 x 224 from the decoded cache",
        rounds=7,
        goal=1 / 4,
    )


def test_a_frozen_backbone(check: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear probe of five experiences and five epochs, evaluated after each experience."""
    write_dataset("cifar10", tmp_path, train_per_class=25, test_per_class=10)
    weights = tmp_path / "resnet18.safetensors"  # without a file each seed would draw its own
    save_model(create_model("resnet18"), str(weights))
    settings = [
        "backbone=resnet18.a1_in1k",
        "images.size=96",
        "images.train_per_class=null",
        "images.test_per_class=null",
    ]
    config, stream = RECIPES["lite-linear"].config.set(settings), find_stream("split-cifar10-5")
    setup = Setup(root=tmp_path, weights=weights, unverified=True)

    def seeds(once: bool) -> None:
        frozen_features.kept.clear()
        with monkeypatch.context() as patch:
            patch.setattr("reclaim.benchmark.training.run.never_changes", lambda config: once)
            for seed in range(4):
                run("linear", config, stream, seed, setup=setup)

    check(
        partial(seeds, True),
        partial(seeds, False),
        below=0.6,
        than="a pass of the backbone in every epoch and evaluation",
        rounds=6,
        shown=1,
        what="four seeds of a linear probe on a frozen ResNet-18, whole runs",
        goal=1 / 5,
    )


# Imports


def import_seconds(statement: str) -> float:
    """CPU seconds of a statement in a new interpreter, without the start of the interpreter itself."""
    code = f"import time; start = time.process_time(); {statement}; print(time.process_time() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_import_of_what_needs_torch_alone(check: Callable[..., None]) -> None:
    ours = partial(import_seconds, "from reclaim.strategies import OLORSGD, OLORAdam, epg_loss")
    check(
        ours,
        partial(import_seconds, "import torch"),
        below=1.5,
        than="import torch",
        what="importing the optimizers and losses",
        rounds=7,
        seconds=lambda run: float(run()),
    )
