"""Plots as HTML and style sheet: bars, stacked bars, shares, a matrix.

Made here rather than by matplotlib or Gradio's plots because they must follow the page into dark mode, name articles in any
script in either direction, be read aloud, and run no script: a bar is an element with a height, a label is text.
Every text goes through `render`. The figures stand in a table under each plot as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from desk.render import join, tag
from moderation.schema import LABELS

#: Colours of series that are no labels; `static/panels.css` defines them for light and dark.
SERIES = 6


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a plot.

    Attributes:
        label: under the column; "" for none.
        values: one for each series, stacked from below, in the plot's unit.
        hint: what a mouse resting on it is told.
        mark: height of a line across the column, in the plot's unit.
        chosen: drawn as part of a selection.
    """

    label: str
    values: Sequence[float]
    hint: str = ""
    mark: float | None = None
    chosen: bool = False


def number(value: float) -> str:
    """A count with commas."""
    return f"{value:,.0f}"


def percent(value: float) -> str:
    """A share."""
    return f"{value:.0%}"


def colour(place: int) -> str:
    """The colour of a series that is no label, as a CSS value."""
    return f"var(--series-{min(place, SERIES - 1)})"


def columns(
    title: str,
    data: Sequence[Column],
    series: Mapping[str, str],
    *,
    top: float | None = None,
    form: Callable[[float], str] = number,
    note: str = "",
    root: bool = False,
    id: str | None = None,
    empty: str = "Nothing to show yet.",
) -> Markup:
    """Upright columns of stacked series.

    Args:
        series: name to CSS colour, in the order of `Column.values`; a legend is drawn for more than one.
        top: the value that reaches the upper edge; by default the greatest column, rounded up.
        form: how the scale is written.
        root: heights go by the square root, so that a small column beside a huge one can be seen.
        id: of the element, for scripts; columns then carry their place in `data-bin`.
    """
    if not data:
        return _figure(title, tag("p", empty, class_="plot-empty"), note=note)
    top = top or _round_up(max(sum(column.values) for column in data))
    middle = 0.25 if root else 0.5
    scale = tag("div", *(tag("span", form(top * part)) for part in (1, middle, 0)), class_="plot-scale", aria_hidden="true")
    step = max(1, -(-len(data) // 12))
    drawn = []
    for place, column in enumerate(data):
        total = sum(column.values)
        share = math.sqrt(total / top) / total if root and total else 1 / top
        parts = [
            tag("span", class_="plot-part", style=f"height:{_part(value * share)};background:{of}")
            for value, of in zip(column.values, series.values(), strict=True)
            if value > 0
        ]
        if column.mark is not None:
            parts.append(tag("span", class_="plot-mark", style=f"bottom:{_part(column.mark / top)}"))
        drawn.append(
            tag(
                "div",
                tag("div", *parts, class_="plot-bar"),
                tag("span", column.label if place % step == 0 else "", class_="plot-x"),
                class_="plot-column chosen" if column.chosen else "plot-column",
                title=column.hint or column.label,
                data_bin=str(place) if id else None,
            )
        )
    area = tag("div", scale, tag("div", *drawn, class_="plot-columns"), class_="plot-frame", id=id)
    return _figure(title, legend(series) if len(series) > 1 else "", area, note=note)


def rows(title: str, data: Sequence[tuple[str, Mapping[str, float]]], series: Mapping[str, str], note: str = "") -> Markup:
    """Lying stacked bars, one for each (name, value by series); each fills its line, the total stands behind it."""
    if not data:
        return _figure(title, tag("p", "Nothing to show yet.", class_="plot-empty"), note=note)
    lines = []
    for name, values in data:
        total = sum(values.values())
        parts = [
            tag(
                "span",
                class_="plot-part",
                title=f"{key}: {number(value)} ({percent(value / total)})",
                style=f"width:{_part(value / total)};background:{series[key]}",
            )
            for key, value in values.items()
            if value
        ]
        lines.append(
            tag(
                "div",
                tag("span", name, class_="plot-name", dir="auto", title=name),
                tag("div", *parts, class_="plot-line"),
                tag("span", number(total), class_="plot-total"),
                class_="plot-row",
            )
        )
    return _figure(title, legend(series), tag("div", *lines, class_="plot-rows"), note=note)


def matrix(title: str, down: str, across: str, counts: Mapping[tuple[str, str], int], note: str = "") -> Markup:
    """Counts by (one label, another), darker where there are more."""
    most = max(counts.values(), default=0) or 1
    head = tag("tr", tag("th", f"{down} ↓  {across} →", scope="col"), *(tag("th", name, scope="col") for name in LABELS))
    body = [
        tag(
            "tr",
            tag("th", one, scope="row"),
            *(
                tag("td", number(count), style=f"--part:{count / most:.2f}", class_="same" if one == other else None)
                for other in LABELS
                for count in [counts.get((one, other), 0)]
            ),
        )
        for one in LABELS
    ]
    return _figure(title, tag("table", tag("thead", head), tag("tbody", *body), class_="plot-matrix"), note=note)


def table(
    headings: Sequence[str], lines: Sequence[Sequence[object]], *, numbers: Sequence[int] = (), empty: str = "None yet."
) -> Markup:
    """A table of texts (or Markup from `render`); the columns in `numbers` are set to the right."""
    if not lines:
        return tag("p", empty, class_="plot-empty")
    head = tag("tr", *(tag("th", name, scope="col", class_="n" if at in numbers else None) for at, name in enumerate(headings)))
    body = [
        tag("tr", *(tag("td", cell, class_="n" if at in numbers else None, dir="auto") for at, cell in enumerate(line)))
        for line in lines
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body), class_="figures"), class_="scroll", tabindex="0")


def figures(headings: Sequence[str], lines: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> Markup:
    """The numbers behind a plot, folded away."""
    return tag("details", tag("summary", "The numbers"), table(headings, lines, numbers=numbers)) if lines else Markup("")


def legend(series: Mapping[str, str]) -> Markup:
    """Names of the series beside their colours."""
    keys = [
        tag("li", tag("span", class_="plot-key", style=f"background:{of}"), name, dir="auto") for name, of in series.items()
    ]
    return tag("ul", *keys, class_="plot-legend")


#: The labels and their colours.
LABEL_SERIES = {label: f"var(--{label})" for label in LABELS}


def _figure(title: str, *content: object, note: str = "") -> Markup:
    caption = tag("figcaption", tag("strong", title), tag("span", note, class_="plot-note") if note else "")
    return tag("figure", caption, join(content), class_="plot")


def _part(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 10, 20, 40, …, at which half of it is a whole number too (from 2 on)."""
    if value <= 2:
        return 2
    power = 10 ** (len(str(int(value))) - 1)
    return next(factor * power for factor in (1, 2, 4, 6, 8, 10) if factor * power >= value)
