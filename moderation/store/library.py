"""What comes in: comments with what the model says of them, and the models that said so."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moderation.reason import UNSUPPORTED_LANGUAGE
from moderation.schema import LABELS, Article, Comment, UserError, Verdict, clean_text, make_comment_id
from moderation.store.database import Database
from moderation.store.decisions import add_decisions, add_step, settle
from moderation.store.duplicates import band_values, exact_hash, shingles, similar
from moderation.store.items import folded
from moderation.store.policies import active_policy, log_shadow
from moderation.store.queue import upsert
from moderation.store.tables import articles, bands, comments, models, predictions, texts

#: Comments in one transaction of an import.
CHUNK = 500
#: The user of the steps that the store itself makes.
SYSTEM = "(import)"
#: Any number: imports into one PostgreSQL database take turns, so that copies find each other.
_LOCK = 0x696D7074


@dataclass(slots=True)
class Imported:
    """What an import did: comments new to the store, those it had already, and of these the ones whose text had changed
    (their decisions are history and they are open again)."""

    new: int = 0
    known: int = 0
    changed: int = 0

    def __iadd__(self, other: Imported) -> Imported:
        self.new += other.new
        self.known += other.known
        self.changed += other.changed
        return self


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the store knows: its version, where it was, and its manifest."""

    version: str
    folder: str
    manifest: dict
    added_at: float


class Library:
    """Taking in comments and predictions. Part of a `Store`."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def add(
        self,
        items: Sequence[Comment],
        verdicts: Sequence[Verdict] | None = None,
        *,
        site: str | None = None,
        dates: bool = True,
    ) -> Imported:
        """Take in comments with what a model says of them; the same again changes nothing.

        A comment is known by its site, its article and its id. A known one whose text has changed is taken anew: it is open
        again, since what was decided was about another text.

        Args:
            verdicts: one for each comment, or None to take them in unjudged.
            site: where they come from; by default the host of the article's URL. Policies are chosen by it.
            dates: whether to believe the source's dates.
        """
        if verdicts is not None and len(verdicts) != len(items):
            raise ValueError(f"{len(items)} comments with {len(verdicts)} verdicts")
        done = Imported()
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            judged = verdicts[start : start + CHUNK] if verdicts is not None else [None] * len(chunk)
            done += self._database.write(lambda connection, c=chunk, j=judged: self._add(connection, c, j, site, dates))
        return done

    def missing(self, items: Sequence[Comment], model_version: str, *, site: str | None = None) -> list[Comment]:
        """Those of the comments that the store does not have as they are with a prediction of this model: what is left to
        score when an import goes on."""
        with self._database.read() as connection:
            known: set[tuple[str, str, str, str]] = set()
            ids = list({source_id(item) for item in items})
            for start in range(0, len(ids), 500):
                known |= {
                    tuple(row)
                    for row in connection.execute(
                        sa.select(articles.c.site, articles.c.key, comments.c.source_id, texts.c.text)
                        .join_from(comments, articles, articles.c.id == comments.c.article_id)
                        .join(texts, texts.c.comment_id == comments.c.id)
                        .join(
                            predictions,
                            (predictions.c.comment_id == comments.c.id) & (predictions.c.model_version == model_version),
                        )
                        .where(comments.c.source_id.in_(ids[start : start + 500]))
                    )
                }
        return [
            item for item in items if (*article_key(item.article, site), source_id(item), clean_text(item.text)) not in known
        ]

    def judge(self, ids: Sequence[int], verdicts: Sequence[Verdict]) -> None:
        """Keep another model's predictions for comments by number and make them the current ones."""

        def work(connection: Connection) -> None:
            now = self._clock()
            known = connection.execute(
                sa.select(comments.c.id, articles.c.site)
                .join(articles, articles.c.id == comments.c.article_id)
                .where(comments.c.id.in_(ids))
            )
            sites = dict(known.tuples().all())
            pairs = [(number, verdict) for number, verdict in zip(ids, verdicts, strict=True) if number in sites]
            self._judge(connection, pairs, sites, now)

        if ids:
            self._database.write(work)

    def unjudged(self, model_version: str, limit: int = 1000, after: int = 0, *, undecided: bool = False) -> list[int]:
        """Numbers of comments whose current prediction is not of this model, in order, going on behind `after`; with
        `undecided` only of those that nobody has decided."""
        wanted = comments.c.open + 0 == 1 if undecided else sa.true()
        with self._database.read() as connection:
            return list(
                connection.scalars(
                    sa.select(comments.c.id)
                    .where(comments.c.id > after, comments.c.model_version != model_version, wanted)
                    .order_by(comments.c.id)
                    .limit(limit)
                )
            )

    def add_model(self, version: str, folder: str = "", manifest: Mapping | None = None) -> None:
        """Make a model known; predictions name it. Known already, only its folder and manifest are renewed."""

        def work(connection: Connection) -> None:
            values = {"version": version, "folder": folder, "manifest": json.dumps(dict(manifest or {}))}
            insert = upsert(connection, models).values(**values, added_at=self._clock())
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["version"], set_={"folder": insert.excluded.folder, "manifest": insert.excluded.manifest}
                )
            )

        self._database.write(work)

    def use_model(self, version: str, folder: str = "", manifest: Mapping | None = None) -> None:
        """Make a model the one in use: where no policy was saved, its thresholds hold. The proposed actions do not follow by
        themselves; see `Policies.apply`."""
        self.add_model(version, folder, manifest)

        def work(connection: Connection) -> None:
            connection.execute(sa.update(models).where(models.c.version == version).values(used_at=self._clock()))

        self._database.write(work)

    def models(self) -> list[Model]:
        """The models, the one in use first, then the newest."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(models).order_by(models.c.used_at.desc(), models.c.added_at.desc()))
            return [Model(row.version, row.folder, json.loads(row.manifest), row.added_at) for row in rows]

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _add(
        self,
        connection: Connection,
        items: Sequence[Comment],
        verdicts: Sequence[Verdict | None],
        site: str | None,
        dates: bool,
    ) -> Imported:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        now = self._clock()
        numbers = self._articles(connection, {article_key(item.article, site): item.article for item in items}, now)
        rows: dict[tuple[int, str], tuple[Comment, Verdict | None]] = {}
        for item, verdict in zip(items, verdicts, strict=True):
            rows[numbers[article_key(item.article, site)], source_id(item)] = (item, verdict)
        known = self._known(connection, rows.keys())
        done = Imported(known=len(items) - len(rows))
        judged: list[tuple[int, Verdict]] = []
        edited: list[int] = []
        for (article, name), (item, verdict) in rows.items():
            stored = known.get((article, name))
            if stored is None:
                number = self._insert(connection, article, name, item, now, dates)
                done.new += 1
            else:
                number = stored.id
                done.known += 1
                self._refresh(connection, stored, item)
                if stored.text != clean_text(item.text):
                    done.changed += 1
                    edited.append(number)
                    self._replace_text(connection, number, item)
            if verdict is not None:
                judged.append((number, verdict))
        if edited:
            self._reopen(connection, edited, now)
        sites = {number: key[0] for key, number in numbers.items()}
        if judged:
            of = dict(
                connection.execute(
                    sa.select(comments.c.id, comments.c.article_id).where(comments.c.id.in_([number for number, _ in judged]))
                )
                .tuples()
                .all()
            )
            self._judge(connection, judged, {number: sites[article] for number, article in of.items()}, now)
        return done

    def _articles(
        self, connection: Connection, wanted: Mapping[tuple[str, str], Article], now: float
    ) -> dict[tuple[str, str], int]:
        """Numbers of articles by (site, key); new ones are added, and a text that was missing is filled in."""
        keys = {key for _, key in wanted}
        for (site, key), article in wanted.items():
            values = {
                "site": site,
                "key": key,
                "source_id": clean_text(article.article_id),
                "title": clean_text(article.title),
                "text": clean_text(article.text),
                "url": clean_text(article.url),
            }
            insert = upsert(connection, articles).values(**values, imported_at=now)
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["site", "key"],
                    set_={
                        name: sa.func.coalesce(sa.func.nullif(insert.excluded[name], ""), articles.c[name])
                        for name in ("title", "text", "url")
                    },
                )
            )
        rows = connection.execute(sa.select(articles.c.site, articles.c.key, articles.c.id).where(articles.c.key.in_(keys)))
        return {(row.site, row.key): row.id for row in rows if (row.site, row.key) in wanted}

    def _known(self, connection: Connection, wanted) -> dict[tuple[int, str], sa.Row]:
        rows = connection.execute(
            sa.select(comments.c.id, comments.c.article_id, comments.c.source_id, comments.c.status, texts.c.text)
            .join(texts, texts.c.comment_id == comments.c.id)
            .where(comments.c.article_id.in_({article for article, _ in wanted}))
            .where(comments.c.source_id.in_({name for _, name in wanted}))
        )
        return {(row.article_id, row.source_id): row for row in rows if (row.article_id, row.source_id) in wanted}

    def _insert(self, connection: Connection, article: int, name: str, item: Comment, now: float, dates: bool) -> int:
        look = folded(clean_text(item.text))
        number = connection.execute(
            sa.insert(comments).values(
                article_id=article,
                source_id=name,
                parent_id=clean_text(item.parent_id),
                language=clean_text(item.language),
                status=clean_text(item.status),
                posted=(seconds_of(item.created_at) if dates else None) or now,
                imported_at=now,
                cluster=0,
                exact=exact_hash(look),
                model_version="",
                model_label="",
                action="",
                supported=True,
                trouble=0.0,
                doubt=1.0,
            )
        ).inserted_primary_key[0]
        connection.execute(
            sa.insert(texts).values(
                comment_id=number,
                text=clean_text(item.text),
                folded=look,
                parent_text=clean_text(item.parent_text),
                author=clean_text(item.author),
                created_at=clean_text(item.created_at),
            )
        )
        self._cluster(connection, number, look)
        return number

    def _cluster(self, connection: Connection, number: int, look: str) -> None:
        """Put a comment into the cluster of the first one that it repeats, or make it the first of its own."""
        cluster = connection.scalar(
            sa.select(comments.c.cluster)
            .where(comments.c.exact == exact_hash(look), comments.c.id != number)
            .order_by(comments.c.id)
            .limit(1)
        )
        if cluster is None:
            pairs = shingles(look)
            values = band_values(pairs)
            if values:
                near = connection.execute(
                    sa.select(bands.c.comment_id, texts.c.folded)
                    .join(texts, texts.c.comment_id == bands.c.comment_id)
                    .where(bands.c.value.in_(values), bands.c.comment_id != number)
                    .group_by(bands.c.comment_id, texts.c.folded)
                    .order_by(sa.func.count().desc(), bands.c.comment_id)
                    .limit(50)
                )
                cluster = next((row.comment_id for row in near if similar(pairs, shingles(row.folded))), None)
            if cluster is None and values:
                connection.execute(sa.insert(bands), [{"value": value, "comment_id": number} for value in set(values)])
        connection.execute(sa.update(comments).where(comments.c.id == number).values(cluster=cluster or number))

    def _refresh(self, connection: Connection, stored: sa.Row, item: Comment) -> None:
        if item.status and item.status != stored.status:
            connection.execute(sa.update(comments).where(comments.c.id == stored.id).values(status=clean_text(item.status)))

    def _replace_text(self, connection: Connection, number: int, item: Comment) -> None:
        look = folded(clean_text(item.text))
        connection.execute(sa.update(texts).where(texts.c.comment_id == number).values(text=clean_text(item.text), folded=look))
        # The first of a cluster leaves its copies behind: the next oldest becomes their first.
        rest = list(
            connection.scalars(
                sa.select(comments.c.id).where(comments.c.cluster == number, comments.c.id != number).order_by(comments.c.id)
            )
        )
        connection.execute(sa.delete(bands).where(bands.c.comment_id == number))
        if rest:
            connection.execute(sa.update(comments).where(comments.c.id.in_(rest)).values(cluster=rest[0]))
            first = connection.scalar(sa.select(texts.c.folded).where(texts.c.comment_id == rest[0])) or ""
            values = set(band_values(shingles(first)))
            if values:
                connection.execute(sa.insert(bands), [{"value": value, "comment_id": rest[0]} for value in values])
        connection.execute(sa.update(comments).where(comments.c.id == number).values(exact=exact_hash(look)))
        self._cluster(connection, number, look)

    def _reopen(self, connection: Connection, edited: list[int], now: float) -> None:
        """What was decided about another text no longer counts; the history keeps it."""
        decided = sa.select(comments).where(comments.c.id.in_(edited), comments.c.open == 0)
        count = connection.scalar(sa.select(sa.func.count()).select_from(decided.subquery())) or 0
        if count:
            last = connection.scalar(sa.text("SELECT max(id) FROM steps")) or 0
            step = add_step(connection, SYSTEM, f"edit-{last + 1}", now, "edit", "", count)
            add_decisions(connection, decided.subquery(), step=step, user=SYSTEM, at=now, kind="edit")
            settle(connection, step)

    def _judge(
        self, connection: Connection, judged: Sequence[tuple[int, Verdict]], sites: Mapping[int, str], now: float
    ) -> None:
        policies = {site: active_policy(connection, site) for site in set(sites.values())}
        for version in {verdict.model_version for _, verdict in judged}:
            insert = upsert(connection, models).values(version=version, folder="", manifest="{}", added_at=now)
            connection.execute(insert.on_conflict_do_nothing())
        insert = upsert(connection, predictions)
        names = ("at", "label", "p_on_topic", "p_off_topic", "p_spam", "p_low_effort", "reason", "evidence", "similarity")
        insert = insert.on_conflict_do_update(
            index_elements=["comment_id", "model_version"], set_={name: insert.excluded[name] for name in names}
        )
        current = []
        stored = []
        for number, verdict in judged:
            chances = [float(verdict.probabilities[label]) for label in LABELS]
            if not all(math.isfinite(chance) for chance in chances):
                raise UserError(f"the model {verdict.model_version} gave no number for comment {number}; it is damaged")
            named = dict(zip(names[2:6], chances, strict=True))
            supported = verdict.reason != UNSUPPORTED_LANGUAGE
            policy = policies[sites[number]]
            stored.append(
                {
                    "comment_id": number,
                    "model_version": verdict.model_version,
                    "at": now,
                    "label": verdict.label,
                    **named,
                    "reason": clean_text(verdict.reason),
                    "evidence": clean_text(verdict.evidence[0]) if verdict.evidence else None,
                    "similarity": float(verdict.evidence[1]) if verdict.evidence else None,
                }
            )
            current.append(
                {
                    "number": number,
                    **{f"new_{name}": chance for name, chance in named.items()},
                    "new_version": verdict.model_version,
                    "new_label": verdict.label,
                    "new_supported": supported,
                    "new_action": policy.policy.action(verdict.probabilities, supported) if policy.version else verdict.action,
                    "new_trouble": 1 - chances[0],
                    "new_doubt": 1 - max(chances),
                }
            )
        connection.execute(insert, stored)
        parameter = sa.bindparam
        connection.execute(
            sa.update(comments)
            .where(comments.c.id == parameter("number"))
            .values(
                model_version=parameter("new_version"),
                model_label=parameter("new_label"),
                supported=parameter("new_supported"),
                action=parameter("new_action"),
                trouble=parameter("new_trouble"),
                doubt=parameter("new_doubt"),
                **{name: parameter(f"new_{name}") for name in names[2:6]},
            ),
            current,
        )
        log_shadow(connection, [number for number, _ in judged], now)


def article_key(article: Article, site: str | None = None) -> tuple[str, str]:
    """What an article is known by: its site, and its id there, else its URL, else a hash of its title and text."""
    if site is None:
        try:
            site = (urlsplit(article.url).hostname or "").removeprefix("www.")
        except ValueError:  # a URL such as http://[
            site = ""
    if article.article_id:
        return clean_text(site), "id:" + clean_text(article.article_id)
    if article.url:
        return clean_text(site), "url:" + clean_text(article.url)
    words = f"{article.title}\x1f{article.text}".encode("utf-8", "replace")
    return clean_text(site), "hash:" + hashlib.sha256(words).hexdigest()[:24] if article.title or article.text else ""


def source_id(item: Comment) -> str:
    """The comment's id in its source, or one made of its content where the source has none."""
    return clean_text(item.comment_id) or make_comment_id(item.article, item.author, item.created_at, item.text)


def seconds_of(date: str) -> float | None:
    """An ISO 8601 date as seconds since 1970 (UTC where it names no zone); None where it is no date."""
    try:
        when = datetime.fromisoformat(date)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
