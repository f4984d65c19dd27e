"""What an evaluation found, image by image, kept on disk as it comes: AP is a cheap second step that can be redone.

::

    detections/pgd_cls-1f0c…/settings.json   what made it: checkpoint, attack with all its fields, seed, code, precision
    detections/pgd_cls-1f0c…/*.npz           outcomes, one file per batch
    pictures/pgd_cls-1f0c…/*.npz             its images in 8 bits, while a cascade may still go on from them

The folder's name holds a hash of the settings, and an outcome is found by the content of its image: results of
different settings, code or data can never be mixed, and a run with the same ones goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from robustdet.evaluation.shards import Row, Shards
from robustdet.files import write_text
from robustdet.types import Detections

PICTURES = "pictures"  # the folder's name
TENSORS, EIGHT_BIT = ("boxes", "scores", "labels"), "8bit."


@dataclass(frozen=True)
class Outcome:
    """One image under one attack: its detections, and named numbers such as its loss or its perturbation's L∞.

    ``detections_8bit`` are those after the image is rounded to 8 bits.
    """

    detections: Detections
    measures: dict[str, float]
    detections_8bit: Detections | None = None


class OutcomeStore:
    """Outcomes of one attack by the content of the image (`robustdet.evaluation.content`).

    ``fresh`` throws away those that are stored for these settings.
    """

    def __init__(self, folder: Path, attack: str, settings: Mapping[str, Any], fresh: bool = False) -> None:
        self._shards = Shards(_settings_folder(folder / "detections", attack, settings), _outcome, fresh)
        self._recalled: dict[str, Outcome] | None = None

    @property
    def done(self) -> frozenset[str]:
        return self._shards.done

    def append(self, contents: Sequence[str], outcomes: Sequence[Outcome]) -> None:
        self._shards.append(contents, [_outcome_row(outcome) for outcome in outcomes])
        if self._recalled is not None:
            self._recalled |= dict(zip(contents, outcomes, strict=True))

    def recall(self, contents: Sequence[str]) -> list[Outcome]:
        """Those of these contents, which must be stored. The folder is read once and kept in memory from then on."""
        if self._recalled is None:
            self._recalled = self.read()
        return [self._recalled[content] for content in contents]

    def read(self) -> dict[str, Outcome]:
        return self._shards.read()


class PictureStore:
    """Images of one attack in 8 bits, found as its outcomes are; ``fresh`` as for `OutcomeStore`."""

    def __init__(self, folder: Path, attack: str, settings: Mapping[str, Any], fresh: bool = False) -> None:
        self._shards = Shards(_settings_folder(folder / PICTURES, attack, settings), _picture, fresh)

    def append(self, contents: Sequence[str], pictures: UInt8[Tensor, "B 3 H W"]) -> None:
        self._shards.append(contents, [{"picture": one.numpy()} for one in pictures])

    def read(self) -> dict[str, UInt8[Tensor, "3 H W"]]:
        """All of them by content."""
        return self._shards.read()

    def discard(self, contents: Set[str]) -> None:
        """All, unless there are some of other images than these: an evaluation of more of them may go on from those."""
        self._shards.discard(contents)
        with suppress(OSError):  # there are others
            self._shards.folder.parent.rmdir()


def _picture(row: Row) -> UInt8[Tensor, "3 H W"]:
    return torch.from_numpy(row["picture"])


def _settings_folder(folder: Path, name: str, settings: Mapping[str, Any]) -> Path:
    """The folder of these settings, made with a readable copy of them if it is new."""
    text = json.dumps(settings, indent=2, sort_keys=True)
    own = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not (own / "settings.json").is_file():
        write_text(own / "settings.json", text + "\n")
    return own


def _outcome_row(outcome: Outcome) -> Row:
    return {
        **_detections_row(outcome.detections, ""),
        **({} if outcome.detections_8bit is None else _detections_row(outcome.detections_8bit, EIGHT_BIT)),
        **{f"measure.{name}": np.array([value], np.float64) for name, value in outcome.measures.items()},
    }


def _detections_row(found: Detections, prefix: str) -> Row:
    return {f"{prefix}{name}": _array(getattr(found, name)) for name in TENSORS}


def _detections(row: Row, prefix: str) -> Detections:
    boxes, scores, labels = (torch.from_numpy(row[f"{prefix}{name}"].copy()) for name in TENSORS)
    if boxes.shape != (len(scores), 4) or scores.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"{len(scores)} scores with boxes of {list(boxes.shape)} and labels of {list(labels.shape)}")
    return Detections(boxes, scores, labels)


def _array(values: Tensor) -> np.ndarray:
    """NumPy has no bfloat16, and float32 holds all its values."""
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _outcome(row: Row) -> Outcome:
    measures = {
        name.removeprefix("measure."): float(value[0]) for name, value in row.items() if name.startswith("measure.")
    }
    rounded = _detections(row, EIGHT_BIT) if f"{EIGHT_BIT}{TENSORS[0]}" in row else None
    return Outcome(_detections(row, ""), measures, rounded)
