"""`python -m src.evaluate experiment=… ckpt_path=…`: attacks one checkpoint with a suite; records, a table, pictures.

Everything is written to the checkpoint's own run folder, under `evaluation/<suite>`; the same command again continues
where it was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from robustdet.analysis.pictures import View, detection_grid
from robustdet.analysis.rendering import to_rich
from robustdet.analysis.table import summary
from robustdet.attacks.base import require_attack
from robustdet.detection.weights import require_fit
from robustdet.evaluation.environment import describe_environment, file_sha256
from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.evaluation.record import Record, RunInfo, write_record
from robustdet.interop.checkpoints import load_checkpoint
from robustdet.training.progress import TrainingProgress
from robustdet.training.testing import EvaluationModule, log_records
from robustdet.types import Attack, Batch
from src.building import Experiment, build, build_trainer, logging_of, plain, prepare, table_specs
from src.clean_stage import fingerprint, run_that_ended_with
from src.composition import launcher
from src.resume import say
from src.surrogate import require_same_task, surrogates, with_contents


def evaluation_folder(cfg: DictConfig) -> Path:
    """In the folder of the run that wrote the checkpoint, else in `outputs/<name>/<file>`: `evaluation/<suite>`.

    The protocol follows where it is not the paper's, the file where the run did not end with it.
    """
    checkpoint = Path(cfg.ckpt_path).resolve()
    protocol = [] if cfg.protocol.name == "paper" else [cfg.protocol.name]
    if checkpoint.parent.name != "checkpoints":
        run, file = Path(cfg.paths.outputs) / cfg.name / checkpoint.stem, []
    else:
        run, file = checkpoint.parent.parent, [] if run_that_ended_with(checkpoint) else [checkpoint.stem]
    return run / "evaluation" / "_".join([cfg.suite.name, *protocol, *file])


def load_weights(cfg: DictConfig, experiment: Experiment) -> Path:
    """Fills the model from `ckpt_path`, which may be ours, the authors', ssd.pytorch's or torchvision's."""
    if cfg.ckpt_path is None:
        raise ValueError("ckpt_path is needed: the checkpoint to evaluate, such as outputs/…/checkpoints/final.ckpt")
    path = Path(cfg.ckpt_path)
    if not path.is_file():
        raise FileNotFoundError(f"ckpt_path={path} does not exist; expected a checkpoint file")
    checkpoint = load_checkpoint(path)
    require_fit(checkpoint.state_dict, experiment.model.state_dict(), f"{path} ({checkpoint.description})")
    experiment.model.load_state_dict(checkpoint.state_dict)
    experiment.model.eval()
    return path


def run_info(cfg: DictConfig, experiment: Experiment, checkpoint: Path) -> RunInfo:
    return RunInfo(
        experiment=cfg.name,
        method=cfg.method._target_.rpartition(".")[2],
        protocol=cfg.protocol.name,
        suite=cfg.suite.name,
        tabled=cfg.suite.tabled,
        data=experiment.data.name,
        split=experiment.data.test_split,
        split_size=len(experiment.data.test_dataloader().dataset),  # type: ignore[arg-type]
        seed=cfg.seed,
        checkpoint=str(checkpoint),
        checkpoint_sha256=file_sha256(checkpoint),
        **training_of(checkpoint),
    )


def training_of(checkpoint: Path) -> dict[str, Any]:
    """Seed and recipe (see `RunInfo`) of the run that ended with this checkpoint.

    Nothing where no run did, nor for a pruned one: such weights are no seed among others.
    """
    run = run_that_ended_with(checkpoint)
    if run is None or run.get("fingerprint") is None:
        return {}
    cfg = cast(DictConfig, OmegaConf.load(checkpoint.resolve().parent.parent / "config.yaml"))
    seed, cfg.seed, cfg.data.seed = cfg.seed, 0, 0
    return {"training_seed": seed, "training_recipe": fingerprint(cfg)}


def fitting_attacks(cfg: DictConfig, experiment: Experiment) -> dict[str, Attack | None]:
    """The suite's attacks, but for those on a discriminator where there is none, and transfer from no surrogate.

    Raises ValueError for a surrogate of other classes or another input size.
    """
    attacks, left_out = {}, {}
    for name, node in cfg.suite.attacks.items():
        if node is not None and "surrogate" in node and node.surrogate.ckpt_path is None:
            left_out[name] = f"suite.attacks.{name}.surrogate.ckpt_path names no checkpoint"
            continue
        for surrogate in surrogates({} if node is None else plain(node)):
            require_same_task(surrogate["ckpt_path"], experiment)
        attack = None if node is None else require_attack(instantiate(node))
        if attack is not None and attack.knowledge == "discriminator" and not hasattr(experiment.model, "aid"):
            left_out[name] = "this detector has no discriminator"
            continue
        attacks[name] = attack
    for reason in dict.fromkeys(left_out.values()):
        say(f"Left out of the suite: {', '.join(name for name in left_out if left_out[name] == reason)}: {reason}")
    return attacks


def evaluate(cfg: DictConfig) -> list[Record]:
    """Attacks the test split with `cfg.suite`; writes one record per attack, a table and a picture grid.

    Of several processes each attacks its share of the images; the first writes and returns the records of all.
    """
    prepare(cfg)
    experiment = build(cfg)
    checkpoint = load_weights(cfg, experiment)
    experiment.data.setup("test")
    folder = evaluation_folder(cfg)
    cfg.paths.run = str(folder)
    fields = plain(cfg)
    run = run_info(cfg, experiment, checkpoint)
    settings = {
        "checkpoint": run.checkpoint_sha256,
        "model": fields["model"],
        "data": fields["data"]["source"],
        "root": str(Path(cfg.data.root).resolve()),
        "split": run.split,
    }
    attacks = {"clean": None, **fitting_attacks(cfg, experiment)}
    suite = SuiteEvaluator(attacks, with_contents(fields["suite"]["attacks"]), folder, settings, cfg.seed)
    trainer = build_trainer(cfg, [TrainingProgress()], "evaluate")
    if cfg.suite.max_images is not None and trainer.limit_test_batches == 1.0:  # the progress bar's end, too
        share = math.ceil(cfg.suite.max_images / trainer.world_size)
        trainer.limit_test_batches = math.ceil(share / cfg.data.eval_batch_size)
    say(f"{cfg.name}: suite {cfg.suite.name} ({', '.join(attacks)}) on {run.split}; writing to {folder}")
    with logging_of(trainer, cfg):
        trainer.test(EvaluationModule(experiment.model, suite, cfg.suite.max_images), experiment.data, verbose=False)
        if not trainer.is_global_zero:
            return []
        metric = instantiate(cfg.protocol.metrics[experiment.data.metric], num_classes=experiment.num_classes)
        environment = describe_environment(trainer.strategy.root_device)
        records = suite.records(metric, run, environment, experiment.data.classes)
        for record in records:
            write_record(record, folder / "records")
        log_records(trainer.loggers, records)
    show_table(records)
    if cfg.pictures:
        print(f"Pictures: {draw_pictures(cfg.pictures, suite, experiment, trainer.strategy.root_device, folder)}")
    print(f"Records:  {folder / 'records'}")
    return records


def show_table(records: Sequence[Record], title: str = "Average precision under attack") -> None:
    """Prints the records as a table, with the paper's numbers where the paper has them."""
    Console().print(to_rich(summary(records, table_specs(), title)))


def draw_pictures(
    number: int, suite: SuiteEvaluator, experiment: Experiment, device: torch.device, folder: Path
) -> Path:
    """A grid of the split's first images: objects, and detections on clean and on attacked images."""
    images = next(iter(experiment.data.test_dataloader()))
    batch = Batch(images.images[:number], images.targets[:number]).to(device)
    model = experiment.model.to(device)
    views = {}
    for name in suite.attacks:
        attacked = suite.attack(name, model, batch)
        with torch.no_grad():
            views[name] = View(attacked, model.detect(model(attacked)))
    return detection_grid(views, batch.targets, experiment.data.classes, folder / "detections.png")


@launcher("evaluate")
def main(cfg: DictConfig) -> None:
    evaluate(cfg)


if __name__ == "__main__":
    main()
