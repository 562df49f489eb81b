"""Pretraining of the embedded backbone on the upstream drawings: one command, seeded, resumable, no download."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reclaim.strategies.backbones import QUICKDRAW_VIT, fingerprint, quickdraw_vit
from safetensors.torch import save_file
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer
from tqdm import tqdm

from ..data.augment import Warp, warp_batch
from ..data.drawings import DRAWINGS_PER_CLASS, UPSTREAM_CLASSES, UPSTREAM_TRAIN, Drawings, upstream
from ..files import replacing
from .kernels import arithmetic

WARP = Warp(degrees=15, scale=(0.75, 1.2), translate=0.1, shear=0.2, elastic=0.08, flip=0.5)


@dataclass(frozen=True)
class Pretraining:
    """The recipe of the shipped weights: supervised classification of the 245 upstream classes.

    The matrices of the transformer blocks are trained with Muon (orthogonalised momentum), everything else with AdamW.
    Both use a cosine schedule after half an epoch of warm-up. Mixup and CutMix prevent memorisation of the few
    drawings.
    """

    seed: int = 0
    epochs: int = 36
    batch_size: int = 128
    muon_lr: float = 0.02
    muon_weight_decay: float = 0.1
    adamw_lr: float = 2e-3
    adamw_weight_decay: float = 0.05
    label_smoothing: float = 0.1
    drop_path_rate: float = 0.1
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    mixup_probability: float = 0.6
    warmup_epochs: float = 0.5


def pretrain(
    config: Pretraining, folder: Path, device: str = "cpu", threads: int = 1, data: Drawings | None = None
) -> dict[str, Any]:
    """Train, and write ``quickdraw_vit.safetensors``, its report (``.json``) and model card (``.md``) into ``folder``.

    A checkpoint is written after every epoch. The same call resumes from it and gives the same weights as an
    uninterrupted run.

    :param data: other drawings than the upstream ones (for tests).
    :return: the report written as JSON: configuration, held-out accuracy in percent after each epoch, fingerprint.
    :raises RuntimeError: torch is too old for Muon (added in 2.9), or the checkpoint belongs to another configuration.
    """
    if not hasattr(torch.optim, "Muon"):
        raise RuntimeError(
            f"pretraining needs torch.optim.Muon, which torch {torch.__version__} lacks: install torch >= 2.9"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with arithmetic(threads):
        return _train(config, folder, device, data or upstream())


def _train(config: Pretraining, folder: Path, device: str, data: Drawings) -> dict[str, Any]:
    n_classes, per_class = data.train.shape[:2]
    images, labels = (
        data.train.flatten(0, 1).to(device),
        torch.arange(n_classes, device=device).repeat_interleave(per_class),
    )

    torch.manual_seed(config.seed)
    model = quickdraw_vit(n_classes, config.drop_path_rate).to(device)
    optimizers = _optimizers(model, config)
    mixup = Mixup(
        config.mixup_alpha,
        config.cutmix_alpha,
        prob=config.mixup_probability,
        label_smoothing=config.label_smoothing,
        num_classes=n_classes,
    )
    steps = math.ceil(len(images) / config.batch_size)
    curve: list[dict[str, float]] = []

    checkpoint = folder / f"{QUICKDRAW_VIT}.checkpoint.pt"
    if checkpoint.exists():
        try:
            saved = torch.load(checkpoint, map_location=device, weights_only=True)
        except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
            raise RuntimeError(
                f"{checkpoint} is damaged ({type(error).__name__}): delete it to start from the beginning"
            ) from error
        if saved["config"] != asdict(config):
            raise RuntimeError(
                f"{checkpoint} belongs to another configuration, {saved['config']}: move it away or use another folder"
            )
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        curve = saved["curve"]

    bar = tqdm(total=config.epochs * steps, initial=len(curve) * steps, desc="pretraining", unit="step", mininterval=2)
    for epoch in range(len(curve), config.epochs):
        # Covers all randomness of the epoch, so that resuming changes nothing. timm's mixup uses numpy's global
        # generator.
        torch.manual_seed(config.seed * 100_003 + epoch)
        np.random.seed((config.seed * 100_003 + epoch) % 2**32)
        model.train()
        total = 0.0
        for step, batch in enumerate(torch.randperm(len(images)).split(config.batch_size)):
            _set_learning_rates(optimizers, epoch * steps + step, steps, config)
            batch = batch.to(device)
            mixed, soft_labels = mixup(warp_batch(images[batch], WARP), labels[batch])
            loss = F.cross_entropy(model(mixed), soft_labels)
            model.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            total += loss.item()
            bar.update()
        held_out = _accuracy(model, data.test.to(device))
        curve.append({"loss": total / steps, "held_out_accuracy": held_out})
        bar.set_postfix(loss=f"{total / steps:.3f}", held_out=f"{held_out:.1f}%")
        state = {
            "config": asdict(config),
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "curve": curve,
        }
        with replacing(checkpoint) as file:
            torch.save(state, file)
    bar.close()

    model.reset_classifier(0)
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()},
        folder / f"{QUICKDRAW_VIT}.safetensors",
    )
    report = {
        "config": asdict(config),
        "warp": asdict(WARP),
        "drawings_sha256": data.sha256,
        "held_out_accuracy": curve[-1]["held_out_accuracy"],
        "curve": curve,
        "parameters": sum(p.numel() for p in model.parameters()),
        "fingerprint": fingerprint(model),
        "torch": torch.__version__,
        "device": device,
    }
    (folder / f"{QUICKDRAW_VIT}.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / f"{QUICKDRAW_VIT}.md").write_text(_model_card(report))
    checkpoint.unlink(missing_ok=True)
    return report


def _model_card(report: dict[str, Any]) -> str:
    settings = "\n".join(
        f"| {key.replace('_', ' ')} | {value} |" for key, value in {**report["config"], **report["warp"]}.items()
    )
    return f"""\
# Model card: {QUICKDRAW_VIT}

A ViT of {report["parameters"]:,} parameters for 28 x 28 grey drawings: three convolutions and a projection \
to 16 tokens, a class token,
width 128, depth 6, 4 heads; the feature is the class token after the final norm. The backbone of Reclaim's \
embedded tier.

- **Trained on** the {UPSTREAM_CLASSES} upstream classes of quickdraw345.npz ({UPSTREAM_TRAIN} drawings a class), \
supervised. The other 100
  classes, which the streams are made of, were not seen.
- **Accuracy** on the {DRAWINGS_PER_CLASS - UPSTREAM_TRAIN} held-out drawings of each upstream class:
  {report["held_out_accuracy"]:.2f}% (last epoch, no choice of epoch).
- **Made by** `reclaim pretrain quickdraw`, torch {report["torch"]}, {report["device"]}; the curve \
is in {QUICKDRAW_VIT}.json.
- **Fingerprint** (SHA-256 over names and values): `{report["fingerprint"]}`
- **Use**: continual-learning experiments in miniature. Not a model of drawings to be used for anything else.
- **Licence**: MIT; trained on drawings from Google's Quick, Draw! dataset, (c) Google LLC, CC BY 4.0.

| setting | value |
| --- | --- |
{settings}
"""


def _optimizers(model: nn.Module, config: Pretraining) -> list[Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("blocks.")]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=config.muon_weight_decay, momentum=0.95),
        AdamW(others, lr=config.adamw_lr, weight_decay=config.adamw_weight_decay),
    ]


def _set_learning_rates(optimizers: Iterable[Optimizer], step: int, steps_per_epoch: int, config: Pretraining) -> None:
    warmup = min(1.0, (step + 1) / (config.warmup_epochs * steps_per_epoch))
    cosine = 0.5 * (1 + math.cos(math.pi * step / (config.epochs * steps_per_epoch)))
    for optimizer, lr in zip(optimizers, (config.muon_lr, config.adamw_lr), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr * warmup * cosine


@torch.no_grad()
def _accuracy(model: nn.Module, images: Tensor) -> float:
    """Accuracy in percent over images (classes, n, 1, 28, 28)."""
    model.eval()
    hits = sum(int((model(batch).argmax(1) == label).sum()) for label, batch in enumerate(images))
    return 100 * hits / (images.shape[0] * images.shape[1])
