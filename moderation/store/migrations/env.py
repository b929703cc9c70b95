"""What Alembic runs. `Database` gives it a connection inside a transaction that no other process can be in."""

from alembic import context

from moderation.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
