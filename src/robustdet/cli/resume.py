"""Which run a command goes on with, and in which folder it works.

`ckpt_path=last` goes on with the newest unfinished run of the same identity under `paths.outputs`; `ckpt_path=FILE`
with the unfinished run that the file lies in, if its identity is this one's, else a new run starts from the state in
the file. But a command whose own folder holds an unfinished run of its identity goes on with the newest checkpoint
there, whatever file it once started from: a job that SLURM starts again. A run that is at work is never joined.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from robustdet.cli.clean_stage import Identity, identify
from robustdet.errors import MissingFileError, OccupiedError
from robustdet.runs.first_process import say
from robustdet.runs.run import ENDED, Run, unfinished


@dataclass(frozen=True)
class Plan:
    """What the first process of a run has found out."""

    identity: str
    recipe: str
    stage: str | None  # identity of the clean stage
    folder: str
    state: str | None  # the checkpoint to go on from; None for the beginning
    foreign: str | None  # the state of another run that it began with

    @property
    def run(self) -> Run:
        return Run(Path(self.folder))


def planned(cfg: DictConfig, held: ExitStack) -> Plan:
    """Takes the run's lock, which ``held`` lets go.

    Raises:
        FileNotFoundError: no such file, or no unfinished run of this identity for `ckpt_path=last`.
        FileExistsError: a new run would be written into the folder of another one.
        RunAtWorkError: another process works on that run.
    """
    what = identify(cfg)
    own, state, foreign = Run(Path(cfg.paths.run)), None, None
    if cfg.ckpt_path == "last":
        run = unfinished(cfg.paths.outputs, what.run, cfg.name)
    elif cfg.ckpt_path is not None and not (own.is_unfinished(what.run) and own.newest_checkpoint):
        state = Path(cfg.ckpt_path)
        if not state.is_file():
            raise MissingFileError(f"ckpt_path={state} does not exist; expected a checkpoint file, or last")
        around = Run(state.resolve().parent.parent)
        run, foreign = (around, None) if around.is_unfinished(what.run) else (own, str(state))
    else:
        run = own
    held.enter_context(run.at_work())
    if foreign is not None:
        refuse_used(run, what.run)
        say(f"A new run that starts from the state in {state}: no unfinished run of these settings is around it")
    elif run.is_unfinished(what.run):
        foreign = (run.begun or {}).get("state_of")
        state = state or run.newest_checkpoint
        say(f"Going on with the run in {run.folder}: {state or 'from its beginning'}")
    else:
        refuse_used(run, what.run)
    return _plan(what, run, state, foreign)


def _plan(what: Identity, run: Run, state: Path | None, foreign: str | None) -> Plan:
    stage = what.stage.run if what.stage else None
    return Plan(what.run, what.recipe, stage, str(run.folder), None if state is None else str(state), foreign)


def refuse_used(run: Run, identity: str) -> None:
    """FileExistsError where another run has been: its checkpoints, curves and record would be mixed with this one's."""
    if (run.folder / ENDED).is_file():
        raise OccupiedError(f"{run.folder} holds a finished run, which is not overwritten: choose another paths.run")
    if run.begun is not None and not run.is_unfinished(identity):
        name = run.begun["experiment"]
        raise OccupiedError(
            f"{run.folder} holds an unfinished run of {name} with other settings: choose another paths.run"
        )
    if run.begun is None and run.newest_checkpoint:
        raise OccupiedError(f"{run.folder} holds checkpoints of an unknown run: choose another paths.run")
