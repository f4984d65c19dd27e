"""Figure 3: what learning one batch does to the loss of another, clean and attacked images crossed.

"adv → clean" is the change of the clean images' loss after the detector has learnt attacked ones. The supplement that
has the paper's details is not public: the number of steps, the optimiser and the images are settings here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import Optimizer

from robustdet.analysis.figures.observation import Grouped, attacked, distinct
from robustdet.analysis.figures.study import Findings, Study, require_losses
from robustdet.analysis.figures.style import Look, caption, looks, panels, styled
from robustdet.errors import InputError, NumericalError
from robustdet.progress import ProgressBar
from robustdet.types import Attack, Batch, Images

KINDS = ("clean", "adv")
PATHS = [("clean", "clean"), ("adv", "clean"), ("clean", "adv"), ("adv", "adv")]  # learnt, watched
BINS = 30
SMALL = 0.02  # the axis is about linear within ± this change, about logarithmic beyond


@dataclass(frozen=True)
class Influence:
    """Change of one watched image's detection loss (per positive default box) after ``learnt`` images were learnt."""

    detector: str
    learnt: str
    watched: str
    image: str
    change: float


class LossChanges:
    """Batches of ``batch_size`` come in pairs: one is learnt for ``steps`` steps, the other is watched.

    Args:
        attack: makes the attacked half of both, on the detector as it was trained.
        optimizer: partial; takes the parameters.
        num_images: in all, half of them learnt (None: the whole split).
    """

    def __init__(
        self,
        attack: Attack,
        optimizer: Callable[..., Optimizer],
        steps: int,
        batch_size: int,
        num_images: int | None,
    ) -> None:
        self.attack = attack
        self.optimizer = optimizer
        self.steps = steps
        self.batch_size = batch_size
        self.num_images = num_images

    def __call__(self, study: Study) -> Findings:
        require_losses(study)
        count = study.count(self.num_images)
        if count < 2 * self.batch_size:
            raise InputError(f"a pair of batches of {self.batch_size} images needs {2 * self.batch_size}, got {count}")
        rows = []
        with ProgressBar("learning one batch, watching another", count * len(study.subjects)) as bar:
            for subject in study.subjects:
                for learnt, watched in pairs(study.first(count), self.batch_size):
                    both = [
                        {"clean": batch.images, "adv": attacked(study, subject, batch, "adv", self.attack)}
                        for batch in (learnt, watched)
                    ]
                    for one, other, image, change in self.influences(subject.model, (learnt, watched), both):
                        if not math.isfinite(change):
                            raise NumericalError(
                                f"{subject.label}: after {self.steps} steps on {one} images its loss of {image!r} has "
                                f"changed by {change}: such steps are too long for it, take a smaller "
                                "analysis.optimizer.lr"
                            )
                        rows.append(Influence(subject.label, one, other, image, change))
                    bar.advance(2 * self.batch_size, 2 * self.batch_size)
        text = f"{self.steps} steps on {self.batch_size} images, watched on {self.batch_size} others; "
        return Findings(draw(rows, text + study.caption(self.num_images)), Influence, rows, notes(rows))

    def influences(
        self, model: Any, batches: tuple[Batch, Batch], images: Sequence[Mapping[str, Images]]
    ) -> Iterator[tuple[str, str, str, float]]:
        """(learnt kind, watched kind, image id, change of its loss) for watched images with objects.

        ``images`` are those of the learnt and of the watched batch by kind. The model is left as it is: a copy learns.
        """
        learnt, watched = batches
        before = {kind: image_losses(model, images[1][kind], watched) for kind in KINDS}
        for one in KINDS:
            pupil = learn(model, images[0][one], learnt, self.optimizer, self.steps)
            for other in KINDS:
                change = image_losses(pupil, images[1][other], watched) - before[other]
                for target, value in zip(watched.targets, change.tolist(), strict=True):
                    if len(target.learnable.labels):
                        yield one, other, target.image_id, value


def pairs(batches: Iterator[Batch], size: int) -> Iterator[tuple[Batch, Batch]]:
    """Consecutive batches of exactly ``size`` images, two by two; what is left over is dropped."""
    parts: list[Batch] = []
    for batch in batches:
        parts += [Batch(i, [t]) for i, t in zip(batch.images.split(1), batch.targets, strict=True)]
        while len(parts) >= 2 * size:
            one, other, parts = _joined(parts[:size]), _joined(parts[size : 2 * size]), parts[2 * size :]
            yield one, other


def _joined(parts: Sequence[Batch]) -> Batch:
    return Batch(torch.cat([part.images for part in parts]), [target for part in parts for target in part.targets])


@torch.no_grad()
def image_losses(model: Any, images: Images, batch: Batch) -> Float[Tensor, " B"]:
    """L_det of each image, per positive default box."""
    losses = model.losses(model(images), model.assign(batch.targets))
    return losses.each_per_positive(losses.total).cpu()


def learn(model: Any, images: Images, batch: Batch, optimizer: Callable[..., Optimizer], steps: int) -> Any:
    """A copy of the model after ``steps`` updates that lower L_det of these images.

    It stays in evaluation mode: batch norms keep their statistics and CFR its mean, so that only weights change.
    """
    pupil = copy.deepcopy(model).eval()
    updates = optimizer(pupil.parameters())
    assignment = pupil.assign(batch.targets)
    with torch.enable_grad():
        for _ in range(steps):
            losses = pupil.losses(pupil(images), assignment)
            updates.zero_grad()
            losses.per_positive(losses.total).backward()
            updates.step()
    return pupil


def notes(rows: Sequence[Influence]) -> list[str]:
    return [
        f"{detector}, {learnt} → {watched}: the loss of {100 * np.mean([row.change > 0 for row in of]):.0f} % of "
        f"{len(of)} images rises, by {np.mean([row.change for row in of]):+.3f} on average"
        for (detector, learnt, watched), of in Grouped(rows, lambda r: (r.detector, r.learnt, r.watched)).items()
    ]


@styled
def draw(rows: Sequence[Influence], text: str) -> Figure:
    """A row for each detector, a column for each way."""
    labels = looks(distinct(row.detector for row in rows))
    figure, axes = panels(len(labels), len(PATHS), (2.6, 1.8), sharex=True, sharey=True)
    reach = max(max(abs(row.change) for row in rows), SMALL)
    for line, (label, look) in zip(axes, labels.items(), strict=True):
        for panel, (learnt, watched) in zip(line, PATHS, strict=True):
            of = [row.change for row in rows if (row.detector, row.learnt, row.watched) == (label, learnt, watched)]
            draw_panel(panel, np.array(of), look, reach)
        line[0].set_ylabel(f"{label}\nimages, %", color=look.colour)
    for panel, (learnt, watched) in zip(axes[0], PATHS, strict=True):
        panel.set_title(f"{learnt} → {watched}")
    for panel in axes[-1]:
        panel.set_xlabel("change of the loss")
    caption(figure, f"learnt → watched; dashed: mean; {text}")
    return figure


def draw_panel(axes: Axes, changes: Float[np.ndarray, " n"], look: Look, reach: float) -> None:
    """A histogram of changes: rises in full colour, falls pale."""
    edges = SMALL * np.sinh(np.linspace(-1, 1, BINS + 1) * np.arcsinh(reach / SMALL))
    edges[0], edges[-1] = -reach, reach  # exactly: rounding must not leave the most extreme image out
    shares = 100 * np.histogram(changes, edges)[0] / len(changes)
    falls = edges[1:] <= 1e-9
    axes.stairs(np.where(falls, shares, 0), edges, fill=True, color=look.colour, alpha=0.35)
    axes.stairs(np.where(falls, 0, shares), edges, fill=True, color=look.colour)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(changes.mean(), color="black", linestyle=(0, (3, 2)), linewidth=1)
    where, side = (0.02, "left") if changes.mean() > 0 else (0.98, "right")
    axes.text(where, 0.95, f"{100 * np.mean(changes > 0):.0f} % rise\nmean {changes.mean():+.3f}", ha=side, va="top",
              fontsize=7.5, transform=axes.transAxes)  # fmt: skip
    axes.set_xscale("asinh", linear_width=SMALL)
    decades = [tick for tick in (0.1, 1, 10, 100) if tick <= reach]
    ticks = [*(-tick for tick in reversed(decades)), 0, *decades]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(-reach * 1.1, reach * 1.1)
