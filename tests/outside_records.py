"""Records from outside that nobody had to run: ours on record, under another name, with code or images of one's own."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reclaim.benchmark.config import Config, config_hash
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.records.record import Record, validate
from reclaim.benchmark.records.store import RecordStore

OURS = RecordStore(Path(__file__).parents[1] / "leaderboards" / "records")
PLUGIN = {"path": "their_pkg.method:Their", "arguments": {"rate": 0.5}, "sha256": "ab" * 32}
IMAGES = "1" * 64


def ours(recipe: str = "slca", stream: str = "split-quickdraw-10", seed: int = 0) -> Record:
    """A run of ours on record."""
    record = OURS.get(recipe, stream, config_hash(RECIPES[recipe].config.as_dict()), seed)
    assert record
    return copy.deepcopy(record)


def theirs(
    recipe: str = "their-method",
    seed: int = 0,
    settings: Sequence[str] = (),
    external: Mapping[str, Any] | None = {"base": "slca", "plugins": [PLUGIN]},
    base: str = "slca",
    **changed: Any,
) -> Record:
    """A run of ours as a sound record of theirs.

    :param external: None: the settings alone are theirs.
    :param changed: further keys of ``result``.
    """
    record = ours(base, seed=seed)
    config: Config = RECIPES[base].config.set(settings)
    values = config.as_dict() | ({"external": copy.deepcopy(dict(external))} if external is not None else {})
    if external and "backbone" in external:
        values["backbone"] = external["backbone"]["path"]
    record.result.update(
        recipe=recipe, config=values, config_hash=config_hash(values), hyperparameters_from="given", **changed
    )
    validate(json.loads(json.dumps({"result": record.result, "provenance": record.provenance})))
    return record


def with_backbone(name: str, record: Record) -> Record:
    """The record, as if its configuration named that backbone: any text but for what a path or address is told by,
    which no configuration may have.
    """
    values = record.result["config"] | {"backbone": re.sub(r"[\\/:]", "", name)}
    record.result.update(config=values, config_hash=config_hash(values))
    return record


def on_own_images(
    recipe: str = "their-method", stream: str = "birds", seed: int = 0, data_sha256: str = IMAGES, **more: Any
) -> Record:
    """A run on images of their own: our drawings, as they are called there."""
    own = {"sizes": [10] * 10, "train_counts": [800] * 10}
    external = more.pop("external", None if recipe in RECIPES else {"base": "slca", "plugins": [PLUGIN]})
    more.setdefault("own_stream", own)
    return theirs(
        recipe,
        seed,
        external=external,
        base=recipe if recipe in RECIPES else "slca",
        stream=stream,
        data_sha256=data_sha256,
        **more,
    )
