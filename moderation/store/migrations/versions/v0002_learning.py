"""What the learning loop keeps: doubted labels, random draws, and which model is in use."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "looks",
        sa.Column("comment_id", number, nullable=False),
        sa.Column("decision_id", number, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("suggested", sa.String(), nullable=False),
        sa.Column("quality", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["comment_id"], ["comments.id"], name="fk_looks_comment_id"),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name="fk_looks_decision_id"),
        sa.PrimaryKeyConstraint("comment_id", "decision_id", name="pk_looks"),
    )
    op.create_table(
        "draws",
        sa.Column("comment_id", number, autoincrement=False, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["comment_id"], ["comments.id"], name="fk_draws_comment_id"),
        sa.PrimaryKeyConstraint("comment_id", name="pk_draws"),
    )
    op.add_column("models", sa.Column("used_at", sa.Double(), nullable=False, server_default="0"))
