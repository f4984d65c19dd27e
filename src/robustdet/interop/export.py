"""A detector as one file for other runtimes: normalisation, network, decoding and suppression in one graph.

ONNX (the extra `onnx`) and torch.export; batches of any size. The graph takes images [B, 3, S, S], RGB in [0, 1], and
gives boxes [B, D, 4] (xyxy, pixels of the input), scores [B, D] and labels [B, D] (1..C), best first. D is the largest
number of detections of an image; rows with a score of 0 are filling.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import nms

from robustdet.defences.aa_conv import AAConv2d
from robustdet.detection.boxes import decode
from robustdet.detection.post_processing import FARTHEST
from robustdet.detection.ssd import SSD
from robustdet.errors import InputError, KindError
from robustdet.files import whole
from robustdet.types import Images

Format: TypeAlias = Literal["onnx", "torch_export"]
NAMES = ("boxes", "scores", "labels")  # of the outputs
METADATA = "robustdet.json"  # the extra file of a torch.export archive

Suppression: TypeAlias = Callable[[Tensor, Tensor, float, float], Tensor]
"""(boxes [B, P, 4], scores [B, C, P], IoU, score) → the scores, 0 where a better box of that class overlaps by more
than this IoU, and where they do not exceed this score."""


class Exportable(nn.Module):
    """An SSD with its post-processing, in operations that know any batch size: see the module's head.

    Equal to ``detector.detect(detector(images))``, but that order may differ where scores are equal.
    """

    def __init__(self, detector: SSD, suppress: Suppression) -> None:
        super().__init__()
        self.detector = detector
        self.suppress = suppress

    def forward(self, images: Images) -> tuple[Float[Tensor, "B D 4"], Float[Tensor, "B D"], Int[Tensor, "B D"]]:
        detector, settings = self.detector, self.detector.post_processing
        raw = detector(images)
        finite = raw.cls_logits.isfinite().all(dim=2).all(dim=1) & raw.bbox_regression.isfinite().all(dim=2).all(dim=1)
        scores = raw.cls_logits.softmax(dim=-1)[..., 1 : detector.num_classes + 1].mT  # [B, C, P]
        scores = scores.where(finite[:, None, None], 0)
        boxes = decode(raw.bbox_regression, raw.default_boxes).clamp(-FARTHEST, FARTHEST) * detector.input_size
        count = scores.shape[2]
        best, index = scores.topk(min(settings.candidates_per_class, count), dim=2)
        candidates = torch.zeros_like(scores).scatter(2, index, best)
        kept = self.suppress(boxes, candidates, settings.nms_threshold, settings.score_threshold).flatten(1)
        most = best.shape[1] * best.shape[2] if settings.max_detections is None else settings.max_detections
        scores, place = kept.topk(min(most, kept.shape[1]), dim=1)
        real = scores > 0
        labels = torch.where(real, place // count + 1, 0)
        boxes = boxes.gather(1, (place % count)[..., None].expand(-1, -1, 4))
        return boxes.where(real[..., None], 0), scores, labels


def suppressed(boxes: Tensor, scores: Tensor, iou: float, score: float) -> Tensor:
    """`Suppression` by torchvision's NMS, of all images and classes at once, each in a place of its own."""
    image, label, place = (scores > score).nonzero(as_tuple=True)
    found, best = boxes[image, place].double(), scores[image, label, place]  # float32 is too coarse that far out
    apart = (image * scores.shape[1] + label) * (boxes.amax() - boxes.amin() + 1).double()
    keep = nms(found + apart[:, None], best.double(), iou)
    return torch.zeros_like(scores).index_put((image[keep], label[keep], place[keep]), best[keep])


# ONNX's NonMaxSuppression takes images and classes as they are, which no operation of PyTorch's does: one of our own
# stands for it until the graph is written.
_schema = "(Tensor boxes, Tensor scores, float iou, float score) -> Tensor"
_suppressed_in_onnx = torch.library.custom_op("robustdet::suppressed", suppressed, mutates_args=(), schema=_schema)
_suppressed_in_onnx.register_fake(lambda boxes, scores, iou, score: torch.empty_like(scores))


def _onnx_suppressed(boxes: Any, scores: Any, iou: float, score: float) -> Any:
    """`suppressed` in ONNX's own operators."""
    from onnxscript import opset18

    op: Any = opset18
    all_of_them = op.Constant(value_ints=[2**31 - 1])
    limits = [op.Constant(value_floats=[limit]) for limit in (iou, score)]
    selected = op.NonMaxSuppression(boxes, scores, all_of_them, *limits)  # [number, (image, class, box)]
    nothing = op.Mul(scores, op.Constant(value_float=0.0))
    return op.ScatterND(nothing, selected, op.GatherND(scores, selected))


def export(detector: nn.Module, file: Path, kind: Format, classes: Sequence[str], name: str) -> None:
    """Writes ``detector``, in evaluation mode, to ``file``, with ``name``, ``classes`` (names of labels 1..C) and its
    input's size in the file's metadata.

    Raises KindError for what is no SSD of ours, InputError where the extra `onnx` is not installed.
    """
    if not isinstance(detector, SSD):
        name = f"{type(detector).__module__}.{type(detector).__name__}"  # torchvision has an SSD too
        raise KindError(f"{name} cannot be exported here: expected an SSD or a RobustSSD of this project")
    if detector.training:
        raise InputError("the detector is in training mode: call .eval() before it is exported")
    metadata = {"name": name, "classes": json.dumps(list(classes)), "input_size": str(detector.input_size)}
    write = {"onnx": _write_onnx, "torch_export": _write_program}[kind]
    file.parent.mkdir(parents=True, exist_ok=True)
    with _exportable(detector, kind), warnings.catch_warnings(), whole(file) as unfinished:
        warnings.simplefilter("ignore")  # of PyTorch's own affairs, which change with every version
        write(detector, unfinished, metadata)


def traced(detector: SSD, suppress: Suppression) -> torch.export.ExportedProgram:
    device = detector.default_boxes.device
    example = torch.rand(2, 3, detector.input_size, detector.input_size, device=device)
    batch = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad():
        return torch.export.export(Exportable(detector, suppress).eval(), (example,), dynamic_shapes=(batch,))


def _write_onnx(detector: SSD, file: Path, metadata: dict[str, str]) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"format=onnx needs {error.name}: pip install 'robustdet[onnx]'") from error
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it tells of every constant that it finds twice
    program = traced(detector, torch.ops.robustdet.suppressed)
    made = torch.onnx.export(
        program,
        input_names=["images"],
        output_names=NAMES,
        custom_translation_table={torch.ops.robustdet.suppressed.default: _onnx_suppressed},
        dynamic_shapes=({0: "batch"},),  # the dimension's name
        dynamo=True,
        verbose=False,
    )
    assert made is not None
    made.model.metadata_props.update(metadata)
    made.save(file, external_data=False)


def _write_program(detector: SSD, file: Path, metadata: dict[str, str]) -> None:
    with file.open("wb") as stream:
        torch.export.save(traced(detector, suppressed), stream, extra_files={METADATA: json.dumps(metadata)})


@contextmanager
def _exportable(detector: SSD, kind: Format) -> Iterator[None]:
    """Inside, AA-convolutions are computed in the way that a graph of any batch size can write down: ONNX has no
    convolution with as many groups as there are images, so K convolutions' outputs are mixed there, K times the work.
    """
    layers = [module for module in detector.modules() if isinstance(module, AAConv2d)]
    before = [layer.execution for layer in layers]
    try:
        for layer in layers:
            layer.execution = "basis" if kind == "onnx" and not layer.is_pointwise else "grouped"
        yield
    finally:
        for layer, execution in zip(layers, before, strict=True):
            layer.execution = execution
