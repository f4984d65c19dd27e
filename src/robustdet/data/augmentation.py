"""Training augmentation: albumentations behind one call, and the transforms of SSD that it does not have.

W. Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016, section 2.2 and its Caffe code.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from robustdet.errors import InputError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it would otherwise ask the network for its version

import albumentations as A
from albumentations.core.type_definitions import Targets

from robustdet.data.annotation import Annotation


class Augmentation:
    """A list of albumentations transforms, drawn anew for every call from the generator that it is handed.

    Albumentations' own transforms keep bytes, and so clip pixels to their range; `PhotometricDistortion` does neither.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform | A.BaseCompose] = ()) -> None:
        # Only an object's index travels with its box: albumentations returns every other field as floats.
        boxes = A.BboxParams(format="pascal_voc", label_fields=["objects"])
        self.pipeline = A.Compose([A.NoOp(), *transforms], bbox_params=boxes)  # one that takes boxes, or it warns

    def __call__(
        self, image: UInt8[np.ndarray, "H W 3"], annotation: Annotation, rng: np.random.Generator
    ) -> tuple[
        UInt8[np.ndarray, "H2 W2 3"] | Float32[np.ndarray, "H2 W2 3"],
        Float32[np.ndarray, "M 4"],
        Int64[np.ndarray, "M"],
    ]:
        """Return the new image, the boxes that remain (xyxy pixels of it) and their indices in the annotation.

        The image is on the scale of 0..255, in bytes or, of `PhotometricDistortion`, in floats that may lie outside.
        """
        # Seeding the pipeline would give every transform the same stream, and "flip" and "crop" would always coincide.
        self.pipeline.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        result = self.pipeline(
            image=image, bboxes=annotation.boxes, objects=np.arange(len(annotation.boxes), dtype=np.int64)
        )
        boxes = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        return result["image"], boxes, np.asarray(result["objects"], dtype=np.int64)


class PhotometricDistortion(A.ImageOnlyTransform):
    """SSD's distortion of colours in floats that nothing clips, as in the published RobustDet code.

    In order: brightness; contrast, saturation and hue with contrast first or last, evenly; a random order of the three
    channels. Each of the five is left out half of the time. Bytes RGB go in, floats come out, which may lie far
    outside 0..255.

    Args:
        brightness: added, uniform in ± this, on the scale of 0..255.
        contrast, saturation: factors, uniform in 1 ± this.
        hue: added, uniform in ± this, in degrees.
        p: probability that any of it is done.
    """

    def __init__(
        self,
        brightness: float = 32.0,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 18.0,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def get_params(self) -> dict[str, Any]:
        draw = self.py_random

        def sometimes(low: float, high: float, otherwise: float) -> float:
            return draw.uniform(low, high) if draw.random() < 0.5 else otherwise

        return {
            "brightness": sometimes(-self.brightness, self.brightness, 0.0),
            "contrast": sometimes(1 - self.contrast, 1 + self.contrast, 1.0),
            "contrast_first": draw.random() < 0.5,
            "saturation": sometimes(1 - self.saturation, 1 + self.saturation, 1.0),
            "hue": sometimes(-self.hue, self.hue, 0.0),
            "channels": draw.sample(range(3), 3) if draw.random() < 0.5 else [0, 1, 2],
        }

    def apply(
        self,
        img: UInt8[np.ndarray, "H W 3"],
        brightness: float,
        contrast: float,
        contrast_first: bool,
        saturation: float,
        hue: float,
        channels: list[int],
        **_: Any,
    ) -> Float32[np.ndarray, "H W 3"]:
        first, last = (contrast, 1.0) if contrast_first else (1.0, contrast)
        pixels = (img.astype(np.float32) + np.float32(brightness)) * np.float32(first)
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)  # of floats: hue in degrees, saturation 1 where a channel is 0
        degrees = (hsv[..., :1] + np.float32(hue)) % 360
        hsv = np.concatenate([degrees, hsv[..., 1:2] * np.float32(saturation), hsv[..., 2:]], axis=2)
        pixels = np.float32(last) * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        return np.ascontiguousarray(pixels[..., channels])


class Expand(A.DualTransform):
    """Put the image at a random place on a canvas ``ratio`` times its size, of one colour: objects get smaller.

    Args:
        max_ratio: the ratio is uniform in [1, max_ratio].
        fill: RGB, 0..255.
        p: probability.
    """

    _targets = (Targets.IMAGE, Targets.BBOXES)

    def __init__(self, max_ratio: float = 4.0, fill: Sequence[int] = (123, 117, 104), p: float = 0.5) -> None:
        super().__init__(p=p)
        self.max_ratio = max_ratio
        self.fill = tuple(fill)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        ratio = self.py_random.uniform(1.0, self.max_ratio)
        canvas = (int(height * ratio), int(width * ratio))
        return {
            "canvas": canvas,
            "top": self.py_random.randint(0, canvas[0] - height),
            "left": self.py_random.randint(0, canvas[1] - width),
        }

    def apply(self, img: np.ndarray, canvas: tuple[int, int], top: int, left: int, **_: Any) -> np.ndarray:
        expanded = np.empty((*canvas, 3), dtype=img.dtype)
        expanded[:] = self.fill
        expanded[top : top + img.shape[0], left : left + img.shape[1]] = img
        return expanded

    def apply_to_bboxes(
        self, bboxes: np.ndarray, canvas: tuple[int, int], top: int, left: int, shape: tuple[int, ...], **_: Any
    ) -> np.ndarray:
        height, width = shape[:2]
        expanded = bboxes.copy()  # in fractions of the image, other fields behind the fourth column
        expanded[:, [0, 2]] = (bboxes[:, [0, 2]] * width + left) / canvas[1]
        expanded[:, [1, 3]] = (bboxes[:, [1, 3]] * height + top) / canvas[0]
        return expanded


class IoUCrop(A.DualTransform):
    """SSD's crop: a patch that at least one object overlaps by a drawn minimum; objects with their centre inside stay.

    A mode is drawn from ``min_ious``. None leaves the image whole; a number asks that the IoU of the patch with at
    least one object is as large (0: any patch). A patch has sides of ``min_side``..1 of the image's, an aspect ratio of
    1/2..2, and the centre of an object inside. Where ``tries`` patches all fail, another mode is drawn.

    Args:
        min_ious: modes, one of them None.
        min_side: shortest side, as a fraction of the image's.
        tries: patches to try per mode.
        p: probability.
    """

    _targets = (Targets.IMAGE, Targets.BBOXES)

    def __init__(
        self,
        min_ious: Sequence[float | None] = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0),
        min_side: float = 0.3,
        tries: int = 50,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        if None not in min_ious:
            raise InputError(
                f"min_ious needs null, the whole image, among its modes or may never end: {list(min_ious)}."
            )
        self.min_ious = tuple(min_ious)
        self.min_side = min_side
        self.tries = tries

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        boxes = np.array([box[:4] for box in data["bboxes"]]).reshape(-1, 4) * [width, height, width, height]
        while len(boxes) and (min_iou := self.py_random.choice(self.min_ious)) is not None:
            patches = self._patches(height, width)
            accepted = np.flatnonzero(_accepts(patches, boxes, min_iou))
            if len(accepted):
                return {"patch": tuple(int(edge) for edge in patches[accepted[0]])}
        return {"patch": (0, 0, width, height)}

    def _patches(self, height: int, width: int) -> np.ndarray:
        """Candidates [tries, 4], xyxy whole pixels, of an allowed aspect ratio (fewer than ``tries`` may remain)."""
        draw = self.random_generator.uniform
        sides = np.floor(draw(self.min_side, 1.0, (self.tries, 2)) * [width, height]).clip(min=1)
        corners = np.floor(draw(0.0, 1.0, (self.tries, 2)) * ([width, height] - sides + 1))
        aspect = sides[:, 0] / sides[:, 1]
        return np.hstack([corners, corners + sides])[(aspect >= 0.5) & (aspect <= 2.0)]

    def apply(self, img: np.ndarray, patch: tuple[int, int, int, int], **_: Any) -> np.ndarray:
        left, top, right, bottom = patch
        return np.ascontiguousarray(img[top:bottom, left:right])

    def apply_to_bboxes(
        self, bboxes: np.ndarray, patch: tuple[int, int, int, int], shape: tuple[int, ...], **_: Any
    ) -> np.ndarray:
        height, width = shape[:2]
        left, top, right, bottom = patch
        boxes = bboxes[:, :4] * [width, height, width, height]
        inside = _centres_inside(np.array([patch], dtype=np.float64), boxes)[0]
        cropped = bboxes[inside]
        cropped[:, [0, 2]] = (boxes[inside][:, [0, 2]].clip(left, right) - left) / (right - left)
        cropped[:, [1, 3]] = (boxes[inside][:, [1, 3]].clip(top, bottom) - top) / (bottom - top)
        return cropped


def _accepts(patches: np.ndarray, boxes: np.ndarray, min_iou: float) -> np.ndarray:
    """[T]: whether a patch holds an object's centre and overlaps an object by at least ``min_iou``."""
    low = np.maximum(patches[:, None, :2], boxes[None, :, :2])
    high = np.minimum(patches[:, None, 2:], boxes[None, :, 2:])
    intersection = (high - low).clip(min=0).prod(axis=-1)
    area = (patches[:, 2:] - patches[:, :2]).prod(axis=-1), (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
    iou = intersection / (area[0][:, None] + area[1][None] - intersection)
    return (iou >= min_iou).any(axis=1) & _centres_inside(patches, boxes).any(axis=1)


def _centres_inside(patches: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """[T, N]"""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres[None] > patches[:, None, :2]) & (centres[None] < patches[:, None, 2:])).all(axis=-1)
