"""Class statistics: one Gaussian per class, fitted to its features, kept, and sampled from instead of keeping images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean (d,) and covariance (d, d) of one class, float32 on the CPU, and the index of the experience they were fitted after."""

    mean: Tensor
    covariance: Tensor
    experience: int = 0

    @cached_property
    def factor(self) -> Tensor:
        """F (d, d), float32, with F F^T = covariance: the Cholesky factor; negative eigenvalues count as 0 where there is none."""
        covariance = self.covariance.double()
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            # fewer samples than dimensions and no ridge: singular, and after rounding to float32 slightly indefinite
            eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
            factor = eigenvectors * eigenvalues.clamp_min(0).sqrt()
        return factor.float()


def fit_gaussian(features: Tensor, ridge: float = 0.0, experience: int = 0) -> Gaussian:
    """Mean (in float32) and covariance (n - 1, in float64, kept in float32) of features (N, d), plus ``ridge`` times the identity.

    One sample has no covariance: it is taken as zero (plus the ridge), so that sampling returns the mean.

    :raises ValueError: features are not a matrix with at least one row, or hold NaN or infinity.
    """
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"a Gaussian is fitted to features of shape (N, d) with N >= 1, got {tuple(features.shape)}")
    features = features.detach().float().cpu()
    if not torch.isfinite(features).all():
        broken = int((~torch.isfinite(features)).any(dim=1).sum())
        raise ValueError(f"NaN or infinity in the features of {broken} of {len(features)} samples: if training diverged, lower its rate")
    dim = features.shape[1]
    covariance = torch.eye(dim, dtype=torch.float64) * ridge
    if len(features) > 1:
        covariance += torch.cov(features.double().T).reshape(dim, dim)
    return Gaussian(features.mean(dim=0), covariance.float(), experience)


class ClassGaussians:
    """The Gaussians of all classes seen so far, by class id.

    They live on the CPU and are sampled there, so that a generator's state gives the same features on every device.

    :param ridge: multiple of the identity that is added to each covariance when it is fitted: 1e-4 in SLCA's code, nothing in the
        paper's text (code fact F3).
    """

    def __init__(self, ridge: float = 1e-4) -> None:
        if not 0 <= ridge < float("inf"):
            raise ValueError(f"ridge must be a finite number, not negative, got {ridge}: 0 switches it off")
        self.ridge = ridge
        self._gaussians: dict[int, Gaussian] = {}

    @property
    def classes(self) -> list[int]:
        """Ids of the classes, in the order in which they were first fitted."""
        return list(self._gaussians)

    @property
    def nbytes(self) -> int:
        """Bytes that have to be kept between experiences: means and covariances."""
        return sum(g.mean.nbytes + g.covariance.nbytes for g in self._gaussians.values())

    def __len__(self) -> int:
        return len(self._gaussians)

    def __getitem__(self, class_id: int) -> Gaussian:
        if class_id not in self._gaussians:
            raise KeyError(f"no statistics for class {class_id}, only for {self.classes}: fit them first")
        return self._gaussians[class_id]

    def fit(self, features: Tensor, targets: Tensor, experience: int = 0) -> None:
        """Fit every class that occurs in ``targets`` (N,) to its rows of ``features`` (N, d), in place of what is known about it.

        :raises ValueError: lengths or feature widths differ, or features hold NaN or infinity; nothing is stored then.
        """
        if targets.shape != features.shape[:1]:
            raise ValueError(f"features of shape {tuple(features.shape)} need targets of shape (N,), got {tuple(targets.shape)}")
        fitted = {}
        for class_id in targets.unique().tolist():
            try:
                fitted[class_id] = fit_gaussian(features[targets == class_id], self.ridge, experience)
            except ValueError as error:
                raise ValueError(f"class {class_id}: {error}") from None
        widths = {len(g.mean) for g in [*self._gaussians.values(), *fitted.values()]}
        if len(widths) > 1:
            raise ValueError(f"all classes need features of one width, got {sorted(widths)}: the backbone must not change its output's")
        self._gaussians |= fitted

    def sample(self, classes: Sequence[int], count: int, generator: torch.Generator, mean_scale: Sequence[float] | None = None) -> Tensor:
        """Features (len(classes), count, d), drawn from each class's Gaussian with a CPU generator.

        :param mean_scale: a factor for each class's mean (code fact F4); 1 by default.
        """
        gaussians = [self[c] for c in classes]
        means = torch.stack([g.mean for g in gaussians])
        if mean_scale is not None:
            means = means * torch.tensor(mean_scale).unsqueeze(1)
        samples = torch.randn(len(gaussians), count, means.shape[1], generator=generator)
        # one product per class: as fast as a batched one, without a second copy of all factors
        for i, gaussian in enumerate(gaussians):
            samples[i] = torch.addmm(means[i], samples[i], gaussian.factor.T)
        return samples
