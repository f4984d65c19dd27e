"""What every drawn experiment promises: it trains a step, and every attack works on what it has trained."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from robustdet.cli.building import build, build_module, build_trainer, prepare
from robustdet.defences.robust_ssd import RobustSSD
from robustdet.types import Batch, Detector
from tests.contracts.named_attacks import NAMES, OF_EACH_KIND
from tests.contracts.test_attacks import climbed, load, run
from tests.launchers.test_composition import ROWS
from tests.launchers.test_composition import compose as composed

BY_MODEL: dict[str, list[str]] = {}  # rows by the settings of the network that they train
for one in ROWS:
    BY_MODEL.setdefault(OmegaConf.to_yaml(composed("train", f"experiment=shapes_{one}").model), []).append(one)


def trained(compose: Callable[..., DictConfig], row: str) -> tuple[Detector, Batch, float]:
    """The detector of an experiment after one update, two test images, the share of its tensors that it changed."""
    cfg = compose(
        "train",
        f"experiment=shapes_{row}",
        "warm_start.experiment=null",
        "trainer.max_steps=1",
        "trainer.limit_val_batches=0",
        "logger=none",
        "callbacks=none",
    )
    prepare(cfg)
    experiment = build(cfg)
    before = {name: value.clone() for name, value in experiment.model.named_parameters()}
    build_trainer(cfg, []).fit(build_module(cfg, experiment), experiment.data)
    changed = [name for name, value in experiment.model.named_parameters() if not torch.equal(value, before[name])]
    experiment.data.setup("test")
    batch = next(iter(experiment.data.test_dataloader()))
    return experiment.model.eval(), Batch(batch.images[:2], batch.targets[:2]), len(changed) / len(before)


@pytest.fixture(scope="module")
def of_each_model() -> dict[str, tuple[Detector, Batch]]:
    return {}


@pytest.fixture
def victim(row: str, of_each_model, compose: Callable[..., DictConfig]) -> tuple[Detector, Batch]:
    if row not in of_each_model:
        detector, batch, changed = trained(compose, row)
        assert changed > 0.5
        of_each_model[row] = detector, batch
    return of_each_model[row]


@pytest.mark.parametrize("row", [row for rows in BY_MODEL.values() for row in rows[1:]])
def test_trains_a_step(row: str, compose: Callable[..., DictConfig]):
    *_, changed = trained(compose, row)
    assert changed > 0.5


@pytest.mark.parametrize(
    ("row", "name"),
    [  # of the rows that share a model the first: an attack cannot tell them apart
        pytest.param(row, name, marks=[] if row == "cfr" and name in OF_EACH_KIND else [pytest.mark.slow])
        for row in (rows[0] for rows in BY_MODEL.values())
        for name in NAMES
        if row != "robustdet" or name in OF_EACH_KIND  # cfr has all of it
    ],
)
def test_is_attacked(name: str, victim):
    detector, batch = victim
    attack = load(name, most_steps=2, surrogate=detector)
    if attack.knowledge == "outputs":  # a search keeps what is better, and two tries may not be
        attack = load(name, most_steps=30, surrogate=detector)
    if attack.knowledge == "discriminator" and not isinstance(detector, RobustSSD):
        with pytest.raises(TypeError, match="routing"):
            run(attack, detector, batch.images, batch.targets)
        return
    adversarial = run(attack, detector, batch.images, batch.targets)
    if not is_done(attack, detector, batch):
        assert not torch.equal(adversarial, batch.images)
    if attack.threat.epsilon is not None:
        assert ((adversarial.double() - batch.images.double()).abs() <= attack.threat.epsilon).all()
    with torch.no_grad():
        assert len(detector.detect(detector(adversarial))) == len(batch)


def is_done(attack, detector: Detector, batch: Batch) -> bool:
    """Its objective is as high as it can be: DAG attacks what is recognised, which is nothing after one update."""
    (values,) = climbed(attack, detector, batch.images, batch.targets, [batch.images])
    return attack.objective_bound is not None and bool((values >= attack.objective_bound).all())
