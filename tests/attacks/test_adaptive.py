import pytest
import torch

from robustdet.attacks import adaptive
from robustdet.attacks.adaptive import Adaptive, FoolDiscriminator, OneHot, kl_divergence
from robustdet.attacks.objectives import total
from robustdet.attacks.pgd import PGD
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import LInf
from robustdet.attacks.victim import DetectorVictim
from tests.attacks import fakes

THREAT = LInf("8/255")
ATTACK = PGD(total, THREAT, 6, "2/255")
RULES = {
    "own": adaptive.own,
    "detached": adaptive.detached,
    "frozen": adaptive.frozen,
    "uniform": adaptive.uniform,
    "one_hot": OneHot(1),
}


def generators() -> list[torch.Generator]:
    return image_generators(0, ["two", "one", "none"])


@pytest.fixture
def scene():
    images, targets = fakes.batch()
    return DetectorVictim(fakes.detector(fakes.RoutedFake)), images, targets


def routing_of(victim, images) -> torch.Tensor:
    with victim.borrow(fakes.batch()[1]) as model, torch.no_grad():
        return model.predict(images).routing


def slow_pgd(detector, images, targets, routing_at) -> torch.Tensor:
    """PGD-6 with a routing that is told: gradients by backward() on the detector itself."""
    detector.eval()
    x, assignment = images.clone(), detector.assign(targets)
    for _ in range(6):
        x.requires_grad_()
        raw = detector(x, routing=routing_at(x))
        detector.losses(raw, assignment).total.sum().backward()
        x = THREAT.project((x + 2 / 255 * x.grad.sign()).detach(), images)
    return x


@pytest.mark.parametrize("rule", RULES)
def test_the_attack_sees_the_routing_that_the_rule_says(scene, rule):
    victim, images, targets = scene
    detector = fakes.detector(fakes.RoutedFake).eval()
    clean = routing_of(victim, images)
    routing_at = {
        "own": lambda x: detector.aid(x).softmax(dim=1),
        "detached": lambda x: detector.aid(x).softmax(dim=1).detach(),
        "frozen": lambda x: clean,
        "uniform": lambda x: torch.full((3, 3), 1 / 3),
        "one_hot": lambda x: torch.tensor([[0.0, 1.0, 0.0]]).expand(3, 3),
    }[rule]
    ours = Adaptive(ATTACK, RULES[rule])(victim, images, targets, generators())
    torch.testing.assert_close(ours, slow_pgd(detector, images, targets, routing_at), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_an_image_without_objects_is_left_alone(scene, rule):
    victim, images, targets = scene
    for attack in (ATTACK, PGD(FoolDiscriminator(), THREAT, 6, "2/255")):
        attacked = Adaptive(attack, RULES[rule])(victim, images, targets, generators())
        assert torch.equal(attacked[2], images[2])
        assert not torch.equal(attacked[1], images[1])


def test_the_victim_as_it_is_gives_the_plain_attack(scene):
    victim, images, targets = scene
    plain = ATTACK(victim, images, targets, generators())
    assert torch.equal(Adaptive(ATTACK)(victim, images, targets, generators()), plain)
    for rule in ("detached", "frozen", "uniform", "one_hot"):
        other = Adaptive(ATTACK, RULES[rule])(victim, images, targets, generators())
        assert not torch.equal(other, plain), rule


def test_a_source_lends_its_images_routing(scene):
    victim, images, targets = scene
    source = PGD(total, THREAT, 2, "8/255")
    lent = routing_of(victim, source(victim, images, targets, generators()))
    detector = fakes.detector(fakes.RoutedFake)
    swapped = Adaptive(ATTACK, adaptive.frozen, source)(victim, images, targets, generators())
    torch.testing.assert_close(swapped, slow_pgd(detector, images, targets, lambda x: lent), rtol=0, atol=1e-6)


def test_fooling_keeps_the_routing_near_the_clean_one_and_still_raises_the_loss(scene):
    victim, images, targets = scene
    clean = routing_of(victim, images)
    distances, losses = [], []
    for weight in (0, 3, 100):
        attack = Adaptive(PGD(FoolDiscriminator(weight), THREAT, 30, "1/255"))
        attacked = attack(victim, images, targets, generators())
        distances.append(kl_divergence(clean, routing_of(victim, attacked))[:2].sum())
        with victim.borrow(targets) as model, torch.no_grad():
            losses.append(total(model, attacked)[:2].sum())
            before = total(model, images)[:2].sum()
    assert distances[0] > 2 * distances[1] > 0
    assert distances[0] > 10 * distances[2] > 0
    assert min(losses) > before


def test_without_weight_it_is_the_plain_attack(scene):
    victim, images, targets = scene
    fooling = Adaptive(PGD(FoolDiscriminator(0), THREAT, 6, "2/255"))(victim, images, targets, generators())
    torch.testing.assert_close(fooling, ATTACK(victim, images, targets, generators()), rtol=0, atol=1e-6)


class HidingRouter(fakes.RoutedFake):
    """Looks robust to gradients: saturated and rounded, its discriminator gives away no direction, and routes attacked
    images, which it knows by being off the grid of 8 bits, to features that say nothing."""

    def forward(self, images, generator=None, routing=None):
        if routing is None:
            off_grid = (255 * images - (255 * images).round()).abs().amax(dim=(1, 2, 3)) > 1e-3
            routing = torch.eye(3)[off_grid.long()].to(images) + 0 * self.aid(images)
        muted = routing[:, 1].view(-1, 1, 1)
        raw = super().forward(images, routing=routing)
        return fakes.RoutedPredictions(
            raw.cls_logits * (1 - muted), raw.bbox_regression * (1 - muted), raw.default_boxes, routing
        )


def test_a_router_that_mutes_attacked_images_is_found_out():
    """PGD sees no gradient after its first step; with the clean image's routing it does, and 8 bits bring it home."""
    images, targets = fakes.batch()
    victim = DetectorVictim(fakes.detector(HidingRouter))
    off_grid = PGD(total, THREAT, 10, "0.7/255")
    adaptively = Adaptive(off_grid, adaptive.frozen)
    plain, found = (attack(victim, images, targets, generators()) for attack in (off_grid, adaptively))
    with victim.borrow(targets) as model, torch.no_grad():
        stored = (x.mul(255).round().div(255) for x in (plain, found))
        loss_plain, loss_found = (total(model, x)[:2] for x in stored)
    assert (loss_found > loss_plain).all()


def test_a_victim_that_does_not_route_is_refused():
    images, targets = fakes.batch()
    text = r"needs a victim that routes its images, such as RobustSSD: its predictions \(RawPredictions\) lack routing"
    with pytest.raises(TypeError, match=text):
        Adaptive(ATTACK)(DetectorVictim(fakes.detector()), images, targets, generators())
    with pytest.raises(TypeError, match=r"an adaptive attack needs a detector as its victim .*got ConvexVictim"):
        Adaptive(ATTACK)(fakes.ConvexVictim(), images, targets, generators())


def test_a_kernel_that_does_not_exist_is_named(scene):
    victim, images, targets = scene
    with pytest.raises(ValueError, match="the victim has kernels 0 to 2, the attack wants kernel 3"):
        Adaptive(ATTACK, OneHot(3))(victim, images, targets, generators())


def test_fooling_needs_no_wrapper_but_a_victim_that_routes(scene):
    victim, images, targets = scene
    fooling = PGD(FoolDiscriminator(), THREAT, 6, "2/255")
    assert torch.equal(
        fooling(victim, images, targets, generators()), Adaptive(fooling)(victim, images, targets, generators())
    )
    with pytest.raises(TypeError, match="FoolDiscriminator needs a victim that routes its images"):
        fooling(DetectorVictim(fakes.detector()), images, targets, generators())


def test_the_divergence_is_that_of_torch_and_finite_at_zero():
    p, q = torch.rand(2, 5, 4).softmax(dim=-1)
    expected = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(dim=1)
    torch.testing.assert_close(kl_divergence(p, q), expected)
    assert (kl_divergence(p, p) == 0).all()
    assert kl_divergence(torch.eye(4), torch.eye(4).flip(0)).isfinite().all()


@pytest.mark.parametrize(("nats", "pulls"), [(1.0, True), (80.0, True), (95.0, False)])
def test_the_divergence_pulls_as_far_as_float32_can_tell(nats, pulls):
    logits = torch.tensor([[0.0, nats]], requires_grad=True)
    kl_divergence(torch.tensor([[1.0, 0.0]]), logits.softmax(dim=1)).sum().backward()
    assert (logits.grad[0, 0] < -0.7) == pulls
    assert pulls or (logits.grad == 0).all()
