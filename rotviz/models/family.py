"""What a family file says, and the view of one block that follows from it.

    Family      paths and kinds that hold for every block: where the blocks, norms and linears are, how the norm works, what the model reads
    Entrance    numbers that are added to the residual stream before the first block: what R1 turns first
    BlockView   one block seen through its family: linear layers by role, norms by place, experts one by one

A linear layer may be a slice of the rows of a fused module (Phi-3's qkv_proj), so a role maps to a LinearSlice: algebra goes through the
slice, quantization through the whole module. Experts that transformers stores as 3-D tensors become plain linears first (experts.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from rotviz.types import Modality, Role

ATTENTION = "rotviz"
"""The name under which models.attention is known to transformers."""


class NormKind(StrEnum):
    """How a family normalizes."""

    RMS = "rms"                    # w * x / rms(x)
    RMS_PLUS_ONE = "rms_plus_one"  # (1 + w) * x / rms(x): Gemma
    LAYER = "layer"                # w * (x - mean) / std + b: OPT


@dataclass(frozen=True, slots=True)
class LinearSlice:
    """Rows `rows` of a module with a weight [out, in] (and perhaps a bias [out]): one role's linear layer."""

    module: nn.Module
    rows: slice = field(default_factory=lambda: slice(None))

    @property
    def weight(self) -> Tensor:
        """The rows' weight [out, in], a view."""
        return self.module.weight.data[self.rows]

    @property
    def bias(self) -> Tensor | None:
        """The rows' bias [out], a view, or None."""
        bias = getattr(self.module, "bias", None)
        return None if bias is None else bias.data[self.rows]

    def set_weight(self, weight: Tensor) -> None:
        """Overwrite the rows, casting to the module's dtype."""
        self.module.weight.data[self.rows] = weight.to(self.module.weight.dtype)

    def add_bias(self, bias: Tensor) -> None:
        """Add to the rows' bias, making one (zero elsewhere) where the module has none."""
        if getattr(self.module, "bias", None) is None:
            weight = self.module.weight
            self.module.bias = nn.Parameter(torch.zeros(len(weight), dtype=weight.dtype, device=weight.device), requires_grad=False)
        self.module.bias.data[self.rows] += bias.to(self.module.bias.dtype)

    def set_bias(self, bias: Tensor) -> None:
        """Overwrite the rows' bias (there must be one)."""
        self.module.bias.data[self.rows] = bias.to(self.module.bias.dtype)


@dataclass(frozen=True, slots=True)
class Entrance:
    """Numbers that are added to the residual stream before the first block: an embedding table [V, D], learned positions [1, N, D], the
    filters of a patch projection [D, ...]. `axis` is where D is."""

    parameter: nn.Parameter
    axis: int = -1

    @property
    def rows(self) -> Tensor:
        """The numbers in float64, D last."""
        return self.parameter.data.double().movedim(self.axis, -1)

    def set_rows(self, rows: Tensor) -> None:
        """Overwrite them, casting to the parameter's dtype."""
        self.parameter.data = rows.movedim(-1, self.axis).to(self.parameter.dtype).contiguous()


@dataclass(frozen=True, slots=True)
class MLP:
    """One feed-forward network of a block: the only one, an expert, or a shared expert."""

    up: LinearSlice
    down: LinearSlice
    gate: LinearSlice | None = None
    routed: bool = False

    @property
    def readers(self) -> tuple[LinearSlice, ...]:
        """The linears that read the MLP input."""
        return (self.up,) if self.gate is None else (self.gate, self.up)


@dataclass(frozen=True)
class Family:
    """Where things are in a model of this family. Paths are dotted; block paths are relative to the block.

    linears maps a role to its module's path; a fused module stands under several roles and `rows` tells which rows are whose.
    """

    architectures: tuple[str, ...]
    norm: NormKind = NormKind.RMS
    blocks: str = "model.layers"
    embeddings: tuple[str, ...] = ("model.embed_tokens",)
    final_norm: str = "model.norm"
    head: str = "lm_head"
    attention: str = "self_attn"
    attn_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    post_attn_norm: str | None = None
    post_mlp_norm: str | None = None
    linears: Mapping[Role, str] = field(default_factory=lambda: {
        Role.Q: "self_attn.q_proj", Role.K: "self_attn.k_proj", Role.V: "self_attn.v_proj", Role.O: "self_attn.o_proj",
        Role.GATE: "mlp.gate_proj", Role.UP: "mlp.up_proj", Role.DOWN: "mlp.down_proj",
    })
    rope: bool = True
    has_experts: bool = False
    modality: Modality = Modality.TEXT

    def refusal(self, config: Any) -> str | None:
        """Why this variant of the architecture cannot be handled, or None."""
        return None

    def arguments(self, inputs: Tensor) -> dict[str, Any]:
        """What the model is called with to read inputs: token ids [B, T]."""
        return {"input_ids": inputs, "use_cache": False}

    def blank(self, hidden: Tensor, config: Any) -> Tensor:
        """Inputs that lead to hidden states [B, T, D] of this shape; what they say does not matter."""
        return torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)

    def entrances(self, model: nn.Module) -> list[Entrance]:
        """What is added to the residual stream before the first block."""
        return [Entrance(model.get_submodule(path).weight) for path in self.embeddings]

    def readouts(self, model: nn.Module) -> list[LinearSlice]:
        """The linears that read the final norm."""
        return [LinearSlice(model.get_submodule(self.head))]

    def rows(self, role: Role, config: Any) -> slice:
        """The rows of the role's module that belong to the role."""
        return slice(None)

    def mlps(self, block: nn.Module, config: Any) -> list[MLP]:
        """The feed-forward networks of a block."""
        gate = self.linear(block, Role.GATE, config) if Role.GATE in self.linears else None
        return [MLP(self.linear(block, Role.UP, config), self.linear(block, Role.DOWN, config), gate)]

    def routers(self, block: nn.Module) -> list[LinearSlice]:
        """Small readers of the MLP input that choose or weigh experts; rotated with R1, never quantized."""
        return []

    def linear(self, block: nn.Module, role: Role, config: Any) -> LinearSlice:
        """The linear layer of a role."""
        return LinearSlice(block.get_submodule(self.linears[role]), self.rows(role, config))


@dataclass(frozen=True)
class BlockView:
    """One block through its family's eyes. Holds no copy: what is written through it is written to the block."""

    family: Family
    block: nn.Module
    config: Any
    index: int

    def linear(self, role: Role) -> LinearSlice:
        """An attention role's linear layer (Q, K, V or O)."""
        return self.family.linear(self.block, role, self.config)

    @property
    def mlps(self) -> list[MLP]:
        """The feed-forward networks: one, or the experts and shared experts."""
        return self.family.mlps(self.block, self.config)

    @property
    def attention(self) -> nn.Module:
        """The attention module, which the edits of models.attention belong to."""
        return self.block.get_submodule(self.family.attention)

    @property
    def heads(self) -> "Heads":
        """Head counts and width."""
        return heads_of(self.config)

    def attention_readers(self) -> list[LinearSlice]:
        """Linears that read the normalized residual stream before attention."""
        return [self.linear(role) for role in (Role.Q, Role.K, Role.V)]

    def mlp_readers(self) -> list[LinearSlice]:
        """Linears and routers that read the normalized residual stream before the MLP."""
        return [reader for mlp in self.mlps for reader in mlp.readers] + self.family.routers(self.block)

    def writers(self) -> list[LinearSlice]:
        """Linears whose output is added to the residual stream."""
        return [self.linear(Role.O)] + [mlp.down for mlp in self.mlps]

    def quantized_modules(self) -> dict[nn.Module, tuple[Role, ...]]:
        """Every linear module whose weight is quantized, once, with the roles it plays."""
        named = [(role, self.linear(role)) for role in (Role.Q, Role.K, Role.V, Role.O)]
        for mlp in self.mlps:
            named += [(Role.GATE, mlp.gate)] if mlp.gate else []
            named += [(Role.UP, mlp.up), (Role.DOWN, mlp.down)]
        roles: dict[nn.Module, tuple[Role, ...]] = {}
        for role, linear in named:
            roles[linear.module] = (*roles.get(linear.module, ()), role)
        return roles

    def norm(self, path: str) -> nn.Module:
        """The norm at a path of the family."""
        return self.block.get_submodule(path)

    def set_module(self, path: str, module: nn.Module) -> None:
        """Put a module in the place of another."""
        self.block.set_submodule(path, module)


@dataclass(frozen=True, slots=True)
class Heads:
    """Attention shape: query heads, key-value heads and the width of one."""

    query: int
    kv: int
    width: int

    @property
    def repeats(self) -> int:
        """Query heads that share one key-value head."""
        return self.query // self.kv


def heads_of(config: Any) -> Heads:
    """Head counts and width from a transformers config."""
    query = config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", None) or query
    width = getattr(config, "head_dim", None) or config.hidden_size // query
    return Heads(query, kv, width)


def block_views(model: nn.Module, family: Family) -> list[BlockView]:
    """All blocks of a model, in order."""
    return [BlockView(family, block, text_config(model), i) for i, block in enumerate(model.get_submodule(family.blocks))]


def text_config(model: nn.Module) -> Any:
    """The configuration of the language model (some checkpoints nest it)."""
    return model.config.get_text_config()


def norm_gain(norm: nn.Module, kind: NormKind) -> Tensor:
    """What a norm multiplies by, [D] float64: w, or 1 + w for Gemma; ones where it has no weight."""
    weight = getattr(norm, "weight", None)
    if weight is None:
        raise ValueError(f"{type(norm).__name__} has no gain")
    gain = weight.data.double()
    return 1 + gain if kind is NormKind.RMS_PLUS_ONE else gain


def norm_epsilon(norm: nn.Module) -> float:
    """The epsilon of a norm, whatever its class calls it."""
    for name in ("variance_epsilon", "eps"):
        if hasattr(norm, name):
            return float(getattr(norm, name))
    raise ValueError(f"{type(norm).__name__} has no epsilon")
