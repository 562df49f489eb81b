"""Recipes: what a name on a leaderboard means, and how its hyper-parameters were chosen.

They are defined in recipes.toml. A recipe is a configuration and, unless it is tuned as another one, a grid of four
candidates for settings that the paper's protocol cannot tell us for drawings of 28 x 28 pixels. `reclaim sweep`
runs the grid on the validation part; with --adopt it writes the choice to assets/chosen.json, which is read here. A
choice made for another grid, base configuration or backbone is ignored.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .config import EXECUTION, QUICKDRAW_VIT, Config, config_hash, flatten
from .files import asset
from .toml_files import FLAG, TABLE, TEXT, check_entry, did_you_mean, one_of, read_tables

SPLIT = "split-quickdraw-10"
"""Stream on which hyper-parameters of the embedded tier are chosen, except for recipes with a single experience."""

CHOSEN = "chosen.json"
CHOICE_SEEDS = (1000,)
"""Seeds of the hyper-parameter choice. Leaderboards use 0, 1, 2, ..."""

MOST_SEEDS = 1000
"""In one command: more is a slip, and a list of billions would fill the memory before anything is run."""

Tier = Literal["embedded", "dense", "middle", "paper"]


@dataclass(frozen=True)
class Recipe:
    """A named way to train.

    :ivar home: the stream on which the hyper-parameters are chosen.
    :ivar base: the configuration without the choice.
    :ivar grid: setting -> candidates. Their product has four members in every recipe that has a grid.
    :ivar headline: trained live by every paper check.
    :ivar tuned_as: use the choice of another recipe, for ablations that must differ in a single setting.
    :ivar fact: the entry of docs/fidelity.md whose switch this recipe changes, relative to the recipe in its name (up
        to the last dot). Its effect is shown on that page, not on a leaderboard.
    :ivar from_paper: the hyper-parameters are a paper's (:mod:`reclaim.benchmark.papers.protocols`). A grid is then the
        paper's, too, and may have any size.
    :ivar tier: "embedded": on drawings that ship with the package; "dense": on canvases made of them; "middle":
        a CNN on photographs; "paper": a paper's.
    :ivar choices: file of the choice, of a recipe that does not ship; it need not be there yet.
    """

    name: str
    title: str
    description: str
    home: str
    base: Config
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    headline: bool = False
    tuned_as: str | None = None
    fact: str | None = None
    from_paper: bool = False
    tier: Tier = "embedded"
    choices: Path | None = None

    def candidates(self) -> list[dict[str, Any]]:
        """Every combination of the grid's values."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def with_settings(self, settings: Mapping[str, Any]) -> Config:
        return self.base.set(f"{key}={json.dumps(value)}" for key, value in settings.items())

    @property
    def choice(self) -> dict[str, Any] | None:
        """What `reclaim sweep` recorded for this recipe, or for the one that it is tuned as.

        None if that was made for another grid, with other fixed settings or with other weights.
        """
        tuned = RECIPES[self.tuned_as] if self.tuned_as else self
        recorded = (choices_in(self.choices) if self.choices else chosen()).get(tuned.name)
        same = (
            recorded
            and recorded["made_for"] == tuned.made_for
            and [c["settings"] for c in recorded["candidates"]] == tuned.candidates()
        )
        return recorded if same else None

    @functools.cached_property
    def made_for(self) -> dict[str, Any]:
        """What a choice depends on besides the grid: the hash of the configuration without the choice,
        and the initial weights.
        """
        return {"base": config_hash(self.base.as_dict()), "weights_sha256": weights_sha256(self.base)}

    @property
    def config(self) -> Config:
        """The configuration with the recorded choice, or with the grid's first candidate if none is recorded."""
        tuned = RECIPES[self.tuned_as] if self.tuned_as else self
        return self.with_settings(self.choice["settings"] if self.choice else (tuned.candidates() or [{}])[0])

    @property
    def hyperparameters_from(self) -> str:
        return "paper" if self.from_paper else "validation" if self.choice else "given"

    def origin_of(self, config: Config) -> str:
        """Where the hyper-parameters of a run with a changed configuration come from.

        Settings of the arithmetic are not hyper-parameters. A paper's grid is the paper's.
        """
        known = map(self.with_settings, self.candidates()) if self.from_paper else [self.config]
        as_this = {key: getattr(config, key) for key in EXECUTION}
        return self.hyperparameters_from if any(config == replace(own, **as_this) for own in known) else "given"


@functools.cache
def chosen() -> dict[str, Any]:
    """The choices of the shipped recipes, see :func:`choices_in`."""
    return choices_in(asset(CHOSEN))


def choices_in(path: Path) -> dict[str, Any]:
    """Recipe -> what `reclaim sweep` recorded: settings, stream, seeds and the score of every candidate.

    :raises RecipeError: the file is not JSON, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not JSON ({error}): delete it, and run `reclaim sweep` again") from None
    if not isinstance(found, dict) or not all(map(_is_choice, found.values())):
        raise RecipeError(
            f"{path} is no file of choices, recipe -> choice: move it away, and run `reclaim sweep` again"
        )
    return found


def _is_choice(value: Any) -> bool:
    if not isinstance(value, dict) or not {"made_for", "settings", "candidates"} <= value.keys():
        return False
    candidates = value["candidates"]
    return (
        isinstance(value["settings"], dict)
        and isinstance(candidates, list)
        and all(isinstance(one, dict) and isinstance(one.get("settings"), dict) for one in candidates)
    )


def weights_sha256(config: Config) -> str | None:
    """Fingerprint of the initial weights of a run with this configuration; None if they are random."""
    if config.backbone != QUICKDRAW_VIT:
        return None
    return _fingerprint_of_the_vit()


@functools.cache
def _fingerprint_of_the_vit() -> str:
    return str(json.loads(asset(f"{QUICKDRAW_VIT}.json").read_text())["fingerprint"])


class RecipeError(ValueError):
    """An invalid entry in recipes.toml; the message names file, recipe, key, value and remedy."""


CANDIDATES = 4
"""Number of candidates in a grid: the same for every method, so that none is tuned more than another."""

_Tables = Mapping[str, Mapping[str, Any]]
_REQUIRED = {"title": TEXT, "description": TEXT, "home": TEXT}
_OPTIONAL = {
    "tier": one_of(("embedded", "dense", "middle")),
    "headline": FLAG,
    "fact": TEXT,
    "extends": TEXT,
    "settings": TABLE,
    "tuned_as": TEXT,
    "grid": TABLE,
}


def read_recipes(path: Path) -> dict[str, Recipe]:
    """Name -> recipe, in the order of the file. The comment at its top explains the keys.

    :raises RecipeError: the file is not TOML, or a recipe is invalid.
    """
    tables = read_tables(path, RecipeError)
    for name, entry in tables.items():
        where = _where(path, name)
        check_entry(where, entry, _REQUIRED, _OPTIONAL, RecipeError)
        for key in ("extends", "tuned_as"):
            if key in entry and entry[key] not in tables:
                meant = did_you_mean(entry[key], tables)
                raise RecipeError(f"{where}: {key} is {entry[key]!r}, but no recipe has this name: {meant}")
        _check_choice(where, entry, tables)
        if "fact" in entry and name != f"{entry.get('extends')}.{entry['fact'].lower()}":
            raise RecipeError(
                f"{where}: fact is {entry['fact']!r} and extends is {entry.get('extends')!r}: "
                f"the name must combine both, "
                f"such as slca.f3, which extends slca and changes F3; change one of the three"
            )
    bases: dict[str, Config] = {}
    return {
        name: Recipe(
            name,
            entry["title"],
            entry["description"],
            entry["home"],
            _base(path, name, tables, bases),
            flatten(entry.get("grid", {})),
            headline=entry.get("headline", False),
            tuned_as=entry.get("tuned_as"),
            fact=entry.get("fact"),
            tier=entry.get("tier", "embedded"),
        )
        for name, entry in tables.items()
    }


def _where(path: Path, name: str) -> str:
    return f"{path.name}, recipe {name!r}"


def _check_choice(where: str, entry: Mapping[str, Any], tables: _Tables) -> None:
    """Check that a recipe has its own grid, or the choice of a recipe with a grid, or neither."""
    tuned_as, grid = entry.get("tuned_as"), flatten(entry.get("grid", {}))
    if tuned_as is not None and "grid" not in tables[tuned_as]:
        raise RecipeError(f"{where}: tuned_as is {tuned_as!r}, which has no grid: name a recipe that has one")
    if "grid" not in entry:
        return
    if tuned_as is not None:
        raise RecipeError(f"{where}: tuned_as is {tuned_as!r}, but the recipe also has a grid: delete one of them")
    require_grid(where, grid)


def require_grid(where: str, grid: Mapping[str, Any]) -> None:
    """Refuse a grid that has not as many candidates as every other recipe's.

    :param grid: setting -> candidates.
    :raises RecipeError: a value is no list of different values, or their product has another size.
    """
    for key, values in grid.items():
        if not isinstance(values, list) or any(values.count(value) > 1 for value in values):
            raise RecipeError(f"{where}: grid.{key} is {values!r}: write a list of different values")
    found = math.prod(map(len, grid.values()))
    if found != CANDIDATES:
        raise RecipeError(
            f"{where}: grid is {grid!r}, {found} candidates: make them {CANDIDATES}, as every other recipe has"
        )


def _base(path: Path, name: str, tables: _Tables, bases: dict[str, Config], heirs: tuple[str, ...] = ()) -> Config:
    """The configuration of a recipe without its choice. Cached in ``bases``, because other recipes extend it."""
    if name not in bases:
        where, entry = _where(path, name), tables[name]
        parent, start = entry.get("extends"), Config()
        if parent in (*heirs, name):
            line = " -> ".join((*heirs, name, parent))
            raise RecipeError(
                f"{where}: extends is {parent!r}, a circular reference ({line}): let one of them extend nothing"
            )
        if parent is not None:
            start = _base(path, parent, tables, bases, (*heirs, name))
        settings, grid = flatten(entry.get("settings", {})), flatten(entry.get("grid", {}))
        bases[name] = with_values(f"{where}, settings", start, settings)
        if grid:
            with_values(f"{where}, grid", bases[name], {key: values[0] for key, values in grid.items()})
    return bases[name]


def with_values(where: str, config: Config, settings: Mapping[str, Any]) -> Config:
    """A configuration with settings on top.

    :raises RecipeError: a setting is unknown, or its value invalid.
    """
    try:
        return config.set(f"{key}={json.dumps(value)}" for key, value in settings.items())
    except (TypeError, ValueError) as problem:  # TypeError: TOML has dates, settings do not
        raise RecipeError(f"{where}: {problem}") from None


RECIPES: dict[str, Recipe] = read_recipes(Path(__file__).with_name("recipes.toml"))
"""The recipes of all tiers; :func:`recipes_of` returns those of one."""


def recipes_of(tier: Tier) -> dict[str, Recipe]:
    """Name -> recipe for one tier."""
    return {name: recipe for name, recipe in RECIPES.items() if recipe.tier == tier}


def find_recipe(name: str, among: Mapping[str, Recipe] = RECIPES) -> Recipe:
    """The recipe of that name.

    :raises ValueError: there is none; the message names similar ones.
    """
    if name not in among:
        similar = difflib.get_close_matches(name, among, n=3, cutoff=0.3) or list(among)
        raise ValueError(
            f"unknown recipe {name!r}: did you mean {', '.join(similar)}? (`reclaim list recipes` shows all)"
        )
    return among[name]
