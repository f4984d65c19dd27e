"""The worst case over a suite: one outcome an image, chosen so that the data set's own metric is as low as can be.

AP ranks the detections of all images together, so what hurts one image most need not hurt the data set most. What is
found here is *achieved*: these images, each attacked by one of these attacks, leave this number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import mode

import numpy as np
from jaxtyping import Float, Int

from robustdet.evaluation.average_precision import (
    Matched,
    Ranking,
    average_precision,
    match_detections,
    merged,
    pooled_average_precision,
    rank,
)
from robustdet.evaluation.metric import Metric
from robustdet.evaluation.store import Outcome
from robustdet.types import Target

WORST_CASE = "worst_case"
MOVES, TIMES = 200, 3  # of `WorstCase._one_by_one`: a few hundred rankings, seconds for thousands of images
COSTS = ("seconds", "forward_passes")
NOTHING = Matched(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, np.int64))


def shared_radius(epsilons: Mapping[str, float | None]) -> float | None:
    """The ε that most attacks promise, the threat that a suite is about; None when none promises any."""
    promised = [epsilon for epsilon in epsilons.values() if epsilon is not None]
    return mode(promised) if promised else None


def inside(epsilons: Mapping[str, float | None], radius: float) -> list[str]:
    """The attacks that promise to stay within ``radius``."""
    return [name for name, epsilon in epsilons.items() if epsilon is not None and epsilon <= radius]


class WorstCase:
    """The lowest mAP found by choosing one outcome per image; attacks are added one after the other.

    The first must have every image of ``targets`` (the clean ones do); of a later one, an image that it lacks keeps
    its choice. With each attack several choices are tried: this attack for the images whose own AP (classes pooled) it
    lowers; for each image the attack that leaves it the lowest own AP, of all that were added; from there and from the
    choice so far, two or three times in turn, for each image the attack whose first-order effect on mAP is lowest
    (:class:`FirstOrder`); this attack for all images. The lowest of them by area AP, with such moves made one by one,
    and the last, are taken where their headline of ``metric`` is below ``value``. So adding an attack never raises
    ``value``, and ``value`` is never above that of an attack which has all images. It depends a little on the order of
    the attacks; ``image_ap`` and :attr:`area_bound` do not.
    """

    def __init__(self, metric: Metric, targets: Mapping[str, Target]) -> None:
        self.metric = metric
        self.targets = {image_id: targets[image_id] for image_id in sorted(targets)}
        self.value = math.inf
        self.image_ap = dict.fromkeys(self.targets, 1.0)  # the lowest own AP that any attack left
        self._objects = np.concatenate([target.learnable.labels.cpu().numpy() for target in self.targets.values()])
        self._chosen = np.zeros(len(self.targets), np.int64)  # which attack, by the image's place in targets
        self._outcomes: dict[str, Mapping[str, Outcome]] = {}  # by attack, then by image id
        self._rankings: list[Ranking] = []  # of each attack
        self._own_ap: list[Float[np.ndarray, "n"]] = []  # of each attack; infinite for an image that it lacks
        self._floor: dict[str, Matched] = {}

    def add(self, name: str, outcomes: Mapping[str, Outcome]) -> None:
        """Raises ValueError naming an image that has no target, or no outcome of the first attack."""
        for image_id in outcomes:
            if image_id not in self.targets:
                raise ValueError(f"attack {name!r}: image {image_id!r} has no target")
        for image_id in self.targets if not self._outcomes else ():
            if image_id not in outcomes:
                raise ValueError(
                    f"attack {name!r}: image {image_id!r} has no outcome; the first attack needs every one"
                )
        if name in self._outcomes:
            raise ValueError(f"attack {name!r} was added before")
        matched = [
            match_detections(outcomes[key].detections, target) if key in outcomes else NOTHING
            for key, target in self.targets.items()
        ]
        self._outcomes[name] = outcomes
        self._rankings.append(rank(matched))
        self._own_ap.append(np.full(len(matched), math.inf))
        for place, (key, of_image) in enumerate(zip(self.targets, matched, strict=True)):
            if key in outcomes:
                self._own_ap[-1][place] = pooled_average_precision(of_image)
                self._floor[key] = least(self._floor[key], of_image) if key in self._floor else of_image
        self.image_ap = dict(zip(self.targets, np.min(self._own_ap, axis=0).tolist(), strict=True))
        for chosen in self._candidates():
            value = self._measured(chosen)
            if value < self.value:
                self.value, self._chosen = value, chosen

    @property
    def choice(self) -> dict[str, str]:
        """The name of the attack chosen for each image."""
        return self._named(self._chosen)

    @property
    def chosen(self) -> dict[str, int]:
        """How many images each attack was chosen for."""
        counts = np.bincount(self._chosen, minlength=len(self._outcomes)).tolist()
        return dict(zip(self._outcomes, counts, strict=True))

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """The chosen ones by image id. Time and forward passes of an image are those of all its attacks together."""
        return {
            key: replace(outcome, measures=outcome.measures | {cost: self._summed(key, cost) for cost in COSTS})
            for key, name in self.choice.items()
            if (outcome := self._outcomes[name][key])
        }

    @property
    def effects(self) -> FirstOrder:
        """What detections would add to the worst case."""
        return FirstOrder(self._ranking(self._chosen), self._objects)

    @property
    def area_bound(self) -> float:
        """No choice of one of these attacks per image leaves less mAP (area rule): that of :func:`least`."""
        return self._area(rank(list(self._floor.values())))

    def _candidates(self) -> list[Int[np.ndarray, "n"]]:
        """The choices to measure with the attack added last, all of them other than what is chosen."""
        newest, own_ap = len(self._rankings) - 1, np.stack(self._own_ap)
        everywhere = np.where(np.isfinite(own_ap[newest]), newest, self._chosen)
        if newest == 0:
            return [everywhere]
        now = np.take_along_axis(own_ap, self._chosen[None], axis=0)[0]
        lower = np.where(own_ap[newest] < now, newest, self._chosen)
        own = own_ap.argmin(axis=0)  # a start that does not depend on the order of the attacks
        tried = [lower, own, *self._descent(self._chosen, 2), *self._descent(own, 3)]
        lowest = self._one_by_one(min(tried, key=lambda chosen: self._area(self._ranking(chosen))))
        return [chosen for chosen in (lowest, everywhere) if (chosen != self._chosen).any()]

    def _descent(self, chosen: Int[np.ndarray, "n"], times: int) -> Iterator[Int[np.ndarray, "n"]]:
        """Each of the choices that :meth:`_first_order` makes of ``chosen``, ``times`` times in turn."""
        for _ in range(times):
            chosen = self._first_order(chosen)
            yield chosen

    def _first_order(self, chosen: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """For each image the attack whose effect is lowest where the others stay as they are ``chosen``."""
        return self._effects(chosen).argmin(axis=0)

    def _one_by_one(self, chosen: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """The moves of :meth:`_first_order`, the most promising first, each made only where it lowers the area AP.

        All at once they get in each other's way. ``MOVES`` of them are tried, ``TIMES`` times.
        """
        lowest = self._area(self._ranking(chosen))
        for _ in range(TIMES):
            effects = self._effects(chosen)
            to = effects.argmin(axis=0)
            gain = np.take_along_axis(effects, chosen[None], axis=0)[0] - effects.min(axis=0)
            before = lowest
            for place in np.argsort(-gain, kind="stable")[: min(MOVES, int((gain > 0).sum()))]:
                moved = chosen.copy()
                moved[place] = to[place]
                if (area := self._area(self._ranking(moved))) < lowest:
                    lowest, chosen = area, moved
            if lowest == before:
                break
        return chosen

    def _effects(self, chosen: Int[np.ndarray, "n"]) -> Float[np.ndarray, "A n"]:
        """Of each attack on each image where the others stay as they are ``chosen``; ∞ where it has none."""
        effect = FirstOrder(self._ranking(chosen), self._objects)
        effects = np.stack([effect(ranking, len(chosen)) for ranking in self._rankings])
        return np.where(np.isfinite(self._own_ap), effects, math.inf)

    def _ranking(self, chosen: Int[np.ndarray, "n"]) -> Ranking:
        return merged([ranking.of_images(chosen == number) for number, ranking in enumerate(self._rankings)])

    def _area(self, ranking: Ranking) -> float:
        return average_precision(ranking, self._objects, int(self._objects.max(initial=0)), "area").mean

    def _measured(self, chosen: Int[np.ndarray, "n"]) -> float:
        found = {key: self._outcomes[name][key].detections for key, name in self._named(chosen).items()}
        return self.metric(found, self.targets).headline.mean

    def _named(self, chosen: Int[np.ndarray, "n"]) -> dict[str, str]:
        names = list(self._outcomes)
        return {key: names[number] for key, number in zip(self.targets, chosen.tolist(), strict=True)}

    def _summed(self, image_id: str, cost: str) -> float:
        return math.fsum(each[image_id].measures[cost] for each in self._outcomes.values() if image_id in each)


class FirstOrder:
    """What an image's detections would add to mAP, to the first order, if they joined a ranking.

    AP is taken as the mean over objects of the precision T/k at their hits (T hits among the k best detections of the
    class; the envelope is left out). One more hit among them has a precision of its own, (T + 1)/(k + 1), and raises
    that of each hit below it by (k - T)/(k (k + 1)); one more false alarm lowers those by T/(k (k + 1)).

    Args:
        ranking: of all images.
        objects: the labels of all their objects.
    """

    def __init__(self, ranking: Ranking, objects: Int[np.ndarray, "m"]) -> None:
        self._tables = {}  # by label: negative scores, ascending; the effect of a detection at each place among them
        for label in np.unique(objects).tolist():
            positives = np.count_nonzero(objects == label)
            own = ranking.of_class(label)
            true, k = np.append(0, ranking.hits[own].cumsum()), np.arange(own.stop - own.start + 1)
            each = np.append(False, ranking.hits[own]) / np.maximum(k * (k + 1), 1)
            raised, lowered = (_after((k - true) * each), _after(true * each))
            of_hit, of_false_alarm = (true + 1) / (k + 1) + raised, -lowered
            self._tables[label] = -ranking.scores[own], of_hit / positives, of_false_alarm / positives

    @property
    def labels(self) -> list[int]:
        """The classes that have objects. Detections of any other have no effect."""
        return list(self._tables)

    def of(self, label: int, scores: Float[np.ndarray, "d"]) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d"]]:
        """Of hits with these scores, and of false alarms with them."""
        ranked, of_hit, of_false_alarm = self._tables[label]
        place = np.searchsorted(ranked, -scores, side="right")
        return of_hit[place], of_false_alarm[place]

    def __call__(self, joining: Ranking, num_images: int) -> Float[np.ndarray, "n"]:
        """The effect of each of ``num_images`` images, those without detections included."""
        effects = np.zeros(num_images)
        for label in self.labels:
            own = joining.of_class(label)
            values = np.where(joining.hits[own], *self.of(label, joining.scores[own]))
            effects += np.bincount(joining.images[own], values, num_images)
        return effects


def _after(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """At each place the sum of all that come after it."""
    return np.append(values[:0:-1].cumsum()[::-1], 0.0)


def least(a: Matched, b: Matched) -> Matched:
    """An image of which, at any score threshold and of any class, there are as many hits as in that of the two which
    has fewer there, and as many false alarms as in that which has more: the k-th best hit scores as low as in either
    (or is none), the k-th best false alarm as high.

    So wherever one of the two stands among other images, the recall at any threshold is at least what it is with this
    image, and so is the precision; then the best precision from any recall on is too, and with it AP by any rule that
    takes that. Replacing every image so bounds all choices at once, and one more attack can but lower it.
    """
    (keys_a, scores_a), (keys_b, scores_b) = _counted(a), _counted(b)
    keys = np.union1d(keys_a, keys_b)
    absent = np.full(len(keys), np.nan)
    in_a, in_b = absent.copy(), absent
    in_a[np.searchsorted(keys, keys_a)], in_b[np.searchsorted(keys, keys_b)] = scores_a, scores_b
    labels, hits = keys // PLACES // 2, keys // PLACES % 2 == 1
    scores = np.where(hits, np.minimum(in_a, in_b), np.fmax(in_a, in_b))  # a hit that one lacks is NaN
    order = np.lexsort((hits, -scores))  # NaN last; of equal scores the false alarm first
    order = order[~np.isnan(scores[order])]
    return Matched(scores[order], labels[order], hits[order], a.objects)


PLACES = 1 << 20  # more than detections an image can have


def _counted(image: Matched) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """A key for each detection (its label, whether it is a hit, its place among those by score), ascending; scores."""
    kinds = image.labels * 2 + image.hits
    order = np.argsort(kinds, kind="stable")  # best first, as they were
    kinds = kinds[order]
    places = np.arange(len(kinds)) - np.searchsorted(kinds, kinds)
    return kinds * PLACES + places, image.scores[order]
