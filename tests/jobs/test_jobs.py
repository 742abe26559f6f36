"""The queue and its worker: real processes, real signals, a small runner in place of the pipeline.

The runner counts to `steps` and keeps its place in the checkpoint folder, as the pipeline does after each block. What it is to do
besides (hang, fail, kill its own process) stands in the recipe.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rotviz.errors import BadInput, Cancelled, OutOfRoom, RotvizError
from rotviz.jobs import queue, supervise
from rotviz.jobs.execute import Interrupted, execute, execute_now
from rotviz.jobs.lock import WorkerLock, held
from rotviz.pipeline.events import Event
from rotviz.store import processes
from rotviz.store.runs import Store

ROOT = Path(__file__).parents[2]
THIS = Path(__file__).stem


@dataclass(frozen=True)
class FakeRecipe:
    """What the runner below is to do."""

    values: dict = field(default_factory=dict)
    title: str = "counting"

    @property
    def fingerprint(self):
        return json.dumps(self.values, sort_keys=True)

    def to_dict(self):
        return {"model": "tiny", "steps": 3, "pause": 0.0} | self.values

    def to_toml(self):
        return f"steps = {self.to_dict()['steps']}\n"


def recipe(**values):
    return FakeRecipe(values)


def as_it_is(values):
    """Stands in for Recipe.from_dict."""
    return values


@dataclass(frozen=True)
class FakeResult:
    values: dict

    def to_dict(self):
        return self.values


def count(recipe, *, checkpoint=None, cancelled=None):
    """A runner that counts, and finds its place again."""
    place = checkpoint / "place"
    begun = time.monotonic()
    first = int(place.read_text()) if place.exists() else 0
    for step in range(first, recipe["steps"]):
        _misbehave(recipe, step, checkpoint)
        time.sleep(recipe["pause"])
        if recipe.get("polite", True) and cancelled():
            raise Cancelled("asked to stop")
        (checkpoint / "new").write_text(str(step + 1))
        os.replace(checkpoint / "new", place)
        fraction = (step + 1) / recipe["steps"]
        yield Event("walk", step, recipe["steps"], fraction, f"step {step}", {"nan": math.nan}, time.monotonic() - begun)
    return FakeResult({"perplexity": {"quantized": {"value": 12.5}}, "resumed_at": first, "seconds": {"walk": 1.0}})


def _misbehave(recipe, step, checkpoint):
    match recipe.get("trouble") if step == 1 else None:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "refuse":
            raise BadInput("a group of 7 does not divide 64")
        case "bug":
            raise ZeroDivisionError("1/0")
        case "memory":
            raise MemoryError
        case "disk":
            raise OSError(28, "No space left on device", str(checkpoint))
        case "exit":
            sys.exit(3)
        case "ctrl-c":
            raise KeyboardInterrupt
        case "hang":
            time.sleep(60)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(Path(__file__).parent))))
    yield Store()
    supervise.stop_worker(timeout=3, force=True)


OPTIONS = ("--poll-seconds", "0.05", "--runner", f"{THIS}:count", "--recipes", f"{THIS}:as_it_is")


def worker(*options):
    """A worker in the foreground of this test."""
    return subprocess.Popen([sys.executable, "-m", "rotviz.jobs.worker", *OPTIONS, *options], stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


def carry_out(store, run_id, **kwargs):
    return execute(store, run_id, count, load=as_it_is, **kwargs)


# In this process


def test_a_run_is_carried_out_and_recorded(store):
    run_id, seen = store.create(recipe(steps=5)), []
    result = carry_out(store, run_id, on_event=seen.append)
    assert result == store.result(run_id)
    assert (result["run_id"], result["perplexity"]["quantized"]["value"]) == (run_id, 12.5)
    record = store.get(run_id)
    assert (record.status, record.result["perplexity"], record.attempts) == ("done", result["perplexity"], 1)
    assert [e.block for e in seen] == [e.event.block for e in store.events_since(run_id)] == list(range(5))
    assert not store.checkpoint(run_id).exists()
    assert queue.status(run_id).fraction == 1.0


def test_frequent_events_are_thinned_but_every_block_keeps_its_first_and_last(store):
    def chatter(recipe, *, checkpoint, cancelled):
        for block in range(4):
            for n in range(200):
                yield Event("walk", block, 4, (block * 200 + n) / 800, str(n), {}, 0.0)
        return FakeResult({})

    run_id, seen = store.create(recipe()), []
    execute(store, run_id, chatter, seen.append, load=as_it_is)
    stored = [(e.event.block, int(e.event.message)) for e in store.events_since(run_id)]
    assert len(seen) == 800 and len(stored) < 40
    assert {(block, n) for block in range(4) for n in (0, 199)} <= set(stored)
    assert stored == sorted(stored)


def test_the_foreground_run_never_waits_in_the_queue(store):
    started = []

    def watching(recipe, **kwargs):
        assert store.claim_next("another/b/s/1/1") is None
        return count(recipe, **kwargs)

    result = execute_now(store, recipe(), watching, load=as_it_is, on_start=started.append)
    assert started == [result["run_id"]]
    with pytest.raises(BadInput, match="is done"):
        carry_out(store, result["run_id"])


@pytest.mark.parametrize(("trouble", "error", "kind", "words"), [
    ("refuse", BadInput, "BadInput", "a group of 7 does not divide 64"),
    ("bug", ZeroDivisionError, "ZeroDivisionError", "ZeroDivisionError: 1/0"),
    ("memory", OutOfRoom, "OutOfRoom", "the memory is full"),
    ("disk", OutOfRoom, "OutOfRoom", "is full"),
    ("exit", RotvizError, "RotvizError", "exit status 3"),
])
def test_a_failure_is_one_line_in_the_record_and_a_traceback_in_the_folder(store, trouble, error, kind, words):
    run_id = store.create(recipe(trouble=trouble))
    with pytest.raises(error):
        carry_out(store, run_id)
    record = store.get(run_id)
    assert (record.status, record.error_kind) == ("failed", kind)
    assert words in record.error and "\n" not in record.error
    assert "Traceback" in (store.folder(run_id) / "error.log").read_text()
    assert (store.checkpoint(run_id) / "place").read_text() == "1"  # kept, so that it can go on


def test_a_cancelled_run_resumes_where_it_was(store):
    run_id = store.create(recipe(trouble="ctrl-c", steps=4))
    with pytest.raises(Cancelled):
        carry_out(store, run_id)
    assert store.get(run_id).status == "cancelled"
    queue.resume(run_id, start_worker=False)
    with pytest.raises(Cancelled):  # the trouble is still at step 1: it went on from there
        carry_out(store, run_id)
    assert store.resume(run_id, worker=processes.this_process()).status == "running"
    (store.checkpoint(run_id) / "place").write_text("2")
    assert carry_out(store, run_id)["resumed_at"] == 2
    assert [e.event.block for e in store.events_since(run_id)] == [0, 2, 3]


def test_cancel_reaches_a_runner_that_does_not_look(store):
    run_id = store.create(recipe(steps=1000, pause=0.02, polite=False))
    threading.Timer(0.3, queue.cancel, (run_id,)).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        carry_out(store, run_id)
    assert time.monotonic() - begun < 5 and store.get(run_id).status == "cancelled"


def test_a_process_that_ends_puts_its_run_back(store):
    run_id = store.create(recipe(pause=0.05))
    with pytest.raises(Interrupted):
        carry_out(store, run_id, stopping=lambda: True)
    assert (store.get(run_id).status, store.get(run_id).attempts) == ("queued", 0)


def test_a_run_that_was_taken_over_is_left_alone(store):
    run_id = store.create(recipe(steps=200, pause=0.02))

    def steal(_event):
        if store.get(run_id).worker == processes.this_process():
            store.requeue_orphans(stale_seconds=-1)
            store.claim_next("other/b/s/2/2")

    with pytest.raises(Cancelled):
        carry_out(store, run_id, on_event=steal)
    assert (store.get(run_id).status, store.get(run_id).worker) == ("running", "other/b/s/2/2")


def test_a_full_disk_at_the_end_fails_the_run(store, monkeypatch):
    run_id = store.create(recipe())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rotviz.store.runs._write", full)
    with pytest.raises(OutOfRoom):
        carry_out(store, run_id)
    assert (store.get(run_id).status, store.get(run_id).error_kind) == ("failed", "OutOfRoom")


def test_the_estimate_goes_by_the_present_attempt(store):
    me = processes.this_process()
    run_id = store.create(recipe(), worker=me)
    assert queue.status(run_id).seconds_left is None
    for fraction, seconds in ((0.5, 1.0), (0.6, 11.0)):  # resumed at half: a tenth in ten seconds
        store.add_event(run_id, Event("walk", 1, 2, fraction, "", {}, seconds))
    status = queue.status(run_id)
    assert (status.fraction, status.position) == (0.6, None)
    assert 35 < status.seconds_left <= 40
    time.sleep(0.05)
    assert queue.status(run_id).seconds_left < status.seconds_left  # it counts down while there is no news


def test_the_estimate_goes_by_the_pace_of_the_blocks_and_not_by_what_came_before(store):
    run_id = store.create(recipe(), worker=processes.this_process())
    for stage, fraction, seconds in (("load", 0.0, 0.0), ("prove", 0.15, 1.0), ("walk", 0.2, 9.0)):
        store.add_event(run_id, Event(stage, None, None, fraction, "", {}, seconds))
        assert queue.status(run_id).seconds_left is None
    store.add_event(run_id, Event("walk", 1, 10, 0.3, "", {}, 19.0))  # a tenth in ten seconds since the first block
    assert 65 < queue.status(run_id).seconds_left <= 70


def test_the_same_recipe_is_queued_once_unless_asked_again(store):
    first = queue.submit(recipe(), start_worker=False)
    assert queue.submit(recipe(), start_worker=False) == first
    again = queue.submit(recipe(), start_worker=False, again=True)
    assert [queue.status(i).position for i in (first, again)] == [1, 2]
    assert queue.cancel(first) == "cancelled"
    assert queue.status(again).position == 1
    assert not queue.status(again).worker_alive


def test_cancelling_a_run_whose_worker_is_dead_needs_no_worker(store):
    dead = "/".join((*processes.this_process().split("/")[:3], "999999999", "1"))
    run_id = store.create(recipe(), worker=dead)
    assert queue.cancel(run_id) == "cancelled"


def test_the_lock_is_not_inherited_by_a_fork(store):
    lock = WorkerLock(store.home)
    assert lock.acquire() and not lock.free() and lock.holder() == processes.this_process()
    (end, go_on), (ready, say) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(say, b"x")
        os.read(end, 1)
        os._exit(0)
    os.read(ready, 1)
    try:
        assert not lock.free()
        lock._forget()  # closes it and no more, as the end of the process does
        assert lock.free()
    finally:
        os.write(go_on, b"x")
        os.waitpid(child, 0)


# In processes of their own


def test_the_worker_serves_the_queue_in_order_and_ends_when_idle(store):
    ids = [store.create(recipe(n=n)) for n in range(3)]
    process = worker("--idle-seconds", "0.3")
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    records = [store.get(i) for i in ids]
    assert [r.status for r in records] == ["done"] * 3
    assert sorted(records, key=lambda r: r.started) == records
    assert not supervise.worker_alive() and "ends: idle" in said


def test_a_failing_run_does_not_stop_the_worker(store):
    bad, good = store.create(recipe(trouble="bug")), store.create(recipe())
    worker("--idle-seconds", "0").communicate(timeout=30)
    assert (store.get(bad).status, store.get(good).status) == ("failed", "done")


def test_a_second_worker_ends_at_once(store):
    with held(WorkerLock(store.home)) as got:
        assert got
        process = worker()
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0 and "another worker serves" in said


def test_kill_9_loses_nothing_that_was_finished(store):
    run_id = store.create(recipe(steps=40, pause=0.05))
    first = worker()
    wait_for(lambda: (e := store.latest_event(run_id)) and e.event.block >= 3)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    place = int((store.checkpoint(run_id) / "place").read_text())
    assert store.get(run_id).status == "running" and not supervise.worker_alive()
    _, said = worker("--idle-seconds", "0").communicate(timeout=30)
    assert store.get(run_id).status == "done", said
    assert store.result(run_id)["resumed_at"] == place >= 3
    blocks = [e.event.block for e in store.events_since(run_id)]
    assert blocks == sorted(blocks) and blocks[-1] == 39 and store.get(run_id).attempts == 2


def test_a_run_that_always_kills_its_worker_is_given_up_after_three(store):
    run_id, good = store.create(recipe(trouble="die")), store.create(recipe())
    for _ in range(3):
        process = worker("--idle-seconds", "0")
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
    worker("--idle-seconds", "0").communicate(timeout=30)
    assert "died 3 times" in store.get(run_id).error and store.get(good).status == "done"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_told_worker_puts_its_run_back_and_ends(store, number):
    run_id = store.create(recipe(steps=400, pause=0.05))
    process = worker()
    wait_for(lambda: store.latest_event(run_id))
    process.send_signal(number)
    _, said = process.communicate(timeout=15)
    assert process.returncode == 0 and "goes back in line" in said, said
    assert (store.get(run_id).status, store.get(run_id).attempts) == ("queued", 0)
    assert (store.checkpoint(run_id) / "place").exists()


def test_a_run_that_hangs_is_interrupted_after_the_grace(store):
    run_id = store.create(recipe(trouble="hang"))
    process = worker("--grace-seconds", "0.3")
    wait_for(lambda: store.latest_event(run_id))
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0 and store.get(run_id).status == "queued"


def test_a_running_run_is_cancelled_in_the_worker(store):
    run_id, after = store.create(recipe(steps=400, pause=0.05)), store.create(recipe())
    process = worker("--idle-seconds", "0")
    wait_for(lambda: store.latest_event(run_id))
    assert queue.cancel(run_id) == "running"
    _, said = process.communicate(timeout=20)
    assert (store.get(run_id).status, store.get(after).status) == ("cancelled", "done"), said


def test_submit_starts_a_worker_that_outlives_the_server(store):
    code = f"""
import os, signal, {THIS} as t
from rotviz.jobs import supervise
supervise.ensure_worker(arguments=[*t.OPTIONS, "--idle-seconds", "1"])
from rotviz.jobs import queue
print(queue.submit(t.recipe(steps=10, pause=0.1)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    server = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, start_new_session=True)
    assert server.returncode == -signal.SIGKILL, server.stderr
    run_id = server.stdout.strip()
    wait_for(lambda: store.get(run_id).status == "done")
    wait_for(lambda: not supervise.worker_alive())
    assert "is done" in supervise.log_path().read_text()


def test_one_worker_is_started_however_many_ask(store):
    started = []
    threads = [threading.Thread(target=lambda: started.append(supervise.ensure_worker(arguments=OPTIONS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert supervise.worker_alive()
    time.sleep(0.3)
    assert supervise.log_path().read_text().count(": serves ") == 1
    assert not supervise.ensure_worker(arguments=OPTIONS)
    assert supervise.stop_worker() and not supervise.worker_alive()
    assert supervise.stop_worker()


def test_tend_puts_right_what_a_crash_left(store, monkeypatch):
    calls = []
    monkeypatch.setattr(supervise, "ensure_worker", calls.append)
    assert queue.tend() is False and calls == []
    dead = "/".join((*processes.this_process().split("/")[:3], "999999999", "1"))
    run_id = store.create(recipe(), worker=dead)
    queue.tend()
    assert store.get(run_id).status == "queued" and calls == [store.home]


def test_a_worker_that_cannot_start_says_why(store):
    with pytest.raises(RotvizError, match=r"unrecognized arguments.*worker\.log"):
        supervise.ensure_worker(arguments=["--nonsense"])


def test_a_damaged_database_ends_the_worker_with_one_line(store):
    store.home.mkdir(parents=True, exist_ok=True)
    (store.home / "rotviz.db").write_bytes(b"not a database at all" * 100)
    process = worker()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 2 and "move it away" in said and "Traceback" not in said


def test_a_worker_whose_home_was_deleted_ends(store):
    process = worker()
    wait_for(supervise.worker_alive)
    time.sleep(0.2)
    shutil.rmtree(store.home)
    process.communicate(timeout=10)
    assert process.returncode == 0 and not store.home.exists()


def test_a_worker_starts_afresh_when_the_code_has_changed(store, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "rotviz", copy / "rotviz", ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(copy), str(Path(__file__).parent)))}
    process = subprocess.Popen([sys.executable, "-m", "rotviz.jobs.worker", *OPTIONS, "--idle-seconds", "1"], env=environment,
                               stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    wait_for(supervise.worker_alive)
    time.sleep(0.3)
    (copy / "rotviz" / "rotations" / "mine.py").parent.mkdir(exist_ok=True)
    (copy / "rotviz" / "rotations" / "mine.py").write_text("new = True\n")
    run_id = store.create(recipe())
    _, said = process.communicate(timeout=30)
    assert store.get(run_id).status == "done" and "ends: to start afresh" in said, said
    assert said.count(f"worker {process.pid}: serves") == 2


def test_the_log_is_turned_over(store, monkeypatch):
    monkeypatch.setattr(supervise, "LOG_BYTES", 10)
    supervise.log_path().write_text("x" * 11)
    supervise.rotate_log()
    assert supervise.log_path().read_text() == "" and supervise.log_path().with_name("worker.log.1").read_text() == "x" * 11
