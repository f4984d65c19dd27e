"""The AID's online triplet loss (RobustDet, Eq. 2): images of one kind are routed alike, of two kinds apart.

    L_aid = mean over triplets of [ d(π_a, π_p) - d(π_a, π_n) + γ ]₊

where anchor a and positive p are of one kind (clean or adversarial) and the negative n is of the other. The paper sums
over triplets; a mean keeps the weight of this loss independent of the batch size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from robustdet.attacks.randomness import generator_on
from robustdet.graphs import WholeGraphs

Distance: TypeAlias = Callable[[Tensor], Tensor]  # routing [B, K] → distances of all pairs [B, B]


def jensen_shannon(routing: Float[Tensor, "B K"]) -> Float[Tensor, "B B"]:
    """Jensen-Shannon divergence of every pair, natural logarithm: 0 to log 2.

    JS(P, Q) = H((P + Q) / 2) - (H(P) + H(Q)) / 2, the same as the paper's ½ KL(P, M) + ½ KL(Q, M).
    """
    own = entropy(routing)
    return entropy((routing[:, None] + routing[None]) / 2) - (own[:, None] + own[None]) / 2


def entropy(p: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    """-Σ p log p, natural logarithm, where 0 log 0 is 0 and has a finite gradient."""
    return -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum(dim=-1)


def squared_l2(routing: Float[Tensor, "B K"]) -> Float[Tensor, "B B"]:
    """Squared Euclidean distance of every pair of probability vectors: 0 to 2 (what the authors' code uses)."""
    return (routing[:, None] - routing[None]).square().sum(dim=-1)


@dataclass(frozen=True)
class TripletTerms:
    """The loss; the share of triplets that violate the margin; how many triplets there were."""

    loss: Float[Tensor, ""]
    violated: Float[Tensor, ""]
    triplets: Int[Tensor, ""]


class AllTriplets(WholeGraphs):
    """Eq. 2 over every valid triplet of the batch (anchor and positive in both orders).

    Args:
        margin: γ, in units of the distance.
        distance: `jensen_shannon` (the paper) or `squared_l2`.
    """

    graphs = ("terms",)

    def __init__(self, margin: float = 0.6, distance: Distance = jensen_shannon) -> None:
        self.margin = margin
        self.distance = distance

    def __call__(
        self,
        routing: Float[Tensor, "B K"],
        adversarial: Bool[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> TripletTerms:
        """``adversarial`` marks the attacked images; the generator is not needed and may be left out.

        A batch without a triplet (one kind only, or no two of a kind) costs 0, with a gradient of 0.
        """
        return self.terms(routing, adversarial)

    def terms(self, routing: Float[Tensor, "B K"], adversarial: Bool[Tensor, " B"]) -> TripletTerms:
        distances = self.distance(routing)
        same = adversarial[:, None] == adversarial[None]
        positive = same & ~torch.eye(len(routing), dtype=torch.bool, device=routing.device)
        valid = positive[:, :, None] & ~same[:, None, :]  # [anchor, positive, negative]
        return triplet_terms(distances[:, :, None], distances[:, None, :], valid, self.margin)


class RandomNegativeTriplets(WholeGraphs):
    """What the authors' code computes: for every unordered pair of a kind, one random negative (`protocol=authors`).

    The negative is drawn evenly among those of the other kind with m(a, p) - m(a, n) + γ > 0, where the mining
    distance m is 2 JS / K. For K = 4 that is at most 0.35, so with γ = 0.6 every image of the other kind qualifies.

    Args:
        margin: γ, in units of the distance.
        distance: of the loss; the authors use `squared_l2`.
    """

    graphs = ("terms",)

    def __init__(self, margin: float = 0.6, distance: Distance = squared_l2) -> None:
        self.margin = margin
        self.distance = distance

    def __call__(
        self,
        routing: Float[Tensor, "B K"],
        adversarial: Bool[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> TripletTerms:
        """As `AllTriplets`, but a generator must be handed in: ValueError without one."""
        if generator is None:
            raise ValueError("RandomNegativeTriplets draws its negatives: hand in a torch.Generator")
        there, images = generator_on(routing.device, generator), len(routing)
        lottery = torch.rand([images, images, images], generator=there, device=routing.device)
        return self.terms(routing, adversarial, lottery)

    def terms(
        self, routing: Float[Tensor, "B K"], adversarial: Bool[Tensor, " B"], lottery: Float[Tensor, "B B B"]
    ) -> TripletTerms:
        """Of the negatives that qualify for anchor and positive, the one with the highest number in the ``lottery``."""
        same = adversarial[:, None] == adversarial[None]
        pairs = same.triu(diagonal=1)
        mining = 2 * jensen_shannon(routing.detach()) / routing.shape[1]
        qualified = ~same[:, None, :] & (mining[:, :, None] - mining[:, None, :] + self.margin > 0)
        negative = lottery.masked_fill(~qualified, -1).argmax(dim=2)  # [anchor, positive]
        distances = self.distance(routing)
        return triplet_terms(distances, distances.gather(1, negative), pairs & qualified.any(dim=2), self.margin)


def triplet_terms(
    to_positive: Float[Tensor, "..."], to_negative: Float[Tensor, "..."], valid: Bool[Tensor, "..."], margin: float
) -> TripletTerms:
    """Mean hinge over the valid triplets; 0 with a gradient of 0 when there are none. Never waits for the device."""
    hinge = (to_positive - to_negative + margin).clamp(min=0).where(valid, 0)
    count = valid.sum()
    return TripletTerms(hinge.sum() / count.clamp(min=1), (hinge > 0).sum() / count.clamp(min=1), count)
