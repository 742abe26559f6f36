"""The tables of the run database and how an older file is brought up to date.

    runs    one row a run: the recipe, where it stands, who works on it, a small result
    events  what a run said while it went, numbered from 1 within the run

A run moves along these arrows and no others:

    queued -> running -> done | failed | cancelled
       ^         |  (the worker died, or was told to stop)      failed | cancelled
       '---------'<---------------------------------------------------'  (resume)

SQLite keeps one integer for us, `PRAGMA user_version`: the number of migrations that a file has been through. A change of the
schema is one more entry at the end of MIGRATIONS; the entries before it are never edited, since files out there have run them.
"""

import sqlite3

from rotviz.errors import BadInput

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE runs (
            run_id           TEXT PRIMARY KEY,
            fingerprint      TEXT NOT NULL,
            title            TEXT NOT NULL,
            model            TEXT NOT NULL,
            recipe           TEXT NOT NULL,
            status           TEXT NOT NULL CHECK (status IN ('queued', 'running', 'done', 'failed', 'cancelled')),
            priority         INTEGER NOT NULL DEFAULT 0,
            created          TEXT NOT NULL,
            started          TEXT,
            finished         TEXT,
            worker           TEXT,
            heartbeat        TEXT,
            attempts         INTEGER NOT NULL DEFAULT 0,
            cancel_requested INTEGER NOT NULL DEFAULT 0,
            error            TEXT,
            error_kind       TEXT,
            result           TEXT
        )
        """,
        "CREATE INDEX runs_by_status ON runs (status, priority DESC, created)",
        "CREATE INDEX runs_by_age ON runs (created DESC)",
        """
        CREATE TABLE events (
            run_id   TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE ON UPDATE CASCADE,
            seq      INTEGER NOT NULL,
            time     TEXT NOT NULL,
            stage    TEXT NOT NULL,
            block    INTEGER,
            blocks   INTEGER,
            fraction REAL,
            message  TEXT NOT NULL,
            metrics  TEXT NOT NULL,
            seconds  REAL,
            PRIMARY KEY (run_id, seq)
        ) WITHOUT ROWID
        """,
    ),
)
VERSION = len(MIGRATIONS)


def version_of(connection: sqlite3.Connection) -> int:
    """How many migrations this file has been through."""
    return connection.execute("PRAGMA user_version").fetchone()[0]


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file up to VERSION; several processes may call this at once, one of them does the work.

    Raises:
        BadInput: the file was written by a newer rotviz.
    """
    if version_of(connection) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = version_of(connection)  # again, now that nobody else can write
        if found > VERSION:
            raise BadInput(f"the run database has schema {found} and this rotviz knows up to {VERSION}: "
                           "upgrade rotviz, or set ROTVIZ_HOME to another folder")
        for statements in MIGRATIONS[found:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
