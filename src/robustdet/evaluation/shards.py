"""A folder that grows by whole files: per-image arrays, one compressed file per batch, readable at any time.

A file appears under its name only when it is complete, so an interrupted run leaves finished batches and nothing else.
Its name is made from the ids it holds, so several processes may write into one folder and repeat each other's images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

Row = Mapping[str, np.ndarray]


class Shards:
    """Rows by image id. A row maps names to arrays whose first dimension may differ from image to image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._done: set[str] = set()
        for file in self._files():
            with np.load(file) as shard:
                self._done.update(shard["image_ids"].tolist())

    @property
    def done(self) -> frozenset[str]:
        """Ids of the images that are stored."""
        return frozenset(self._done)

    def append(self, image_ids: Sequence[str], rows: Sequence[Row]) -> None:
        """Store one row per image, all with the same names, all or nothing."""
        columns = {
            f"{kind}/{name}": value
            for name in rows[0]
            for kind, value in (
                ("values", np.concatenate([row[name] for row in rows])),
                ("lengths", np.array([len(row[name]) for row in rows])),
            )
        }
        name = hashlib.sha256("\n".join(image_ids).encode()).hexdigest()[:16]
        unfinished = self.folder / f"{name}.{os.getpid()}.unfinished"
        with unfinished.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, image_ids=np.array(image_ids), **columns)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.folder / f"{name}.npz")
        self._done.update(image_ids)

    def read(self) -> dict[str, Row]:
        """All rows by image id, those of other processes included, in sorted order."""
        rows: dict[str, Row] = {}
        for file in self._files():
            rows.update(_rows(file))
        return dict(sorted(rows.items()))

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.npz"))


def _rows(file: Path) -> Iterator[tuple[str, Row]]:
    with np.load(file) as shard:
        columns = {name: shard[name] for name in shard.files}
    names = [name.removeprefix("values/") for name in columns if name.startswith("values/")]
    parts = {name: np.split(columns[f"values/{name}"], columns[f"lengths/{name}"].cumsum()[:-1]) for name in names}
    for index, image_id in enumerate(columns["image_ids"].tolist()):
        yield image_id, {name: parts[name][index] for name in names}
