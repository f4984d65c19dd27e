"""Two real processes (gloo): they count, gather and agree as one, and gradients come out as those of one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR

from robustdet import ranks
from robustdet.attacks.mtd import MTD
from robustdet.attacks.objectives import a_cls
from robustdet.attacks.pgd import PGD
from robustdet.attacks.threat import LInf
from robustdet.defences.schedules import Full
from robustdet.defences.standard import Standard, detection_parts
from robustdet.defences.triplet_loss import AllTriplets
from robustdet.training.module import DetectionModule
from robustdet.training.validation import Validation
from robustdet.types import Batch, DetectionLosses, Detections, Target
from tests.attacks.test_mtd import contested_batch
from tests.defences.conftest import golden_targets
from tests.detection.conftest import build_detector

WEIGHT = torch.arange(12.0).view(3, 4).cos()
ROWS = torch.arange(24.0).view(8, 3).sin()  # of the whole batch: even ones are rank 0's
POSITIVES = torch.tensor([5, 0, 1, 0, 2, 0, 4, 0])  # a process without any object has a loss of 0


def losses_of(rows: Tensor, weight: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
    """L_aid of routing vectors and L_det of losses that depend on ``weight``."""
    routing = ranks.gathered_rows((rows @ weight).softmax(dim=1))
    attacked = torch.arange(len(routing)) % (len(rows)) >= len(rows) / 2
    sums = (rows @ weight).square().sum(dim=1)
    parts = detection_parts(DetectionLosses(sums, 2 * sums, positives))
    return AllTriplets(0.6)(routing, attacked).loss, parts["L_det"]


def in_one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    init = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=2, timeout=timedelta(seconds=300))
    weight = WEIGHT.clone().requires_grad_()
    aid, det = losses_of(ROWS[rank::2], weight, POSITIVES[rank::2])
    (aid + det).backward()
    victim, images, targets = contested_batch()
    with victim.borrow(targets[rank : rank + 1]) as model:
        mine = images[rank : rank + 1]
        moved = MTD(LInf("8/255"), 1, "8/255", choice="batch").step(model, mine, mine)
    found: dict[str, Any] = {
        "moved by MTD": moved,
        "aid": aid.detach(),
        "det": ranks.averaged(det.detach()),
        "gradient": ranks.averaged(weight.grad),
        "shares": [ranks.share(count) for count in (0, 1, 7)],
        "objects": ranks.gathered_objects({"rank": rank}),
        "at_zero": ranks.objects_at_rank_zero(rank),
        "rank": ranks.rank(),
        "validation": logged_of(validation_of(["b", "a", "c"] if rank == 0 else ["d", "e", "b"])),
        "of one image": logged_of(one_routed := validation_of(["a"] if rank == 0 else [])),
        "routing of one image": one_routed.routing,
        "of none": logged_of(validation_of([])),
        "together": ranks.gathered_objects("all the same"),  # nobody is left behind in a message
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


NAMES = ["val/AP50_clean", "val/AP50_mix"]  # without an attack there is nothing to mix
SCORES = dict(zip("abcde", (0.9, 0.8, 0.3, 0.95, 0.6), strict=True))


def validation_of(ids: list[str]) -> Validation:
    """What a process has seen: one object an image; images c and e have a false detection above the true one."""
    validation = Validation(None, None, 1, seed=0)
    box, other = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[50.0, 50.0, 60.0, 60.0]])
    no = torch.zeros(1, dtype=torch.bool)
    for image_id in ids:
        score = SCORES[image_id]
        found = torch.cat([other, box]) if image_id in "ce" else box
        scores = torch.tensor([score + 0.01, score] if image_id in "ce" else [score])
        validation.targets[image_id] = Target(box, torch.ones(1, dtype=torch.int64), no, no, image_id, (90, 90))
        validation.clean[image_id] = Detections(found, scores, torch.ones(len(found), dtype=torch.int64))
        validation._routing["clean"][image_id] = torch.tensor([0.25, 0.75])
    return validation


def logged_of(validation: Validation) -> dict[str, float]:
    """What the module makes of it at the end of a validation."""
    logged: dict[str, float] = {}
    module = DetectionModule(torch.nn.Identity(), Standard(), SGD, ConstantLR, 0, validation)
    module.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign]
    module.on_validation_epoch_end()
    return logged


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    other = mp.get_context("spawn").Process(target=in_one_of_two, args=(1, folder))
    other.start()  # one more process is enough, imports take it seconds
    threads = torch.get_num_threads()
    try:
        in_one_of_two(0, folder)
    finally:
        torch.set_num_threads(threads)
        other.join()
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.slow
def test_two_halves_give_the_losses_and_the_gradient_of_the_whole(both: list[dict[str, Any]]):
    weight = WEIGHT.clone().requires_grad_()
    # as the processes gather them: rank 0's rows, then rank 1's, the latter half of each attacked
    routing = (torch.cat([ROWS[0::2], ROWS[1::2]]) @ weight).softmax(dim=1)
    attacked = torch.tensor([False, False, True, True] * 2)
    aid = AllTriplets(0.6)(routing, attacked).loss
    sums = (ROWS @ weight).square().sum(dim=1)
    det = 3 * sums.sum() / POSITIVES.sum()
    (aid + det).backward()
    for found in both:
        torch.testing.assert_close(found["aid"], aid.detach())
        torch.testing.assert_close(found["det"], det.detach())
        torch.testing.assert_close(found["gradient"], weight.grad)


def test_a_batchs_task_is_chosen_by_the_images_of_all(both: list[dict[str, Any]]):
    victim, images, targets = contested_batch()
    with victim.borrow(targets[:2]) as model:
        alone = MTD(LInf("8/255"), 1, "8/255", choice="batch").step(model, images[:2], images[:2])
        each = MTD(LInf("8/255"), 1, "8/255").step(model, images[:2], images[:2])
    assert not torch.equal(alone, each)  # one image would have the other task
    torch.testing.assert_close(torch.cat([found["moved by MTD"] for found in both]), alone)


def test_they_share_and_gather(both: list[dict[str, Any]]):
    assert [found["rank"] for found in both] == [0, 1]
    assert [found["shares"] for found in both] == [[0, 1, 4], [0, 0, 3]]
    assert all(found["objects"] == [{"rank": 0}, {"rank": 1}] for found in both)
    assert [found["at_zero"] for found in both] == [[0, 1], []]


def test_validation_counts_an_image_once_and_equals_a_single_process(both: list[dict[str, Any]]):
    alone = validation_of(["a", "b", "c", "d", "e"]).compute()
    assert 0.5 < alone["AP50_clean"] < 1
    assert both[0]["validation"] == both[1]["validation"] == dict.fromkeys(NAMES, alone["AP50_clean"])


def test_validation_of_fewer_images_than_processes_leaves_nobody_waiting(both: list[dict[str, Any]]):
    for found in both:
        assert found["of one image"] == dict.fromkeys(NAMES, 1.0)
        assert found["routing of one image"]["clean"].tolist() == [[0.25, 0.75]]
        assert found["of none"] == {}
        assert found["together"] == ["all the same"] * 2


def test_alone_everything_is_the_identity():
    rows = torch.rand(3, 2)
    assert ranks.gathered_rows(rows) is rows
    assert ranks.averaged(rows) is rows
    assert (ranks.rank(), ranks.world_size(), ranks.share(5)) == (0, 1, 5)
    assert ranks.gathered_objects("x") == ranks.objects_at_rank_zero("x") == ["x"]


def test_an_attack_fires_no_hook_of_the_wrapper(tmp_path: Path):
    """Adversarial images are made on the bare model inside the wrapper's forward; the loss's backward alone syncs."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        fired: list[str] = []

        class Step(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = build_detector("tiny_ssd").train()

            def forward(self) -> Tensor:
                batch = Batch(torch.rand(2, 3, 96, 96), list(golden_targets(96)))
                attack = PGD(a_cls, LInf(8 / 255), steps=2, step_size=4 / 255)
                adversarial = Full(attack).next(self.model, batch, torch.Generator().manual_seed(0))
                fired.append("attacked")
                assert all(parameter.grad is None for parameter in self.model.parameters())
                losses = self.model.losses(self.model(adversarial.images), self.model.assign(batch.targets))
                return detection_parts(losses)["L_det"]

        wrapper = DistributedDataParallel(Step())

        def hook(state, bucket):  # DistributedDataParallel would refuse annotations that are strings
            fired.append("synchronised")
            future: torch.futures.Future[Tensor] = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        wrapper.register_comm_hook(None, hook)
        wrapper().backward()
        assert fired[0] == "attacked"
        assert set(fired[1:]) == {"synchronised"}
        assert len(fired) > 1
    finally:
        dist.destroy_process_group()
