"""Reads what the real wandb wrote offline: LevelDB's log format (blocks of 32 KiB) around protobuf records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER, START = 32768, 7, 7  # START: the file's own mark


def records(file: Path) -> Iterator[Record]:
    data, position, parts = file.read_bytes(), START, b""
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:  # the rest of a block that is too short for a header is padding
            position += BLOCK - position % BLOCK
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def history(file: Path) -> list[dict[str, Any]]:
    """Every logged row."""
    return [_nested(record.history.item) for record in records(file) if record.HasField("history")]


def config(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records(file):
        found |= _nested([*record.config.update, *record.run.config.update])
    return found


def _nested(items: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        *folders, last = item.nested_key or [item.key]
        node = found
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = json.loads(item.value_json)
    return found
