"""What a training starts from: trained weights are found before anything else is done, and said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import WeightsEnum

from robustdet.cli.building import BACKBONE, TRUNK
from robustdet.cli.foreign import is_foreign, offered
from robustdet.cli.instantiating import instantiate
from robustdet.defences.aid import RESNET18
from robustdet.detection.pretrained import IMAGENET, cached_file, located
from robustdet.errors import InputError
from robustdet.types import Offer, most

RANDOM = f"""\
WARNING: the backbone starts from random weights (model.weights=null). That costs many points of AP, on clean images and
under attack: the paper's detectors start from ImageNet weights, model.weights={IMAGENET}"""

FROZEN = """\
WARNING: batch norms keep the statistics that they have (model.norms=frozen), and these are those of random weights. A \
network of torchvision's that starts from nothing learns with model.norms=learning, a robust one starts from such a \
run (warm_start.ckpt_path=…)"""


def freezes_random_norms(model: nn.Module, settings: DictConfig) -> bool:
    frozen = settings.get("norms") == "frozen" and settings.get(BACKBONE) is None
    return frozen and any(isinstance(module, _BatchNorm) for module in model.modules())


def own(model: DictConfig, key: str) -> WeightsEnum | None:
    """Torchvision's trained weights for the backbone or the discriminator that these settings describe; None: none."""
    if key == TRUNK:
        return RESNET18
    if model.get("backbone") is None:
        return None
    with torch.device("meta"):  # a network without values: the settings decide which weights are its own
        return instantiate(model.backbone).trained


def require_discriminator(model: DictConfig) -> None:
    """Raises InputError for a discriminator that starts at random and sees the picture itself.

    Its triplet loss was seen to stay at its margin in every trial: π says nothing, and RobustDet is a plain network.
    """
    trunk = OmegaConf.select(model, "aid.trunk")
    if trunk is not None and "weights" in trunk and trunk.weights is None and model.aid.input_filter is None:
        raise InputError(
            "model.aid.trunk.weights=null: a discriminator that starts from random weights and sees unfiltered images "
            f"was measured to learn nothing. Give it {IMAGENET} or a FILE, or high-passed images: "
            "'model.aid.input_filter={_target_: robustdet.defences.aid.HighPass}'"
        )


def require_offer(cfg: DictConfig) -> None:
    """Raises InputError, before anything is done, where a detector that is not ours lacks what a training asks for."""
    if not is_foreign(cfg):
        return
    name = f"model.name={cfg.model.get('name') or cfg.model._target_}"
    if offered(cfg) == "detections":
        require_attackable(name, "detections", None)
    require_attackable(name, offered(cfg), instantiate(cfg.method))


def require_attackable(name: str, offer: Offer, method: Any) -> None:
    """Raises InputError where the detector called ``name`` offers too little for ``method``, saying what would do."""
    if offer == "detections":
        raise InputError(
            f"{name} offers its detections alone, and training needs losses with gradients: model=torchvision, or a "
            "module of your own with `assign` and `losses` (docs/any_detector.md)"
        )
    attack = getattr(getattr(method, "schedule", None), "attack", None)
    if attack is not None and most(attack.needs, offer) != offer:
        objective = getattr(attack.objective, "__name__", type(attack.objective).__name__)
        raise InputError(
            f"{name} offers its losses, image by image, and this method's attack ({type(attack).__name__} on "
            f"{objective}) asks for raw scores of every place. What such a detector can be trained on: mtd (MTD), "
            "pgd_cls or pgd_loc (SSD-AT), any other attack that climbs losses, or method=standard on clean images"
        )


def require_weights(model: DictConfig, superseded: tuple[str, ...]) -> None:
    """Finds, or fetches, each file of trained weights but those that something else brings."""
    if is_foreign(OmegaConf.create({"model": model})):
        return  # whose weights are of the whole detector, found by itself
    for key in (BACKBONE, TRUNK):
        weights = OmegaConf.select(model, key)
        if weights is not None and key not in superseded:
            located(weights, own(model, key), f"model.{key}")


def origin(model: DictConfig, clean: Path | None, state: str | None) -> str:
    """What a run starts from, in words: the state it goes on from, or its clean detector or backbone, and its AID."""
    if state is not None:
        return f"the state in {state}"
    start = _in_words(model, BACKBONE) if clean is None else str(clean)
    return start if model.get("aid") is None else f"{start}; its discriminator from {_in_words(model, TRUNK)}"


def _in_words(model: DictConfig, key: str) -> str:
    weights = OmegaConf.select(model, key)
    if weights is None:
        return "random weights"
    trained = own(model, key)
    return f"ImageNet weights, {cached_file(trained).name}" if weights == IMAGENET and trained else str(weights)
