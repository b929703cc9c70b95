"""May the challenger replace the champion? Pure: labels, probabilities and threads in, a judgement with its sentence out.

Both models are judged on the same rows, and every difference has its paired bootstrap interval (`evaluate.Bootstrap`, by
thread). The challenger must be better on the site's own holdout, and must not lose more than the limits allow where it
must not be worse. A loss counts against it when nine draws in ten exceed the limit: with few rows a figure jumps about, and
a gate that is shut by noise would never open. Too few labels for a judgement is an answer, and says how many are missing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from moderation.policy import LIMITS, Policy
from moderation.schema import LABELS
from training import evaluate

#: A holdout with fewer rows or threads judges nothing.
LEAST_ROWS, LEAST_THREADS = 60, 5
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
        difference: challenger minus champion, with its 95 % `interval`. limit: the loss that is allowed; None for the
        figure that must be better. verdict: "better", "worse" or "cannot tell". lost: whether the limit is exceeded.
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
    holdout: Rows, base: Rows | None, attacked: Rows | None, policy: Policy, share: float, draws: int = 1000
) -> Judgement:
    """Judge a challenger.

    Args:
        holdout: the site's own. base: our test split. attacked: its comments in disguise.
        policy: whose limits hold. share: part of all decisions that go to the holdout, 0..1.
    """
    limits = {**LIMITS, **policy.limits}
    if len(holdout.truth) < LEAST_ROWS or len(set(holdout.groups)) < LEAST_THREADS:
        missing = max(LEAST_ROWS - len(holdout.truth), 10 * (LEAST_THREADS - len(set(holdout.groups))))
        needed = _round(missing / share)
        have = f"{len(holdout.truth)} decisions from {_count(len(set(holdout.groups)), 'thread')}"
        sentence = f"cannot judge on a holdout of {have}: {_needs(needed, holdout.truth)}"
        return Judgement("undecided", sentence, needed, ())
    bootstrap = evaluate.Bootstrap(holdout.groups, draws)
    figures = _protected(holdout, bootstrap, limits)
    if base is not None:
        over = evaluate.Bootstrap(base.groups, draws)
        ours, theirs = (evaluate.scores(base.truth, p, over) for p in (base.challenger, base.champion))
        figures += [
            _figure("base macro-F1", ours["macro_f1"], theirs["macro_f1"], limits),
            _figure("base spam precision", ours["per_class.spam.precision"], theirs["per_class.spam.precision"], limits),
            # F1, not recall: where it draws the line is the site's business, what it can tell apart must not be forgotten.
            _figure("base off-topic F1", ours["per_class.off-topic.f1"], theirs["per_class.off-topic.f1"], limits),
        ]
    if attacked is not None:
        over = evaluate.Bootstrap(attacked.groups, draws)
        ours, theirs = (evaluate.scores(attacked.truth, p, over) for p in (attacked.challenger, attacked.champion))
        figures.append(_figure("robustness", ours["accuracy"], theirs["accuracy"], limits))
    ours, theirs = (evaluate.scores(holdout.truth, p, bootstrap) for p in (holdout.challenger, holdout.champion))
    main = _figure("macro-F1", ours["macro_f1"], theirs["macro_f1"], {})
    figures.insert(0, main)
    lost = [figure for figure in figures if figure.lost]
    if main.verdict == "worse":
        return Judgement("refuse", f"refused: worse on the site's own holdout: {_said(main)}", 0, tuple(figures))
    if lost:
        worst = max(lost, key=lambda figure: -figure.difference / max(figure.limit or 0, 0.01))
        sentence = f"refused: {worst.name} would fall from {worst.champion:.2f} to {worst.challenger:.2f}, more than the {worst.limit:.2f} that may be lost"
        return Judgement("refuse", sentence, 0, tuple(figures))
    if main.verdict == "better":
        return Judgement(
            "promote", f"better on the site's own holdout: {_said(main)}; nothing protected is lost", 0, tuple(figures)
        )
    if main.difference <= 0:
        return Judgement("refuse", f"refused: no better on the site's own holdout: {_said(main)}", 0, tuple(figures))
    # Intervals shrink with the root of the number of rows: as many as bring the lower end above zero.
    half = (main.interval[1] - main.interval[0]) / 2
    needed = _round(len(holdout.truth) * ((half / main.difference) ** 2 - 1) / share)
    sentence = f"cannot tell whether it is better: {_said(main)}; {_needs(needed, holdout.truth)}"
    return Judgement("undecided", sentence, needed, tuple(figures))


def _protected(rows: Rows, bootstrap: evaluate.Bootstrap, limits: Mapping[str, float]) -> list[Figure]:
    ours, theirs = (evaluate.scores(rows.truth, p, bootstrap) for p in (rows.challenger, rows.champion))
    figures = []
    for name, path, number in (
        ("spam precision", "per_class.spam.precision", _SPAM),
        ("off-topic recall", "per_class.off-topic.recall", _OFF),
    ):
        if (rows.truth == number).any():
            figures.append(_figure(name, ours[path], theirs[path], limits))
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


def _figure(name: str, ours: np.ndarray, theirs: np.ndarray, limits: Mapping[str, float]) -> Figure:
    limit = limits.get(name.split(" (")[0])
    draws = ours - theirs
    found = evaluate.difference(draws)
    known = draws[1:][~np.isnan(draws[1:])]
    lost = bool(limit is not None and draws[0] < -limit and len(known) and (known < -limit).mean() >= SURE)
    return Figure(
        name, float(theirs[0]), float(ours[0]), float(draws[0]), tuple(found["interval"]), limit, found["verdict"], lost
    )


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
