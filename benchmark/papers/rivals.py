"""The methods that SLCA's and aEPG's tables compare with, in experiments whose settings these papers do not state.

Nobody can repeat such a row, only read it naturally: the public code of the rival for its module, and the paper's own
recipe for what surrounds it (F71, F72). Every value says what it was read from. F-numbers are those of
docs/fidelity.md.
"""

from __future__ import annotations

from .aepg import AEPG
from .slca import slow_learner
from .sources import IN21K, NATURAL, Settings

OF_SLCA = {"bic": "BiC", "der++": "DER++", "lwf": "LwF", "l2p": "L2P", "dualprompt": "DualPrompt"}
OF_AEPG = {"dualprompt": "DualPrompt", "inflora": "InfLoRA"}
"""Part of a run's name -> title."""

MEMORY_PER_CLASS = 10
"""Images of a class that BiC and DER++ keep: our reading, for no text that we could read says how many."""

_TWIN, _OWN = "the PyTorch twin's code", "no source, our reading"


def _natural(source: str, **values: object) -> Settings:
    return {key.replace("__", "."): (value, f"{NATURAL}: {source}") for key, value in values.items()}


def _as_read(settings: Settings) -> Settings:
    """Settings of the paper's own method, taken over for a rival."""
    return {
        key: (value, f"{NATURAL}: as the paper's own method ({source})") for key, (value, source) in settings.items()
    }


_PROMPTED: Settings = {
    **_natural("SLCA's checkpoint (F36, F71)", backbone=IN21K),
    **_natural("frozen with the backbone (F34)", final_norm="pretrained", trainable="all"),
    **_natural("SLCA's", part="test", joint=False),
    **_natural("SLCA's class orders (F71)", seeding="class_order"),
    **_natural("the PyTorch twin's (F35)", images__protocol="l2p", images__hold_out=False),
    **_natural("the PyTorch twin's (F34)", optimizer="adam", weight_decay=0.0, schedule="constant"),
    **_natural(_OWN, drop_last=False),
    **_natural("one rate for all that trains (F32)", slow_factor=1.0),
    **_natural("the PyTorch twin's (F31)", head_init_std=0.02),
}
_SHORT: Settings = {
    **_natural(_TWIN, batch_size=16),
    **_natural("the PyTorch twin's, 0.03 x batch / 256 (F32)", lr=0.03 * 16 / 256),
    **_natural("the PyTorch twin's (F34)", epochs=5),
}
_SHORT_DUAL: Settings = {
    **_natural("DualPrompt's PyTorch twin (F43)", batch_size=24, epochs=5),
    **_natural("DualPrompt's PyTorch twin, 0.03 x batch / 256 (F43)", lr=0.03 * 24 / 256),
}
_LONG: Settings = {
    **_natural("DualPrompt's PyTorch twin, imr_dualprompt.py (F43)", batch_size=24, epochs=50),
    **_natural("the same, 0.005 x batch / 256 (F43)", lr=0.005 * 24 / 256),
}
_L2P: Settings = {
    **_natural("the PyTorch twin's (F30)", l2p__pool=10, l2p__length=5, l2p__top_k=5, l2p__pull=0.1),
    **_natural("the PyTorch twin's (F27)", l2p__positions="reference"),
    **_natural("the PyTorch twin's (F28)", l2p__train_vote="batch"),
    **_natural("the PyTorch twin's, which tells what task an image is from (F29)", l2p__test_vote="batch"),
    **_natural("the PyTorch twin's (F31)", l2p__init="reference"),
    **_natural("the PyTorch twin's (F33)", l2p__clip=1.0, l2p__clip_over="trained"),
    **_natural("the PyTorch twin's (F38)", l2p__share=False),
}
_DUALPROMPT: Settings = {
    **_natural(_TWIN, dualprompt__pool=10, dualprompt__top_k=1),
    **_natural("the PyTorch twin's (F42)", dualprompt__g_length=5, dualprompt__e_length=20),
    **_natural("the PyTorch twin's (F45)", dualprompt__g_layers=[0, 1], dualprompt__e_layers=[2, 3, 4]),
    **_natural("the PyTorch twin's (F43)", dualprompt__pull=1.0, dualprompt__clip=1.0),
    **_natural("the PyTorch twin's, as of L2P (F33)", dualprompt__clip_over="trained"),
    **_natural("the PyTorch twin's, scrambled over the batch (F39)", dualprompt__pairing="reference"),
    **_natural("the PyTorch twin's (F40)", dualprompt__train_choice="task"),
    **_natural("not used: the task chooses (F40)", dualprompt__train_vote="image"),
    **_natural("the PyTorch twin's: no vote but on CIFAR-100 (F41)", dualprompt__test_vote="image"),
    **_natural("the PyTorch twin's (F31)", dualprompt__init="reference"),
    **_natural("the PyTorch twin's (F44)", dualprompt__copy_prompts=True),
}
_INFLORA: Settings = {
    **_natural("InfLoRA's code (F53, F72)", inflora__rank=10, inflora__threshold=0.98, inflora__last_threshold=1.0),
    **_natural("InfLoRA's code: every block (F53)", inflora__blocks=None),
    **_natural("InfLoRA's code (F51)", inflora__design_images="train"),
}
_OF_SLCA = (
    "The paper states no setting for this row (F71): it is a natural reading, no protocol, and a verdict on it is one "
    "on the reading."
)
_OF_AEPG = (
    "The paper states no setting for this row but the recipe that all its baselines share (F72): it is a natural "
    "reading, no protocol, and a verdict on it is one on the reading."
)


def rival_of_slca(method: str, dataset: str, classes: int) -> tuple[str, Settings, tuple[str, ...]]:
    """Title, settings and remarks of a row of SLCA's table that is not SLCA's: a key of :data:`OF_SLCA`.

    L2P and DualPrompt as their PyTorch twins, on the three data sets that these have no recipe for with that of
    DualPrompt on ImageNet-R. The others with the slow learner's settings and Avalanche's methods, as corrected here.
    """
    title, cifar = OF_SLCA[method], dataset == "cifar100"
    if method == "l2p":
        return title, {**_PROMPTED, **(_SHORT if cifar else _LONG), **_L2P}, (_OF_SLCA,)
    if method == "dualprompt":
        of_cifar = {
            **_natural("the PyTorch twin's for CIFAR-100 (F42)", dualprompt__e_length=5),
            **_natural(
                "the PyTorch twin's for CIFAR-100, which tells what task an image is from (F41, F29)",
                dualprompt__test_vote="batch",
            ),
        }
        short = {**_SHORT_DUAL, **_DUALPROMPT, **of_cifar}
        return title, {**_PROMPTED, **(short if cifar else {**_LONG, **_DUALPROMPT})}, (_OF_SLCA,)
    own = _natural("Avalanche's default", lwf=1.0) if method == "lwf" else _memory(method, classes)
    return title, {**_as_read(slow_learner(dataset)), **own}, (_OF_SLCA,)


def _memory(method: str, classes: int) -> Settings:
    size = _natural(f"{_OWN}: {MEMORY_PER_CLASS} images a class", memory__size=MEMORY_PER_CLASS * classes)
    default = _natural("Avalanche's default", memory__alpha=0.1, memory__beta=0.5, memory__held_out=0.1)
    return {**_natural("Avalanche's, as corrected here (docs/baselines.md)", memory__method=method), **size, **default}


def rival_of_aepg(method: str, experiences: int) -> tuple[str, Settings, tuple[str, ...]]:
    """Title, settings and remarks of a row of aEPG's Table 1 that is neither LoRA's nor LAE's: a key of
    :data:`OF_AEPG`.

    The rival's modules as in the code that is read for it, under LAE's recipe.
    """
    module = {**_DUALPROMPT, **_natural("no clipping in LAE's recipe (F72)", dualprompt__clip=0.0)}
    if experiences > 10:  # the pool of the twin, whose streams have as many
        module |= _natural("one prompt for each experience (F40)", dualprompt__pool=experiences)
    if method == "inflora":
        module = {**_INFLORA, **_natural("LAE's recipe, constant (F72)", inflora__schedule="constant")}
    frozen = _natural("LAE's recipe: 30 of 50 epochs (F17, F72)", **{f"{method}__frozen_epochs": 30})
    return f"{OF_AEPG[method]}, cross-entropy", {**_as_read(AEPG), **module, **frozen}, (_OF_AEPG,)
