"""RoIAlign: read at the box's place, with torchvision's values and torchvision's gradient."""

from __future__ import annotations

import platform
from typing import Any

import pytest
import torch
from reclaim.benchmark.training.roi_features import BINS, SAMPLES, RoIFeatures
from torch import Tensor
from torchvision.ops import roi_align

pytestmark = pytest.mark.trains  # bits hang on torch and the instruction set

torch.set_num_threads(1)

STRIDE, CELLS = 6, 14


@pytest.mark.parametrize("box", [(12.0, 18.0, 48.0, 42.0), (3.0, 6.0, 27.0, 30.0)])
def test_the_features_of_a_box_are_those_at_its_place(box: tuple[float, ...]) -> None:
    """On a map whose values are the pixels in the middle of its cells, their mean is the middle of the box."""
    middles = STRIDE * (torch.arange(CELLS) + 0.5)
    of_map = torch.stack(torch.meshgrid(middles, middles, indexing="xy"))[None]
    left, top, right, bottom = box
    found = RoIFeatures(7, STRIDE)({"0": of_map, "1": of_map[..., ::2, ::2]}, [torch.tensor([box])], [(84, 84)])
    assert found.shape == (1, 2, 7, 7)
    assert found.mean((0, 2, 3)).tolist() == pytest.approx([(left + right) / 2, (top + bottom) / 2])
    steps = found[0, 0].diff(dim=1)  # from one of seven bins to the next
    assert torch.allclose(steps, torch.full_like(steps, (right - left) / 7), atol=1e-4)


def anywhere(n: int, generator: torch.Generator) -> Tensor:
    """Boxes of 3 to 60 pixels, some of them partly or wholly outside of 84 x 84."""
    corners = 140 * torch.rand(n, 2, generator=generator) - 40
    return torch.cat([corners, corners + 3 + 57 * torch.rand(n, 2, generator=generator)], 1)


@pytest.mark.parametrize(("side", "per_image", "channels"), [(7, 12, 64), (14, 3, 5), (1, 5, 1), (3, 0, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(CELLS, CELLS), (CELLS + 3, CELLS - 5)], ids=["square", "oblong"])
def test_values_and_gradient_are_torchvisions(
    side: int, per_image: int, channels: int, dtype: Any, size: tuple[int, int]
) -> None:
    """To the last bit where its C++ rounds after each operation, which compilers for other processors may merge."""
    generator = torch.Generator().manual_seed(side)
    features = torch.randn(3, channels, *size, generator=generator, dtype=dtype).requires_grad_()
    boxes = [anywhere(n, generator).to(dtype) for n in (per_image, 0, 2 * per_image)]  # the second has none
    if side == 7:
        assert 3 * per_image * side**2 > 2 * BINS  # several rounds
    if per_image:
        boxes[0][0] = torch.tensor([0.0, 0.0, 84.0, 84.0])
        boxes[0][1] = torch.tensor([5.0, 5.0, 5.0, 5.0])  # a point
    ours = RoIFeatures(side, STRIDE)({"0": features}, boxes, [(84, 84)] * 3)
    theirs = roi_align(features, boxes, side, 1 / STRIDE, SAMPLES, aligned=True)
    assert torch.equal(ours, theirs)
    grad = torch.randn(ours.shape, generator=generator, dtype=dtype)
    found, expected = (torch.autograd.grad(x, features, grad)[0] for x in (ours, theirs))
    assert found.is_contiguous()
    if platform.machine() in ("x86_64", "AMD64"):
        assert torch.equal(found, expected)
    torch.testing.assert_close(found, expected)
    assert bool(found.any()) == bool(per_image)


@pytest.mark.parametrize("kind", ["float16", "autocast", "autocast, and boxes"])
def test_of_fewer_bits_the_gradient_is_torchvisions_own(kind: str) -> None:
    """Which under autocast computes in float32."""
    dtype = torch.float16 if kind == "float16" else torch.bfloat16
    features = torch.randn(1, 3, CELLS, CELLS, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    boxes = torch.tensor([[6.0, 6.0, 40.0, 30.0], [20.0, 9.0, 60.0, 80.0]])
    boxes = boxes if kind == "autocast" else boxes.to(dtype)
    numbered = torch.cat([torch.zeros(2, 1).to(boxes), boxes], 1)
    gradients = []
    for read in (
        lambda: RoIFeatures(7, STRIDE)({"0": features}, [boxes], [(84, 84)]),
        lambda: roi_align(features, numbered, 7, 1 / STRIDE, SAMPLES, aligned=True),
    ):
        with torch.autocast("cpu", torch.bfloat16, enabled=kind != "float16"):
            found = read()
        gradients += torch.autograd.grad(found.float().square().sum(), features)
    assert gradients[0].dtype == dtype
    assert torch.equal(*gradients)


def test_several_threads_have_the_bits_of_one() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 64, CELLS, CELLS, generator=generator).requires_grad_()
    boxes = [anywhere(20, generator), anywhere(20, generator)]

    def gradient(threads: int) -> Tensor:
        torch.set_num_threads(threads)
        try:
            found = RoIFeatures(7, STRIDE)({"0": features}, boxes, [(84, 84)] * 2)
            return torch.autograd.grad(found.sum(), features)[0]
        finally:
            torch.set_num_threads(1)

    assert torch.equal(gradient(1), gradient(4))


def test_it_is_differentiated_once() -> None:
    features = torch.randn(1, 2, CELLS, CELLS, requires_grad=True)
    found = RoIFeatures(7, STRIDE)({"0": features}, [torch.tensor([[6.0, 6.0, 40.0, 30.0]])], [(84, 84)])
    (gradient,) = torch.autograd.grad(found.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
