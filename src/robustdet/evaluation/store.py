"""What an evaluation found, image by image, kept on disk as it comes: AP is a cheap second step that can be redone.

::

    detections/pgd_cls-1f0c…/settings.json   what was evaluated: checkpoint, attack with all its fields, data, seed
    detections/pgd_cls-1f0c…/*.npz           outcomes, one file per batch
    targets-9ab2…/…                          the objects of the images

The folder's name holds a hash of the settings, so results of different settings can never be mixed, and a run with the
same settings goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustdet.evaluation.shards import Row, Shards
from robustdet.types import Detections, Target


@dataclass(frozen=True)
class Outcome:
    """One image under one attack: its detections, and named numbers such as its loss or its perturbation's L∞."""

    detections: Detections
    measures: dict[str, float]


class OutcomeStore:
    """Outcomes of one attack by image id."""

    def __init__(self, folder: Path, attack: str, settings: Mapping[str, Any]) -> None:
        self._shards = Shards(_settings_folder(folder / "detections", attack, settings))

    @property
    def done(self) -> frozenset[str]:
        return self._shards.done

    def append(self, image_ids: Sequence[str], outcomes: Sequence[Outcome]) -> None:
        self._shards.append(image_ids, [_outcome_row(outcome) for outcome in outcomes])

    def read(self) -> dict[str, Outcome]:
        return {image_id: _outcome(row) for image_id, row in self._shards.read().items()}


class TargetStore:
    """Targets of a split by image id, in the frame that detections come in."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._shards = Shards(_settings_folder(folder, "targets", settings))

    def append(self, targets: Sequence[Target]) -> None:
        """Store those of ``targets`` that are not stored yet."""
        new = [target for target in targets if target.image_id not in self._shards.done]
        if new:
            self._shards.append([target.image_id for target in new], [_target_row(target) for target in new])

    def read(self) -> dict[str, Target]:
        return {image_id: _target(image_id, row) for image_id, row in self._shards.read().items()}


def _settings_folder(folder: Path, name: str, settings: Mapping[str, Any]) -> Path:
    """The folder of these settings, made with a readable copy of them if it is new."""
    text = json.dumps(settings, indent=2, sort_keys=True)
    own = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    own.mkdir(parents=True, exist_ok=True)
    (own / "settings.json").write_text(text + "\n")
    return own


def _outcome_row(outcome: Outcome) -> Row:
    found = outcome.detections
    return {
        "boxes": found.boxes.detach().cpu().numpy(),
        "scores": found.scores.detach().cpu().numpy(),
        "labels": found.labels.cpu().numpy(),
        **{f"measure.{name}": np.array([value], np.float64) for name, value in outcome.measures.items()},
    }


def _outcome(row: Row) -> Outcome:
    found = Detections(*(torch.from_numpy(row[name].copy()) for name in ("boxes", "scores", "labels")))
    measures = {
        name.removeprefix("measure."): float(value[0]) for name, value in row.items() if name.startswith("measure.")
    }
    return Outcome(found, measures)


TENSORS = ("boxes", "labels", "difficult", "crowd")


def _target_row(target: Target) -> Row:
    tensors = {name: getattr(target, name).cpu().numpy() for name in TENSORS}
    return tensors | {"original_size": np.array(target.original_size)}


def _target(image_id: str, row: Row) -> Target:
    height, width = row["original_size"].tolist()
    tensors = {name: torch.from_numpy(row[name].copy()) for name in TENSORS}
    return Target(**tensors, image_id=image_id, original_size=(height, width))
