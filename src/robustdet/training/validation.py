"""What is watched while training: AP on clean images and under one short attack, on a part of the validation split."""

from __future__ import annotations

from typing import Any

import torch

from robustdet.attacks.randomness import image_generators
from robustdet.attacks.victim import DetectorVictim
from robustdet.defences.routed import Routed
from robustdet.errors import InputError
from robustdet.evaluation.average_precision import AveragePrecision, voc_average_precision
from robustdet.ranks import gathered_objects, share
from robustdet.types import Attack, Batch, Detections, Detector, Target, in_main_memory

Found = dict[str, Detections]  # by image id
MIX = "val/AP50_mix"  # as the training module logs it


class Validation:
    """Collects detections of the first ``max_images`` images, clean and attacked, and turns them into AP50.

    ``attack=None`` watches clean images alone. ``clean_share``, in [0, 1], is what the clean AP counts in the mix
    of both, by which a run's best state is chosen. The attack of an image depends on ``seed`` and the image's id only.
    Several processes see a share of the images each; ``compute`` brings all of them together by image id, so that what
    a sampler repeats to make the shares equal counts once.

    For callbacks that show them: ``scores`` and ``routing`` (π of clean and attacked images, [N, K], where the detector
    is routed) as of the last ``compute``; ``shown``, the first ``keep_shown`` images of this process, clean and
    attacked.
    """

    def __init__(
        self, attack: Attack | None, max_images: int | None, num_classes: int, seed: int, clean_share: float | int = 0.5
    ) -> None:
        self.attack, self.max_images, self.num_classes, self.seed = attack, max_images, num_classes, seed
        self.clean_share = 1.0 if attack is None else clean_share
        self.looked_at = 0  # images, in all processes, as of the last `compute`
        self.keep_shown = 0
        self.scores: dict[str, AveragePrecision] = {}
        self.routing: dict[str, torch.Tensor] = {}
        self.reset()

    @property
    def mix(self) -> str:
        """What ``AP50_mix`` is, in words."""
        shares = {"clean": self.clean_share, "attacked": 1 - self.clean_share}
        return " + ".join(f"{share:g} {kind}" for kind, share in shares.items() if share) + " AP50"

    def reset(self) -> None:
        self.targets: dict[str, Target] = {}
        self.clean: Found = {}
        self.attacked: Found = {}
        self._routing: dict[str, dict[str, torch.Tensor]] = {"clean": {}, "attacked": {}}
        self.shown: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # by image id: [3, H, W] clean, attacked

    def update(self, model: Detector, batch: Batch) -> None:
        if self.max_images is not None:
            room = share(self.max_images) - len(self.targets)
            if room <= 0:
                return
            batch = Batch(batch.images[:room], batch.targets[:room])
        ids = [target.image_id for target in batch.targets]
        self.targets.update(zip(ids, batch.targets, strict=True))
        self.clean.update(self._detect(model, batch.images, ids, "clean"))
        images = batch.images
        if self.attack is not None:
            generators = image_generators(self.seed, ids)
            images = self.attack(DetectorVictim(model), batch.images, batch.targets, generators)
            self.attacked.update(self._detect(model, images, ids, "attacked"))
        wanted = max(0, self.keep_shown - len(self.shown))
        for image_id, clean, attacked in zip(ids[:wanted], batch.images, images, strict=False):
            self.shown[image_id] = (clean.cpu(), attacked.cpu())

    @torch.no_grad()
    def _detect(self, model: Detector, images: torch.Tensor, ids: list[str], kind: str) -> Found:
        raw = model(images)
        if isinstance(raw, Routed):
            self._routing[kind].update(zip(ids, raw.routing.cpu(), strict=True))
        return dict(zip(ids, in_main_memory(model.detect(raw)), strict=True))

    def compute(self) -> dict[str, float]:
        """``AP50_clean``, with an attack ``AP50_attacked``, and ``AP50_mix``; nothing of no image.

        VOC's area rule, in [0, 1]; the mix is ``clean_share`` · clean + (1 - ``clean_share``) · attacked.

        The same in every process; all of them must call it, one that has seen no image as well.
        """
        targets, clean, attacked = (_merged(mine) for mine in (self.targets, self.clean, self.attacked))
        routing = {name: _merged(mine) for name, mine in self._routing.items()}
        self.routing = {name: torch.stack(list(rows.values())) for name, rows in routing.items() if rows}
        if targets and not any(len(target.learnable.labels) for target in targets.values()):
            raise InputError(
                f"validation: none of the {len(targets)} images has an object to find, so there is no average "
                "precision to watch: give others, or watch none (trainer.limit_val_batches=0)"
            )
        found = {"AP50_clean": clean} | ({"AP50_attacked": attacked} if self.attack is not None else {})
        self.scores = {
            name: voc_average_precision(detections, targets, self.num_classes, rule="area")
            for name, detections in found.items()
            if targets
        }
        self.looked_at = len(targets)
        means = {name: score.mean for name, score in self.scores.items()}
        if not means:
            return {}
        clean_mean = means["AP50_clean"]
        attacked_mean = means.get("AP50_attacked", clean_mean)
        return {**means, "AP50_mix": self.clean_share * clean_mean + (1 - self.clean_share) * attacked_mean}


def _merged(mine: dict[str, Any]) -> dict[str, Any]:
    return {key: value for part in gathered_objects(mine) for key, value in part.items()}
