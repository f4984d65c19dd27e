"""What other projects call: load a detector, detect, attack, evaluate, train, report. `docs/api.md` leads through it.

Wherever a ``detector`` is asked for, a module that is a `robustdet.types.Detector` will do, such as those of
`robustdet.interop`. ``overrides`` are those of the commands, such as "experiment=voc_std" or "attack.steps=100"; a
wrong one is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from omegaconf import open_dict
from torch import Tensor

from robustdet.analysis.prediction import as_target, in_pixels, look
from robustdet.analysis.report.findings import find, of_records
from robustdet.attacks import DetectorVictim, image_generators
from robustdet.cli.composition import check, composed
from robustdet.cli.evaluate import evaluate as run_evaluation
from robustdet.cli.named_attack import named_attack
from robustdet.cli.objects import evaluate_objects
from robustdet.cli.report import written
from robustdet.cli.subjects import Trained, checkpoints, keys_of, require_size, without_data
from robustdet.cli.train_objects import train_objects
from robustdet.data.datamodule import DetectionDataModule
from robustdet.data.photo import as_input, read_photo
from robustdet.errors import InputError, KindError
from robustdet.evaluation.record import Record
from robustdet.interop.as_torchvision import TorchvisionInterface
from robustdet.interop.classes import require_same_classes
from robustdet.interop.torch_dataset import TorchData
from robustdet.interop.torch_training import TorchTraining
from robustdet.lightning import AdversarialTraining as AdversarialTraining  # public here
from robustdet.types import Attack, Detections, Detector, Images, Targets, TrainingMethod

Picture: TypeAlias = str | Path | UInt8[np.ndarray, "_ _ 3"]
"""A file, or RGB bytes."""
Pictures: TypeAlias = Picture | Sequence[Picture] | Float[Tensor, "B 3 S S"]
"""One, several, or what `attack` gives: floats in [0, 1] in the size of the detector's input."""


@dataclass(frozen=True)
class LoadedDetector:
    """A trained detector in evaluation mode, and the names of its labels 1..C (none where nobody says them).

    ``origin`` is the checkpoint that it comes from, for records.
    """

    model: Any  # an nn.Module that is a robustdet.types.Detector
    classes: tuple[str, ...]
    name: str
    origin: Trained | None = None

    @property
    def device(self) -> torch.device:
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))


def load_detector(path: str | Path | None, *overrides: str, device: str | torch.device = "cpu") -> LoadedDetector:
    """The detector of a checkpoint. Neither its data set nor anything else than its run's folder has to be there.

    A checkpoint that is not a run's own needs "experiment=…", which says what it is, and the data set, which says what
    its labels mean. None is for a detector that comes with its own weights ("model=torchvision", "model.name=…").
    Raises FileNotFoundError or ValueError, which name the file and what is wrong with it.
    """
    cfg = composed("predict", overrides)
    if path is not None:
        with open_dict(cfg):
            cfg.ckpt_path = str(path)
    (one,) = checkpoints(cfg, keys_of(overrides)).values()
    model, classes = without_data(one, cfg)
    return LoadedDetector(model.to(device), tuple(classes), one.name, one)


def as_torchvision(detector: LoadedDetector | Detector | str | Path | None, *overrides: str) -> TorchvisionInterface:
    """The detector with torchvision's interface: a list of images [3, H, W] of any sizes, RGB in [0, 1].

    In evaluation mode it gives a list of ``{boxes, labels, scores}`` in each image's own pixels; in training mode, with
    such targets, a dict of losses. ``detector`` is one, or what `load_detector` takes, with its ``overrides``. See
    `robustdet.interop.as_torchvision` for shapes, units and errors.
    """
    if isinstance(detector, str | Path | None):
        detector = load_detector(detector, *overrides)
    elif overrides:
        raise InputError(f"{', '.join(overrides)}: overrides are for a checkpoint that is yet to be read")
    return TorchvisionInterface(detector.model if isinstance(detector, LoadedDetector) else detector)


def detect(
    detector: LoadedDetector | torch.nn.Module, images: Pictures, threshold: float | int = 0.0
) -> list[Detections]:
    """What it finds in each image with a score above ``threshold``, best first, on the CPU.

    Boxes are xyxy in pixels of that image, upper edge exclusive, and cut to it; label n is ``classes[n - 1]``.
    """
    detector = _loaded(detector)
    side = detector.model.input_size
    found = []
    for image, size in _inputs(detector, images):
        found.append(in_pixels(look(detector.model, image, threshold).found, side, size))
    return found


def attack(
    detector: LoadedDetector | torch.nn.Module,
    images: Pictures,
    name: str | Attack = "pgd_cls",
    *overrides: str,
    targets: Targets | None = None,
    epsilon: float | int | str | None = None,
    threshold: float | int = 0.3,
    seed: int = 0,
) -> Float[Tensor, "N 3 S S"]:
    """The images, attacked: [B, 3, S, S] in the size of the detector's input, on its device.

    ``name`` is one of `conf/attack` or an attack of one's own. ``targets`` are what the images show, in pixels of the
    detector's input; without them, each image is attacked at what the detector finds there above ``threshold``, and an
    image where it finds nothing is a ValueError. ``epsilon`` is the radius of the L∞ ball of an attack by its name, a
    fraction of the pixel range such as "4/255", with steps in proportion; None is as its yaml says. An image's result
    depends neither on the others nor on their number.
    """
    detector = _loaded(detector)
    if epsilon is not None and not isinstance(name, str):
        raise InputError(f"epsilon={epsilon} is of an attack by its name: {type(name).__name__} has its own already")
    chosen: Attack = named_attack(name, overrides, epsilon) if isinstance(name, str) else name
    given = list(_inputs(detector, images))
    if not given:
        raise InputError("there are no images to attack")
    if targets is not None and len(targets) != len(given):
        raise InputError(f"got {len(given)} images but {len(targets)} targets")
    attacked = []
    for place, (image, size) in enumerate(given):
        if targets is not None:
            target = targets[place]
        else:
            found = look(detector.model, image, threshold).found
            if not len(found.labels):
                raise InputError(
                    f"nothing to attack in image {place}: no detection has a score above {threshold:g}; lower it, or "
                    "give the targets"
                )
            target = as_target(found, size)
        generators = image_generators(seed, [target.image_id], name if isinstance(name, str) else type(name).__name__)
        attacked.append(chosen(DetectorVictim(detector.model), image, [target], generators))
    return torch.cat(attacked)


def evaluate(
    detector: LoadedDetector | torch.nn.Module | str | Path | None,
    data: Any = None,
    *overrides: str,
    suite: str = "paper",
    batch_size: int = 8,
) -> list[Record]:
    """One record (`robustdet.evaluation.record.Record`: AP in [0, 1], flags, settings) of each attack of ``suite``.

    ``data`` is a map-style torch data set of ``(image, {boxes, labels})``, as described by
    `robustdet.interop.torch_dataset.TorchData`, of which ``batch_size`` images are attacked together; a data module of
    ours, whose test split counts; or overrides of `src.evaluate`, which name the data (``"data=coco", "data.root=…"``)
    or leave a checkpoint those of its run. ``detector`` is one, or a checkpoint's file; None is for one that overrides
    name ("model=torchvision").

    ``evaluate("final.ckpt", "suite.max_images=100", suite="strongest")``. Records, a table and pictures are written as
    `src.evaluate` does, objects' to `outputs/<detector>/<data>`, or to ``"paths.run=there"``; what was measured there
    already of these weights, images and attacks is not measured again. It sets what a command may set of its process:
    the seed of global random numbers, and warnings that are kept quiet. Raises ValueError naming an item, its key and
    what was expected, and the detector's promise that is not kept.
    """
    if isinstance(data, str):
        data, overrides = None, (data, *overrides)
    if suite != "paper":  # which is the default; a suite that is said stands beside no attack=…
        overrides = (f"suite={suite}", *overrides)
    if data is None:
        if not isinstance(detector, str | Path | None):
            raise InputError("data is missing: a torch data set of (image, {boxes, labels}), or a data module")
        cfg = composed("evaluate", overrides)
        cfg.ckpt_path = None if detector is None else str(detector)
        check(cfg, "evaluate")
        return run_evaluation(cfg, overrides)
    one = load_detector(detector) if isinstance(detector, str | Path) else _loaded(detector)
    return evaluate_objects(one.name, one.model, _data(data, one, batch_size), one.origin, overrides)


def train(
    detector: LoadedDetector | Detector,
    data: Any,
    *overrides: str,
    method: str | TrainingMethod = "mtd",
    updates: int = 1000,
    batch_size: int = 8,
    epsilon: float | int | str | None = None,
    validation: Any = None,
    seed: int = 0,
) -> LoadedDetector:
    """Trains the detector itself, and gives it back in evaluation mode, on the device that it was on.

    ``detector`` offers losses (`robustdet.types.HasLosses`), as
    `robustdet.interop.torchvision_api.TorchvisionDetector(network, num_classes, input_size)` does. ``data`` is a
    map-style torch data set of ``(image, {boxes, labels})`` (`robustdet.interop.torch_dataset.TorchData`), augmented as
    it likes, or a data module of ours. ``validation`` is another such data set, watched while training; None: none is.

    ``method`` is "standard" (clean images), the attack of adversarial training, one of `conf/attack` ("mtd": MTD,
    "pgd_cls" or "pgd_loc": SSD-AT, "cwa": CWAT, for detectors with raw scores), or an object. ``epsilon`` is the size
    of its ball, such as "4/255", steps in proportion; None: 8/255. Each of ``updates`` weight updates sees
    ``batch_size`` clean images and as many attacked ones. What else there is to set is set as for `src.train`:
    "optimizer.lr=1e-4", "schedule=full", "trainer.precision=bf16-mixed", "paths.run=there". States and curves are
    written there, by default to `outputs/<detector>/<time>`.

    Raises ValueError naming an item of the data, or what the detector lacks for the method and what it can be trained
    on.
    """
    one = _loaded(detector)
    before = one.device
    model = one.model
    sizes = (model.num_classes, model.input_size, batch_size, seed)
    module = data if isinstance(data, DetectionDataModule) else TorchTraining(data, validation, one.classes, *sizes)
    unwatched = validation is None and not isinstance(data, DetectionDataModule)
    looks = ["trainer.limit_val_batches=0"] if unwatched else []
    given = [f"trainer.max_steps={updates}", f"seed={seed}", *looks, *overrides]
    train_objects(one.name, model, module, method, epsilon, given)
    return LoadedDetector(model.to(before).eval(), tuple(module.classes), one.name)


def report(
    records: Iterable[Record] | Iterable[str | Path] | str | Path,
    output: str | Path = "outputs/report",
    title: str = "robustdet",
) -> Path:
    """Writes `report.html`, a page without anything outside it, and `tables/` to ``output``; returns the page.

    ``records`` are what `evaluate` gave, of one detector or several, or folders with records anywhere below them, whose
    pictures are then in the page too. Raises FileNotFoundError where there are none, or no such folder.
    """
    given = [records] if isinstance(records, str | Path) else list(records)
    ours = [one for one in given if isinstance(one, Record)]
    folders = [one for one in given if isinstance(one, str | Path)]
    if len(ours) + len(folders) < len(given) or (ours and folders) or not given:
        kinds = ", ".join(dict.fromkeys(type(one).__name__ for one in given)) or "nothing"
        raise KindError(f"report: expected records, or folders that hold some, got {kinds}")
    return written(of_records(ours) if ours else find(folders), Path(output), title)


def _loaded(detector: Any) -> LoadedDetector:
    """Itself, or a module that detects, put in evaluation mode."""
    if isinstance(detector, LoadedDetector):
        return detector
    if not isinstance(detector, torch.nn.Module) or not isinstance(detector, Detector):
        raise KindError(
            f"expected a detector, got {type(detector).__name__}: robustdet.load_detector(…), a module that is a "
            "robustdet.types.Detector, or what robustdet.interop puts around one, such as "
            "torchvision_api.TorchvisionDetector(network, num_classes, input_size)"
        )
    name = getattr(detector, "name", None) or type(detector).__name__
    return LoadedDetector(detector.eval(), tuple(getattr(detector, "classes", None) or ()), name)


def _data(given: Any, detector: LoadedDetector, batch_size: int) -> Any:
    if isinstance(given, DetectionDataModule):
        require_size(detector.name, detector.model.input_size, given)
        require_same_classes(detector.classes or None, given.classes, detector.name, given.name)
        return given
    model = detector.model
    return TorchData(given, detector.classes or None, model.num_classes, model.input_size, batch_size)


def _inputs(detector: LoadedDetector, images: Pictures) -> Iterator[tuple[Images, tuple[int, int]]]:
    """Every image as a batch of one on the detector's device, and its own (height, width)."""
    side = detector.model.input_size
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise InputError(
                f"expected floats [B, 3, {side}, {side}], got {images.dtype} {list(images.shape)}: give files or bytes "
                "[H, W, 3], which are resized"
            )
        if images.shape[2:] != (side, side):
            raise InputError(
                f"{detector.name} takes images of {side} x {side} pixels, and these have {tuple(images.shape[2:])}: "
                "give files or bytes, which are resized"
            )
        if not bool(((images >= 0) & (images <= 1)).all()):
            raise InputError("expected images with values in [0, 1]")
        for image in images:
            yield image[None].to(detector.device), (side, side)
        return
    several = isinstance(images, Iterable) and not isinstance(images, str | Path | np.ndarray)
    pictures: Any = images if several else [images]
    for place, picture in enumerate(pictures):
        require_picture(picture, place)
        if isinstance(picture, np.ndarray):
            yield as_input(picture, side).to(detector.device), picture.shape[:2]
        else:
            image, size = read_photo(Path(picture), side)
            yield image.to(detector.device), size


def require_picture(given: Any, place: int) -> None:
    """Raises InputError where image ``place`` is no `Picture`; floats in [0, 1], taken for bytes, would be black."""
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3:
            raise InputError(f"image {place} is {given.dtype} {list(given.shape)}, expected RGB bytes, uint8 [H, W, 3]")
    elif not isinstance(given, str | Path):
        raise InputError(
            f"image {place} is a {type(given).__name__}, expected a file or RGB bytes [H, W, 3], such as "
            "numpy.asarray(picture.convert('RGB')); or all images in one tensor of floats [B, 3, S, S]"
        )
