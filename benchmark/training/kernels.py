"""How a run computes: on the CPU on few threads, with the faster float32 kernels where they are exact; elsewhere as torch has it."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def arithmetic(threads: int = 1, device: str = "cpu") -> Iterator[None]:
    """Within it torch uses ``threads`` threads and, on an x86 CPU without AMX, oneDNN's matrix kernels instead of MKL's; both are put back.

    On processors that are not Intel's, MKL's float32 kernels leave half of the speed unused. The one switch that leads past them,
    ``set_float32_matmul_precision("medium")``, permits bfloat16 inside a product, but oneDNN makes use of that on AMX alone: elsewhere the
    products stay float32 to the last bits (tests/training/test_kernels.py). Where there is AMX, everything is left as it is. So it is when the
    run is on an accelerator, where the switch would permit TF32.
    """
    # where torch cannot tell, and on other architectures, nothing is changed
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
