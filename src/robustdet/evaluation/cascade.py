"""A suite as a cascade: attacks one after the other, each on those images that still have something to lose.

What AutoAttack (Croce & Hein, ICML 2020) does for classifiers, where an image that is misclassified needs no further
attack. Of a detector's image nothing of its own is left when none of its objects is found: its own AP is 0.

AP ranks the detections of all images together. So an attack that is to know the others' detections
(`robustdet.attacks.among_others`) has a round over the images of its own, when the worst case of those before is known,
and may go on from the images that it has chosen. It has all images: one that has lost its objects can still be given
false alarms that outrank the hits of others.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from math import fsum
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from robustdet.attacks.among_others import AmongOthers, ChosenSoFar, held
from robustdet.evaluation.attacked import in_8_bits
from robustdet.evaluation.average_precision import match_detections, pooled_average_precision
from robustdet.evaluation.checks import attack_flags
from robustdet.evaluation.curves import measured_curves
from robustdet.evaluation.metric import Metric
from robustdet.evaluation.pipeline import CLEAN, About, Seen, SuiteEvaluator
from robustdet.evaluation.record import Stage
from robustdet.evaluation.store import Outcome
from robustdet.evaluation.worst_case import WorstCase
from robustdet.types import Attack, Batch, Images, Targets, Victim

log = logging.getLogger(__name__)
REMADE = (
    "%s: pictures that later attacks go on from are no longer there and are made again, in float32's rounding. The "
    "result may differ a little from that of an evaluation without a stop, and the passes count once more"
)


class Cascade(SuiteEvaluator):
    """A `SuiteEvaluator` whose attacks go on in their order with the images of which an object is still found.

    An image without objects can only be given false alarms: the first attack has it, and those that aim at the data
    set's ranking, as long as the worst case is above 0. The result is the worst case; an attack has no record of its
    own, because its images are a choice of the earlier ones. Of an attack that fails, what it made before counts.
    """

    fewest_rivals = 1

    _left: dict[str, float]  # the lowest own AP so far, by the content of the batch's images
    _earlier: Seen | None = None  # the rounds before this one

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._among: set[str] = set()  # those that aim at the ranking of all images
        self._remade: set[str] = set()  # attacks of which this was told
        self._pictures: dict[tuple[str, str], UInt8[Tensor, "3 H W"]] = {}  # by attack and content
        self._keep_pictures(self.attacks)

    def next_round(self, metric: Metric) -> list[str]:
        """Make the next of the attacks that wait ready. To be called when every process has seen what all have."""
        if not self.waiting:
            for one in self.attacks.values():
                one.discard_pictures(set(self.seen.contents.values()))
            return []
        name = next(iter(self.waiting))
        attack = self.waiting.pop(name)
        outcomes = self._outcomes()
        rivals = self._rivals(outcomes)[1]
        more: dict[str, Any] = {}
        if any(outcomes[rival] for rival in rivals if rival != CLEAN):  # unattacked rankings teach little
            choice = self._worst_case(metric, outcomes, rivals)
            if choice.value > 0:
                self._among.add(name)
            curves = measured_curves(choice.effects)
            more["among"] = curves.digest
            for objective in held(attack, AmongOthers):
                objective.among(curves)
            chosen = {key: (by, self.seen.contents[key]) for key, by in choice.choice.items()}
            if any(held(attack, ChosenSoFar)):
                self._pictures = self._pictures_of(set(chosen.values()))
            for start in held(attack, ChosenSoFar):
                start.images_of = partial(self._images_of, chosen)
                more["chosen"] = hashlib.sha256(json.dumps(choice.choice, sort_keys=True).encode()).hexdigest()
        self.attacks[name] = self._attacked_images(name, attack, **more)
        self._keep_pictures([name])
        self._earlier, self.seen = self.seen, Seen(failed=dict(self.seen.failed))
        return [name]

    def _waits(self, attack: Attack | None) -> bool:
        """Those that are to know the others' detections."""
        return any(held(attack, AmongOthers)) or any(held(attack, ChosenSoFar))

    def _keep_pictures(self, names: Iterable[str]) -> None:
        """Of what these attacks make from now on, as long as a later round may go on from it."""
        if any(held(self.waiting, ChosenSoFar)):
            for name in names:
                if name != CLEAN:
                    self.attacks[name].keep_pictures()

    def _pictures_of(self, chosen: Set[tuple[str, str]]) -> dict[tuple[str, str], UInt8[Tensor, "3 H W"]]:
        """Those that were kept of the ``chosen``, attack and content each."""
        return {
            (name, content): picture
            for name in sorted({name for name, _ in chosen})
            for content, picture in self.attacks[name].pictures().items()
            if (name, content) in chosen
        }

    def _images_of(
        self, chosen: Mapping[str, tuple[str, str]], victim: Victim, images: Images, targets: Targets
    ) -> Images:
        """These images under the attack ``chosen`` for each (its name, and the image's content), in 8 bits.

        Those that were not kept (their outcomes are of an evaluation that had come to its end) are made again, with a
        warning: a batch of another size rounds otherwise, and what is climbed from there can end elsewhere. An image
        of which nothing was chosen (it is shown, and was not measured) stays as it is.
        """
        begun = images.clone()
        places = {place: chosen[one.image_id] for place, one in enumerate(targets) if one.image_id in chosen}
        missing: dict[str, list[int]] = {}
        for place, key in places.items():
            if key not in self._pictures:
                missing.setdefault(key[0], []).append(place)
        for name, again in missing.items():
            if name not in {CLEAN, *self._remade}:
                self._remade.add(name)
                log.warning(REMADE, name)
            made = in_8_bits(self.attacks[name].of_victim(victim, images[again], [targets[place] for place in again]))
            self._pictures |= {places[place]: picture for place, picture in zip(again, made, strict=True)}
        for place, key in places.items():
            begun[place] = self._pictures[key].to(images) / 255
        return begun

    def merge(self, processes: Iterable[Seen]) -> None:
        super().merge(processes)
        if self._earlier is not None:  # a round finds all that those before it made
            for name, stored in self._earlier.stored.items():
                self.seen.stored[name] = stored

    def evaluate_batch(self, detector: Any, batch: Batch) -> int:
        self._left = {}
        return super().evaluate_batch(detector, batch)

    def _asked(self, name: str, batch: Batch, contents: Sequence[str]) -> list[int]:
        if name in self._among:
            return list(range(len(batch)))
        return [place for place, content in enumerate(contents) if self._left.get(content, 1.0) > 0]

    def _attacked(self, name: str, part: Batch, contents: Sequence[str]) -> None:
        for target, content, outcome in zip(part.targets, contents, self.attacks[name].recall(contents), strict=True):
            left = pooled_average_precision(match_detections(outcome.detections, target))
            if name != CLEAN and not len(target.learnable.labels):
                left = 0.0
            self._left[content] = min(left, self._left.get(content, 1.0))

    def _comparable(self, outcomes: Mapping[str, Mapping[str, Outcome]]) -> dict[str, dict[str, Outcome]]:
        return {name: dict(of_attack) for name, of_attack in outcomes.items()}

    def _counted(self) -> list[str]:
        """All: an image that lost its last object before its attack failed on another was not given to a later one."""
        return list(self.attacks)

    def _rows(self, made: Iterable[str]) -> list[str]:
        return [CLEAN]

    def _about_worst_case(self, rivals: Mapping[str, About], radius: float | None) -> About:
        about = super()._about_worst_case(rivals, radius)
        stages = {name: one.settings for name, one in rivals.items()}
        return About(about.settings | {"stages": stages}, about.epsilon, about.knowledge, about.code, about.size)

    def _worst_case_fields(
        self, choice: WorstCase, about: Mapping[str, About], outcomes: Mapping[str, Mapping[str, Outcome]]
    ) -> dict[str, Any]:
        """What each stage did."""
        stages = []
        for name, chosen in choice.chosen.items():
            if name != CLEAN and (of_stage := outcomes[name]):
                passes = fsum(outcome.measures["forward_passes"] for outcome in of_stage.values())
                stages.append(Stage(name, len(of_stage), chosen, passes))
        return {"stages": stages}

    def _worst_case_flags(self, about: Mapping[str, About], outcomes: Mapping[str, Mapping[str, Outcome]]) -> list[str]:
        """Those of each stage, under its name, for it has no record of its own."""
        flags = []
        for name, of_stage in outcomes.items():
            if name in self.attacks and name != CLEAN and of_stage:
                clean = {image_id: outcomes[CLEAN][image_id] for image_id in of_stage}
                one = about[name]
                raised = attack_flags(clean, of_stage, one.epsilon, one.knowledge, one.size)
                flags += [f"{text} ({name})" for text in raised]
        return flags
