"""Golden curves: ten updates of every drawn experiment on the tiny model must give the losses on file.

In double precision: in single, the rounding of another machine or kernel flips the sign of a gradient near zero within
some updates, the attack changes that pixel by a whole step, and only a loose bound would hold.

After a deliberate change, `make golden` writes them anew; review the diff like code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from robustdet.cli.building import build, build_module, build_trainer, prepare
from tests.launchers.test_composition import ROWS

FOLDER = Path(__file__).parent
STEPS = 10
TOLD = (  # whoever compares with the curves on file, on whatever device
    "warm_start.experiment=null",
    f"trainer.max_steps={STEPS}",
    "trainer.precision=64-true",
    "trainer.limit_val_batches=0",
    "trainer.log_every_n_steps=1",  # the losses of either half are made only where they are logged
    "schedule.updates_per_source=4",
    "logger=none",
    "callbacks=none",
)


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
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, list[float]]:
    names, *rows = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {name: [float(row[column]) for row in rows] for column, name in enumerate(names)}


@pytest.mark.parametrize(
    "row", [row if row in ("std", "cfr") else pytest.param(row, marks=pytest.mark.slow) for row in ROWS]
)
def test_ten_updates_reproduce_the_losses_on_file(
    row: str, compose: Callable[..., DictConfig], request: pytest.FixtureRequest
):
    curves = losses(compose("train", f"experiment=shapes_{row}", *TOLD))
    path = FOLDER / f"shapes_{row}.txt"
    if request.config.getoption("--rewrite-golden"):
        write(curves, path)
    expected = read(path)
    assert curves.keys() == expected.keys()
    for name, values in curves.items():
        assert values == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name
