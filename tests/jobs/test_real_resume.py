"""The whole chain for real: a queued run of the pipeline, its worker killed with SIGKILL, another worker that goes on, the same numbers."""

import os
import signal
import time

import pytest

from rotviz.jobs.execute import execute_now
from rotviz.jobs.queue import cancel, submit, tend
from rotviz.jobs.supervise import stop_worker, worker_alive
from rotviz.pipeline.recipe import Recipe
from rotviz.store import processes
from rotviz.store.runs import Status, Store

PLAIN = {"model": "tiny-llama", "text": {"evaluation": "pydoc", "windows": 100, "length": 512}, "device": "cpu"}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    yield Store()
    stop_worker(force=True)


def wait(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_a_killed_worker_loses_nothing_that_a_block_had_finished(store):
    recipe = Recipe.from_dict(PLAIN)
    run_id = submit(recipe, store=store)
    wait(lambda: (store.checkpoint(run_id) / "walk.safetensors").exists() or store.get(run_id).over)
    assert not store.get(run_id).over, "the run was over before it could be killed; give it more windows"
    os.kill(processes.number_of(store.get(run_id).worker), signal.SIGKILL)
    wait(lambda: not worker_alive())
    assert store.get(run_id).status is Status.RUNNING  # nobody had time to say otherwise
    tend(store)                                        # what a page does when it is opened
    wait(lambda: store.get(run_id).over)
    assert store.get(run_id).status is Status.DONE
    assert any("going on at block" in e.event.message for e in store.events_since(run_id))
    resumed, whole = store.result(run_id), execute_now(store, recipe)
    assert resumed["perplexity"] == whole["perplexity"] and resumed["errors"] == whole["errors"]


def test_cancel_reaches_a_running_worker_and_the_next_run_follows(store):
    first = submit(Recipe.from_dict(PLAIN), store=store)
    second = submit(Recipe.from_dict({**PLAIN, "seed": 1, "text": {"evaluation": "pydoc", "windows": 2, "length": 64}}), store=store)
    wait(lambda: store.get(first).status is Status.RUNNING)
    cancel(first, store=store)
    wait(lambda: store.get(second).over)
    assert store.get(first).status is Status.CANCELLED and store.get(second).status is Status.DONE


def test_an_unfit_recipe_fails_in_words_and_does_not_stop_the_queue(store):
    bad = submit(Recipe.from_dict({**PLAIN, "weights": {"group": 7}}), store=store)
    good = submit(Recipe.from_dict({**PLAIN, "text": {"evaluation": "pydoc", "windows": 1, "length": 64}}), store=store)
    wait(lambda: store.get(good).over)
    assert store.get(good).status is Status.DONE
    record = store.get(bad)
    assert record.status is Status.FAILED and "does not divide" in record.error and "Traceback" not in record.error
