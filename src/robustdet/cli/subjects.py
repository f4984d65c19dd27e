"""Trained detectors from their checkpoints, each as its own run describes it: for evaluations, analyses, predictions.

A checkpoint that lies in no run (somebody else's, say) is what the command's experiment describes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from robustdet.analysis.figures.study import Subject
from robustdet.cli.building import plain, without_start
from robustdet.cli.composition import all_keys
from robustdet.cli.foreign import built, is_foreign
from robustdet.cli.instantiating import instantiate
from robustdet.data.datamodule import DetectionDataModule
from robustdet.data.shapes_set import Shapes
from robustdet.detection.weights import require_fit
from robustdet.errors import InputError, MissingFileError
from robustdet.interop.checkpoints import Checkpoint, load_checkpoint
from robustdet.interop.classes import require_same_classes
from robustdet.runs.run import CONFIG, Run
from robustdet.trust import require_trusted

DRAWN = f"{Shapes.__module__}.{Shapes.__qualname__}"
NO_EXPERIMENT = "unnamed"  # of conf/common.yaml
LEARNT = ("name", "method", "model", "loss", "optimizer", "schedule", "scheduler")  # what a run is, but for its data
MEASURED = ("protocol.cwa", "protocol.dag", "protocol.metrics")  # of a protocol: what an evaluation is, and no training


@dataclass(frozen=True)
class Trained:
    """A checkpoint with the config that its detector is built from; or such a config alone, which names the weights."""

    path: Path | None
    cfg: DictConfig
    own: bool  # whether the config is its run's own

    @property
    def run(self) -> Path | None:
        """The folder of the run that wrote it."""
        run = Run.around(self.path) if self.own and self.path is not None else None
        return None if run is None else run.folder

    @property
    def place(self) -> str:
        """What tells it from others of the same name: the run's folder, or the file."""
        place = self.run or self.path
        return "" if place is None else place.name

    @property
    def name(self) -> str:
        if self.path is None:
            return str(self.cfg.model.name)
        return str(self.cfg.name) if self.own else self.path.stem


def checkpoints(cfg: DictConfig, given: frozenset[str] = frozenset()) -> dict[str, Trained]:
    """``ckpt_path`` (one file, a list, or files by label) as trained detectors by label.

    Labels that are not given are the names of the runs, with their folders where two have the same name. Raises
    ValueError or FileNotFoundError that names what is missing, or what the command line, whose keys are ``given``,
    says of a detector and its run says otherwise.
    """
    found = _checkpoints(cfg)
    for one in found.values():
        require_own(cfg, one, _of_training(given))
    return found


def _checkpoints(cfg: DictConfig) -> dict[str, Trained]:
    given = OmegaConf.to_container(cfg.ckpt_path) if OmegaConf.is_config(cfg.ckpt_path) else cfg.ckpt_path
    if not given and is_foreign(cfg):
        one = Trained(None, cfg, own=False)
        return {one.name: one}
    if not given:
        raise InputError("ckpt_path is needed: outputs/…/final.ckpt, or several, quoted: 'ckpt_path=[A.ckpt,B.ckpt]'")
    if isinstance(given, Mapping):
        return {str(label): trained(Path(path), cfg) for label, path in given.items()}
    found = [trained(Path(path), cfg) for path in (given if isinstance(given, list) else [given])]
    counts = Counter(one.name for one in found)
    labels = [one.name if counts[one.name] == 1 else f"{one.name} {one.place}" for one in found]
    for label, count in Counter(labels).items():
        if count > 1:
            raise InputError(f"{count} checkpoints are called {label!r}: name them, as in 'ckpt_path={{A:…,B:…}}'")
    return dict(zip(labels, found, strict=True))


def trained(path: Path, cfg: DictConfig) -> Trained:
    if not path.is_file():
        raise MissingFileError(f"ckpt_path={path} does not exist; expected a checkpoint file")
    path = path.resolve()
    run = Run.around(path)
    if run is not None:
        return Trained(path, config_of(run), own=True)
    if cfg.name == NO_EXPERIMENT:
        config = path.parent.parent / CONFIG
        raise InputError(f"there is no {config} that says what {path} is: give experiment=… as well")
    return Trained(path, cfg, own=False)


def config_of(run: Run) -> DictConfig:
    """All that the run was told.

    Raises InputError naming the file where that does not describe a run, or asks for code that nobody vouches for.
    """
    file = run.folder / CONFIG
    try:
        config = OmegaConf.create(run.config)
        OmegaConf.resolve(config)
    except (OmegaConfBaseException, TypeError) as error:
        raise InputError(f"{file} is no config: {error}") from error
    for key in (*LEARNT, "data.root", "protocol.name", "model.input_size", "paths.data"):
        if OmegaConf.select(config, key) is None and key not in ("loss", "schedule"):
            raise InputError(f"{file} is no config of a run: it says nothing of {key}")
    require_trusted(plain(config), file)
    if "download" in config.data:
        config.data.download = False  # of somebody else's wish: this command can have its own
    return config


def as_trained(cfg: DictConfig, one: Trained, overrides: Sequence[str] = ()) -> DictConfig:
    """``cfg`` with what its run says of the detector in place of what the command says; ``cfg`` where no run does.

    A run's own are its name, method, model and protocol; without ``experiment=…`` its data too, but for what the
    command line's ``overrides`` say of them (``data=…``, ``data.root=…``, ``paths.data=…``), and of the protocol's
    attacks and rules (``MEASURED``). Raises ValueError where the command names another experiment, method, model or
    protocol, or another value of what its run was trained with, with both.
    """
    if one.path is None:
        named_cfg = cfg.copy()
        named_cfg.name = one.name
        return named_cfg
    if not one.own:
        return cfg
    given = keys_of(overrides)
    require_own(cfg, one, _of_training(given) | ({"name"} if cfg.name != NO_EXPERIMENT else set()))
    own = cfg.copy()
    with open_dict(own):
        for key in LEARNT:
            own[key] = one.cfg[key]
        if cfg.protocol.name != one.cfg.protocol.name:
            own.protocol = _protocol_of_run(cfg, one, given)
        if cfg.name == NO_EXPERIMENT and "data" not in given:
            own.data = _data_of_run(cfg, one.cfg, given)
    return own


def _of_training(given: Iterable[str]) -> set[str]:
    """Those of a command line's keys that a run answers for."""
    keys = {key for key in given if key.partition(".")[0] in (*LEARNT, "protocol") and not _is_measured(key)}
    return {"protocol.name" if key == "protocol" else key for key in keys}


def _is_measured(key: str) -> bool:
    return f"{key}.".startswith(tuple(f"{part}." for part in MEASURED))


def _protocol_of_run(cfg: DictConfig, one: Trained, given: frozenset[str]) -> DictConfig:
    """With the attacks and rules of the run's protocol as the command line, whose keys are ``given``, changes them."""
    protocol, known = one.cfg.protocol.copy(), all_keys(one.cfg)
    for key in sorted(filter(_is_measured, given)):
        if key not in known:
            name = one.cfg.protocol.name
            raise InputError(
                f"{key}: {one.path} was trained with protocol={name}, which has no such setting: say protocol={name} "
                "as well, and --cfg job prints those that it has"
            )
        OmegaConf.update(protocol, key.removeprefix("protocol."), OmegaConf.select(cfg, key), merge=False)
    return protocol


def require_own(cfg: DictConfig, one: Trained, keys: Iterable[str]) -> None:
    """Raises ValueError with both values where a run says another thing of one of the ``keys`` than the command."""
    for key in sorted(keys) if one.own else ():
        ours, theirs = _value(cfg, key), _value(one.cfg, key)
        if ours != theirs:
            what = {"name": "experiment", "protocol.name": "protocol"}.get(key, key)
            raise InputError(
                f"{one.path} was trained with {what}={theirs}, as {one.run}/config.yaml says, and this command says "
                f"{what}={ours}: leave it out, the run's own counts"
            )


def _value(cfg: DictConfig, key: str) -> Any:
    value = OmegaConf.select(cfg, key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def keys_of(overrides: Iterable[str]) -> frozenset[str]:
    """What a command line speaks of: ``data``, ``data.root``, ``protocol.cwa`` (for ``attack@protocol.cwa``)."""
    return frozenset(override.lstrip("+~").partition("=")[0].rpartition("@")[2] for override in overrides)


def data_of(cfg: DictConfig, found: Mapping[str, Trained], given: frozenset[str] = frozenset()) -> DetectionDataModule:
    """The data of this command's experiment; without one, that which the first detector was trained on, but for what
    the command line, whose keys are ``given``, says of them.
    """
    if cfg.name != NO_EXPERIMENT:
        return instantiate(cfg.data)
    return instantiate(_data_of_run(cfg, next(iter(found.values())).cfg, given))


def _data_of_run(cfg: DictConfig, run: DictConfig, given: frozenset[str]) -> DictConfig:
    data = run.data.copy()
    with open_dict(data):
        data.check = False  # that was for the training
        if "paths.data" in given and Path(data.root).is_relative_to(run.paths.data):
            data.root = str(Path(cfg.paths.data) / Path(data.root).relative_to(run.paths.data))
        if "data.root" not in given:
            _draw_nowhere_else(data, cfg)
        for key in sorted(given):
            if key.startswith("data."):
                OmegaConf.update(data, key.removeprefix("data."), OmegaConf.select(cfg, key))
    return data


def _draw_nowhere_else(data: DictConfig, cfg: DictConfig) -> None:
    """A run's data are drawn in this command's own folder of data alone: its config may be a stranger's."""
    root, own = (Path(folder).expanduser().resolve() for folder in (data.root, cfg.paths.data))
    if data.source._target_ == DRAWN and not root.is_relative_to(own):
        with open_dict(data):
            data.source.draw = False


def subject(label: str, one: Trained, data: DetectionDataModule) -> Subject:
    """The detector with its weights, in evaluation mode. Raises ValueError when it is not made for these data."""
    require_size(label, one.cfg.model.input_size, data)
    if one.path is None:
        model = built(one.cfg, len(data.classes))
        require_same_classes(model.classes, data.classes, label, data.name)
        return Subject(label, model)
    checkpoint = load_checkpoint(one.path)
    require_classes(one, checkpoint.classes, data)
    return Subject(label, _built(one, checkpoint, data.classes))


def require_size(label: str, size: int, data: DetectionDataModule) -> None:
    if size != data.image_size:
        raise InputError(f"{label} takes images of {size} pixels, but those of {data.name} come in {data.image_size}")


def without_data(one: Trained, cfg: DictConfig) -> tuple[Any, list[str]]:
    """The detector as above and the names of its classes, which training writes into the checkpoint.

    Where it does not say (an older run's, somebody else's) they are those of the data, which have to be there.
    """
    if one.path is None:
        model = built(one.cfg)
        return model, list(model.classes or data_of(cfg, {one.name: one}).classes)
    checkpoint = load_checkpoint(one.path)
    classes = checkpoint.classes
    if classes is None:
        says = f"{one.path} does not say which classes it knows"
        try:
            classes = data_of(cfg, {one.name: one}).classes
        except (OSError, ValueError) as error:
            raise InputError(f"{says}, and they cannot be read from its data: {error}") from error
        print(f"{says}: they are read from its data")
    return _built(one, checkpoint, classes), classes


def _built(one: Trained, checkpoint: Checkpoint, classes: Sequence[str]) -> Any:
    model: Any = instantiate(without_start(one.cfg.model), num_classes=len(classes))
    require_fit(checkpoint.state_dict, model.state_dict(), f"{one.path} ({checkpoint.description})")
    model.load_state_dict(checkpoint.state_dict)
    return model.eval()


def require_classes(one: Trained, classes: Sequence[str] | None, data: DetectionDataModule) -> None:
    """Raises ValueError with both lists where a run learnt other ``classes`` than the data's, or in another order.

    A run's checkpoint that does not say (None) learnt those of its own data; anybody else's cannot be asked.
    """
    if classes is None and one.own:
        classes = instantiate(one.cfg.data).classes
    require_same_classes(classes, data.classes, str(one.path), data.name)
