"""Files as parts of a bounded size, with the hashes that `install.py` compares them by."""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

BLOCK = 2**20  # bytes that are read at once


@dataclass
class Part:
    """A file of the bundle: a whole one, or what lies between two cuts."""

    path: str  # below the bundle's folder, with slashes
    size: int = 0
    sha256: str = ""


@dataclass
class Whole:
    """A file as it is when its parts are joined; ``path`` begins with its kind (wheels, source, weights, data)."""

    path: str
    size: int = 0
    sha256: str = ""
    parts: list[Part] = field(default_factory=list)

    def described(self) -> dict[str, Any]:
        return asdict(self)


class Splitter(io.RawIOBase):
    """A file to write to that lies in ``folder`` as parts of at most ``most`` bytes.

    One part is called as the file is, several have ".001" and so on behind that. After the context ``whole`` says what
    was written.
    """

    def __init__(self, folder: Path, path: str, most: int) -> None:
        self.folder, self.most = folder, most
        self.whole = Whole(path)
        self._hash, self._part_hash = hashlib.sha256(), hashlib.sha256()
        self._file: BinaryIO | None = None

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        self._hash.update(view)
        self.whole.size += len(view)
        written = len(view)
        while len(view):
            part = self._open_part()
            piece = view[: self.most - part.size]
            assert self._file is not None
            self._file.write(piece)
            self._part_hash.update(piece)
            part.size += len(piece)
            view = view[len(piece) :]
        return written

    def _open_part(self) -> Part:
        """The last part while there is room in it, else a new one."""
        parts = self.whole.parts
        if self._file is None or parts[-1].size == self.most:
            self._close_part()
            parts.append(Part(f"{self.whole.path}.{len(parts) + 1:03d}"))
            place = self.folder / parts[-1].path
            place.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._part_hash = place.open("wb"), hashlib.sha256()
        return parts[-1]

    def _close_part(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self.whole.parts[-1].sha256 = self._part_hash.hexdigest()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.whole.parts:
            self._open_part()  # of an empty file
        self._close_part()
        self.whole.sha256 = self._hash.hexdigest()
        if len(self.whole.parts) == 1:
            (only,) = self.whole.parts
            (self.folder / only.path).replace(self.folder / self.whole.path)
            only.path = self.whole.path
        super().__exit__(kind, error, trace)


def split(file: Path, folder: Path, path: str, most: int) -> Whole:
    """A copy of ``file`` in ``folder``, called ``path`` there."""
    with file.open("rb") as source, Splitter(folder, path, most) as target:
        while block := source.read(BLOCK):
            target.write(block)
    return target.whole
