import pytest
import torch

from robustdet.analysis.figures.detections import DetectionPanels, table, with_objects
from robustdet.analysis.pictures import View
from tests.evaluation import scenes


def test_images_with_objects_one_after_the_other(build_study):
    study = build_study()
    assert [t.image_id for t in with_objects(study, 2, 1).targets] == ["image1", "image2"]
    with pytest.raises(ValueError, match="5 images with objects are needed, a test has 4"):
        with_objects(study, 3, 2)


def test_rows_are_the_boxes_above_the_threshold():
    target = scenes.target("a", [[0, 0, 10, 10]], [2])
    found = scenes.detections([[0, 0, 10, 10], [1, 2, 3, 4], [5, 5, 9, 9]], [0.75, 0.5, 0.25], [2, 1, 1])
    rows = table({"A": {"clean": View(torch.zeros(1, 3, 10, 10), [found])}}, [target], ["disc", "star"], 0.3)
    assert [(r.image, r.label, r.score, r.x0, r.y0, r.x1, r.y1, r.right) for r in rows] == [
        ("a", "star", 0.75, 0, 0, 10, 10, True),
        ("a", "disc", 0.5, 1, 2, 3, 4, False),
    ]


def test_panels_for_each_image_and_detector(build_study, pgd):
    findings = DetectionPanels({"A_cls": pgd}, num_images=2, threshold=0.6)(build_study("tiny_ssd", "tiny_robust_ssd"))
    shown = [axes.images[0].get_array() for axes in findings.figure.axes]
    assert len(shown) == 2 * 2 * 3
    clean, attacked, perturbation = shown[:3]
    change = (attacked - clean) * 10 + 0.5
    assert abs(perturbation - change.clip(0, 1)).max() < 1e-5
    assert 0 < abs(attacked - clean).max() <= 8 / 255 + 1e-6
    assert [axes.get_title() for axes in findings.figure.axes[:3]] == ["clean", "$A_{cls}$", "perturbation ×10"]
    assert {row.detector for row in findings.rows} == {"tiny_ssd", "tiny_robust_ssd"}
