"""Downloads that go on where they stopped, and unpacking that stays within its folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ..files import replacing
from .catalogue import CatalogueEntry

BLOCK = 2**20
TIMEOUT = 60  # seconds without a byte
FILE_LIMIT = 500_000

Progress = Callable[[Path, int, int | None], object]
"""Called with a file, how many of its bytes are here, and of how many in all, where that is known; first before any of them comes."""


def fetch(entry: CatalogueEntry, root: Path | str, progress: Progress | None = None) -> list[Path]:
    """Download and unpack what is public of a data set; what is there already is kept, a download that was cut off goes on.

    :return: the downloaded files.
    :raises ValueError: there is no public direct download, a checksum is wrong, or an archive is not safe to unpack.
    :raises OSError: the network or the disk fails; the same call goes on from there.
    """
    if not entry.archives:
        layout = f"and unpack it into ROOT/{entry.folder}: {entry.layout}"
        raise ValueError(f"{entry.title} has no public direct download: get it by hand from {entry.page} {layout}")
    files = []
    for archive in entry.archives:
        folder = Path(root) / archive.folder
        folder.mkdir(parents=True, exist_ok=True)
        files.append(download(archive.url, folder / archive.file_name, archive.md5, progress))
        if archive.unpacked_limit:
            unpack(files[-1], folder, archive.unpacked_limit)
    return files


def download(url: str, target: Path, md5: str, progress: Progress | None = None) -> Path:
    """``target`` with the content of ``url``, checked; until it is complete it is called ``target.part``, which a later call goes on with.

    :raises ValueError: the checksum is wrong, or the server sends another piece than was asked for; the file is left where it is.
    :raises OSError: no connection, or it broke.
    """
    if target.exists():
        _check_md5(target, md5)
        return target
    part = target.with_name(target.name + ".part")
    begun = start = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urlopen(request, timeout=TIMEOUT) as response:
            length = response.headers.get("Content-Length")
            total = None if length is None else int(length)
            if not start or response.status != 206:
                start = 0
            else:
                total = _goes_on(url, part, start, response.headers.get("Content-Range"), total)
            _receive(response, part, start, total, lambda here: progress(target, here, total) if progress else None)
    except HTTPError as error:
        if not (begun and error.code == 416):  # 416: all bytes are here already
            raise OSError(
                f"{url} answers {error.code} {error.reason}: see the data set's page for where it went"
            ) from error
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        here = part.stat().st_size if part.exists() else 0
        raise OSError(f"{url} broke off after {here:,} bytes ({error}): the same command goes on from there") from error
    _check_md5(part, md5)
    os.replace(part, target)
    return target


def _goes_on(url: str, part: Path, start: int, content_range: str | None, length: int | None) -> int | None:
    """The bytes of the whole file, of which an answer has the piece that goes on from ``start``."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", (content_range or "").strip())
    if (
        not found
        or int(found[1]) != start
        or (length is not None and int(found[2]) - start + 1 != length)
        or (found[3] != "*" and int(found[2]) >= int(found[3]))
    ):
        raise ValueError(
            f"{url} was asked for the bytes from {start} on and answers with Content-Range {content_range or 'missing'}"
            f"{'' if length is None else f' and {length:,} bytes'}: {part} is left as it is; try again later, or move it away to start anew"
        )
    return int(found[3]) if found[3] != "*" else None if length is None else start + length


def _receive(response: IO[bytes], part: Path, start: int, total: int | None, progress: Callable[[int], object]) -> None:
    received = start
    progress(received)
    with part.open("ab" if start else "wb") as file:
        while block := response.read(BLOCK):
            file.write(block)
            received += len(block)
            progress(received)
    if total is not None and received != total:
        raise ConnectionError(f"{received:,} of {total:,} bytes came")


def _check_md5(path: Path, md5: str) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != md5:
        raise ValueError(
            f"{path} has the MD5 {digest.hexdigest()} instead of {md5}: it is damaged or was changed; move it away, then fetch"
        )


def unpack(archive: Path, folder: Path, limit: int) -> None:
    """Unpack a tar archive into ``folder``: regular files and folders only, nothing outside it, no link, nothing overwritten.

    A file that is there already with the right length is kept. Each file has its name only when it is complete.

    :param limit: bytes that may be unpacked.
    :raises ValueError: naming the member that is not safe, before anything is unpacked, or a file that is in the way.
    """
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name:
                    raise ValueError(f"{archive}: {member.name!r} leads out of {folder}: nothing is unpacked")
                if not (member.isfile() or member.isdir()):
                    raise ValueError(f"{archive}: {member.name!r} is a link or a device: nothing is unpacked")
            if len(members) > FILE_LIMIT or sum(member.size for member in members) > limit:
                raise ValueError(
                    f"{archive} holds more than {limit:,} bytes or {FILE_LIMIT:,} files: nothing is unpacked"
                )
            for member in members:
                if member.isfile():
                    _write(tar, member, folder)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{archive} cannot be unpacked ({error}): move it away, then fetch") from error


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    target = folder / member.name
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{target.parent} is a link that leads out of {folder}: move it away")
    if target.is_file() and target.stat().st_size == member.size:
        return
    if target.exists() or target.is_symlink():
        raise ValueError(f"{target} is in the way of a file of {member.size:,} bytes: move it away")
    target.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    assert content is not None  # it is a regular file
    with content, replacing(target, target.with_name(target.name + ".part")) as file:
        shutil.copyfileobj(content, file, BLOCK)
