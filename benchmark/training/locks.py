"""Locks: of several commands on one record store, one makes a run, and the others wait for its record.

They are the operating system's and end with the process that holds them, however that ends. On a network drive they
reach as far as its locks do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import warnings
from pathlib import Path

from filelock import FileLock, Timeout


class RunLocks:
    """The runs that this process is making into one store, each locked by a file. Leaving the context releases them.

    :param folder: of the locks; made when the first is taken. Without one nothing is locked.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._held: dict[Path, FileLock | None] = {}

    def __enter__(self) -> RunLocks:
        return self

    def __exit__(self, *error: object) -> None:
        for path in list(self._held):
            self._release(path)

    def take(self, recipe: str, stream: str, config_hash: str, seed: int) -> bool:
        """Lock a run, unless another process has. Where files cannot be locked, warn and go on without."""
        path = self._path(recipe, stream, config_hash, seed)
        if path is None or path in self._held:
            return True
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except (Timeout, OSError, NotImplementedError) as found:
            error = _cannot_lock(path) if isinstance(found, Timeout) else found
            if error is None:
                return False
            warnings.warn(
                f"cannot lock {path} ({error}): do not start the same runs twice, both would be made", stacklevel=2
            )
            self._held[path] = None
            return True
        self._held[path] = lock
        with contextlib.suppress(OSError):  # it only says who
            _holder(path).write_text(f"process {os.getpid()} on {socket.gethostname()}")
        return True

    def release(self, recipe: str, stream: str, config_hash: str, seed: int) -> None:
        """Unlock a run, if it is locked here, and delete its files.

        Of two processes that look at this very moment, both could then lock it, one the deleted file and one a new one:
        unless the record is there, which both look for next, the run is made twice, which costs time only.
        """
        path = self._path(recipe, stream, config_hash, seed)
        if path and path in self._held:
            self._release(path)

    def holder(self, recipe: str, stream: str, config_hash: str, seed: int) -> str:
        """Who makes a run that could not be locked, such as "process 12 on host"."""
        path = self._path(recipe, stream, config_hash, seed)
        try:
            return (path and _holder(path).read_text()) or "another process"
        except OSError:
            return "another process"

    def held_by(self, recipe: str, stream: str, config_hash: str, seed: int) -> str | None:
        """Who makes a run, such as "process 12 on host"; None: nobody. Changes no lock."""
        path = self._path(recipe, stream, config_hash, seed)
        if path is None or not path.exists():
            return None
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return self.holder(recipe, stream, config_hash, seed)
        except (OSError, NotImplementedError):
            return None
        lock.release()
        return None

    def _path(self, recipe: str, stream: str, config_hash: str, seed: int) -> Path | None:
        return self.folder and self.folder / f"{recipe}.{stream}.{config_hash}.{seed}.lock"

    def _release(self, path: Path) -> None:
        if lock := self._held.pop(path):
            for file in (_holder(path), path):
                with contextlib.suppress(OSError):  # where open files cannot be deleted, an empty one remains
                    file.unlink()
            lock.release()


def _holder(path: Path) -> Path:
    return path.with_suffix(".running")


def _cannot_lock(path: Path) -> OSError | None:
    """Why a file cannot be locked at all, as on NFS without its lock service: some versions of filelock take that for
    another process's lock.
    """
    try:
        import fcntl
    except ImportError:  # not POSIX
        return None
    try:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in (errno.EAGAIN, errno.EACCES) else error
    return None
