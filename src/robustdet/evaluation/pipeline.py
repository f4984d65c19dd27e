"""One pass over a data set for a whole suite of attacks: attack, detect, keep; then one record per attack."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from robustdet.attacks.base import require_attack
from robustdet.evaluation.attacked import AttackedImages, AttackFailedError, declared_epsilon
from robustdet.evaluation.comparisons import Entry, suite_flags
from robustdet.evaluation.content import contents
from robustdet.evaluation.environment import Environment
from robustdet.evaluation.first_look import require_promises
from robustdet.evaluation.measuring import declared_size
from robustdet.evaluation.metric import Metric
from robustdet.evaluation.precision import whole_factors
from robustdet.evaluation.record import Record, RunInfo
from robustdet.evaluation.store import Outcome
from robustdet.evaluation.summary import summarise, worst_fields
from robustdet.evaluation.worst_case import WORST_CASE, WorstCase, inside, shared_radius
from robustdet.types import Attack, Batch, Detections, Detector, Images, Knowledge, Target

CLEAN = "clean"
log = logging.getLogger(__name__)


@dataclass
class Seen:
    """What a process has come across: ``targets`` and ``contents`` by image id; how many images of each attack were
    ``stored`` already; why attacks ``failed``, by their names.
    """

    targets: dict[str, Target] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    stored: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, other: Seen) -> None:
        self.targets |= other.targets
        self.contents |= other.contents
        self.stored.update(other.stored)  # += would forget those of which none was there
        self.failed |= other.failed


class SuiteEvaluator:
    """Evaluates each image once under each attack, however often it is interrupted.

    ``attacks`` by name, with "clean" (None) among them: it comes first, and is what the others are compared with.
    ``attack_settings`` holds every field of each attack as plain data; ``settings`` all else that decides the results
    besides the attacks' code and the images' content (the checkpoint, `robustdet.evaluation.environment.conditions`).
    Results are kept in ``folder``; images that are already there for these settings are not evaluated again, whoever
    put them there, unless everything is to be made ``fresh``. ``left_out`` says which attacks of the suite are not
    among ``attacks``, and why.

    An attack that fails is not asked again and has no record; the others go on. ``waiting`` are those that are for a
    later round (:meth:`next_round`). The work on a batch under one attack goes on inside ``working(name, images)``, of
    every attack that is not waiting, for whoever shows progress; images that are there already are no work.
    """

    working: Callable[[str, int], AbstractContextManager[Any]]
    fewest_rivals = 2  # attacks of which a worst case is more than one column said twice

    def __init__(
        self,
        attacks: Mapping[str, Attack | None],
        attack_settings: Mapping[str, Any],
        folder: Path | str,
        settings: Mapping[str, Any],
        seed: int = 0,
        fresh: bool = False,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        if CLEAN not in attacks or attacks[CLEAN] is not None:
            raise ValueError(f"a suite needs the entry `{CLEAN}: null` to compare with, got {sorted(attacks)}")
        given = {name: None if attack is None else require_attack(attack) for name, attack in attacks.items()}
        given = {CLEAN: None, **given}  # clean first
        self.attack_settings = dict(attack_settings)
        self.left_out = dict(left_out or {})
        self._folder, self._settings, self._seed, self._fresh = Path(folder), dict(settings), seed, fresh
        self.waiting = {name: attack for name, attack in given.items() if self._waits(attack)}
        self.attacks = {
            name: self._attacked_images(name, attack) for name, attack in given.items() if name not in self.waiting
        }
        self.seen = Seen()
        self.recorded: dict[str, Mapping[str, Outcome]] = {}  # what the last records are of, by attack and image id
        self._looked = False  # whether the detector's promises were looked at
        self.working = lambda name, images: nullcontext()

    def evaluate_batch(self, detector: Detector, batch: Batch) -> int:
        """Attack and detect what is still missing of this batch; returns how many evaluations that were."""
        if detector.training:
            raise RuntimeError("the detector is in training mode: call .eval() before it is evaluated")
        if not self._looked:
            with whole_factors():
                require_promises(detector, batch)
            self._looked = True
        found = contents(batch)
        for target, content in zip(batch.targets, found, strict=True):
            self.seen.targets[target.image_id] = target
            self.seen.contents[target.image_id] = content
        evaluated = 0
        for name in self.attacks:
            places = [] if name in self.seen.failed else self._asked(name, batch, found)
            with self.working(name, len(self.attacks[name].missing([found[place] for place in places]))):
                if places:
                    part = Batch(batch.images[places], [batch.targets[place] for place in places])
                    evaluated += self._evaluate(name, detector, part, [found[place] for place in places])
        return evaluated

    def _evaluate(self, name: str, detector: Detector, part: Batch, contents: Sequence[str]) -> int:
        """What is missing of these images under one attack; a failure of its own is noted."""
        try:
            new = self.attacks[name].evaluate(detector, part, contents)
        except AttackFailedError as error:
            self.seen.failed[name] = str(error)
            log.error("%s failed and has no result: %s", name, error)
            return 0
        self.seen.stored[name] += len(part) - new
        self._attacked(name, part, contents)
        return new

    def _asked(self, name: str, batch: Batch, contents: Sequence[str]) -> list[int]:
        """The places in the batch of the images that this attack is for: all."""
        return list(range(len(batch)))

    def _attacked(self, name: str, part: Batch, contents: Sequence[str]) -> None:
        """Called when these images have been measured under the attack of this name."""

    def merge(self, processes: Iterable[Seen]) -> None:
        """Have seen what these processes have, all who wrote into the same folder, this one among them."""
        together = Seen()
        for seen in processes:
            together.add(seen)
        self.seen = together

    def next_round(self, metric: Metric) -> list[str]:
        """Names of attacks that build on what was found, for which all images are to be evaluated once more: none."""
        return []

    def attack(self, name: str, detector: Detector, batch: Batch) -> Images:
        """The images of this batch under one attack of the suite: the same ones in any batch, at any time."""
        return self.attacks[name].images(detector, batch)

    def look(self, detector: Detector, batch: Batch) -> dict[str, tuple[Images, list[Detections]]]:
        """Images and detections of this batch under each attack that did not fail, to be shown; nothing is stored."""
        views = {}
        for name in self.attacks:
            if name not in self.seen.failed:
                with self.working(name, len(batch)):
                    images = self.attack(name, detector, batch)
                    with torch.no_grad():
                        views[name] = (images, detector.detect(detector(images)))
        return views

    def records(
        self, metric: Metric, run: RunInfo, environment: Environment, class_names: Sequence[str]
    ) -> list[Record]:
        """One record per attack that did not fail, in the suite's order; then one of the worst case.

        All are of the same images: those that were seen, as they are now, and are stored under every attack. The worst
        case is over clean images and the attacks inside the ball that most attacks of the suite promise, or where none
        promises a ball the patches of the size that most have; there is none when they are fewer than two.
        """
        outcomes = self._outcomes()
        about = {name: About.attack(self.attack_settings.get(name), self.attacks[name]) for name in outcomes}
        rows: dict[str, dict[str, Any]] = {name: {} for name in self._rows(outcomes)}
        radius, rivals = self._rivals(outcomes)
        if len(rivals) >= self.fewest_rivals:
            choice = self._worst_case(metric, outcomes, rivals)
            about[WORST_CASE] = self._about_worst_case({name: about[name] for name in rivals}, radius)
            rows[WORST_CASE] = {
                **worst_fields(choice),
                "failed": self.seen.failed,
                "left_out": self.left_out,
                **self._worst_case_fields(choice, about, outcomes),
            }
            outcomes[WORST_CASE] = choice.outcomes
        elif self.left_out:  # a suite says somewhere what is missing
            rows[CLEAN]["left_out"] = self.left_out
        self.recorded = {name: outcomes[name] for name in rows}
        date = datetime.now(UTC).isoformat(timespec="seconds")
        records = [
            Record(
                run=run,
                attack=name,
                attack_settings=about[name].settings,
                environment=environment,
                code=about[name].code,
                date=date,
                **summarise(
                    outcomes[name],
                    None if name == CLEAN else outcomes[CLEAN],
                    self.seen.targets,
                    metric,
                    class_names,
                    about[name].epsilon,
                    about[name].knowledge,
                    about[name].size,
                )
                | fields,
            )
            for name, fields in rows.items()
        ]
        entries = [
            Entry(
                name,
                fields.settings,
                fields.knowledge,
                fields.epsilon,
                one.map,
                outcomes[name],
                self.seen.targets,
                fields.size,
            )
            for one in records
            if (name := one.attack) in self.attacks and name != CLEAN and (fields := about[name])
        ]
        flags = suite_flags(entries, radius)
        flags[WORST_CASE] = self._worst_case_flags(about, outcomes)
        return [replace(one, flags=one.flags + flags.get(one.attack, [])) for one in records]

    def _waits(self, attack: Attack | None) -> bool:
        """Whether this attack is for a later round: no."""
        return False

    def _attacked_images(self, name: str, attack: Attack | None, **more: Any) -> AttackedImages:
        """``more`` is what decides the outcomes besides all that was set."""
        settings = {**self._settings, "attack": self.attack_settings.get(name), **more}
        return AttackedImages(name, attack, self._folder, settings, self._seed, self._fresh)

    def _outcomes(self) -> dict[str, dict[str, Outcome]]:
        """What is stored of the images that were seen, by the attacks that count."""
        return self._comparable({name: self.attacks[name].read(self.seen.contents) for name in self._counted()})

    def _counted(self) -> list[str]:
        """The attacks whose outcomes count: those that did not fail."""
        return [name for name in self.attacks if name not in self.seen.failed]

    def _rivals(self, made: Iterable[str]) -> tuple[float | None, list[str]]:
        """The radius that the suite is about, None where it is patches, and which of these attacks keep to it."""
        epsilons = {name: declared_epsilon(one.attack) for name, one in self.attacks.items()}
        sizes = {name: declared_size(one.attack) for name, one in self.attacks.items()}
        radius, size = shared_radius(epsilons), shared_radius(sizes)
        if radius is None:
            return None, [] if size is None else inside({name: sizes[name] for name in made}, size)
        return radius, inside({name: epsilons[name] for name in made}, radius)

    def _worst_case(
        self, metric: Metric, outcomes: Mapping[str, Mapping[str, Outcome]], rivals: Iterable[str]
    ) -> WorstCase:
        choice = WorstCase(metric, {image_id: self.seen.targets[image_id] for image_id in outcomes[CLEAN]})
        for name in (CLEAN, *rivals):
            choice.add(name, outcomes[name])
        return choice

    def _comparable(self, outcomes: Mapping[str, Mapping[str, Outcome]]) -> dict[str, dict[str, Outcome]]:
        """The outcomes of those images that every attack has."""
        shared = set.intersection(*(set(of_attack) for of_attack in outcomes.values()))
        return {
            name: {image_id: outcome for image_id, outcome in of_attack.items() if image_id in shared}
            for name, of_attack in outcomes.items()
        }

    def _rows(self, made: Iterable[str]) -> list[str]:
        """Which of these attacks have a record of their own: all."""
        return list(made)

    def _about_worst_case(self, rivals: Mapping[str, About], radius: float | None) -> About:
        code = hashlib.sha256("".join(one.code for one in rivals.values()).encode()).hexdigest()
        size = None if radius is not None else max((one.size for one in rivals.values() if one.size), default=None)
        settings = {"attacks": list(rivals), "epsilon": radius} | ({} if size is None else {"size": size})
        return About(settings, radius, "nothing", code, size)  # it is chosen, and climbs no loss itself

    def _worst_case_fields(
        self, choice: WorstCase, about: Mapping[str, About], outcomes: Mapping[str, Mapping[str, Outcome]]
    ) -> dict[str, Any]:
        """What else the record of the worst case says: nothing."""
        return {}

    def _worst_case_flags(self, about: Mapping[str, About], outcomes: Mapping[str, Mapping[str, Outcome]]) -> list[str]:
        """Flags of the worst case besides its own: none, each attack's stand with that attack."""
        return []


@dataclass(frozen=True)
class About:
    """What a record says of an attack: its settings as plain data, its promise (the radius of a ball, the size of a
    patch), what it learns, its code's digest.
    """

    settings: Any
    epsilon: float | None
    knowledge: Knowledge
    code: str
    size: float | None = None

    @classmethod
    def attack(cls, settings: Any, one: AttackedImages) -> About:
        knowledge: Knowledge = "nothing" if one.attack is None else one.attack.knowledge
        return cls(settings, declared_epsilon(one.attack), knowledge, one.code, declared_size(one.attack))
