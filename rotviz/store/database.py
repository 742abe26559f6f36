"""One SQLite file that many threads and several processes use at once.

Three facts about SQLite shape this file.

- A connection belongs to one thread and must not cross a fork. So each thread keeps its own, and a connection that another
  process opened is never used.
- In WAL mode readers never wait and writers wait for each other. A transaction that reads and then writes must say so at its
  start (BEGIN IMMEDIATE), or it fails with "database is locked" however long the busy timeout is.
- A process that is killed leaves a consistent file: what was committed stays. (synchronous=NORMAL: after a power cut the last
  few commits may be missing, the file is still sound.)

    database = Database(folder / "rotviz.db")
    with database.write() as connection:      # commits at the end, rolls back on any exception
        connection.execute("UPDATE runs SET ...")
"""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rotviz.errors import BadInput, OutOfRoom, RotvizError
from rotviz.home import make_folder
from rotviz.store import schema

BUSY_SECONDS = 30.0

# Extended codes of SQLite for "the file system would not take this write". EDQUOT and EFBIG arrive as these, ENOSPC as SQLITE_FULL.
_WRITE_REFUSED = frozenset((sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_TRUNCATE,
                            sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_DIR_FSYNC, sqlite3.SQLITE_IOERR_SHMOPEN))
_WORDS_OF_FULL = ("database or disk is full", "no space left", "disk quota exceeded")


@dataclass(frozen=True, slots=True)
class _Opened:
    """A connection, who opened it, and which file it was at that time."""

    connection: sqlite3.Connection
    process: int
    file: tuple[int, int]


_here = threading.local()  # .opened: {path: _Opened} of this thread
_abandoned: list[_Opened] = []  # connections that came through a fork: not even closing them is safe, so they are kept from the collector


class Database:
    """The file at `path`, made on first use. Cheap to construct; holds no connection itself."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading; one statement sees one moment."""
        with self._explained():
            yield self._connection()

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its first line; all of it happens or none."""
        with self._explained():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite has rolled back by itself when the disk was full
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close this thread's connection, if it has one."""
        opened = _of_this_thread().pop(str(self.path), None)
        if opened is not None and opened.process == os.getpid():
            opened.connection.close()

    def _connection(self) -> sqlite3.Connection:
        opened = _of_this_thread().get(str(self.path))
        if opened is not None and opened.process == os.getpid():
            if opened.file == _identity(self.path):
                return opened.connection
            opened.connection.close()  # the file was moved or deleted under us: what we would write, nobody would read
            opened = None
        connection = self._open()
        if opened is not None:
            _abandoned.append(opened)
        _of_this_thread()[str(self.path)] = _Opened(connection, os.getpid(), _identity(self.path))
        return connection

    def _open(self) -> sqlite3.Connection:
        make_folder(self.path.parent)
        # isolation_level=None: transactions begin where this file says, not where Python's module guesses.
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            _switch_to_wal(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            schema.migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise explained(error, self.path) from error


def explained(error: sqlite3.Error, path: Path) -> Exception:
    """The error of ours that says what happened to the file and what would work; a mistake in our own SQL comes back as it is."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None  # extended codes carry the primary one in their low byte
    text = str(error).lower()
    if primary == sqlite3.SQLITE_FULL or code in _WRITE_REFUSED or any(words in text for words in _WORDS_OF_FULL):
        return OutOfRoom(f"the disk that holds {path.parent} is full ({error}); free some room there or set ROTVIZ_HOME "
                         "to a folder on another disk. What had been finished is kept.")
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return BadInput(f"the run database {path} is damaged ({error}); move it away (mv {path} {path}.damaged) and a new one is "
                        f"made. The recipes and results stay readable in {path.parent / 'runs'}.")
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return BadInput(f"cannot write the run database {path} ({error}); set ROTVIZ_HOME to a folder you can write to")
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return RotvizError(f"another process has held the run database {path} for {BUSY_SECONDS:g} seconds; try again")
    if primary == sqlite3.SQLITE_IOERR:
        return RotvizError(f"the disk that holds {path} does not answer properly ({error}); try again or set ROTVIZ_HOME to another disk")
    return error


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # Changing the mode does not wait for the busy timeout, so two processes that create the file together have to take turns.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")  # a file system that cannot do it keeps the old mode, which is slower
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _of_this_thread() -> dict[str, _Opened]:
    if not hasattr(_here, "opened"):
        _here.opened = {}
    return _here.opened


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)
