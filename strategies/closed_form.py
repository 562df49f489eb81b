"""Heads in closed form, from class statistics alone:
nearest class mean, and linear discriminant analysis as in Deep SLDA.

Nothing is trained by gradient. The usual way to run them is ``Naive(..., train_epochs=0,
plugins=[LinearDiscriminant()])`` on a frozen pretrained backbone. They show how much of a method's accuracy comes from
the pretrained features alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from .features import check_features, extract_features
from .parts import Heads, parts_of, require_same_classes
from .runs import Owner, classes_of


class NearestClassMean(SupervisedPlugin[Any]):
    """Sets the heads so that the largest logit belongs to the class with the nearest mean feature.

    After each experience it adds the features of the experience's own images (training images, test transform, eval
    mode) to one running mean per class. Then it sets all heads, including frozen ones: w_c = 2 mu_c, b_c = -|mu_c|^2,
    up to a term that all classes share (see :meth:`write`). The mean of a class that occurs again still includes its
    earlier images. If the backbone is trained, the means of earlier classes are still those of the earlier backbone. A
    head that is trained later starts from the weights set here. With another strategy and another model it starts anew.

    Trainable flags, the modes of all modules and torch's global generator do not change.

    The model is a :class:`~reclaim.strategies.heads.ContinualModel`, or ends in Avalanche's ``IncrementalClassifier``
    or ``MultiHeadClassifier``, which mask the classes not seen.

    :raises ValueError: before training, the plugin missed an experience, or the model's classifier has rows of
        classes not seen and does not mask them; before and after training, features are NaN or infinite.
    :raises TypeError: before training, a model without a classifier, or batches without images and class ids.
    """

    def __init__(self) -> None:
        super().__init__()
        self._means: dict[int, Tensor] = {}
        self._counts: dict[int, int] = {}
        self._owner = Owner()

    @property
    def bytes_kept(self) -> int:
        """Bytes of the means and counts, in double precision."""
        return sum(mean.nbytes + 8 for mean in self._means.values())

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        parts_of(strategy.model, type(self).__name__)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        who, experience = type(self).__name__, strategy.experience
        if self._owner.changes_to(strategy, strategy.model):
            self._forget()
        parts_of(strategy.model, who).require_classes({*self._means, *classes_of(experience)}, who, alone=True)
        check_features(strategy.model, experience.dataset.eval(), strategy.device, who)

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        parts = parts_of(strategy.model, type(self).__name__)
        batch_size = max(strategy.train_mb_size, strategy.eval_mb_size or 1)
        workers = kwargs.get("num_workers", 0)
        images = strategy.experience.dataset.eval()
        self.update(*extract_features(parts.model, images, batch_size, strategy.device, workers))
        self.write(parts.heads([list(self._means)]))

    def update(self, features: Tensor, targets: Tensor) -> None:
        """Add features (N, d) of the classes ``targets`` (N,) to the statistics, in float64.
        Order and grouping do not matter.

        :raises ValueError: features contain NaN or infinity. The statistics do not change then.
        """
        finite = torch.isfinite(features).all(dim=1)
        if not finite.all():
            broken = sorted(targets[~finite].unique().tolist())
            raise ValueError(
                f"NaN or infinity in the features of classes {broken}: if training diverged, lower its rate"
            )
        for class_id in targets.unique().tolist():
            rows = features[targets == class_id].double().cpu()
            mean = rows.mean(dim=0)
            seen = self._counts.get(class_id, 0)
            count = seen + len(rows)
            step = mean - self._means.get(class_id, mean)
            # scatter about the new mean: that of the new rows about their own mean, plus that between the two means
            self._add_deviations(torch.cat([rows - mean, math.sqrt(seen * len(rows) / count) * step.unsqueeze(0)]))
            self._means[class_id] = mean - seen / count * step
            self._counts[class_id] = count

    @torch.no_grad()
    def write(self, heads: Heads) -> None:
        """Write weights and biases into heads over exactly the classes seen, in place.

        The same affine function of the features is added to every logit, so that the weights sum to zero over the
        classes and the smallest bias is zero. This changes neither the softmax nor the order of the logits. The largest
        logit is then never negative, so it cannot fall below :data:`~reclaim.strategies.heads.UNSEEN`, the logit of a
        class without a head.

        :raises ValueError: some classes have a head but no statistics, or the other way round.
        """
        require_same_classes(heads.classes, self._means, type(self).__name__)
        rows: dict[int, tuple[Tensor, Tensor]] = {}
        for classes in heads.rivals:
            means = torch.stack([self._means[c] for c in classes])
            centre = means.mean(dim=0)
            weights = self._precision_times(means - centre)
            biases = -(weights * (means + centre)).sum(dim=1) / 2
            biases -= biases.min()
            rows |= dict(zip(classes, zip(weights, biases, strict=True), strict=True))
        of_all = [torch.stack(parts) for parts in zip(*(rows[c] for c in heads.classes), strict=True)]
        heads.write(*of_all)

    def _forget(self) -> None:
        self._means, self._counts = {}, {}

    def _add_deviations(self, deviations: Tensor) -> None:
        """Add vectors (N, d) whose sum of outer products is the increase of the within-class scatter."""

    def _precision_times(self, vectors: Tensor) -> Tensor:
        """Rows (C, d) times Lambda, the inverse of the metric's covariance; twice the identity gives w_c = 2 mu_c."""
        return 2 * vectors


class LinearDiscriminant(NearestClassMean):
    """Linear discriminant analysis with one covariance for all classes and equal priors (Deep SLDA:
    Hayes and Kanan 2020).

    The nearest class mean in the metric of Lambda = ((1 - s) Sigma + s I)^-1: w_c = Lambda mu_c, b_c = -mu_c Lambda
    mu_c / 2. Sigma is the within-class scatter of all N samples seen, divided by N; each sample is centred on the mean
    of its class. Deep SLDA centres each sample on the mean of the samples before it, and the first sample of a class on
    zero. That adds a term that vanishes as N grows. Everything else is as in :class:`NearestClassMean`.

    :param shrinkage: s, above 0 and at most 1; 1e-4 in Deep SLDA. 1 predicts as :class:`NearestClassMean` does.
    :raises ValueError: shrinkage is out of this range.
    """

    def __init__(self, shrinkage: float = 1e-4) -> None:
        super().__init__()
        if not 0 < shrinkage <= 1:
            raise ValueError(f"shrinkage must be above 0 and at most 1, got {shrinkage}: Deep SLDA's is 1e-4")
        self.shrinkage = shrinkage
        self._scatter = torch.zeros((), dtype=torch.float64)

    @property
    def bytes_kept(self) -> int:
        """Bytes of the means, the counts and the covariance (d, d), in double precision."""
        return super().bytes_kept + self._scatter.nbytes

    def _forget(self) -> None:
        super()._forget()
        self._scatter = torch.zeros((), dtype=torch.float64)

    def _add_deviations(self, deviations: Tensor) -> None:
        self._scatter = self._scatter + deviations.T @ deviations

    def _precision_times(self, vectors: Tensor) -> Tensor:
        sigma = self._scatter / sum(self._counts.values())
        shrunk = (1 - self.shrinkage) * sigma + self.shrinkage * torch.eye(len(sigma), dtype=sigma.dtype)
        return torch.cholesky_solve(vectors.T, torch.linalg.cholesky(shrunk)).T
