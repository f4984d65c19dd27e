"""What chance alone may do: which images were drawn, and how many of them went one way.

The bootstrap (Efron, Annals of Statistics 1979) draws the images again with replacement, as many as there are, and
computes AP as if these were the data set: an image without objects takes its false alarms along. Shares of images are
judged by the binomial distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import binom

from robustdet.evaluation.average_precision import Matched, rank

CHANCE = 1e-3  # a flag may be raised by chance once in a thousand comparisons
DEVIATIONS = NormalDist().inv_cdf(1 - CHANCE)  # 3.1, which a normal variable exceeds as seldom
RESAMPLES = 200  # enough for a standard deviation
CHUNK = 50  # resamples at once: 50 x 50,000 detections of a class are 10 MB


def less_than_chance(successes: int, trials: int, share: float) -> bool:
    """Whether so few successes or fewer come by chance more seldom than `CHANCE` where ``share`` is to be expected."""
    return bool(binom.cdf(successes, trials, share) < CHANCE)


def more_than_chance(successes: int, trials: int, share: float) -> bool:
    """Whether so many successes or more come by chance more seldom than `CHANCE` where ``share`` is to be expected."""
    return bool(binom.sf(successes - 1, trials, share) < CHANCE)


def resampled_map(images: Sequence[Matched], seed: int = 0) -> Float[np.ndarray, "R"]:
    """mAP (area rule) in [0, 1] of these images, then of `RESAMPLES` resamples of them.

    Equal seeds draw equal images, by their place in ``images``: what two attacks leave of the same images can be
    subtracted draw by draw. A class without objects among those drawn is left out of the mean; NaN where all are.
    """
    n = len(images)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    weights = np.concatenate([np.ones((1, n)), drawn]).astype(np.float32)
    ranking = rank(images)
    per_class = []
    for label in np.unique(np.concatenate([one.objects for one in images])).tolist():
        objects = np.array([(one.objects == label).sum() for one in images], np.float32)
        own = ranking.of_class(label)
        of_image, hits = ranking.images[own], ranking.hits[own]
        areas = [_area(weights[at : at + CHUNK], of_image, hits, objects) for at in range(0, len(weights), CHUNK)]
        per_class.append(np.concatenate(areas))
    if not per_class:
        return np.full(len(weights), np.nan)
    known = ~np.isnan(per_class)
    return np.where(known, per_class, 0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)


def _area(
    weights: Float[np.ndarray, "R n"],
    image: Int[np.ndarray, "d"],
    hits: Bool[np.ndarray, "d"],
    objects: Float[np.ndarray, "n"],
) -> Float[np.ndarray, "R"]:
    """AP of one class under each row of weights; its detections, best first, by their ``image``."""
    positives = weights @ objects
    positives[positives == 0] = np.nan
    true = weights[:, image[hits]]
    counted = weights[:, image].cumsum(axis=1)[:, hits]
    precision = true.cumsum(axis=1) / np.maximum(counted, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (true * envelope).sum(axis=1) / positives
