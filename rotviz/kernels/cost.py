"""What a model of any shape costs in memory and arithmetic, from its configuration alone: no weights are loaded.

Memory, in bytes, in 16 bits and as rotviz.kernels.packed lays the recipe's numbers out (2 to 4 bits in half a byte, 5 to 8 in a byte):

    weights       linear layers of the blocks: codes, and a float32 step (and zero, if asymmetric) for each output channel or group;
                  embedding, output head, norms and routers stay in 16 bits, as everywhere in rotviz
                  (under R1 tied ones are two matrices: the final norm's gain is folded into the head)
    KV cache      2 x blocks x KV heads x head width x tokens: codes, and a step (and zero) for each head of each token or group of it; a block
                  that slides keeps one token less than its window
    activations   what a block holds for the tokens in flight: the residual stream in 16 bits, and the widest input of a linear layer in
                  the recipe's bits with a step (and zero) a token. Scores of attention and results of products are not counted

Arithmetic, in multiply-adds a token:

    forward       the linear layers a token passes, its share of attention over the context (scores and values), the head
    R3            a transform of each query and key head;     R4    one of the input of each down projection
                  n log2(n / K) + n K with butterflies for the power of two, as Rotation.online_cost counts them

Learned positions (OPT), linear biases and norms inside attention are left out of the weights: under a thousandth of a real model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rotviz.errors import BadInput
from rotviz.numerics.hadamard import hadamard_base
from rotviz.types import QuantSpec

FLOAT_BYTES = 2
STEP_BYTES = 4
BLOCK_STEP_BYTES = {"mxfp4": 1, "nvfp4": 1}
"""Formats whose scales are not float32."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers that a model's cost follows from.

    mlp: width inside the MLP, of one expert where there are several; gated: three matrices instead of two; experts: 0 = a plain MLP, else how
    many there are, of which `active` see a token; shared: width of an expert that sees every token, 0 = none; dense: blocks that have a plain MLP
    of width `dense_mlp` instead; sliding: blocks whose attention reaches back `window` tokens.
    """

    width: int
    blocks: int
    heads: int
    kv_heads: int
    head_width: int
    mlp: int
    vocabulary: int
    tied: bool
    gated: bool = True
    experts: int = 0
    active: int = 0
    shared: int = 0
    dense: int = 0
    dense_mlp: int = 0
    sliding: int = 0
    window: int = 0

    def __post_init__(self) -> None:
        sizes = {"width": self.width, "blocks": self.blocks, "heads": self.heads, "kv_heads": self.kv_heads, "head_width": self.head_width,
                 "mlp": self.mlp, "vocabulary": self.vocabulary}
        wrong = [name for name, size in sizes.items() if size < 1]
        if wrong:
            raise BadInput(f"a model's {wrong[0]} is at least 1, not {sizes[wrong[0]]}")
        if self.heads % self.kv_heads:
            raise BadInput(f"{self.kv_heads} KV heads do not share {self.heads} query heads evenly")

    @classmethod
    def from_config(cls, config: Any) -> "Shape":
        """From a transformers configuration, or from the mapping that a config.json holds, with what transformers knows of such models besides
        (which blocks slide, say).

        Raises:
            BadInput: a number that decides the cost is missing.
        """
        read = _reader(_completed(config) if isinstance(config, Mapping) else config)
        width, heads = read("hidden_size"), read("num_attention_heads")
        experts, blocks = read("num_local_experts", "num_experts", default=0), read("num_hidden_layers")
        dense, sliding = _dense_blocks(read, blocks) if experts else 0, _sliding_blocks(read, blocks)
        return cls(
            width=width, blocks=blocks, heads=heads, kv_heads=read("num_key_value_heads", default=heads),
            head_width=read("head_dim", default=width // heads),
            mlp=read(*(["moe_intermediate_size"] if experts else []), "intermediate_size", "ffn_dim"), vocabulary=read("vocab_size"),
            tied=bool(read("tie_word_embeddings", default=True)), gated=not read("ffn_dim", default=0), experts=experts,
            active=read("num_experts_per_tok", default=0), shared=read("shared_expert_intermediate_size", default=0),
            dense=dense, dense_mlp=read("intermediate_size") if dense else 0, sliding=sliding, window=read("sliding_window") if sliding else 0)

    @property
    def attention_matrices(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of q, k, v and o of one block."""
        q, kv = self.heads * self.head_width, self.kv_heads * self.head_width
        return ((q, self.width), (kv, self.width), (kv, self.width), (self.width, q))

    @property
    def mlp_matrices(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of every MLP matrix of all blocks, all experts."""
        return self._mlps(max(1, self.experts))

    @property
    def used_mlp_matrices(self) -> tuple[tuple[int, int], ...]:
        """Those that one token passes."""
        return self._mlps(self.active if self.experts else 1)

    @property
    def down_inputs(self) -> tuple[int, ...]:
        """Widths of the inputs of the down projections that one token passes in all blocks: what R4 turns."""
        passed = (self.mlp,) * (self.active if self.experts else 1) + ((self.shared,) if self.shared else ())
        return passed * (self.blocks - self.dense) + (self.dense_mlp,) * self.dense

    @property
    def small(self) -> int:
        """Numbers in norms (two a block, one at the end) and routers."""
        gate = self.width if self.shared else 0
        return (2 * self.blocks + 1) * self.width + (self.blocks - self.dense) * (self.experts * self.width + gate)

    @property
    def parameters(self) -> int:
        """All numbers of the model; tied embeddings once."""
        linear = sum(n * d for n, d in self.attention_matrices * self.blocks + self.mlp_matrices)
        return linear + self.vocabulary * self.width * (1 if self.tied else 2) + self.small

    def cached_tokens(self, context: int) -> int:
        """Tokens that the caches of all blocks hold together: one that slides all but the oldest of its window."""
        return (self.blocks - self.sliding) * context + self.sliding * min(context, max(0, self.window - 1))

    def attended_tokens(self, context: int) -> int:
        """Tokens that one token attends to in all blocks together."""
        return (self.blocks - self.sliding) * context + self.sliding * min(context, self.window)

    def _mlps(self, experts: int) -> tuple[tuple[int, int], ...]:
        shared = _mlp(self.width, self.shared, self.gated) if self.shared else ()
        sparse = _mlp(self.width, self.mlp, self.gated) * experts + shared
        return sparse * (self.blocks - self.dense) + _mlp(self.width, self.dense_mlp, self.gated) * self.dense


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of one part of the memory: in 16 bits, and with the recipe."""

    name: str
    float16: int
    recipe: int


@dataclass(frozen=True, slots=True)
class Online:
    """An online rotation: rows of `width` a token turns through in all blocks, multiply-adds a token, and their share of the forward's."""

    slot: str
    width: int
    rows: int
    operations: int
    share: float


SHAPES = {
    "SmolLM2-135M": Shape(576, 30, 9, 3, 64, 1536, 49_152, tied=True),
    "Llama-2-7B": Shape(4096, 32, 32, 32, 128, 11_008, 32_000, tied=False),
    "Llama-2-70B": Shape(8192, 80, 64, 8, 128, 28_672, 32_000, tied=False),
    "Llama-3-8B": Shape(4096, 32, 32, 8, 128, 14_336, 128_256, tied=False),
    "Llama-3-70B": Shape(8192, 80, 64, 8, 128, 28_672, 128_256, tied=False),
    "Qwen2.5-7B": Shape(3584, 28, 28, 4, 128, 18_944, 152_064, tied=False),
    "Mixtral-8x7B": Shape(4096, 32, 32, 8, 128, 14_336, 32_000, tied=False, experts=8, active=2),
}
"""Shapes that papers report on, from their published configurations."""


def memory_by_part(
    shape: Shape, weights: QuantSpec, activations: QuantSpec, kv: QuantSpec, *, context: int, in_flight: int, sequences: int = 1, r1: bool = False
) -> tuple[Part, ...]:
    """Bytes by part.

    Args:
        shape: the model.
        weights, activations, kv: how each is quantized; 16 bits = not.
        context: tokens that each sequence has in its cache.
        in_flight: tokens that go through a block together: 1 a sequence when decoding, the prompt's when prefilling.
        sequences: how many sequences there are.
        r1: whether the recipe's R1 acts, which unties a tied head.

    Raises:
        BadInput: a group does not divide the axis it is on.
    """
    float16 = QuantSpec()
    widest = max(shape.width, shape.heads * shape.head_width, *shape.down_inputs)
    cached = 2 * shape.kv_heads * shape.cached_tokens(context) * sequences
    table = FLOAT_BYTES * shape.vocabulary * shape.width

    def part(name: str, size: Any, spec: QuantSpec) -> Part:
        return Part(name, size(float16), size(spec))

    stay = (Part("embedding", table, table), Part("output head", 0 if shape.tied else table, 0 if shape.tied and not r1 else table),
            Part("norms and routers", FLOAT_BYTES * shape.small, FLOAT_BYTES * shape.small))
    return (
        part("attention weights", lambda spec: shape.blocks * _matrices(shape.attention_matrices, spec), weights),
        part("MLP weights", lambda spec: _matrices(shape.mlp_matrices, spec), weights),
        *(part for part in stay if part.recipe),
        part("KV cache", lambda spec: row_bytes(cached, shape.head_width, spec), kv),
        part("activations", lambda spec: FLOAT_BYTES * in_flight * sequences * shape.width + row_bytes(in_flight * sequences, widest, spec),
             activations),
    )


def row_bytes(rows: int, width: int, spec: QuantSpec) -> int:
    """Bytes of rows of `width` numbers with their steps and zeros.

    Raises:
        BadInput: the group does not divide the width.
    """
    if not spec.quantizes:
        return rows * width * FLOAT_BYTES
    groups = width // spec.group_for(width)
    step = BLOCK_STEP_BYTES.get(spec.number_format, STEP_BYTES)
    codes = -(-width // 2) if spec.bits <= 4 else width
    return rows * (codes + groups * step * (1 if spec.symmetric else 2))


def forward_operations(shape: Shape, context: int) -> int:
    """Multiply-adds that one token costs with `context` tokens to attend to."""
    linear = sum(n * d for n, d in shape.attention_matrices * shape.blocks + shape.used_mlp_matrices)
    routers = (shape.blocks - shape.dense) * shape.experts * shape.width
    attention = 2 * shape.heads * shape.head_width * shape.attended_tokens(context)
    return linear + routers + attention + shape.vocabulary * shape.width


def online_rotations(shape: Shape, context: int) -> tuple[Online, ...]:
    """What R3 and R4 cost a token; one entry for each width that is turned."""
    forward = forward_operations(shape, context)
    rows: dict[tuple[str, int], int] = {("R3", shape.head_width): shape.blocks * (shape.heads + shape.kv_heads)}
    for width in shape.down_inputs:
        rows["R4", width] = rows.get(("R4", width), 0) + 1
    costs = {key: count * rotation_operations(key[1]) for key, count in rows.items()}
    return tuple(Online(slot, width, rows[slot, width], cost, cost / forward) for (slot, width), cost in costs.items())


def rotation_operations(n: int) -> int:
    """Multiply-adds of one row of n: butterflies for the power of two, a dense base for the rest (a Haar one where no Hadamard is known)."""
    made = hadamard_base(n)
    base = made.base if made else n // (n & -n)
    return n * int(math.log2(n // base)) + (n * base if base > 1 else 0)


def _mlp(width: int, inner: int, gated: bool) -> tuple[tuple[int, int], ...]:
    return ((inner, width),) * (2 if gated else 1) + ((width, inner),)


def _matrices(matrices: tuple[tuple[int, int], ...], spec: QuantSpec) -> int:
    return sum(row_bytes(outputs, inputs, spec) for outputs, inputs in matrices)


def _completed(config: Mapping[str, Any]) -> Any:
    """A transformers configuration; the mapping as it is where transformers does not know the kind of model or does not take the numbers, which are
    then refused here, in words, if they decide anything."""
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(**config)
    except Exception:  # whatever its checks raise, of many kinds
        return config


def _dense_blocks(read: Any, blocks: int) -> int:
    """Blocks of a mixture that have a plain MLP: those listed, and all but every n-th."""
    listed, every = read("mlp_only_layers", default=()), read("decoder_sparse_step", default=1)
    return sum(i in listed or (bool(every) and (i + 1) % every != 0) for i in range(blocks))


def _sliding_blocks(read: Any, blocks: int) -> int:
    """Blocks with a sliding window: those whose type says so; where types are not told, all or none."""
    types = read("layer_types", default=())
    if types:
        return sum(kind == "sliding_attention" for kind in types)
    return blocks if read("sliding_window", default=0) and read("use_sliding_window", default=True) else 0


def _reader(config: Any) -> Any:
    """A function that reads the first of several keys that is there and not None."""
    if isinstance(config, Mapping):
        inner = config.get("text_config") or config
        get = inner.get
    else:
        inner = config.get_text_config() if hasattr(config, "get_text_config") else config
        def get(name: str) -> Any:
            return getattr(inner, name, None)

    def read(*names: str, default: Any = None) -> Any:
        found = next((v for v in map(get, names) if v is not None), default)
        if found is None:
            raise BadInput(f"the configuration has no {' or '.join(names)}, which the cost follows from")
        return found

    return read
