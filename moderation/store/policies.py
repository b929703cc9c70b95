"""Policies: thresholds in versions, what they would do to the queue, and a log of those that only watch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moderation.policy import DEFAULT, Policy
from moderation.schema import ACTIONS, UserError, clean_text
from moderation.store.database import Database
from moderation.store.items import PROBABILITY
from moderation.store.tables import articles, comments, models, policies, shadow

#: What a saved version may be. One version a site is active, any number are in shadow mode.
MODES = ("draft", "shadow", "active", "retired")
#: Comments whose actions are renewed in one transaction when a policy becomes active.
_CHUNK = 20_000


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A saved policy.

    Attributes:
        version: its number; 0 for the model's own, which hold until one is saved.
        site: the site that it is for; "" for all that have none of their own.
        mode: one of `MODES`.
        policy: the thresholds.
        double_review: share (0..1) of single decisions that a second moderator judges blind.
    """

    version: int
    site: str
    mode: str
    policy: Policy
    double_review: float
    saved_by: str
    saved_at: float
    note: str


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """What a policy in shadow mode would have done.

    Attributes:
        actions: counts by (action of the active policy, action of this one).
        decided: counts by (action of this one, label that a moderator gave) for the comments decided since.
    """

    actions: Counter[tuple[str, str]]
    decided: Counter[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class ShadowEntry:
    """One line of a shadow policy's log: a comment (its number), what the active policy proposed when it came in, what this
    one would have, and the label that a moderator gave since ("" if none)."""

    at: float
    comment_id: int
    action: str
    would: str
    label: str


class Policies:
    """Saving and comparing policies. Part of a `Store`."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def save(
        self,
        policy: Policy,
        user: str,
        *,
        site: str = "",
        double_review: float = 0.0,
        mode: str = "draft",
        note: str = "",
    ) -> PolicyVersion:
        """Keep a policy as a new version; with `mode="active"` it takes effect at once (see `activate`).

        Raises:
            UserError: the mode or the share is none.
        """
        if mode not in MODES:
            raise UserError(f"unknown mode {mode!r}; expected one of {', '.join(MODES)}")
        if not 0 <= double_review <= 1:
            raise UserError(f"the share of double reviews must lie within 0 and 1, found {double_review}")
        policy = Policy.from_table(policy.to_table())

        def work(connection: Connection) -> int:
            values = {
                "site": clean_text(site),
                "mode": "draft" if mode == "active" else mode,
                "thresholds": json.dumps(policy.to_table()),
                "double_review": double_review,
                "saved_by": user,
                "saved_at": self._clock(),
                "note": clean_text(note)[:2000],
            }
            return connection.execute(sa.insert(policies).values(values)).inserted_primary_key[0]

        version = self._database.write(work)
        return self.activate(version) if mode == "active" else self.get(version)

    def activate(self, version: int) -> PolicyVersion:
        """Make a version the active one of its site; the former one retires. The proposed actions follow, chunk by chunk.

        Raises:
            UserError: there is no such version.
        """

        def switch(connection: Connection) -> str:
            row = _row(connection, version)
            same = (policies.c.site == row.site) & (policies.c.mode == "active") & (policies.c.version != version)
            connection.execute(sa.update(policies).where(same).values(mode="retired"))
            connection.execute(sa.update(policies).where(policies.c.version == version).values(mode="active"))
            return row.site

        self._database.write(switch)
        self.apply()
        return self.get(version)

    def set_mode(self, version: int, mode: str) -> PolicyVersion:
        """Start or stop the shadow mode of a version, or retire it; `activate` is for the rest.

        Raises:
            UserError: there is no such version, or the mode is "active" or none.
        """
        if mode not in MODES or mode == "active":
            raise UserError(f"cannot set the mode {mode!r}; expected draft, shadow or retired")

        def work(connection: Connection) -> None:
            _row(connection, version)
            connection.execute(sa.update(policies).where(policies.c.version == version).values(mode=mode))

        self._database.write(work)
        return self.get(version)

    def get(self, version: int) -> PolicyVersion:
        """One version.

        Raises:
            UserError: there is no such version.
        """
        with self._database.read() as connection:
            return _version(_row(connection, version))

    def versions(self, site: str | None = None) -> list[PolicyVersion]:
        """All versions, the newest first."""
        query = sa.select(policies).order_by(policies.c.version.desc())
        if site is not None:
            query = query.where(policies.c.site == site)
        with self._database.read() as connection:
            return [_version(row) for row in connection.execute(query)]

    def active(self, site: str = "") -> PolicyVersion:
        """The policy that holds for a site: its own, else the common one, else the model's own (version 0)."""
        with self._database.read() as connection:
            return active_policy(connection, site)

    def apply(self) -> None:
        """Renew the proposed action of every comment after a change of the active policies; short transactions."""
        with self._database.read() as connection:
            sites = list(connection.execute(sa.select(articles.c.site).distinct()).scalars())
            last = connection.scalar(sa.select(sa.func.max(comments.c.id))) or 0
        for start in range(0, last + 1, _CHUNK):

            def work(connection: Connection, start: int = start) -> None:
                for site in sites:
                    action = action_of(active_policy(connection, site).policy)
                    own = sa.select(articles.c.id).where(articles.c.site == site)
                    connection.execute(
                        sa.update(comments)
                        .where(
                            comments.c.id.between(start, start + _CHUNK - 1),
                            comments.c.model_version != "",
                            comments.c.article_id.in_(own),
                            comments.c.action != action,
                        )
                        .values(action=action)
                    )

            self._database.write(work)

    def effect(self, policy: Policy, site: str | None = None, *, undecided: bool = True) -> dict[str, int]:
        """How many comments a policy would approve, send to review and reject: the live effect while thresholds move."""
        action = action_of(policy)
        query = sa.select(action, sa.func.count()).where(comments.c.model_version != "").group_by(sa.literal_column("1"))
        if undecided:
            query = query.where(comments.c.open + 0 == 1)  # a scan; see Filter.condition
        if site is not None:
            query = query.where(comments.c.article_id.in_(sa.select(articles.c.id).where(articles.c.site == site)))
        with self._database.read() as connection:
            counts = dict(connection.execute(query).tuples().all())
        return {name: counts.get(name, 0) for name in ACTIONS}

    def shadow_report(self, version: int) -> ShadowReport:
        """What a version in shadow mode has logged since it was put into it.

        Raises:
            UserError: there is no such version.
        """
        with self._database.read() as connection:
            _row(connection, version)
            mine = shadow.c.policy_version == version
            pairs = connection.execute(
                sa.select(shadow.c.action, shadow.c.would, sa.func.count())
                .where(mine)
                .group_by(shadow.c.action, shadow.c.would)
            ).all()
            decided = connection.execute(
                sa.select(shadow.c.would, comments.c.label, sa.func.count())
                .join(comments, comments.c.id == shadow.c.comment_id)
                .where(mine, comments.c.open == 0)
                .group_by(shadow.c.would, comments.c.label)
            ).all()
        return ShadowReport(
            Counter({(action, would): count for action, would, count in pairs}),
            Counter({(would, label): count for would, label, count in decided}),
        )

    def shadow_log(self, version: int, limit: int = 50) -> list[ShadowEntry]:
        """The newest comments about which a version in shadow mode and the active policy differ.

        Raises:
            UserError: there is no such version.
        """
        with self._database.read() as connection:
            _row(connection, version)
            rows = connection.execute(
                sa.select(shadow.c.at, shadow.c.comment_id, shadow.c.action, shadow.c.would, comments.c.label)
                .join(comments, comments.c.id == shadow.c.comment_id)
                .where(shadow.c.policy_version == version, shadow.c.action != shadow.c.would)
                .order_by(shadow.c.at.desc(), shadow.c.comment_id.desc())
                .limit(max(1, min(limit, 500)))
            )
            return [ShadowEntry(*row) for row in rows]


def action_of(policy: Policy) -> sa.ColumnElement[str]:
    """`Policy.action` as an SQL expression over `comments`; a test holds the two together."""
    column = comments.c
    cases = [(~column.supported, "review")]
    cases += [(PROBABILITY[label] >= limit, "reject") for label, limit in policy.reject.items()]
    cases += [(PROBABILITY[label] >= limit, "review") for label, limit in policy.review.items()]
    cases.append((column.p_on_topic >= policy.approve, "approve"))
    return sa.case(*cases, else_="review")


def active_policy(connection: Connection, site: str) -> PolicyVersion:
    """The policy that holds for a site; see `Policies.active`."""
    row = connection.execute(
        sa.select(policies)
        .where(policies.c.mode == "active", policies.c.site.in_({site, ""}))
        .order_by((policies.c.site == site).desc(), policies.c.version.desc())
        .limit(1)
    ).first()
    return _version(row) if row is not None else PolicyVersion(0, "", "active", _of_the_model(connection), 0.0, "", 0.0, "")


def _of_the_model(connection: Connection) -> Policy:
    """The thresholds that the model in use (else the newest) brought along: what holds until a policy is saved."""
    manifest = connection.scalar(
        sa.select(models.c.manifest).order_by(models.c.used_at.desc(), models.c.added_at.desc()).limit(1)
    )
    table = json.loads(manifest).get("thresholds") if manifest else None
    return Policy.from_table(table, "the model's thresholds") if table else DEFAULT


def review_share(connection: Connection, article: int) -> float:
    """The share of decisions on an article's comments that a second moderator is to judge blind."""
    site = connection.scalar(sa.select(articles.c.site).where(articles.c.id == article)) or ""
    return active_policy(connection, site).double_review


def log_shadow(connection: Connection, ids: list[int], at: float) -> None:
    """Write down what the policies in shadow mode would do with comments that a model has just judged."""
    for row in connection.execute(sa.select(policies).where(policies.c.mode == "shadow")).all():
        watched = sa.select(
            sa.literal(row.version, policies.c.version.type), comments.c.id, sa.literal(at, sa.Double), comments.c.action,
            action_of(_version(row).policy),
        ).where(
            comments.c.id.in_(ids),
            comments.c.model_version != "",
            ~sa.select(shadow.c.comment_id)
            .where(shadow.c.policy_version == row.version, shadow.c.comment_id == comments.c.id)
            .exists(),
        )  # fmt: skip
        if row.site:
            watched = watched.where(comments.c.article_id.in_(sa.select(articles.c.id).where(articles.c.site == row.site)))
        connection.execute(sa.insert(shadow).from_select(["policy_version", "comment_id", "at", "action", "would"], watched))


def _row(connection: Connection, version: int) -> sa.Row:
    row = connection.execute(sa.select(policies).where(policies.c.version == version)).first()
    if row is None:
        raise UserError(f"there is no policy version {version}")
    return row


def _version(row: sa.Row) -> PolicyVersion:
    policy = Policy.from_table(json.loads(row.thresholds), f"policy version {row.version}")
    return PolicyVersion(row.version, row.site, row.mode, policy, row.double_review, row.saved_by, row.saved_at, row.note)
