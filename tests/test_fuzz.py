"""Input that nobody wrote on purpose: success or an error that says what is wrong, never anything else.

``make soak`` sets RECLAIM_SOAK to a number of inputs for each.
"""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from reclaim.benchmark.checks.conform import check
from reclaim.benchmark.config import Config, ConfigError
from reclaim.benchmark.data.fetch import unpack
from reclaim.benchmark.data.images import ImageList
from reclaim.benchmark.papers import published
from reclaim.benchmark.papers.published import PublishedError
from reclaim.benchmark.records.record import RecordError
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.studies import StudyError, read_study
from reclaim.benchmark.training.components import ComponentError
from reclaim.benchmark.training.own import recipe_of
from reclaim.benchmark.training.states import code_in, decode, encode
from small_runs import synthetic_record

fuzzed = settings(
    max_examples=int(os.environ.get("RECLAIM_SOAK", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
OF_TOML = st.booleans() | st.integers() | st.floats() | st.text(max_size=8)  # which has no null
SCALARS = st.none() | OF_TOML


def nested(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars,
        lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=8), of, max_size=3),
        max_leaves=8,
    )


VALUES, TOML_VALUES = nested(SCALARS), nested(OF_TOML)


@fuzzed
@given(key=st.sampled_from(["lr", "epochs", "memory.size", "images.protocol", "alignment.tau", "x", ""]), value=VALUES)
def test_settings(key: str, value: Any) -> None:
    with suppress(ConfigError):
        Config().set([f"{key}={json.dumps(value)}"])


@fuzzed
@given(text=st.text(max_size=30))
def test_settings_of_any_text(text: str) -> None:
    with suppress(ConfigError):
        Config().set([text])


@fuzzed
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_studies_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(StudyError):
        read_study(path)


@fuzzed
@given(
    recipes=st.lists(st.sampled_from(["slca", "linear", "mine.toml", "a:b", "../x", "", "\\n"]), max_size=2),
    streams=st.lists(st.sampled_from(["split-quickdraw-5", "split-cifar100-10", "x"]), max_size=2),
    seeds=st.integers(-1, 3) | st.lists(st.integers(-1, 3), max_size=3),
    key=st.sampled_from(["epochs", "lr", "memory", "x"]),
    value=st.integers(-2, 9) | st.booleans(),
)
def test_studies_of_any_values(
    recipes: list[str], streams: list[str], seeds: Any, key: str, value: Any, tmp_path: Path
) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        f"[[runs]]\nrecipes = {json.dumps(recipes)}\nstreams = {json.dumps(streams)}\nseeds = {json.dumps(seeds)}\n"
        f"settings.{key} = {json.dumps(value)}\n"
    )
    with suppress(StudyError):
        assert all(job.seed >= 0 for job in read_study(path))


@fuzzed
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_recipes_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="mine"):
        recipe_of(path)


@fuzzed
@given(
    key=st.sampled_from(["base", "title", "plugins", "loss", "optimizer", "settings", "grid", "name", "x"]),
    value=VALUES,
)
def test_recipes_with_any_value(key: str, value: Any) -> None:
    with suppress(ValueError, ComponentError):
        recipe_of({"name": "mine", "base": "linear", key: value})


SLCA = published._document("slca.toml")
PLACES = [
    (section, number, key)
    for section in ("paper", "table", "cell")
    for number, entry in enumerate([SLCA[section]] if section == "paper" else SLCA[section][:3])
    for key in (*entry, "x")
]


@fuzzed
@given(place=st.sampled_from(PLACES), value=TOML_VALUES)
def test_papers_with_any_value(place: tuple[str, int, str], value: Any) -> None:
    section, number, key = place
    document = copy.deepcopy(SLCA)
    (document[section] if section == "paper" else document[section][number])[key] = value
    with pytest.MonkeyPatch.context() as patch, suppress(PublishedError):
        patch.setattr(published, "_document", lambda name: document)
        published._cells_of("slca")


@fuzzed
@given(section=st.sampled_from(["paper", "table", "cell", "family", "x"]), value=TOML_VALUES)
def test_papers_with_any_section(section: str, value: Any) -> None:
    document = {**SLCA, section: value}
    with pytest.MonkeyPatch.context() as patch, suppress(PublishedError):
        patch.setattr(published, "_document", lambda name: document)
        published._cells_of("slca")


RECORD = synthetic_record("linear", "split-quickdraw-10", 0)


@fuzzed
@given(key=st.sampled_from(sorted(RECORD.result)), value=VALUES)
def test_records_with_any_value(key: str, value: Any, tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    path = store.write(RECORD) or store.path_of(RECORD.recipe, RECORD.stream, RECORD.config_hash, RECORD.seed)
    document = json.loads(path.read_text())
    document["result"][key] = value
    path.write_text(json.dumps(document))
    with suppress(RecordError):
        store.get(RECORD.recipe, RECORD.stream, RECORD.config_hash, RECORD.seed)


@fuzzed
@given(content=st.binary(max_size=300))
def test_golden_files_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "any.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"any\.npz"):
        check(path)


@fuzzed
@given(names=st.lists(st.text("abcdefgh_", min_size=1, max_size=8), max_size=4), size=st.integers(0, 3))
def test_golden_files_of_any_arrays(names: list[str], size: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "any.npz", **{name: np.zeros(size) for name in names if name != "file"})
    with pytest.raises(ValueError, match=r"any\.npz"):
        check(tmp_path / "any.npz")


@fuzzed
@given(value=st.recursive(SCALARS, lambda of: st.lists(of) | st.tuples(of) | st.dictionaries(st.text(), of)))
def test_states_come_back_as_they_were(value: Any) -> None:
    nodes, storages = encode(value, [], code_in(value))
    assert repr(decode(json.loads(json.dumps(nodes)), storages, [], {})) == repr(value)


# --- archives and images ---

MEMBERS = st.tuples(
    st.lists(st.sampled_from(["a", "b", "..", ".", "", "c:", "d\\e", "\0", "\n", "ä"]), max_size=4).map("/".join),
    st.sampled_from(
        [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
    ),
    st.sampled_from(["a", "../../out", "/out"]),
    st.binary(max_size=20),
)


@fuzzed
@given(
    members=st.lists(MEMBERS, max_size=4), cut=st.none() | st.integers(1, 400), flip=st.none() | st.integers(0, 4000)
)
def test_archives(members: list[Any], cut: int | None, flip: int | None, tmp_path: Path) -> None:
    """Unpacked inside their folder, or refused; never a file beside it, a link, or half a file."""
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, link, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(content[: info.size]))
    data = bytearray(buffer.getvalue())
    if flip is not None:
        data[flip % len(data)] ^= 0x41
    (root / "a.tar").write_bytes(data[:-cut] if cut else data)
    target = root / "deep" / "target"
    target.mkdir(parents=True)
    with suppress(ValueError):
        unpack(root / "a.tar", target, 50)
    found = [path for path in root.rglob("*") if target not in path.parents]
    assert sorted(found) == [root / "a.tar", root / "deep", target]
    inside = [*target.rglob("*")]
    assert not any(path.is_symlink() or path.suffix == ".part" for path in inside)
    assert sum(path.stat().st_size for path in inside if path.is_file()) <= 50
    shutil.rmtree(root)


def _picture(mode: str, format: str) -> bytes:
    """A small picture, turned by its EXIF data where its format has such."""
    buffer, image, exif = io.BytesIO(), Image.new(mode, (5, 3)), Image.Exif()
    exif[0x0112] = 6
    image.save(buffer, format, exif=exif)
    return buffer.getvalue()


PICTURES = [
    _picture(mode, format)
    for format, modes in {
        "PNG": ["1", "L", "LA", "I;16", "P", "RGB", "RGBA"],
        "JPEG": ["L", "RGB", "CMYK", "YCbCr"],
        "TIFF": ["1", "L", "I;16", "F", "I", "CMYK", "RGB", "LAB"],
        "WEBP": ["RGB", "RGBA"],
    }.items()
    for mode in modes
]


@fuzzed
@given(
    picture=st.sampled_from(PICTURES),
    cut=st.none() | st.integers(1, 200),
    flips=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), max_size=4),
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's of damaged EXIF data
def test_images(picture: bytes, cut: int | None, flips: list[tuple[int, int]], tmp_path: Path) -> None:
    data = bytearray(picture[:-cut] if cut else picture)
    for place, bits in flips if data else ():
        data[place % len(data)] ^= bits
    (tmp_path / "any").write_bytes(data)
    images = ImageList(tmp_path, ("any",), (0,))
    with suppress(ValueError):  # which names the file, see test_folders.py
        assert images.load(0).mode == "RGB"
