"""The runs: what was asked, where each stands, what it said and what came out.

    store = Store()                       # the database and the run folders under ROTVIZ_HOME
    run_id = store.create(recipe)         # "20261122-0341-7f3a9c", queued
    record = store.claim_next(worker)     # the next one in line, now ours; nobody else gets it
    store.finish(run_id, result.to_dict())

On disk, for people and other tools (the database is for us):

    rotviz.db
    runs/<run_id>/recipe.toml   result.json   artifacts...   error.log   checkpoint/

Every change of status is one UPDATE that names the status it comes from, so two processes that race cannot both win. A worker
that lost its run (it stopped for so long that another took it) is told so by `heartbeat` and by the methods that end a run, which
then change nothing. Nothing here imports torch: listing the runs has to be quick.
"""

import difflib
import json
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from rotviz.errors import BadInput, UnknownName
from rotviz.home import home, make_folder, room_in, write_atomically
from rotviz.pipeline.events import Event
from rotviz.store import processes
from rotviz.store.database import Database

ATTEMPTS = 3
STALE_SECONDS = 120.0
SUMMARY_ENTRY_BYTES = 4096
SUMMARY_LIST = 8


class Status(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


OVER = (Status.DONE, Status.FAILED, Status.CANCELLED)


class RecipeLike(Protocol):
    """What the store needs of a recipe; it never looks inside beyond the model's name."""

    title: str
    fingerprint: str

    def to_dict(self) -> dict[str, Any]: ...

    def to_toml(self) -> str: ...


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One row of the runs. Times are UTC in ISO form; `result` is the small part of the result, None until the run is done."""

    run_id: str
    fingerprint: str
    title: str
    model: str
    recipe: dict[str, Any]
    status: Status
    priority: int
    created: str
    started: str | None
    finished: str | None
    worker: str | None
    heartbeat: str | None
    attempts: int
    cancel_requested: bool
    error: str | None
    error_kind: str | None
    result: dict[str, Any] | None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen unless someone resumes it."""
        return self.status in OVER

    @property
    def seconds(self) -> float | None:
        """Wall time from the start of the last attempt to its end, or to now; None before it started."""
        if self.started is None:
            return None
        end = instant(self.finished) if self.finished else datetime.now(UTC)
        return (end - instant(self.started)).total_seconds()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its number within the run and when it was written (UTC)."""

    seq: int
    time: str
    event: Event


class Store:
    """The runs under one home folder. Holds no connection: construct it anywhere, use it from any thread or process."""

    def __init__(self, folder: Path | None = None) -> None:
        self.home = Path(folder) if folder is not None else home()
        self.database = Database(self.home / "rotviz.db")

    # What is asked

    def create(self, recipe: RecipeLike, *, priority: int = 0, worker: str | None = None) -> str:
        """File a recipe as a new run and return its id.

        Args:
            recipe: what to carry out.
            priority: higher goes first; equals go by age.
            worker: a process that carries it out itself, now: the run then starts as running and never waits in the queue.
        """
        plain = recipe.to_dict()
        values = {"fingerprint": recipe.fingerprint, "title": recipe.title, "model": str(plain.get("model", "")),
                  "recipe": to_json(plain), "priority": priority, "worker": worker, "created": now(),
                  "status": Status.RUNNING if worker else Status.QUEUED}
        run_id = self._new_folder()
        try:
            # The row comes last: a run that can be seen always has its folder.
            write_text(self.folder(run_id) / "recipe.toml", recipe.to_toml())
            self._insert(run_id, values)
        except BaseException:
            shutil.rmtree(self.folder(run_id), ignore_errors=True)
            raise
        return run_id

    def request_cancel(self, run_id: str) -> Status:
        """Cancel a queued run at once, or ask the worker of a running one to stop; returns the status after this call."""
        run_id = self.get(run_id).run_id
        with self.database.write() as connection:
            connection.execute("UPDATE runs SET status = 'cancelled', finished = ?, cancel_requested = 1 "
                               "WHERE run_id = ? AND status = 'queued'", (now(), run_id))
            connection.execute("UPDATE runs SET cancel_requested = 1 WHERE run_id = ? AND status = 'running'", (run_id,))
        return self.get(run_id).status

    def resume(self, run_id: str, *, worker: str | None = None) -> RunRecord:
        """Put a failed or cancelled run back in the queue under the same id; it goes on from its checkpoint.

        Args:
            worker: a process that goes on with it itself, now, past the queue.

        Raises:
            BadInput: the run is done, waiting or running.
        """
        record = self.get(run_id)
        with self.database.write() as connection:
            changed = connection.execute(
                "UPDATE runs SET status = 'queued', attempts = 0, cancel_requested = 0, error = NULL, error_kind = NULL, "
                "finished = NULL, worker = NULL, heartbeat = NULL WHERE run_id = ? AND status IN ('failed', 'cancelled')",
                (record.run_id,)).rowcount
            if changed and worker is not None:
                _start(connection, record.run_id, worker)
        if not changed:
            raise BadInput(f"run {record.run_id} is {self.get(record.run_id).status}; only a failed or cancelled run can be resumed")
        return self.get(record.run_id)

    def delete(self, run_id: str) -> None:
        """Remove a run, its events and its folder.

        Raises:
            BadInput: the run is running.
        """
        run_id = self.get(run_id).run_id
        with self.database.write() as connection:
            deleted = connection.execute("DELETE FROM runs WHERE run_id = ? AND status != 'running'", (run_id,)).rowcount
        if not deleted:
            raise BadInput(f"run {run_id} is running; cancel it first")
        shutil.rmtree(self.folder(run_id), ignore_errors=True)

    # What a worker does

    def claim_next(self, worker: str) -> RunRecord | None:
        """Take the next queued run for this worker, or None when there is none. No run is given out twice."""
        with self.database.write() as connection:
            row = connection.execute("SELECT run_id FROM runs WHERE status = 'queued' "
                                     "ORDER BY priority DESC, created, rowid LIMIT 1").fetchone()
            if row is None:
                return None
            _start(connection, row["run_id"], worker)
        return self.get(row["run_id"])

    def claim(self, run_id: str, worker: str) -> RunRecord:
        """Take this queued run for this worker; a run that this worker has already is fine too.

        Raises:
            BadInput: the run is over or someone else's.
        """
        run_id = self.get(run_id).run_id
        with self.database.write() as connection:
            row = connection.execute("SELECT status, worker FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            if row["status"] == Status.QUEUED:
                _start(connection, run_id, worker)
            elif row["status"] != Status.RUNNING or row["worker"] != worker:
                raise BadInput(f"run {run_id} is {row['status']}; only a queued run can be started")
        return self.get(run_id)

    def heartbeat(self, run_id: str, worker: str) -> bool:
        """Say that the worker is alive; False when the run is no longer its own."""
        with self.database.write() as connection:
            return bool(connection.execute("UPDATE runs SET heartbeat = ? WHERE run_id = ? AND worker = ? AND status = 'running'",
                                           (now(), run_id, worker)).rowcount)

    def stop_reason(self, run_id: str, worker: str) -> str | None:
        """Why this worker should stop working on this run: "cancel", "lost", or None to go on."""
        with self.database.read() as connection:
            row = connection.execute("SELECT status, worker, cancel_requested FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if row is None or row["status"] != Status.RUNNING or row["worker"] != worker:
            return "lost"
        return "cancel" if row["cancel_requested"] else None

    def add_event(self, run_id: str, event: Event) -> int:
        """Append an event and return its number."""
        return self.add_events(run_id, [event])

    def add_events(self, run_id: str, events: Iterable[Event]) -> int:
        """Append events in one transaction and return the number of the last."""
        with self.database.write() as connection:
            row = connection.execute("SELECT COALESCE(MAX(e.seq), 0) AS last FROM runs r LEFT JOIN events e USING (run_id) "
                                     "WHERE r.run_id = ? GROUP BY r.run_id", (run_id,)).fetchone()
            if row is None:
                raise UnknownName(f"no run {run_id!r}: it was deleted while it ran")
            seq = row["last"]
            for event in events:
                seq += 1
                connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (
                    run_id, seq, now(), event.stage, event.block, event.blocks, finite(event.fraction),
                    event.message, to_json(event.metrics), finite(event.seconds)))
        return seq

    def finish(self, run_id: str, result: Mapping[str, Any], worker: str | None = None) -> bool:
        """Write result.json, then mark the run done. False when the run was no longer this worker's (nothing is changed then)."""
        if self.get(run_id).over or (worker is not None and self.stop_reason(run_id, worker) == "lost"):
            return False
        full = {"run_id": run_id} | plain(result)
        # The file first: a run that is done always has its result.
        write_text(self.folder(run_id) / "result.json", json.dumps(full, indent=1, allow_nan=False))
        return self._end(run_id, Status.DONE, worker, result=json.dumps(summary(full), allow_nan=False))

    def fail(self, run_id: str, error: str, kind: str = "RotvizError", worker: str | None = None) -> bool:
        """Mark the run failed, with one line that says why."""
        return self._end(run_id, Status.FAILED, worker, error=" ".join(error.split()), error_kind=kind)

    def mark_cancelled(self, run_id: str, worker: str | None = None) -> bool:
        """Mark the run cancelled; its checkpoint stays."""
        return self._end(run_id, Status.CANCELLED, worker)

    def give_back(self, run_id: str, worker: str) -> bool:
        """Put a run that this worker was told to leave back in the queue; leaving politely does not count as an attempt."""
        with self.database.write() as connection:
            return bool(connection.execute(
                "UPDATE runs SET status = CASE cancel_requested WHEN 1 THEN 'cancelled' ELSE 'queued' END, "
                "worker = NULL, heartbeat = NULL, finished = CASE cancel_requested WHEN 1 THEN ? END, attempts = MAX(attempts - 1, 0) "
                "WHERE run_id = ? AND worker = ? AND status = 'running'", (now(), run_id, worker)).rowcount)

    def requeue_orphans(self, stale_seconds: float = STALE_SECONDS, idle_worker: str | None = None) -> list[str]:
        """Put runs back in the queue whose worker is gone; returns their ids.

        A worker is gone when its process has ended, or when it has not said that it is alive for `stale_seconds`. A run that the
        user wanted cancelled becomes cancelled. A run whose worker has died ATTEMPTS times is given up as failed.

        Args:
            stale_seconds: how long silence is believed.
            idle_worker: a worker that knows it works on nothing (the caller): what is in its name is an orphan as well.
        """
        limit = (datetime.now(UTC) - timedelta(seconds=stale_seconds)).isoformat(timespec="microseconds")
        found: list[str] = []
        if not self.count(Status.RUNNING):
            return found  # the usual case, which should not take the write lock
        with self.database.write() as connection:
            rows = connection.execute("SELECT run_id, worker, heartbeat, attempts, cancel_requested FROM runs "
                                      "WHERE status = 'running'").fetchall()
            for row in rows:
                gone = row["worker"] in (None, idle_worker) or processes.alive(row["worker"]) is False
                if gone or (row["heartbeat"] or "") < limit:
                    _put_back(connection, row)
                    found.append(row["run_id"])
        return found

    # What is read

    def folder(self, run_id: str) -> Path:
        """The folder of a run, whether or not it exists. Takes the full id."""
        return self.home / "runs" / run_id

    def checkpoint(self, run_id: str) -> Path:
        """The folder that a run resumes from."""
        return self.folder(run_id) / "checkpoint"

    def get(self, run_id: str) -> RunRecord:
        """The run with this id, or with the only id that begins with it; the last part alone ("7f3a9c") will do too.

        Raises:
            UnknownName: there is none; the message names the nearest.
            BadInput: several begin with it.
        """
        with self.database.read() as connection:
            row = connection.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            if row is not None:
                return _record(row)
            rows = connection.execute("SELECT * FROM runs WHERE ?1 != '' AND (substr(run_id, 1, length(?1)) = ?1 "
                                      "OR substr(run_id, 15, length(?1)) = ?1) ORDER BY created DESC", (run_id,)).fetchall()
            if len(rows) == 1:
                return _record(rows[0])
            known = [r["run_id"] for r in rows or connection.execute("SELECT run_id FROM runs ORDER BY created DESC, rowid DESC")]
        if rows:
            raise BadInput(f"{run_id!r} could be {len(rows)} runs: {_some(known)}; give more of it")
        if not known:
            raise UnknownName(f"no run {run_id!r}: there are no runs yet in {self.home}")
        near = difflib.get_close_matches(str(run_id), known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ";"
        raise UnknownName(f"no run {run_id!r}{hint} newest: {_some(known)}")

    def count(self, status: Status | str | None = None) -> int:
        """How many runs there are, all or of one status."""
        with self.database.read() as connection:
            return connection.execute("SELECT COUNT(*) FROM runs WHERE ?1 IS NULL OR status = ?1", (_status(status),)).fetchone()[0]

    def ahead_of(self, run_id: str) -> int:
        """How many queued runs come before this one."""
        with self.database.read() as connection:
            row = connection.execute("SELECT priority, created, rowid FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            return connection.execute("SELECT COUNT(*) FROM runs WHERE status = 'queued' AND (-priority, created, rowid) < (?, ?, ?)",
                                      (-row["priority"], row["created"], row["rowid"])).fetchone()[0]

    def result(self, run_id: str) -> dict[str, Any]:
        """The whole result, from result.json.

        Raises:
            BadInput: the run is not done, or its file is gone or damaged.
        """
        record = self.get(run_id)
        if record.status is not Status.DONE:
            why = f": {record.error}" if record.error else ""
            raise BadInput(f"run {record.run_id} has no result, it is {record.status}{why}")
        path = self.folder(record.run_id) / "result.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read {path} ({error}); run the recipe beside it again: {path.with_name('recipe.toml')}") from error

    def events_since(self, run_id: str, seq: int = 0, limit: int | None = None) -> list[StoredEvent]:
        """The events after number `seq`, oldest first."""
        with self.database.read() as connection:
            rows = connection.execute("SELECT * FROM events WHERE run_id = ? AND seq > ? ORDER BY seq LIMIT ?",
                                      (run_id, seq, -1 if limit is None else limit)).fetchall()
        return [_stored_event(row) for row in rows]

    def latest_event(self, run_id: str) -> StoredEvent | None:
        """The last event, None before the first."""
        with self.database.read() as connection:
            row = connection.execute("SELECT * FROM events WHERE run_id = ? ORDER BY seq DESC LIMIT 1", (run_id,)).fetchone()
        return _stored_event(row) if row else None

    def first_event_after(self, run_id: str, time: str, stage: str) -> StoredEvent | None:
        """The first event of a stage at or after a moment: with a run's `started`, where the present attempt took the stage up."""
        with self.database.read() as connection:
            row = connection.execute("SELECT * FROM events WHERE run_id = ? AND time >= ? AND stage = ? ORDER BY seq LIMIT 1",
                                     (run_id, time, stage)).fetchone()
        return _stored_event(row) if row else None

    def _new_folder(self) -> str:
        """Make the folder of a run that does not exist yet and return its id; making a folder is what nobody else can do twice."""
        make_folder(self.home / "runs")
        while True:
            run_id = f"{datetime.now(UTC):%Y%m%d-%H%M}-{secrets.token_hex(3)}"
            try:
                with room_in(self.home):
                    self.folder(run_id).mkdir()
                return run_id
            except FileExistsError:
                continue
            except OSError as error:
                raise BadInput(f"cannot write in {self.home / 'runs'} ({error.strerror}); "
                               "set ROTVIZ_HOME to a folder you can write to") from error

    def _insert(self, run_id: str, values: dict[str, Any]) -> None:
        row = {"run_id": run_id} | values
        with self.database.write() as connection:
            columns = ", ".join(row)
            connection.execute(f"INSERT INTO runs ({columns}) VALUES ({', '.join(':' + name for name in row)})", row)
            if row["worker"] is not None:
                _start(connection, run_id, row["worker"])

    def _end(self, run_id: str, status: Status, worker: str | None, **values: str) -> bool:
        values = {"error": None, "error_kind": None} | values | {"status": status, "finished": now()}
        changes = ", ".join(f"{name} = :{name}" for name in values)
        with self.database.write() as connection:
            return bool(connection.execute(
                f"UPDATE runs SET {changes} WHERE run_id = :run_id AND status IN ('queued', 'running') "
                "AND (:worker IS NULL OR worker = :worker)", values | {"run_id": run_id, "worker": worker}).rowcount)

    # Last in the class: below this line the name `list` means this method.

    def list(self, status: Status | str | None = None, model: str | None = None, fingerprint: str | None = None,
             limit: int | None = None, offset: int = 0) -> list[RunRecord]:
        """Runs, newest first."""
        with self.database.read() as connection:
            rows = connection.execute(
                "SELECT * FROM runs WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR model = ?2) "
                "AND (?3 IS NULL OR fingerprint = ?3) ORDER BY created DESC, rowid DESC LIMIT ?4 OFFSET ?5",
                (_status(status), model, fingerprint, -1 if limit is None else limit, offset)).fetchall()
        return [_record(row) for row in rows]


def write_text(path: Path, text: str) -> None:
    """A text file that is whole or not there."""
    write_atomically(path, lambda temporary: _write(temporary, text))


def now() -> str:
    """This moment in UTC, in a form whose alphabetical order is the order in time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def instant(text: str) -> datetime:
    """The moment that `now` wrote."""
    return datetime.fromisoformat(text)


def finite(value: float | None) -> float | None:
    """The number, or None for NaN and infinities, which JSON and SQLite do not have."""
    return float(value) if value is not None and isfinite(value) else None


def plain(value: Any) -> Any:
    """The value as JSON has it: NaN and infinities become null, tuples lists, scalars of numpy and torch numbers."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def to_json(value: Any) -> str:
    """Compact JSON that any parser takes."""
    return json.dumps(plain(value), allow_nan=False, separators=(",", ":"))


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a result that is small enough for a table of runs: no recipe, no long list at any depth; result.json has it all."""
    short = {key: _without_long_lists(entry) for key, entry in result.items() if key != "recipe" and not _long(entry)}
    return {key: entry for key, entry in short.items() if len(to_json(entry)) <= SUMMARY_ENTRY_BYTES}


def _long(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > SUMMARY_LIST


def _without_long_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_long_lists(entry) for key, entry in value.items() if not _long(entry)}
    return value


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _start(connection: sqlite3.Connection, run_id: str, worker: str) -> None:
    connection.execute("UPDATE runs SET status = 'running', worker = ?, started = ?, heartbeat = ?, finished = NULL, "
                       "attempts = attempts + 1 WHERE run_id = ?", (worker, now(), now(), run_id))


def _put_back(connection: sqlite3.Connection, row: sqlite3.Row) -> None:
    status, error = Status.QUEUED, None
    if row["cancel_requested"]:
        status = Status.CANCELLED
    elif row["attempts"] >= ATTEMPTS:
        status = Status.FAILED
        error = (f"the worker died {row['attempts']} times on this run (often the system was out of memory); "
                 "what it had finished is kept, resume it to try again")
    connection.execute("UPDATE runs SET status = ?, error = ?, error_kind = ?, worker = NULL, heartbeat = NULL, finished = ? "
                       "WHERE run_id = ?", (status, error, "WorkerDied" if error else None,
                                            None if status is Status.QUEUED else now(), row["run_id"]))


def _record(row: sqlite3.Row) -> RunRecord:
    values = dict(row)
    values["status"] = Status(values["status"])
    values["recipe"] = json.loads(values["recipe"])
    values["result"] = json.loads(values["result"]) if values["result"] else None
    values["cancel_requested"] = bool(values["cancel_requested"])
    return RunRecord(**values)


def _stored_event(row: sqlite3.Row) -> StoredEvent:
    def number(value: float | None) -> float:
        return float("nan") if value is None else value

    metrics = {name: number(value) for name, value in json.loads(row["metrics"]).items()}
    event = Event(stage=row["stage"], block=row["block"], blocks=row["blocks"], fraction=number(row["fraction"]),
                  message=row["message"], metrics=metrics, seconds=number(row["seconds"]))
    return StoredEvent(row["seq"], row["time"], event)


def _status(status: Status | str | None) -> str | None:
    if status is None:
        return None
    try:
        return Status(status).value
    except ValueError:
        raise BadInput(f"no status {status!r}; known: {', '.join(Status)}") from None


def _some(names: Iterable[str]) -> str:
    names = tuple(names)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
