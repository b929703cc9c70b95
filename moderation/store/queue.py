"""The queue: what there is, in which order, how much of it, and who has it before them."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from moderation.schema import UserError
from moderation.store.database import Database, whole
from moderation.store.items import PROBABILITY, UNDECIDED, Filter, Item, load, ordering
from moderation.store.tables import articles, claims, comments, skips

#: Seconds for which a comment is held for the moderator who was given it.
LEASE = 300.0
#: Comments that one page or one claim may hold at most.
MOST = 500
#: Comments of an order that are looked at one by one before all are scanned.
WALK = 20_000


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of the queue. `after` is what to pass to get the next one, None at the end."""

    items: list[Item]
    after: tuple[float, int] | None


@dataclass(frozen=True, slots=True)
class Facets:
    """How many comments there are by each value, among those that a filter chooses.

    Attributes:
        total: all of them. undecided, decided: the two parts of it.
        labels, actions, languages, statuses: counts by value; the model's label.
    """

    total: int = 0
    undecided: int = 0
    decided: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class ArticleCount:
    """An article and how many comments it has."""

    id: int
    site: str
    title: str
    url: str
    comments: int
    undecided: int


class Queue:
    """Choosing, counting and claiming. Part of a `Store`."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    # -- looking --------------------------------------------------------------------------------------------------------

    def page(
        self, filter: Filter = UNDECIDED, sort: str = "trouble", limit: int = 50, after: tuple[float, int] | None = None
    ) -> Page:
        """Comments that the filter chooses, `limit` of them, going on behind `after` (a `Page.after`). Claims nothing.

        Raises:
            UserError: there is no such sort.
        """
        limit = max(1, min(limit, MOST))
        with self._database.read() as connection:
            now = self._clock()
            rows = _first(connection, filter, sort, limit + 1, now, after)
            items = load(connection, [row[1] for row in rows[:limit]], now)
        return Page(items, (float(rows[limit - 1][0]), rows[limit - 1][1]) if len(rows) > limit else None)

    def items(self, ids: Sequence[int]) -> list[Item]:
        """The comments with these numbers, in this order; unknown numbers are left out."""
        with self._database.read() as connection:
            return load(connection, ids, self._clock())

    def item(self, number: int) -> Item:
        """One comment.

        Raises:
            UserError: there is none with this number.
        """
        found = self.items([number])
        if not found:
            raise UserError(f"there is no comment number {number}")
        return found[0]

    def count(self, filter: Filter = UNDECIDED) -> int:
        """How many comments the filter chooses."""
        with self._database.read() as connection:
            chosen = sa.select(sa.func.count()).select_from(comments).where(filter.condition(self._clock(), filter.covered))
            return connection.execute(chosen).scalar_one()

    def facets(self, filter: Filter = UNDECIDED) -> Facets:
        """Counts by label, action, language, status and state among what the filter chooses."""
        column = comments.c
        groups = (column.open, column.model_label, column.action, column.language, column.status)
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(*groups, sa.func.count()).where(filter.condition(self._clock(), filter.covered)).group_by(*groups)
            ).all()
        counted = Facets(
            total=sum(row[-1] for row in rows),
            undecided=sum(row[-1] for row in rows if row.open),
            decided=sum(row[-1] for row in rows if not row.open),
        )
        for row in rows:
            counted.labels[row.model_label] += row[-1]
            counted.actions[row.action] += row[-1]
            counted.languages[row.language] += row[-1]
            counted.statuses[row.status] += row[-1]
        return counted

    def articles(self, search: str = "", site: str | None = None, limit: int = 50) -> list[ArticleCount]:
        """Articles by number of undecided comments, the most first; `search` looks in titles and URLs."""
        counts = (
            sa.select(
                comments.c.article_id,
                sa.func.count().label("comments"),
                sa.func.sum(comments.c.open).label("undecided"),
            )
            .group_by(comments.c.article_id)
            .subquery()
        )
        query = (
            sa.select(articles.c.id, articles.c.site, articles.c.title, articles.c.url, counts.c.comments, counts.c.undecided)
            .join_from(counts, articles, articles.c.id == counts.c.article_id)
            .order_by(counts.c.undecided.desc(), articles.c.id)
            .limit(max(1, min(limit, MOST)))
        )
        if search.strip():
            wanted = search.strip().replace("\x00", "")
            query = query.where(
                articles.c.title.icontains(wanted, autoescape=True) | articles.c.url.icontains(wanted, autoescape=True)
            )
        if site is not None:
            query = query.where(articles.c.site == site)
        with self._database.read() as connection:
            return [ArticleCount(*row) for row in connection.execute(query)]

    def sites(self) -> list[str]:
        """The sites whose articles are here."""
        with self._database.read() as connection:
            return list(connection.scalars(sa.select(articles.c.site).distinct().order_by(articles.c.site)))

    def histogram(self, label: str, filter: Filter = UNDECIDED, bins: int = 20) -> list[int]:
        """How many of the chosen comments have a probability of `label` in each of `bins` equal parts of 0..1.

        Raises:
            UserError: there is no such label.
        """
        if label not in PROBABILITY:
            raise UserError(f"unknown label {label!r}; expected one of {', '.join(PROBABILITY)}")
        bins = max(1, min(bins, 200))
        column = PROBABILITY[label]
        place = whole(column * bins)
        counts = [0] * bins
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(place, sa.func.count())
                .where(filter.condition(self._clock()), column.is_not(None))
                .group_by(sa.literal_column("1"))
            )
            for where, count in rows:
                counts[min(where, bins - 1)] += count
        return counts

    def sample(self, filter: Filter, n: int = 10, seed: int | None = None) -> list[Item]:
        """`n` of the chosen comments at random, each as likely as any other, to look at before a bulk decision."""
        with self._database.read() as connection:
            now = self._clock()
            ids = list(connection.scalars(sa.select(comments.c.id).where(filter.condition(now)).order_by(comments.c.id)))
            return load(connection, random.Random(seed).sample(ids, min(max(n, 0), len(ids))), now)

    def thread(self, number: int, around: int = 10) -> list[Item]:
        """The thread around a comment: what it answers, up to the root; `around` other answers to the same; the answers to it.

        In the order of posting, the comment itself included.

        Raises:
            UserError: there is no comment with this number.
        """
        with self._database.read() as connection:
            chosen = sa.select(
                comments.c.id, comments.c.article_id, comments.c.source_id, comments.c.parent_id, comments.c.posted
            )
            own = connection.execute(chosen.where(comments.c.id == number)).first()
            if own is None:
                raise UserError(f"there is no comment number {number}")
            rows = {own.id: own}
            here = chosen.where(comments.c.article_id == own.article_id)
            up = own
            while up.parent_id and len(rows) < 50:
                up = connection.execute(here.where(comments.c.source_id == up.parent_id)).first()
                if up is None or up.id in rows:
                    break
                rows[up.id] = up
            nearest = sa.func.abs(comments.c.posted - own.posted)
            if own.parent_id:
                beside = here.where(comments.c.parent_id == own.parent_id).order_by(nearest).limit(around)
                rows |= {row.id: row for row in connection.execute(beside)}
            below = here.where(comments.c.parent_id == own.source_id).order_by(comments.c.posted).limit(around)
            if own.source_id:
                rows |= {row.id: row for row in connection.execute(below)}
            order = sorted(rows.values(), key=lambda row: (row.posted, row.id))
            return load(connection, [row.id for row in order], self._clock())

    def duplicates(self, number: int, limit: int = 50) -> list[Item]:
        """The comments that say the same or nearly the same, the undecided first, without the comment itself."""
        with self._database.read() as connection:
            now = self._clock()
            ids = connection.scalars(
                sa.select(comments.c.id)
                .where(Filter(show="all", copies_of=number).condition(now), comments.c.id != number)
                .order_by(comments.c.open.desc(), comments.c.id)
                .limit(limit)
            )
            return load(connection, list(ids), now)

    def repeated(self, filter: Filter = UNDECIDED, limit: int = 20) -> list[tuple[Item, int]]:
        """What is posted most often among the chosen: a comment of each group of duplicates and near-duplicates, and how many
        of the group are chosen (2 or more), the largest first."""
        count = sa.func.count().label("count")
        with self._database.read() as connection:
            now = self._clock()
            rows = connection.execute(
                sa.select(sa.func.min(comments.c.id), count)
                .where(filter.condition(now))
                .group_by(comments.c.cluster)
                .having(sa.func.count() > 1)
                .order_by(count.desc(), comments.c.cluster)
                .limit(max(1, min(limit, MOST)))
            ).all()
            counts = dict(map(tuple, rows))
            return [(item, counts[item.id]) for item in load(connection, list(counts), now)]

    # -- claiming -------------------------------------------------------------------------------------------------------

    def claim(
        self,
        user: str,
        filter: Filter = UNDECIDED,
        sort: str = "trouble",
        n: int = 1,
        *,
        lease: float = LEASE,
        exclude: Sequence[int] = (),
    ) -> list[Item]:
        """The next `n` comments for this moderator: nobody else is given them until they are decided, released or expired.

        What the user already holds and the filter still chooses comes first, in the order in which it was handed out, with
        its lease renewed; so asking again after a reload gives the same comments. Comments waiting for a second opinion
        are mixed in where the filter is about undecided ones: they look as if nobody had decided them (`Item.blind`).
        What the user skipped comes back only when nothing else is left.

        Args:
            exclude: numbers that the caller has already.

        Raises:
            UserError: there is no such sort.
        """
        n = max(0, min(n, MOST))

        def work(connection: Connection) -> list[Item]:
            now = self._clock()
            held = self._renew(connection, user, filter, n, lease, exclude, now)
            fresh: list[int] = []
            # A comment that another takes between our look and our claim is lost to us; look again for the rest.
            for skipped in (False, True):
                while len(held) + len(fresh) < n and not (skipped and fresh):
                    wanted = n - len(held) - len(fresh)
                    ids = self._candidates(connection, user, filter, sort, wanted, [*exclude, *held, *fresh], skipped, now)
                    fresh += take(connection, user, ids, lease, now)
                    if len(ids) < wanted:
                        break
            items = load(connection, [*held, *fresh], now)
            return [item.blind() if _is_second(item, user, filter) else item for item in items]

        return self._database.write(work)

    def held(self, user: str) -> list[int]:
        """The numbers of the comments that this user holds, in the order in which they were handed out."""
        with self._database.read() as connection:
            return list(
                connection.scalars(
                    sa.select(claims.c.comment_id)
                    .where(claims.c.user == user, claims.c.until > self._clock())
                    .order_by(claims.c.place)
                )
            )

    def release(self, user: str, ids: Sequence[int] | None = None) -> int:
        """Give back what the user holds: these comments, or all. Returns how many were given back."""

        def work(connection: Connection) -> int:
            condition = claims.c.user == user
            if ids is not None:
                condition &= claims.c.comment_id.in_(ids)
            return connection.execute(sa.delete(claims).where(condition)).rowcount

        return self._database.write(work)

    def skip(self, user: str, number: int) -> None:
        """Give a comment back and do not offer it to this user again while there are others.

        Raises:
            UserError: there is no comment with this number.
        """

        def work(connection: Connection) -> None:
            if connection.scalar(sa.select(comments.c.id).where(comments.c.id == number)) is None:
                raise UserError(f"there is no comment number {number}")
            connection.execute(sa.delete(claims).where(claims.c.user == user, claims.c.comment_id == number))
            insert = upsert(connection, skips).values(user=user, comment_id=number, at=self._clock())
            connection.execute(
                insert.on_conflict_do_update(index_elements=["user", "comment_id"], set_={"at": insert.excluded.at})
            )

        self._database.write(work)

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _renew(
        self, connection: Connection, user: str, filter: Filter, n: int, lease: float, exclude: Sequence[int], now: float
    ) -> list[int]:
        chosen = filter.condition(now)
        if filter.show == "undecided":
            chosen |= _awaiting_second(user)
        ids = list(
            connection.scalars(
                sa.select(claims.c.comment_id)
                .join(comments, comments.c.id == claims.c.comment_id)
                .where(claims.c.user == user, claims.c.until > now, chosen, claims.c.comment_id.not_in(exclude))
                .order_by(claims.c.place)
                .limit(n)
            )
        )
        if ids:
            connection.execute(
                sa.update(claims).where(claims.c.user == user, claims.c.comment_id.in_(ids)).values(until=now + lease)
            )
        return ids

    def _candidates(
        self,
        connection: Connection,
        user: str,
        filter: Filter,
        sort: str,
        n: int,
        exclude: Sequence[int],
        skipped: bool,
        now: float,
    ) -> list[int]:
        taken = sa.select(claims.c.comment_id).where(claims.c.comment_id == comments.c.id, claims.c.until > now).exists()
        skip = sa.select(skips.c.comment_id).where(skips.c.comment_id == comments.c.id, skips.c.user == user).exists()
        free = [~taken, skip if skipped else ~skip, comments.c.id.not_in(exclude)]
        seconds: list[int] = []
        if filter.show == "undecided" and not skipped:
            # At most one in a claim: enough for a share of 1/n, and a second opinion must not crowd out the queue.
            rest = dataclasses.replace(filter, show="all")
            waiting = sa.select(comments.c.id).where(_awaiting_second(user), rest.condition(now), *free)
            waiting = waiting.order_by(comments.c.id).limit(1).with_for_update(skip_locked=True, of=comments)
            seconds = list(connection.scalars(waiting))
        first = [row.id for row in _first(connection, filter, sort, n - len(seconds), now, free=free)]
        for number in seconds:  # anywhere, or its place would tell
            first.insert(random.randrange(len(first) + 1), number)
        return first


def _first(
    connection: Connection,
    filter: Filter,
    sort: str,
    limit: int,
    now: float,
    after: tuple[float, int] | None = None,
    free: Sequence[sa.ColumnElement[bool]] | None = None,
) -> Sequence[sa.Row]:
    """(value, number) of the first comments in a sort's order.

    Most filters find enough among the first `WALK` comments of the order, by its index; only if not, all are looked at. So
    the time is bounded on both ends, whatever the planner knows about the data.

    Args:
        free: with conditions for a claim, the rows are locked, and those locked by others left out.
    """
    column, descending = ordering(sort)
    if after is None:
        begin = sa.true()
    elif descending:
        begin = sa.or_(column < after[0], (column == after[0]) & (comments.c.id < after[1]))
    else:
        begin = sa.or_(column > after[0], (column == after[0]) & (comments.c.id > after[1]))

    def found(condition: sa.ColumnElement[bool], by_index: bool) -> Sequence[sa.Row]:
        value = column if by_index else column + 0
        order = (value.desc(), comments.c.id.desc()) if descending else (value, comments.c.id)
        query = sa.select(column, comments.c.id).where(condition, begin, *(free or ())).order_by(*order).limit(limit)
        if by_index:
            query = query.with_hint(comments, f"INDEXED BY ix_comments_open_{column.name}_id", "sqlite")
        if free is not None:
            query = query.with_for_update(skip_locked=True, of=comments)
        return connection.execute(query).all()

    if limit <= 0:
        return []
    if filter.plain:
        return found(filter.condition(now, True), True)
    if filter.show in ("undecided", "decided") and not filter.selective:
        walk = sa.select(column).where(Filter(show=filter.show).condition(now, True))
        if after is not None:
            walk = walk.where(column <= after[0] if descending else column >= after[0])
        end = connection.scalar(walk.order_by(column.desc() if descending else column).offset(WALK).limit(1))
        if end is not None:
            within = column >= end if descending else column <= end
            rows = found(filter.condition(now, True) & within, True)
            if len(rows) == limit:
                return rows
    return found(filter.condition(now), False)


def take(connection: Connection, user: str, ids: Sequence[int], lease: float, now: float) -> list[int]:
    """Those of `ids` that are ours now: new claims, and expired ones of others taken over."""
    if not ids:
        return []
    place = int(now * 1_000_000)
    insert = upsert(connection, claims).values(
        [{"comment_id": number, "user": user, "until": now + lease, "place": place + index} for index, number in enumerate(ids)]
    )
    mine = set(
        connection.scalars(
            insert.on_conflict_do_update(
                index_elements=["comment_id"],
                set_={name: insert.excluded[name] for name in ("user", "until", "place")},
                where=claims.c.until <= now,
            ).returning(claims.c.comment_id)
        )
    )
    return [number for number in ids if number in mine]


def _awaiting_second(user: str) -> sa.ColumnElement[bool]:
    """What `_is_second` says, of a row; the literals let both databases see that the partial index will do."""
    literal = sa.literal_column
    return comments.c.second.in_((literal("1"), literal("3"))) & (comments.c.second == 1) & (comments.c.decided_by != user)


def _is_second(item: Item, user: str, filter: Filter) -> bool:
    return filter.show == "undecided" and item.second == 1 and item.decided_by != user


def upsert(connection: Connection, table: sa.Table):
    """An INSERT that knows ON CONFLICT, for the database at hand."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
