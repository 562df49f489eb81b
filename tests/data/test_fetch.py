"""Downloads that go on, checksums, archives that may not leave their folder; and the command line on top of it all."""

from __future__ import annotations

import hashlib
import io
import shlex
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from reclaim.benchmark.cli import data, main
from reclaim.benchmark.data.catalogue import CATALOGUE, Archive, find_dataset
from reclaim.benchmark.data.fetch import download, fetch, unpack

CONTENT = bytes(range(256)) * 20
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves :attr:`content` at every address but /gone."""

    content = CONTENT
    stop_after: int | None = None  # bytes, then the connection breaks
    ranges = True
    content_range = "bytes {start}-{last}/{total}"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.tar"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked[len("bytes=") : -1]) if asked and self.server.ranges else 0
        if self.path == "/gone" or (start and start >= len(self.server.content)):
            self.send_error(404 if self.path == "/gone" else 416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start and self.server.content_range:
            total = len(self.server.content)
            self.send_header(
                "Content-Range", self.server.content_range.format(start=start, last=total - 1, total=total)
            )
        self.end_headers()
        self.wfile.write(body[: self.server.stop_after])

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_broke_off(ranges: bool, server: Server, tmp_path: Path) -> None:
    target, part = tmp_path / "file", tmp_path / "file.part"
    server.stop_after, server.ranges = 1000, ranges
    with pytest.raises(OSError, match=r"interrupted after 1,000 bytes .*run the same command again to resume"):
        download(server.url, target, MD5)
    assert not target.exists()
    assert part.read_bytes() == CONTENT[:1000]
    server.stop_after = None
    received: list[tuple[Path, int, int | None]] = []
    assert download(server.url, target, MD5, lambda *seen: received.append(seen)) == target
    assert server.asked == [None, "bytes=1000-"]
    assert target.read_bytes() == CONTENT
    assert not part.exists()
    assert received == [(target, n, len(CONTENT)) for n in (1000 * ranges, len(CONTENT))]
    download(server.url, target, MD5)
    assert len(server.asked) == 2  # what is there and right is not asked for


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 0-{last}/{total}",
        "bytes 999-{last}/{total}",
        "bytes {start}-2000/{total}",
        "bytes {start}-{last}/{last}",
        "items 1-2/3",
        "",
    ],
)
def test_another_piece_than_was_asked_for_is_not_taken(content_range: str, server: Server, tmp_path: Path) -> None:
    part = tmp_path / "file.part"
    part.write_bytes(CONTENT[:1000])
    server.content_range = content_range
    with pytest.raises(
        ValueError,
        match=r"asked for the bytes from 1000 on and answers with Content-Range .*file.part is unchanged",
    ):
        download(server.url, tmp_path / "file", MD5)
    assert part.read_bytes() == CONTENT[:1000]
    assert not (tmp_path / "file").exists()
    server.content_range = "bytes {start}-{last}/*"
    assert download(server.url, tmp_path / "file", MD5).read_bytes() == CONTENT


def test_a_piece_of_the_rest_is_no_wrong_checksum(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    server.content, server.content_range = CONTENT[:3000], f"bytes {{start}}-{{last}}/{len(CONTENT)}"
    with pytest.raises(
        OSError, match=r"interrupted after 3,000 bytes \(received 3,000 of 5,120 bytes\): run the same command again"
    ):
        download(server.url, tmp_path / "file", MD5)
    server.content = CONTENT
    assert download(server.url, tmp_path / "file", MD5).read_bytes() == CONTENT


def test_a_complete_part_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert download(server.url, tmp_path / "file", MD5).read_bytes() == CONTENT


def test_a_wrong_checksum_and_a_lost_page_are_named_and_nothing_is_deleted(server: Server, tmp_path: Path) -> None:
    for name in ("file.part", "file"):
        with pytest.raises(ValueError, match=rf"{name} has MD5 {MD5} instead of 00: .*move it away"):
            download(server.url, tmp_path / "file", "00")
        assert (tmp_path / "file.part").read_bytes() == CONTENT
        (tmp_path / "file").write_bytes(CONTENT)
    with pytest.raises(OSError, match=r"gone answers 404 .*look for its new address on the data set's page"):
        download(server.url.replace("file.tar", "gone"), tmp_path / "other", MD5)
    with pytest.raises(OSError, match="interrupted after 0 bytes"):
        download("http://127.0.0.1:9/x", tmp_path / "other", MD5)


def tar_of(path: Path, *members: tuple[str, bytes | str]) -> Path:
    """Bytes make a file, a string a symbolic link."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("../evil", b"x", "leads out of"),
        ("a/../../evil", b"x", "leads out of"),
        ("/evil", b"x", "leads out of"),
        ("a\\..\\..\\evil", b"x", "leads out of"),
        ("link", "/etc/passwd", "is a link or a device"),
        ("big", b"x" * 101, "has more than 100 bytes"),
    ],
)
def test_an_archive_that_is_not_safe_is_not_unpacked(
    name: str, content: bytes | str, message: str, tmp_path: Path
) -> None:
    archive = tar_of(tmp_path / "a.tar.gz", ("good", b"fine"), (name, content))
    target = tmp_path / "in" / "side"
    target.mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        unpack(archive, target, 100)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar.gz", "in", "side"]


def test_unpacking_keeps_what_is_there_and_overwrites_nothing(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar.gz", ("d/one", b"1"), ("d/two", b"22"))
    target = tmp_path / "out"
    (target / "d").mkdir(parents=True)
    (target / "d" / "one.part").write_bytes(b"")  # of an unpacking that was interrupted
    unpack(archive, target, 100)
    before = (target / "d" / "one").stat().st_mtime_ns
    unpack(archive, target, 100)
    assert (target / "d" / "one").stat().st_mtime_ns == before
    assert sorted(p.name for p in (target / "d").iterdir()) == ["one", "two"]
    (target / "d" / "two").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"d/two exists with another size than the 2 bytes"):
        unpack(archive, target, 100)
    assert (target / "d" / "two").read_bytes() == b"mine"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "d").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="is a link that leads out of"):
        unpack(archive, tmp_path / "linked", 100)
    archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"cannot be unpacked \(.*move it away, then fetch"):
        unpack(archive, tmp_path / "out2", 100)


def test_fetch_downloads_and_unpacks_into_the_data_sets_folder(server: Server, tmp_path: Path) -> None:
    server.content = tar_of(tmp_path / "x.tar.gz", ("CLRS/river/1.jpg", b"jpeg")).read_bytes()
    md5 = hashlib.md5(server.content).hexdigest()
    plain = Archive(server.url.replace("file.tar", "plain.mat"), md5, "sub", unpacked_limit=0)
    entry = replace(find_dataset("clrs25"), archives=(Archive(server.url, md5), plain))
    root = tmp_path / "root"
    assert fetch(entry, root) == [root / "file.tar", root / "sub" / "plain.mat"]
    assert (root / "CLRS" / "river" / "1.jpg").read_bytes() == b"jpeg"
    assert sorted(p.name for p in (root / "sub").iterdir()) == ["plain.mat"]
    with pytest.raises(
        ValueError, match=r"PACS has no public direct download: get it from https.*ROOT/PACS: art_painting"
    ):
        fetch(find_dataset("pacs"), root)


@pytest.fixture
def reclaim() -> Callable[..., str]:
    def call(*arguments: str, fails: bool = False) -> str:
        result = CliRunner().invoke(main, ["data", *arguments])
        assert (result.exit_code != 0) == fails, result.output
        assert "Traceback" not in result.output
        return result.output

    return call


def test_list(reclaim: Callable[..., str]) -> None:
    table = reclaim("list")
    for name in CATALOGUE:
        assert f"\n{name} " in table
    assert "by hand" in table
    birds = reclaim("show", "cub200")
    for text in ("5994", "split-cub200-10, ", "cub200-1", "CUB_200_2011.tgz", "non-commercial"):
        assert text in birds
    for name, entry in CATALOGUE.items():
        shown = reclaim("show", name)
        for text in (entry.folder, entry.layout, *entry.files, *entry.also, *entry.class_folders, *entry.domains):
            assert text in shown
    assert "did you mean cub200" in reclaim("show", "cub", fails=True)


def lines_of(output: str, kind: str) -> list[str]:
    return [line.removeprefix(f"{kind}: ") for line in output.splitlines() if line.startswith(f"{kind}: ")]


def test_check_prints_fifty_paths_of_a_kind_or_all(reclaim: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "CUB_200_2011"
    folder.mkdir()
    for name in ("image_class_labels", "train_test_split"):
        (folder / f"{name}.txt").write_text("".join(f"{i} 1\n" for i in range(60)))
    (folder / "classes.txt").write_text("1 auk\n")
    (folder / "images.txt").write_text("".join(f"{i} auk/{i:02}.jpg\n" for i in range(60)))
    for i in range(51):
        (folder / f"note{i:02}.md").touch()
    output = reclaim("check", "cub200", "--root", str(tmp_path), fails=True)
    images = [str(folder / "images" / "auk" / f"{i:02}.jpg") for i in range(60)]
    notes = [str(folder / f"note{i:02}.md") for i in range(51)]
    assert lines_of(output, "missing") == [*images[:50], "and 10 more, which --all prints"]
    assert lines_of(output, "extra") == [*notes[:50], "and 1 more, which --all prints"]
    assert "60 missing, 51 extra" in output
    assert f"`reclaim data fetch cub200 --root {tmp_path}` puts back what is missing" in output
    output = reclaim("check", "cub200", "--root", str(tmp_path), "--all", fails=True)
    assert (lines_of(output, "missing"), lines_of(output, "extra")) == (images, notes)
    (folder / "images.txt").unlink()
    (folder / "classes.txt").unlink()
    output = reclaim("check", "cub200", "--root", str(tmp_path), fails=True)
    assert lines_of(output, "missing") == [str(folder / "images.txt"), str(folder / "classes.txt")]
    assert "not counted" in output


def test_what_fetch_leaves_is_not_extra(
    reclaim: Callable[..., str], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {}
    for number, name in enumerate(f"CLRS/{name}/{i}.png" for name in ("port", "river") for i in range(5)):
        image = io.BytesIO()
        Image.new("RGB", (3, 2), (number, 0, 0)).save(image, "png")
        images[name] = image.getvalue()
    server.content = tar_of(tmp_path / "x.tar.gz", *images.items()).read_bytes()
    archive = Archive(server.url, hashlib.md5(server.content).hexdigest())
    small = replace(
        find_dataset("clrs25"),
        classes=2,
        train=8,
        test=2,
        class_folders=("port", "river"),
        per_class=5,
        archives=(archive,),
    )
    monkeypatch.setitem(CATALOGUE, "clrs25", small)
    root = tmp_path / "root"
    root.mkdir()
    begun = len(server.content) // 2
    (root / "file.tar.part").write_bytes(server.content[:begun])
    output = reclaim("fetch", "clrs25", "--root", str(root))
    assert server.asked == [f"bytes={begun}-"]
    bars = [line for line in output.replace("\r", "\n").splitlines() if line.startswith("file.tar:")]
    assert (
        bars[0].split()[1].startswith(f"{round(100 * begun / len(server.content))}%|")
    )  # it goes on, and knows how far it is
    assert bars[-1].split()[1].startswith("100%|")
    (root / "CLRS" / "port" / "0.png.part").touch()  # of an unpacking that was interrupted
    assert reclaim("check", "clrs25", "--root", str(root)).endswith("\ncomplete\n")
    assert "file.tar:" not in reclaim("fetch", "clrs25", "--root", str(root))


def test_a_class_is_counted_as_a_whole_where_parts_have_folders_of_their_own(
    reclaim: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(
        find_dataset("clrs25"), classes=2, train=8, test=2, class_folders=("port", "river"), per_class=5, archives=()
    )
    monkeypatch.setitem(CATALOGUE, "clrs25", small)
    for part, count in (("train", 4), ("test", 1)):
        for number, name in enumerate(("port", "river")):
            folder = tmp_path / "CLRS" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (3, 2), (number, i, count)).save(folder / f"{i}.png")
    assert reclaim("check", "clrs25", "--root", str(tmp_path)).endswith("\ncomplete\n")
    (tmp_path / "CLRS" / "train" / "port" / "0.png").unlink()
    assert "complete" not in reclaim("check", "clrs25", "--root", str(tmp_path), fails=True).splitlines()


def test_check_and_cache(reclaim: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path)
    assert "CLRS, remote sensing scenes is not in" in reclaim("check", "clrs25", "--root", root, fails=True)
    for name in ("river", "port"):
        (tmp_path / "CLRS" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (3, 2), (i, len(name), 0)).save(tmp_path / "CLRS" / name / f"{i}.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "CLRS" / "preview.png")
    output = reclaim("check", "clrs25", "--root", root, fails=True)
    for text in (
        "train: 8 images",
        "8 train images instead of 12,000",
        "2 classes instead of 25",
        "port: 5 images instead of 600",
    ):
        assert text in output
    assert lines_of(output, "extra") == [str(tmp_path / "CLRS" / "preview.png")]
    known = [
        f"{tmp_path / 'CLRS' / name}/" for name in find_dataset("clrs25").class_folders if name not in ("river", "port")
    ]
    assert lines_of(output, "missing") == known
    assert "clrs25 is not as it should be: 23 missing, 1 extra, 5 other problems; nothing was changed\n" in output
    assert "\nnot decoded: add what is missing first\n" in reclaim(
        "check", "clrs25", "--root", root, "--decode", fails=True
    )
    small = replace(find_dataset("clrs25"), classes=2, train=8, test=2, class_folders=("Port", "river"), per_class=5)
    monkeypatch.setitem(CATALOGUE, "clrs25", small)
    assert "\ncomplete; 1 extra, not used" in reclaim("check", "clrs25", "--root", root, "--decode")
    (tmp_path / "CLRS" / "preview.png").unlink()
    assert reclaim("check", "clrs25", "--root", root).endswith("\ncomplete\n")
    assert "decoded" in reclaim("cache", "clrs25", "--root", root)
    assert (tmp_path / "decoded" / "clrs25" / "train" / "pixels.u8").stat().st_size == 8 * 18
    (tmp_path / "CLRS" / "port" / "2.png").write_bytes(b"no image")
    assert "2.png cannot be decoded as an image" in reclaim("check", "clrs25", "--root", root, "--decode", fails=True)
    assert "no public direct download" in reclaim("fetch", "clrs25", "--root", root, fails=True)


def test_the_commands_of_the_page_are_understood() -> None:
    lines = [
        line
        for line in (Path(__file__).parents[2] / "docs" / "data.md").read_text().splitlines()
        if line.startswith("reclaim data ")
    ]
    assert len(lines) == 8
    for line in lines:
        _, _, command, *arguments = shlex.split(line.partition("#")[0])
        data.commands[command].make_context(
            command, arguments
        )  # raises on a missing argument or an unknown option; runs nothing


def test_the_page_shows_the_layouts_that_are_expected() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for entry in CATALOGUE.values():
        assert f"| `{entry.name}` | `{entry.folder}/` | {entry.layout} |\n" in page
