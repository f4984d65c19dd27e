"""Detectors of the library transformers (the extra `transformers`): DETR, YOLOS, RT-DETR.

Attacks climb their own training loss of each image alone. In it every object is given to one query, by the cheapest
matching of all objects to all queries, which is made anew at each look: it is part of that loss, and where it changes
the loss has a kink. Dropout and RT-DETR's denoising queries, which their training draws by chance, are left out.
RT-DETR takes content and place of its queries from the image, and its training differentiates through neither: its
gradient to the pixels is not the slope of its loss, which is flagged, as that of Faster R-CNN's proposals is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import box_convert

from robustdet.detection.matching import check_boxes
from robustdet.errors import InputError, MissingFileError
from robustdet.interop.foreign import ForeignDetector
from robustdet.interop.torchvision_api import Asked
from robustdet.types import DetectionLosses, Detections, Images, Targets, moved

# By kind: whether the losses that it gives are weighed already.
WEIGHED = {"detr": False, "yolos": False, "rt_detr": True, "rt_detr_v2": True}
HUB = "hub:"
UNNAMED, GAP = re.compile(r"LABEL_\d+"), "N/A"  # what its configuration calls a class without a name, and no class


class TransformersModel(ForeignDetector):
    """Satisfies `robustdet.types.HasLosses`: a network with its image processor's normalisation and post-processing.

    The network sees the images as they are, S x S, which its processor would resize. An image with objects counts as
    one positive, for the losses are divided by its number of objects already.

    Args:
        name: as records call it.
        weights: a folder that ``save_pretrained`` wrote, of the network and perhaps of its image processor;
            "hub:OWNER/NAME", which transformers downloads; None for random ones.
        config: of random weights: the fields of transformers' configuration, ``model_type`` among them.
        classes: names of labels 1..C, one for each of the network's; None: those of its ``id2label``, without COCO's
            gaps; where that has no names, those of the data.
        input_size: S, pixels.
    """

    network: Any  # a transformers.PreTrainedModel
    mean: Tensor
    std: Tensor
    theirs: Tensor
    ours: Tensor

    def __init__(
        self,
        *,
        name: str,
        weights: str | Path | None,
        input_size: int,
        config: Mapping[str, Any] | None = None,
        classes: Sequence[str] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.name, self.input_size = name, input_size
        count = num_classes if classes is None else len(classes)
        self.network, self._processor = _random(config, count) if weights is None else _loaded(str(weights))
        self._weighed = WEIGHED[self.network.config.model_type]
        self.file = None if weights is None else next(iter(sorted(Path(weights).glob("model.*"))), None)
        names = [self.network.config.id2label[label] for label in range(self.network.config.num_labels)]
        ids = [label for label, word in enumerate(names) if word != GAP]
        named = not any(UNNAMED.fullmatch(word) for word in names)
        if classes is not None and len(classes) not in (len(ids), len(names)):
            raise InputError(f"model.classes names {len(classes)} classes, and {name} has {len(ids)}")
        self.classes = classes or ([names[label] for label in ids] if named else None)
        if not named and count is not None and count != len(ids):
            raise InputError(f"{name} has {len(ids)} classes without names, and the data have {count}")
        self.num_classes = len(ids)
        ours = torch.zeros(len(names), dtype=torch.long).scatter(0, torch.tensor(ids), torch.arange(1, len(ids) + 1))
        self.register_buffer("theirs", torch.tensor([-1, *ids]), persistent=False)
        self.register_buffer("ours", ours, persistent=False)  # 0 for a gap
        for key, neutral in (("mean", 0.0), ("std", 1.0)):
            values = getattr(self._processor, f"image_{key}") if self._processor.do_normalize else [neutral] * 3
            self.register_buffer(key, torch.tensor(values).reshape(3, 1, 1), persistent=False)

    def forward(self, images: Images, generator: torch.Generator | None = None) -> Asked:
        if images.shape[1:] != (3, self.input_size, self.input_size):
            raise InputError(
                f"expected images of shape [B, 3, {self.input_size}, {self.input_size}], got {list(images.shape)}"
            )
        return Asked((images - self.mean) / self.std, generator)

    def assign(self, targets: Targets) -> list[dict[str, Tensor]]:
        check_boxes(targets)
        device = self.theirs.device
        return [
            {
                "class_labels": self.theirs[moved(one.labels, device)],
                "boxes": box_convert(moved(one.boxes, device), "xyxy", "cxcywh") / self.input_size,
            }
            for one in (each.learnable for each in targets)
        ]

    def losses(self, raw: Asked, assignment: list[dict[str, Tensor]]) -> DetectionLosses:
        parts = [self._parts(image, target) for image, target in zip(raw.images, assignment, strict=True)]
        classification, localization = (torch.stack(of_images) for of_images in zip(*parts, strict=True))
        positives = torch.tensor([len(one["class_labels"]) > 0 for one in assignment], device=raw.images.device)
        return DetectionLosses(classification, localization, positives.long())

    def detect(self, raw: Asked) -> list[Detections]:
        outputs = self.network(pixel_values=raw.images)
        sizes = [(self.input_size, self.input_size)] * len(raw.images)
        plain = SimpleNamespace(logits=outputs.logits, pred_boxes=outputs.pred_boxes)
        found = self._processor.post_process_object_detection(plain, threshold=0.0, target_sizes=sizes)
        return [self._named_as_ours(one["boxes"], one["scores"], one["labels"]) for one in found]

    def train(self, mode: bool = True) -> TransformersModel:
        """Its network stays in evaluation mode: a loss that is drawn by chance is no function of the image."""
        super().train(mode)
        self.network.eval()
        return self

    def _parts(
        self, image: Float[Tensor, "3 S S"], target: dict[str, Tensor]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Classification and localization of one image, weighed as in its training."""
        said = self.network(pixel_values=image[None], labels=[target]).loss_dict
        config, sums = self.network.config, [image.new_zeros(()), image.new_zeros(())]
        for name, value in said.items():
            if not name.startswith("loss_"):  # a count of errors
                continue
            of_boxes = name.startswith(("loss_bbox", "loss_giou"))
            weight = 1.0
            if of_boxes and not self._weighed:
                weight = config.bbox_loss_coefficient if name.startswith("loss_bbox") else config.giou_loss_coefficient
            sums[of_boxes] = sums[of_boxes] + weight * value
        return sums[0], sums[1]

    def _named_as_ours(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
        """Best first, without those of COCO's gaps."""
        order = scores.argsort(descending=True, stable=True)
        order = order[self.ours[labels[order]] > 0]
        return Detections(boxes[order], scores[order], self.ours[labels[order]])


def _random(config: Mapping[str, Any] | None, num_classes: int | None) -> tuple[Any, Any]:
    if config is None or "model_type" not in config or num_classes is None:
        raise InputError(
            "model.weights=null are random ones and need model.config={model_type: detr, …} and, without data, "
            "model.classes=[a,b,…]"
        )
    library = _library()
    kind = _known(str(config["model_type"]), "model.config.model_type")
    fields = {key: value for key, value in config.items() if key != "model_type"}
    built = library.AutoConfig.for_model(kind, **fields, num_labels=num_classes)
    if hasattr(built, "use_pretrained_backbone"):
        built.use_pretrained_backbone = False
    return library.AutoModelForObjectDetection.from_config(built), _processor(kind)


def _loaded(weights: str) -> tuple[Any, Any]:
    """Of a folder, without asking the network, or of the hub."""
    library, of_hub = _library(), weights.startswith(HUB)
    if not of_hub and not Path(weights, "config.json").is_file():
        raise MissingFileError(
            f"model.weights={weights}: no config.json there; expected a folder that save_pretrained wrote, or "
            f"{HUB}OWNER/NAME, which is downloaded"
        )
    source, local = weights.removeprefix(HUB), {"local_files_only": not of_hub}
    try:
        kind = _known(library.AutoConfig.from_pretrained(source, **local).model_type, f"model.weights={weights}")
        network = library.AutoModelForObjectDetection.from_pretrained(source, **local)
    except (OSError, RuntimeError) as error:
        raise InputError(f"model.weights={weights} cannot be loaded by transformers: {error}") from error
    if of_hub or Path(source, "preprocessor_config.json").is_file():
        return network, library.AutoImageProcessor.from_pretrained(source, **local)
    return network, _processor(kind)


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError("this detector needs transformers: pip install 'robustdet[transformers]'") from error
    return transformers


def _known(kind: str, whose: str) -> str:
    if kind not in WEIGHED:
        raise InputError(f"{whose}: {kind} is none of the detectors known here: {', '.join(WEIGHED)}")
    return kind


def _processor(kind: str) -> Any:
    """The image processor of this kind, as transformers has it by default."""
    name = {"detr": "DetrImageProcessor", "yolos": "YolosImageProcessor"}.get(kind, "RTDetrImageProcessor")
    return getattr(_library(), name)()
