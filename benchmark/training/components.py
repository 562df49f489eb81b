"""Imports code from outside this project that a configuration or a stream names."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from ..config import Component


def component_of(path: str, **arguments: Any) -> Component:
    """The component at an import path, with the SHA-256 of its module's source.

    :raises ValueError: it cannot be imported.
    """
    module = inspect.getmodule(_found(path)) or importlib.import_module(path.partition(":")[0])
    file = inspect.getsourcefile(module) if getattr(module, "__file__", None) else None
    source = Path(file).read_bytes() if file else b""
    return Component(path, arguments, hashlib.sha256(source).hexdigest())


def load(component: Component) -> Any:
    """The object that a component names; it is not called.

    :raises ValueError: it cannot be imported.
    """
    return _found(component.path)


def _found(path: str) -> Any:
    module, colon, name = path.partition(":")
    if not colon or not all(word.isidentifier() for word in (*module.split("."), *name.split("."))):
        raise ValueError(f"{path!r} is no import path: write one such as my_package.module:name")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
        for word in name.split("."):
            found = getattr(found, word)
    except Exception as error:  # foreign code can fail in any way
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return found
