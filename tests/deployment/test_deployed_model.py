"""Deployed models against the fake-quantized ones they come from: every tiny family, logits, greedy tokens, bytes; refusals in words.

Where activations stay in float, the two differ by the order of float32 sums. Where they are rounded, such a difference may move a number that lies
at a tie to the next code, which no arithmetic can keep: then all tokens together come within a tenth of what the quantization itself moves, mostly
within a millionth.
"""

import importlib.util
from pydoc_data.topics import topics

import pytest
import torch

from rotviz.deployment import build
from rotviz.deployment.bench import measure, speed
from rotviz.deployment.build import deploy
from rotviz.deployment.linear import PackedLinear, RoundedLinear
from rotviz.deployment.shelf import refusal
from rotviz.deployment.size import ATTENTION, CACHE, EMBEDDING, HEAD, MLP, SUMS, cache_bytes, measured_bytes, weigh
from rotviz.errors import BadInput
from rotviz.kernels.cost import row_bytes
from rotviz.models.loading import load
from rotviz.models.tiny import TINY
from rotviz.pipeline.recipe import Recipe, with_changes
from rotviz.pipeline.run import finish
from rotviz.pipeline.whole import quantized_model
from rotviz.quantizers import QUANTIZERS, is_calibrated
from rotviz.types import Granularity, QuantSpec

SMALL = {"text": {"windows": 1, "length": 48, "samples": 2}, "weights": {"omniquant": {"epochs": 1}, "rounding": {"iterations": 4, "batch": 2}}}
BITS = {"W4A16KV16": (4, 16, 16), "W4A4KV4": (4, 4, 4), "W8A8KV8": (8, 8, 8), "W4A16KV4": (4, 16, 4), "W4A4KV16": (4, 4, 16)}


@pytest.fixture(autouse=True, scope="module")
def small_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(topics["assignment"])
    SMALL["text"] |= {"evaluation": str(path), "calibration": str(path)}


def recipe(name="tiny-llama", bits="W4A4KV4", *changes):
    weights, activations, cache = BITS[bits]
    return Recipe.from_dict(with_changes(SMALL, [("model", name), ("weights.bits", weights), ("activations.bits", activations), ("kv.bits", cache),
                                                 *changes]))


def tokens(length=60, batch=1):
    """Longer than the sliding windows of the tiny models; the first token is <bos>."""
    ids = torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 256
    return ids


def away(wanted, found):
    """Relative distance of the logits of each token."""
    return (wanted - found).norm(dim=-1) / wanted.norm(dim=-1)


def both(made, ids):
    return finish(quantized_model(made))(ids, use_cache=False).logits, deploy(made).model(ids, use_cache=False).logits


def agree(made):
    wanted, found = both(made, tokens())
    moved = away(load(made.model).model(tokens(), use_cache=False).logits, wanted)
    return away(wanted, found).mean() < 0.1 * moved.mean()


@pytest.mark.parametrize("bits", ["W4A16KV16", "W4A16KV4", "W4A4KV4", "W8A8KV8"])
@pytest.mark.parametrize("name", TINY)
def test_logits_agree(name, bits):
    made = recipe(name, bits)
    if "A16" in bits:
        assert away(*both(made, tokens())).max() < 1e-4
    else:
        assert agree(made)


@pytest.mark.parametrize("method", [name for name in QUANTIZERS if name != "none"])
def test_codes_of_every_weight_method(method):
    made = recipe("tiny-llama", "W4A16KV16", ("weights.method", method))
    assert away(*both(made, tokens())).max() < 1e-4
    assert method == "rtn" or is_calibrated(QUANTIZERS[method])


@pytest.mark.parametrize("changes", [
    (("rotation.method", "none"),), (("rotation.method", "orthogonal"),), (("rotation.slots", ["R1"]),), (("weights.group", 16),),
    (("weights.symmetric", False),), (("weights.bits", 3),), (("weights.method", "none"), ("activations.bits", 8)),
    (("scaling.method", "smoothquant"),), (("allocation.method", "importance"),), (("activations.group", 16),), (("kv.symmetric", True),),
    (("weights.format", "int_min"), ("weights.symmetric", False), ("weights.group", 16)),
    (("activations.format", "int_min"), ("activations.symmetric", False), ("activations.group", 16))], ids=str)
def test_other_recipes(changes):
    assert agree(recipe("tiny-llama", "W4A4KV4", *changes))


def test_what_is_kept_by_name_keeps_its_inputs_too():
    made = recipe("tiny-llama", "W4A4KV4", ("allocation.method", "listed"), ("allocation.listed.keep", ["1.q", "0.down=16", "1.o=6"]))
    found = {name: m for name, m in deploy(made).model.named_modules() if isinstance(m, (PackedLinear, RoundedLinear))}
    bits = {name.removeprefix("model.layers."): (getattr(m, "spec", None) and m.spec.bits, m.source.spec.bits) for name, m in found.items()}
    assert bits["1.self_attn.q_proj"] == (8, 8) and bits["1.self_attn.o_proj"] == (8, 6)  # 6 bits lie in a byte
    assert bits["1.self_attn.k_proj"] == bits["0.self_attn.q_proj"] == (4, 4)
    assert bits["0.mlp.down_proj"] == (None, 16)
    wanted, got = both(made, tokens())
    plain = finish(quantized_model(recipe()))(tokens(), use_cache=False).logits
    assert away(wanted, got).mean() < 0.1 * away(wanted, plain).mean()


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3", "tiny-opt", "tiny-qwen2-moe"])
def test_greedy_tokens_are_the_same(name):
    made, ids = recipe(name, "W4A16KV4"), tokens(40, batch=2)
    fake, deployed = finish(quantized_model(made)), deploy(made).model
    wanted, found = (m.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None) for m in (fake, deployed))
    assert torch.equal(wanted, found)
    beams = deployed.generate(ids, max_new_tokens=4, num_beams=2, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert beams.shape == (2, 44)


MINIMA = tuple((f"{section}.{key}", value) for section in ("weights", "activations") for key, value in (
    ("format", "int_min"), ("symmetric", False), ("group", 0 if section == "weights" else 16), ("clip", "none")))
OPERATIONS = ("hadamard", "hadamard_quantize", "quantize", "integer_matmul", "weight_only_matmul")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize(("bits", "changes"), [("W4A16KV4", ()), ("W4A4KV4", ()), ("W4A4KV16", MINIMA)], ids=str)
def test_the_triton_kernels_carry_it_out(bits, changes, monkeypatch):
    """Interpreted on the CPU where there is no GPU: what a GPU would be told to do, with the references taken away.

    Values of the first token that come from a 4-bit cache lie on its grid, and of their range int_min's 15 steps make exact ties, which another
    order of sums decides otherwise: hence a cache of 16 bits there.
    """
    made = recipe("tiny-llama", bits, ("kv.symmetric", True), *changes)
    ids, fake, deployed = tokens(6), finish(quantized_model(made)), deploy(made)
    wanted = fake(ids, use_cache=False).logits
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for module in ("rotviz.kernels.online", *(f"rotviz.kernels.{name}" for name in OPERATIONS)):
        monkeypatch.setattr(f"{module}.takes_triton", lambda x, backend, obstacle=None: obstacle is None)
    for name in OPERATIONS:
        monkeypatch.setattr(f"rotviz.kernels.{name}.reference.{name}", None)
    for model in (deployed.model, fake):
        assert away(wanted, model(ids, use_cache=False).logits).median() < 1e-5


def test_a_cache_gives_the_logits_of_no_cache():
    deployed, ids = deploy(recipe()), tokens(50, batch=2)
    cache = deployed.new_cache()
    with torch.no_grad():
        whole = deployed.model(ids, use_cache=False).logits
        steps = [deployed.model(part, use_cache=True, **{build.cache_argument(deployed.model.forward): cache}).logits for part in ids.split(17, 1)]
    assert away(whole, torch.cat(steps, 1)).median() < 1e-4


def test_bytes_are_those_predicted():
    made = recipe()
    deployed = deploy(made)
    weights, cache = made.weights.spec(), made.kv.spec()
    sizes = measured_bytes(deployed)
    assert sizes[ATTENTION] == 2 * sum(row_bytes(n, d, weights) for n, d in ((80, 80), (40, 80), (40, 80), (80, 80)))
    assert sizes[MLP] == 2 * sum(row_bytes(n, d, weights) for n, d in ((224, 80), (224, 80), (80, 224)))
    assert sizes[SUMS] == 2 * 4 * (80 + 40 + 40 + 80 + 224 + 224 + 80)
    assert sizes[EMBEDDING] == sizes[HEAD] == 260 * 80 * 4
    assert cache_bytes(deployed, 33) == row_bytes(2 * 2 * 2 * 33, 20, QuantSpec(cache.bits, cache.symmetric, Granularity.HEAD))
    parts = {part.name: part for part in weigh(deployed, 33)}
    for name in (ATTENTION, MLP, CACHE):
        assert parts[name].measured == parts[name].predicted < parts[name].float16
    assert parts[HEAD].measured == 2 * parts[HEAD].predicted  # float32, predicted in 16 bits
    total = sum(t.numel() * t.element_size() for t in deployed.model.state_dict().values())
    assert sum(sizes.values()) - sizes[SUMS] == total


@pytest.mark.parametrize("name", ["tiny-gemma3", "tiny-mistral", "tiny-llama-tied"])
def test_bytes_of_other_families_are_predicted(name):
    """Sliding windows keep their last tokens; R1 unties a head."""
    parts = {part.name: part for part in weigh(deploy(recipe(name)), 100)}
    assert all(parts[part].measured == parts[part].predicted for part in (ATTENTION, MLP, CACHE))
    assert parts[HEAD].measured == 2 * parts[HEAD].predicted > 0
    assert parts[HEAD].float16 == (0 if name in ("tiny-llama-tied", "tiny-gemma3") else parts[HEAD].predicted), "a tied head is no part in 16 bits"


@pytest.mark.parametrize("changes", [(("allocation.method", "listed"), ("allocation.listed.keep", ("0", "1.down"))),
                                     (("allocation.method", "magnitude"), ("allocation.budget", 5.0))], ids=str)
def test_bytes_of_shared_out_bits_are_predicted(changes):
    deployed = deploy(recipe("tiny-llama", "W4A16KV16", *changes))
    parts = {part.name: part for part in weigh(deployed, 33)}
    plain = {part.name: part for part in weigh(deploy(recipe("tiny-llama", "W4A16KV16")), 33)}
    assert all(parts[name].measured == parts[name].predicted for name in (ATTENTION, MLP))
    assert parts[MLP].measured > plain[MLP].measured


def test_a_head_that_nothing_changed_is_not_stored_twice():
    tied, parted = (deploy(recipe("tiny-llama-tied", "W4A4KV4", ("rotation.slots", slots))) for slots in (["R4"], ["R1"]))
    assert measured_bytes(tied)[HEAD] == 0 and measured_bytes(parted)[HEAD] == measured_bytes(tied)[EMBEDDING] > 0


def test_products_follow_from_the_recipe():
    def kinds(*arguments):
        return {getattr(m, "product", "float") for m in deploy(recipe(*arguments)).model.modules() if isinstance(m, (PackedLinear, RoundedLinear))}

    assert kinds("tiny-llama", "W4A4KV4") == {"integer"} and kinds("tiny-llama", "W4A16KV16") == {"weight only"}
    assert kinds("tiny-llama", "W4A4KV4", ("weights.symmetric", False)) == {"weight only"}
    assert kinds("tiny-llama", "W4A4KV4", ("weights.method", "none")) == {"float"}


def test_what_stays_in_float_may_be_16_bits():
    wide, narrow = deploy(recipe()), deploy(recipe(), dtype="bfloat16")
    assert narrow.model.dtype == torch.bfloat16 and measured_bytes(narrow)[HEAD] * 2 == measured_bytes(wide)[HEAD]
    ours = [{n: b for n, b in m.model.named_buffers() if n.endswith((".data", ".step"))} for m in (wide, narrow)]
    assert all(torch.equal(ours[0][name], ours[1][name]) for name in ours[0])
    assert torch.isfinite(narrow.model(tokens(), use_cache=False).logits).all()


@pytest.mark.parametrize(("changes", "words"), [
    ((("weights.format", "fp4"),), "weights.format = fp4 has no packed layout"), ((("activations.format", "mxfp4"), ("activations.symmetric", True)),
                                                                                "activations.format = mxfp4"),
    ((("dtype", "float64"),), "packed weights have float32 steps"),
    ((("dtype", "bfloat16"), ("weights.format", "int_min"), ("weights.symmetric", False)), "read back from float32 numbers only")], ids=str)
def test_what_cannot_be_packed_is_refused_before_anything_is_loaded(changes, words, monkeypatch):
    made = recipe("tiny-llama", "W4A4KV4", *changes)
    monkeypatch.setattr(build, "assembled", None)
    assert words in refusal(made)
    with pytest.raises(BadInput, match=words):
        deploy(made)


def test_channels_of_different_bits_share_a_container():
    made = recipe("tiny-llama", "W4A16KV16", ("allocation.method", "importance"), ("allocation.unit", "channel"), ("allocation.budget", 3.5))
    assert away(*both(made, tokens())).max() < 1e-4
    assert {m.spec.bits for m in deploy(made).model.modules() if isinstance(m, PackedLinear)} <= {4, 8}


def test_the_model_itself_is_not_changed():
    loaded = load("tiny-llama-tied")
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    deploy(recipe("tiny-llama-tied"), loaded)
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.model.state_dict().items())
    assert type(loaded.model).__name__ == "LlamaForCausalLM" and not hasattr(loaded.model, "new_cache")


def test_speed_is_measured_beside_the_float_model():
    record = measure(recipe(), prompt=16, new=3, rounds=2)
    assert len(record["rounds"]) == 2 and record["not_measured"] and record["prompt"] == 16
    for who in ("reference", "deployed"):
        assert record["median"][who]["prefill"] > 0 and record["median"][who]["decode"] > 0
    assert record["model_bytes"]["deployed"] < record["model_bytes"]["reference"]
    with pytest.raises(BadInput, match="at least 1"):
        measure(recipe(), prompt=16, new=0, rounds=1)
    loaded = load("tiny-llama")
    assert speed(loaded.model, lambda: None, tokens(), 2).decode > 0
