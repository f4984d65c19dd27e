from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustdet.data import coco as coco_module
from robustdet.data import voc as voc_module
from robustdet.data.coco import COCO
from robustdet.data.download import Archive, fetch, unpack
from robustdet.data.voc import VOC
from robustdet.errors import InputError


class Server(http.server.BaseHTTPRequestHandler):
    """Serves ``files``, honours ranges where it may, and breaks a transfer off after ``break_after`` bytes, once."""

    files: dict[str, bytes]
    break_after: int | None
    ranges: bool
    requested: list[str | None]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.requested.append(wanted)
        if self.path not in self.files:
            self.send_error(404)
            return
        content = self.files[self.path]
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        sent = content[start:] if self.break_after is None else content[start : start + self.break_after]
        type(self).break_after = None
        self.wfile.write(sent)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[Server], str]]:
    handler = type("Handler", (Server,), {"files": {}, "break_after": None, "ranges": True, "requested": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield handler, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


PIXELS = np.random.default_rng(0).bytes(300_000)


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def offer(server: tuple[type[Server], str], name: str, content: bytes) -> Archive:
    handler, address = server
    handler.files[f"/{name}"] = content
    return Archive(f"{address}/{name}", hashlib.md5(content).hexdigest())


@pytest.mark.parametrize(("name", "pack"), [("a.tar", tar_of), ("a.zip", zip_of)])
def test_an_archive_arrives_is_unpacked_and_removed(server, tmp_path: Path, name: str, pack) -> None:
    fetch(offer(server, name, pack({"photos/1.jpg": PIXELS, "list.txt": b"1\n"})), tmp_path)
    assert (tmp_path / "photos" / "1.jpg").read_bytes() == PIXELS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.txt", "photos"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path: Path, ranges: bool) -> None:
    handler, _ = server
    archive = offer(server, "a.tar", tar_of({"1.jpg": PIXELS}))
    handler.break_after, handler.ranges = 100_000, ranges
    with pytest.raises(ConnectionError, match=r"a\.tar: .*kept in .*a\.tar\.part; the same command goes on from there"):
        fetch(archive, tmp_path)
    assert (tmp_path / "a.tar.part").stat().st_size == 100_000
    assert archive.is_unfinished(tmp_path)
    fetch(archive, tmp_path)
    assert handler.requested == [None, "bytes=100000-"]
    assert (tmp_path / "1.jpg").read_bytes() == PIXELS
    assert not archive.is_unfinished(tmp_path)


def test_a_part_that_was_complete_already(server, tmp_path: Path) -> None:
    content = tar_of({"1.jpg": PIXELS})
    (tmp_path / "a.tar.part").write_bytes(content)
    fetch(offer(server, "a.tar", content), tmp_path)
    assert (tmp_path / "1.jpg").read_bytes() == PIXELS


def test_a_wrong_sum_names_file_and_both_sums_and_nothing_is_lost(server, tmp_path: Path) -> None:
    right = offer(server, "a.tar", tar_of({"1.jpg": PIXELS}))
    wrong = Archive(right.url, "0" * 32)
    with pytest.raises(ValueError, match=rf"a\.tar is not the published archive: .*{right.md5}, expected {wrong.md5}"):
        fetch(wrong, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.wrong"]
    fetch(right, tmp_path)
    assert (tmp_path / "1.jpg").read_bytes() == PIXELS


def test_an_address_without_the_file(server, tmp_path: Path) -> None:
    _, address = server
    with pytest.raises(ConnectionError, match=r"/none\.tar: HTTP Error 404"):
        fetch(Archive(f"{address}/none.tar", ""), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "pack", "error"), [("a.zip", zip_of, ValueError), ("a.tar", tar_of, InputError)])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, name: str, pack, error) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / name).write_bytes(pack({"../evil.txt": b"evil"}))
    with pytest.raises(error, match=r"evil\.txt.*outside"):
        unpack(tmp_path / name, inside)
    assert not (tmp_path / "evil.txt").exists()


def test_voc_is_completed_on_request(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voc_image) -> None:
    archives = {}
    for year, split in [(2007, "trainval"), (2007, "test"), (2012, "trainval")]:
        folder = tmp_path / f"{year}{split}"
        voc_image(folder / "VOCdevkit" / f"VOC{year}", f"{year}_{split}", [("cat", (1, 1, 9, 9), 0)], split)
        files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        archives[year, split] = offer(server, f"{year}{split}.tar", tar_of(files))
    monkeypatch.setattr(voc_module, "VOC_ARCHIVES", archives)
    handler, _ = server
    for _ in range(2):
        source = VOC(tmp_path / "voc", download=True)
        source.prepare()
        assert [a.image_id for a in source.annotations("train") or []] == ["2007_trainval", "2012_trainval"]
        assert [a.image_id for a in source.annotations("test") or []] == ["2007_test"]
    assert len(handler.requested) == 3
    with pytest.raises(ValueError, match=r"VOC2010 trainval is not in .*in no archive"):
        VOC(tmp_path / "voc", download=True, train=[[2010, "trainval"]]).prepare()


def test_coco_is_completed_on_request(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coco_root: Path) -> None:
    archives = {}
    for name in ("annotations", "train2017", "val2017"):
        files = {str(f.relative_to(coco_root)): f.read_bytes() for f in (coco_root / name).iterdir()}
        archives[name] = offer(server, f"{name}.zip", zip_of(files))
    monkeypatch.setattr(coco_module, "COCO_ARCHIVES", archives)
    handler, _ = server
    for _ in range(2):
        source = COCO(tmp_path / "fresh", download=True)
        source.prepare()
        assert len(source.annotations("train") or []) == 3
    assert len(handler.requested) == 3
