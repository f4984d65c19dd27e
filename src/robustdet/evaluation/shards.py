"""A folder that grows by whole files: per-image arrays, one compressed file per batch, readable at any time.

A file appears under its name only when it is complete, so an interrupted run leaves finished batches and nothing else.
Its name is made from the keys it holds, so several processes may write into one folder and repeat each other's images.
A file that was damaged since is thrown away with a warning: what it held is missing, as if it had never been made.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from robustdet.files import trouble_of_place, whole

log = logging.getLogger(__name__)

Row = Mapping[str, np.ndarray]
Parsed = TypeVar("Parsed")


class Shards(Generic[Parsed]):
    """Rows by key. A row maps names to arrays whose first dimension may differ from row to row.

    ``parse`` makes of a row what ``read`` returns; a file with a row that it cannot take is a damaged one. ``fresh``
    throws away what is stored.
    """

    def __init__(self, folder: Path, parse: Callable[[Row], Parsed], fresh: bool = False) -> None:
        self.folder, self.parse = folder, parse
        folder.mkdir(parents=True, exist_ok=True)
        if fresh:
            for file in self._files():
                file.unlink(missing_ok=True)  # another process of this run may have been faster
        self._done = set(self.read())  # all of each file, for damage may be anywhere in it

    @property
    def done(self) -> frozenset[str]:
        """Keys of the rows that are stored."""
        return frozenset(self._done)

    def append(self, keys: Sequence[str], rows: Sequence[Row]) -> None:
        """Store one row per key, all with the same names, all or nothing."""
        columns = {
            f"{kind}/{name}": value
            for name in rows[0]
            for kind, value in (
                ("values", np.concatenate([row[name] for row in rows])),
                ("lengths", np.array([len(row[name]) for row in rows])),
            )
        }
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        with whole(self.folder / f"{name}.npz") as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, keys=np.array(keys), **columns)
        self._done.update(keys)

    def read(self) -> dict[str, Parsed]:
        """All rows by key, those of other processes included, in sorted order."""
        rows: dict[str, Parsed] = {}
        for file in self._files():
            try:
                rows |= {key: self.parse(row) for key, row in _rows(file).items()}
            except FileNotFoundError:  # another process has thrown it away
                continue
            except Exception as error:  # a damaged file can make its reader stumble anywhere
                if isinstance(error, OSError) and trouble_of_place(error):
                    raise
                log.warning("%s is damaged (%s) and thrown away: what it held is made again", file, error)
                file.unlink(missing_ok=True)
        return dict(sorted(rows.items()))

    def discard(self, keys: Set[str]) -> None:
        """The folder with all rows, if they are of ``keys`` alone; else it stays as it is."""
        try:
            if all(keys >= set(_keys(file)) for file in self._files()):
                shutil.rmtree(self.folder)
        except FileNotFoundError:  # another process of this run is at it too
            pass

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.npz"))


def _keys(file: Path) -> list[str]:
    with file.open("rb") as opened, np.load(opened) as shard:
        return list(shard["keys"].tolist())


def _rows(file: Path) -> dict[str, Row]:
    with file.open("rb") as opened, np.load(opened) as shard:
        columns = {name: shard[name] for name in shard.files}
    names = [name.removeprefix("values/") for name in columns if name.startswith("values/")]
    for name in names:
        lengths, values = columns[f"lengths/{name}"], columns[f"values/{name}"]
        if len(lengths) != len(columns["keys"]) or lengths.min(initial=0) < 0 or lengths.sum() != len(values):
            raise ValueError(f"{name} has {len(values)} values, of which {len(lengths)} lengths count {lengths.sum()}")
    parts = {name: np.split(columns[f"values/{name}"], columns[f"lengths/{name}"].cumsum()[:-1]) for name in names}
    keys = columns["keys"].tolist()
    return {key: {name: parts[name][index] for name in names} for index, key in enumerate(keys)}
