"""Annotations are executed while tests run."""

from __future__ import annotations

import pkgutil
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

import robustdet
from robustdet.attacks import LInf
from robustdet.defences.schedules import AdversarialBatch
from robustdet.detection.boxes import pairwise_iou
from robustdet.types import Batch
from tests import annotations
from tests.annotations import CALLS, begin_test, checked


@checked(typechecker=None)
def joined(one: Float[Tensor, "B 4"], other: Float[Tensor, "B 1"]) -> Float[Tensor, "B 5"]:
    return torch.cat([one, other], dim=1)


def test_those_of_the_package_are_executed():
    boxes = torch.rand(3, 4)
    with pytest.raises(BeartypeCallHintViolation, match="pairwise_iou"):
        pairwise_iou(boxes, boxes[:, :3])
    with pytest.raises(BeartypeCallHintViolation, match="pairwise_iou"):
        pairwise_iou(boxes.long(), boxes)
    with pytest.raises(BeartypeCallHintViolation, match="epsilon"):
        LInf(epsilon=[8])  # a dataclass's field


@checked(typechecker=None)
@dataclass(frozen=True)
class Heir(AdversarialBatch):
    """Its inherited fields are of types that this module does not know (beartype/beartype, issue 233)."""

    extra: int = 0


def test_inherited_fields_are_checked_by_what_their_own_module_means():
    images = torch.rand(1, 3, 8, 8)
    batch = Batch(images, [])
    assert Heir(images, batch, 1).extra == 1
    with pytest.raises(BeartypeCallHintViolation, match="source"):
        Heir(images, "no batch")
    with pytest.raises(BeartypeCallHintViolation, match="images"):
        Heir(images[0], batch)
    with pytest.raises(BeartypeCallHintViolation, match="extra"):
        Heir(images, batch, "one")


def test_a_size_is_one_size_in_a_call_and_may_be_another_in_the_next():
    assert joined(torch.rand(2, 4), torch.rand(2, 1)).shape == (2, 5)
    assert joined(torch.rand(3, 4), torch.rand(3, 1)).shape == (3, 5)
    with pytest.raises(BeartypeCallHintViolation, match="other"):
        joined(torch.rand(2, 4), torch.rand(3, 1))


@pytest.mark.parametrize("turn", range(2))
def test_the_first_calls_of_every_test_are_checked(turn: int):
    for _ in range(CALLS):
        with pytest.raises(BeartypeCallHintViolation, match="other"):
            joined(torch.rand(2, 4), torch.rand(2, 3))
    assert joined(torch.rand(2, 4), torch.rand(2, 3)).shape == (2, 7)
    begin_test()
    with pytest.raises(BeartypeCallHintViolation, match="other"):
        joined(torch.rand(2, 4), torch.rand(2, 3))


def test_an_annotation_that_cannot_be_executed_is_known():
    """A misspelt one would leave its function unchecked, in silence."""
    for module in pkgutil.walk_packages(robustdet.__path__, "robustdet."):
        with suppress(ImportError):  # what is extra
            import_module(module.name)
    assert {name for name in annotations.unchecked if name.startswith("robustdet.")} == {
        "robustdet.analysis.figures.style.styled.<locals>.in_style",  # a ParamSpec under postponed annotations
        "robustdet.data.shapes_set._voc_xml",  # an ElementTree is generic for type checkers alone
    }

    def misspelt(value: annotations.nowhere) -> int:  # type: ignore[name-defined]
        return value

    assert checked(misspelt, typechecker=None) is misspelt
    assert any(name.endswith("misspelt") for name in annotations.unchecked)
