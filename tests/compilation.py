"""Compiles detectors as users do: without pytest's import hook, whose checks of shapes cannot be compiled.

Run by test_levers.py as `python -m tests.compilation`; prints a line for each thing that held.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch.fx import GraphModule
from torch.optim.lr_scheduler import ConstantLR
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from robustdet.attacks import MTD, PGD, ClassWise, DetectorVictim, LInf
from robustdet.attacks.objectives import a_loc
from robustdet.defences.adversarial import AdversarialTraining
from robustdet.defences.robustdet import LossWeights, RobustDet
from robustdet.defences.schedules import Replay
from robustdet.defences.standard import Standard
from robustdet.defences.triplet_loss import AllTriplets, RandomNegativeTriplets
from robustdet.errors import NumericalError
from robustdet.graphs import WholeGraphs
from robustdet.training.levers import prepare_compilation
from robustdet.training.module import DetectionModule
from robustdet.types import Assignment, Batch
from tests.detection.conftest import build_detector, make_target


class Graphs:
    """A backend that computes as PyTorch does by itself, and keeps all graphs, forward and backward."""

    def __init__(self) -> None:
        self.kept: list[GraphModule] = []

    def __call__(self, graph: GraphModule, inputs: Any) -> Any:
        return aot_autograd(fw_compiler=self.keep, bw_compiler=self.keep)(graph, inputs)

    def keep(self, graph: GraphModule, inputs: Any) -> Any:
        self.kept.append(graph)
        return make_boxed_func(graph.forward)


def replay(attack: MTD | PGD) -> Replay:
    """Every update by another step size than the one before, as source batches change."""
    return Replay(attack, updates_per_source=1, step_sizes=["1/255", "2/255", "4/255", "8/255"])


BALL = LInf("8/255")
WEIGHTS = LossWeights(gamma=0.6, beta=0.75, a=3, b=0.16, c=5)
METHODS: dict[str, tuple[str, Callable[[], Any]]] = {  # each with the network whose graphs it needs
    "adversarial, MTD": ("tiny_ssd", lambda: AdversarialTraining(replay(MTD(BALL, 2, "2/255")))),
    "adversarial, A_loc": ("tiny_ssd", lambda: AdversarialTraining(replay(PGD(a_loc, BALL, 2, "2/255")))),
    "adversarial, CWA": ("tiny_ssd", lambda: AdversarialTraining(replay(PGD(ClassWise(5.0), BALL, 2, "2/255")))),
    "standard": ("tiny_ssd", Standard),
    "RobustDet*": ("tiny_robust_ssd_cfr", lambda: RobustDet(replay(MTD(BALL, 2, "2/255")), WEIGHTS, AllTriplets)),
    "RobustDet*, as published": (
        "tiny_robust_ssd_cfr",
        lambda: RobustDet(
            Replay(MTD(BALL, 2, "2/255", choice="batch"), 2, ["8/255"]), WEIGHTS, RandomNegativeTriplets, "clean"
        ),
    ),
}


def batches(images: Tensor) -> list[Batch]:
    """Of one size, with other objects in each."""
    boxes = ([10, 10, 60, 60], [30, 20, 80, 90], [5, 40, 50, 90])
    return [
        Batch(images.roll(turn, 0), [make_target([box], image_id=f"{turn} {index}") for index in range(len(images))])
        for turn, box in enumerate(boxes)
    ]


def updates(model: Any, method: Any, images: Tensor) -> Iterator[dict[str, Tensor]]:
    """Of three updates the loss and all gradients."""
    for turn, batch in enumerate(batches(images)):
        model.zero_grad()
        loss = method.step(model, batch, torch.Generator().manual_seed(turn)).loss
        loss.backward()
        gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        yield {"loss": loss.detach(), **gradients}


def updates_without_a_graph_break(images: Tensor) -> None:
    """And with equal results; batches after the first one need no further graph. A break is an error of torch's."""
    models: dict[str, tuple[Any, Any]] = {}
    for name, (network, made) in METHODS.items():
        if network not in models:
            torch.compiler.reset()
            plain = build_detector(network).requires_grad_(True).train().double()  # where signs have no room to differ
            models = {network: (plain, copy.deepcopy(plain))}
            models[network][1].compile(backend="aot_eager")
        plain, compiled = models[network]
        method = made()
        if isinstance(method, WholeGraphs):
            method.compile(backend="aot_eager")
        shown = images.double().repeat(2 if name == "standard" else 1, 1, 1, 1)  # as many as the others' two halves
        counts = []
        for expected, found in zip(updates(plain, made(), shown), updates(compiled, method, shown), strict=True):
            counts.append(counters["stats"]["unique_graphs"])
            assert expected.keys() == found.keys()
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-7, atol=1e-9, msg=f"{name}: {key}")
        assert counts[0] == counts[-1], f"{name}: {counts}"
        print(f"{name}: whole graphs")


def an_attack_is_the_same(images: Tensor) -> None:
    """With all steps on one set of weights, in single precision, where a copy of a compiled network is compiled too."""
    torch.compiler.reset()
    plain = build_detector("tiny_ssd")
    changed = copy.deepcopy(plain)
    changed.compile(backend="aot_eager")
    changed = copy.deepcopy(changed)
    before, targets = counters["stats"]["unique_graphs"], batches(images)[0].targets
    attack = MTD(BALL, 2, "2/255")
    one, other = (attack(DetectorVictim(model), images, targets, []) for model in (plain, changed))
    assert ((one - other).abs() > 1e-6).float().mean() < 1e-3  # the sign of a gradient near zero may differ
    assert counters["stats"]["unique_graphs"] > before
    print("an attack: equal")


def nothing_of_the_host_in_a_graph(images: Tensor) -> None:
    """On the meta device, which stands for a GPU: all that a graph is given and makes lies there, and has fixed sizes.

    A CUDA graph can be recorded of that. Forward and backward, sample and decoder included.
    """
    torch.compiler.reset()
    graphs = Graphs()
    model = build_detector("tiny_robust_ssd_cfr").requires_grad_(True).train()
    assignment = model.assign(batches(images)[0].targets)
    model, there = model.to("meta"), images.to("meta").requires_grad_()
    assignment = Assignment(*(getattr(assignment, field.name).to("meta") for field in fields(assignment)))
    method = METHODS["RobustDet*, as published"][1]()
    model.compile(backend=graphs)
    method.compile(backend=graphs)
    noise = torch.empty(len(images), *model._features, device="meta")
    raw = model.predictions(there, noise)
    attacked, lottery = torch.ones(2, dtype=torch.bool, device="meta"), torch.empty(2, 2, 2, device="meta")
    losses = model.losses(raw, assignment)
    boxes = model.box_losses(raw, assignment)
    values = [losses.total, model.localization(raw, assignment), boxes.cross_entropy, boxes.localization]
    values += [*method.consistency([raw], [there.detach()]).values()]
    values += [method.triplets.terms(raw.routing, attacked, lottery).loss]
    torch.stack([value.sum() for value in values]).sum().backward()
    assert len(graphs.kept) > len(model.graphs) + len(method.graphs) + len(method.triplets.graphs)  # backward ones, too
    for graph in graphs.kept:
        for node in graph.graph.nodes:
            made = [leaf for leaf in tree_leaves(node.meta.get("val")) if leaf is not None]
            assert all(isinstance(leaf, Tensor) and leaf.device.type == "meta" for leaf in made), node.format_node()
            assert all(isinstance(size, int) for leaf in made for size in leaf.shape), node.format_node()
    print("graphs: nothing of the host")


class Poisoned(torch.optim.SGD):
    """Its second step leaves infinity in a layer, as a rate that is too high does."""

    def step(self, closure=None):
        loss = super().step(closure)
        if self.state.setdefault("once", False):
            with torch.no_grad():
                self.param_groups[0]["params"][2].fill_(float("inf"))
        self.state["once"] = True
        return loss


def what_is_not_finite_has_a_name(images: Tensor) -> None:
    """A compiled graph has no layers to look into: the culprit is found in a pass of the plain network."""
    torch.compiler.reset()
    model = build_detector("tiny_ssd")
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
    prepare_compilation()
    torch.manual_seed(0)
    images = torch.rand(2, 3, 96, 96)
    updates_without_a_graph_break(images)
    an_attack_is_the_same(images)
    nothing_of_the_host_in_a_graph(images)
    what_is_not_finite_has_a_name(images)


if __name__ == "__main__":
    main()
