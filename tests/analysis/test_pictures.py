from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from robustdet.analysis.pictures import OBJECT, RIGHT, WRONG, View, correct, detection_grid
from robustdet.types import Detections, Target

SIZE = 60


def colours(hexadecimal):
    return np.array([int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5)])


def has(picture, hexadecimal):
    return bool((np.abs(picture.astype(int) - colours(hexadecimal)).sum(axis=2) < 12).any())


@pytest.fixture
def target():
    return Target(
        boxes=torch.tensor([[5.0, 5, 25, 25], [30, 30, 55, 55]]),
        labels=torch.tensor([1, 2]),
        difficult=torch.tensor([False, False]),
        crowd=torch.tensor([False, False]),
        image_id="a",
        original_size=(SIZE, SIZE),
    )


def found(boxes, scores, labels):
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.long))


def test_each_object_is_found_once_and_by_its_own_class(target):
    box, other = target.boxes.tolist()
    right, seen = correct(found([box, box, other], [0.9, 0.8, 0.7], [1, 1, 1]), target)
    assert right.tolist() == [True, False, False]
    assert seen.tolist() == [True, False]
    none = torch.zeros(0, dtype=torch.bool)
    nothing = replace(target, boxes=torch.zeros(0, 4), labels=none.long(), difficult=none, crowd=none)
    assert correct(found([box], [0.9], [1]), nothing)[0].tolist() == [False]


def test_a_grid_shows_right_wrong_and_missed(target, tmp_path):
    images = torch.full((1, 3, SIZE, SIZE), 0.5)
    box, other = target.boxes.tolist()
    views = {
        "clean": View(images, [found([box, other], [0.9, 0.8], [1, 2])]),
        "A_cls": View(images + 8 / 255, [found([box], [0.9], [2])]),
        "silent": View(images, [found([], [], [])]),
    }
    path = detection_grid(views, [target], ["disc", "star"], tmp_path / "new" / "grid.png")
    picture = np.asarray(Image.open(path).convert("RGB"))
    views_shown, changes, _ = np.split(picture, [picture.shape[0] * 47 // 100, picture.shape[0] * 9 // 10])
    shown = [
        [has(cell, colour) for colour in (OBJECT, RIGHT, WRONG)]
        for line in (views_shown, changes)
        for cell in np.array_split(line, 4, axis=1)
    ]
    assert shown == [
        [True, False, False],  # objects
        [False, True, False],  # clean: both right, none missed
        [True, False, True],  # attacked: a wrong class, both missed
        [True, False, False],  # nothing detected, both missed
        *4 * [[False, False, False]],  # below: nothing beside the perturbations
    ]
    raised = np.abs(picture.astype(int) - 255 * (0.5 + 10 * 8 / 255)).sum(axis=2) < 12
    # only below A_cls, and as large as the view above it
    assert [raised[:, quarter].sum() > 0.9 * 300**2 for quarter in np.array_split(np.arange(picture.shape[1]), 4)] == [
        False,
        False,
        True,
        False,
    ]


def test_scores_below_the_threshold_are_not_drawn(target, tmp_path):
    images = torch.full((1, 3, SIZE, SIZE), 0.5)
    views = {"clean": View(images, [found([[5.0, 5, 25, 25]], [0.29], [1])])}
    picture = np.asarray(Image.open(detection_grid(views, [target], ["a", "b"], tmp_path / "g.png")).convert("RGB"))
    assert not has(picture[: picture.shape[0] * 8 // 10], RIGHT)
