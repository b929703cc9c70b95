"""Which comment a moderator should label next, for the most learned from each label.

The value of a label is a weighted mean of ranks: how unsure the model is, how much two ways of judging disagree, how new the
article is, and whether it stands behind a drift (`training/drift.py`). Of comments that are nearly copies of each other only
one is asked about at first (diversity). A part of the order is left to chance: what those comments turn out to be tells
how the whole site is, unbiased; they are marked (`Lessons.order`) so that estimates can go by them alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from moderation.model import COMMENT_TOKENS, Moderator
from moderation.schema import LABELS
from moderation.store import Store
from moderation.text import view
from training import drift

#: Part of the order that is left to chance.
RANDOM_SHARE = 0.2
#: Undecided comments that are looked at, the newest; the rest of the queue keeps its order behind them.
POOL = 2000
#: Weights of uncertainty, disagreement, newness and drift. By itself uncertainty is the best of them (docs/BENCHMARKS.md), so the
#: next two decide between comments that are about as uncertain.
WEIGHTS = (10.0, 1.0, 1.0, 5.0)
#: Weeks in which a drift still makes its articles worth a label.
DRIFT_WEEKS = 4
#: Cosine from which two comments are near copies of each other.
NEAR = 0.85


@dataclass(frozen=True, slots=True)
class Ranked:
    """The order of a pool: `order` are indices, the most valuable first; `drawn` those among them that chance put there."""

    order: tuple[int, ...]
    drawn: frozenset[int]


def uncertainty(probabilities: np.ndarray) -> np.ndarray:
    """How unsure (N,) probabilities (N, 4) are: 1 - the margin between the first and the second label."""
    ordered = np.sort(probabilities, axis=1)
    return 1 - (ordered[:, -1] - ordered[:, -2])


def disagreement(probabilities: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far (N,) two judges are apart: half the absolute difference of their probabilities."""
    return np.abs(probabilities - others).sum(1) / 2


def neighbours(vectors: np.ndarray, known: np.ndarray, labels: np.ndarray, classes: int, k: int = 8) -> np.ndarray:
    """What the nearest decided comments say: (N, classes) shares of their labels, smoothed; flat where nothing is decided.

    Args:
        vectors: (N, d) and known: (M, d) unit vectors. labels: (M,) indices.
    """
    if not len(known):
        return np.full((len(vectors), classes), 1 / classes)
    k = min(k, len(known))
    near = np.argpartition(-(vectors @ known.T), k - 1, axis=1)[:, :k]
    shares = np.eye(classes)[labels[near]].sum(1)
    return (shares + 0.5) / (k + 0.5 * classes)


def rank(
    values: Sequence[np.ndarray],
    vectors: np.ndarray | None = None,
    share: float = RANDOM_SHARE,
    seed: int = 0,
    weights: Sequence[float] | None = None,
) -> Ranked:
    """Order a pool of N by the mean rank of `values` (each (N,), high is worth more), near copies behind.

    Args:
        vectors: (N, d) for diversity; None for none.
        share: part of the places that chance fills, 0..1.
        weights: of the values, equal without.
    """
    count = len(values[0])
    ranks = np.average([rankdata(value) for value in values], axis=0, weights=weights)  # equals get the same rank
    best = list(np.argsort(-ranks, kind="stable"))
    if vectors is not None and count > 10:
        best = _spread(best, vectors)
    draw = random.Random(seed)
    order, drawn, taken = [], set(), set()
    by_chance = list(range(count))
    draw.shuffle(by_chance)
    while len(order) < count:
        lucky = draw.random() < share
        source = by_chance if lucky else best
        while source and source[-1 if lucky else 0] in taken:
            source.pop(-1 if lucky else 0)
        pick = source.pop(-1 if lucky else 0)
        taken.add(pick)
        order.append(int(pick))
        if lucky:
            drawn.add(int(pick))
    return Ranked(tuple(order), frozenset(drawn))


def order_queue(store: Store, champion: Moderator, share: float = RANDOM_SHARE, seed: int = 0) -> Ranked:
    """Order the queue of a store by value (`sort="value"`); returns the order of the newest `POOL` undecided comments."""
    items = list(store.lessons.undecided(limit=POOL))
    if not items:
        store.lessons.order({})
        return Ranked((), frozenset())
    probabilities = champion.predict_proba([item.comment for item in items])
    decided = [one for one in store.lessons.decided() if one.state in ("counts", "confirmed") and one.label in LABELS][-POOL:]
    vectors = _vectors(champion, [item.comment for item in items])
    known = _vectors(champion, [lesson.item.comment for lesson in decided])
    labels = np.array([LABELS.index(lesson.label) for lesson in decided], dtype=int)
    busy = store.lessons.busy_threads()
    fresh = np.array([-busy.get(item.article, 0) for item in items], dtype=float)
    values = [uncertainty(probabilities), disagreement(probabilities, neighbours(vectors, known, labels, len(LABELS))), fresh]
    drifting: dict[int, int] = {}
    for one in drift.find(store, DRIFT_WEEKS):
        for number, (_, count) in zip(one.numbers, one.articles, strict=True):
            drifting[number] = max(count, drifting.get(number, 0))
    if drifting:
        values.append(np.array([drifting.get(item.article, 0) for item in items], dtype=float))
    ranked = rank(values, vectors, share, seed, WEIGHTS[: len(values)])
    store.lessons.order(
        {items[place].id: 1 - number / len(items) for number, place in enumerate(ranked.order)},
        [items[place].id for place in ranked.order[: len(items) // 4] if place in ranked.drawn],
    )
    return ranked


def _spread(best: list[int], vectors: np.ndarray) -> list[int]:
    """The same with near copies of better comments behind: the best of every cluster of them first, then the second, and so on."""
    units = vectors[best] / np.maximum(np.linalg.norm(vectors[best], axis=1, keepdims=True), 1e-9)
    better = np.zeros(len(best), dtype=int)  # how many near copies stand before each
    for start in range(0, len(best), 1024):
        rows = np.arange(start, min(start + 1024, len(best)))
        near = units[rows] @ units[: rows[-1] + 1].T >= NEAR
        better[rows] = (near & (np.arange(rows[-1] + 1) < rows[:, None])).sum(1)
    return [best[place] for place in np.argsort(better, kind="stable")]  # stable: by value among equals


def _vectors(champion: Moderator, comments) -> np.ndarray:
    texts = [view(comment).comment for comment in comments]
    return champion.encoder.encode(texts, COMMENT_TOKENS) if texts else np.zeros((0, champion.encoder.width), dtype=np.float32)
