"""Is the site still what the model learned from? Weekly figures of the store against the time before, as plain sentences.

Three things drift: what the model calls comments (the mix), how sure it is, and how often moderators agree with it. A week
is held against the weeks up to the training, by a two-sample test, and is only spoken of when the change is both beyond
chance and large enough to matter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from moderation.schema import LABELS
from moderation.store import Store
from moderation.store.insight import Week

#: Weeks that say what is usual; comments that a week must have; changes of a share that matter; chance of a false alarm.
REFERENCE, LEAST = 8, 50
MATTERS = {"mix": 0.08, "confidence": 0.05, "agreement": 0.08}
ALARM = 0.001


@dataclass(frozen=True, slots=True)
class Drift:
    """One warning.

    Attributes:
        kind: "mix", "confidence" or "agreement". week: its beginning, seconds since 1970. label: of the mix, else "".
        before, after: shares (or mean confidences). articles: (title, comments) behind it, the most first; `numbers` theirs.
            Where a label became rarer, the comments are those that are missing: fewer under the article than used to be.
    """

    kind: str
    week: float
    label: str
    before: float
    after: float
    articles: tuple[tuple[str, int], ...]
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        day = time.strftime("%d %B %Y", time.gmtime(self.week)).lstrip("0")
        what = {
            "mix": f"{self.after:.0%} of the comments are called {self.label} ({self.before:.0%} before)",
            "confidence": f"the model is less sure: {self.after:.2f} on average ({self.before:.2f} before)",
            "agreement": f"moderators agree with the model in {self.after:.0%} of their decisions ({self.before:.0%} before)",
        }[self.kind]
        fewer = " fewer" if self.kind == "mix" and self.after < self.before else ""
        behind = "; ".join(f"“{title[:60]}” ({count}{fewer})" for title, count in self.articles)
        return f"In the week of {day} {what}" + (f"; behind it: {behind}" if behind else "") + "."


def find(store: Store, weeks: int = 1, learned_at: float | None = None) -> list[Drift]:
    """Warnings about the last `weeks` weeks, the newest first.

    Args:
        learned_at: when the model learned, seconds since 1970: the weeks up to then are what is usual, if they hold enough;
            else the weeks just before.
    """
    known = store.insight.weeks()
    found = []
    for place in range(len(known) - 1, max(0, len(known) - 1 - weeks), -1):
        week, before = known[place], known[max(0, place - REFERENCE) : place]
        then = [one for one in known[:place] if learned_at is not None and one.start < learned_at][-REFERENCE:]
        if sum(one.comments for one in then) >= LEAST:
            before = then
        for kind, label, was, now in changes(week, before):
            usual = was if kind == "mix" and now < was else None
            behind = store.insight.behind(week.start, kind, label, usual=usual)
            articles, numbers = tuple((title, count) for _, title, count in behind), tuple(number for number, _, _ in behind)
            found.append(Drift(kind, week.start, label, was, now, articles, numbers))
    return found


def changes(week: Week, before: Sequence[Week]) -> list[tuple[str, str, float, float]]:
    """(kind, label, before, now) of what changed in a week. Pure."""
    found = []
    total = sum(one.comments for one in before)
    if week.comments >= LEAST and total >= LEAST:
        for label in LABELS:
            was, now = sum(one.labels[label] for one in before), week.labels[label]
            if _differ(now, week.comments, was, total) and abs(now / week.comments - was / total) >= MATTERS["mix"]:
                found.append(("mix", label, was / total, now / week.comments))
        mean = sum(one.confidence * one.comments for one in before) / total
        spread = math.sqrt(max(week.spread, 1e-9) / week.comments + sum(one.spread * one.comments for one in before) / total**2)
        if mean - week.confidence >= MATTERS["confidence"] and _beyond((mean - week.confidence) / max(spread, 1e-9)):
            found.append(("confidence", "", mean, week.confidence))
    decided = sum(one.decided for one in before)
    if week.decided >= LEAST and decided >= LEAST:
        was, now = sum(one.agreed for one in before), week.agreed
        if was / decided - now / week.decided >= MATTERS["agreement"] and _differ(now, week.decided, was, decided):
            found.append(("agreement", "", was / decided, now / week.decided))
    return found


def _differ(hits: int, count: int, other_hits: int, other_count: int) -> bool:
    """Whether two shares differ beyond chance: the two-proportion z-test."""
    pooled = (hits + other_hits) / (count + other_count)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / count + 1 / other_count))
    return deviation > 0 and _beyond((hits / count - other_hits / other_count) / deviation)


def _beyond(z: float) -> bool:
    return math.erfc(abs(z) / math.sqrt(2)) < ALARM
