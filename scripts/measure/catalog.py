"""What SQLite itself says of a catalog. No table of the project is named here: a catalog of any version can be asked."""

import contextlib
import sqlite3


@contextlib.contextmanager
def asked(store):
    catalog = sqlite3.connect(store / "catalog.db")
    try:
        yield lambda query: catalog.execute(query).fetchone()[0]
    finally:
        catalog.close()


def bytes_used(store):
    """The bytes of a catalog without its free pages."""
    with asked(store) as ask:
        number = lambda name: ask(f"PRAGMA {name}")
        return (number("page_count") - number("freelist_count")) * number("page_size")


def share_of_allowed_growth(store, before, done):
    """How much a catalog of so many bytes grew in a sync, as a share of what it may grow by for what the sync did."""
    allowed = 50_000 + 3_000 * done["changed"] + 200 * done["entries"]
    return (bytes_used(store) - before) / allowed


def rows(store):
    """How many rows a catalog has, and lines of indexes: the cells of the leaves of its trees. Nothing where Python's SQLite
    cannot tell."""
    with asked(store) as ask:
        try:
            return ask("SELECT sum(ncell) FROM dbstat WHERE pagetype = 'leaf'")
        except sqlite3.OperationalError:
            return None
