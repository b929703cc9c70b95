"""Comments as the desk sees them, and the filter that chooses among them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moderation.schema import ACTIONS, LABELS, Article, Comment, UserError, Verdict, probability_column
from moderation.store.tables import articles, claims, comments, predictions, texts
from moderation.text import fold

#: Which comments a filter is about. `mine`: decided by the filter's user. `disputed`: two moderators disagreed.
#: `flagged`: sent back by the learning loop ("please look again").
SHOWS = ("undecided", "decided", "mine", "disputed", "flagged", "all")
#: Orders of the queue.
SORTS = ("trouble", "doubt", "newest", "oldest", "value")

#: The column of a label's probability.
PROBABILITY = {label: comments.c[probability_column(label)] for label in LABELS}

_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Filter:
    """What to choose from the comments; every part that is set must hold. The default is all that is undecided.

    Attributes:
        show: one of `SHOWS`.
        user: whose, for `show="mine"`.
        labels: the model's label is one of these. actions: the proposed action is one of these.
        probability: `(label, low, high)`: low <= the label's probability <= high.
        decided: the label that a moderator gave is one of these.
        article: an article's number (`Item.article`). site: the site of the article.
        languages, statuses: as the export said; "" stands for those that say nothing.
        min_days, max_days: age of the comment in days.
        text: words that must stand in the comment as one piece, looked for in the folded text without regard to case.
        copies_of: number of a comment: itself and all its duplicates and near-duplicates.
    """

    show: str = "undecided"
    user: str = ""
    labels: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    probability: tuple[str, float, float] | None = None
    decided: tuple[str, ...] = ()
    article: int | None = None
    site: str | None = None
    languages: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    min_days: float | None = None
    max_days: float | None = None
    text: str = ""
    copies_of: int | None = None

    def __post_init__(self) -> None:
        """Raises:
        UserError: a part holds a value that it cannot have.
        """
        for name in ("labels", "actions", "decided", "languages", "statuses"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for value in (*self.labels, *self.decided):
            _one_of("label", value, LABELS)
        for value in self.actions:
            _one_of("action", value, ACTIONS)
        _one_of("show", self.show, SHOWS)
        if self.show == "mine" and not self.user:
            raise UserError("the filter shows what a user decided but names no user")
        if self.probability is not None:
            label, low, high = self.probability
            _one_of("label", label, LABELS)
            if not 0 <= low <= high <= 1:
                raise UserError(f"a probability range must lie within 0 and 1, found {low} to {high}")

    def to_json(self) -> str:
        """The parts that are set, as JSON; `Filter(**json.loads(text))` reads it back."""
        parts = dataclasses.asdict(self)
        return json.dumps({name: value for name, value in parts.items() if value not in (None, "", ())})

    @property
    def selective(self) -> bool:
        """Whether an index of its own finds the few comments that this filter chooses."""
        return self.article is not None or self.copies_of is not None or self.show in ("mine", "disputed", "flagged")

    @property
    def plain(self) -> bool:
        """Whether nothing but the state is asked for, which every index of a sort begins with."""
        return self.show in ("undecided", "decided") and self == Filter(show=self.show)

    @property
    def covered(self) -> bool:
        """Whether the index `ix_comments_facets` holds all that this filter looks at."""
        rest = dataclasses.replace(self, labels=(), actions=(), languages=(), statuses=())
        return self.show in ("undecided", "decided", "all") and rest == Filter(show=self.show)

    def condition(self, now: float, by_index: bool = False) -> sa.ColumnElement[bool]:
        """The WHERE clause over `comments`.

        Args:
            by_index: whether an index that begins with `open` is the way. Else it is hidden from the planner: SQLite takes
                any index that it can, and to look up a million rows one by one is ten times slower than to scan them.
        """
        column = comments.c
        is_open = column.open if by_index else column.open + 0
        parts: list[sa.ColumnElement[bool]] = []
        if self.show == "undecided":
            parts.append(is_open == 1)
        elif self.show == "decided":
            parts.append(is_open == 0)
        elif self.show == "mine":
            parts.append((is_open == 0) & (column.decided_by == self.user))
        elif self.show == "disputed":
            # The literal lets both databases see that the partial index will do.
            parts.append(column.second.in_((sa.literal_column("1"), sa.literal_column("3"))) & (column.second == 3))
        elif self.show == "flagged":
            parts.append(column.flag != sa.literal_column("''"))
        for values, among in (
            (self.labels, column.model_label),
            (self.actions, column.action),
            (self.decided, column.label),
            (self.languages, column.language),
            (self.statuses, column.status),
        ):
            if values:
                parts.append(among.in_(values))
        if self.probability is not None:
            label, low, high = self.probability
            parts.append(PROBABILITY[label].between(low, high))
        if self.article is not None:
            parts.append(column.article_id == self.article)
        if self.site is not None:
            parts.append(column.article_id.in_(sa.select(articles.c.id).where(articles.c.site == self.site)))
        if self.min_days is not None:
            parts.append(column.posted <= now - self.min_days * _DAY)
        if self.max_days is not None:
            parts.append(column.posted >= now - self.max_days * _DAY)
        if self.text.strip():
            wanted = folded(self.text).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            found = sa.select(texts.c.comment_id).where(texts.c.folded.like(f"%{wanted}%", escape="\\"))
            # Walking an index, look at one text after the other until there are enough; scanning, scan the texts too.
            few = by_index or self.selective
            parts.append(found.where(texts.c.comment_id == column.id).exists() if few else column.id.in_(found))
        if self.copies_of is not None:
            own = comments.alias()
            parts.append(column.cluster == sa.select(own.c.cluster).where(own.c.id == self.copies_of).scalar_subquery())
        return sa.and_(sa.true(), *parts)


def _one_of(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"unknown {what} {value!r}; expected one of {', '.join(allowed)}")


#: The filter that chooses all that nobody has decided.
UNDECIDED = Filter()


def folded(text: str) -> str:
    """A text as searching sees it: what `text.fold` undoes is undone, and case does not count."""
    return fold(text.replace("\x00", "")).casefold()


def ordering(sort: str) -> tuple[sa.ColumnElement, bool]:
    """The column of a sort and whether it descends.

    Raises:
        UserError: there is no such sort.
    """
    _one_of("sort", sort, SORTS)
    column = comments.c
    return {
        "trouble": (column.trouble, True),
        "doubt": (column.doubt, True),
        "newest": (column.posted, True),
        "oldest": (column.posted, False),
        "value": (column.priority, True),
    }[sort]


@dataclass(frozen=True, slots=True)
class Item:
    """One comment with all that the desk shows of it.

    Attributes:
        id: the store's own number of the comment; every other call takes this one.
        comment: text, article, parent and the rest, as it was imported.
        article: number of the article (`Filter.article`). site: the site of the article.
        posted: when it was written, or imported where the source has no date; seconds since 1970.
        verdict: what the current model says; None before any has seen it.
        decision_id: number of the decision that counts, 0 while it is undecided: what `decide` takes as `seen`.
        label, decided_by, decided_at: that decision. All blank in a blind second review.
        second: 0 no second opinion wanted, 1 waiting for one, 2 both agree, 3 they disagree. 0 in a blind second review.
        copies: how many comments are the same or nearly, itself included.
        claimed_by: the moderator who has it before them now, or "".
        flag: why the learning loop wants it looked at again, or "".
        priority: the value of a label for it, as the learning loop sees it.
    """

    id: int
    comment: Comment
    article: int
    site: str
    posted: float
    verdict: Verdict | None
    decision_id: int
    label: str
    decided_by: str
    decided_at: float
    second: int
    copies: int
    claimed_by: str
    flag: str
    priority: float

    def blind(self) -> Item:
        """The same without a trace of what another moderator decided."""
        return dataclasses.replace(self, decision_id=0, label="", decided_by="", decided_at=0.0, second=0)


def load(connection: Connection, ids: Sequence[int], now: float) -> list[Item]:
    """The items with these numbers in their order; numbers that do not exist are left out."""
    found: dict[int, Item] = {}
    shared: dict[int, Article] = {}
    for start in range(0, len(ids), 500):
        found.update(_load(connection, ids[start : start + 500], now, shared))
    return [found[number] for number in ids if number in found]


def _load(connection: Connection, ids: Sequence[int], now: float, shared: dict[int, Article]) -> dict[int, Item]:
    rows = connection.execute(
        sa.select(
            comments,
            texts.c.text,
            texts.c.parent_text,
            texts.c.author,
            texts.c.created_at,
            articles.c.site,
            predictions.c.reason,
            predictions.c.evidence,
            predictions.c.similarity,
            claims.c.user.label("claimed_by"),
        )
        .join_from(comments, texts, texts.c.comment_id == comments.c.id)
        .join(articles, articles.c.id == comments.c.article_id)
        .outerjoin(
            predictions,
            (predictions.c.comment_id == comments.c.id) & (predictions.c.model_version == comments.c.model_version),
        )
        .outerjoin(claims, (claims.c.comment_id == comments.c.id) & (claims.c.until > now))
        .where(comments.c.id.in_(ids))
    ).all()
    missing = {row.article_id for row in rows} - shared.keys()
    if missing:
        for row in connection.execute(sa.select(articles).where(articles.c.id.in_(missing))):
            shared[row.id] = Article(row.source_id, row.title, row.text, row.url)
    clusters = {row.cluster for row in rows}
    sizes = dict(
        connection.execute(
            sa.select(comments.c.cluster, sa.func.count()).where(comments.c.cluster.in_(clusters)).group_by(comments.c.cluster)
        )
        .tuples()
        .all()
        if clusters
        else ()
    )
    return {
        row.id: Item(
            id=row.id,
            comment=Comment(
                row.text,
                row.source_id,
                shared[row.article_id],
                row.parent_id,
                row.parent_text,
                row.author,
                row.created_at,
                row.language,
                row.status,
            ),
            article=row.article_id,
            site=row.site,
            posted=row.posted,
            verdict=_verdict(row),
            decision_id=row.decision_id,
            label=row.label,
            decided_by=row.decided_by,
            decided_at=row.decided_at,
            second=row.second,
            copies=sizes[row.cluster],
            claimed_by=row.claimed_by or "",
            flag=row.flag,
            priority=row.priority,
        )
        for row in rows
    }


def _verdict(row: sa.Row) -> Verdict | None:
    if not row.model_version:
        return None
    return Verdict(
        label=row.model_label,
        probabilities=dict(zip(LABELS, (row.p_on_topic, row.p_off_topic, row.p_spam, row.p_low_effort), strict=True)),
        action=row.action,
        reason=row.reason,
        model_version=row.model_version,
        evidence=(row.evidence, row.similarity) if row.evidence is not None else None,
    )
