"""Tables, for a terminal and in Markdown."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
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
    least = [len(header) + GAP for header in headers] or [0] * len(natural)  # what tabulate gives a column
    widths = [max(size, floor) for size, floor in zip(natural, least, strict=True)]
    fitted = list(widths)
    while width is not None and sum(fitted) + GAP * (len(fitted) - 1) > width:
        wide = [i for i, floor in enumerate(least) if fitted[i] > max(floor, NARROWEST)]
        if not wide:
            break
        fitted[max(wide, key=fitted.__getitem__)] -= 1
    if fitted != widths:  # not left to tabulate, which takes "1,234" for a number here and fails
        texts = [[_wrapped(cell, size) for cell, size in zip(row, fitted, strict=True)] for row in texts]
    return tabulate(texts, headers, "simple" if headers else "plain", disable_numparse=True)


def _wrapped(cell: str, width: int) -> str:
    return "\n".join(part for line in cell.splitlines() for part in textwrap.wrap(line, width) or [""])


def markdown_table(rows: Sequence[Sequence[Any]], header: Sequence[str], padded: bool = True) -> str:
    """A table in Markdown, without an end of line; nothing where there are no rows.

    :param padded: columns are aligned in the source, too; not for tables with cells of whole sentences.
    """
    if not rows:
        return ""
    if padded:
        return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (header, ["---"] * len(header), *rows))


def size(number: int) -> str:
    """A number with at most three digits and a thousand's letter, such as 6.6 M."""
    for letter, unit in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= unit * 0.9995:  # what rounds to 1000 M is 1 G
            return f"{number / unit:.3g} {letter}"
    return str(number)


def markdown_text(text: str) -> str:
    """Text that Markdown takes for nothing else: no markup, no HTML and no cell of a table."""
    return re.sub(r"([\\`*\[\]<>|&~$])", r"\\\1", text)


def terminal_width() -> int | None:
    """Characters of a line where standard output is a terminal, else ``None``."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
