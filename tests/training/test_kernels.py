"""Runs may use faster kernels, but not less precise ones."""

from __future__ import annotations

import torch
from reclaim.benchmark.training.kernels import arithmetic


def test_products_keep_the_precision_of_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(544, 128, generator=generator), torch.randn(128, 512, generator=generator)
    exact = a.double() @ b.double()
    plain = (a @ b - exact).abs().max()
    with arithmetic():
        fast = (a @ b - exact).abs().max()
    # bfloat16 has 8 bits: its error would be hundreds of times larger
    assert fast <= 4 * plain


def test_the_process_is_left_as_it_was() -> None:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    with arithmetic(threads + 1):
        assert torch.get_num_threads() == threads + 1
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (threads, precision)


def test_an_accelerator_keeps_torchs_own_precision() -> None:
    # "medium", which is harmless on the CPU, would permit TF32 there
    before = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32
    with arithmetic(1, "cuda"):
        assert (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32) == before
