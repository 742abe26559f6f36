"""The run store: what is filed comes back, nobody gets a run twice, and a bad disk is told in words."""

import json
import math
import os
import resource
import sqlite3
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rotviz.errors import BadInput, OutOfRoom, RotvizError, UnknownName
from rotviz.pipeline.events import Event
from rotviz.store import processes, schema
from rotviz.store.database import Database, explained
from rotviz.store.runs import ATTEMPTS, Status, Store

GONE = "/".join((*processes.this_process().split("/")[:3], "999999999", "1"))  # a process of this machine that has ended


@dataclass(frozen=True)
class FakeRecipe:
    """The least that the store asks of a recipe."""

    values: dict = field(default_factory=lambda: {"model": "tiny", "weights": {"bits": 4}})
    title: str = "tiny, 4 bits"
    fingerprint: str = "0123456789ab"

    def to_dict(self):
        return self.values

    def to_toml(self):
        return "model = 'tiny'\n"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path / "home"))
    return Store()


def event(n=1, **changes):
    values = dict(stage="walk", block=n, blocks=10, fraction=n / 10, message=f"block {n}", metrics={"mse": 0.5}, seconds=float(n))
    return Event(**(values | changes))


def python(code, *arguments, home, **kwargs):
    """A fresh Python process that runs `code` on that home."""
    here = str(Path(__file__).parents[2])
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *arguments], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=os.environ | {"ROTVIZ_HOME": str(home), "PYTHONPATH": here}, **kwargs)


def test_a_run_comes_back_as_it_was_filed(store):
    run_id = store.create(FakeRecipe(), priority=3)
    record = store.get(run_id)
    assert (record.status, record.recipe, record.title, record.model) == ("queued", FakeRecipe().values, "tiny, 4 bits", "tiny")
    assert (record.priority, record.attempts, record.worker, record.result, record.seconds) == (3, 0, None, None, None)
    assert (store.folder(run_id) / "recipe.toml").read_text() == "model = 'tiny'\n"
    assert json.dumps(record.to_dict())


def test_a_run_id_is_sortable_and_any_unique_part_finds_it(store):
    run_id = store.create(FakeRecipe())
    day, minute, last = run_id.split("-")
    assert (len(day), len(minute), len(last)) == (8, 4, 6)
    assert store.get(run_id[:10]).run_id == store.get(last).run_id == store.get(last[:4]).run_id == run_id


def test_an_unknown_or_ambiguous_id_is_refused_in_words(store):
    with pytest.raises(UnknownName, match="no runs yet"):
        store.get("2026")
    first, _ = store.create(FakeRecipe()), store.create(FakeRecipe())
    with pytest.raises(BadInput, match="could be 2 runs"):
        store.get(first[:8])
    wrong = first[:-1] + ("0" if first[-1] != "0" else "1")
    with pytest.raises(UnknownName, match=f"no run {wrong!r}; did you mean '{first[:14]}"):
        store.get(wrong)
    with pytest.raises(UnknownName, match="newest"):
        store.get("")


def test_runs_are_listed_newest_first_and_filtered(store):
    ids = [store.create(FakeRecipe({"model": m}, fingerprint=f)) for m, f in (("a", "1"), ("b", "2"), ("a", "3"))]
    assert [r.run_id for r in store.list()] == ids[::-1]
    assert [r.run_id for r in store.list(model="a", limit=1)] == [ids[2]]
    assert [r.run_id for r in store.list(limit=1, offset=1)] == [ids[1]]
    assert [r.run_id for r in store.list(fingerprint="2")] == [ids[1]]
    store.request_cancel(ids[0])
    assert [r.run_id for r in store.list(status="cancelled")] == [ids[0]]
    assert (store.count(), store.count("queued"), store.count(Status.DONE)) == (3, 2, 0)
    with pytest.raises(BadInput, match="no status 'dnoe'"):
        store.list(status="dnoe")


def test_events_keep_their_order_and_nan_survives_as_nan(store):
    run_id = store.create(FakeRecipe())
    assert store.latest_event(run_id) is None
    assert store.add_event(run_id, event(1)) == 1
    assert store.add_events(run_id, [event(2), event(3, metrics={"mse": math.nan, "top": math.inf})]) == 3
    assert [e.seq for e in store.events_since(run_id)] == [1, 2, 3]
    assert [e.event for e in store.events_since(run_id, 1, limit=1)] == [event(2)]
    assert math.isnan(store.latest_event(run_id).event.metrics["mse"])
    with pytest.raises(UnknownName, match="deleted"):
        store.add_event("20200101-0000-abcdef", event())


def test_a_result_is_whole_in_its_file_and_small_in_the_table(store):
    run_id = store.create(FakeRecipe(), worker="w/b/s/1/1")
    result = {"recipe": {"model": "tiny"}, "perplexity": {"quantized": {"value": math.nan, "by_window": [1.5] * 900}},
              "notes": ["x"], "errors": [list(range(1000))] * 9, "text": "x" * 5000}
    assert store.finish(run_id, result)
    assert store.result(run_id)["errors"] == result["errors"]
    assert store.result(run_id)["perplexity"]["quantized"]["value"] is None
    assert json.loads((store.folder(run_id) / "result.json").read_text())["run_id"] == run_id
    record = store.get(run_id)
    assert (record.status, record.result) == ("done", {"run_id": run_id, "perplexity": {"quantized": {"value": None}}, "notes": ["x"]})
    assert record.over and record.seconds >= 0


def test_a_result_that_is_not_there_is_explained(store):
    run_id = store.create(FakeRecipe())
    with pytest.raises(BadInput, match="has no result, it is queued"):
        store.result(run_id)
    store.finish(run_id, {})
    (store.folder(run_id) / "result.json").write_text("{")
    with pytest.raises(BadInput, match=r"recipe\.toml"):
        store.result(run_id)


def test_claims_go_by_priority_then_age(store):
    old, young, urgent = store.create(FakeRecipe()), store.create(FakeRecipe()), store.create(FakeRecipe(), priority=1)
    assert [store.ahead_of(i) for i in (urgent, old, young)] == [0, 1, 2]
    me = processes.this_process()
    assert [store.claim_next(me).run_id for _ in range(3)] == [urgent, old, young]
    assert store.claim_next(me) is None
    record = store.get(old)
    assert (record.status, record.worker, record.attempts) == ("running", me, 1)


def test_eight_threads_and_two_processes_never_claim_a_run_twice(store):
    expected = {store.create(FakeRecipe()) for _ in range(60)}
    code = """
        from rotviz.store import processes
        from rotviz.store.runs import Store
        while (record := Store().claim_next(processes.this_process())) is not None:
            print(record.run_id)
    """
    others = [python(code, home=store.home) for _ in range(2)]
    claimed, failures = [], []

    def claim(name):
        try:
            while (record := Store().claim_next(name)) is not None:
                claimed.append(record.run_id)
                Store().add_event(record.run_id, event())
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=claim, args=(f"thread {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        out, err = other.communicate(timeout=30)
        assert other.returncode == 0, err
        claimed += out.split()
    assert not failures
    assert len(claimed) == 60 and set(claimed) == expected


def test_processes_that_make_the_database_together_all_succeed(tmp_path):
    code = "from rotviz.store.runs import Store; print(Store().count())"
    others = [python(code, home=tmp_path / "new") for _ in range(4)]
    assert [(o.communicate(timeout=30)[0].strip(), o.returncode) for o in others] == [("0", 0)] * 4


def test_a_child_of_a_fork_does_not_use_its_parents_connection(store):
    run_id = store.create(FakeRecipe())
    child = os.fork()
    if child == 0:
        try:
            store.add_event(run_id, event())
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    store.add_event(run_id, event(2))
    assert len(store.events_since(run_id)) == 2


def test_cancelling_a_queued_run_is_immediate_and_a_running_one_is_asked(store):
    queued, running = store.create(FakeRecipe()), store.create(FakeRecipe(), worker="w/b/s/1/1")
    assert store.request_cancel(queued) is Status.CANCELLED
    assert store.get(queued).finished
    assert store.request_cancel(running) is Status.RUNNING
    assert store.stop_reason(running, "w/b/s/1/1") == "cancel"
    assert store.mark_cancelled(running, "w/b/s/1/1")
    assert store.request_cancel(running) is Status.CANCELLED


def test_only_a_failed_or_cancelled_run_is_resumed(store):
    run_id = store.create(FakeRecipe(), worker="w/b/s/1/1")
    with pytest.raises(BadInput, match="is running"):
        store.resume(run_id)
    store.fail(run_id, "two\nlines", "BadInput")
    assert (store.get(run_id).error, store.get(run_id).error_kind) == ("two lines", "BadInput")
    record = store.resume(run_id)
    assert (record.status, record.error, record.attempts, record.cancel_requested) == ("queued", None, 0, False)
    store.finish(run_id, {})
    with pytest.raises(BadInput, match="is done"):
        store.resume(run_id)


def test_a_deleted_run_leaves_nothing_and_a_running_one_stays(store):
    run_id, running = store.create(FakeRecipe()), store.create(FakeRecipe(), worker="w/b/s/1/1")
    store.add_event(run_id, event())
    store.delete(run_id)
    assert not store.folder(run_id).exists() and store.events_since(run_id) == []
    with pytest.raises(UnknownName):
        store.get(run_id)
    with pytest.raises(BadInput, match="cancel it first"):
        store.delete(running)


def test_a_run_of_a_dead_process_goes_back_in_line(store):
    dead, alive = store.create(FakeRecipe(), worker=GONE), store.create(FakeRecipe(), worker=processes.this_process())
    assert store.requeue_orphans() == [dead]
    assert (store.get(dead).status, store.get(alive).status) == ("queued", "running")


def test_a_silent_worker_loses_its_run_and_cannot_end_it_any_more(store):
    me = processes.this_process()
    run_id = store.create(FakeRecipe(), worker=me)
    assert store.heartbeat(run_id, me) and store.requeue_orphans(stale_seconds=60) == []
    assert store.requeue_orphans(stale_seconds=-1) == [run_id]
    store.claim_next("other/b/s/2/2")
    assert not store.heartbeat(run_id, me)
    assert store.stop_reason(run_id, me) == "lost"
    assert not store.finish(run_id, {}, me) and not store.fail(run_id, "no", worker=me) and not store.give_back(run_id, me)
    assert store.get(run_id).worker == "other/b/s/2/2"
    assert not (store.folder(run_id) / "result.json").exists()


def test_a_run_that_kills_its_worker_is_given_up(store):
    run_id = store.create(FakeRecipe())
    for attempt in range(1, ATTEMPTS + 1):
        assert store.claim_next(GONE).attempts == attempt
        store.requeue_orphans()
    record = store.get(run_id)
    assert (record.status, record.error_kind) == ("failed", "WorkerDied")
    assert "the worker died 3 times on this run" in record.error
    assert store.resume(run_id).attempts == 0


def test_leaving_politely_is_no_attempt_and_a_cancelled_orphan_is_cancelled(store):
    run_id = store.create(FakeRecipe())
    store.claim_next(GONE)
    assert store.give_back(run_id, GONE)
    assert (store.get(run_id).status, store.get(run_id).attempts) == ("queued", 0)
    store.claim_next(GONE)
    store.request_cancel(run_id)
    store.requeue_orphans()
    assert store.get(run_id).status == "cancelled"


def test_a_process_name_tells_the_living_from_the_dead():
    me = processes.this_process()
    assert processes.alive(me) is True and processes.number_of(me) == os.getpid()
    assert processes.alive(GONE) is False
    host, boot, space, number, start = me.split("/")
    assert processes.alive("/".join((host, boot, space, number, "1"))) is False  # the number was used again
    assert processes.alive("/".join((host, "0000", space, number, start))) is False  # before the reboot
    assert processes.alive("/".join(("elsewhere", boot, space, number, start))) is None


def test_a_zombie_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    child.stdout.read()
    name = "/".join((*processes.this_process().split("/")[:3], str(child.pid), "1"))
    assert processes.alive(name) is False
    child.wait()


def test_a_full_disk_is_told_with_the_folder(store, monkeypatch):
    run_id = store.create(FakeRecipe())
    with store.database.write() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    with store.database.read() as connection:
        connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to be full
    with pytest.raises(OutOfRoom, match=str(store.home)):
        store.add_events(run_id, [event(message="x" * 5000) for _ in range(20)])
    assert store.events_since(run_id) == []
    with store.database.read() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    assert store.add_event(run_id, event()) == 1


def test_a_file_size_limit_reads_as_a_full_disk(store):
    run_id = store.create(FakeRecipe())
    code = """
        import resource, signal, sys
        from rotviz.errors import OutOfRoom
        from rotviz.pipeline.events import Event
        from rotviz.store.runs import Store
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            Store().add_events(sys.argv[1], [Event("walk", 1, 2, 0.5, "x" * 5000, {}, 1.0) for _ in range(100)])
        except OutOfRoom as error:
            print(error)
    """
    out, err = python(code, run_id, home=store.home).communicate(timeout=30)
    assert str(store.home) in out and "full" in out, err
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000
    assert store.events_since(run_id) == []


def test_a_full_disk_leaves_no_half_made_run(store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    store.count()
    monkeypatch.setattr("rotviz.store.runs._write", full)
    with pytest.raises(OutOfRoom):
        store.create(FakeRecipe())
    assert store.count() == 0 and list((store.home / "runs").iterdir()) == []


@pytest.mark.parametrize("damage", [b"this is no database at all, " * 200, None])
def test_a_damaged_database_says_to_move_it_away(store, damage):
    store.create(FakeRecipe())
    store.database.close()
    path = store.database.path
    if damage is None:  # right at the head, wrong below
        content = bytearray(path.read_bytes())
        content[1024:] = os.urandom(len(content) - 1024)
        damage = bytes(content)
    for beside in path.parent.glob("rotviz.db-*"):
        beside.unlink()
    path.write_bytes(damage)
    with pytest.raises(BadInput, match=r"damaged.*move it away"):
        store.list()
    path.rename(path.with_name("rotviz.db.damaged"))
    assert store.list() == []


def test_a_database_that_was_deleted_is_made_again(store):
    store.create(FakeRecipe())
    for path in store.home.glob("rotviz.db*"):
        path.unlink()
    assert store.list() == []
    run_id = store.create(FakeRecipe())
    assert Store().get(run_id).run_id == run_id


def test_a_newer_schema_is_refused_and_an_old_file_is_brought_up(store):
    store.list()
    with store.database.write() as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    store.database.close()
    with pytest.raises(BadInput, match="upgrade rotviz"):
        store.list()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="ROTVIZ_HOME"):
        Store(tmp_path / "file" / "home").list()


def test_a_mistake_in_sql_is_not_dressed_up(store):
    with pytest.raises(sqlite3.OperationalError, match="no such table"), store.database.read() as connection:
        connection.execute("SELECT * FROM nowhere")
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    assert type(explained(busy, Path("x.db"))) is RotvizError


def test_a_failed_transaction_leaves_nothing(store):
    run_id = store.create(FakeRecipe())
    with pytest.raises(ValueError), store.database.write() as connection:
        connection.execute("DELETE FROM runs")
        raise ValueError
    assert store.get(run_id)
    assert Database(store.database.path).path == store.database.path


def test_the_store_loads_no_torch(tmp_path):
    code = "import sys, rotviz.store.runs, rotviz.jobs.queue, rotviz.jobs.worker; print('torch' in sys.modules, 'streamlit' in sys.modules)"
    out, err = python(code, home=tmp_path).communicate(timeout=60)
    assert out.split() == ["False", "False"], err
