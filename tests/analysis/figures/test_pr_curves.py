import numpy as np
import pytest

from robustdet.analysis.figures.pr_curves import RECALLS, PRCurves, mean_curve, precision_at_recall
from robustdet.evaluation.average_precision import voc_average_precision
from robustdet.evaluation.metric import CocoMetric, VocMetric
from tests.analysis.figures.conftest import seen
from tests.evaluation import scenes


@pytest.mark.parametrize("seed", range(5))
def test_at_eleven_recalls_its_mean_is_the_map_of_voc07(seed):
    found, truth = scenes.scene(30, 4, seed)
    result = voc_average_precision(found, truth, 4)
    curve = mean_curve(result)
    assert curve.shape == RECALLS.shape
    assert curve[::10].mean() == pytest.approx(result.mean, abs=1e-12)
    assert (np.diff(curve) <= 1e-12).all()


@pytest.mark.parametrize("seed", range(3))
def test_at_101_recalls_its_mean_is_the_ap50_of_coco(seed):
    found, truth = scenes.scene(30, 4, seed, difficult=0)
    scores = CocoMetric(4)(found, truth)
    assert mean_curve(scores.headline).mean() == pytest.approx(scores.headline.mean, abs=1e-9)


def test_two_boxes_by_hand():
    objects = scenes.target("a", [[0, 0, 10, 10], [50, 50, 60, 60]], [1, 1])
    boxes = scenes.detections([[80, 80, 90, 90], [0, 0, 10, 10]], [0.9, 0.8], [1, 1])
    rows = precision_at_recall([seen("a", target=objects, detections=boxes)], VocMetric(1))
    assert [row.precision for row in rows] == [0.5 if row.recall <= 0.5 else 0 for row in rows]


def test_a_panel_for_each_attack_a_curve_for_each_detector(build_study, pgd):
    findings = PRCurves({"A_cls": pgd, "A_loc": pgd}, 4)(build_study("tiny_ssd", "tiny_robust_ssd"))
    panels = findings.figure.axes
    assert [panel.get_title() for panel in panels] == ["clean", "$A_{cls}$", "$A_{loc}$"]
    assert all(len(panel.lines) == 2 for panel in panels)
    first = [row.precision for row in findings.rows if (row.detector, row.attack) == ("tiny_ssd", "clean")]
    assert list(panels[0].lines[0].get_ydata()) == first
    assert len(findings.rows) == 2 * 3 * 101
    assert findings.notes[0] == f"tiny_ssd, clean: mAP {100 * findings.rows[0].map:.1f}"
