"""Compiles detectors as users do: without pytest's import hook, whose checks of shapes cannot be compiled.

Run by test_levers.py as `python -m tests.compilation`; prints a line for each thing that held.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import ConstantLR
from torch.utils.data import DataLoader

from robustdet.attacks import MTD, DetectorVictim, LInf
from robustdet.defences.standard import Standard
from robustdet.errors import NumericalError
from robustdet.training.levers import Levers
from robustdet.training.module import DetectionModule
from robustdet.types import Batch
from tests.detection.conftest import build_detector, make_target


def without_a_graph_break(name: str, images: torch.Tensor) -> None:
    """``fullgraph`` raises where the graph would break."""
    torch.compiler.reset()
    model = build_detector(name).requires_grad_(False)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    leaf = images.clone().requires_grad_()
    torch.testing.assert_close(compiled(leaf).cls_logits, model(leaf).cls_logits)
    print(f"{name}: one graph")


def two_gradients_of_one_forward(images: torch.Tensor) -> None:
    """A compiled graph that gave its buffers away would refuse the second."""
    torch.compiler.reset()
    plain = build_detector("tiny_ssd")
    changed = copy.deepcopy(plain)
    Levers.prepare_compilation()
    changed.compile(backend="aot_eager")
    targets = [make_target([[10, 10, 60, 60]], image_id=str(index)) for index in range(len(images))]
    attack = MTD(LInf("8/255"), 2, "2/255")
    one, other = (attack(DetectorVictim(model), images, targets, []) for model in (plain, changed))
    assert ((one - other).abs() > 1e-6).float().mean() < 1e-3  # the sign of a gradient near zero may differ
    print("MTD: two gradients")


class Poisoned(torch.optim.SGD):
    """Its second step leaves infinity in a layer, as a rate that is too high does."""

    def step(self, closure=None):
        loss = super().step(closure)
        if self.state.setdefault("once", False):
            with torch.no_grad():
                self.param_groups[0]["params"][2].fill_(float("inf"))
        self.state["once"] = True
        return loss


def what_is_not_finite_has_a_name(images: torch.Tensor) -> None:
    """A compiled graph has no layers to look into: the culprit is found in a pass of the plain network."""
    for name in ("tiny_ssd", "tiny_robust_ssd_cfr"):
        torch.compiler.reset()
        model = build_detector(name)
        model.compile(backend="aot_eager")
        module = DetectionModule(model, Standard(), Poisoned, ConstantLR, 0)
        targets = [make_target([[10, 10, 60, 60]], image_id=f"image_{index}") for index in range(len(images))]
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = pl.Trainer(accelerator="cpu", max_steps=4, **quiet)
        poisoned = next(name for name, one in model.named_parameters() if one is list(model.parameters())[2])
        layer = re.escape(f"first in layer {poisoned.removesuffix('.weight')}")
        with pytest.raises(NumericalError, match=f"{layer}; step 2, images image_0, image_1"):
            trainer.fit(module, DataLoader([Batch(images, targets)] * 4, batch_size=None))
    print("not finite: named")


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.manual_seed(0)
    images = torch.rand(2, 3, 96, 96)
    for name in ("tiny_ssd", "tiny_robust_ssd", "tiny_robust_ssd_cfr"):
        without_a_graph_break(name, images)
    two_gradients_of_one_forward(images)
    what_is_not_finite_has_a_name(images)


if __name__ == "__main__":
    main()
