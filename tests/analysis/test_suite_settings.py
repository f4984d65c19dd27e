from dataclasses import replace

import pytest

from robustdet.analysis.suite_settings import differences, with_differences
from tests.evaluation.records import RECORD, RUN

FIELDS = {"_target_": "attacks.PGD", "steps": 20, "threat": {"_target_": "attacks.LInf", "epsilon": "8/255"}}
SUITES = {("paper", "paper"): {"clean": None, "pgd_cls": FIELDS, "cwa": FIELDS, "aid": FIELDS}}


def record(attack="pgd_cls", settings=FIELDS, **changes):
    return replace(RECORD, attack=attack, attack_settings=settings, **changes)


def worst(attacks, **changes):
    return record("worst_case", {"attacks": attacks, "epsilon": 8 / 255}, **changes)


def flags(*records, suites=SUITES):
    return [one.flags for one in with_differences(records, suites)]


@pytest.mark.parametrize(
    ("found", "texts"),
    [
        (FIELDS, []),
        (FIELDS | {"steps": 1}, ["steps 1 instead of 20"]),
        (FIELDS | {"threat": {"_target_": "attacks.LInf", "epsilon": "4/255"}},
         ["threat.epsilon 4/255 instead of 8/255"]),
        (FIELDS | {"_target_": "mine.Weak", "steps": 1}, ["_target_ mine.Weak instead of attacks.PGD",
                                                          "steps 1 instead of 20"]),
        ({key: FIELDS[key] for key in ("_target_", "threat")}, ["steps None instead of 20"]),
        (FIELDS | {"restarts": 2}, ["restarts 2 instead of None"]),
        (FIELDS | {"threat": None}, ["threat None instead of LInf"]),
        (None, ["fields None instead of PGD"]),
    ],
)  # fmt: skip
def test_what_differs_is_named_field_by_field(found, texts):
    assert differences(found, FIELDS) == texts


def test_a_surrogate_is_the_commands_to_name():
    fields = {"attack": FIELDS, "surrogate": {"ckpt_path": None}}
    assert differences({"attack": FIELDS, "surrogate": {"ckpt_path": "a.ckpt", "sha256": "a"}}, fields) == []
    assert differences({"attack": FIELDS | {"steps": 1}, "surrogate": {}}, fields) == ["attack.steps 1 instead of 20"]


def test_only_an_attack_that_bears_a_name_of_the_suite_is_asked_what_it_is():
    other = replace(RUN, suite="mine")
    assert flags(record(), record("clean", None), record("tog", {"steps": 1}), record(settings=None, run=other)) == [
        [], [], [], []
    ]  # fmt: skip
    assert flags(record(settings=FIELDS | {"steps": 1}, flags=["no_gradient: at all"])) == [
        ["no_gradient: at all", "other_settings: pgd_cls: steps 1 instead of 20"]
    ]
    authors = replace(RUN, protocol="authors")
    both = SUITES | {("paper", "authors"): {"pgd_cls": FIELDS | {"steps": 5}}}
    assert flags(record(run=authors), suites=both) == [["other_settings: pgd_cls: steps 20 instead of 5"]]


def test_a_worst_case_is_no_better_than_what_it_is_made_from():
    whole = [record("clean", None), record(), record("cwa"), record("aid")]
    rest = ["pgd_cls", "cwa", "aid"]
    assert flags(*whole, worst(rest))[-1] == []
    weak = [record(settings=FIELDS | {"steps": 1}), *whole[2:], whole[0]]
    assert flags(*weak, worst(rest))[-1] == ["other_settings: pgd_cls: steps 1 instead of 20"]
    assert flags(*weak, worst(["cwa", "aid"]))[-1] == []  # one outside the ball has no part in it
    assert flags(*whole[:3], worst(["pgd_cls", "cwa"]))[-1] == ["other_settings: without aid"]
    no_discriminator = worst(["pgd_cls", "cwa"], left_out={"aid": "this detector has no discriminator"})
    assert flags(*whole[:3], no_discriminator)[-1] == []
    failed = worst(["pgd_cls", "cwa"], failed={"aid": "ZeroDivisionError"})
    assert flags(*whole[:3], failed)[-1] == ["other_settings: aid failed"]
    elsewhere = replace(RUN, checkpoint_sha256="b" * 64)  # the records of another detector are not these attacks
    assert flags(*[replace(one, run=elsewhere) for one in weak], *whole, worst(rest))[-1] == []


@pytest.mark.parametrize("precision", ["16-true, TF32 off", "bf16-true, TF32 off", "32-true", None])
def test_another_precision_is_flagged(precision):
    changed = record(environment=replace(RECORD.environment, precision=precision))
    assert flags(changed) == [
        [f"other_precision: measured in {precision or 'an unknown precision'} instead of 32-true, TF32 off"]
    ]
