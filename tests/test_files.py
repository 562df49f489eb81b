"""Files are written whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from reclaim.benchmark.files import asset, replacing, write_text


def test_a_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("old")
    write_text(path, "new: ä\n")
    assert path.read_bytes() == "new: ä\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("old")

    def break_off() -> None:
        with replacing(path) as file:
            file.write(b"half of it")
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_it_is_on_the_disk_before_it_takes_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args)))
    write_text(tmp_path / "page.md", "text")
    assert calls[:2] == ["fsync", "replace"]


def test_a_file_system_that_syncs_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some that are shared: the file is there all the same."""
    fsync = os.fsync

    def of_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files)
    write_text(tmp_path / "page.md", "text")
    assert (tmp_path / "page.md").read_text() == "text"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "nowhere" / "page.md", "text")


def test_assets_ship() -> None:
    assert asset("quickdraw345.npz").is_file()
