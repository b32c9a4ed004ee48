"""Alembic's entry: it runs on the connection that `orchestrator.migrations` hands over, inside its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=False)
context.run_migrations()
