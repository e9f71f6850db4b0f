"""Run by Alembic: applies the versions on the connection that `migration` hands over."""

from alembic import context

from poolkeeper_server.storage.failpoint import failpoint
from poolkeeper_server.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # Alembic takes SQLite for a database that cannot undo DDL, and would commit after every version.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
    failpoint("in_migration")
