"""What a detection is worth, as curves an attack can follow: first-order effects on mAP over log-odds, smoothed."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from robustdet.attacks.among_others import Curves
from robustdet.evaluation.worst_case import FirstOrder

LOW, HIGH, STEP = -8.0, 14.0, 0.05  # log-odds; scores from 0.0003 to 1 - 1e-6, where the surrogate cuts them
WIDTH = 0.5  # of the logistic kernel, log-odds: a ranking is made of steps, which have no gradient


def measured_curves(effects: FirstOrder) -> Curves:
    """Of all classes up to the last that has objects, in units of mAP (in [0, 1]); zero for those that have none."""
    log_odds = np.arange(round((HIGH - LOW) / STEP) + 1) * STEP + LOW
    scores = 1 / (1 + np.exp(-log_odds))
    both = np.zeros((2, max(effects.labels, default=1), len(log_odds)))
    for label in effects.labels:
        of_hit, of_false_alarm = effects.of(label, scores)
        both[:, label - 1] = _smoothed(of_false_alarm), _smoothed(of_hit)
    return Curves(LOW, HIGH, torch.from_numpy(both.astype(np.float32)))


def _smoothed(curve: Float[np.ndarray, "G"]) -> Float[np.ndarray, "G"]:
    """By a logistic kernel; what lies beyond the ends is like the ends."""
    reach = round(10 * WIDTH / STEP)
    decay = np.exp(-np.abs(np.arange(-reach, reach + 1)) * STEP / WIDTH)
    kernel = decay / (1 + decay) ** 2
    return np.convolve(np.pad(curve, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
