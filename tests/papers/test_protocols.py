"""The papers' protocols: every cell resolves to a recipe or a reason, each value has a source, and the values are those
of the papers.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from reclaim.benchmark.cli import main
from reclaim.benchmark.config import EXECUTION, Config, flatten, from_dict
from reclaim.benchmark.papers import published
from reclaim.benchmark.papers.facts import FACTS
from reclaim.benchmark.papers.olor import OLOR_BACKBONES, OLOR_STREAMS
from reclaim.benchmark.papers.protocols import (
    Protocol,
    Uncovered,
    covered_runs,
    find_cell,
    protocol_of,
    run_names,
    run_of,
)
from reclaim.benchmark.papers.published import cells
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.report.coverage import coverage_page
from reclaim.benchmark.report.show import show_run
from reclaim.benchmark.training.build import prepared
from reclaim.strategies.backbones import KNOWN_BACKBONES, RESNET50_CIFAR

COVERAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
IN21K = "vit_base_patch16_224.augreg_in21k"
CONVNEXT = "convnext_base.clip_laion2b_augreg_ft_in12k_in1k"
PROTOCOLS = {run: found for run in run_names() if isinstance(found := protocol_of(run), Protocol)}


def protocol(run: str) -> Protocol:
    return PROTOCOLS[run]


# --- coverage ---


def test_every_cell_resolves_to_a_recipe_or_to_a_reason() -> None:
    counts: Counter[tuple[str, bool]] = Counter()
    for cell in cells():
        found = protocol_of(run_of(cell))
        counts[cell.table.id, isinstance(found, Protocol)] += 1
        if isinstance(found, Uncovered):
            raise AssertionError(f"{cell.id}: {found.reason}")
        else:
            assert (found.recipe.name, found.recipe.home, found.stream.name) == (cell.recipe, cell.stream, cell.stream)
            assert found.seeds == cell.seeds
    assert counts == {
        **{("slca/main", True): 40, ("slca/slca++", True): 8, ("inflora/main", True): 4},
        **{("aepg/table-1", True): 36, ("aepg/table-2", True): 168, ("aepg/table-3", True): 8},
    }
    runs = Counter("/".join(run.split("/")[:2]) for run in PROTOCOLS)
    assert runs == {
        **{"slca/main": 32, "slca/slca++": 4, "slca/mocov3": 12, "olor/grid": 192},
        **{"aepg/table-1": 18, "aepg/table-2": 84, "aepg/table-3": 8, "inflora/main": 5},
    }
    assert len(covered_runs()) == 22 + 4 + 2 + 18 + 84 + 8
    assert len(covered_runs(everything=True)) == len(PROTOCOLS) == len(run_names()) - 8
    # a store tells runs apart by recipe and stream
    assert len({(recipe.name, stream.name) for recipe, stream, _ in covered_runs(everything=True)}) == len(PROTOCOLS)


def test_the_page_is_up_to_date() -> None:
    page = coverage_page()
    assert COVERAGE.read_text(encoding="utf-8") == page, "write it anew: reclaim leaderboard --docs docs"
    sections = {part.split("\n")[0]: part for part in page.split("\n### ")}
    for cell in cells():
        _, _, method, stream = run_of(cell).split("/")
        assert f"\n| `{method}` " in sections[cell.table.id]
        assert f" `{stream}` |" in sections[cell.table.id]
    assert "| all | 264 | 264 | 0 |" in page
    assert "| `bic` BiC<br>our reading: setting: natural reading | 2 |  | 2 |  |" in page


def idle(config: Config) -> set[str]:
    """Settings that a configuration holds and that do nothing in it."""
    loss = config.loss.kind if config.loss else ""
    return {
        *("numerics", "augment"),
        *(["momentum"] if config.optimizer == "adam" else []),
        *(["images.clipped"] if config.images and config.images.protocol != "olor" else []),
        *(["loss.weight"] if loss != "symmetric" else []),
        *(["loss.coefficient"] if loss == "entropy-penalty" else []),
        *(
            ["annealing.tau", "annealing.horizon"]
            if config.annealing and config.annealing.schedule != "sigmoid"
            else []
        ),
    }


def test_every_value_has_a_source_and_every_run_its_data() -> None:
    facts = {fact.id for fact in FACTS}
    for run, found in PROTOCOLS.items():
        config = found.recipe.config
        present = {
            f"{key}.{inner}" if inner else key
            for key, value in config.as_dict().items()
            for inner in (value if isinstance(value, dict) else [""])
        }
        assert present - idle(config) <= found.settings.keys(), run
        flat = flatten(asdict(config))
        for key, (value, source) in found.settings.items():
            assert re.match(
                r"(paper|code|(LAE|PILOT|Mammoth)'s code|(our|natural) reading|neither|not used|heads and modules)\b",
                source,
            ), (
                run,
                key,
            )
            assert flat[key] == (tuple(value) if isinstance(value, list) else value), (run, key)
            assert "FIDELITY" not in source
        assert set(re.findall(r"\bF\d+\b", " ".join(source for _, source in found.settings.values()))) <= facts
        prepared(config, found.stream.dataset)
        assert config.backbone in {*KNOWN_BACKBONES, RESNET50_CIFAR}
        assert found.recipe.hyperparameters_from == ("given" if found.natural else "paper")
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+@-]*", found.recipe.name)
        assert found.recipe.name not in RECIPES
        assert all(from_dict(configuration.as_dict()) == configuration for configuration in found.configs)
        assert found.configs[0] == config
        assert len(found.configs) == len(set(found.configs)) == len(found.recipe.candidates())


# --- to the letter ---

SLCA = {
    "backbone": IN21K,
    "final_norm": "fresh",
    "seeding": "class_order",
    "part": "test",
    "images": {"protocol": "slca", "clipped": False, "hold_out": False},
    "batch_size": 128,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "lr": 0.01,
    "slow_factor": 0.01,
    "head_init_std": 0.02,
    "schedule": "step",
}
ALIGNED = {
    "epochs": 5,
    "samples_per_class": 256,
    "weight_decay": 5e-4,
    "tau": 0.1,
    "ridge": 1e-4,
    "mean_decay": True,
    "task_index": "true",
    "restore_heads": True,
}
PLUS_PLUS = {
    **SLCA,
    "slow_factor": 1.0,
    "schedule": "constant",
    "low_rank": {
        **{"rank": 4, "scale": 0.8, "first_factor": 0.5, "later_factor": 0.1, "other_factor": 0.1},
        **{"floor_factor": 0.01, "head_scaling": 0.02},
    },
    "alignment": {**ALIGNED, "mean_decay": False, "feature_decay": 0.02, "feature_decay_spread": 0.01},
}
AEPG = {
    "backbone": "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "final_norm": "pretrained",
    "seeding": "initialisation",
    "images": {"protocol": "aepg", "clipped": False, "hold_out": False},
    "batch_size": 256,
    "drop_last": True,
    "optimizer": "adam",
    "lr": 5e-4,
    "slow_factor": 1.0,
    "weight_decay": 0.0,
    "schedule": "constant",
    "epochs": 50,
    "head_init_std": 0.001,
}
SCRATCH = {
    "backbone": "resnet50_cifar",
    "epochs": 350,
    "milestones": [150, 225],
    "schedule": "step",
    "optimizer": "sgd",
    "momentum": 0.9,
    "lr": 0.1,
    "weight_decay": 0.0,
    "batch_size": 256,
    "seeding": "initialisation",
}
OLOR = {
    "images": {"protocol": "olor", "clipped": False, "hold_out": True},
    "batch_size": 128,
    "drop_last": True,
    "optimizer": "adam",
    "lr": 1e-4,
    "weight_decay": 0.0,
    "epochs": 50,
    "schedule": "cosine",
    "horizon_beyond": 1.0,
    "precision": "fp16",
}
LORA = {"blocks": 5, "rank": 4, "frozen_epochs": 30}
SYMMETRIC = {"kind": "symmetric", "weight": 1.0, "coefficient": 0.1}
HALVES = {"kind": "symmetric", "weight": 0.5, "coefficient": 0.5}
UNDECAYED = {**PLUS_PLUS["alignment"], "weight_decay": 0.0}  # type: ignore[dict-item]

L2P = {
    **{"pool": 10, "length": 5, "top_k": 5, "pull": 0.1, "positions": "reference", "train_vote": "batch"},
    **{"test_vote": "batch", "init": "reference", "clip": 1.0, "clip_over": "trained", "share": False},
}
DUALPROMPT = {
    **{"pool": 10, "g_length": 5, "e_length": 20, "g_layers": [0, 1], "e_layers": [2, 3, 4], "top_k": 1, "pull": 1.0},
    **{"pairing": "reference", "train_choice": "task", "test_vote": "image", "init": "reference", "clip": 1.0},
    **{"copy_prompts": True, "train_vote": "image", "clip_over": "trained"},
}
TWIN = {
    "backbone": IN21K,
    "final_norm": "pretrained",
    "seeding": "class_order",
    "images": {"protocol": "l2p", "clipped": False, "hold_out": False},
    "optimizer": "adam",
    "weight_decay": 0.0,
    "schedule": "constant",
    "slow_factor": 1.0,
}
OF_IMAGENET_R = {**TWIN, "epochs": 50, "batch_size": 24, "lr": 0.00046875}

# value None: the setting is not there
LETTER: list[tuple[str, dict[str, Any]]] = [
    (
        "slca/main/slca/split-cifar100-10",
        {**SLCA, "epochs": 20, "milestones": [18], "alignment": ALIGNED, "loss": None},
    ),
    ("slca/main/slca/split-imagenet-r-10", {**SLCA, "epochs": 50, "milestones": [40], "alignment": ALIGNED}),
    ("slca/main/slca/split-cub200-10", {**SLCA, "epochs": 50, "milestones": [40], "alignment": ALIGNED}),
    (
        "slca/main/slca/split-cars196-10",
        {**SLCA, "epochs": 50, "milestones": [40], "alignment": {**ALIGNED, "tau": 0.05}},
    ),
    (
        "slca/main/seqft+sl/split-cifar100-10",
        {**SLCA, "epochs": 20, "milestones": [18], "alignment": None, "joint": False},
    ),
    ("slca/main/joint/split-cub200-10", {**SLCA, "epochs": 50, "milestones": [40], "alignment": None, "joint": True}),
    (
        "slca/mocov3/slca/split-cifar100-10",
        {**SLCA, "backbone": "vit_base_patch16_224.mocov3", "epochs": 90, "milestones": [80]},
    ),
    ("slca/slca++/slca++/split-cifar100-10", {**PLUS_PLUS, "epochs": 20, "loss": SYMMETRIC, "milestones": None}),
    ("slca/slca++/slca++/split-cub200-10", {**PLUS_PLUS, "epochs": 50, "loss": SYMMETRIC}),
    (
        "slca/slca++/slca++/split-imagenet-r-10",
        {**PLUS_PLUS, "weight_decay": 0.0, "alignment": UNDECAYED, "loss": HALVES},
    ),
    (
        "slca/slca++/slca++/split-cars196-10",
        {**PLUS_PLUS, "weight_decay": 0.0, "alignment": {**UNDECAYED, "tau": 0.05}, "loss": HALVES},
    ),
    (
        "slca/mocov3/slca++/split-cub200-10",
        {
            **PLUS_PLUS,
            "backbone": "vit_base_patch16_224.mocov3",
            "epochs": 90,
            "low_rank": {**PLUS_PLUS["low_rank"], "floor_factor": 0.001},
        },  # type: ignore[dict-item]
    ),
    ("slca/main/l2p/split-cifar100-10", {**TWIN, "epochs": 5, "batch_size": 16, "lr": 0.001875, "l2p": L2P}),
    ("slca/main/l2p/split-cars196-10", {**OF_IMAGENET_R, "l2p": L2P}),
    (
        "slca/main/dualprompt/split-cifar100-10",
        {
            **{**TWIN, "epochs": 5, "batch_size": 24, "lr": 0.0028125},
            "dualprompt": {**DUALPROMPT, "e_length": 5, "test_vote": "batch"},
        },
    ),
    ("slca/main/dualprompt/split-imagenet-r-10", {**OF_IMAGENET_R, "dualprompt": DUALPROMPT}),
    (
        "slca/main/bic/split-cifar100-10",
        {
            **{**SLCA, "epochs": 20, "milestones": [18], "alignment": None},
            "memory": {"method": "bic", "size": 1000, "alpha": 0.1, "beta": 0.5, "held_out": 0.1},
        },
    ),
    (
        "slca/main/der++/split-cifar100-10",
        {**SLCA, "memory": {"method": "der++", "size": 1000, "alpha": 0.1, "beta": 0.5, "held_out": 0.1}},
    ),
    ("slca/main/lwf/split-cub200-10", {**SLCA, "epochs": 50, "milestones": [40], "lwf": 1.0, "alignment": None}),
    (
        "aepg/table-1/dualprompt-ce/split-imagenet-r-5",
        {
            **AEPG,
            "dualprompt": {**DUALPROMPT, "clip": 0.0, "frozen_epochs": 30},
        },
    ),
    (
        "aepg/table-1/inflora-ce/split-imagenet-r-20",
        {
            **AEPG,
            "inflora": {
                **{"rank": 10, "threshold": 0.98, "last_threshold": 1.0, "schedule": "constant"},
                **{"design_images": "train", "frozen_epochs": 30},
            },
        },
    ),
    ("aepg/table-1/lora-ce/split-imagenet-r-20", {**AEPG, "lora": LORA, "loss": None, "annealing": None, "lae": None}),
    (
        "aepg/table-1/lae-aepg/split-imagenet-r-5",
        {
            **AEPG,
            "lora": LORA,
            "lae": {"decay": 0.999},
            "annealing": {"schedule": "sigmoid", "tau": 6.0, "horizon": "task"},
        },
    ),
    (
        "aepg/table-2/adapter-cp/clrs25-5",
        {
            **AEPG,
            "adapter": {"blocks": 5, "hidden": 5, "frozen_epochs": 30, "freeze": "peft"},
            "loss": {"kind": "confidence-penalty", "coefficient": 0.1, "weight": 1.0},
        },
    ),
    (
        "aepg/table-2/prefix-ep/split-food101-10",
        {
            **AEPG,
            "prefix": {"blocks": 5, "tokens": 10, "frozen_epochs": 30, "freeze": "peft"},
            "loss": {"kind": "entropy-penalty", "coefficient": 1.0, "weight": 1.0},
        },
    ),
    ("aepg/table-2/lora-epg/split-cub200-10", {**AEPG, "annealing": {"schedule": 0.0, "tau": 6.0, "horizon": "task"}}),
    *(
        (
            f"inflora/main/inflora/{stream}",
            {
                **{"backbone": IN21K, "final_norm": "pretrained", "seeding": "initialisation", "epochs": epochs},
                **{"optimizer": "adam", "lr": 5e-4, "weight_decay": 0.0, "batch_size": 128, "drop_last": None},
                "images": {"protocol": "inflora", "clipped": False, "hold_out": False},
                "inflora": {
                    **{"rank": 10, "threshold": threshold, "last_threshold": 1.0},
                    **{"schedule": "reference", "design_images": "train"},
                },
            },
        )
        for stream, epochs, threshold in (("split-imagenet-r-20", 50, 0.98), ("split-cifar100-10", 20, 0.95))
    ),
    *(
        (
            f"aepg/table-3/resnet50-alpha-{a}/{s}",
            {**SCRATCH, "annealing": {"schedule": float(a), "tau": 6.0, "horizon": "task"}},
        )
        for a in ("0", "0.2", "0.5", "1")
        for s in ("cifar10-1", "cifar100-1")
    ),
    (
        f"olor/grid/olor/pacs-1/{IN21K}",
        {
            **OLOR,
            "olor": {
                **{"rollback_input": 0.01, "rollback_output": 0.0, "rollback_power": 1.0},
                **{"counting": "layers", "rollback_decay": "reference", "anchor": "pretrained"},
            },
        },
    ),
    (f"olor/grid/linear/svhn-1/{CONVNEXT}", {**OLOR, "backbone": CONVNEXT, "trainable": "heads"}),
    (f"olor/grid/full/ip102-1/{IN21K}", {**OLOR, "trainable": "all", "olor": None, "l2_sp": None}),
    (f"olor/grid/l2-sp/cub200-1/{IN21K}", {**OLOR, "l2_sp": 0.01}),
    (f"olor/grid/vpt/cars196-1/{IN21K}", {**OLOR, "prompts": {"tokens": 10, "deep": True}}),
]


@pytest.mark.parametrize(("run", "expected"), LETTER, ids=[run for run, _ in LETTER])
def test_to_the_letter(run: str, expected: dict[str, Any]) -> None:
    config = protocol(run).recipe.config.as_dict()
    assert {key: config.get(key) for key in expected} == expected


def test_coefficients_without_a_name_are_a_grid() -> None:
    """F23: the hinted one first."""
    for loss, values in (("focal", [1.0, 0.5, 2.0]), ("ls", [0.01, 0.05, 0.1]), ("cp", [0.1, 0.2])):
        found = protocol(f"aepg/table-2/lora-{loss}/split-cub200-10")
        assert [config.loss and config.loss.coefficient for config in found.configs] == values
        assert "F23" in found.facts
    assert sum(len(found.configs) > 1 for found in PROTOCOLS.values()) == 3 * 3 * 4


def test_the_grid_of_olor_is_that_of_its_file() -> None:
    grid = published._document("olor.toml")["grid"]
    assert set(OLOR_STREAMS) == set(grid["streams"])
    assert {protocol(f"olor/grid/{m.lower()}/pacs-1/{IN21K}").recipe.name for m in grid["methods"]} == {
        f"olor.grid.{m}.{IN21K}" for m in ("linear", "full", "l2-sp", "vpt", "olor")
    }
    assert {name for name, known in KNOWN_BACKBONES.items() if "OLOR" in known.used_by} == set(OLOR_BACKBONES)
    assert protocol_of(f"olor/grid/vpt/pacs-1/{CONVNEXT}") == Uncovered(
        "OLOR's code has learnt pixels around the image for ConvNets, in a branch never reached; "
        "prompts are for a ViT here"
    )
    assert protocol(f"olor/grid/olor/pacs-1/{CONVNEXT}").settings["lr"][1].startswith("our reading")
    # a cell that somebody adds to the file, as it says there
    added = protocol_of("olor/table-2/olor/cifar100-1")
    assert isinstance(added, Protocol)
    assert (added.recipe.name, added.recipe.config.backbone) == ("olor.table-2.olor", IN21K)
    assert any("does not name its backbone" in remark for remark in added.remarks)


AS_PILOT = {
    "backbone": "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "final_norm": "pretrained",
    "images.protocol": "pilot",
    "batch_size": 64,
    "alignment.epochs": 3,
}
AS_MAMMOTH = {
    "images.protocol": "mammoth",
    "schedule": "constant",
    "milestones": (),
    "weight_decay": 0.0,
    "alignment.weight_decay": 0.0,
    "skip_first_step": True,
    "alignment.task_index": "true",
}


@pytest.mark.parametrize(
    ("run", "changed"),
    [
        ("slca@pilot/split-cifar100-10", AS_PILOT),
        (
            "slca@pilot/split-imagenet-r-10",
            {**AS_PILOT, "epochs": 5, "schedule": "constant", "milestones": ()},
        ),
        ("slca@mammoth/split-cifar100-10", AS_MAMMOTH),
        ("slca@mammoth/split-imagenet-r-10", AS_MAMMOTH),
    ],
)
def test_what_others_change_of_slca(run: str, changed: dict[str, Any]) -> None:
    """Of the authors' code, which differs from SLCA's cell in the task index alone."""
    stream = run.partition("/")[2]
    authors, plain, found = (
        flatten(asdict(protocol(f"slca/main/{name}").recipe.config))
        for name in (f"slca@authors/{stream}", f"slca/{stream}", run)
    )
    assert {key: authors[key] for key in plain if authors[key] != plain[key]} == {"alignment.task_index": "reference"}
    assert {key: found[key] for key in authors if found[key] != authors[key]} == changed
    sources = protocol(f"slca/main/{run}").settings
    assert all(re.search(r"\(F6\d\)", sources[key][1]) for key in changed)


@pytest.mark.parametrize(
    ("run", "named"),
    [
        ("slca/mocov3/slca@pilot/split-cifar100-10", "unknown method 'slca@pilot'"),
        ("slca/main/slca@pilot/split-cub200-10", "unknown stream 'split-cub200-10', choose one of split-cifar100-10"),
        ("slca/main/ewc/split-cifar100-10", r"unknown method 'ewc', choose one of slca, seqft\+sl, joint, slca\+\+"),
        ("slca/other/slca/split-cifar100-10", "unknown table 'other'"),
        ("slca/main/slca/split-cifar100-10/resnet50", "only runs of OLOR name a backbone, leave out 'resnet50'"),
        ("slca/main/slca/nowhere", "unknown stream 'nowhere'"),
        ("slca/main", "is no run: write paper/table/method/stream"),
        ("", "is no run"),
        ("slca/main/slca/split-cifar100-10/a/b", "is no run"),
        ("slka/main/slca/split-cifar100-10", "unknown paper 'slka', choose one of slca, olor, inflora, aepg"),
        ("olor/table-2/lora/cifar100-1", "unknown method 'lora', choose one of linear, full"),
        ("olor/grid/olor/cifar100-1/resnet50", "unknown backbone 'resnet50', choose one of vit"),
        ("inflora/main/inflora/split-cub200-10", "unknown stream 'split-cub200-10', choose one of split-imagenet-r-5"),
        ("aepg/table-1/foo-bar/split-imagenet-r-10", "unknown module 'foo', choose one of lora, adapter, prefix, lae"),
        ("aepg/table-1/lora-bar/split-imagenet-r-10", "unknown loss 'bar', choose one of ce, focal"),
        ("aepg/table-1/lora/split-imagenet-r-10", "unknown loss ''"),
        ("aepg/table-1/lora-ce-ce/split-imagenet-r-10", "unknown loss 'ce-ce'"),
        ("aepg/table-9/lora-ce/split-imagenet-r-10", "unknown table 'table-9'"),
        (
            "aepg/table-3/resnet50-alpha-x/cifar10-1",
            "unknown method 'resnet50-alpha-x', choose one of resnet50-alpha-0",
        ),
    ],
)
def test_what_is_unknown_in_a_run_is_named(run: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        protocol_of(run)


def test_what_is_our_reading_is_said() -> None:
    joint = protocol("slca/main/joint/split-cub200-10")
    assert all(source.startswith("our reading") for key, (_, source) in joint.settings.items() if key != "joint")
    for run, words in (
        ("slca/main/joint/split-cub200-10", "How joint training was done is not known"),
        ("slca/main/slca/split-cars196-10", "F7"),
        ("slca/main/slca/split-imagenet-r-10", "DualPrompt's"),
        ("aepg/table-2/lora-ce/split-food101-10", "nine of 10 and one of 11"),
        ("aepg/table-2/lora-ce/clrs25-5", "0.8 / 0.2"),
        ("aepg/table-1/lora-aepg/split-imagenet-r-10", "F26"),
        ("aepg/table-2/prefix-ep/split-cub200-10", "does not say whether its seeds change the class order"),
        (f"olor/grid/full/ip102-1/{IN21K}", "F16"),
        (f"olor/grid/linear/pacs-1/{IN21K}", "art_painting"),
    ):
        assert any(words in remark for remark in protocol(run).remarks), run


def test_a_row_without_a_stated_setting_is_a_natural_reading() -> None:
    """F71, F72: of whatever paper the method is, and it alone."""
    natural = {run for run, found in PROTOCOLS.items() if found.natural}
    methods = Counter(tuple(run.split("/")[:3]) for run in natural)
    assert methods == {
        **{("slca", "main", method): n for method, n in (("bic", 2), ("der++", 1), ("lwf", 1))},
        **{("slca", "main", method): 4 for method in ("l2p", "dualprompt")},
        **{("aepg", "table-1", f"{method}-ce"): 3 for method in ("dualprompt", "inflora")},
    }
    for run, found in PROTOCOLS.items():
        sources = [source.startswith("natural reading") for _, source in found.settings.values()]
        assert all(sources) if found.natural else not any(sources), run
        assert found.recipe.description.startswith("Setting: natural reading, on ") == found.natural
        assert ("setting: natural reading" in show_run(run).lower()) == found.natural
        assert any("states no setting" in remark for remark in found.remarks) == found.natural
        assert {"F71", "F72"} & {*found.facts} or not found.natural


# --- which records count ---


def test_a_run_is_of_a_protocol_up_to_how_the_arithmetic_was_done() -> None:
    found = protocol("slca/main/slca/split-cifar100-10")
    config = found.recipe.config
    assert found.made_with(config.as_dict()) == config
    assert found.deviations(config.as_dict()) == []
    other = config.set(["precision=bf16", "compile=true", "micro_batch=32"]).as_dict()
    assert found.made_with(other) == config
    assert sorted(found.deviations(other)) == [
        "compile=true instead of false",
        "micro_batch=32 instead of null",
        "precision=bf16 instead of fp32",
    ]
    assert {difference.split("=")[0] for difference in found.deviations(other)} == set(EXECUTION)
    for setting in (
        "lr=0.02",
        "numerics=2",
        "alignment.tau=0.2",
        "alignment=null",
        "drop_last=true",
        "part=validation",
    ):
        assert found.made_with(config.set([setting]).as_dict()) is None, setting
    assert found.deviations(config.set(["lr=0.02"]).as_dict()) == ["lr=0.02 instead of 0.01"]
    assert found.made_with({**config.as_dict(), "of_another_version": 1}) is None
    half = protocol(f"olor/grid/full/pacs-1/{IN21K}")
    assert half.deviations(half.recipe.config.set(["precision=fp32"]).as_dict()) == ["precision=fp32 instead of fp16"]

    grid = protocol("aepg/table-2/lora-focal/clrs25-5")
    for candidate in grid.configs:
        assert grid.made_with(candidate.set(["precision=bf16"]).as_dict()) == candidate
        assert grid.deviations(candidate.as_dict()) == []
    assert grid.made_with(grid.configs[0].set(["loss.coefficient=3"]).as_dict()) is None


# --- by name ---


def test_a_cell_is_found_with_its_metric_or_without() -> None:
    for name in ("slca/main/slca/split-cifar100-10/inc_acc", "slca/main/slca/split-cifar100-10"):
        recipe, stream, seeds = find_cell(name)
        assert (recipe.name, stream.name, seeds) == ("slca.main.slca", "split-cifar100-10", (1993, 1996, 1997))
    recipe, stream, seeds = find_cell(f"olor/grid/olor/cifar100-1/{IN21K}")
    assert (recipe.name, stream.name, seeds) == (f"olor.grid.olor.{IN21K}", "cifar100-1", (2023,))
    assert find_cell("aepg/table-3/resnet50-alpha-0.2/cifar10-1")[2] == ()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("slca/main/slca/split-cifar100-11", "did you mean slca/main/slca/split-cifar100-10"),
        (
            "slca/main/slca/split-cifar100-10/first_acc",
            "no cell or run is called .* did you mean slca/main/slca/split-cifar100-10",
        ),
        ("olor/grid/olor/cifar100-1", "did you mean olor/grid/"),
        ("", "no cell or run is called ''"),
        (f"olor/grid/vpt/svhn-1/{CONVNEXT}", "cannot be run: OLOR"),
    ],
)
def test_what_cannot_be_run_is_named(name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        find_cell(name)


def test_the_whole_protocol_is_listed() -> None:
    def listed(name: str) -> str:
        result = CliRunner().invoke(main, ["show", name])
        assert result.exit_code == 0, result.output
        return result.output

    run = "slca/main/slca/split-cifar100-10"
    text = listed(run)
    assert text == listed(f"{run}/last_acc") == show_run(run) + "\n"
    for key, (_, source) in protocol(run).settings.items():
        assert re.search(rf"^{re.escape(key)} +\S+.* {re.escape(source)}$", text, re.MULTILINE)
    for expected in (
        "published: last_acc 91.53 +- 0.28, n = 3; margin 1",
        "re-run by others: last_acc 87.5 (a document-CL repository; own port, batch 16, early stopping)",
        "the paper's seeds: 1993, 1996, 1997",
        "recorded as: slca.main.slca",
        f"run it: reclaim run --cell {run} --root DIR --seeds 3",
        "F5, t of F4\n  text: -\n  code: class // size of the newest task",
        "  here: alignment.task_index=true",
    ):
        assert expected in text
    assert "F8" not in text

    text = listed("aepg/table-2/lora-focal/split-cub200-10/task_avg_last_acc")
    commands = re.findall(r"run it: reclaim run --cell (\S+) --root DIR --seeds 5(?: --set (\S+))?", text)
    assert [settings for _, settings in commands] == ["", "loss.coefficient=0.5", "loss.coefficient=2"]
    recipe, _, _ = find_cell(commands[0][0])
    assert [recipe.config.set([s] if s else []) for _, s in commands] == list(protocol(commands[0][0]).configs)

    text = listed("slca/main/bic/split-cub200-10/inc_acc")
    assert "published: inc_acc 89.92 +- 1.57, n = 3" in text
    assert "setting: natural reading" in text
    assert "published: no number here" in listed(f"olor/grid/olor/pacs-1/{CONVNEXT}")
    table = CliRunner().invoke(main, ["list", "cells"]).output
    assert re.search(r"slca/main/slca/split-cub200-10/inc_acc .* yes$", table, re.MULTILINE)
    assert f"olor/grid/olor/pacs-1/{CONVNEXT}" in table
