"""Square Attack (Andriushchenko et al., ECCV 2020, arXiv 1912.00049), L∞: random search that asks for values alone.

No gradient is used, so that a victim which hides its gradients is attacked as well as any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.attacks.base import BaseAttack, require_count
from robustdet.attacks.objectives import comparable, prepared
from robustdet.attacks.threat import LInf, check_images
from robustdet.errors import InputError
from robustdet.types import Images, Knowledge, Objective, PreparedObjective, Targets, Victim

# Of 10 000 queries, after how many the share of the image that a square covers is halved (section 4.1 of the paper)
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Square(BaseAttack):
    """Proposes vertical stripes of ±ε, then ``queries`` - 1 squares of ±ε, and keeps what raises the objective.

    A square is of one colour, drawn per image as its place is; its side shrinks on the paper's schedule, from a share
    ``p_init`` of the image on. Every image accepts or refuses by itself, against its best so far and the clean image.
    """

    objective: Objective | PreparedObjective
    threat: LInf
    knowledge: Knowledge = "outputs"

    def __init__(
        self, objective: Objective | PreparedObjective, threat: LInf, queries: int = 1000, p_init: float = 0.8
    ) -> None:
        if not 0 < p_init <= 1:
            raise InputError(f"expected a share of the image in (0, 1], got p_init={p_init!r}")
        self.objective = objective
        self.threat = threat
        self.queries = require_count("queries", queries)
        self.p_init = p_init

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        best = images.clone()
        with victim.borrow(targets) as model, torch.no_grad():
            objective = prepared(self.objective, model, images)
            value = comparable(objective(model, best))
            drawn = draws(images, generators, self.queries - 1)
            for query in range(self.queries):
                shift = drawn[0] if query == 0 else squares(images, drawn[1][:, query - 1], self.side(query, images))
                # 2 ε leads from anywhere in the ball to its far side; where there is no square nothing moves
                proposal = self.threat.project(best + 2 * self.threat.epsilon * shift, images)
                proposed = comparable(objective(model, proposal))
                better = proposed > value
                best = torch.where(better.view(-1, 1, 1, 1), proposal, best)
                value = torch.where(better, proposed, value)
        return best

    def side(self, query: int, images: Images) -> int:
        """Of the square of a query, in pixels."""
        height, width = images.shape[-2:]
        halvings = sum(10_000 * query > self.queries * halving for halving in HALVINGS)
        side = round((self.p_init / 2**halvings * height * width) ** 0.5)
        return min(max(side, 1), height, width)


def draws(
    images: Images, generators: Sequence[torch.Generator], count: int
) -> tuple[Float[Tensor, "B 3 1 W"], Float[Tensor, "B count 5"]]:
    """-1 or +1 for every column and channel; what ``count`` squares need, all at once: a query then asks no host."""
    columns = [torch.rand(3, 1, images.shape[-1], generator=generator) for generator in generators]
    numbers = [torch.rand(max(count, 0), 5, generator=generator) for generator in generators]
    return _signs(torch.stack(columns)).to(images), torch.stack(numbers).to(images)


def squares(images: Images, drawn: Float[Tensor, "B 5"], side: int) -> Images:
    """-1 or +1 for each channel inside one random square of an image, 0 outside it. ``drawn`` are from [0, 1)."""
    height, width = images.shape[-2:]
    top, left = (drawn[:, i].mul(size - side + 1).floor().view(-1, 1) for i, size in ((3, height), (4, width)))
    rows, columns = (
        (first <= (place := torch.arange(size, device=images.device))) & (place < first + side)
        for first, size in ((top, height), (left, width))
    )
    return _signs(drawn[:, :3])[:, :, None, None] * (rows[:, None, :, None] & columns[:, None, None, :])


def _signs(drawn: Tensor) -> Tensor:
    return torch.where(drawn < 0.5, -1.0, 1.0)
