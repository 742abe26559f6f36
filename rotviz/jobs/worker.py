"""The process that carries out queued runs, one after the other: `python -m rotviz.jobs.worker`.

    take the lock (one worker per home) -> repeat: put orphans back, claim the next run, execute it -> end after some idle time

It may be killed at any moment. SIGTERM and SIGINT put the current run back in line and end the process; the run gets `--grace-seconds`
to stop by itself, then it is interrupted where it is. After `kill -9` the next worker finds the run and goes on from its checkpoint.

A worker starts itself afresh (exec, same process number) in two cases: when the code of rotviz has changed since it was loaded, so
that a method someone has just edited is the one that runs; and some time after its last run, to hand its memory back.
"""

import argparse
import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import rotviz
from rotviz.errors import BadInput, Cancelled, RotvizError
from rotviz.jobs import supervise
from rotviz.jobs.execute import Interrupted, execute
from rotviz.jobs.lock import WorkerLock, held
from rotviz.store import processes
from rotviz.store.runs import STALE_SECONDS, RunRecord, Status, Store

ORPHAN_LOOK_SECONDS = 5.0
HAND_BACK_SECONDS = 60.0


class Ending(Enum):
    """Why the worker stopped serving."""

    IDLE = "idle"
    TOLD = "told to stop"
    AFRESH = "to start afresh"


class Signals:
    """SIGTERM and SIGINT set a flag; if the run has not stopped when the grace is over, or on a second signal, Interrupted is raised.

    A flag and not threading.Event: a handler runs inside whatever the main thread does, and Event.set there can wait for itself.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.asked = False
        self._grace = grace_seconds

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        if hasattr(signal, "SIGALRM"):
            signal.signal(signal.SIGALRM, self._insist)

    def _ask(self, *_: Any) -> None:
        if self.asked:
            self._insist()
        self.asked = True
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, max(self._grace, 0.001))

    def _insist(self, *_: Any) -> None:
        raise Interrupted


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    signals = Signals(options.grace_seconds)
    signals.install()
    try:
        return _serve_with_lock(options, signals)
    except Interrupted:
        return 0
    except RotvizError as error:
        _say(str(error))
        return 2 if isinstance(error, BadInput) else 1


def _serve_with_lock(options: argparse.Namespace, signals: Signals) -> int:
    store = Store()
    lock = WorkerLock(store.home)
    while True:
        with held(lock) as got:
            if not got and not _second_try(lock):
                _say(f"another worker serves {store.home}; this one ends")
                return 0
            ending = _serve(store, options, signals, lock)
        _say(f"ends: {ending.value}")
        if ending is Ending.AFRESH and not signals.asked:
            store.database.close()
            os.execv(sys.executable, sys.orig_argv)
        # A run that came after our last look found the lock still held and started no worker. Look once more, without the lock.
        if signals.asked or ending is Ending.TOLD or not _something_waits(store):
            return 0


def _something_waits(store: Store) -> bool:
    return store.count(Status.QUEUED) > 0


def _second_try(lock: WorkerLock) -> bool:
    # Someone who looks whether the lock is free holds it for a moment.
    time.sleep(0.05)
    return lock.acquire()


def _serve(store: Store, options: argparse.Namespace, signals: Signals, lock: WorkerLock) -> Ending:
    me = processes.this_process()
    code = _code_stamp()
    orphans = _Orphans(store, me, options.stale_seconds)
    idle_since, worked = time.monotonic(), False
    _say(f"serves {store.home}")
    while not signals.asked:
        if not lock.intact():
            return Ending.TOLD  # the home was deleted: writing on would bring it back to life
        orphans.look()
        if not _something_waits(store):
            idle = time.monotonic() - idle_since
            if idle >= options.idle_seconds:
                return Ending.IDLE
            if worked and idle >= HAND_BACK_SECONDS:
                return Ending.AFRESH
            time.sleep(options.poll_seconds)
            continue
        if code != _code_stamp():
            return Ending.AFRESH
        record = store.claim_next(me)
        if record is not None:
            _carry_out(store, record, options, signals)
            supervise.rotate_log(store.home)
        idle_since, worked = time.monotonic(), True
    return Ending.TOLD


def _carry_out(store: Store, record: RunRecord, options: argparse.Namespace, signals: Signals) -> None:
    _say(f"run {record.run_id} begins, attempt {record.attempts}: {record.title}")
    try:
        execute(store, record.run_id, _named(options.runner), load=_named(options.recipes), stopping=lambda: signals.asked)
    except Interrupted:
        _say(f"run {record.run_id} goes back in line")
        signals.asked = True
    except Cancelled as error:
        _say(f"run {record.run_id} stops: {error}")
    except RotvizError as error:
        _say(f"run {record.run_id} fails: {error}")
    except Exception as error:
        _say(f"run {record.run_id} fails: {type(error).__name__}: {error} (see {store.folder(record.run_id) / 'error.log'})")
    else:
        _say(f"run {record.run_id} is done")


class _Orphans:
    """Looks for runs of dead workers, now and then."""

    def __init__(self, store: Store, me: str, stale_seconds: float) -> None:
        self._store = store
        self._me = me
        self._stale = stale_seconds
        self._next = 0.0
        self._looked = time.time()
        self._silence_means_nothing_until = 0.0

    def look(self) -> None:
        moment = time.monotonic()
        if time.time() - self._looked > ORPHAN_LOOK_SECONDS + self._stale / 2:
            # We were busy or the machine slept. If it slept, the others have not had time to say that they are alive.
            self._silence_means_nothing_until = moment + self._stale
        self._looked = time.time()
        if moment < self._next:
            return
        self._next = moment + ORPHAN_LOOK_SECONDS
        patience = self._stale if moment >= self._silence_means_nothing_until else 1e9
        for run_id in self._store.requeue_orphans(patience, idle_worker=self._me):
            _say(f"run {run_id} had lost its worker: now {self._store.get(run_id).status}")


def _code_stamp() -> int:
    """A number that changes when a source file of rotviz does."""
    stamps = []
    for path in sorted(Path(rotviz.__file__).parent.rglob("*.py")):
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            stamps.append((str(path), found.st_mtime_ns, found.st_size))
    return hash(tuple(stamps))


def _named(name: str | None) -> Callable[..., Any] | None:
    """The function that "module:function" names."""
    if name is None:
        return None
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _say(words: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} worker {os.getpid()}: {words}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rotviz.jobs.worker", description="Carries out the queued runs of ROTVIZ_HOME.")
    parser.add_argument("--idle-seconds", type=float, default=900.0, help="end after this long without work (900)")
    parser.add_argument("--poll-seconds", type=float, default=0.5, help="how often to look for work (0.5)")
    parser.add_argument("--stale-seconds", type=float, default=STALE_SECONDS,
                        help=f"a worker that has been silent this long has lost its run ({STALE_SECONDS:g})")
    parser.add_argument("--grace-seconds", type=float, default=5.0,
                        help="how long a run may take to stop when the worker is told to end (5)")
    parser.add_argument("--runner", help=argparse.SUPPRESS)   # module:function in place of the pipeline, for tests
    parser.add_argument("--recipes", help=argparse.SUPPRESS)  # module:function that turns the stored recipe into the runner's
    return parser


if __name__ == "__main__":
    sys.exit(main())
