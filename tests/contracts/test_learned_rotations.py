"""What every rotation method that learns owes its callers. A method in a new file is tested by being registered."""

import dataclasses
import math

import pytest
import torch

from rotviz.errors import BadInput, Cancelled
from rotviz.models.loading import load
from rotviz.models.walk import BlockSource
from rotviz.rotations import ROTATIONS, LearningTask, Specs, learns
from rotviz.surgery.doctor import source_sizes
from rotviz.surgery.plan import make_plan
from rotviz.surgery.proof import prove, require
from rotviz.texts import calibration_windows
from rotviz.types import Granularity, QuantSpec, Slot

LEARNED = sorted(name for name in ROTATIONS if learns(ROTATIONS[name]))
QUICK = {"dartquant": {"epochs": 1, "share": 0.5}, "peak": {"steps": 6, "share": 0.5, "rounds": 2}, "dfrot": {"iterations": 6},
         "spinquant": {"steps": 6, "check": 2, "held_out": 1}}
SPECS = Specs(QuantSpec(), QuantSpec(4, True, clip=0.9), QuantSpec())


def quick(name, **settings):
    return ROTATIONS[name](**{**QUICK.get(name, {}), **settings})


def task_for(method, folder, model="tiny-llama", specs=SPECS, slots=tuple(Slot), seed=0, stop=lambda: None, dtype=torch.float32):
    loaded = load(model, dtype)
    source = BlockSource(loaded.model)
    windows = calibration_windows("pydoc", loaded.tokenizer, 48, 3, seed).tokens
    plan = make_plan(method.build, slots, source_sizes(source), seed)
    return LearningTask(source, windows, plan, specs, seed, folder, stop)


def learn(method, task):
    news, steps = [], method.learn(task)
    while True:
        try:
            news.append(next(steps))
        except StopIteration as stop:
            return stop.value, news


def matrices(plan):
    return [rotation.dense() for rotation in ([plan.r1] if plan.r1 else []) + [r for heads in plan.r2 for r in heads]]


@pytest.mark.parametrize("name", LEARNED)
def test_it_learns_rotations_that_keep_the_function(name, tmp_path):
    method = quick(name)
    task = task_for(method, tmp_path)
    learned, news = learn(method, task)
    assert all(rotation.orthogonality_error() < 1e-12 for rotation in [learned.plan.r1, *(r for heads in learned.plan.r2 for r in heads)])
    for slot in method.learned_slots:
        one, other = (matrices(dataclasses.replace(p, r1=p.r1 if slot is Slot.R1 else None, r2=p.r2 if slot is Slot.R2 else ()))[0]
                      for p in (task.plan, learned.plan))
        assert not torch.equal(one, other), f"{slot} is as it began"
    assert torch.equal(learned.plan.r3.dense(), task.plan.r3.dense()) and learned.plan.r4 == task.plan.r4
    require(prove(task.source, learned.plan, task.windows[:1, :32]))
    assert learned.tokens > 0 and learned.steps
    fractions = [step.fraction for step in news]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1
    seen = {key for step in news for key in step.metrics}
    assert {"loss", "orthogonality", "ordinary"} <= seen, "it says what it does while it goes"
    assert all(math.isfinite(value) for step in news for value in step.metrics.values())


@pytest.mark.parametrize("name", LEARNED)
def test_the_same_task_gives_the_same_rotations_and_changes_nothing(name, tmp_path):
    method, state = quick(name), torch.get_rng_state()
    first = task_for(method, tmp_path / "a")
    before = {k: v.clone() for k, v in first.source.model.state_dict().items()}
    one, two = learn(method, first)[0], learn(method, task_for(method, tmp_path / "b"))[0]
    assert all(torch.equal(a, b) for a, b in zip(matrices(one.plan), matrices(two.plan)))
    assert all(torch.equal(before[k], v) for k, v in first.source.model.state_dict().items()) and torch.equal(state, torch.get_rng_state())
    other = learn(method, task_for(method, tmp_path / "c", seed=1))[0]
    assert not torch.equal(matrices(one.plan)[0], matrices(other.plan)[0])


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("slots", [(Slot.R1,), (Slot.R2, Slot.R4), (Slot.R3,)])
def test_slots_that_are_off_stay_off(name, slots, tmp_path):
    method = quick(name)
    learned, _ = learn(method, task_for(method, tmp_path, slots=slots))
    assert learned.plan.slots == slots


@pytest.mark.parametrize("name", LEARNED)
def test_cancelling_ends_it(name, tmp_path):
    asked = []

    def stop():
        asked.append(1)
        if len(asked) > 3:
            raise Cancelled("enough")

    method = quick(name)
    with pytest.raises(Cancelled):
        learn(method, task_for(method, tmp_path, stop=stop))


@pytest.mark.parametrize("model", ["tiny-opt", "tiny-phi3", "tiny-qwen3-moe", "tiny-gemma2"])
@pytest.mark.parametrize("name", LEARNED)
def test_other_families(name, model, tmp_path):
    method = quick(name)
    learned, _ = learn(method, task_for(method, tmp_path, model))
    assert learned.plan.r1.orthogonality_error() < 1e-12


@pytest.mark.parametrize("name", LEARNED)
def test_where_little_or_nothing_is_rounded(name, tmp_path):
    method = quick(name)
    for kv in (QuantSpec(4, False, Granularity.HEAD), QuantSpec()):
        learned, _ = learn(method, task_for(method, tmp_path / str(kv.bits), specs=Specs(QuantSpec(), QuantSpec(), kv)))
        assert learned.plan.r1.orthogonality_error() < 1e-12
    assert name != "spinquant" or "nothing is rounded" in learned.notes[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", LEARNED)
def test_other_dtypes(name, dtype, tmp_path):
    """Also where weights are rounded and keys and values; a model in 16 bits is what papers learn on."""
    method, specs = quick(name), Specs(QuantSpec(4, True, Granularity.CHANNEL), QuantSpec(4, True, clip=0.9), QuantSpec(4, False, Granularity.HEAD))
    task = task_for(method, tmp_path, specs=specs, dtype=dtype)
    learned, news = learn(method, task)
    assert learned.plan.r1.orthogonality_error() < 1e-12 and not torch.equal(learned.plan.r1.dense(), task.plan.r1.dense())
    assert all(math.isfinite(value) for step in news for value in step.metrics.values())


@pytest.mark.parametrize("activations", [
    QuantSpec(8, number_format="fp8"), QuantSpec(16, number_format="fp8"), QuantSpec(4, number_format="nvfp4"), QuantSpec(8, False),
    QuantSpec(4, False, number_format="int_min")], ids=str)
@pytest.mark.parametrize("name", LEARNED)
def test_other_grids(name, activations, tmp_path):
    """Formats whose bits are their own are aimed at as they are."""
    method = quick(name)
    task = task_for(method, tmp_path, model="tiny-llama-tied", specs=Specs(QuantSpec(), activations, QuantSpec()))
    assert learn(method, task)[0].plan.r1.orthogonality_error() < 1e-12
    if name == "dfrot":
        symmetric = quick(name, grid="symmetric")
        assert "bits=4, symmetric=True" in symmetric.scope(task.specs)["grid"]
        learn(symmetric, task)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("start", ["identity", "orthogonal"])
def test_it_starts_where_it_is_told(name, start, tmp_path):
    idle = {"dartquant": {"epochs": 0}, "dfrot": {"iterations": 0}, "peak": {"steps": 0, "rounds": 0}, "spinquant": {"steps": 0}}
    method = quick(name, start=start, **idle[name])
    task = task_for(method, tmp_path)
    wanted = make_plan(ROTATIONS["none" if start == "identity" else start]().build, tuple(Slot), source_sizes(task.source), 0).r1.dense()
    torch.testing.assert_close(learn(method, task)[0].plan.r1.dense(), wanted, rtol=0, atol=1e-6)  # it has been through float32


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("start", ["dartquant", "hadamrd", "some/file.safetensors"])
def test_a_start_that_is_none_is_refused(name, start):
    with pytest.raises(BadInput, match="start ="):
        ROTATIONS[name](start=start).build(Slot.R1, 64, torch.Generator())


def test_spinquant_goes_on_where_it_was(tmp_path):
    method = quick("spinquant", steps=7)
    wanted = learn(method, task_for(method, tmp_path / "whole"))[0]
    steps = method.learn(task_for(method, tmp_path / "cut"))
    for step in steps:
        if step.metrics.get("step") == 4:
            break
    steps.close()
    news = []
    resumed = method.learn(task_for(method, tmp_path / "cut"))
    while True:
        try:
            news.append(next(resumed))
        except StopIteration as stop:
            got = stop.value
            break
    assert min(step.metrics["step"] for step in news if "step" in step.metrics) == 4
    assert all(torch.equal(a, b) for a, b in zip(matrices(wanted.plan), matrices(got.plan)))
