"""The attention function of every model here: transformers' own, with a place to look at and edit queries, keys and values.

transformers lets a program register an attention function by name. This one calls the same scaled-dot-product kernel, after an optional
edit of (query, key, value), each [B, heads, T, head width], taken after RoPE and before the heads of grouped-query attention are
repeated: exactly where R3 turns queries and keys and where the KV cache is quantized. No model file is copied, no forward is replaced.

Edits belong to one attention module each and are forgotten with it; so are watchers, which see what is attended with after the edits. Gemma 2 caps
its attention scores (softcap), which the fused kernel cannot: those run the plain formula, softmax(cap tanh(q k^T s / cap) + mask) v, in the
tensor's own precision.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rotviz.models.family import ATTENTION, BlockView

Edit = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
Watch = Callable[["Attended"], None]


@dataclass(frozen=True)
class Attended:
    """What one call attends with: query [B, heads, T, K], key [B, kv heads, T, K], what may not be looked at (None = the future), the factor of the
    scores and their cap."""

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float
    softcap: float | None

    def probabilities(self, head: int) -> Tensor:
        """How one head spreads its attention, [B, T, T], float32 or better: a row for each query."""
        repeats = self.query.shape[1] // self.key.shape[1]
        return _probabilities(self.query[:, head], self.key[:, head // repeats], self._hidden(), self.scaling, self.softcap)

    def received(self) -> Tensor:
        """The share of attention that each token [B, T] gets from the later ones that may look at it, mean over heads; NaN where there are none.
        On average a token gets 1 / (position of the one who looks): what stays far above is an attention sink."""
        heads, later = self.query.shape[1], (~self._hidden()).tril(-1)
        shares = sum((self.probabilities(head) * later).sum(-2) for head in range(heads)) / heads
        return shares / torch.where(later.sum(-2) > 0, later.sum(-2), torch.nan)

    def _hidden(self) -> Tensor:
        """[B or 1, T, T]: True where a query may not look."""
        hidden = _hidden_positions(self.query, self.key, self.mask)
        return hidden[:, 0] if hidden.ndim == 4 else hidden[None]


_WATCHES: "WeakKeyDictionary[nn.Module, list[Watch]]" = WeakKeyDictionary()
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


@contextmanager
def watched(module: nn.Module, watch: Watch) -> Iterator[None]:
    """`watch` sees every call of an attention module inside the block."""
    _WATCHES.setdefault(module, []).append(watch)
    try:
        yield
    finally:
        _WATCHES[module].remove(watch)


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs) -> tuple[Tensor, None]:
    """transformers' attention interface: returns the context [B, T, heads, head width] and no weights."""
    for edit in _EDITS.get(module, ()):
        query, key, value = edit(query, key, value)
    for watch in _WATCHES.get(module, ()):
        scaling = kwargs.get("scaling")
        watch(Attended(query, key, attention_mask, query.shape[-1] ** -0.5 if scaling is None else scaling, kwargs.get("softcap")))
    if kwargs.get("softcap") is not None:
        return _attend_capped(module, query, key, value, attention_mask, **kwargs), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _attend_capped(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
                   softcap: float, scaling: float, **_: object) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    hidden = _hidden_positions(query, key, attention_mask)
    return (_probabilities(query, key, hidden, scaling, softcap).to(value.dtype) @ value).transpose(1, 2).contiguous()


def _probabilities(query: Tensor, key: Tensor, hidden: Tensor, scaling: float, softcap: float | None) -> Tensor:
    scores = query @ key.transpose(-1, -2)
    scores = scores * scaling if softcap is None else softcap * torch.tanh(scores * (scaling / softcap))
    scores = scores.masked_fill(hidden, -torch.inf)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    return wide.softmax(-1)


def _hidden_positions(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """True where a query may not look. transformers leaves the mask out when it is plainly causal: with several queries the first sees the first
    key (a cache of fixed length has room behind the last), and one alone sees all."""
    rows, columns = query.shape[-2], key.shape[-2]
    if mask is None:
        return torch.ones(rows, columns, dtype=torch.bool, device=query.device).triu(1 if rows > 1 else columns)
    return ~mask[..., :columns] if mask.dtype == torch.bool else mask[..., :columns] < -1


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
