from __future__ import annotations

import pytest

from robustdet.errors import InputError
from robustdet.interop.classes import require_same_classes


@pytest.mark.parametrize(
    ("ours", "way"),
    [
        (["b", "a"], r"'data\.source\.classes=\[a,b\]' reads these data with the detector's labels"),
        (["a"], r"'data\.source\.classes=\[a,b\]' reads these data with the detector's labels"),
        (["a", "c"], r"the detector does not know c"),
    ],
)
def test_others_are_refused_with_both_lists_and_a_way(ours: list[str], way: str) -> None:
    text = rf"x\.ckpt knows the classes a, b; the data mine have {', '.join(ours)}: they must be the same.*; {way}"
    with pytest.raises(InputError, match=text):
        require_same_classes(["a", "b"], ours, "x.ckpt", "mine")
    require_same_classes(["a", "b"], ["a", "b"], "x.ckpt", "mine")  # what is the same passes
    require_same_classes(None, ours, "x.ckpt", "mine")  # and who does not say cannot contradict
