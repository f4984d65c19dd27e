import pytest
import torch

from robustdet.evaluation.checks import attack_flags, loss_rose
from robustdet.evaluation.perturbation import perturbation_measures
from robustdet.evaluation.store import Outcome
from tests.evaluation.scenes import detections

FINE = {
    "finite": 1.0,
    "outside_range": 0.0,
    "linf": 8.0,
    "linf_8bit": 8.0,
    "classification": 2.0,
    "localization": 1.0,
    "positives": 3.0,
    "repeats": 1.0,
    "gradient_zero": 0.1,
    "gradient_not_finite": 0.0,
    "finite_difference_error": 0.01,
    "finite_difference_error_coarse": 0.01,
}


def outcomes(*changes):
    nothing = detections([], [], [])
    return {f"image{index}": Outcome(nothing, FINE | change) for index, change in enumerate(changes)}


CLEAN = outcomes(*[{"classification": 1.0, "localization": 0.5}] * 4)


def flags(*changes, epsilon=8 / 255):
    return attack_flags(CLEAN, outcomes(*changes), epsilon)


def test_nothing_to_say_about_a_sound_attack():
    assert flags({}, {}, {}, {}) == []


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"linf": 8.01}, "outside_ball: changed by more than ε = 8/255 (in 1 of 4 images, such as image2)"),
        ({"linf_8bit": 9.0}, "outside_ball: changed by more than ε = 8/255 (in 1 of 4 images, such as image2)"),
        ({"outside_range": 0.5}, "outside_pixel_range: pixels outside [0, 1] (in 1 of 4 images, such as image2)"),
        (
            {"finite": 0.0},
            "not_finite: NaN or infinity in pixels, predictions or loss (in 1 of 4 images, such as image2)",
        ),
        (
            {"repeats": 0.0},
            "random_forward: a second forward pass gave other predictions (in 1 of 4 images, such as image2)",
        ),
        (
            {"gradient_zero": 1.0},
            "no_gradient: the loss's gradient to the pixels is zero everywhere (in 1 of 4 images, such as image2)",
        ),
        (
            {"gradient_not_finite": 0.001},
            "gradient_not_finite: NaN or infinity in the loss's gradient to the pixels "
            "(in 1 of 4 images, such as image2)",
        ),
        (
            {"routing_gradient_zero": 1.0},
            "no_routing_gradient: the gradient of π, which routes the image, is zero for every pixel "
            "(in 1 of 4 images, such as image2)",
        ),
    ],
)
def test_each_check_names_an_image(change, flag):
    assert flags({}, {}, change, {}) == [flag]


def test_a_gradient_that_is_not_the_slope_in_more_images_than_chance_allows():
    wrong = {"finite_difference_error": 0.9}
    assert flags(wrong, {}, {}, {}) == []  # 3 % of the images may
    assert flags(wrong, wrong, {}, {"positives": 0.0}) == []
    assert flags(*[wrong] * 3, {}) == [
        "gradient_wrong: the gradient is not the slope of the loss, by finite differences "
        "(in 3 of 4 images, such as image0)"
    ]
    without_objects = wrong | {"positives": 0.0}
    assert flags(*[without_objects] * 4) == []


def test_a_loss_that_curves_in_more_images_than_chance_allows():
    curved = {"finite_difference_error_coarse": 0.9}
    assert flags(curved, {}, {}, {}) == []
    assert flags(*[curved | {"finite_difference_error": 0.8}] * 3, {})[0].startswith("gradient_wrong")
    some = {**curved, "finite_difference_error": 0.8}
    assert [one.partition(":")[0] for one in flags(curved, curved, curved, some)] == ["curved_loss"]  # and in one wrong
    assert flags(*[curved] * 3, {}) == [
        "curved_loss: the loss curves so sharply that its gradient does not hold for a step of 0.02/255 "
        "(in 3 of 4 images, such as image0)"
    ]


def test_an_attack_without_a_promise_is_not_held_to_one():
    assert flags({"linf": 200.0, "linf_8bit": 200.0}, {}, {}, {}, epsilon=None) == []


def test_an_attack_answers_for_the_loss_that_it_climbs():
    only_localization = {"classification": 0.5, "localization": 5.0}
    assert flags(*[only_localization] * 4) == []
    rose = loss_rose(CLEAN, outcomes(*[only_localization] * 3, {"positives": 0.0}))  # no object, no loss to raise
    assert rose == {"classification": 0.0, "localization": 1.0, "total": 1.0}
    assert loss_rose(CLEAN, outcomes({"positives": 0.0})) == {}


def test_an_attack_with_an_objective_answers_for_that_alone():
    climbed = {"objective_clean": -5.0, "objective": -1.0, "classification": 0.1, "localization": 0.1}
    assert flags(*[climbed] * 4) == []
    failed = climbed | {"objective": -6.0, "classification": 9.0}
    assert flags(climbed, climbed, failed, failed) == [
        "loss_not_raised: the attack's own objective rose above that of noise in only 2 of 4 images with objects"
    ]


def test_where_an_objective_cannot_rise_it_is_not_asked_to():
    done = {"objective_clean": 0.0, "objective": 0.0, "objective_bound": 0.0, "classification": 0.1}
    climbed, failed = done | {"objective_clean": -3.0}, done | {"objective_clean": -3.0, "objective": -3.0}
    assert flags(done, done, done, climbed) == []
    assert flags(*[done] * 4) == []
    assert flags(done, done, failed, failed) == [
        "loss_not_raised: the attack's own objective rose above that of noise in only 0 of 2 images with objects"
    ]


def test_what_noise_does_as_well_is_no_rise():
    climbed = {"objective_clean": -5.0, "objective": -1.0, "objective_noise": -2.0, "objective_bound": 0.0}
    assert flags(*[climbed] * 4) == []
    beaten = climbed | {"objective_noise": -0.5}
    assert loss_rose(CLEAN, outcomes(climbed, beaten, beaten, beaten))["objective"] == 0.25
    assert [flag.partition(":")[0] for flag in flags(*[beaten] * 4)] == ["loss_not_raised"]
    arrived = beaten | {"objective": 0.0, "objective_noise": 0.0}  # no attack could do more
    assert flags(*[arrived] * 4) == []
    loud = {"classification_noise": 3.0, "localization_noise": 0.5}
    assert loss_rose(CLEAN, outcomes(*[loud] * 4)) == {"classification": 0.0, "localization": 1.0, "total": 0.0}


def test_a_rise_by_rounding_is_none():
    nearly = {"classification": 1 + 1e-6, "localization": 0.5 + 1e-6}
    assert loss_rose(CLEAN, outcomes(*[nearly] * 4)) == {"classification": 0.0, "localization": 0.0, "total": 0.0}
    negative = {"objective_clean": -1000.0, "objective": -999.9}
    assert loss_rose(CLEAN, outcomes(*[negative] * 4))["objective"] == 0.0


@pytest.mark.parametrize(("failures", "raised"), [(1, False), (4, False), (5, True), (60, True)])
def test_a_few_images_of_sixty_are_chance(failures, raised):
    clean = outcomes(*[{"classification": 1.0, "localization": 0.5}] * 60)
    lower = {"classification": 0.9, "localization": 0.4}
    attacked = outcomes(*[lower] * failures, *[{}] * (60 - failures))
    assert attack_flags(clean, attacked, 8 / 255) == (
        [
            f"loss_not_raised: the classification loss rose above that of noise in only {60 - failures} of 60 images "
            "with objects"
        ]
        if raised
        else []
    )


def test_what_does_not_ask_the_victim_need_not_raise_its_loss():
    assert attack_flags(CLEAN, outcomes(*[{"classification": 0.1, "localization": 0.1}] * 4), 8 / 255, "nothing") == []


def test_images_without_objects_have_no_loss_and_no_gradient():
    assert flags({"positives": 0.0, "gradient_zero": 1.0}, {}, {}, {}) == []


def test_an_attack_that_may_change_nothing_must_change_nothing():
    still = {"linf": 0.0, "linf_8bit": 0.0, "as_expected": 1.0}
    assert attack_flags(CLEAN, outcomes(*[still] * 4), 0.0) == []
    assert attack_flags(CLEAN, outcomes(still, still, still, still | {"as_expected": 0.0}), 0.0) == [
        "differs_at_zero: ε = 0 changed the predictions (in 1 of 4 images, such as image3)"
    ]


def test_clean_images_are_asked_only_what_concerns_them():
    assert attack_flags(None, CLEAN, None) == []


def test_measures_of_a_known_perturbation():
    clean = torch.full((2, 3, 4, 4), 100 / 255)
    attacked = clean.clone()
    attacked[0, 0, 0, 0] += 8.4 / 255
    attacked[1] -= 101 / 255
    measures = {name: values.tolist() for name, values in perturbation_measures(clean, attacked).items()}
    assert measures["linf"] == pytest.approx([8.4, 101], abs=1e-4)
    assert measures["linf_8bit"] == pytest.approx([8, 101], abs=1e-4)
    assert measures["mean_change"] == pytest.approx([8.4 / 48, 101], abs=1e-4)
    assert measures["changed"] == pytest.approx([1 / 16, 1])
    assert measures["outside_range"] == pytest.approx([0, 1], abs=1e-4)


def test_rounding_may_cost_half_a_level_where_the_clean_image_is_between_levels():
    clean = torch.full((1, 3, 4, 4), 100.4 / 255)
    (linf,) = perturbation_measures(clean, clean + 8 / 255)["linf_8bit"].tolist()
    assert linf == pytest.approx(7.6, abs=1e-4)
    (linf,) = perturbation_measures(clean, clean + 8.2 / 255)["linf_8bit"].tolist()
    assert 8 < linf < 8.7
    assert flags({"linf_8bit": 8.5}, {}, {}, {}) == []
