"""Average precision against the radius ε of the attack: a defence that does not fall to 0 hides its gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from robustdet.analysis.figures.study import Findings, Study
from robustdet.analysis.figures.sweep import SweepPoint, draw, helped_by_more, sweep
from robustdet.attacks.threat import LInf, PixelFraction, pixel_fraction
from robustdet.types import Attack


class EpsilonSweep:
    """``attacks`` are partial: each is completed with its threat and with steps of ``step_share`` times ε.

    ``epsilons`` are fractions of the pixel range such as "8/255". ε = 0 is always shown (clean).
    """

    def __init__(
        self,
        attacks: Mapping[str, Callable[..., Attack]],
        epsilons: Sequence[PixelFraction],
        step_share: float | int,
        num_images: int | None,
    ) -> None:
        self.attacks = attacks
        self.epsilons = [pixel_fraction(epsilon) for epsilon in epsilons]
        self.step_share = step_share
        self.num_images = num_images

    def __call__(self, study: Study) -> Findings:
        attacks = {
            name: {
                round(255 * epsilon, 3): make(threat=LInf(epsilon), step_size=self.step_share * epsilon)
                for epsilon in self.epsilons
            }
            for name, make in self.attacks.items()
        }
        rows = sweep(study, attacks, self.num_images, "radius of the attack")
        figure = draw(rows, "ε, 1/255", study.caption(self.num_images), even=False)
        return Findings(figure, SweepPoint, rows, helped_by_more(rows, "ε"))
