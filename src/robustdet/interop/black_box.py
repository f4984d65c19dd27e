"""Any function from images to boxes, scores and labels as a detector: a file of another framework, a web service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from robustdet.errors import InputError
from robustdet.interop.foreign import ForeignDetector
from robustdet.types import Detections, Images

Found: TypeAlias = Mapping[str, Any] | Sequence[Any] | Detections
"""Of one image: ``{boxes, scores, labels}``, these three in this order, or `Detections`; tensors, arrays or lists."""
FIELDS = ("boxes", "scores", "labels")


class BlackBox(ForeignDetector):
    """A `robustdet.types.Detector` that offers its detections alone: no loss, no gradient, no raw scores.

    Args:
        function: images [B, 3, S, S], RGB in [0, 1], to what was found in each: boxes [D, 4], xyxy in these pixels,
            scores [D] in [0, 1], labels [D] from 1 to C. A pure function of each image.
        classes: names of labels 1..C; None: those of ``function.classes``, where it has that, else those of the data,
            in their order.
        input_size: S, in pixels.
        name: as records call it.
    """

    def __init__(
        self,
        *,
        function: Callable[[Images], Sequence[Found]],
        input_size: int,
        name: str,
        classes: Sequence[str] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        classes = getattr(function, "classes", None) if classes is None else classes
        count = num_classes if classes is None else len(classes)
        if count is None:
            raise InputError(f"{name} does not say which classes it knows: model.classes=[a,b,…]")
        self.function, self.classes, self.name = function, classes, name
        self.num_classes, self.input_size = count, input_size
        self.file = getattr(function, "file", None)

    def forward(self, images: Images, generator: torch.Generator | None = None) -> list[Detections]:
        try:
            with torch.no_grad():
                found = self.function(images.detach().clone())  # it may write into what it is given
        except Exception as error:
            raise InputError(f"{self.name}: it raised {type(error).__name__}: {error}") from error
        if not isinstance(found, Sequence) or len(found) != len(images):
            got = f"{len(found)}" if isinstance(found, Sequence) else f"a {type(found).__name__}"
            raise InputError(
                f"{self.name}: expected a list with what was found in each of {len(images)} images, got {got}"
            )
        return [self._read(one, images.device) for one in found]

    def detect(self, raw: list[Detections]) -> list[Detections]:
        return raw

    def _read(self, found: Found, device: torch.device) -> Detections:
        """Best first. Raises InputError where it is not of `Found`, or of another shape."""
        if isinstance(found, Mapping):
            missing = [field for field in FIELDS if field not in found]
            if missing:
                raise InputError(f"{self.name}: no {', '.join(missing)} among {', '.join(map(str, found))}")
            parts = [found[field] for field in FIELDS]
        else:
            parts = [found.boxes, found.scores, found.labels] if isinstance(found, Detections) else list(found)
        if len(parts) != len(FIELDS):
            raise InputError(f"{self.name}: expected boxes, scores and labels of an image, got {len(parts)} things")
        boxes, scores, labels = (torch.as_tensor(part, device=device).detach() for part in parts)
        boxes = boxes.reshape(0, 4) if boxes.numel() == 0 else boxes
        count = len(scores) if scores.ndim == 1 else -1
        for field, values, shape in zip(FIELDS, (boxes, scores, labels), ([count, 4], [count], [count]), strict=True):
            if list(values.shape) != shape:
                expected = "D, as many as scores" if count >= 0 else "D"
                tail = ", 4" if field == "boxes" else ""
                raise InputError(
                    f"{self.name}: {field} have shape {list(values.shape)}, expected [D{tail}] with {expected}"
                )
        if labels.is_floating_point() and not bool((labels == labels.round()).all()):
            raise InputError(f"{self.name}: labels such as {_first(labels)}, expected whole numbers from 1")
        order = scores.argsort(descending=True, stable=True)
        return Detections(boxes[order].float(), scores[order].float(), labels[order].long())


def _first(values: Tensor) -> float:
    return float(values.flatten()[0])
