"""Official archives: fetched on request with progress, resumed where a transfer broke off, checked, unpacked safely."""

from __future__ import annotations

import hashlib
import http.client
import logging
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from robustdet.errors import InputError, TransferError
from robustdet.files import trouble_of_place
from robustdet.progress import ProgressBar

log = logging.getLogger(__name__)

CHUNK = 1 << 20
MB = 1e6


@dataclass(frozen=True)
class Archive:
    """A .tar or .zip file and its MD5 sum."""

    url: str
    md5: str

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    def is_unfinished(self, folder: Path) -> bool:
        """Whether an earlier ``fetch`` into ``folder`` was interrupted; it deletes the archive when it is done."""
        return (folder / self.file_name).is_file() or (folder / f"{self.file_name}.part").is_file()


_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
VOC_ARCHIVES = {
    (2007, "trainval"): Archive(f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
    (2007, "test"): Archive(f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
    (2012, "trainval"): Archive(f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"),
}
# COCO publishes no sums; these are what users of the archives have recorded.
_COCO = "http://images.cocodataset.org"
COCO_ARCHIVES = {
    "train2017": Archive(f"{_COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "val2017": Archive(f"{_COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
    "annotations": Archive(f"{_COCO}/annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c"),
}


def fetch(archive: Archive, folder: Path) -> None:
    """Download, check and unpack an archive into ``folder``, then delete it.

    A broken transfer leaves ``<name>.part``, with which the next call goes on; a complete archive that was not yet
    unpacked is not fetched again.

    Raises ConnectionError when the server cannot be reached or breaks off, ValueError when the sum is wrong (the file
    is then kept as ``<name>.wrong``).
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / archive.file_name
    if not file.is_file():
        part = file.with_name(file.name + ".part")
        _transfer(archive.url, part)
        part.replace(file)
    _check(file, archive.md5)
    log.info("Unpacking %s into %s …", file.name, folder)
    unpack(file, folder)
    file.unlink()


def _transfer(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks of the file at ``url``."""
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:  # the server sends the whole file
                done = 0
            length = answer.headers.get("Content-Length")
            total = None if length is None else done + int(length)
            title = f"{'Resuming' if done else 'Downloading'} {part.stem}"
            bar = ProgressBar(title, None if total is None else total / MB, "MB", done / MB)
            with part.open("ab" if done else "wb") as file, bar:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    bar.advance(len(chunk) / MB, len(chunk) / MB)
        size = part.stat().st_size
        if total is not None and size != total:
            raise TransferError(f"the transfer ended after {size} of {total} bytes")
    except http.client.HTTPException as error:
        raise TransferError(f"{url} broke off: {error}. The same command goes on with {part}.") from error
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: the part is the whole file
            return
        raise TransferError(f"{url}: {error}") from error
    except OSError as error:
        if trouble_of_place(error):
            raise
        raise TransferError(
            f"{url}: {error}. What has arrived is kept in {part}; the same command goes on from there."
        ) from error


def _check(file: Path, md5: str) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as opened, ProgressBar(f"Checking {file.name}", file.stat().st_size / MB, "MB") as bar:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
            bar.advance(len(chunk) / MB, len(chunk) / MB)
    if digest.hexdigest() != md5:
        wrong = file.replace(file.with_name(file.name + ".wrong"))
        raise InputError(
            f"{file} is not the published archive: its MD5 sum is {digest.hexdigest()}, expected {md5}. "
            f"It was moved to {wrong}; run the command again to fetch it anew."
        )


def unpack(file: Path, folder: Path) -> None:
    """Unpack a .tar or .zip. Raises InputError for a damaged one, and for a member that would land outside ``folder``,
    which is not written."""
    try:
        _unpack(file, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(f"{file} cannot be unpacked: {error}") from error


def _unpack(file: Path, folder: Path) -> None:
    if file.suffix == ".tar":
        with tarfile.open(file) as tar:
            tar.extractall(folder, filter="data")
        return
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise InputError(f"{file} holds {name!r}, which would be written outside {folder}.")
        with ProgressBar(f"Unpacking {file.name}", len(archive.namelist()), "files") as bar:
            for name in archive.namelist():
                archive.extract(name, folder)
                bar.advance(1, 1)
