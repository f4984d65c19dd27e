"""Scores and boxes of every place, against what torchvision makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.ssd import SSD

from robustdet.attacks import DetectorVictim, LInf, image_generators
from robustdet.attacks.cwa import ClassWise
from robustdet.attacks.dag import DAG, finds_its_object, likeliest, minus_targets_left
from robustdet.attacks.objectives import prepared
from robustdet.attacks.outranking import Outranking
from robustdet.attacks.tog import Mislabelling, vanishing
from robustdet.attacks.victim import input_gradient
from robustdet.errors import KindError
from robustdet.interop.torchvision_dense import DenseDetector
from tests.interop.networks import ONE_STAGE, SIZE, torchvision_model
from tests.interop.test_torchvision import TARGETS, images
from tests.slowness import quick

RETINANET, _, SSDLITE = ONE_STAGE
every = pytest.mark.parametrize("name", ONE_STAGE)


def dense(name: str) -> Any:
    """In double precision, so that no two scores are equal."""
    return torchvision_model(name).double().eval()


@every
@torch.no_grad()
def test_places_have_the_scores_and_boxes_that_torchvision_detects(name: str):
    model = dense(name)
    raw = model(images().double())
    network = model.network
    network.score_thresh, network.nms_thresh = -1.0, 1.0  # nothing is left out
    network.topk_candidates = network.detections_per_img = 10**6
    for place, theirs in enumerate(network(list(images().double()))):
        for label in (1, 2, 3):
            score, box = raw.log_probabilities[place, :, label].exp(), model.boxes(raw)[place]
            of_label = theirs["labels"] == label
            order, their_order = (one.argsort(descending=True) for one in (score, theirs["scores"][of_label]))
            torch.testing.assert_close(score[order], theirs["scores"][of_label][their_order])
            torch.testing.assert_close(box[order], theirs["boxes"][of_label][their_order])


@every
@torch.no_grad()
def test_the_log_probability_of_none_is_that_of_all_noes_or_a_softmaxs(name: str):
    model = dense(name)
    raw = model(images().double())
    said = raw.log_probabilities.exp()
    assert raw.exclusive == isinstance(model.network, SSD)
    torch.testing.assert_close(
        said[..., 0], 1 - said[..., 1:].sum(-1) if raw.exclusive else (1 - said[..., 1:]).prod(-1)
    )
    some = DenseDetector(model.network, 2, SIZE, ids=[1, 3]).double().eval()  # as of COCO, whose ids have gaps
    torch.testing.assert_close(some(images().double()).log_probabilities[..., 1:].exp(), said[..., [1, 3]])


@every
@torch.no_grad()
def test_the_losses_of_places_add_up_to_torchvisions(name: str):
    model = dense(name)
    raw, assignment = model(images().double()), model.assign(TARGETS)
    each = model.box_losses(raw, assignment)
    network = model.network
    network.training = True
    for place, target in enumerate(TARGETS):
        positive = assignment.labels[place] > 0
        theirs = network([images()[place].double()], [{"boxes": target.boxes.double(), "labels": target.labels}])
        torch.testing.assert_close(each.localization[place].sum() / positive.sum(), theirs["bbox_regression"])
        assert set(assignment.labels[place][positive].tolist()) == set(target.labels.tolist())
        owners = assignment.objects[place][positive]
        assert torch.equal(assignment.labels[place][positive], target.labels[owners])
    said = raw.log_probabilities.gather(2, assignment.labels[..., None])[..., 0]
    assert torch.equal(each.cross_entropy, -said)


@pytest.mark.parametrize("name", quick(ONE_STAGE, lambda name: "mobilenet" not in name))
def test_objectives_on_scores_rise_along_their_gradients(name: str):
    model, pixels = dense(name), images(1).double()
    with DetectorVictim(model).borrow(TARGETS[:1]) as victim:
        for objective in (ClassWise(), Outranking(), vanishing, Mislabelling()):
            climbed = prepared(objective, victim, pixels)
            leaf = pixels.clone().requires_grad_()
            value = climbed(victim, leaf)
            gradient = input_gradient(value, leaf)
            length = gradient.flatten(1).norm(dim=1)
            assert (length > 0).all(), objective
            step = 1e-7 * gradient / length.view(-1, 1, 1, 1)
            rise = (climbed(victim, pixels + step) - value).detach() / 1e-7
            torch.testing.assert_close(rise, length, rtol=0.05, atol=0)


def test_where_classes_are_no_alternatives_to_one_another_background_is_none_of_them():
    said = torch.tensor([[[-0.1, -3.0, -2.0, -4.0]]])
    label = torch.tensor([[2]])
    assert likeliest(said, exclusive=True).item() == 0
    assert likeliest(said, exclusive=False).item() == 2
    assert not finds_its_object(said, label, exclusive=True).any()
    assert finds_its_object(said, label, exclusive=False).all()


def test_dag_leaves_fewer_places_that_find_their_object():
    model = torchvision_model(RETINANET).eval()
    found = DAG(LInf("16/255"), 3, "8/255")(DetectorVictim(model), images(), TARGETS, image_generators(0, ["a", "b"]))

    def left(of: Tensor) -> int:
        with DetectorVictim(model).borrow(TARGETS) as victim, torch.no_grad():
            return -int(minus_targets_left(victim, of).sum())

    assert left(found) < left(images())


def test_a_network_of_another_class_is_refused():
    with pytest.raises(KindError, match=r"Identity: expected torchvision's RetinaNet, FCOS or SSD, got Identity"):
        DenseDetector(torch.nn.Identity(), 3, SIZE)


def test_where_places_are_is_found_once_and_leaves_modes_and_norms_alone():
    model = torchvision_model(SSDLITE)
    model.norms = "learning"
    model.train()
    modes = [module.training for module in model.modules()]
    statistics = [buffer.clone() for buffer in model.network.buffers()]
    first = model.frame
    assert model.frame is first
    assert [module.training for module in model.modules()] == modes
    assert all(map(torch.equal, model.network.buffers(), statistics))
    assert sum(first.levels) == len(first.anchors)
    assert model.double().frame.anchors.dtype == torch.float64
