"""Where and when a run was made: versions, commit, machine, times, peak memory."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "avalanche-lib", "numpy", "reclaim")
MACHINE = ("torch", "cpu_capability", "cpu_model", "threads", "accelerator")
"""Provenance keys that must be equal for two machines to have to agree to the last bit."""


# --- provenance and comparison ---


def provenance(
    started: datetime, ended: datetime, wall_seconds: float, device: str = "cpu", cpu_seconds: float | None = None
) -> dict[str, Any]:
    """Where and when a run was made: versions, commit, machine, times, peak memory.

    None of it is compared. :data:`MACHINE` only selects the rule of :func:`compare`.

    :param started: with a time zone; written as UTC.
    :param device: torch device of the run. Its name is stored under ``accelerator``, which is None on the CPU.
    :param cpu_seconds: processor time of the run: what ``wall_seconds`` would be on an otherwise idle core.
    """
    import torch  # reading records and making leaderboards must not wait for it

    return {
        **versions_of(*PACKAGES),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **dict(zip(("commit", "dirty"), _commit(), strict=True)),
        "cpu_model": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "accelerator": _accelerator(device),
        "threads": torch.get_num_threads(),
        "started": started.astimezone(timezone.utc).isoformat(),
        "ended": ended.astimezone(timezone.utc).isoformat(),
        "wall_seconds": wall_seconds,
        "cpu_seconds": cpu_seconds,
        "peak_memory_bytes": _peak_memory(),
        **(
            {"peak_device_memory_bytes": torch.cuda.max_memory_allocated(device)}
            if torch.device(device).type == "cuda"
            else {}
        ),
    }


def versions_of(*packages: str) -> dict[str, str | None]:
    """The installed version of each package; None of one that is not installed."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    # torch's own version string includes its build (+cpu, +cu126); the metadata of some wheels does not
    if package == "torch":
        import torch

        return str(torch.__version__)
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> tuple[str | None, bool | None]:
    """Commit of the working directory, and whether tracked or new files differ from it;
    (None, None) outside a checkout.

    Records are ignored: otherwise a sweep, which writes them, would mark itself dirty after its first run.
    """
    commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--", ":(top)", ":(top,exclude)leaderboards/records"])
    try:
        head, status = (
            subprocess.run(["git", *c], capture_output=True, text=True, check=True, timeout=30).stdout for c in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    return head.strip(), bool(status.strip())


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _accelerator(device: str) -> str | None:
    import torch

    kind = torch.device(device).type
    if kind == "cpu":
        return None
    return torch.cuda.get_device_name(device) if kind == "cuda" else kind


def _peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None where the system does not report it."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def same_kind_of_machine(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two provenances have the same torch, instruction set, processor, threads and accelerator.
    All keys must be present.
    """
    return all(key in a and key in b and a[key] == b[key] for key in MACHINE)
