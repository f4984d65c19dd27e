import pytest
import torch

from robustdet.analysis.figures.observation import observe, scores
from robustdet.attacks import DetectorVictim, image_generators
from robustdet.evaluation.average_precision import voc_average_precision
from tests.analysis.figures.conftest import CLASSES, SIZE


def test_every_image_is_seen_as_if_it_were_alone(build_study, pgd):
    study = build_study("tiny_ssd", "tiny_robust_ssd")
    found = observe(study, {"A_cls": pgd}, 3, "test")
    assert len(found) == 2 * 2 * 3
    by_key = {(o.detector, o.attack, o.target.image_id): o for o in found}
    for subject in study.subjects:
        for batch in study.first(3):
            for image, target in zip(batch.images, batch.targets, strict=True):
                generators = image_generators(0, [target.image_id], "A_cls")
                attacked = pgd(DetectorVictim(subject.model), image[None], [target], generators)
                for name, shown in (("clean", image[None]), ("A_cls", attacked)):
                    seen = by_key[subject.label, name, target.image_id]
                    with torch.no_grad():
                        raw = subject.model(shown)
                        losses = subject.model.losses(raw, subject.model.assign([target]))
                    positives = max(int(losses.num_positives), 1)
                    assert seen.positives == int(losses.num_positives)
                    # an attack's signs may flip where a gradient is almost 0, in another batch
                    tolerance = 1e-4 if name == "clean" else 0.02
                    assert seen.classification == pytest.approx(float(losses.classification) / positives, rel=tolerance)
                    assert seen.localization == pytest.approx(float(losses.localization) / positives, rel=tolerance)
                    assert (seen.routing is None) == (subject.label == "tiny_ssd")


def test_an_attack_on_a_detector_hurts_it(build_study, pgd):
    found = observe(build_study(), {"A_cls": pgd}, 4, "test")
    clean, attacked = (sum(o.classification for o in found if o.attack == name) for name in ("clean", "A_cls"))
    assert attacked > 1.05 * clean


def test_scores_are_the_data_sets_own(build_study):
    study = build_study()
    found = observe(study, {}, None, "test")
    detections = {o.target.image_id: o.detections for o in found}
    targets = {o.target.image_id: o.target for o in found}
    expected = voc_average_precision(detections, targets, len(CLASSES)).mean
    assert scores(found, study.metric).headline.mean == expected
    assert sum(len(d.labels) for d in detections.values()) > 0
    assert all((d.boxes.max() < 3 * SIZE) for d in detections.values() if len(d.boxes))


def test_clean_images_can_be_left_out(build_study, pgd):
    assert {o.attack for o in observe(build_study(), {"A_cls": pgd}, 2, "test", clean=False)} == {"A_cls"}
