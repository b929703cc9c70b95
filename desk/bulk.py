"""The tab in which many comments are decided in one step: a range of a label's probability, or all that say the same.

What is going to happen is shown before it happens (the count, ten of them at random), the store refuses when the count has
changed meanwhile, and the whole is undone as one step.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import gradio as gr
from markupsafe import Markup

from desk import plots
from desk.frame import told
from desk.render import block, tag
from moderation import LABELS, UserError
from moderation.store import Filter, Item

if TYPE_CHECKING:
    from desk.frame import Desk

#: Who may use this tab.
ROLE = "lead"
BINS = 20
SAMPLE = 10
EVERY_SITE = "every site"
RANGE, COPIES = "a range of probability", "copies of one comment"
#: Characters of a comment that a sample shows.
SHOWN = 280

# A drag over the histogram chooses a range; the sliders do the same by keyboard.
_DRAG = """
let first = null;
const bin = (event) => { const at = event.target.closest('[data-bin]'); return at ? Number(at.dataset.bin) : null; };
element.addEventListener('pointerdown', (event) => { first = bin(event); if (first !== null) event.preventDefault(); });
window.addEventListener('pointerup', (event) => {
  if (first === null) return;
  const last = bin(event);
  if (last !== null && element.contains(event.target)) trigger('select', {first: Math.min(first, last), last: Math.max(first, last)});
  first = null;
});
"""


# The queue leads here with the number of a comment whose copies are to be decided (static/queue.js).
_FROM_QUEUE = """
document.addEventListener('desk-copies', (event) => trigger('select', {number: event.detail}));
element.dataset.listens = '1';
"""


@dataclass(frozen=True, slots=True)
class Selection:
    """What was shown and would be decided; it lives on the server, so a browser can only ask for what it was shown.

    Attributes:
        wanted: the inputs that it was made from.
        filter: the comments. count: how many they were. key: makes the step happen once.
    """

    wanted: tuple
    filter: Filter
    count: int
    key: str


def tab(desk: Desk) -> gr.Tab:
    """The Bulk tab."""
    store = desk.store

    def choose(how: str, label: str, low: float, high: float, site: str, copies: float | None) -> tuple[tuple, Filter]:
        """The inputs in one piece, and the filter that they stand for."""
        if how == COPIES:
            number = min(max(int(copies or 0), 0), 2**62)
            return (how, number), Filter(copies_of=number)
        low, high = sorted((float(low or 0), float(high or 0)))
        chosen = None if site == EVERY_SITE else site
        return (how, label, low, high, site), Filter(probability=(label, low, high), site=chosen)

    @told
    def preview(how, label, low, high, site, copies, give, request: gr.Request):
        desk.user(request, ROLE)
        wanted, filter = choose(how, label, low, high, site, copies)
        count = store.queue.count(filter)
        selection = Selection(wanted, filter, count, secrets.token_urlsafe(16))
        return (
            _histogram(store.queue.histogram(label, Filter(site=filter.site), BINS), label, low, high) if how == RANGE else "",
            _sentence(selection),
            _sample(store.queue.sample(filter, SAMPLE), label if how == RANGE else None, count),
            _button(selection, give),
            selection,
        )

    @told
    def apply(how, label, low, high, site, copies, give, note, selection: Selection | None, request: gr.Request):
        user = desk.user(request, ROLE)
        wanted, _ = choose(how, label, low, high, site, copies)
        if not isinstance(selection, Selection) or selection.wanted != wanted:
            raise UserError("The choice has changed; look at its sample first.")
        done = store.decisions.bulk(selection.filter, give, user.name, selection.key, count=selection.count, note=note or "")
        if done.outcome == "stale":
            said = f"Nothing was done: the choice holds {done.count:,} comments by now, not {selection.count:,}. Look again."
        elif done.outcome == "duplicate":
            said = f"Done already: {done.count:,} comments are {done.label} (step {done.step})."
        else:
            said = f"{_comments(done.count)} labelled {done.label}, as step {done.step}."
        return (tag("p", said, class_="said", role="status"), *refresh_steps(user.name, done.step))

    def refresh_steps(user: str, chosen: int | None = None):
        steps = store.decisions.recent(kind="bulk", limit=20)
        standing = [
            (f"step {step.id}: {_comments(step.count)} {step.label}, {step.user}", step.id) for step in steps if not step.undone
        ]
        own = [step.id for step in steps if not step.undone and step.user == user]
        value = chosen if chosen in [number for _, number in standing] else next(iter(own), None)
        lines = [
            (
                step.id,
                _time(step.at),
                step.user,
                step.label,
                f"{step.count:,}",
                _describe(step.selection),
                f"undone by {step.undone_by}" if step.undone else "stands",
            )
            for step in steps
        ]
        headings = ("step", "when", "who", "label", "comments", "chosen by", "state")
        table = plots.table(headings, lines, numbers=(0, 4), empty="No bulk step yet.")
        return table, gr.update(choices=standing, value=value), gr.update(choices=most_copies())

    def most_copies() -> list[tuple[str, int]]:
        return [(f"{count} × {_shorten(item.comment.text, 90)}", item.id) for item, count in store.queue.repeated(limit=15)]

    @told
    def undo(step: int | None, request: gr.Request):
        user = desk.user(request, ROLE)
        found = next((one for one in store.decisions.recent(kind="bulk", limit=500) if one.id == step), None)
        if found is None:
            raise UserError("Choose a step that still stands.")
        # A lead answers for the team's steps, so any of them may be taken back; the key makes a second press do nothing.
        undone = store.decisions.undo(user.name, f"undo of bulk {found.id}", step=found.id, anyones=True)
        said = (
            f"Step {found.id} is undone: {_comments(found.count)} as before."
            if undone
            else f"Step {found.id} was undone already."
        )
        return (tag("p", said, class_="said", role="status"), *refresh_steps(user.name))

    @told
    def opened(request: gr.Request):
        user = desk.user(request, ROLE)
        return gr.update(choices=[EVERY_SITE, *desk.sites]), *refresh_steps(user.name)

    @told
    def dragged(event: gr.EventData, request: gr.Request):
        desk.user(request, ROLE)
        try:
            first, last = int(event.first), int(event.last)
        except (AttributeError, TypeError, ValueError):
            raise UserError("no such range") from None
        return max(0, min(first, BINS)) / BINS, max(0, min(last + 1, BINS)) / BINS

    @told
    def led_here(event: gr.EventData, request: gr.Request):
        desk.user(request, ROLE)
        try:
            number = int(event.number)
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise UserError("no such comment") from None
        return COPIES, gr.update(visible=False), gr.update(visible=True), number

    @told
    def another(selection: Selection | None, label, request: gr.Request):
        desk.user(request, ROLE)
        if not isinstance(selection, Selection):
            return ""
        shown = label if selection.filter.probability else None
        return _sample(store.queue.sample(selection.filter, SAMPLE), shown, selection.count)

    @told
    def relabel(give, selection: Selection | None, request: gr.Request):
        desk.user(request, ROLE)
        return _button(selection, give)

    @told
    def switch(how: str, request: gr.Request):
        desk.user(request, ROLE)
        return gr.update(visible=how == RANGE), gr.update(visible=how == COPIES)

    with gr.Tab("Bulk", id="bulk") as made:
        selection = gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=420):
                how = gr.Radio([RANGE, COPIES], value=RANGE, label="Choose undecided comments by")
                with gr.Column(visible=True) as by_range:
                    with gr.Row():
                        label = gr.Dropdown(list(LABELS), value="spam", label="Probability of", min_width=140)
                        site = gr.Dropdown([EVERY_SITE], value=EVERY_SITE, label="On", min_width=140)
                    histogram = gr.HTML(js_on_load=_DRAG, elem_id="bulk-histogram", apply_default_css=False)
                    with gr.Row():
                        low = gr.Slider(0, 1, 0.9, step=0.01, label="From", elem_id="bulk-low")
                        high = gr.Slider(0, 1, 1, step=0.01, label="To", elem_id="bulk-high")
                with gr.Column(visible=False) as by_copies:
                    groups = gr.Radio([], label="Posted most often")
                    copies = gr.Number(
                        value=None,
                        precision=0,
                        label="Or the number of a comment, as the queue shows it",
                    )
                sentence = gr.HTML(elem_id="bulk-count", apply_default_css=False, js_on_load=_FROM_QUEUE)
                give = gr.Radio(list(LABELS), value="spam", label="Label them all")
                note = gr.Textbox(label="Note (optional)", max_length=2000, lines=1)
                button = gr.Button("Label them", variant="primary", interactive=False, elem_id="bulk-apply")
                result = gr.HTML(elem_id="bulk-result", apply_default_css=False, js_on_load=None)
            with gr.Column(scale=4, min_width=420):
                sample = gr.HTML(elem_id="bulk-sample", apply_default_css=False, js_on_load=None)
                more = gr.Button("Show ten others", size="sm")
        with gr.Accordion("Bulk steps and undo", open=True):
            steps = gr.HTML(elem_id="bulk-steps", apply_default_css=False, js_on_load=None)
            with gr.Row():
                step = gr.Dropdown([], label="A step that stands", elem_id="bulk-step", scale=3)
                undo_button = gr.Button("Undo this step", elem_id="bulk-undo", scale=1)

        inputs = [how, label, low, high, site, copies]
        shown = [histogram, sentence, sample, button, selection]
        quietly = {"api_visibility": "private", "show_progress": "hidden"}
        how.change(switch, how, [by_range, by_copies], **quietly)
        gr.on([part.change for part in inputs], preview, [*inputs, give], shown, trigger_mode="always_last", **quietly)
        label.change(None, label, give, js="(value) => value", **quietly)
        groups.change(None, groups, copies, js="(value) => value", **quietly)
        give.change(relabel, [give, selection], button, **quietly)
        histogram.select(dragged, None, [low, high], **quietly)
        sentence.select(led_here, None, [how, by_range, by_copies, copies], **quietly).then(
            preview, [*inputs, give], shown, **quietly
        )
        more.click(another, [selection, label], sample, **quietly)
        acted = [result, steps, step, groups]
        button.click(apply, [*inputs, give, note, selection], acted, **quietly).success(
            preview, [*inputs, give], shown, **quietly
        )
        undo_button.click(undo, step, acted, **quietly).success(preview, [*inputs, give], shown, **quietly)
        made.select(opened, None, [site, steps, step, groups], **quietly).then(preview, [*inputs, give], shown, **quietly)
    return made


def _histogram(counts: list[int], label: str, low: float, high: float) -> Markup:
    low, high = sorted((low, high))
    data = []
    for place, count in enumerate(counts):
        start, end = place / BINS, (place + 1) / BINS
        chosen = start < high and end > low
        data.append(
            plots.Column(
                f"{start:.1f}" if place % 4 == 0 else "", [count], f"{start:.2f} to {end:.2f}: {count:,}", chosen=chosen
            )
        )
    return plots.columns(
        f"Undecided comments by probability of {label}",
        data,
        {label: f"var(--{label})"},
        id="bulk-columns",
        root=True,
        note="drag over the columns, or move the sliders; heights by square root",
    )


def _sentence(selection: Selection) -> Markup:
    if selection.filter.copies_of == 0:
        return tag("p", "Choose what is posted most often, or give a number.", class_="said")
    if selection.filter.probability:
        label, low, high = selection.filter.probability
        rest = f" undecided with a probability of {label} from {low:.2f} to {high:.2f}"
    else:
        rest = f" undecided that say the same as number {selection.filter.copies_of}, or nearly"
    return tag("p", tag("strong", _comments(selection.count)), rest, class_="said")


def _sample(items: list[Item], label: str | None, count: int) -> Markup:
    if not items:
        return tag("p", "No comment is chosen.", class_="plot-empty")
    cards = []
    for item in items:
        verdict = item.verdict
        shown = label or (verdict.label if verdict else "")
        probability = f"{shown} {verdict.probabilities[shown]:.2f}" if verdict else "not scored"
        copies = f" · posted {item.copies} times" if item.copies > 1 else ""
        cards.append(
            tag(
                "li",
                block(_shorten(item.comment.text, SHOWN), class_="stranger"),
                tag(
                    "small",
                    tag("b", probability),
                    f" · no. {item.id}{copies} · ",
                    tag("span", item.comment.article.title, dir="auto"),
                ),
            )
        )
    head = f"{len(items)} of the {count:,}, at random" if count > len(items) else "All of them"
    return tag("section", tag("h2", head), tag("ol", *cards, class_="sample"))


def _button(selection: Selection | None, give: str):
    if not isinstance(selection, Selection) or not selection.count:
        return gr.update(value="Label them", interactive=False)
    return gr.update(value=f"Label {_comments(selection.count)} {give}", interactive=True)


def _describe(selection: str) -> str:
    """What a bulk step had chosen, from the JSON that the store keeps."""
    parts = json.loads(selection) if selection else {}
    said = []
    if probability := parts.get("probability"):
        said.append(f"{probability[0]} {probability[1]:.2f} to {probability[2]:.2f}")
    if number := parts.get("copies_of"):
        said.append(f"copies of no. {number}")
    if site := parts.get("site"):
        said.append(f"on {site}")
    return ", ".join(said) or "a filter of the queue"


def _comments(count: int) -> str:
    return f"{count:,} comment{'s' * (count != 1)}"


def _shorten(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
