"""Class statistics: one Gaussian per class, fitted to its features and sampled later, so that no images are kept.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

CovarianceKind = Literal["full", "diagonal", "shared", "low-rank"]

WIDE = 256
"""Up to this many features a covariance and its factor are computed in float64, and features are drawn in one product,
as for the runs on record. Beyond, where these products are all that takes time, half of them are left out, and
covariance and factor are computed in float32: they differ by some 1e-6 of the largest variance, hardly more than by
their own rounding. A shared covariance is then summed class by class, without a matrix for each.
"""
_BLOCK = 128  # columns at a time


@dataclass(frozen=True, eq=False)
class FullCovariance:
    """A covariance matrix (d, d), float32 on the CPU."""

    matrix: Tensor

    @property
    def factor(self) -> Tensor:
        """F (d, d), float32, with F F^T = matrix: the Cholesky factor.
        If there is none, negative eigenvalues count as 0.
        """
        return self._factored[0]

    @cached_property
    def _factored(self) -> tuple[Tensor, bool]:
        """:attr:`factor`, and whether it is triangular."""
        if len(self.matrix) > WIDE:
            factor, failed = torch.linalg.cholesky_ex(self.matrix)
            if not failed:
                return factor, True
        matrix = self.matrix.double()
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed:
            # fewer samples than dimensions and no ridge: singular, and after rounding to float32 slightly indefinite
            eigenvalues, eigenvectors = torch.linalg.eigh(matrix)
            return (eigenvectors * eigenvalues.clamp_min(0).sqrt()).float(), False
        return factor.float(), True

    def __getstate__(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix}  # copies and pickles compute the factor again

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix. The factor does not count: it is derived, and only makes sampling faster."""
        return self.matrix.nbytes

    def draw(self, mean: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Samples (n, d) with mean (d,), from standard normal noise (n, d)."""
        (factor, triangular), dim = self._factored, len(mean)
        if dim <= WIDE or not triangular:
            return torch.addmm(mean, noise, factor.T)
        samples = torch.empty_like(noise)
        for start in range(0, dim, _BLOCK):  # without the products with the zeros above the diagonal
            rows, up_to = slice(start, start + _BLOCK), slice(0, start + _BLOCK)
            samples[:, rows] = torch.addmm(mean[rows], noise[:, up_to], factor[rows, up_to].T)
        return samples


@dataclass(frozen=True, eq=False)
class LowRankCovariance:
    """F F^T + diag(variances) with F (d, r) and variances (d,), float32 on the CPU; a diagonal covariance has r = 0."""

    factor: Tensor
    variances: Tensor

    @property
    def matrix(self) -> Tensor:
        """The covariance matrix (d, d)."""
        return self.factor @ self.factor.T + self.variances.diag()

    @property
    def nbytes(self) -> int:
        """Bytes of F and the variances."""
        return self.factor.nbytes + self.variances.nbytes

    def draw(self, mean: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Samples (n, d) with mean (d,), from standard normal noise (n, d) and (n,
        r) more numbers from the generator.
        """
        of_factor = torch.randn(len(noise), self.factor.shape[1], generator=generator)
        return torch.addmm(mean + self.variances.sqrt() * noise, of_factor, self.factor.T)


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean (d,) of one class, float32 on the CPU, its covariance as kept, and the index of the experience after which
    both were fitted.
    """

    mean: Tensor
    kept: FullCovariance | LowRankCovariance
    experience: int = 0

    @property
    def covariance(self) -> Tensor:
        """The covariance (d, d)."""
        return self.kept.matrix


def fit_gaussian(features: Tensor, ridge: float = 0.0, experience: int = 0, rank: int | None = None) -> Gaussian:
    """Mean (in float32) and covariance (n - 1, kept in float32) of features (N, d), plus ``ridge`` times the identity.
    The covariance is computed in float64, of more than :data:`WIDE` features in float32.

    A single sample has no covariance: it counts as zero (plus the ridge), so that sampling returns the mean.

    :param rank: keep of the covariance this many leading eigenvectors, or all N - 1 or d of them if they are fewer,
        each times the root of its eigenvalue, and the d variances of what is left, the ridge among them; ``None`` keeps
        the whole matrix.
    :raises ValueError: features are not a matrix with at least one row, or contain NaN or infinity.
    """
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"a Gaussian is fitted to features of shape (N, d) with N >= 1, got {tuple(features.shape)}")
    features = features.detach().float().cpu()
    mean = features.mean(dim=0)
    if not torch.isfinite(mean).all() and not torch.isfinite(features).all():
        broken = int((~torch.isfinite(features)).any(dim=1).sum())
        raise ValueError(
            f"NaN or infinity in the features of {broken} of {len(features)} samples: if training diverged, "
            f"lower its rate"
        )
    if rank is None:
        return Gaussian(mean, FullCovariance(_covariance(features, mean, ridge)), experience)
    centred = features.double() - features.double().mean(dim=0)
    _, singular_values, eigenvectors = torch.linalg.svd(centred, full_matrices=False)
    scaled = (
        eigenvectors * singular_values.unsqueeze(1) / math.sqrt(max(len(features) - 1, 1))
    )  # one a row, covariance = scaled^T scaled
    rank = min(rank, len(features) - 1)
    variances = scaled[rank:].square().sum(dim=0) + ridge
    return Gaussian(mean, LowRankCovariance(scaled[:rank].T.float().contiguous(), variances.float()), experience)


def _covariance(features: Tensor, mean: Tensor, ridge: float) -> Tensor:
    """The covariance (d, d) of features (N, d), float32, of a single one zero, plus ``ridge`` times the identity."""
    dim = features.shape[1]
    if dim <= WIDE or len(features) == 1:
        covariance = torch.eye(dim, dtype=torch.float64) * ridge
        if len(features) > 1:
            covariance += torch.cov(features.double().T).reshape(dim, dim)
        return covariance.float()
    centred, covariance = features - mean, features.new_empty(dim, dim)
    for start in range(0, dim, _BLOCK):  # it is symmetric: half of the products are needed
        rows, up_to = slice(start, start + _BLOCK), slice(0, start + _BLOCK)
        block = covariance[rows, up_to]
        torch.mm(centred[:, rows].T, centred[:, up_to], out=block)
        block /= len(features) - 1
        covariance[:start, rows] = block[:, :start].T
    covariance.diagonal().add_(ridge)
    return covariance


class ClassGaussians:
    """The Gaussians of all classes seen so far, by class id.

    They are kept and sampled on the CPU, so that the same generator state gives the same features on every device.

    :param ridge: multiple of the identity that is added to each covariance when it is fitted: 1e-4 in SLCA's code,
        nothing in the paper's text (code fact F3).
    :param covariance: what is kept of the covariances. ``"full"``: a matrix (d, d) for each class, as in SLCA.
        ``"diagonal"``: d variances for each class. ``"low-rank"``: leading eigenvectors and the variances of what is
        left for each class, see :func:`fit_gaussian`. ``"shared"``: one matrix (d, d) for all classes, pooled within
        classes over everything fitted so far with weights n - 1. A class that is fitted again gets a new mean. Its
        earlier samples stay in the pool, centred on their own mean: removing them would need a matrix for each class.
        The same samples fitted twice count twice.
    :param rank: number of eigenvectors of ``"low-rank"``.
    """

    def __init__(self, ridge: float = 1e-4, covariance: CovarianceKind = "full", rank: int = 16) -> None:
        if not 0 <= ridge < math.inf:
            raise ValueError(f"ridge must be a finite number, not negative, got {ridge}: 0 switches it off")
        if covariance not in get_args(CovarianceKind):
            raise ValueError(
                f"covariance must be one of {', '.join(map(repr, get_args(CovarianceKind)))}, got {covariance!r}"
            )
        if rank != int(rank) or rank < 1:
            raise ValueError(
                f"rank must be an integer of at least 1, got {rank}: covariance='diagonal' keeps no eigenvectors"
            )
        self.ridge = ridge
        self.covariance: CovarianceKind = covariance
        self.rank = rank
        self._gaussians: dict[int, Gaussian] = {}
        self._degrees = 0  # of freedom of the shared covariance

    def empty(self) -> ClassGaussians:
        """One of the same settings, without classes."""
        return ClassGaussians(self.ridge, self.covariance, self.rank)

    @property
    def classes(self) -> list[int]:
        """Ids of the classes, in the order in which they were first fitted."""
        return list(self._gaussians)

    @property
    def nbytes(self) -> int:
        """Bytes kept between experiences: means and covariances. A shared covariance counts once."""
        covariances = {id(g.kept): g.kept for g in self._gaussians.values()}
        return sum(g.mean.nbytes for g in self._gaussians.values()) + sum(c.nbytes for c in covariances.values())

    def __len__(self) -> int:
        return len(self._gaussians)

    def __getitem__(self, class_id: int) -> Gaussian:
        if class_id not in self._gaussians:
            raise KeyError(f"no statistics for class {class_id}, only for {self.classes}: fit them first")
        return self._gaussians[class_id]

    def fit(self, features: Tensor, targets: Tensor, experience: int = 0) -> None:
        """Fit every class in ``targets`` (N,) to its rows of ``features`` (N, d), replacing its earlier statistics.

        :raises ValueError: lengths or feature widths differ, or features contain NaN or infinity. Nothing is stored
            then.
        """
        if targets.shape != features.shape[:1]:
            raise ValueError(
                f"features of shape {tuple(features.shape)} need targets of shape (N,), got {tuple(targets.shape)}"
            )
        rank = {"diagonal": 0, "low-rank": self.rank}.get(self.covariance)
        fitted: dict[int, Gaussian] = {}
        order = targets.argsort(stable=True)
        class_ids, counts = targets.unique(return_counts=True)
        by_class = features[order.to(features.device)].split(counts.tolist())
        one_by_one = self.covariance == "shared" and features.shape[-1] > WIDE
        scatter: Tensor | None = None
        for class_id, of_class in zip(class_ids.tolist(), by_class, strict=True):
            try:
                gaussian = fit_gaussian(of_class, self.ridge, experience, rank)
            except ValueError as error:
                raise ValueError(f"class {class_id}: {error}") from None
            if one_by_one:
                of_class_scatter = (len(of_class) - 1) * gaussian.covariance.double()
                scatter = of_class_scatter if scatter is None else scatter.add_(of_class_scatter)
                gaussian = replace(gaussian, kept=next(iter(fitted.values()), gaussian).kept)
            fitted[class_id] = gaussian
        widths = {len(g.mean) for g in [*self._gaussians.values(), *fitted.values()]}
        if len(widths) > 1:
            raise ValueError(
                f"all classes need features of one width, got {sorted(widths)}: "
                f"the backbone must not change its output's"
            )
        if fitted and self.covariance == "shared":
            self._pool(fitted, targets, scatter)
        else:
            self._gaussians |= fitted

    def _pool(self, fitted: dict[int, Gaussian], targets: Tensor, scatter: Tensor | None) -> None:
        """Add Gaussians fitted to ``targets``, and give all of them, old and new, the same covariance.

        :param scatter: the sum (d, d) of their covariances, each times its degrees of freedom; None: it is not known.
        """
        # each holds the ridge once, and so does their weighted mean
        old = [(g.covariance, self._degrees) for g in list(self._gaussians.values())[:1]]
        if scatter is None:
            parts = [*((g.covariance, int((targets == c).sum()) - 1) for c, g in fitted.items()), *old]
        else:
            degrees = len(targets) - len(fitted)
            parts = [(scatter / degrees if degrees else next(iter(fitted.values())).covariance, degrees), *old]
        self._degrees = sum(weight for _, weight in parts)
        pooled = parts[0][0].double()
        if self._degrees:
            pooled = torch.stack([weight / self._degrees * matrix.double() for matrix, weight in parts]).sum(dim=0)
        shared = FullCovariance(pooled.float())
        self._gaussians = {c: replace(g, kept=shared) for c, g in (self._gaussians | fitted).items()}

    def sample(
        self, classes: Sequence[int], count: int, generator: torch.Generator, mean_scale: Sequence[float] | None = None
    ) -> Tensor:
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
            samples[i] = gaussian.kept.draw(means[i], samples[i], generator)
        return samples
