"""Which labels are probably errors. Pure: labels, probabilities that nobody trained on, and who gave each label.

Confident learning (Northcutt et al. 2021, by cleanlab) proposes labels that the model contradicts. Alone it also proposes
every comment that is hard, since it cannot tell a careless moderator from a weak model. So a proposal is weighed against
how often each moderator errs, which is estimated along the way: by expectation-maximisation, as Dawid & Skene (1979) do,
with the model in the part of the other rater.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training import evaluate

#: A moderator is taken to err in PRIOR[0] of PRIOR[0] + PRIOR[1] decisions until the decisions say otherwise.
PRIOR = (1.0, 30.0)
#: A label is doubted when it is wrong with at least this probability: another look costs seconds, a wrong label teaches for good.
SURE = 0.3
_ROUNDS = 50


def doubtful(truth: np.ndarray, probabilities: np.ndarray, users: Sequence[str]) -> list[tuple[int, int, float]]:
    """(row, the label that it more likely is, probability that the given one is wrong), the surest first.

    Args:
        truth: (N,) given labels as indices. probabilities: (N, 4), out of fold. users: N names.
    """
    if not len(truth):
        return []
    proposed = [row for row, _ in evaluate.label_issues(truth, probabilities)]
    wrong, _ = errors(truth, probabilities, users)
    found = []
    for row in proposed:
        others = probabilities[row].copy()
        others[truth[row]] = 0
        if wrong[row] >= SURE:
            found.append((row, int(others.argmax()), float(wrong[row])))
    return sorted(found, key=lambda entry: (-entry[2], entry[0]))


def errors(truth: np.ndarray, probabilities: np.ndarray, users: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
    """The probability (N,) that each label is wrong, and the rate at which each user errs.

    A wrong label is taken to be any of the three others alike; the model's calibrated probability of the given label
    says how well it fits.
    """
    names, index = np.unique(np.asarray(users, dtype=object).astype(str), return_inverse=True)
    fits = np.clip(probabilities[np.arange(len(truth)), truth], 1e-4, 1 - 1e-4)
    counts = np.bincount(index, minlength=len(names))
    rate = np.full(len(names), PRIOR[0] / sum(PRIOR))
    wrong = np.zeros(len(truth))
    for _ in range(_ROUNDS):
        against = rate[index] / (probabilities.shape[1] - 1) * (1 - fits)
        wrong = against / (against + (1 - rate[index]) * fits)
        rate = (np.bincount(index, wrong, minlength=len(names)) + PRIOR[0]) / (counts + sum(PRIOR))
    return wrong, dict(zip(names.tolist(), rate.tolist(), strict=True))
