"""Arithmetic of a run: on the CPU few threads, and the faster float32 kernels where they are exact;
torch's defaults elsewhere.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def arithmetic(threads: int = 1, device: str = "cpu") -> Iterator[None]:
    """Within it torch uses ``threads`` threads and, on an x86 CPU without AMX,
    oneDNN's matrix kernels instead of MKL's.

    Both settings are restored at the end. On CPUs not made by Intel, MKL's float32 kernels reach only half of the
    speed. The only switch that avoids them is ``set_float32_matmul_precision("medium")``. It permits bfloat16 inside a
    product, but oneDNN uses it only with AMX. Without AMX the products remain float32 to the last bits
    (tests/training/test_kernels.py). The precision is not changed with AMX, or on an accelerator, where the switch
    would permit TF32.
    """
    # if torch cannot tell, and on other architectures, nothing is changed
    has_amx = (
        platform.machine() not in ("x86_64", "AMD64") or getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)()
    )
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads)
    if device == "cpu" and not has_amx:
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
