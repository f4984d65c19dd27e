"""Images under attacks as detectors see them: what most figures are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.analysis.figures.study import Study, Subject, require_losses
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.victim import DetectorVictim
from robustdet.errors import InputError
from robustdet.evaluation.metric import Metric, Scores
from robustdet.progress import ProgressBar
from robustdet.types import Attack, Batch, Detections, Images, Target

CLEAN = "clean"


@dataclass(frozen=True)
class Observation:
    """One image under one attack (or ``clean``), seen by one detector.

    Losses are per positive default box of the image; ``positives`` is how many it has. ``routing`` is π of a detector
    that routes its images.
    """

    detector: str
    attack: str
    target: Target
    detections: Detections
    classification: float
    localization: float
    positives: int
    routing: Float[Tensor, " K"] | None = None


def observe(
    study: Study, attacks: Mapping[str, Attack], count: int | None, title: str, clean: bool = True
) -> list[Observation]:
    """The first ``count`` images, clean (unless told otherwise) and under each attack, seen by each detector.

    A white-box attack is made on the detector that it is shown to.
    """
    require_losses(study)
    if CLEAN in attacks:
        raise InputError(f"analysis.attacks.{CLEAN}: images without an attack are called so, give it another name")
    views = {**({CLEAN: None} if clean else {}), **attacks}
    found: list[Observation] = []
    with ProgressBar(title, study.count(count) * len(views) * len(study.subjects)) as bar:
        for subject in study.subjects:
            for batch in study.first(count):
                for name, attack in views.items():
                    found += _look(subject, name, attacked(study, subject, batch, name, attack), batch)
                    bar.advance(len(batch), len(batch))
    return found


def attacked(study: Study, subject: Subject, batch: Batch, name: str, attack: Attack | None) -> Images:
    """This batch's images under an attack (None: as they are) on this detector; randomness as in an evaluation."""
    if attack is None:
        return batch.images
    generators = image_generators(study.seed, [target.image_id for target in batch.targets], name)
    return attack(DetectorVictim(subject.model), batch.images, batch.targets, generators)


@torch.no_grad()
def _look(subject: Subject, attack: str, images: Images, batch: Batch) -> list[Observation]:
    raw = subject.model(images)
    losses = subject.model.losses(raw, subject.model.assign(batch.targets))
    routing = getattr(raw, "routing", None)
    columns = zip(
        batch.targets,
        subject.model.detect(raw),
        losses.each_per_positive(losses.classification).tolist(),
        losses.each_per_positive(losses.localization).tolist(),
        losses.num_positives.tolist(),
        [None] * len(batch) if routing is None else routing.cpu(),
        strict=True,
    )
    return [
        Observation(subject.label, attack, target, detections.to("cpu"), *numbers)
        for target, detections, *numbers in columns
    ]


def scores(observations: Iterable[Observation], metric: Metric) -> Scores:
    """The data set's own average precision of one detector under one attack."""
    observations = list(observations)
    return metric(
        {seen.target.image_id: seen.detections for seen in observations},
        {seen.target.image_id: seen.target for seen in observations},
    )


Row = TypeVar("Row")
Key = TypeVar("Key")


class Grouped(dict[Key, list[Row]], Generic[Key, Row]):
    """Rows by a key, in the order in which the keys first appear."""

    def __init__(self, rows: Iterable[Row], key: Callable[[Row], Key]) -> None:
        super().__init__()
        for row in rows:
            self.setdefault(key(row), []).append(row)


def distinct(values: Iterable[Key]) -> Sequence[Key]:
    """Each value once, in the order of appearance."""
    return list(dict.fromkeys(values))
