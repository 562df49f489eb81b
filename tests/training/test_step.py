"""How steps are computed: micro-batches beside whole batches, half precision beside float32, compiled beside not."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.benchmark.config import Config
from reclaim.benchmark.training import step
from reclaim.benchmark.training.build import make_model, make_strategy
from reclaim.benchmark.training.step import Stepwise, compile_backbone
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.features import extract_features
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.olor import OLORSGD
from reclaim.strategies.task_loss import TaskCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.optim import SGD

pytestmark = pytest.mark.trains

BATCH, PIECE = 8, 3
TASKS = ([0, 1], [2, 3], [4, 5, 6])


def vit(**options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=0, embed_dim=16, num_heads=2, **{"depth": 2, **options}
    )


def stream(dtype: torch.dtype = torch.float32) -> Any:
    """Ten images of each class: a pattern and noise."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn(7, 1, 8, 8, generator=generator, dtype=dtype)
    tensors = []
    for classes in TASKS:
        targets = torch.tensor(classes).repeat_interleave(10)
        tensors.append(
            (patterns[targets] + 0.3 * torch.randn(len(targets), 1, 8, 8, generator=generator, dtype=dtype), targets)
        )
    return tensors_benchmark(train_tensors=tensors, test_tensors=tensors, task_labels=[0] * len(tensors))


def train(
    settings: list[str],
    dtype: torch.dtype = torch.float32,
    plugins: Sequence[SupervisedPlugin[Any]] = (),
    tasks: int = 2,
    **shape: Any,
) -> Any:
    """The strategy of a configuration, trained on the small stream."""
    config = Config(epochs=2, batch_size=BATCH, lr=0.02, head_init_std=0.2).set(settings)
    model = make_model(config, vit(**shape), n_classes=7).to(dtype)
    if config.compile:
        compile_backbone(model, backend="eager")  # the compiler itself takes half a minute
    strategy: Any = make_strategy(config, model, seed=0, plugins=plugins)
    torch.manual_seed(2)
    for experience in stream(dtype).train_stream[:tasks]:
        strategy.train(experience, eval_streams=[])
    return strategy


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def furthest(first: nn.Module, second: nn.Module) -> float:
    """The largest difference of a weight between two models."""
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one if one[name].numel())


# Micro-batches

METHODS = {
    "cross-entropy": ["augment=false"],
    "aepg": ["annealing={}", "augment=true"],
    "symmetric": ['loss={"kind": "symmetric", "coefficient": 0.1}'],
    "ewc": ["ewc=100"],
    "lwf": ["lwf=1"],
    "l2-sp": ["l2_sp=1"],
    "layer-decay": ["layer_decay=0.7"],
    "weight-average": ["weight_average=0.5"],
    "olor": ["olor.rollback_input=0.1"],
    "lora": ['lora={"blocks": 2, "rank": 2, "frozen_epochs": 1}', "lae={}"],
    "frozen-backbone": ['lora={"blocks": 2, "rank": 2, "frozen_epochs": 1, "freeze": "backbone"}'],
    "svd-lora": ['low_rank={"rank": 2}'],
    "coda": ['coda={"experiences": 3, "components": 6, "length": 4, "blocks": 2}'],
    "ssf": ["ssf={}"],
    "adapter": ['adapter={"blocks": 2, "frozen_epochs": 1}'],
    "prefix": ['prefix={"blocks": 2, "frozen_epochs": 1}'],
    "prompts": ["prompts={}"],
    "inflora": ['inflora={"rank": 2}'],
    "linear": ["trainable=heads"],
    "replay": ["memory.size=12"],
    "gdumb": ['memory={"method": "gdumb", "size": 30}'],
}


@pytest.mark.parametrize("method", METHODS)
def test_pieces_give_the_gradient_of_the_whole_batch(method: str) -> None:
    whole = train(METHODS[method], torch.float64)
    pieces = train([*METHODS[method], f"micro_batch={PIECE}"], torch.float64)
    assert furthest(whole.model, pieces.model) < 1e-10
    heads = [p for name, p in weights(whole.model).items() if name.startswith("heads.heads") and name.endswith("bias")]
    # It has trained, by far more than the two may differ: biases start at 0, and the largest of each head ended at
    # 0.0008 to 0.1 with five seeds and two versions of torch.
    assert all(p.abs().max() > 1e-6 for p in heads)


class Activations(SupervisedPlugin[Any]):
    """How many images' activations are alive at once, and how many images pass at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[weakref.ref[Tensor]] = []
        self.passing, self.most = 0, 0

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        strategy.model.backbone.blocks[0].mlp.fc2.register_forward_pre_hook(self._seen)

    def _seen(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        self.alive = [kept for kept in self.alive if kept() is not None] + [weakref.ref(inputs[0])]
        self.passing = max(self.passing, len(inputs[0]))
        self.most = max(self.most, sum(len(kept) for alive in self.alive if (kept := alive()) is not None))


def test_only_a_piece_is_in_memory() -> None:
    found = []
    for settings in ([], [f"micro_batch={PIECE}"]):
        activations = Activations()
        train(settings, plugins=(activations,), tasks=1)
        found.append((activations.passing, activations.most))
    assert found == [(BATCH, BATCH), (PIECE, PIECE)]


def test_a_piece_drops_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [f"micro_batch={PIECE}", "augment=false"]
    dropping = {"proj_drop_rate": 0.3, "drop_path_rate": 0.3}
    anew = train(settings, torch.float64, tasks=1, **dropping)
    monkeypatch.setattr(step, "checkpoint", lambda features, images, use_reentrant: features(images))
    kept = train(settings, torch.float64, tasks=1, **dropping)
    assert furthest(anew.model, kept.model) < 1e-12


def test_batch_normalisation_is_refused_in_pieces() -> None:
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    model = ContinualModel(backbone, in_features=4 * 36)
    optimizer = SGD(model.parameters(), lr=0.1)
    options: dict[str, Any] = {"model": model, "optimizer": optimizer, "evaluator": EvaluationPlugin()}
    with pytest.raises(
        ValueError, match="micro_batch=2 would normalise each micro-batch separately in 1: set micro_batch to null"
    ):
        Stepwise(micro_batch=2, **options)
    Stepwise(**options)
    with pytest.raises(TypeError, match="micro_batch needs a backbone with heads of its own, got Sequential"):
        Stepwise(micro_batch=2, **{**options, "model": backbone})


# The first batch of an experience


class Steps(SupervisedPlugin[Any]):
    """For each experience: its first weights, then gradients and new weights of each batch, all of the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[list[Tensor], list[Tensor]]] = []

    def _weight(self, strategy: Any) -> nn.Parameter:
        return strategy.model.backbone.blocks[0].mlp.fc2.weight  # type: ignore[no-any-return]

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.found.append(([], [self._weight(strategy).detach().clone()]))

    def after_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.found[-1][0].append(self._weight(strategy).grad.clone())  # type: ignore[union-attr]

    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.found[-1][1].append(self._weight(strategy).detach().clone())


@pytest.mark.parametrize("settings", [[], [f"micro_batch={PIECE}"]], ids=["whole", "pieces"])
def test_the_first_batch_makes_no_step(settings: list[str]) -> None:
    steps = Steps()
    train(["skip_first_step=true", "augment=false", "slow_factor=1", *settings], torch.float64, (steps,), tasks=2)
    assert len(steps.found) == 2
    for gradients, weights_then in steps.found:
        assert torch.equal(weights_then[1], weights_then[0])
        moved = gradients[0] + gradients[1]  # nothing is remembered of the experience before
        torch.testing.assert_close(weights_then[2], weights_then[0] - 0.02 * moved, rtol=0, atol=1e-12)
        moved = 0.9 * moved + gradients[2]
        torch.testing.assert_close(weights_then[3], weights_then[2] - 0.02 * moved, rtol=0, atol=1e-12)
        assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_an_experience_of_one_batch_learns_nothing() -> None:
    model = train(["skip_first_step=true", "epochs=1", "batch_size=100"]).model
    torch.manual_seed(0)
    assert furthest(model.backbone, vit()) == 0


# Nothing asked for


def test_it_is_avalanches_naive_bit_for_bit() -> None:
    trained = []
    for strategy in (Naive, Stepwise):
        model = ContinualModel(vit(proj_drop_rate=0.1))
        made: Any = strategy(
            model=model,
            optimizer=SGD(model.parameters(), lr=0.1, momentum=0.9),
            criterion=TaskCrossEntropy(),
            train_mb_size=BATCH,
            train_epochs=2,
            evaluator=EvaluationPlugin(),
        )
        torch.manual_seed(3)
        for experience in stream().train_stream:
            made.train(experience, eval_streams=[])
        trained.append(made.model)
    assert furthest(*trained) == 0


# Half precision


class Dtypes(SupervisedPlugin[Any]):
    """What the backbone computes in, and what the heads get."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[str, torch.dtype]] = set()

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        model = strategy.model
        if strategy.scaler.is_enabled():
            strategy.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)  # the default overflows in the first steps
        model.backbone.blocks[0].mlp.fc1.register_forward_hook(
            lambda _, __, output: self.found.add(("backbone", output.dtype))
        )
        model.heads.register_forward_pre_hook(lambda _, inputs: self.found.add(("heads", inputs[0].dtype)))

    def after_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.found |= {("gradient", p.grad.dtype) for p in strategy.model.parameters() if p.grad is not None}
        self.found.add(("loss", strategy.loss.dtype))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize(
    "method", [["alignment.epochs=1", "alignment.samples_per_class=8"], ["olor={}", f"micro_batch={PIECE}"]]
)
def test_the_backbone_alone_computes_in_half_precision(precision: str, dtype: torch.dtype, method: list[str]) -> None:
    settings = ["epochs=1", *method]
    dtypes = Dtypes()
    whole, half = train(settings), train([*settings, f"precision={precision}"], plugins=(dtypes,))
    assert dtypes.found == {("backbone", dtype)} | {(name, torch.float32) for name in ("heads", "loss", "gradient")}
    assert all(p.dtype is torch.float32 for p in half.model.parameters())
    start = make_model(Config(), vit())
    moved = furthest(whole.model.backbone, start.backbone)
    assert 0 < furthest(whole.model.backbone, half.model.backbone) < 0.1 * moved
    images = next(iter(stream().train_stream)).dataset
    features, _ = extract_features(half.model, images, BATCH, "cpu")
    assert features.dtype is torch.float32


def test_a_step_that_overflows_is_left_out() -> None:
    model = ContinualModel(vit(), autocast=torch.float16)
    optimizer = OLORSGD(model.parameters(), lr=0.1, depths=layer_depths(model), rollback_input=0.5)
    criterion = TaskCrossEntropy()
    strategy: Any = Stepwise(
        model=model,
        optimizer=optimizer,
        criterion=criterion,
        train_mb_size=40,
        scale_loss=True,
        evaluator=EvaluationPlugin(),
    )
    strategy.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    experience = next(iter(stream().train_stream))
    start = copy.deepcopy(model.backbone)
    strategy.train(experience, eval_streams=[])
    assert furthest(model.backbone, start) == 0
    assert pickle.loads(pickle.dumps(strategy.scaler)).get_scale() == strategy.scaler.get_scale() == 2.0**39
    strategy.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    strategy.train(experience, eval_streams=[])
    assert furthest(model.backbone, start) > 0


# Compiled


def test_a_compiled_backbone_is_the_same_model() -> None:
    settings = [
        "epochs=1",
        'lora={"blocks": 1, "rank": 2, "frozen_epochs": 0}',
        "lae={}",
        "ewc=10",
        f"micro_batch={PIECE}",
    ]
    plain = train(settings, depth=1)
    traced = train([*settings, "compile=true"], depth=1)
    assert traced.model.backbone._compiled_call_impl is not None
    assert furthest(plain.model, traced.model) < 1e-5
    duplicate = copy.deepcopy(traced.model).eval()
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(duplicate(images), traced.model.eval()(images))
