"""What a training starts from: trained weights are found before anything else is done, and said in one line."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torchvision.models import WeightsEnum

from robustdet.cli.building import BACKBONE, TRUNK
from robustdet.cli.foreign import is_foreign
from robustdet.cli.instantiating import instantiate
from robustdet.defences.aid import RESNET18
from robustdet.detection.pretrained import IMAGENET, cached_file, located
from robustdet.errors import InputError

RANDOM = f"""\
WARNING: the backbone starts from random weights (model.weights=null). That costs many points of AP, on clean images and
under attack: the paper's detectors start from ImageNet weights, model.weights={IMAGENET}"""


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
