"""Somebody's torch data set as ours: the same images and objects, and every wrong item by its place, key and value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset
from torchvision import tv_tensors

from robustdet.data.datamodule import DetectionDataModule
from robustdet.data.shapes_set import Shapes
from robustdet.errors import InputError
from robustdet.evaluation.content import contents
from robustdet.interop.torch_dataset import TorchData
from robustdet.interop.torch_items import sample

CLASSES = ["a", "b", "c"]
GREY = torch.full((3, 60, 80), 0.5)
SOUND: dict[str, Any] = {"boxes": torch.tensor([[4.0, 6.0, 44.0, 36.0]]), "labels": torch.tensor([2])}


def read(image: Any, target: Any) -> Any:
    return sample((image, target), "mine[7]", "7", 32, CLASSES)


@pytest.mark.parametrize("kind", ["bytes", "floats", "picture"])
def test_it_reads_what_our_own_data_module_reads(kind: str, tmp_path: Path):
    shapes = Shapes(tmp_path, size=48, train=2, val=2, test=5)
    module = DetectionDataModule(lambda root, download: shapes, tmp_path, 32, 2, 2)
    module.setup("test")
    images = {
        "bytes": lambda file: torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1),
        "floats": lambda file: torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255,
        "picture": Image.open,
    }
    items = [
        (
            images[kind](one.image_path),
            {"boxes": one.boxes, "labels": one.labels, "difficult": one.difficult, "iscrowd": one.crowd,
             "image_id": one.image_id, "area": None},
        )
        for one in shapes.annotations("test") or []
    ]  # fmt: skip
    theirs = TorchData(items, None, len(shapes.classes), 32, eval_batch_size=2)
    for one, other in zip(theirs.test_dataloader(), module.test_dataloader(), strict=True):
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=0 if kind != "floats" else 1 / 255)
        if kind != "floats":  # which are not rounded to bytes as they are resized
            assert contents(one) == contents(other)


def test_what_it_may_hold_besides():
    image, target = read(
        GREY.double(), {**SOUND, "iscrowd": [1], "difficult": torch.tensor([False]), "image_id": torch.tensor([12])}
    )
    assert image.shape == (3, 32, 32)
    assert (image == 0.5).all()
    assert (target.image_id, target.original_size) == ("12", (60, 80))
    assert target.crowd.tolist() == [True]
    assert target.difficult.tolist() == [False]
    torch.testing.assert_close(target.boxes, torch.tensor([[4 * 0.4, 6 * 32 / 60, 44 * 0.4, 36 * 32 / 60]]))
    boxes = tv_tensors.BoundingBoxes(SOUND["boxes"], format="XYXY", canvas_size=(60, 80))
    assert torch.equal(read(GREY, {**SOUND, "boxes": boxes})[1].boxes, target.boxes)
    for boxes, labels in (([SOUND["boxes"][0]], [torch.tensor(2)]), (SOUND["boxes"].numpy(), np.array([2], np.uint64))):
        again = read(GREY, {"boxes": boxes, "labels": labels})[1]
        assert torch.equal(again.boxes, target.boxes)
        assert again.labels.tolist() == [2]
    assert read(GREY, {"boxes": [], "labels": []})[1].boxes.shape == (0, 4)
    cut = read(GREY, {**SOUND, "boxes": [[-0.5, 0, 80.5, 60]]})[1].boxes
    torch.testing.assert_close(cut, torch.tensor([[0.0, 0.0, 32.0, 32.0]]))


def changed(**values: Any) -> tuple[Tensor, dict[str, Any]]:
    return GREY, {**SOUND, **values}


FRAME = r", expected xyxy in pixels of the image, upper edge exclusive \(looks like "
WRONG = {
    "one thing": (GREY, r"expected \(image, \{boxes, labels\}\), got a Tensor"),
    "three": ((GREY, SOUND, 1), "got a tuple of 3"),
    "a list": ((GREY, [SOUND]), r"dictionary of boxes and labels, got a list of 1 \(torchvision\.datasets\.wrap"),
    "no labels": ((GREY, {"boxes": [], "bbox": []}), "no labels among boxes, bbox"),
    "nothing": ((GREY, {}), "no boxes and no labels among nothing"),
    "an array": ((np.zeros((9, 9, 3)), SOUND), r"its image is a ndarray, expected a float .*to_tensor makes one"),
    "hwc": ((GREY.permute(1, 2, 0), SOUND), r"shape \[60, 80, 3\], expected .* \(looks like \[H, W, 3\]: permute"),
    "grey": ((GREY[:1], SOUND), r"its image has shape \[1, 60, 80\], expected a float tensor \[3, H, W\] in \[0, 1\]"),
    "integers": ((GREY.int(), SOUND), r"its image is of torch\.int32, expected"),
    "bytes as floats": ((GREY * 255, SOUND), r"from 128 to 128, expected .* \(looks like 0\.\.255: divide by 255"),
    "normalised": ((GREY - 1, SOUND), r"values from -0\.5 to -0\.5, .* \(looks normalised by a mean, which is"),
    "above one": ((GREY * 2.01, SOUND), r"from 1 to 1, expected .* \(looks interpolated: clamp it\)"),
    "nan": ((GREY * torch.nan, SOUND), r"from nan to nan, .* \(looks as if it had NaN or infinity\)"),
    "floats in PIL": ((Image.new("F", (9, 9)), SOUND), r"has pixels of mode F \(floats\), whose range is not told"),
    "ragged": (changed(boxes=[[1, 2], [3]]), "boxes cannot be made a tensor of: "),
    "three edges": (changed(boxes=torch.zeros(1, 3)), r"boxes have shape \[1, 3\], expected \[N, 4\]"),
    "nan boxes": (changed(boxes=[[0, 0, torch.nan, 9]]), "boxes have NaN or infinity, expected xyxy"),
    "fractions": (changed(boxes=[[0.1, 0.1, 0.5, 0.9]]), r"boxes have \[0\.1, 0\.1, 0\.5, 0\.9\] in an image of 80 x 60"
                  " pixels" + FRAME + "fractions of the image: times its width and height"),
    "xywh": (changed(boxes=[[40, 30, 20, 25]]), r"boxes have \[40\.0, 30\.0, 20\.0, 25\.0\] in .*" + FRAME + "xywh"),
    "flat": (changed(boxes=[[70, 30, 70, 50]]), FRAME + "an object without area: leave it out"),
    "another size": (changed(boxes=[[40, 30, 200, 250]]), FRAME + "pixels of the image before it was resized"),
    "at the edge": (changed(boxes=[[80, 10, 80.5, 20]]), FRAME + "an object outside the image: leave it out"),
    "tv xywh": (changed(boxes=tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYWH", canvas_size=(60, 80))),
                "boxes are XYWH, expected xyxy"),
    "from 0": (changed(labels=[0]), r"labels from 0 to 0, expected whole numbers from 1 to 3 \(1: a, 2: b, 3: c\)"
               r" \(looks like it counts from 0, which is the background here: add 1\)"),
    "too many": (changed(labels=[90]), r"labels from 90 to 90, expected whole numbers from 1 to 3 \(1: a"),
    "float labels": (changed(labels=[1.0]), "labels are of torch.float32, expected whole numbers from 1 to 3"),
    "complex labels": (changed(labels=torch.ones(1) * 1j), "labels are of torch.complex64, expected real"),
    "two labels": (changed(labels=[1, 2]), r"labels have shape \[2\], expected \[1\], one for each box"),
    "marks": (changed(iscrowd=[7]), r"iscrowd is \[7\], expected 0 or 1 for each of 1 boxes"),
    "id": (changed(image_id=None), "image_id is None, expected a number or a text"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_item_is_named_with_what_was_expected(name: str):
    item, text = WRONG[name]
    with pytest.raises(InputError, match=r"^mine\[7\].*" + text):
        sample(item, "mine[7]", "7", 32, CLASSES)


class Two:
    name = "mine"
    classes = ("__background__", *CLASSES)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return GREY, {**SOUND, "image_id": 5}


class Endless(IterableDataset[Any]):
    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        yield GREY, SOUND


def test_a_wrong_data_set_is_named():
    with pytest.raises(InputError, match=r"mine\[1\]: image_id '5' is that of item 0 too, expected one of each image"):
        list(TorchData(Two(), None, 3, 32).test_dataloader())
    other = (
        "the detector knows the classes c, b, a; the data mine have a, b, c: .*; a data set whose labels count in the "
    )
    with pytest.raises(InputError, match=other):
        TorchData(Two(), ["c", "b", "a"], 3, 32)
    with pytest.raises(
        InputError, match="data: Endless has no length or cannot be indexed by place, expected a map-style data"
    ):
        TorchData(Endless(), None, 3, 32)
    with pytest.raises(
        InputError, match=r"data: DataLoader has no length or .*\{boxes, labels\}\): give its \.dataset$"
    ):
        TorchData(DataLoader([1]), None, 3, 32)
    with pytest.raises(InputError, match="data: dict has no length or cannot be indexed by place"):
        TorchData({"a": (GREY, SOUND)}, None, 3, 32)
    with pytest.raises(InputError, match="data: list is empty, expected images"):
        TorchData([], None, 3, 32)
    with pytest.raises(InputError, match="batch_size=0: expected a whole number, 1 or more"):
        TorchData(Two(), None, 3, 32, eval_batch_size=0)
    assert TorchData(Two(), None, 3, 32).classes == CLASSES
    assert TorchData([(GREY, SOUND)], None, 3, 32).classes == ["1", "2", "3"]


@pytest.mark.parametrize(
    "part", [lambda data: Subset(data, [0]), lambda data: ConcatDataset([data, Subset(data, [1])])]
)
def test_what_is_taken_from_a_data_set_has_its_classes(part: Callable[[Any], Any]):
    assert TorchData(part(Two()), None, 3, 32).classes == CLASSES
    with pytest.raises(InputError, match=r"the detector knows the classes c, b, a; the data .* have a, b, c"):
        TorchData(part(Two()), ["c", "b", "a"], 3, 32)


def test_parts_with_other_classes_are_no_data_set():
    parts = r"parts of the ConcatDataset differ in their classes, expected the same \(0: a, b, c; 1: none\)"
    with pytest.raises(InputError, match=parts):
        TorchData(ConcatDataset([Two(), [(GREY, SOUND)]]), None, 3, 32)  # type: ignore[list-item]


def test_what_the_data_set_raises_itself_is_told_with_the_item():
    class Broken(Two):
        def __getitem__(self, index: int) -> Any:
            return [][index]

    with pytest.raises(IndexError) as told:
        list(TorchData(Broken(), None, 3, 32).test_dataloader())
    assert told.value.__notes__ == ["raised by mine[0], as the data set reads it"]
