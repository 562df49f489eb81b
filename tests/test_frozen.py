"""Hashes that records on file are found by: they move only when a recipe's or a protocol's numbers are
meant to change.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from reclaim.benchmark import config
from reclaim.benchmark.config import config_hash
from reclaim.benchmark.papers.protocols import Uncovered, protocol_of, run_names
from reclaim.benchmark.recipes import RECIPES

FROZEN = json.loads((Path(__file__).parent / "frozen.json").read_text(encoding="utf-8"))
REMEDY = (
    "if the change of numbers is meant, raise `numerics`, make the runs again and renew tests/frozen.json by "
    "`python tests/test_frozen.py`; if not, undo what moved the hash"
)


def recipe_hashes() -> dict[str, str]:
    return {name: config_hash(recipe.config.as_dict()) for name, recipe in RECIPES.items()}


def later_defaults() -> dict[str, object]:
    """The defaults that ``as_dict`` leaves out: a changed one would change runs under their old hashes."""
    parts = [part for _, part in inspect.getmembers(config, is_dataclass)]
    return {
        f"{part.__name__}.{field.name}": list(field.default) if isinstance(field.default, tuple) else field.default
        for part in parts
        for field in fields(part)
        if field.metadata.get("later")
    }


def protocol_digests() -> dict[str, str]:
    """Run -> digest of name, stream, configurations, seeds and the source of every setting;
    of an uncovered run, its reason.
    """
    digests = {}
    for run in run_names():
        protocol = protocol_of(run)
        if isinstance(protocol, Uncovered):
            content: object = ["uncovered"]
        else:
            content = [
                protocol.recipe.name,
                protocol.recipe.home,
                [configuration.as_dict() for configuration in protocol.configs],
                {key: value for key, (value, _) in protocol.settings.items()},
                protocol.seeds,
            ]
        digests[run] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    return digests


NOW = {"recipes": recipe_hashes, "protocols": protocol_digests, "later_defaults": later_defaults}


@pytest.mark.parametrize("kind", NOW)
def test_no_hash_moves(kind):
    found, frozen = NOW[kind](), FROZEN[kind]
    moved = {name: (frozen.get(name), digest) for name, digest in found.items() if frozen.get(name) != digest}
    gone = sorted(frozen.keys() - found.keys())
    assert (moved, gone) == ({}, []), REMEDY


if __name__ == "__main__":
    text = json.dumps({kind: now() for kind, now in NOW.items()}, indent=1, sort_keys=True)
    (Path(__file__).parent / "frozen.json").write_text(text + "\n", encoding="utf-8")
