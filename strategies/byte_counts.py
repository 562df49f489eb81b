"""How much memory a module takes: what the ``bytes_kept`` of several methods count."""

from __future__ import annotations

import itertools

from torch import nn


def bytes_of(module: nn.Module | None) -> int:
    """Bytes of a module's parameters and buffers; 0 for ``None``."""
    return sum(t.nbytes for t in itertools.chain(module.parameters(), module.buffers())) if module is not None else 0
