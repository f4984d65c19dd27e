from pathlib import Path

import pytest
import torch

from robustdet.attacks.objectives import total
from robustdet.attacks.pgd import PGD
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import LInf
from robustdet.attacks.transfer import Transfer
from robustdet.attacks.victim import DetectorVictim
from robustdet.cli.surrogate import trained_detector
from tests.attacks import fakes

PGD_5 = PGD(total, LInf("8/255"), 5, "2/255", random_start=True)


def generators() -> list[torch.Generator]:
    return image_generators(0, ["two", "one", "none"])


class Nobody:
    def borrow(self, targets):
        raise AssertionError("a black-box attack borrowed its victim")


def test_it_is_the_attack_on_the_surrogate_and_never_asks_the_victim():
    images, targets = fakes.batch()
    surrogate = fakes.detector()
    transferred = Transfer(surrogate, PGD_5)(Nobody(), images, targets, generators())
    assert torch.equal(transferred, PGD_5(DetectorVictim(surrogate), images, targets, generators()))
    assert Transfer(surrogate, PGD_5).threat is PGD_5.threat


def test_the_surrogate_comes_back_as_it_was():
    images, targets = fakes.batch()
    surrogate = fakes.detector()
    before = fakes.state(surrogate)
    Transfer(surrogate, PGD_5)(Nobody(), images, targets, generators())
    assert fakes.state(surrogate) == before


def test_it_hurts_a_victim_that_hides_its_gradients():
    class Masked(fakes.FakeDetector):
        def forward(self, images, generator=None):
            return super().forward(images.detach().clone())

    images, targets = fakes.batch()
    victim = DetectorVictim(fakes.detector(Masked))
    with pytest.raises(RuntimeError, match="detached its gradient"):
        PGD_5(victim, images, targets, generators())
    transferred = Transfer(fakes.detector(), PGD_5)(victim, images, targets, generators())
    with victim.borrow(targets) as model, torch.no_grad():
        assert (total(model, transferred) > total(model, images))[:2].all()


def test_a_run_without_its_config_is_named(tmp_path: Path):
    checkpoint = tmp_path / "checkpoints" / "final.ckpt"
    with pytest.raises(FileNotFoundError, match=r"surrogate .*final\.ckpt does not exist"):
        trained_detector(checkpoint)
    checkpoint.parent.mkdir()
    checkpoint.touch()
    with pytest.raises(FileNotFoundError, match=r"needs .*config\.yaml, which does not exist"):
        trained_detector(checkpoint)
