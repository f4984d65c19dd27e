from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig

from robustdet.cli.building import build, build_module
from robustdet.cli.instantiating import instantiate
from robustdet.cli.larger_batch import enlarge
from robustdet.training.part_rates import PartRates


def test_the_backbone_learns_at_a_rate_of_its_own(compose: Callable[..., DictConfig]):
    cfg = compose("train", "experiment=shapes_std", "optimizer=adamw_parts", "trainer.max_steps=10")
    experiment = build(cfg)
    made = build_module(cfg, experiment).configure_optimizers()
    backbone, others = made["optimizer"].param_groups
    assert isinstance(made["optimizer"], torch.optim.AdamW)
    assert [id(one) for one in backbone["params"]] == [id(one) for one in experiment.model.backbone.parameters()]
    assert len(backbone["params"]) + len(others["params"]) == len(list(experiment.model.parameters()))
    assert [group["initial_lr"] for group in (backbone, others)] == [3e-4, 1e-3]
    assert backbone["lr"] / others["lr"] == pytest.approx(0.3)  # while it warms up, too
    assert backbone["weight_decay"] == others["weight_decay"] == 5e-4


def test_a_model_without_a_backbone_has_one_rate():
    model = torch.nn.Linear(3, 2)
    (group,) = PartRates(torch.optim.SGD, lr=0.1, backbone_lr=0.01)(model).param_groups
    assert group["lr"] == 0.1
    assert len(group["params"]) == 2


def test_the_backbone_of_somebody_elses_network_is_one():
    model = torch.nn.Module()
    model.network = torch.nn.ModuleDict({"backbone": torch.nn.Linear(3, 2), "head": torch.nn.Linear(2, 1)})
    backbone, others = PartRates(torch.optim.SGD, lr=0.1, backbone_lr=0.01)(model).param_groups
    assert [len(group["params"][0]) for group in (backbone, others)] == [2, 1]
    assert (backbone["lr"], others["lr"]) == (0.01, 0.1)


def test_a_larger_batch_raises_both_rates(compose: Callable[..., DictConfig]):
    cfg = compose("train", "experiment=voc_mobile_mtd", "larger_batch=2")
    enlarge(cfg)
    made = instantiate(cfg.optimizer)
    assert (made.lr, made.backbone_lr) == (2e-3, 6e-4)
    assert cfg.schedule.epsilon_warmup == 500
