"""Ends a run of a sweep that is behind the others in everything that is optimised.

Optuna cannot prune a search with two objectives, and Hydra's sweepers do not show a job its trial. So the runs of a
sweep compare notes in its folder: each writes its objectives after every validation, and one that is below the median
of the others at the same number of updates in *every* objective stops. It needs no server, no particular sweeper or
launcher, only a folder that the jobs share.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pytorch_lightning as pl

from robustdet.errors import InputError

CURVE = "curve.jsonl"


class MedianPruning(pl.Callback):
    """Stops a run that is below the median of at least ``others`` other runs in every one of ``objectives``.

    Args:
        objectives: names of logged metrics, more is better.
        run: this run's folder.
        sweep: the folder that holds, at any depth, the runs to compare with, this one among them.
        others: runs that must have come as far before any is judged.
    """

    def __init__(self, objectives: Sequence[str], run: str, sweep: str, others: int) -> None:
        if others < 1:
            raise InputError(f"others is {others}, expected 1 or more runs to compare with")
        self.objectives = list(objectives)
        self.curve = Path(run) / CURVE
        self.sweep = Path(sweep)
        self.others = others
        self.pruned = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        values = [float(trainer.callback_metrics[name]) for name in self.objectives]
        behind = trainer.is_global_zero and self._judge(trainer.global_step, values)
        behind = trainer.strategy.reduce_boolean_decision(behind, all=False)  # all processes of a run stop together
        if behind and trainer.global_step != trainer.max_steps:
            self.pruned = trainer.should_stop = True

    def _judge(self, step: int, values: list[float]) -> bool:
        rivals = self._others_at(step)
        self._write(step, values)
        behind = len(rivals) >= self.others and self._is_behind(values, rivals)
        if behind:
            print(f"After {step} updates below the median of {len(rivals)} other runs in every objective")
        return behind

    def _write(self, step: int, values: list[float]) -> None:
        self.curve.parent.mkdir(parents=True, exist_ok=True)
        with self.curve.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "values": values}) + "\n")

    def _others_at(self, step: int) -> list[list[float]]:
        """The objectives of every other run of the sweep that was validated after ``step`` updates."""
        found = []
        for curve in self.sweep.glob(f"**/{CURVE}"):
            if curve.resolve() != self.curve.resolve():
                lines = [
                    line for line in curve.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
                ]
                found += [point["values"] for point in map(json.loads, lines) if point["step"] == step][-1:]
        return found

    @staticmethod
    def _is_behind(values: list[float], rivals: list[list[float]]) -> bool:
        return all(value < median(rival) for value, rival in zip(values, zip(*rivals, strict=True), strict=True))
