"""What every reader of a data set promises (`robustdet.data.annotation.DataSource`)."""

from __future__ import annotations

from typing import get_args

import numpy as np

from robustdet.data.annotation import DataSource, Split
from robustdet.data.pixels import read_pixels


def check_source(source: DataSource) -> None:
    """AssertionError, or the reader's own error, where one is broken. Reads every image."""
    source.prepare()
    assert source.name
    assert source.name in source.test_split
    classes = source.classes
    assert classes == source.classes
    assert len(set(classes)) == len(classes) > 0
    assert source.metric in {"voc", "coco", "area"}
    assert source.annotations("train")
    seen: dict[str, str] = {}
    for split in get_args(Split):
        for annotation in source.annotations(split) or []:
            where = f"{split}: {annotation.image_id}"
            assert seen.setdefault(annotation.image_id, split) == split, (
                f"{where} is in {seen[annotation.image_id]} too"
            )
            height, width = annotation.size
            pixels, size = read_pixels(annotation.image_path, max(height, width), annotation.size)
            assert (pixels.shape, size) == ((height, width, 3), annotation.size), where
            boxes = annotation.boxes
            assert boxes.shape == (len(annotation.labels), 4), where
            assert (boxes[:, 2:] > boxes[:, :2]).all(), where
            assert ((boxes >= 0) & (boxes <= np.array([width, height, width, height]))).all(), where
            assert ((annotation.labels >= 1) & (annotation.labels <= len(classes))).all(), where
            assert len(annotation.difficult) == len(annotation.crowd) == len(annotation.labels), where
