"""Hashes that records on file are found by: they move only when a recipe's or a protocol's numbers are
meant to change.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest
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


def _without(values: dict[str, object], *absent: str) -> dict[str, object]:
    """The values, also those of their parts, without these fields where they are None."""
    return {
        key: _without(value, *absent) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in absent or value is not None
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
                [config_hash(config.as_dict()) for config in protocol.configs],
                # no protocol of a paper has foreign parts or another size: the fields were added after these digests
                [_without(asdict(config), "external", "size") for config in protocol.configs],
                {key: value for key, (value, _) in protocol.settings.items()},
                protocol.seeds,
            ]
        digests[run] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    return digests


@pytest.mark.parametrize(("kind", "now"), [("recipes", recipe_hashes), ("protocols", protocol_digests)])
def test_no_hash_moves(kind, now):
    found, frozen = now(), FROZEN[kind]
    moved = {name: (frozen.get(name), digest) for name, digest in found.items() if frozen.get(name) != digest}
    gone = sorted(frozen.keys() - found.keys())
    assert (moved, gone) == ({}, []), REMEDY


if __name__ == "__main__":
    text = json.dumps({"recipes": recipe_hashes(), "protocols": protocol_digests()}, indent=1, sort_keys=True)
    (Path(__file__).parent / "frozen.json").write_text(text + "\n", encoding="utf-8")
