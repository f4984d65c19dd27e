"""What every attack in conf/attack promises, on every detector in SCENES: a new yaml or detector is tested unasked."""

import dataclasses
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import hydra
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from robustdet.attacks import DetectorVictim, image_generators
from robustdet.attacks.base import require_attack
from robustdet.attacks.objectives import prepared
from robustdet.attacks.universal_patch import png_of
from robustdet.types import Attack, StepwiseAttack
from tests.attacks import fakes
from tests.contracts.named_attacks import COMPOSED, FILES, NAMES

MOST_STEPS = 12  # of an attack that has more: a contract does not need 150

SCENES = {
    "fake": lambda: (fakes.detector(), *fakes.batch()),
    "routed": lambda: (fakes.detector(fakes.RoutedFake), *fakes.batch()),
}
"""name: a function that gives a detector, images in [0, 1] (with, with difficult and without objects) and targets."""


def load(name: str, most_steps: int = MOST_STEPS, surrogate: torch.nn.Module | None = None) -> Attack:
    config = COMPOSED[name].copy()
    shorten(config, most_steps)
    if OmegaConf.is_missing(config, "patch_file"):
        config.patch_file = drawn_patch()
    if "surrogate" not in config:
        return hydra.utils.instantiate(config)
    del config.surrogate
    return hydra.utils.instantiate(config, surrogate=surrogate or fakes.detector())


@cache
def drawn_patch() -> str:
    """The file of a patch that nobody trained."""
    file = Path(tempfile.mkdtemp()) / "patch.png"
    file.write_bytes(png_of(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))))
    return str(file)


def shorten(config: DictConfig, most_steps: int) -> None:
    """Cut steps and queries, in the attacks that an attack is made of too."""
    for key in config:
        if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key):
            continue
        if key in ("steps", "queries"):
            config[key] = min(config[key], most_steps)
        elif isinstance(config[key], DictConfig):
            shorten(config[key], most_steps)


DECLARED = {name: require_attack(load(name)) for name in NAMES}
THAT_ASK_THE_MODEL = [name for name in NAMES if DECLARED[name].knowledge != "nothing"]
COUNTED = [name for name in NAMES if {"steps", "queries"} & set(COMPOSED[name])]
BOUNDED = [name for name in THAT_ASK_THE_MODEL if DECLARED[name].objective_bound is not None]
KNOW_NO_DIFFICULT = [  # the others know which objects AP leaves out: tests/attacks/test_outranking.py
    name for name in NAMES if not getattr(DECLARED[name].objective, "passes_over_difficult", False)
]
OF_ART = pytest.mark.skipif(find_spec("art") is None, reason="adversarial-robustness-toolbox is not installed")
OF_ROUTING = {name for name in NAMES if DECLARED[name].knowledge == "discriminator"}
ROUTE = {scene for scene, make in SCENES.items() if hasattr(make()[0], "aid")}


def on_every_scene(names: list[str]) -> pytest.MarkDecorator:
    """An attack on routing meets detectors that route; what it says to another is tested in test_adaptive.py."""
    meetings = [
        pytest.param(
            name,
            scene,
            marks=[
                *([OF_ART] if name.startswith("art_") else []),
                # the fake detector and the routed one are attacked alike where the routing is not looked at
                *([pytest.mark.slow] if scene in ROUTE and name not in OF_ROUTING else []),
            ],
            id=f"{name}-{scene}",
        )
        for name in names
        for scene in SCENES
        if scene in ROUTE or name not in OF_ROUTING
    ]
    return pytest.mark.parametrize(("name", "scene"), meetings, indirect=["scene"])


@pytest.fixture
def scene(request):
    return SCENES[request.param]()


def run(attack, detector, images, targets, seed: int = 0) -> torch.Tensor:
    generators = image_generators(seed, [target.image_id for target in targets])
    return attack(DetectorVictim(detector), images, targets, generators)


@cache
def usual(name: str, scene: str) -> torch.Tensor:
    """What an attack gives in a scene, found once for all the tests that compare with it."""
    return run(load(name), *SCENES[scene]())


@pytest.fixture
def expected(name: str, request: pytest.FixtureRequest) -> torch.Tensor:
    return usual(name, request.node.callspec.params["scene"]).clone()


@pytest.mark.parametrize("name", NAMES)
def test_speaks_the_vocabulary(name):
    assert isinstance(load(name), Attack)


@pytest.mark.parametrize("name", COUNTED)
def test_fewer_than_0_steps_are_refused(name):
    with pytest.raises(InstantiationException, match=r"expected a whole number of 0 or more, got (steps|queries)=-1"):
        load(name, most_steps=-1)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_says_in_its_first_line_what_it_is(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


@on_every_scene(NAMES)
def test_stays_in_its_threat_and_changes_something(name, scene, expected):
    attack, (_, images, _), adversarial = load(name), scene, expected
    assert adversarial.shape == images.shape
    assert adversarial.dtype == images.dtype
    assert not adversarial.requires_grad
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert not torch.equal(adversarial, images)
    if attack.threat.epsilon is not None:
        assert ((adversarial.double() - images.double()).abs() <= attack.threat.epsilon).all()
    assert torch.equal(attack.threat.project(adversarial, images), adversarial)


@on_every_scene(NAMES)
def test_the_same_seed_gives_the_same_images(name, scene, expected):
    attack, (detector, images, targets) = load(name), scene
    torch.rand(7)  # the global random state has no say
    assert torch.equal(run(attack, detector, images, targets), expected)


@on_every_scene(NAMES)
def test_a_batch_gives_each_image_what_it_gets_alone(name, scene):
    # a convolution's last bits depend on the batch; they decide the sign of a gradient of almost 0, and such signs
    # multiply from step to step: so this is a law of the first steps, in double precision where the attack keeps it
    (detector, images, targets), surrogate = scene, fakes.detector()
    if not name.startswith("art_"):
        detector, images, surrogate = detector.double(), images.double(), surrogate.double()
    attack = load(name, most_steps=2, surrogate=surrogate)
    together = run(attack, detector, images, targets)
    backwards = run(attack, detector, images.flip(0), targets[::-1]).flip(0)
    alone = torch.cat([run(attack, detector, images[i : i + 1], targets[i : i + 1]) for i in range(len(images))])
    for other in (backwards, alone):
        assert ((together - other).abs() < 1e-5).float().mean() > 0.998


@on_every_scene(NAMES)
def test_gives_the_model_back_as_it_was(name, scene):
    attack, (detector, images, targets) = load(name), scene
    before, kept = fakes.state(detector), images.clone()
    run(attack, detector, images, targets)
    assert fakes.state(detector) == before
    assert torch.equal(images, kept)


@on_every_scene(THAT_ASK_THE_MODEL)
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


@on_every_scene(NAMES)
def test_images_without_objects_are_no_trouble(name, scene):
    attack, (detector, images, targets) = load(name), scene
    empty = [
        dataclasses.replace(t, **{k: getattr(t, k)[:0] for k in ("boxes", "labels", "difficult", "crowd")})
        for t in targets
    ]
    adversarial = run(attack, detector, images, empty)
    assert adversarial.isfinite().all()
    start = run(load(name, most_steps=0), detector, images, empty)
    if name in THAT_ASK_THE_MODEL and has_nothing_to_climb(attack, detector, start, empty):
        assert torch.equal(adversarial, start)


def has_nothing_to_climb(attack, detector, images, targets) -> bool:
    """It declares what it climbs, and that is the same everywhere around these images."""
    if attack.objective is None:
        return False
    values = climbed(attack, detector, images, targets, [images, images.flip(-1), 1 - images])
    return all(torch.equal(value, values[0]) for value in values)


def climbed(attack, detector, clean, targets, places) -> list[torch.Tensor]:
    """What an attack climbs, at each place [B]: its objective; the whole loss where it declares none."""
    if attack.objective is None:
        return losses(detector, targets, places)
    with DetectorVictim(detector).borrow(targets) as model, torch.no_grad():
        objective = prepared(attack.objective, model, clean)
        return [objective(model, images) for images in places]


def losses(detector, targets, places) -> list[torch.Tensor]:
    """The whole loss at each place, [B]."""
    with DetectorVictim(detector).borrow(targets) as model, torch.no_grad():
        return [model.losses(images).total for images in places]


@on_every_scene(KNOW_NO_DIFFICULT)
def test_difficult_and_crowd_objects_are_no_targets(name, scene, expected):
    attack, (detector, images, targets) = load(name), scene
    assert any(target.difficult.any() for target in targets)
    assert torch.equal(run(attack, detector, images, [target.learnable for target in targets]), expected)
    crowd = [dataclasses.replace(target, crowd=target.difficult, difficult=target.crowd) for target in targets]
    assert torch.equal(run(attack, detector, images, crowd), expected)


@on_every_scene(NAMES)
def test_works_where_gradients_are_off(name, scene, expected):
    attack, (detector, images, targets) = load(name), scene
    with torch.no_grad():
        assert torch.equal(run(attack, detector, images, targets), expected)
        assert not torch.is_grad_enabled()


@on_every_scene(THAT_ASK_THE_MODEL)
def test_refuses_inference_mode(name, scene):
    attack, (detector, images, targets) = load(name), scene
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode: false"):
        run(attack, detector, images, targets)


@on_every_scene(NAMES)
def test_refuses_images_that_are_not_between_0_and_1(name, scene):
    attack, (detector, images, targets) = load(name), scene
    with pytest.raises(ValueError, match=rf"image '{targets[0].image_id}' has values from .*: an attack expects RGB"):
        run(attack, detector, images * 255, targets)


@on_every_scene(THAT_ASK_THE_MODEL)
def test_climbs_higher_than_noise(name, scene, request):
    attack, (detector, images, targets) = load(name, most_steps=50), scene
    place = request.node.callspec.params["scene"]
    noisy, attacked = usual("noise_sign", place), run(attack, detector, images, targets)
    with_objects = [len(target.learnable.labels) > 0 for target in targets]
    places = [images, noisy, attacked]
    values = zip(climbed(attack, detector, images, targets, places), losses(detector, targets, places), strict=True)
    clean, noisy, attacked = (
        (value[with_objects].sum().item(), loss[with_objects].sum().item()) for value, loss in values
    )
    assert attacked > max(clean, noisy)  # of equal objectives, such as a count's, the loss decides


@on_every_scene(BOUNDED)
def test_its_objective_stays_below_its_bound(name, scene, expected):
    attack, (detector, images, targets) = load(name), scene
    for values in climbed(attack, detector, images, targets, [images, expected]):
        assert (values <= attack.objective_bound).all()


@on_every_scene([name for name in NAMES if isinstance(DECLARED[name], StepwiseAttack)])
def test_an_attack_that_steps_is_its_step_repeated(name, scene):
    """What `replay` trains on is the attack: no momentum, no step size of its own is lost between two steps."""
    detector, images, targets = scene
    attack, iterates = load(name, most_steps=3), [run(load(name, most_steps=0), detector, images, targets)]
    with DetectorVictim(detector).borrow(targets) as model:
        for _ in range(3):
            iterates.append(attack.step(model, iterates[-1], images))
    whole = run(attack, detector, images, targets)
    assert [torch.equal(whole, iterate) for iterate in iterates].count(True) == 1
