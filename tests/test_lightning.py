"""The adversarial half of somebody's own training: what their step is given, and what is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from robustdet import AdversarialTraining
from robustdet.attacks import MTD, PGD, LInf, Noise
from robustdet.attacks.objectives import total
from robustdet.lightning import _ids
from robustdet.types import Batch, Target
from tests.attacks.fakes import state
from tests.detection.conftest import build_detector, make_target
from tests.interop.networks import FAST, torchvision_model


class Network(nn.Module):
    """torchvision's interface on images of any size, with a norm that learns and a layer that draws."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Conv2d(8, 8, 1)
        self.seen: list[torch.dtype] = []  # of what its head says when it is in evaluation mode

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        said = [self.head(self.backbone(image[None])).mean(dim=(2, 3))[0] for image in images]
        if not self.backbone.training:
            self.seen.append(said[0].dtype)
        if not self.training:
            return [
                {"boxes": one[None, :4].abs().cumsum(1), "labels": torch.ones(1).long(), "scores": one[4:5].sigmoid()}
                for one in said
            ]
        assert targets is not None
        logits = torch.stack([one[4:] for one in said])
        labels = torch.stack([target["labels"][0] for target in targets])
        boxes = torch.stack([target["boxes"][0] / 32 for target in targets])
        return {
            "classification": nn.functional.cross_entropy(logits, labels),
            "bbox_regression": nn.functional.smooth_l1_loss(torch.stack([one[:4] for one in said]), boxes),
        }


class Theirs(pl.LightningModule):
    """Somebody's own module. It keeps what its training step is given."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = Network() if network is None else network
        self.given: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.given.append(batch)
        images, targets = batch
        return sum(self.network(list(images), list(targets)).values())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.network.parameters(), lr=0.01)


def image(number: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(number))


def objects(number: int, **more: Any) -> dict[str, Any]:
    return {"boxes": torch.tensor([[2.0, 3.0, 20.0, 25.0]]), "labels": torch.tensor([number % 3 + 1]), **more}


def of_references(number: int) -> Any:
    """As torchvision's references collate: a tuple of images, of several sizes, and one of dictionaries."""
    sizes = [(32, 32), (40, 32), (32, 32)]
    images = tuple(image(10 * number + place, *size) for place, size in enumerate(sizes))
    return images, tuple(objects(place, image_id=10 * number + place) for place in range(3))


def in_a_tensor(number: int) -> Any:
    return [torch.stack([image(10 * number + place) for place in range(3)]), [objects(place) for place in range(3)]]


def fit(
    module: pl.LightningModule,
    callback: pl.Callback,
    batches: list[Any],
    updates: int = 1,
    ckpt_path: Path | None = None,
    **more: Any,
) -> pl.Trainer:
    trainer = pl.Trainer(
        max_steps=updates, callbacks=[callback], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **more,
    )  # fmt: skip
    trainer.fit(module, loader(batches), ckpt_path=ckpt_path)
    return trainer


def loader(batches: list[Any]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=1, collate_fn=lambda one: one[0])  # type: ignore[arg-type]


def pairs(batch: Any) -> list[tuple[Tensor, Tensor]]:
    """Every clean image with its attacked one."""
    images = list(batch.images if isinstance(batch, Batch) else batch[0])
    half = len(images) // 2
    return list(zip(images[:half], images[half:], strict=True))


NOISE = Noise(LInf("8/255"))  # draws, and costs nothing


@pytest.mark.parametrize("batch", [of_references(0), in_a_tensor(0)], ids=["several sizes", "one tensor"])
def test_a_step_is_given_its_batch_and_the_attacked_images_behind_it(batch: Any):
    module = Theirs()
    fit(module, AdversarialTraining("mtd", "attack.steps=2", epsilon="4/255", detector="network"), [batch])
    (given,) = module.given
    assert type(given) is type(batch)
    assert type(given[0]) is type(batch[0])
    assert type(given[1]) is type(batch[1])
    assert len(given[0]) == len(given[1]) == 6
    for before, (clean, attacked) in zip(batch[0], pairs(given), strict=True):
        assert torch.equal(before, clean)
        assert 0 < (attacked - clean).abs().max() <= 4 / 255 + 1e-6
    for target, again in zip(given[1][:3], given[1][3:], strict=True):
        assert again is not target
        assert all(again[key] is target[key] for key in target)


class Ours(Theirs):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.given.append(batch)
        losses = self.network.losses(self.network(batch.images), self.network.assign(batch.targets))
        return losses.per_positive(losses.total)


def test_a_batch_of_ours_and_a_detector_with_losses():
    targets = [make_target([[8, 8, 40, 40]], [1], image_id="a"), make_target([[20, 10, 70, 60]], [2], image_id="b")]
    batch = Batch(torch.stack([image(place, 96, 96) for place in range(2)]), targets)
    module = Ours(build_detector("tiny_ssd", num_classes=3).train())
    fit(module, AdversarialTraining("cwa", "attack.steps=1", detector=lambda one: one.network), [batch])
    (given,) = module.given
    assert isinstance(given, Batch)
    assert [target.image_id for target in given.targets] == ["a", "b", "a", "b"]
    assert all(0 < (attacked - clean).abs().max() <= 8 / 255 + 1e-6 for clean, attacked in pairs(given))


def test_torchvisions_own_network_keeps_its_parts_and_trains():
    network = torchvision_model(FAST).network.train()
    module = Theirs(network)
    parts = [(name, type(part)) for name, part in network.named_modules()]
    samplers = [network.rpn.fg_bg_sampler, network.roi_heads.fg_bg_sampler]
    fit(module, AdversarialTraining("pgd_total", "attack.steps=1", detector="network"), [of_references(0)])
    assert [(name, type(part)) for name, part in network.named_modules()] == parts
    assert [network.rpn.fg_bg_sampler, network.roi_heads.fg_bg_sampler] == samplers
    assert all((attacked - clean).abs().max() > 0 for clean, attacked in pairs(module.given[0]))


def test_on_attacked_images_alone():
    module, batch = Theirs(), of_references(0)
    fit(module, AdversarialTraining(NOISE, detector="network", keep_clean=False), [batch])
    (given,) = module.given
    assert len(given[0]) == len(given[1]) == 3
    assert all(0 < (one - clean).abs().max() <= 8 / 255 + 1e-6 for one, clean in zip(given[0], batch[0], strict=True))


class Looked(AdversarialTraining):
    """Compares everything around the moment of the attack."""

    def attacked(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Any:
        for parameter in module.parameters():
            if parameter.grad is None:
                parameter.grad = torch.ones_like(parameter)
        before, draws = state(module), torch.get_rng_state()
        gradients = [parameter.grad.clone() for parameter in module.parameters()]
        found = super().attacked(trainer, module, batch)
        assert state(module) == before
        assert torch.equal(torch.get_rng_state(), draws)
        assert module.training
        assert all(map(torch.equal, gradients, (parameter.grad for parameter in module.parameters())))
        return found


def test_nothing_of_the_module_is_touched_by_an_attack():
    module = Theirs()
    module.network.head.weight.requires_grad_(False)
    fit(module, Looked("mtd", "attack.steps=2", detector="network"), [of_references(0), of_references(1)], updates=2)
    assert len(module.given) == 2
    seen = module.network.backbone[1].num_batches_tracked.item()
    assert seen == 2 * 6  # by their own steps, image by image, and by nothing else


def test_the_step_is_the_modules_own_again_whatever_happens():
    module = Theirs()
    fit(module, AdversarialTraining(NOISE, detector="network"), [of_references(0)])
    assert "training_step" not in vars(module)

    class Failing(Theirs):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise ZeroDivisionError

    failing = Failing()
    with pytest.raises(ZeroDivisionError):
        fit(failing, AdversarialTraining(NOISE, detector="network"), [of_references(0)])
    assert "training_step" not in vars(failing)


class WithoutIndex(Theirs):
    def training_step(self, batch: Any) -> Tensor:
        return super().training_step(batch, 0)


def drawn(module: Theirs) -> list[Tensor]:
    return [attacked - clean for batch in module.given for clean, attacked in pairs(batch)]


@pytest.mark.parametrize("make", [of_references, in_a_tensor])
def test_a_resumed_run_draws_what_an_uninterrupted_one_does(make: Callable[[int], Any], tmp_path: Path):
    batches = [make(0)] * 2  # an epoch, of the same images: what is drawn tells updates apart
    whole, first, second = Theirs(), WithoutIndex(), Theirs()
    callback = AdversarialTraining(NOISE, detector="network", seed=3)
    fit(whole, callback, batches, updates=4)
    fit(first, callback, batches, updates=2).save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    fit(second, callback, batches, updates=4, ckpt_path=tmp_path / "half.ckpt")
    ours = drawn(first) + drawn(second)
    assert len(ours) == 12
    assert all(map(torch.equal, ours, drawn(whole)))
    assert not torch.equal(ours[0], ours[3])  # another update
    other = Theirs()
    fit(other, AdversarialTraining(NOISE, detector="network", seed=4), batches)
    assert not torch.equal(drawn(other)[0], ours[0])


def test_batches_of_one_update_draw_anew():
    module = Theirs()
    batches = [in_a_tensor(0)] * 4
    fit(module, AdversarialTraining(NOISE, detector="network"), batches, updates=2, accumulate_grad_batches=2)
    found = drawn(module)
    assert len({one.numpy().tobytes() for one in found}) == len(found) == 12


def test_two_processes_tell_images_apart_as_one_does():
    def targets(*names: str) -> list[Target]:
        return [make_target([[1, 1, 9, 9]], image_id=name) for name in names]

    assert _ids(targets("a", "b"), 2, 1) == ["a", "b"]
    alone = _ids(targets("", "", "", ""), 1, 0)
    dealt = [_ids(targets("", ""), 2, rank) for rank in range(2)]
    assert [dealt[place % 2][place // 2] for place in range(4)] == alone
    assert len(set(alone)) == 4


def test_attacks_are_made_in_full_precision_under_a_mixed_one():
    module = Theirs()
    fit(
        module,
        AdversarialTraining("pgd_cls", "attack.steps=1", detector="network"),
        [in_a_tensor(0)],
        precision="bf16-mixed",
    )
    assert set(module.network.seen) == {torch.float32}


def test_an_attack_by_its_name_has_the_size_and_steps_that_are_asked_for():
    attack = AdversarialTraining("mtd", "attack.steps=3", epsilon="4/255").attack
    assert isinstance(attack, MTD)
    assert (attack.threat.epsilon, attack.step_size, attack.steps) == (4 / 255, 4 / 255, 3)
    with pytest.raises(ValueError, match="an attack object has its settings already"):
        AdversarialTraining(attack, epsilon="2/255")


class Detached(Network):
    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        return super().forward([image.detach() for image in images], targets)


class Silent(nn.Linear):
    """Takes one tensor."""


@pytest.mark.parametrize(
    ("batch", "module", "detector", "text"),
    [
        ({"images": 1}, Theirs(), "network", r"the batch is a dict; expected a pair \(images, targets\) as torchv"),
        ((1, 2, 3), Theirs(), "network", "the batch is a tuple of 3; expected a pair"),
        ((image(0)[None], {"boxes": 1}), Theirs(), "network", "the batch is a Tensor and a dict; expected a pair"),
        ((image(0)[None], []), Theirs(), "network", "the batch has 1 images and 0 targets"),
        (([image(0)], [{"labels": 1}]), Theirs(), "network", "target 0 of the batch is a dict with labels; expected"),
        (([image(0)[0]], [objects(0)]), Theirs(), "network", r"image 0 of the batch is float32 \[32, 32\]; expected"),
        (([image(0) * 255], [objects(0)]), Theirs(), "network", "image 0 of the batch has values from .* normalises"),
        (of_references(0), Theirs(), "model", "Theirs has no detector at 'model' .*; its parts are network"),
        (of_references(0), Theirs(), "given", "detector='given' is a list in Theirs; expected a robustdet.types.HasLo"),
        (of_references(0), Theirs(Silent(1, 1)), "network", "Silent gave no losses: TypeError: .*; expected a"),
        (of_references(0), Theirs(Detached()), "network", "Detached: its losses have no gradient to the pixels"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_at_the_first_batch(batch: Any, module: Theirs, detector: str, text: str):
    with pytest.raises(ValueError, match=text):
        fit(module, AdversarialTraining(PGD(total, LInf("8/255"), 1, "2/255"), detector=detector), [batch])
    assert not module.given


def test_an_attack_that_asks_for_more_than_losses_is_named():
    with pytest.raises(ValueError, match="PGD asks for raw scores of every place, and Network offers its losses: take"):
        fit(Theirs(), AdversarialTraining("cwa", detector="network"), [of_references(0)])
