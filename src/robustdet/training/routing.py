"""What discriminator and kernels have learnt, watched while a routed detector trains; never optimised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.attacks.base import require_stepwise
from robustdet.attacks.threat import PixelFraction, pixel_fraction
from robustdet.attacks.victim import DetectorVictim
from robustdet.defences.routed import RoutedDetector
from robustdet.defences.routing_diagnostics import aid_separation, kernel_divergence
from robustdet.ranks import gathered_objects, share
from robustdet.types import Attack, Batch, StepwiseAttack


class RoutingDiagnostics(pl.Callback):
    """At every validation of a `RoutedDetector`: logs how far kernels have grown apart and what the AID tells apart.

    ``routing/kernel_divergence``, and for each size ``routing/aid_separation_step_<size in 1/255>``: between the first
    ``images`` validation images and the same under ``attack`` with steps of that size. A discriminator that knows one
    step size alone has learnt a signature, not attacks. Without an attack only the former.
    """

    def __init__(self, attack: Attack | None, steps: int, step_sizes: Sequence[PixelFraction], images: int) -> None:
        self.attack, self.steps, self.images = attack, steps, images
        self.step_sizes = {f"{255 * pixel_fraction(size):g}": pixel_fraction(size) for size in step_sizes}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raises TypeError where the attack cannot be asked for single steps."""
        watched = self.attack is not None and isinstance(pl_module.model, RoutedDetector)
        self.stepwise = require_stepwise(self.attack, "the callback `routing`") if watched else None

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.room = share(self.images)
        self.routing: dict[str, list[Tensor]] = {kind: [] for kind in ("clean", *self.step_sizes)}

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        model = pl_module.model
        batch = Batch(batch.images[: self.room], batch.targets[: self.room])
        if self.stepwise is None or not isinstance(model, RoutedDetector) or not len(batch):
            return
        self.room -= len(batch)
        self.routing["clean"].append(model.aid(batch.images).cpu())
        for name, size in self.step_sizes.items():
            self.routing[name].append(model.aid(self._attacked(self.stepwise, model, batch, size)).cpu())

    def _attacked(
        self, attack: StepwiseAttack, model: RoutedDetector, batch: Batch, size: float
    ) -> Float[Tensor, "B 3 H W"]:
        images = batch.images
        with DetectorVictim(model).borrow(batch.targets) as victim:
            for _ in range(self.steps):
                images = attack.step(victim, images, batch.images, size)
        return images

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        model: Any = pl_module.model
        if not isinstance(model, RoutedDetector):
            return
        found = {"kernel_divergence": kernel_divergence(model)}  # type: ignore[arg-type]
        parts = gathered_objects(self.routing)
        routing = {kind: [rows for part in parts for rows in part[kind]] for kind in self.routing}
        for name in self.step_sizes if routing["clean"] else ():
            separation = aid_separation(torch.cat(routing["clean"]), torch.cat(routing[name]))
            found[f"aid_separation_step_{name}"] = float(separation)
        pl_module.log_dict({f"routing/{name}": value for name, value in found.items()}, sync_dist=False)
