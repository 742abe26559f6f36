"""Cost without weights: against numbers worked out by hand, and against the models themselves."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rotviz.errors import BadInput
from rotviz.kernels.cost import SHAPES, Shape, forward_operations, memory_by_part, online_rotations, rotation_operations, row_bytes
from rotviz.kernels.quantize import quantize
from rotviz.models.tiny import TINY, tiny
from rotviz.numerics.rotation import HadamardRotation
from rotviz.types import Granularity, QuantSpec

SMOLLM = Shape(width=576, blocks=30, heads=9, kv_heads=3, head_width=64, mlp=1536, vocabulary=49152, tied=True)
LLAMA2_7B = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008, "vocab_size": 32000,
             "tie_word_embeddings": False}
W4 = QuantSpec(4, True, Granularity.CHANNEL)
KV4 = QuantSpec(4, False, Granularity.HEAD)
A4 = QuantSpec(4, False)


@pytest.mark.parametrize("name", TINY)
def test_matrices_are_counted_as_the_models_have_them(name):
    model, _ = tiny(name)
    shape = Shape.from_config(model.config)
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim > 1 and "embed_positions" not in n)
    routers = shape.small - (2 * shape.blocks + 1) * shape.width
    counted = shape.parameters - (2 * shape.blocks + 1) * shape.width
    assert counted == matrices, f"routers {routers}"


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mistral", "tiny-phi3", "tiny-mixtral"])
def test_models_without_biases_are_counted_whole(name):
    model, _ = tiny(name)
    assert Shape.from_config(model.config).parameters == model.num_parameters()
    assert Shape.from_config(model.config.to_dict()) == Shape.from_config(model.config)


def test_published_sizes():
    assert SHAPES["SmolLM2-135M"] == SMOLLM and Shape.from_config(LLAMA2_7B) == SHAPES["Llama-2-7B"]
    counted = {name: shape.parameters for name, shape in SHAPES.items()}
    assert counted["SmolLM2-135M"] == 134_515_008 and counted["Llama-2-7B"] == 6_738_415_616
    assert counted["Llama-3-8B"] == 8_030_261_248 and counted["Llama-3-70B"] == 70_553_706_496 and counted["Mixtral-8x7B"] == 46_702_792_704
    assert counted["Llama-2-70B"] == 68_976_648_192
    biases = 28 * (3584 + 2 * 512)
    assert counted["Qwen2.5-7B"] + biases == 7_615_616_512


def test_memory_of_smollm_by_hand():
    parts = {p.name: p for p in memory_by_part(SMOLLM, W4, A4, KV4, context=2048, in_flight=512)}
    attention = 576 * 576 * 2 + 192 * 576 * 2
    assert parts["attention weights"].float16 == 2 * 30 * attention
    assert parts["attention weights"].recipe == 30 * (attention // 2 + 4 * (576 + 192 + 192 + 576))
    assert parts["MLP weights"].recipe == 30 * (3 * 576 * 1536 // 2 + 4 * (1536 + 1536 + 576))
    assert parts["embedding"].float16 == parts["embedding"].recipe == 2 * 49152 * 576 and "output head" not in parts
    assert parts["KV cache"].float16 == 2 * 30 * 2 * 3 * 64 * 2048
    assert parts["KV cache"].recipe == 30 * 2 * 3 * 2048 * (32 + 8)
    assert parts["activations"].float16 == 512 * 2 * (576 + 1536)
    assert parts["activations"].recipe == 512 * (2 * 576 + 768 + 8)
    whole = [memory_by_part(SMOLLM, QuantSpec(), QuantSpec(), QuantSpec(), context=1, in_flight=1)]
    assert all(p.float16 == p.recipe for p in whole[0])
    assert sum(p.float16 for p in whole[0][:4]) == 2 * SMOLLM.parameters


@pytest.mark.parametrize("spec", [W4, QuantSpec(4, False, Granularity.GROUP, 32), QuantSpec(8, True), QuantSpec(3, False), QuantSpec(6, False)])
def test_bytes_are_those_of_packed_tensors(spec):
    assert row_bytes(5, 64, spec) == quantize(torch.ones(5, 64), spec).nbytes


def test_operations_of_smollm_by_hand():
    linear = 576 * 576 * 2 + 192 * 576 * 2 + 3 * 576 * 1536
    assert forward_operations(SMOLLM, 1000) == 30 * (linear + 2 * 576 * 1000) + 49152 * 576
    r3, r4 = online_rotations(SMOLLM, 1000)
    assert (r3.slot, r3.width, r3.rows, r3.operations) == ("R3", 64, 30 * 12, 30 * 12 * 64 * 6)
    assert (r4.slot, r4.width, r4.rows, r4.operations) == ("R4", 1536, 30, 30 * (1536 * 7 + 1536 * 12))
    assert r4.share == pytest.approx(r4.operations / forward_operations(SMOLLM, 1000))


@pytest.mark.parametrize("n", [64, 1536, 11008, 28672])
def test_rotations_cost_what_they_say(n):
    assert rotation_operations(n) == HadamardRotation(n).online_cost()
    assert rotation_operations(13696) == 13696 * (7 + 107), "no Hadamard matrix of order 107 * 2^t is known here: a dense base of 107"


def test_a_token_passes_only_its_experts():
    shape = Shape(64, 2, 4, 2, 16, 96, 100, tied=True, experts=8, active=2, shared=32)
    attention, expert, shared = 64 * 64 * 2 + 32 * 64 * 2, 3 * 64 * 96, 3 * 64 * 32
    assert forward_operations(shape, 0) == 2 * (attention + 2 * expert + shared + 8 * 64) + 6400
    assert [(o.slot, o.width, o.rows) for o in online_rotations(shape, 0)] == [("R3", 16, 12), ("R4", 96, 4), ("R4", 32, 2)]


def test_shapes_that_cannot_be_are_refused():
    with pytest.raises(BadInput, match="hidden_size"):
        Shape.from_config({})
    with pytest.raises(BadInput, match="evenly"):
        Shape(64, 2, 4, 3, 16, 96, 100, tied=True)
    with pytest.raises(BadInput, match="blocks is at least 1"):
        Shape(64, 0, 4, 2, 16, 96, 100, tied=True)
    with pytest.raises(BadInput, match="does not divide"):
        memory_by_part(SMOLLM, QuantSpec(4, True, Granularity.GROUP, 100), A4, KV4, context=1, in_flight=1)


def test_blocks_that_slide_keep_their_window():
    """Gemma-3-1B: of 26 blocks four attend to everything, the others to 512 tokens."""
    config = AutoConfig.for_model("gemma3_text", hidden_size=1152, num_hidden_layers=26, num_attention_heads=4, num_key_value_heads=1, head_dim=256,
                                  intermediate_size=6912, vocab_size=262144, sliding_window=512)
    shape = Shape.from_config(config)
    assert (shape.sliding, shape.window) == (22, 512) and Shape.from_config(config.to_dict()) == shape
    cache = next(p for p in memory_by_part(shape, W4, A4, KV4, context=32768, in_flight=1) if p.name == "KV cache")
    assert cache.float16 == 2 * 2 * 256 * (4 * 32768 + 22 * 511)
    assert forward_operations(shape, 32768) - forward_operations(shape, 512) == 2 * 4 * 256 * 4 * (32768 - 512)
    everywhere = Shape.from_config(LLAMA2_7B | {"sliding_window": 4096})
    assert everywhere.sliding == 32 and Shape.from_config(LLAMA2_7B | {"sliding_window": 4096, "use_sliding_window": False}).sliding == 0


def test_mixtures_may_have_plain_blocks():
    def small(**more):
        return AutoConfig.for_model("qwen3_moe", hidden_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                                    intermediate_size=160, moe_intermediate_size=48, num_experts=8, num_experts_per_tok=2, vocab_size=100,
                                    tie_word_embeddings=True, **more)

    for config in (small(decoder_sparse_step=2), small(mlp_only_layers=[1]), small()):
        model = AutoModelForCausalLM.from_config(config)
        shape = Shape.from_config(config)
        norms = 2 * 16 * 4  # of queries and keys
        assert shape.parameters + norms == model.num_parameters() and Shape.from_config(config.to_dict()) == shape
    shape = Shape.from_config(small(decoder_sparse_step=2))
    assert shape.dense == 2 and [(o.slot, o.width, o.rows) for o in online_rotations(shape, 0)] == [("R3", 16, 24), ("R4", 48, 4), ("R4", 160, 2)]
    attention = 64 * 64 * 2 + 32 * 64 * 2
    assert forward_operations(shape, 0) == 4 * attention + 2 * (3 * 64 * 160) + 2 * (2 * 3 * 64 * 48 + 8 * 64) + 6400


def test_r1_unties_the_head():
    plain, turned = ({p.name: p for p in memory_by_part(SMOLLM, W4, A4, KV4, context=1, in_flight=1, r1=r1)} for r1 in (False, True))
    assert "output head" not in plain and (turned["output head"].float16, turned["output head"].recipe) == (0, 2 * 49152 * 576)
