"""One header a paper: the [paper] section at the top of its TOML file in this folder."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
"""Of the papers' files."""


class PublishedError(ValueError):
    """A file in papers/ says something that cannot be; the message names file, entry and remedy."""


@dataclass(frozen=True)
class Paper:
    """A paper.

    :ivar key: first part of the ids of its cells, claims and runs.
    :ivar name: the method's, for headings.
    :ivar metric: the one that the paper reports, a name of :data:`~reclaim.benchmark.records.metrics.METRICS`.
    :ivar seeds: those of the paper's runs, where it or its code says.
    """

    key: str
    name: str
    title: str
    venue: str
    arxiv: str
    metric: str
    seeds: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """Such as "SLCA (ICCV 2023, arXiv 2303.05118)"."""
        where = "" if self.venue.startswith("arXiv") else f"{self.venue}, "
        return f"{self.name} ({where}arXiv {self.arxiv})"


@functools.cache
def papers() -> dict[str, Paper]:
    """Key -> header of every paper that has a file here, in the order of their arXiv numbers.

    :raises PublishedError: a file is not TOML, or a header is incomplete.
    """
    found = []
    for path in FOLDER.glob("*.toml"):
        try:
            top, _, _ = path.read_text(encoding="utf-8").partition("\n[[")  # the header comes first; the rest is long
            header = tomllib.loads(top).get("paper")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise PublishedError(f"papers/{path.name} is not TOML: {error}") from error
        if header is None:
            continue
        required = ("key", "name", "title", "venue", "arxiv", "metric")
        if missing := [key for key in required if key not in header]:
            raise PublishedError(f"papers/{path.name}, paper: {', '.join(missing)} missing: add it")
        found.append(Paper(**{key: header[key] for key in required}, seeds=tuple(header.get("seeds", ()))))
    return {paper.key: paper for paper in sorted(found, key=lambda paper: paper.arxiv)}
