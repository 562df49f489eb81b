"""LAE: the moving average against its closed form, and every prediction of a run against an ensemble made by hand."""

from __future__ import annotations

import copy
import math
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import JointTraining, Naive
from reclaim.strategies.aepg import AnnealedEPGLoss, EPGLoss
from reclaim.strategies.heads import UNSEEN, ContinualModel
from reclaim.strategies.lae import LAE, combine
from reclaim.strategies.peft import PEFTSchedule, attach_lora, detach_lora
from reclaim.strategies.peft_module import PEFTModule, peft_parameters
from reclaim.strategies.slca import ClassifierAlignment
from reclaim.strategies.task_loss import TaskCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from trained import Strategy

pytestmark = pytest.mark.trains

TASKS = ([0, 4], [2, 5, 1], [3, 6])
EPOCHS, BATCHES, EVAL_BATCHES = 2, (4, 6, 4), 7  # of 4 and of at most 10 images
BYTES = 4 * (8 * 7 + 6 * 5)  # of the small model's modules in float32
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))


class Adapter(PEFTModule):
    """x to x + tanh(W x + b), which begins as x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x))


def small() -> ContinualModel:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 7), Adapter(7), nn.ReLU(), nn.Linear(7, 5), Adapter(5)]
    return ContinualModel(nn.Sequential(*layers), in_features=5)


def vit() -> ContinualModel:
    torch.manual_seed(0)
    model = ContinualModel(VisionTransformer(img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=2, num_heads=2))
    attach_lora(model, [0, 1], rank=2)
    return model


def make_stream() -> Any:
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn(7, 1, 8, 8, generator=generator)
    data = []
    for classes in TASKS:
        y = torch.tensor(classes).repeat_interleave(8)
        data.append((patterns[y] + 0.5 * torch.randn(len(y), 1, 8, 8, generator=generator), y))
    return tensors_benchmark(train_tensors=data, test_tensors=data, task_labels=[0] * len(data))


def naive(
    model: nn.Module, *plugins: SupervisedPlugin[Any], loss: Any = None, host: Any = Naive, **options: Any
) -> Any:
    return host(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.3),
        criterion=loss or TaskCrossEntropy(),
        train_mb_size=4,
        train_epochs=EPOCHS,
        eval_mb_size=10,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(),
        **options,
    )


def train(strategy: Any, *experiences: int, evaluate: bool = False) -> Any:
    stream = make_stream()
    torch.manual_seed(2)
    for t in experiences or range(len(TASKS)):
        strategy.train(stream.train_stream[t], eval_streams=[stream.test_stream] if evaluate else [])
    return strategy


def values(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in peft_parameters(model)]


def offline_values(lae: LAE, model: nn.Module) -> list[Tensor]:
    with lae.offline(model):
        return values(model)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def shifted(lae: LAE) -> ContinualModel:
    """A model of two heads whose online expert has moved away from the copy that ``lae`` has made of it."""
    model = small().eval()
    for classes in TASKS[:2]:
        model.heads.add_head(classes)
    lae.before_training_exp(Strategy(model=model, experience=SimpleNamespace(current_experience=1)))
    with torch.no_grad():
        for parameter in peft_parameters(model):
            parameter.add_(2)
    return model


class ByHand(SupervisedPlugin[Any]):
    """All online experts, in float64: at the start of the second experience and after each step since;
    and whether they trained.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.online: list[list[Tensor]] = []
        self.frozen: list[bool] = []
        self.compared = 0

    def expert(self) -> list[Tensor]:
        """The offline one: decay^K o_0 + (1 - decay) sum_k decay^(K - k) o_k."""
        last = len(self.online) - 1
        weights = [self.decay**last, *((1 - self.decay) * self.decay ** (last - k) for k in range(1, last + 1))]
        return [
            sum((w * o for w, o in zip(weights, row, strict=True)), torch.zeros(()))
            for row in zip(*self.online, strict=True)
        ]

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if strategy.experience.current_experience == 1:
            self.online.append([p.double() for p in values(strategy.model)])

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self.online:
            self.online.append([p.double() for p in values(strategy.model)])
            self.frozen.append(not any(p.requires_grad for p in peft_parameters(strategy.model)))

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._parameters = list(strategy.model.parameters())
        self._values = [p.detach().clone() for p in self._parameters]

    def after_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        assert all(p is q for p, q in zip(strategy.model.parameters(), self._parameters, strict=True))
        assert same(self._parameters, self._values)  # type: ignore[arg-type]

    def after_eval_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        logits, output = strategy.model(strategy.mb_x), strategy.mb_output
        assert torch.isfinite(strategy.loss)
        if not self.online:
            assert torch.equal(output, logits)
            return
        other = copy.deepcopy(strategy.model)
        for parameter, value in zip(peft_parameters(other), self.expert(), strict=True):
            parameter.copy_(value)
        ensemble = torch.maximum(logits.softmax(dim=1), other(strategy.mb_x).softmax(dim=1))
        torch.testing.assert_close(output.exp(), ensemble)
        # the class that is named may be another one where two are equal but for the last bits
        named = ensemble.gather(1, output.argmax(dim=1, keepdim=True)).squeeze(1)
        torch.testing.assert_close(named, ensemble.amax(dim=1))
        self.compared += 1


# --- the ensemble ---


def test_combine_in_numbers() -> None:
    online, offline = (
        torch.tensor([[1.0, 0.0, UNSEEN], [0.0, 0.0, UNSEEN]]),
        torch.tensor([[0.0, 0.0, UNSEEN], [-3.0, 4.0, UNSEEN]]),
    )
    scores = combine(online, offline)
    assert torch.isfinite(scores).all()
    p, q = math.e / (1 + math.e), math.exp(7) / (1 + math.exp(7))
    torch.testing.assert_close(scores.exp(), torch.tensor([[p, 0.5, 0.0], [0.5, q, 0.0]]))
    assert torch.equal(combine(offline, online), scores)
    # cross-entropy normalises the maximum
    torch.testing.assert_close(F.cross_entropy(scores[:1], torch.tensor([0])), torch.tensor(-math.log(p / (p + 0.5))))
    half = combine(online.half(), offline.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, scores)
    assert combine(online.double(), offline.double()).dtype == torch.float64


@pytest.mark.parametrize("shapes", [[(2, 3), (2, 1)], [(2, 3), (3, 3)], [(3,), (3,)]])
def test_combine_needs_two_alike(shapes: Any) -> None:
    with pytest.raises(ValueError, match="two tensors of logits of one shape"):
        combine(*map(torch.zeros, shapes))


@pytest.mark.parametrize(
    ("make_model", "loss", "decay", "options", "evaluations"),
    [
        (vit, TaskCrossEntropy, 0.9, {}, 2),
        # Avalanche evaluates before an experience (the second has no copy yet), after every epoch or iteration, and at
        # the end
        (small, EPGLoss, 0.9, {"eval_every": 1}, 2 + 1 + 2 * EPOCHS),
        (
            small,
            AnnealedEPGLoss,
            0.7,
            {"eval_every": 1, "peval_mode": "iteration"},
            2 + 1 + EPOCHS * sum(BATCHES[1:]) + 2,
        ),
        (small, nn.CrossEntropyLoss, 0.999, {"eval_every": 0}, 2 + 1 + 2),
    ],
)
def test_a_run_against_an_ensemble_by_hand(
    make_model: Any, loss: Any, decay: float, options: Any, evaluations: int
) -> None:
    """Evaluated after and, where Avalanche is asked to, while training, on classes seen and unseen."""
    model, lae, by_hand = make_model(), LAE(decay), ByHand(decay)
    strategy = naive(model, PEFTSchedule(1), lae, by_hand, loss=loss(), **options)
    stream = make_stream()
    for t, experience in enumerate(stream.train_stream):
        strategy.train(experience, eval_streams=[stream.test_stream])
        strategy.eval(stream.test_stream)
        assert lae.bytes_kept == (0 if t == 0 else sum(p.nbytes for p in peft_parameters(model)))
    # a step with frozen modules moves the copy, too: it still lags behind after the second experience
    assert by_hand.frozen == [f for batches in BATCHES[1:] for f in [True] * batches + [False] * batches]
    offline, online = offline_values(lae, model), values(model)
    torch.testing.assert_close(offline, [p.float() for p in by_hand.expert()])
    assert not torch.allclose(offline[-1], online[-1], rtol=0.01)
    assert by_hand.compared == evaluations * EVAL_BATCHES
    assert len(by_hand.online) == 1 + EPOCHS * sum(BATCHES[1:])


@pytest.mark.parametrize("plugins", [[], [lambda: ClassifierAlignment(samples_per_class=16, lr=0.1)]])
def test_training_and_alignment_see_the_online_expert_alone(plugins: Any) -> None:
    runs = []
    for more in ([], [LAE(0.9)]):
        alignment = [make() for make in plugins]
        runs.append((train(naive(vit(), *more, *alignment), evaluate=True).model, alignment))
    (model, alignment), (with_lae, its_alignment) = runs
    assert same(list(model.parameters()), list(with_lae.parameters()))
    for one, other in zip(alignment, its_alignment, strict=True):
        assert one.bytes_kept > 0
        assert all(torch.equal(one.gaussians[c].mean, other.gaussians[c].mean) for c in range(7))


def test_aligned_heads_are_shared() -> None:
    """Both experts predict with the aligned heads, and with the others again once these are back."""
    lae, by_hand = LAE(0.9), ByHand(0.9)
    train(naive(small(), lae, by_hand, ClassifierAlignment(samples_per_class=16, lr=0.5), eval_every=0), evaluate=True)
    assert by_hand.compared > 0


# --- the offline expert ---


def test_decay_is_0_999_by_default_and_a_switch() -> None:
    """F18."""
    assert LAE().decay == 0.999
    assert LAE(0.9999).decay == 0.9999


def test_decay_0_is_the_online_expert_and_1_the_copy_as_made() -> None:
    start: list[list[Tensor]] = []

    class Start(SupervisedPlugin[Any]):
        def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            start.append(values(strategy.model))

    for decay in (0, 1):
        strategy = train(naive(small(), lae := LAE(decay), Start()))
        assert same(offline_values(lae, strategy.model), [values(strategy.model), start[1]][decay])
        assert not same(values(strategy.model), start[1])
        start.clear()


def test_it_is_made_once_and_not_in_the_first_experience() -> None:
    model, lae = small(), LAE(1)
    strategy = naive(model, lae)
    train(strategy, 0)
    assert lae.bytes_kept == 0
    made_of = values(model)
    train(strategy, 1, 1, 2, 0)
    assert same(offline_values(lae, model), made_of)
    assert not same(values(model), made_of)

    joint = LAE()
    naive(small(), joint, loss=TaskCrossEntropy(restrict=False), host=JointTraining).train(
        make_stream().train_stream, eval_streams=[]
    )
    assert joint.bytes_kept == 0


def delivery(t: int) -> Any:
    """An experience in a benchmark of its own, of which it is experience 0."""
    x, y = zip(*((x, y) for x, y, *_ in make_stream().train_stream[t].dataset), strict=True)
    data = [(torch.stack(x), torch.tensor(y))]
    return tensors_benchmark(train_tensors=data, test_tensors=data, task_labels=[0]).train_stream[0]


@pytest.mark.parametrize("new_strategy", [False, True])
def test_each_delivery_a_benchmark_of_its_own(new_strategy: bool) -> None:
    """Also with a strategy, and plugin, of its own, on a model of loaded weights."""
    strategy = naive(small(), LAE(1))
    strategy.train(delivery(0), eval_streams=[])
    assert strategy.plugins[0].bytes_kept == 0
    made_of = values(strategy.model)
    if new_strategy:
        model = small()
        model.load_state_dict(strategy.model.state_dict())
        strategy = naive(model, LAE(1))
    strategy.train(delivery(1), eval_streams=[])
    assert same(offline_values(strategy.plugins[0], strategy.model), made_of)


def test_a_head_made_in_advance_is_no_earlier_experience() -> None:
    strategy = naive(small(), LAE())
    strategy.model.heads.add_head(range(7))
    train(strategy, 0)
    assert strategy.plugins[0].bytes_kept == 0


class Mapped(Naive):
    """A strategy whose batches are dictionaries, as Hugging Face's are."""

    def _unpack_minibatch(self) -> None:
        super()._unpack_minibatch()
        self.mbatch[0] = {"pixels": self.mbatch[0]}

    def forward(self) -> Tensor:
        return self.model(**self.mb_x)


class Named(ContinualModel):
    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels)


def test_batches_that_are_dictionaries() -> None:
    model = small()
    model.__class__ = Named
    expected = outputs_of(train(naive(small(), LAE(0.5))))
    assert same(outputs_of(train(naive(model, LAE(0.5), host=Mapped))), expected)


def test_predicting_without_avalanche() -> None:
    model, lae = small(), LAE(0.5)
    strategy = naive(model, lae)
    for t in range(2):
        train(strategy, t)
        model.eval()
        logits = model(IMAGES)
        with lae.offline(model):
            offline = model(IMAGES)
            assert not offline.requires_grad
        assert model(IMAGES).requires_grad
        strategy.mb_output, strategy.mbatch = logits, [IMAGES]
        lae.after_eval_forward(strategy)
        if t == 0:
            assert torch.equal(offline, logits)
            assert strategy.mb_output is logits
        else:
            assert not torch.allclose(offline, logits)
            assert torch.equal(strategy.mb_output, combine(logits, offline))


def test_the_online_values_come_back_whatever_happens() -> None:
    lae = LAE()
    model = shifted(lae)
    parameters, before = list(model.parameters()), [p.detach().clone() for p in model.parameters()]

    def broken() -> Tensor:
        assert not same(list(model.parameters()), before)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lae.after_eval_forward(Strategy(model=model, mb_output=model(IMAGES), forward=broken))
    assert same(list(model.parameters()), before)
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    assert torch.is_grad_enabled()


def test_autocast_around_both_experts() -> None:
    """Autocast caches its low-precision copies of weights: that of one expert must not serve the other."""

    lae = LAE()
    model = shifted(lae)

    def experts() -> tuple[Tensor, Tensor]:
        logits = model(IMAGES)
        with lae.offline(model):
            return logits, model(IMAGES)

    with torch.autocast("cpu", torch.bfloat16):
        together = [experts(), experts()]
    with torch.autocast("cpu", torch.bfloat16):
        online = model(IMAGES)
    with lae.offline(model), torch.autocast("cpu", torch.bfloat16):
        offline = model(IMAGES)
    assert not torch.allclose(online, offline)
    for pair in together:
        assert torch.equal(pair[0], online)
        assert torch.equal(pair[1], offline)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_whole_and_independent(again: Any) -> None:
    lae = LAE(0.5)
    model = shifted(lae)
    made_of = offline_values(lae, model)
    other = again(lae)
    other.after_update(SimpleNamespace(model=model))
    assert same(offline_values(lae, model), made_of)
    assert same(offline_values(other, model), [p + 1 for p in made_of])
    assert other.bytes_kept == lae.bytes_kept == BYTES


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_does_not_round_the_average_away(dtype: torch.dtype) -> None:
    lae = LAE(0.999)
    model = shifted(LAE()).to(dtype)
    model.heads.requires_grad_(False)
    start = values(model)
    strategy = Strategy(model=model, experience=SimpleNamespace(current_experience=1))
    lae.before_training_exp(strategy)
    with torch.no_grad():
        for parameter in peft_parameters(model):
            parameter.add_(1)
    online = values(model)
    for _ in range(100):
        lae.after_update(strategy)
    for offline, first, last in zip(offline_values(lae, model), start, online, strict=True):
        assert offline.dtype == dtype
        torch.testing.assert_close(offline, (last.double() - 0.999**100 * (last - first).double()).to(dtype))
    assert same(values(model), online)
    assert lae.bytes_kept == BYTES


def test_it_follows_the_model_to_another_device() -> None:
    lae = LAE()
    model = shifted(lae).to("meta")
    strategy = Strategy(model=model, experience=SimpleNamespace(current_experience=1))
    lae.before_training_exp(strategy)
    lae.after_update(strategy)
    assert {p.device.type for p in lae._offline} == {"meta"}


# --- another strategy ---


def outputs_of(strategy: Any) -> list[Tensor]:
    """What the strategy predicts, batch by batch, in an evaluation of the whole stream."""
    outputs: list[Tensor] = []
    hook: Any = SupervisedPlugin()
    hook.after_eval_iteration = lambda strategy, **_: outputs.append(strategy.mb_output)
    strategy.plugins.append(hook)
    strategy.eval(make_stream().test_stream)
    strategy.plugins.remove(hook)
    return outputs


def test_the_expert_of_another_strategy_has_no_vote_and_does_not_go_on() -> None:
    lae = LAE(0.5)
    train(naive(small(), lae))
    assert same(outputs_of(naive(small(), lae)), outputs_of(naive(small(), LAE(0.5))))
    assert lae.bytes_kept == BYTES, "an evaluation of another model takes nothing away"
    again, anew = (train(naive(small(), plugin)) for plugin in (lae, LAE(0.5)))
    assert same(outputs_of(again), outputs_of(anew))


@pytest.mark.parametrize("again", [lambda lae: lae, lambda lae: pickle.loads(pickle.dumps(lae))])
def test_a_new_strategy_on_the_same_model_goes_on_with_the_expert(again: Any) -> None:
    """Also a copy of the plugin, as from a file."""
    lae = LAE(0.5)
    first = train(naive(small(), lae))
    expected, kept = outputs_of(first), offline_values(lae, first.model)
    plugin = again(lae)
    second = naive(first.model, plugin)
    assert same(outputs_of(second), expected)
    second.train_epochs = 0
    train(second, 2)
    assert same(offline_values(plugin, first.model), kept)


# --- bad input ---


@pytest.mark.parametrize("decay", [-0.1, 1.5, math.nan])
def test_bad_decay(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay must be in \[0, 1\], got {decay}"):
        LAE(decay)


def test_models_without_what_it_needs() -> None:
    with pytest.raises(TypeError, match=r"LAE needs .* ContinualModel"):
        train(naive(nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5)), LAE()))
    with pytest.raises(ValueError, match=r"LAE needs PEFT modules .* attach_lora"):
        train(naive(ContinualModel(nn.Flatten(), in_features=64), LAE()), 0)


def test_modules_that_changed_since_the_copy() -> None:
    lae = LAE()
    strategy = train(naive(vit(), lae), 0, 1)
    for change, now in ((lambda: detach_lora(strategy.model), 0), (lambda: attach_lora(strategy.model, [0]), 3)):
        change()
        with pytest.raises(ValueError, match=f"6 tensors then, {now} now"):
            strategy.eval(make_stream().test_stream)
    with pytest.raises(ValueError, match=r"6 tensors then, 3 now.*attach all modules before"):
        train(strategy, 2)
    detach_lora(strategy.model)
    attach_lora(strategy.model, [0, 1], rank=3)
    with pytest.raises(ValueError, match="6 tensors then, 6 now, or of other shapes"):
        strategy.eval(make_stream().test_stream)
