"""How good a model is: pure functions of true labels, probabilities and threads.

The one implementation of every figure that the project quotes. Nothing here reads a file, runs a model or knows how a
figure is shown. Intervals are 95 % percentile bootstrap intervals (Efron & Tibshirani 1993) that resample whole threads,
because comments of one article are not independent. Every metric is written once, as a function of *weighted* rows: the
figure itself is the draw in which every thread weighs one, the intervals come from the other draws.

A figure that cannot be known (the AUC of a class that does not occur) is NaN here and null in `report.json`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from moderation.schema import LABELS, UserError

#: Thresholds of the moderator's tables.
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
#: Precisions at which recall and the share that needs no human are stated.
PRECISIONS = (0.9, 0.95, 0.99)
#: Bins of equal width in which calibration error is measured (Guo et al. 2017 use 15).
BINS = 15
#: A slice with fewer comments, or from fewer threads, is marked as small.
SMALL_ROWS, SMALL_THREADS = 30, 5

_CELLS = 4_000_000  # rows times draws that are held in memory at once


class Bootstrap:
    """Weights of resampled threads: draw 0 weighs every thread once, the others are drawn with replacement.

    One object serves every model and every slice, so that their draws are the same and differences are paired. The order
    of the rows changes nothing: threads are numbered by their sorted names.

    Args:
        groups: for each of N rows the name of its thread; rows of the same name are drawn together.
        draws: number of resamples; 0 gives figures without intervals.
        seed: of the random numbers.
    """

    def __init__(self, groups: Sequence[Hashable], draws: int = 1000, seed: int = 0) -> None:
        names, index = np.unique(np.asarray([str(name) for name in groups], dtype=object), return_inverse=True)
        self.threads = len(names)
        self.index = index.reshape(-1)
        self.draws = draws if self.threads > 1 else 0  # one thread resampled is always itself
        dtype = np.uint8 if self.threads != 256 else np.uint16
        self.weights = np.ones((self.draws + 1, self.threads), dtype=dtype)
        generator = np.random.default_rng(seed)
        for draw in range(1, self.draws + 1):
            drawn = np.bincount(generator.integers(self.threads, size=self.threads), minlength=self.threads)
            self.weights[draw] = np.minimum(drawn, 255)

    def totals(self, features: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Weighted sums (draws + 1, …) of row features (n, …), for all rows or those whose indices `rows` names."""
        index = self.index if rows is None else self.index[rows]
        features = np.asarray(features, dtype=np.float64)
        used, local = np.unique(index, return_inverse=True)
        flat = features.reshape(len(index), math.prod(features.shape[1:]))
        sums = np.zeros((len(used), flat.shape[1]))
        np.add.at(sums, local.reshape(-1), flat)
        totals = np.empty((self.draws + 1, flat.shape[1]))
        step = max(1, _CELLS // max(1, len(used)))
        for start in range(0, self.draws + 1, step):
            totals[start : start + step] = self.weights[start : start + step, used].astype(np.float64) @ sums
        return totals.reshape(self.draws + 1, *features.shape[1:])

    def ranking(self, positive: np.ndarray, score: np.ndarray, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """`auc`, `ap` and `best_f1` (each draws + 1) of a score that should be high for `positive` rows.

        AUC is the area under the ROC curve with ties counted half; AP is sum (R_n - R_n-1) P_n over distinct thresholds
        as in scikit-learn; best F1 is the largest over all thresholds.
        """
        index = self.index if rows is None else self.index[rows]
        # A stable, row-order-free order: ties in the score are summed up before they are used.
        order = np.argsort(-score, kind="stable")
        ordered = score[order]
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(score) else np.zeros(0, int)
        result = {name: np.full(self.draws + 1, np.nan) for name in ("auc", "ap", "best_f1")}
        if not len(score):
            return result
        positive, index = positive[order], index[order]
        step = max(1, _CELLS // len(score))
        for start in range(0, self.draws + 1, step):
            weights = self.weights[start : start + step][:, index].astype(np.float64)
            chosen = np.cumsum(weights, axis=1)[:, ends]
            hits = np.cumsum(weights * positive, axis=1)[:, ends]
            misses = chosen - hits
            with np.errstate(invalid="ignore", divide="ignore"):
                recall = hits / hits[:, -1:]
                precision = np.where(chosen > 0, hits / chosen, 0.0)
                fall_out = misses / misses[:, -1:]
                area = (
                    np.diff(fall_out, axis=1, prepend=0.0)
                    * (recall + np.concatenate([np.zeros_like(recall[:, :1]), recall[:, :-1]], 1))
                    / 2
                )
                part = slice(start, start + len(weights))
                result["auc"][part] = area.sum(1)
                result["ap"][part] = (np.diff(recall, axis=1, prepend=0.0) * precision).sum(1)
                best = (2 * hits / (chosen + hits[:, -1:])).max(1)
                result["best_f1"][part] = np.where(hits[:, -1] > 0, best, np.nan)
        return result


def interval(draws: np.ndarray) -> list[float]:
    """The middle 95 % of the draws (without draw 0); NaN draws are left out, [NaN, NaN] when fewer than 20 remain."""
    known = draws[1:][~np.isnan(draws[1:])]
    return [float(value) for value in np.percentile(known, (2.5, 97.5))] if len(known) >= 20 else [math.nan, math.nan]


def centred(draws: np.ndarray) -> list[float]:
    """`interval` for a figure that resampling itself raises, such as a calibration error: the draws are moved onto it."""
    known = draws[1:][~np.isnan(draws[1:])]
    return (
        [max(0.0, value) for value in interval(draws - known.mean() + draws[0])] if len(known) >= 20 else [math.nan, math.nan]
    )


def check(truth: Sequence[str], probabilities: np.ndarray, name: str = "the model") -> tuple[np.ndarray, np.ndarray]:
    """Truth as indices (N,) and probabilities as float64 (N, C), after refusing what would give a silent wrong figure.

    Raises:
        UserError: no rows, a label outside `schema.LABELS`, another shape, or numbers that are no probabilities.
    """
    if not len(truth):
        raise UserError("nothing to evaluate: expected at least one labelled row")
    for number, label in enumerate(truth, 1):
        if label not in LABELS:
            raise UserError(f"row {number}: label {label!r}; expected one of {', '.join(LABELS)}")
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.shape != (len(truth), len(LABELS)):
        raise UserError(f"{name} gave probabilities of shape {probabilities.shape}; expected ({len(truth)}, {len(LABELS)})")
    broken = ~np.isfinite(probabilities).all(1)
    if broken.any():
        raise UserError(
            f"{name} gave {broken.sum():,} of {len(truth):,} rows a probability that is no number; first in row {np.argmax(broken) + 1}"
        )
    wrong = (probabilities < -1e-6).any(1) | (np.abs(probabilities.sum(1) - 1) > 1e-3)
    if wrong.any():
        raise UserError(
            f"{name}: the probabilities of row {np.argmax(wrong) + 1} do not sum to 1 (sum {probabilities[np.argmax(wrong)].sum():.4f})"
        )
    return np.array([LABELS.index(label) for label in truth]), probabilities


def measure(
    truth: Sequence[str],
    probabilities: np.ndarray,
    groups: Sequence[Hashable] | None = None,
    *,
    bootstrap: Bootstrap | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict:
    """Every figure of one model on one set of rows, with intervals.

    Args:
        truth: N labels.
        probabilities: (N, 4) in the order of `schema.LABELS`.
        groups: N names of threads; without them every row is its own thread.
        bootstrap: shared draws, instead of `groups`, `draws` and `seed`.

    Returns:
        The part of `report.json` that docs/REPORT.md describes under "Figures of one model".

    Raises:
        UserError: see `check`.
    """
    indices, probabilities = check(truth, probabilities)
    if bootstrap is None:
        if groups is None:
            order = np.lexsort([*probabilities.T, indices])
            indices, probabilities = indices[order], probabilities[order]
            groups = [f"{number:09d}" for number in range(len(indices))]
        bootstrap = Bootstrap(groups, draws, seed)
    drawn = {**scores(indices, probabilities, bootstrap), **calibration_scores(indices, probabilities, bootstrap)}
    for number, label in enumerate(LABELS):
        for name, values in bootstrap.ranking(indices == number, probabilities[:, number]).items():
            if name != "best_f1":
                drawn[f"per_class.{label}.{name}"] = values
    with np.errstate(invalid="ignore"):
        for name in ("precision", "recall", "f1", "ap", "auc"):
            drawn[f"macro.{name}"] = _mean([drawn[f"per_class.{label}.{name}"] for label in LABELS])
    predicted = probabilities.argmax(1)
    confusion = np.zeros((len(LABELS), len(LABELS)), dtype=int)
    np.add.at(confusion, (indices, predicted), 1)
    result = {
        "n": len(indices),
        "threads": bootstrap.threads,
        "macro_f1": 0.0,
        "accuracy": 0.0,
        "kappa": 0.0,
        "ece": 0.0,
        "classwise_ece": 0.0,
        "brier": 0.0,
        "macro": {},
        "per_class": {
            label: {"n": int((indices == number).sum()), "predicted": int((predicted == number).sum())}
            for number, label in enumerate(LABELS)
        },
        "confusion": confusion.tolist(),
        "intervals": {},
    }
    for path, values in drawn.items():
        place = result
        *parents, last = path.split(".")
        for parent in parents:
            place = place[parent]
        place[last] = float(values[0])
        result["intervals"][path] = centred(values) if path.endswith("ece") else interval(values)
    for number, label in enumerate(LABELS):
        result["per_class"][label]["recall_at_precision"] = {
            f"{wanted:g}": recall_at_precision(indices == number, probabilities[:, number], wanted)["recall"]
            for wanted in PRECISIONS
        }
    result["calibration"] = reliability(indices, probabilities)
    return result


def scores(
    truth: np.ndarray, probabilities: np.ndarray, bootstrap: Bootstrap, rows: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Accuracy, Cohen's kappa, macro-F1 and per class precision, recall and F1, each (draws + 1).

    A class that never occurs among the rows has NaN and no part in the macro average; one that occurs but is never
    predicted has precision 0 and F1 0, as in scikit-learn with `zero_division=0`.
    """
    chosen = slice(None) if rows is None else rows
    classes = probabilities.shape[1]
    cells = np.eye(classes * classes)[truth[chosen] * classes + probabilities[chosen].argmax(1)]
    return from_confusion(bootstrap.totals(cells, rows).reshape(-1, classes, classes))


def from_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """The same from confusion matrices (D, C, C), true class first."""
    right = np.diagonal(confusion, axis1=1, axis2=2)
    support, predicted, total = confusion.sum(2), confusion.sum(1), confusion.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        missing = np.where(support > 0, 0.0, np.nan)
        precision = np.where(predicted > 0, right / predicted, 0.0) + missing
        recall = right / support + missing
        f1 = 2 * right / (support + predicted) + missing
        observed = right.sum(1) / total
        expected = (support * predicted).sum(1) / total**2
        result = {
            "macro_f1": _mean(list(f1.T)),
            "accuracy": observed,
            "kappa": np.where(expected < 1 - 1e-12, (observed - expected) / (1 - expected), np.nan),
        }
    for number, label in enumerate(LABELS):
        result[f"per_class.{label}.precision"] = precision[:, number]
        result[f"per_class.{label}.recall"] = recall[:, number]
        result[f"per_class.{label}.f1"] = f1[:, number]
    return result


def calibration_scores(truth: np.ndarray, probabilities: np.ndarray, bootstrap: Bootstrap) -> dict[str, np.ndarray]:
    """Expected calibration error (Guo et al. 2017), classwise ECE (Kull et al. 2019) and Brier score, each (draws + 1).

    ECE looks at the winning class, classwise ECE at every class and averages; both in `BINS` bins of equal width. The
    Brier score is the original one (Brier 1950): squared error summed over the classes, 0 best, 2 worst.
    """
    one_hot = np.eye(probabilities.shape[1])[truth]
    top = probabilities.max(1)
    right = (probabilities.argmax(1) == truth).astype(float)
    parts = [_binned(top, right)] + [_binned(probabilities[:, c], one_hot[:, c]) for c in range(probabilities.shape[1])]
    totals = bootstrap.totals(np.stack(parts, 1))  # draws, 1 + C, bins, (count, probability, outcome)
    gap = np.abs(totals[..., 1] - totals[..., 2]).sum(-1) / totals[..., 0].sum(-1)
    squares = bootstrap.totals(((probabilities - one_hot) ** 2).sum(1))
    return {"ece": gap[:, 0], "classwise_ece": gap[:, 1:].mean(1), "brier": squares / bootstrap.totals(np.ones(len(truth)))}


def _binned(probability: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """(N, BINS, 3): each row's one, probability and outcome in the bin of its probability."""
    place = np.clip(np.ceil(probability * BINS).astype(int) - 1, 0, BINS - 1)
    features = np.zeros((len(probability), BINS, 3))
    features[np.arange(len(probability)), place] = np.stack([np.ones_like(probability), probability, outcome], 1)
    return features


def reliability(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, list[dict[str, float]]]:
    """The reliability diagram: for the winning class ("top") and each label the non-empty bins with n, mean and share.

    `mean` is the mean probability in the bin and `share` how often it came true, with its Wilson interval.
    """
    columns = {"top": (probabilities.max(1), (probabilities.argmax(1) == truth).astype(float))}
    for number, label in enumerate(LABELS):
        columns[label] = (probabilities[:, number], (truth == number).astype(float))
    diagram = {}
    for name, (probability, outcome) in columns.items():
        bins = []
        for count, mass, hits in _binned(probability, outcome).sum(0):
            if count:
                bins.append({"n": int(count), "mean": mass / count, "share": hits / count, "interval": wilson(hits, count)})
        diagram[name] = bins
    return diagram


def wilson(hits: float, count: float) -> list[float]:
    """The 95 % score interval of a share (Wilson 1927), in which rows count as independent."""
    if not count:
        return [math.nan, math.nan]
    z2 = 1.959963984540054**2
    centre = (hits + z2 / 2) / (count + z2)
    half = math.sqrt(z2 * (hits * (count - hits) / count + z2 / 4)) / (count + z2)
    return [max(0.0, centre - half), min(1.0, centre + half)]


# --- the moderator's view


def threshold_table(truth: np.ndarray, probabilities: np.ndarray, bootstrap: Bootstrap) -> dict[str, list[dict]]:
    """For each label and each of `THRESHOLDS` precision, recall (both with intervals) and queue per 1,000 comments."""
    table = {}
    for number, label in enumerate(LABELS):
        flagged = probabilities[:, number, None] >= np.array(THRESHOLDS)
        positive = (truth == number)[:, None]
        totals = bootstrap.totals(np.stack([flagged, flagged & positive], -1))
        support = bootstrap.totals(positive.astype(float))
        count = bootstrap.totals(np.ones(len(truth)))
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = totals[..., 1] / totals[..., 0]
            recall = totals[..., 1] / support
            queue = 1000 * totals[..., 0] / count[:, None]
        table[label] = [
            {
                "threshold": threshold,
                "flagged": int(totals[0, place, 0]),
                "precision": float(precision[0, place]),
                "precision_interval": interval(precision[:, place]),
                "recall": float(recall[0, place]),
                "recall_interval": interval(recall[:, place]),
                "queue_per_1000": float(queue[0, place]),
            }
            for place, threshold in enumerate(THRESHOLDS)
        ]
    return table


def curve(positive: np.ndarray, score: np.ndarray, points: int = 80) -> list[dict[str, float]]:
    """Recall, precision and queue per 1,000 at thresholds from the strictest to the loosest, at most `points` of them."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(score[order][1:] != score[order][:-1], True))
    if len(ends) > points:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, points).astype(int))]
    hits = np.cumsum(positive[order])[ends]
    total = max(1, int(positive.sum()))
    return [
        {
            "threshold": float(score[order][end]),
            "recall": float(hit / total),
            "precision": float(hit / (end + 1)),
            "queue_per_1000": float(1000 * (end + 1) / len(score)),
        }
        for end, hit in zip(ends, hits, strict=True)
    ]


def recall_at_precision(positive: np.ndarray, score: np.ndarray, precision: float) -> dict[str, float]:
    """The largest recall at which `precision` holds, its threshold, and how many rows are flagged there.

    When no threshold reaches the precision: recall 0, no rows, threshold NaN. Recall is NaN without positive rows.
    """
    total = int(positive.sum())
    if not total:
        return {"recall": math.nan, "threshold": math.nan, "flagged": 0, "hits": 0}
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(score[order][1:] != score[order][:-1], True))
    hits = np.cumsum(positive[order])[ends]
    good = np.flatnonzero(hits / (ends + 1) >= precision - 1e-12)
    if not len(good) or not hits[good[-1]]:
        return {"recall": 0.0, "threshold": math.nan, "flagged": 0, "hits": 0}
    last = good[-1]
    return {
        "recall": float(hits[last] / total),
        "threshold": float(score[order][ends[last]]),
        "flagged": int(ends[last] + 1),
        "hits": int(hits[last]),
    }


def workload(truth: np.ndarray, probabilities: np.ndarray, share: float, bootstrap: Bootstrap, steps: int = 48) -> dict:
    """The thresholds by which a queue of at most `share` of all comments holds the most that is not on-topic.

    A comment is queued when the probability of off-topic, spam or low-effort reaches that label's threshold. All
    combinations of up to `steps` thresholds a label (quantiles of its upper `share` of scores, and "never") are compared
    exactly, by cumulative counts over the cube of scores. The thresholds are chosen on the same rows on which they are measured, which flatters them a
    little; the intervals hold the thresholds fixed.

    Args:
        truth: (N,) indices. probabilities: (N, 4). share: queue as a part of all comments, 0..1.
    """
    labels = [number for number, label in enumerate(LABELS) if label != "on-topic"]
    wanted = truth != LABELS.index("on-topic")
    grids, places = [], []
    for number in labels:
        column = probabilities[:, number]
        # No label alone may queue more than the budget, so only the upper `share` of its scores can be a threshold.
        grid = np.unique(np.floor(np.quantile(column, 1 - share * np.linspace(0, 1, steps), method="higher") * 1e6) / 1e6)
        grids.append(np.append(grid, 1.0 if column.max() < 1 else np.nextafter(1, 2)))
        places.append(np.searchsorted(grids[-1], column, side="right"))  # thresholds that this row reaches
    shape = tuple(len(grid) + 1 for grid in grids)
    counts, hits = np.zeros(shape), np.zeros(shape)
    np.add.at(counts, tuple(places), 1)
    np.add.at(hits, tuple(places), wanted)
    for axis in range(3):
        counts, hits = counts.cumsum(axis), hits.cumsum(axis)
    # Thresholds (i, j, k) leave exactly the rows alone that reach at most i, j and k of them.
    inside = tuple(slice(0, len(grid)) for grid in grids)
    queued, caught = len(truth) - counts[inside], wanted.sum() - hits[inside]
    allowed = queued <= share * len(truth) + 1e-9
    value = np.where(allowed, caught * (len(truth) + 1) - queued, -np.inf)
    best = np.unravel_index(int(value.argmax()), value.shape)
    thresholds = {LABELS[number]: float(min(1.0, grids[axis][best[axis]])) for axis, number in enumerate(labels)}
    flagged = np.zeros(len(truth), dtype=bool)
    for axis, number in enumerate(labels):
        flagged |= probabilities[:, number] >= grids[axis][best[axis]]
    totals = bootstrap.totals(np.stack([flagged, flagged & wanted, wanted, np.ones(len(truth))], -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision, queue = totals[:, 1] / totals[:, 2], totals[:, 1] / totals[:, 0], 1000 * totals[:, 0] / totals[:, 3]
    return {
        "share": share,
        "thresholds": thresholds,
        "queue_per_1000": float(queue[0]),
        "queue_interval": interval(queue),
        "recall": float(recall[0]),
        "recall_interval": interval(recall),
        "precision": float(precision[0]),
        "precision_interval": interval(precision),
        "random_recall": float(queue[0] / 1000),
        "per_class": {
            LABELS[number]: float(flagged[truth == number].mean()) if (truth == number).any() else math.nan
            for number in range(len(LABELS))
        },
    }


def automation(truth: np.ndarray, probabilities: np.ndarray, precision: float, bootstrap: Bootstrap) -> dict:
    """The share of comments that needs no human when a label may be given unseen at `precision`.

    A comment is settled by machine when its winning label's probability reaches that label's threshold, the lowest at
    which `precision` held on these rows. `assured` says whether the rows are enough to be 95 % sure of that precision (the
    one-sided bound of Clopper & Pearson 1934): a few lucky rows are not.
    """
    from scipy.stats import beta

    predicted, top = probabilities.argmax(1), probabilities.max(1)
    settled = np.zeros(len(truth), dtype=bool)
    labels = {}
    for number, label in enumerate(LABELS):
        mine = predicted == number
        found = recall_at_precision((truth == number)[mine], top[mine], precision)
        count, hits = found["flagged"], found["hits"]
        reached = mine & (top >= found["threshold"]) if count else np.zeros(len(truth), dtype=bool)
        settled |= reached
        low = float(beta.ppf(0.05, hits, count - hits + 1)) if hits else 0.0
        labels[label] = {
            "threshold": found["threshold"],
            "settled": count,
            "share": count / len(truth),
            "precision": hits / count if count else math.nan,
            "precision_at_least": low,
            "assured": bool(count and low >= precision),
        }
    totals = bootstrap.totals(np.stack([settled, np.ones(len(truth))], -1))
    share = totals[:, 0] / totals[:, 1]
    return {"precision": precision, "share": float(share[0]), "share_interval": interval(share), "per_class": labels}


# --- slices, comparisons, agreement


def slices(
    truth: np.ndarray, probabilities: np.ndarray, columns: Mapping[str, Sequence[str]], bootstrap: Bootstrap
) -> list[dict]:
    """One entry for every value of every column: n, threads, accuracy and macro-F1 with intervals, and whether it is small.

    From fewer than `SMALL_THREADS` threads no interval is given: resampling so few would promise too much.

    `accuracy` (the share labelled right) is what slices are compared by: a slice with one class has no other honest figure.
    `macro_f1` is over the classes that occur in the slice, NaN when there is only one.
    """
    result = []
    for column, values in columns.items():
        values = np.asarray(values, dtype=object)
        for value in sorted(set(values), key=str):
            rows = np.flatnonzero(values == value)
            drawn = scores(truth, probabilities, bootstrap, rows)
            threads = len(np.unique(bootstrap.index[rows]))
            several = len(np.unique(truth[rows])) > 1
            if threads < SMALL_THREADS:
                drawn = {name: values[:1] for name, values in drawn.items()}
            result.append(
                {
                    "column": column,
                    "value": str(value),
                    "n": len(rows),
                    "threads": threads,
                    "accuracy": float(drawn["accuracy"][0]),
                    "accuracy_interval": interval(drawn["accuracy"]),
                    "macro_f1": float(drawn["macro_f1"][0]) if several else math.nan,
                    "macro_f1_interval": interval(drawn["macro_f1"]) if several else [math.nan, math.nan],
                    "small": len(rows) < SMALL_ROWS or threads < SMALL_THREADS,
                }
            )
    return result


def worst_slices(found: Sequence[Mapping], count: int = 5) -> list[Mapping]:
    """The slices with the lowest accuracy among those that are not small and are not the whole."""
    whole = {entry["column"]: sum(other["n"] for other in found if other["column"] == entry["column"]) for entry in found}
    fit = [entry for entry in found if not entry["small"] and entry["n"] < whole[entry["column"]]]
    return sorted(fit, key=lambda entry: (entry["accuracy"], entry["column"], entry["value"]))[:count]


def compare(
    truth: np.ndarray,
    ours: np.ndarray,
    theirs: np.ndarray,
    bootstrap: Bootstrap,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> dict:
    """Is the first model better, worse, or can one not tell? Overall, by class and by slice.

    The verdict is the paired bootstrap's: both models on the same drawn threads, and the 95 % interval of the difference
    leaves out zero or not; for a small slice one cannot tell. McNemar's exact test (1947) on right and wrong stands
    beside it; it takes rows as independent, which comments of one thread are not, so it is the less careful of the two.

    Args:
        truth: (N,) indices. ours, theirs: (N, 4) probabilities. columns: slices, as in `slices`.
    """
    drawn, other = scores(truth, ours, bootstrap), scores(truth, theirs, bootstrap)
    predictions = ours.argmax(1), theirs.argmax(1)
    result = {
        "macro_f1": difference(drawn["macro_f1"] - other["macro_f1"]),
        "accuracy": difference(drawn["accuracy"] - other["accuracy"]),
        "mcnemar": mcnemar(predictions[0] == truth, predictions[1] == truth),
        "per_class": {},
        "slices": [],
    }
    for number, label in enumerate(LABELS):
        name = f"per_class.{label}.f1"
        result["per_class"][label] = {
            **difference(drawn[name] - other[name]),
            "mcnemar": mcnemar(*[(chosen == number) == (truth == number) for chosen in predictions]),
        }
    for column, values in (columns or {}).items():
        values = np.asarray(values, dtype=object)
        for value in sorted(set(values), key=str):
            rows = np.flatnonzero(values == value)
            gain = (predictions[0] == truth).astype(float) - (predictions[1] == truth)
            totals = bootstrap.totals(np.stack([gain[rows], np.ones(len(rows))], -1), rows)
            with np.errstate(invalid="ignore", divide="ignore"):
                drawn_gain = totals[:, 0] / totals[:, 1]
            small = len(rows) < SMALL_ROWS or len(np.unique(bootstrap.index[rows])) < SMALL_THREADS
            gained = difference(drawn_gain[:1] if small else drawn_gain)
            result["slices"].append({"column": column, "value": str(value), "n": len(rows), **gained})
    return result


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """McNemar's exact two-sided test on which rows (N, bool) each of two models got right."""
    from scipy.stats import binomtest

    only_ours, only_theirs = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    both = only_ours + only_theirs
    return {"only_first": only_ours, "only_second": only_theirs, "p": float(binomtest(only_ours, both).pvalue) if both else 1.0}


def difference(draws: np.ndarray) -> dict:
    """The difference of two figures from their paired draws (draws + 1): value, interval, and "better", "worse" or "cannot tell"."""
    low, high = interval(draws)
    verdict = "better" if low > 0 else "worse" if high < 0 else "cannot tell"
    return {"difference": float(draws[0]), "interval": [low, high], "verdict": verdict}


def agreement(
    first: Sequence[str], second: Sequence[str], groups: Sequence[Hashable], *, draws: int = 1000, seed: int = 0
) -> dict:
    """How far two annotators agree, as the ceiling: kappa (Cohen 1960), share, and the second one's F1 against the first.

    Raises:
        UserError: a label outside `schema.LABELS`, or no rows with both.
    """
    indices, one_hot = check(
        first, np.eye(len(LABELS))[[LABELS.index(label) if label in LABELS else -1 for label in second]], "the second annotator"
    )
    for number, label in enumerate(second, 1):
        if label not in LABELS:
            raise UserError(f"row {number}: second label {label!r}; expected one of {', '.join(LABELS)}")
    drawn = scores(indices, one_hot, Bootstrap(groups, draws, seed))
    return {
        "n": len(indices),
        **{name: float(drawn[name][0]) for name in ("kappa", "accuracy", "macro_f1")},
        "kappa_interval": interval(drawn["kappa"]),
        "per_class": {label: float(drawn[f"per_class.{label}.f1"][0]) for label in LABELS},
    }


# --- one question: a class against the rest, and groups of people


def binary(
    positive: Sequence[int] | np.ndarray, score: np.ndarray, groups: Sequence[Hashable], *, draws: int = 1000, seed: int = 0
) -> dict:
    """AUC, average precision and best F1 of one score for a yes-no question, with intervals.

    `flag_all_f1` is the F1 of calling everything positive, below which a best F1 says nothing. The best F1 picks its
    threshold on the rows that it is measured on.

    Raises:
        UserError: no rows, or a score that is no number.
    """
    positive, score = np.asarray(positive).astype(bool), np.asarray(score, dtype=np.float64)
    if not len(positive):
        raise UserError("nothing to evaluate: expected at least one row")
    if not np.isfinite(score).all():
        raise UserError(f"{(~np.isfinite(score)).sum():,} of {len(score):,} rows have a score that is no number")
    bootstrap = Bootstrap(groups, draws, seed)
    drawn = bootstrap.ranking(positive, score)
    share = positive.mean()
    best = max(
        curve(positive, score, len(score)),
        key=lambda point: 2 * point["recall"] * point["precision"] / ((point["recall"] + point["precision"]) or 1),
    )
    return {
        "n": len(positive),
        "positive": int(positive.sum()),
        "threads": bootstrap.threads,
        **{name: float(values[0]) for name, values in drawn.items()},
        "best_f1_threshold": best["threshold"] if positive.any() else math.nan,
        "flag_all_f1": float(2 * share / (1 + share)),
        "intervals": {name: interval(values) for name, values in drawn.items()},
    }


def subgroups(positive: np.ndarray, score: np.ndarray, members: Mapping[str, np.ndarray], bootstrap: Bootstrap) -> dict:
    """The AUCs of Borkan et al. 2019 (arXiv:1903.04561): how a score treats comments that mention a group.

    For each group `subgroup_auc` (within the group), `bpsn_auc` (background positive, subgroup negative: low when harmless
    comments that mention the group score too high) and `bnsp_auc` (the reverse). `means` are their generalised means with
    p = -5, as in the Jigsaw challenge, over the groups where each is known.

    Args:
        positive, score: (N,). members: by group (N,) bool.
    """
    entries = {}
    for name, member in members.items():
        member = np.asarray(member, dtype=bool)
        entry: dict[str, object] = {"n": int(member.sum()), "positive": int((member & positive).sum())}
        selections = {
            "subgroup_auc": member,
            "bpsn_auc": (member & ~positive) | (~member & positive),
            "bnsp_auc": (member & positive) | (~member & ~positive),
        }
        for figure, selected in selections.items():
            rows = np.flatnonzero(selected)
            drawn = bootstrap.ranking(positive[rows], score[rows], rows)["auc"]
            entry[figure], entry[figure + "_interval"] = float(drawn[0]), interval(drawn)
        entries[name] = entry
    means = {}
    for figure in ("subgroup_auc", "bpsn_auc", "bnsp_auc"):
        known = np.array([entry[figure] for entry in entries.values() if not math.isnan(entry[figure])])
        means[figure] = float(np.mean(np.maximum(known, 1e-9) ** -5.0) ** (-1 / 5)) if len(known) else math.nan
    return {"groups": entries, "means": means}


def label_issues(truth: np.ndarray, probabilities: np.ndarray) -> list[tuple[int, float]]:
    """Rows whose label is probably wrong, the most suspicious first: (row, quality 0..1 of its label).

    Confident learning (Northcutt et al. 2021, arXiv:1911.00068) by cleanlab. The probabilities must come from a model
    that was not trained on these rows.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    present = np.unique(truth)
    if len(present) < 2 or len(truth) < 2 * len(present):
        return []
    local = np.searchsorted(present, truth)
    shares = np.clip(probabilities[:, present], 1e-12, None)
    shares = shares / shares.sum(1, keepdims=True)
    found = find_label_issues(local, shares, return_indices_ranked_by="self_confidence", n_jobs=1)
    quality = get_label_quality_scores(local, shares)
    return [(int(row), float(quality[row])) for row in found]


def _mean(columns: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over the columns that are known, NaN where none is."""
    stacked = np.stack(columns)
    known = ~np.isnan(stacked)
    count = known.sum(0)
    return np.where(count > 0, np.where(known, stacked, 0.0).sum(0) / np.maximum(count, 1), np.nan)
