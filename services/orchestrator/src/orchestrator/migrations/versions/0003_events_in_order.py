"""Events that become visible in the order of their ids, and that are announced."""

from alembic import op

revision = "0003"
down_revision = "0002"

# Ids are drawn when a row is inserted and seen when it is committed: without this, a reader that has seen 8 may later
# meet 7. The lock is taken before the statement draws its first id and is held until the commit has become visible.
IN_ORDER = """
CREATE FUNCTION run_events_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(122537084715011);
    RETURN NULL;
END
$$
"""
TOLD = """
CREATE FUNCTION run_events_told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('run_events', '');
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    """Make both triggers; they fire once a statement, whoever inserts."""
    op.execute(IN_ORDER)
    op.execute(TOLD)
    op.execute(
        "CREATE TRIGGER run_events_in_order BEFORE INSERT ON run_events "
        "FOR EACH STATEMENT EXECUTE FUNCTION run_events_in_order()"
    )
    op.execute(
        "CREATE TRIGGER run_events_told AFTER INSERT ON run_events "
        "FOR EACH STATEMENT EXECUTE FUNCTION run_events_told()"
    )
