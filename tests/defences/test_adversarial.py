"""SSD-AT, MTD and CWAT: one step of each against a loop over images and boxes, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robustdet.defences import robust_ssd
from robustdet.defences.adversarial import AdversarialTraining
from robustdet.defences.schedules import Full, Replay
from robustdet.defences.standard import Standard
from tests.defences import slowly
from tests.defences.test_schedules import ATTACKS

pytestmark = pytest.mark.usefixtures("double")


def agree(output: Any, expected: dict[str, torch.Tensor], model: Any) -> None:
    """The parts by name, and the gradient of the loss to every parameter."""
    for name, value in expected.items():
        shown = output.loss if name == "loss" else (output.parts | output.diagnostics())[name]
        torch.testing.assert_close(
            shown, value, rtol=1e-9, atol=1e-12, check_dtype=False, msg=lambda text, name=name: f"{name}: {text}"
        )
    parameters = dict(model.named_parameters())
    ours = torch.autograd.grad(output.loss, list(parameters.values()), allow_unused=True)
    theirs = torch.autograd.grad(expected["loss"], list(parameters.values()), allow_unused=True)
    for name, one, other in zip(parameters, ours, theirs, strict=True):
        if one is None or other is None:  # what is no part of a loss, as batch norm's bias before another
            assert one is None or not one.any(), name
            assert other is None or not other.any(), name
        else:
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


def detection(
    model: Any, images: torch.Tensor, targets: list[Any], generators: list[torch.Generator] | None = None
) -> dict[str, torch.Tensor]:
    """L_cls, L_loc and L_det by name, per positive of the batch; under "each" L_det of every image by its own."""
    each_own = generators or [None] * len(images)
    raws = [model(image[None], own) for image, own in zip(images, each_own, strict=True)]
    sums = [slowly.det_sums(model, raw, target) for raw, target in zip(raws, targets, strict=True)]
    positives = max(sum(count for _, _, count in sums), 1)
    cls, loc = (sum(image[task] for image in sums) / positives for task in (0, 1))
    each = torch.stack([(image[0] + image[1]).detach() / max(image[2], 1) for image in sums])
    return {"L_cls": cls, "L_loc": loc, "L_det": cls + loc, "each": each}


@pytest.mark.parametrize("model_name", ["tiny_ssd", "tiny_robust_ssd_cfr"])
@pytest.mark.parametrize("count", [2, 3])
def test_standard_minimises_the_detection_loss_of_the_clean_batch(
    model_name: str, count: int, monkeypatch: pytest.MonkeyPatch
):
    """CFR's features are sampled in any training: here each image's with its rows of the batch's noise."""
    model, batch = slowly.build(model_name), slowly.batch(5, count)
    generators = [torch.Generator() for _ in range(count)]

    def of_the_batch(images: int, shape: Any, device: torch.device, own: torch.Generator) -> torch.Tensor:
        noise = torch.randn([count, *shape], generator=torch.Generator().manual_seed(3))
        return noise[[generators.index(own)]].to(torch.get_default_dtype())

    with monkeypatch.context() as patched:
        patched.setattr(robust_ssd, "draw_noise", of_the_batch)
        expected = detection(model, batch.images, batch.targets, generators)
    del expected["each"]
    output = Standard().step(model, batch, torch.Generator().manual_seed(3))
    assert output.parts.keys() == expected.keys()
    agree(output, expected | {"loss": expected["L_det"]}, model)


@pytest.mark.parametrize("method", [Standard(), AdversarialTraining(Full(ATTACKS["a_cls"](2)))])
def test_what_a_network_samples_comes_from_the_generator_of_the_batch(method: Any):
    model, batch = slowly.build("tiny_robust_ssd_cfr"), slowly.batch(5, count=2)
    first, again, other = (method.step(model, batch, torch.Generator().manual_seed(seed)).loss for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("name", ATTACKS)
def test_the_loss_is_that_of_the_clean_images_joined_with_the_attacked_ones(name: str):
    """Replayed, so that the attacked half comes from other images than the clean one."""
    model = slowly.build("tiny_ssd")
    method = AdversarialTraining(Replay(ATTACKS[name](20), updates_per_source=2, step_sizes=["4/255"]))
    source = slowly.batch(1, count=3)
    attacked = source.images
    for batch in (source, slowly.batch(2, count=3)):
        attacked = slowly.moved(name, model, attacked, source, 4 / 255)
        output = method.step(model, batch, torch.Generator().manual_seed(0))
        expected = detection(model, torch.cat([batch.images, attacked]), [*batch.targets, *source.targets])
        each = expected.pop("each")
        expected["loss"] = expected["L_det"]
        expected["L_det_clean"], expected["L_det_adv"] = each[:3].mean(), each[3:].mean()
        travelled = [abs(float(a - c)) for a, c in zip(attacked.flatten(), source.images.flatten(), strict=True)]
        expected["perturbation"] = torch.tensor(255 * sum(travelled) / len(travelled))
        assert output.parts.keys() | output.diagnostics().keys() | {"loss"} == expected.keys()
        agree(output, expected, model)


def test_its_state_is_that_of_its_schedule():
    model, one, other = slowly.build("tiny_ssd"), *(
        AdversarialTraining(Replay(ATTACKS["a_cls"](20), updates_per_source=3, step_sizes=["1/255", "4/255"]))
        for _ in range(2)
    )  # fmt: skip
    one.step(model, slowly.batch(1), torch.Generator().manual_seed(0))
    other.load_state_dict(one.state_dict())
    losses = [m.step(model, slowly.batch(2), torch.Generator().manual_seed(1)).loss for m in (one, other)]
    assert losses[0] == losses[1]
    fresh = AdversarialTraining(Full(ATTACKS["a_cls"](1)))
    fresh.load_state_dict(fresh.state_dict())
