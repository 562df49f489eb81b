"""Checks of hyper-parameters that several modules share."""

from __future__ import annotations

import math


def require_not_negative(**values: float) -> None:
    """Raise a :class:`ValueError` that names the first value that is negative, infinite or NaN."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number, not negative, got {value}")


def require_fraction(**values: float) -> None:
    """Raise a :class:`ValueError` that names the first value outside [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
