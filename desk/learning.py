"""The tab of the learning loop: train from the decisions, compare the challenger with the champion, promote it, go back.

Training runs in a process of its own with the lowest priority, so that deciding stays quick and a restart of the desk
does not end it; the tab reads how far it is from `status.json` in the registry.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import gradio as gr
from markupsafe import Markup

from desk import plots
from desk.frame import told
from desk.render import join, tag
from moderation import UserError
from moderation.registry import Champion, Registry, shipped
from moderation.store import judge_again

if TYPE_CHECKING:
    from desk.frame import Desk

#: Who may use this tab.
ROLE = "lead"
#: Seconds between two looks at a training.
_LOOK = 2.0


def tab(desk: Desk) -> gr.Tab:
    """The Learning tab."""
    store, registry = desk.store, Registry()
    judging = threading.Lock()

    def shown(said: str = ""):
        from training.loop import status

        state = status(registry)
        running = bool(state and state["running"])
        names = [(f"{one.version}{' (champion)' if one.champion else ''}", one.version) for one in registry.versions()]
        chosen = next((one.version for one in registry.versions() if not one.champion), None)
        return (
            _now(registry, store.lessons.busy_threads()),
            _progress(state),
            tag("p", said, class_="said", role="status") if said else "",
            gr.update(choices=names, value=chosen),
            _judgement(registry, chosen),
            gr.update(interactive=not running),
            gr.update(interactive=not running),
            gr.Timer(active=running),
            _promotable(registry, chosen),
            gr.update(interactive=[one.version for one in registry.changes()] not in ([], [shipped()])),
        )

    @told
    def opened(request: gr.Request):
        desk.user(request, ROLE)
        return shown()

    @told
    def start(request: gr.Request, full: bool):
        desk.user(request, ROLE)
        from training.loop import status

        state = status(registry)
        if state and state["running"]:
            raise UserError("A training is running already; one at a time.")
        _begin(registry, store.database.url.render_as_string(hide_password=False), full)
        return shown("Training has begun. You can go on deciding, or close this page.")

    @told
    def tick(request: gr.Request):
        desk.user(request, ROLE)
        from training.loop import status

        state = status(registry)
        if state and state["running"]:
            return _progress(state), *([gr.skip()] * 9)
        now = shown("Training has ended.")
        return now[1], now[0], *now[2:]

    @told
    def compare(version, request: gr.Request):
        desk.user(request, ROLE)
        return _judgement(registry, version), _promotable(registry, version)

    def follow() -> None:
        with judging:  # undecided comments get the champion's verdicts one chunk after the other, beside the decisions
            judge_again(store, Champion(registry))

    @told
    def promote(version, request: gr.Request):
        user = desk.user(request, ROLE)
        from training.loop import promote as make_champion

        if not version:
            raise UserError("Choose a version first.")
        change = make_champion(registry, store, version, by=user.name)
        threading.Thread(target=follow, daemon=True).start()
        return shown(f"{change.version} is champion from now on.")

    @told
    def back(request: gr.Request):
        user = desk.user(request, ROLE)
        from training.loop import rollback

        undone, now = rollback(registry, store, by=user.name)
        threading.Thread(target=follow, daemon=True).start()
        return shown(f"Back from {undone.version}: {now.version} is champion.")

    @told
    def order(share, request: gr.Request):
        desk.user(request, ROLE)
        from training.choose import order_queue

        ranked = order_queue(store, desk.moderator(), share / 100)
        return tag(
            "p",
            f"{len(ranked.order):,} undecided comments are in order of value now (sort “value” in the queue); {share:.0f} % are drawn by lot.",
            class_="said",
            role="status",
        )

    @told
    def drift(request: gr.Request):
        desk.user(request, ROLE)
        from training.drift import find

        champion = registry.find(registry.champion())
        return _drifts([str(one) for one in find(store, 4, champion.added_at or None)])

    with gr.Tab("Learning", id="learning") as made:
        plain = {"apply_default_css": False, "js_on_load": None}
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=380):
                now = gr.HTML(elem_id="learning-now", **plain)
                with gr.Row():
                    fast = gr.Button("Train (about a minute)", variant="primary", elem_id="train-fast", min_width=160)
                    full = gr.Button("Train fully (hours)", elem_id="train-full", min_width=160)
                progress = gr.HTML(elem_id="learning-progress", **plain)
                result = gr.HTML(elem_id="learning-result", **plain)
                gr.HTML(tag("section", tag("h2", "What to label next")), **plain)
                share = gr.Slider(
                    0, 50, 20, step=5, label="Drawn by lot, so that estimates stay fair (%)", elem_id="learning-share"
                )
                value = gr.Button("Order the queue by the value of a label", elem_id="learning-order")
                ordered = gr.HTML(elem_id="learning-ordered", **plain)
                gr.HTML(tag("section", tag("h2", "Is the site still what the model learned from?")), **plain)
                look = gr.Button("Look for drift", elem_id="learning-look")
                drifts = gr.HTML(elem_id="learning-drift", **plain)
            with gr.Column(scale=5, min_width=420):
                gr.HTML(tag("section", tag("h2", "Challenger and champion")), **plain)
                version = gr.Dropdown([], label="Version", elem_id="learning-version")
                judged = gr.HTML(elem_id="learning-judgement", **plain)
                with gr.Row():
                    hold = gr.Button("Compare", elem_id="learning-compare", min_width=110)
                    up = gr.Button("Promote", variant="primary", elem_id="learning-promote", min_width=110)
                    down = gr.Button("Roll back", elem_id="learning-rollback", min_width=110)
        timer = gr.Timer(_LOOK, active=False)
        everything = [now, progress, result, version, judged, fast, full, timer, up, down]
        quietly = {"api_visibility": "private", "show_progress": "hidden"}
        made.select(opened, None, everything, **quietly)
        fast.click(_with(start, False), None, everything, **quietly)
        full.click(_with(start, True), None, everything, **quietly)
        timer.tick(tick, None, [progress, now, *everything[2:]], **quietly)
        version.input(compare, version, [judged, up], **quietly)
        hold.click(compare, version, [judged, up], **quietly)
        up.click(promote, version, everything, **quietly)
        down.click(back, None, everything, **quietly)
        value.click(order, share, ordered, **quietly)
        look.click(drift, None, drifts, **quietly)
    return made


def _with(start, full: bool):
    def begin(request: gr.Request):
        return start(request, full)

    return begin


def _begin(registry: Registry, database: str, full: bool) -> None:
    """Start a training that outlives this process. The URL goes by the environment: it may hold a password."""
    folder = registry.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "moderation.cli", "train", "--from-store", "--background", *(["--full"] if full else [])]
    settings = {"MODERATION_MODELS": str(folder), "MODERATION_DATABASE_URL": database}
    with (folder / "train.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | settings, start_new_session=True
        )
    began = time.monotonic()
    from training.loop import status

    while process.poll() is None and time.monotonic() - began < 60:
        state = status(registry)
        if state and state["running"] and state["process"] == process.pid:
            break
        time.sleep(0.1)
    else:
        if process.poll():
            lines = (folder / "train.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise UserError((lines or ["the training did not start"])[-1].removeprefix("moderation: "))
    threading.Thread(target=process.wait, daemon=True).start()  # leave no zombie behind


def _now(registry: Registry, decided: Mapping[int, int]) -> Markup:
    from training.versions import latest

    data = latest(registry.folder / "data")
    boxes = [(sum(decided.values()), "comments decided")]
    note = "Nothing was trained from them yet."
    if data is not None:
        uses = {use: sum(counts.values()) for use, counts in data.about["uses"].items()}
        boxes += [(uses.get("train", 0), "taught the last training"), (uses.get("holdout", 0), "kept to judge by")]
        boxes += [(uses["doubted"], "wait for another look")] if uses.get("doubted") else []
        boxes += [(uses["disputed"], "in dispute")] if uses.get("disputed") else []
        note = f"Version of the data: {data.name}"
    return tag(
        "section",
        tag("h2", f"Champion: {registry.champion()}"),
        tag("ul", *(tag("li", tag("strong", f"{count:,}"), what) for count, what in boxes), class_="boxes"),
        tag("p", note, class_="plot-note"),
    )


def _progress(state: Mapping | None) -> Markup | str:
    if not state:
        return ""
    if state["running"]:
        step, steps = state.get("step", 0), state.get("steps", 0)
        part = f", {step:,} of {steps:,}" if steps else ""
        said = tag("p", f"{_sentence(state['stage'])}{part} …", class_="said", role="status")
        if not steps:
            return tag("section", tag("h2", "Training"), said)
        share = 100 * step / steps
        bar = tag(
            "div",
            tag("span", style=f"width:{share:.1f}%"),
            class_="progress",
            role="progressbar",
            aria_valuenow=str(round(share)),
            aria_valuemin="0",
            aria_valuemax="100",
            aria_label=state["stage"],
        )
        return tag("section", tag("h2", "Training"), bar, said)
    outcome = state.get("outcome")
    if not outcome:
        return tag(
            "p", "The last training was interrupted; start it again, it goes on from what is on disk.", class_="said warn"
        )
    doubted = f" {outcome['doubted']} labels look wrong and wait in the queue (“flagged”)." if outcome.get("doubted") else ""
    bad = " warn" if outcome["outcome"] in ("failed", "refuse") else ""
    return tag(
        "section", tag("h2", "Last training"), tag("p", f"{_sentence(outcome['sentence'])}.{doubted}", class_=f"said{bad}")
    )


def _judgement(registry: Registry, version: str | None) -> Markup | str:
    from training.loop import judgement_of

    judged = judgement_of(registry, version) if version else None
    if not judged:
        return tag("p", "This version was not judged here.", class_="plot-empty") if version else ""
    champion = registry.champion()
    stale = ""
    if judged["champion"] != champion:
        stale = tag("p", f"It was judged against {judged['champion']}, which is not champion now.", class_="said warn")
    names = ("figure", "champion", "challenger", "difference", "")
    rows = [
        (
            _named(figure["name"]),
            _figure(figure["champion"]),
            _figure(figure["challenger"]),
            _difference(figure),
            tag("strong", "loses too much") if figure["lost"] else figure["verdict"],
        )
        for figure in judged["figures"]
    ]
    plans = [
        tag(
            "p",
            f"Thresholds of {plan['site'] or 'all sites'}: {plan['flagged_before']:.0%} of recent comments go to a person now, "
            f"{plan['flagged_after']:.0%} after the promotion with thresholds fitted anew ({plan['flagged_unfitted']:.0%} with the old ones).",
            class_="plot-note",
        )
        for plan in judged["policies"]
    ]
    said = tag("p", f"{_sentence(judged['sentence'])}.", class_="said" if judged["outcome"] == "promote" else "said warn")
    table = plots.table(names, rows, numbers=(1, 2, 3)) if rows else ""
    return tag("section", said, stale, table, join(plans))


def _promotable(registry: Registry, version: str | None):
    """Whether the button promotes: what the gate refused takes `moderation models promote --anyway`."""
    from training.loop import judgement_of

    champion = registry.champion()
    judged = judgement_of(registry, version) if version else None
    if judged is None:
        return gr.update(interactive=version == shipped() != champion)
    return gr.update(interactive=judged["outcome"] == "promote" and judged["champion"] == champion != version)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _figure(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"


#: Where a figure was measured, after its name.
_PLACES = {"holdout": "holdout", "base": "our test split"}


def _named(name: str) -> str:
    first, _, rest = name.partition(" ")
    where = _PLACES.get(first)
    if name == "macro-F1":
        return "Macro-F1, all that judges"
    return f"{_sentence(rest)}, {where}" if where else _sentence(name)


def _difference(figure: Mapping) -> str:
    low, high = figure["interval"]
    between = f" ({_figure(low, '+')} to {_figure(high, '+')})" if low is not None else ""
    return f"{_figure(figure['difference'], '+')}{between}"


def _drifts(lines: list[str]) -> Markup:
    if not lines:
        return tag("p", "No drift: label mix, confidence and agreement are as they were.", class_="said")
    return tag("ul", *(tag("li", line) for line in lines))
