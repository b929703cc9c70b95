"""How an examination is shown: a screen of terminal, one HTML page, Markdown for the model card, and JSON.

All four are made from the dict of `examine` and from nothing else. The HTML page is one file that loads nothing, runs no
script (its own Content-Security-Policy forbids it) and escapes every text: comments are written by strangers.
"""

from __future__ import annotations

import csv
import html
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from moderation.schema import LABELS, UserError, probability_column
from training.examine import as_json, save_thresholds

TEMPLATE = Path(__file__).parent / "report.html"
#: What the model said of every row, without its text; beside a model it tells the desk what to expect of thresholds.
SCORES = "scores.csv"
_COLUMNS = tuple(map(probability_column, LABELS))
_PROBLEMS = tuple(label for label in LABELS if label != "on-topic")


def write(report: dict, folder: str | os.PathLike) -> list[Path]:
    """Write report.json, report.html, report.md and, for four labels, thresholds.json, scores.csv, errors.jsonl and
    label-issues.jsonl.

    Each file appears whole or not at all. Returns their paths.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    report = as_json(report)
    scores = report.pop("scores", [])  # a line for each row: too many for report.json
    files = {
        "report.json": json.dumps(report, indent=1, ensure_ascii=False) + "\n",
        "report.html": to_html(report),
        "report.md": to_markdown(report),
    }
    if report["kind"] == "labels":
        files["thresholds.json"] = json.dumps(save_thresholds(report), indent=1) + "\n"
        files[SCORES] = scores_csv(report["model"], scores)
        files["errors.jsonl"] = _lines(report["errors"])
        files["label-issues.jsonl"] = _lines(report["label_issues"]["rows"])
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            half = folder / f".{name}.part"
            half.write_bytes(text.encode("utf-8", "replace"))
            os.replace(half, folder / name)
            written.append(folder / name)
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written ({error.strerror or error})") from error
    return written


def scores_csv(version: str, rows: Iterable[Sequence[object]]) -> str:
    """The content of a scores.csv: for each row the true label and the four probabilities that `version` gave."""
    return _csv([("model_version", "label", *_COLUMNS), *((version, *row) for row in rows)])


def read_scores(path: str | os.PathLike) -> tuple[str, list[str], np.ndarray]:
    """A scores.csv: the model's version, the N true labels, and what the model said of them (N, 4). No text is in it.

    Raises:
        UserError: it cannot be read, or is none.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        truth = [row["label"] for row in rows]
        probabilities = np.array([[float(row[name]) for name in _COLUMNS] for row in rows]).reshape(-1, len(LABELS))
        if not set(truth) <= set(LABELS) or not rows:
            raise ValueError
        return rows[0]["model_version"], truth, probabilities
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected the scores.csv that `moderation evaluate --out` writes") from error


def _csv(rows: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


def _lines(rows: Sequence[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# --- words and numbers


def figure(value: float | None, digits: int = 3) -> str:
    """A figure, or an en dash where it is unknown."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share as per cent, or an en dash where it is unknown."""
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def exact(value: float) -> str:
    """A share that a caller set, as per cent with the digits that it has."""
    return f"{100 * value:g}%"


def span(pair: Sequence[float | None] | None, digits: int = 3) -> str:
    """An interval as `0.812–0.874`, or nothing where it is unknown."""
    return "" if not pair or pair[0] is None else f"{pair[0]:.{digits}f}–{pair[1]:.{digits}f}"


def percents(pair: Sequence[float | None] | None) -> str:
    """An interval of shares as `81–87%`, or nothing where it is unknown."""
    return "" if not pair or pair[0] is None else f"{100 * pair[0]:.0f}–{100 * pair[1]:.0f}%"


def sentences(report: dict) -> list[str]:
    """What an editor should know, in a handful of sentences with numbers out of a hundred. `report` is JSON-ready."""
    if report["kind"] == "binary":
        return [
            f"Shown one comment that is {report['positive_label']} and one that is not, it puts them in the right order {percent(report['auc'])} of the time ({percents(report['intervals']['auc'])}).",
            f"Its best F1 is {figure(report['best_f1'])}; calling everything {report['positive_label']} would give {figure(report['flag_all_f1'])}.",
        ]
    lines = [
        f"Of 100 comments it labels {100 * report['accuracy']:.0f} as people did ({percents(report['intervals']['accuracy'])})."
    ]
    for label in _PROBLEMS:
        one = report["per_class"][label]
        if one["recall"] is not None:
            called = (
                f"of 100 that it calls {label}, {100 * one['precision']:.0f} are"
                if one["predicted"]
                else f"it calls nothing {label}"
            )
            lines.append(f"It finds {100 * one['recall']:.0f} of 100 {label} comments; {called}.")
    return lines + _desk(report)


def _desk(report: dict) -> list[str]:
    """The sentences about work saved, and the ceiling."""
    lines = []
    budget, automation, ceiling = report["moderation"]["budget"], report["moderation"]["automation"], report["agreement"]
    if budget["recall"] is not None and budget["queue_per_1000"]:
        lines.append(
            f"Reading the {budget['queue_per_1000']:.0f} of 1,000 comments that it ranks worst catches {percent(budget['recall'])} of all that is not on-topic ({percents(budget['recall_interval'])}), "
            f"where reading as many at random would catch {percent(budget['random_recall'])}; {percent(budget['precision'])} of what is read is rightly there."
        )
    sure = [label for label, one in automation["per_class"].items() if one["assured"]]
    enough = (
        f"these rows are enough to be sure of that for {_listed(sure)}"
        if sure
        else "these rows are too few to be sure of it for any label"
    )
    lines.append(
        f"Where a label must be right {exact(automation['precision'])} of the time, {percent(automation['share'])} of comments need no human ({percents(automation['share_interval'])}); {enough}."
        if automation["share"]
        else f"No label is right {exact(automation['precision'])} of the time at any threshold, so every comment needs a human."
    )
    if ceiling:
        lines.append(
            f"Two people agreed with kappa {figure(ceiling['kappa'])} ({span(ceiling['kappa_interval'])}); the model's is {figure(report['kappa'])}."
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# --- terminal


def to_terminal(report: dict, console, folder: str | os.PathLike | None = None) -> None:
    """Print the summary; it fits a screen of 80 columns and about 40 lines. `console` is a `rich.console.Console`."""
    from rich.table import Table
    from rich.text import Text

    from moderation.cli import printable

    report = as_json(report)

    def say(text: str, style: str = "") -> None:
        console.print(Text(printable(text), style), highlight=False)

    data = report["data"]
    table = Table(
        title=Text(printable(f"{report['model']} on {data['n']:,} comments of {data['threads']:,} threads")),
        title_justify="left",
    )
    models = [report, *report["others"]]
    if report["kind"] == "binary":
        for heading in ("", "AUC", "95 %", "AP", "best F1"):
            table.add_column(heading, justify="left" if not heading else "right")
        for one in models:
            table.add_row(
                Text(printable(one["model"])),
                figure(one["auc"]),
                span(one["intervals"]["auc"]),
                figure(one["ap"]),
                figure(one["best_f1"]),
            )
        table.add_row("flag all", "0.500", "", "", figure(report["flag_all_f1"]))
    else:
        for heading in ("label", "n", "precision", "recall", "F1", "95 %", "AP"):
            table.add_column(heading, justify="left" if heading == "label" else "right")
        for label in LABELS:
            one = report["per_class"][label]
            table.add_row(
                label,
                f"{one['n']:,}",
                figure(one["precision"]),
                figure(one["recall"]),
                figure(one["f1"]),
                span(report["intervals"][f"per_class.{label}.f1"]),
                figure(one["ap"]),
            )
        whole = report["macro"]
        table.add_row(
            "macro",
            f"{report['n']:,}",
            figure(whole["precision"]),
            figure(whole["recall"]),
            figure(report["macro_f1"]),
            span(report["intervals"]["macro_f1"]),
            figure(whole["ap"]),
            style="bold",
        )
    console.print(table)
    if report["kind"] == "labels":
        say(
            f"kappa {figure(report['kappa'])} ({span(report['intervals']['kappa'])})   calibration error {figure(report['ece'])}   Brier {figure(report['brier'])}"
        )
        for sentence in _desk(report):
            say(sentence)
        if report["worst_slices"]:
            say(
                "Worst slices: "
                + "; ".join(
                    f"{one['column']} {one['value']} {percent(one['accuracy'])} right of {one['n']:,}"
                    for one in report["worst_slices"]
                )
            )
    for one, other in zip(report["comparisons"], report["others"], strict=True):
        name = "auc" if report["kind"] == "binary" else "macro_f1"
        say(
            f"{_VERDICTS[one[name]['verdict']]} {one['with']}: {_NAMES[name]} {figure(report[name])} against {figure(other[name])}, difference {one[name]['difference'] or 0:+.3f} ({span(one[name]['interval'])})"
        )
    for warning in report["warnings"][:6]:
        say(f"! {warning['text']}", "yellow")
    if len(report["warnings"]) > 6:
        say(f"! {len(report['warnings']) - 6} more warnings in the report", "yellow")
    if folder is not None:
        say(f"Report: {Path(folder) / 'report.html'} (and report.json, report.md beside it)")


_VERDICTS = {"better": "Better than", "worse": "Worse than", "cannot tell": "No telling it from"}
_NAMES = {"auc": "AUC", "macro_f1": "macro-F1"}

# --- Markdown


def to_markdown(report: dict) -> str:
    """The section of a model card: figures, comparisons, worst slices, fairness, robustness. No comment is quoted."""
    report = as_json(report)
    data = report["data"]
    lines = [f"### {_md(report['model'])} on {data['n']:,} comments of {data['threads']:,} threads", ""]
    lines += [f"- {_md(sentence)}" for sentence in sentences(report)] + [""]
    if report["warnings"]:
        lines += [f"> **Warning:** {_md(one['text'])}\n" for one in report["warnings"]]
    if report["kind"] == "binary":
        rows = [
            [one["model"], figure(one["auc"]), span(one["intervals"]["auc"]), figure(one["ap"]), figure(one["best_f1"])]
            for one in (report, *report["others"])
        ]
        lines += _table(
            ["model", "AUC", "95 %", "AP", "best F1"],
            [
                *rows,
                [
                    f"everything {report['positive_label']}",
                    "0.500",
                    "",
                    figure(report["positive"] / report["n"]),
                    figure(report["flag_all_f1"]),
                ],
            ],
        )
        return "\n".join(lines) + "\n"
    rows = []
    for label in LABELS:
        one = report["per_class"][label]
        rows.append(
            [
                label,
                f"{one['n']:,}",
                *(figure(one[name]) for name in ("precision", "recall", "f1")),
                span(report["intervals"][f"per_class.{label}.f1"]),
                figure(one["ap"]),
                figure(one["auc"]),
            ]
        )
    whole = report["macro"]
    rows.append(
        [
            "**macro**",
            f"{report['n']:,}",
            figure(whole["precision"]),
            figure(whole["recall"]),
            figure(report["macro_f1"]),
            span(report["intervals"]["macro_f1"]),
            figure(whole["ap"]),
            figure(whole["auc"]),
        ]
    )
    lines += _table(["label", "n", "precision", "recall", "F1", "95 %", "AP", "AUC"], rows, raw=True)
    lines += [
        f"Cohen's kappa {figure(report['kappa'])} ({span(report['intervals']['kappa'])}), expected calibration error {figure(report['ece'])} ({span(report['intervals']['ece'])}), Brier score {figure(report['brier'])}. Intervals: 95 % bootstrap over threads.",
        "",
    ]
    if report["others"]:
        rows = [
            [
                report["model"],
                figure(report["macro_f1"]),
                span(report["intervals"]["macro_f1"]),
                *(figure(report["per_class"][label]["f1"]) for label in LABELS),
                figure(report["kappa"]),
                figure(report["ece"]),
                "",
            ]
        ]
        for one, compared in zip(report["others"], report["comparisons"], strict=True):
            rows.append(
                [
                    one["model"],
                    figure(one["macro_f1"]),
                    span(one["intervals"]["macro_f1"]),
                    *(figure(one["per_class"][label]["f1"]) for label in LABELS),
                    figure(one["kappa"]),
                    figure(one["ece"]),
                    compared["macro_f1"]["verdict"],
                ]
            )
        lines += _table(["model", "macro-F1", "95 %", *LABELS, "kappa", "ECE", "the first is"], rows)
    if report["worst_slices"]:
        lines += ["Worst slices:", ""]
        lines += _table(
            ["slice", "n", "labelled right", "95 %"],
            [
                [
                    f"{one['column']}: {one['value']}",
                    f"{one['n']:,}",
                    percent(one["accuracy"]),
                    percents(one["accuracy_interval"]),
                ]
                for one in report["worst_slices"]
            ],
        )
    swaps = report["fairness"].get("swaps")
    if swaps:
        lines += ["Identity terms swapped in whole threads:", ""]
        lines += _table(
            ["category", "swaps", "labels that flip", "95 %", "mean shift of p"],
            [
                [
                    name,
                    f"{one['n']:,}",
                    percent(one["flipped"], 1),
                    percents(one["flipped_interval"]),
                    figure(one["mean_shift"]),
                ]
                for name, one in swaps.items()
            ],
        )
    if report.get("robustness"):
        lines += ["The same comments under attack:", ""]
        lines += _table(
            ["attack", "n", "same label", "95 %", "right before", "right after", "escaped"],
            [
                [
                    name,
                    f"{one['n']:,}",
                    percent(one["agreement"]),
                    percents(one["agreement_interval"]),
                    percent(one["clean_accuracy"]),
                    percent(one["accuracy"]),
                    percent(one["escaped"]),
                ]
                for name, one in report["robustness"].items()
            ],
        )
    return "\n".join(lines) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], raw: bool = False) -> list[str]:
    cells = [[cell if raw else _md(cell) for cell in row] for row in rows]
    return [
        "| " + " | ".join(headings) + " |",
        "|" + "---|" * len(headings),
        *("| " + " | ".join(row) + " |" for row in cells),
        "",
    ]


def _md(text: str) -> str:
    safe = html.escape(" ".join(visible(text).split()), quote=False)
    return "".join("\\" + letter if letter in "|`*_[]\\~" else letter for letter in safe)


# --- HTML


def to_html(report: dict) -> str:
    """The page, from a report as `examine` returns it or as report.json holds it."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(
        combine=lambda one, more: {**one, **more},
        figure=figure,
        exact=exact,
        percent=percent,
        span=span,
        percents=percents,
        visible=visible,
    )

    def plot(draw: Callable[..., str]) -> Callable[..., Markup]:
        return lambda *arguments: Markup(draw(*arguments))

    report = as_json(report)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        r=report,
        labels=LABELS,
        problems=_PROBLEMS,
        sentences=sentences(report),
        slug=_slug,
        **{name: plot(draw) for name, draw in _PLOTS.items()},
    )


def visible(text: str | None) -> str:
    """A stranger's text with what steers a page or hides in it made visible; escaping is the template's."""
    from moderation.cli import printable

    return printable(text or "")


def _slug(label: str) -> str:
    return label if label in LABELS else "other"


def _bar(value: float | None, pair: Sequence[float | None] | None = None, low: float = 0.0, high: float = 1.0) -> str:
    """A figure between `low` and `high` as a stroke with its interval as a band."""
    if value is None:
        return ""
    place = lambda number: 4 + 112 * (min(max(number, low), high) - low) / (high - low)
    line = ""
    if pair and pair[0] is not None:
        line = f'<rect class="band" x="{place(pair[0]) - 1:.1f}" width="{place(pair[1]) - place(pair[0]) + 2:.1f}" y="3" height="10" rx="2"/>'
    zero = f'<line class="zero" x1="{place(0):.1f}" x2="{place(0):.1f}" y1="1" y2="15"/>' if low < 0 < high else ""
    return f'<svg class="bar" viewBox="0 0 120 16" aria-hidden="true"><line class="rail" x1="4" x2="116" y1="8" y2="8"/>{zero}{line}<rect class="value" x="{place(value) - 1.25:.1f}" width="2.5" y="1" height="14" rx="1"/></svg>'


def _frame(
    title: str,
    across: str,
    up: str,
    inner: str,
    ticks: Sequence[tuple[float, str]],
    width: int = 340,
    height: int = 250,
    describe: str = "",
) -> str:
    """Axes for values 0..1 both ways, with what is inside already in the plot's coordinates (0..100, upwards)."""
    left, bottom, right, top = 40, height - 36, width - 18, 12
    parts = []
    for value, text in ticks:
        x = left + (right - left) * value
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/><text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{html.escape(text)}</text>'
        )
    for value in (0, 0.25, 0.5, 0.75, 1):
        y = bottom - (bottom - top) * value
        parts.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/><text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value * 100:.0f}%</text>'
        )
    axes = f'<text x="{(left + right) / 2:.0f}" y="{height - 4}" text-anchor="middle">{html.escape(across)}</text>'
    name = html.escape(f"{title}. {describe}".strip())
    return f'<figure><figcaption>{html.escape(title)}<span>{html.escape(up)}</span></figcaption><svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{name}">{"".join(parts)}{axes}<g>{_scaled(inner, left, right, top, bottom)}</g></svg></figure>'


def _scaled(inner: str, left: int, right: int, top: int, bottom: int) -> str:
    # Nested SVG maps 0..1 (y upwards) onto the plot area; strokes keep their width.
    return f'<g transform="translate({left} {bottom}) scale({right - left} {top - bottom})">{inner}</g>'


def _line(points: Sequence[tuple[float, float]], kind: str) -> str:
    path = " ".join(f"{x:.4f},{y:.4f}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}" vector-effect="non-scaling-stroke"/>'


_SHARES = ((0, "0%"), (0.25, "25%"), (0.5, "50%"), (0.75, "75%"), (1, "100%"))


def _reliability(name: str, bins: Sequence[dict]) -> str:
    """A reliability diagram: what was promised across, what came true upwards; the line is the Wilson interval."""
    inner = _line([(0, 0), (1, 1)], "ideal")
    most = max((one["n"] for one in bins), default=1)
    for one in bins:
        inner += f'<line class="whisker" x1="{one["mean"]:.4f}" x2="{one["mean"]:.4f}" y1="{one["interval"][0]:.4f}" y2="{one["interval"][1]:.4f}" vector-effect="non-scaling-stroke"/>'
    inner += _line([(one["mean"], one["share"]) for one in bins], f"line {_slug(name)}")
    for one in bins:
        size = 0.008 + 0.016 * (one["n"] / most) ** 0.5
        inner += f'<ellipse class="dot {_slug(name)}" cx="{one["mean"]:.4f}" cy="{one["share"]:.4f}" rx="{size:.4f}" ry="{size * 290 / 202:.4f}"><title>{one["n"]} comments: promised {one["mean"]:.2f}, true {one["share"]:.2f}</title></ellipse>'
    title = "the winning label" if name == "top" else name
    return _frame(
        title,
        "probability promised",
        "share that was true",
        inner,
        _SHARES,
        describe=f"{len(bins)} bins, {sum(one['n'] for one in bins)} comments",
    )


def _queue(curves: dict) -> str:
    """Recall against the size of the queue, for the labels that need a moderator."""
    inner = _line([(0, 0), (1, 1)], "ideal")
    for label in _PROBLEMS:
        inner += _line([(0, 0), *((one["queue_per_1000"] / 1000, one["recall"]) for one in curves[label])], f"line {label}")
    ticks = ((0, "0"), (0.25, "250"), (0.5, "500"), (0.75, "750"), (1, "1000"))
    return _frame(
        "How much of each kind a queue holds",
        "comments read of 1,000, by that label's probability",
        "share caught",
        inner,
        ticks,
    )


def _precision_recall(curves: dict, names: Sequence[str] = LABELS) -> str:
    inner = "".join(
        _line([(one["recall"], one["precision"]) for one in curves[label]], f"line {_slug(label)}") for label in names
    )
    return _frame("Precision and recall", "recall", "precision", inner, _SHARES)


_PLOTS = {"bar": _bar, "reliability": _reliability, "queue": _queue, "precision_recall": _precision_recall}
