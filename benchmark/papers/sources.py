"""Where a setting comes from, and the checkpoints that the papers start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, tuple[Any, str]]
"""Key for `reclaim run --set` -> value and source."""


# --- SLCA ---

PAPER, CODE, OURS = "paper", "code", "our reading"
NATURAL = "natural reading"
"""Of a row whose paper states no setting."""
IN21K, IN21K_1K, MOCO_V3 = (f"vit_base_patch16_224.{tag}" for tag in ("augreg_in21k", "augreg_in21k_ft_in1k", "mocov3"))
