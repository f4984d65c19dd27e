import contextlib
import json
from dataclasses import replace

import pytest
import torch

from robustdet.attacks import DAG, PGD, BaseAttack, LInf, Transfer
from robustdet.attacks.noise import Noise
from robustdet.attacks.objectives import a_cls
from robustdet.attacks.victim import DetachedError
from robustdet.evaluation.environment import describe_environment
from robustdet.evaluation.metric import CocoMetric, VocMetric
from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.evaluation.record import read_records, write_record
from robustdet.types import Batch
from tests.evaluation.quadrants import QuadrantDetector, quadrant_batches
from tests.evaluation.records import RECORD, RUN

EPSILON = "40/255"
ATTACKS = {
    "clean": None,
    "pgd_cls": PGD(a_cls, LInf(EPSILON), steps=3, step_size="20/255", random_start=True),
    "noise": Noise(LInf(EPSILON)),
}
FIELDS = {"pgd_cls": {"steps": 3, "epsilon": EPSILON}, "noise": {"epsilon": EPSILON}}
CLASSES = ["red", "green", "blue"]


def evaluator(folder, **changes):
    return SuiteEvaluator(**{"attacks": ATTACKS, "attack_settings": FIELDS, "folder": folder, "settings": {}} | changes)


def measured(suite, metric=None):
    """Records without what differs from run to run."""
    records = suite.records(metric or VocMetric(3), RUN, RECORD.environment, CLASSES)  # one environment: HEAD may move
    return [{**vars(r), "seconds": 0, "images_per_second": 0, "date": ""} for r in records]


@pytest.fixture
def detector():
    return QuadrantDetector().eval()


def test_clean_is_found_noise_hurts_little_and_an_attack_much(detector, tmp_path):
    suite = evaluator(tmp_path)
    assert sum(suite.evaluate_batch(detector, batch) for batch in quadrant_batches(12, 5)) == 36
    clean, attacked, noise, worst = measured(suite)
    assert clean["map"] == 1.0
    assert noise["map"] > 0.8
    assert attacked["map"] < 0.3
    assert attacked["attacked_losses"]["total"] > 5 * attacked["clean_losses"]["total"]
    assert attacked["clean_losses"] == clean["attacked_losses"] == clean["clean_losses"]
    assert attacked["loss_rose"]["classification"] == 1.0
    assert clean["flags"] == attacked["flags"] == []
    assert attacked["perturbation"]["linf_max"] == pytest.approx(40, abs=1e-3)
    assert attacked["perturbation"]["linf_8bit_max"] == pytest.approx(40, abs=1e-3)
    assert 0.9 < attacked["perturbation"]["changed"] <= 1
    assert clean["perturbation"] == pytest.approx(dict.fromkeys(clean["perturbation"], 0), abs=1e-4)
    assert [r["num_images"] for r in (clean, attacked, noise, worst)] == [12, 12, 12, 12]
    assert set(clean["per_class"]) == set(CLASSES)


def test_coco_metric_speaks_of_the_same_outcomes(detector, tmp_path):
    suite = evaluator(tmp_path)
    for batch in quadrant_batches(12, 5):
        suite.evaluate_batch(detector, batch)
    clean, attacked, *_ = measured(suite, CocoMetric(3))
    assert clean["map"] == clean["map_50_95"] == pytest.approx(1.0)
    assert attacked["map"] < 0.3
    assert clean["ap_rule"] == "coco50"


class PowerCut(Exception):
    pass


@pytest.mark.parametrize("last_images", range(0, 25, 4))
def test_an_interrupted_evaluation_continues_and_ends_with_the_same_result(detector, tmp_path, last_images):
    straight = evaluator(tmp_path / "straight")
    for batch in quadrant_batches(12, 5):
        straight.evaluate_batch(detector, batch)

    class Failing(QuadrantDetector):
        def forward(self, images, generator=None):
            if self.images_seen > last_images:
                raise PowerCut
            return super().forward(images)

    for batch in quadrant_batches(12, 5):  # the power goes off and on again within every batch
        with contextlib.suppress(PowerCut):
            evaluator(tmp_path / "resumed").evaluate_batch(Failing().eval(), batch)
    finished = sum(len(store.done) for store in evaluator(tmp_path / "resumed")._outcomes.values())
    assert finished < 36
    resumed = evaluator(tmp_path / "resumed")
    repeated = sum(resumed.evaluate_batch(detector, batch) for batch in quadrant_batches(12, 5))
    assert repeated == 36 - finished
    assert measured(resumed) == measured(straight)
    assert sum(evaluator(tmp_path / "resumed").evaluate_batch(detector, b) for b in quadrant_batches(12, 5)) == 0


def test_batch_size_and_order_change_nothing(detector, tmp_path):
    results = []
    for name, size, step in (("a", 12, 1), ("b", 1, 1), ("c", 5, -1)):
        suite = evaluator(tmp_path / name)
        for batch in quadrant_batches(12, size)[::step]:
            suite.evaluate_batch(detector, batch)
        results.append(measured(suite))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"settings": {"checkpoint": "other"}},
        {"attack_settings": {"pgd_cls": {"steps": 4}, "noise": {}}},
    ],
)
def test_other_settings_start_afresh(detector, tmp_path, change):
    (batch,) = quadrant_batches(4, 4)
    assert evaluator(tmp_path).evaluate_batch(detector, batch) == 12
    fresh = 8 if "attack_settings" in change else 12  # clean images do not depend on an attack's fields
    assert evaluator(tmp_path, **change).evaluate_batch(detector, batch) == fresh


def test_an_attack_added_on_fewer_images_is_compared_on_these_alone(detector, tmp_path):
    (batch,) = quadrant_batches(12, 12)
    few = Batch(batch.images[:7], batch.targets[:7])
    names = ("clean", "noise")
    evaluator(tmp_path, attacks={name: ATTACKS[name] for name in names}).evaluate_batch(detector, batch)
    added = evaluator(tmp_path)
    assert added.evaluate_batch(detector, few) == 7  # of pgd_cls alone
    alone = evaluator(tmp_path / "alone")
    alone.evaluate_batch(detector, few)
    assert [one["num_images"] for one in measured(added)] == [7, 7, 7, 7]
    assert measured(added) == measured(alone)


def test_dag_is_not_blamed_for_images_where_nothing_was_found(tmp_path):
    class HalfBlind(QuadrantDetector):
        def forward(self, images, generator=None):
            raw = super().forward(images)
            penalty = torch.tensor([100.0, 0, 0, 0])  # says background wherever there is no red
            red = raw.cls_logits.argmax(-1, keepdim=True) == 1
            return replace(raw, cls_logits=raw.cls_logits + ~red * penalty)

    suite = evaluator(tmp_path, attacks={"clean": None, "dag": DAG(LInf(EPSILON), 60, "2/255")}, attack_settings={})
    for batch in quadrant_batches(12, 12):
        suite.evaluate_batch(HalfBlind().eval(), batch)
    clean, dag = measured(suite)
    assert 0 < clean["objects"].found_clean < clean["objects"].objects
    assert dag["loss_rose"]["objective"] == 1.0
    assert dag["flags"] == []


def test_rounding_that_depends_on_the_batch_is_no_change_at_zero(tmp_path):
    class Rounded(QuadrantDetector):
        def forward(self, images, generator=None):  # as float32 convolutions do in batches of different sizes
            raw = super().forward(images)
            return replace(raw, cls_logits=raw.cls_logits * (1 + 1e-6 * len(images)))

    class Remembering(QuadrantDetector):
        def forward(self, images, generator=None):
            raw = super().forward(images)
            return replace(raw, cls_logits=raw.cls_logits * (1 + 1e-6 * self.images_seen))

    def flags(kind, folder):
        changes = {"attacks": {"clean": None, "zero": Noise(LInf("0/255"))}, "attack_settings": {}}
        detector = kind().eval()
        (batch,) = quadrant_batches(4, 4)
        evaluator(folder, attacks={"clean": None}, attack_settings={}).evaluate_batch(detector, batch)
        for one in quadrant_batches(4, 1):  # gone on with in smaller batches
            evaluator(folder, **changes).evaluate_batch(detector, one)
        return [flag.partition(":")[0] for flag in measured(evaluator(folder, **changes))[1]["flags"]]

    assert flags(Rounded, tmp_path / "rounded") == []
    assert flags(Remembering, tmp_path / "remembering") == ["random_forward", "differs_at_zero"]


def test_records_survive_the_way_to_the_disk_and_back(detector, tmp_path):
    suite = evaluator(tmp_path)
    for batch in quadrant_batches(6, 6):
        suite.evaluate_batch(detector, batch)
    records = suite.records(VocMetric(3), RUN, describe_environment("cpu"), CLASSES)
    for record in records:
        write_record(record, tmp_path / "run" / "records")
    assert sorted(read_records([tmp_path]), key=lambda r: r.attack) == sorted(records, key=lambda r: r.attack)
    content = json.loads((tmp_path / "run/records/pgd_cls.json").read_text())
    assert content["partial"] is True  # 6 of the split's 12 images
    assert content["environment"]["libraries"]["torch"] == torch.__version__.partition("+")[0]
    assert content["attack_settings"]["steps"] == 3
    assert content["seconds"] > 0


def test_a_victim_comes_back_as_it_was(detector, tmp_path):
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    evaluator(tmp_path).evaluate_batch(detector, quadrant_batches(4, 4)[0])
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in detector.parameters())


def test_a_cheating_attack_is_flagged(detector, tmp_path):
    class TooFar(BaseAttack):
        threat = LInf(EPSILON)

        def __call__(self, victim, images, targets, generators):
            return images + 50 / 255

    suite = evaluator(tmp_path, attacks={"clean": None, "too_far": TooFar()}, attack_settings={})
    for batch in quadrant_batches(6, 6):
        suite.evaluate_batch(detector, batch)
    flags = measured(suite)[1]["flags"]
    assert any(
        flag.startswith("outside_ball: changed by more than ε = 40/255 (in 6 of 6 images, such as image000)")
        for flag in flags
    )


def test_nan_is_flagged_and_the_record_still_written(tmp_path):
    class Broken(QuadrantDetector):
        def losses(self, raw, assignment):
            losses = super().losses(raw, assignment)
            return type(losses)(losses.classification * float("nan"), losses.localization, losses.num_positives)

    suite = evaluator(tmp_path, attacks={"clean": None}, attack_settings={})
    suite.evaluate_batch(Broken().eval(), quadrant_batches(3, 3)[0])
    (record,) = suite.records(VocMetric(3), RUN, describe_environment("cpu"), CLASSES)
    assert record.flags == [
        "not_finite: NaN or infinity in pixels, predictions or loss (in 3 of 3 images, such as image000)",
        "gradient_not_finite: NaN or infinity in the loss's gradient to the pixels "
        "(in 3 of 3 images, such as image000)",
    ]
    assert record.attacked_losses["classification"] is record.attacked_losses["total"] is None
    assert read_records([write_record(record, tmp_path / "records").parent.parent]) == [record]


def test_a_suite_without_clean_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a suite needs the entry `clean: null` to compare with, got \['noise'\]"):
        evaluator(tmp_path, attacks={"noise": ATTACKS["noise"]})


def test_a_detector_in_training_mode_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match=r"training mode: call .eval\(\)"):
        evaluator(tmp_path).evaluate_batch(QuadrantDetector().train(), quadrant_batches(3, 3)[0])


def test_a_surrogate_without_a_gradient_is_no_fault_of_the_victim(detector, tmp_path):
    class Detached(QuadrantDetector):
        def forward(self, images, generator=None):
            return super().forward(images.detach())

    transfer = Transfer(Detached(), ATTACKS["pgd_cls"])
    suite = evaluator(tmp_path, attacks={"clean": None, "transfer": transfer}, attack_settings={})
    with pytest.raises(DetachedError):
        suite.evaluate_batch(detector, quadrant_batches(3, 3)[0])


def test_the_same_attacked_image_can_be_made_again(detector, tmp_path):
    (batch,) = quadrant_batches(4, 4)
    suite = evaluator(tmp_path)
    together = suite.attack("pgd_cls", detector, batch)
    alone = suite.attack("pgd_cls", detector, Batch(batch.images[2:3], batch.targets[2:3]))
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=0)
    torch.testing.assert_close(suite.attack("clean", detector, batch), batch.images, rtol=0, atol=0)
    suite.evaluate_batch(detector, batch)
    for name, (images, found) in suite.look(detector, batch).items():
        torch.testing.assert_close(images, suite.attack(name, detector, batch), rtol=0, atol=0)
        stored = suite._outcomes[name].read()
        for target, detections in zip(batch.targets, found, strict=True):
            torch.testing.assert_close(detections.scores, stored[target.image_id].detections.scores, rtol=0, atol=1e-6)
