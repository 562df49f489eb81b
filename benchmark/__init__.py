"""Reclaim's benchmark: data streams, recipes, runs, records, statistics, and the check of published numbers.

``run``, ``compare``, ``load_records`` and ``frame`` are the library (docs/library.md). They are resolved when they are
first used (PEP 562): importing this package does not import torch.
"""

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import compare, frame, load_records, run

__all__ = ["compare", "frame", "load_records", "run"]

# Avalanche imports qpsolvers, which warns that no solver is installed. Nothing here solves a quadratic program.
warnings.filterwarnings("ignore", message="no QP solver found")

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import api

        return getattr(api, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
