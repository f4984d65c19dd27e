"""Which run a command goes on with. A run is unfinished as long as its folder holds `unfinished.json`.

`ckpt_path=last` goes on with the newest unfinished run of the same settings under `paths.outputs`; `ckpt_path=FILE`
with the unfinished run that the file lies in, if its settings are these, else a new run starts from the state in the
file. But a command whose own folder holds an unfinished run of its settings goes on with the newest checkpoint there,
whatever file it once started from: a job that SLURM starts again. Nothing can tell a run that was killed from one that
is still at work: never go on with the latter.
"""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from robustdet.cli.building import read_json
from robustdet.cli.clean_stage import RUN_FILE, fingerprint

MARK = "unfinished.json"


@rank_zero_only
def say(text: str) -> None:
    """Prints once for all processes of a run. (A wrapped ``print`` could not be sent to Ray's workers.)"""
    print(text)


def continued(cfg: DictConfig) -> Path | None:
    """The checkpoint to go on from, None for the beginning; sets ``cfg.paths.run`` to the folder of that run.

    Raises:
        FileNotFoundError: no such file, or no unfinished run of these settings for `ckpt_path=last`.
        FileExistsError: a new run would be written into the folder of another one.
    """
    settings, folder = fingerprint(cfg), Path(cfg.paths.run)
    if cfg.ckpt_path == "last":
        folder = newest_unfinished(Path(cfg.paths.outputs), settings, cfg.name)
    elif cfg.ckpt_path is not None and not (is_unfinished(folder, settings) and newest_checkpoint(folder)):
        return _from_file(cfg, Path(cfg.ckpt_path), settings)
    elif not is_unfinished(folder, settings):
        refuse_used(folder, settings)
        return None
    cfg.paths.run = str(folder)
    checkpoint = newest_checkpoint(folder)
    say(f"Going on with the run in {folder}: " + (f"{checkpoint}" if checkpoint else "from its beginning"))
    return checkpoint


def _from_file(cfg: DictConfig, file: Path, settings: str) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"ckpt_path={file} does not exist; expected a checkpoint file, or last")
    run = file.resolve().parent.parent
    if is_unfinished(run, settings):
        cfg.paths.run = str(run)
        say(f"Going on with the run in {run}: {file}")
    else:
        refuse_used(Path(cfg.paths.run), settings)
        say(f"A new run that starts from the state in {file}: no unfinished run of these settings is around it")
    return file


def refuse_used(folder: Path, settings: str) -> None:
    """FileExistsError where another run has been: its checkpoints, curves and record would be mixed with this one's."""
    if (folder / RUN_FILE).is_file():
        raise FileExistsError(f"{folder} holds a finished run, which is not overwritten: choose another paths.run")
    if (folder / MARK).is_file() and not is_unfinished(folder, settings):
        name = read_json(folder / MARK)["experiment"]
        raise FileExistsError(
            f"{folder} holds an unfinished run of {name} with other settings: choose another paths.run"
        )
    if not (folder / MARK).is_file() and newest_checkpoint(folder):
        raise FileExistsError(f"{folder} holds checkpoints of an unknown run: choose another paths.run")


def newest_unfinished(outputs: Path, settings: str, name: str) -> Path:
    """The folder of the unfinished run of these settings that was started or continued last."""
    marks = sorted(outputs.glob(f"**/{MARK}"), key=lambda mark: mark.stat().st_mtime, reverse=True)
    for mark in marks:
        if is_unfinished(mark.parent, settings):
            return mark.parent
    others = [str(mark.parent) for mark in marks if read_json(mark)["experiment"] == name]
    hint = f"; with other settings there are {', '.join(others)}" if others else ""
    raise FileNotFoundError(f"ckpt_path=last: no unfinished run of {name} with these settings under {outputs}{hint}")


def is_unfinished(folder: Path, settings: str) -> bool:
    mark = folder / MARK
    return mark.is_file() and read_json(mark)["fingerprint"] == settings


def newest_checkpoint(folder: Path) -> Path | None:
    """Complete ones only: Lightning renames a checkpoint into place when all of it is written."""
    files = (folder / "checkpoints").glob("*.ckpt")
    return max(files, key=lambda file: file.stat().st_mtime_ns, default=None)


@rank_zero_only
def mark_unfinished(cfg: DictConfig) -> None:
    folder = Path(cfg.paths.run)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{MARK}.partial"
    partial.write_text(
        json.dumps({"experiment": cfg.name, "fingerprint": fingerprint(cfg)}, indent=2) + "\n", encoding="utf-8"
    )
    partial.replace(folder / MARK)


@rank_zero_only
def mark_finished(folder: Path) -> None:
    (folder / MARK).unlink(missing_ok=True)
