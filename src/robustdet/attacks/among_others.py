"""The surrogate of AP with a data set's own curves: what a detection is worth among those of all other images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_iou

from robustdet.attacks.ap_surrogate import APSurrogate, judged
from robustdet.attacks.base import BaseAttack
from robustdet.attacks.outranking import IOU, LOST
from robustdet.attacks.threat import LInf
from robustdet.attacks.victim import BorrowedDetector, BorrowedScores, require_scores
from robustdet.types import Detections, Images, Offer, ScoredPredictions, Target, Targets, Victim, moved

# the overlap from which on SSD's suppression drops the lower of two boxes of a class; others' begins at up to 0.6
SUPPRESSED = 0.45
SLOPE = 0.05  # in IoU: how near to finding its object a box may be to count as one that does not
SHARPNESS = 0.5  # τ: the best of the rivals counts most
FAR = -30.0  # a log-probability that nothing needs to be pushed below


@dataclass(frozen=True)
class Curves:
    """The effect on mAP of one more false alarm (``effects[0]``) and of one more hit (``effects[1]``), class by class.

    Row c is of label c + 1; column g of log-odds ``low`` + g · (``high`` - ``low``)/(G - 1) of the score. Between
    columns the curves are straight, beyond them constant; a class that they lack has no effect.
    """

    low: float
    high: float
    effects: Float[Tensor, "2 C G"]

    @cached_property
    def digest(self) -> str:
        """Hex digest of all of it: what was attacked by other curves was attacked by another attack."""
        text = hashlib.sha256(f"{self.low} {self.high} {list(self.effects.shape)}".encode())
        text.update(self.effects.cpu().numpy().tobytes())
        return text.hexdigest()

    def to(self, device: torch.device | str) -> Curves:
        return Curves(self.low, self.high, self.effects.to(device))

    def worth(
        self, log_odds: Float[Tensor, "D"], labels: Int[Tensor, "D"], hits: Bool[Tensor, "D"]
    ) -> Float[Tensor, "D"]:
        """Of hits and, where ``hits`` says no, of false alarms; with gradient to the log-odds."""
        _, classes, columns = self.effects.shape
        place = ((log_odds - self.low) / (self.high - self.low) * (columns - 1)).clamp(0, columns - 1)
        left = place.detach().floor().clamp(max=columns - 2).long()
        row = (labels - 1).clamp(max=classes - 1)
        below, above = (self.effects[hits.long(), row, column].to(log_odds) for column in (left, left + 1))
        return (below + (place - left) * (above - below)) * (labels <= classes)


class AmongOthers(APSurrogate):
    """What an image adds to the AP of its data set, by the curves that :meth:`among` is given; until then a logistic.

    A cascade measures the curves at the worst case that the attacks before have found, and attacks by these in a
    further round over the images (`robustdet.evaluation.cascade`). They are fixed while images are attacked: so each
    image's value depends on that image alone.

    Curves know detections alone, what is left after suppression. ``displacement`` weighs what could be beside them: see
    :func:`displaced`.
    """

    curves: Curves | None = None

    @property
    def needs(self) -> Offer:  # type: ignore[override]
        """Where each box is counts for what could be displaced alone."""
        return "scores" if self.displacement else "detections"

    def __init__(
        self,
        threshold: float | int = 2.0,
        width: float | int = 1.5,
        false_alarms: float | int = 0.01,
        displacement: float | int = 0.0,
    ) -> None:
        super().__init__(threshold, width, false_alarms)
        self.displacement = displacement

    def among(self, curves: Curves) -> None:
        """Attack by these curves from now on."""
        self.curves = curves

    def _beside(
        self, detector: BorrowedDetector, raw: Any, of_images: Sequence[Detections]
    ) -> Float[Tensor, "B"] | float:
        if not self.displacement:
            return 0.0
        return self.displacement * displaced(require_scores(detector, type(self).__name__), raw, of_images)

    def _worth(
        self, log_odds: Float[Tensor, "D"], labels: Int[Tensor, "D"], hits: Bool[Tensor, "D"]
    ) -> Float[Tensor, "D"]:
        if self.curves is None:
            return super()._worth(log_odds, labels, hits)
        if self.curves.effects.device != log_odds.device:
            self.curves = self.curves.to(log_odds.device)
        return self.curves.worth(log_odds, labels, hits)


def displaced(detector: BorrowedScores, raw: ScoredPredictions, of_images: Sequence[Detections]) -> Float[Tensor, "B"]:
    """How near the objects of each image are to being lost to suppression; 0 or below, to be raised.

    -Σ_objects σ₊(r - s), over those that AP asks for. r = τ log Σ p^(1/τ) is of all boxes that find the object: where
    one is lost, the next must not take its place. s = τ log Σ (p σ((0.5 - IoU)/t))^(1/τ) is of the boxes that overlap
    its hit (itself, where nothing hits it) by more than suppression allows, but find it not, or hardly (IoU is that
    with the object; it has a gradient: a box may slip away). Once one of these has the highest score, the object is
    lost.
    """
    log_p = raw.log_probabilities
    countable = [target.learnable for target in detector.targets]
    of_each = ([target.boxes.float() for target in countable], [target.labels for target in countable])
    objects, label = (moved(pad_sequence(each, batch_first=True), log_p.device) for each in of_each)
    asked = zip(of_images, detector.targets, objects, label, strict=True)
    hit, real = torch.stack([_standing(*of_image) for of_image in asked]), label > 0
    index = (label - 1).clamp(min=0).unsqueeze(1).expand(-1, log_p.shape[1], -1)
    log_p = log_p[..., 1:].gather(2, index)
    to_object = detector.overlaps_of(raw, objects).nan_to_num()
    with torch.no_grad():
        finds = to_object >= IOU
        rivals = (detector.overlaps_of(raw, hit).nan_to_num() > SUPPRESSED) & (to_object > 0.05)
    right = _best(log_p, finds)
    wrong = _best(log_p + F.logsigmoid((IOU - to_object) / SLOPE), rivals)
    return -(F.softplus(right - wrong) * real).sum(dim=1)


def _standing(
    found: Detections, target: Target, objects: Float[Tensor, "N 4"], label: Int[Tensor, "N"]
) -> Float[Tensor, "N 4"]:
    """In place of each object its hit, where it has one; labels of 0 fill up."""
    if not len(label) or not len(found.labels):
        return objects
    boxes, same = found.boxes.detach().to(objects), found.labels[:, None] == label
    owner = box_iou(boxes, objects).nan_to_num().masked_fill(~same, -1).argmax(dim=1)
    place = owner.where(judged(found, target)[0], len(label))  # what hits nothing goes to a row that is cut off
    rows = torch.cat([objects, objects.new_zeros(1, 4)])
    return rows.scatter(0, place[:, None].expand(-1, 4), boxes)[:-1]


def _best(log_p: Float[Tensor, "B P N"], among: Bool[Tensor, "B P N"]) -> Float[Tensor, "B N"]:
    """Of each object the highest of these, smoothly; `FAR` where there is none."""
    return (SHARPNESS * (log_p / SHARPNESS).masked_fill(~among, LOST).logsumexp(dim=1)).clamp(min=FAR)


class ChosenSoFar(BaseAttack):
    """The images that the worst case has chosen before this round of a cascade, to go on from; else they stay clean.

    They come in 8 bits. ``images_of`` is given by the cascade.
    """

    images_of: Callable[[Victim, Images, Targets], Images] | None = None

    def __init__(self, threat: LInf) -> None:
        self.threat = threat

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        return images if self.images_of is None else self.images_of(victim, images, targets)


Kind = TypeVar("Kind", AmongOthers, ChosenSoFar)


def held(holder: Any, kind: type[Kind]) -> Iterator[Kind]:
    """Every object of this kind that an attack, or whatever ``holder`` is, holds at any depth."""
    seen, found = set(), [holder]
    while found:
        one = found.pop()
        if id(one) in seen or isinstance(one, type | nn.Module | Tensor):
            continue
        seen.add(id(one))
        if isinstance(one, kind):
            yield one
        elif isinstance(one, Mapping):
            found += one.values()
        elif isinstance(one, list | tuple):
            found += one
        else:
            found += getattr(one, "__dict__", {}).values()
