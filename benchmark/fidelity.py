"""docs/fidelity.md: where the papers' texts and codes disagree or are silent, the switch for each such place, and its measured effect.

:data:`FACTS` holds all that the page says of the facts; the effects come from the records of the recipes that turn a switch.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .published import metric_of
from .recipes import RECIPES, Recipe
from .records import Record
from .statistics import ALPHA, PairedDifference, paired_difference

SECTIONS = {
    "slca": "SLCA (ICCV 2023, arXiv 2303.05118)",
    "olor": "OLOR (AAAI 2024, arXiv 2401.10962)",
    "aepg": "aEPG (arXiv 2602.14078)",
}
METRIC = {"slca": "last_acc", "olor": "last_acc", "aepg": "task_avg_last_acc"}
"""The metric of each paper in which effects are shown, a name of :data:`reclaim.benchmark.published.METRICS`."""


@dataclass(frozen=True)
class Switch:
    """A place where text and code disagree or leave a hole, and the argument that chooses.

    :ivar id: "F1" to "F26", or the name of a switch without a number; recipes that turn it have it as their ``fact``.
    :ivar paper: a key of :data:`SECTIONS`.
    :ivar text: what the paper's text says; ``code`` what its public code does; ``default`` what Reclaim does unless told, and why.
    :ivar arguments: calls with the default values, such as ``OLORPlugin(anchor="pretrained")``; none for a part of a protocol that is
        not run.
    :ivar settings: names for ``reclaim run --set``.
    :ivar tests: ``file.py::test``; they fail when the switch does not do what is said here.
    :ivar cannot_act: why no recipe of the embedded tier can turn it.
    :ivar spread: whether it is about the spread over seeds, whose ratio (turned / default) is then shown beside the effect.
    """

    id: str
    paper: str
    title: str
    text: str
    code: str
    default: str
    arguments: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    cannot_act: str = ""
    spread: bool = False


@dataclass(frozen=True)
class Note:
    """A fact that is only to be known; ``tests`` as in :class:`Switch`."""

    id: str
    paper: str
    text: str
    tests: tuple[str, ...] = ()


FACTS: tuple[Switch | Note, ...] = (
    # --- SLCA ---
    Switch(
        "F1",
        "slca",
        "the final LayerNorm",
        text="silent",
        code="the pretrained one is replaced by a fresh one (weight 1, bias 0, eps 1e-5), trained with the backbone",
        default='code; recipes say so (`final_norm=fresh`), the setting alone is `"pretrained"`',
        arguments=('SLCA(final_norm="fresh")',),
        settings=("final_norm",),
        tests=("test_slca.py::test_it_becomes_a_fresh_one", "test_slca.py::test_the_switch_of_the_strategy"),
    ),
    Switch(
        "F2",
        "slca",
        "what a seed varies",
        text="three seeds",
        code="the class order alone; torch's seed is 1 in every run, so that the published std is that of class orders",
        default='embedded tier: both, so that the intervals count both; the code\'s `"class_order"` is for published cells',
        arguments=('Config(seeding="class_order+initialisation")',),
        settings=("seeding",),
        tests=(
            "test_runner.py::test_the_seed_varies_the_initialisation_or_not",
            "test_datasets_streams.py::test_the_class_order_is_that_of_slca",
        ),
        spread=True,
    ),
    Switch(
        "F3",
        "slca",
        "ridge of the covariances",
        text="silent",
        code="1e-4 times the identity is added",
        default="code",
        arguments=("ClassifierAlignment(covariance_ridge=1e-4)", "SLCA(covariance_ridge=1e-4)"),
        settings=("alignment.ridge",),
        tests=("test_slca.py::test_covariance_ridge", "test_gaussians.py::test_ridge_is_added_to_the_diagonal_and_on_by_default"),
    ),
    Switch(
        "F4",
        "slca",
        "means of earlier classes",
        text="silent",
        code="multiplied by 0.9 + 0.1 (t + 1)/(T + 1)",
        default="code",
        arguments=("ClassifierAlignment(mean_decay=True)", "SLCA(mean_decay=True)"),
        settings=("alignment.mean_decay",),
        tests=("test_slca.py::test_golden_notices_what_it_should", "test_slca.py::test_every_argument_matters"),
    ),
    Switch(
        "F5",
        "slca",
        "t of F4",
        text="-",
        code="class // size of the newest task: wrong where tasks differ in size (Cars-196: t runs to 12 with T = 9)",
        default="neither: the true task",
        arguments=('ClassifierAlignment(task_index="true")', 'SLCA(task_index="true")'),
        settings=("alignment.task_index",),
        tests=("test_slca.py::test_task_indices_on_uneven_tasks", "test_slca.py::test_cars196_runs_to_12"),
    ),
    Switch(
        "F6",
        "slca",
        "heads after evaluation",
        text="silent",
        code="put back as they were before alignment; training goes on from them",
        default="code",
        arguments=("ClassifierAlignment(restore=True)", "SLCA(restore=True)"),
        settings=("alignment.restore_heads",),
        tests=("test_slca.py::test_training_goes_on_from_the_unaligned_heads",),
    ),
    Note(
        "F7",
        "slca",
        "Cars-196: the code, and OLOR's, sends the rows whose annotation column is 1 to the training set; the public converters of that "
        'file call the column "test". Both papers may have trained on the official test images. Not settled here: the file was not at '
        "hand (official: 8,144 training and 8,041 test images).",
    ),
    Note(
        "SLCA++",
        "slca",
        "The extension of SLCA (arXiv 2408.08295) shares F1, F3, F5 and F6. In place of F4 it divides each drawn feature of an earlier "
        "class by 1 + mu (T - t), with the t of F5: `feature_decay` of `ClassifierAlignment`.",
    ),
    # --- OLOR ---
    Switch(
        "F8",
        "olor",
        "what i of lambda_i counts",
        text="layers, without saying what one is",
        code="parameter tensors, n = their number - 1",
        default="text, read as: patch embedding, tokens and position embedding 0, block j is j + 1, final norm n",
        arguments=('layer_depths(counting="layers")',),
        settings=("olor.counting",),
        tests=("test_depths.py::test_f8_layers_of_a_vit", "test_depths.py::test_f8_tensors_of_a_vit"),
    ),
    Switch(
        "F9",
        "olor",
        "SGD: the gradient step",
        text="damped by 1 - lambda",
        code="not damped",
        default="text",
        arguments=('OLORSGD(gradient_damping="paper")',),
        settings=("olor.gradient_damping",),
        tests=("test_olor.py::test_f9_gradient_damping",),
    ),
    Switch(
        "F10",
        "olor",
        "SGD: the size of lambda",
        text="-",
        code="the script's b = 0.01 / lr is used without the lr: lambda is 10 at lr 1e-3, 1 at lr 1e-2",
        default='neither: as with Adam; `"reference"` refuses a lambda beyond 2, which diverges, and so all learning rates below 0.01 / 2',
        arguments=('OLORSGD(lr_factor="paper")',),
        settings=("olor.lr_factor",),
        tests=("test_olor.py::test_f10_lr_factor",),
    ),
    Switch(
        "F12",
        "olor",
        "lambda over time",
        text="constant",
        code="Adam: lambda follows the learning rate down",
        default="code, for both optimizers",
        arguments=('OLORSGD(rollback_decay="reference")', 'OLORAdam(rollback_decay="reference")'),
        settings=("olor.rollback_decay",),
        tests=("test_olor.py::test_f12_rollback_decays_with_the_schedule", "test_olor.py::test_f12_reaches_the_step"),
    ),
    Switch(
        "F13",
        "olor",
        "horizon of the cosine",
        text="- (50 epochs, those that are trained, is what one would write)",
        code="51 epochs, of which 50 are trained; no warm-up in the notebook (the script's default is 5 epochs; "
        "then the rate jumps to where the cosine would have been)",
        default="embedded tier: none beyond those that are trained (turned: 0.08 beyond 4, the code's share); the code's 1 is for cells",
        arguments=("Config(horizon_beyond=0)",),
        settings=("horizon_beyond",),
        tests=("test_config_recipes.py::test_the_horizon_is_of_the_cosine_schedule",),
    ),
    Switch(
        "F14",
        "olor",
        "which epoch is kept",
        text="-",
        code="the best by the validation fold is saved, then overwritten by the last under the same name",
        default="the last; the alternative keeps the epoch that is best on the validation fold",
        arguments=('Config(keep="last")',),
        settings=("keep",),
        tests=("test_best_epoch.py::test_the_best_epoch_on_the_validation_part_is_kept",),
        cannot_act="as the tier is set up it trains on all 80 drawings of a class and has none left to choose an epoch by",
    ),
    Switch(
        "F15",
        "olor",
        "brightness and contrast in training",
        text="-",
        code="applied to float images in 0-255 by a path that clips to [0, 1], which very probably turns about half of the training images "
        "almost black (inferred from the code, not run)",
        default="the transform as meant",
        arguments=("Images(clipped=False)",),
        settings=("images.clipped",),
        tests=("test_data_transforms.py::test_olor_changes_half_of_the_images_and_moves_half",),
        cannot_act="the tier's augmentation moves drawings and leaves their grey values alone",
    ),
    Switch(
        "momentum",
        "olor",
        "SGD: the momentum",
        text="-",
        code="a running mean, m = beta m + (1 - beta) g, with beta 0 by default: at beta 0.9 its steps are a tenth as long",
        default="torch's momentum",
        arguments=('OLORSGD(momentum_average="paper")',),
        settings=("olor.momentum_average",),
        tests=("test_olor.py::test_momentum_of_torch_or_running_mean",),
    ),
    Switch(
        "anchor",
        "olor",
        "theta_0 in a stream",
        text="one task only",
        code="one task only",
        default='the pretrained weights; `"previous"` takes those at the start of each experience. Both are Reclaim\'s own',
        arguments=('OLORPlugin(anchor="pretrained")',),
        settings=("olor.anchor",),
        tests=("test_olor_plugin.py::test_previous_anchors_are_the_weights_at_the_start_of_the_experience",),
    ),
    Note(
        "F11",
        "olor",
        "The code's (1 - (i/n + 1e-8))^gamma has a negative base for the last tensor: a complex number unless gamma is an integer. Reclaim "
        "clamps the base at 0. One tensor alone gives n = 0; its lambda is iota_1.",
        tests=(
            "test_olor.py::test_base_of_the_power_is_clamped_at_zero",
            "test_olor.py::test_one_tensor_alone_has_the_rollback_of_the_input",
        ),
    ),
    Note(
        "F16",
        "olor",
        "Places-LT and IP102 mark training as fold 0 and validation as fold 1, so that the default validation fold 0 would train on the "
        "official validation part; 1 is needed.",
    ),
    # --- aEPG ---
    Switch(
        "F17",
        "aepg",
        "what is frozen for the first epochs",
        text='the backbone, "before full fine-tuning"',
        code="LAE, on which it builds: the PEFT modules, not in the first task; the backbone never trains (turned, the backbone trains at "
        "LoRA's rate, which is many times too high for it: the effect is that of both)",
        default="LAE's code",
        arguments=('PEFTSchedule(freeze="peft", frozen_epochs=30)',),
        settings=("lora.freeze", "lora.frozen_epochs"),
        tests=("test_peft.py::test_freeze_peft_is_laes_code", "test_peft.py::test_freeze_backbone_is_the_papers_text"),
    ),
    Switch(
        "F18",
        "aepg",
        "rank of LoRA; decay of LAE's moving average",
        text="4; 0.999",
        code="LAE's configuration: 5; 0.9999",
        default="text",
        arguments=("attach_lora(rank=4)", "LAE(decay=0.999)"),
        settings=("lora.rank", "lae.decay"),
        tests=("test_peft.py::test_rank_is_4_by_default_and_a_switch", "test_lae.py::test_decay_is_0_999_by_default_and_a_switch"),
    ),
    Switch(
        "F19",
        "aepg",
        "batch, learning rate, last incomplete batch",
        text="256, 5e-4, silent",
        code="LAE: 24, 4.6875e-4, dropped",
        default="the paper's batch and rate, last batch dropped, in published cells; elsewhere the last batch is kept. T of F22 counts the "
        "batches that are left",
        arguments=("Config(drop_last=False)",),
        settings=("drop_last", "batch_size", "lr"),
        tests=("test_aepg.py::test_T_when_the_last_batch_is_dropped",),
    ),
    Switch(
        "F21",
        "aepg",
        "scale of the random crop",
        text="(0.05, 1)",
        code="LAE: torchvision's default, (0.08, 1)",
        default="the paper's; `0.08` is LAE's",
        arguments=("Images(smallest_crop=None)",),
        settings=("images.smallest_crop",),
        tests=("test_build.py::test_the_switches_of_transforms",),
        cannot_act="the tier's augmentation has no crop",
    ),
    Switch(
        "F22",
        "aepg",
        'T, "the total number of training steps"',
        text="does not say of what",
        code="-",
        default="the optimizer steps of the current task, frozen epochs included (alpha is about 0.23 when the modules thaw after 30 of 50 "
        'epochs); `"stream"` counts over all tasks',
        arguments=('AnnealedEPGLoss(horizon="task")',),
        settings=("annealing.horizon",),
        tests=("test_aepg.py::test_t_and_T_of_each_task", "test_aepg.py::test_t_and_T_over_the_whole_stream"),
    ),
    Note(
        "F20",
        "aepg",
        "Figure 1's caption says that EPG leads to higher entropy; text, table and formula say lower. It is lower; the claims "
        "`aepg/epg-entropy` and `aepg/aepg-entropy` test it on real runs.",
        tests=("test_aepg.py::test_maximising_j_by_gradient_steps_lowers_the_entropy_more_than_cross_entropy",),
    ),
    Note(
        "F23",
        "aepg",
        "The rows of focal loss, label smoothing and confidence penalty report the best coefficient of their grids (0.5, 1, 2; 0.01, 0.05, "
        "0.1; 0.1, 0.2) without naming it. `FocalLoss`, `LabelSmoothingLoss` and `ConfidencePenaltyLoss` have it as an argument. On the "
        "embedded tier two coefficients of each grid are tried with LoRA, and the one that the paper hints at with adapters and prefixes.",
    ),
    Note("F24", "aepg", "LAE's own numbers use the original ViT-B/16 IN21k, aEPG's the augreg one fine-tuned on IN1k."),
    Note(
        "F25",
        "aepg",
        'Table 3\'s milestones are 150/225 in one place and 100/225 in another; "pure 0-1 (alpha = 0.2)" in an appendix must mean '
        "alpha = 0.",
    ),
    Note(
        "F26",
        "aepg",
        "ImageNet-R, 10 tasks, LoRA stands in Tables 1 and 2 with different numbers (CE 74.3 ± 0.1 and 74.1 ± 0.4, aEPG 75.8 ± 0.3 and "
        '75.5 ± 0.1): both are kept, as two cells. A printed "± 0.0" means below 0.05, not a constant.',
    ),
)

INTRODUCTION = """\
# Fidelity: what the papers say, what their code does, what Reclaim does

The text of a paper and the code that made its numbers do not always agree, and each leaves things unsaid. This page lists
the places that were found, numbered F1 to F26. A **switch** can be turned by an argument; the table gives what the text
says, what the code does, which of the two is the default, the argument with its default value, a test that fails
when the switch does not do what is said here, and what turning it did. A **note** is only to be known.

"Text" is what could be read: for SLCA and OLOR articles about the papers, not the papers themselves. The default is what
produced the published numbers, as far as one can tell; where text and code share the blame, the row says why.
`setting` is the name for `reclaim run --set`. Beside the tests of the single switches, `reclaim conform tests/golden/*.npz`
holds the implementations against vectors recorded from the papers' public code.

**Measured effect**: a recipe of the [embedded tier](../leaderboards/embedded.md) with this switch turned, less the same recipe
without, paired by seed, in points of Last-Acc (for aEPG of its average over tasks), on the stream on which the recipe's
hyper-parameters were chosen if no other is named; 95% Student-t interval, n seeds. `reclaim list slca.f3` shows what is turned in
`slca.f3`. It is the effect in the miniature, at hyper-parameters chosen for the default, and not the effect in the paper.
The intervals are not corrected for their number: of twenty switches that do nothing, about one excludes 0 by chance. The
seeds are those of the leaderboard, so that effects share the runs of their default.
"""

TIER = """\
## What the embedded tier changes on purpose

The embedded tier checks which method beats which, not the papers' numbers. Its epochs, batch size, learning rates and
the number of blocks with LoRA are not the papers' (`reclaim list slca` shows a recipe in full); learning rates, and OLOR's
rollback at the input, are chosen on a validation part; PEFT modules are frozen for 3 of 5 epochs, as for 30 of 50. The
switches above are at their defaults, but for F1: the final norm is fresh in every recipe that trains the whole backbone over
several experiences, and in SLCA++, and the pretrained one everywhere else. With F2 and F13 the tier has a default of its own: a
seed varies both the class order and the initialisation, and the cosine ends with the last epoch.
"""

HEADER = ("", "text", "code", "default", "argument", "test", "measured effect")


def page(records: Sequence[Record]) -> str:
    """The page in Markdown: an introduction, for each paper a table of its switches and its notes, and the embedded tier's departures.

    :param records: those that count (:func:`reclaim.benchmark.paper_check.current`).
    """
    parts = [INTRODUCTION]
    for paper, title in SECTIONS.items():
        switches = [fact for fact in FACTS if isinstance(fact, Switch) and fact.paper == paper]
        notes = [fact for fact in FACTS if isinstance(fact, Note) and fact.paper == paper]
        table = [HEADER, ("---",) * len(HEADER), *(_row(switch, records) for switch in switches)]
        parts.append(f"## {title}\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in table))
        parts += [_paragraph(note) for note in notes]
    return "\n".join([*parts, TIER])


def turned_by(switch: Switch) -> list[Recipe]:
    """The recipes that turn a switch."""
    return [recipe for recipe in RECIPES.values() if recipe.fact == switch.id]


def effect(recipe: Recipe, records: Sequence[Record]) -> PairedDifference | None:
    """What turning a switch did: a recipe with a ``fact`` less the recipe that it is named after, paired by seed, on its home stream.

    In points of the paper's metric (:data:`METRIC`); None when there is no seed that both were run on.
    """
    return paired_difference(*_turned_and_default(recipe, records))


def std_ratio(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[float, tuple[float, float]] | None:
    """Standard deviation of a over that of b, and its 95% interval, over the seeds that both have (seed -> value).

    The interval is Pitman's and Morgan's (Biometrika 1939) for correlated normal values. None below three seeds, or when one of the two
    has no spread.
    """
    seeds = sorted(a.keys() & b.keys())
    x, y = (np.array([values[seed] for seed in seeds]) for values in (a, b))
    if len(seeds) < 3 or not (np.ptp(x) > 0 and np.ptp(y) > 0):
        return None
    variances = float(x.var() / y.var())
    t = float(stats.t.ppf(1 - ALPHA / 2, len(seeds) - 2))
    k = 1 + 2 * (1 - float(np.corrcoef(x, y)[0, 1]) ** 2) * t**2 / (len(seeds) - 2)
    width = k + math.sqrt(max(k**2 - 1, 0.0))
    return math.sqrt(variances), (math.sqrt(variances / width), math.sqrt(variances * width))


def _row(switch: Switch, records: Sequence[Record]) -> tuple[str, ...]:
    title = f"**{switch.id}** {switch.title}" if switch.id[1:].isdigit() else f"{switch.title} (no number)"
    arguments = ", ".join(f"`{call}`" for call in switch.arguments) or "none"
    settings = f"; setting {', '.join(f'`{setting}`' for setting in switch.settings)}" if switch.settings else ""
    tests = ", ".join(f"`{test}`" for test in switch.tests) or "-"
    effects = [_measured(recipe, switch, records) for recipe in turned_by(switch)]
    effects += [f"cannot act: {switch.cannot_act}"] if switch.cannot_act else []
    return title, switch.text, switch.code, switch.default, arguments + settings, tests, "; ".join(effects)


def _measured(recipe: Recipe, switch: Switch, records: Sequence[Record]) -> str:
    away = "" if recipe.home == _default_of(recipe).home else f" on {recipe.home}"
    name = f"(`{recipe.name}`{away})"
    found = effect(recipe, records)
    if found is None:
        return f"not run {name}"
    interval = found.interval()
    spread = f" [{_signed(interval[0])}, {_signed(interval[1])}]" if interval else ""
    ratio = std_ratio(*_turned_and_default(recipe, records)) if switch.spread else None
    stds = f", standard deviation over seeds {ratio[0]:.2f} [{ratio[1][0]:.2f}, {ratio[1][1]:.2f}] times the default's" if ratio else ""
    return f"{_signed(found.value)}{spread}, n = {found.n}{stds} {name}"


def _turned_and_default(recipe: Recipe, records: Sequence[Record]) -> tuple[dict[int, float], dict[int, float]]:
    """Seed -> the paper's metric on the recipe's home stream, of the recipe and of the one in which it turns a switch."""
    metric = METRIC[next(fact.paper for fact in FACTS if fact.id == recipe.fact)]
    turned, default = (
        {r.seed: metric_of(r, metric) for r in records if (r.recipe, r.stream) == (name, recipe.home)}
        for name in (recipe.name, _default_of(recipe).name)
    )
    return turned, default


def _default_of(recipe: Recipe) -> Recipe:
    """The recipe in which this one turns a switch; its name is this one's up to the last dot."""
    return RECIPES[recipe.name.rpartition(".")[0]]


def _paragraph(note: Note) -> str:
    tests = f" Tests: {', '.join(f'`{test}`' for test in note.tests)}." if note.tests else ""
    return textwrap.fill(f"**{note.id}** (note) {note.text}{tests}", 125, break_long_words=False, break_on_hyphens=False) + "\n"


def _signed(points: float) -> str:
    """Two decimals with a sign; never -0.00."""
    return f"{round(points, 2) + 0.0:+.2f}"
