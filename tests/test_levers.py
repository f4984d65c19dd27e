"""Levers change the speed, not the result: each within a stated tolerance of the plain computation."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustdet.attacks import MTD, LInf
from robustdet.defences.aa_choices import CHOICES
from robustdet.defences.aa_conv import AAConv2d, Routing
from robustdet.defences.schedules import Replay
from robustdet.defences.standard import Standard
from robustdet.errors import InputError
from robustdet.training import levers
from robustdet.training.levers import Levers, require_compilable
from robustdet.training.module import DetectionModule
from robustdet.types import Batch
from tests.detection.conftest import build_detector, make_target

MODELS = ("tiny_ssd", "tiny_robust_ssd", "tiny_robust_ssd_cfr")
OFF = {"channels_last": False, "recompute": False, "compile": None}


@pytest.fixture(params=MODELS)
def model(request: Any) -> Any:
    torch.manual_seed(0)
    return build_detector(request.param)


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def with_levers(model: nn.Module, **levers: bool) -> Any:
    changed = copy.deepcopy(model)
    Levers(**OFF | levers).apply(changed)
    return changed


def update(model: Any) -> dict[str, Tensor]:
    """Everything that one update computes: predictions, and the gradients to images and parameters."""
    model.requires_grad_(True)
    leaf = images().to(next(model.parameters()).dtype).requires_grad_()
    raw = model(leaf, torch.Generator().manual_seed(2))
    loss = raw.cls_logits.square().mean() + raw.bbox_regression.square().mean()
    if getattr(raw, "reconstruction", None) is not None:
        loss = loss + raw.reconstruction.square().mean()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"logits": raw.cls_logits.detach(), "boxes": raw.bbox_regression.detach(), "images": leaf.grad, **gradients}


def relative_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max() / one[key].abs().max().clamp(min=1e-12)) for key in one)


def test_channels_last_changes_rounding_only(model: Any):
    changed = with_levers(model, channels_last=True)
    assert relative_difference(update(model.double()), update(changed.double())) < 1e-9


def test_channels_last_in_single_precision_is_within_a_thousandth(model: Any):
    assert relative_difference(update(model), update(with_levers(model, channels_last=True))) < 2e-3


def test_channels_last_is_what_convolutions_then_say():
    for name in ("tiny_ssd", "tiny_robust_ssd"):
        changed = with_levers(build_detector(name), channels_last=True)
        x = changed.backbone(images(), stop=2)[0] if name == "tiny_ssd" else None
        assert x is None or x.is_contiguous(memory_format=torch.channels_last)
        for layer in changed.modules():
            if isinstance(layer, AAConv2d):
                kernels = layer.mixed_weight(torch.full((2, 4), 0.25))
                assert kernels[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("execution", ["grouped", "per_image", "basis"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_recomputing_changes_nothing_at_all(execution: str, channels_last: bool):
    torch.manual_seed(0)
    model = with_levers(build_detector("tiny_robust_ssd_cfr", [f"execution={execution}"]), channels_last=channels_last)
    one, other = update(model), update(with_levers(model, recompute=True))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


class Made(TorchDispatchMode):
    """Remembers, without holding, every tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = operation(*arguments, **(keywords or {}))
        self.tensors += [weakref.ref(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        return result


def held(model: Any) -> int:
    """Bytes that the graph of one forward keeps alive, each storage once, parameters apart."""
    leaf = images(8).requires_grad_()
    with Made() as made:
        raw = model(leaf)
    gc.collect()
    alive = [tensor for tensor in (reference() for reference in made.tensors) if tensor is not None]
    own = {tensor.untyped_storage().data_ptr() for tensor in (leaf, *model.parameters(), *model.buffers())}
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in alive}
    assert raw.cls_logits.requires_grad
    return sum(size for pointer, size in storages.items() if pointer not in own)


@pytest.mark.slow
@pytest.mark.parametrize(("execution", "channels_last"), [("grouped", False), ("per_image", True)])
def test_recomputing_keeps_no_mixed_kernel_and_fewer_activations(execution: str, channels_last: bool):
    learning = build_detector("tiny_robust_ssd", [f"execution={execution}"]).requires_grad_(True)
    lighter = with_levers(learning, recompute=True, channels_last=channels_last)
    assert held(lighter) < 0.25 * held(with_levers(learning, channels_last=channels_last))
    assert all(layer.recompute for layer in lighter.backbone.layers if isinstance(layer, AAConv2d))
    frozen = with_levers(learning, channels_last=channels_last).requires_grad_(False)
    mixed = 8 * 4 * sum(layer.weight[0].numel() for layer in frozen.modules() if isinstance(layer, AAConv2d))
    saved = held(frozen) - held(with_levers(frozen, recompute=True, channels_last=channels_last))
    assert saved == pytest.approx(mixed, rel=0.02)  # bytes of the kernels of 8 images


class Peak(Made):
    """And how many bytes were alive at most, each storage once."""

    most = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = super().__torch_dispatch__(operation, types, arguments, keywords)
        alive = [tensor.untyped_storage() for reference in self.tensors if (tensor := reference()) is not None]
        self.most = max(self.most, sum({one.data_ptr(): one.nbytes() for one in alive}.values()))
        return result


@pytest.mark.parametrize("execution", ["grouped", "per_image"])
def test_in_chunks_and_recomputed_few_mixed_kernels_are_alive_at_a_time(
    execution: str, monkeypatch: pytest.MonkeyPatch
):
    layer = AAConv2d(nn.Conv2d(32, 64, 3), 4, Routing(), 0.0, execution=execution)
    layer.recompute = True
    kernel, leaf = layer.weight[0].nbytes, torch.rand(8, 32, 5, 5, requires_grad=True)
    peaks = []
    for limit in (None, 2 * kernel):
        monkeypatch.setitem(CHOICES, "cpu", replace(CHOICES["cpu"], mixed_bytes=limit))
        layer.requires_grad_(False)
        with Peak() as peak, layer.routing.use(torch.full((8, 4), 0.25, requires_grad=True)):
            torch.autograd.grad(layer(leaf).sum(), leaf)
        peaks.append(peak.most)
    assert peaks[0] > 8 * kernel
    assert peaks[1] < 0.6 * peaks[0]  # the rest are maps, and what one chunk holds


def test_recomputing_names_a_backbone_that_it_does_not_know():
    model = nn.Module()
    for backbone in ("Identity", "NoneType"):  # the last: a network of torchvision's has none at this place
        model.backbone = nn.Identity() if backbone == "Identity" else None
        with pytest.raises(TypeError, match=f"expected a Backbone to recompute, got {backbone}"):
            Levers(**OFF | {"recompute": True}).apply(model)


def test_an_attack_on_a_frozen_model_does_not_recompute_activations():
    model = with_levers(build_detector("tiny_ssd").requires_grad_(False), recompute=True)
    calls: list[int] = []
    model.backbone.layers[0].register_forward_hook(lambda *_: calls.append(1))
    leaf = images().requires_grad_()
    torch.autograd.grad(model(leaf).cls_logits.sum(), leaf)
    assert len(calls) == 1


@pytest.mark.slow
def test_steps_compile_to_whole_graphs_and_name_what_is_not_finite():
    """In a process of its own; see there."""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-m", "tests.compilation"], cwd=root, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    methods = [f"adversarial, {attack}" for attack in ("MTD", "A_loc", "CWA")]
    methods += ["standard", "RobustDet*", "RobustDet*, as published"]
    held = [*(f"{name}: whole graphs" for name in methods), "an attack: equal", "graphs: nothing of the host"]
    held += ["not finite: named"]
    assert [line for line in done.stdout.splitlines() if line] == held


@pytest.mark.parametrize("model", ["tiny_ssd"], indirect=True)
def test_bfloat16_is_within_two_hundredths(model: Any):
    with torch.no_grad():
        full = model(images()).cls_logits
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images()).cls_logits.float()
    assert float((full - half).abs().max() / full.abs().max()) < 0.02


@pytest.mark.parametrize(("name", "optimizer"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_fused_optimiser_is_within_rounding(name: str, optimizer: Any):
    settings = OmegaConf.load(Path(__file__).parents[1] / "conf" / "optimizer" / f"{name}.yaml")
    arguments = {key: settings[key] for key in settings if not key.startswith("_") and key != "fused"}
    ends = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = build_detector("tiny_ssd").requires_grad_(True)
        steps = optimizer(model.parameters(), **arguments, fused=fused)
        for _ in range(3):
            model(images()).cls_logits.square().mean().backward()
            steps.step()
            steps.zero_grad()
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("end", ["teardown", "exception"])
def test_tf32_is_set_for_a_run_and_put_back_after_it(end: str):
    def switches() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before, trainer, module = switches(), Mock(spec=pl.Trainer), Mock(spec=pl.LightningModule, model=nn.Module())
    for asked, expected in ((None, before), (True, ("high", True)), (False, ("highest", False))):
        levers = Levers(channels_last=False, tf32=asked)
        levers.setup(trainer, module, "fit")
        assert switches() == expected
        if end == "teardown":
            levers.teardown(trainer, module, "fit")
        else:
            levers.on_exception(trainer, module, OSError())
        assert switches() == before


def test_levers_are_yaml_values_with_the_defaults_of_the_code():
    conf = Path(__file__).parents[1] / "conf"
    values = dict(OmegaConf.load(conf / "callbacks/levers.yaml").levers.items())
    assert values.pop("_target_") == "robustdet.training.levers.Levers"
    one, other = Levers(**values), Levers()
    assert values.keys() == {"channels_last", "recompute", "compile", "tf32"}
    assert all(getattr(one, name) == getattr(other, name) for name in values)
    assert {OmegaConf.load(conf / f"optimizer/{name}.yaml").fused for name in ("sgd", "adamw")} == {None}
    assert OmegaConf.load(conf / "trainer/default.yaml").precision == "32-true"


def test_replay_matches_the_targets_of_a_source_once():
    model = build_detector("tiny_ssd")
    asked: list[int] = []
    assign = model.assign
    model.assign = lambda targets: asked.append(1) or assign(targets)
    replay = Replay(MTD(LInf("8/255"), 3, "2/255"), updates_per_source=3, step_sizes=["2/255"])
    batch = Batch(images(2), [make_target([[10, 10, 60, 60]], image_id=name) for name in "ab"])
    for _ in range(6):
        replay.next(model, batch, torch.Generator())
    assert len(asked) == 2
    resumed = Replay(replay.attack, updates_per_source=3, step_sizes=["2/255"])
    replay.next(model, batch, torch.Generator())
    resumed.load_state_dict(replay.state_dict())
    expected = replay.next(model, batch, torch.Generator()).images
    assert torch.equal(resumed.next(model, batch, torch.Generator()).images, expected)


def test_compiled_steps_that_would_fail_after_hours_are_refused_at_once(monkeypatch: pytest.MonkeyPatch):
    from torch._inductor import config as inductor

    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(levers, "CLONING", "what_no_torch_has")
    for mode in ("reduce-overhead", "max-autotune"):
        with pytest.raises(InputError, match=f"compile={mode} records CUDA graphs, .* before torch 2.15, and this is"):
            require_compilable(mode, gpu, synchronised=False)
        require_compilable(mode, cpu, synchronised=False)
    require_compilable("default", gpu, synchronised=False)
    with pytest.raises(InputError, match=r"batch norm that several processes share \(sync_batchnorm\) breaks it"):
        require_compilable("default", cpu, synchronised=True)
    monkeypatch.undo()
    if hasattr(inductor.triton, levers.CLONING):
        require_compilable("max-autotune", gpu, synchronised=False)


@pytest.mark.parametrize(
    ("name", "processes", "shared", "stage", "refused"),
    [
        ("tiny_robust_ssd", 2, True, "fit", True),
        ("tiny_ssd", 2, True, "fit", False),  # it has no norms
        ("tiny_robust_ssd", 1, True, "fit", False),
        ("tiny_robust_ssd", 2, False, "fit", False),
        ("tiny_robust_ssd", 2, True, "test", False),  # Lightning has them share while they learn alone
    ],
)
def test_norms_that_several_processes_share_are_not_compiled(
    name: str, processes: int, shared: bool, stage: str, refused: bool, monkeypatch: pytest.MonkeyPatch
):
    asked: list[bool] = []
    monkeypatch.setattr(levers, "require_compilable", lambda mode, device, synchronised: asked.append(synchronised))
    trainer: Any = mock.MagicMock(spec=pl.Trainer)
    trainer.world_size, trainer.strategy._layer_sync = processes, object() if shared else None
    trainer.strategy.root_device = torch.device("cpu")
    module = DetectionModule(build_detector(name), Standard(), torch.optim.SGD, ConstantLR, 0)
    one = Levers(compile="default")
    monkeypatch.setattr(one, "apply", lambda *_: None)
    one.setup(trainer, module, stage)
    assert asked == [refused]
