"""Training: the golden curves on the device, resumption to the bit, mixed precision, and two devices as one."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from robustdet.cli.train import train
from robustdet.training.module import DetectionModule
from tests.golden.test_curves import FOLDER, TOLD, losses, read
from tests.gpu.comparing import Comparisons, difference
from tests.launchers.commands import FEW, finish, start
from tests.launchers.test_composition import ROWS

DECIMALS = 2e-3  # of the largest value of a curve: the smallest losses on file have three digits
Compose = Callable[..., DictConfig]
SHORT = [*(told for told in FEW if not told.startswith("callbacks.")), "callbacks=none", "logger=none"]
SHORT += ["experiment=shapes_cfr", "schedule.updates_per_source=3"]


def trainer_on(device: torch.device) -> str:
    return "trainer=gpu" if device.type == "cuda" else "trainer=cpu"


def drawn_on_the_cpu(images: int, shape: Sequence[int], device: torch.device, generator: torch.Generator) -> Tensor:
    """CFR's noise as of the curves on file, whatever the device."""
    return torch.randn([images, *shape], generator=generator).to(device)


@pytest.mark.parametrize("row", ROWS)
def test_ten_updates_follow_the_golden_curve(
    row: str, compose: Compose, device: torch.device, compare: Comparisons, monkeypatch: pytest.MonkeyPatch
):
    """Every method and loss: the numbers on file are the CPU's, in double precision."""
    monkeypatch.setattr("robustdet.defences.robust_ssd.draw_noise", drawn_on_the_cpu)
    found = losses(compose("train", f"experiment=shapes_{row}", *TOLD, trainer_on(device)))
    expected = read(FOLDER / f"shapes_{row}.txt")
    reference, value = ({name: torch.tensor(curve) for name, curve in of.items()} for of in (expected, found))
    wrong = {name: curve.roll(1) for name, curve in value.items()}  # one update late
    assert compare.trouble_of("training", f"shapes_{row}, 10 updates", reference, value, wrong, DECIMALS) is None


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]


def told_to_stop(monkeypatch: pytest.MonkeyPatch, cfg: DictConfig, updates: int) -> None:
    """Trains until so many batches have begun, where the process is told to stop, and saves its state."""
    step = DetectionModule.training_step

    def training_step(self: DetectionModule, *arguments: Any) -> Any:
        if self.global_step == updates:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionModule, "training_step", training_step)
        with pytest.raises(SystemExit, match="143"):
            train(cfg)


def test_a_run_that_is_resumed_ends_with_the_same_weights(
    compose: Compose,
    device: torch.device,
    compare: Comparisons,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_thread: None,
):
    """With the same bits where two runs that nobody stopped have the same; how far apart by torch's own is shown."""
    common = [*FEW, "experiment=shapes_cfr", "schedule.updates_per_source=3", "logger=none", trainer_on(device)]
    common += ["trainer.max_steps=7", "trainer.val_check_interval=7"]
    for kind, deterministic in {"deterministic kernels": "warn", "torch's own kernels": "null"}.items():

        def told(name: str, deterministic: str = deterministic) -> DictConfig:
            run = tmp_path / f"{name} {deterministic}"
            return compose("train", *common, f"trainer.deterministic={deterministic}", f"paths.run={run}")

        one, two = (weights(train(told(name))) for name in ("one", "two"))
        told_to_stop(monkeypatch, told("stopped"), updates=4)
        goes_on = told("stopped")
        goes_on.ckpt_path = str(Path(goes_on.paths.run) / "checkpoints" / "last.ckpt")
        resumed = weights(train(goes_on))
        repeated, apart = difference(one, two), difference(one, resumed)
        compare.observe("resume", kind, f"two whole runs differ by {repeated:.1e}, a resumed one by {apart:.1e}")
        if deterministic == "warn":  # else one gradient near zero changes its sign, and the two are apart by chance
            assert apart <= 10 * repeated, f"{kind}: {apart} against {repeated}"


# A scaler begins at 65,536, where half precision overflows here, and would leave the first updates out.
SCALED = "{_target_: torch.amp.GradScaler, device: cuda, init_scale: 1024}"
HALF = "{_target_: pytorch_lightning.plugins.precision.MixedPrecision, precision: 16-mixed, device: cuda, scaler: %s}"
MIXED = {
    "bf16-mixed": ["trainer.precision=bf16-mixed"],
    "16-mixed": ["trainer.precision=null", f"+trainer.plugins=[{HALF % SCALED}]"],
}


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16-mixed", 0.1), ("16-mixed", 0.1)])
def test_mixed_precision_learns_as_full_does(
    precision: str, tolerance: float, compose: Compose, device: torch.device, compare: Comparisons, tmp_path: Path
):
    if device.type == "cpu" and precision == "16-mixed":
        pytest.skip("half precision is a GPU's")

    def curve(name: str, *overrides: str) -> dict[str, torch.Tensor]:
        run = tmp_path / name
        told = [*SHORT, "logger=csv", trainer_on(device), f"paths.run={run}", "trainer.val_check_interval=6"]
        train(compose("train", *told, "trainer.max_steps=6", *overrides))
        with (run / "csv" / "metrics.csv").open(encoding="utf-8") as file:
            found = [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]
        assert len(found) == 6
        return {"loss": torch.tensor(found)}

    whole, mixed, other = curve("32-true"), curve("mixed", *MIXED[precision]), curve("other", "seed=1")
    assert compare.trouble_of("precision", f"{precision}, loss of 6 updates", whole, mixed, other, tolerance) is None


def test_two_processes_do_what_one_does(compose: Compose, device: torch.device, compare: Comparisons, tmp_path: Path):
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip(f"{torch.cuda.device_count()} GPU: two are needed")
    cfg: Any = compose("train", *SHORT)
    common = [*SHORT, "experiment=shapes_robustdet", "optimizer=sgd", "trainer.precision=64-true"]
    common += ["trainer.max_steps=4", "trainer.val_check_interval=4"]
    common += ["model.aid.trunk._target_=tests.launchers.commands.PlainTrunk"]  # no batch norm
    common += [f"paths.{name}={cfg.paths[name]}" for name in ("data", "outputs")]
    several = ["trainer=ddp", "trainer.devices=2"] if device.type == "cuda" else ["trainer=ddp_cpu"]
    ways = {
        "one": [trainer_on(device)],
        "two": several,
        "wrong": [trainer_on(device), "trainer.max_steps=3", "trainer.val_check_interval=3"],
    }
    ends = {}
    for name, told in ways.items():
        finish(start("train", *common, f"paths.run={tmp_path / name}", *told))
        ends[name] = weights(tmp_path / name / "checkpoints" / "final.ckpt")
    one, two, wrong = ends.values()
    assert compare.trouble_of("processes", "weights after 4 updates", one, two, wrong, 1e-5) is None
