"""`python -m src.evaluate ckpt_path=… suite=…`: attacks one checkpoint with a suite; records, a table, pictures.

What the detector is, its own run says (a checkpoint from elsewhere needs `experiment=…`). Everything is written to
`evaluation/<suite>` in the run's folder, or in `paths.run`; the same command again continues where it was interrupted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from robustdet.analysis.pictures import View, detection_grid
from robustdet.analysis.rendering import to_rich
from robustdet.analysis.suite_settings import with_differences
from robustdet.analysis.table import TableSpec, attack_titles, summary, weights_in_words
from robustdet.attacks.base import require_attack
from robustdet.cli.building import (
    Experiment,
    build_metric,
    build_trainer,
    logging_of,
    plain,
    prepare,
    suites_of,
    table_specs,
)
from robustdet.cli.data_check import check_data
from robustdet.cli.foreign import digest_of_weights, folder_name, is_foreign, origin
from robustdet.cli.instantiating import instantiate
from robustdet.cli.ladder import without_ladder
from robustdet.cli.launcher import launcher
from robustdet.cli.rescaling import rescaled, unbounded
from robustdet.cli.result_files import write_results
from robustdet.cli.stand_ins import with_stand_ins
from robustdet.cli.subjects import Trained, as_trained, subject, trained
from robustdet.cli.surrogate import require_same_task, surrogates, with_contents
from robustdet.errors import InputError, StateError
from robustdet.evaluation.cascade import Cascade
from robustdet.evaluation.environment import conditions, describe_environment, file_sha256
from robustdet.evaluation.pipeline import CLEAN, SuiteEvaluator
from robustdet.evaluation.precision import judged_in
from robustdet.evaluation.record import Record, RunInfo, write_records
from robustdet.evaluation.worst_case import WORST_CASE
from robustdet.interop.checkpoints import Checkpoint, load_checkpoint
from robustdet.progress import ProgressBar
from robustdet.runs.first_process import is_first, say
from robustdet.runs.run import Run
from robustdet.training.testing import EvaluationModule, log_records
from robustdet.types import Attack, Batch, Detector, most, offers

EXACT = "exact"  # of conf/speed: what a training does that is told nothing else
NOT_OURS = "not trained here"  # a record's method, of a detector that comes as it is


class IncompleteSuiteError(StateError):
    """Attacks of a suite failed; the others have their records."""


def evaluation_folder(cfg: DictConfig) -> Path:
    """`evaluation/<suite>` in `paths.run`; by default in the folder of the run that wrote the checkpoint, else in
    `outputs/<name>/<file>` (without a checkpoint in `foreign.folder_name`), or in `outputs/<name>/<run>` where the
    run's folder cannot be written to.

    The protocol follows where it is not the paper's, the file where the run did not end with it.
    """
    checkpoint = None if cfg.ckpt_path is None else Path(cfg.ckpt_path).resolve()
    parts = [cfg.suite.name.replace(" ", "_"), *([] if cfg.protocol.name == "paper" else [cfg.protocol.name])]
    run = None if checkpoint is None else Run.around(checkpoint)
    if checkpoint is not None and run is not None and not run.ended_with(checkpoint):
        parts.append(checkpoint.stem)
    if cfg.paths.run is not None:
        return Path(cfg.paths.run) / "evaluation" / "_".join(parts)
    if run is not None:
        folder = run.folder
    else:
        folder = Path(cfg.paths.outputs) / (
            folder_name(cfg) if checkpoint is None else Path(cfg.name) / checkpoint.stem
        )
    if not os.access(folder, os.W_OK) and folder.exists():  # somebody else's, or a medium that is read-only
        folder = Path(cfg.paths.outputs) / cfg.name / folder.name
    return folder / "evaluation" / "_".join(parts)


def chosen_checkpoint(cfg: DictConfig) -> Trained:
    """The one of `ckpt_path`, which may be ours, the authors', ssd.pytorch's or torchvision's; or a model's own."""
    if cfg.ckpt_path is None and is_foreign(cfg):
        return Trained(None, cfg, own=False)
    if cfg.ckpt_path is None:
        raise InputError(
            "ckpt_path is needed: the checkpoint to evaluate, such as outputs/…/checkpoints/final.ckpt. A detector "
            "that comes with its weights needs none: model=torchvision model.name=… data=…"
        )
    return trained(Path(cfg.ckpt_path), cfg)


def with_one_attack(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """With `attack=NAME` on the command line, the clean images and that attack are the suite: "attack NAME".

    Raises ValueError for what would be passed over: a suite beside it, or fields of an attack that is not named.
    """
    given = dict(override.lstrip("+~").partition("=")[::2] for override in overrides)
    name = given.get("attack")
    if name is None:
        for key in given:
            if key.startswith("attack."):
                raise InputError(
                    f"{key}={given[key]}: of which attack? attack=NAME {key}=… evaluates that one alone, "
                    f"suite.attacks.NAME.{key.partition('.')[2]}=… is of an attack of the suite"
                )
        return cfg
    for key in given:
        if key == "suite" or "suite.attacks" in key:
            raise InputError(
                f"attack={name} evaluates this attack alone, and {key}={given[key]} says another suite: leave one out. "
                f"To add it to a suite: +attack@suite.attacks.{name}={name}"
            )
    alone = cfg.copy()
    OmegaConf.set_struct(alone.suite, False)
    alone.suite.name, alone.suite.tabled = f"attack {name}", False
    alone.suite.attacks, alone.suite.otherwise = {CLEAN: None, name: cfg.attack}, None
    return alone


def run_info(cfg: DictConfig, experiment: Experiment, checkpoint: Path | None) -> RunInfo:
    model = experiment.model
    file = getattr(model, "file", None) if checkpoint is None else checkpoint
    loaded = None if checkpoint is None else load_checkpoint(checkpoint)
    return RunInfo(
        experiment=cfg.name,
        method=NOT_OURS if checkpoint is None else cfg.method._target_.rpartition(".")[2],
        protocol=cfg.protocol.name,
        suite=cfg.suite.name,
        tabled=cfg.suite.tabled,
        data=experiment.data.name,
        split=experiment.data.test_split,
        split_size=len(experiment.data.test_dataloader().dataset),  # type: ignore[arg-type]
        seed=cfg.seed,
        checkpoint=origin(model, cfg) if checkpoint is None else str(checkpoint),
        checkpoint_sha256=digest_of_weights(model) if file is None else file_sha256(file),
        **({} if checkpoint is None else training_of(checkpoint)),
        speed="" if checkpoint is None else speed_of(checkpoint),
        unfinished="" if checkpoint is None or loaded is None else unfinished_of(checkpoint, loaded),
        kept_for="" if loaded is None else loaded.chosen,
        averaged="" if loaded is None else loaded.averaged,
    )


def training_of(checkpoint: Path) -> dict[str, Any]:
    """Seed and recipe (see `RunInfo`) of the complete run that ended with this checkpoint.

    Nothing where no run did, nor for a trial or a pruned one: such weights are no seed among others.
    """
    run = Run.around(checkpoint)
    recipe = (run.ended or {}).get("recipe") if run is not None and run.is_complete else None
    if run is None or recipe is None or not run.ended_with(checkpoint):
        return {}
    return {"training_seed": run.config["seed"], "training_recipe": recipe}


def unfinished_of(checkpoint: Path, loaded: Checkpoint) -> str:
    """Why a run's checkpoint is not what its config describes (see `RunInfo`); nothing where it is, or lies in no run.

    A state that was chosen among those of a whole training is told by what it was chosen for.
    """
    run = Run.around(checkpoint)
    if run is None:
        return ""
    if run.ended is None:
        why = "its training has not ended"
    elif not run.is_complete:
        why = str(run.ended.get("incomplete"))
    elif run.ended_with(checkpoint) or loaded.chosen or loaded.updates == (of := run.ended.get("updates", "unknown")):
        return ""
    else:
        why = f"it is no state that its training ended with, of {of} updates"
    return f"after {'an unknown number of' if loaded.updates is None else loaded.updates} updates: {why}"


def speed_of(checkpoint: Path) -> str:
    """The profile of the training that this checkpoint is a state of; nothing for the usual one, and for none."""
    run = Run.around(checkpoint)
    name = "" if run is None else run.config.get("speed", {}).get("name", "")
    return "" if name == EXACT else name


def unmet(attack: Attack, detector: Detector) -> str | None:
    """What an attack needs that a detector does not offer, in words; None where it offers all."""
    if most(attack.needs, offers(detector)) == offers(detector):
        return None
    return {
        "losses": "this detector offers no losses",
        "scores": "this detector offers no raw scores of every place",
    }[attack.needs]


def fitting_attacks(cfg: DictConfig, experiment: Experiment) -> tuple[dict[str, Attack | None], dict[str, str]]:
    """The suite's attacks, but for those on a discriminator where there is none, those that need what the detector does
    not offer, and transfer from no surrogate; and why these are left out.

    Raises ValueError for what is no attack, and for a surrogate of other classes or another input size.
    """
    attacks, left_out = {}, {}
    for name, node in cfg.suite.attacks.items():
        if not (node is None or OmegaConf.is_dict(node)):
            raise InputError(
                f"suite.attacks.{name}={node} is a text, expected the fields of an attack: "
                f"+attack@suite.attacks.{name}={node} takes them from conf/attack/{node}.yaml"
            )
        if node is not None and "surrogate" in node and node.surrogate.ckpt_path is None:
            left_out[name] = f"suite.attacks.{name}.surrogate.ckpt_path names no checkpoint"
            continue
        if node is not None and OmegaConf.is_missing(node, "patch_file"):
            raise InputError(
                f"{name}: patch_file names the picture of a patch, such as outputs/…/analysis/patch.png, which "
                "`python -m src.analyze analysis=universal_patch ckpt_path=…` makes"
            )
        if node is not None and "patch_file" in node and node.patch_file is None:
            left_out[name] = f"suite.attacks.{name}.patch_file names no picture"
            continue
        for surrogate in surrogates({} if node is None else plain(node)):
            require_same_task(surrogate["ckpt_path"], experiment)
        attack = None if node is None else require_attack(instantiate(node))
        if attack is not None and attack.knowledge == "discriminator" and not hasattr(experiment.model, "aid"):
            left_out[name] = "this detector has no discriminator"
            continue
        lacking = None if attack is None else unmet(attack, experiment.model)
        if lacking is not None:
            left_out[name] = lacking
            continue
        attacks[name] = attack
    for reason in dict.fromkeys(left_out.values()):
        say(f"Left out of the suite: {', '.join(name for name in left_out if left_out[name] == reason)}: {reason}")
    return attacks, left_out


def evaluate(cfg: DictConfig, overrides: Sequence[str] = ()) -> list[Record]:
    """Attacks the test split with `cfg.suite`; writes one record per attack, a table and a picture grid.

    ``overrides`` are the command-line arguments that ``cfg`` comes from: what they say counts for more than what the
    checkpoint's run says, or contradicts it. Of several processes each attacks its share of the images; the first
    writes and returns the records of all. Raises IncompleteSuiteError when all that is written, where attacks failed.
    """
    prepare(cfg)
    one = chosen_checkpoint(cfg)
    cfg = with_its_suite(as_trained(cfg, one, overrides), overrides)
    if is_first():
        check_data(cfg, evaluation_folder(cfg))
    data = instantiate(cfg.data)
    return attacked(cfg, one, Experiment(data, subject(one.name, one, data).model))


def with_its_suite(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The suite that is meant: one attack alone, or with every ball at one size; a ladder's rungs written out."""
    cfg = with_one_attack(cfg, overrides)
    if cfg.suite.get("epsilon") is not None:
        cfg.suite = rescaled(cfg.suite)
        if others := unbounded(cfg.suite):
            say(f"suite.epsilon: no L∞ ball bounds {', '.join(others)}, which stay as they are")
    cfg.suite = without_ladder(cfg.suite)
    return cfg


def attacked(cfg: DictConfig, one: Trained, experiment: Experiment) -> list[Record]:
    """`evaluate` of what is built: ``one`` says where the detector comes from."""
    data = experiment.data
    cfg.suite = with_stand_ins(cfg.suite, experiment.model)
    data.setup("test")
    folder = evaluation_folder(cfg)
    cfg.paths.run = str(folder)
    attacks, left_out = fitting_attacks(cfg, experiment)
    trainer = build_trainer(cfg, [], "evaluate")
    device = trainer.strategy.root_device
    fields = plain(cfg)
    run = run_info(cfg, experiment, one.path)
    settings = {
        "checkpoint": run.checkpoint_sha256,
        "model": fields["model"],
        "callbacks": fields["callbacks"],  # levers among them
        **conditions(experiment.model, device, trainer.precision),
    }
    suite = (Cascade if cfg.suite.get("cascade") else SuiteEvaluator)(
        {CLEAN: None, **attacks},
        with_contents(fields["suite"]["attacks"]),
        folder,
        settings,
        cfg.seed,
        cfg.fresh,
        left_out,
    )
    if cfg.suite.max_images is not None and trainer.limit_test_batches == 1.0:  # the progress bar's end, too
        share = math.ceil(cfg.suite.max_images / trainer.world_size)
        trainer.limit_test_batches = math.ceil(share / data.eval_batch_size)
    names = ", ".join([*suite.attacks, *suite.waiting])
    for what in weights_in_words(run):
        say(f"The weights in {one.name if one.path is None else one.path.name} {what}")
    say(f"{cfg.name}: suite {cfg.suite.name} ({names}) on {run.split}; writing to {folder}")
    metric = build_metric(cfg, data)
    with logging_of(trainer, cfg):
        try:
            trainer.test(EvaluationModule(experiment.model, suite, cfg.suite.max_images), data, verbose=False)
            while new := suite.next_round(metric):
                say(f"{cfg.name}: another round over the images, against the worst case so far: {', '.join(new)}")
                trainer.test(EvaluationModule(experiment.model, suite, cfg.suite.max_images), data, verbose=False)
        except (SystemExit, KeyboardInterrupt):
            say(f"Told to stop: there are no records yet. What was measured is in {folder}; the same command goes on")
            raise
        if not trainer.is_global_zero:
            return []
        environment = describe_environment(device, judged_in(trainer.precision))
        records = suite.records(metric, run, environment, data.classes)
        if cfg.get("metric"):  # beside those of the data set's own metric
            folder /= records[0].ap_rule
        write_records(records, folder / "records")
        log_records(trainer.loggers, records)
    if cfg.get("metric"):  # the paper has no numbers of it
        show_table(records, f"{records[0].ap_rule} under attack", specs=())
    else:
        show_table(records)
    print(errors_in_words(records))
    print(spent(records))
    print(from_the_store(suite.seen.stored, len(suite.seen.targets)))
    if cfg.pictures:
        print(f"Pictures: {draw_pictures(cfg.pictures, suite, experiment, device, folder)}")
    if cfg.results:
        print(f"Results:  {write_results(cfg.results, suite, experiment, folder)}")
    print(f"Records:  {folder / 'records'}")
    if suite.seen.failed:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in suite.seen.failed.items())
        raise IncompleteSuiteError(f"{len(suite.seen.failed)} of {len(suite.attacks)} rows failed:\n{reasons}")
    return records


def errors_in_words(records: Sequence[Record]) -> str:
    """What clean AP, and the lowest under attack, would gain if one kind of error alone were mended."""
    clean, lowest = records[0], min(records, key=lambda record: record.map)
    lines = []
    for attack, errors in {record.attack: record.errors for record in (clean, lowest)}.items():
        costs = {} if errors is None else errors.costs
        dearest = sorted(costs, key=lambda kind: -costs[kind])
        lines.append(f"{attack}: " + ", ".join(f"{kind} {100 * costs[kind]:.1f}" for kind in dearest))
    return "Errors:   points of AP if mended alone; " + "\n          ".join(lines)


def spent(records: Sequence[Record]) -> str:
    """How many images the detector has looked at, for one of the split; of a cascade, what each attack of it did."""
    worst = records[-1]
    if "stages" not in (worst.attack_settings or {}):
        each = [record.forward_passes or 0.0 for record in records if record.attack != WORST_CASE]
        return f"Cost:     {sum(each):,.0f} forward passes an image"
    if not worst.stages:
        return "Cascade:  no object is found on the clean images: there was nothing to attack"
    stages = ", ".join(f"{stage.attack} {stage.images} ({stage.chosen})" for stage in worst.stages)
    total = math.fsum(stage.forward_passes for stage in worst.stages) / worst.num_images
    return f"Cascade:  {stages} images attacked (taken)\nCost:     {total:,.0f} forward passes an image"


def from_the_store(stored: Mapping[str, int], images: int) -> str:
    """How many images of each attack were there already."""
    if not any(stored.values()):
        return f"Store:    no image was there already: all {images} were measured now under every attack"
    if all(count == images for count in stored.values()):
        each = f"{images} of {images} images of each of {len(stored)} rows"
    else:
        each = ", ".join(f"{name}: {count} of {images}" for name, count in stored.items()) + " images"
    return f"Store:    {each} were there already; fresh=true measures them again"


def show_table(
    records: Sequence[Record],
    title: str = "Average precision under attack",
    specs: Sequence[TableSpec] | None = None,
) -> None:
    """Prints the records as a table, with the paper's numbers where ``specs`` (by default its tables) have them."""
    marked = with_differences(records, suites_of(records))
    Console().print(to_rich(summary(marked, table_specs() if specs is None else specs, title)))


def draw_pictures(
    number: int, suite: SuiteEvaluator, experiment: Experiment, device: torch.device, folder: Path
) -> Path:
    """A grid of the split's first images: objects, and detections on clean and on attacked images."""
    images = next(iter(experiment.data.test_dataloader()))
    batch = Batch(images.images[:number], images.targets[:number]).to(device)
    with ProgressBar("pictures", len(suite.attacks)) as bar:
        suite.working = bar.working
        looks = suite.look(experiment.model.to(device), batch)
    titles = attack_titles(table_specs())
    views = {titles.get(name, name): View(*look) for name, look in looks.items()}
    return detection_grid(views, batch.targets, experiment.data.classes, folder / "detections.png")


@launcher("evaluate")
def main(cfg: DictConfig) -> None:
    evaluate(cfg, HydraConfig.get().overrides.task)
