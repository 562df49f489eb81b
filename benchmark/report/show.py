"""One thing in full, as text."""

from __future__ import annotations

import re

from tabulate import tabulate

from ..config import shown
from ..papers.facts import FACTS, Switch
from ..papers.protocols import Protocol, Uncovered, commands, find_run, protocol_of, run_of
from ..papers.published import cells

# --- as text ---


def in_full(name: str) -> str:
    """All there is to know of a run, or of the run of a cell: the published numbers, the protocol with its sources, how to run it.

    :raises ValueError: there is none of that name.
    """
    run = find_run(name)
    protocol, numbers = protocol_of(run), [cell for cell in cells() if run_of(cell) == run]
    lines = []
    for cell in numbers:
        spread = "" if cell.published.std is None else f" +- {cell.published.std:g}"
        lines.append(
            f"published: {cell.metric} {cell.published.mean:g}{spread}, n = {cell.published.n or 'not known'}; margin {cell.table.margin:g}"
        )
        lines += [f"re-run by others: {cell.metric} {again.value:g} ({again.source})" for again in cell.reruns]
    lines += [] if numbers else ["published: no number here"]
    if isinstance(protocol, Uncovered):
        return "\n".join([run, *lines, f"cannot be run: {protocol.reason}"])
    recipe, stream = protocol.recipe, protocol.stream
    rows = [(key, shown(value), source) for key, (value, source) in protocol.settings.items()]
    return "\n".join(
        [
            f"{run}: {recipe.title}",
            f"{stream.name}: {stream.description}",
            *lines,
            f"the paper's seeds: {', '.join(map(str, protocol.seeds)) or 'not known'}",
            f"recorded as: {recipe.name}",
            "",
            tabulate(rows, headers=("setting", "value", "source"), disable_numparse=True),
            "",
            *(f"note: {remark}" for remark in protocol.remarks),
            *(line for fact in protocol.facts for line in _fact(fact, protocol)),
            "",
            *(f"run it: {command}" for command in commands(run)),
        ]
    )


def _fact(fact: str, protocol: Protocol) -> list[str]:
    """An entry of docs/fidelity.md, and what of it stands in this protocol."""
    entry = next(entry for entry in FACTS if entry.id == fact)
    if not isinstance(entry, Switch):
        return [f"{fact}: {entry.text}"]
    here = [
        f"{key}={shown(value)}"
        for key, (value, source) in protocol.settings.items()
        if re.search(rf"\b{fact}\b", source)
    ]
    return [
        f"{fact}, {entry.title}",
        f"  text: {entry.text}",
        f"  code: {entry.code}",
        f"  here: {', '.join(here) or 'see the notes'}",
    ]
