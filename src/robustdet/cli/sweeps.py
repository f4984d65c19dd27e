"""Around sweepers: the values to optimise, what is settled before a run or a sweep starts, what an ended one left."""

from __future__ import annotations

import atexit
import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from robustdet.cli.composition import expand_homes, quoted, without_place
from robustdet.cli.stopping import stop_when_told
from robustdet.cli.unread import require_read
from robustdet.errors import InputError
from robustdet.files import trouble_of_place, whole, write_text
from robustdet.runs.identity import identity

ROOM = 1 << 16  # bytes; what Hydra writes before a command begins is less
GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
SEARCH = "search.json"  # in the folder of a study: what its trials have in common
ONE_BY_ONE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def objectives(names: Sequence[str], metrics: Mapping[str, float]) -> list[float | None] | float | None:
    """What a job returns to its sweeper: the metrics called ``names`` (a bare number for one), None where not finite.

    A sweeper counts a job with a None among its values as failed and goes on with the next.
    """
    values = [metrics[name] if math.isfinite(metrics.get(name, math.nan)) else None for name in names]
    return values[0] if len(values) == 1 else values


def processes(trainer: DictConfig) -> str | None:
    """Which of the trainer's settings ask for more than one process; None when none does."""
    devices = trainer.get("devices", 1)
    if trainer.get("num_nodes", 1) != 1:
        return f"trainer.num_nodes={trainer.num_nodes}"
    count = devices if isinstance(devices, int | str) else len(devices)
    return None if str(count) == "1" else f"trainer.devices={devices}"


class Start(Callback):
    """Before a run: ``~`` is the home folder, and the run's own folder can be written to. Before the first job of
    ``-m`` the folder of all jobs is decided and made; values that no training reads are refused, and to a search that
    adapts distributed jobs, objectives that nothing measures, and a study that was begun with other settings.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        expand_homes(config)
        require_room(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        expand_homes(config)
        sweeper = config.hydra.sweeper
        if sweeper._target_ != GRID:
            require_one_process(config.trainer, sweeper._target_.rpartition(".")[2])
            require_measured(config)
        if config.hydra.job.config_name == "train":
            require_swept(config)
        if config.name == "unnamed" and any(key.startswith("experiment=") for key in config.hydra.overrides.task):
            config.name = "several"  # of the folder: each job has its experiment's name
        folder = Path(config.hydra.sweep.dir)
        with read_write(config.hydra):  # jobs are composed anew, each with a name of its own: they get this folder
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder))}")
        require_room(folder.parent)  # a study's database lies there
        if OmegaConf.select(config, "paths.study") is not None:
            require_same_search(config)


def require_room(folder: Path) -> None:
    """Makes the folder, in which something can be written; else the command ends here, and says why."""
    try:
        with whole(folder / "room") as probe:
            probe.write_bytes(bytes(ROOM))
        (folder / "room").unlink(missing_ok=True)
    except OSError as error:
        trouble = trouble_of_place(error)
        sys.exit(f"{trouble or error}: choose another paths.outputs or hydra.run.dir, or make room there")


def require_one_process(trainer: DictConfig, sweeper: str) -> None:
    several = processes(trainer)
    if several is not None:
        sys.exit(
            f"{several} inside an adaptive sweep ({sweeper}) is refused: the processes "
            "of a distributed job start as copies of this command, each with a sweeper of its own that proposes "
            "other values, so the ranks of one job would train different things and wait for each other for ever. "
            "Use trainer.devices=1 and run jobs side by side (launcher=slurm, launcher=joblib), or a sweep whose "
            "jobs are commands of their own (`wandb sweep conf/wandb_sweep.yaml`)."
        )


def require_measured(config: DictConfig) -> None:
    """Without an attack to validate with there is no AP under it."""
    unmeasured = [name for name in config.objectives if name.startswith("val/AP50_attacked")]
    if config.validation.attack is None and unmeasured:
        sys.exit(
            f"validation.attack=null measures no {', '.join(unmeasured)}, which this search is to maximise: leave "
            "validation.attack as it is, or search with objectives=[val/AP50_clean] hydra.sweeper.direction=maximize"
        )


def require_swept(config: DictConfig) -> None:
    """All that the sweep is over is read; where it is over groups too, such as experiments, each job says so itself."""
    space = searched(config)
    if all("." in override.partition("=")[0] for override in space):
        try:
            require_read(config, [*config.hydra.overrides.task, *space])
        except InputError as error:  # Hydra goes on where a callback fails
            sys.exit(str(error))


def searched(config: DictConfig) -> list[str]:
    """What a sweep is over, by its sweeper's yaml and on the command line, as overrides."""
    space = config.hydra.sweeper.get("params") or {}
    overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    swept = [str(one.input_line) for one in overrides if one.is_sweep_override()]
    return [*(f"{key}={value}" for key, value in space.items()), *swept]


def require_same_search(config: DictConfig) -> None:
    """A study's trials, which its sampler learns from and its runs are pruned by, differ in what is searched alone.

    What they have in common stands in the study's folder from its first command on. Folders, devices, loggers and
    workers are free, as are the number of trials and their sampler.
    """
    settings: Any = OmegaConf.to_container(without_place(config), resolve=True)
    data = {key: settings["data"].get(key) for key in ("_target_", "source", "root", "val_share")}
    more = [data, *(settings[key] for key in ("warm_start", "validation", "objectives")), sorted(searched(config))]
    now = {
        "settings": identity(settings, json.dumps(more, sort_keys=True), None),
        "overrides": sorted(config.hydra.overrides.task),
    }
    file = Path(config.paths.study) / SEARCH
    if not file.is_file():
        write_text(file, json.dumps(now, indent=2) + "\n")
        return
    try:
        then = json.loads(file.read_text(encoding="utf-8"))
        same, told = then["settings"] == now["settings"], shlex.join(then["overrides"])
    except (ValueError, TypeError, KeyError) as error:
        sys.exit(f"{file} does not say what the trials of this study have in common: {type(error).__name__}: {error}")
    if not same:
        sys.exit(
            f"{file.parent} holds trials of a search with other settings:\n  then {told}\n"
            f"  now  {shlex.join(now['overrides'])}\n"
            "They would be compared with each other: give the same settings, or another folder, paths.study=PATH"
        )


def jobs_of_grid(overrides: Sequence[str]) -> list[str]:
    """What each job of a grid gets that not every job gets, in the sweeper's order: ``loss.gamma=0.3 seed=1``."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    swept = [
        [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]
        for override in parsed
        if override.is_sweep_override()
    ]
    return [" ".join(chosen) for chosen in product(*swept)]


class SweepLeft(Callback):
    """Of a grid whose jobs run one by one in this process: says, where it ends before them, which are not done.

    A job that fails does not end a sweep; a signal (SIGTERM, Ctrl-C) does.
    """

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.done: set[int] = set()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if (config.hydra.sweeper._target_, config.hydra.launcher._target_) == (GRID, ONE_BY_ONE):
            stop_when_told()
            self.jobs = jobs_of_grid(config.hydra.overrides.task)
            atexit.register(self.say_left)

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        if self.jobs:
            self.done.add(config.hydra.job.num)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.unregister(self.say_left)

    def say_left(self) -> None:
        left = [f"  {number}: {job}" for number, job in enumerate(self.jobs) if number not in self.done]
        if left:
            text = "\n".join([f"The sweep was ended: {len(left)} of {len(self.jobs)} jobs are not done", *left])
            print(text, file=sys.stderr, flush=True)
