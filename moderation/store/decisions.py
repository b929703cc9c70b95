"""Deciding, in bulk or one at a time, and taking it back. Nothing here is ever changed or deleted, only added to.

A *step* is one thing that a person did: a decision, a bulk decision, an undo. The caller's key makes a step happen once,
however often it is sent. Each step writes one row of `decisions` for every comment that it touches. The decision that
counts for a comment is the newest single or bulk one whose step was not undone; `_settle` derives it, always the same way.
A second opinion never counts by itself: it agrees or disagrees.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moderation.schema import LABELS, UserError, clean_text
from moderation.store.database import Database
from moderation.store.items import Filter
from moderation.store.policies import review_share
from moderation.store.queue import LEASE, take
from moderation.store.tables import Number, claims, comments, decisions, steps

#: Values of `comments.second`.
SECOND_NONE, SECOND_WANTED, SECOND_AGREES, SECOND_DISAGREES = range(4)
#: Longest note that is kept, in characters.
NOTE_CHARS = 2000
#: Most comments that one bulk decision may touch.
BULK_MOST = 200_000

_COUNTING = ("single", "bulk", "edit")
# The tables under other names, made once: that costs more than most of the queries.
_UNDO = steps.alias("undo")
_TAKEN, _COUNTS, _STANDING, _SECOND = map(decisions.alias, ("taken", "counts", "standing", "second_opinion"))


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a decision.

    Attributes:
        outcome: "applied"; "duplicate": this key was sent before and did what is said here; "stale": nothing was done,
            because another moderator has the comment or has decided it since, or a bulk's count changed.
        step: number of the step, 0 if stale.
        kind: "single", "second" or "bulk".
        label: the label that was given; when stale, the one that the comment has now.
        count: comments decided; for a stale bulk, how many the selection holds now.
        comment_id: the comment's number; 0 for a bulk.
    """

    outcome: str
    step: int
    kind: str
    label: str
    count: int
    comment_id: int = 0


@dataclass(frozen=True, slots=True)
class Undone:
    """What an undo took back.

    Attributes:
        step: number of the undo's own step. undoes: number of the step that was taken back.
        kind: kind of that step. label: the label that it had given.
        count: comments touched. comment_id: the comment's number, 0 for a bulk: where the desk goes back to.
    """

    step: int
    undoes: int
    kind: str
    label: str
    count: int
    comment_id: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a comment's history."""

    id: int
    at: float
    user: str
    kind: str
    label: str
    previous: str
    seconds: float | None
    model_label: str
    model_version: str
    note: str
    undone: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a moderator did, for the list of recent steps; `undone_by` names who took it back, "" while it stands."""

    id: int
    at: float
    user: str
    kind: str
    label: str
    count: int
    selection: str
    comment_id: int
    undone_by: str

    @property
    def undone(self) -> bool:
        return bool(self.undone_by)


class Decisions:
    """Deciding and undoing. Part of a `Store`."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def decide(
        self,
        comment_id: int,
        user: str,
        label: str,
        key: str,
        *,
        seen: int = 0,
        seconds: float | None = None,
        note: str = "",
    ) -> Result:
        """Give a comment a label.

        Applied when the comment is still in the state that the user was shown and no other moderator holds it. On a comment
        that another moderator decided and that waits for a second opinion, a decision made blind (`seen=0`) is recorded as
        that opinion and changes nothing else.

        Args:
            comment_id: the comment's number (`Item.id`).
            key: names this key press; sent again it does nothing and answers "duplicate".
            seen: `Item.decision_id` as the user was shown it.
            seconds: how long the user looked at the comment.

        Raises:
            UserError: no such comment or label, or an empty key.
        """
        _check_label(label)
        _check_key(key)

        def work(connection: Connection) -> Result:
            comment = connection.execute(sa.select(comments).where(comments.c.id == comment_id).with_for_update()).first()
            if comment is None:
                raise UserError(f"there is no comment number {comment_id}")
            if (again := self._by_key(connection, user, key)) is not None:
                return again
            now = self._clock()
            holder = connection.scalar(
                sa.select(claims.c.user).where(claims.c.comment_id == comment_id, claims.c.until > now, claims.c.user != user)
            )
            second = comment.second == SECOND_WANTED and comment.decided_by != user and not seen
            if holder is not None or (comment.decision_id != seen and not second):
                return Result("stale", 0, "single", comment.label, 0, comment_id)
            kind = "second" if second else "single"
            # A comment is drawn for a second opinion once, when it is first decided.
            share = 0.0 if comment.decision_id or second else review_share(connection, comment.article_id)
            step = add_step(connection, user, key, now, kind, label, 1)
            add_decisions(
                connection,
                _judged().where(comments.c.id == comment_id).subquery(),
                step=step,
                user=user,
                at=now,
                kind=kind,
                label=label,
                refers_to=comment.decision_id if second else None,
                drawn=random.random() < share,
                seconds=None if seconds is None else min(max(float(seconds), 0.0), 86_400.0),
                note=clean_text(note)[:NOTE_CHARS],
            )
            settle(connection, step, comment_id)
            connection.execute(sa.delete(claims).where(claims.c.comment_id == comment_id))
            if comment.flag and not second:
                connection.execute(sa.update(comments).where(comments.c.id == comment_id).values(flag=""))
            return Result("applied", step, kind, label, 1, comment_id)

        return self._database.write(work)

    def bulk(self, selection: Filter, label: str, user: str, key: str, *, count: int | None = None, note: str = "") -> Result:
        """Give every comment that the selection chooses the same label, as one step.

        Args:
            selection: for instance a probability range, or `Filter(copies_of=…)`.
            key: as for `decide`.
            count: what the user was told; when the selection holds another number by now, nothing is done ("stale").

        Raises:
            UserError: no such label, an empty key, or more than `BULK_MOST` comments.
        """
        _check_label(label)
        _check_key(key)

        def work(connection: Connection) -> Result:
            if (again := self._by_key(connection, user, key)) is not None:
                return again
            now = self._clock()
            condition = selection.condition(now)
            actual = connection.scalar(sa.select(sa.func.count()).select_from(comments).where(condition)) or 0
            if actual > BULK_MOST:
                raise UserError(f"{actual:,} comments are too many for one step; choose at most {BULK_MOST:,}")
            if (count is not None and count != actual) or not actual:
                return Result("stale", 0, "bulk", label, actual)
            step = add_step(connection, user, key, now, "bulk", label, actual, selection.to_json())
            add_decisions(
                connection,
                _judged().where(condition).subquery(),
                step=step,
                user=user,
                at=now,
                kind="bulk",
                label=label,
                note=clean_text(note)[:NOTE_CHARS],
            )
            settle(connection, step)
            connection.execute(sa.delete(claims).where(claims.c.comment_id.in_(_touched(step))))
            return Result("applied", step, "bulk", label, actual)

        return self._database.write(work, snapshot=True)

    def undo(self, user: str, key: str, *, step: int | None = None, anyones: bool = False) -> Undone | None:
        """Take back the user's last step that still stands, or the one named; as often as there are steps.

        A comment goes back to the decision that counted before, also if another moderator decided it in between and that
        still stands; a single one is held for the user again. Sent again with the same key it does nothing and gives the same answer.

        Args:
            user: who takes it back, whosever the step was; the undo stands in the history under this name.
            step: number of a step (a bulk in the list of recent ones).
            anyones: whether the step named may be another's; the caller answers for the right to it.

        Returns: what was taken back; None when there is nothing (more) to take back.

        Raises:
            UserError: the step named is not this user's, or no step that can be undone.
        """
        _check_key(key)

        def work(connection: Connection) -> Undone | None:
            earlier = connection.execute(
                sa.select(steps, _UNDO.c.id.label("undo"))
                .join_from(_UNDO, steps, steps.c.id == _UNDO.c.undoes)
                .where(_UNDO.c.user == user, _UNDO.c.key == key)
            ).first()
            if earlier is not None:
                return self._undone(connection, earlier, earlier.undo)
            query = sa.select(steps).where(steps.c.kind.in_(("single", "second", "bulk")))
            if step is None or not anyones:
                query = query.where(steps.c.user == user)
            standing = ~undone(steps.c.id)
            if step is None:
                target = connection.execute(query.where(standing).order_by(steps.c.id.desc()).limit(1)).first()
                if target is None:
                    return None
            else:
                target = connection.execute(query.where(steps.c.id == step)).first()
                if target is None:
                    raise UserError(f"step {step} is not one that {user} can undo")
                if connection.execute(query.where(steps.c.id == step, standing)).first() is None:
                    return None
            now = self._clock()
            own = add_step(connection, user, key, now, "undo", target.label, target.count, undoes=target.id)
            add_decisions(
                connection,
                _judged(_TAKEN.c.id.label("taken_id"))
                .join_from(_TAKEN, comments, comments.c.id == _TAKEN.c.comment_id)
                .where(_TAKEN.c.step_id == target.id)
                .subquery(),
                step=own,
                user=user,
                at=now,
                kind="undo",
            )
            number = self._only_comment(connection, target)
            settle(connection, own, number or None)
            wanted = (comments.c.open == 1) | (comments.c.second == SECOND_WANTED)
            if (
                number
                and target.user == user
                and connection.scalar(sa.select(comments.c.id).where(comments.c.id == number, wanted))
            ):
                take(connection, user, [number], LEASE, now)
            return self._undone(connection, target, own)

        return self._database.write(work, snapshot=True)

    def history(self, comment_id: int) -> list[Entry]:
        """All that was ever decided about a comment, the oldest first."""
        gone = undone(decisions.c.step_id)
        column = decisions.c
        query = sa.select(
            column.id,
            column.at,
            column.user,
            column.kind,
            column.label,
            column.previous,
            column.seconds,
            column.model_label,
            column.model_version,
            column.note,
            gone,
        )
        with self._database.read() as connection:
            rows = connection.execute(query.where(column.comment_id == comment_id).order_by(column.id))
            return [Entry(*row[:-1], undone=bool(row[-1])) for row in rows]

    def recent(self, user: str | None = None, kind: str | None = None, limit: int = 20) -> list[Step]:
        """The last steps, the newest first: of one user or of all, of one kind ("bulk") or of all."""
        by = sa.select(_UNDO.c.user).where(_UNDO.c.undoes == steps.c.id).correlate(steps).scalar_subquery().label("undone_by")
        query = sa.select(steps, by).order_by(steps.c.id.desc()).limit(max(1, min(limit, 500)))
        if user is not None:
            query = query.where(steps.c.user == user)
        if kind is not None:
            query = query.where(steps.c.kind == kind)
        with self._database.read() as connection:
            return [
                Step(
                    row.id,
                    row.at,
                    row.user,
                    row.kind,
                    row.label,
                    row.count,
                    row.selection,
                    self._only_comment(connection, row),
                    row.undone_by or "",
                )
                for row in connection.execute(query).all()
            ]

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _by_key(self, connection: Connection, user: str, key: str) -> Result | None:
        row = connection.execute(sa.select(steps).where(steps.c.user == user, steps.c.key == key)).first()
        if row is None:
            return None
        return Result("duplicate", row.id, row.kind, row.label, row.count, self._only_comment(connection, row))

    def _only_comment(self, connection: Connection, step: sa.Row) -> int:
        """The comment of a step that touched a single one; 0 for a bulk, whatever its size, and for the undo of one."""
        if step.count != 1 or step.kind == "bulk":
            return 0
        if step.kind == "undo" and connection.scalar(sa.select(steps.c.kind).where(steps.c.id == step.undoes)) == "bulk":
            return 0
        return connection.scalar(sa.select(decisions.c.comment_id).where(decisions.c.step_id == step.id)) or 0

    def _undone(self, connection: Connection, target: sa.Row, own: int) -> Undone:
        return Undone(own, target.id, target.kind, target.label, target.count, self._only_comment(connection, target))


def add_step(
    connection: Connection,
    user: str,
    key: str,
    at: float,
    kind: str,
    label: str,
    count: int,
    selection: str = "",
    undoes: int | None = None,
) -> int:
    """Write a step; its number."""
    values = {"user": user, "key": key, "at": at, "kind": kind, "label": label, "count": count}
    values |= {"selection": selection, "undoes": undoes}
    return connection.execute(sa.insert(steps).values(values)).inserted_primary_key[0]


def add_decisions(
    connection: Connection,
    chosen: sa.Subquery,
    *,
    step: int,
    user: str,
    at: float,
    kind: str,
    label: str = "",
    refers_to: int | None = None,
    drawn: bool = False,
    seconds: float | None = None,
    note: str = "",
) -> None:
    """Write one decision for each of the chosen comments.

    Of an undo, `label` and `refers_to` come from what it takes back: the column `taken_id` of `chosen`.
    """
    undoing = kind == "undo"
    columns = {
        "step_id": sa.literal(step, Number),
        "comment_id": chosen.c.id,
        "user": sa.literal(user, sa.String),
        "at": sa.literal(at, sa.Double),
        "kind": sa.literal(kind, sa.String),
        "label": _standing("label", chosen.c.id) if undoing else sa.literal(label, sa.String),
        "previous": chosen.c.label,
        "refers_to": chosen.c.taken_id if undoing else sa.literal(refers_to, Number),
        "drawn": sa.literal(drawn, sa.Boolean),
        "seconds": sa.literal(seconds, sa.Double),
        "model_label": chosen.c.model_label,
        "model_version": chosen.c.model_version,
        "note": sa.literal(note, sa.Text),
    }
    rows = sa.select(*columns.values()).order_by(chosen.c.id)
    connection.execute(sa.insert(decisions).from_select(list(columns), rows, include_defaults=False))


def settle(connection: Connection, step: int, comment_id: int | None = None) -> None:
    """Derive anew which decision counts for the comments of a step (or the one named), and whether another is wanted."""
    mine = comments.c.id == comment_id if comment_id else comments.c.id.in_(_touched(step))
    connection.execute(sa.update(comments).where(mine).values(decision_id=_standing("id", comments.c.id)))

    def of_it(column: str, otherwise: object) -> sa.ColumnElement:
        query = sa.select(_COUNTS.c[column]).where(_COUNTS.c.id == comments.c.decision_id)
        return sa.func.coalesce(query.correlate(comments).scalar_subquery(), otherwise)

    opinion = (
        sa.select(_SECOND.c.label)
        .where(
            _SECOND.c.comment_id == comments.c.id,
            _SECOND.c.kind == "second",
            _SECOND.c.refers_to == comments.c.decision_id,
            ~undone(_SECOND.c.step_id),
        )
        .order_by(_SECOND.c.id.desc())
        .limit(1)
        .correlate(comments)
        .scalar_subquery()
    )
    connection.execute(
        sa.update(comments)
        .where(mine)
        .values(
            label=of_it("label", ""),
            decided_by=of_it("user", ""),
            decided_at=of_it("at", 0.0),
            open=sa.case((comments.c.decision_id == 0, 1), else_=0),
            second=sa.case(
                (comments.c.decision_id == 0, SECOND_NONE),
                (opinion == of_it("label", ""), SECOND_AGREES),
                (opinion.is_not(None), SECOND_DISAGREES),
                (of_it("drawn", sa.false()), SECOND_WANTED),
                else_=SECOND_NONE,
            ),
        )
    )


def _judged(*more: sa.ColumnElement) -> sa.Select:
    """What `add_decisions` needs of the comments."""
    return sa.select(comments.c.id, comments.c.label, comments.c.model_label, comments.c.model_version, *more)


def _standing(column: str, comment_id: sa.ColumnElement) -> sa.ColumnElement:
    """Of the decision that counts for a comment: a column; 0 or "" where there is none or the text changed since."""
    nothing = {"id": 0, "label": ""}[column]
    row = _STANDING
    newest = (
        sa.select(sa.case((row.c.kind == "edit", nothing), else_=row.c[column]))
        .where(row.c.comment_id == comment_id, row.c.kind.in_(_COUNTING), ~undone(row.c.step_id))
        .order_by(row.c.id.desc())
        .limit(1)
        .correlate(comment_id.table)
        .scalar_subquery()
    )
    return sa.func.coalesce(newest, nothing)


def undone(step_id: sa.ColumnElement) -> sa.ColumnElement[bool]:
    return sa.select(_UNDO.c.id).where(_UNDO.c.undoes == step_id).correlate_except(_UNDO).exists()


def _touched(step: int) -> sa.Select:
    return sa.select(decisions.c.comment_id).where(decisions.c.step_id == step)


def _check_label(label: str) -> None:
    if label not in LABELS:
        raise UserError(f"unknown label {label!r}; expected one of {', '.join(LABELS)}")


def _check_key(key: str) -> None:
    if not key or len(key) > 200:
        raise UserError("a decision needs a key of 1 to 200 characters that names this very key press")
