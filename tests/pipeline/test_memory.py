"""When the memory is full: a batch is done again in halves, the numbers stay and the result says so; where one window does not fit, words.

The forward that fails stands in for a real one on a machine with less memory: it raises what torch raises, when it is given more than it takes.
"""

from dataclasses import replace
from pydoc_data.topics import topics

import pytest
import torch

from rotviz.errors import OutOfRoom
from rotviz.pipeline import run as pipeline
from rotviz.pipeline import weights
from rotviz.pipeline.batches import Batches, memory_is_full, tokens_at_once
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.run import finish, run
from rotviz.quantizers import QUANTIZERS

CPU = torch.device("cpu")
ERRORS = [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
          RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(topics["assignment"])
    return Recipe.from_dict({"model": "tiny-llama", "weights": {"method": "gptq"}, "kv": {"bits": 4},
                             "text": {"windows": 7, "length": 64, "samples": 5, "evaluation": str(path), "calibration": str(path)}})


@pytest.fixture(scope="module")
def usual(recipe):
    return finish(run(recipe))


def taking_at_most(windows, error, real):
    def forward(block, hidden, arguments):
        if len(hidden) > windows:
            raise error
        return real(block, hidden, arguments)

    return forward


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_smaller_batches_give_the_same_numbers_and_a_note(recipe, usual, monkeypatch, error):
    """The calibration windows come first, and shrink the batches of all that follow. Errors are those of the first batch: two windows here."""
    of_two = finish(run(replace(recipe, text=replace(recipe.text, windows=2)))).errors
    with_less_memory(monkeypatch, error)
    same_numbers(finish(run(recipe)), usual, of_two, ["block 0, calibration with 5 windows at a time; went on with 2"])


def test_a_first_batch_that_is_done_again_is_measured_once(recipe, monkeypatch):
    plain = replace(recipe, weights=replace(recipe.weights, method="rtn"), weight_settings=QUANTIZERS["rtn"]())
    usual, of_one = (finish(run(replace(plain, text=replace(plain.text, windows=n)))) for n in (7, 1))
    with_less_memory(monkeypatch, ERRORS[0])
    same_numbers(finish(run(plain)), usual, of_one.errors,
                 ["block 0 with 7 windows at a time; went on with 3", "block 0 with 3 windows at a time; went on with 1"])


def with_less_memory(monkeypatch, error):
    for module in (pipeline, weights):
        monkeypatch.setattr(module, "forward", taking_at_most(2, error, module.forward))


def same_numbers(found, usual, errors, told):
    assert found.quantized.value == pytest.approx(usual.quantized.value, rel=1e-5)
    assert found.divergence.kl_nats == pytest.approx(usual.divergence.kl_nats, rel=1e-3)
    assert [note for note in found.notes if "memory" in note] == [f"the memory was full in {words}" for words in told]
    assert not [note for note in usual.notes if "memory" in note]
    for wanted, seen in zip(errors, found.errors, strict=True):
        assert (wanted["block"], wanted["site"]) == (seen["block"], seen["site"])
        assert seen["relative_mse"] == pytest.approx(wanted["relative_mse"], rel=1e-3)


def test_scoring_goes_on_in_parts(recipe, usual, monkeypatch):
    real = pipeline.score

    def score(reference, quantized, targets):
        if len(targets) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(reference, quantized, targets)

    monkeypatch.setattr(pipeline, "score", score)
    found = finish(run(recipe))
    assert found.quantized.value == pytest.approx(usual.quantized.value, rel=1e-6)
    assert [note for note in found.notes if "scoring" in note] == ["the memory was full in scoring with 63 tokens at a time; went on with 31",
                                                                  "the memory was full in scoring with 31 tokens at a time; went on with 15"]


def test_where_one_window_does_not_fit_the_run_ends_in_words(recipe, monkeypatch):
    for module in (pipeline, weights):
        monkeypatch.setattr(module, "forward", taking_at_most(0, ERRORS[2], module.forward))
    with pytest.raises(OutOfRoom, match="shorter ones"):
        finish(run(recipe))


def test_other_errors_are_not_taken_for_a_full_memory():
    def fail(part):
        raise RuntimeError("shapes do not match")

    batches = Batches(4, "window", CPU)
    with pytest.raises(RuntimeError, match="shapes"):
        batches.over(8, fail, "block 0")
    assert not batches.notes and not memory_is_full(ValueError("memory alloc"))


def test_every_thing_is_done_once_in_order():
    done = []

    def work(part):
        if part.stop - part.start > 3 and part.start >= 5:
            raise MemoryError
        done.extend(range(part.start, part.stop))

    batches = Batches(5, "window", CPU)
    batches.over(12, work, "block 2")
    assert done == list(range(12)) and batches.size == 2
    assert batches.notes == ["the memory was full in block 2 with 5 windows at a time; went on with 2"]


def test_more_go_together_after_the_first_batch():
    sizes = []
    batches = Batches(2, "window", CPU, more=5)
    batches.over(14, lambda part: sizes.append(part.stop - part.start), "block 0")
    assert sizes == [2, 5, 5, 2] and Batches(4, "window", CPU, more=2).size == 4

    def work(part):
        if part.stop - part.start > 1:
            raise MemoryError
        sizes.append(part.start)

    sizes.clear()
    batches.over(4, work, "block 1")
    assert sizes == [0, 1, 2, 3] and batches.size == 1


def test_a_batch_takes_a_share_of_a_gpus_memory(monkeypatch):
    block = torch.nn.Sequential(torch.nn.Linear(30, 70), torch.nn.Linear(70, 30)).to(torch.bfloat16)
    assert tokens_at_once(block, CPU) == 0
    monkeypatch.setattr("rotviz.pipeline.batches.memory_bytes", lambda device: 16 * 1000 * 800)
    assert tokens_at_once(block, CPU) == 1000  # 200 numbers a token of 2 bytes each, twice
    block.experts = torch.nn.Parameter(torch.ones(8, 50, 50, dtype=torch.bfloat16))
    assert tokens_at_once(block, CPU, active=2) == 500, "each token passes two of the eight"
    monkeypatch.setattr("rotviz.pipeline.batches.memory_bytes", lambda device: 1 << 40)
    assert tokens_at_once(block, CPU) == 1 << 16
