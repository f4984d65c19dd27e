"""Dense Adversary Generation (Xie et al., ICCV 2017, arXiv 1703.08603), a dense detector's places as proposals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from robustdet.attacks.base import BaseAttack, require_attack, require_count
from robustdet.attacks.objectives import needing
from robustdet.attacks.threat import PixelFraction, check_images, pixel_fraction
from robustdet.attacks.victim import input_gradient, require_scores
from robustdet.errors import InputError
from robustdet.types import Attack, BorrowedVictim, Images, Offer, Targets, Threat, Victim

LOOKS = 10  # steps, after which a GPU is asked which images go on


class DAG(BaseAttack):
    """Drives every place (an SSD's default box, an anchor, a location) that finds its object to a random wrong class.

    Targets are the places classified as the object they are assigned to; where classes do not exclude one another,
    background is none of them. Each step adds the gradient of Σ (wrong - true log-probability) over the targets that
    are still right, scaled to a largest value of ``gamma`` (a fraction of the pixel range); an image stops when it has
    no target left, at the latest after ``steps``. The paper bounds nothing but the pixel range; ``threat`` may be a
    ball. It starts at the clean image, or at what the attack ``start`` makes.
    """

    needs: Offer = "scores"
    objective_bound = 0.0  # no target is left

    def __init__(
        self, threat: Threat, steps: int = 150, gamma: PixelFraction = "0.5/255", start: Attack | None = None
    ) -> None:
        self.objective = minus_targets_left
        self.threat = threat
        self.steps = require_count("steps", steps)
        self.gamma = pixel_fraction(gamma)
        self.start = None if start is None else require_attack(start)

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        adversarial = images.clone() if self.start is None else self.start(victim, images, targets, generators)
        with victim.borrow(targets) as model:
            detector = require_scores(model, "DAG")
            true, draws = detector.assignment.labels, draw_for_boxes(detector.assignment.labels, generators)
            running = torch.arange(len(images), device=images.device)
            every = 1 if images.device.type == "cpu" else LOOKS  # in between, what has no target left stands still
            for number in range(1, self.steps + 1):
                current = adversarial[running].requires_grad_()
                raw, label = detector.predict(current), true[running]
                said = raw.log_probabilities
                right = finds_its_object(said, label, raw.exclusive)
                going = right.any(dim=1)
                looks = number % every == 0
                if looks and not going.any():
                    break
                wrong = wrong_label(label, draws[running], first=1, end=said.shape[-1])
                gradient = input_gradient((margin(said, wrong, label) * right).sum(dim=1), current)
                moved = current.detach() + scaled_to(self.gamma, gradient)
                adversarial[running] = self.threat.project(moved, images[running])
                running = running[going] if looks else running
        return adversarial


@needing("scores")
def minus_targets_left(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
    """What DAG answers for: minus the number of places that still find their object."""
    detector = require_scores(model, "DAG")
    raw = detector.predict(images)
    found = finds_its_object(raw.log_probabilities, detector.assignment.labels, raw.exclusive)
    return -found.sum(dim=1).to(images)


def finds_its_object(
    said: Float[Tensor, "B P C_plus_1"], label: Int[Tensor, "B P"], exclusive: bool
) -> Bool[Tensor, "B P"]:
    """Whether a place is classified as the object it is assigned to; ``said`` as `ScoredPredictions` has it."""
    return (label > 0) & (likeliest(said, exclusive) == label)


def likeliest(said: Float[Tensor, "B P C_plus_1"], exclusive: bool) -> Int[Tensor, "B P"]:
    """The label that each place takes for the likeliest; a class, where classes do not exclude one another."""
    first = 0 if exclusive else 1
    return first + said[..., first:].argmax(dim=-1)


def draw_for_boxes(labels: Int[Tensor, "B P"], generators: Sequence[torch.Generator]) -> Int[Tensor, "B P"]:
    """A large random integer for every place, each image's from its own generator."""
    draws = [torch.randint(2**31, row.shape, generator=g) for row, g in zip(labels, generators, strict=True)]
    return torch.stack(draws).to(labels)


def wrong_label(true: Int[Tensor, "B P"], draws: Int[Tensor, "B P"], first: int, end: int) -> Int[Tensor, "B P"]:
    """The label out of first..end-1, but never the true one, that a draw stands for.

    Raises:
        ValueError: there are fewer than two labels to choose from.
    """
    count = end - first
    if count < 2:
        raise InputError(f"DAG needs two labels or more to have a wrong one among them; the victim has {count}")
    return first + (true - first + 1 + draws % (count - 1)) % count


def margin(
    said: Float[Tensor, "B P C_plus_1"], wrong: Int[Tensor, "B P"], true: Int[Tensor, "B P"]
) -> Float[Tensor, "B P"]:
    """Log-probability of the wrong label - that of the true one; of a softmax, the difference of their logits."""
    of_wrong, of_true = (said.gather(-1, labels.unsqueeze(-1)).squeeze(-1) for labels in (wrong, true))
    return of_wrong - of_true


def scaled_to(largest: float, gradient: Images) -> Images:
    """Every image's gradient with ``largest`` as its largest absolute value; a zero gradient stays zero."""
    norm = gradient.flatten(1).abs().amax(dim=1).view(-1, 1, 1, 1)
    return largest * gradient / norm.clamp(min=torch.finfo(gradient.dtype).tiny)
