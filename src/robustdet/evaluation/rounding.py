"""Is an attacked image still one when it is a file? What lives below 8 bits is no threat, and no robustness either."""

from __future__ import annotations

import torch

from robustdet.types import Detections, Detector, Images, in_main_memory


def detections_8bit(detector: Detector, images: Images) -> list[Detections]:
    """Detections on the images with every value rounded to one of 256, as saving them would."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        return in_main_memory(detector.detect(detector((images * 255).round() / 255)))
