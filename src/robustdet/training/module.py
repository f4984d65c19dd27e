"""The LightningModule that trains: plumbing between Lightning's loops and a training method, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.utilities import GradClipAlgorithmType, move_data_to_device
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from robustdet.attacks.randomness import image_generators
from robustdet.defences.non_finite import first_non_finite_layer
from robustdet.errors import InputError, NumericalError
from robustdet.interop.classes import require_same_classes
from robustdet.ranks import averaged, objects_at_rank_zero
from robustdet.training.finite import Finiteness, Watched, every, largest, zero_unless_finite
from robustdet.training.part_rates import PartRates
from robustdet.training.rebuilding import rebuilt
from robustdet.training.validation import Validation
from robustdet.types import Batch, TrainingMethod

SMALLEST_SCALE = 2.0**-10  # of a loss; 2**16 is where scalers begin


class DetectionModule(pl.LightningModule):
    """Trains ``model`` by ``method``; watches ``validation``.

    ``optimizer`` and ``scheduler`` are partial: one takes the parameters (`PartRates`: the model), the other the
    optimiser. The randomness of a step comes from (seed, update, micro-batch) alone, so a resumed run repeats what an
    uninterrupted one would have drawn, and several processes draw what one would: each takes the part of its images.

    Each part may be its settings instead (`robustdet.training.rebuilding`). A checkpoint has those of its run, and the
    names of the classes: ``DetectionModule.load_from_checkpoint(file).model`` is the trained detector.
    """

    model: Any  # an nn.Module that is a robustdet.types.Detector

    def __init__(
        self,
        model: nn.Module | Mapping[str, Any],
        method: TrainingMethod | Mapping[str, Any],
        optimizer: Callable[..., Optimizer] | Mapping[str, Any],
        scheduler: Callable[..., LRScheduler] | Mapping[str, Any],
        seed: int,
        validation: Validation | Mapping[str, Any] | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model = rebuilt(model)
        self.method: TrainingMethod = rebuilt(method)
        self.make_optimizer, self.make_scheduler = rebuilt(optimizer), rebuilt(scheduler)
        self.seed = seed
        self.classes = list(classes)  # names of the labels 1..C
        self.validation: Validation | None = rebuilt(validation)
        self.validated: int | None = None  # after how many updates it was last looked at, since this process trains
        self.logged: dict[str, float] = {}  # what was last logged before this process went on
        self._images: list[str] = []  # ids of those that the next update is made of
        self._losses, self._gradients = Finiteness(), Finiteness()
        self._seen: Tensor | None = None  # images of the last step
        self._summed: dict[str, Tensor | None] = {}  # gradients of the update that a checkpoint was saved in

    def on_train_start(self) -> None:
        for name, gradient in self._summed.items():  # Lightning has zeroed what was there when it loaded the checkpoint
            self.model.get_parameter(name).grad = gradient
        self._summed = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # the last update of an epoch sums what is left: counting starts anew with the next one, as batch_idx does
        batch = replace(batch, micro_batch=batch_idx % self.trainer.accumulate_grad_batches)
        place = [batch.micro_batch] if batch.micro_batch else []
        (generator,) = image_generators(self.seed, ["0"], self.global_step, *place)
        self._images = [*(self._images if place else []), *(target.image_id for target in batch.targets)]
        try:
            output = self.method.step(self.model, batch, generator)
        except NumericalError as error:
            raise NumericalError(f"{error}; {self._where()}") from error
        shown = {**output.parts, **(output.diagnostics() if self._is_logged() else {}), "loss": output.loss}
        values = averaged(torch.stack([value.detach().float() for value in shown.values()]))  # one message for all
        self._losses.watch(Watched([*shown], values, self._where()))
        self._seen = batch.images
        if self.global_step % every(values.device) == 0:
            self._require_finite()
        self.log_dict({f"train/{name}": value for name, value in zip(shown, values, strict=True)})
        return output.loss

    def _is_logged(self) -> bool:
        """Whether Lightning hands this update's numbers to the loggers."""
        interval = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return interval > 0 and (self.global_step + 1) % interval == 0

    def _require_finite(self) -> None:
        """Look at all that was watched. Raises NumericalError for the first step that had a NaN or an infinity.

        In all processes alike, for all have the same numbers: nobody waits for one that has stopped.
        """
        fault, of_gradient = self._losses.first_fault(), self._gradients.first_fault()
        if fault is not None:
            parts = fault.named()
            loss, images = parts.pop("loss"), self._seen
            layer = None if images is None else first_non_finite_layer(self.model, lambda: self.model.forward(images))
            culprit = f"first in layer {layer}" if layer else "all layers are finite on the images as they are"
            raise NumericalError(f"the loss is {loss}: {parts}; {culprit}; {fault.where}")
        if of_gradient is not None:
            # what is not finite in one layer is so in all before it
            culprit = [name for name, size in of_gradient.named().items() if not math.isfinite(size)][-1]
            raise NumericalError(f"the gradient of {culprit} is not finite; {of_gradient.where}")

    def on_validation_start(self) -> None:
        self._require_finite()

    def on_train_end(self) -> None:
        self._require_finite()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """No update is made of a gradient that is not finite, which would end the weights for good.

        Where nobody looks yet, it is made of zeros. With a scaled loss (16-mixed) such an update is left out by the
        scaler, which then takes a smaller scale; where that can go no lower, it is not the scale's fault.
        """
        gradients = {name: one.grad for name, one in self.model.named_parameters() if one.grad is not None}
        if not gradients:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and scaler.get_scale() > SMALLEST_SCALE:
            return
        sizes = largest(gradients)
        self._gradients.watch(Watched([*gradients], sizes, self._where()))
        if scaler is None and every(sizes.device) > 1:
            zero_unless_finite(gradients, sizes)
        else:
            self._require_finite()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning's, which refuses fused optimisers in any mixed precision: where no loss is scaled (bf16-mixed),
        none of them unscales a gradient."""
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None and gradient_clip_val is not None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _where(self) -> str:
        return f"step {self.global_step}, images {', '.join(self._images)}"

    def optimizer(self) -> Optimizer:
        """A new one of the detector's parameters. Raises InputError for values that it refuses."""
        try:
            by_part = isinstance(self.make_optimizer, PartRates)
            return self.make_optimizer(self.model if by_part else self.model.parameters())
        except (TypeError, ValueError) as error:
            raise InputError(f"optimizer: {error}") from error

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer()
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }

    def on_validation_epoch_start(self) -> None:
        if self.validation is not None:
            self.validation.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if self.validation is not None:
            self.validation.update(self.model, batch)

    def on_validation_epoch_end(self) -> None:
        if self.validation is not None:
            scores = self.validation.compute()  # the same in every process
            self.log_dict({f"val/{name}": value for name, value in scores.items()}, sync_dist=False)
        if self._trainer is None or not self.trainer.sanity_checking:
            self.validated = self.global_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The names of the classes, for they are what labels mean; and what differs from process to process.

        Lightning keeps what rank 0 has; the state of the method and of random numbers is another in each process. So
        are the gradients that an update has summed so far, which Lightning does not keep at all.
        """
        self._require_finite()
        for name, tensor in self.model.state_dict().items():
            if not bool(tensor.isfinite().all()):  # the one that was saved before stays
                raise NumericalError(f"{name} is not finite, and such a state is not saved; {self._where()}")
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            checkpoint["classes"] = list(data.classes)
        checkpoint["logged"] = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        device = self.device.type
        gradients = {name: parameter.grad for name, parameter in self.model.named_parameters()}
        mine = {
            "method": self.method.state_dict(),
            "gradients": gradients if self.trainer.fit_loop._should_accumulate() else {},
            "random": torch.get_rng_state(),  # for networks with dropout; all else draws from its own generators
            "random_device": torch.get_device_module(device).get_rng_state() if device != "cpu" else None,
        }
        checkpoint["processes"] = objects_at_rank_zero(move_data_to_device(mine, torch.device("cpu")))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._trainer is None:  # nobody goes on with the run: load_from_checkpoint
            self.hparams.update(checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}))
            return
        self.logged = checkpoint.get("logged", {})
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            require_same_classes(checkpoint.get("classes"), data.classes, "the checkpoint to go on from", data.name)
        processes = checkpoint["processes"]
        if len(processes) != self.trainer.world_size:
            raise InputError(
                f"the checkpoint is of a run in {len(processes)} processes and this one has {self.trainer.world_size}: "
                "continue it in as many, or start a new run from its weights with warm_start.ckpt_path"
            )
        mine = processes[self.trainer.global_rank]
        device = self.trainer.strategy.root_device
        self.method.load_state_dict(move_data_to_device(mine["method"], device))
        self._summed = move_data_to_device(mine["gradients"], device)
        torch.set_rng_state(mine["random"])
        if device.type != "cpu" and mine["random_device"] is not None:
            torch.get_device_module(device.type).set_rng_state(mine["random_device"])
