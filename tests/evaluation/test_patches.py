from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdet.attacks.base import BaseAttack
from robustdet.attacks.objectives import a_cls
from robustdet.attacks.patch import PatchAttack, PlainPatch
from robustdet.attacks.placement import Placement
from robustdet.attacks.threat import Patch
from robustdet.evaluation.attacked import AttackFailedError, require_admissible
from robustdet.evaluation.checks import attack_flags
from robustdet.evaluation.environment import describe_environment
from robustdet.evaluation.measuring import noise
from robustdet.evaluation.metric import CocoMetric, VocMetric
from robustdet.evaluation.patches import BANDS, HIDDEN, covered, distance, patch_box, patch_effect, without_hidden
from robustdet.evaluation.perturbation import changed_box, perturbation_measures
from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.evaluation.store import Outcome
from robustdet.types import Batch
from tests.attacks import fakes
from tests.evaluation.records import RUN
from tests.evaluation.scenes import detections, scene, target

METRIC = VocMetric(3, rule="area")
PATCH = Patch(0.1)  # of 16 x 16 pixels: 5 x 5


def outcome(found, box):
    edges = ("left", "top", "right", "bottom")
    return Outcome(found, {f"changed_{edge}": float(value) for edge, value in zip(edges, box, strict=True)})


def effect(one, clean, attacked, box, metric=METRIC):
    outcomes = [{one.image_id: outcome(found, box)} for found in (clean, attacked)]
    return patch_effect(*outcomes, {one.image_id: one}, metric, 0.05)


def test_how_much_is_covered_and_how_far_it_is():
    patch = np.array([10.0, 10, 20, 20])
    boxes = np.array(
        [[10, 10, 20, 20], [0, 10, 20, 20], [0, 0, 5, 5], [20, 12, 30, 15], [40, 10, 50, 20], [23, 24, 25, 30]],
        dtype=float,
    )
    assert covered(boxes, patch).tolist() == [1, 0.5, 0, 0, 0, 0]
    assert distance(boxes, patch) == pytest.approx([0, 0, 0.5 * 2**0.5, 0, 2, 0.5])
    assert np.isinf(distance(boxes, np.zeros(4))).all()  # nothing changed


@pytest.mark.parametrize("metric", [METRIC, CocoMetric(3)])
def test_an_object_that_the_patch_hides_is_not_asked_for(metric):
    one = target("a", [[0, 0, 10, 10], [30, 0, 40, 10]], [1, 1])
    clean = detections([[0, 0, 10, 10], [30, 0, 40, 10]], [0.9, 0.8], [1, 1])
    attacked = detections([[30, 0, 40, 10]], [0.8], [1])
    hidden = effect(one, clean, attacked, [0, 0, 10, 6], metric)
    assert (hidden.hidden, hidden.visible) == (1, 1)
    assert (hidden.clean_map, hidden.map) == pytest.approx((1, 1))
    beside = effect(one, clean, attacked, [0, 0, 10, 5], metric)  # half of it
    assert (beside.hidden, beside.visible, beside.clean_map) == (0, 2, pytest.approx(1))
    assert beside.map < 0.6
    assert [band.objects for band in beside.bands] == [1, 0, 1, 0]


def test_each_band_has_the_objects_and_the_false_alarms_that_are_there():
    one = target("a", [[0, 0, 10, 10], [25, 0, 35, 10], [70, 0, 80, 10]], [1, 1, 1])
    right = detections(one.boxes, [0.9, 0.8, 0.7], [1, 1, 1])
    alarms = [[5, 0, 15, 4], [72, 12, 80, 30]]
    attacked = detections([[25, 0, 35, 10], [70, 0, 80, 10], *alarms], [0.8, 0.7, 0.95, 0.9], [1, 1, 1, 1])
    found = effect(one, right, attacked, [8, 0, 18, 10])
    assert [(band.nearest, band.farthest) for band in found.bands] == list(BANDS)
    assert [band.objects for band in found.bands] == [1, 1, 0, 1]
    assert [band.clean_map for band in found.bands] == [1, 1, None, 1]
    assert [band.map for band in found.bands] == [0, 1, None, 0.5]


@pytest.mark.parametrize("seed", range(4))
def test_every_object_is_hidden_or_in_one_band(seed):
    found, truth = scene(15, 3, seed)
    g = torch.Generator().manual_seed(seed)
    outcomes = {}
    for name, one in found.items():
        corner = torch.rand(2, generator=g) * 60
        outcomes[name] = outcome(one, [*corner.tolist(), *(corner + 30).tolist()])
    made = patch_effect(outcomes, outcomes, truth, METRIC, 0.1)
    assert made.hidden + made.visible == sum(len(one.learnable.labels) for one in truth.values())
    assert sum(band.objects for band in made.bands) == made.visible
    assert made.clean_map == made.map
    assert made.hidden > 0
    left = without_hidden(outcomes, truth)
    assert sum(len(one.learnable.labels) for one in left.values()) == made.visible
    for name, one in truth.items():  # slowly
        low, top, high, bottom = patch_box(outcomes[name]).tolist()
        hidden = []
        for x1, y1, x2, y2 in one.boxes.tolist():
            width, height = min(x2, high) - max(x1, low), min(y2, bottom) - max(y1, top)
            hidden.append(max(width, 0) * max(height, 0) > HIDDEN * (x2 - x1) * (y2 - y1))
        assert left[name].crowd.tolist() == hidden


@given(st.integers(0, 2**31), st.integers(0, 12))
@settings(max_examples=50, deadline=None)
def test_the_box_of_what_changed_is_the_smallest(seed, number):
    g = torch.Generator().manual_seed(seed)
    clean = torch.rand(1, 3, 6, 9, generator=g)
    made = clean.clone()
    places = torch.stack([torch.randint(3, (number,), generator=g), torch.randint(6, (number,), generator=g)])
    columns = torch.randint(9, (number,), generator=g)
    made[0, places[0], places[1], columns] += 0.25
    (box,) = changed_box(clean, made).tolist()
    if not number:
        assert box == [0, 0, 0, 0]
    else:
        low, high = (columns.min(), places[1].min()), (columns.max() + 1, places[1].max() + 1)
        assert box == [float(value) for value in (*low, *high)]


def test_what_leaves_its_patch_is_refused_and_flagged():
    clean = torch.full((2, 3, 16, 16), 0.5)
    inside, outside = clean.clone(), clean.clone()
    inside[:, :, 3:8, 9:14] = 0.9
    outside[1, 0, 3:9, 2] = 0.1
    require_admissible(inside, clean, ["a", "b"], PATCH)
    with pytest.raises(AttackFailedError, match=r"image 'b' has changes in 1 x 6 pixels, expected a patch of 5 x 5 at"):
        require_admissible(outside, clean, ["a", "b"], PATCH)

    def flags(images):
        columns = perturbation_measures(clean, images)
        of = {name: values.tolist() for name, values in columns.items()}
        found = {}
        for row, name in enumerate("ab"):
            rest = {"finite": 1.0, "repeats": 1.0, "positives": 0.0}
            measures = {key: values[row] for key, values in of.items()} | rest
            found[name] = Outcome(detections([], [], []), measures)
        return attack_flags(None, found, None, "nothing", 0.1)

    assert flags(inside) == []
    assert flags(outside) == [
        "outside_patch: changed outside a square of 10 % of the image (in 1 of 2 images, such as b)"
    ]


def test_a_patch_is_compared_with_noise_in_its_square():
    clean = Batch(*fakes.batch())
    images = clean.images.clone()
    images[:, :, 4:9, 6:11] = 1.0
    made = noise(clean, images, patched=True)
    differs = (made != clean.images).any(dim=1)
    assert differs[:, 4:9, 6:11].any()
    differs[:, 4:9, 6:11] = False
    assert not differs.any()


class Everywhere(BaseAttack):
    """Says that it is a patch, and is none."""

    threat = PATCH

    def __call__(self, victim, images, targets, generators):
        return 1 - images


def test_a_suite_of_patches_has_records_and_a_worst_case_of_its_own(tmp_path):
    detector, batch = fakes.detector().eval(), Batch(*fakes.batch())
    place = Placement("beside_object")
    attacks = {
        "clean": None,
        "grey": PlainPatch(PATCH, place),
        "cls": PatchAttack(a_cls, PATCH, place, 10, "32/255"),
        "larger": PlainPatch(Patch(0.3), place),
        "everywhere": Everywhere(),
    }
    suite = SuiteEvaluator(attacks, {}, tmp_path, {})
    suite.evaluate_batch(detector, batch)
    classes = [str(label) for label in range(fakes.CLASSES)]
    records = suite.records(VocMetric(fakes.CLASSES), RUN, describe_environment("cpu"), classes)
    by_name = {record.attack: record for record in records}
    assert list(by_name) == ["clean", "grey", "cls", "larger", "worst_case"]
    assert by_name["worst_case"].failed.keys() == {"everywhere"}
    assert by_name["worst_case"].attack_settings == {"attacks": ["grey", "cls"], "epsilon": None, "size": 0.1}
    assert [record.threat for record in records] == ["", *["patch of 10 %"] * 2, "patch of 30 %", "patch of 10 %"]
    assert by_name["clean"].patch is None
    for name in ("grey", "cls", "worst_case"):
        assert by_name[name].patch.visible + by_name[name].patch.hidden == 3
        assert by_name[name].objects.objects == by_name[name].patch.visible
    assert by_name["clean"].objects.objects == 3
    again = SuiteEvaluator({name: attacks[name] for name in ("clean", "cls")}, {}, tmp_path, {})
    assert again.evaluate_batch(detector, batch) == 0  # it goes on where it was
    moved = replace(batch, images=batch.images)
    assert torch.equal(again.attack("cls", detector, moved), suite.attack("cls", detector, batch))
