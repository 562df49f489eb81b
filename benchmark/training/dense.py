"""Makes one run on canvases: semantic segmentation, detection or instances, from a configuration to a record."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import torch
from reclaim.strategies.backbones import fingerprint
from reclaim.strategies.baselines import l2_sp_penalty
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from ..config import Config, Dense, config_hash
from ..data.canvases import Canvases, draw_canvases
from ..data.drawings import downstream
from ..data.streams import CANVASES, DENSE, Stream, class_order
from ..records.metrics import SHOWN_CANVASES
from ..records.provenance import provenance, versions_of
from ..records.record import SCHEMA, Record
from .build import make_backbone, optimizer_of
from .dense_models import backbone_of, dense_loss, dense_predictions, make_dense_model, new_parameters
from .kernels import arithmetic
from .observer import Effort
from .runtime import HERE, Setup, process

EVAL_BATCH = 10
"""Test canvases at a time. With 50 evaluation took a quarter longer, to the same bits where it was compared."""
KEPT_SCORE = 0.3
"""Least score of a prediction that a record keeps to be shown."""


def run_dense(
    recipe: str,
    config: Config,
    stream: Stream,
    seed: int,
    *,
    hyperparameters_from: str = "given",
    setup: Setup = HERE,
    progress: Callable[[int, int], None] | None = None,
) -> Record:
    """Train on canvases and evaluate once, after the last epoch. A run takes minutes: it has no checkpoints.

    The seed chooses the classes and makes the canvases; every method sees the same.

    :param progress: called with the number of epochs finished and their total.
    :raises FloatingPointError: a loss became NaN or infinite.
    :raises ValueError: the configuration does not fit the stream, what computes average precision is missing, or
        torchrun started several processes.
    """
    effort = Effort()
    dense = config.dense
    if dense is None:
        raise ValueError(f"{recipe} is no recipe for canvases: set dense.task, or choose another stream")
    if stream.tier != DENSE:
        raise ValueError(f"{recipe} is for canvases, which {stream.name} has not: run it on {CANVASES.name}")
    if setup.weights or setup.root or setup.cache:
        raise ValueError(f"{recipe} sees drawings that ship, by weights that ship: leave out weights, root and cache")
    if process()[1] > 1:
        raise ValueError(f"{recipe} trains on canvases in one process: run it without torchrun")
    require_metrics(dense)
    torch_seed = 1 if config.seeding == "class_order" else seed  # F2 (docs/fidelity.md)
    with arithmetic(setup.threads, setup.device):
        torch.manual_seed(torch_seed)
        classes = class_order(len(downstream(config.part).names), seed)[: stream.n_classes]
        train, test = draw_canvases(classes, dense.canvases, dense.test_canvases, seed, config.part)
        weights_sha256 = fingerprint(make_backbone(config))
        model = make_dense_model(dense, len(classes)).to(setup.device)
        if config.trainable == "heads":
            backbone_of(model).requires_grad_(False)
        losses = fit(model, config, train, torch_seed, progress)
        found = predictions(model, test, setup.device)
        scores, of_classes = score(dense, found, test, len(classes))
        where = provenance(
            effort.started, datetime.now(timezone.utc), effort.wall_seconds, setup.device, effort.cpu_seconds
        )
        where |= versions_of("torchmetrics", "pycocotools")
    values = config.as_dict()
    result = {
        "schema": SCHEMA,
        "recipe": recipe,
        "stream": stream.name,
        "seed": seed,
        "config": values,
        "config_hash": config_hash(values),
        "varied": config.seeding,
        "scores": scores,
        "class_scores": of_classes,
        "predictions": [_shown(found[i]) for i in range(min(SHOWN_CANVASES, len(test)))],
        "test_counts": [len(test)],
        "train_loss": losses,
        "class_order": classes,
        "data_sha256": downstream(config.part).sha256,
        "weights_sha256": weights_sha256,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "bytes_kept": 0,
        "hyperparameters_from": hyperparameters_from,
    }
    return Record(result, where)


def require_metrics(dense: Dense) -> None:
    """:raises ValueError: a package that computes average precision is not installed."""
    if dense.task == "semantic":
        return
    try:
        import pycocotools  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"average precision of dense.task={dense.task} needs pycocotools: pip install 'reclaim[dense]'"
        ) from error


def fit(
    model: Any,
    config: Config,
    canvases: Canvases,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Train as configured; the mean loss of each epoch, the pull of L2-SP included.

    :param seed: of the order of canvases, and of what detectors draw; it reseeds torch.
    :raises FloatingPointError: a part of the loss became NaN or infinite; names it.
    :raises ValueError: a label is above the number of the model's classes.
    """
    if (largest := max(int(labels.max()) for labels in canvases.labels)) > model.n_classes:
        raise ValueError(f"a canvas has the label {largest}, and the model {model.n_classes} classes: make it of more")
    device = next(model.parameters()).device
    optimizer = optimizer_of(config, _groups(config, model), model, new_parameters(model), device.type)
    steps = config.epochs * math.ceil(len(canvases) / config.batch_size)
    schedule = CosineAnnealingLR(optimizer, steps) if config.schedule == "cosine" else None
    pull = {} if config.l2_sp is None else {p: p.detach().clone() for p in backbone_of(model).parameters()}
    images, semantic = canvases.images.to(device), canvases.semantic().to(device)
    targets = _targets(canvases, device)
    torch.manual_seed(seed)
    losses = []
    model.train()
    for epoch in range(config.epochs):
        total = 0.0
        for batch in torch.randperm(len(canvases)).split(config.batch_size):
            parts = dense_loss(model, images[batch], [targets[i] for i in batch.tolist()], semantic[batch])
            penalty = l2_sp_penalty(pull, config.l2_sp or 0.0, config.l2_sp_form)
            parts |= {} if penalty is None else {"l2_sp": penalty}
            require_finite(parts, epoch)
            loss = torch.stack([*parts.values()]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule:
                schedule.step()
            total += float(loss.detach()) * len(batch)
        losses.append(total / len(canvases))
        if progress:
            progress(epoch + 1, config.epochs)
    return losses


def require_finite(parts: dict[str, Tensor], epoch: int) -> None:
    """:raises FloatingPointError: a part of the loss is NaN or infinite; names it."""
    for name, part in parts.items():
        if not bool(part.isfinite()):
            raise FloatingPointError(
                f"the loss {name} became {float(part.detach())} in epoch {epoch}: lower the learning rate"
            )


def _groups(config: Config, model: nn.Module) -> list[dict[str, Any]]:
    """What is pretrained at ``lr * slow_factor``, unless it is frozen, and what is new at ``lr``."""
    pretrained = [p for p in backbone_of(model).parameters() if p.requires_grad]
    rates = ((pretrained, config.lr * config.slow_factor), (new_parameters(model), config.lr))
    return [{"params": ps, "lr": lr, "weight_decay": config.weight_decay} for ps, lr in rates if ps]


def _targets(canvases: Canvases, device: Any) -> list[dict[str, Tensor]]:
    return [
        {"boxes": boxes.to(device), "labels": labels.to(device), "masks": masks.to(device)}
        for boxes, labels, masks in zip(canvases.boxes, canvases.labels, canvases.masks, strict=True)
    ]


def predictions(model: Any, canvases: Canvases, device: str = "cpu") -> list[Any]:
    """Of each canvas, see :func:`~reclaim.benchmark.training.dense_models.dense_predictions`.

    :raises FloatingPointError: weights are NaN or infinite, which would pass for a canvas without objects.
    """
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise FloatingPointError("a weight is NaN or infinite after training: lower the learning rate")
    model.eval()
    batches = canvases.images.to(device).split(EVAL_BATCH)
    return [one for batch in batches for one in dense_predictions(model, batch)]


def score(
    dense: Dense, found: list[Any], canvases: Canvases, n_classes: int
) -> tuple[dict[str, float], dict[str, list[float | None]]]:
    """Metric -> percent, and metric -> percent of each class, null of one that is on no canvas.

    ``miou`` is the mean of the intersections over unions of all classes and the background, over the pixels of all
    canvases. ``box_ap`` and ``mask_ap`` are COCO's average precision, over IoU 0.50 to 0.95; ``_50`` at 0.50. COCO
    allows 100 objects of an image; the models here find fewer, see ``DETECTIONS`` of their module.
    """
    if dense.task == "semantic":
        from torchmetrics.classification import MulticlassJaccardIndex

        jaccard = MulticlassJaccardIndex(n_classes + 1, average="none")
        truth = canvases.semantic()
        jaccard.update(torch.stack(found).cpu(), truth)
        present = [bool((truth == c).any()) for c in range(n_classes + 1)]
        each = [100 * float(iou) if here else None for iou, here in zip(jaccard.compute(), present, strict=True)]
        known = [iou for iou in each if iou is not None]
        return {"miou": sum(known) / len(known)}, {"miou": each}
    from torchmetrics.detection import MeanAveragePrecision

    kinds = {"bbox": "box"} if dense.task == "detection" else {"bbox": "box", "segm": "mask"}
    scores: dict[str, float] = {}
    of_classes: dict[str, list[float | None]] = {}
    for kind, name in kinds.items():
        metric = MeanAveragePrecision(iou_type=kind, class_metrics=True, backend="pycocotools")  # type: ignore[arg-type]
        truth_of = _targets(canvases, "cpu")
        metric.update(
            [{key: value.cpu() for key, value in one.items()} for one in found],
            [{**one, "masks": one["masks"].bool()} for one in truth_of],
        )
        if any(len(one["labels"]) for one in found):
            values = metric.compute()
        else:  # torchmetrics would give masks -1, and no value of a class
            seen = torch.cat([one["labels"] for one in truth_of]).unique()
            none = torch.zeros(())
            values = {"map": none, "map_50": none, "classes": seen, "map_per_class": torch.zeros(len(seen))}
        scores |= {f"{name}_ap": 100 * float(values["map"]), f"{name}_ap_50": 100 * float(values["map_50"])}
        # of a single class torchmetrics returns no lists
        known, of_known = (values[key].reshape(-1).tolist() for key in ("classes", "map_per_class"))
        per_class = dict(zip(known, of_known, strict=True))
        # torchmetrics gives -1 to a class that no canvas has
        of_classes[f"{name}_ap"] = [
            100 * ap if (ap := per_class.get(c, -1.0)) >= 0 else None for c in range(1, n_classes + 1)
        ]
    return scores, of_classes


def _shown(found: Any) -> dict[str, Any]:
    """What a record keeps of a prediction, so that a page can show it: coordinates in whole pixels, masks and classes
    of pixels as zlib in base64.
    """
    if isinstance(found, Tensor):
        return {"semantic": _packed(found.to(torch.uint8))}
    sure = found["scores"] >= KEPT_SCORE
    kept: dict[str, Any] = {
        "boxes": found["boxes"][sure].round().int().tolist(),
        "labels": found["labels"][sure].tolist(),
    }
    return {**kept, "masks": _packed(found["masks"][sure].to(torch.uint8))} if "masks" in found else kept


def _packed(values: Tensor) -> str:
    return base64.b64encode(zlib.compress(values.cpu().numpy().tobytes())).decode("ascii")
