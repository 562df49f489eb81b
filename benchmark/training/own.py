"""Recipes that a user names: a shipped one, a TOML file of their own, or an object in a Python module.

An own recipe starts from a shipped one, sets values, and names components by import path. `docs/rank-your-method.md`
goes from an empty file to a leaderboard.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import types
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import HUB, Component, ConfigError, External, flatten
from ..papers.protocols import find_cell, taken_name
from ..recipes import CHOSEN, RECIPES, Recipe, RecipeError, find_recipe, require_grid, with_values
from ..records.record import NAME, is_name
from ..toml_files import TABLE, TEXT, Kind, check_entry, read_document
from .components import FAILURES, check, component_of, imported_anew, in_words, look_into

_COMPONENT: Kind = (
    lambda value: isinstance(value, str | dict) or callable(value),
    'an import path, such as "my_package.method:MyPlugin", or { path = "...", arguments = { ... } }',
)
_PLUGINS: Kind = (
    lambda value: isinstance(value, list | tuple) and all(map(_COMPONENT[0], value)),
    f"a list, each {_COMPONENT[1]}",
)
_REQUIRED: dict[str, Kind] = {"base": TEXT}
_OPTIONAL: dict[str, Kind] = {
    **dict.fromkeys(("name", "title", "description"), TEXT),
    **dict.fromkeys(("settings", "grid"), TABLE),
    "plugins": _PLUGINS,
    **dict.fromkeys(("loss", "optimizer", "strategy", "backbone"), _COMPONENT),
}


def recipe_of(source: str | Path | Mapping[str, Any]) -> Recipe:
    """The recipe that a user names.

    :param source: name of a shipped recipe; path of a TOML file (``mine.toml``), whose folder is then looked into for
        modules; an object in a module (``my_module:recipe``, looked for in the working directory, too), a mapping with
        the keys of such a file or a function that returns one; or the mapping itself, which needs a ``name``. Without
        one the file gives it, or the object, or for an object ``recipe`` its module.
    :raises ValueError: there is no such recipe, or it is invalid; names file, key, value and remedy.
    :raises ComponentError: a component cannot be imported, or cannot be called as its kind is.
    """
    if isinstance(source, Mapping):
        look_into(Path.cwd())
        return _recipe("the recipe", None, source, Path.cwd())
    text = str(source)
    if text.endswith(".toml"):
        path = Path(source)
        if not path.is_file():
            raise RecipeError(f"there is no file {path}: name a recipe's TOML file, or one of `reclaim list recipes`")
        look_into(path.absolute().parent)
        return _recipe(path.name, path.stem, read_document(path, RecipeError), path.absolute().parent)
    if ":" in text:
        return _of_module(text)
    try:
        return find_recipe(text)
    except ValueError as error:
        file = Path(f"{text}.toml")
        hint = f"; or is it the file {file}? Name it with its ending" if file.is_file() else ""
        raise ValueError(f"{error}{hint}") from None


def _of_module(path: str) -> Recipe:
    from .isolation import guarded  # brings torch, which the name of a shipped recipe does not need

    look_into(Path.cwd())
    with guarded([path]):
        content: Any = imported_anew(path)
        if callable(content):
            try:
                content = content()
            except FAILURES as error:
                raise RecipeError(f"{path}() failed: {in_words(error)}") from error
    if not isinstance(content, Mapping):
        raise RecipeError(
            f"{path} is of type {type(content).__name__}: make it a dictionary with base, settings, plugins, ..., or a "
            f"function that returns one"
        )
    module, _, attribute = path.partition(":")
    file = Path(inspect.getfile(importlib.import_module(module))).absolute()
    # one of many that are called "recipe" is known by its module
    name = (module if attribute == "recipe" else attribute).rpartition(".")[2]
    return _recipe(path, name, content, file.parent)


def _recipe(where: str, name: str | None, entry: Mapping[str, Any], folder: Path) -> Recipe:
    if isinstance(entry.get("runs", entry.get("run")), list):
        what = "a study (`reclaim run FILE` alone runs it)" if "runs" in entry else "no recipe: a study has [[runs]]"
        raise RecipeError(f"{where} is {what}")
    check_entry(where, entry, _REQUIRED, _OPTIONAL, RecipeError)
    name = entry.get("name", name)
    if not isinstance(name, str) or not is_name(name):
        raise RecipeError(f"{where}: name is {name!r}: write {NAME}")
    if ours := name if name in RECIPES else taken_name(name):
        raise RecipeError(f"{where}: name is {name!r}, which is that of a shipped recipe, {ours}: choose another name")
    base = _base(where, entry["base"])
    external = _external(where, entry)
    settings, grid = flatten(entry.get("settings", {})), flatten(entry.get("grid", {}))
    if _is_name(named := entry.get("backbone")):
        settings = {"backbone": named, **settings}
    config = with_values(f"{where}, settings", base.config, settings)
    if external:
        backbone = external.backbone.path if external.backbone else config.backbone
        try:
            config = replace(config, external=external, backbone=backbone)
        except ConfigError as problem:
            raise RecipeError(f"{where}: {problem}") from None
    if grid:
        require_grid(where, grid)
        with_values(f"{where}, grid", config, {key: values[0] for key, values in grid.items()})
    return Recipe(
        name,
        entry.get("title", name),
        entry.get("description", f"{base.name}, changed by {where}"),
        base.home,
        config,
        grid,
        tier=base.tier,
        choices=folder / CHOSEN,
    )


def _base(where: str, name: str) -> Recipe:
    try:
        return find_cell(name)[0] if "/" in name else find_recipe(name)
    except ValueError as error:
        raise RecipeError(f"{where}: base is {name!r}: {error}") from None


def _external(where: str, entry: Mapping[str, Any]) -> External | None:
    plugins = tuple(
        _component(f"{where}, plugins[{i}]", "plugin", value) for i, value in enumerate(entry.get("plugins", ()))
    )
    others = {
        kind: _component(f"{where}, {kind}", kind, entry[kind])
        for kind in ("loss", "optimizer", "strategy", "backbone")
        if kind in entry and not (kind == "backbone" and _is_name(entry[kind]))
    }
    return External(entry["base"], plugins, **others) if plugins or others else None


def _is_name(backbone: Any) -> bool:
    """Whether it is timm's or that of a repository, and no component."""
    return isinstance(backbone, str) and (":" not in backbone or backbone.startswith(HUB))


def _component(where: str, kind: Any, value: Any) -> Component:
    """A component from an import path, a table, or a class, function or ``functools.partial`` of one."""
    from .isolation import guarded  # see _of_module

    arguments: Mapping[str, Any] = {}
    if isinstance(value, dict):
        if unknown := value.keys() - {"path", "arguments"}:
            raise RecipeError(
                f"{where}: unknown key {min(unknown)!r}: write path, and what it is called with under arguments"
            )
        value, arguments = value.get("path"), value.get("arguments", {})
    elif isinstance(value, functools.partial) and not value.args:
        value, arguments = value.func, value.keywords
    if not isinstance(arguments, Mapping):
        raise RecipeError(f"{where}: arguments is {arguments!r}: write a table")
    if isinstance(value, type | types.FunctionType):
        if "<locals>" in value.__qualname__:
            raise RecipeError(f"{where}: {value.__qualname__} is defined within a function: define it in a module")
        value = f"{value.__module__}:{value.__qualname__}"
    if not isinstance(value, str) or ":" not in value:
        raise RecipeError(f"{where} is {value!r}: write {_COMPONENT[1]}")
    try:
        arguments = {key: _plain(argument) for key, argument in arguments.items()}
    except TypeError as error:
        raise RecipeError(f"{where}: {error}") from None
    with guarded([value]):
        found = component_of(value, **arguments)
        check(kind, found)
    return found


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{value} is not finite, and JSON has no such number: leave the argument out, or write a text")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"{value!r} is a {type(value).__name__}: records hold numbers, texts, booleans, lists and tables")
