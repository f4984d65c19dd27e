"""The arithmetic of the plan for many GPUs, against hand-made numbers."""

from __future__ import annotations

import pytest
import torch

from benchmarks.arithmetic import Arithmetic
from benchmarks.cluster import Cluster, Cost, plan

COST = Cost(seconds=1.0, memory=1.0, teraflop=2.0, parameters=125_000_000)  # half a gigabyte of gradients


def test_a_convolution_and_its_gradient_are_counted():
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    weight = torch.rand(5, 3, 3, 3)
    with Arithmetic() as counter:
        out = torch.nn.functional.conv2d(images, weight)
        forward = counter.total
        torch.autograd.grad(out.sum(), images)
    assert forward == 2 * (2 * 5 * 6 * 6) * (3 * 3 * 3)
    assert counter.total == 2 * forward


def test_gradients_travel_within_nodes_and_then_between_them():
    cluster = Cluster(gpus_per_node=8, in_node=100.0, network=10.0)
    assert cluster.all_reduce(COST.parameters, 1) == 0
    assert cluster.all_reduce(COST.parameters, 8) == pytest.approx(2 * 7 / 8 * 0.5 / 100)
    assert cluster.all_reduce(COST.parameters, 16) == pytest.approx(2 * 7 / 8 * 0.5 / 100 + 2 * 1 / 2 * 0.5 / 10)


def test_a_plan_sees_as_many_images_on_any_number_of_gpus():
    cluster = Cluster(teraflops=10.0, gpus_per_node=8, in_node=1e9, network=1e9)
    one, many = (plan(COST, 4, updates=3600, gpus=gpus, cluster=cluster) for gpus in (1, 8))
    assert one["step_seconds"] == pytest.approx(32 * 0.5 / 10)
    assert one["hours"] == pytest.approx(1.6)
    assert many["hours"] == pytest.approx(0.2)
    assert many["updates"] * 8 == one["updates"]
    assert many["clean_images_per_second_and_node"] == pytest.approx(8 * 16 / 1.6)
