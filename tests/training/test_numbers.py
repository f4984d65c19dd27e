"""NaN and infinity end a training with names, before they are in its weights or in a file; nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch.optim.lr_scheduler import ConstantLR

from robustdet.cli.train import train
from robustdet.defences.standard import Standard
from robustdet.errors import NumericalError
from robustdet.training import finite
from robustdet.training import module as module_file
from robustdet.training.finite import largest, zero_unless_finite
from robustdet.training.module import SMALLEST_SCALE, DetectionModule
from tests.detection.conftest import build_detector, make_target
from tests.launchers.commands import FEW

pytestmark = pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped")


class Poison(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan")


def poisoned(monkeypatch: pytest.MonkeyPatch, at: int, poison: Callable[[Any, Any], Any]) -> None:
    original = DetectionModule.training_step

    def step(module: DetectionModule, batch: Any, index: int) -> Any:
        if module.global_step == at:
            module.model.backbone.layers[2].register_forward_hook(lambda layer, inputs, output: poison(layer, output))
        return original(module, batch, index)

    monkeypatch.setattr(DetectionModule, "training_step", step)


@pytest.fixture
def config(compose: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    small = ["experiment=shapes_std", "trainer.max_steps=4", "trainer.val_check_interval=2", "logger=none"]
    return lambda *more: compose("train", *FEW, *small, *more)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true"])
def test_a_gradient_names_its_layer_and_images_and_the_last_state_stays(
    precision: str, config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    poisoned(monkeypatch, 3, lambda layer, output: Poison.apply(output))
    with pytest.raises(NumericalError) as raised:
        train(config(f"trainer.precision={precision}"))
    text = str(raised.value)
    assert "the gradient of backbone.layers.2.bias is not finite; step 3, images train_0" in text
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert f"The last state before is in {last}" in text
    state = torch.load(last, weights_only=True)
    assert state["global_step"] == 2
    assert all(bool(tensor.isfinite().all()) for tensor in state["state_dict"].values())


def test_a_loss_names_the_first_layer(config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch):
    poisoned(monkeypatch, 1, lambda layer, output: output * float("inf"))
    with pytest.raises(NumericalError, match=r"the loss is (nan|inf): .*first in layer backbone\.layers\.2; step 1"):
        train(config())


@pytest.mark.parametrize(
    ("poison", "said"),
    [
        (lambda layer, output: output * float("inf"), r"the loss is (nan|inf): .*first in layer backbone\.layers\.2; "),
        (lambda layer, output: Poison.apply(output), r"the gradient of backbone\.layers\.2\.bias is not finite; "),
    ],
)
def test_where_nobody_looks_each_time_the_first_fault_is_named_before_anything_is_saved(
    poison: Any, said: str, config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for user in (finite, module_file):
        monkeypatch.setattr(user, "every", lambda device: 20)
    poisoned(monkeypatch, 2, poison)
    seen: list[bool] = []
    original = DetectionModule.on_before_optimizer_step

    def before(module: DetectionModule, optimizer: torch.optim.Optimizer) -> None:
        original(module, optimizer)
        seen.append(all(bool(one.grad.isfinite().all()) for one in module.model.parameters() if one.grad is not None))

    monkeypatch.setattr(DetectionModule, "on_before_optimizer_step", before)
    with pytest.raises(NumericalError, match=said + "step 2, images train_0"):
        train(config())
    assert seen == [True] * 4  # the weights never met what nobody had seen
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2


def test_gradients_become_zero_to_the_bit_or_stay():
    given = {"a": torch.tensor([1.5, -2.0]), "b": torch.tensor([[3.0]], dtype=torch.bfloat16)}
    zero_unless_finite(given, largest(given))
    assert given["a"].tolist() == [1.5, -2.0]
    assert given["b"].item() == 3
    given["b"][0, 0] = float("nan")
    zero_unless_finite(given, largest(given))
    assert given["a"].tolist() == [0, 0]
    assert given["b"].item() == 0


def test_a_state_with_such_weights_is_not_saved(config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch):
    original = DetectionModule.on_save_checkpoint

    def broken(module: DetectionModule, checkpoint: dict[str, Any]) -> None:
        with torch.no_grad():
            module.model.backbone.layers[0].weight[0] = float("inf")
        original(module, checkpoint)

    monkeypatch.setattr(DetectionModule, "on_save_checkpoint", broken)
    with pytest.raises(NumericalError, match=r"backbone\.layers\.0\.weight is not finite, and such a state is not"):
        train(config())


@pytest.mark.parametrize(("scale", "ends"), [(2.0**16, False), (SMALLEST_SCALE / 2, True)])
def test_a_scaler_may_skip_an_update_until_its_scale_is_gone(scale: float, ends: bool, monkeypatch: pytest.MonkeyPatch):
    module = DetectionModule(build_detector("tiny_ssd"), Standard(), torch.optim.SGD, ConstantLR, 0)
    module._trainer = _Nothing(precision_plugin=_Nothing(scaler=_Nothing(get_scale=lambda: scale)), global_step=5)
    for parameter in module.model.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    optimizer = torch.optim.SGD(module.model.parameters(), 0.1)
    if ends:
        with pytest.raises(NumericalError, match="is not finite"):
            module.on_before_optimizer_step(optimizer)
    else:
        module.on_before_optimizer_step(optimizer)


class _Nothing:
    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)


@pytest.mark.parametrize(
    "targets",
    [
        [make_target([])],
        [make_target([]), make_target([[10, 10, 60, 60]])],
        [make_target([[10, 10, 60, 60]], difficult=[0])],
        [make_target([[10, 10, 60, 60]], crowd=[0])],
        [make_target([[0, 0, 1e-3, 1e-3]])],
    ],
    ids=["empty", "one empty", "difficult", "crowd", "tiny"],
)
def test_batches_with_nothing_to_learn_have_a_loss_and_a_gradient(targets: list[Any]):
    model = build_detector("tiny_ssd").train()
    losses = model.losses(model(torch.rand(len(targets), 3, 96, 96)), model.assign(targets))
    total = losses.per_positive(losses.total)
    total.backward()
    assert bool(total.isfinite())
    assert all(bool(one.grad.isfinite().all()) for one in model.parameters() if one.grad is not None)
