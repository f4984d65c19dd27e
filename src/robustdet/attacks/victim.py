"""Borrowing a model for an attack and giving it back exactly as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustdet.types import (
    Assignment,
    BorrowedDetector,
    BorrowedVictim,
    BoxLosses,
    DetectionLosses,
    Detector,
    Images,
    RawPredictions,
    Targets,
)


class DetectorVictim:
    """A default-box detector (a ``torch.nn.Module``) as a victim: white box, the whole model."""

    def __init__(self, detector: Detector) -> None:
        if not isinstance(detector, nn.Module):
            raise TypeError(f"expected a detector that is a torch.nn.Module, got {type(detector).__name__}")
        self.detector = detector

    @contextmanager
    def borrow(self, targets: Targets, assignment: Assignment | None = None) -> Iterator[BorrowedDetector]:
        """The detector, held still by :func:`frozen`, with ``targets`` matched once for all steps.

        Who borrows for the same targets again may hand in the ``assignment`` of the first time.
        """
        with frozen(self.detector):
            yield _Borrowed(self.detector, targets, assignment or self.detector.assign(targets))


@dataclass
class _Borrowed:
    detector: Detector
    targets: Targets
    assignment: Assignment

    def predict(self, images: Images, routing: Float[Tensor, "B K"] | None = None) -> RawPredictions:
        """``routing`` replaces what the discriminator of a routed detector would say."""
        return self.detector(images) if routing is None else self.detector(images, routing=routing)  # type: ignore[call-arg]

    def losses_of(self, raw: RawPredictions) -> DetectionLosses:
        return self.detector.losses(raw, self.assignment)

    def localization_of(self, raw: RawPredictions) -> Float[Tensor, "B"]:
        return self.detector.localization(raw, self.assignment)

    def box_losses_of(self, raw: RawPredictions) -> BoxLosses:
        return self.detector.box_losses(raw, self.assignment)

    def losses(self, images: Images) -> DetectionLosses:
        return self.losses_of(self.predict(images))

    def localization(self, images: Images) -> Float[Tensor, "B"]:
        return self.localization_of(self.predict(images))


class Altered(ABC):
    """A borrowed detector that a subclass makes predict otherwise; what predictions are worth is the model's to say."""

    def __init__(self, model: BorrowedDetector) -> None:
        self.model = model
        self.assignment, self.targets = model.assignment, model.targets

    @abstractmethod
    def predict(self, images: Images) -> RawPredictions: ...

    def losses_of(self, raw: RawPredictions) -> DetectionLosses:
        return self.model.losses_of(raw)

    def localization_of(self, raw: RawPredictions) -> Float[Tensor, "B"]:
        return self.model.localization_of(raw)

    def box_losses_of(self, raw: RawPredictions) -> BoxLosses:
        return self.model.box_losses_of(raw)

    def losses(self, images: Images) -> DetectionLosses:
        return self.losses_of(self.predict(images))

    def localization(self, images: Images) -> Float[Tensor, "B"]:
        return self.localization_of(self.predict(images))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no parameter asks for gradients, gradients enabled, full precision.

    On leaving, by an error too, every module's mode, every ``requires_grad``, the buffers and the global random state
    are what they were. ``.grad`` needs no care: nothing accumulates into a frozen parameter.

    Raises:
        RuntimeError: called in inference mode, where no gradient exists.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "an attack needs gradients, and inference mode forbids them: set `inference_mode: false` for the trainer "
            "(pytorch_lightning.Trainer(inference_mode=False)), or use torch.no_grad() instead"
        )
    modes = [(module, module.training) for module in model.modules()]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    buffers = [
        (module, name, buffer, buffer._version, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    try:
        model.eval()
        model.requires_grad_(False)
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in learning:
            parameter.requires_grad_(True)
        for module, name, buffer, version, saved in buffers:
            if buffer._version != version:  # writing without need would invalidate a graph that waits for its backward
                with torch.no_grad():
                    buffer.copy_(saved)
            module._buffers[name] = buffer


class DetachedError(RuntimeError):
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
    """``model``, when it offers what a class- or box-wise attack needs.

    Raises:
        TypeError: it does not; the message names the attack and what is missing.
    """
    needed = ("assignment", "targets", "predict", "losses_of", "localization_of", "box_losses_of")
    missing = [name for name in needed if not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"{attack} needs a default-box detector as its victim: {type(model).__name__} lacks {', '.join(missing)}"
        )
    return model  # type: ignore[return-value]
