"""A step of training never waits for its device: on tensors without values, whoever reads one fails."""

from __future__ import annotations

from dataclasses import replace

import pytest
from avalanche.training.plugins import SupervisedPlugin
from reclaim.benchmark.data.experiences import make_benchmark
from reclaim.benchmark.data.streams import STREAMS
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.training.build import make_backbone, make_model, make_strategy
from reclaim.benchmark.training.observer import Observer

pytestmark = pytest.mark.trains


class _EpochDoneError(Exception):
    pass


class End(SupervisedPlugin):  # type: ignore[type-arg]
    """Ends training after an epoch, before the plugins listed behind it read what they gathered in it."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def after_training_iteration(self, strategy: object, **kwargs: object) -> None:
        self.steps += 1

    def after_training_epoch(self, strategy: object, **kwargs: object) -> None:
        raise _EpochDoneError


@pytest.mark.parametrize(
    "recipe",
    [
        "linear",
        "slca",
        "slca-olor-aepg",
        "olor-1",
        "olor-sgd-1",
        "l2sp-1",
        "llrd-1",
        "lora-aepg",
        "adapter-focal",
        "prefix-cp",
        "ssf",
    ],
)
def test_no_step_reads_what_the_device_computes(recipe: str) -> None:
    stream = STREAMS["split-quickdraw-10"]
    config = replace(RECIPES[recipe].config, alignment=None)  # which looks at features before and after training
    model = make_model(config, make_backbone(config), stream.n_classes).to("meta")
    end = End()
    strategy = make_strategy(config, model, 0, [end, Observer()], "meta")
    with pytest.raises(_EpochDoneError):
        strategy.train(make_benchmark(stream, range(stream.n_classes)).train_stream[0], eval_streams=[])
    assert end.steps == len(strategy.dataloader)
    assert all(p.is_meta for p in model.parameters())
