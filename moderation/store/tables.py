"""The tables, as SQLAlchemy Core knows them. Changing one means adding a migration; a test compares the two.

Times are seconds since 1970 (UTC). `comments` is slim and holds the *current* state of every comment (what the model says
now, which decision counts), because queues, counts and histograms scan it; the words themselves lie in `texts`. What
happened is in `steps` and `decisions`, which only ever grow: triggers refuse to change or delete a decision.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: SQLite gives numbers by itself only to a column of the type INTEGER.
Number = BigInteger().with_variant(Integer, "sqlite")

articles = Table(
    "articles",
    metadata,
    Column("id", Number, primary_key=True),
    Column("site", String, nullable=False),
    Column("key", String, nullable=False),  # the source's id, or a hash of what else tells articles apart
    Column("source_id", String, nullable=False),
    Column("title", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("imported_at", Double, nullable=False),
    UniqueConstraint("site", "key"),
)

comments = Table(
    "comments",
    metadata,
    Column("id", Number, primary_key=True),
    Column("article_id", ForeignKey("articles.id"), nullable=False),
    Column("source_id", String, nullable=False),
    Column("parent_id", String, nullable=False),  # the source's id of the parent, which need not be here
    Column("language", String, nullable=False),
    Column("status", String, nullable=False),
    Column("posted", Double, nullable=False),  # created_at, or the import where the source has no date
    Column("imported_at", Double, nullable=False),
    Column("cluster", Number, nullable=False),  # id of the first comment that this one repeats; its own where it is the first
    Column("exact", BigInteger, nullable=False),  # hash of the folded text
    # what the model says now
    Column("model_version", String, nullable=False),  # "" where no model has seen it
    Column("model_label", String, nullable=False),
    Column("action", String, nullable=False),
    Column("supported", Boolean, nullable=False),  # whether the model knows the language
    Column("p_on_topic", Double),
    Column("p_off_topic", Double),
    Column("p_spam", Double),
    Column("p_low_effort", Double),
    Column("trouble", Double, nullable=False),  # 1 - p_on_topic
    Column("doubt", Double, nullable=False),  # 1 - the greatest of the four
    # which decision counts now
    Column("open", SmallInteger, nullable=False, server_default="1"),  # 1 until decided
    Column("decision_id", Number, nullable=False, server_default="0"),
    Column("label", String, nullable=False, server_default=""),
    Column("decided_by", String, nullable=False, server_default=""),
    Column("decided_at", Double, nullable=False, server_default="0"),
    Column("second", SmallInteger, nullable=False, server_default="0"),  # see decisions.SECOND_*
    # what the learning loop asks of the queue
    Column("priority", Double, nullable=False, server_default="0"),
    Column("flag", String, nullable=False, server_default=""),
    UniqueConstraint("article_id", "source_id"),
    Index(None, "article_id", "parent_id"),
    Index(None, "open", "trouble", "id"),
    Index(None, "open", "doubt", "id"),
    Index(None, "open", "posted", "id"),
    Index(None, "open", "priority", "id"),
    Index("ix_comments_facets", "open", "model_label", "action", "language", "status"),
    Index(None, "decided_by", "decided_at"),
    Index(None, "cluster"),
    Index(None, "exact"),
    Index("ix_comments_second", "second", sqlite_where=text("second IN (1, 3)"), postgresql_where=text("second IN (1, 3)")),
    Index("ix_comments_flag", "flag", sqlite_where=text("flag <> ''"), postgresql_where=text("flag <> ''")),
)

texts = Table(
    "texts",
    metadata,
    Column("comment_id", Number, ForeignKey("comments.id"), primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
    Column("folded", Text, nullable=False),  # what searching and duplicates look at
    Column("parent_text", Text, nullable=False),
    Column("author", String, nullable=False),
    Column("created_at", String, nullable=False),
)

# The signatures of the first comment of each cluster, in bands; see duplicates.py.
bands = Table(
    "bands",
    metadata,
    Column("value", BigInteger, nullable=False),
    Column("comment_id", Number, ForeignKey("comments.id"), nullable=False),
    PrimaryKeyConstraint("value", "comment_id"),
)

models = Table(
    "models",
    metadata,
    Column("version", String, primary_key=True),
    Column("folder", Text, nullable=False),
    Column("manifest", Text, nullable=False),  # JSON
    Column("added_at", Double, nullable=False),
    Column("used_at", Double, nullable=False, server_default="0"),  # when it last became champion
)

predictions = Table(
    "predictions",
    metadata,
    Column("comment_id", Number, ForeignKey("comments.id"), nullable=False),
    Column("model_version", String, ForeignKey("models.version"), nullable=False),
    Column("at", Double, nullable=False),
    Column("label", String, nullable=False),
    Column("p_on_topic", Double, nullable=False),
    Column("p_off_topic", Double, nullable=False),
    Column("p_spam", Double, nullable=False),
    Column("p_low_effort", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", Text),
    Column("similarity", Double),
    PrimaryKeyConstraint("comment_id", "model_version"),
)

# One step is one thing that a person did: a decision, a bulk decision, an undo. The key makes it happen once.
steps = Table(
    "steps",
    metadata,
    Column("id", Number, primary_key=True),
    Column("user", String, nullable=False),
    Column("key", String, nullable=False),
    Column("at", Double, nullable=False),
    Column("kind", String, nullable=False),  # single | second | bulk | undo | edit
    Column("label", String, nullable=False),
    Column("count", Integer, nullable=False),
    Column("selection", Text, nullable=False),  # JSON of the filter of a bulk decision
    Column("undoes", ForeignKey("steps.id"), unique=True),
    UniqueConstraint("user", "key"),
    Index(None, "user", "id"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Number, primary_key=True),
    Column("step_id", ForeignKey("steps.id"), nullable=False, index=True),
    Column("comment_id", ForeignKey("comments.id"), nullable=False),
    Column("user", String, nullable=False),
    Column("at", Double, nullable=False),
    Column("kind", String, nullable=False),
    Column("label", String, nullable=False),  # "" where an undo or an edit leaves the comment undecided
    Column("previous", String, nullable=False),
    Column("refers_to", ForeignKey("decisions.id")),  # an undo: what it undoes; a second opinion: what it checks
    Column("drawn", Boolean, nullable=False),  # whether another moderator is to judge the same, blind
    Column("seconds", Double),
    Column("model_label", String, nullable=False),
    Column("model_version", String, nullable=False),
    Column("note", Text, nullable=False),
    Index(None, "comment_id", "id"),
    Index(None, "at"),
    # The ids of decisions are the order of events; SQLite must not give one twice.
    sqlite_autoincrement=True,
)

# Decisions that the learning loop doubts: they train nothing until somebody has looked again.
looks = Table(
    "looks",
    metadata,
    Column("comment_id", Number, ForeignKey("comments.id"), nullable=False),
    Column("decision_id", Number, ForeignKey("decisions.id"), nullable=False),
    Column("at", Double, nullable=False),
    Column("suggested", String, nullable=False),  # the label that the other decisions speak for
    Column("quality", Double, nullable=False),  # out-of-fold probability of the label given, 0..1
    PrimaryKeyConstraint("comment_id", "decision_id"),
)

# Comments that came to the top of the queue by chance and not by value: what is estimated from them is unbiased.
draws = Table(
    "draws",
    metadata,
    Column("comment_id", Number, ForeignKey("comments.id"), primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
)

claims = Table(
    "claims",
    metadata,
    Column("comment_id", Number, ForeignKey("comments.id"), primary_key=True, autoincrement=False),
    Column("user", String, nullable=False),
    Column("until", Double, nullable=False),
    Column("place", BigInteger, nullable=False),  # the order in which they were handed out
    Index(None, "user", "place"),
)

skips = Table(
    "skips",
    metadata,
    Column("user", String, nullable=False),
    Column("comment_id", Number, ForeignKey("comments.id"), nullable=False),
    Column("at", Double, nullable=False),
    PrimaryKeyConstraint("user", "comment_id"),
)

policies = Table(
    "policies",
    metadata,
    Column("version", Number, primary_key=True),
    Column("site", String, nullable=False),  # "" for every site that has none of its own
    Column("mode", String, nullable=False),  # draft | shadow | active | retired
    Column("thresholds", Text, nullable=False),  # JSON, as moderation.policy reads it
    Column("double_review", Double, nullable=False),
    Column("saved_by", String, nullable=False),
    Column("saved_at", Double, nullable=False),
    Column("note", Text, nullable=False),
    Index(None, "site", "mode"),
    sqlite_autoincrement=True,
)

shadow = Table(
    "shadow",
    metadata,
    Column("policy_version", ForeignKey("policies.version"), nullable=False),
    Column("comment_id", Number, ForeignKey("comments.id"), nullable=False),
    Column("at", Double, nullable=False),
    Column("action", String, nullable=False),  # what the active policy proposed
    Column("would", String, nullable=False),  # what this one would have
    PrimaryKeyConstraint("policy_version", "comment_id"),
)

users = Table(
    "users",
    metadata,
    Column("name", String, primary_key=True),
    Column("role", String, nullable=False),
    Column("password", String, nullable=False),  # argon2id, with its parameters
    Column("disabled", Boolean, nullable=False),
    Column("added_at", Double, nullable=False),
)

logins = Table(
    "logins",
    metadata,
    Column("id", Number, primary_key=True),
    Column("name", String, nullable=False),
    Column("address", String, nullable=False),
    Column("at", Double, nullable=False),
    Column("ok", Boolean, nullable=False),
    Index(None, "name", "at"),
    Index(None, "address", "at"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token", String, primary_key=True),  # SHA-256 of what the browser holds
    Column("name", ForeignKey("users.name"), nullable=False),
    Column("until", Double, nullable=False),
    Index(None, "name"),
)
