"""What others call the tensors of an SSD: one table a dialect, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

# A rule is (pattern, replacement): the first whose pattern matches a whole name is taken.
Rule: TypeAlias = tuple[str, str | Callable[[re.Match[str]], str]]


def _indexed(prefix: str, index: Callable[..., int]) -> Callable[[re.Match[str]], str]:
    """``prefix``, then what ``index`` makes of the numbers that the pattern caught, then what it caught last."""
    return lambda match: f"{prefix}{index(*map(int, match.groups()[:-1]))}{match.groups()[-1]}"


# The authors' RobustDet and its ancestor ssd.pytorch, which has the first five alone. Their extra layers are counted
# without the ReLUs between them.
FROM_AUTHORS: list[Rule] = [
    (r"vgg\.(\d+)\.conv_std(\..*)", r"backbone.layers.\1.conv_log_variance\2"),
    (r"vgg\.(.*)", r"backbone.layers.\1"),
    (r"L2Norm\.(.*)", r"l2_norm.\1"),
    (r"extras\.(\d+)(\..*)", _indexed("extras.layers.", lambda i: 2 * i)),
    (r"loc\.(.*)", r"regression_head.layers.\1"),
    (r"conf\.(.*)", r"classification_head.layers.\1"),
    (r"disc\.base_net\.(.*)", r"aid.trunk.\1"),
]
TO_AUTHORS: list[Rule] = [
    (r"backbone\.layers\.(\d+)\.conv_log_variance(\..*)", r"vgg.\1.conv_std\2"),
    (r"backbone\.layers\.(.*)", r"vgg.\1"),
    (r"l2_norm\.(.*)", r"L2Norm.\1"),
    (r"extras\.layers\.(\d+)(\..*)", _indexed("extras.", lambda i: i // 2)),
    (r"regression_head\.layers\.(.*)", r"loc.\1"),
    (r"classification_head\.layers\.(.*)", r"conf.\1"),
    (r"aid\.trunk\.(.*)", r"disc.base_net.\1"),
]

# torchvision's ssd300_vgg16 cuts VGG16 before pool4 and before pool5, and its extra layers into blocks of two.
FROM_TORCHVISION: list[Rule] = [
    (r"backbone\.scale_weight", r"l2_norm.weight"),
    (r"backbone\.features\.(.*)", r"backbone.layers.\1"),
    (r"backbone\.extra\.0\.7\.(\d+)(\..*)", _indexed("backbone.layers.", lambda i: 30 + i)),
    (r"backbone\.extra\.0\.(\d+)(\..*)", _indexed("backbone.layers.", lambda i: 23 + i)),
    (r"backbone\.extra\.(\d+)\.(\d+)(\..*)", _indexed("extras.layers.", lambda block, i: 4 * (block - 1) + i)),
    (r"head\.(classification|regression)_head\.module_list\.(.*)", r"\1_head.layers.\2"),
]


def rename(name: str, rules: list[Rule]) -> str:
    """The name in the other dialect; one that no rule knows stays as it is, for an error message to show."""
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match is not None:
            return match.expand(replacement) if isinstance(replacement, str) else replacement(match)
    return name
