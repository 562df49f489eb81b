"""Code from outside this project in a run: importing it, telling its source apart, and calling it.

Only what the user who starts a run names is imported, in a recipe or stream of their own. A record names components,
too, but nothing of a record is ever imported.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.machinery
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Literal

from ..config import Component

Kind = Literal["plugin", "loss", "optimizer", "strategy", "backbone"]

CALLED_WITH: dict[Kind, tuple[str, ...]] = {
    "plugin": (),
    "loss": (),
    "optimizer": ("params",),
    "strategy": (
        *("model", "optimizer", "criterion", "train_mb_size", "train_epochs", "eval_mb_size"),
        *("device", "plugins", "evaluator"),
    ),
    "backbone": (),
}
"""What a component is called with, besides its own arguments: an optimizer with the parameter groups as its first
argument, a strategy by keyword.
"""

LIBRARIES = frozenset({"torch", "torchvision", "timm", "avalanche", "numpy", "reclaim"})
"""Their versions are in every record, and what they do with random numbers is theirs: as components they are not
watched.
"""

FAILURES = (Exception, SystemExit)
"""How code from outside can fail."""

LONGEST = 500
"""Characters of an error's text that are passed on."""


class ComponentError(RuntimeError):
    """A component cannot be used, or failed; the message names it, file and line, and the remedy."""


class LeftRunningError(ComponentError):
    """A component left threads or processes behind."""


def component_of(path: str, **arguments: Any) -> Component:
    """The component that an import path names, with the hash of its source. Imports it.

    :param path: such as ``my_package.method:MyPlugin``.
    :param arguments: that it is to be called with.
    :raises ComponentError: it cannot be imported.
    """
    found = imported_anew(path)
    source = Source.of(path, found)
    _require_only_one(path, source)
    return Component(path, arguments, _sha256(source))


def load(component: Component) -> Any:
    """The object that a component names.

    :raises ComponentError: it cannot be imported, or its source is another than when the run was started.
    """
    found = imported(component.path)
    source = Source.of(component.path, found)
    _require_only_one(component.path, source)
    if _sha256(source) != component.sha256:
        raise ComponentError(
            f"the source of {component.path} is another than when this run was named: start the command again, which "
            f"makes runs of the source as it is now"
        )
    return found


def check(kind: Kind, component: Component) -> None:
    """Refuse a component before any run that cannot be called as its kind is.

    :raises ComponentError: names its signature, file and line.
    """
    _require_call(kind, component, imported(component.path))


def call(kind: Kind, component: Component, *given: Any, **named: Any) -> Any:
    """What a component returns, called with what its kind is called with and its own arguments.

    :raises ComponentError: it cannot be called so, fails, or returns something else than its kind.
    """
    found = load(component)
    _require_call(kind, component, found)
    try:
        made = found(*given, **named, **component.arguments)
    except ComponentError:
        raise
    except FAILURES as error:
        raise failure(error, [component]) or unlocated(error, [component]) from error
    wanted, is_so = _wanted(kind)
    if not is_so(made):
        raise ComponentError(
            f"{kind} {component.path} returned {_short(made)}, not {wanted} ({_where(found)}): return one"
        )
    return made


def failure(error: BaseException, components: Iterable[Component]) -> ComponentError | None:
    """The error of a component, with its file and line; None if no line of theirs took part."""
    sources = {component.path: watched_source(component) for component in components}
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        for path, source in sources.items():
            if source and source.holds(frame.f_code.co_filename):
                where = f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
                return ComponentError(f"{path}: {in_words(error)} ({where})")
    return None


def unlocated(error: BaseException, components: Iterable[Component]) -> BaseException:
    """An error in a run with components of which no line took part: itself if this project raised it."""
    if isinstance(error, ValueError | OSError):
        return error
    named = ", ".join(component.path for component in components)
    return ComponentError(f"{in_words(error)}; no line of {named} took part: look at what it returns")


def in_words(error: BaseException) -> str:
    """Kind and text of an error, of which there may be megabytes, or none that can be had."""
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be had)"
    return f"{type(error).__name__}: {_shortened(text)}"


def caller(frame: FrameType | None, names: Collection[str], sources: Iterable[Source]) -> str | None:
    """File and line of the component that made a call; None if it was made by this project's code.

    The nearest of both counts: libraries in between call on behalf of one of them.

    :param names: of the components' outermost modules, whose sources are not known while they are imported.
    """
    sources = list(sources)
    while frame:
        file, name = frame.f_code.co_filename, str(frame.f_globals.get("__name__"))
        if name.partition(".")[0] in names or any(source.holds(file) for source in sources):
            return f"{file}, line {frame.f_lineno}"
        if name.startswith("reclaim."):
            return None
        frame = frame.f_back
    return None


def outermost(path: str) -> str:
    """Name of the outermost module of an import path."""
    return path.partition(":")[0].partition(".")[0]


def watched_source(component: Component) -> Source | None:
    """Where a component's code is; None for one of the libraries that this project is built on."""
    if outermost(component.path) in LIBRARIES:
        return None
    source = Source.of(component.path, imported(component.path))
    return Source(tuple(unit for unit in source.units if unit.stem not in LIBRARIES))


# --- importing ---


def look_into(folder: Path) -> None:
    """Find modules in a folder first, as Python does for a script in it. Processes for runs inherit it."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


def imported(path: str) -> Any:
    """The object at an import path.

    :raises ComponentError: it cannot be imported; names file and line.
    """
    module_name, _, name = path.partition(":")
    if module_name in ("__main__", "__mp_main__"):
        raise ComponentError(f"{path} is part of a script or notebook: put it into a module, a file of its own")
    try:
        found: Any = importlib.import_module(module_name)
    except FAILURES as error:
        raise ComponentError(f"{path} cannot be imported: {_why_not(module_name, error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key in vars(found) if not key.startswith("_")] if hasattr(found, "__dict__") else []
            similar = difflib.get_close_matches(part, known, n=3)
            meant = f": did you mean {', '.join(similar)}?" if similar else f": it has {', '.join(known[:8]) or 'none'}"
            raise ComponentError(f"{path} cannot be imported: there is no {part!r} in {module_name}{meant}")
        found = getattr(found, part)
    return found


_SEEN: dict[str, str] = {}
"""Module -> hash of its source when it was imported."""


def imported_anew(path: str) -> Any:
    """Like :func:`imported`, but of the source as it is now: it may have been edited since, as beside a notebook."""
    module_name = path.partition(":")[0]
    if outermost(path) in LIBRARIES:
        return imported(path)
    if module_name in _SEEN and module_name in sys.modules:
        source = Source.of(path, None)
        if _sha256(source) != _SEEN[module_name]:
            for name, module in list(sys.modules.items()):
                if name != "__main__" and (file := getattr(module, "__file__", None)) and source.holds(file):
                    del sys.modules[name]
            importlib.invalidate_caches()
    found = imported(path)
    _SEEN[module_name] = _sha256(Source.of(path, None))
    return found


def _require_only_one(path: str, source: Source) -> None:
    """Refuse modules of one name from two folders, of which Python imports only the first."""
    folders = {Path(entry).resolve() for entry in sys.path}
    for unit in source.units:
        name = unit.stem
        if unit.parent.resolve() not in folders or name in sys.stdlib_module_names:
            continue
        found = importlib.machinery.PathFinder.find_spec(name)
        for file in (getattr(sys.modules.get(name), "__file__", None), found and found.origin):
            if file and not Source((unit,)).holds(file):
                raise ComponentError(
                    f"{path} needs the module {name!r} in {unit}, and there is another in {file}: rename one, or use "
                    f"them in commands of their own"
                )


def _why_not(module: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return (
            f"there is no module {error.name!r} in {Path.cwd()}, beside the recipe's file, or installed in this "
            f"environment ({sys.prefix})"
        )
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    here = [f for f in frames if f.filename != __file__]
    where = f" ({here[-1].filename}, line {here[-1].lineno})" if here else ""
    return f"{in_words(error)}{where}"


# --- the source ---


@dataclass(frozen=True)
class Source:
    """Files and packages that a component's code is in.

    :ivar units: a Python file, or the folder of a package: the component's own and, unless it is installed, those from
        the same folder that they import.
    """

    units: tuple[Path, ...]

    @classmethod
    def of(cls, path: str, found: Any) -> Source:
        own = [_unit(path.partition(":")[0])]
        if (inspect.isclass(found) or inspect.isfunction(found)) and found.__module__ in sys.modules:
            own.append(_unit(found.__module__))
        units = {unit: None for unit in own if unit}
        waiting = list(units)
        while waiting:
            unit = waiting.pop()
            if not unit.exists():
                raise ComponentError(f"{path} is in {unit}, which is no file: unpack the archive that it is in")
            if _is_installed(unit):
                continue
            for name in _imports(unit):
                for beside in (unit.parent / f"{name}.py", unit.parent / name):
                    if beside not in units and (beside.is_file() or (beside.is_dir() and _files(beside))):
                        units[beside] = None
                        waiting.append(beside)
        return cls(tuple(units))

    def holds(self, file: str) -> bool:
        path = Path(file)
        return any(path == unit or unit in path.parents for unit in self.units)


_INSTALLED = frozenset(Path(place) for key, place in sysconfig.get_paths().items() if "lib" in key)


def _is_installed(unit: Path) -> bool:
    return unit.parent.name in ("site-packages", "dist-packages") or unit.parent in _INSTALLED


def _unit(module_name: str) -> Path | None:
    """The file or folder of the outermost package of a module, with or without ``__init__.py``. A namespace that is
    installed, or in several places, is none: then of the package in it.
    """
    parts = module_name.split(".")
    for i in range(len(parts)):
        module: ModuleType | None = sys.modules.get(".".join(parts[: i + 1]))
        if file := getattr(module, "__file__", None):
            path = Path(file)
            return path.parent if path.stem == "__init__" else path
        # an editable install adds an entry that is no folder
        places = [Path(place) for place in getattr(module, "__path__", ()) if Path(place).is_dir()]
        if len(places) == 1 and not _is_installed(places[0]):
            return places[0]
    return None


def _files(unit: Path) -> list[Path]:
    """Its Python files; hidden ones are those of editors and environments."""
    if not unit.is_dir():
        return [unit]
    found = (file for file in unit.rglob("*.py") if file.is_file())
    return sorted(file for file in found if not any(part[0] == "." for part in file.relative_to(unit).parts))


def _imports(unit: Path) -> Iterator[str]:
    """First parts of the names of all modules that a unit imports, anywhere in it."""
    for file in _files(unit):
        if file.suffix != ".py":
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue  # a file that nothing imports; a module that is imported was parsed before
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def _sha256(source: Source) -> str:
    """SHA-256, in hex, of names and contents of all files, whatever their ends of lines and the folder they are in."""
    digest = hashlib.sha256()
    for unit in sorted(source.units, key=lambda unit: unit.name):
        for file in _files(unit):
            name = file.relative_to(unit.parent).as_posix()
            content = hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
            digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


# --- calling ---


def _require_call(kind: Kind, component: Component, found: Any) -> None:
    about = f"{kind} {component.path}"
    if not callable(found):
        raise ComponentError(f"{about} is {_short(found)}: name a class or a function")
    taken = sorted(set(CALLED_WITH[kind]) & set(component.arguments))
    if taken:
        raise ComponentError(f"{about} is given {', '.join(taken)} by the run: leave it out of the arguments")
    positional = [None] if kind == "optimizer" else []
    named = dict.fromkeys(CALLED_WITH[kind]) if kind == "strategy" else {}
    try:
        signature = inspect.signature(found)
    except (ValueError, TypeError):
        return  # written in C
    try:
        signature.bind(*positional, **named, **component.arguments)
    except TypeError as error:
        name = getattr(found, "__name__", component.path)  # a functools.partial has none
        with_what = ", ".join([*CALLED_WITH[kind], *component.arguments]) or "nothing"
        raise ComponentError(
            f"{about} is called with {with_what}, which does not fit {name}{signature}: {error} ({_where(found)})"
        ) from None


def _wanted(kind: Kind) -> tuple[str, Callable[[Any], bool]]:
    """What a component of a kind must return, in words, and the check of it."""
    from avalanche.core import BasePlugin  # seconds that importing this module should not cost
    from avalanche.training.templates import SupervisedTemplate
    from torch import nn
    from torch.optim import Optimizer

    if kind == "loss":
        return "something that is called with logits and targets, such as torch.nn.CrossEntropyLoss()", callable
    what, wanted = {
        "plugin": ("an Avalanche plugin, such as a SupervisedPlugin", BasePlugin),
        "optimizer": ("a torch optimizer", Optimizer),
        "strategy": ("an Avalanche strategy, such as Naive", SupervisedTemplate),
        "backbone": ("a torch.nn.Module from images to features", nn.Module),
    }[kind]
    return what, lambda made: isinstance(made, wanted)


def _where(found: Any) -> str:
    try:
        return f"{inspect.getsourcefile(found)}, line {inspect.getsourcelines(found)[1]}"
    except (OSError, TypeError):
        return f"module {getattr(found, '__module__', '?')}"


def _short(value: Any) -> str:
    return f"{_shortened(repr(value), 80)} ({type(value).__name__})"


def _shortened(text: str, most: int = LONGEST) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"
