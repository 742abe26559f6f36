"""Carry out one run and keep its record: the loop that the worker and the foreground command line share.

    recipe -> runner(recipe, checkpoint=..., cancelled=...) yields events ... returns a result
                 |                                  |                          |
              checkpoint/ after each block       events table               result.json, status done

What ends a run, and what is left of it:

    end                                   status      checkpoint   raised here
    the runner returns                    done        removed      nothing: the result is returned
    someone asked to cancel, or Ctrl-C    cancelled   kept         Cancelled
    the worker was told to stop           queued      kept         Interrupted
    an error                              failed      kept         the error itself
    another worker took the run over      untouched   theirs       Cancelled

The runner decides nothing about the record and the record nothing about the numbers: with the same recipe, a run that was
interrupted and resumed gives the result of one that was not.
"""

import contextlib
import errno
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rotviz.errors import Cancelled, OutOfRoom, RotvizError
from rotviz.home import make_folder
from rotviz.pipeline.events import Event
from rotviz.store import processes
from rotviz.store.runs import RecipeLike, RunRecord, Store, write_text

EVENTS_PER_SECOND = 5.0
EVENTS_A_RUN = 2000  # beyond about this many, the rate falls as the run grows longer: 8 hours make 10,000 and not 144,000
HEARTBEAT_SECONDS = 5.0
LOOK_SECONDS = 0.5  # how often a running run looks whether it should stop

OnEvent = Callable[[Event], None]
LoadRecipe = Callable[[dict[str, Any]], Any]


class ResultLike(Protocol):
    """What a runner returns. Where it has write_files(folder), large arrays go into the run's folder by it, before the run counts as done."""

    def to_dict(self) -> dict[str, Any]: ...


class Runner(Protocol):
    """What carries a recipe out; rotviz.pipeline.run.run is the real one."""

    def __call__(
        self, recipe: Any, *, checkpoint: Path | None, cancelled: Callable[[], bool] | None
    ) -> Generator[Event, None, ResultLike]: ...


class Interrupted(BaseException):
    """This process has been told to end. Not an Exception, so that no runner mistakes it for a failure of its own."""


def execute(
    store: Store,
    run_id: str,
    runner: Runner | None = None,
    on_event: OnEvent | None = None,
    *,
    load: LoadRecipe | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Carry out a queued run, or one that this process has claimed, and return its result as plain values with `run_id`.

    Args:
        store: where the run is.
        run_id: which one.
        runner: what carries it out; None = the pipeline.
        on_event: called with every event, also those that are too frequent to be stored.
        load: turns the stored recipe into what the runner takes; None = Recipe.from_dict.
        stopping: turns true when this process should end: the run goes back to the queue.

    Raises:
        Cancelled, Interrupted, or what the runner raised; the record says so already.
    """
    worker = processes.this_process()
    record = store.claim(run_id, worker)
    with _keeping_watch(store, record.run_id, worker, stopping) as watch, _recording_the_end(store, record.run_id, worker, watch):
        result = _drive(store, record, runner or _pipeline(), load or _recipe_from, on_event, watch)
        if hasattr(result, "write_files"):
            result.write_files(store.folder(record.run_id))
        if not store.finish(record.run_id, result.to_dict(), worker):
            watch.reason = "lost"
            raise Cancelled(f"run {record.run_id} was taken over by another worker")
    shutil.rmtree(store.checkpoint(record.run_id), ignore_errors=True)
    return store.result(record.run_id)


def execute_now(
    store: Store,
    recipe: RecipeLike,
    runner: Runner | None = None,
    on_event: OnEvent | None = None,
    *,
    load: LoadRecipe | None = None,
    on_start: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """File a recipe and carry it out in this process, past the queue: what `rotviz run` does.

    Args:
        on_start: called with the run's id before the work begins.
    """
    run_id = store.create(recipe, worker=processes.this_process())
    if on_start is not None:
        on_start(run_id)
    return execute(store, run_id, runner, on_event, load=load)


@dataclass
class _Watch:
    """Why the run should stop, if it should; written by the watching thread, read by the runner between its steps."""

    stopping: Callable[[], bool]
    reason: str | None = None  # "cancel", "lost" or None
    over: threading.Event = field(default_factory=threading.Event)

    def cancelled(self) -> bool:
        return self.reason is not None or self.stopping()


@contextlib.contextmanager
def _keeping_watch(store: Store, run_id: str, worker: str, stopping: Callable[[], bool]) -> Iterator[_Watch]:
    """A thread that says we are alive and looks whether we should stop, while the main thread is deep in a matrix product."""
    watch = _Watch(stopping)

    def look() -> None:
        beaten = 0.0
        while not watch.over.wait(LOOK_SECONDS):
            # A full or slow disk must not end the run from here: the run finds out itself when it writes.
            with contextlib.suppress(RotvizError):
                watch.reason = store.stop_reason(run_id, worker)
                if time.monotonic() - beaten >= HEARTBEAT_SECONDS:
                    store.heartbeat(run_id, worker)
                    beaten = time.monotonic()
        store.database.close()

    thread = threading.Thread(target=look, name=f"watch {run_id}", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.over.set()
        thread.join(timeout=10)


def _drive(store: Store, record: RunRecord, runner: Runner, load: LoadRecipe, on_event: OnEvent | None, watch: _Watch) -> ResultLike:
    checkpoint = store.checkpoint(record.run_id)
    make_folder(checkpoint)
    log = _EventLog(store, record.run_id)
    steps = runner(load(record.recipe), checkpoint=checkpoint, cancelled=watch.cancelled)
    try:
        while True:
            try:
                event = next(steps)
            except StopIteration as end:
                return end.value
            log.add(event)
            if on_event is not None:
                on_event(event)
            if watch.cancelled():
                raise Cancelled("stopped between two steps")
    finally:
        steps.close()  # lets the runner clean up when it is us who stop
        with contextlib.suppress(RotvizError):
            log.flush()


class _EventLog:
    """Stores at most EVENTS_PER_SECOND events a second, fewer in a long run, but always the first and the last of each stage and block."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._place: tuple[str, int | None] | None = None
        self._held: Event | None = None
        self._begun = time.monotonic()
        self._written = float("-inf")

    def add(self, event: Event) -> None:
        place = (event.stage, event.block)
        if place != self._place:
            self._write([self._held, event])
        elif time.monotonic() - self._written >= max(1 / EVENTS_PER_SECOND, (time.monotonic() - self._begun) / EVENTS_A_RUN):
            self._write([event])
        else:
            self._held = event
        self._place = place

    def flush(self) -> None:
        if self._held is not None:
            self._write([self._held])

    def _write(self, events: list[Event | None]) -> None:
        self._held = None
        self._store.add_events(self._run_id, [event for event in events if event is not None])
        self._written = time.monotonic()


@contextlib.contextmanager
def _recording_the_end(store: Store, run_id: str, worker: str, watch: _Watch) -> Iterator[None]:
    try:
        yield
    except Interrupted:
        store.give_back(run_id, worker)
        raise
    except Cancelled as error:
        if watch.reason is None and watch.stopping():
            store.give_back(run_id, worker)
            raise Interrupted from error
        store.mark_cancelled(run_id, worker)
        raise
    except KeyboardInterrupt as error:
        store.mark_cancelled(run_id, worker)
        raise Cancelled(f"run {run_id} was stopped; `resume` goes on from its last finished block") from error
    except (Exception, SystemExit) as error:
        ours = explained(error, store.home)
        _record_failure(store, run_id, worker, ours, error)
        if ours is error:
            raise
        raise ours from error


def explained(error: Exception | SystemExit, folder: Path) -> Exception:
    """The error in words of ours where it means that something is full; any other comes back as it is."""
    if isinstance(error, RotvizError):
        return error
    if isinstance(error, SystemExit):
        return RotvizError(f"a part of the run tried to end the whole process (exit status {error.code})")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutOfRoom(f"the disk that holds {error.filename or folder} is full; free some room there or set ROTVIZ_HOME "
                         "to a folder on another disk. What had been finished is kept.")
    # torch has its own class for this; its name is enough to know it by, and importing torch here would make `runs` slow.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        first = str(error).strip().split("\n")[0]
        return OutOfRoom(f"the memory is full{f' ({first})' if first else ''}; use fewer or shorter windows, or a smaller model. "
                         "What had been finished is kept.")
    return error


def _record_failure(store: Store, run_id: str, worker: str, error: Exception, cause: BaseException) -> None:
    message = str(error) if isinstance(error, RotvizError) else f"{type(error).__name__}: {error}"
    # On a full disk neither may work; the error itself must still reach the caller, and the run is found as an orphan later.
    with contextlib.suppress(OSError, RotvizError):
        write_text(store.folder(run_id) / "error.log", "".join(traceback.format_exception(cause)))
    with contextlib.suppress(RotvizError):
        store.fail(run_id, message, type(error).__name__, worker)


def _pipeline() -> Runner:
    from rotviz.pipeline.run import run  # here, not above: it brings torch

    return run


def _recipe_from(mapping: dict[str, Any]) -> Any:
    from rotviz.pipeline.recipe import Recipe

    return Recipe.from_dict(mapping)
