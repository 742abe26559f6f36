"""Decoding by replay, on a CPU: a tape of torch's operations stands for the CUDA graph. As with one, everything that Python decides is decided once,
tensors keep their memory, and only what is written in place changes from step to step.
"""

import copy
import gc
import importlib.util
import warnings
import weakref
from functools import partial
from pydoc_data.topics import topics

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GenerationConfig

from rotviz.deployment.bench import plain_cache, replayed
from rotviz.deployment.build import cache_argument, deploy
from rotviz.deployment.replay import Replay
from rotviz.models.loading import load
from rotviz.pipeline.recipe import Recipe, with_changes

pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default")  # one way to say how much is to say nothing
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal", "aten::lift_fresh"}
"""Operations with which a GPU would wait for a number, or take one from Python's memory: not to be recorded."""
KERNELS = ("online", "hadamard", "hadamard_quantize", "quantize", "integer_matmul", "weight_only_matmul")


class Tape(TorchDispatchMode):
    """Records operations and replays them: each writes into the memory that it filled when it was recorded."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in WAITS:
            raise RuntimeError(f"{func} cannot be recorded")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        for func, args, kwargs, out in self.calls:
            for mine, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs))):
                if isinstance(mine, torch.Tensor) and mine.data_ptr() != new.data_ptr():
                    mine.copy_(new)


class Recorder:
    """Tapes, counted."""

    def __init__(self):
        self.made, self.replayed = 0, 0

    def __call__(self, step):
        self.made += 1
        with Tape() as tape:
            output = step()

        def again():
            self.replayed += 1
            tape.replay()

        return output, again

    def __deepcopy__(self, memo):
        return self


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(topics["assignment"])
    return {"text": {"windows": 1, "length": 32, "evaluation": str(path), "calibration": str(path)}}


def deployed(base, name="tiny-llama", weights=4, activations=4, cache=4):
    return deploy(Recipe.from_dict(with_changes(base, [("model", name), ("weights.bits", weights), ("activations.bits", activations),
                                                       ("kv.bits", cache)])))


def tokens(length, batch=1):
    ids = torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 256
    return ids


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-llama-tied", "tiny-qwen2"])
@pytest.mark.parametrize("bits", [(4, 4, 4), (4, 16, 16), (8, 8, 8)], ids=str)
def test_replayed_steps_are_the_steps(base, name, bits):
    """Beside a cache of the same length whose steps are carried out, and that has the same logits bit for bit."""
    made, record = deployed(base, name, *bits), Recorder()
    ids, plain, fixed = tokens(30, batch=2), made.new_cache(44), made.new_cache(44)
    argument = cache_argument(made.model.forward)
    fixed.replay = Replay(record)
    with torch.no_grad():
        for part in (ids[:, :20], *ids[:, 20:].split(1, 1)):
            wanted, found = (made.model(input_ids=part, use_cache=True, **{argument: cache}).logits for cache in (plain, fixed))
            assert torch.equal(wanted, found)
    assert (record.made, record.replayed) == (1, 9) and fixed.get_seq_length() == plain.get_seq_length() == 30
    assert fixed.nbytes == plain.nbytes


def generated(model, ids, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, eos_token_id=None, do_sample=False, **how)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-opt", "tiny-mistral", "tiny-gemma2", "tiny-gemma3"])
def test_generate_with_a_cache_of_fixed_length(base, name, monkeypatch):
    """The tokens that a growing cache gives, past the sliding windows, whose models are not replayed."""
    model, record, ids = deployed(base, name, cache=8, activations=16).model, Recorder(), tokens(30)
    monkeypatch.setattr("rotviz.deployment.cache.Replay", lambda: Replay(record))
    wanted = generated(model, ids, max_new_tokens=24)
    assert torch.equal(generated(model, ids, max_new_tokens=24, cache_implementation="static"), wanted)
    slides = name in ("tiny-mistral", "tiny-gemma2", "tiny-gemma3")
    assert (record.made, record.replayed) == ((0, 0) if slides else (1, 22))


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2", "tiny-qwen2-moe"])
def test_a_prompt_sees_neither_its_future_nor_the_room(base, name):
    made = deployed(base, name, activations=16, cache=16)
    argument, ids = cache_argument(made.model.forward), tokens(30)
    with torch.no_grad():
        tight, wide = (made.model(ids, use_cache=True, **{argument: made.new_cache(room)}).logits for room in (30, 60))
    torch.testing.assert_close(tight, wide, rtol=1e-4, atol=1e-4 * float(tight.abs().max()))


@pytest.mark.parametrize("how", [{}, {"max_length": 41}, {"max_new_tokens": 3, "num_beams": 2}, {"max_length": 55, "num_beams": 3}], ids=str)
def test_there_is_room_for_what_is_generated(base, how, monkeypatch):
    """By any of transformers' ways to say how much. Beams put other tensors in the place of those that were recorded: no step is like the last."""
    model, record, ids = deployed(base, activations=16).model, Recorder(), tokens(30)
    monkeypatch.setattr("rotviz.deployment.cache.Replay", lambda: Replay(record))
    found, wanted = generated(model, ids, cache_implementation="static", **how), generated(model, ids, **how)
    assert torch.equal(found, wanted) and record.made == ("num_beams" not in how)


def test_configurations_say_how_much(base):
    """The argument's, then the given one's, then the model's own; positional or not."""
    model, ids = deployed(base, activations=16).model, tokens(30)
    model.generation_config.max_new_tokens = 40
    plain = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    for config, more in ((None, {}), (GenerationConfig(**plain), {}), (GenerationConfig(max_new_tokens=45, **plain), {}),
                         (GenerationConfig(max_new_tokens=45, **plain), {"max_new_tokens": 3})):
        how = (plain if config is None else {}) | more
        found, wanted = (model.generate(ids, config, **how, **kind) for kind in ({"cache_implementation": "static"}, {}))
        assert torch.equal(found, wanted)


def test_a_cache_without_codes(base, monkeypatch):
    model, record, ids = deployed(base, activations=16, cache=16).model, Recorder(), tokens(30)
    monkeypatch.setattr("rotviz.deployment.cache.Replay", lambda: Replay(record))
    assert torch.equal(generated(model, ids, cache_implementation="static"), generated(model, ids)) and record.replayed > 0


def test_what_cannot_be_recorded_is_carried_out(base):
    """With one warning, and with the cache as it was."""
    made, ids = deployed(base), tokens(12)
    plain, fixed = made.new_cache(12), made.new_cache(12)
    argument = cache_argument(made.model.forward)

    def record(step):
        step()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    fixed.replay = Replay(record)
    with torch.no_grad(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for part in (ids[:, :8], *ids[:, 8:].split(1, 1)):
            wanted, found = (made.model(input_ids=part, use_cache=True, **{argument: cache}).logits for cache in (plain, fixed))
            assert torch.equal(wanted, found)
    assert [str(one.message) for one in said] == ["decoding launches its kernels one by one: a step could not be recorded as a CUDA graph (operation "
                                                  "not permitted when stream is capturing)"]


def test_other_shapes_are_recorded_anew_and_copies_have_recorded_nothing(base):
    made, record = deployed(base), Recorder()
    argument, ids = cache_argument(made.model.forward), tokens(18)
    fixed = made.new_cache(20)
    fixed.replay = Replay(record)

    def step(cache, n, **more):
        return made.model(input_ids=ids[:, n:n + 1], use_cache=True, **more, **{argument: cache}).logits

    with torch.no_grad():
        made.model(input_ids=ids[:, :8], use_cache=True, **{argument: fixed})
        step(fixed, 8), step(fixed, 9)
        assert (record.made, record.replayed) == (1, 1)
        step(fixed, 10, logits_to_keep=1), step(fixed, 11, logits_to_keep=1)
        assert (record.made, record.replayed) == (2, 2)
        twin = copy.deepcopy(fixed)
        wanted = step(twin, 12, logits_to_keep=1)
        assert (record.made, record.replayed) == (2, 2)
        assert torch.equal(step(fixed, 12, logits_to_keep=1), wanted) and (record.made, record.replayed) == (2, 3)
        assert made.model(ids[:, 13:14], use_cache=True, **{argument: fixed}).logits.shape[1] == 1 and record.replayed == 3  # not by name: as it is
        for n in (14, 15, 16):
            step(fixed, n, attention_mask=torch.ones(1, n + 1, dtype=torch.int64))
        assert (record.made, record.replayed) == (2, 3), "a mask that grows"
    assert step(fixed, 17).requires_grad is made.model.lm_head.weight.requires_grad and record.replayed == 3  # gradients are not recorded


def test_both_models_are_timed_by_replay(base):
    """The float model with transformers' cache, the deployed one with its own; None where nothing was recorded."""
    made, record, prompt = deployed(base), Recorder(), tokens(12)
    plain = load("tiny-llama").model
    for model, new_cache in ((made.model, made.new_cache), (plain, partial(plain_cache, plain))):
        assert replayed(model, new_cache, prompt, 5, record) > 0 and replayed(model, new_cache, prompt, 5) is None
    assert (record.made, record.replayed) == (2, 12)
    sliding = deployed(base, "tiny-mistral")
    assert replayed(sliding.model, sliding.new_cache, prompt, 5, record) is None and record.made == 2


def test_the_float_model_replayed_gives_its_logits(base):
    model, record, ids = load("tiny-llama").model, Recorder(), tokens(12)
    argument = cache_argument(model.forward)
    plain, fixed, replay = plain_cache(model, 12), plain_cache(model, 12), Replay(record)
    with torch.no_grad():
        for part in (ids[:, :8], *ids[:, 8:].split(1, 1)):
            found = replay.step(model, fixed, {"input_ids": part, "use_cache": True, argument: fixed}).logits
            assert torch.equal(model(part, use_cache=True, **{argument: plain}).logits, found)
    assert (record.made, record.replayed) == (1, 3)


def test_a_cache_goes_when_nobody_holds_it(base):
    """Its graph's memory with it, without waiting for Python to look for cycles."""
    made, ids = deployed(base), tokens(12)
    argument, fixed = cache_argument(made.model.forward), made.new_cache(12)
    fixed.replay = Replay(Recorder())
    with torch.no_grad():
        for part in (ids[:, :8], *ids[:, 8:].split(1, 1)):
            made.model(input_ids=part, use_cache=True, **{argument: fixed})
    assert fixed.replay.has_recorded
    gone = weakref.ref(fixed)
    gc.collect()
    gc.disable()
    try:
        del fixed
        assert gone() is None
    finally:
        gc.enable()


def test_the_tape_refuses_what_waits():
    for wait in (lambda: tokens(3).sum().item(), lambda: torch.tensor(3), lambda: bool(tokens(3).any())):
        with pytest.raises(RuntimeError, match="cannot be recorded"), Tape():
            wait()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("bits", [(4, 4, 4), (4, 16, 16), (8, 8, 8)], ids=str)
def test_launching_the_kernels_waits_for_nothing(base, bits, monkeypatch):
    """What a step does around the Triton kernels can be recorded as well; they are interpreted here, and not on the tape."""
    made, ids = deployed(base, "tiny-llama", *bits), tokens(6)
    argument, fixed, launched, recorded = cache_argument(made.model.forward), made.new_cache(8), [], []

    def record(step):
        launched.clear()
        with Tape() as tape:
            output = step()
        recorded.extend(tape.calls)
        return output, lambda: None

    fixed.replay = Replay(record)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for module in KERNELS:
        monkeypatch.setattr(f"rotviz.kernels.{module}.takes_triton",
                            lambda x, backend, obstacle=None, module=module: obstacle is None and (launched.append(module) or True))
    with torch.no_grad():
        for part in (ids, ids[:, :1], ids[:, :1]):
            made.model(input_ids=part, use_cache=True, **{argument: fixed})
    assert recorded and launched
