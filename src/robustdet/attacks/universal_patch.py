"""A universal patch: one for all images, trained on some, kept in a picture file, and pasted into others.

An attack keeps nothing between calls. So the patch is trained before, by `fit_patch`; the attack reads its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from robustdet.attacks.base import BaseAttack
from robustdet.attacks.objectives import prepared
from robustdet.attacks.patch import Ascent, Update, in_8_bits, placed
from robustdet.attacks.placement import Placement
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import Patch, check_images
from robustdet.attacks.transformations import Transformations, pasted
from robustdet.attacks.victim import input_gradient
from robustdet.errors import InputError, MissingFileError
from robustdet.types import Batch, Images, Knowledge, Objective, PreparedObjective, Targets, Victim


class UniversalPatch(BaseAttack):
    """Pastes the patch of ``patch_file``, a square picture, into every image, at a place of ``placement``.

    It is scaled to the size of ``threat``, and changed by a draw of ``transformations`` for each image (null: pasted as
    it is). The victim is not asked: whose patch it is, the file's maker knows.
    """

    knowledge: Knowledge = "nothing"
    threat: Patch

    def __init__(
        self,
        patch_file: str | Path,
        threat: Patch,
        placement: Placement,
        transformations: Transformations | None = None,
    ) -> None:
        self.patch = read_patch(patch_file)
        self.threat = threat
        self.placement = placement
        self.transformations = transformations

    @classmethod
    def of(
        cls,
        patch: Float[Tensor, "3 S S"],
        threat: Patch,
        placement: Placement,
        transformations: Transformations | None = None,
    ) -> UniversalPatch:
        """The same of a patch at hand."""
        made = cls.__new__(cls)
        made.patch, made.threat, made.placement, made.transformations = patch, threat, placement, transformations
        return made

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        side = self.threat.side(*images.shape[-2:])
        corners = self.placement(targets, side, *images.shape[-2:])
        patch = resized(self.patch, side).to(images)
        patches = (patch if self.transformations else in_8_bits(patch)).expand(len(images), -1, -1, -1)
        return pasted(images, patches, corners, self.transformations, generators)


def fit_patch(
    victim: Victim,
    batches: Callable[[], Iterable[Batch]],
    objective: Objective | PreparedObjective,
    threat: Patch,
    placement: Placement,
    epochs: int,
    step_size: float | int,
    update: Update = "adam",
    transformations: Transformations | None = None,
    seed: int = 0,
) -> tuple[Float[Tensor, "3 S S"], list[float]]:
    """One patch for all images of ``batches()``, which is gone through ``epochs`` times in the same order.

    A step goes up the sum of ``objective`` over a batch; other words mean what they mean of `PatchAttack`. Each epoch
    has places of its own, so that the patch rests on none. Returns the patch, in 8 bits, and each epoch's mean
    objective.

    Raises:
        InputError: there is no image.
    """
    ascent: Ascent | None = None
    values: list[float] = []
    patch = torch.zeros(0)
    steps = epochs * sum(1 for _ in batches())
    if not steps:
        raise InputError("a universal patch is trained on images, and there is none")
    for epoch in range(epochs):
        total, count, moved = 0.0, 0, Placement(placement.place, placement.seed + epoch)
        for batch in batches():
            side = threat.side(*batch.images.shape[-2:])
            if ascent is None:
                ascent = Ascent(update, step_size, steps)
                patch = torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed)).to(batch.images)
            corners = moved(batch.targets, side, *batch.images.shape[-2:])
            generators = image_generators(seed, [target.image_id for target in batch.targets], "universal patch", epoch)
            with victim.borrow(batch.targets) as model:
                climbed = prepared(placed(objective, moved, threat), model, batch.images)
                patches = patch.detach().repeat(len(batch), 1, 1, 1).requires_grad_()
                value = climbed(model, pasted(batch.images, patches, corners, transformations, generators))
                gradient = input_gradient(value, patches).sum(dim=0)
            patch = ascent.step(patch, gradient)
            total, count = total + float(value.detach().sum()), count + len(batch)
        values.append(total / count)
    return in_8_bits(patch), values


def read_patch(file: str | Path) -> Float[Tensor, "3 S S"]:
    """The picture, RGB in [0, 1]. Raises InputError, naming the file, where it is none, or not square."""
    path = Path(file)
    if not path.is_file():
        raise MissingFileError(
            f"patch_file={file} does not exist: `python -m src.analyze analysis=universal_patch ckpt_path=…` trains one"
        )
    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise InputError(f"patch_file={file} is no picture that can be read: expected a square one")
    height, width = pixels.shape[:2]
    if height != width:
        raise InputError(f"patch_file={file} is a picture of {width} x {height} pixels: expected a square one")
    return torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)).permute(2, 0, 1).float() / 255


def png_of(patch: Float[Tensor, "3 S S"]) -> bytes:
    """The bytes of a picture file, from which `read_patch` reads the same patch."""
    pixels = (patch.detach().cpu() * 255).round().byte().permute(1, 2, 0).numpy()
    return bytes(cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1])


def resized(patch: Float[Tensor, "3 S S"], side: int) -> Float[Tensor, "3 T T"]:
    """Scaled to ``side`` x ``side`` pixels."""
    if patch.shape[-1] == side:
        return patch
    shown = F.interpolate(patch[None], (side, side), mode="bilinear", antialias=True, align_corners=False)
    return shown[0].clamp(0, 1)
