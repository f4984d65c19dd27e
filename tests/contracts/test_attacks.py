"""What every attack in conf/attack promises, on every detector in SCENES: a new yaml or detector is tested unasked."""

import dataclasses
from functools import cache
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from robustdet.attacks import DetectorVictim, LInf, PixelRange, image_generators
from robustdet.types import Attack
from tests.attacks import fakes

CONF = Path(__file__).parents[2] / "conf"
CONFIGS = sorted((CONF / "attack").glob("*.yaml"))
NAMES = [path.stem for path in CONFIGS]
THAT_ASK_THE_MODEL = [name for name in NAMES if not name.startswith(("noise", "transfer"))]
BEYOND_OBJECTS = ("dag_authors", "tog_")  # they attack the background too, or start at random
NOT_FOR_THE_LOSS = ("tog_vanishing", "tog_fabrication")  # background that vanishes, objects that appear lower it too
MOST_STEPS = 12  # of an attack that has more: a contract does not need 150

SCENES = {
    "fake": lambda: (fakes.detector(), *fakes.batch()),
    "routed": lambda: (fakes.detector(fakes.RoutedFake), *fakes.batch()),
}
"""name: a function that gives a detector, images in [0, 1] (with, with difficult and without objects) and targets."""


@cache
def composed(name: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(overrides=[f"+attack={name}"]).attack


def load(name: str, most_steps: int = MOST_STEPS, surrogate: torch.nn.Module | None = None) -> Attack:
    config = composed(name).copy()
    shorten(config, most_steps)
    if "surrogate" not in config:
        return hydra.utils.instantiate(config)
    del config.surrogate
    return hydra.utils.instantiate(config, surrogate=surrogate or fakes.detector())


def shorten(config: DictConfig, most_steps: int) -> None:
    """Cut steps and queries, in the attacks that an attack is made of too."""
    for key in config:
        if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key):
            continue
        if key in ("steps", "queries"):
            config[key] = min(config[key], most_steps)
        elif isinstance(config[key], DictConfig):
            shorten(config[key], most_steps)


@pytest.fixture(params=SCENES)
def scene(request):
    """An attack on routing meets a detector that routes; what it says to another is tested in test_adaptive.py."""
    if request.node.callspec.params["name"].startswith("aid_") and request.param != "routed":
        pytest.skip("this attack needs a detector that routes")
    return SCENES[request.param]()


def run(attack, detector, images, targets, seed: int = 0) -> torch.Tensor:
    generators = image_generators(seed, [target.image_id for target in targets])
    return attack(DetectorVictim(detector), images, targets, generators)


@pytest.mark.parametrize("name", NAMES)
def test_speaks_the_vocabulary(name):
    assert isinstance(load(name), Attack)


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_says_in_its_first_line_what_it_is(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", NAMES)
def test_stays_in_its_threat_and_changes_something(name, scene):
    attack, (detector, images, targets) = load(name), scene
    adversarial = run(attack, detector, images, targets)
    assert adversarial.shape == images.shape
    assert adversarial.dtype == images.dtype
    assert not adversarial.requires_grad
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert not torch.equal(adversarial, images)
    threat = getattr(attack, "threat", PixelRange())
    if isinstance(threat, LInf):
        assert ((adversarial.double() - images.double()).abs() <= threat.epsilon).all()
    assert torch.equal(threat.project(adversarial, images), adversarial)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_images(name, scene):
    attack, (detector, images, targets) = load(name), scene
    first = run(attack, detector, images, targets)
    torch.rand(7)  # the global random state has no say
    assert torch.equal(first, run(attack, detector, images, targets))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_each_image_what_it_gets_alone(name, scene):
    # a convolution's last bits depend on the batch; they decide the sign of a gradient of almost 0, and such signs
    # multiply from step to step, so that this is a law of the first steps only
    attack, (detector, images, targets) = load(name, most_steps=2), scene
    together = run(attack, detector, images, targets)
    backwards = run(attack, detector, images.flip(0), targets[::-1]).flip(0)
    alone = torch.cat([run(attack, detector, images[i : i + 1], targets[i : i + 1]) for i in range(len(images))])
    for other in (backwards, alone):
        assert ((together - other).abs() < 1e-5).float().mean() > 0.998


@pytest.mark.parametrize("name", NAMES)
def test_gives_the_model_back_as_it_was(name, scene):
    attack, (detector, images, targets) = load(name), scene
    before, kept = fakes.state(detector), images.clone()
    run(attack, detector, images, targets)
    assert fakes.state(detector) == before
    assert torch.equal(images, kept)


@pytest.mark.parametrize("name", THAT_ASK_THE_MODEL)
def test_gives_the_model_back_as_it_was_after_an_error(name, scene):
    attack, (detector, images, targets) = load(name), scene
    before = fakes.state(detector)
    forwards = []

    def fail(module, inputs):
        forwards.append(1)
        torch.rand(1)
        if len(forwards) == 2 * undisturbed:
            raise ZeroDivisionError("in the middle")

    undisturbed = 0
    handle = detector.register_forward_pre_hook(fail)
    run(attack, detector, images, targets)
    undisturbed = len(forwards)  # the next run fails at its last forward
    with pytest.raises(ZeroDivisionError, match="in the middle"):
        run(attack, detector, images, targets)
    handle.remove()
    assert fakes.state(detector) == before


@pytest.mark.parametrize("name", NAMES)
def test_images_without_objects_are_no_trouble(name, scene):
    attack, (detector, images, targets) = load(name), scene
    empty = [
        dataclasses.replace(t, **{k: getattr(t, k)[:0] for k in ("boxes", "labels", "difficult", "crowd")})
        for t in targets
    ]
    adversarial = run(attack, detector, images, empty)
    assert adversarial.isfinite().all()
    if name in THAT_ASK_THE_MODEL and not name.startswith(BEYOND_OBJECTS):
        assert torch.equal(adversarial, images)


@pytest.mark.parametrize("name", NAMES)
def test_difficult_and_crowd_objects_are_no_targets(name, scene):
    attack, (detector, images, targets) = load(name), scene
    assert any(target.difficult.any() for target in targets)
    expected = run(attack, detector, images, [target.learnable for target in targets])
    assert torch.equal(run(attack, detector, images, targets), expected)
    crowd = [dataclasses.replace(target, crowd=target.difficult, difficult=target.crowd) for target in targets]
    assert torch.equal(run(attack, detector, images, crowd), expected)


@pytest.mark.parametrize("name", NAMES)
def test_works_where_gradients_are_off(name, scene):
    attack, (detector, images, targets) = load(name), scene
    expected = run(attack, detector, images, targets)
    with torch.no_grad():
        assert torch.equal(run(attack, detector, images, targets), expected)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("name", THAT_ASK_THE_MODEL)
def test_refuses_inference_mode(name, scene):
    attack, (detector, images, targets) = load(name), scene
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode: false"):
        run(attack, detector, images, targets)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_images_that_are_not_between_0_and_1(name, scene):
    attack, (detector, images, targets) = load(name), scene
    with pytest.raises(ValueError, match=rf"image '{targets[0].image_id}' has values from .*: an attack expects RGB"):
        run(attack, detector, images * 255, targets)


@pytest.mark.parametrize("name", [name for name in THAT_ASK_THE_MODEL if name not in NOT_FOR_THE_LOSS])
def test_hurts_more_than_noise(name, scene):
    attack, (detector, images, targets) = load(name), scene
    with DetectorVictim(detector).borrow(targets) as model, torch.no_grad():
        clean, noisy, attacked = (
            model.losses(x).total[[len(target.learnable.labels) > 0 for target in targets]].sum()
            for x in (
                images,
                run(load("noise_sign"), detector, images, targets),
                run(attack, detector, images, targets),
            )
        )
    assert attacked > max(clean, noisy)
