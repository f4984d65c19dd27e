"""Compiles detectors as users do: without pytest's import hook, whose checks of shapes cannot be compiled.

Run by test_levers.py as `python -m tests.compilation`; prints a line for each thing that held.
"""

from __future__ import annotations

import copy

import torch

from robustdet.attacks import MTD, DetectorVictim, LInf
from robustdet.training.levers import Levers
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


def main() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 96, 96)
    for name in ("tiny_ssd", "tiny_robust_ssd", "tiny_robust_ssd_cfr"):
        without_a_graph_break(name, images)
    two_gradients_of_one_forward(images)


if __name__ == "__main__":
    main()
