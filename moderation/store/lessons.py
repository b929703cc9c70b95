"""What the learning loop takes from the store and gives back: decisions to learn from, labels to look at again, what to ask next.

The rule for disagreements is the store's own, stated once: the decision that counts is the newest that stands, because
whoever decides a comment again sees what was decided before. A blind second opinion counts for nothing by itself; where it
differs from the decision, the comment is *disputed* and teaches nothing until somebody decides it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moderation.store.database import Database
from moderation.store.decisions import SECOND_AGREES, SECOND_DISAGREES
from moderation.store.items import Item, load
from moderation.store.library import article_key
from moderation.store.queue import upsert
from moderation.store.tables import comments, decisions, draws, looks

#: What a decision is to the learning loop. `counts`: one person said so. `confirmed`: a second opinion agrees, or it was
#: given again after a doubt. `disputed`: a second opinion differs. `doubted`: waits for another look.
STATES = ("counts", "confirmed", "disputed", "doubted")
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Lesson:
    """A decided comment.

    Attributes:
        item: the comment. thread: a name of its article that is the same in every store ("site|key").
        label: the label that counts. decision: number of that decision. kind: "single" or "bulk".
        user: who gave it. state: one of `STATES`. cluster: number that copies of one text share.
    """

    item: Item
    thread: str
    label: str
    decision: int
    kind: str
    user: str
    state: Literal["counts", "confirmed", "disputed", "doubted"]
    cluster: int


class Lessons:
    """Decisions for learning, doubts, and the order by value. Part of a `Store`."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def decided(self) -> Iterator[Lesson]:
        """Every decided comment, by number."""
        for connection, ids in self._batches(comments.c.open == 0):
            rows = {
                row.id: row
                for row in connection.execute(
                    sa.select(
                        comments.c.id,
                        comments.c.second,
                        comments.c.cluster,
                        decisions.c.id.label("decision"),
                        decisions.c.kind,
                        decisions.c.user,
                        sa.select(sa.func.max(looks.c.decision_id))
                        .where(looks.c.comment_id == comments.c.id)
                        .scalar_subquery()
                        .label("looked"),
                    )
                    .join(decisions, decisions.c.id == comments.c.decision_id)
                    .where(comments.c.id.in_(ids))
                )
            }
            for item in load(connection, ids, self._clock()):
                row = rows.get(item.id)
                if row is None or row.decision != item.decision_id:
                    continue  # decided anew between the two looks; the next training sees it
                yield Lesson(item, thread_of(item), item.label, row.decision, row.kind, row.user, _state(row), row.cluster)

    def undecided(self, statuses: Sequence[str] | None = None, limit: int | None = None) -> Iterator[Item]:
        """Undecided comments by number, the newest first; with `statuses` those of which the platform said one of these."""
        condition = comments.c.open == 1
        if statuses is not None:
            condition &= comments.c.status.in_(statuses)
        done = 0
        for connection, ids in self._batches(condition, newest=True):
            for item in load(connection, ids[: None if limit is None else limit - done], self._clock()):
                yield item
                done += 1
            if limit is not None and done >= limit:
                return

    def busy_threads(self) -> dict[int, int]:
        """How many decided comments each article has, by its number; articles without one are absent."""
        query = (
            sa.select(comments.c.article_id, sa.func.count()).where(comments.c.open + 0 == 0).group_by(comments.c.article_id)
        )
        with self._database.read() as connection:
            return dict(connection.execute(query).tuples().all())

    def doubt(self, doubts: Mapping[int, tuple[int, str, float]]) -> int:
        """Ask for another look at decisions: `{comment: (decision, label that the others speak for, quality 0..1)}`.

        Only those that still count are marked, and each decision only once. Returns how many were.
        """

        def work(connection: Connection) -> int:
            asked = 0
            for comment, (decision, suggested, quality) in doubts.items():
                why = f"please look again: similar comments were labelled {suggested}"
                marked = connection.execute(
                    sa.update(comments).where(comments.c.id == comment, comments.c.decision_id == decision).values(flag=why)
                ).rowcount
                if marked:
                    values = {"comment_id": comment, "decision_id": decision, "at": self._clock()}
                    insert = upsert(connection, looks).values(**values, suggested=suggested, quality=quality)
                    connection.execute(insert.on_conflict_do_nothing())
                    asked += 1
            return asked

        return self._database.write(work) if doubts else 0

    def order(self, values: Mapping[int, float], drawn: Iterable[int] = ()) -> None:
        """Order the queue by value (`sort="value"`): these values hold, all others sink to 0.

        Args:
            drawn: those of the comments that owe their place to chance; `Insight.estimate` goes by them.
        """

        def work(connection: Connection) -> None:
            connection.execute(sa.update(comments).where(comments.c.priority != 0).values(priority=0.0))
            rows = [{"number": number, "value": value} for number, value in values.items()]
            if rows:
                update = sa.update(comments).where(comments.c.id == sa.bindparam("number"))
                connection.execute(update.values(priority=sa.bindparam("value")), rows)
            chosen = [{"comment_id": number, "at": self._clock()} for number in drawn]
            if chosen:
                connection.execute(upsert(connection, draws).on_conflict_do_nothing(), chosen)

        self._database.write(work)

    def _batches(self, condition: sa.ColumnElement[bool], newest: bool = False) -> Iterator[tuple[Connection, list[int]]]:
        last: int | None = None
        column = comments.c.id
        while True:
            with self._database.read() as connection:
                beyond = sa.true() if last is None else column < last if newest else column > last
                query = sa.select(column).where(condition, beyond).order_by(column.desc() if newest else column).limit(_BATCH)
                ids = list(connection.scalars(query))
                if not ids:
                    return
                last = ids[-1]
                yield connection, ids


def thread_of(item: Item) -> str:
    """The name of a comment's article, the same in every store that imported the same source; its own where it has none."""
    site, key = article_key(item.comment.article, item.site)
    return f"{site}|{key or 'comment:' + item.comment.comment_id}"


def _state(row: sa.Row) -> str:
    if row.looked is not None and row.looked == row.decision:
        return "doubted"
    if row.second == SECOND_DISAGREES:
        return "disputed"
    return "confirmed" if row.second == SECOND_AGREES or row.looked is not None else "counts"


__all__ = ["STATES", "Lesson", "Lessons", "thread_of"]
