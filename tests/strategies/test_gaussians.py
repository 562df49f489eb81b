"""Class statistics: fit, bytes, factors of singular covariances, and what samples look like."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reclaim.strategies.gaussians import WIDE, ClassGaussians, CovarianceKind, FullCovariance, fit_gaussian
from torch import Tensor

torch.set_num_threads(1)

KINDS: tuple[CovarianceKind, ...] = ("full", "diagonal", "shared", "low-rank")


def features_of(count: int, dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator)
    return torch.randn(count, dim, generator=generator) @ mix + 3 * torch.randn(dim, generator=generator)


def test_fit_is_the_mean_and_the_unbiased_covariance_in_double_precision() -> None:
    x = features_of(50, 4) + 1000
    gaussian = fit_gaussian(x, ridge=0.0, experience=3)
    centred = x.double() - x.double().mean(dim=0)
    # closer than float32 arithmetic comes: rounded once, at the end
    torch.testing.assert_close(gaussian.covariance, (centred.T @ centred / 49).float(), rtol=1.5e-7, atol=0)
    torch.testing.assert_close(gaussian.mean, x.mean(dim=0))
    assert gaussian.mean.dtype == gaussian.covariance.dtype == torch.float32
    assert gaussian.experience == 3


@pytest.mark.parametrize("dim", [WIDE + 1, 400])
@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_a_wide_covariance_is_that_of_double_precision(dim: int, ridge: float) -> None:
    x = torch.randn(60, dim, generator=torch.Generator().manual_seed(0)) + 10
    covariance = fit_gaussian(x, ridge).covariance
    torch.testing.assert_close(
        covariance, (torch.cov(x.double().T) + ridge * torch.eye(dim)).float(), rtol=0, atol=1e-5
    )
    assert torch.equal(covariance, covariance.T)


@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_wide_features_are_drawn_with_the_whole_factor(ridge: float) -> None:
    """With a triangular one, and, where there is none without a ridge, with another."""
    kept = fit_gaussian(features_of(100, 300), ridge).kept
    assert isinstance(kept, FullCovariance)
    assert bool(kept.factor.triu(1).any()) == (ridge == 0)
    mean, noise = torch.randn(300), torch.randn(7, 300)
    drawn = kept.draw(mean, noise, torch.Generator())
    torch.testing.assert_close(drawn, mean + noise @ kept.factor.T, rtol=1e-4, atol=1e-3)


def test_a_wide_factor_is_that_of_single_precision_or_of_what_is_singular() -> None:
    matrix = torch.eye(WIDE + 4) * torch.linspace(1, 2, WIDE + 4)
    assert torch.equal(FullCovariance(matrix).factor, torch.linalg.cholesky(matrix))
    matrix[-1, -1] = 0.0  # no Cholesky factor
    factor = FullCovariance(matrix).factor
    torch.testing.assert_close(factor @ factor.T, matrix, rtol=0, atol=1e-5)


def test_classes_are_fitted_to_their_own_rows_wherever_they_stand() -> None:
    x, y = features_of(40, 3), torch.tensor([7, 2, 9, 2]).repeat(10)
    gaussians = ClassGaussians()
    gaussians.fit(x, y)
    assert gaussians.classes == [2, 7, 9]
    for c in gaussians.classes:
        alone = fit_gaussian(x[y == c], 1e-4)
        assert torch.equal(gaussians[c].mean, alone.mean)
        assert torch.equal(gaussians[c].covariance, alone.covariance)


def test_ridge_is_added_to_the_diagonal_and_on_by_default() -> None:
    x, y = features_of(30, 3), torch.zeros(30, dtype=torch.long)
    by_ridge = {}
    for ridge in (0.0, 0.5):
        gaussians = ClassGaussians(ridge)
        gaussians.fit(x, y)
        by_ridge[ridge] = gaussians[0].covariance
    torch.testing.assert_close(by_ridge[0.5] - by_ridge[0.0], 0.5 * torch.eye(3), atol=1e-5, rtol=0)
    assert ClassGaussians().ridge == 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_one_sample_has_no_covariance_beyond_the_ridge(ridge: float, kind: CovarianceKind) -> None:
    gaussians = ClassGaussians(ridge, kind)
    gaussians.fit(torch.tensor([[1.0, 2.0]]), torch.tensor([5]))
    torch.testing.assert_close(gaussians[5].covariance, ridge * torch.eye(2))
    samples = gaussians.sample([5], 400, torch.Generator().manual_seed(0))[0]
    torch.testing.assert_close(samples.mean(dim=0), torch.tensor([1.0, 2.0]), atol=2e-3, rtol=0)
    assert samples.std(dim=0).tolist() == pytest.approx([ridge**0.5] * 2, rel=0.1)


def test_one_dimension() -> None:
    assert fit_gaussian(torch.tensor([[1.0], [3.0]])).covariance.tolist() == [[2.0]]


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_fewer_samples_than_dimensions(ridge: float) -> None:
    gaussian = fit_gaussian(features_of(80, 128), ridge)
    factor = gaussian.kept.factor
    assert torch.isfinite(factor).all()
    torch.testing.assert_close(factor @ factor.T, gaussian.covariance, atol=2e-3, rtol=1e-4)


def test_an_indefinite_covariance_loses_its_negative_part() -> None:
    factor = FullCovariance(torch.tensor([[2.0, 0.0], [0.0, -1e-3]])).factor
    torch.testing.assert_close(factor @ factor.T, torch.tensor([[2.0, 0.0], [0.0, 0.0]]))


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 12),
    dim=st.integers(1, 8),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    ridge=st.sampled_from([0.0, 1e-4]),
)
def test_the_factor_reproduces_any_covariance(count: int, dim: int, scale: float, ridge: float) -> None:
    gaussian = fit_gaussian(features_of(count, dim, seed=count) * scale, ridge)
    size = gaussian.covariance.abs().max().item()
    factor = gaussian.kept.factor
    torch.testing.assert_close(factor @ factor.T, gaussian.covariance, atol=1e-5 * size, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_classes_means_and_covariances(kind: CovarianceKind) -> None:
    gaussians = ClassGaussians(0.1, kind, rank=2)
    x = torch.cat([features_of(200, 5, seed=1), features_of(200, 5, seed=2)])
    gaussians.fit(x, torch.tensor([4, 9]).repeat_interleave(200))
    samples = gaussians.sample([9, 4], 100_000, torch.Generator().manual_seed(0))
    for drawn, class_id in zip(samples, [9, 4], strict=True):
        size = gaussians[class_id].covariance.abs().max().item()
        torch.testing.assert_close(drawn.mean(dim=0), gaussians[class_id].mean, atol=4 * (size / 1e5) ** 0.5, rtol=0)
        torch.testing.assert_close(torch.cov(drawn.T), gaussians[class_id].covariance, atol=0.02 * size, rtol=0)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_what_each_kind_keeps_of_the_full_covariance(ridge: float) -> None:
    x, y = torch.cat([features_of(12, 4, seed=1), 3 * features_of(7, 4, seed=2)]), torch.tensor([0] * 12 + [1] * 7)
    by_kind = {kind: ClassGaussians(ridge, kind, rank=2) for kind in KINDS}
    for gaussians in by_kind.values():
        gaussians.fit(x, y)
    eye, full = torch.eye(4), [by_kind["full"][c].covariance for c in (0, 1)]
    for c in (0, 1):
        torch.testing.assert_close(by_kind["diagonal"][c].covariance, full[c].diag().diag())
        torch.testing.assert_close(by_kind["shared"][c].covariance, (11 * full[0] + 6 * full[1]) / 17)
        low = by_kind["low-rank"][c]
        eigenvalues, eigenvectors = torch.linalg.eigh(full[c] - ridge * eye)
        leading, rest = (
            (eigenvectors[:, part] * eigenvalues[part]) @ eigenvectors[:, part].T for part in (slice(2, 4), slice(0, 2))
        )
        torch.testing.assert_close(low.covariance, leading + rest.diag().diag() + ridge * eye, rtol=1e-4, atol=1e-4)
        assert low.kept.factor.shape == (4, 2)


@pytest.mark.parametrize(("count", "rank"), [(50, 6), (50, 99), (4, 3), (4, 16)])
def test_low_rank_with_all_eigenvectors_is_the_full_covariance(count: int, rank: int) -> None:
    x, y = features_of(count, 6) + 100, torch.zeros(count, dtype=torch.long)
    full, low = ClassGaussians(0.01), ClassGaussians(0.01, "low-rank", rank)
    full.fit(x, y)
    low.fit(x, y)
    torch.testing.assert_close(low[0].covariance, full[0].covariance, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(low[0].kept.variances, torch.full((6,), 0.01))  # type: ignore[union-attr]


@pytest.mark.parametrize("dim", [5, WIDE + 4])
def test_the_shared_covariance_is_pooled_over_everything_fitted(dim: int) -> None:
    """One fit after another, one sample in a class, and a class that comes back:
    the earlier samples stay, about their own mean.
    """
    x = features_of(40, dim).numpy().astype(np.float64)
    groups = [(0, 0, x[:9]), (0, 1, x[9:23]), (1, 2, x[23:24]), (2, 0, x[24:40])]  # experience, class, samples
    gaussians, scatter, degrees = ClassGaussians(0.25, "shared"), np.zeros((dim, dim)), 0
    for experience in range(3):
        new = [(c, rows) for e, c, rows in groups if e == experience]
        gaussians.fit(
            torch.from_numpy(np.concatenate([rows for _, rows in new])),
            torch.tensor([c for c, rows in new for _ in rows]),
            experience,
        )
        for c, rows in new:
            centred = rows - rows.mean(axis=0)
            scatter, degrees = scatter + centred.T @ centred, degrees + len(rows) - 1
            torch.testing.assert_close(gaussians[c].mean.double().numpy(), rows.mean(axis=0), rtol=1e-5, atol=1e-5)
        for c in gaussians.classes:
            expected = scatter / degrees + 0.25 * np.eye(dim)
            close = 1e-5 * expected.max()
            np.testing.assert_allclose(gaussians[c].covariance, expected, rtol=1e-5, atol=close)
            factor = gaussians[c].kept.factor  # not that of an earlier pool
            np.testing.assert_allclose(factor @ factor.T, expected, rtol=1e-4, atol=close)
    assert len({id(gaussians[c].kept) for c in gaussians.classes}) == 1
    assert [gaussians[c].experience for c in (0, 1, 2)] == [2, 0, 1]


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("full", 3 * (8 + 64)),
        ("diagonal", 3 * (8 + 8)),
        ("shared", 3 * 8 + 64),
        ("low-rank", 3 * (8 + 8) + (2 + 2 + 1) * 8),
    ],
)
def test_bytes_are_those_of_means_and_covariances(kind: CovarianceKind, numbers: int) -> None:
    gaussians = ClassGaussians(covariance=kind, rank=2)
    assert gaussians.nbytes == 0
    targets = torch.tensor([0] * 10 + [1] * 10 + [2] * 2)  # two samples have one eigenvector
    for part in (slice(0, 10), slice(10, 22)):
        gaussians.fit(features_of(22, 8)[part], targets[part])
    gaussians.sample([0, 1, 2], 1, torch.Generator())
    assert gaussians.nbytes == numbers * 4
    assert len(gaussians) == 3
    # nothing else is kept: a copy through its bytes carries no more than them, the factors that are derived, and some
    # names
    derived = {"full": 3 * 64, "shared": 64}.get(kind, 0) * 4
    assert len(pickle.dumps(gaussians)) < gaussians.nbytes + derived + 4000


def test_mean_scale_scales_the_mean_alone() -> None:
    gaussians = ClassGaussians()
    gaussians.fit(features_of(40, 3), torch.arange(2).repeat_interleave(20))
    plain = gaussians.sample([0, 1], 7, torch.Generator().manual_seed(3))
    scaled = gaussians.sample([0, 1], 7, torch.Generator().manual_seed(3), mean_scale=[0.5, 1.0])
    torch.testing.assert_close(plain[0] - scaled[0], (0.5 * gaussians[0].mean).expand(7, 3))
    assert torch.equal(plain[1], scaled[1])


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_draws_from_its_generator_alone(kind: CovarianceKind) -> None:
    gaussians = ClassGaussians(covariance=kind)
    gaussians.fit(features_of(20, 3), torch.zeros(20, dtype=torch.long))
    state = torch.random.get_rng_state()
    draws = [gaussians.sample([0], 5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_class_fitted_again_is_replaced_with_its_factor() -> None:
    gaussians = ClassGaussians(ridge=0.0)
    gaussians.fit(features_of(20, 3), torch.arange(2).repeat_interleave(10), experience=0)
    gaussians.sample([0, 1], 1, torch.Generator())
    untouched = gaussians[1]
    gaussians.fit(torch.full((4, 3), 7.0), torch.zeros(4, dtype=torch.long), experience=2)
    assert gaussians.classes == [0, 1]
    assert gaussians[0].experience == 2
    assert gaussians.sample([0], 2, torch.Generator()).unique().tolist() == [7.0]
    assert gaussians[1] is untouched


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_pickles(kind: CovarianceKind) -> None:
    gaussians = ClassGaussians(covariance=kind)
    gaussians.fit(features_of(10, 3), torch.zeros(10, dtype=torch.long))
    expected = gaussians.sample([0], 4, torch.Generator().manual_seed(0))
    for clone in (copy.deepcopy(gaussians), pickle.loads(pickle.dumps(gaussians))):
        assert torch.equal(clone.sample([0], 4, torch.Generator().manual_seed(0)), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_features_name_their_class_and_store_nothing(bad: float) -> None:
    x = features_of(10, 3)
    x[7, 1] = bad
    gaussians = ClassGaussians()
    with pytest.raises(ValueError, match=r"class 1: NaN or infinity in the features of 1 of 5 samples"):
        gaussians.fit(x, torch.arange(2).repeat_interleave(5))
    assert gaussians.classes == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_or_empty_fit_leaves_everything_as_it_was(kind: CovarianceKind) -> None:
    gaussians = ClassGaussians(covariance=kind)
    gaussians.fit(features_of(10, 3), torch.arange(2).repeat_interleave(5))
    before = [gaussians[c].covariance for c in (0, 1)]
    for x in (torch.full((4, 3), float("nan")), features_of(4, 5)):
        with pytest.raises(ValueError, match=r"NaN|one width"):
            gaussians.fit(x, torch.tensor([1, 1, 2, 2]))
    gaussians.fit(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert gaussians.classes == [0, 1]
    assert all(torch.equal(gaussians[c].covariance, old) for c, old in enumerate(before))


def test_bad_inputs() -> None:
    gaussians = ClassGaussians()
    for ridge in (-1e-4, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="ridge"):
            ClassGaussians(ridge)
    with pytest.raises(ValueError, match=r"'full', 'diagonal', 'shared', 'low-rank', got 'diag'"):
        ClassGaussians(covariance="diag")  # type: ignore[arg-type]
    for rank in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"rank must be an integer of at least 1, got {rank}"):
            ClassGaussians(covariance="low-rank", rank=rank)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(N, d\)"):
        fit_gaussian(torch.zeros(3))
    with pytest.raises(ValueError, match="N >= 1"):
        fit_gaussian(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"targets of shape"):
        gaussians.fit(torch.zeros(3, 2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(KeyError, match="class 8"):
        gaussians.sample([8], 1, torch.Generator())
    gaussians.fit(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\[2, 4\]"):
        gaussians.fit(torch.zeros(3, 4), torch.ones(3, dtype=torch.long))


def test_a_singular_covariance_whose_first_feature_is_constant_is_drawn_whole() -> None:
    """There is no Cholesky factor, and the one of eigenvectors has zeros in its first row."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, WIDE + 100, generator=generator).relu()
    features[:, 0] = 0
    gaussians = ClassGaussians(ridge=0.0)
    gaussians.fit(features, torch.zeros(40, dtype=torch.long))
    (drawn,) = gaussians.sample([0], 2000, generator)
    assert drawn[:, 0].abs().max() < 1e-6
    ratio = drawn.var(dim=0)[1:] / features.var(dim=0)[1:].clamp(min=1e-3)
    assert ((ratio > 0.7) & (ratio < 1.4)).float().mean() > 0.95
