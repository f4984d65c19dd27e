"""A suite as a cascade: attacks one after the other, each on those images that still have something to lose.

What AutoAttack (Croce & Hein, ICML 2020) does for classifiers, where an image that is misclassified needs no further
attack. Of a detector's image nothing is left when none of its objects is found: its own AP is 0.

AP ranks the detections of all images together. So an attack that is to know the others' detections
(`robustdet.attacks.among_others`) has a round over the images of its own, when the worst case of those before is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from typing import Any

from robustdet.attacks.among_others import among_others
from robustdet.evaluation.average_precision import match_detections, pooled_average_precision
from robustdet.evaluation.checks import attack_flags
from robustdet.evaluation.curves import measured_curves
from robustdet.evaluation.metric import Metric
from robustdet.evaluation.pipeline import CLEAN, About, Seen, SuiteEvaluator
from robustdet.evaluation.record import Stage
from robustdet.evaluation.store import Outcome
from robustdet.evaluation.worst_case import WorstCase
from robustdet.types import Attack, Batch


class Cascade(SuiteEvaluator):
    """A `SuiteEvaluator` whose attacks go on in their order with the images of which an object is still found.

    An image without objects can only be given false alarms: the first attack has it, no later one. The result is the
    worst case; an attack has no record of its own, because its images are a choice of the earlier ones. Of an attack
    that fails, what it made before counts.
    """

    fewest_rivals = 1

    _left: dict[str, float]  # the lowest own AP so far, by the content of the batch's images
    _earlier: Seen | None = None  # the rounds before this one

    def next_round(self, metric: Metric) -> list[str]:
        """Make the next of the attacks that wait ready. To be called when every process has seen what all have."""
        if not self.waiting:
            return []
        name = next(iter(self.waiting))
        attack = self.waiting.pop(name)
        outcomes = self._outcomes()
        rivals = self._rivals(outcomes)[1]
        more: dict[str, Any] = {}
        if any(outcomes[rival] for rival in rivals if rival != CLEAN):  # unattacked rankings teach little
            curves = measured_curves(self._worst_case(metric, outcomes, rivals).effects)
            more["among"] = curves.digest
            for objective in among_others(attack):
                objective.among(curves)
        self.attacks[name] = self._attacked_images(name, attack, **more)
        self._earlier, self.seen = self.seen, Seen(failed=dict(self.seen.failed))
        return [name]

    def _waits(self, attack: Attack | None) -> bool:
        """Those that are to know the others' detections."""
        return any(among_others(attack))

    def merge(self, processes: Iterable[Seen]) -> None:
        super().merge(processes)
        if self._earlier is not None:  # a round finds all that those before it made
            for name, stored in self._earlier.stored.items():
                self.seen.stored[name] = stored

    def evaluate_batch(self, detector: Any, batch: Batch) -> int:
        self._left = {}
        return super().evaluate_batch(detector, batch)

    def _asked(self, batch: Batch, contents: Sequence[str]) -> list[int]:
        return [place for place, content in enumerate(contents) if self._left.get(content, 1.0) > 0]

    def _attacked(self, name: str, part: Batch, contents: Sequence[str]) -> None:
        for target, content, outcome in zip(part.targets, contents, self.attacks[name].recall(contents), strict=True):
            left = pooled_average_precision(match_detections(outcome.detections, target.to("cpu")))
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
        return About(about.settings | {"stages": stages}, about.epsilon, about.knowledge, about.code)

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
                raised = attack_flags(clean, of_stage, about[name].epsilon, about[name].knowledge)
                flags += [f"{text} ({name})" for text in raised]
        return flags
