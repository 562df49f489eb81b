"""Recipes by name, from a file of one's own, or from a Python module."""

from __future__ import annotations

from ..recipes import Recipe, find_recipe


def recipe_of(name: str) -> Recipe:
    """The recipe that a user names.

    :raises ValueError: there is none.
    """
    return find_recipe(name)
