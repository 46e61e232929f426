"""What SQLite itself says of a catalog. No table of the project is named here: a catalog of any version can be asked."""

import contextlib
import sqlite3
import sys


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


def size(store):
    """How many bytes a catalog uses, and how many rows it has with the lines of its indexes, which are the cells of the leaves of
    its trees. Where Python's SQLite cannot tell rows, they are left out."""
    found = {"bytes in the catalog": bytes_used(store)}
    with asked(store) as ask:
        try:
            found["rows and lines of indexes in the catalog"] = ask("SELECT sum(ncell) FROM dbstat WHERE pagetype = 'leaf'")
        except sqlite3.OperationalError:
            print("SQLite has no dbstat: rows are not counted", file=sys.stderr)
    return found
