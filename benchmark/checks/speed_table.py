"""The table of docs/performance.md, from what pytest-benchmark saved of test_speed.py: `make speed`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..files import write_text

BEGIN, END = "<!-- make speed: begin -->", "<!-- make speed: end -->"
PAIRS_OF_AN_INTERVAL = 6
"""Of fewer pairs even the range covers the median with less than 95%."""


def table(saved: dict[str, Any]) -> str:
    """Markdown: a row for each measurement, and the machine.

    :param saved: the content of pytest-benchmark's JSON.
    :raises ValueError: it holds no measurement of test_speed.py.
    """
    found = [benchmark["extra_info"] for benchmark in saved["benchmarks"] if "ratio" in benchmark["extra_info"]]
    if not found:
        raise ValueError("no measurement of test_speed.py in the file: make it with `make speed`")
    rows = []
    for item in found:
        lower, upper = item["interval"]
        spread = f"[{lower:.2f}, {upper:.2f}]"
        if item["pairs"] < PAIRS_OF_AN_INTERVAL:
            spread = f"({lower:.2f} to {upper:.2f} in {item['pairs']} pairs)"
        goal = item["goal"]
        verdict = "" if goal is None else "met" if item["ratio"] <= goal else "**missed**"
        rows.append(
            [
                item["what"],
                item["than"],
                f"{item['ratio']:.2f} {spread}",
                "-" if goal is None else f"{goal:.3g}",
                verdict,
            ]
        )
    header = ["this", "compared with", "ratio [95% interval]", "goal", ""]
    machine = saved["machine_info"]
    versions = ", ".join(f"{name} {version}" for name, version in found[0]["versions"].items())
    load = max(item["load"] for item in found)
    where = (
        f"{machine.get('cpu', {}).get('brand_raw', machine.get('processor') or machine['machine'])}, one thread, "
        f"Python {machine['python_version']}, {versions}, {saved['datetime'][:10]}; processes running or waiting per "
        f"core meanwhile: up to {load:.1f}."
    )
    return f"{tabulate(rows, header, tablefmt='pipe', disable_numparse=True)}\n\n{where}"


def put(page: str, text: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """The page with the text between its two marks.

    :raises ValueError: it has not each mark once, in order.
    """
    begin, end = marks
    pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise ValueError(f"the page needs the lines {begin} and {end}, once each")
    return pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", page)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    write_text(target, put(target.read_text("utf-8"), table(json.loads(source.read_text("utf-8")))))
