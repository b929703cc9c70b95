"""The tab that shows what the decisions tell: how much is done, how far people and model agree, how far people agree among
themselves, how right the model is when it is sure, and which labels come up where. Each plot with its numbers.

A moderator sees the own work and the team's; whose work the rest is, only leads see.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import gradio as gr
from markupsafe import Markup

from desk import plots
from desk.frame import told
from desk.render import tag
from moderation import LABELS
from moderation.store import Agreement, Bin, Mix, Pairs, User, Work
from training.evaluate import wilson

if TYPE_CHECKING:
    from desk.frame import Desk

#: Who may use this tab.
ROLE = "moderator"
DAYS = {"a day": 1, "a week": 7, "30 days": 30, "90 days": 90, "a year": 365}
OTHERS = "others"
#: Parts of 0..1 in which the reliability is shown.
BINS = 10
_HOUR, _DAY = 3600.0, 86_400.0


def tab(desk: Desk) -> gr.Tab:
    """The Insight tab."""
    insight = desk.store.insight

    @told
    def show(window: str, request: gr.Request):
        user = desk.user(request, ROLE)
        days = DAYS.get(window, 30)
        parts = [
            _work(insight.work(days), days, user),
            _with_model(insight.agreement_with_model(days)),
            _reliability(insight.reliability(BINS)),
            _confusion(insight.confusion()),
            _between(insight.agreement_between_moderators(days), user),
            _by_day(insight.mix_by_day(days)),
            _by_article(insight.mix_by_article(15)),
        ]
        return tag("div", *parts, class_="plots")

    with gr.Tab("Insight", id="insight") as made:
        with gr.Row():
            window = gr.Radio(list(DAYS), value="30 days", label="The last", scale=4)
            again = gr.Button("Count again", scale=1, min_width=120)
        shown = gr.HTML(elem_id="insight", apply_default_css=False, js_on_load=None)
        quietly = {"api_visibility": "private", "show_progress": "hidden"}
        gr.on([made.select, window.change, again.click], show, window, shown, trigger_mode="always_last", **quietly)
    return made


def _work(work: Sequence[Work], days: float, user: User) -> Markup:
    """Decisions by hour (by day over more than three) and person."""
    names = _names(work, user)
    step = _HOUR if days <= 3 else _DAY
    counts: dict[float, Counter[str]] = defaultdict(Counter)
    hours: dict[str, set[float]] = defaultdict(set)
    seconds: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for entry in work:
        name = names[entry.user]
        counts[entry.hour // step * step][name] += entry.decisions
        hours[name].add(entry.hour)
        if entry.seconds is not None:
            seconds[name].append((entry.decisions, entry.seconds))
    series = {name: plots.colour(place) for place, name in enumerate(dict.fromkeys(names.values()))}
    data = []
    if counts:
        at, last = min(counts), max(counts)
        while at <= last:
            values = [counts[at][name] for name in series]
            said = ", ".join(f"{name} {count:,}" for name, count in counts[at].items() if count)
            data.append(plots.Column(_moment(at, step), values, f"{_moment(at, step)}: {said or 'none'}"))
            at += step
    total = Counter[str]()
    for column in counts.values():
        total.update(column)
    lines = []
    for name in series:
        measured = sum(count for count, _ in seconds[name])
        mean = f"{sum(count * one for count, one in seconds[name]) / measured:.1f} s" if measured else "–"
        lines.append((name, f"{total[name]:,}", len(hours[name]), f"{total[name] / len(hours[name]):.1f}", mean))
    note = "second opinions included, bulk steps not"
    plot = plots.columns(f"Decisions by {'hour' if step == _HOUR else 'day'} and person", data, series, note=note)
    table = plots.table(
        ("person", "decisions", "hours with any", "an hour", "time each"), lines, numbers=(1, 2, 3, 4), empty=""
    )
    return tag("section", plot, table)


def _with_model(days: Sequence[Agreement]) -> Markup:
    """How often people gave the label that the model had proposed, by day; a bar for each version of the model."""
    versions = list(dict.fromkeys(day.model_version for day in days))
    series = {version: plots.colour(place) for place, version in enumerate(versions)}
    columns: dict[float, list[plots.Column]] = defaultdict(list)
    for day in days:
        low, high = wilson(day.agreed, day.decisions)
        values = [day.agreed / day.decisions if day.model_version == version else 0.0 for version in versions]
        hint = f"{_moment(day.day)}, {day.model_version}: {day.agreed} of {day.decisions} ({low:.0%} to {high:.0%})"
        columns[day.day].append(plots.Column(_moment(day.day), values, hint))
    data = _without_gaps(columns, len(series))
    lines = [
        (_moment(day.day), day.model_version, day.decisions, day.agreed, plots.percent(day.agreed / day.decisions))
        for day in days
    ]
    plot = plots.columns(
        "People gave the model's label", data, series, top=1, form=plots.percent, note="of single decisions, by day"
    )
    return tag("section", plot, plots.figures(("day", "model", "decisions", "agreed", "share"), lines, (2, 3, 4)))


def _reliability(bins: Sequence[Bin]) -> Markup:
    """How often the model was right by how sure it was; the line is what it said itself."""
    data = [plots.Column(f"{place / BINS:.1f}", [0.0]) for place in range(BINS)] if bins else []
    for one in bins:
        low, high = wilson(round(one.accuracy * one.comments), one.comments)
        said = f"sure from {one.low:.1f} to {one.high:.1f}: right in {one.accuracy:.0%} of {one.comments:,} ({low:.0%} to {high:.0%})"
        hint = f"{said}; it said {one.confidence:.0%}"
        data[round(one.low * BINS)] = plots.Column(f"{one.low:.1f}", [one.accuracy], hint, mark=one.confidence)
    plot = plots.columns(
        "How right the model is when it is sure",
        data,
        {"right": plots.colour(0)},
        top=1,
        form=plots.percent,
        note="bar: how often it was right; line: how sure it was",
    )
    lines = [
        (f"{one.low:.1f}–{one.high:.1f}", one.comments, f"{one.confidence:.2f}", f"{one.accuracy:.2f}", _interval(one))
        for one in bins
    ]
    return tag("section", plot, plots.figures(("sure", "comments", "it said", "was right", "95 %"), lines, (1, 2, 3, 4)))


def _confusion(counts: Mapping[tuple[str, str], int]) -> Markup:
    total = sum(counts.values())
    agreed = sum(count for (model, label), count in counts.items() if model == label)
    note = f"{agreed:,} of {total:,} alike, decided one by one" if total else "none decided yet"
    return tag("section", plots.matrix("The model's label and the moderator's", "model", "moderator", counts, note))


def _between(pairs: Sequence[Pairs], user: User) -> Markup:
    """How far moderators agree on what two of them judged, the second one blind; pairs of others are for leads."""
    title = "Agreement between moderators"
    if not pairs:
        note = "Nothing was judged twice yet. A policy sets the share that a second moderator judges blind."
        return tag("section", plots.columns(title, [], {}, empty=note))
    lines = [
        (
            f"{pair.first} and {pair.second}" if pair.first else tag("strong", "all together"),
            f"{pair.comments:,}",
            f"{pair.agreed:,}",
            plots.percent(pair.agreed / pair.comments),
            "–" if pair.kappa is None else f"{pair.kappa:.2f}",
        )
        for pair in pairs
        if not pair.first or user.may("lead") or user.name in (pair.first, pair.second)
    ]
    together = pairs[-1]
    note = f"{together.comments:,} comments judged by two, the second one blind"
    return tag(
        "section",
        plots.matrix(title, "first", "second", together.labels, note),
        plots.table(("who", "comments", "alike", "share", "kappa"), lines, numbers=(1, 2, 3, 4)),
    )


def _by_day(mix: Sequence[Mix]) -> Markup:
    columns = {}
    for day in mix:
        at = _moment(float(day.key))
        said = ", ".join(f"{label} {count:,}" for label, count in day.counts.items() if count)
        columns[float(day.key)] = [plots.Column(at, list(day.counts.values()), f"{at}: {said}")]
    data = _without_gaps(columns, len(LABELS))
    note = "by the day of posting; the moderator's label where there is one, else the model's"
    lines = [(_moment(float(day.key)), *(f"{count:,}" for count in day.counts.values())) for day in mix]
    plot = plots.columns("Labels by day", data, plots.LABEL_SERIES, note=note)
    return tag("section", plot, plots.figures(("day", *LABELS), lines, (1, 2, 3, 4)))


def _by_article(mix: Sequence[Mix]) -> Markup:
    titles = [one.title or "(no title)" for one in mix]
    data = list(zip(titles, (one.counts for one in mix), strict=True))
    plot = plots.rows(
        "Labels by article", [(title, counts) for title, counts in data if any(counts.values())], plots.LABEL_SERIES
    )
    lines = [(title, *(f"{count:,}" for count in counts.values())) for title, counts in data]
    return tag("section", plot, plots.figures(("article", *LABELS), lines, (1, 2, 3, 4)))


def _without_gaps(columns: Mapping[float, Sequence[plots.Column]], series: int) -> list[plots.Column]:
    """The columns by day (its beginning), with an empty one for each day between that has none."""
    data: list[plots.Column] = []
    at = min(columns, default=0.0)
    while columns and at <= max(columns):
        data += columns.get(at) or [plots.Column(_moment(at), [0.0] * series, f"{_moment(at)}: none")]
        at += _DAY
    return data


def _names(work: Sequence[Work], user: User) -> dict[str, str]:
    """Under which name the work of each user is shown: the busiest by name, the rest together; a moderator sees the own name only."""
    total = Counter[str]()
    for entry in work:
        total[entry.user] += entry.decisions
    order = [name for name, _ in total.most_common()]
    if not user.may("lead"):
        order = [name for name in order if name == user.name]
    named = order if len(total) == len(order) <= plots.SERIES else order[: plots.SERIES - 1]
    return {name: name for name in named} | {name: OTHERS for name in total if name not in named}


def _interval(one: Bin) -> str:
    low, high = wilson(round(one.accuracy * one.comments), one.comments)
    return f"{low:.2f}–{high:.2f}"


def _moment(seconds: float, step: float = _DAY) -> str:
    """A day, or an hour of a day; days are those of UTC, as the store counts them."""
    if step == _HOUR:
        return datetime.fromtimestamp(seconds).strftime("%d %b %H:00")
    return datetime.fromtimestamp(seconds, UTC).strftime("%d %b")
