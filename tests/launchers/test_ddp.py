"""`trainer=ddp_cpu`: two processes with half the batch each do what one does with all of it."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from robustdet import AdversarialTraining
from robustdet.cli.building import synchronises
from robustdet.cli.evaluate import evaluate
from robustdet.cli.train import train
from robustdet.evaluation.record import read_records
from robustdet.runs.run import BEGUN, Run
from tests.launchers.commands import FEW, Pair, finish, start
from tests.launchers.test_resume import assert_same, steps, wait_for
from tests.test_lightning import Network, Theirs, image, objects

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]
RUN = [*FEW, "trainer.max_steps=4", "trainer.val_check_interval=4", "optimizer=sgd", "schedule.updates_per_source=3"]
SHARED = [
    *RUN,
    "experiment=shapes_robustdet",
    "model.aid.trunk._target_=tests.launchers.commands.PlainTrunk",
]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    pair, threads = Pair(), torch.get_num_threads()
    yield pair
    pair.other.shutdown()
    torch.set_num_threads(threads)


def in_two(cfg: DictConfig, run: Path, *overrides: str) -> list[str]:
    paths = [f"paths.{name}={cfg.paths[name]}" for name in ("data", "outputs")]
    return [*overrides, *paths, f"paths.run={run}", "trainer=ddp_cpu"]


def curve(checkpoint: Path, prefix: str = "") -> dict[str, list[float]]:
    with (checkpoint.parent.parent / "csv" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith(prefix) and name not in ("step", "epoch")]
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


@pytest.mark.parametrize("overrides", [[*RUN, "experiment=shapes_std"], SHARED], ids=["standard", "robustdet"])
def test_two_halves_of_a_batch_are_one(
    overrides: list[str], compose: Callable[..., DictConfig], tmp_path: Path, pair: Pair
):
    alone = train(compose("train", *overrides))
    two = tmp_path / "two" / "checkpoints" / "final.ckpt"
    pair.run(train, compose("train", *overrides, f"paths.run={tmp_path / 'two'}", "trainer=ddp_cpu"))
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in (alone, two))
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=1e-3, atol=2e-5, msg=name)
    expected, found = curve(alone, "train/L_"), curve(two, "train/L_")
    assert {"train/L_cls", "train/L_loc", "train/L_det"} <= expected.keys()
    for name in expected.keys() - {"train/L_det_clean", "train/L_det_adv"}:
        assert found[name] == pytest.approx(expected[name], rel=1e-3), name


THREE_ROUNDS = [
    "suite=quick",
    "suite.name=rounds",
    "+suite.cascade=true",
    "+attack@suite.attacks.among_others=among_others",
    "suite.attacks.among_others.steps=2",
    "+attack@suite.attacks.among_others_more=among_others",
    "suite.attacks.among_others_more.steps=3",
]


def test_a_distributed_evaluation_equals_a_single_process_to_the_last_digit(
    compose: Callable[..., DictConfig], tmp_path: Path, pair: Pair
):
    longer = ["trainer.max_steps=40", "trainer.val_check_interval=40"]
    checkpoint = train(compose("train", *RUN, "experiment=shapes_std", *longer))
    for suite in (["suite=quick"], THREE_ROUNDS):  # lightning#2790: a trainer that tests more than once
        evaluation = [line for line in FEW if line.startswith("data.")] + ["experiment=shapes_std", *suite]
        evaluation += ["suite.max_images=6", "pictures=0"]
        in_pair = ["trainer=ddp_cpu", f"paths.run={tmp_path / 'two'}"]
        alone = evaluate(compose("evaluate", *evaluation, f"ckpt_path={checkpoint}"))
        output = pair.run(evaluate, compose("evaluate", *evaluation, *in_pair, f"ckpt_path={checkpoint}"))
        assert output.count("Average precision under attack") == 1
        of_suite = [one for one in read_records([tmp_path / "two"]) if one.run.suite == alone[0].run.suite]
        together = {record.attack: record for record in of_suite}
        assert together.keys() == {record.attack for record in alone}
        for record in alone:
            assert (together[record.attack].num_images, together[record.attack].map) == (6, record.map)
            assert together[record.attack].per_class == record.per_class
        assert alone[0].map > 0
    assert list(alone[-1].attack_settings["stages"])[-2:] == ["among_others", "among_others_more"]


def test_a_distributed_run_is_killed_and_goes_on(compose: Callable[..., DictConfig], tmp_path: Path, pair: Pair):
    """Replay keeps another batch in each process; both are in the checkpoint, and so are the clean stage's files."""
    settings = [*RUN, "experiment=shapes_cfr", "trainer.max_steps=5", "trainer.val_check_interval=2"]
    cfg = compose("train", *settings)
    pair.run(train, compose("train", *settings, "trainer=ddp_cpu", f"paths.run={tmp_path / 'straight'}"))
    run = Path(cfg.paths.outputs) / "killed"
    process = start("train", *in_two(cfg, run, *settings))
    wait_for(lambda: 2 in steps(run), process)
    process.send(signal.SIGKILL)
    process.wait(60)  # the other process, which waits for it, ends as well
    assert (run / BEGUN).is_file()
    state = torch.load(Run(run).newest_checkpoint, weights_only=True)
    images = [part["method"]["schedule"]["sources"][0]["batch"]["images"] for part in state["processes"]]
    assert len(images) == 2
    assert not torch.equal(*images)
    output = pair.run(train, compose("train", *settings, "trainer=ddp_cpu", "ckpt_path=last"))
    assert output.count(f"Going on with the run in {run}") == 1
    assert_same(run / "checkpoints" / "final.ckpt", tmp_path / "straight" / "checkpoints" / "final.ckpt")

    with pytest.raises(ValueError, match="is of a run in 2 processes and this one has 1"):
        train(
            compose("train", *settings, f"ckpt_path={run / 'checkpoints' / 'last.ckpt'}", f"paths.run={tmp_path / 'a'}")
        )


def trained_by_callback(cfg: DictConfig) -> None:
    """Two updates of somebody's own module; what its first step was given, and the weights in the end."""
    torch.manual_seed(0)
    module = Theirs(Network())
    trainer = pl.Trainer(
        max_steps=2, accelerator="cpu", devices=cfg.processes, strategy="ddp" if cfg.processes > 1 else "auto",
        callbacks=[AdversarialTraining("pgd_total", "attack.steps=2", detector="network")], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,  # which shuffles
    )  # fmt: skip
    mine = range(int(os.environ.get("LOCAL_RANK", 0)), 8, cfg.processes)
    data: Any = [(image(place), objects(place)) for place in mine]
    trainer.fit(module, DataLoader(data, 4 // cfg.processes, collate_fn=lambda items: list(zip(*items, strict=True))))
    assert "training_step" not in vars(module)
    found = {"images": torch.stack(list(module.given[0][0])), "state": module.state_dict()}
    torch.save(found, Path(cfg.folder) / f"{trainer.global_rank} of {cfg.processes}.pt")


def test_the_callback_attacks_in_each_process_what_one_process_would(tmp_path: Path, pair: Pair):
    trained_by_callback(OmegaConf.create({"folder": str(tmp_path), "processes": 1}))
    pair.run(trained_by_callback, OmegaConf.create({"folder": str(tmp_path), "processes": 2}))
    alone, *both = (torch.load(tmp_path / name) for name in ("0 of 1.pt", "0 of 2.pt", "1 of 2.pt"))
    for rank, of_rank in enumerate(both):
        clean_and_attacked = alone["images"].unflatten(0, (2, 4))[:, rank::2].flatten(0, 1)
        # a convolution's last bits depend on the batch, and decide the sign of a gradient of almost 0
        assert ((of_rank["images"] - clean_and_attacked).abs() < 1e-5).float().mean() > 0.998
    first, second = (of_rank["state"] for of_rank in both)
    for key in first:
        if "running" not in key:  # each process's norms see its own images
            assert torch.equal(first[key], second[key]), key


def test_the_clean_stage_of_a_distributed_run_is_trained_once(compose: Callable[..., DictConfig], tmp_path: Path):
    few = [line for line in FEW if not line.startswith("warm_start")]
    short = ["trainer.max_steps=2", "trainer.val_check_interval=2"]
    stage = [*short, *(line for line in few if line.startswith(("data.", "trainer.")))]
    listed = "warm_start.overrides=[" + ",".join(f'"{override}"' for override in stage) + "]"
    cfg = compose("train", "experiment=shapes_mtd_warm")
    output = finish(start("train", *in_two(cfg, tmp_path / "run", "experiment=shapes_mtd_warm", *few, *short, listed)))
    assert output.count("Finished shapes_std after 2 updates") == output.count("Finished shapes_mtd_warm after 2") == 1
    assert len(list((Path(cfg.paths.outputs) / "shapes_std").iterdir())) == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["updates"] == 2


def test_trainers_say_how_they_split(compose: Callable[..., DictConfig]):
    settings: Any = OmegaConf.to_container(compose("train", "trainer=ddp").trainer)
    assert (settings["strategy"], settings["sync_batchnorm"], settings["accelerator"]) == ("ddp", True, "gpu")


def test_several_gpus_share_their_statistics_however_they_are_asked_for(
    compose: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
):
    def shares(*overrides: str) -> bool:
        return synchronises(compose("train", *overrides).trainer)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert shares("trainer=gpu", "trainer.devices=8")
    assert shares("trainer.accelerator=auto", "trainer.devices=auto")
    assert shares("trainer.accelerator=gpu", "trainer.devices=[0,2]")
    assert shares("trainer=gpu", "+trainer.num_nodes=2")
    assert not shares("trainer=gpu")
    assert not shares("trainer=gpu", "trainer.devices=8", "+trainer.sync_batchnorm=false")
    assert not shares("trainer=ddp_cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not shares("trainer.accelerator=auto", "trainer.devices=2")
