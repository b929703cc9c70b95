"""May the challenger replace the champion? Pure: labels, probabilities and threads in, a judgement with its sentence out.

Both models are judged on the same rows, and every difference has its paired bootstrap interval (`evaluate.Bootstrap`, by
thread). The rule:

* The challenger must be **better on the site's decisions**: the holdout, judged by itself, together with the other decisions
  that the champion did not learn from, each judged by a model of the challenger's making that did not learn from its thread
  (cross-fitting; Bayle et al. 2020, arXiv:2007.12671, show that such a paired comparison keeps its level). A holdout of a
  fifth alone would need five times the decisions. One-sided at 5 %: a challenger that is no better passes one time in twenty.
* It must not be worse **where it must not be**: the holdout in macro-F1, and the protected figures by more than their limits.
  A loss counts when nine draws in ten exceed the limit: with few rows a figure jumps about, and a gate that is shut by noise
  would never open; a figure that rests on fewer than `FEW` comments is shown and decides nothing.
* Too few labels for a judgement is an answer, and says how many are missing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import norm, t

from moderation.policy import LIMITS, Policy
from moderation.schema import LABELS
from training import evaluate

#: A holdout with fewer rows or threads judges nothing.
LEAST_ROWS, LEAST_THREADS = 60, 5
#: Level of the one-sided test that the challenger is better.
LEVEL = 0.05
#: Comments called spam by each model, or truly off-topic, that a protected figure of the holdout must rest on.
FEW = 10
#: Part of the draws in which a limit must be exceeded before the challenger is refused for it.
SURE = 0.9
#: More than this many missing decisions are "more than": the estimate is no better than its figures.
MOST_NEEDED = 5000

_SPAM, _OFF = LABELS.index("spam"), LABELS.index("off-topic")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows on which both models are judged: N true labels (indices), both models' probabilities (N, 4), and threads.

    `slices` are columns as `labelled.slice_columns` gives them.
    """

    truth: np.ndarray
    champion: np.ndarray
    challenger: np.ndarray
    groups: Sequence[str]
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of both models.

    Attributes:
        difference: challenger minus champion, with its `interval`: 95 %, and 90 % for the figure that must be better.
        limit: the loss that is allowed; None for the figure that must be better. verdict: "better", "worse", "cannot
        tell", or "too few to tell". lost: whether the limit is exceeded.
    """

    name: str
    champion: float
    challenger: float
    difference: float
    interval: tuple[float, float]
    limit: float | None
    verdict: str
    lost: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """The gate's answer.

    Attributes:
        outcome: "promote", "refuse" or "undecided".
        sentence: why. needed: about how many more decisions a judgement takes; 0 where one was made.
        figures: all that was looked at.
    """

    outcome: str
    sentence: str
    needed: int
    figures: tuple[Figure, ...]


def judge(
    holdout: Rows,
    base: Rows | None,
    attacked: Rows | None,
    policy: Policy,
    share: float,
    draws: int = 1000,
    crossed: Rows | None = None,
) -> Judgement:
    """Judge a challenger.

    Args:
        holdout: the site's own. base: our test split. attacked: its comments in disguise.
        policy: whose limits hold. share: part of all decisions that go to the holdout, 0..1.
        crossed: decisions outside the holdout that the champion did not learn from; `crossed.challenger` are probabilities of
            models that were made like the challenger without the row's thread.
    """
    limits = {**LIMITS, **policy.limits}
    decided = holdout if crossed is None or not len(crossed.truth) else _together(holdout, crossed)
    gained = share if decided is holdout else 1.0  # rows to judge by that a further decision brings
    main = None
    if not _small(decided):
        main = _decisive(decided, evaluate.Bootstrap(decided.groups, draws))
        if main.verdict == "worse":
            return Judgement("refuse", f"refused: worse on the site's decisions: {_said(main)}", 0, (main,))
    if main is None or _small(holdout):
        missing = max(LEAST_ROWS - len(holdout.truth), 10 * (LEAST_THREADS - len(set(holdout.groups))))
        needed = _round(missing / share)
        have = f"{len(holdout.truth)} decisions from {_count(len(set(holdout.groups)), 'thread')}"
        sentence = f"cannot judge on a holdout of {have}: {_needs(needed, holdout.truth)}"
        return Judgement("undecided", sentence, needed, (main,) if main else ())
    bootstrap = evaluate.Bootstrap(holdout.groups, draws)
    ours, theirs = (evaluate.scores(holdout.truth, p, bootstrap) for p in (holdout.challenger, holdout.champion))
    figures = [main, _figure("holdout macro-F1", ours["macro_f1"], theirs["macro_f1"], limits)]
    figures += _protected(holdout, bootstrap, limits)
    if base is not None:
        over = evaluate.Bootstrap(base.groups, draws)
        ours, theirs = (evaluate.scores(base.truth, p, over) for p in (base.challenger, base.champion))
        figures.append(_figure("base macro-F1", ours["macro_f1"], theirs["macro_f1"], limits))
        figures.append(_spam_precision("base spam precision", base, over, limits))
        # Where it draws the line is the site's business and is settled by the thresholds, which are fitted anew so that as
        # many comments are caught as before. So recall is compared at the champion's number of catches, not at 0.5.
        catches = int((base.champion.argmax(1) == _OFF).sum())
        ours, theirs = (_recall_among(p[:, _OFF], base.truth == _OFF, catches, over) for p in (base.challenger, base.champion))
        figures.append(_figure("base off-topic recall", ours, theirs, limits))
    if attacked is not None:
        over = evaluate.Bootstrap(attacked.groups, draws)
        ours, theirs = (evaluate.scores(attacked.truth, p, over) for p in (attacked.challenger, attacked.champion))
        figures.append(_figure("robustness", ours["accuracy"], theirs["accuracy"], limits))
    lost = [figure for figure in figures if figure.lost]
    if lost:
        worst = max(lost, key=lambda figure: -figure.difference / max(figure.limit or 0, 0.01))
        allowed = f"more than the {worst.limit:.2f} that may be lost" if worst.limit else "which may not fall"
        sentence = f"refused: {worst.name} would fall from {worst.champion:.2f} to {worst.challenger:.2f}, {allowed}"
        return Judgement("refuse", sentence, 0, tuple(figures))
    if main.verdict == "better":
        return Judgement(
            "promote",
            f"better on the site's decisions: {_said(main)}; no protected figure surely loses more than it may",
            0,
            tuple(figures),
        )
    if main.difference <= 0:
        return Judgement("refuse", f"refused: no better on the site's decisions: {_said(main)}", 0, tuple(figures))
    # Intervals shrink with the root of the number of rows: as many as bring the lower end above zero.
    below = main.difference - main.interval[0]
    needed = _round(len(decided.truth) * ((below / main.difference) ** 2 - 1) / gained)
    sentence = f"cannot tell whether it is better: {_said(main)}; {_needs(needed, holdout.truth)}"
    return Judgement("undecided", sentence, needed, tuple(figures))


def _small(rows: Rows) -> bool:
    return len(rows.truth) < LEAST_ROWS or len(set(rows.groups)) < LEAST_THREADS


def _together(one: Rows, other: Rows) -> Rows:
    parts = ((one.truth, other.truth), (one.champion, other.champion), (one.challenger, other.challenger))
    return Rows(*(np.concatenate(part) for part in parts), [*one.groups, *other.groups])


def _decisive(rows: Rows, bootstrap: evaluate.Bootstrap) -> Figure:
    """Macro-F1 with the interval whose ends are each a one-sided test at `LEVEL`.

    Percentiles of a bootstrap of few threads lie too close together; they are taken further out, as Hesterberg (2015,
    doi:10.1080/00031305.2015.1089789) expands them: by Student's t and by n / (n - 1).
    """
    ours, theirs = (evaluate.scores(rows.truth, p, bootstrap)["macro_f1"] for p in (rows.challenger, rows.champion))
    draws = ours - theirs
    count = bootstrap.threads
    out = norm.cdf(math.sqrt(count / (count - 1)) * t.ppf(LEVEL, count - 1))
    low, high = (float(end) for end in np.nanquantile(draws[1:], (out, 1 - out)))
    verdict = "better" if low > 0 else "worse" if high < 0 else "cannot tell"
    return Figure("macro-F1", float(theirs[0]), float(ours[0]), float(draws[0]), (low, high), None, verdict, False)


def _protected(rows: Rows, bootstrap: evaluate.Bootstrap, limits: Mapping[str, float]) -> list[Figure]:
    figures = [_spam_precision("spam precision", rows, bootstrap, limits)]
    off_topic = int((rows.truth == _OFF).sum())
    if off_topic:
        ours, theirs = (evaluate.scores(rows.truth, p, bootstrap) for p in (rows.challenger, rows.champion))
        path = "per_class.off-topic.recall"
        figures.append(_figure("off-topic recall", ours[path], theirs[path], limits, off_topic >= FEW))
    right = [(p.argmax(1) == rows.truth).astype(float) for p in (rows.challenger, rows.champion)]
    slices = []
    for column, values in rows.slices.items():
        values = np.asarray(values, dtype=object)
        for value in sorted(set(values), key=str):
            chosen = np.flatnonzero(values == value)
            small = len(chosen) < evaluate.SMALL_ROWS or len(np.unique(bootstrap.index[chosen])) < evaluate.SMALL_THREADS
            if small or len(chosen) == len(values):
                continue
            totals = bootstrap.totals(np.stack([right[0][chosen], right[1][chosen], np.ones(len(chosen))], -1), chosen)
            with np.errstate(invalid="ignore", divide="ignore"):
                name = f"worst slice ({column}: {value})"
                slices.append(_figure(name, totals[:, 0] / totals[:, 2], totals[:, 1] / totals[:, 2], limits))
    if slices:
        figures.append(min(slices, key=lambda figure: (not figure.lost, figure.difference)))
    return figures


def _spam_precision(name: str, rows: Rows, bootstrap: evaluate.Bootstrap, limits: Mapping[str, float]) -> Figure:
    """Of what each model calls spam, the part that is; unknown for one that calls nothing so: it accuses nobody wrongly."""
    found, counts = [], []
    for probabilities in (rows.challenger, rows.champion):
        called = probabilities.argmax(1) == _SPAM
        totals = bootstrap.totals(np.stack([called & (rows.truth == _SPAM), called], -1))
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(totals[:, 0] / totals[:, 1])
        counts.append(int(called.sum()))
    return _figure(name, *found, limits, min(counts) >= FEW)


def _recall_among(scores: np.ndarray, right: np.ndarray, count: int, bootstrap: evaluate.Bootstrap) -> np.ndarray:
    """The part (draws + 1,) of the `right` rows that is among the `count` rows with the highest scores."""
    caught = np.zeros(len(scores))
    caught[np.argsort(-scores, kind="stable")[:count]] = 1
    totals = bootstrap.totals(np.stack([caught * right, right], -1))
    with np.errstate(invalid="ignore"):
        return totals[:, 0] / totals[:, 1]


def _figure(name: str, ours: np.ndarray, theirs: np.ndarray, limits: Mapping[str, float], enough: bool = True) -> Figure:
    """`enough` says whether there are comments enough for the figure to count against the challenger."""
    limit = limits[name.split(" (")[0]]
    draws = ours - theirs
    found = evaluate.difference(draws)
    known = draws[1:][~np.isnan(draws[1:])]
    lost = bool(enough and draws[0] < -limit and len(known) and (known < -limit).mean() >= SURE)
    verdict = found["verdict"] if enough else "too few to tell"
    return Figure(name, float(theirs[0]), float(ours[0]), float(draws[0]), tuple(found["interval"]), limit, verdict, lost)


def _said(figure: Figure) -> str:
    low, high = figure.interval
    between = f" ({low:+.3f} to {high:+.3f})" if not math.isnan(low) else ""
    return f"{figure.name} {figure.challenger:.3f} against {figure.champion:.3f}, difference {figure.difference:+.3f}{between}"


def _needs(needed: int, truth: np.ndarray) -> str:
    counts = Counter(truth.tolist())
    rarest = min(range(len(LABELS)), key=lambda number: (counts[number], -number))
    about = f"more than {MOST_NEEDED:,}" if needed > MOST_NEEDED else f"about {needed:,} more"
    holds = f"{counts[rarest]} in the holdout" if counts[rarest] else "none in the holdout yet"
    return f"needs {about} decisions, most useful kind: {LABELS[rarest]} in threads not decided before ({holds})"


def _round(number: float) -> int:
    if number > MOST_NEEDED:
        return MOST_NEEDED + 1
    return max(10, math.ceil(number / 10) * 10)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
