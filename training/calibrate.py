"""Make probabilities mean what they say, on rows that the network was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize

#: With so many decisions the constants of the model before and the decisions have about equal say.
PRIOR = 200


def vector_scaling(
    log_probabilities: np.ndarray,
    truth: np.ndarray,
    strength: float = 0.01,
    before: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, list[float]]:
    """Vector scaling (Guo et al. 2017, arXiv:1706.04599): a scale and a bias for each class, by maximum likelihood.

    The targets are smoothed as Platt (1999) does, with a prior worth one comment a class: on rows that the model separates
    perfectly the likelihood alone would drive every probability to 0 or 1, and no threshold could be moved any more.

    Args:
        log_probabilities: (N, C) of the uncalibrated model.
        truth: (N,) indices of the true classes.
        strength: pull towards one common temperature and no bias, which keeps a small sample from being followed too far.
        before: the constants of the model that this one continues: the pull is towards them instead, the weaker the more
            rows there are (`PRIOR`).

    Returns:
        {"scale": C floats, "bias": C floats} for softmax(scale * log_probabilities + bias).
    """
    classes = log_probabilities.shape[1]
    counts = np.bincount(truth, minlength=classes)
    sure = ((counts + 1 / classes) / (counts + 1))[truth]
    targets = np.repeat(((1 - sure) / (classes - 1))[:, None], classes, axis=1)
    targets[np.arange(len(truth)), truth] = sure

    known = np.ones(classes), np.zeros(classes)
    if before is not None:
        known = np.asarray(before["scale"], dtype=float), np.asarray(before["bias"], dtype=float)
        strength = 0.1 * PRIOR / max(1, len(truth))

    def objective(values: np.ndarray) -> float:
        temperature, scale, bias = values[0], values[1 : classes + 1], values[classes + 1 :]
        scores = log_probabilities * (known[0] * temperature * np.exp(scale)) + known[1] + bias
        scores = scores - scores.max(-1, keepdims=True)
        likelihood = (targets * (scores - np.log(np.exp(scores).sum(-1, keepdims=True)))).sum(-1)
        pull = (scale**2).sum() + 0.1 * (bias**2).sum()
        if before is not None:
            pull += np.log(temperature) ** 2 + 0.9 * (bias**2).sum()
        return -likelihood.sum() / max(1, len(truth)) + strength * float(pull)

    start = np.concatenate([[1.0], np.zeros(2 * classes)])
    best = minimize(objective, start, method="L-BFGS-B", bounds=[(0.05, 5.0)] + [(-1, 1)] * classes + [(-4, 4)] * classes).x
    return {
        "scale": [round(float(value), 5) for value in known[0] * best[0] * np.exp(best[1 : classes + 1])],
        "bias": [round(float(value), 5) for value in known[1] + best[classes + 1 :]],
    }
