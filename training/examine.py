"""One examination: models and yardsticks on the same labelled rows, as the dict that becomes `report.json`.

`evaluate` knows the figures, `report` how they are shown; this module runs the models and puts the parts together. The
dict is described in docs/REPORT.md; `SCHEMA_VERSION` rises when an entry of it changes its meaning or goes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from moderation.schema import LABELS, Comment, UserError
from training import evaluate, fairness, robustness
from training.labelled import Labelled, leaked, slice_columns

if TYPE_CHECKING:
    from moderation.model import Moderator

SCHEMA_VERSION = 1
#: Comments that are drawn at random for each attack; swaps a category of identity terms.
ATTACKED, SWAPPED = 300, 300
#: Mistakes and suspicious labels that a report holds.
SHOWN_ERRORS, SHOWN_ISSUES = 25, 50
#: Fewer rows or threads than this are no ground to stand on, and the report says so.
FEW_ROWS, FEW_THREADS = 100, 10
_CHUNK = 1024

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that gives probabilities.

    Attributes:
        name: as the report calls it.
        predict: comments to probabilities (N, 4).
        moderator: the model itself, where it is one of ours: it can give reasons.
        folder: its directory, which may say what it was trained on.
        note: one sentence on how it came to be, such as what a yardstick learned from.
    """

    name: str
    predict: Callable[[Sequence[Comment]], np.ndarray]
    moderator: Moderator | None = None
    folder: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Questions:
    """What a caller wants to know beyond the standard figures.

    Attributes:
        budget: the part of all comments that people can read, 0..1.
        auto_precision: precision at which a label may be given unseen.
        slices: columns to slice by, besides the standard ones.
        identities: columns with membership (0..1, from 0.5 on a member) for subgroup metrics.
        second_label: column with a second annotator's label.
        positive_label: the label that `positive` stands for; rows then answer one question only.
        probe: run the attacks and the identity swaps.
        draws: bootstrap resamples. seed: of every random choice.
    """

    budget: float = 0.04
    auto_precision: float = 0.99
    slices: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    second_label: str | None = None
    positive_label: str | None = None
    probe: bool = True
    draws: int = 1000
    seed: int = 0


def examine(
    data: Labelled,
    contenders: Sequence[Contender],
    questions: Questions = Questions(),
    progress: Progress = lambda what, done, total: None,
) -> dict:
    """Examine the first contender in full and hold the others against it.

    Args:
        data: see `labelled.read`. progress: called with what is being done, how far it is, and how far it goes.

    Raises:
        UserError: the rows or the probabilities allow no honest figure.
    """
    check(data, questions)
    bootstrap = evaluate.Bootstrap(data.groups, questions.draws, questions.seed)
    probabilities = [_predict(contender, data.comments, progress) for contender in contenders]
    report: dict = {
        "schema_version": SCHEMA_VERSION,
        "kind": "binary" if questions.positive_label else "labels",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": contenders[0].name,
        "note": contenders[0].note,
        "data": _describe(data, questions),
        "warnings": [{"code": code, "text": text} for code, text in data.warnings],
    }

    def warn(code: str, text: str) -> None:
        report["warnings"].append({"code": code, "text": text})

    if len(data) < FEW_ROWS:
        warn("few-rows", f"only {len(data)} rows: the intervals are wide, and the figures decide nothing")
    if bootstrap.threads < FEW_THREADS:
        warn(
            "few-threads",
            f"the rows come from {bootstrap.threads} thread{'s' * (bootstrap.threads != 1)}: intervals by thread need {FEW_THREADS} or more",
        )
    report["leakage"] = _leakage(data, contenders, warn)
    if questions.positive_label:
        return report | _binary(data, contenders, probabilities, questions, bootstrap, warn)

    truth, _ = evaluate.check(data.truth, probabilities[0], contenders[0].name)
    missing = [label for number, label in enumerate(LABELS) if not (truth == number).any()]
    if len(missing) == len(LABELS) - 1:
        warn("one-class", f"every row is {data.truth[0]}: kappa, AUC and macro-F1 say nothing about telling classes apart")
    elif missing:
        warn(
            "missing-classes",
            f"no row is {' or '.join(missing)}: macro figures are over the {len(LABELS) - len(missing)} labels that occur",
        )
    clean = probabilities[0]
    report |= evaluate.measure(data.truth, clean, bootstrap=bootstrap)
    report["without_trained_on"] = _without_leaks(truth, clean, report["leakage"][0], data)
    progress("slices", 0, 0)
    columns = slice_columns(data, questions.slices)
    report["slices"] = evaluate.slices(truth, clean, columns, bootstrap)
    report["worst_slices"] = evaluate.worst_slices(report["slices"])
    report["moderation"] = {
        "thresholds": evaluate.threshold_table(truth, clean, bootstrap),
        "curves": {label: evaluate.curve(truth == number, clean[:, number]) for number, label in enumerate(LABELS)},
        "budget": evaluate.workload(truth, clean, questions.budget, bootstrap),
        "automation": evaluate.automation(truth, clean, questions.auto_precision, bootstrap),
    }
    on_topic = LABELS.index("on-topic")
    report["fairness"] = {
        "false_alarms": fairness.false_alarms(data.comments, truth, clean),
        "mentions": evaluate.subgroups(
            truth != on_topic, 1 - clean[:, on_topic], fairness.membership(data.comments), bootstrap
        ),
    }
    if questions.identities:
        report["fairness"]["subgroups"] = evaluate.subgroups(
            truth != on_topic, 1 - clean[:, on_topic], _members(data, questions.identities), bootstrap
        )
    if questions.probe:
        report["fairness"]["swaps"] = _swapped(data, contenders[0], clean, bootstrap, questions, progress)
        report["robustness"] = _attacked(data, contenders[0], truth, clean, bootstrap, questions, progress)
    report["errors"] = _errors(data, truth, clean, contenders[0])
    report["scores"] = [[label, *row] for label, row in zip(data.truth, clean.round(4).tolist(), strict=True)]
    issues = evaluate.label_issues(truth, clean)
    report["label_issues"] = {
        "n": len(issues),
        "rows": [_row(data, row, clean[row]) | {"quality": quality} for row, quality in issues[:SHOWN_ISSUES]],
    }
    report["agreement"] = _agreement(data, questions, warn)
    report["others"], report["comparisons"] = [], []
    for contender, other in zip(contenders[1:], probabilities[1:], strict=True):
        evaluate.check(data.truth, other, contender.name)
        figures = evaluate.measure(data.truth, other, bootstrap=bootstrap)
        figures["calibration"] = {"top": figures["calibration"]["top"]}
        figures["moderation"] = {
            "curves": {label: evaluate.curve(truth == number, other[:, number]) for number, label in enumerate(LABELS)}
        }
        report["others"].append({"model": contender.name, "note": contender.note, **figures})
        report["comparisons"].append({"with": contender.name, **evaluate.compare(truth, clean, other, bootstrap, columns)})
    return report


def check(data: Labelled, questions: Questions) -> None:
    """Refuse questions that the rows cannot answer, before any model is loaded.

    Raises:
        UserError: an unknown column or label.
    """
    columns = set().union(*data.rows)
    for option, names in (
        ("--slice", questions.slices),
        ("--group", questions.identities),
        ("--second-label", (questions.second_label,)),
    ):
        for name in names:
            if name and name not in columns:
                raise UserError(f"{option} {name}: no such column; found {', '.join(sorted(columns)[:30])}")
    if questions.positive_label and questions.positive_label not in LABELS:
        raise UserError(f"--positive-label {questions.positive_label!r}; expected one of {', '.join(LABELS)}")


def save_thresholds(report: dict) -> dict:
    """The thresholds of the budget as a threshold file for `moderation score --threshold-file`."""
    chosen = report["moderation"]["budget"]["thresholds"]
    return {"on-topic": {"approve": 0.0}, **{label: {"review": value} for label, value in chosen.items()}}


def _predict(contender: Contender, comments: Sequence[Comment], progress: Progress, what: str = "") -> np.ndarray:
    parts = []
    for start in range(0, len(comments), _CHUNK):
        progress(what or contender.name, start, len(comments))
        parts.append(np.asarray(contender.predict(comments[start : start + _CHUNK]), dtype=np.float64))
    progress(what or contender.name, len(comments), len(comments))
    return np.concatenate(parts) if parts else np.zeros((0, len(LABELS)))


def _describe(data: Labelled, questions: Questions) -> dict:
    lines = sorted(
        json.dumps([row.get(name, "") for name in ("comment_id", "comment_text", "article_title", "label", "positive")])
        for row in data.rows
    )
    answers = Counter(data.truth) if not questions.positive_label else Counter(map(str, data.positive))
    return {
        "n": len(data),
        "threads": len(set(data.groups)),
        "labels": {label: answers[label] for label in (LABELS if not questions.positive_label else ("1", "0"))},
        "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    }


def _leakage(data: Labelled, contenders: Sequence[Contender], warn: Callable[[str, str], None]) -> list[dict]:
    result = []
    for contender in contenders:
        rows = leaked(data, contender.folder)
        entry: dict = {"model": contender.name, "known": rows is not None, "rows": None, "share": None, "long": None, "ids": []}
        if rows is not None:
            long = [row for row in rows if len(data.comments[row].text.split()) >= 4]
            entry |= {
                "rows": len(rows),
                "share": len(rows) / len(data),
                "long": len(long),
                "ids": [data.comments[row].comment_id for row in rows],
            }
            if rows:
                warn(
                    "leakage",
                    f"{contender.name} was trained on the text of {len(rows):,} of these {len(data):,} comments ({len(long):,} of them of four words or more): its figures flatter it",
                )
        elif contender.folder:
            warn(
                "leakage-unknown",
                f"{contender.name} does not say what it was trained on (no trained_on.txt): whether it knew these rows is unknown",
            )
        result.append(entry)
    return result


def _without_leaks(truth: np.ndarray, probabilities: np.ndarray, entry: dict, data: Labelled) -> dict | None:
    known = set(entry["ids"])
    rows = np.array([row for row, comment in enumerate(data.comments) if comment.comment_id not in known], dtype=int)
    if not known or not len(rows):
        return None
    drawn = evaluate.scores(truth, probabilities, evaluate.Bootstrap(data.groups, 0), rows)
    return {"n": len(rows), "macro_f1": float(drawn["macro_f1"][0]), "accuracy": float(drawn["accuracy"][0])}


def _binary(
    data: Labelled,
    contenders: Sequence[Contender],
    probabilities: Sequence[np.ndarray],
    questions: Questions,
    bootstrap: evaluate.Bootstrap,
    warn,
) -> dict:
    column = LABELS.index(questions.positive_label)
    positive = np.array(data.positive, dtype=bool)
    if positive.all() or not positive.any():
        warn("one-class", f"every row has positive = {int(positive[0])}: there is nothing to tell apart, so AUC is unknown")
    figures, areas = [], []
    for contender, values in zip(contenders, probabilities, strict=True):
        evaluate.check([LABELS[0]] * len(data), values, contender.name)
        figures.append(
            {
                "model": contender.name,
                "note": contender.note,
                **evaluate.binary(positive, values[:, column], data.groups, draws=questions.draws, seed=questions.seed),
            }
        )
        areas.append(bootstrap.ranking(positive, values[:, column]))
    score = probabilities[0][:, column]
    return {
        "positive_label": questions.positive_label,
        **{key: value for key, value in figures[0].items() if key not in ("model", "note")},
        "curve": evaluate.curve(positive, score) if positive.any() else [],
        "subgroups": evaluate.subgroups(positive, score, _members(data, questions.identities), bootstrap)
        if questions.identities
        else None,
        "others": figures[1:],
        "comparisons": [
            {
                "with": contender.name,
                **{name: evaluate.difference(areas[0][name] - other[name]) for name in ("auc", "ap", "best_f1")},
            }
            for contender, other in zip(contenders[1:], areas[1:], strict=True)
        ],
    }


def _members(data: Labelled, names: Sequence[str]) -> dict[str, np.ndarray]:
    members = {}
    for name in names:
        try:
            members[name] = np.array([float(row.get(name) or 0) >= 0.5 for row in data.rows])
        except ValueError as error:
            raise UserError(f"--group {name}: expected numbers from 0 to 1 in that column ({error})") from error
    return members


def _swapped(
    data: Labelled,
    contender: Contender,
    clean: np.ndarray,
    bootstrap: evaluate.Bootstrap,
    questions: Questions,
    progress: Progress,
) -> dict:
    made = fairness.swaps(data.comments, SWAPPED, seed=questions.seed)
    changed = _predict(contender, [swap.comment for swap in made], progress, "identity terms swapped")
    return fairness.steadiness(made, clean, changed, bootstrap)


def _attacked(
    data: Labelled,
    contender: Contender,
    truth: np.ndarray,
    clean: np.ndarray,
    bootstrap: evaluate.Bootstrap,
    questions: Questions,
    progress: Progress,
) -> dict:
    # Drawn by what a comment is, not where it stands, so that the order of the rows changes nothing.
    order = sorted(
        range(len(data)),
        key=lambda row: hashlib.sha256(
            f"{questions.seed}:{data.comments[row].comment_id}:{data.comments[row].text}".encode("utf-8", "surrogatepass")
        ).digest(),
    )
    result = {}
    for name in robustness.ATTACKS:
        rows, comments = robustness.attack([data.comments[row] for row in order], name, questions.seed)
        rows, comments = rows[:ATTACKED], comments[:ATTACKED]
        changed = _predict(contender, comments, progress, f"attack: {name}")
        result[name] = robustness.resistance(
            truth, clean, changed, np.array([order[row] for row in rows], dtype=int), bootstrap
        )
    return result


def _row(data: Labelled, row: int, probabilities: np.ndarray) -> dict:
    comment = data.comments[row]
    label = LABELS[int(probabilities.argmax())]
    return {
        "comment_id": comment.comment_id,
        "comment_text": comment.text[:1500],
        "article_title": comment.article.title,
        "parent_text": comment.parent_text[:500],
        "label": data.truth[row],
        "predicted": label,
        "p": float(probabilities.max()),
        "p_label": float(probabilities[LABELS.index(data.truth[row])]),
    }


def _errors(data: Labelled, truth: np.ndarray, probabilities: np.ndarray, contender: Contender) -> list[dict]:
    predicted = probabilities.argmax(1)
    wrong = sorted(
        np.flatnonzero(predicted != truth).tolist(), key=lambda row: (-probabilities[row].max(), data.comments[row].comment_id)
    )[:SHOWN_ERRORS]
    reasons = (
        [verdict.reason for verdict in contender.moderator.predict([data.comments[row] for row in wrong])]
        if contender.moderator and wrong
        else [""] * len(wrong)
    )
    return [_row(data, row, probabilities[row]) | {"reason": reason} for row, reason in zip(wrong, reasons, strict=True)]


def _agreement(data: Labelled, questions: Questions, warn: Callable[[str, str], None]) -> dict | None:
    name = questions.second_label
    if not name:
        return None
    both = [row for row in range(len(data)) if data.rows[row].get(name)]
    if not both:
        raise UserError(f"--second-label {name}: that column is empty in every row")
    if len(both) < len(data):
        warn("second-label", f"{len(data) - len(both):,} of {len(data):,} rows have no {name}; agreement is over the others")
    found = evaluate.agreement(
        [data.truth[row] for row in both],
        [data.rows[row][name] for row in both],
        [data.groups[row] for row in both],
        draws=questions.draws,
        seed=questions.seed,
    )
    return {"column": name, **found}


def as_json(value: object) -> object:
    """The report as JSON can hold it: NaN and infinity become null, numbers are rounded to six decimals."""
    if isinstance(value, dict):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
