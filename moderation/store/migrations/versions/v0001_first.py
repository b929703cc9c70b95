"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "articles",
        sa.Column("id", number, nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("source_id", sa.String(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("imported_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_articles"),
        sa.UniqueConstraint("site", "key", name="uq_articles_site_key"),
    )
    op.create_table(
        "logins",
        sa.Column("id", number, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("ok", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_logins"),
    )
    op.create_index("ix_logins_address_at", "logins", ["address", "at"])
    op.create_index("ix_logins_name_at", "logins", ["name", "at"])
    op.create_table(
        "models",
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("added_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_models"),
    )
    op.create_table(
        "policies",
        sa.Column("version", number, nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("mode", sa.String(), nullable=False),
        sa.Column("thresholds", sa.Text(), nullable=False),
        sa.Column("double_review", sa.Double(), nullable=False),
        sa.Column("saved_by", sa.String(), nullable=False),
        sa.Column("saved_at", sa.Double(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_policies"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_policies_site_mode", "policies", ["site", "mode"])
    op.create_table(
        "steps",
        sa.Column("id", number, nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("selection", sa.Text(), nullable=False),
        sa.Column("undoes", number, nullable=True),
        sa.ForeignKeyConstraint(["undoes"], ["steps.id"], name="fk_steps_undoes"),
        sa.PrimaryKeyConstraint("id", name="pk_steps"),
        sa.UniqueConstraint("undoes", name="uq_steps_undoes"),
        sa.UniqueConstraint("user", "key", name="uq_steps_user_key"),
    )
    op.create_index("ix_steps_user_id", "steps", ["user", "id"])
    op.create_table(
        "users",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("password", sa.String(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("added_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_users"),
    )
    op.create_table(
        "comments",
        sa.Column("id", number, nullable=False),
        sa.Column("article_id", number, nullable=False),
        sa.Column("source_id", sa.String(), nullable=False),
        sa.Column("parent_id", sa.String(), nullable=False),
        sa.Column("language", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("posted", sa.Double(), nullable=False),
        sa.Column("imported_at", sa.Double(), nullable=False),
        sa.Column("cluster", number, nullable=False),
        sa.Column("exact", sa.BigInteger(), nullable=False),
        sa.Column("model_version", sa.String(), nullable=False),
        sa.Column("model_label", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("supported", sa.Boolean(), nullable=False),
        sa.Column("p_on_topic", sa.Double(), nullable=True),
        sa.Column("p_off_topic", sa.Double(), nullable=True),
        sa.Column("p_spam", sa.Double(), nullable=True),
        sa.Column("p_low_effort", sa.Double(), nullable=True),
        sa.Column("trouble", sa.Double(), nullable=False),
        sa.Column("doubt", sa.Double(), nullable=False),
        sa.Column("open", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("decision_id", number, server_default="0", nullable=False),
        sa.Column("label", sa.String(), server_default="", nullable=False),
        sa.Column("decided_by", sa.String(), server_default="", nullable=False),
        sa.Column("decided_at", sa.Double(), server_default="0", nullable=False),
        sa.Column("second", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("priority", sa.Double(), server_default="0", nullable=False),
        sa.Column("flag", sa.String(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["article_id"], ["articles.id"], name="fk_comments_article_id"),
        sa.PrimaryKeyConstraint("id", name="pk_comments"),
        sa.UniqueConstraint("article_id", "source_id", name="uq_comments_article_id_source_id"),
    )
    op.create_index("ix_comments_article_id_parent_id", "comments", ["article_id", "parent_id"])
    op.create_index("ix_comments_cluster", "comments", ["cluster"])
    op.create_index("ix_comments_decided_by_decided_at", "comments", ["decided_by", "decided_at"])
    op.create_index("ix_comments_exact", "comments", ["exact"])
    op.create_index("ix_comments_facets", "comments", ["open", "model_label", "action", "language", "status"])
    op.create_index(
        "ix_comments_flag",
        "comments",
        ["flag"],
        unique=False,
        sqlite_where=sa.text("flag <> ''"),
        postgresql_where=sa.text("flag <> ''"),
    )
    op.create_index("ix_comments_open_doubt_id", "comments", ["open", "doubt", "id"])
    op.create_index("ix_comments_open_posted_id", "comments", ["open", "posted", "id"])
    op.create_index("ix_comments_open_priority_id", "comments", ["open", "priority", "id"])
    op.create_index("ix_comments_open_trouble_id", "comments", ["open", "trouble", "id"])
    op.create_index(
        "ix_comments_second",
        "comments",
        ["second"],
        unique=False,
        sqlite_where=sa.text("second IN (1, 3)"),
        postgresql_where=sa.text("second IN (1, 3)"),
    )
    op.create_table(
        "sessions",
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["name"], ["users.name"], name="fk_sessions_name"),
        sa.PrimaryKeyConstraint("token", name="pk_sessions"),
    )
    op.create_index("ix_sessions_name", "sessions", ["name"])
    op.create_table(
        "bands",
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.Column("comment_id", number, nullable=False),
        sa.ForeignKeyConstraint(["comment_id"], ["comments.id"], name="fk_bands_comment_id"),
        sa.PrimaryKeyConstraint("value", "comment_id", name="pk_bands"),
    )
    op.create_table(
        "claims",
        sa.Column("comment_id", number, autoincrement=False, nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["comment_id"], ["comments.id"], name="fk_claims_comment_id"),
        sa.PrimaryKeyConstraint("comment_id", name="pk_claims"),
    )
    op.create_index("ix_claims_user_place", "claims", ["user", "place"])
    op.create_table(
        "decisions",
        sa.Column("id", number, nullable=False),
        sa.Column("step_id", number, nullable=False),
        sa.Column("comment_id", number, nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("previous", sa.String(), nullable=False),
        sa.Column("refers_to", number, nullable=True),
        sa.Column("drawn", sa.Boolean(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("model_label", sa.String(), nullable=False),
        sa.Column("model_version", sa.String(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["comment_id"], ["comments.id"], name="fk_decisions_comment_id"),
        sa.ForeignKeyConstraint(["refers_to"], ["decisions.id"], name="fk_decisions_refers_to"),
        sa.ForeignKeyConstraint(["step_id"], ["steps.id"], name="fk_decisions_step_id"),
        sa.PrimaryKeyConstraint("id", name="pk_decisions"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_decisions_at", "decisions", ["at"])
    op.create_index("ix_decisions_comment_id_id", "decisions", ["comment_id", "id"])
    op.create_index("ix_decisions_step_id", "decisions", ["step_id"])
    op.create_table(
        "predictions",
        sa.Column("comment_id", number, nullable=False),
        sa.Column("model_version", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("p_on_topic", sa.Double(), nullable=False),
        sa.Column("p_off_topic", sa.Double(), nullable=False),
        sa.Column("p_spam", sa.Double(), nullable=False),
        sa.Column("p_low_effort", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.Column("similarity", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["comment_id"], ["comments.id"], name="fk_predictions_comment_id"),
        sa.ForeignKeyConstraint(["model_version"], ["models.version"], name="fk_predictions_model_version"),
        sa.PrimaryKeyConstraint("comment_id", "model_version", name="pk_predictions"),
    )
    op.create_table(
        "shadow",
        sa.Column("policy_version", number, nullable=False),
        sa.Column("comment_id", number, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("would", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["comment_id"], ["comments.id"], name="fk_shadow_comment_id"),
        sa.ForeignKeyConstraint(["policy_version"], ["policies.version"], name="fk_shadow_policy_version"),
        sa.PrimaryKeyConstraint("policy_version", "comment_id", name="pk_shadow"),
    )
    op.create_table(
        "skips",
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("comment_id", number, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["comment_id"], ["comments.id"], name="fk_skips_comment_id"),
        sa.PrimaryKeyConstraint("user", "comment_id", name="pk_skips"),
    )
    op.create_table(
        "texts",
        sa.Column("comment_id", number, autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("folded", sa.Text(), nullable=False),
        sa.Column("parent_text", sa.Text(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["comment_id"], ["comments.id"], name="fk_texts_comment_id"),
        sa.PrimaryKeyConstraint("comment_id", name="pk_texts"),
    )
    _append_only()


def _append_only() -> None:
    """The database itself refuses to rewrite what was decided."""
    if op.get_bind().dialect.name == "sqlite":
        for table in ("decisions", "steps"):
            for event in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} only grows'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION only_grows() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% only grows', TG_TABLE_NAME; END $$"
    )
    for table in ("decisions", "steps"):
        op.execute(
            f"CREATE TRIGGER {table}_only_grows BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION only_grows()"
        )
