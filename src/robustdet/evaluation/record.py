"""The result of one detector under one attack, with all that is needed to judge it: one JSON file.

Tables and figures are made from these files alone, so reading one checks every key and names what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from robustdet.evaluation.environment import Environment


@dataclass(frozen=True)
class RunInfo:
    """What was evaluated. A suite that is not ``tabled`` (quick) never enters a table of results."""

    experiment: str
    method: str
    protocol: str
    suite: str
    tabled: bool
    data: str
    split: str
    split_size: int  # images in the whole split
    seed: int
    checkpoint: str | None
    checkpoint_sha256: str | None


@dataclass(frozen=True)
class Record:
    """AP in [0, 1]; a class without objects has none. ``perturbation`` is in 1/255 except for shares.

    Losses are means over these images of the losses per positive default box; ``loss_rose`` is the share of images with
    objects whose loss the attack raised (empty for clean images). A mean that is not finite is null, and flagged.
    """

    run: RunInfo
    attack: str
    attack_settings: Any
    num_images: int
    ap_rule: str
    map: float
    area_map: float | None
    map_50_95: float | None
    per_class: dict[str, float | None]
    perturbation: dict[str, float | None]
    clean_losses: dict[str, float | None]
    attacked_losses: dict[str, float | None]
    loss_rose: dict[str, float]
    flags: list[str]
    seconds: float
    images_per_second: float
    date: str
    environment: Environment

    @property
    def partial(self) -> bool:
        """Whether the number stands on fewer images than the split has."""
        return self.num_images < self.run.split_size


def write_record(record: Record, folder: Path | str) -> Path:
    """Write ``folder/<attack>.json``, replacing an older one, all or nothing."""
    path = Path(folder) / f"{record.attack}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps({"partial": record.partial, **asdict(record)}, indent=2, allow_nan=False) + "\n")
    unfinished.replace(path)
    return path


def read_record(path: Path | str) -> Record:
    """Read one record. Raises ValueError naming the file, the key and what was expected there."""
    try:
        content = json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    partial = content.pop("partial", None)
    record = _parse(Record, content, f"{path}: ")
    if partial is not record.partial:
        raise ValueError(
            f"{path}: key 'partial' is {partial}, but there are {record.num_images} of {record.run.split_size} images"
        )
    return record


def read_records(folders: Iterable[Path | str]) -> list[Record]:
    """All records anywhere below these folders, in the order of their paths."""
    return [read_record(path) for folder in folders for path in sorted(Path(folder).rglob("records/*.json"))]


def _parse(kind: Any, value: Any, where: str) -> Any:
    """``value`` as the annotated type ``kind``; ``where`` is the file and the keys down to here."""
    if kind is Any:
        return value
    if get_origin(kind) is UnionType:
        return None if value is None else _parse(next(k for k in get_args(kind) if k is not NoneType), value, where)
    if get_origin(kind) is dict and isinstance(value, dict):
        return {key: _parse(get_args(kind)[1], item, f"{where}{key}.") for key, item in value.items()}
    if get_origin(kind) is list and isinstance(value, list):
        return [_parse(get_args(kind)[0], item, f"{where}{index}.") for index, item in enumerate(value)]
    if is_dataclass(kind) and isinstance(value, dict):
        return _parse_dataclass(kind, value, where)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    name = getattr(get_origin(kind) or kind, "__name__", kind)
    expected = "an object" if name == "dict" or is_dataclass(kind) else f"a {name}"
    raise ValueError(f"{_key(where)} should be {expected}, got {value!r}")


def _parse_dataclass(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for name in names:
        if name not in value:
            raise ValueError(f"{_key(where + name + '.')} is missing")
    for name in value:
        if name not in names:
            raise ValueError(f"{_key(where + name + '.')} is unknown")
    return kind(**{name: _parse(hints[name], value[name], f"{where}{name}.") for name in names})


def _key(where: str) -> str:
    file, _, keys = where.rpartition(": ")
    return f"{file}: key {keys.removesuffix('.')!r}"
