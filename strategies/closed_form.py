"""Heads in closed form, from class statistics alone: nearest class mean (Euclidean, or by cosine as SimpleCIL), linear
discriminant analysis as in Deep SLDA, and ridge regression on random projections (RanPAC).

Nothing is trained by gradient. The usual way to run them is ``Naive(..., train_epochs=0,
plugins=[LinearDiscriminant()])`` on a frozen pretrained backbone. They show how much of a method's accuracy comes from
the pretrained features alone.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn
from torch.nn import functional as F

from .features import check_features, extract_features
from .heads import require_continual_model
from .parts import Heads, parts_of, require_same_classes
from .runs import Owner, classes_of, images_at_a_time, take_place


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

    place = 2

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
        take_place(self, strategy)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        who, experience = type(self).__name__, strategy.experience
        if self._owner.changes_to(strategy, strategy.model):
            self._forget()
        parts_of(strategy.model, who).require_classes({*self._means, *classes_of(experience)}, who, alone=True)
        check_features(strategy.model, experience.dataset.eval(), strategy.device, who)

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        parts = parts_of(strategy.model, type(self).__name__)
        batch_size = images_at_a_time(strategy)
        workers = kwargs.get("num_workers", 0)
        images = strategy.experience.dataset.eval()
        self.update(*extract_features(parts.model, images, batch_size, strategy.device, workers))
        self.write(parts.heads([list(self._means)]))

    def update(self, features: Tensor, targets: Tensor) -> None:
        """Add features (N, d) of the classes ``targets`` (N,) to the statistics, in float64.
        Order and grouping do not matter.

        :raises ValueError: features contain NaN or infinity. The statistics do not change then.
        """
        require_finite(features, targets)
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
            weights, biases = self._rows(classes)
            biases -= biases.min()
            rows |= dict(zip(classes, zip(weights, biases, strict=True), strict=True))
        of_all = [torch.stack(parts) for parts in zip(*(rows[c] for c in heads.classes), strict=True)]
        heads.write(*of_all)

    def _forget(self) -> None:
        self._means, self._counts = {}, {}

    def _add_deviations(self, deviations: Tensor) -> None:
        """Add vectors (N, d) whose sum of outer products is the increase of the within-class scatter."""

    def _rows(self, classes: list[int]) -> tuple[Tensor, Tensor]:
        """Weights (C, d), whose sum is zero, and biases (C,) of classes that compete."""
        means = torch.stack([self._means[c] for c in classes])
        centre = means.mean(dim=0)
        weights = self._precision_times(means - centre)
        return weights, -(weights * (means + centre)).sum(dim=1) / 2

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


class CosineClassMean(NearestClassMean):
    """The class whose mean feature has the largest cosine with the image's: SimpleCIL (Zhou et al., 2303.07338).

    Of one image, the cosines of all classes share the norm of its features. So the largest logit is that of the largest
    cosine with w_c = mu_c / |mu_c| and no bias (and what all classes share, see :meth:`NearestClassMean.write`).
    Everything else is as in :class:`NearestClassMean`; a class whose mean is zero has the weight zero.
    """

    def _rows(self, classes: list[int]) -> tuple[Tensor, Tensor]:
        weights = F.normalize(torch.stack([self._means[c] for c in classes]), dim=1)
        return weights - weights.mean(dim=0), weights.new_zeros(len(classes))


class RandomProjection(nn.Module):
    """Features (N, d) to the positive parts of random sums of them (N, width): h = max(f W, 0). W (d, width) is drawn
    from N(0, 1) and never trained.

    :param generator: source of W; torch's default generator if not given.
    """

    matrix: Tensor

    def __init__(self, in_features: int, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.randn(in_features, width, generator=generator))

    def forward(self, features: Tensor, images: Tensor | None = None) -> Tensor:
        """Features (N, d) to (N, width); the images have no part in it."""
        return F.relu(features @ self.matrix.to(features.dtype))


RIDGES = tuple(10.0**exponent for exponent in range(-8, 9))
"""Among which RanPAC chooses."""


class RanPAC(NearestClassMean):
    """Ridge regression of the classes (one-hot) on random projections of the features (RanPAC: McDonnell et al.,
    2307.02251).

    After the first experience a :class:`RandomProjection` is put between backbone and heads
    (:meth:`~reclaim.strategies.heads.ContinualModel.extend`): heads that were trained until then are dropped, as in
    the code. With h the projected features of all images seen, G = sum h h^T and S the sums of h over each class, all
    heads are w_c = (G + lambda I)^-1 S_c, without a bias (and without what all classes share, see
    :meth:`NearestClassMean.write`). G and S are sums: neither the order of the experiences nor their number matters.

    lambda is chosen anew in each experience, among :data:`RIDGES`: a random fifth of the experience's images is held
    out, and the smallest mean squared error on it decides, the smaller ridge in a tie. An experience of less than two
    images keeps the last one.

    The statistics are those of the backbone at the time: train it in the first experience only
    (:class:`~reclaim.strategies.first_experience.FirstExperienceOnly`), or never. Everything else is as in
    :class:`NearestClassMean`.

    :param width: of the projection; 10,000 in the paper. 0: no projection, the regression is on the features.
    :param ridge: what the held-out fifth is predicted from: "reference", the code: the rest of the same experience;
        "accumulated": that and G and S of all experiences before (fact ranpac-ridge).
    :param seed: of the projection, and of who is held out.
    :raises ValueError: ``width`` is negative, or ``ridge`` neither of the two.
    :raises TypeError: while training, the model is not a :class:`~reclaim.strategies.heads.ContinualModel`.
    """

    _gram: Tensor  # G (width, width)

    def __init__(
        self, width: int = 10_000, ridge: Literal["reference", "accumulated"] = "reference", seed: int = 0
    ) -> None:
        super().__init__()
        if width < 0:
            raise ValueError(f"width must be that of the projection, or 0 for none, got {width}: the paper's is 10000")
        if ridge not in ("reference", "accumulated"):
            raise ValueError(f"ridge must be 'reference' or 'accumulated', got {ridge!r}")
        self.width = width
        self.ridge = ridge
        self.seed = seed
        self._gram = torch.zeros((), dtype=torch.float64)
        self._ridges: list[float] = []
        self._projection_bytes = 0
        self._extended = False  # the model, by this plugin

    @property
    def bytes_kept(self) -> int:
        """Bytes of the means, the counts and G (width, width), in double precision, and of the projection."""
        return super().bytes_kept + self._gram.nbytes + self._projection_bytes

    @property
    def chosen(self) -> list[float]:
        """The ridge of each update so far."""
        return list(self._ridges)

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        require_continual_model(strategy.model, "RanPAC")
        super().before_training(strategy, *args, **kwargs)

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        model = require_continual_model(strategy.model, "RanPAC")
        if self.width and not self._means and not self._extended:
            generator = torch.Generator().manual_seed(self.seed)
            projection = RandomProjection(model.heads.in_features, self.width, generator)
            model.extend(projection, self.width)
            self._projection_bytes, self._extended = projection.matrix.nbytes, True
        super().after_training_exp(strategy, *args, **kwargs)

    def update(self, features: Tensor, targets: Tensor) -> None:
        """Add projected features (N, width), or features if there is no projection, as in :class:`NearestClassMean`,
        and choose the ridge.
        """
        require_finite(features, targets)
        rows = features.double().cpu()
        if len(rows) > 1:
            self._ridges.append(self._choose(rows, targets.cpu()))
        super().update(rows, targets)
        self._gram = self._gram + rows.T @ rows

    def _forget(self) -> None:
        super()._forget()
        self._gram, self._ridges = torch.zeros((), dtype=torch.float64), []
        self._projection_bytes, self._extended = 0, False

    def _sums(self, classes: list[int]) -> Tensor:
        """S (C, width), zero for a class not seen."""
        zero = self._gram.new_zeros(self._gram.shape[-1:])
        return torch.stack([self._counts.get(c, 0) * self._means.get(c, zero) for c in classes])

    def _choose(self, rows: Tensor, targets: Tensor) -> float:
        generator = torch.Generator().manual_seed(self.seed + len(self._ridges))
        fitted, held_out = torch.randperm(len(rows), generator=generator).tensor_split([int(0.8 * len(rows))])
        accumulated = self.ridge == "accumulated" and bool(self._means)
        # of the classes of other experiences alone, the code's predictions and targets are all zero
        classes = sorted({*targets.tolist(), *(self._means if accumulated else ())})
        one_hot = (targets[:, None] == torch.tensor(classes)).double()
        sums = rows[fitted].T @ one_hot[fitted]
        if accumulated:
            values, basis = torch.linalg.eigh(self._gram + rows[fitted].T @ rows[fitted])
            sums = sums + self._sums(classes).T
        else:
            _, singular, transposed = torch.linalg.svd(rows[fitted], full_matrices=False)
            values, basis = singular**2, transposed.T
        queries, answers = rows[held_out] @ basis, basis.T @ sums
        errors = [
            F.mse_loss(queries @ (answers / (values.clamp(min=0) + ridge)[:, None]), one_hot[held_out])
            for ridge in RIDGES
        ]
        return RIDGES[int(torch.stack(errors).argmin())]

    def _rows(self, classes: list[int]) -> tuple[Tensor, Tensor]:
        ridge = self._ridges[-1] if self._ridges else RIDGES[len(RIDGES) // 2]
        identity = torch.eye(len(self._gram), dtype=self._gram.dtype)
        weights = torch.linalg.solve(self._gram + ridge * identity, self._sums(classes).T).T
        return weights - weights.mean(dim=0), weights.new_zeros(len(classes))


def require_finite(features: Tensor, targets: Tensor) -> None:
    """:raises ValueError: features (N, d) of the classes ``targets`` (N,) contain NaN or infinity."""
    finite = torch.isfinite(features).all(dim=1)
    if not finite.all():
        broken = sorted(targets[~finite].unique().tolist())
        raise ValueError(f"NaN or infinity in the features of classes {broken}: if training diverged, lower its rate")
