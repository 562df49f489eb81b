"""Recipes by name, from a file of one's own, or from a Python module; and recipes for one's own images."""

from __future__ import annotations

from dataclasses import replace

from ..config import QUICKDRAW_VIT, Images
from ..recipes import Recipe, find_recipe

PHOTOGRAPHS = "vit_base_patch16_224.augreg_in21k"
"""Backbone of recipes of drawings on photographs: SLCA's."""
LITE_SIZE = 64
"""Pixels of the middle tier's images."""


def recipe_of(name: str) -> Recipe:
    """The recipe that a user names.

    :raises ValueError: there is none.
    """
    return find_recipe(name)


def for_images(recipe: Recipe, backbone: str | None = None, size: int | None = None) -> Recipe:
    """A recipe for photographs of one's own: the same settings, with the transforms of
    :func:`~reclaim.benchmark.data.transforms.own_transforms`. It keeps its name; that its hyper-parameters were chosen
    on other images makes them "given".

    :param backbone: a timm model; None: the recipe's own if that is for photographs, else :data:`PHOTOGRAPHS`.
    :param size: height and width of what the backbone sees, in pixels; None: the backbone's own, or the recipe's.
    :raises ValueError: the backbone is for drawings.
    """
    config = recipe.config
    if backbone == QUICKDRAW_VIT:
        raise ValueError(f"the backbone {QUICKDRAW_VIT} sees drawings of 28 x 28 pixels: name one for photographs")
    images = config.images or Images()
    if backbone is None and config.backbone != QUICKDRAW_VIT and size is None:
        size = LITE_SIZE if images.protocol == "lite" else images.size
    own = PHOTOGRAPHS if config.backbone == QUICKDRAW_VIT else config.backbone
    changed = replace(
        config, backbone=backbone or own, images=replace(images, protocol="own", clipped=False, size=size)
    )
    return replace(recipe, base=changed, grid={}, tuned_as=None, from_paper=False)
