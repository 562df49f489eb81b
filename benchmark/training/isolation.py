"""A run with code from outside this project, in a process of its own: what that code may not do to a run.

It may not seed the global generators, which belong to the seed of the run, or change torch's defaults, and may not
leave threads or processes behind. What it prints goes into a file.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from multiprocessing import util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import Component
from .components import (
    FAILURES,
    LIBRARIES,
    ComponentError,
    LeftRunningError,
    Source,
    caller,
    failure,
    outermost,
    unlocated,
    watched_source,
)

PRINTED = 2**20
"""Characters of what is printed that are kept."""

GRACE = 5.0
"""Seconds that threads are given to end after a run."""

OWN_GENERATOR = "the global random numbers belong to the run's seed: use a generator of your own"
OWN_TENSORS = "it would change every tensor of the run: pass it where you make a tensor"

FORBIDDEN: Sequence[tuple[Any, str, str]] = (
    (torch, "manual_seed", f"{OWN_GENERATOR}, torch.Generator().manual_seed(...), or torch.random.fork_rng()"),
    (torch.random, "manual_seed", f"{OWN_GENERATOR}, torch.Generator().manual_seed(...), or torch.random.fork_rng()"),
    (torch, "seed", f"{OWN_GENERATOR}, torch.Generator()"),
    (torch.cuda, "manual_seed", f"{OWN_GENERATOR}, torch.Generator('cuda')"),
    (torch.cuda, "manual_seed_all", f"{OWN_GENERATOR}, torch.Generator('cuda')"),
    (np.random, "seed", f"{OWN_GENERATOR}, numpy.random.default_rng(...)"),
    (random, "seed", f"{OWN_GENERATOR}, random.Random(...)"),
    (torch, "set_default_dtype", OWN_TENSORS),
    (torch, "set_default_tensor_type", OWN_TENSORS),
    (torch, "set_default_device", OWN_TENSORS),
    (torch, "set_num_threads", "threads are the run's: its result must not depend on the number of cores"),
)
"""Module, function, and what to do instead."""


@contextlib.contextmanager
def isolated(components: Iterable[Component], log: Path | None) -> Iterator[None]:
    """A run with these components, in a process that makes no other run.

    :param log: file for what is printed, at most :data:`PRINTED` characters of it; None: it is dropped.
    :raises ComponentError: within the block, the call of a forbidden function; at its end, an error from a component's
        code, with its file and line, or threads or processes that are left.
    """
    named, before = list(components), _alive()
    sources: list[Source] = []
    with _printing_into(log), guarded([component.path for component in named], sources):
        try:
            sources += filter(None, map(watched_source, named))
            yield
        except (ComponentError, FloatingPointError, MemoryError):
            raise
        except (*FAILURES, KeyboardInterrupt) as error:  # Ctrl-C does not reach this process
            raise failure(error, named) or unlocated(error, named) from error
        finally:
            left = _left_running(before)
            if left:  # else this process would wait for them for ever
                util.Finalize(None, os._exit, args=(0,), exitpriority=0)
            for each in left:
                if isinstance(each, multiprocessing.process.BaseProcess):
                    each.terminate()
        if left:
            raise LeftRunningError(
                f"left running after the run: {', '.join(map(_named, left))}: end them in after_training_exp "
                f"of the last experience"
            )


@contextlib.contextmanager
def guarded(paths: Iterable[str], sources: Sequence[Source] = ()) -> Iterator[None]:
    """Let calls of :data:`FORBIDDEN` by a component's code fail. Within ``torch.random.fork_rng()`` seeding is fine.
    What is printed goes to standard error: standard output is for results.

    :param paths: import paths of the components, which may be imported within the block.
    :param sources: of those that are imported; may be filled within the block.
    """
    forks, process, active = 0, os.getpid(), True
    names = {outermost(path) for path in paths} - LIBRARIES

    def refusing(function: Callable[..., Any], name: str, remedy: str) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            forked = forks and "seed" in name
            # loaders are other processes with seeds of their own
            watched = active and not forked and os.getpid() == process
            if watched and (where := caller(sys._getframe(1), names, sources)):
                raise ComponentError(f"{name}() is called in {where}: {remedy}")
            return function(*args, **kwargs)

        return instead

    @contextlib.contextmanager
    def counting(*args: Any, **kwargs: Any) -> Iterator[None]:
        nonlocal forks
        with fork_rng(*args, **kwargs):
            forks += 1
            try:
                yield
            finally:
                forks -= 1

    fork_rng = torch.random.fork_rng
    originals = [(module, name, getattr(module, name)) for module, name, _ in FORBIDDEN]
    try:
        torch.random.fork_rng = counting
        for (module, name, remedy), (_, _, function) in zip(FORBIDDEN, originals, strict=True):
            setattr(module, name, refusing(function, f"{module.__name__}.{name}", remedy))
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        active = False  # a module may have imported the function by its name
        torch.random.fork_rng = fork_rng
        for module, name, function in originals:
            setattr(module, name, function)


class _Capped(io.TextIOBase):
    """Writes the first :data:`PRINTED` characters into a file, which is made when there are any."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._room = path, PRINTED

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._path and self._room > 0 and text:
            cut = text if len(text) <= self._room else f"{text[: self._room]}\n... the rest is not kept\n"
            with contextlib.suppress(OSError):  # a full disk is no reason to lose the run
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8", errors="replace") as file:
                    file.write(cut)
            self._room -= len(text)
        return len(text)


@contextlib.contextmanager
def _printing_into(log: Path | None) -> Iterator[None]:
    """Print into a file; warnings still appear."""
    terminal, shows = sys.stderr, warnings.showwarning
    if log:
        log.unlink(missing_ok=True)

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        terminal.write(warnings.formatwarning(message, category, filename, lineno, line))

    printed = _Capped(log)
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        warnings.showwarning = show
        try:
            yield
        finally:
            warnings.showwarning = shows


_Running = threading.Thread | multiprocessing.process.BaseProcess


def _alive() -> list[_Running]:
    """Threads and processes that keep this process from ending."""
    alive: list[_Running] = [*threading.enumerate(), *multiprocessing.active_children()]
    return [each for each in alive if each.is_alive() and not each.daemon]


def _left_running(before: Collection[_Running]) -> list[_Running]:
    """Those that the run started, after a while to end in."""
    end = time.monotonic() + GRACE
    while left := [each for each in _alive() if each not in before]:
        if time.monotonic() > end:
            return left
        time.sleep(0.05)
    return []


def _named(running: _Running) -> str:
    if not isinstance(running, threading.Thread):
        return f"process {running.name}"
    target: Any = getattr(running, "_target", None) or type(running).run
    code = getattr(target, "__code__", None)
    where = f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""
    return f"thread {running.name}{where}"
