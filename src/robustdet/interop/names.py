"""What others call the tensors of an SSD: one table a dialect, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

# A rule is (pattern, replacement): the first whose pattern matches a whole name is taken.
Rule: TypeAlias = tuple[str, str | Callable[[re.Match[str]], str]]


def _double(prefix: str) -> Callable[[re.Match[str]], str]:
    return lambda match: f"{prefix}{2 * int(match[1])}{match[2]}"


def _half(prefix: str) -> Callable[[re.Match[str]], str]:
    return lambda match: f"{prefix}{int(match[1]) // 2}{match[2]}"


# The authors' RobustDet and its ancestor ssd.pytorch, which has the first five alone. Their extra layers are counted
# without the ReLUs between them.
FROM_AUTHORS: list[Rule] = [
    (r"vgg\.(\d+)\.conv_std(\..*)", r"backbone.layers.\1.conv_log_variance\2"),
    (r"vgg\.(.*)", r"backbone.layers.\1"),
    (r"L2Norm\.(.*)", r"l2_norm.\1"),
    (r"extras\.(\d+)(\..*)", _double("extras.layers.")),
    (r"loc\.(.*)", r"regression_head.layers.\1"),
    (r"conf\.(.*)", r"classification_head.layers.\1"),
    (r"disc\.base_net\.(.*)", r"aid.trunk.\1"),
]
TO_AUTHORS: list[Rule] = [
    (r"backbone\.layers\.(\d+)\.conv_log_variance(\..*)", r"vgg.\1.conv_std\2"),
    (r"backbone\.layers\.(.*)", r"vgg.\1"),
    (r"l2_norm\.(.*)", r"L2Norm.\1"),
    (r"extras\.layers\.(\d+)(\..*)", _half("extras.")),
    (r"regression_head\.layers\.(.*)", r"loc.\1"),
    (r"classification_head\.layers\.(.*)", r"conf.\1"),
    (r"aid\.trunk\.(.*)", r"disc.base_net.\1"),
]


def rename(name: str, rules: list[Rule]) -> str:
    """The name in the other dialect; one that no rule knows stays as it is, for an error message to show."""
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match is not None:
            return match.expand(replacement) if isinstance(replacement, str) else replacement(match)
    return name
