"""Annotations are executed while tests run."""

from __future__ import annotations

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from robustdet.attacks import LInf
from robustdet.detection.boxes import pairwise_iou
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


def test_what_python_cannot_resolve_is_for_readers(monkeypatch: pytest.MonkeyPatch):
    def unresolved(value: annotations.nowhere) -> int:  # type: ignore[name-defined]
        return value

    assert checked(unresolved, typechecker=None) is unresolved
