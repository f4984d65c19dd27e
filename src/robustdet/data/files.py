"""Files by the names that annotations and lists have for them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path

from robustdet.data.problems import Fault
from robustdet.errors import MissingFileError


def one_form(name: str) -> str:
    """The same letters in one form of Unicode (NFC): macOS, and archives made there, write é as e and an accent."""
    return unicodedata.normalize("NFC", name)


def content_of(file: Path) -> bytes:
    """Raises Fault where the system does not hand it out, MissingFileError where it is not there."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"{file} does not exist") from None
    except OSError as error:
        raise Fault(file, f"cannot be read: {error.strerror}", "a file that this user may read") from error


class Files:
    """The files below a folder that have one of ``suffixes``; those hidden by a leading dot are passed over.

    Names are paths within the folder, with slashes: "day1/im00.jpg", whose stem is "day1/im00".
    """

    def __init__(self, folder: Path, suffixes: Collection[str]) -> None:
        self.folder = folder
        self.suffixes = tuple(suffixes)

    def named(self, name: str) -> list[Path]:
        """Those of this name; where it is none's exactly, in any form of Unicode."""
        found = self._by_name.get(one_form(name), [])
        exact = self.folder / name
        return [exact] if exact in found else found

    def with_stem(self, stem: str) -> list[Path]:
        """Several where names differ in the suffix alone: which is meant is for others to say."""
        return self._by_stem.get(one_form(stem), [])

    @property
    def stems(self) -> Collection[str]:
        return self._by_stem.keys()

    @cached_property
    def _names(self) -> list[str]:
        found = []
        for folder, folders, files in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            within = Path(folder).relative_to(self.folder)
            found += [
                (within / name).as_posix()
                for name in sorted(files)
                if not name.startswith(".") and name.lower().endswith(self.suffixes)
            ]
        return found

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return self._by(lambda name: name)

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return self._by(lambda name: name[: -len(Path(name).suffix)])

    def _by(self, key: Callable[[str], str]) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for name in self._names:
            found.setdefault(one_form(key(name)), []).append(self.folder / name)
        return found
