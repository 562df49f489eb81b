"""Class statistics: fit, bytes, factors of singular covariances, and what samples look like."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reclaim.strategies.gaussians import ClassGaussians, Gaussian, fit_gaussian
from torch import Tensor

torch.set_num_threads(1)


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


def test_ridge_is_added_to_the_diagonal_and_on_by_default() -> None:
    x, y = features_of(30, 3), torch.zeros(30, dtype=torch.long)
    by_ridge = {}
    for ridge in (0.0, 0.5):
        gaussians = ClassGaussians(ridge)
        gaussians.fit(x, y)
        by_ridge[ridge] = gaussians[0].covariance
    torch.testing.assert_close(by_ridge[0.5] - by_ridge[0.0], 0.5 * torch.eye(3), atol=1e-5, rtol=0)
    assert ClassGaussians().ridge == 1e-4


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_one_sample_has_no_covariance_beyond_the_ridge(ridge: float) -> None:
    gaussians = ClassGaussians(ridge)
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
    factor = gaussian.factor
    assert torch.isfinite(factor).all()
    torch.testing.assert_close(factor @ factor.T, gaussian.covariance, atol=2e-3, rtol=1e-4)


def test_an_indefinite_covariance_loses_its_negative_part() -> None:
    gaussian = Gaussian(torch.zeros(2), torch.tensor([[2.0, 0.0], [0.0, -1e-3]]))
    torch.testing.assert_close(gaussian.factor @ gaussian.factor.T, torch.tensor([[2.0, 0.0], [0.0, 0.0]]))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 12), dim=st.integers(1, 8), scale=st.sampled_from([1e-6, 1.0, 1e4]), ridge=st.sampled_from([0.0, 1e-4]))
def test_the_factor_reproduces_any_covariance(count: int, dim: int, scale: float, ridge: float) -> None:
    gaussian = fit_gaussian(features_of(count, dim, seed=count) * scale, ridge)
    size = gaussian.covariance.abs().max().item()
    torch.testing.assert_close(gaussian.factor @ gaussian.factor.T, gaussian.covariance, atol=1e-5 * size, rtol=1e-4)


def test_samples_have_the_classes_means_and_covariances() -> None:
    gaussians = ClassGaussians()
    x = torch.cat([features_of(200, 5, seed=1), features_of(200, 5, seed=2)])
    gaussians.fit(x, torch.tensor([4, 9]).repeat_interleave(200))
    samples = gaussians.sample([9, 4], 100_000, torch.Generator().manual_seed(0))
    for drawn, class_id in zip(samples, [9, 4], strict=True):
        size = gaussians[class_id].covariance.abs().max().item()
        torch.testing.assert_close(drawn.mean(dim=0), gaussians[class_id].mean, atol=4 * (size / 1e5) ** 0.5, rtol=0)
        torch.testing.assert_close(torch.cov(drawn.T), gaussians[class_id].covariance, atol=0.02 * size, rtol=0)


def test_mean_scale_scales_the_mean_alone() -> None:
    gaussians = ClassGaussians()
    gaussians.fit(features_of(40, 3), torch.arange(2).repeat_interleave(20))
    plain = gaussians.sample([0, 1], 7, torch.Generator().manual_seed(3))
    scaled = gaussians.sample([0, 1], 7, torch.Generator().manual_seed(3), mean_scale=[0.5, 1.0])
    torch.testing.assert_close(plain[0] - scaled[0], (0.5 * gaussians[0].mean).expand(7, 3))
    assert torch.equal(plain[1], scaled[1])


def test_sampling_draws_from_its_generator_alone() -> None:
    gaussians = ClassGaussians()
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


def test_bytes_are_those_of_means_and_covariances() -> None:
    gaussians = ClassGaussians()
    assert gaussians.nbytes == 0
    gaussians.fit(features_of(30, 8), torch.arange(3).repeat_interleave(10))
    gaussians.sample([0, 1, 2], 1, torch.Generator())
    assert gaussians.nbytes == 3 * (8 + 8 * 8) * 4
    assert len(gaussians) == 3


def test_copies_and_pickles() -> None:
    gaussians = ClassGaussians()
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


def test_bad_inputs() -> None:
    gaussians = ClassGaussians()
    for ridge in (-1e-4, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="ridge"):
            ClassGaussians(ridge)
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
