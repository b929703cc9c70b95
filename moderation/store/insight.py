"""What the decisions tell: how fast, how much alike, and how right the model is. Counted in the database, plotted elsewhere.

Only decisions that still stand are counted. `days` reaches back from now; None means from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from moderation.schema import LABELS
from moderation.store.database import Database, whole
from moderation.store.decisions import undone
from moderation.store.items import PROBABILITY
from moderation.store.tables import articles, comments, decisions, draws

_HOUR, _DAY, _WEEK = 3600.0, 86_400.0, 604_800.0


@dataclass(frozen=True, slots=True)
class Work:
    """Single decisions (second opinions included) of one user in one hour.

    `hour` is its beginning in seconds since 1970; `seconds` the mean time per decision where it was measured.
    """

    user: str
    hour: float
    decisions: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often moderators gave the label that the model had proposed, on one day (its beginning)."""

    day: float
    model_version: str
    decisions: int
    agreed: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """Two moderators on the same comments, the second one blind.

    Attributes:
        first, second: names.
        comments: judged by both. agreed: with the same label.
        kappa: Cohen's; None where it is undefined (nothing judged, or only one label used).
        labels: counts by (first's label, second's label).
    """

    first: str
    second: str
    comments: int
    agreed: int
    kappa: float | None
    labels: dict[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Bin:
    """Decided comments whose greatest probability lies in [low, high): how sure the model was and how often it was right."""

    low: float
    high: float
    comments: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Mix:
    """Labels of one article or day: `counts` by label, in the order of `LABELS`."""

    key: str
    title: str
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Week:
    """One week (its beginning): what was posted in it, and what was decided in it one by one.

    Attributes:
        comments: posted and judged by a model. labels: of these by the model's label. confidence: mean of the greatest
            probability; spread: its variance.
        decided: single decisions. agreed: those that gave the label that the model had proposed.
    """

    start: float
    comments: int
    labels: dict[str, int]
    confidence: float
    spread: float
    decided: int
    agreed: int


class Insight:
    """The numbers behind the plots. Part of a `Store`."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def work(self, days: float | None = 7) -> list[Work]:
        """Decisions per hour and person."""
        hour = (whole(decisions.c.at / _HOUR)).label("hour")
        query = (
            sa.select(decisions.c.user, hour, sa.func.count(), sa.func.avg(decisions.c.seconds))
            .where(*self._since(days), decisions.c.kind.in_(("single", "second")), ~undone(decisions.c.step_id))
            .group_by(decisions.c.user, sa.literal_column("2"))
            .order_by(sa.literal_column("2"), decisions.c.user)
        )
        with self._database.read() as connection:
            return [Work(user, hour * _HOUR, count, mean) for user, hour, count, mean in connection.execute(query)]

    def agreement_with_model(self, days: float | None = 90) -> list[Agreement]:
        """By day and model version, on single decisions: bulk ones follow the model by construction."""
        day = whole(decisions.c.at / _DAY)
        agreed = sa.func.sum(sa.case((decisions.c.label == decisions.c.model_label, 1), else_=0))
        query = (
            sa.select(day, decisions.c.model_version, sa.func.count(), agreed)
            .where(*self._since(days), decisions.c.kind == "single", decisions.c.model_version != "")
            .where(~undone(decisions.c.step_id))
            .group_by(sa.literal_column("1"), decisions.c.model_version)
            .order_by(sa.literal_column("1"), decisions.c.model_version)
        )
        with self._database.read() as connection:
            return [Agreement(day * _DAY, version, count, agreed) for day, version, count, agreed in connection.execute(query)]

    def agreement_between_moderators(self, days: float | None = 90) -> list[Pairs]:
        """On double-reviewed comments, by pair of moderators, and last all of them together (names "")."""
        first = decisions.alias("first")
        query = (
            sa.select(first.c.user, decisions.c.user, first.c.label, decisions.c.label, sa.func.count())
            .join_from(decisions, first, first.c.id == decisions.c.refers_to)
            .where(*self._since(days), decisions.c.kind == "second")
            .where(~undone(decisions.c.step_id), ~undone(first.c.step_id))
            .group_by(first.c.user, decisions.c.user, first.c.label, decisions.c.label)
            .order_by(first.c.user, decisions.c.user)
        )
        tables: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
        with self._database.read() as connection:
            for one, other, label, opinion, count in connection.execute(query):
                for pair in ((one, other), ("", "")):
                    table = tables.setdefault(pair, {})
                    table[label, opinion] = table.get((label, opinion), 0) + count
        together = tables.pop(("", ""), {})
        return [_pairs(*pair, table) for pair, table in tables.items()] + ([_pairs("", "", together)] if together else [])

    def reliability(self, bins: int = 10, model_version: str | None = None) -> list[Bin]:
        """How right the current predictions are on comments that were decided one by one; empty bins are left out."""
        highest = 1 - comments.c.doubt
        place = whole(highest * bins)
        right = sa.func.sum(sa.case((comments.c.model_label == comments.c.label, 1), else_=0))
        query = (
            sa.select(place, sa.func.count(), sa.func.avg(highest), right)
            .join_from(comments, decisions, decisions.c.id == comments.c.decision_id)
            .where(comments.c.open == 0, comments.c.model_version != "", decisions.c.kind == "single")
            .group_by(sa.literal_column("1"))
            .order_by(sa.literal_column("1"))
        )
        if model_version is not None:
            query = query.where(comments.c.model_version == model_version)
        found: dict[int, tuple[int, float, int]] = {}
        with self._database.read() as connection:
            for where, count, mean, good in connection.execute(query):
                where = min(where, bins - 1)
                before = found.get(where, (0, 0.0, 0))
                found[where] = (before[0] + count, before[1] + mean * count, before[2] + good)
        return [Bin(at / bins, (at + 1) / bins, n, total / n, good / n) for at, (n, total, good) in sorted(found.items())]

    def confusion(self) -> dict[tuple[str, str], int]:
        """Counts by (model's label now, moderator's label) over comments decided one by one."""
        query = (
            sa.select(comments.c.model_label, comments.c.label, sa.func.count())
            .join_from(comments, decisions, decisions.c.id == comments.c.decision_id)
            .where(comments.c.open == 0, comments.c.model_version != "", decisions.c.kind == "single")
            .group_by(comments.c.model_label, comments.c.label)
        )
        with self._database.read() as connection:
            return {(model, label): count for model, label, count in connection.execute(query)}

    def mix_by_article(self, limit: int = 20) -> list[Mix]:
        """Labels by article, those with the most comments first: the moderator's label where there is one, else the model's."""
        label = _label()
        busiest = (
            sa.select(comments.c.article_id)
            .group_by(comments.c.article_id)
            .order_by(sa.func.count().desc(), comments.c.article_id)
            .limit(limit)
        )
        with self._database.read() as connection:
            order = list(connection.scalars(busiest))
            rows = connection.execute(
                sa.select(comments.c.article_id, label, sa.func.count())
                .where(comments.c.article_id.in_(order))
                .group_by(comments.c.article_id, sa.literal_column("2"))
            ).all()
            titles = connection.execute(sa.select(articles.c.id, articles.c.title).where(articles.c.id.in_(order)))
            title = dict(titles.tuples().all())
        counts = {number: dict.fromkeys(LABELS, 0) for number in order}
        for number, name, count in rows:
            if name:
                counts[number][name] += count
        return [Mix(str(number), title[number], counts[number]) for number in order]

    def mix_by_day(self, days: float | None = 90) -> list[Mix]:
        """Labels by the day of posting; `key` is the day's beginning in seconds since 1970."""
        day = whole(comments.c.posted / _DAY)
        query = (
            sa.select(day, _label(), sa.func.count())
            .where(comments.c.posted >= (self._clock() - days * _DAY if days is not None else 0))
            .group_by(sa.literal_column("1"), sa.literal_column("2"))
            .order_by(sa.literal_column("1"))
        )
        counts: dict[int, dict[str, int]] = {}
        with self._database.read() as connection:
            for when, name, count in connection.execute(query):
                if name:
                    counts.setdefault(when, dict.fromkeys(LABELS, 0))[name] += count
        return [Mix(str(int(when * _DAY)), "", table) for when, table in counts.items()]

    def judged(self) -> list[tuple[str, tuple[float, ...]]]:
        """(label that a moderator gave, current probabilities in the order of `LABELS`) for comments decided one by one:
        a policy's expected precision and recall on the site's own decisions."""
        columns = [PROBABILITY[label] for label in LABELS]
        query = (
            sa.select(comments.c.label, *columns)
            .join_from(comments, decisions, decisions.c.id == comments.c.decision_id)
            .where(comments.c.open == 0, comments.c.model_version != "", decisions.c.kind == "single")
            .order_by(comments.c.id)
        )
        with self._database.read() as connection:
            return [(label, tuple(probabilities)) for label, *probabilities in connection.execute(query)]

    def weeks(self) -> list[Week]:
        """The figures of every week in which something was posted or decided, the oldest first."""
        week = whole(comments.c.posted / _WEEK)
        sure = 1 - comments.c.doubt
        posted = (
            sa.select(week, comments.c.model_label, sa.func.count(), sa.func.sum(sure), sa.func.sum(sure * sure))
            .where(comments.c.model_version != "")
            .group_by(sa.literal_column("1"), comments.c.model_label)
        )
        at = whole(decisions.c.at / _WEEK)
        agreed = sa.func.sum(sa.case((decisions.c.label == decisions.c.model_label, 1), else_=0))
        decided = (
            sa.select(at, sa.func.count(), agreed)
            .where(decisions.c.kind == "single", decisions.c.model_version != "", ~undone(decisions.c.step_id))
            .group_by(sa.literal_column("1"))
        )
        with self._database.read() as connection:
            rows = connection.execute(posted).all()
            done = {when: (count, good) for when, count, good in connection.execute(decided)}
        labels: dict[int, dict[str, int]] = {}
        sums: dict[int, tuple[float, float]] = {}
        for when, label, count, total, squares in rows:
            labels.setdefault(when, dict.fromkeys(LABELS, 0))[label] += count
            before = sums.get(when, (0.0, 0.0))
            sums[when] = (before[0] + total, before[1] + squares)
        found = []
        for when in sorted(labels.keys() | done.keys()):
            counts = labels.get(when, dict.fromkeys(LABELS, 0))
            n = sum(counts.values())
            mean, square = (part / n for part in sums[when]) if n else (0.0, 0.0)
            found.append(Week(when * _WEEK, n, counts, mean, max(0.0, square - mean * mean), *done.get(when, (0, 0))))
        return found

    def behind(
        self, week: float, kind: str, label: str = "", limit: int = 3, *, usual: float | None = None
    ) -> list[tuple[int, str, int]]:
        """(number, title, comments) of the articles behind a change in the week that begins then, the most first.

        Args:
            kind: "mix": comments that the model calls `label`; "confidence": those of which it is least sure;
                "agreement": those on which a moderator decided otherwise that week.
            usual: for a label that became rarer, the share that it used to have: counted are the comments that an article
                has fewer of than that share of its comments of the week.
        """
        if usual is not None:
            return self._missing(week, label, usual, limit)
        number = sa.func.count(comments.c.id.distinct())
        query = sa.select(articles.c.id, articles.c.title, number).join_from(
            comments, articles, articles.c.id == comments.c.article_id
        )
        if kind == "agreement":
            query = query.join(decisions, decisions.c.comment_id == comments.c.id).where(
                decisions.c.at >= week,
                decisions.c.at < week + _WEEK,
                decisions.c.kind == "single",
                decisions.c.label != decisions.c.model_label,
                ~undone(decisions.c.step_id),
            )
        else:
            chosen = comments.c.model_label == label if kind == "mix" else comments.c.doubt > 0.4
            query = query.where(comments.c.posted >= week, comments.c.posted < week + _WEEK, chosen)
        query = query.group_by(articles.c.id, articles.c.title).order_by(number.desc(), articles.c.id).limit(limit)
        with self._database.read() as connection:
            return list(connection.execute(query).tuples().all())

    def _missing(self, week: float, label: str, usual: float, limit: int) -> list[tuple[int, str, int]]:
        called = sa.func.sum(sa.case((comments.c.model_label == label, 1), else_=0))
        missing = usual * sa.func.count() - called
        query = (
            sa.select(articles.c.id, articles.c.title, missing)
            .join_from(comments, articles, articles.c.id == comments.c.article_id)
            .where(comments.c.posted >= week, comments.c.posted < week + _WEEK, comments.c.model_version != "")
            .group_by(articles.c.id, articles.c.title)
            .having(missing >= 0.5)
            .order_by(missing.desc(), articles.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [(number, title, round(float(count))) for number, title, count in connection.execute(query)]

    def drawn(self) -> dict[tuple[str, str], int]:
        """Counts by (model's label then, moderator's label) over decided comments that came to the queue's top by chance:
        what is estimated from these holds for all comments, whatever the order of the queue."""
        query = (
            sa.select(decisions.c.model_label, comments.c.label, sa.func.count())
            .join_from(comments, decisions, decisions.c.id == comments.c.decision_id)
            .join(draws, draws.c.comment_id == comments.c.id)
            .where(comments.c.open == 0, decisions.c.model_version != "")
            .group_by(decisions.c.model_label, comments.c.label)
        )
        with self._database.read() as connection:
            return {(model, label): count for model, label, count in connection.execute(query)}

    def _since(self, days: float | None) -> list[sa.ColumnElement[bool]]:
        return [] if days is None else [decisions.c.at >= self._clock() - days * _DAY]


def _label() -> sa.ColumnElement[str]:
    return sa.case((comments.c.open == 0, comments.c.label), else_=comments.c.model_label)


def _pairs(first: str, second: str, table: dict[tuple[str, str], int]) -> Pairs:
    total = sum(table.values())
    agreed = sum(count for (one, other), count in table.items() if one == other)
    chance = sum(
        sum(count for (one, _), count in table.items() if one == label)
        * sum(count for (_, other), count in table.items() if other == label)
        for label in LABELS
    ) / (total * total)
    kappa = (agreed / total - chance) / (1 - chance) if chance < 1 else None
    return Pairs(first, second, total, agreed, kappa, table)
