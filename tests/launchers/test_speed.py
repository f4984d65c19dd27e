"""`speed=fast`: what it sets, that it stands in the record, and that no evaluation knows of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hydra.errors import HydraException
from omegaconf import DictConfig
from pytorch_lightning.plugins.precision import MixedPrecision

from robustdet.analysis.table import summary
from robustdet.cli.building import plain
from robustdet.cli.clean_stage import identify, stage_config
from robustdet.cli.composition import composed
from robustdet.cli.evaluate import evaluate
from robustdet.cli.train import train
from robustdet.defences.aa_conv import AAConv2d
from robustdet.training.levers import Levers
from robustdet.training.module import DetectionModule
from tests.launchers.commands import FEW

Compose = Callable[..., DictConfig]
RUN = ["experiment=shapes_robustdet", "trainer.max_steps=2", "trainer.val_check_interval=2", "callbacks=none"]
RUN = [*(told for told in FEW if not told.startswith("callbacks.")), *RUN]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.usefixtures("one_thread"),
]


def levers_of(cfg: DictConfig) -> dict[str, Any]:
    """All that a profile sets, where it is read."""
    return {
        "precision": cfg.trainer.precision,
        "fused": cfg.optimizer.get("fused", cfg.optimizer.get("optimizer", {}).get("fused")),
        "adversarially_aware": cfg.model.get("adversarially_aware"),
        "channels_last": cfg.callbacks.levers.channels_last,
        "compile": cfg.callbacks.levers.compile,
    }


@pytest.mark.parametrize("speed", ["exact", "fast", "fast_gpu"])
@pytest.mark.parametrize("experiment", ["shapes_robustdet", "voc_cfr", "voc_mobile_robustdet"])
def test_every_lever_of_a_profile_is_read_where_it_works(experiment: str, speed: str):
    cfg = composed("train", [f"experiment={experiment}", f"speed={speed}", "paths.run=run"])
    assert {"name": speed, **levers_of(cfg)} == plain(cfg.speed)


def test_what_is_said_of_one_lever_goes_before_the_profile():
    told = ["trainer.precision=32-true", "callbacks.levers.channels_last=false", "model.adversarially_aware=heads"]
    cfg = composed("train", ["experiment=shapes_robustdet", "speed=fast", *told, "paths.run=run"])
    expected = {"precision": "32-true", "channels_last": False, "adversarially_aware": "heads"}
    assert {**plain(cfg.speed), **expected} == {"name": "fast", **levers_of(cfg)}


def test_exact_is_what_is_meant_where_nothing_is_said():
    told = ["experiment=shapes_robustdet", "paths.run=run"]
    assert plain(composed("train", told)) == plain(composed("train", [*told, "speed=exact"]))


def test_a_clean_stage_is_trained_as_fast(compose: Compose):
    warm = [line for line in RUN if not line.startswith("warm_start")]
    stage = stage_config(compose("train", *warm, "speed=fast"))
    assert stage.speed.name == "fast"
    assert levers_of(stage) == {**levers_of(compose("train", *RUN, "speed=fast")), "adversarially_aware": None}


@pytest.mark.parametrize("root", ["evaluate", "analyze", "predict", "export"])
def test_no_other_command_has_a_profile(root: str):
    with pytest.raises(HydraException, match="speed"):
        composed(root, ["speed=fast", "ckpt_path=file"])


def test_a_fast_run_is_another_run_and_is_judged_exactly(compose: Compose, capsys: pytest.CaptureFixture[str]):
    """Updates in bfloat16 with clipped gradients and a fused optimiser; attacks, and all that is judged, are exact."""
    cfg = compose("train", *RUN, "speed=fast")
    assert identify(cfg).run != identify(compose("train", *RUN)).run
    seen: dict[str, set[torch.dtype]] = {"fit": set(), "test": set()}
    forward, during = AAConv2d.forward, ["fit"]

    def watched(layer: AAConv2d, x: torch.Tensor) -> torch.Tensor:
        y = forward(layer, x)
        if during[0] == "test" or layer.weight.requires_grad:  # not in a training's attacks
            seen[during[0]].add(y.dtype)
        else:
            assert y.dtype == torch.float32
        return y

    clipped = mock.patch.object(torch.nn.utils, "clip_grad_norm_", wraps=torch.nn.utils.clip_grad_norm_)
    with mock.patch.object(AAConv2d, "forward", watched), clipped as clip:
        final = train(cfg)
        assert clip.call_count == 2
        during[0] = "test"
        few = ["suite=quick", "suite.max_images=2", "pictures=0", "~suite.attacks.pgd_loc"]
        with mock.patch.object(Levers, "apply", autospec=True, side_effect=Levers.apply) as applied:
            records = evaluate(compose("evaluate", *few, "suite.attacks.pgd_cls.steps=1", f"ckpt_path={final}"))
    assert seen == {"fit": {torch.bfloat16}, "test": {torch.float32}}
    levers = applied.call_args.args[0]
    assert (levers.channels_last, levers.compile, levers.recompute, levers.tf32) == (False, None, False, None)
    assert {(record.run.speed, record.environment.precision) for record in records} == {("fast", "32-true, TF32 off")}
    assert "were trained with speed=fast" in capsys.readouterr().out
    assert "shapes_robustdet: the weights were trained with speed=fast" in summary(records).notes


def test_where_a_loss_is_scaled_lightning_clips_or_refuses():
    """With 16-mixed: a fused optimiser would take the scale from its gradients after they were clipped."""
    module = mock.Mock(spec=DetectionModule)
    module.trainer = mock.Mock(precision_plugin=mock.Mock(spec=MixedPrecision, scaler=mock.Mock()))
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)
    DetectionModule.configure_gradient_clipping(module, optimizer, 1.0, "norm")
    module.clip_gradients.assert_called_once_with(optimizer, 1.0, "norm")
