"""A backbone as a user names it: by a name, a repository on a hub, a file or a folder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = "config.json"
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".npz", ".ckpt", ".tar")
PREFERRED = ("model.safetensors", "pytorch_model.bin")
"""Which file of a folder has the weights, where there are several: timm's and Hugging Face's."""

SAID_BY_THE_RUN = {"img_size", "num_classes"}


@dataclass(frozen=True)
class NamedBackbone:
    """What a configuration says of a backbone, and what only this machine knows.

    :ivar name: for :attr:`~reclaim.benchmark.config.Config.backbone`.
    :ivar weights: for :attr:`~reclaim.benchmark.training.runtime.Setup.weights`; None: the name's own.
    """

    name: str
    weights: Path | None = None


def named_backbone(text: str) -> NamedBackbone:
    """The backbone that a user names.

    :param text: a timm name, with a tag pretrained, without random; ``hf-hub:owner/name``, a repository in timm's
        layout; or a file of weights beside its ``config.json``, or the folder of both, written ``./folder`` or
        ``local-dir:folder``.
        Its architecture then gets the tag ``.local``, because no configuration names a place on a machine.
    :raises ValueError: there is no such thing; the message has the remedy.
    """
    from reclaim.strategies.backbones import HUB, LOCAL, hub_name, require_backbone  # brings torch

    if re.match(r"hf[-_]hub:", text):
        return NamedBackbone(hub_name(text))
    place = Path(text.removeprefix("local-dir:")).expanduser()
    if text.startswith("local-dir:") or _is_a_place(text):
        weights = _weights_in(place) if place.is_dir() else place
        if not weights.is_file():
            also = f"; a repository is {HUB}{text}" if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text) else ""
            raise ValueError(f"there is no file or folder {place}: name an existing one as backbone{also}")
        name = f"{_architecture_of(weights)}.{LOCAL}"
        require_backbone(name)
        return NamedBackbone(name, weights)
    require_backbone(text)
    return NamedBackbone(text)


def _is_a_place(text: str) -> bool:
    return "/" in text or "\\" in text or Path(text).suffix.lower() in SUFFIXES


def _weights_in(folder: Path) -> Path:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    preferred = [folder / name for name in PREFERRED if folder / name in files]
    if preferred or len(files) == 1:
        return [*preferred, *files][0]
    found = f"several: {', '.join(path.name for path in files)}" if files else f"none ({', '.join(SUFFIXES)})"
    raise ValueError(f"the folder {folder} should hold one file of weights, but has {found}: name the file itself")


def _architecture_of(weights: Path) -> str:
    """What the ``config.json`` beside a file of weights says, in timm's layout."""
    path = weights.with_name(CONFIG)
    remedy = f"name the architecture and pass the file: --backbone NAME --weights {weights}"
    if not path.is_file():
        raise ValueError(f"{weights} has no {CONFIG} beside it, which would say its architecture: {remedy}")
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): {remedy}") from None
    architecture = said.get("architecture") if isinstance(said, dict) else None
    if not isinstance(architecture, str):
        raise ValueError(f"{path} names no architecture of timm under 'architecture': {remedy}")
    arguments = said.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise ValueError(f"{path} has {arguments!r} as 'model_args', which is no table of arguments: {remedy}")
    if others := sorted(set(arguments) - SAID_BY_THE_RUN):
        raise ValueError(
            f"{path} changes the architecture {architecture!r} by {', '.join(others)} in 'model_args', which no name "
            f"says: save the weights of an unchanged model of timm"
        )
    return architecture.partition(".")[0]
