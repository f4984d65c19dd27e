"""Is an attacked image still one when it is a file? What lives below 8 bits is no threat, and no robustness either."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from robustdet.evaluation.average_precision import Matched
from robustdet.evaluation.chance import DEVIATIONS, resampled_map
from robustdet.evaluation.checks import flag
from robustdet.types import Detections, Detector, Images

MARGIN = 0.005  # of mAP: less is no difference


def detections_8bit(detector: Detector, images: Images) -> list[Detections]:
    """Detections on the images with every value rounded to one of 256, as saving them would."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        return [found.to("cpu") for found in detector.detect(detector((images * 255).round() / 255))]


def lost_in_rounding(
    map: float, map_8bit: float, matched: Mapping[str, Matched], matched_8bit: Mapping[str, Matched]
) -> str | None:
    """Rounding changes mAP, down or up, by more than `MARGIN`, and not by the chance of these images.

    Chance is judged by the bootstrap, see :mod:`robustdet.evaluation.chance`.
    """
    if abs(map_8bit - map) <= MARGIN or len(matched) < 2:
        return None
    before, after = (resampled_map([of[name] for name in sorted(of)]) for of in (matched, matched_8bit))
    differences = after - before
    if not abs(differences[0]) > DEVIATIONS * np.nanstd(differences[1:]):
        return None
    return flag(
        "lost_in_rounding", f"{100 * map:.1f} mAP become {100 * map_8bit:.1f} when the images are saved in 8 bits"
    )
