"""The clean detector that adversarial training starts from: found finished, trained first, or read from a file.

It is the experiment `warm_start.experiment`, told what this run is told of data, protocol, device and folders. Of
several jobs that want the same one, one trains it and the others wait. Of one job's processes, the first looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf, open_dict

from robustdet.cli.building import BACKBONE, TRUNK, plain
from robustdet.cli.composition import composed
from robustdet.cli.foreign import clean_model, is_foreign
from robustdet.cli.instantiating import instantiate
from robustdet.cli.larger_batch import enlarge
from robustdet.cli.surrogate import surrogates
from robustdet.data.datamodule import file_digest
from robustdet.errors import InputError, MissingFileError, StateError
from robustdet.runs.first_process import FirstProcess, is_first, say
from robustdet.runs.identity import OF_PLACE, identity, recipe
from robustdet.runs.run import Run, behind_ended, finished

# What weights were fitted to and do not show: loaded into a network with others, they do worse without a word.
UNSEEN = ("default_boxes", "normalisation")
PATIENCE = 30.0  # seconds; processes that wait for a word wait for some minutes only
# What a stage is told by the run that needs it, besides its data and its place.
TOLD = ("paths.outputs", "paths.data", "protocol", "speed", "seed", "keep_memory", "logger", "larger_batch",
        "validation", "trainer.precision", "trainer.plugins", "trainer.fast_dev_run", "model.weights",
        "model.input_size", *(f"model.{key}" for key in UNSEEN))  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """Of the run that a config describes (`robustdet.runs.identity`), of its experiment whatever the seed, and of its
    clean stage where it has one."""

    run: str
    recipe: str
    stage: Identity | None = None


def identify(cfg: DictConfig) -> Identity:
    """Makes the data exist and reads the images that are learnt from, for they are part of it; and files of weights."""
    return _identify(cfg, {})


def _identify(cfg: DictConfig, contents: dict[str, str]) -> Identity:
    """``contents`` are those of data that were read already, by their settings: a clean stage's are often the same."""
    stage, start, start_recipe = None, None, None
    model = cfg.model.copy()
    for key in (BACKBONE, TRUNK):  # a file counts by its content, "imagenet" by its name
        weights = OmegaConf.select(cfg.model, key)
        if weights is not None and Path(weights).is_file():
            OmegaConf.update(model, key, file_digest(Path(weights)))
    settings = {**plain(cfg), "model": plain(model)}
    for surrogate in surrogates(settings["method"]):
        surrogate["ckpt_path"] = file_digest(Path(surrogate["ckpt_path"]))
    if cfg.warm_start.ckpt_path is not None:
        start = start_recipe = file_digest(warm_start_file(cfg))
    elif cfg.warm_start.experiment is not None:
        stage = _identify(stage_config(cfg), contents)
        start, start_recipe = stage.run, stage.recipe
    read = str([settings["data"].get(key) for key in ("_target_", "source", "root", "val_share")])
    content = contents[read] = contents.get(read) or instantiate(cfg.data).content()
    return Identity(identity(settings, content, start), recipe(settings, content, start_recipe), stage)


def warm_start_file(cfg: DictConfig) -> Path:
    """Raises InputError where its run's own config has other default boxes or another normalisation than this one."""
    path = Path(cfg.warm_start.ckpt_path)
    if not path.is_file():
        raise MissingFileError(f"warm_start.ckpt_path={path} does not exist; expected a checkpoint file")
    run = Run.around(path)
    theirs, ours = ((run.config["model"] or {}) if run is not None else {}), plain(cfg.model)
    for key in UNSEEN:
        then, now = theirs.get(key) or {}, ours.get(key) or {}
        for name in sorted(set(then) & set(now)):
            if then[name] != now[name]:
                raise InputError(
                    f"warm_start.ckpt_path={path} was trained with model.{key}.{name}={then[name]}, and this training "
                    f"has {now[name]}: its weights would fit and do worse; give both the same"
                )
    return path


def stage_config(cfg: DictConfig) -> DictConfig:
    """The config of ``cfg.warm_start.experiment`` for these data, on this device, into these folders.

    Its own are model, method, batch and updates, and what `warm_start.overrides` say. Its callbacks are those of its
    own that this run has too, as this run sets them.
    """
    overrides = list(cfg.warm_start.overrides)
    stage = composed("train", [f"experiment={cfg.warm_start.experiment}", *overrides, "paths.run=unused"])
    own = stage.copy()
    of_place = OF_PLACE - {"_target_", "val_check_interval", "check_val_every_n_epoch"} | {"sync_batchnorm"}
    with open_dict(stage):
        stage.callbacks = {key: cfg.callbacks._get_node(key) for key in stage.callbacks if key in (cfg.callbacks or {})}
        for key in (*TOLD, *(["model"] if is_foreign(cfg) else [])):  # an experiment's own is one of ours
            _take(stage, cfg, key)
        stage.model = clean_model(stage.model)
        for key in sorted(of_place & set(cfg.trainer)):
            _take(stage, cfg, f"trainer.{key}")
        for key in sorted(set(cfg.data) - {"batch_size"}):
            _take(stage, cfg, f"data.{key}")
        for override in overrides:
            _take(stage, own, override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", "."))
    enlarge(stage)
    return stage


def _take(stage: DictConfig, source: DictConfig, key: str) -> None:
    """What ``source`` says there, as it is written: interpolations stay."""
    owner, _, name = key.rpartition(".")
    theirs, ours = (OmegaConf.select(one, owner) if owner else one for one in (source, stage))
    if theirs is not None and ours is not None and name in theirs:
        ours[name] = theirs._get_node(name)


def clean_checkpoint(
    cfg: DictConfig, stage: str | None, first: FirstProcess, train: Callable[..., Path]
) -> Path | None:
    """The file to start from, or None when this experiment starts from scratch; says which it is.

    ``stage`` is the identity of the clean stage, where there is one.
    """
    if cfg.warm_start.ckpt_path is not None:
        path = warm_start_file(cfg)
        say(f"Starting from the weights in {path}")
        return path
    if stage is None:
        return None
    described = stage_config(cfg)
    folder = Path(cfg.paths.outputs) / described.name / f"stage_{stage}"
    with one_at_a_time(Path(cfg.paths.outputs), stage, first):
        found = first.says(lambda: _text(finished(cfg.paths.outputs, stage)))
        if found is not None:
            say(f"Starting from the finished clean stage {described.name}: {found}{_trained_at(Path(found))}")
            return Path(found)
        say(f"No finished clean stage {described.name} for these settings under {cfg.paths.outputs}: training it first")
        # the same folder after an interruption, so that it is gone on with; another one where what ended is of no use
        described.paths.run = first.says(lambda: str(behind_ended(folder)))
        trained = train(described, first=first)
        run = Run.around(trained)
        trial = cfg.trainer.get("fast_dev_run")  # of this run, too
        if not (trial or run is None or run.is_complete):
            raise StateError(
                f"the clean stage {described.name} is not what its config says, and nothing starts from it: "
                f"{(run.ended or {}).get('incomplete')} ({trained})"
            )
        return trained


def _trained_at(checkpoint: Path) -> str:
    """By which code, for it counts in no identity; nothing where nobody knows."""
    run = Run.around(checkpoint)
    commit = ((run.ended if run is not None else None) or {}).get("environment", {}).get("commit")
    return f", trained at commit {commit[:8]}" if commit else ""


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


@contextmanager
def one_at_a_time(outputs: Path, what: str, first: FirstProcess) -> Iterator[None]:
    """Held by one job of all that share ``outputs``; the others wait and say so. Freed if its holder dies."""
    outputs.mkdir(parents=True, exist_ok=True)
    lock = FileLock(outputs / f".{what}.lock")

    def taken(patience: float) -> bool:
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            return False
        return True

    try:
        if not first.says(lambda: taken(0.0)):
            say(f"Waiting for another run that works on the clean stage ({lock.lock_file})")
            while not first.says(lambda: taken(PATIENCE)):
                pass
        yield
    finally:
        if is_first():
            lock.release()
