"""One pass over a data set for a whole suite of attacks: attack, detect, keep; then one record per attack."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from robustdet.attacks.base import require_attack
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.victim import DetachedError, DetectorVictim
from robustdet.evaluation.comparisons import Entry, suite_flags
from robustdet.evaluation.environment import Environment
from robustdet.evaluation.measuring import VERSION, measure, predictions
from robustdet.evaluation.metric import Metric
from robustdet.evaluation.record import Record, RunInfo
from robustdet.evaluation.store import Outcome, OutcomeStore, TargetStore
from robustdet.evaluation.summary import summarise, worst_fields
from robustdet.evaluation.worst_case import WORST_CASE, WorstCase, inside, shared_radius
from robustdet.types import Attack, Batch, Detections, Detector, Images

CLEAN = "clean"


class SuiteEvaluator:
    """Evaluates each image once under each attack, however often it is interrupted.

    ``attacks`` by name, with "clean" (None) among them: it comes first, and is what the others are compared with.
    ``attack_settings`` holds every field of each attack as plain data; ``settings`` all else that decides the results
    (checkpoint, data, split). Results are kept in ``folder``; images that are already there for these settings are not
    evaluated again, whoever put them there.
    """

    def __init__(
        self,
        attacks: Mapping[str, Attack | None],
        attack_settings: Mapping[str, Any],
        folder: Path | str,
        settings: Mapping[str, Any],
        seed: int = 0,
    ) -> None:
        if CLEAN not in attacks or attacks[CLEAN] is not None:
            raise ValueError(f"a suite needs the entry `{CLEAN}: null` to compare with, got {sorted(attacks)}")
        given = {name: None if attack is None else require_attack(attack) for name, attack in attacks.items()}
        self.attacks = {CLEAN: None, **given}  # clean first
        self.attack_settings = dict(attack_settings)
        self.seed = seed
        self._targets = TargetStore(Path(folder), settings)
        self._outcomes = {
            name: OutcomeStore(
                Path(folder),
                name,
                {**settings, "seed": seed, "attack": self.attack_settings.get(name), "measures": VERSION},
            )
            for name in self.attacks
        }

    def evaluate_batch(self, detector: Detector, batch: Batch) -> int:
        """Attack and detect what is still missing of this batch; returns how many evaluations that were."""
        if detector.training:
            raise RuntimeError("the detector is in training mode: call .eval() before it is evaluated")
        self._targets.append(batch.targets)
        evaluated = 0
        for name, store in self._outcomes.items():
            missing = [index for index, target in enumerate(batch.targets) if target.image_id not in store.done]
            if missing:
                part = Batch(batch.images[missing], [batch.targets[index] for index in missing])
                store.append([target.image_id for target in part.targets], self._outcomes_of(name, detector, part))
                evaluated += len(missing)
        return evaluated

    def attack(self, name: str, detector: Detector, batch: Batch) -> Images:
        """The images of this batch under one attack of the suite: the same ones in any batch, at any time.

        As they were where the victim gives the attack no gradient at all; `no_gradient` flags it.
        """
        attack = self.attacks[name]
        if attack is None:
            return batch.images
        generators = image_generators(self.seed, [target.image_id for target in batch.targets], name)
        try:
            return attack(DetectorVictim(detector), batch.images, batch.targets, generators)
        except DetachedError:
            if attack.knowledge == "nothing":  # of the victim: another detector is to blame
                raise
            return batch.images

    def look(self, detector: Detector, batch: Batch) -> dict[str, tuple[Images, list[Detections]]]:
        """Images and detections of this batch under each attack, to be shown; nothing is stored."""
        views = {}
        for name in self.attacks:
            images = self.attack(name, detector, batch)
            with torch.no_grad():
                views[name] = (images, detector.detect(detector(images)))
        return views

    def records(
        self, metric: Metric, run: RunInfo, environment: Environment, class_names: Sequence[str]
    ) -> list[Record]:
        """One record per attack, in the suite's order; then one of the worst case. All are of the same images.

        These are all images that are stored under every attack: those asked for last, and more where an earlier
        evaluation of the same attacks asked for more.
        The worst case is over clean images and the attacks inside the ball that most attacks of the suite promise;
        there is none when they are fewer than two.
        """
        targets = self._targets.read()
        outcomes = of_shared_images({name: store.read() for name, store in self._outcomes.items()})
        epsilons = {name: declared_epsilon(attack) for name, attack in self.attacks.items()}
        settings = {name: self.attack_settings.get(name) for name in self.attacks}
        knowledge = {name: attack.knowledge for name, attack in self.attacks.items() if attack is not None}
        worst: dict[str, Any] = {}
        radius = shared_radius(epsilons)
        rivals = [] if radius is None else inside(epsilons, radius)
        if len(rivals) > 1:
            choice = WorstCase(metric, {image_id: targets[image_id] for image_id in outcomes[CLEAN]})
            for name in (CLEAN, *rivals):
                choice.add(name, outcomes[name])
            outcomes[WORST_CASE], worst = choice.outcomes, worst_fields(choice)
            epsilons[WORST_CASE], settings[WORST_CASE] = radius, {"attacks": rivals, "epsilon": radius}
        date = datetime.now(UTC).isoformat(timespec="seconds")
        records = [
            Record(
                run=run,
                attack=name,
                attack_settings=settings[name],
                environment=environment,
                date=date,
                **summarise(
                    outcomes[name],
                    None if name == CLEAN else outcomes[CLEAN],
                    targets,
                    metric,
                    class_names,
                    epsilons[name],
                    knowledge.get(name, "gradients"),
                )
                | (worst if name == WORST_CASE else {}),
            )
            for name in outcomes
        ]
        entries = [
            Entry(name, settings[name], knowledge[name], epsilons[name], record.map, outcomes[name], targets)
            for record in records
            if (name := record.attack) in self.attacks and name != CLEAN
        ]
        flags = suite_flags(entries, radius)
        return [replace(record, flags=record.flags + flags.get(record.attack, [])) for record in records]

    def _outcomes_of(self, name: str, detector: Detector, batch: Batch) -> list[Outcome]:
        start = time.perf_counter()
        attack = self.attacks[name]
        # Of the same images in the same batch: float32 convolutions round differently in batches of different sizes
        expected = predictions(detector, batch.images) if declared_epsilon(attack) == 0 else None
        images = self.attack(name, detector, batch)
        found, measures = measure(detector, attack, batch, images, expected)
        seconds = (time.perf_counter() - start) / len(batch)
        return [
            Outcome(detections, {**numbers, "seconds": seconds})
            for detections, numbers in zip(found, measures, strict=True)
        ]


def of_shared_images(outcomes: Mapping[str, Mapping[str, Outcome]]) -> dict[str, dict[str, Outcome]]:
    """The outcomes of those images that every attack has."""
    shared = set.intersection(*(set(of_attack) for of_attack in outcomes.values()))
    return {
        name: {image_id: outcome for image_id, outcome in of_attack.items() if image_id in shared}
        for name, of_attack in outcomes.items()
    }


def declared_epsilon(attack: Attack | None) -> float | None:
    """The radius, a fraction of the pixel range, that an attack's threat promises; None when it promises none."""
    return None if attack is None else attack.threat.epsilon
