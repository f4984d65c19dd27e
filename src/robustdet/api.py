"""What other projects call: load a trained detector, detect, attack, evaluate. `docs/api.md` leads through it.

``overrides`` are those of the commands, such as "experiment=voc_std" or "attack.steps=100"; a wrong one is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from robustdet.analysis.prediction import as_target, in_pixels, look
from robustdet.attacks import DetectorVictim, image_generators
from robustdet.cli.composition import check, composed
from robustdet.cli.evaluate import evaluate as run_evaluation
from robustdet.cli.instantiating import instantiate
from robustdet.cli.subjects import checkpoints, trained, without_data
from robustdet.data.photo import as_input, read_photo
from robustdet.errors import InputError
from robustdet.evaluation.record import Record
from robustdet.interop.as_torchvision import TorchvisionInterface
from robustdet.types import Attack, Detections, Detector, Images, Targets

Picture: TypeAlias = str | Path | UInt8[np.ndarray, "_ _ 3"]
"""A file, or RGB bytes."""
Pictures: TypeAlias = Picture | Sequence[Picture] | Float[Tensor, "B 3 S S"]
"""One, several, or what `attack` gives: floats in [0, 1] in the size of the detector's input."""


@dataclass(frozen=True)
class LoadedDetector:
    """A trained detector in evaluation mode, and the names of its labels 1..C."""

    model: Any  # an nn.Module that is a robustdet.types.Detector
    classes: tuple[str, ...]
    name: str

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
    one = next(iter(checkpoints(cfg).values())) if path is None else trained(Path(path), cfg)
    model, classes = without_data(one, cfg)
    return LoadedDetector(model.to(device), tuple(classes), one.name)


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


def detect(detector: LoadedDetector, images: Pictures, threshold: float = 0.0) -> list[Detections]:
    """What it finds in each image with a score above ``threshold``, best first, on the CPU.

    Boxes are xyxy in pixels of that image, upper edge exclusive, and cut to it; label n is ``classes[n - 1]``.
    """
    side = detector.model.input_size
    found = []
    for image, size in _inputs(detector, images):
        found.append(in_pixels(look(detector.model, image, threshold).found, side, size))
    return found


def attack(
    detector: LoadedDetector,
    images: Pictures,
    name: str | Attack = "pgd_cls",
    *overrides: str,
    targets: Targets | None = None,
    threshold: float = 0.3,
    seed: int = 0,
) -> Float[Tensor, "N 3 S S"]:
    """The images, attacked: [B, 3, S, S] in the size of the detector's input, on its device.

    ``name`` is one of `conf/attack` or an attack of one's own. ``targets`` are what the images show, in pixels of the
    detector's input; without them, each image is attacked at what the detector finds there above ``threshold``, and an
    image where it finds nothing is a ValueError. An image's result depends neither on the others nor on their number.
    """
    chosen: Attack = _attack(name, overrides) if isinstance(name, str) else name
    given = list(_inputs(detector, images))
    if targets is not None and len(targets) != len(given):
        raise InputError(f"got {len(given)} images but {len(targets)} targets")
    attacked = []
    for place, (image, size) in enumerate(given):
        if targets is not None:
            target = targets[place].to(detector.device)
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


def evaluate(path: str | Path | None, *overrides: str) -> list[Record]:
    """Attacks the test split of a checkpoint's data as `src.evaluate` does: files, table and all; returns the records.

    None is for a detector with its own weights, as in `load_detector`; then "data=…" says whose test split.

    ``evaluate("final.ckpt", "suite=strongest", "paths.run=there")``. It sets what a command may set of its process:
    the seed of global random numbers, and warnings that are kept quiet.
    """
    cfg = composed("evaluate", overrides)
    cfg.ckpt_path = None if path is None else str(path)
    check(cfg, "evaluate")
    return run_evaluation(cfg, overrides)


def _attack(name: str, overrides: Sequence[str]) -> Attack:
    return instantiate(composed("predict", [f"attack={name}", *overrides]).attack)


def _inputs(detector: LoadedDetector, images: Pictures) -> Iterable[tuple[Images, tuple[int, int]]]:
    """Every image as a batch of one on the detector's device, and its own (height, width)."""
    side = detector.model.input_size
    if isinstance(images, Tensor):
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
    for picture in [images] if isinstance(images, str | Path | np.ndarray) else images:
        if isinstance(picture, np.ndarray):
            yield as_input(picture, side).to(detector.device), picture.shape[:2]
        else:
            image, size = read_photo(Path(picture), side)
            yield image.to(detector.device), size
