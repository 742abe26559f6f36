"""What a page or a script does with long work: put it in line, look at it, call it off.

    run_id = submit(recipe)            # starts the worker if none serves this home
    status(run_id).event               # the last thing it said
    cancel(run_id)

Nothing here waits for the work and nothing here imports torch, so a page may call any of it on every redraw.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from rotviz.jobs import supervise
from rotviz.store.runs import RecipeLike, RunRecord, Status, Store, StoredEvent, instant

TOO_EARLY_TO_TELL = 0.05  # share of the work below which an estimate of the rest is a guess
STEADY, LEARNING = "walk", "learn"  # the stages whose events come at the pace of the work: block after block, step after step


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run as a page shows it.

    position: 1 for the run that is next; None unless it waits.
    seconds_left: an estimate for a running run; None while there is nothing to go by.
    worker_alive: whether somebody serves the queue.
    """

    record: RunRecord
    event: StoredEvent | None
    position: int | None
    seconds_left: float | None
    worker_alive: bool

    @property
    def fraction(self) -> float:
        """How much of the run is done, 0 to 1."""
        if self.record.status is Status.DONE:
            return 1.0
        if self.event is None or math.isnan(self.event.event.fraction):
            return 0.0
        return min(max(self.event.event.fraction, 0.0), 1.0)


def submit(recipe: RecipeLike, *, store: Store | None = None, priority: int = 0, again: bool = False, start_worker: bool = True) -> str:
    """Put a recipe in line and return the run's id.

    Args:
        again: queue it even if the same recipe waits or runs already; otherwise that run's id comes back (a double click is one run).
        start_worker: see to it that somebody serves the queue.
    """
    store = store or Store()
    run_id = None if again else _same_recipe_under_way(store, recipe.fingerprint)
    run_id = run_id or store.create(recipe, priority=priority)
    if start_worker:
        supervise.ensure_worker(store.home)
    return run_id


def cancel(run_id: str, *, store: Store | None = None) -> Status:
    """Call a run off. A waiting run is cancelled at once, a running one at its next step (its status stays running until then)."""
    store = store or Store()
    if store.request_cancel(run_id) is Status.RUNNING:
        store.requeue_orphans()  # if its worker is dead, nobody would ever see the request
    return store.get(run_id).status


def resume(run_id: str, *, store: Store | None = None, start_worker: bool = True) -> RunRecord:
    """Put a failed or cancelled run back in line; it goes on from its last finished block."""
    store = store or Store()
    record = store.resume(run_id)
    if start_worker:
        supervise.ensure_worker(store.home)
    return record


def tend(store: Store | None = None) -> bool:
    """Put right what a crash left behind: runs of dead workers go back in line, and waiting runs get a worker.

    Returns whether a worker serves the queue now.
    """
    store = store or Store()
    store.requeue_orphans()
    if store.count(Status.QUEUED):
        supervise.ensure_worker(store.home)
    return supervise.worker_alive(store.home)


def status(run_id: str, *, store: Store | None = None) -> RunStatus:
    """Where a run stands."""
    store = store or Store()
    record = store.get(run_id)
    event = store.latest_event(record.run_id)
    position = store.ahead_of(record.run_id) + 1 if record.status is Status.QUEUED else None
    return RunStatus(record, event, position, seconds_left(store, record, event), supervise.worker_alive(store.home))


def seconds_left(store: Store, record: RunRecord, event: StoredEvent | None) -> float | None:
    """How long a running run will still take, if it goes on at the pace of its walk since it started or was resumed.

        rate = (fraction now - fraction at first block) / (seconds between them);   left = (1 - fraction now) / rate

    What comes before the walk (loading, the proof) has shares of its own that say nothing about the pace of the blocks, and the first block
    is slow while memory is made ready: so the clock starts when that one is done, and nothing is promised before. While a rotation is learned
    the pace is that of its steps, and a guess at what comes after. Between two events the estimate counts down; None once it has run out
    without news, for then it was wrong.
    """
    if record.status is not Status.RUNNING or event is None or record.started is None:
        return None
    stage = LEARNING if event.event.stage == LEARNING else STEADY
    first = store.first_event_after(record.run_id, record.started, stage)
    if first is None:
        return None
    done = event.event.fraction - first.event.fraction
    took = _seconds_between(first, event)
    if not done > TOO_EARLY_TO_TELL or not took > 0:  # `not >` also turns NaN away
        return None
    left = (1 - event.event.fraction) * took / done - (datetime.now(UTC) - instant(event.time)).total_seconds()
    return left if left > 0 else None


def _seconds_between(first: StoredEvent, last: StoredEvent) -> float:
    by_the_run = last.event.seconds - first.event.seconds
    return by_the_run if math.isfinite(by_the_run) else (instant(last.time) - instant(first.time)).total_seconds()


def _same_recipe_under_way(store: Store, fingerprint: str) -> str | None:
    under_way = [run for run in store.list(fingerprint=fingerprint) if not run.over and not run.cancel_requested]
    return under_way[-1].run_id if under_way else None
