"""A universal patch: trained on validation images, kept as a picture, and measured on test images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from robustdet.analysis.figures.observation import Grouped, observe, scores
from robustdet.analysis.figures.study import Findings, Study, Subject
from robustdet.analysis.figures.style import caption, looks, panels, styled
from robustdet.attacks.patch import PlainPatch, Update
from robustdet.attacks.placement import Placement
from robustdet.attacks.threat import Patch, PixelFraction, pixel_fraction
from robustdet.attacks.transformations import Transformations
from robustdet.attacks.universal_patch import UniversalPatch, fit_patch, png_of
from robustdet.attacks.victim import DetectorVictim
from robustdet.errors import InputError
from robustdet.progress import ProgressBar
from robustdet.types import Batch, Objective, PreparedObjective


@dataclass(frozen=True)
class Patched:
    """mAP of a detector, in [0, 1], on clean test images, with a grey patch and with its own universal patch."""

    detector: str
    image: str
    map: float


class FitUniversalPatch:
    """Trains a patch for each detector by `fit_patch` on its first ``train_images`` validation images (None: all).

    It is measured on the first ``num_images`` test images. The two never share an image: a patch that has seen the
    images it is measured on says what a patch for each image says, and less well.
    """

    def __init__(
        self,
        objective: Objective | PreparedObjective,
        threat: Patch,
        placement: Placement,
        epochs: int,
        step_size: PixelFraction,
        update: Update,
        transformations: Transformations | None,
        train_images: int | None,
        num_images: int | None,
    ) -> None:
        self.objective = objective
        self.threat, self.placement, self.transformations = threat, placement, transformations
        self.epochs, self.step_size, self.update = epochs, pixel_fraction(step_size), update
        self.train_images, self.num_images = train_images, num_images

    def __call__(self, study: Study) -> Findings:
        rows, patches, climbs, files = [], {}, {}, {}
        for subject in study.subjects:
            patch, climbs[subject.label] = self._fit(study, subject)
            patches[subject.label] = patch
            name = "patch.png" if len(study.subjects) == 1 else f"patch_{subject.label.replace(' ', '_')}.png"
            files[name] = png_of(patch)
            grey = PlainPatch(self.threat, self.placement)
            own = UniversalPatch.of(patch, self.threat, self.placement, self.transformations)
            alone = _only(study, subject)
            seen = observe(alone, {"grey patch": grey, "universal patch": own}, self.num_images, "universal patch")
            for image, of in Grouped(seen, lambda one: one.attack).items():
                rows.append(Patched(subject.label, image, scores(of, study.metric).headline.mean))
        figure = draw(rows, patches, climbs, study.caption(self.num_images))
        notes = [f"{row.detector}: mAP {100 * row.map:.1f}, {row.image}" for row in rows]
        return Findings(figure, Patched, rows, notes, files)

    def _fit(self, study: Study, subject: Subject) -> tuple[Float[Tensor, "3 S S"], list[float]]:
        def batches() -> Iterator[Batch]:
            left = self.train_images
            for batch in study.validation():
                size = len(batch) if left is None else min(left, len(batch))
                if size:
                    yield Batch(batch.images[:size], batch.targets[:size]).to(study.device)
                left = None if left is None else left - size

        images = sum(len(batch) for batch in study.validation())
        if not images:
            raise InputError(
                "a universal patch is trained on validation images, and there is none: data.val_share=0.1 sets some of "
                "the training images apart"
            )
        asked = images if self.train_images is None else min(images, self.train_images)
        with ProgressBar(f"patch for {subject.label}", asked * self.epochs) as bar:

            def counted() -> Iterator[Batch]:
                for batch in batches():
                    yield batch
                    bar.advance(len(batch), len(batch))

            return fit_patch(
                DetectorVictim(subject.model),
                counted,
                self.objective,
                self.threat,
                self.placement,
                self.epochs,
                self.step_size,
                self.update,
                self.transformations,
                study.seed,
            )


def _only(study: Study, subject: Subject) -> Study:
    return replace(study, subjects=[subject])


@styled
def draw(rows: Sequence[Patched], patches: dict[str, Tensor], climbs: dict[str, list[float]], text: str) -> Figure:
    """A line for each detector: its patch, how training climbed, and AP."""
    figure, axes = panels(len(patches), 3, (2.7, 2.3))
    for line, (label, look) in zip(axes, looks(list(patches)).items(), strict=True):
        picture, climb, bars = line
        picture.imshow(patches[label].permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        picture.set_axis_off()
        picture.set_title(label)
        climb.plot(range(1, len(climbs[label]) + 1), climbs[label], color=look.colour)
        climb.set(xlabel="epoch", ylabel="objective of an image")
        of = [row for row in rows if row.detector == label]
        drawn = bars.barh([row.image for row in of], [100 * row.map for row in of], 0.6, color=look.colour)
        bars.bar_label(drawn, fmt="%.1f", fontsize=8, padding=2)
        bars.invert_yaxis()
        bars.set(xlabel="mAP, %", xlim=(0, 112))
    caption(figure, text)
    return figure
