from __future__ import annotations

import colorsys
import itertools
from collections import Counter
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from robustdet.data.annotation import Annotation
from robustdet.data.augmentation import Augmentation, Expand, IoUCrop, PhotometricDistortion

BOXES = np.array([[5, 8, 30, 40], [50, 10, 90, 35], [20, 50, 110, 75], [2, 60, 12, 78]], dtype=np.float32)


@pytest.fixture
def annotation() -> Annotation:
    labels = np.array([3, 1, 2, 1], dtype=np.int64)
    difficult, crowd = np.array([0, 1, 0, 0], dtype=bool), np.array([0, 0, 1, 0], dtype=bool)
    return Annotation(Path("none.png"), "x", (80, 120), BOXES, labels, difficult, crowd)


@pytest.fixture
def image() -> np.ndarray:
    """Every object is a rectangle of one colour, so that its box can be read off the pixels."""
    pixels = np.full((80, 120, 3), 200, dtype=np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(BOXES.astype(int)):
        pixels[y1:y2, x1:x2] = 10 * (i + 1)
    return pixels


def boxes_seen(image: np.ndarray, objects: np.ndarray) -> np.ndarray:
    seen = []
    for index in objects:
        rows, columns = np.nonzero(image[..., 0] == 10 * (index + 1))
        seen.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return np.array(seen).reshape(-1, 4)


@pytest.mark.parametrize(
    "transforms",
    [
        [],
        [A.HorizontalFlip(p=1.0)],
        [Expand(max_ratio=3.0, fill=(200, 200, 200), p=1.0)],
        [IoUCrop()],
        [Expand(max_ratio=2.0, fill=(200, 200, 200)), IoUCrop(), A.HorizontalFlip(p=0.5)],
        [PhotometricDistortion(0.0, 0.0, 0.0, 0.0), Expand(fill=(200, 200, 200)), IoUCrop(), A.HorizontalFlip(p=0.5)],
    ],
    ids=["none", "flip", "expand", "crop", "all", "floats"],
)
def test_boxes_follow_the_pixels(transforms, annotation: Annotation, image: np.ndarray) -> None:
    augmentation = Augmentation(transforms)
    kept = []
    for seed in range(60):
        result, boxes, objects = augmentation(image, annotation, np.random.default_rng(seed))
        result = result.round()  # of the colours that distorting by nothing gives back
        np.testing.assert_allclose(boxes, boxes_seen(result, objects), atol=1e-3)
        kept.append(len(objects))
    assert min(kept) >= 1


def test_one_generator_one_result_whatever_came_before(annotation: Annotation, image: np.ndarray) -> None:
    transforms = [A.RandomBrightnessContrast(p=0.5), Expand(), IoUCrop(), A.HorizontalFlip(p=0.5)]
    used, fresh = Augmentation(transforms), Augmentation(transforms)
    for seed in range(20):
        used(image, annotation, np.random.default_rng(seed + 1000))
        first, second = (a(image, annotation, np.random.default_rng(seed)) for a in (used, fresh))
        for mine, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(mine, other)


def test_transforms_decide_independently_of_one_another(annotation: Annotation, image: np.ndarray) -> None:
    augmentation = Augmentation([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    outcomes = set()
    for seed in range(40):
        _, boxes, _ = augmentation(image, annotation, np.random.default_rng(seed))
        outcomes.add((bool(boxes[0, 0] == BOXES[0, 0]), bool(boxes[0, 1] == BOXES[0, 1])))
    assert len(outcomes) == 4


def test_no_objects(image: np.ndarray) -> None:
    none, no = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=bool)
    annotation = Annotation(Path("none.png"), "x", (80, 120), none, np.zeros(0, dtype=np.int64), no, no)
    result, boxes, objects = Augmentation([IoUCrop()])(image, annotation, np.random.default_rng(0))
    assert result.shape == image.shape
    assert boxes.shape == (0, 4)
    assert objects.shape == (0,)


@pytest.mark.parametrize("min_iou", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_patch_overlaps_one_object_enough_and_keeps_centres(min_iou: float) -> None:
    crop = IoUCrop(min_ious=(None, min_iou))
    whole = 0
    for seed in range(150):
        crop.set_random_seed(seed)
        fractions = BOXES / [120, 80, 120, 80]
        patch = crop.get_params_dependent_on_data({"shape": (80, 120, 3)}, {"bboxes": fractions})["patch"]
        left, top, right, bottom = patch
        if patch == (0, 0, 120, 80):
            whole += 1
            continue
        assert 0 <= left < right <= 120
        assert 0 <= top < bottom <= 80
        assert 0.5 <= (right - left) / (bottom - top) <= 2
        assert min((right - left) / 120, (bottom - top) / 80) >= 0.27  # 0.3, rounded down to pixels
        overlap = box_iou(torch.tensor([patch], dtype=torch.float32), torch.from_numpy(BOXES))
        assert overlap.max() >= min_iou - 1e-6
        kept = crop.apply_to_bboxes(np.hstack([fractions, np.arange(4)[:, None]]), patch=patch, shape=(80, 120, 3))
        expected = [
            i
            for i, (x1, y1, x2, y2) in enumerate(BOXES)
            if left < (x1 + x2) / 2 < right and top < (y1 + y2) / 2 < bottom
        ]
        assert kept[:, 4].tolist() == expected
        assert expected
    assert 30 < whole < 150 if min_iou < 0.9 else whole > 30


def test_expand_fills_with_its_colour_and_reaches_its_ratio(annotation: Annotation, image: np.ndarray) -> None:
    sizes = []
    for seed in range(40):
        result, _, _ = Augmentation([Expand(p=1.0)])(image, annotation, np.random.default_rng(seed))
        sizes.append(result.shape[1] / 120)
        outside = (result == (123, 117, 104)).all(axis=-1).sum()
        assert outside == result.shape[0] * result.shape[1] - 80 * 120
    assert 1 <= min(sizes) < 1.5
    assert 3.5 < max(sizes) <= 4


def test_modes_without_the_whole_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"min_ious needs null, the whole image, among its modes"):
        IoUCrop(min_ious=(0.5, 0.9))


def slow_distortion(pixel: np.ndarray, params: dict) -> list[float]:
    """One pixel, by the standard library's colours; those of greys past white or black it does not define."""
    values = [float(value) + params["brightness"] for value in pixel]
    if params["contrast_first"]:
        values = [value * params["contrast"] for value in values]
    hue, saturation, value = colorsys.rgb_to_hsv(*values)
    values = list(colorsys.hsv_to_rgb((hue + params["hue"] / 360) % 1, saturation * params["saturation"], value))
    if not params["contrast_first"]:
        values = [value * params["contrast"] for value in values]
    return [values[channel] for channel in params["channels"]]


def test_colours_are_distorted_as_a_slow_loop_does_and_never_clipped() -> None:
    image = np.random.default_rng(0).integers(40, 256, (3, 4, 3), dtype=np.uint8)
    distortion, low, high = PhotometricDistortion(), 0.0, 255.0
    for seed in range(60):
        distortion.set_random_seed(seed)
        params = distortion.get_params()
        result = distortion.apply(image, **params)
        assert result.dtype == np.float32
        expected = [[slow_distortion(pixel, params) for pixel in row] for row in image]
        np.testing.assert_allclose(result, expected, atol=5e-3)
        low, high = min(low, result.min()), max(high, result.max())
    assert low < -10
    assert high > 330


def test_each_distortion_is_left_out_half_of_the_time_and_independently() -> None:
    distortion = PhotometricDistortion(brightness=32.0, contrast=0.5, saturation=0.5, hue=18.0)
    distortion.set_random_seed(0)
    draws = [distortion.get_params() for _ in range(4000)]
    nothing = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    left_out = np.array([[draw[name] == value for name, value in nothing.items()] for draw in draws])
    np.testing.assert_allclose(left_out.mean(axis=0), 0.5, atol=0.03)
    np.testing.assert_allclose(np.corrcoef(left_out.T), np.eye(4), atol=0.06)
    for name, (least, most) in {"brightness": (-32, 32), "contrast": (0.5, 1.5), "hue": (-18, 18)}.items():
        values = [draw[name] for draw in draws]
        assert least <= min(values) < 0.95 * least + 0.05 * most
        assert 0.05 * least + 0.95 * most < max(values) <= most
    orders = Counter(tuple(draw["channels"]) for draw in draws)
    assert set(orders) == set(itertools.permutations(range(3)))
    assert orders[0, 1, 2] / len(draws) == pytest.approx(1 / 2 + 1 / 12, abs=0.03)
    assert np.mean([draw["contrast_first"] for draw in draws]) == pytest.approx(0.5, abs=0.03)
