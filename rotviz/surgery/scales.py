"""Scales between channels: equivalent transforms that move range from activations to weights, or from one weight to the next, and fold away.

    norm -> q, k, v            gain / s,  W diag(s)             and with a shift d:  beta -> (beta - d) / s,  b -> b + W d
    norm -> gate, up, router   the same
    v -> o                     rows of v / s,  columns of o * s          one s for each channel of a key-value head
    q -> k                     rows of q / s,  rows of k * s             the scores q k^T stay

Row vectors, linears are y = x W^T + b. SmoothQuant (arXiv 2211.10438) chooses s from ranges, OmniQuant (2308.13137) and its kin learn it. Nothing is
added to the deployed model: where R1 has folded the gain away, the norm gets one back.

Departures, each for exactness. RoPE turns channels i and i + K/2 of a head together, so q -> k has one scale for the pair (OmniQuant's code scales
them apart, which is another function). With grouped queries the heads that share a key-value head share its scales, the published code's shapes
clash there. A router reads the same norm as the experts and takes the scale as well. Norms on queries and keys (Qwen3, Gemma 3) undo any scale
before them: no q -> k there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rotviz.models.family import BlockView, LinearSlice, NormKind
from rotviz.models.norms import GainRMSNorm, UnitRMSNorm
from rotviz.types import Role


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales of one block; None where nothing is scaled.

    attention, mlp: [D], of the two norms' outputs; attention_shift, mlp_shift: [D], what is taken from them first;
    value: [kv heads, K]; key: [kv heads, K], equal for the two channels that RoPE turns together.
    """

    attention: Tensor | None = None
    mlp: Tensor | None = None
    value: Tensor | None = None
    key: Tensor | None = None
    attention_shift: Tensor | None = None
    mlp_shift: Tensor | None = None


Change = Callable[[Tensor], Tensor]


class Places:
    """Where a block's tensors are, for rewriting them by path without touching the block."""

    def __init__(self, view: BlockView) -> None:
        self.view = view
        self.names = {module: name for name, module in view.block.named_modules()}

    def path(self, linear: LinearSlice, name: str) -> str:
        """The path of a linear's weight or bias."""
        return f"{self.names[linear.module]}.{name}"


def key_obstacle(view: BlockView) -> str | None:
    """Why q -> k cannot be scaled in this block, or None."""
    if hasattr(view.attention, "q_norm"):
        return "its norms on queries and keys undo any scale"
    rope = getattr(view.config, "rope_parameters", None) or {}
    if view.family.rope and isinstance(rope, Mapping) and rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "RoPE turns only a part of each head"
    return None


def shift_obstacle(view: BlockView, path: str, readers: list[LinearSlice]) -> str | None:
    """Why the output of a norm cannot be shifted, or None."""
    if getattr(view.norm(path), "bias", None) is None:
        return "the norm has no offset"
    if any(reader.bias is None for reader in readers):
        return "a linear after it has no bias"
    return None


def paired(half: Tensor) -> Tensor:
    """Scales [..., K/2] for both channels of each pair that RoPE turns: [..., K]."""
    return torch.cat([half, half], dim=-1)


def scaled(view: BlockView, scales: Scales) -> dict[str, Tensor]:
    """The tensors of a block that scales change, by path; differentiable in the scales, computed in their dtype."""
    places = Places(view)
    found: dict[str, Tensor] = {}
    family = view.family
    if scales.attention is not None:
        _scale_norm(places, found, family.attn_norm, view.attention_readers(), scales.attention, scales.attention_shift)
    if scales.mlp is not None:
        _scale_norm(places, found, family.mlp_norm, view.mlp_readers(), scales.mlp, scales.mlp_shift)
    if scales.value is not None:
        _scale_values(places, found, scales.value)
    if scales.key is not None:
        _scale_keys(places, found, scales.key)
    return found


def put(view: BlockView, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors into a block that the caller owns, by path; a norm without a gain gets one."""
    give_gains(view, [path.rpartition(".")[0] for path in tensors])
    for path, tensor in tensors.items():
        module, _, name = path.rpartition(".")
        owner = view.block.get_submodule(module)
        old = getattr(owner, name)
        setattr(owner, name, nn.Parameter(tensor.detach().to(old), requires_grad=False))


def give_gains(view: BlockView, paths: list[str]) -> None:
    """Turn the bare norms among some modules of an owned block into norms with a gain of one: the same function."""
    for path in dict.fromkeys(paths):
        module = view.block.get_submodule(path)
        if type(module) is UnitRMSNorm:
            some = next(view.block.parameters())
            width = view.linear(Role.Q).weight.shape[1]
            view.set_module(path, GainRMSNorm(torch.ones(width, dtype=some.dtype, device=some.device), module.eps, plus_one=False))


def _scale_norm(places: Places, found: dict[str, Tensor], path: str, readers: list[LinearSlice], s: Tensor, shift: Tensor | None) -> None:
    norm = places.view.norm(path)
    plus_one = places.view.family.norm is NormKind.RMS_PLUS_ONE and type(norm) is not UnitRMSNorm and getattr(norm, "plus_one", True)
    stored = getattr(norm, "weight", None)
    gain = torch.ones_like(s) if stored is None else stored.data.to(s) + (1.0 if plus_one else 0.0)
    found[f"{path}.weight"] = gain / s - (1.0 if plus_one else 0.0)
    if getattr(norm, "bias", None) is not None:
        offset = norm.bias.data.to(s)
        found[f"{path}.bias"] = (offset if shift is None else offset - shift) / s
    for reader in readers:
        if shift is not None:
            extra = reader.weight.to(s) @ shift
            _change(places, found, reader, "bias", s, lambda b, extra=extra: b + extra)
        _change(places, found, reader, "weight", s, lambda w: w * s)


def _scale_values(places: Places, found: dict[str, Tensor], s: Tensor) -> None:
    view = places.view
    value, output = view.linear(Role.V), view.linear(Role.O)
    _change(places, found, value, "weight", s, lambda w: w / s.flatten()[:, None])
    if value.bias is not None:
        _change(places, found, value, "bias", s, lambda b: b / s.flatten())
    _change(places, found, output, "weight", s, lambda w: w * _for_queries(view, s).flatten())


def _scale_keys(places: Places, found: dict[str, Tensor], s: Tensor) -> None:
    view = places.view
    for role, factor in ((Role.Q, 1 / _for_queries(view, s).flatten()), (Role.K, s.flatten())):
        linear = view.linear(role)
        _change(places, found, linear, "weight", s, lambda w, factor=factor: w * factor[:, None])
        if linear.bias is not None:
            _change(places, found, linear, "bias", s, lambda b, factor=factor: b * factor)


def _for_queries(view: BlockView, s: Tensor) -> Tensor:
    """[kv heads, K] -> [query heads, K]."""
    return s.repeat_interleave(view.heads.repeats, dim=0)


def _change(places: Places, found: dict[str, Tensor], linear: LinearSlice, name: str, like: Tensor, change: Change) -> None:
    """Change one linear's rows of a tensor, on top of what was changed before."""
    path = places.path(linear, name)
    whole = found.get(path)
    if whole is None:
        whole = getattr(linear.module, name).data.to(like)
    start, stop, _ = linear.rows.indices(len(whole))
    parts = [whole[:start], change(whole[start:stop]), whole[stop:]]
    found[path] = torch.cat([part for part in parts if len(part)])
