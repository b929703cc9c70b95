"""Make probabilities mean what they say, on rows that the network was not trained on."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize


def vector_scaling(log_probabilities: np.ndarray, truth: np.ndarray, strength: float = 0.01) -> dict[str, list[float]]:
    """Vector scaling (Guo et al. 2017, arXiv:1706.04599): a scale and a bias for each class, by maximum likelihood.

    The targets are smoothed as Platt (1999) does, with a prior worth one comment a class: on rows that the model separates
    perfectly the likelihood alone would drive every probability to 0 or 1, and no threshold could be moved any more.

    Args:
        log_probabilities: (N, C) of the uncalibrated model.
        truth: (N,) indices of the true classes.
        strength: pull towards one common temperature and no bias, which keeps a small sample from being followed too far.

    Returns:
        {"scale": C floats, "bias": C floats} for softmax(scale * log_probabilities + bias).
    """
    classes = log_probabilities.shape[1]
    counts = np.bincount(truth, minlength=classes)
    sure = ((counts + 1 / classes) / (counts + 1))[truth]
    targets = np.repeat(((1 - sure) / (classes - 1))[:, None], classes, axis=1)
    targets[np.arange(len(truth)), truth] = sure

    def objective(values: np.ndarray) -> float:
        temperature, scale, bias = values[0], values[1 : classes + 1], values[classes + 1 :]
        scores = log_probabilities * (temperature * np.exp(scale)) + bias
        scores = scores - scores.max(-1, keepdims=True)
        likelihood = (targets * (scores - np.log(np.exp(scores).sum(-1, keepdims=True)))).sum(-1)
        return -likelihood.mean() + strength * float((scale**2).sum() + 0.1 * (bias**2).sum())

    start = np.concatenate([[1.0], np.zeros(2 * classes)])
    best = minimize(objective, start, method="L-BFGS-B", bounds=[(0.05, 5.0)] + [(-1, 1)] * classes + [(-4, 4)] * classes).x
    return {
        "scale": [round(float(value), 5) for value in best[0] * np.exp(best[1 : classes + 1])],
        "bias": [round(float(value), 5) for value in best[classes + 1 :]],
    }
