"""TOG: Adversarial Objectness Gradient attacks with a purpose (Chow et al., IEEE TPS 2020, arXiv 2004.04320).

All three are objectives for any attack. Vanishing and fabrication do not look at the objects of an image, as published.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robustdet.attacks.objectives import needing
from robustdet.attacks.victim import BorrowedScores, require_scores
from robustdet.errors import InputError
from robustdet.types import BorrowedVictim, Images, Objective, Offer


@needing("scores")
def vanishing(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
    """Every place says background: the sum of their log-probabilities of it."""
    return _log_probabilities(require_scores(model, "TOG"), images)[..., 0].sum(dim=1)


@needing("scores")
def fabrication(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
    """No place says background: objects appear where there are none."""
    return -vanishing(model, images)


class Mislabelling:
    """Objects are found where they are, under another name.

    Minus the cross-entropy, over the places (an SSD's default boxes) of an object, to the object's wrong class, minus
    the localisation loss. The wrong class is the one that these find most likely on the clean image, or least likely
    (``wrong``); one class an object, never the background. The published code starts from the victim's detections
    instead of the objects.
    """

    needs: Offer = "scores"

    def __init__(self, wrong: Literal["most_likely", "least_likely"] = "most_likely") -> None:
        if wrong not in ("most_likely", "least_likely"):
            raise InputError(f"expected the wrong class to be 'most_likely' or 'least_likely', got {wrong!r}")
        self.wrong = wrong

    def prepare(self, model: BorrowedVictim, clean: Images) -> Objective:
        detector = require_scores(model, "TOG")
        labels = wrong_labels(_log_probabilities(detector, clean), detector, likely=self.wrong == "most_likely")

        def objective(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
            detector = require_scores(model, "TOG")
            raw = detector.predict(images)
            log_probability = raw.log_probabilities.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
            return (log_probability * (labels > 0)).sum(dim=1) - detector.localization_of(raw)

        return objective


def wrong_labels(
    log_probabilities: Float[Tensor, "B P C_plus_1"], detector: BorrowedScores, likely: bool
) -> Int[Tensor, "B P"]:
    """For every place the wrong class of its object, 0 where it has none.

    Raises:
        ValueError: there are fewer than two classes to choose from.
    """
    if log_probabilities.shape[-1] < 3:
        raise InputError("TOG needs two classes or more to have a wrong one among them; the victim has 1")
    labels, owners = detector.assignment.labels, detector.assignment.objects + 1
    num_objects = detector.most_objects
    place = owners.unsqueeze(-1).expand_as(log_probabilities)
    sums = torch.zeros_like(log_probabilities[:, :1]).repeat(1, num_objects + 1, 1)
    of_object = sums.scatter_add(1, place, log_probabilities).gather(1, place)  # of all its places
    refused = -torch.inf if likely else torch.inf
    of_object = of_object.scatter(-1, labels.unsqueeze(-1), refused)
    of_object[..., 0] = refused
    return (of_object.argmax(dim=-1) if likely else of_object.argmin(dim=-1)) * (labels > 0)


def _log_probabilities(detector: BorrowedScores, images: Images) -> Float[Tensor, "B P C_plus_1"]:
    return detector.predict(images).log_probabilities
