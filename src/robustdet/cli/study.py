"""`python -m src.study study=…`: all trainings and evaluations behind a page of results, one command for days.

`conf/study/<name>.yaml` says what is trained, with which seeds, and how each is evaluated. Everything lies below
`paths.outputs/study/<name>/<training>/seed<n>`; the same command again goes on where the last one was stopped, and
makes only what is missing. Records are copied to `results/`, which tables are made from.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from filelock import FileLock, Timeout
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from robustdet.cli.composition import check, composed, quoted
from robustdet.cli.hints import hint_for_overrides
from robustdet.cli.instantiating import instantiate
from robustdet.cli.launcher import launcher
from robustdet.cli.stopping import stop_when_told
from robustdet.cli.unread import require_read
from robustdet.errors import InputError, MissingFileError, StateError
from robustdet.evaluation.record import read_record, write_records
from robustdet.files import write_text
from robustdet.progress import duration
from robustdet.runs.run import Run

COMMANDS = {"train": "robustdet.cli.train", "evaluate": "robustdet.cli.evaluate"}
MEMORY = "study.json"
LOG = "study.log"
OWN = ("seed", "ckpt_path", "paths.run", "paths.outputs", "hydra.run.dir")  # settings that nobody else may say
STRICT = ConfigDict(extra="forbid")
Title = Annotated[str, Field(pattern=r"^[\w-]+$")]  # a folder is called so


class IncompleteStudyError(StateError):
    """Jobs of a study failed; the others have been done."""


@dataclass(frozen=True)
class Memory:
    """What a job's folder knows of it: what it was told, how long it has worked, whether it is done."""

    arguments: Sequence[str]
    seconds: float | int = 0.0
    done: bool = False


@dataclass(frozen=True)
class Job:
    """One command. ``after`` names the job whose result it needs; ``minutes`` are the yaml's guess."""

    name: str
    command: str
    arguments: tuple[str, ...]
    folder: Path
    records: Path | None  # where an evaluation copies them to
    minutes: float | int
    after: str | None = None

    @property
    def is_done(self) -> bool:
        """A training that went on alone, for the study was killed, is done when its run has ended."""
        begun = (self.folder / MEMORY).is_file()
        return self.memory.done or (begun and self.command == "train" and Run(self.folder).is_complete)

    @property
    def memory(self) -> Memory:
        """Raises InputError where another command was given in this folder."""
        file = self.folder / MEMORY
        if not file.is_file():
            return Memory(self.arguments)
        try:
            memory = Memory(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{file} does not say what was done there, remove it to have that done again: {error}"
            ) from error
        if tuple(memory.arguments) != self.arguments:
            raise InputError(
                f"{self.folder} holds another {self.command} of {self.name} than the study asks for:\n"
                f"  then {shlex.join(memory.arguments)}\n  now  {shlex.join(self.arguments)}\n"
                "Remove the folder, or give the study another name: study.name=…"
            )
        return memory

    def remember(self, seconds: float | int, done: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        memory = Memory(self.arguments, seconds, done)
        write_text(self.folder / MEMORY, json.dumps(asdict(memory), indent=2) + "\n")


@dataclass(frozen=True)
class Training:
    """A row of a study: what `src.train` is told, with which seeds, and about how many minutes each takes."""

    __pydantic_config__ = STRICT

    overrides: list[str]
    seeds: Annotated[list[int], Field(min_length=1)]
    minutes: float


@dataclass(frozen=True)
class Evaluation:
    """What `src.evaluate` is told of each result, and about how many minutes that takes."""

    __pydantic_config__ = STRICT

    overrides: list[str]
    minutes: float


@dataclass(frozen=True)
class Study:
    """A file of `conf/study`. ``results`` is the folder of copied records; rows and evaluations are by title."""

    __pydantic_config__ = STRICT

    name: Title
    title: str
    results: str
    trainings: Annotated[dict[Title, Training], Field(min_length=1)]
    evaluations: dict[Title, Evaluation]


def study_of(cfg: DictConfig) -> Study:
    """Raises InputError with all that is wrong in it, and for a command that is told where to write."""
    try:
        spec = TypeAdapter(Study).validate_python(OmegaConf.to_container(cfg.study, resolve=True))
    except ValidationError as error:
        wrong = [f"study.{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)]
        raise InputError("\n".join(wrong)) from error
    for title, row in spec.trainings.items():
        if len(set(row.seeds)) < len(row.seeds):
            raise InputError(f"study.trainings.{title}.seeds: {row.seeds} has one twice")
    said = {f"trainings.{title}": row.overrides for title, row in spec.trainings.items()}
    said |= {f"evaluations.{title}": row.overrides for title, row in spec.evaluations.items()}
    said["trainings"] = list(cfg.trainings)
    for place, overrides in said.items():
        for override in overrides:
            if override.lstrip("+~").partition("=")[0] in OWN:
                raise InputError(f"{place}: {override} is what the study says itself ({', '.join(OWN)}): leave it out")
    return spec


def home(cfg: DictConfig) -> Path:
    return Path(cfg.paths.outputs).absolute() / "study" / str(cfg.study.name)


def jobs_of(cfg: DictConfig) -> list[Job]:
    """Every training, each followed by its evaluations; first seeds first, so that a whole table is there early."""
    study = study_of(cfg)
    data = [] if cfg.data_root is None else [_path("data.root", Path(cfg.data_root).absolute())]
    common = [_path("paths.outputs", home(cfg)), *data, *cfg.trainings]
    jobs: list[Job] = []
    for place in range(max(len(row.seeds) for row in study.trainings.values())):
        for title, row in study.trainings.items():
            for seed in row.seeds[place : place + 1]:
                folder = home(cfg) / title / f"seed{seed}"
                told = (*row.overrides, f"seed={seed}", _path("hydra.run.dir", folder), *common)
                training = Job(f"{title}, seed {seed}", "train", told, folder, None, row.minutes)
                jobs += [training, *_evaluations(training, study, data)]
    return jobs


def _evaluations(training: Job, study: Study, data: Sequence[str]) -> Iterator[Job]:
    copies = Path(study.results).absolute() / study.name / training.folder.parent.name / training.folder.name
    for title, evaluation in study.evaluations.items():
        folder = training.folder / "evaluation" / title
        checkpoint = _path("ckpt_path", Run(training.folder).final)
        told = (checkpoint, *evaluation.overrides, _path("paths.run", folder), *data)
        name, records = f"{training.name}: {title}", copies / "evaluation" / title
        yield Job(name, "evaluate", told, folder, records, evaluation.minutes, after=training.name)


def require_commands(jobs: Sequence[Job]) -> dict[str, DictConfig]:
    """Composes one command of each row, as it would be. Returns the configs of trainings by the name of their job.

    Raises InputError naming the first that would be refused.
    """
    configs: dict[str, DictConfig] = {}
    rows: dict[tuple[str, object], Job] = {}
    for job in jobs:
        rows.setdefault((job.command, job.folder.name if job.after else job.folder.parent), job)
    for job in rows.values():
        told = [one.replace("hydra.run.dir=", "paths.run=", 1) for one in job.arguments]  # which Hydra would set
        try:
            cfg = composed(job.command, told)
            check(cfg, job.command)
            if job.command == "train":
                require_read(cfg, told)
        except (HydraException, OmegaConfBaseException, InputError) as error:
            hint = "" if isinstance(error, InputError) else hint_for_overrides(told, job.command)
            raise InputError("\n".join([f"{job.name}: {str(error).splitlines()[0]}", *hint.splitlines()])) from error
        if job.after is None:
            configs[job.name] = cfg
    return configs


def prepare_data(configs: Mapping[str, DictConfig]) -> None:
    """Makes the data of each training exist, before any begins. Raises MissingFileError saying how to get them."""
    ready: list[tuple[DictConfig, str]] = []
    for name, cfg in configs.items():
        if (described := (cfg.data.source, cfg.data.root)) not in ready:
            try:
                instantiate(cfg.data).prepare_data()
            except MissingFileError as error:
                raise MissingFileError(f"{name}: {error}\nIn a study data_root=PATH says data.root for all") from error
            ready.append(described)


def _path(key: str, path: Path) -> str:
    """The override, as Hydra reads any path."""
    plain = re.fullmatch(r"[\w./-]+", str(path))
    return f"{key}={path if plain else quoted(str(path))}"


def pace(jobs: Sequence[Job]) -> float:
    """How much longer jobs take here than the yaml says, by those that are done; 1 where none is."""
    done = [job for job in jobs if job.memory.done]  # and timed to the end
    planned = sum(job.minutes for job in done)
    return sum(job.memory.seconds for job in done) / 60 / planned if planned else 1.0


def seconds_left(jobs: Sequence[Job], side_by_side: int) -> float:
    return 60 * sum(job.minutes for job in jobs if not job.is_done) * pace(jobs) / side_by_side


class Workers:
    """Runs jobs, each as a process of its own with its share of the cores, and stops them when this one is told to."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.threads = max(1, (os.cpu_count() or 1) // number)
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.told_to_stop = False

    def do(self, job: Job) -> float:
        """Returns the seconds that it took in all; what it prints goes to its folder.

        Raises IncompleteStudyError where the command fails.
        """
        before, start = job.memory.seconds, time.monotonic()
        job.remember(before, done=False)
        code = self._run(job)
        seconds = before + time.monotonic() - start
        if code == 0 and job.records is not None:
            copy_records(job.folder, job.records)
        job.remember(seconds, done=code == 0)
        if code != 0:
            last = (job.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            raise IncompleteStudyError(f"{job.name} ended with {code}: {last}; see {job.folder / LOG}")
        return seconds

    def _run(self, job: Job) -> int:
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-c", f"from {COMMANDS[job.command]} import main; main()", *job.arguments]
        with (job.folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
            self.processes.add(process)
            if self.told_to_stop:  # while this one was on its way
                process.terminate()
            try:
                return process.wait()
            finally:
                self.processes.discard(process)

    def stop(self) -> None:
        """Tells them to save and go."""
        self.told_to_stop = True
        for process in list(self.processes):
            process.terminate()


def copy_records(folder: Path, target: Path) -> None:
    """All records of a study's evaluation, but for paths of this machine.

    Those of evaluations that somebody else makes of the same checkpoint may lie in ``folder`` too, not below its
    ``evaluation``.
    """
    found = [read_record(file) for file in sorted((folder / "evaluation").rglob("records/*.json"))]
    write_records([replace(one, run=replace(one.run, checkpoint=None)) for one in found], target / "records")


def study(cfg: DictConfig) -> None:
    """Does what is missing, ``cfg.side_by_side`` jobs at a time.

    Raises IncompleteStudyError at the end, naming what failed; a job that needs its result is left out.
    """
    jobs = jobs_of(cfg)
    configs = require_commands(jobs)
    missing = [job for job in jobs if not job.is_done]
    workers = Workers(cfg.side_by_side)
    print(f"{cfg.study.title}: {len(jobs)} jobs, {len(jobs) - len(missing)} of them done; {workers.number} at a time")
    print(
        f"About {duration(seconds_left(jobs, workers.number))} to go. Ctrl-C stops; the same command goes on.",
        flush=True,
    )
    if cfg.dry:
        for job in missing:
            print(f"  {job.minutes:5.0f} min  {job.name}: {job.command} {shlex.join(job.arguments)}")
        return
    rows = {job.folder.parent for job in missing if job.after is None}
    prepare_data({job.name: configs[job.name] for job in jobs if job.name in configs and job.folder.parent in rows})
    place = home(cfg)
    place.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(place / ".lock").acquire(timeout=0)
    except Timeout:
        raise StateError(f"another process works on the study in {place}: wait for its end, or stop it") from None
    with held:
        _work(jobs, missing, workers)
    print(f"All is done. Records: {Path(cfg.study.results) / cfg.study.name}; `make tables` writes them into the pages")


def _work(jobs: Sequence[Job], missing: list[Job], workers: Workers) -> None:
    """Until nothing is missing. Raises IncompleteStudyError at the end, with what failed."""
    failed: dict[str, str] = {}
    working: dict[Future[float], Job] = {}
    stop_when_told()
    with ThreadPoolExecutor(workers.number) as pool:
        try:
            while missing or working:
                for job in [job for job in missing if job.after in failed]:
                    failed[job.name] = f"{job.name} is left out, for it needs {job.after}"
                    missing.remove(job)
                waiting = {job.name for job in [*missing, *working.values()]}
                for job in [job for job in missing if job.after not in waiting][: workers.number - len(working)]:
                    missing.remove(job)
                    print(
                        f"begins: {job.name}, about {duration(60 * job.minutes * pace(jobs))}: {job.folder / LOG}",
                        flush=True,
                    )
                    working[pool.submit(workers.do, job)] = job
                for future in wait(working, return_when=FIRST_COMPLETED).done:
                    job = working.pop(future)
                    try:
                        took = duration(future.result())
                    except IncompleteStudyError as error:
                        failed[job.name] = str(error)
                        print(f"FAILED: {error}", flush=True)
                    else:
                        left = duration(seconds_left(jobs, workers.number))
                        print(f"done:   {job.name} in {took}; about {left} to go", flush=True)
        except (SystemExit, KeyboardInterrupt):
            workers.stop()
            print("Told to stop: what is at work saves its state; the same command goes on")
            raise
    if failed:
        raise IncompleteStudyError("\n".join(failed.values()))


@launcher("study")
def main(cfg: DictConfig) -> None:
    study(cfg)
