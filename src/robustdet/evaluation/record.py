"""The result of one detector under one attack, with all that is needed to judge it: one JSON file.

Tables and figures are made from these files alone, so reading one checks every key and names what is wrong with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from robustdet.errors import InputError
from robustdet.evaluation.environment import Environment
from robustdet.evaluation.objects import Confusion, ObjectCounts
from robustdet.evaluation.patches import PatchEffect
from robustdet.evaluation.tide import Errors
from robustdet.files import write_text


@dataclass(frozen=True)
class RunInfo:
    """What was evaluated. A suite that is not ``tabled`` (quick) never enters a table of results.

    ``seed`` is the attacks'. ``training_seed`` is that of the run which ended with the checkpoint, ``training_recipe``
    a digest of everything else that decided its weights; runs of one recipe differ in nothing but their seeds. Both are
    None for a checkpoint that no finished run ended with: an earlier state, a pruned run's, one without its run.

    ``checkpoint_sha256`` is that of the checkpoint's file or, of weights without one, of their names and values.

    ``unfinished`` says why the weights are not what training by that experiment's config ends with (empty: they are, or
    nobody knows): a state from the middle, a pruned run's. Tables say so, and take any other weights before these.

    ``kept_for`` says by what the checkpoint was chosen among the states of its training (empty: it was not),
    ``averaged`` of what its weights are an average (empty: they are those of one update), ``speed`` by which profile of
    `conf/speed` it was trained (empty: by ``exact``, or nobody knows).
    """

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
    training_seed: int | None = None
    training_recipe: str | None = None
    unfinished: str = ""
    kept_for: str = ""
    averaged: str = ""
    speed: str = ""


@dataclass(frozen=True)
class Stage:
    """An attack of a cascade: how many ``images`` it was asked for, for how many of all it was ``chosen`` in the end,
    and how many images it showed the detector on the way (``forward_passes``).
    """

    attack: str
    images: int
    chosen: int
    forward_passes: float


@dataclass(frozen=True)
class Record:
    """AP in [0, 1]; a class without objects has none. ``perturbation`` is in 1/255 except for shares.

    Losses are means over these images of the losses per positive default box; ``loss_rose`` is the share of images
    with objects whose loss the attack raised (empty for clean images), "objective" what the attack itself climbs, where
    that could rise. A mean that is not finite is null, and flagged.

    ``objects`` counts what became of single objects, ``errors`` says why AP is below 1, ``confusion`` what is taken for
    an object or for background. ``gradients`` are of the whole loss to the input, at the images
    that the attack made (at the clean ones for "clean"), over images with objects: mean share of the values that are
    zero ("zero") and not finite ("not_finite"), share of the images where all are zero ("zero_images"), where they are
    not the slope of the loss ("wrong_images"), where they are but not for a step of 0.02/255 ("curved_images") and,
    for a detector that routes, where π has none but zeros ("zero_routing_images").

    ``map_8bit`` is what ``map`` becomes when the images are rounded to 8 bits, as saving them would.

    ``image_ap`` is the mean of each image's own AP (area rule, IoU 0.5, classes pooled) over images with objects.

    ``threat`` is where the attack promised to stay, "L∞ 8/255", "patch of 5 %" or "pixel range" (empty for clean
    images). ``patch`` says what a patch did near and far; objects that it hides are left out of ``objects``, ``errors``
    and ``confusion``. ``code`` is a
    digest of the source that made the outcomes: the attack's, and what evaluates it. ``forward_passes`` is the mean
    number of times that an image, at any point of the attack, went through the detector.

    The attack "worst_case" is made from the others, which its ``attack_settings`` name; ``chosen`` says for how many
    images each was taken, ``stages`` what each did where they form a cascade, ``failed`` and ``left_out`` which attacks
    of the suite are missing in it, and why. Its ``image_ap`` is that of each image's lowest, and no choice of one of
    these attacks per image leaves less than ``area_bound`` by the area rule. For any other attack these are empty, but
    that "clean" says what was left out where there is no worst case. Each flag is "name: sentence", see docs/flags.md.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

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
    objects: ObjectCounts | None = None
    gradients: dict[str, float | None] = field(default_factory=dict)
    chosen: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    code: str | None = None
    image_ap: float | None = None
    area_bound: float | None = None
    forward_passes: float | None = None
    stages: list[Stage] = field(default_factory=list)
    threat: str = ""
    map_8bit: float | None = None
    errors: Errors | None = None
    confusion: Confusion | None = None
    patch: PatchEffect | None = None

    @property
    def partial(self) -> bool:
        """Whether the number stands on fewer images than the split has."""
        return self.num_images < self.run.split_size


def write_record(record: Record, folder: Path | str) -> Path:
    """Write ``folder/<attack>.json``, replacing an older one, all or nothing."""
    path = Path(folder) / f"{record.attack}.json"
    text = json.dumps({"partial": record.partial, **asdict(record)}, indent=2, allow_nan=False)
    write_text(path, text + "\n")
    return path


def write_records(records: Iterable[Record], folder: Path | str) -> None:
    """Write them as the only ones in ``folder``: an attack that has left its suite leaves no record beside new ones."""
    written = {write_record(record, folder) for record in records}
    for path in set(Path(folder).glob("*.json")) - written:
        path.unlink()


def read_record(path: Path | str) -> Record:
    """Read one record. Raises InputError naming the file, the first wrong keys and what was expected there.

    Keys that came later have defaults and may be missing: a record once published stays readable.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, nested too deep
        raise InputError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    partial = content.pop("partial", None)
    try:
        record = _RECORD.validate_json(json.dumps(content))  # of Python's objects strictness asks for instances
    except ValidationError as error:
        raise InputError(f"{path}: {_what_is_wrong(error)}") from error
    if partial is not record.partial:
        raise InputError(
            f"{path}: key 'partial' is {partial}, but there are {record.num_images} of {record.run.split_size} images"
        )
    return record


def read_records(folders: Iterable[Path | str]) -> list[Record]:
    """All records anywhere below these folders, in the order of their paths."""
    return [read_record(path) for folder in folders for path in sorted(Path(folder).rglob("records/*.json"))]


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number that a record can have")
    return number


_RECORD = TypeAdapter(Record)
_PROBLEM = {"missing": "is missing", "unexpected_keyword_argument": "is unknown"}


def _what_is_wrong(error: ValidationError, shown: int = 3) -> str:
    """The first wrong keys of a record, and how many more there are."""
    problems = [
        f"key '{'.'.join(map(str, item['loc']))}' "
        + (_PROBLEM.get(item["type"]) or f"{item['msg'].removeprefix('Input ')}, got {item['input']!r}")
        for item in error.errors(include_url=False)
    ]
    more = [f"and {len(problems) - shown} more"] if len(problems) > shown else []
    return "; ".join(problems[:shown] + more)
