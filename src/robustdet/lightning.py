"""Adversarial training inside somebody's own LightningModule: a callback makes the adversarial half of each batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from operator import attrgetter
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from robustdet.attacks.base import require_attack
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.victim import DetachedError, DetectorVictim, input_gradient
from robustdet.cli.named_attack import named_attack
from robustdet.errors import InputError
from robustdet.interop.batch_forms import images_and_targets, with_adversarial
from robustdet.interop.torchvision_api import Asked, TorchvisionDetector
from robustdet.types import Attack, DetectionLosses, Detections, HasLosses, Images, Target, Targets, most, offers


class AdversarialTraining(pl.Callback):
    """Every batch that is trained on is attacked first: ``Trainer(callbacks=[AdversarialTraining("mtd")])``.

    The training step of the module gets the batch in its own form, with the attacked images behind the clean ones:
    twice as many. Attacks see the detector in evaluation mode and in full precision, and leave its weights, ``.grad``,
    ``requires_grad``, modes, batch norms and the global random numbers as they were. What they draw depends on the
    seed, the update, the place among the batches of an update and the image alone (its ``image_id``, or its place in
    the batch of all processes): a resumed run repeats it, and two processes draw what one would.

    Images of one size are attacked together, others apart, without the padding that larger neighbours would bring.
    Batches may be what `robustdet.interop.batch_forms` knows. Lightning lets no hook replace a batch, so the module's
    ``training_step`` is wrapped while it is trained. Parameters that are sharded (FSDP, DeepSpeed) cannot be frozen for
    an attack: one device or DDP. `robustdet.train` and `src.train` need no callback.

    Args:
        attack: one of `conf/attack`, such as "mtd", "pgd_cls", "apgd_total", or an attack of one's own.
        overrides: of a named one, such as "attack.steps=5".
        epsilon: of a named one: the size of its ball, "4/255"; its steps in proportion.
        detector: where in the module the detector is: the name of an attribute ("network.detector" too), or a function
            of the module. A `robustdet.types.HasLosses`, or a network with torchvision's interface: a list of images,
            and losses by name when it is in training mode and targets are given.
        keep_clean: train on both halves; False: on attacked images alone.
        seed: of what attacks draw.

    Raises:
        InputError: at the first batch, naming what was expected: a batch of another form, no detector there, one
            without gradients, or without what the attack asks for.
    """

    def __init__(
        self,
        attack: str | Attack = "mtd",
        *overrides: str,
        epsilon: float | int | str | None = None,
        detector: str | Callable[[pl.LightningModule], Any] = "model",
        keep_clean: bool = True,
        seed: int = 0,
    ) -> None:
        if isinstance(attack, str):
            self.attack = named_attack(attack, overrides, epsilon)
        elif overrides or epsilon is not None:
            raise InputError("an attack object has its settings already: overrides and epsilon are for named ones")
        else:
            self.attack = require_attack(attack)
        self.detector, self.keep_clean, self.seed = detector, keep_clean, seed
        self._wrapped: pl.LightningModule | None = None
        self._looked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = pl_module.training_step

        @wraps(step)  # Lightning asks for its arguments
        def attacked_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
            return step(self.attacked(trainer, pl_module, batch), *args, **kwargs)

        pl_module.training_step = attacked_step  # type: ignore[method-assign]
        self._wrapped, self._looked = pl_module, False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._unwrap()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._unwrap()

    def _unwrap(self) -> None:
        if self._wrapped is not None:
            del self._wrapped.training_step  # the class's own is behind it
            self._wrapped = None

    def attacked(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Any:
        """``batch`` with its adversarial images, in its own form."""
        images, targets = images_and_targets(batch)
        detector = self._detector(module)
        if not self._looked:
            require_losses(detector, images[0], targets[0], self.attack)
            self._looked = True
        micro_batch = trainer.fit_loop.batch_idx % trainer.accumulate_grad_batches
        ids = _ids(targets, trainer.world_size, trainer.global_rank)
        generators = image_generators(self.seed, ids, trainer.global_step, micro_batch)
        adversarial: list[Tensor] = [*images]
        for places in _of_one_size(images):
            found = self.attack(
                DetectorVictim(detector),
                torch.stack([images[place].detach() for place in places]),
                [targets[place] for place in places],
                [generators[place] for place in places],
            )
            for place, image in zip(places, found, strict=True):
                adversarial[place] = image.detach()
        return with_adversarial(batch, adversarial, self.keep_clean)

    def _detector(self, module: pl.LightningModule) -> HasLosses:
        try:
            found = self.detector(module) if callable(self.detector) else attrgetter(self.detector)(module)
        except AttributeError as error:
            parts = ", ".join(name for name, _ in module.named_children())
            raise InputError(
                f"{type(module).__name__} has no detector at {self.detector!r} ({error}): detector= is the name of an "
                f"attribute or a function of the module; its parts are {parts}"
            ) from error
        if isinstance(found, HasLosses):
            return found
        if isinstance(found, nn.Module):
            return AsItComes(found)
        raise InputError(
            f"detector={self.detector!r} is a {type(found).__name__} in {type(module).__name__}; expected {EXPECTED}"
        )


EXPECTED = (
    "a robustdet.types.HasLosses, or a torch.nn.Module with torchvision's interface: called with a list of images "
    "[3, H, W] and a list of {boxes, labels}, it gives its losses by name in training mode"
)


class AsItComes(TorchvisionDetector):
    """Somebody's network with torchvision's interface in the middle of its training: any size, and labels of its own.

    It is looked at, and nothing in it is replaced. ``num_classes`` and ``input_size`` are 0: nobody has said them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, num_classes=0, input_size=0)

    def forward(self, images: Images, generator: torch.Generator | None = None) -> Asked:
        return Asked(images, generator)

    def _to_theirs(self, labels: Tensor) -> Tensor:
        return labels

    def _named_as_ours(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
        order = scores.argsort(descending=True, stable=True)
        return Detections(boxes[order], scores[order], labels[order])


def require_losses(detector: HasLosses, image: Tensor, target: Target, attack: Attack) -> None:
    """Raises InputError where the losses of an image do not come out, or have no gradient to it, or are too little."""
    name = type(detector.network if isinstance(detector, AsItComes) else detector).__name__
    offer = offers(detector)
    if most(attack.needs, offer) != offer:
        raise InputError(
            f"{type(attack).__name__} asks for raw scores of every place, and {name} offers its losses: take one "
            "that climbs those, such as mtd, pgd_cls, pgd_loc, pgd_total"
        )
    pixels = image.detach()[None].clone().requires_grad_()
    with DetectorVictim(detector).borrow([target]) as victim:
        try:
            losses = victim.losses(pixels)
        except Exception as error:
            raise InputError(f"{name} gave no losses: {type(error).__name__}: {error}; expected {EXPECTED}") from error
        if not isinstance(losses, DetectionLosses) or losses.total.shape != (1,):
            raise InputError(
                f"{name}.losses gave a {type(losses).__name__}; expected DetectionLosses, a value an image"
            )
        try:
            input_gradient(losses.total, pixels)
        except DetachedError as error:
            raise InputError(
                f"{name}: its losses have no gradient to the pixels; expected differentiable operations all the way "
                "(looks like torch.no_grad, detach or NumPy in between)"
            ) from error


def _ids(targets: Targets, processes: int, rank: int) -> list[str]:
    """What tells the images of an update apart: their own ids, else their places in the batch of all processes, as
    a distributed sampler deals them."""
    if all(target.image_id for target in targets):
        return [target.image_id for target in targets]
    return [f"place {place * processes + rank}" for place in range(len(targets))]


def _of_one_size(images: Sequence[Tensor]) -> list[list[int]]:
    """Places of images by their size."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(place)
    return list(groups.values())
