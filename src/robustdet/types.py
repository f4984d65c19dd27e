"""The vocabulary: all that a detector, an attack and a training method know of each other.

Dimension legend, used in every annotation of the project:

====  =========================================================================
B     images in a batch
H W   height and width of an image, in pixels
P     places of a detector that looks everywhere: default boxes, anchors or locations
C     object classes; label 0 is the background, labels 1..C are the classes
N     objects of one image
D     detections of one image
K     kernels that an adversarially-aware convolution mixes
====  =========================================================================

Images are RGB floats in [0, 1] everywhere outside a model; a model owns its normalisation. Boxes are xyxy in
pixels of the image they come with (x to the right, y down, upper edge exclusive) unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Images: TypeAlias = Float[Tensor, "B 3 H W"]


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """``tensor`` on ``device``. A copy to a GPU may still be under way, as its kernels wait for it.

    Nothing waits for a copy to the host: read too soon, it would be whatever lay there before. A copy to CUDA starts
    from pinned memory, from which alone it does not keep the host.
    """
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


@dataclass  # not frozen: Lightning's "true" precisions (64-true, bf16-true) convert a batch by setting its fields
class Target:
    """The objects of one image, in main memory, wherever images are: what a detector needs of them it takes along once.

    ``difficult`` is VOC's mark, ``crowd`` COCO's; both kinds are no targets of a loss or an attack, and each is
    honoured by its data set's metric. ``original_size`` is (height, width) of the file before any resizing.
    """

    boxes: Float[Tensor, "N 4"]
    labels: Int[Tensor, "N"]
    difficult: Bool[Tensor, "N"]
    crowd: Bool[Tensor, "N"]
    image_id: str
    original_size: tuple[int, int]

    @property
    def learnable(self) -> Target:
        """The same image with only those objects that a loss may use: neither difficult nor crowd."""
        keep = ~(self.difficult | self.crowd)
        return replace(
            self,
            boxes=self.boxes[keep],
            labels=self.labels[keep],
            difficult=self.difficult[keep],
            crowd=self.crowd[keep],
        )

    def in_main_memory(self) -> Target:
        return replace(
            self,
            boxes=self.boxes.cpu(),
            labels=self.labels.cpu(),
            difficult=self.difficult.cpu(),
            crowd=self.crowd.cpu(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that a checkpoint which holds it loads with weights-only unpickling."""
        return vars(self).copy()

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Target:
        return cls(**{**state, "original_size": tuple(state["original_size"])}).in_main_memory()


Targets: TypeAlias = Sequence[Target]


@dataclass  # not frozen, see Target
class Batch:
    """Images of one size with their targets, in the same order.

    ``micro_batch`` is its place, from 0, among the batches whose gradients one weight update sums; 0 where each batch
    is an update of its own.
    """

    images: Float[Tensor, "B 3 H W"]
    targets: list[Target]
    micro_batch: int = 0

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str) -> Batch:
        """The images there; targets stay in main memory."""
        return replace(self, images=moved(self.images, device))

    def pin_memory(self) -> Batch:
        return replace(self, images=self.images.pin_memory())

    def state_dict(self) -> dict[str, Any]:
        """As `Target.state_dict`."""
        return {**vars(self), "targets": [target.state_dict() for target in self.targets]}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Batch:
        return cls(**{**state, "targets": [Target.from_state(target) for target in state["targets"]]})


@dataclass(frozen=True)
class RawPredictions:
    """What an SSD says, before any decoding: the same type in training and evaluation mode. A `ScoredPredictions`.

    ``default_boxes`` are (centre x, centre y, width, height) in fractions of the image; ``bbox_regression`` holds
    SSD's offsets to them (variances 0.1 for the centre, 0.2 for the size).
    """

    exclusive: ClassVar[bool] = True

    cls_logits: Float[Tensor, "B P C_plus_1"]
    bbox_regression: Float[Tensor, "B P 4"]
    default_boxes: Float[Tensor, "P 4"]

    @property
    def log_probabilities(self) -> Float[Tensor, "B P C_plus_1"]:
        return self.cls_logits.log_softmax(dim=-1)


@dataclass(frozen=True)
class Answers:
    """Which object each place answers for; made once per batch, used by every loss on these targets.

    ``labels`` is 0 for background; ``objects`` is the index into ``target.learnable.boxes``, -1 for background.
    """

    labels: Int[Tensor, "B P"]
    objects: Int[Tensor, "B P"]


@dataclass(frozen=True)
class Assignment(Answers):
    """That of an SSD: ``regression_targets`` are the encoded boxes, where ``labels`` > 0, and zero elsewhere."""

    regression_targets: Float[Tensor, "B P 4"]


@dataclass(frozen=True)
class DetectionLosses:
    """Losses of a batch, image by image: **sums** over the default boxes that count, not yet divided by their number.

    ``classification`` is cross-entropy over positives and mined negatives, ``localization`` smooth L1 over
    positives, ``num_positives`` the count that normalises both.
    """

    classification: Float[Tensor, "B"]
    localization: Float[Tensor, "B"]
    num_positives: Int[Tensor, "B"]

    @property
    def total(self) -> Float[Tensor, "B"]:
        return self.classification + self.localization

    def per_positive(self, summed: Float[Tensor, "B"]) -> Float[Tensor, ""]:
        """A batch's scalar as SSD defines it: the sum over images / the positives of the whole batch (at least 1)."""
        return summed.sum() / self.num_positives.sum().clamp(min=1)

    def each_per_positive(self, summed: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Every image's own value: its sum / its positives (at least 1)."""
        return summed / self.num_positives.clamp(min=1)


@dataclass(frozen=True)
class BoxLosses:
    """Losses before any reduction or mining: what class- and object-wise attacks need.

    ``cross_entropy`` is minus the log-probability of the place's label; ``localization`` the distance of its box to its
    object by the detector's own measure (smooth L1, L1, GIoU), zero where the place is background.
    """

    cross_entropy: Float[Tensor, "B P"]
    localization: Float[Tensor, "B P"]


@dataclass(frozen=True)
class Detections:
    """Decoded detections of one image, best first; ``labels`` are 1..C."""

    boxes: Float[Tensor, "D 4"]
    scores: Float[Tensor, "D"]
    labels: Int[Tensor, "D"]

    def to(self, device: torch.device | str) -> Detections:
        return Detections(self.boxes.to(device), self.scores.to(device), self.labels.to(device))


def in_main_memory(found: Sequence[Detections]) -> list[Detections]:
    """The detections of a batch, brought there in one copy."""
    if all(one.scores.device.type == "cpu" for one in found):
        return list(found)
    dtype = torch.promote_types(found[0].boxes.dtype, torch.float32)  # which holds a label as well
    rows = torch.cat([_row(one, dtype) for one in found])
    parts = zip(found, rows.detach().cpu().split([len(one.scores) for one in found]), strict=True)
    return [
        Detections(part[:, 2:].to(one.boxes.dtype), part[:, 0].to(one.scores.dtype), part[:, 1].to(one.labels.dtype))
        for one, part in parts
    ]


def _row(found: Detections, dtype: torch.dtype) -> Float[Tensor, "D 6"]:
    return torch.cat([found.scores[:, None].to(dtype), found.labels[:, None].to(dtype), found.boxes.to(dtype)], dim=1)


@runtime_checkable
class Detector(Protocol):
    """Anything that detects: a ``torch.nn.Module`` whose post-processing, ``detect``, can be used alone.

    ``__call__`` is a pure function of the images in evaluation mode, in which each image is seen alone. What it gives
    is the detector's own affair, of the same type in both modes; `HasScores` says what it is there. A stochastic
    network samples only when it is handed a generator. `HasLosses` and `HasScores` offer attacks more than detections.
    """

    num_classes: int  # C, without the background
    input_size: int  # height and width of the images it is called with, pixels
    training: bool

    def __call__(self, images: Images, generator: torch.Generator | None = None) -> Any: ...

    def detect(self, raw: Any) -> list[Detections]:
        """The detections of each image, xyxy in pixels of the input.

        Of a detector that has losses, their scores carry the gradients of ``raw``.
        """
        ...


@runtime_checkable
class HasLosses(Detector, Protocol):
    """A detector with its criterion: what an attack by gradients, and any training method, needs."""

    def assign(self, targets: Targets) -> Any:
        """What can be said of the targets without looking at the images: made once per batch, used by every loss."""
        ...

    def losses(self, raw: Any, assignment: Any) -> DetectionLosses:
        """Differentiable to the images; the same in both modes, but for what a network samples."""
        ...


@runtime_checkable
class ScoredPredictions(Protocol):
    """Raw predictions that tell how sure the detector is of every label at every place, before suppression."""

    @property
    def log_probabilities(self) -> Float[Tensor, "B P C_plus_1"]:
        """Column c: the log of the score with which the place would be detected as class c; column 0: the
        log-probability that it shows none of them. Columns beyond C are outputs that no class has.
        """
        ...

    @property
    def exclusive(self) -> bool:
        """Whether a place shows one thing, background or a class: one softmax over all columns.

        Else each class is a yes or no of its own, and column 0 the log-probability of all noes.
        """
        ...


@runtime_checkable
class HasScores(HasLosses, Protocol):
    """A dense detector: it says what it thinks of every place (a default box, an anchor, a location of its maps), each
    with a box, and which object that place answers for. A place is the same in every image.
    """

    def __call__(self, images: Images, generator: torch.Generator | None = None) -> ScoredPredictions: ...

    def assign(self, targets: Targets) -> Answers: ...

    def localization(self, raw: Any, assignment: Any) -> Float[Tensor, "B"]:
        """That of ``losses``, without the cost of the other."""
        ...

    def box_losses(self, raw: Any, assignment: Any) -> BoxLosses: ...

    def overlaps(self, raw: Any, boxes: Float[Tensor, "B N 4"]) -> Float[Tensor, "B P N"]:
        """IoU of every predicted box, where it is placed now, with every one of ``boxes`` (xyxy, pixels)."""
        ...


Offer: TypeAlias = Literal["detections", "losses", "scores"]
"""What a detector offers an attack, less to more, each with those before it: detections alone (a black box), per-image
losses with gradients to the pixels (`HasLosses`), raw scores and boxes of every place (`HasScores`)."""
OFFERS: tuple[Offer, ...] = get_args(Offer)


def offers(detector: Detector) -> Offer:
    return (
        "scores" if isinstance(detector, HasScores) else "losses" if isinstance(detector, HasLosses) else "detections"
    )


def most(*needs: Offer) -> Offer:
    """The one with which all these are met; detections, which every detector has, where there is none."""
    return max(needs, key=OFFERS.index, default=OFFERS[0])


@runtime_checkable
class BorrowedVictim(Protocol):
    """A victim for the time of one attack: in evaluation mode, its parameters frozen, its targets matched once.

    Both raise TypeError where the victim offers its detections alone.
    """

    def losses(self, images: Images) -> DetectionLosses: ...

    def localization(self, images: Images) -> Float[Tensor, "B"]:
        """That of ``losses``, without the cost of the other."""
        ...


@runtime_checkable
class Victim(Protocol):
    """Something that can be attacked. Leaving the context, by an error too, gives the model back exactly as it was.

    A detector becomes one by `robustdet.attacks.victim.DetectorVictim`, which lends all that it offers.
    """

    def borrow(self, targets: Targets) -> AbstractContextManager[BorrowedVictim]: ...


@runtime_checkable
class Threat(Protocol):
    """A set of images around a clean one: where an attack promises to stay."""

    @property
    def epsilon(self) -> float | None:
        """Radius of the L∞ ball that it is, a fraction of the pixel range; None where it is no such ball."""
        ...

    def project(self, adversarial: Images, clean: Images) -> Images: ...


@runtime_checkable
class Objective(Protocol):
    """What an attack maximises: a value for every image, which depends on that image alone.

    Difficult and crowd objects are no targets: most objectives do not look at them. One that does, so as to pass over
    the detections that AP leaves out, says so by ``passes_over_difficult = True``. One that asks its victim for
    anything but losses says so by ``needs``, an `Offer`.
    """

    def __call__(self, model: BorrowedVictim, images: Images, /) -> Float[Tensor, "B"]: ...


@runtime_checkable
class PreparedObjective(Protocol):
    """An objective that has to look at the clean images first; the result is for this batch alone."""

    def prepare(self, model: BorrowedVictim, clean: Images, /) -> Objective: ...


Knowledge: TypeAlias = Literal["nothing", "outputs", "gradients", "discriminator"]
"""What an attack learns from its victim, less to more; checks compare attacks by it.

``nothing``: it does not ask (noise, transfer); ``outputs``: black box; ``gradients``: white box; ``discriminator``:
white box, and it knows that the victim routes its images by a discriminator.
"""


@runtime_checkable
class Attack(Protocol):
    """``attack(victim, images, targets, generators) -> images``: pure, and it keeps nothing between calls.

    ``generators`` holds one CPU generator per image, so that batch size, order and resumption change nothing. What it
    declares beside that is read by every evaluation; `robustdet.attacks.base.BaseAttack` has the defaults.
    """

    @property
    def threat(self) -> Threat:
        """Where its images lie: `LInf`, or `PixelRange` where it promises no ball."""
        ...

    @property
    def knowledge(self) -> Knowledge: ...

    @property
    def needs(self) -> Offer:
        """What its victim has to offer; a suite leaves the attack out for a detector that does not."""
        ...

    @property
    def objective(self) -> Objective | PreparedObjective | None:
        """What it climbs on the victim as it is; None where that is no one function."""
        ...

    @property
    def objective_bound(self) -> float | None:
        """The largest value that the objective can take; None where there is none or it is not known."""
        ...

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images: ...


@runtime_checkable
class StepwiseAttack(Attack, Protocol):
    """An attack that is nothing but a step, repeated: PGD with any objective, MTD.

    One that remembers something from step to step (momentum, a step size of its own) has no ``step``. The schedule
    `replay` takes one step an update, between which the weights change, and asks for such an attack.
    """

    def step(
        self, model: BorrowedVictim, adversarial: Images, clean: Images, step_size: float | Tensor | None = None
    ) -> Images:
        """The next iterate. ``step_size``, a fraction of the pixel range, replaces the attack's own: one, or [B]."""
        ...


@dataclass(frozen=True)
class StepOutput:
    """What one training step hands back: the loss to minimise, with its graph, and named scalars to log.

    ``parts`` are logged as means over processes, under their own names; whether they carry a graph is of no account.
    So are ``diagnostics``, under names of their own, which are made only where an update is logged: nothing is learnt
    from them, and nobody looks at the others.
    """

    loss: Float[Tensor, ""]
    parts: dict[str, Tensor]
    diagnostics: Callable[[], dict[str, Tensor]] = dict


@runtime_checkable
class TrainingMethod(Protocol):
    """How a detector learns from a batch.

    Lightning calls ``step`` once for every batch that it loads, with the model in training mode, then ``backward`` on
    the loss, and the optimiser's step and ``zero_grad`` after every ``trainer.accumulate_grad_batches`` of them. So a
    step calls none of these, and cannot read its own loss's gradients: it asks `torch.autograd.grad` for those that it
    needs (attacks do), and leaves every ``.grad``, mode and ``requires_grad`` as they were.
    """

    def step(self, model: Any, batch: Batch, generator: torch.Generator) -> StepOutput:
        """``generator`` is of this batch alone, on the CPU: all that a step draws comes from it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Whatever a resumed run needs to go on bit for bit: tensors and plain values only."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
