"""The tab in which a lead moves thresholds and sees at once what that would do: how much there is to read, how right it would
be, how much would be missed. Policies are saved as versions, watch in shadow mode if asked to, and hold once activated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np
from markupsafe import Markup

from desk import plots
from desk.frame import told
from desk.render import join, tag
from moderation import ACTIONS, LABELS, UserError
from moderation.model import read_manifest
from moderation.policy import Policy
from moderation.registry import resolve
from moderation.store import PolicyVersion
from training import evaluate
from training.report import SCORES, read_scores

if TYPE_CHECKING:
    from desk.frame import Desk

#: Who may use this tab.
ROLE = "lead"
EVERY_SITE = "every site"
TROUBLE = tuple(label for label in LABELS if label != "on-topic")
#: Expected precision and recall come from the model's evaluation, or from what was decided at this desk.
TESTED, DECIDED = "the model's evaluation", "what was decided here"
#: Fewer rows than this tell nothing.
FEW = 30


@dataclass(frozen=True, slots=True)
class Evidence:
    """Labelled rows on which thresholds are tried: `truth` (N,) indices of `LABELS`, `probabilities` (N, 4), what they are."""

    truth: np.ndarray
    probabilities: np.ndarray
    what: str


def tab(desk: Desk) -> gr.Tab:
    """The Policy tab."""
    store = desk.store

    def evidence(source: str) -> Evidence:
        if source == DECIDED:
            judged = store.insight.judged()
            labels, rows = [label for label, _ in judged], [row for _, row in judged]
            what = f"{len(judged):,} comments that people decided here one by one; what nobody opened is not among them"
        else:
            folder = resolve(desk.settings.model)
            model = read_manifest(folder)["version"]
            version, labels, rows = read_scores(folder / SCORES)
            if version != model:
                raise UserError(f"the evaluation beside the model {model} is one of {version}")
            what = f"{len(labels):,} labelled test comments on which {version} was evaluated; your readers may write otherwise"
        return Evidence(np.array([LABELS.index(label) for label in labels], int), np.reshape(rows, (-1, len(LABELS))), what)

    def outcome(site: str, reads: float, arrivals: float, source: str, values: Sequence) -> tuple[Markup, Markup]:
        policy, name = to_policy(values), site_of(site)
        active = store.policies.active(name or "").policy
        queue = _queue(store.policies.effect(policy, name), store.policies.effect(active, name), reads or 0)
        try:
            tried = evidence(source)
        except UserError as error:
            return queue, tag("p", f"No expectation: {error}.", class_="plot-empty")
        return queue, _expected(policy, tried, reads or 0, arrivals or 0)

    def listed(site: str, chosen: int | None = None) -> tuple:
        versions = store.policies.versions()
        names = [(f"version {one.version}: {one.mode}, {one.site or EVERY_SITE}", one.version) for one in versions]
        value = chosen if chosen in [one.version for one in versions] else next((one.version for one in versions), None)
        return _versions(versions), gr.update(choices=names, value=value), _holds(store.policies.active(site_of(site) or ""))

    @told
    def opened(site, reads, source, request: gr.Request):
        desk.user(request, ROLE)
        site = site if site_of(site) in desk.sites else EVERY_SITE
        active = store.policies.active(site_of(site) or "")
        arrivals = _arrivals(store.insight.mix_by_day(None))
        values = to_values(active.policy)
        shown = (
            gr.update(choices=[EVERY_SITE, *filter(None, desk.sites)], value=site),
            arrivals,
            active.double_review,
            *values,
        )
        return (*shown, *outcome(site, reads, arrivals, source, values), *listed(site))

    @told
    def moved(request: gr.Request, site, reads, arrivals, source, *values):
        desk.user(request, ROLE)
        return outcome(site, reads, arrivals, source, values)

    @told
    def propose(request: gr.Request, reads, arrivals, source, *values):
        desk.user(request, ROLE)
        if not (reads and reads > 0 and arrivals and arrivals > 0):
            raise UserError("Say how many comments you read a day and how many arrive.")
        tried = evidence(source)
        if len(tried.truth) < FEW:
            raise UserError(
                f"{len(tried.truth)} labelled comments are too few to propose thresholds from; {FEW} are the least."
            )
        share = min(1.0, reads / arrivals)
        found = evaluate.workload(tried.truth, tried.probabilities, share, evaluate.Bootstrap(range(len(tried.truth)), draws=0))
        # What falls below every threshold is approved, or the budget would not hold.
        table = {"on-topic": {"approve": 0.0}, **{label: {"review": value} for label, value in found["thresholds"].items()}}
        proposed = to_values(Policy.from_table(table))
        return proposed[: 1 + len(TROUBLE)]

    @told
    def save(request: gr.Request, mode, site, double, note, *values):
        user = desk.user(request, ROLE)
        # What no slider shows, the promise and the limits of the learning loop, stays as it is.
        active = store.policies.active(site_of(site) or "").policy
        made = store.policies.save(
            replace(to_policy(values), promise=active.promise, limits=active.limits),
            user.name,
            site=site_of(site) or "",
            double_review=float(double or 0),
            mode=mode,
            note=note or "",
        )
        does = {"draft": "saved as a draft", "shadow": "saved; it watches from now on", "active": "saved and holds from now on"}
        return tag("p", f"Version {made.version} is {does[mode]}.", class_="said", role="status"), *listed(site, made.version)

    @told
    def change(request: gr.Request, version, to, site):
        desk.user(request, ROLE)
        if not version:
            raise UserError("Choose a version first.")
        done = store.policies.activate(int(version)) if to == "active" else store.policies.set_mode(int(version), to)
        said = {"active": "holds from now on", "shadow": "watches from now on", "retired": "is retired"}[to]
        return tag("p", f"Version {done.version} {said}.", class_="said", role="status"), *listed(site, done.version)

    @told
    def take(version, request: gr.Request):
        desk.user(request, ROLE)
        if not version:
            raise UserError("Choose a version first.")
        found = store.policies.get(int(version))
        return found.site or EVERY_SITE, found.double_review, *to_values(found.policy)

    @told
    def watched(version, request: gr.Request):
        desk.user(request, ROLE)
        return _shadow(store, int(version)) if version else ""

    with gr.Tab("Policy", id="policy") as made:
        holds = gr.HTML(elem_id="policy-holds", apply_default_css=False, js_on_load=None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=420):
                site = gr.Dropdown([EVERY_SITE], value=EVERY_SITE, label="For", elem_id="policy-site")
                approve = gr.Slider(0, 1, 0.5, step=0.01, label="Approve when on-topic from", elem_id="approve")
                reviews, mays, rejects = [], [], []
                for label in TROUBLE:
                    reviews.append(
                        gr.Slider(0, 1, 0.5, step=0.01, label=f"A person reads when {label} from", elem_id=f"review-{label}")
                    )
                with gr.Accordion("Reject unseen (never, unless you say so)", open=False):
                    for label in TROUBLE:
                        with gr.Row():
                            mays.append(
                                gr.Checkbox(False, label=f"Reject {label} unseen", elem_id=f"may-{label}", min_width=140)
                            )
                            rejects.append(
                                gr.Slider(0.5, 1, 0.98, step=0.005, label="from", elem_id=f"reject-{label}", min_width=200)
                            )
                double = gr.Slider(
                    0, 0.5, 0, step=0.01, label="Share of decisions that a second moderator judges blind", elem_id="double"
                )
                note = gr.Textbox(label="Note (optional)", max_length=2000, lines=1)
                with gr.Row():
                    draft = gr.Button("Save as draft", min_width=120)
                    shadow = gr.Button("Save, only watch", min_width=120)
                    activate = gr.Button("Save and activate", variant="primary", min_width=120)
                result = gr.HTML(elem_id="policy-result", apply_default_css=False, js_on_load=None)
            with gr.Column(scale=4, min_width=420):
                with gr.Row():
                    reads = gr.Number(200, precision=0, minimum=0, label="We read a day", elem_id="reads", min_width=140)
                    arrivals = gr.Number(None, precision=0, minimum=0, label="Arrive a day", elem_id="arrivals", min_width=140)
                    budget = gr.Button("Propose thresholds", elem_id="policy-budget", min_width=160)
                queue = gr.HTML(elem_id="policy-queue", apply_default_css=False, js_on_load=None)
                source = gr.Radio([TESTED, DECIDED], value=TESTED, label="Expected precision and recall from")
                expected = gr.HTML(elem_id="policy-expected", apply_default_css=False, js_on_load=None)
        with gr.Accordion("Versions and shadow mode", open=True):
            versions = gr.HTML(elem_id="policy-versions", apply_default_css=False, js_on_load=None)
            with gr.Row():
                version = gr.Dropdown([], label="Version", elem_id="policy-version", scale=3)
                load = gr.Button("Load", min_width=120)
                hold = gr.Button("Activate", min_width=100)
                watch = gr.Button("Only watch", min_width=100)
                retire = gr.Button("Retire", min_width=100)
            log = gr.HTML(elem_id="policy-shadow", apply_default_css=False, js_on_load=None)

        values = [approve, *reviews, *mays, *rejects]
        quietly = {"api_visibility": "private", "show_progress": "hidden"}
        about = [queue, expected]
        lists = [versions, version, holds]
        opening = ([site, reads, source], [site, arrivals, double, *values, *about, *lists])
        made.select(opened, *opening, **quietly).then(watched, version, log, **quietly)
        site.input(opened, *opening, **quietly)
        moving = [part.change for part in (*values, reads, arrivals, source)]
        gr.on(moving, moved, [site, reads, arrivals, source, *values], about, trigger_mode="always_last", **quietly)
        budget.click(propose, [reads, arrivals, source, *values], [approve, *reviews], **quietly)
        for button, mode in ((draft, "draft"), (shadow, "shadow"), (activate, "active")):
            button.click(save, [gr.State(mode), site, double, note, *values], [result, *lists], **quietly).success(
                moved, [site, reads, arrivals, source, *values], about, **quietly
            )
        for button, mode in ((hold, "active"), (watch, "shadow"), (retire, "retired")):
            button.click(change, [version, gr.State(mode), site], [result, *lists], **quietly).success(
                moved, [site, reads, arrivals, source, *values], about, **quietly
            ).then(watched, version, log, **quietly)
        load.click(take, version, [site, double, *values], **quietly)
        version.change(watched, version, log, **quietly)
    return made


def site_of(shown: str | None) -> str | None:
    """The site behind a choice; None stands for all."""
    return None if not shown or shown == EVERY_SITE else shown


def to_policy(values: Sequence) -> Policy:
    """What the sliders say: approve, review by label, whether to reject by label, and from where.

    Raises:
        UserError: a rejection below the threshold at which a person would look.
    """
    count = len(TROUBLE)
    approve, *rest = values
    if len(rest) != 3 * count:
        raise UserError("the thresholds are not complete")
    table: dict[str, dict[str, object]] = {"on-topic": {"approve": approve}}
    for label, review, may, reject in zip(TROUBLE, rest[:count], rest[count : 2 * count], rest[2 * count :], strict=True):
        table[label] = {"review": review, "reject": reject} if may else {"review": review}
    return Policy.from_table(table)


def to_values(policy: Policy) -> list:
    """The same, backwards."""
    may = [label in policy.reject for label in TROUBLE]
    return [
        policy.approve,
        *(round(policy.review[label], 4) for label in TROUBLE),
        *may,
        *(policy.reject.get(label, 0.98) for label in TROUBLE),
    ]


def try_out(policy: Policy, evidence: Evidence) -> dict[str, np.ndarray]:
    """Which rows (N,) each action of `ACTIONS` would take; as `Policy.action`, for many at once."""
    column = {label: evidence.probabilities[:, place] for place, label in enumerate(LABELS)}
    none = np.zeros(len(evidence.truth), bool)
    reject = np.logical_or.reduce([none, *(column[label] >= limit for label, limit in policy.reject.items())])
    review = np.logical_or.reduce([none, *(column[label] >= limit for label, limit in policy.review.items())])
    review = ~reject & (review | (column["on-topic"] < policy.approve))
    return {"approve": ~reject & ~review, "review": review, "reject": reject}


def _queue(now: dict[str, int], active: dict[str, int], reads: float) -> Markup:
    """The live effect on what is undecided, and how far it is from the policy that holds."""
    words = {"approve": "approved", "review": "for a person to read", "reject": "rejected unseen"}
    boxes = []
    for action in ACTIONS:
        change = now[action] - active[action]
        more = f"{change:+,} against what holds" if change else "as it is now"
        if action == "review" and reads:
            more += f" · {now[action] / reads:.1f} days of reading"
        boxes.append(
            tag(
                "li",
                tag("strong", f"{now[action]:,}"),
                f"{words[action]}, ",
                more,
                class_="warn" if action == "reject" and now[action] else None,
            )
        )
    return tag("section", tag("h2", "The undecided comments"), tag("ul", *boxes, class_="boxes"))


def _expected(policy: Policy, evidence: Evidence, reads: float, arrivals: float) -> Markup:
    """Precision and recall of each threshold and of the whole, with 95 % intervals (Wilson)."""
    count = len(evidence.truth)
    if count < FEW:
        return tag("p", f"{count} labelled comments tell nothing yet; {FEW} are the least.", class_="plot-empty")
    lines = []
    for label in TROUBLE:
        place = LABELS.index(label)
        is_it = evidence.truth == place
        for what, limit in (("read", policy.review[label]), ("reject", policy.reject.get(label))):
            if limit is None:
                continue
            chosen = evidence.probabilities[:, place] >= limit
            lines.append((label, f"{what} from {limit:.2f}", *_shares(chosen, is_it)))
    taken = try_out(policy, evidence)
    trouble = evidence.truth != LABELS.index("on-topic")
    looked = taken["review"] | taken["reject"]
    lines.append(("all together", "read or rejected", *_shares(looked, trouble)))
    share = float(taken["review"].mean())
    said = [f"A person reads {share:.0%} of what arrives"]
    if arrivals:
        said.append(f": about {share * arrivals:,.0f} of {arrivals:,.0f} a day" + (f", you read {reads:,.0f}" if reads else ""))
    over = bool(arrivals and reads and share * arrivals > reads)
    wrongly = int((taken["reject"] & ~trouble).sum())
    parts = [tag("p", join(said), ". More than you read." if over else ".", class_="said warn" if over else "said")]
    if policy.reject:
        parts.append(
            tag("p", f"{wrongly} of {int((~trouble).sum()):,} on-topic comments would be rejected unseen.", class_="said warn")
        )
    table = plots.table(("label", "threshold", "chosen of 1,000", "precision", "recall"), lines, numbers=(2, 3, 4))
    return tag(
        "section", *parts, table, tag("p", f"Measured on {evidence.what}. In brackets 95 % intervals.", class_="plot-note")
    )


def _shares(chosen: np.ndarray, is_it: np.ndarray) -> tuple[str, str, str]:
    hits = int((chosen & is_it).sum())
    return (
        f"{1000 * chosen.mean():.0f}",
        _share(hits, int(chosen.sum())),
        _share(hits, int(is_it.sum())),
    )


def _share(hits: int, count: int) -> str:
    low, high = evaluate.wilson(hits, count)
    return "–" if math.isnan(low) else f"{hits / count:.2f} ({low:.2f}–{high:.2f})"


def _arrivals(days: Sequence) -> int:
    """Comments a day, by the last thirty days on which any was posted."""
    recent = [sum(day.counts.values()) for day in sorted(days, key=lambda day: float(day.key))[-30:]]
    return round(sum(recent) / len(recent)) if recent else 0


def _holds(active: PolicyVersion) -> Markup:
    if not active.version:
        return tag("p", "The model's own thresholds hold; no policy has been activated.", class_="said")
    said = f"Version {active.version} holds, saved by {active.saved_by} on {_time(active.saved_at)}."
    double = f" A second moderator judges {active.double_review:.0%} of the decisions blind." if active.double_review else ""
    return tag("p", said, double, class_="said")


def _versions(versions: Sequence[PolicyVersion]) -> Markup:
    lines = []
    for one in versions:
        policy = one.policy
        read = ", ".join(f"{label} {policy.review[label]:.2f}" for label in TROUBLE) + f", on-topic below {policy.approve:.2f}"
        reject = ", ".join(f"{label} {limit:.2f}" for label, limit in policy.reject.items()) or "nothing"
        double = f"{one.double_review:.0%}"
        lines.append(
            (one.version, one.mode, one.site or EVERY_SITE, read, reject, double, one.saved_by, _time(one.saved_at), one.note)
        )
    headings = ("version", "mode", "for", "a person reads", "rejected unseen", "twice", "saved by", "on", "note")
    return plots.table(headings, lines, numbers=(0, 5), empty="No policy has been saved; the model's own thresholds hold.")


def _shadow(store, version: int) -> Markup | str:
    """What a version in shadow mode has logged."""
    report = store.policies.shadow_report(version)
    total = sum(report.actions.values())
    if not total:
        mode = store.policies.get(version).mode
        return tag("p", "It watches; nothing has come in since.", class_="plot-empty") if mode == "shadow" else ""
    differ = sum(count for (action, would), count in report.actions.items() if action != would)
    counts = [(action, *(report.actions.get((action, would), 0) for would in ACTIONS)) for action in ACTIONS]
    decided = [(would, *(report.decided.get((would, label), 0) for label in LABELS)) for would in ACTIONS]
    entries = store.policies.shadow_log(version, 30)
    items = {item.id: item for item in store.queue.items([entry.comment_id for entry in entries])}
    log = [
        (
            entry.comment_id,
            _time(entry.at),
            entry.action,
            entry.would,
            entry.label or "–",
            _shorten(items[entry.comment_id].comment.text),
        )
        for entry in entries
        if entry.comment_id in items
    ]
    return tag(
        "section",
        tag("h2", f"What version {version} would have done"),
        tag("p", f"It has watched {total:,} comments and would have treated {differ:,} of them otherwise.", class_="said"),
        plots.table(("what holds ↓   it would →", *ACTIONS), counts, numbers=(1, 2, 3)),
        plots.table(("it would ↓   people decided →", *LABELS), decided, numbers=(1, 2, 3, 4)),
        plots.table(
            ("no.", "came in", "what holds", "it would", "decided", "comment"), log, numbers=(0,), empty="They agree on all."
        ),
    )


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:119].rstrip() + "…"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
