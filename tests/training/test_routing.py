"""The callback that watches a discriminator: which attacks it can watch it by."""

from unittest.mock import Mock

import pytest
import pytorch_lightning as pl

from robustdet.attacks import APGD, PGD, LInf
from robustdet.attacks.objectives import a_cls
from robustdet.training.routing import RoutingDiagnostics
from tests.detection.conftest import build_detector

BALL = LInf("8/255")


def set_up(attack, model: str) -> RoutingDiagnostics:
    callback = RoutingDiagnostics(attack, steps=2, step_sizes=["2/255"], images=2)
    callback.setup(Mock(spec=pl.Trainer), Mock(spec=pl.LightningModule, model=build_detector(model)), "fit")
    return callback


def test_an_attack_that_cannot_step_is_refused_before_the_first_update():
    text = "the callback `routing` asks its attack for single steps, and APGD is more than a step repeated"
    with pytest.raises(TypeError, match=text):
        set_up(APGD(a_cls, BALL), "tiny_robust_ssd")


def test_where_nothing_is_watched_any_attack_will_do():
    assert set_up(APGD(a_cls, BALL), "tiny_ssd").stepwise is None
    assert set_up(None, "tiny_robust_ssd").stepwise is None
    attack = PGD(a_cls, BALL, 2, "2/255")
    assert set_up(attack, "tiny_robust_ssd").stepwise is attack
