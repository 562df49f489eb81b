"""Streams of a user's own: a folder of images, or an Avalanche benchmark by import path; and recipes for them."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import LITE_SIZE, QUICKDRAW_VIT, Component, Config, Images
from ..data.streams import OWN, Stream, own_name, slug
from ..recipes import Recipe
from .components import FAILURES, component_of, failure, load, look_into, unlocated

PHOTOGRAPHS = "vit_base_patch16_224.augreg_in21k"
"""Backbone of recipes of drawings on photographs: SLCA's."""


def for_images(recipe: Recipe, backbone: str | None = None, size: int | None = None) -> Recipe:
    """A recipe for photographs of one's own: the same settings, with the transforms of
    :func:`~reclaim.benchmark.data.transforms.own_transforms`. It keeps its name; that its hyper-parameters were chosen
    on other images makes them "given".

    :param backbone: a timm model; None: the recipe's own if that is for photographs, else :data:`PHOTOGRAPHS`.
    :param size: height and width of what the backbone sees, in pixels; None: the backbone's own, or the recipe's.
    :raises ValueError: the backbone is for drawings, or the recipe for canvases.
    """
    config = recipe.config
    if config.dense:
        raise ValueError(f"{recipe.name} is for canvases, and classifies no images: choose another recipe")
    if backbone == QUICKDRAW_VIT:
        raise ValueError(f"the backbone {QUICKDRAW_VIT} sees drawings of 28 x 28 pixels: name one for photographs")
    images = config.images or Images()
    if backbone is None and config.backbone != QUICKDRAW_VIT and size is None:
        size = (images.size or LITE_SIZE) if images.protocol == "lite" else images.size
    own = PHOTOGRAPHS if config.backbone == QUICKDRAW_VIT else config.backbone
    changed = replace(
        config,
        backbone=backbone or own,
        images=replace(images, protocol="own", clipped=False, size=size, train_per_class=None, test_per_class=None),
    )
    return replace(recipe, base=changed, grid={}, tuned_as=None, from_paper=False)


@dataclass(frozen=True)
class OwnImages:
    """A folder of images as a stream, as a user names it: see :func:`~reclaim.benchmark.data.folders.stream_of_images`.

    :ivar size: pixels of a side that the backbone sees; None: its own.
    """

    folder: Path | None = None
    tasks: int | None = None
    size: int | None = None
    test_share: float | None = None
    split_seed: int | None = None


NO_IMAGES = OwnImages()


def own_stream(
    stream: str | None, images: OwnImages = NO_IMAGES, *, unverified: bool = False, quiet: bool = False
) -> tuple[Stream, Path | None] | None:
    """The stream of one's own that is named, and the root of its setup, after a look at every image; None if none is.

    :param stream: an import path, of an Avalanche benchmark or of a function that returns one. Any other name is that
        of a stream of this project.
    :param unverified: do not decode every image first.
    :raises ValueError: both are named, or an option has nothing to say.
    """
    folder, share, seed = images.folder, images.test_share, images.split_seed
    if folder is None:
        given = {"tasks": images.tasks, "size": images.size, "test-share": share, "split-seed": seed}
        if named := [option for option, value in given.items() if value is not None]:
            raise ValueError(f"--{named[0]} is of --images FOLDER, which is missing")
        return (stream_of_benchmark(stream), None) if stream and ":" in stream else None
    if stream:
        raise ValueError(f"--images {folder} is the stream: leave out {stream}")
    from ..data.folders import SPLIT_SEED, TEST_SHARE, read_own_images, stream_of_images  # they bring torch
    from ..data.verify import require_decodable

    found = stream_of_images(
        folder, images.tasks, TEST_SHARE if share is None else share, SPLIT_SEED if seed is None else seed
    )
    if not found.split and (share is not None or seed is not None):
        raise ValueError(f"{folder} has training and test folders: leave out --test-share and --split-seed")
    if not unverified:
        require_decodable(read_own_images(found, folder), quiet)
    return found, folder


DRAWING = (1, 28, 28)
"""Shape of what the embedded backbone sees."""


def for_stream(recipe: Recipe, stream: Stream, backbone: str | None = None, size: int | None = None) -> Recipe:
    """A recipe for a stream of one's own: by :func:`for_images` or :func:`for_benchmark`."""
    if stream.made_by is None:
        return for_images(recipe, backbone, size)
    if size is not None:
        raise ValueError(f"the images of {stream.name} have the size that it gives them: leave out --size")
    return for_benchmark(recipe, stream, backbone)


def stream_of_benchmark(path: str, **arguments: Any) -> Stream:
    """The stream of an Avalanche benchmark, or of a function that returns one. It is imported and called once.

    :param path: such as ``my_module:make_benchmark``.
    :param arguments: keyword arguments of the function; JSON values. A parameter ``seed`` gets that of the run.
    :raises ValueError: it cannot be imported, fails, or is no benchmark for classification.
    """
    from .isolation import guarded  # brings torch, which reading names should not wait for

    look_into(Path.cwd())
    with guarded([path]):
        component = component_of(path, **arguments)
        served, seeds = _looked_at(component)
    name = slug(path)
    order = "in an order by seed" if seeds else "in the order of the benchmark"
    return Stream(
        own_name(name),
        served.sizes,
        f"{len(served.classes):,} classes of {path}, {order}",
        OWN,
        name,
        made_by=component,
    )


def for_benchmark(recipe: Recipe, stream: Stream, backbone: str | None = None) -> Recipe:
    """A recipe for an Avalanche benchmark: the same settings, and no transforms of ours, for its images come
    transformed. Drawings of 28 x 28 pixels are warped in training, as the embedded tier's.

    A benchmark that takes no seed has one order of classes: seeds then vary the initialisation.

    :param backbone: a timm model; None: the recipe's own, if it is for such images.
    :raises ValueError: a backbone must be named.
    """
    assert stream.made_by
    served, seeds = _looked_at(stream.made_by)
    config, drawings = recipe.config, served.shape == DRAWING
    if backbone is None and config.backbone == QUICKDRAW_VIT and not drawings:
        raise ValueError(
            f"{recipe.name} is of drawings of {DRAWING}, and the images of {stream.name} are of {served.shape}: name a "
            f"backbone for them, such as --set backbone={PHOTOGRAPHS}"
        )
    changed = replace(
        config,
        backbone=backbone or config.backbone,
        images=None,
        augment=config.augment and drawings,
        seeding=config.seeding if seeds else "initialisation",
    )
    return replace(recipe, base=changed, grid={}, tuned_as=None, from_paper=False)


def serve_component(stream: Stream, config: Config, seed: int) -> Any:
    """What the benchmark of a stream serves in a run (:class:`~reclaim.benchmark.data.served.Served`).

    :raises ValueError: it is another one than :func:`stream_of_benchmark` has seen.
    """
    assert stream.made_by
    served, _ = _served(stream.made_by, 0 if config.seeding == "initialisation" else seed)
    n, known = (len(served.sizes), len(served.classes)), (len(stream.sizes), stream.n_classes)
    if n != known:
        raise ValueError(
            f"{stream.made_by.path} returns {n[0]} experiences of {n[1]} classes with seed {seed}, and returned "
            f"{known[0]} of {known[1]}: let their numbers be the same for all seeds"
        )
    return served


@functools.lru_cache(maxsize=1)  # the recipes of a command have one stream, and its images are not to be kept
def _looked_at(component: Component) -> tuple[Any, bool]:
    return _served(component, 0)


def _served(component: Component, seed: int) -> tuple[Any, bool]:
    """What a component serves, and whether it takes a seed."""
    from ..data.served import is_benchmark, seeded, serve  # brings torch, which reading names should not wait for

    made, takes_seed = load(component), False
    if not is_benchmark(made) and callable(made):
        takes_seed = "seed" in inspect.signature(made).parameters
        arguments = {**component.arguments, **({"seed": seed} if takes_seed else {})}
        with seeded(seed):
            try:
                made = made(**arguments)
            except FAILURES as error:
                raise failure(error, [component]) or unlocated(error, [component]) from error
    return serve(made, component.path), takes_seed
