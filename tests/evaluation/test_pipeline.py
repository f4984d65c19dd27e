import contextlib
import importlib
import json
import sys
from dataclasses import replace

import pytest
import torch

from robustdet.attacks import DAG, PGD, BaseAttack, LInf, PixelRange, Transfer
from robustdet.attacks.noise import Noise
from robustdet.attacks.objectives import a_cls
from robustdet.evaluation.content import contents
from robustdet.evaluation.environment import describe_environment
from robustdet.evaluation.metric import CocoMetric, VocMetric
from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.evaluation.precision import factors_of_10_bits
from robustdet.evaluation.record import read_records, write_record
from robustdet.types import Batch
from tests.evaluation.quadrants import QuadrantDetector, quadrant_batches
from tests.evaluation.records import RECORD, RUN
from tests.slowness import quick

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


def ids(batch):
    return [target.image_id for target in batch.targets]


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


class PowerCut(BaseException):  # as KeyboardInterrupt: no fault of an attack
    pass


@pytest.mark.parametrize("last_images", quick(range(0, 25, 4), lambda images: images in (0, 12)))
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
    resumed = evaluator(tmp_path / "resumed")
    everything = {
        id_: content for b in quadrant_batches(12, 5) for id_, content in zip(ids(b), contents(b), strict=True)
    }
    finished = sum(len(attacked.read(everything)) for attacked in resumed.attacks.values())
    assert finished < 36
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


def test_the_worst_case_is_not_asked_to_raise_a_loss(detector, tmp_path):
    attacks = {"clean": None, "uniform": Noise(LInf(EPSILON)), "sign": Noise(LInf(EPSILON), "sign")}
    suite = evaluator(tmp_path, attacks=attacks, attack_settings={})
    for batch in quadrant_batches(60, 30):
        suite.evaluate_batch(detector, batch)
    *_, worst = measured(suite)
    assert worst["attack"] == "worst_case"
    assert max(worst["loss_rose"].values()) < 0.9
    assert worst["flags"] == []


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
        suite = evaluator(folder, **changes)
        for one in quadrant_batches(4, 1):  # gone on with in smaller batches
            suite.evaluate_batch(detector, one)
        return [flag.partition(":")[0] for flag in measured(suite)[1]["flags"]]

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
    content = json.loads((tmp_path / "run/records/pgd_cls.json").read_text(encoding="utf-8"))
    assert content["partial"] is True  # 6 of the split's 12 images
    assert content["environment"]["libraries"]["torch"] == torch.__version__.partition("+")[0]
    assert content["attack_settings"]["steps"] == 3
    assert content["seconds"] > 0


def test_a_victim_comes_back_as_it_was(detector, tmp_path):
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    evaluator(tmp_path).evaluate_batch(detector, quadrant_batches(4, 4)[0])
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in detector.parameters())


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
    suite.evaluate_batch(detector, quadrant_batches(3, 3)[0])
    assert suite.seen.failed["transfer"].startswith("DetachedError: the attack's objective does not depend on the imag")
    assert [one["attack"] for one in measured(suite)] == ["clean"]


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
        stored = suite.attacks[name].read(suite.seen.contents)
        for target, detections in zip(batch.targets, found, strict=True):
            torch.testing.assert_close(detections.scores, stored[target.image_id].detections.scores, rtol=0, atol=1e-6)


# What decides a stored outcome


def changed(batch, **of_first):
    """The batch with the first image, or what is said of it, changed."""
    images = batch.images.clone()
    if "pixel" in of_first:
        images[0, 0, 0, 0] += of_first.pop("pixel")
    return Batch(images, [replace(batch.targets[0], **of_first), *batch.targets[1:]])


@pytest.mark.parametrize(
    "change",
    [
        {"pixel": 1 / 255},
        {"boxes": torch.tensor([[0.0, 0.0, 4.0, 4.0]])},
        {"labels": torch.tensor([3])},
        {"difficult": torch.tensor([True])},
        {"crowd": torch.tensor([True])},
        {"original_size": (9, 8)},
        {"image_id": "renamed"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_image_that_was_repaired_is_measured_again_and_no_other(detector, tmp_path, change):
    one = {"boxes": torch.tensor([[0.0, 0.0, 4.0, 3.9]]), "labels": torch.tensor([1])}
    marks = {name: torch.tensor([False]) for name in ("difficult", "crowd")}
    (before,) = (changed(batch, **one, **marks) for batch in quadrant_batches(4, 4))
    assert evaluator(tmp_path).evaluate_batch(detector, before) == 12
    after = changed(before, **change)
    suite = evaluator(tmp_path)
    assert suite.evaluate_batch(detector, after) == 3
    assert suite.seen.stored == {"clean": 3, "pgd_cls": 3, "noise": 3}
    fresh = evaluator(tmp_path / "fresh")
    fresh.evaluate_batch(detector, Batch(after.images[1:], after.targets[1:]))  # in the same batches as above
    fresh.evaluate_batch(detector, Batch(after.images[:1], after.targets[:1]))
    assert measured(suite) == measured(fresh)


def test_images_that_left_the_split_no_longer_count(detector, tmp_path):
    (batch,) = quadrant_batches(12, 12)
    evaluator(tmp_path).evaluate_batch(detector, batch)
    suite, alone = evaluator(tmp_path), evaluator(tmp_path / "alone")
    few = Batch(batch.images[:5], batch.targets[:5])
    assert suite.evaluate_batch(detector, few) == 0
    alone.evaluate_batch(detector, few)
    assert [one["num_images"] for one in measured(suite)] == [5, 5, 5, 5]
    assert measured(suite) == measured(alone)


USER_ATTACK = """
from robustdet.attacks import BaseAttack, PixelRange
from helper_of_user_attack import direction
class Mine(BaseAttack):
    threat = PixelRange()
    def __call__(self, victim, images, targets, generators):
        return (images + direction() * 0.01).clamp(0, 1)
"""


def test_an_attack_whose_code_changed_is_made_again_wherever_it_lives(detector, tmp_path, monkeypatch):
    """An edit of its file, or of one it imports, counts; one of a file that it has nothing to do with does not."""
    monkeypatch.syspath_prepend(tmp_path)
    (batch,) = quadrant_batches(4, 4)

    def evaluated(attack_text=USER_ATTACK, direction=1):
        (tmp_path / "user_attack.py").write_text(attack_text, encoding="utf-8")
        (tmp_path / "helper_of_user_attack.py").write_text(
            f"def direction():\n    return {direction}\n", encoding="utf-8"
        )
        for name in ("user_attack", "helper_of_user_attack"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        mine = importlib.import_module("user_attack").Mine()
        suite = evaluator(tmp_path / "store", attacks=ATTACKS | {"mine": mine})
        suite.evaluate_batch(detector, batch)
        (code,) = (record["code"] for record in measured(suite) if record["attack"] == "mine")
        return 4 - suite.seen.stored["mine"], code

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first = evaluated()
    assert first[0] == 4
    (tmp_path / "stranger.py").write_text("x = 1", encoding="utf-8")
    assert evaluated() == (0, first[1])
    again, other = evaluated(direction=-1)
    assert (again, other == first[1]) == (4, False)
    again, third = evaluated(USER_ATTACK.replace("0.01", "0.02"))
    assert (again, third in (other, first[1])) == (4, False)
    assert evaluated() == (0, first[1])  # what was there before is still true of that code


def test_the_worst_case_is_of_the_code_of_its_attacks(detector, tmp_path):
    (batch,) = quadrant_batches(4, 4)
    suite = evaluator(tmp_path)
    suite.evaluate_batch(detector, batch)
    code = {one["attack"]: one["code"] for one in measured(suite)}
    assert len(set(code.values())) == 4
    assert all(len(digest) == 64 for digest in code.values())


def test_fresh_measures_everything_again(detector, tmp_path):
    (batch,) = quadrant_batches(4, 4)
    assert evaluator(tmp_path).evaluate_batch(detector, batch) == 12
    assert evaluator(tmp_path).evaluate_batch(detector, batch) == 0
    assert evaluator(tmp_path, fresh=True).evaluate_batch(detector, batch) == 12


def test_nothing_is_rounded_to_10_bits_while_judging_and_everything_is_put_back(tmp_path):
    seen = []

    class Watching(QuadrantDetector):
        def forward(self, images, generator=None):
            backends = torch.backends
            newer = backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision
            seen.append((*newer, *state()))  # torch refuses to read the older where they say otherwise
            return super().forward(images)

    def state():
        return (
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
        )

    before = state()
    with factors_of_10_bits(True):
        allowed = state()
        suite = evaluator(tmp_path)
        suite.evaluate_batch(Watching().eval(), quadrant_batches(3, 3)[0])
        suite.attack("pgd_cls", Watching().eval(), quadrant_batches(3, 3)[0])
        assert state() == allowed == ("high", True, True)
    assert state() == before
    assert set(seen) == {("ieee", "ieee", "highest", False, False)}


# Attacks that fail


class Making(BaseAttack):
    """An attack that makes what ``make`` makes of images and their ids."""

    threat = LInf(EPSILON)

    def __init__(self, make):
        self.make = make

    def __call__(self, victim, images, targets, generators):
        return self.make(images, [target.image_id for target in targets])


def clean_but(change):
    """The clean images but for what ``change`` does to image001."""

    def make(images, ids):
        changed = [change(image) if name == "image001" else image for image, name in zip(images, ids, strict=True)]
        return torch.stack(changed)

    return make


def raises(images, ids):
    raise ZeroDivisionError("no steps")


IN_RANGE = "expected values in [0, 1]"
BAD = {
    "error": (raises, "ZeroDivisionError: no steps (on images 'image000', 'image001', 'image002', 'image003', "
                      "'image004' and 1 more)"),
    "nan": (clean_but(lambda image: image / 0), f"image 'image001' has a pixel that is NaN or infinite, {IN_RANGE}"),
    "range": (clean_but(lambda image: image * 0 - 0.9), f"image 'image001' has pixels from -0.9 to -0.9, {IN_RANGE}"),
    "ball": (clean_but(lambda image: image * 0 + 1), "image 'image001' has a pixel changed by 255/255, expected at "
                                                     "most ε = 40/255"),
    "shape": (lambda images, ids: images[:2], "and 1 more it made torch.float32 [2, 3, 8, 8], expected "
                                                     "torch.float32 [6, 3, 8, 8]"),
    "type": (lambda images, ids: images.double(), "it made torch.float64 [6, 3, 8, 8], expected torch.float32"),
    "nothing": (lambda images, ids: None, "it made a NoneType, expected torch.float32 [6, 3, 8, 8]"),
}  # fmt: skip


@pytest.mark.parametrize("kind", quick(BAD, lambda kind: kind in list(BAD)[:2]))
def test_a_failing_attack_is_named_with_its_image_and_ends_its_row_alone(detector, tmp_path, kind, caplog):
    bad, text = BAD[kind]
    suite = evaluator(tmp_path, attacks={"bad": Making(bad), **ATTACKS})
    batches = quadrant_batches(12, 6)
    assert [suite.evaluate_batch(detector, batch) for batch in batches] == [18, 18]
    assert list(suite.seen.failed) == ["bad"]
    assert text in suite.seen.failed["bad"]
    assert "bad failed and has no result" in caplog.text
    records = measured(suite)
    assert [one["attack"] for one in records] == ["clean", "pgd_cls", "noise", "worst_case"]
    assert records[-1]["failed"] == suite.seen.failed
    straight = evaluator(tmp_path / "without")
    for batch in batches:
        straight.evaluate_batch(detector, batch)
    others = measured(straight)
    assert records[:-1] == others[:-1]
    assert records[-1] | {"failed": {}} == others[-1]


def test_a_row_that_failed_goes_on_where_it_failed_once_it_is_mended(detector, tmp_path):
    class Moody(BaseAttack):
        threat, works = PixelRange(), False

        def __call__(self, victim, images, targets, generators):
            if not self.works and targets[0].image_id == "image006":
                raise ZeroDivisionError
            return images

    moody = Moody()
    for stored in (0, 6):
        suite = evaluator(tmp_path, attacks={"clean": None, "moody": moody})
        for batch in quadrant_batches(12, 6):
            suite.evaluate_batch(detector, batch)
        assert suite.seen.stored["moody"] == stored
        assert [one["attack"] for one in measured(suite)] == (["clean", "moody"] if moody.works else ["clean"])
        moody.works = True


def test_an_error_on_clean_images_is_the_detectors(tmp_path):
    class Broken(QuadrantDetector):
        def forward(self, images, generator=None):
            raise ZeroDivisionError("in the detector")

    with pytest.raises(ZeroDivisionError, match="in the detector"):
        evaluator(tmp_path).evaluate_batch(Broken().eval(), quadrant_batches(3, 3)[0])


def test_what_several_processes_have_seen_counts_once(detector, tmp_path):
    first, second, alone = evaluator(tmp_path), evaluator(tmp_path), evaluator(tmp_path / "alone")
    for index, batch in enumerate(quadrant_batches(12, 3)):
        (first, second)[index % 2].evaluate_batch(detector, batch)
        alone.evaluate_batch(detector, batch)
    second.seen.failed["noise"] = "out of memory"
    first.merge([first.seen, second.seen])
    assert first.seen.failed == {"noise": "out of memory"}
    del first.seen.failed["noise"]
    assert measured(first) == measured(alone)
