"""Figure 7a, b: average precision against the number of steps of PGD."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from robustdet.analysis.figures.study import Findings, Study
from robustdet.analysis.figures.sweep import SweepPoint, draw, helped_by_more, sweep
from robustdet.types import Attack


class PGDSteps:
    """``attacks`` are partial: each is completed with the ``steps`` it takes. 0 steps are always shown (clean)."""

    def __init__(
        self, attacks: Mapping[str, Callable[..., Attack]], steps: Sequence[int], num_images: int | None
    ) -> None:
        self.attacks = attacks
        self.steps = steps
        self.num_images = num_images

    def __call__(self, study: Study) -> Findings:
        attacks = {name: {float(n): make(steps=n) for n in self.steps} for name, make in self.attacks.items()}
        rows = sweep(study, attacks, self.num_images, "steps of PGD")
        figure = draw(rows, "steps of PGD", study.caption(self.num_images), even=True)
        return Findings(figure, SweepPoint, rows, helped_by_more(rows, "steps"))
