"""The training method of RobustDet and RobustDet* (ECCV 2022): one step, from the adversarial batch to Eq. 5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from robustdet.defences.adversarial import halves, perturbation_size
from robustdet.defences.cfr import kld_loss, reconstruction_loss
from robustdet.defences.routed import RoutedDetector
from robustdet.defences.routing_diagnostics import routing_diagnostics
from robustdet.defences.schedules import Schedule
from robustdet.defences.standard import detection_parts
from robustdet.defences.triplet_loss import TripletTerms
from robustdet.graphs import WholeGraphs
from robustdet.ranks import gathered_rows, world_size
from robustdet.types import Batch, DetectionLosses, StepOutput

CrossedBranch = Literal["none", "clean", "both"]
Triplets = Callable[[Tensor, Tensor, torch.Generator], TripletTerms]


@dataclass(frozen=True)
class LossWeights:
    """γ of Eq. 2 and β, a, b, c of Eq. 5, as the paper names them (its values: 0.6, 0.75, 3, 0.16, 5)."""

    gamma: float | int
    beta: float | int
    a: float | int
    b: float | int
    c: float | int


class RobustDet(WholeGraphs):
    """Minimises Eq. 5, L = β (L_det + a L_aid) + b L_re + c L_kld, on a clean and an adversarial half.

    Args:
        schedule: where the adversarial half comes from.
        weights: of Eq. 5.
        triplets: L_aid (Eq. 2), made with the margin γ.
        crossed_branch: which images pass a second time, by the other half's routes (its π, detached), and join L_det,
            L_re and L_kld: none; "clean" ones as the adversarial ones are routed, the published code's undocumented
            third branch, by which two thirds of the images in L_det are clean (docs/results.md); "both" halves, so that
            no route is left that never saw an attack.
        triplets_across_processes: where several processes share a batch, L_aid is of the triplets of the whole batch,
            as it is in one process. Their number grows with the cube of the batch; False leaves each to its own.
    """

    graphs = ("consistency",)

    def __init__(
        self,
        schedule: Schedule,
        weights: LossWeights,
        triplets: Callable[..., Triplets],
        crossed_branch: CrossedBranch = "none",
        triplets_across_processes: bool = True,
    ) -> None:
        self.schedule = schedule
        self.weights = weights
        self.triplets = triplets(margin=weights.gamma)
        self.crossed_branch = crossed_branch
        self.triplets_across_processes = triplets_across_processes

    def step(self, model: RoutedDetector, batch: Batch, generator: torch.Generator) -> StepOutput:
        adversarial = self.schedule.next(model, batch, generator)
        source = adversarial.source

        # clean ⊕ adversarial: AID → π → AA-convolutions → CFR's sample z → heads
        raw = model(torch.cat([batch.images, adversarial.images]), generator)
        clean_images = torch.cat([batch.images, source.images])  # what CFR has to reconstruct, for either half
        losses = model.losses(raw, model.assign([*batch.targets, *source.targets]))
        routing, marks = raw.routing, torch.arange(len(raw.routing), device=raw.routing.device) >= len(batch)
        if self.triplets_across_processes:
            routing, marks = gathered_rows(routing), marks.repeat(world_size())
        aid = self.triplets(routing, marks, generator)

        joined, predictions, originals = losses, [raw], [clean_images]
        if self.crossed_branch != "none":
            images, targets, originally = batch.images, [*batch.targets], batch.images
            of_clean, of_attacked = raw.routing[: len(batch)], raw.routing[len(batch) :]
            routes = of_attacked[: len(batch)]
            if self.crossed_branch == "both":
                images, targets = torch.cat([images, adversarial.images]), [*targets, *source.targets]
                originally, routes = clean_images, torch.cat([routes, of_clean])
            # plain layers say of an image what they said before, whatever its route
            plain = getattr(raw, "plain", None)
            known: dict[str, Any] = {} if plain is None else {"plain": plain[: len(images)]}
            crossed = model(images, generator, routes.detach(), **known)
            joined = join(losses, model.losses(crossed, model.assign(targets)))
            predictions, originals = [raw, crossed], [clean_images, originally]

        w = self.weights
        parts = detection_parts(joined) | {"L_aid": aid.loss}
        loss = w.beta * (parts["L_det"] + w.a * parts["L_aid"])
        if raw.mean is not None:
            parts |= self.consistency(predictions, originals)
            loss = loss + w.b * parts["L_re"] + w.c * parts["L_kld"]

        def diagnostics() -> dict[str, Tensor]:
            return halves(losses, len(batch)) | {
                "perturbation": perturbation_size(adversarial),
                "violated_triplets": aid.violated,
                **routing_diagnostics(routing.detach(), marks),
            }

        return StepOutput(loss, parts, diagnostics)

    def consistency(self, predictions: list[Any], originals: list[Tensor]) -> dict[str, Tensor]:
        """L_re (Eq. 3) and L_kld (Eq. 4), means over all images of all branches, whose features were sampled."""
        images = torch.cat([raw.reconstruction for raw in predictions])
        means = torch.cat([raw.mean for raw in predictions])
        log_variances = torch.cat([raw.log_variance for raw in predictions])
        return {
            "L_re": reconstruction_loss(images, torch.cat(originals)),
            "L_kld": kld_loss(means, log_variances),
        }

    def compile(self, *args: Any, **options: Any) -> None:
        super().compile(*args, **options)
        if isinstance(self.triplets, WholeGraphs):
            self.triplets.compile(*args, **options)

    def state_dict(self) -> dict[str, Any]:
        return {"schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state["schedule"])


def join(one: DetectionLosses, other: DetectionLosses) -> DetectionLosses:
    """The losses of two batches as those of one: their positives are counted together."""
    return DetectionLosses(
        torch.cat([one.classification, other.classification]),
        torch.cat([one.localization, other.localization]),
        torch.cat([one.num_positives, other.num_positives]),
    )
