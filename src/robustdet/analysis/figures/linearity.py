"""How far the loss's gradient holds: what it foretells of a step against what the step does, by the step's size.

Attacks follow the gradient in steps. Where it holds for less than a step, they climb badly, and what they leave may be
no robustness. (Moosavi-Dezfooli et al. 2019 and Qin et al. 2019 train for the opposite, a loss that is linear.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from robustdet.analysis.figures.observation import CLEAN, Grouped, attacked, distinct
from robustdet.analysis.figures.study import Findings, Study, Subject, require_losses
from robustdet.analysis.figures.style import caption, legend, looks, panels, styled
from robustdet.attacks.threat import PixelFraction, pixel_fraction
from robustdet.attacks.victim import DetectorVictim, input_gradient
from robustdet.errors import InputError
from robustdet.evaluation.finite_differences import AGREEMENT
from robustdet.exact import exact
from robustdet.progress import ProgressBar
from robustdet.types import Attack, Batch, Images

ATTACKED = "attacked"


@dataclass(frozen=True)
class Deviation:
    """Of one image, clean or attacked: the relative ``error``, in [0, 2], of what the gradient of its whole loss
    foretells of a step of ``step``/255 up its sign. At 1 the loss stays as it is, or changes by far more; NaN where the
    loss or its gradient is not finite.
    """

    detector: str
    images: str
    image: str
    step: float
    error: float


class Linearity:
    """At those of the first ``num_images`` images (None: all) that have objects, clean and under ``attack``, for every
    size of step, fractions of the pixel range such as "2/255".

    Raises:
        ValueError: there is no step, one is 0 or is there twice, or none of the images has an object.
    """

    def __init__(self, attack: Attack, step_sizes: Sequence[PixelFraction], num_images: int | None) -> None:
        steps = sorted(pixel_fraction(size) for size in step_sizes)
        shown = [_in_levels(step) for step in steps]
        if not steps or shown[0] == 0 or len({*shown}) < len(shown):
            raise InputError(
                f"analysis.step_sizes is {list(step_sizes)}: it has to name one step or more, each once and above 0"
            )
        self.attack = attack
        self.step_sizes = steps
        self.num_images = num_images

    def __call__(self, study: Study) -> Findings:
        require_losses(study)
        rows: list[Deviation] = []
        with ProgressBar("how far gradients hold", 2 * study.count(self.num_images) * len(study.subjects)) as bar:
            for subject in study.subjects:
                for whole in study.first(self.num_images):
                    batch = without_empty(whole)
                    for name, attack in ((CLEAN, None), (ATTACKED, self.attack)):
                        if len(batch):
                            images = attacked(study, subject, batch, name, attack)
                            rows += deviations(subject, name, batch, images, self.step_sizes)
                        bar.advance(len(whole), len(whole))
        if not rows:
            raise InputError(f"analysis.num_images: none of the {study.caption(self.num_images)} has an object")
        return Findings(draw(rows, study.caption(self.num_images)), Deviation, rows, notes(rows))


def without_empty(batch: Batch) -> Batch:
    """The images that have objects."""
    kept = [place for place, target in enumerate(batch.targets) if len(target.learnable.labels)]
    return Batch(batch.images[kept], [batch.targets[place] for place in kept])


def deviations(
    subject: Subject, name: str, batch: Batch, images: Images, step_sizes: Sequence[float]
) -> list[Deviation]:
    """Of every image [B, 3, H, W] of the batch and of every step, a fraction of the pixel range; clamped to [0, 1] as
    attacks are.
    """
    with DetectorVictim(subject.model).borrow(batch.targets) as model:
        pixels = images.detach().requires_grad_()
        before = model.losses(pixels).total
        gradient = exact(input_gradient(before, pixels))
        errors = []
        for step in step_sizes:
            there = (images.detach() + step * gradient.sign().to(images.dtype)).clamp(0, 1)
            with torch.no_grad():
                found = exact(model.losses(there).total) - exact(before)
            foretold = (gradient * (exact(there) - exact(images))).flatten(1).sum(dim=1)
            size = torch.maximum(found.abs(), foretold.abs()).clamp(min=torch.finfo(torch.float64).tiny)
            errors.append(((found - foretold).abs() / size).tolist())
    return [
        Deviation(subject.label, name, target.image_id, _in_levels(step), of_step[place])
        for place, target in enumerate(batch.targets)
        for step, of_step in zip(step_sizes, errors, strict=True)
    ]


def _in_levels(step: float) -> float:
    return round(255 * step, 6)


def notes(rows: Sequence[Deviation]) -> list[str]:
    """Up to which step half of the images or more agree; an image that is not finite does not."""
    found = []
    for (detector, images), of in Grouped(rows, lambda row: (row.detector, row.images)).items():
        held = 0.0
        for step, errors in sorted(Grouped(of, lambda row: row.step).items()):
            if np.mean([row.error <= AGREEMENT for row in errors]) < 0.5:
                break
            held = step
        holds = f"holds for steps up to {held:g}/255" if held else f"does not hold for {of[0].step:g}/255"
        found.append(f"{detector}, {images} images: the gradient {holds} (half of the images, within {AGREEMENT:.0%})")
        lost = len({row.image for row in of if np.isnan(row.error)})
        if lost:
            found.append(f"{detector}, {images} images: the loss or its gradient is not finite in {lost} of them")
    return found


@styled
def draw(rows: Sequence[Deviation], text: str) -> Figure:
    """A panel for clean and one for attacked images: the median over images, and the quartiles as a band."""
    labels = looks(distinct(row.detector for row in rows))
    figure, axes = panels(1, 2, (3.4, 2.9), sharey=True)
    for panel, name in zip(axes[0], (CLEAN, ATTACKED), strict=True):
        for detector, look in labels.items():
            by_step = Grouped(
                (row for row in rows if (row.detector, row.images) == (detector, name)), lambda row: row.step
            )
            steps = sorted(by_step)
            low, middle, high = np.nanquantile(
                [[row.error for row in by_step[step]] for step in steps], (0.25, 0.5, 0.75), 1
            )
            panel.fill_between(steps, low, high, color=look.colour, alpha=0.15, linewidth=0)
            panel.plot(steps, middle, color=look.colour, linestyle=look.line, marker=look.marker)
        panel.axhline(1, color="black", linewidth=0.8, linestyle=(0, (3, 2)))
        panel.set_xscale("log")
        shown = sorted({row.step for row in rows})
        panel.set_xticks(shown, [f"{step:g}" for step in shown], minor=False)
        panel.minorticks_off()
        panel.set_xlabel("step, 1/255")
        panel.set_title(f"{name} images")
    axes[0, 0].set_ylim(bottom=0)  # of both, and of all that is in them
    axes[0, 0].set_ylabel("error of what the gradient foretells")
    legend(figure, labels, marker=True)
    caption(figure, f"median and quartiles; {text}")
    return figure
