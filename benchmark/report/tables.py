"""Tables for a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

GAP = 2  # between two columns
NARROWEST = 8


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str] = (), width: int | None = None) -> str:
    """Rows under their headers, in columns.

    :param width: characters of a line; the widest columns are wrapped to fit. ``None``: lines of any length, for files
        and ``grep``.
    """
    texts = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    columns = list(zip(*texts, strict=True))
    natural = [max(map(len, (line for cell in column for line in cell.splitlines() or [""]))) for column in columns]
    widths = [max(size, len(header)) for size, header in zip(natural, headers or [""] * len(natural), strict=True)]
    fitted = list(widths)
    while width is not None and sum(fitted) + GAP * (len(fitted) - 1) > width and max(fitted) > NARROWEST:
        fitted[fitted.index(max(fitted))] -= 1
    style = "simple" if headers else "plain"
    return tabulate(texts, headers, style, disable_numparse=True, maxcolwidths=fitted if fitted != widths else None)


def terminal_width() -> int | None:
    """Characters of a line where standard output is a terminal, else ``None``."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
