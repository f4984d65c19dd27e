"""What every method in conf/method promises, under every schedule in conf/schedule: a new yaml is tested unasked.

On the smallest detector that has all that a method may want: routed, with features to sample.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from robustdet.defences.robust_ssd import RobustSSD
from robustdet.types import Batch, StepOutput, TrainingMethod
from tests.detection.conftest import build_detector, make_target
from tests.slowness import quick

CONF = Path(__file__).parents[2] / "conf"
METHODS = sorted((CONF / "method").glob("*.yaml"))
SCHEDULES = sorted((CONF / "schedule").glob("*.yaml"))
PAIRS = [(method.stem, schedule.stem) for method in METHODS for schedule in SCHEDULES]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norm, which a training pass updates

Make = Callable[[], Any]


@cache
def composed(method: str, schedule: str) -> DictConfig:
    """A run's config, as the command line makes it, with an attack of two steps."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", [f"method={method}", f"schedule={schedule}", "attack=mtd", "attack.steps=2"])


def classes(method: str, schedule: str) -> str:
    """The classes that a method is made of: settings aside, for two numbers of updates keep the same promises."""
    settings = OmegaConf.to_yaml(composed(method, schedule).method, resolve=True)
    return "".join(line for line in settings.splitlines() if "_target_: " in line)


DIFFERENT = list({classes(*pair): pair for pair in reversed(PAIRS)}.values())


@pytest.fixture(params=quick(DIFFERENT, lambda pair: "full" not in pair or "standard" in pair), ids="-".join)
def make(request: Any) -> Make:
    """Builds the method anew."""
    return lambda: hydra.utils.instantiate(composed(*request.param).method)


@pytest.fixture
def model() -> RobustSSD:
    torch.manual_seed(0)
    return build_detector("tiny_robust_ssd_cfr", num_classes=3).train()  # type: ignore[return-value]


def batch(number: int = 0, count: int = 3) -> Batch:
    """Two objects, one and a difficult one, none."""
    images = torch.rand(count, 3, 96, 96, generator=torch.Generator().manual_seed(number))
    targets = [
        make_target([[8, 8, 40, 40], [50, 40, 90, 80]], [1, 3], image_id=f"{number} two"),
        make_target([[20, 10, 70, 60], [0, 60, 30, 90]], [2, 1], difficult=[1], image_id=f"{number} one"),
        make_target([], image_id=f"{number} none"),
    ]
    return Batch(images, targets[:count])


def step(method: Any, model: RobustSSD, number: int = 0, given: Batch | None = None) -> StepOutput:
    return method.step(model, given or batch(number), torch.Generator().manual_seed(number))


def update(method: Any, model: RobustSSD, number: int) -> float:
    """One weight update by plain gradient descent; its loss."""
    loss = step(method, model, number).loss
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
                parameter.grad = None
    return loss.item()


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_says_in_its_first_line_what_it_is(path: Path):
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_speaks_the_vocabulary(pair: tuple[str, str]):
    assert isinstance(hydra.utils.instantiate(composed(*pair).method), TrainingMethod)


def test_the_loss_is_a_finite_number_whose_gradients_reach_the_network(make: Make, model: RobustSSD):
    output = step(make(), model)
    assert output.loss.shape == ()
    assert output.loss.isfinite()
    output.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    for part in ("backbone.", "classification_head.", "regression_head."):
        assert any(gradient.abs().sum() > 0 for name, gradient in gradients.items() if name.startswith(part)), part


def test_the_parts_are_finite_numbers_under_names_of_their_own(make: Make, model: RobustSSD):
    output = step(make(), model)
    diagnostics = output.diagnostics()
    assert not {"loss", *output.parts} & diagnostics.keys()
    assert "loss" not in output.parts  # that is logged beside them
    for name, value in (output.parts | diagnostics).items():
        assert value.shape == (), name
        assert value.isfinite(), name


def test_the_same_generator_gives_the_same_loss_whatever_the_global_random_state(make: Make, model: RobustSSD):
    before = torch.get_rng_state()
    losses = [step(make(), copy.deepcopy(model)).loss.item()]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    losses.append(step(make(), copy.deepcopy(model)).loss.item())
    assert losses[0] == losses[1]


def test_the_model_is_left_as_it_was_but_for_the_statistics_of_batch_norm(make: Make, model: RobustSSD):
    model.backbone.eval()  # a mode and a flag of its own, and gradients of an earlier micro-batch
    next(model.parameters()).requires_grad_(False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    given, expected = batch(), state_of(model)
    kept = copy.deepcopy(given.state_dict())
    step(make(), model, given=given)
    assert state_of(model) == expected
    assert torch.equal(given.images, kept["images"])
    assert len(given) == len(kept["targets"])


def state_of(model: RobustSSD) -> dict[str, Any]:
    tensors = {n: t for n, t in (*model.named_parameters(), *model.named_buffers()) if not n.endswith(STATISTICS)}
    return {
        "modes": [module.training for module in model.modules()],
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [None if p.grad is None else bool((p.grad == 1).all()) for p in model.parameters()],
        "tensors": {name: tensor.detach().numpy().tobytes() for name, tensor in tensors.items()},
    }


def test_a_run_that_is_resumed_goes_on_bit_for_bit(make: Make, model: RobustSSD):
    method, updates = make(), 3
    for number in range(updates):
        update(method, model, number)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    resumed, twin = make(), copy.deepcopy(model)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for number in range(updates, updates + 2):
        assert update(method, model, number) == update(resumed, twin, number)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_one_image_is_enough(make: Make, model: RobustSSD):
    output = step(make(), model, given=batch(count=1))
    assert output.loss.isfinite()


def test_images_without_objects_are_no_trouble(make: Make, model: RobustSSD):
    images = batch().images[:2]
    output = step(make(), model, given=Batch(images, [make_target([], image_id=name) for name in "ab"]))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
