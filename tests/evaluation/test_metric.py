import pytest

from robustdet.evaluation.average_precision import voc_average_precision
from robustdet.evaluation.metric import AuthorsVocMetric, CocoMetric, VocMetric
from tests.evaluation.scenes import detections, scene, target


def test_each_metric_names_its_rule_and_says_what_stands_beside_it():
    found, truth = scene(num_images=20, num_classes=3, seed=0)
    voc, coco = VocMetric(3)(found, truth), CocoMetric(3)(found, truth)
    assert (voc.rule, coco.rule) == ("voc07", "coco50")
    assert voc.area_map == voc_average_precision(found, truth, 3, rule="area").mean
    assert voc.map_50_95 is None
    area = VocMetric(3, rule="area")(found, truth)
    assert (area.rule, area.headline.mean, area.area_map) == ("area", voc.area_map, voc.area_map)
    assert coco.area_map is None
    assert 0 < coco.map_50_95 < coco.headline.mean


def test_the_authors_shift_is_a_pixel_of_the_original_image():
    # A box of 6 x 3 original pixels, found exactly. In the authors' file it lies one pixel lower right and its object
    # is a pixel smaller: [1, 1, 7, 4] against [0, 0, 5, 2] overlap in 4 of 18 + 10 - 4 pixels.
    truth = {"a": target("a", [0, 0, 60, 30], [1], original_size=(10, 10))}
    found = {"a": detections([0, 0, 60, 30], [0.9], [1])}
    assert VocMetric(1)(found, truth).headline.mean == 1.0
    assert AuthorsVocMetric(1, input_size=100)(found, truth).headline.mean == 0.0
    assert AuthorsVocMetric(1, input_size=100, iou=4 / 24 - 1e-6)(found, truth).headline.mean == 1.0
    assert AuthorsVocMetric(1, input_size=100, iou=4 / 24)(found, truth).headline.mean == 0.0  # strictly greater


def test_the_authors_scores_tie_after_three_decimals():
    truth = {"a": target("a", [0, 0, 80, 80], [1]), "b": target("b", [], [])}
    found = {"a": detections([0, 0, 80, 80], [0.50001], [1]), "b": detections([0, 0, 80, 80], [0.50002], [1])}
    assert VocMetric(1)(found, truth).headline.mean == pytest.approx(0.5)
    assert AuthorsVocMetric(1, input_size=100)(found, truth).headline.mean == pytest.approx(1.0)
    finer = AuthorsVocMetric(1, input_size=100, score_decimals=6)(found, truth)
    assert finer.headline.mean == pytest.approx(0.5)
    assert finer.rule == "voc07_authors"
