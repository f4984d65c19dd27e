"""Golden curves: ten updates of every drawn experiment on the tiny model must give the losses on file.

After a deliberate change, `make golden` writes them anew; review the diff like code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from src.building import build, build_module, build_trainer, prepare
from tests.launchers.test_composition import ROWS

FOLDER = Path(__file__).parent
STEPS = 10
EXACT = 4  # updates until a rounding has flipped the sign of a gradient near zero, and the attack another pixel


def losses(cfg: DictConfig) -> dict[str, list[float]]:
    prepare(cfg)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        experiment = build(cfg)
        module = build_module(cfg, experiment)
        seen: dict[str, list[float]] = {}
        log_dict = module.log_dict

        def record(values: dict[str, torch.Tensor], **options: object) -> None:
            for name, value in values.items():
                if name.startswith("train/L_"):
                    seen.setdefault(name.removeprefix("train/"), []).append(float(value))
            log_dict(values, **options)

        module.log_dict = record
        build_trainer(cfg, []).fit(module, experiment.data)
        return seen
    finally:
        torch.set_num_threads(threads)


def write(curves: dict[str, list[float]], path: Path) -> None:
    lines = [" ".join(f"{name:>12s}" for name in curves)]
    lines += [" ".join(f"{curves[name][step]:12.5f}" for name in curves) for step in range(STEPS)]
    path.write_text("\n".join(lines) + "\n")


def read(path: Path) -> dict[str, list[float]]:
    names, *rows = (line.split() for line in path.read_text().splitlines())
    return {name: [float(row[column]) for row in rows] for column, name in enumerate(names)}


@pytest.mark.parametrize("row", ROWS)
def test_ten_updates_reproduce_the_losses_on_file(
    row: str, compose: Callable[..., DictConfig], request: pytest.FixtureRequest
):
    cfg = compose(
        "train",
        f"experiment=shapes_{row}",
        "warm_start.experiment=null",
        f"trainer.max_steps={STEPS}",
        "trainer.limit_val_batches=0",
        "schedule.updates_per_source=4",
        "logger=none",
        "callbacks=none",
    )
    curves = losses(cfg)
    path = FOLDER / f"shapes_{row}.txt"
    if request.config.getoption("--rewrite-golden"):
        write(curves, path)
    expected = read(path)
    assert curves.keys() == expected.keys()
    for name, values in curves.items():
        assert values[:EXACT] == pytest.approx(expected[name][:EXACT], rel=2e-3, abs=2e-4), name
        assert values[EXACT:] == pytest.approx(expected[name][EXACT:], rel=0.05, abs=5e-3), name
