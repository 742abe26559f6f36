"""The attention function of every model here: transformers' own, with a place to look at and edit queries, keys and values.

transformers lets a program register an attention function by name. This one calls the same scaled-dot-product kernel, after an optional
edit of (query, key, value), each [B, heads, T, head width], taken after RoPE and before the heads of grouped-query attention are
repeated: exactly where R3 turns queries and keys and where the KV cache is quantized. No model file is copied, no forward is replaced.

Edits belong to one attention module each and are forgotten with it. Gemma 2 caps its attention scores (softcap), which the
fused kernel cannot: those run the plain formula, softmax(cap tanh(q k^T s / cap) + mask) v, in the tensor's own precision.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rotviz.models.family import ATTENTION, BlockView

Edit = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]

_EDITS: "WeakKeyDictionary[nn.Module, list[Edit]]" = WeakKeyDictionary()


def add_edit(module: nn.Module, edit: Edit) -> None:
    """Let `edit` change what this attention module attends with, after the edits it already has."""
    _EDITS.setdefault(module, []).append(edit)


def edits_of(module: nn.Module) -> tuple[Edit, ...]:
    """The edits of an attention module, in the order in which they run."""
    return tuple(_EDITS.get(module, ()))


def set_edit(module: nn.Module, edit: Edit | None) -> None:
    """Let this one edit, or none, take the place of those that an attention module has."""
    _EDITS.pop(module, None)
    if edit is not None:
        add_edit(module, edit)


def copy_block(view: BlockView) -> BlockView:
    """A deep copy of a block with everything that acts on it: hooks travel with a module, its attention edits are registered anew."""
    twin = replace(view, block=copy.deepcopy(view.block))
    for edit in edits_of(view.attention):
        add_edit(twin.attention, edit)
    return twin


@contextmanager
def edited(module: nn.Module, edit: Edit) -> Iterator[None]:
    """`edit` in force inside the block only."""
    add_edit(module, edit)
    try:
        yield
    finally:
        _EDITS[module].remove(edit)


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs) -> tuple[Tensor, None]:
    """transformers' attention interface: returns the context [B, T, heads, head width] and no weights."""
    for edit in _EDITS.get(module, ()):
        query, key, value = edit(query, key, value)
    if kwargs.get("softcap") is not None:
        return _attend_capped(module, query, key, value, attention_mask, **kwargs), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _attend_capped(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
                   softcap: float, scaling: float, **_: object) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = softcap * torch.tanh(query @ key.transpose(-1, -2) * (scaling / softcap))
    hidden = _hidden_positions(scores, attention_mask)
    scores = scores.masked_fill(hidden, -torch.inf)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    return (wide.softmax(-1).to(value.dtype) @ value).transpose(1, 2).contiguous()


def _hidden_positions(scores: Tensor, mask: Tensor | None) -> Tensor:
    """True where a query may not look. transformers leaves the mask out when it is plainly causal."""
    if mask is None:
        rows, columns = scores.shape[-2:]
        return torch.ones(rows, columns, dtype=torch.bool, device=scores.device).triu(columns - rows + 1)
    return ~mask[..., : scores.shape[-1]] if mask.dtype == torch.bool else mask[..., : scores.shape[-1]] < -1


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
