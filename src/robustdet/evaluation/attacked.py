"""One attack of a suite: makes images, refuses those that are not what the attack promised, measures and keeps them."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import Patch
from robustdet.attacks.victim import DetachedError, DetectorVictim
from robustdet.errors import StateError
from robustdet.evaluation.cost import counted_forwards
from robustdet.evaluation.measuring import VERSION, measure, predictions
from robustdet.evaluation.perturbation import TOLERANCE, changed_box
from robustdet.evaluation.precision import whole_factors
from robustdet.evaluation.rounding import detections_8bit
from robustdet.evaluation.sources import digest_of
from robustdet.evaluation.store import Outcome, OutcomeStore, PictureStore
from robustdet.types import Attack, Batch, Detector, Images, Targets, Threat, Victim

NAMED = 5  # images that an error names; of more it says how many


class AttackFailedError(StateError):
    """An attack has no result: it raised an error, or what it made is no image that it may make."""


class AttackedImages:
    """The images of a suite under one attack (None: as they are), each made and measured once.

    ``settings`` is all that decides the outcomes besides the attack's own code, which is ``code`` here. ``fresh``
    throws away what is stored.
    """

    def __init__(
        self,
        name: str,
        attack: Attack | None,
        folder: Path,
        settings: Mapping[str, Any],
        seed: int,
        fresh: bool = False,
    ) -> None:
        self.name = name
        self.attack = attack
        self.seed = seed
        self.code = digest_of(attack, sys.modules[__name__])
        identity = {**settings, "seed": seed, "measures": VERSION, "code": self.code}
        self._store = OutcomeStore(folder, name, identity, fresh)
        self._keeper = lambda: PictureStore(folder, name, identity, fresh)
        self._pictures: PictureStore | None = None

    def evaluate(self, detector: Detector, batch: Batch, contents: Sequence[str]) -> int:
        """Attack and detect what is still missing of this batch; returns how many images that were.

        Raises AttackFailedError, naming the images, where the attack fails on them: none of this call is stored. An
        error on images as they are is the detector's and is raised as it is.
        """
        missing = self.missing(contents)
        if not missing:
            return 0
        part = Batch(batch.images[missing], [batch.targets[index] for index in missing])
        if self.attack is None:
            outcomes, images = self._outcomes(detector, part)
        else:
            try:
                outcomes, images = self._outcomes(detector, part)
            except AttackFailedError:
                raise
            except Exception as error:
                which = _named([target.image_id for target in part.targets])
                raise AttackFailedError(f"{type(error).__name__}: {error} (on {which})") from error
        made = [contents[index] for index in missing]
        if self._pictures is not None:  # first: what has an outcome has its picture
            self._pictures.append(made, in_8_bits(images))
        self._store.append(made, outcomes)
        return len(missing)

    def missing(self, contents: Sequence[str]) -> list[int]:
        """The places of those that are not stored."""
        return [index for index, content in enumerate(contents) if content not in self._store.done]

    def keep_pictures(self) -> None:
        """The images that it makes from now on, beside what was detected in them."""
        self._pictures = self._keeper()

    def pictures(self) -> dict[str, UInt8[Tensor, "3 H W"]]:
        """Those that were kept, in 8 bits by content."""
        return {} if self._pictures is None else self._pictures.read()

    def discard_pictures(self, contents: Set[str]) -> None:
        """Those that were kept, where all are of these images."""
        if self._pictures is not None:
            self._pictures.discard(contents)

    def images(self, detector: Detector, batch: Batch) -> Images:
        """The images of this batch under the attack: the same ones in any batch, at any time.

        As they were where the victim gives the attack no gradient at all; `no_gradient` flags it. Raises
        AttackFailedError where they leave what the attack may make.
        """
        if self.attack is None:
            return batch.images
        ids = [target.image_id for target in batch.targets]
        try:
            with whole_factors():
                images = self.of_victim(DetectorVictim(detector), batch.images, batch.targets)
        except DetachedError:
            if self.attack.knowledge == "nothing":  # of the victim: another detector is to blame
                raise
            return batch.images
        require_admissible(images, batch.images, ids, self.attack.threat)
        return images

    def of_victim(self, victim: Victim, images: Images, targets: Targets) -> Any:
        """What the attack makes of these for a victim: as `images`, but nobody has looked whether they are images."""
        if self.attack is None:
            return images
        ids = [target.image_id for target in targets]
        return self.attack(victim, images, targets, image_generators(self.seed, ids, self.name))

    def read(self, contents: Mapping[str, str]) -> dict[str, Outcome]:
        """What is stored of these images, whose contents are given by their ids; in the order of ids."""
        stored = self._store.read()
        return {image_id: stored[contents[image_id]] for image_id in sorted(contents) if contents[image_id] in stored}

    def recall(self, contents: Sequence[str]) -> list[Outcome]:
        """Of images of these contents, all of which have been evaluated."""
        return self._store.recall(contents)

    def _outcomes(self, detector: Detector, batch: Batch) -> tuple[list[Outcome], Images]:
        start = time.perf_counter()
        with whole_factors():
            # Of the same images in the same batch: float32 convolutions round otherwise in batches of another size
            expected = predictions(detector, batch.images) if declared_epsilon(self.attack) == 0 else None
            with counted_forwards(detector) as forwards:
                images = self.images(detector, batch)
            found, measures = measure(detector, self.attack, batch, images, expected)
            rounded = detections_8bit(detector, images)
        cost = {
            "seconds": (time.perf_counter() - start) / len(batch),
            "forward_passes": forwards.images / len(batch),
        }
        rows = zip(found, measures, rounded, strict=True)
        return [Outcome(detections, numbers | cost, when_rounded) for detections, numbers, when_rounded in rows], images


def in_8_bits(images: Images) -> UInt8[Tensor, "B 3 H W"]:
    """As bytes in main memory."""
    return (images.detach() * 255).round().to("cpu", torch.uint8)


def require_admissible(images: Any, clean: Images, ids: Sequence[str], threat: Threat) -> None:
    """Raises AttackFailedError naming the first image that an attack may not make of its ``clean`` one, and the value.

    The batch must keep its shape and type, every pixel lie in [0, 1] and, where the attack promises a radius ε, no
    further from the clean one than that; where it promises a patch, nothing may differ outside one square of its size.
    """
    if getattr(images, "shape", None) != clean.shape or images.dtype != clean.dtype:
        got = f"{images.dtype} {list(images.shape)}" if hasattr(images, "shape") else f"a {type(images).__name__}"
        raise AttackFailedError(f"of {_named(ids)} it made {got}, expected {clean.dtype} {list(clean.shape)}")
    now, before = images.detach().flatten(1).float(), clean.flatten(1).float()
    edges, boxes = now.aminmax(dim=1), changed_box(clean, images.detach()).float()
    looks = [now.isfinite().all(dim=1), *edges, (now - before).abs().amax(dim=1).mul(255), *boxes.T]
    finite, low, high, change, *sides = torch.stack(looks).tolist()  # the host waits once
    allowed, epsilon = TOLERANCE / 255, threat.epsilon
    side = threat.side(*clean.shape[-2:]) if isinstance(threat, Patch) else max(clean.shape[-2:])
    for index, (image_id, (left, top, right, bottom)) in enumerate(zip(ids, zip(*sides, strict=True), strict=True)):
        size = int(right - left), int(bottom - top)
        if not finite[index]:
            what = "a pixel that is NaN or infinite, expected values in [0, 1]"
        elif low[index] < -allowed or high[index] > 1 + allowed:
            what = f"pixels from {low[index]:.4g} to {high[index]:.4g}, expected values in [0, 1]"
        elif epsilon is not None and change[index] > 255 * epsilon + TOLERANCE:
            what = f"a pixel changed by {change[index]:.4g}/255, expected at most ε = {255 * epsilon:.4g}/255"
        elif max(size) > side:
            what = f"changes in {size[0]} x {size[1]} pixels, expected a patch of {side} x {side} at most"
        else:
            continue
        raise AttackFailedError(f"image {image_id!r} has {what}")


def declared_epsilon(attack: Attack | None) -> float | None:
    """The radius, a fraction of the pixel range, that an attack's threat promises; None when it promises none."""
    return None if attack is None else attack.threat.epsilon


def _named(ids: Sequence[str]) -> str:
    """``images 'a', 'b'``, and how many more."""
    text = ", ".join(repr(image_id) for image_id in ids[:NAMED])
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return f"image{'s' if len(ids) > 1 else ''} {text}{more}"
