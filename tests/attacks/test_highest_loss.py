import pytest
import torch

from robustdet.attacks.dag import DAG
from robustdet.attacks.highest_loss import HighestLoss
from robustdet.attacks.noise import Noise
from robustdet.attacks.objectives import a_cls, a_loc, total
from robustdet.attacks.pgd import PGD
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import LInf, PixelRange
from robustdet.attacks.victim import DetectorVictim
from tests.attacks import fakes

THREAT = LInf("8/255")


def generators() -> list[torch.Generator]:
    return image_generators(0, ["two", "one", "none"])


def test_each_image_gets_what_raises_its_loss_most():
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    attacks = {"cls": PGD(a_cls, THREAT, 3, "8/255"), "loc": PGD(a_loc, THREAT, 3, "8/255"), "noise": Noise(THREAT)}
    found = HighestLoss(attacks)(victim, images, targets, generators())
    shared = generators()  # the attacks draw from the same generators, in turn
    candidates = [images, *(attack(victim, images, targets, shared) for attack in attacks.values())]
    with victim.borrow(targets) as model, torch.no_grad():
        for i in range(len(images)):
            values = [float(total(model, candidate)[i]) for candidate in candidates]
            assert torch.equal(found[i], candidates[values.index(max(values))][i])
    assert torch.equal(found[2], images[2])  # no object, nothing to raise


def test_an_objective_of_nan_is_not_the_highest():
    victim, (images, targets) = fakes.ConvexVictim(), fakes.batch()
    found = HighestLoss({"noise": Noise(THREAT)}, lambda model, x: torch.where(x.flatten(1).sum(1) > 0, torch.nan, 0.0))
    assert torch.equal(found(victim, images, targets, generators()), images)


def test_attacks_of_different_balls_have_no_common_threat():
    with pytest.raises(ValueError, match=r"inside one ball, got ε of \{'small': 0.1, 'large': 0.2\}"):
        HighestLoss({"small": Noise(LInf(0.1)), "large": Noise(LInf(0.2))})
    with pytest.raises(ValueError, match=r"inside one ball, got ε of \{'dag': None\}"):
        HighestLoss({"dag": DAG(PixelRange())})


def test_its_threat_is_theirs():
    assert HighestLoss({"noise": Noise(THREAT)}).threat is THREAT
