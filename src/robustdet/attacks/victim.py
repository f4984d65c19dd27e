"""Borrowing a detector for an attack and giving it back exactly as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustdet.errors import KindError, StateError
from robustdet.modes import modes_kept
from robustdet.types import (
    Answers,
    BorrowedVictim,
    BoxLosses,
    DetectionLosses,
    Detections,
    Detector,
    HasLosses,
    HasScores,
    Images,
    ScoredPredictions,
    Targets,
    Victim,
)


@runtime_checkable
class Forward(Protocol):
    """images → what the detector says of them.

    ``routing`` π replaces what the discriminator of a routed detector would say.
    """

    def __call__(self, images: Images, routing: Float[Tensor, "B K"] | None = None, /) -> Any: ...


Alteration: TypeAlias = Callable[[Forward], Forward]
"""How another forward pass is made of a victim's own: in bfloat16, with another routing."""


class DetectorVictim:
    """A detector (a ``torch.nn.Module``) as a victim: the whole model, with all that it offers.

    ``forward`` is its forward pass, where that is not the detector's own.
    """

    def __init__(self, detector: Detector, forward: Forward | None = None) -> None:
        if not isinstance(detector, nn.Module):
            raise KindError(f"expected a detector that is a torch.nn.Module, got {type(detector).__name__}")
        self.detector: Detector = detector
        self.forward: Forward = forward or _forward_of(detector)

    @contextmanager
    def borrow(self, targets: Targets, assignment: Any = None) -> Iterator[BorrowedDetector]:
        """The detector in :func:`evaluation_mode`, with ``targets`` matched once for all steps.

        Who borrows for the same targets again may hand in the ``assignment`` of the first time.
        """
        lent: Any = BorrowedScores if isinstance(self.detector, HasScores) else BorrowedDetector
        with evaluation_mode(self.detector):  # type: ignore[arg-type]
            yield lent(self.detector, targets, assignment or assigned(self.detector, targets), self.forward)

    def altered(self, how: Alteration) -> DetectorVictim:
        """The same detector with another forward pass; what predictions are worth is the detector's to say."""
        return DetectorVictim(self.detector, how(self.forward))


def assigned(detector: Detector, targets: Targets) -> Any:
    """What the criterion of a detector with losses makes of the targets; None for one without."""
    return detector.assign(targets) if isinstance(detector, HasLosses) else None


@dataclass(frozen=True)
class BorrowedDetector:
    """A borrowed detector: lends its detections and its losses, or says with a TypeError that it has none."""

    detector: Detector
    targets: Targets
    assignment: Any
    forward: Forward

    def predict(self, images: Images, routing: Float[Tensor, "B K"] | None = None) -> Any:
        """As typed as the detector's own, so that a routed detector's carry ``routing``; for that: see `Forward`."""
        return self.forward(images, routing)

    def losses_of(self, raw: Any) -> DetectionLosses:
        return self._with_losses.losses(raw, self.assignment)

    def localization_of(self, raw: Any) -> Float[Tensor, "B"]:
        return self.losses_of(raw).localization

    def detections_of(self, raw: Any) -> list[Detections]:
        return self.detector.detect(raw)

    def losses(self, images: Images) -> DetectionLosses:
        return self.losses_of(self.predict(images))

    def localization(self, images: Images) -> Float[Tensor, "B"]:
        return self.localization_of(self.predict(images))

    def about(self, targets: Targets) -> BorrowedDetector:
        """The same with other objects to be found."""
        return replace(self, targets=targets, assignment=assigned(self.detector, targets))

    def altered(self, how: Alteration) -> BorrowedDetector:
        """The same, with another forward pass."""
        return replace(self, forward=how(self.forward))

    @cached_property
    def most_objects(self) -> int:
        """Of an image, those that are targets of an attack."""
        return max(len(target.learnable.labels) for target in self.targets)

    @property
    def _with_losses(self) -> HasLosses:
        if not isinstance(self.detector, HasLosses):
            raise KindError(
                f"{type(self.detector).__name__} offers its detections alone, and this attack climbs its losses: take "
                "one that asks for detections, such as square_detections or transfer (suite=black_box)"
            )
        return self.detector


@dataclass(frozen=True)
class BorrowedScores(BorrowedDetector):
    """A borrowed dense detector: lends its raw predictions too, and what each place was assigned."""

    detector: HasScores
    assignment: Answers

    def localization_of(self, raw: ScoredPredictions) -> Float[Tensor, "B"]:
        return self.detector.localization(raw, self.assignment)

    def box_losses_of(self, raw: ScoredPredictions) -> BoxLosses:
        return self.detector.box_losses(raw, self.assignment)

    def overlaps_of(self, raw: ScoredPredictions, boxes: Float[Tensor, "B N 4"]) -> Float[Tensor, "B P N"]:
        return self.detector.overlaps(raw, boxes)


def _forward_of(detector: Any) -> Forward:
    def forward(images: Images, routing: Tensor | None = None, /) -> Any:
        return detector(images) if routing is None else detector(images, routing=routing)

    return forward


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no parameter asks for gradients, gradients enabled, full precision.

    On leaving, by an error too, every module's mode, every ``requires_grad``, the buffers and the global random state
    are what they were. ``.grad`` needs no care: nothing accumulates into a frozen parameter.

    Raises:
        RuntimeError: called in inference mode, where no gradient exists.
    """
    if torch.is_inference_mode_enabled():
        raise StateError(
            "an attack needs gradients, and inference mode forbids them: set `inference_mode: false` for the trainer "
            "(pytorch_lightning.Trainer(inference_mode=False)), or use torch.no_grad() instead"
        )
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    buffers = [
        (module, name, buffer, buffer._version, buffer.clone() if _may_write(module) else None)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    try:
        model.requires_grad_(False)
        with (
            modes_kept(model.modules()),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            model.eval()
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for module, name, buffer, version, saved in buffers:
            if buffer._version != version:  # writing without need would invalidate a graph that waits for its backward
                if saved is None:
                    raise StateError(f"{type(module).__name__}.{name} was written in evaluation mode, and is not known")
                with torch.no_grad():
                    buffer.copy_(saved)
            module._buffers[name] = buffer


def _may_write(module: nn.Module) -> bool:
    """Whether a forward pass in evaluation mode may write into this module's own buffers: not where its layer is
    PyTorch's or one of this project, unless somebody hooked it.
    """
    known = type(module).__module__.startswith(("torch.nn.", "torchvision.", "robustdet."))
    return not known or bool(module._forward_hooks or module._forward_pre_hooks)


class DetachedError(StateError):
    """What an attack climbs does not depend on the images by differentiable operations: it cannot be made."""


def input_gradient(values: Float[Tensor, "B"], images: Images, retain_graph: bool = False) -> Images:
    """Gradient of every image's value to that image, and to nothing else.

    Raises:
        DetachedError: the values do not depend on the images by differentiable operations.
    """
    gradient = None
    if values.requires_grad:
        (gradient,) = torch.autograd.grad(values.sum(), images, retain_graph=retain_graph, allow_unused=True)
    if gradient is None:
        raise DetachedError("the attack's objective does not depend on the images: the victim detached its gradient")
    return gradient


def require_detector(model: BorrowedVictim, attack: str) -> BorrowedDetector:
    """``model``, when it lends detections, and what they are to be.

    Raises:
        TypeError: it does not; the message names the attack and what it was given.
    """
    if not isinstance(model, BorrowedDetector):
        raise KindError(f"{attack} needs a detector as its victim (DetectorVictim), got {type(model).__name__}")
    return model


def require_scores(model: BorrowedVictim, attack: str) -> BorrowedScores:
    """``model``, when it lends what a class- or box-wise attack needs. Raises TypeError as `require_detector` does."""
    if not isinstance(model, BorrowedScores):
        lent = type(model.detector if isinstance(model, BorrowedDetector) else model).__name__
        raise KindError(_needs_scores(attack, lent))
    return model


def require_detector_victim(victim: Victim, attack: str) -> DetectorVictim:
    """``victim``, when its forward pass can be altered. Raises TypeError as `require_detector` does."""
    if not isinstance(victim, DetectorVictim):
        raise KindError(f"{attack} needs a detector as its victim (DetectorVictim), got {type(victim).__name__}")
    return victim


def require_scores_victim(victim: Victim, attack: str) -> DetectorVictim:
    """The same for one that also lends raw scores."""
    if not isinstance(victim, DetectorVictim) or not isinstance(victim.detector, HasScores):
        given = type(victim.detector if isinstance(victim, DetectorVictim) else victim).__name__
        raise KindError(_needs_scores(attack, given))
    return victim


def _needs_scores(attack: str, given: str) -> str:
    return (
        f"{attack} needs a victim (DetectorVictim) that says how sure it is of every default box, anchor or location "
        f"(robustdet.types.HasScores): got {given}"
    )
